"""Checks that must hold to rounding, whatever the network has learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainer
from ase_xai.explainers.card import Row, remainder_is_declared
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.subject import Subject, without_references
from ase_xai.explainers.symmetry import equivalent_atoms, largest_asymmetry, transformations
from ase_xai.networks.base import add_up

Check = Callable[[], Row]
MOST_GROUPS = 32  # of atoms, whose energies are differentiated one by one
STEPS = (1e-4, 1e-5)  # Å before and behind the cutoff
PATH = 0.02  # Å, size of the displacement along which forces are integrated
PATH_STEPS = (8, 16)
SLOPE = 100.0  # units per Å, more than what values change by on real molecules: what a small asymmetry may do
OPEN_ONLY = "only for neutral open systems"
CHARGE_UNITS = ("e", "e·Å")
CONSERVED = "conservation of charge ties all atoms of a system together"
SAMPLED = "sampled, so repeatable only for the same atoms in the same order"


def identity_checks(subject: Subject) -> Iterator[tuple[str, Check]]:
    """Name and function of every identity, those of the network first."""
    yield "forces add up from atomic energies", partial(force_completeness, subject)
    yield "no torque from any atomic energy", partial(torques, subject)
    yield "forces integrate to the energy, order", partial(path_completeness, subject)
    for label, explanation in subject.answers.items():
        explainer = subject.explainers[label]
        yield f"{label}: completeness", partial(completeness, subject, explanation)
        if explanation.target == "charge" and explanation.level == "atom":
            yield f"{label}: total charge", partial(total_charge, subject, explanation)
            yield f"{label}: dipole", partial(dipole, subject, explanation)
        if explanation.level != "atom":
            yield f"{label}: symmetry, locality, cutoff", partial(not_by_atoms, explanation)
            continue
        yield f"{label}: symmetry", partial(symmetry, subject, explainer, explanation)
        if explanation.values.ndim == 1:
            yield f"{label}: equivalent atoms", partial(equivalence, subject, explanation)
        yield f"{label}: locality", partial(locality, subject, explainer, explanation)
        yield f"{label}: size consistency", partial(size_consistency, subject, explainer, explanation)
        yield f"{label}: jump at the cutoff", partial(cutoff_continuity, subject, explainer, explanation)


def not_by_atoms(explanation: Explanation) -> Row:
    return Row.told(note=f"not checked for values by {explanation.level}")


def completeness(subject: Subject, explanation: Explanation) -> Row:
    """|Σφ_i + residual - f|/N, and |residual|/N where no remainder is declared."""
    n, residual = len(subject.atoms), explanation.residual
    if residual is None:
        return Row.told(note="not claimed")
    if explanation.target == "energy" and explanation.reference == "none" and explanation.level == "atom":
        residual = float(subject.predict(subject.atoms).energy[0]) - float(explanation.values.sum())
    size = abs(residual) / n
    if size > subject.tolerance and remainder_is_declared(explanation):
        share = abs(residual) / max(float(np.abs(explanation.values).sum()), 1e-300)
        return Row.told(size, explanation.units, f"declared remainder: {share:.2g} of the sum of sizes")
    return Row.judged(size, subject.tolerance, explanation.units)


def total_charge(subject: Subject, explanation: Explanation) -> Row:
    graph = subject.calculator.checked_graph(subject.atoms)
    excess = abs(float(explanation.values.sum()) - float(graph.total_charge[0])) / len(subject.atoms)
    return Row.judged(excess, subject.tolerance, "e")


def dipole(subject: Subject, explanation: Explanation) -> Row:
    """|Σ q_i r_i - μ|, what the network predicts as the dipole."""
    predicted = subject.predict(subject.atoms).dipole
    if subject.atoms.pbc.any() or predicted is None:
        return Row.told(note="not defined for periodic systems")
    moment = explanation.values @ subject.atoms.positions
    return Row.judged(largest(moment - predicted[0].cpu().numpy()) / len(subject.atoms), subject.tolerance, "e·Å")


def force_completeness(subject: Subject) -> Row:
    """max_j |F_j + Σ_i ∂E_i/∂r_j|."""
    slopes, _ = _atomic_slopes(subject)
    forces = subject.predict(subject.atoms).forces.cpu().numpy()
    return Row.judged(largest(forces + slopes.sum(axis=0)), subject.tolerance, "eV/Å")


def torques(subject: Subject) -> Row:
    """max |Σ_j r_j × ∂E_i/∂r_j|, positions about the centroid; more than one atom at a time in large systems."""
    slopes, n_groups = _atomic_slopes(subject)
    if subject.atoms.pbc.any():
        return Row.told(note="not defined for periodic systems")
    about = subject.atoms.positions - subject.atoms.positions.mean(axis=0)
    turning = np.cross(about[None], slopes).sum(axis=1)
    allowed = subject.tolerance * max(1.0, float(np.linalg.norm(about, axis=1).max()))
    note = "" if n_groups == len(subject.atoms) else f"of {n_groups} groups of atoms"
    return Row.judged(largest(turning), allowed, "eV", note)


def _atomic_slopes(subject: Subject) -> tuple[NDArray[np.float64], int]:
    """(G, N, 3) ∂E_g/∂r_j of each atom's energy; of at most `MOST_GROUPS` groups of atoms in larger systems."""
    graph = subject.calculator.checked_graph(subject.atoms)
    n_groups = min(len(subject.atoms), MOST_GROUPS)
    vectors = graph.vectors.detach().requires_grad_()
    with torch.enable_grad():
        energies = add_up(graph, subject.calculator.network(graph.with_vectors(vectors))).energies
        slopes = []
        for group in np.array_split(np.arange(len(subject.atoms)), n_groups):
            total = energies[torch.from_numpy(group).to(energies.device)].sum()
            g = None
            if total.requires_grad:  # not so for lone atoms
                (g,) = torch.autograd.grad(total, vectors, retain_graph=True, allow_unused=True)
            g = torch.zeros_like(vectors) if g is None else g
            zero = g.new_zeros(graph.positions.shape)
            slopes.append(zero.index_add(0, graph.neighbors, g).index_add(0, graph.centers, -g).cpu().numpy())
    return np.stack(slopes), n_groups


