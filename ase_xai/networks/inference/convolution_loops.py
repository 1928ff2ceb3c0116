"""The convolution in loops compiled for a CPU; symbols as in `convolution`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from ase_xai.networks.compiled.loops import compiled
from ase_xai.networks.inference.convolution import Convolution
from ase_xai.networks.inference.filters import Filters, FilterTable, PlacedFilters, PlacedTable
from ase_xai.networks.splines import PADDING


class CompiledConvolution(Convolution):
    """Loops over pairs: filters are made, multiplied and added up while they are in registers and the nearest cache.

    Each number of features has loops of its own, in which it is a constant: twice as fast.
    """

    title = "loops compiled by Numba"

    def placed(self, filters: Filters) -> PlacedFilters:
        if not isinstance(filters, FilterTable):
            return super().placed(filters)
        distances, table = self.pairs.distances, filters.table
        row = torch.empty_like(distances, dtype=torch.int64)
        weights, slopes = (torch.empty(len(distances), 4, dtype=table.dtype, device=table.device) for _ in range(2))
        arrays = row.numpy(), weights.numpy(), slopes.numpy()
        place(distances.numpy(), filters.grid.spacing, PADDING - 1, filters.cutoff_function.cutoff, *arrays)
        return PlacedTable(table, row, weights, slopes)

    def forward(self, layer: int, x: Any, y: Any, part: slice) -> None:
        filters = self.filters
        first, second = self.pairs.first.numpy(), self.pairs.second.numpy()
        if isinstance(filters, PlacedTable):
            table = filters.row.numpy(), filters.weights.numpy(), filters.table[layer].numpy()
            _tabulated(x.shape[1])[0](part.start, part.stop, first, second, *table, x.numpy(), y.numpy())
            return
        for block, values, _ in self.blocks(layer, part):
            _rows(x.shape[1])[0](first[block], second[block], values.numpy(), x.numpy(), y.numpy())

    def backward(self, layer: int, x: Any, g: Any, gx: Any, slopes: Any, part: slice) -> None:
        filters, arrays = self.filters, (x.numpy(), g.numpy(), gx.numpy())
        first, second = self.pairs.first.numpy(), self.pairs.second.numpy()
        if isinstance(filters, PlacedTable):
            table = filters.row.numpy(), filters.weights.numpy(), filters.slopes.numpy(), filters.table[layer].numpy()
            _tabulated(x.shape[1])[1](part.start, part.stop, first, second, *table, *arrays, slopes.numpy())
            return
        for block, values, derivatives in self.blocks(layer, part):
            rows = values.numpy(), derivatives.numpy()
            _rows(x.shape[1])[1](first[block], second[block], *rows, *arrays, slopes.numpy()[block])


@compiled
def place(distances: Any, spacing: Any, offset: Any, cutoff: Any, row: Any, weights: Any, slopes: Any) -> None:
    """What `FilterTable.at` does."""
    for p in range(len(distances)):
        position = distances[p] / spacing
        knot = int(position)
        u = position - knot
        v = 1.0 - u
        angle = np.pi * distances[p] / cutoff
        envelope, slope = 0.5 * (np.cos(angle) + 1.0), -0.5 * np.pi / cutoff * np.sin(angle)
        basis = v**3 / 6.0, (4.0 + u * u * (3.0 * u - 6.0)) / 6.0, (4.0 + v * v * (3.0 * v - 6.0)) / 6.0, u**3 / 6.0
        change = -v * v / 2.0, u * (3.0 * u - 4.0) / 2.0, v * (4.0 - 3.0 * v) / 2.0, u * u / 2.0
        row[p] = knot + offset
        for a in range(4):
            weights[p, a] = envelope * basis[a]
            slopes[p, a] = envelope / spacing * change[a] + slope * basis[a]


@cache
def _pieces(n_features: int) -> tuple[Callable[..., Any], ...]:
    """What all loops over pairs do with the F features of one pair."""
    F = n_features

    @compiled
    def interpolate(weights: Any, table: Any, k: Any, row: Any) -> None:
        a, b, c, d = weights[0], weights[1], weights[2], weights[3]
        t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
        for f in range(F):
            row[f] = a * t0[f] + b * t1[f] + c * t2[f] + d * t3[f]

    @compiled
    def add(row: Any, x: Any, y: Any) -> None:
        for f in range(F):
            y[f] += row[f] * x[f]

    @compiled
    def product(slope: Any, xi: Any, xj: Any, gi: Any, gj: Any) -> Any:
        total = slope.dtype.type(0)
        for f in range(F):
            total += slope[f] * (xj[f] * gi[f] + xi[f] * gj[f])
        return total

    return interpolate, add, product


@cache
def _tabulated(n_features: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward with filters interpolated in the loop."""
    F = n_features
    interpolate, add, product = _pieces(F)

    @compiled
    def forward(start: Any, stop: Any, first: Any, second: Any, knot: Any, w: Any, table: Any, x: Any, y: Any) -> None:
        row = np.empty(F, x.dtype)
        for p in range(start, stop):
            i, j = first[p], second[p]
            interpolate(w[p], table, knot[p], row)
            add(row, x[j], y[i])
            add(row, x[i], y[j])

    @compiled
    def backward(
        start: Any,
        stop: Any,
        first: Any,
        second: Any,
        knot: Any,
        w: Any,
        s: Any,
        table: Any,
        x: Any,
        g: Any,
        gx: Any,
        slopes: Any,
    ) -> None:
        row, slope = np.empty(F, x.dtype), np.empty(F, x.dtype)
        for p in range(start, stop):
            i, j = first[p], second[p]
            interpolate(w[p], table, knot[p], row)
            interpolate(s[p], table, knot[p], slope)
            add(row, g[j], gx[i])
            add(row, g[i], gx[j])
            slopes[p] += product(slope, x[i], x[j], g[i], g[j])

    return forward, backward


@cache
def _rows(n_features: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward with given filters."""
    _, add, product = _pieces(n_features)

    @compiled
    def forward(first: Any, second: Any, values: Any, x: Any, y: Any) -> None:
        for p in range(len(first)):
            i, j = first[p], second[p]
            add(values[p], x[j], y[i])
            add(values[p], x[i], y[j])

    @compiled
    def backward(first: Any, second: Any, values: Any, derivatives: Any, x: Any, g: Any, gx: Any, slopes: Any) -> None:
        for p in range(len(first)):
            i, j = first[p], second[p]
            add(values[p], g[j], gx[i])
            add(values[p], g[i], gx[j])
            slopes[p] += product(derivatives[p], x[i], x[j], g[i], g[j])

    return forward, backward
