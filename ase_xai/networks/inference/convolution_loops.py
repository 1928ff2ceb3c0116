"""The convolution in loops compiled for a CPU; symbols as in `convolution`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_xai.networks.compiled.loops import compiled
from ase_xai.networks.inference.convolution import Convolution
from ase_xai.networks.inference.filters import Filters, FilterTable, PlacedFilters, PlacedTable
from ase_xai.networks.inference.pairs import PairList
from ase_xai.networks.splines import PADDING


class CompiledConvolution(Convolution):
    """Loops over pairs: filters are made, multiplied and added up while they are in registers and the nearest cache.

    Each number of features has loops of its own, in which it is a constant: twice as fast.
    """

    title = "loops compiled by Numba"

    def __init__(self, pairs: PairList, filters: Filters) -> None:
        self._ends = pairs.first.numpy(), pairs.second.numpy()
        self._table: tuple[Any, ...] | None = None
        super().__init__(pairs, filters)

    def placed(self, filters: Filters) -> PlacedFilters:
        if not isinstance(filters, FilterTable):
            return super().placed(filters)
        distances, table = self.pairs.distances, filters.table
        row = torch.empty_like(distances, dtype=torch.int64)
        weights, slopes = (torch.empty(len(distances), 4, dtype=table.dtype, device=table.device) for _ in range(2))
        arrays = row.numpy(), weights.numpy(), slopes.numpy()
        place(distances.numpy(), filters.grid.spacing, PADDING - 1, filters.cutoff_function.cutoff, *arrays)
        self._table = *arrays, table.numpy()
        return PlacedTable(table, row, weights, slopes)

    def forward(self, layer: int, x: Tensor, y: Tensor, part: slice) -> None:
        first, second = self._ends
        arrays = x.numpy(), y.numpy()
        if self._table is not None:
            row, weights, _, table = self._table
            _tabulated_forward(x.shape[1])(part.start, part.stop, first, second, row, weights, table[layer], *arrays)
            return
        for block in self.blocks(part):
            values = self.filters.values(layer, block)
            _rows(x.shape[1])[0](first[block], second[block], values.numpy(), *arrays)

    def backward(self, layer: int, x: Tensor, g: Tensor, gx: Tensor, slopes: Tensor, part: slice) -> None:
        first, second = self._ends
        arrays, along = (x.numpy(), g.numpy(), gx.numpy()), slopes.numpy()
        if self._table is not None:
            row, weights, changes, table = self._table
            filters = row, weights, changes, table[layer]
            _tabulated_backward(x.shape[1])(part.start, part.stop, first, second, *filters, *arrays, along)
            return
        for block in self.blocks(part):
            values, derivatives = self.filters.rows(layer, block)
            rows = values.numpy(), derivatives.numpy()
            _rows(x.shape[1])[1](first[block], second[block], *rows, *arrays, along[block])


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
def _tabulated_forward(n_features: int) -> Callable[..., None]:
    """Forward with filters interpolated in the loop.

    The number of features is all that this function takes from outside: compiled code that refers to other compiled code
    in such a place would be compiled anew in every process.
    """
    F = n_features

    @compiled
    def forward(start: Any, stop: Any, first: Any, second: Any, knot: Any, w: Any, table: Any, x: Any, y: Any) -> None:
        row = np.empty(F, x.dtype)
        for p in range(start, stop):
            i, j, k = first[p], second[p], knot[p]
            a, b, c, d = w[p, 0], w[p, 1], w[p, 2], w[p, 3]
            t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
            xi, xj, yi, yj = x[i], x[j], y[i], y[j]
            for f in range(F):
                row[f] = a * t0[f] + b * t1[f] + c * t2[f] + d * t3[f]
            for f in range(F):
                yi[f] += row[f] * xj[f]
            for f in range(F):
                yj[f] += row[f] * xi[f]

    return forward


@cache
def _tabulated_backward(n_features: int) -> Callable[..., None]:
    """Backward with filters and their slopes interpolated in the loop."""
    F = n_features

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
        row = np.empty(F, x.dtype)
        for p in range(start, stop):
            i, j, k = first[p], second[p], knot[p]
            a, b, c, d = w[p, 0], w[p, 1], w[p, 2], w[p, 3]
            sa, sb, sc, sd = s[p, 0], s[p, 1], s[p, 2], s[p, 3]
            t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
            xi, xj, gi, gj, gxi, gxj = x[i], x[j], g[i], g[j], gx[i], gx[j]
            for f in range(F):
                row[f] = a * t0[f] + b * t1[f] + c * t2[f] + d * t3[f]
            for f in range(F):
                gxi[f] += row[f] * gj[f]
            for f in range(F):
                gxj[f] += row[f] * gi[f]
            total = x.dtype.type(0)
            for f in range(F):
                slope = sa * t0[f] + sb * t1[f] + sc * t2[f] + sd * t3[f]
                total += slope * (xj[f] * gi[f] + xi[f] * gj[f])
            slopes[p] += total

    return backward


@cache
def _rows(n_features: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward with given filters."""
    F = n_features

    @compiled
    def forward(first: Any, second: Any, values: Any, x: Any, y: Any) -> None:
        for p in range(len(first)):
            i, j = first[p], second[p]
            row, xi, xj, yi, yj = values[p], x[i], x[j], y[i], y[j]
            for f in range(F):
                yi[f] += row[f] * xj[f]
            for f in range(F):
                yj[f] += row[f] * xi[f]

    @compiled
    def backward(first: Any, second: Any, values: Any, derivatives: Any, x: Any, g: Any, gx: Any, slopes: Any) -> None:
        for p in range(len(first)):
            i, j = first[p], second[p]
            row, slope = values[p], derivatives[p]
            xi, xj, gi, gj, gxi, gxj = x[i], x[j], g[i], g[j], gx[i], gx[j]
            for f in range(F):
                gxi[f] += row[f] * gj[f]
            for f in range(F):
                gxj[f] += row[f] * gi[f]
            total = x.dtype.type(0)
            for f in range(F):
                total += slope[f] * (xj[f] * gi[f] + xi[f] * gj[f])
            slopes[p] += total

    return forward, backward