def path_completeness(subject: Subject) -> Row:
    """Error of ΔE + Σ_j ∫F_j·dr_j by the trapezoidal rule: how it falls when the step is halved, 4-fold in the limit."""
    atoms = subject.atoms
    shift = subject.rng().normal(0.0, PATH, atoms.positions.shape)
    errors = []
    for n in PATH_STEPS:
        frames = [_moved(atoms, k / n * shift) for k in range(n + 1)]
        parts = list(subject.predictions(frames))
        energies = torch.cat([part.energy for part in parts]).cpu().numpy()
        forces = torch.cat([part.forces for part in parts]).cpu().numpy().reshape(n + 1, -1)
        power = forces @ shift.ravel() / n
        errors.append(abs(energies[-1] - energies[0] + power.sum() - 0.5 * (power[0] + power[-1])))
    note = f"{errors[1]:.1e} eV left of {abs(energies[-1] - energies[0]):.2g} eV with {PATH_STEPS[1]} steps"
    if errors[1] <= subject.tolerance * len(atoms):
        return Row.judged(errors[1] / len(atoms), subject.tolerance, "eV", f"below rounding; {note}")
    return Row.judged(errors[1] / errors[0], 0.35, "1", f"1/4 in the limit of small steps; {note}")


def symmetry(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """max |φ(gx) - gφ(x)| over rotation, reflection, permutation, translation; wrapping and supercell of crystals."""
    if explanation.seed is not None:
        return Row.told(note=SAMPLED)
    worst, worst_name, names = 0.0, "", []
    for operation in transformations(subject.atoms, subject.rng()):
        other = explainer(subject.calculator, operation.atoms).values
        deviation = largest(other - operation.expected(explanation.values))
        names.append(operation.name)
        if not deviation <= worst:  # NaN as well
            worst, worst_name = deviation, operation.name
    scale = max(1.0, largest(without_references(explanation)))
    note = (
        f"largest under {worst_name}; also {', '.join(n for n in names if n != worst_name)}" if worst else ", ".join(names)
    )
    return Row.judged(worst, subject.tolerance * scale, explanation.units, note)


def equivalence(subject: Subject, explanation: Explanation) -> Row:
    """Largest difference between atoms that symmetry makes equal."""
    if explanation.seed is not None:
        return Row.told(note=SAMPLED)
    cutoff = subject.calculator.network.cutoff
    classes = equivalent_atoms(subject.atoms, cutoff)
    if not classes:
        return Row.told(note="no two atoms are equivalent")
    asymmetry = largest_asymmetry(subject.atoms, classes, cutoff)
    difference = max(float(np.ptp(explanation.values[group])) for group in classes)
    scale = max(1.0, largest(without_references(explanation)))
    allowed = scale * (10 * subject.tolerance + SLOPE * asymmetry)
    note = f"{len(classes)} classes, equal distances to {asymmetry:.1g} Å"
    return Row.judged(difference, allowed, explanation.units, note)


def locality(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """Change of the values when a second copy moves that no chain of pairs connects to the first."""
    refusal = _needs_two(subject, explanation)
    if refusal:
        return Row.told(note=refusal)
    near, far = (explainer(subject.calculator, _two(subject, gap)).values[: len(subject.atoms)] for gap in (2.0, 3.5))
    if explanation.units in CHARGE_UNITS and explanation.values.ndim > 1:
        return Row.told(largest(near - far), explanation.units, CONSERVED)
    return Row.judged(largest(near - far), _scaled(subject, explanation), explanation.units)


def size_consistency(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """Change of the values when a second copy stands where no chain of pairs connects it to the first."""
    refusal = _needs_two(subject, explanation)
    if refusal:
        return Row.told(note=refusal)
    both = explainer(subject.calculator, _two(subject, 2.0)).values[: len(subject.atoms)]
    change = largest(both - explanation.values)
    if explanation.units in CHARGE_UNITS:
        return Row.told(change, explanation.units, f"beside a copy of itself; {CONSERVED}")
    return Row.judged(change, _scaled(subject, explanation), explanation.units)


def cutoff_continuity(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """Jump of the values as two copies of the system come closer than the cutoff.

    Between h before and h behind the cutoff a continuous value changes by an amount that shrinks at least as h; what is left
    when the change for the smaller h is compared with a fifth of that for ten times that h is a jump.
    """
    refusal = _needs_two(subject, explanation)
    if refusal:
        return Row.told(note=refusal)
    changes = []
    for h in STEPS:
        inside, outside = (explainer(subject.calculator, _two(subject, gap)).values for gap in (-h, h))
        changes.append(np.abs(inside - outside))
    jump = np.maximum(0.0, changes[1] - changes[0] / 5.0)
    return Row.judged(
        largest(jump), 100 * _scaled(subject, explanation), explanation.units, f"{STEPS[1]:g} Å about the cutoff"
    )


def _scaled(subject: Subject, explanation: Explanation) -> float:
    return subject.tolerance * max(1.0, largest(without_references(explanation)))


def _needs_two(subject: Subject, explanation: Explanation) -> str:
    """Why no second copy may be put beside the system; empty if one may."""
    if explanation.seed is not None:
        return SAMPLED
    return "" if subject.isolated else OPEN_ONLY


def _two(subject: Subject, gap: float) -> Atoms:
    """The system and a copy along x, their closest atoms `gap` Å farther apart than the cutoff.

    A copy, so that the number of electrons stays even.
    """
    positions = subject.atoms.positions
    reach = subject.calculator.network.cutoff + gap
    between = positions[None] - positions[:, None]  # r_j - r_i
    across = (between[..., 1:] ** 2).sum(axis=2)
    near = across < reach**2
    distance = float((np.sqrt(reach**2 - across[near]) - between[..., 0][near]).max())
    copy = subject.atoms.copy()
    copy.positions[:, 0] += distance
    return subject.atoms + copy


def _moved(atoms: Atoms, shift: NDArray[np.float64]) -> Atoms:
    moved = atoms.copy()
    moved.positions += shift
    return moved


def largest(values: NDArray[np.float64]) -> float:
    """max |value|, infinities of both sides left out; 0 for none."""
    return float(np.abs(values).max()) if values.size else 0.0
