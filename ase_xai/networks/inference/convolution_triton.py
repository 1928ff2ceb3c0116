"""The convolution in kernels compiled by Triton for a GPU; symbols as in `convolution`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from ase_xai.networks.inference.convolution import Convolution, TorchConvolution
from ase_xai.networks.inference.filters import Filters, PlacedFilters, PlacedTable
from ase_xai.networks.inference.pairs import PairList

TILE = 1024
"""Numbers in a tile of neighbors times features: 8 in each thread of 4 warps, all of which wait for memory at once."""
WARPS = 4


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """The 2P directed pairs (i, j) ordered by their centers i, of which each atom has one stretch.

    Args:
        starts: (N + 1,) int64; those of atom i are starts[i] .. starts[i + 1] - 1.
        source: (2P,) int64; which directed pair it is: p from first to second, P + p from second to first.
        neighbors: (2P,) int64 j.
    """

    starts: Tensor
    source: Tensor
    neighbors: Tensor

    @classmethod
    def of(cls, pairs: PairList) -> Neighborhoods:
        """In operations that do not make the host wait for the device."""
        centers, source = torch.cat([pairs.first, pairs.second]).int().sort(stable=True)
        atoms = torch.arange(pairs.n_atoms + 1, dtype=centers.dtype, device=centers.device)
        return cls(torch.searchsorted(centers, atoms), source, torch.cat([pairs.second, pairs.first])[source])


class TritonConvolution(Convolution):
    """One program for each atom adds up in registers what its neighbors send and writes it once: no array of pairs times
    features, no atomic additions, the same bits every time.

    Each pair is seen from both sides, so that filters are interpolated twice; their tables lie in the cache of the device.
    Arrays of atoms must be contiguous. Filters that are not tabulated, and parts of the pairs, take PyTorch's operations.
    """

    title: ClassVar[str] = "GPU kernels compiled by Triton"

    def __init__(self, pairs: PairList, filters: Filters) -> None:
        self._plain = TorchConvolution(pairs, filters)
        super().__init__(pairs, filters)
        self._neighborhoods = Neighborhoods.of(pairs)

    def placed(self, filters: Filters) -> PlacedFilters:
        return self._plain.filters

    def forward(self, layer: int, x: Tensor, y: Tensor, part: slice) -> None:
        table = self._table(part)
        if table is None:
            self._plain.forward(layer, x, y, part)
            return
        self._launch(_forward, x, table.row, table.weights, table.table[layer], x, y)

    def backward(self, layer: int, x: Tensor, g: Tensor, gx: Tensor, slopes: Tensor, part: slice) -> None:
        table = self._table(part)
        if table is None:
            self._plain.backward(layer, x, g, gx, slopes, part)
            return
        halves = x.new_empty((2, len(self.pairs)))
        arrays = (table.row, table.weights, table.slopes, table.table[layer], x, g, gx, halves)
        self._launch(_backward, x, *arrays)
        slopes += halves[0]
        slopes += halves[1]

    def _table(self, part: slice) -> PlacedTable | None:
        """The filters, if there is a kernel for them."""
        whole = part == slice(0, len(self.pairs)) and len(self.pairs) > 0
        return self.filters if whole and isinstance(self.filters, PlacedTable) else None

    def _launch(self, kernel: Any, x: Tensor, *arrays: Tensor) -> None:
        n_atoms, n_features = x.shape
        block = triton.next_power_of_2(n_features)
        lists = self._neighborhoods
        with torch.cuda.device_of(x):  # Triton takes the current device, whatever the arrays lie on
            kernel[(n_atoms,)](
                *(lists.starts, lists.source, lists.neighbors, len(self.pairs)),
                *arrays,
                F=n_features,
                BLOCK=block,
                CHUNK=max(1, TILE // block),
                num_warps=WARPS,
                enable_fp_fusion=True,
            )


@triton.jit
def _interpolated(
    weights: tl.tensor, pair: tl.tensor, inside: tl.tensor, t0: tl.tensor, t1: tl.tensor, t2: tl.tensor, t3: tl.tensor
) -> tl.tensor:
    """(CHUNK, BLOCK) Σ_a weights[pair, a] t_a."""
    at = weights + 4 * pair
    total = tl.load(at, inside, 0.0)[:, None] * t0
    total += tl.load(at + 1, inside, 0.0)[:, None] * t1
    total += tl.load(at + 2, inside, 0.0)[:, None] * t2
    total += tl.load(at + 3, inside, 0.0)[:, None] * t3
    return total


@triton.jit(do_not_specialize=["n_pairs"])
def _forward(
    starts: tl.tensor,
    source: tl.tensor,
    neighbors: tl.tensor,
    n_pairs: tl.tensor,
    knot: tl.tensor,
    weights: tl.tensor,
    table: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    F: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, BLOCK)
    total = tl.zeros((CHUNK, BLOCK), dtype=y.dtype.element_ty)
    end = tl.load(starts + i + 1)
    for start in range(tl.load(starts + i), end, CHUNK):
        e = start + tl.arange(0, CHUNK)
        inside = e < end
        mask = inside[:, None] & (f < F)[None, :]
        pair = tl.load(source + e, inside, 0)
        pair = tl.where(pair < n_pairs, pair, pair - n_pairs)
        j = tl.load(neighbors + e, inside, 0)
        rows = table + tl.load(knot + pair, inside, 0)[:, None] * F + f[None, :]
        t0 = tl.load(rows, mask, 0.0)
        t1 = tl.load(rows + F, mask, 0.0)
        t2 = tl.load(rows + 2 * F, mask, 0.0)
        t3 = tl.load(rows + 3 * F, mask, 0.0)
        xj = tl.load(x + j[:, None] * F + f[None, :], mask, 0.0)
        total += _interpolated(weights, pair, inside, t0, t1, t2, t3) * xj
    own = y + i * F + f
    tl.store(own, tl.load(own, f < F, 0.0) + tl.sum(total, axis=0), f < F)


@triton.jit(do_not_specialize=["n_pairs"])
def _backward(
    starts: tl.tensor,
    source: tl.tensor,
    neighbors: tl.tensor,
    n_pairs: tl.tensor,
    knot: tl.tensor,
    weights: tl.tensor,
    slopes: tl.tensor,
    table: tl.tensor,
    x: tl.tensor,
    g: tl.tensor,
    gx: tl.tensor,
    halves: tl.tensor,
    F: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Also Σ_f W'(r_ij)_f x_j,f g_i,f of every directed pair."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, BLOCK)
    total = tl.zeros((CHUNK, BLOCK), dtype=gx.dtype.element_ty)
    gi = tl.load(g + i * F + f, f < F, 0.0)[None, :]
    end = tl.load(starts + i + 1)
    for start in range(tl.load(starts + i), end, CHUNK):
        e = start + tl.arange(0, CHUNK)
        inside = e < end
        mask = inside[:, None] & (f < F)[None, :]
        directed = tl.load(source + e, inside, 0)
        pair = tl.where(directed < n_pairs, directed, directed - n_pairs)
        j = tl.load(neighbors + e, inside, 0)[:, None] * F + f[None, :]
        rows = table + tl.load(knot + pair, inside, 0)[:, None] * F + f[None, :]
        t0 = tl.load(rows, mask, 0.0)
        t1 = tl.load(rows + F, mask, 0.0)
        t2 = tl.load(rows + 2 * F, mask, 0.0)
        t3 = tl.load(rows + 3 * F, mask, 0.0)
        total += _interpolated(weights, pair, inside, t0, t1, t2, t3) * tl.load(g + j, mask, 0.0)
        change = _interpolated(slopes, pair, inside, t0, t1, t2, t3) * tl.load(x + j, mask, 0.0) * gi
        tl.store(halves + directed, tl.sum(change, axis=1), inside)
    own = gx + i * F + f
    tl.store(own, tl.load(own, f < F, 0.0) + tl.sum(total, axis=0), f < F)
