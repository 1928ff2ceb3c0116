"""What every network must fulfil, as checks that run on anyone's network and print their figure.

Each check takes a float64 copy of the network and a set of probe systems, compares two ways to the same number, and gives
the largest deviation. The test suite runs the same checks on random and on shipped weights.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, Prediction, predict
from ase_xai.networks.base import VOIGT
from ase_xai.probe import Probe, make_probe
from ase_xai.weights.format import ModelCard, load_weights, save_weights

FORCE_STEP = 5e-4  # Å
STRAIN_STEP = 1e-4
"""Steps of finite differences: small, because second derivatives jump where a pair crosses the cutoff."""


@dataclass(frozen=True)
class Check:
    """One line of the contract: the largest deviation found, what is allowed, and how long it took (s)."""

    name: str
    value: float
    tolerance: float
    units: str
    seconds: float

    @property
    def passed(self) -> bool:
        return bool(self.value <= self.tolerance)  # NaN fails


def check_network(
    network: AtomisticNetwork, *, total_charge: float = 0.0, report: Callable[[Check], None] | None = None
) -> list[Check]:
    """Run the whole contract on `network`, which stays as it is.

    Args:
        network: any atomistic network.
        total_charge: e, of the probe systems.
        report: called with each check as it finishes.
    """
    probe = make_probe(network, total_charge=total_charge)
    checks = []
    for name, (function, tolerance, units) in CONTRACT.items():
        started = time.perf_counter()
        value = function(probe)
        checks.append(Check(name, value, tolerance, units, time.perf_counter() - started))
        if report is not None:
            report(checks[-1])
    return checks


def _sums(probe: Probe) -> float:
    """Energies of a batch against the parts that the bare network gives for each system alone."""
    systems = (probe.cluster, probe.crystal)
    deviations = []
    for energy, atoms in zip(probe.predict(*systems).energy.tolist(), systems, strict=True):
        output = probe.network(AtomGraph.from_atoms(atoms, probe.network.cutoff, total_charge=probe.total_charge))
        deviations.append(abs(energy - math.fsum(output.energies.tolist() + output.references.tolist())))
    return max(deviations)


def _total_charge(probe: Probe) -> float:
    charges = probe.predict(probe.cluster).charges
    return 0.0 if charges is None else abs(float(charges.sum()) - probe.total_charge)


def _dipole_origin(probe: Probe) -> float:
    """The dipole moves by Q·d when the molecule moves by d; a neutral one stays."""
    here, there = probe.cluster, _moved(probe.cluster, (3.0, -7.0, 11.0))
    a, b = probe.predict(here).dipole, probe.predict(there).dipole
    return 0.0 if a is None or b is None else _largest((b - a).numpy() - probe.total_charge * np.array([[3.0, -7.0, 11.0]]))


def _translation(probe: Probe) -> float:
    return _energy_force_change(probe, probe.cluster, _moved(probe.cluster, (100, -50, 20)), np.eye(3))


def _rotation(probe: Probe) -> float:
    return _transformed(probe, Rotation.random(random_state=1).as_matrix())


def _inversion(probe: Probe) -> float:
    return _transformed(probe, -np.eye(3))


def _permutation(probe: Probe) -> float:
    order = np.random.default_rng(2).permutation(len(probe.cluster))
    a, b = probe.predict(probe.cluster), probe.predict(probe.cluster[order])
    return max(
        _largest(a.energies[order] - b.energies),
        _largest(a.forces[order] - b.forces),
        0.0 if a.charges is None or b.charges is None else _largest(a.charges[order] - b.charges),
    )


def _forces(probe: Probe) -> float:
    return max(_force_error(probe, probe.cluster, range(4)), _force_error(probe, probe.crystal, range(2)))


def _force_error(probe: Probe, atoms: Atoms, indices: range) -> float:
    forces = probe.predict(atoms).forces.numpy()

    def energy(atom: int, axis: int, step: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += step
        return probe.energy(moved)

    return max(abs(forces[i, a] + _derivative(partial(energy, i, a), FORCE_STEP)) for i in indices for a in range(3))


def _stress(probe: Probe) -> float:
    """Against finite strain, for the crystal and its mirror image with a left-handed cell."""
    mirrored = probe.crystal.copy()
    mirrored.set_cell(probe.crystal.cell.array @ np.diag([1.0, 1.0, -1.0]), scale_atoms=True)
    return max(_stress_error(probe, probe.crystal), _stress_error(probe, mirrored))


def _stress_error(probe: Probe, atoms: Atoms) -> float:
    stress = probe.predict(atoms).stress[0].numpy()

    def energy(a: int, b: int, strain: float) -> float:
        deformation = np.eye(3)
        deformation[a, b] += strain / 2
        deformation[b, a] += strain / 2
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        return probe.energy(strained)

    return max(
        abs(stress[k] - _derivative(partial(energy, a, b), STRAIN_STEP) / atoms.cell.volume)
        for k, (a, b) in enumerate(VOIGT)
    )


def _net_force_and_torque(probe: Probe) -> float:
    forces = probe.predict(probe.cluster).forces.numpy()
    return max(_largest(forces.sum(axis=0)), _largest(np.cross(probe.cluster.positions, forces).sum(axis=0)))


def _cutoff_continuity(probe: Probe) -> float:
    """Jump of energy and forces as an atom crosses the cutoff of another, extrapolated to no step at all.

    Between h before and h behind the cutoff a continuous quantity changes by an amount that shrinks at least as h, so the
    change for h = 1e-5 Å must not exceed a fifth of that for h = 1e-4 Å.
    """
    near, far = _step_over_cutoff(probe, 1e-5), _step_over_cutoff(probe, 1e-4)
    return float(np.maximum(0.0, near - far / 5.0).max())


def _step_over_cutoff(probe: Probe, h: float) -> NDArray[np.float64]:
    """Change of the energy and of the forces (largest) as the last atom moves by 2h across the cutoff of the first."""
    cluster = probe.cluster
    direction = cluster.positions[-1] - cluster.positions[0]
    direction /= np.linalg.norm(direction)
    sides = []
    for distance in (probe.network.cutoff - h, probe.network.cutoff + h):
        moved = cluster.copy()
        moved.positions[-1] = cluster.positions[0] + distance * direction
        sides.append(probe.predict(moved))
    inside, outside = sides
    energy = (inside.output.energies.sum() - outside.output.energies.sum()).abs()
    return np.array([float(energy), _largest(inside.forces - outside.forces)])


def _far_copies(probe: Probe) -> float:
    one, both = probe.cluster, probe.cluster + _moved(probe.cluster, (60.0 + 2 * probe.network.cutoff, 0.0, 0.0))
    a, b = probe.predict(one), probe.predict(both)
    return max(_largest(b.energies - a.energies.repeat(2)), _largest(b.forces - a.forces.repeat(2, 1)))


def _supercell(probe: Probe) -> float:
    a, b = probe.predict(probe.crystal), probe.predict(probe.crystal.repeat((2, 1, 3)))
    energies, forces = b.energies - a.energies.repeat(6), b.forces - a.forces.repeat(6, 1)
    return max(_largest(energies), _largest(forces), _largest(b.stress - a.stress))


def _wrapping(probe: Probe) -> float:
    moved = probe.crystal.copy()
    moved.positions += np.array([[1, 0, -2], [0, 3, 0], [-1, -1, 1]]) @ moved.cell.array
    return _energy_force_change(probe, probe.crystal, moved, np.eye(3))


def _lone_atom(probe: Probe) -> float:
    """Forces on, and dependence on the place of, a single atom of each element; a value that is not finite fails."""
    deviations = []
    for z in probe.network.elements:
        a, b = probe.predict(Atoms([z])), probe.predict(Atoms([z], positions=[[4.0, 5.0, 6.0]]))
        deviations += [_largest(a.forces), abs(float(a.energy - b.energy))]
    return float(np.max(deviations))


def _batch(probe: Probe) -> float:
    systems = [probe.cluster, probe.crystal, Atoms([probe.network.elements[0]]), _moved(probe.cluster, (1.0, 0.0, 0.0))]
    together = probe.predict(*systems)
    singles = [probe.predict(system) for system in systems]
    energies, forces = torch.cat([s.energies for s in singles]), torch.cat([s.forces for s in singles])
    stress = torch.cat([s.stress for s in singles])
    periodic = ~torch.isnan(stress)
    return max(
        _largest(together.energies - energies),
        _largest(together.forces - forces),
        _largest((together.stress - stress)[periodic]),
    )


def _apart(a: Prediction, b: Prediction) -> float:
    return max(_largest(a.energies - b.energies), _largest(a.forces - b.forces))


def _single_precision(probe: Probe) -> float:
    single = replace(probe, network=copy.deepcopy(probe.network).float())
    a, b = probe.predict(probe.cluster, probe.crystal), single.predict(probe.cluster, probe.crystal)
    return _apart(a, b)


def _kernels(probe: Probe) -> float:
    """How much more the kernels that calculators use in float32 deviate from float64 than float32 itself."""
    single = replace(probe, network=copy.deepcopy(probe.network).float(), kernels="reference")
    fast, usual, exact = (p.predict(probe.cluster, probe.crystal) for p in (replace(single, kernels="auto"), single, probe))
    return max(0.0, _apart(fast, exact) - 2.0 * _apart(usual, exact))


def _save_and_load(probe: Probe) -> float:
    """Predictions of the network in float32 before saving and after loading, which must be equal to the last bit."""
    single = copy.deepcopy(probe.network).float()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_weights(path, single, ModelCard.describe(single, reference_kind="as loaded"))
        loaded = load_weights(path).network
    graph = AtomGraph.from_atoms(probe.cluster, single.cutoff, total_charge=probe.total_charge)
    a, b = predict(single, graph), predict(loaded, graph)
    return _apart(a, b)


CONTRACT: dict[str, tuple[Callable[[Probe], float], float, str]] = {
    "energies sum to the energy": (_sums, 1e-8, "eV"),
    "charges sum to the total charge": (_total_charge, 1e-8, "e"),
    "dipole moves by Q·d under translation": (_dipole_origin, 1e-7, "e·Å"),
    "translation by 100 Å": (_translation, 1e-7, "eV, eV/Å"),
    "rotation": (_rotation, 1e-7, "eV, eV/Å"),
    "inversion": (_inversion, 1e-7, "eV, eV/Å"),
    "permutation": (_permutation, 1e-7, "eV, eV/Å, e"),
    "forces against finite differences": (_forces, 1e-6, "eV/Å"),
    "stress against finite strain": (_stress, 1e-7, "eV/Å³"),
    "no net force, no net torque": (_net_force_and_torque, 1e-7, "eV/Å, eV"),
    "energy and forces continuous at the cutoff": (_cutoff_continuity, 1e-6, "eV, eV/Å"),
    "fast kernels against the reference": (_kernels, 1e-4, "eV, eV/Å"),
    "far copies add up": (_far_copies, 1e-8, "eV, eV/Å"),
    "supercell scales": (_supercell, 1e-7, "eV, eV/Å, eV/Å³"),
    "wrapping changes nothing": (_wrapping, 1e-7, "eV, eV/Å"),
    "lone atoms": (_lone_atom, 1e-12, "eV, eV/Å"),
    "batch equals singles": (_batch, 1e-8, "eV, eV/Å, eV/Å³"),
    "float32 agrees with float64": (_single_precision, 1e-2, "eV, eV/Å"),
    "save and load, bit for bit": (_save_and_load, 0.0, "eV, eV/Å"),
}
"""Every check by its name: function, tolerance, units."""


def _transformed(probe: Probe, matrix: NDArray[np.float64]) -> float:
    cluster, crystal = probe.cluster.copy(), probe.crystal.copy()
    cluster.positions = cluster.positions @ matrix.T
    crystal.set_cell(crystal.cell.array @ matrix.T, scale_atoms=True)
    return max(
        _energy_force_change(probe, probe.cluster, cluster, matrix),
        _energy_force_change(probe, probe.crystal, crystal, matrix),
    )


def _energy_force_change(probe: Probe, before: Atoms, after: Atoms, matrix: NDArray[np.float64]) -> float:
    """Largest change of atomic energies, charges, and forces turned back, between two equivalent systems."""
    a, b = probe.predict(before), probe.predict(after)
    return max(
        _largest(a.energies - b.energies),
        _largest(a.forces.numpy() @ matrix.T - b.forces.numpy()),
        0.0 if a.charges is None or b.charges is None else _largest(a.charges - b.charges),
    )


def _derivative(function: Callable[[float], float], h: float) -> float:
    """f'(0) by the five-point formula, error of order h⁴."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def _moved(atoms: Atoms, displacement: Sequence[float]) -> Atoms:
    moved = atoms.copy()
    moved.translate(displacement)
    return moved


def _largest(values: NDArray[np.float64] | torch.Tensor) -> float:
    return float(np.abs(np.asarray(values)).max(initial=0.0))
