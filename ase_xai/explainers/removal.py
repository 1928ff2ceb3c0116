"""Does the energy change as an explanation says, when atoms are displaced or taken away?

Taking atoms away leaves the training distribution: what is left are radicals and fragments, and how a network extrapolates
to them is part of the answer. Displacements do not; prefer `infidelity`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable
from ase_xai.explainers.displacements import Displacements, energies_and_forces
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.subsets import subset_totals
from ase_xai.graph import AtomGraph

LEAVES = "Removal leaves the training distribution: fragments are radicals, to which the network extrapolates."


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """What happens to the energy as atoms are taken away one by one, the most stabilizing first, and in random orders.

    v(S) = E(S) - Σ_{i∈S} E(lone atom of this element): the network's own binding energy of the atoms S at their places, free
    of every constant of the elements. v of one atom or none is zero.

    Args:
        order: (N,) atoms in the order of their removal.
        change: (N,) v without the first 1, 2 ... N of them, minus v(all), in eV.
        random: (R, N) the same for random orders.
        seed: of these.
    """

    order: NDArray[np.int64]
    change: NDArray[np.float64]
    random: NDArray[np.float64]
    seed: int

    @property
    def area(self) -> float:
        """Mean change in eV: large if the atoms that matter go first."""
        return float(self.change.mean())

    @property
    def random_areas(self) -> NDArray[np.float64]:
        """(R,) the same for random orders."""
        return np.asarray(self.random.mean(axis=1))

    @property
    def advantage(self) -> float:
        """How many standard deviations of random orders the area lies above their mean."""
        spread = float(self.random_areas.std(ddof=1))
        return float((self.area - self.random_areas.mean()) / spread) if spread > 0 else 0.0

    @property
    def p_value(self) -> float:
        """Share of random orders that do at least as well, the explanation's own order counted among them."""
        return float((1 + (self.random_areas >= self.area).sum()) / (1 + len(self.random_areas)))


def deletion_curve(
    calculator: Explainable, atoms: Atoms, explanation: Explanation, n_random: int = 100, seed: int = 0
) -> DeletionCurve:
    """Take atoms away in the order of an explanation of the energy, the most negative (stabilizing) value first.

    Args:
        calculator: with one network.
        atoms: what was explained.
        explanation: atomic energies of some kind, in eV.
        n_random: orders to compare with, at least 30.
        seed: of these.

    Raises:
        ValueError: no atomic energies, or of other atoms, or too few orders.
    """
    if n_random < 30:
        raise ValueError(f"n_random must be at least 30 for an interval, got {n_random}.")
    values = binding_shares(calculator, atoms, explanation)
    rng = np.random.default_rng(seed)
    orders = np.stack([np.argsort(values, kind="stable"), *(rng.permutation(len(atoms)) for _ in range(n_random))])
    graph = calculator.checked_graph(atoms)
    kept = np.stack([np.roll(orders, -k - 1, axis=1) for k in range(len(atoms))], axis=1)  # (R, N, N) the kept atoms first
    for k in range(len(atoms)):
        kept[:, k, len(atoms) - k - 1 :] = -1
    left = binding(calculator, graph, kept.reshape(-1, len(atoms))).reshape(len(orders), len(atoms))
    change = left - binding(calculator, graph, np.arange(len(atoms))[None])[0]
    return DeletionCurve(orders[0], change[0], change[1:], seed)


def sensitivity_n(
    calculator: Explainable, atoms: Atoms, explanation: Explanation, size: int, n_sets: int = 200, seed: int = 0
) -> float:
    """Correlation, over random sets S of `size` atoms, of Σ_{i∈S} φ_i with v(all) - v(all without S), atoms deleted.

    NaN where all sets are alike. Source: Ancona et al., arXiv:1711.06104 (sensitivity-n).
    """
    if not 1 <= size < len(atoms):
        raise ValueError(f"size must be from 1 to {len(atoms) - 1}, got {size}. So many of {len(atoms)} atoms are deleted.")
    values = binding_shares(calculator, atoms, explanation)
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(atoms)) for _ in range(n_sets)])
    graph = calculator.checked_graph(atoms)
    kept = np.pad(orders[:, size:], ((0, 0), (0, size)), constant_values=-1)
    change = binding(calculator, graph, np.arange(len(atoms))[None])[0] - binding(calculator, graph, kept)
    claimed = values[orders[:, :size]].sum(axis=1)
    if np.ptp(claimed) < 1e-9 or np.ptp(change) < 1e-9:
        return float("nan")
    return float(np.corrcoef(claimed, change)[0, 1])


def infidelity(calculator: Explainable, atoms: Atoms, displacements: Displacements) -> float:
    """E_d[(d·g - (f(x) - f(x - d)))²] / Var[f(x) - f(x - d)] for the energy f and its gradient g = -F as explanation.

    The share of thermal changes of the energy that forces do not explain: 0 where the energy is linear, about 1 or more at
    a minimum, where nothing is. NaN where the energy does not change. Source: Yeh et al., arXiv:1901.09392.
    """
    energies, forces = energies_and_forces(calculator, [atoms])
    moved, _ = energies_and_forces(calculator, Displacements(-displacements.shifts, "").of(atoms))
    change = energies[0] - moved
    claimed = -np.einsum("nia,ia->n", displacements.shifts, forces[0])
    variance = float(change.var())
    return float(((claimed - change) ** 2).mean() / variance) if variance > 0 else float("nan")


def binding(calculator: Explainable, graph: AtomGraph, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) v of sets of atoms, see `DeletionCurve`.

    Args:
        graph: of the whole system.
        rows: (K, n) atoms of each set; -1 where a place is unused.
    """
    lone = lone_energies(calculator, graph)

    def relative(small: AtomGraph, index: Tensor) -> Tensor:
        return calculator.network(small).energies.double() - lone[index]

    with torch.no_grad():
        return subset_totals(graph, rows, relative)


def lone_energies(calculator: Explainable, graph: AtomGraph) -> Tensor:
    """(N,) energy in eV that each atom of `graph` has alone, without references of the elements."""

    def alone(small: AtomGraph, index: Tensor) -> Tensor:
        return calculator.network(small).energies

    numbers = graph.numbers.cpu().numpy()
    _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
    with torch.no_grad():
        found = subset_totals(graph, first[:, None], alone)
    return torch.as_tensor(found[place.reshape(-1)], device=graph.numbers.device)


def binding_shares(calculator: Explainable, atoms: Atoms, explanation: Explanation) -> NDArray[np.float64]:
    """(N,) values of an explanation of the energy on the scale of v: minus what each atom has alone.

    Raises:
        ValueError: no atomic energies, or of other atoms.
    """
    if explanation.level != "atom" or explanation.units != "eV" or explanation.values.ndim > 1:
        raise ValueError(
            f"atoms are taken away in the order of atomic energies in eV, got {explanation.target} by {explanation.level} "
            f"in {explanation.units}. Use an explanation of the energy by atoms."
        )
    explanation.require_unmoved(atoms)
    if explanation.reference == "element_mean":
        return explanation.values
    graph = calculator.checked_graph(atoms)
    values = explanation.values - lone_energies(calculator, graph).cpu().numpy()
    with_references = explanation.reference == "none" and explanation.target == "energy" and bool(explanation.baselines)
    return values - calculator.network.energy.reference(graph.numbers).cpu().numpy() if with_references else values
