"""Filters W^t(r) f_c(r) of a network, at given distances: exact, or from a table made once from the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_xai.networks.layers import CosineCutoff
from ase_xai.networks.messages import HearsByDistance
from ase_xai.networks.splines import PADDING, SplineGrid, b_spline_slopes, b_splines

KNOTS_PER_ANGSTROM = (200, 400, 800, 1600)
"""Tables tried in turn, until one is as good as `TOLERANCE`."""
TOLERANCE = 1e-5
"""Of values and slopes, relative to the largest ones of a layer: what single precision makes of the same forces."""


class PlacedFilters(ABC):
    """Filters at the P distances of one geometry."""

    dtype: torch.dtype

    @abstractmethod
    def rows(self, layer: int, part: slice) -> tuple[Tensor, Tensor]:
        """(P', F) values and slopes per Å of W f_c in one layer, for a part of the distances."""

    def values(self, layer: int, part: slice) -> Tensor:
        """(P', F) the values alone."""
        return self.rows(layer, part)[0]


class Filters(ABC):
    """Where filters come from."""

    @abstractmethod
    def at(self, distances: Tensor) -> PlacedFilters:
        """Filters at distances (P,) in Å, float64."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""


def values_and_slopes(network: HearsByDistance, distances: Tensor) -> tuple[Tensor, Tensor]:
    """(T, R, F) W and dW/dr of all layers at distances (R,), of their precision."""
    values, slopes = zip(*(network.filter_and_slope(layer, distances) for layer in range(network.n_layers)), strict=True)
    return torch.stack(values), torch.stack(slopes)


KEPT = 100_000_000
"""Bytes of exact filters that are kept from the way forward for the way back; more are evaluated twice."""


class ExactFilters(Filters):
    """Filters by evaluating the filter networks at every distance; of large systems only a block is in memory at once."""

    def __init__(self, network: HearsByDistance, envelope: CosineCutoff, dtype: torch.dtype) -> None:
        self.network, self.cutoff_function, self.dtype = network, envelope, dtype

    def at(self, distances: Tensor) -> PlacedExact:
        return PlacedExact(self, distances)

    def describe(self) -> str:
        return "filters evaluated exactly at every pair"


class PlacedExact(PlacedFilters):
    def __init__(self, filters: ExactFilters, distances: Tensor) -> None:
        self.network, self.dtype = filters.network, filters.dtype
        self.distances = distances.to(self.dtype)
        self.envelope = filters.cutoff_function(distances).to(self.dtype)[:, None]
        self.slope = filters.cutoff_function.slope(distances).to(self.dtype)[:, None]
        self._kept: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        per_pair = 2 * self.network.n_layers * self.network.width * self.distances.element_size()
        self._small = per_pair * len(distances) <= KEPT

    def rows(self, layer: int, part: slice) -> tuple[Tensor, Tensor]:
        key = layer, part.start, part.stop
        if key not in self._kept:
            distances, envelope = self.distances[part], self.envelope[part]
            values, slopes = self.network.filter_and_slope(layer, distances)
            rows = values * envelope, slopes * envelope + values * self.slope[part]
            if not self._small:
                return rows
            self._kept[key] = rows
        return self._kept[key]

    def values(self, layer: int, part: slice) -> Tensor:
        if self._small:
            return self.rows(layer, part)[0]
        return self.network.filter(layer, self.distances[part]) * self.envelope[part]


@dataclass(frozen=True)
class TableError:
    """Largest deviations of tabulated filters, found at distances inside every interval of the table.

    Args:
        value: relative to the largest value of the layer.
        slope: relative to the largest slope of the layer.
    """

    value: float
    slope: float


class FilterTable(Filters):
    """Filters from a cubic spline in the distance, which spares the filter networks; the cutoff function stays exact.

    The table is made in float64, refined until value and slope deviate by less than `TOLERANCE`, and kept in the precision
    of the network. Energies stay a smooth function of the positions, with continuous second derivatives, and forces are the
    exact derivatives of these energies.

    Args:
        network: whose filters, in float64.
        envelope: f_c.
        dtype: of the table.
        device: of the table.

    Attributes:
        error: measured when the table was made.
    """

    def __init__(self, network: HearsByDistance, envelope: CosineCutoff, dtype: torch.dtype, device: torch.device) -> None:
        self.cutoff_function = envelope
        for density in KNOTS_PER_ANGSTROM:
            self.grid = SplineGrid.over(envelope.cutoff, density)
            coefficients, self.error = _tabulated(network, self.grid)
            if max(self.error.value, self.error.slope) < TOLERANCE:
                break
        self.table = coefficients.to(device=device, dtype=dtype).contiguous()  # (T, K, F)

    def at(self, distances: Tensor) -> PlacedTable:
        row, u = self.grid.place(distances)
        basis = b_splines(u)
        envelope, slope = self.cutoff_function(distances)[:, None], self.cutoff_function.slope(distances)[:, None]
        slopes = b_spline_slopes(u) * (envelope / self.grid.spacing) + basis * slope
        dtype = self.table.dtype
        return PlacedTable(self.table, row, (basis * envelope).to(dtype), slopes.to(dtype))

    def describe(self) -> str:
        return (
            f"filters from cubic splines on {self.grid.n_knots} knots, deviating by at most {self.error.value:.0e} of the "
            f"largest value and {self.error.slope:.0e} of the largest slope"
        )


@dataclass(frozen=True, eq=False)
class PlacedTable(PlacedFilters):
    """Four weighted rows of a table for each distance.

    Args:
        table: (T, K, F).
        row: (P,) int64, the first of the four rows.
        weights: (P, 4) so that filters are sums of rows; the cutoff function is part of them.
        slopes: (P, 4) the same for derivatives per Å.
    """

    table: Tensor
    row: Tensor
    weights: Tensor
    slopes: Tensor

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.table.dtype

    def rows(self, layer: int, part: slice) -> tuple[Tensor, Tensor]:
        index = self.row[part, None] + torch.arange(4, device=self.row.device)
        four = self.table[layer][index]  # (P', 4, F)
        values = torch.einsum("pa,paf->pf", self.weights[part], four)
        return values, torch.einsum("pa,paf->pf", self.slopes[part], four)


@torch.no_grad()
def _tabulated(network: HearsByDistance, grid: SplineGrid) -> tuple[Tensor, TableError]:
    """(T, K, F) coefficients in float64, and their deviation in the middle and near the quarters of intervals in turn."""
    like = torch.zeros(0, dtype=torch.float64, device="cpu")
    knots = grid.knots(like)
    coefficients = grid.coefficients(network.filters(knots))
    inside = knots[PADDING : PADDING + grid.n_intervals]
    inside = inside + grid.spacing * like.new_tensor([0.5, 0.21, 0.79]).repeat(len(inside) // 3 + 1)[: len(inside)]
    row, u = grid.place(inside)
    exact = values_and_slopes(network, inside)
    worst = []
    for weights, expected in zip((b_splines(u), b_spline_slopes(u) / grid.spacing), exact, strict=True):
        deviations = []
        for rows, values in zip(coefficients, expected, strict=True):
            found = torch.einsum("pa,paf->pf", weights, rows[row[:, None] + torch.arange(4, device="cpu")])
            deviations.append(float((found - values).abs().max() / values.abs().max()))
        worst.append(max(deviations))
    return coefficients, TableError(*worst)
