"""Which atoms hold a molecule together? Answers from total energies of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.subsets import checked_order, connected_subsets, padded, subset_terms, subset_totals
from ase_xai.graph import AtomGraph

MOST_EXACT = 20
OUTSIDE = "Fragments of the molecule lie outside the training data: the network extrapolates there."
FREE_ATOMS = "Without references of the elements; values of single atoms are the network's, one constant for each element."


@dataclass(frozen=True)
class ManyBodyExpansion:
    """Many-body terms d(S) of the energy in eV, one for each set of at most `order` atoms.

        d(S) = Σ_{U⊆S} (-1)^(|S|-|U|) v(U),      v(S) = E - ΣE0 of the atoms S alone at their places,      v(∅) = 0

    All orders together sum to the energy; the residual is what the orders above `order` hold. Only energies enter, so that
    every network with these energies gives these terms, up to one constant for each element in the terms of single atoms.
    Sets that the cutoff does not hold together have no term, exactly, and no row.

    Message passing makes all orders: do not mistake these terms for `NBodyRelevance`. In periodic systems an atom is taken
    out with all its images.

    Args:
        order: largest number of atoms in a term.
    """

    order: int = 3

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        order, graph = checked_order(self.order, len(atoms)), calculator.checked_graph(atoms)
        tables = connected_subsets(graph, order)
        totals = [_energies(calculator, graph, rows) for rows in tables]
        found = subset_terms(tables, totals, len(atoms))
        whole = float(_energies(calculator, graph, np.arange(len(atoms))[None, :])[0])
        values = np.concatenate(found)
        sums = ", ".join(f"{n} atoms {terms.sum():+.3f}" for n, terms in enumerate(found, start=1))
        return answer(
            calculator,
            atoms,
            self,
            target="energy",
            level="tuple",
            values=values,
            index=padded(tables),
            units="eV",
            gauge="invariant",
            reference="references of the elements",
            residual=whole - float(values.sum()),
            notes=(f"Sums in eV: {sums}; all orders {whole:+.3f}.", OUTSIDE, FREE_ATOMS),
        )


@dataclass(frozen=True)
class ShapleyValues:
    """Shapley values φ_i of the atoms in eV: a fair share of E - ΣE0 by what each atom brings to every part of the rest.

        φ_i = Σ_{S∌i} |S|!(N-|S|-1)!/N! · [v(S ∪ i) - v(S)] = Σ_{S∋i} d(S)/|S|,      Σ_i φ_i = v(all atoms)

    v as in `ManyBodyExpansion`, so that the values come from energies alone, up to one constant for each element. Exact with
    2^N energies for few atoms; else the mean over random orders in which atoms arrive one by one, unbiased, with its
    standard error as uncertainty. The sum is exact either way.

    Args:
        max_exact: up to this number of atoms all 2^N parts are evaluated.
        n_permutations: orders drawn above it; each costs N energies.
        seed: of the orders.

    Source: Shapley, in Contributions to the Theory of Games II (1953); sampling: Castro et al., Comput. Oper. Res. 36, 1726
    (2009).
    """

    max_exact: int = 12
    n_permutations: int = 200
    seed: int = 0

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if not 0 <= self.max_exact <= MOST_EXACT:
            raise ValueError(
                f"max_exact must be from 0 to {MOST_EXACT}, got {self.max_exact}. 2^N parts are evaluated; above, sample."
            )
        if self.n_permutations < 2:
            raise ValueError(f"n_permutations must be at least 2 for a standard error, got {self.n_permutations}.")
        graph, n_atoms = calculator.checked_graph(atoms), len(atoms)
        exact = n_atoms <= self.max_exact
        uncertainty = None
        if exact:
            values = shapley_of(_energies(calculator, graph, all_subsets(n_atoms)))
            how = f"Exact, from all {2**n_atoms} parts."
        else:
            orders = np.random.default_rng(self.seed).permuted(np.tile(np.arange(n_atoms), (self.n_permutations, 1)), axis=1)
            samples = self._arrivals(calculator, graph, orders)
            values, uncertainty = samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
            how = f"Mean over {len(samples)} random orders of arrival; the uncertainty is its standard error only."
        whole = float(_energies(calculator, graph, np.arange(n_atoms)[None, :])[0])
        return answer(
            calculator,
            atoms,
            self,
            target="energy",
            level="atom",
            values=values,
            units="eV",
            gauge="invariant",
            reference="references of the elements",
            residual=whole - float(values.sum()),
            uncertainty=uncertainty,
            seed=None if exact else self.seed,
            notes=(how, OUTSIDE, FREE_ATOMS),
        )

    def _arrivals(self, calculator: Explainable, graph: AtomGraph, orders: NDArray[np.int64]) -> NDArray[np.float64]:
        """(L, N) what each atom brings when it arrives, for each order (L, N) of arrival; every row sums to the energy."""
        n_orders, n_atoms = orders.shape
        rank = np.argsort(orders, axis=1)  # (L, N) when each atom arrives
        present = (rank[:, None, :] <= np.arange(n_atoms)[None, :, None]).reshape(-1, n_atoms)
        parts, place = np.unique(present, axis=0, return_inverse=True)
        energies = _energies(calculator, graph, np.where(parts, np.arange(n_atoms), -1))[place.reshape(-1)]
        gains = np.diff(energies.reshape(n_orders, n_atoms), axis=1, prepend=0.0)
        return np.take_along_axis(gains, rank, axis=1)


def all_subsets(n_atoms: int) -> NDArray[np.int64]:
    """(2^N, N) every set of atoms; bit i of the row's number says whether atom i is in it, -1 stands where it is not."""
    inside = (np.arange(2**n_atoms)[:, None] >> np.arange(n_atoms)) & 1
    return np.where(inside == 1, np.arange(n_atoms), -1)


def shapley_of(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) Shapley values of the 2^N values v(S) in the order of `all_subsets`."""
    n_atoms = int(np.log2(len(totals)))
    numbers = np.arange(len(totals))
    sizes = ((numbers[:, None] >> np.arange(n_atoms)) & 1).sum(axis=1)
    weights = np.array([1.0 / (n_atoms * comb(n_atoms - 1, size)) for size in range(n_atoms)])
    values = np.empty(n_atoms)
    for atom in range(n_atoms):
        without = numbers[(numbers >> atom) & 1 == 0]
        values[atom] = (weights[sizes[without]] * (totals[without | (1 << atom)] - totals[without])).sum()
    return values


def _energies(calculator: Explainable, graph: AtomGraph, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) v of each set of atoms: its energy alone, without references of the elements."""

    def alone(small: AtomGraph, index: Tensor) -> Tensor:
        return calculator.network(small).energies

    with torch.no_grad():
        return subset_totals(graph, rows, alone)
