"""Messages between atoms from tables of the distance: many listeners around few speakers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.networks.splines import SplineGrid, b_splines

KNOTS_PER_ANGSTROM = 160
"""Filters of Gaussians 0.1 Å wide, tabulated this finely, are exact to about 1e-7 of their size."""


class HearsByDistance(ABC):
    """A network whose atoms hear their neighbors, layer after layer, through filters of the distance alone,

        m_i^t = Σ_j f_c(r_ij) W^t(r_ij) ∘ y_j^t,

    so that probes can be served from tables of W instead of the filter networks.
    """

    @abstractmethod
    def sent(self, graph: AtomGraph) -> list[Tensor]:
        """(N, F) y of every layer."""

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of layers t."""

    @property
    @abstractmethod
    def width(self) -> int:
        """F."""

    @abstractmethod
    def filter(self, layer: int, distances: Tensor) -> Tensor:
        """(R, F) W of one layer at distances (R,) in Å, of the network's precision."""

    @abstractmethod
    def filter_and_slope(self, layer: int, distances: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its derivative per Å."""

    def filters(self, distances: Tensor) -> Tensor:
        """(T, R, F) W of every layer."""
        return torch.stack([self.filter(layer, distances) for layer in range(self.n_layers)])

    @abstractmethod
    def envelope(self, distances: Tensor) -> Tensor:
        """(R,) f_c, of the precision of the distances."""

    @abstractmethod
    def listen(self, graph: AtomGraph, heard: Callable[[int], Tensor]) -> AtomwiseOutput:
        """What the atoms of `graph` say when in layer t they hear m = heard(t), whatever its pairs are."""


class MessageTables:
    """Messages to probes by interpolation: W^t is a cubic spline with coefficients c_k^t, see `SplineGrid`,

        m_p^t = Σ_j f_c(r_pj) Σ_a b_a(u) c_{k+a}^t ∘ y_j^t,

    a weighted sum of four rows for each pair out of a table with one row c_k ∘ y_j for each knot and atom. No array of pairs
    times features is written. The envelope f_c is exact.
    """

    def __init__(self, network: HearsByDistance, graph: AtomGraph, cutoff: float, budget: int) -> None:
        self.network, self.budget = network, budget
        self.grid = SplineGrid.over(cutoff, KNOTS_PER_ANGSTROM)
        with torch.no_grad():
            self.sent = network.sent(graph)
            knots = self.grid.knots(graph.positions).to(self.sent[0].dtype)
            values = network.filters(knots)  # (T, K, F)
            self.coefficients = self.grid.coefficients(values.double()).to(values.dtype)

    @torch.no_grad()
    def __call__(self, probes: AtomGraph, point: Tensor, atom: Tensor, distances: Tensor) -> AtomwiseOutput:
        """What probes say.

        Args:
            probes: P atoms, each a system of its own.
            point, atom, distances: (E,) of each pair: the probe, in order; the atom of the molecule; Å, below the cutoff.
        """
        n_points, (n_knots, width) = len(probes.numbers), self.coefficients.shape[1:]
        row, fraction = self.grid.place(distances)
        weights = b_splines(fraction) * self.network.envelope(distances)[:, None]
        weights = weights.to(self.coefficients.dtype)
        present, rank = atom.unique(return_inverse=True)
        size = max(1, self.budget // (8 * n_knots * width))  # atoms in one table

        def heard(layer: int) -> Tensor:
            total = weights.new_zeros((n_points, width))
            for start in range(0, len(present), size):
                rows = present[start : start + size]
                table = self.sent[layer][rows, None] * self.coefficients[layer]  # (atoms, K, F)
                own = slice(None) if len(present) <= size else (rank >= start) & (rank < start + size)
                first = (rank[own] - start) * n_knots + row[own]
                total += _bags(first, weights[own], table.flatten(0, 1), point[own], n_points)
            return total

        return self.network.listen(probes, heard)


def _bags(first: Tensor, weights: Tensor, table: Tensor, point: Tensor, n_points: int) -> Tensor:
    """(P, F) Σ over the pairs of each point of four weighted rows of `table`, the first one at `first`; points in order."""
    rows = first[:, None] + torch.arange(4, device=first.device)
    ends = 4 * torch.bincount(point, minlength=n_points).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends])
    return functional.embedding_bag(
        rows.flatten(), table, offsets, mode="sum", per_sample_weights=weights.flatten(), include_last_offset=True
    )
