"""The continuous-filter convolution of one geometry and its first derivatives: one function, several implementations.

With undirected pairs {i, j}, filters W(r) that vanish at the cutoff, and ∘ the product feature by feature,

    y_i = Σ_j W(r_ij) ∘ x_j                                       (forward)

    ∂⟨g, y⟩/∂x_j = Σ_i W(r_ij) ∘ g_i
    ∂⟨g, y⟩/∂r_ij = Σ_f W'(r_ij)_f (x_j g_i + x_i g_j)_f           (backward)

In no implementation does memory hold an array of all pairs times features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from ase_xai.networks.inference.filters import Filters, PlacedFilters
from ase_xai.networks.inference.pairs import PairList

BLOCK = 4096
"""Pairs whose filters are in memory at once where they are not fused into the sum."""


class Convolution(ABC):
    """Filters and pairs of one geometry, ready to be summed layer by layer; the members of a team sum parts of the pairs."""

    title: ClassVar[str]

    def __init__(self, pairs: PairList, filters: Filters) -> None:
        self.pairs = pairs
        self.filters = self.placed(filters)

    def placed(self, filters: Filters) -> PlacedFilters:
        """The filters at the distances of the pairs."""
        return filters.at(self.pairs.distances)

    @abstractmethod
    def forward(self, layer: int, x: Tensor, y: Tensor, part: slice) -> None:
        """Add to y (N, F) the sums over a part of the pairs of what atoms with x (N, F) send."""

    @abstractmethod
    def backward(self, layer: int, x: Tensor, g: Tensor, gx: Tensor, slopes: Tensor, part: slice) -> None:
        """Add ∂⟨g, y⟩/∂x to gx (N, F) and ∂⟨g, y⟩/∂r to slopes (P,), for a part of the pairs."""

    def blocks(self, part: slice) -> Iterator[slice]:
        """A part of the pairs, some at a time."""
        for start in range(part.start, part.stop, BLOCK):
            yield slice(start, min(start + BLOCK, part.stop))


class TorchConvolution(Convolution):
    """PyTorch operations, on any device: what the others must equal."""

    title = "PyTorch operations"

    def forward(self, layer: int, x: Tensor, y: Tensor, part: slice) -> None:
        for block in self.blocks(part):
            values = self.filters.values(layer, block)
            first, second = self.pairs.first[block], self.pairs.second[block]
            y.index_add_(0, first, values * x[second])
            y.index_add_(0, second, values * x[first])

    def backward(self, layer: int, x: Tensor, g: Tensor, gx: Tensor, slopes: Tensor, part: slice) -> None:
        for block in self.blocks(part):
            values, derivatives = self.filters.rows(layer, block)
            first, second = self.pairs.first[block], self.pairs.second[block]
            gx.index_add_(0, first, values * g[second])
            gx.index_add_(0, second, values * g[first])
            slopes[block] += (derivatives * (x[second] * g[first] + x[first] * g[second])).sum(dim=1)
