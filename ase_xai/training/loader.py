"""Batches of graphs and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.neighbors import Pairs, find_pairs
from ase_xai.training.data import LABELS, PER_ATOM, StructureSet, ragged_rows


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch of B structures with N atoms; NaN where a structure lacks one, None where all do.

    Args:
        energy: (B,) eV.
        forces: (N, 3) eV/Å.
        stress: (B, 6) eV/Å^3.
        dipole: (B, 3) e·Å.
        dipole_magnitude: (B,) e·Å.
        charges: (N,) e.
        n_atoms: (B,).
    """

    energy: Tensor | None
    forces: Tensor | None
    stress: Tensor | None
    dipole: Tensor | None
    dipole_magnitude: Tensor | None
    charges: Tensor | None
    n_atoms: Tensor


class GraphLoader:
    """Makes batches of graphs and labels from a `StructureSet`.

    Args:
        structures: the data.
        cutoff: Å.
        keep_pairs: find all pairs now and keep them (10 bytes each, periodic sets 22); False finds them batch by batch, for
            sets larger than memory.
    """

    def __init__(self, structures: StructureSet, cutoff: float, *, keep_pairs: bool = True) -> None:
        self.structures, self.cutoff = structures, cutoff
        self._kept = _KeptPairs(structures, cutoff) if keep_pairs else None

    def batch(
        self, indices: NDArray[np.int64], device: torch.device | str = "cpu", *, pairs: bool = True
    ) -> tuple[AtomGraph, Labels]:
        """The structures at `indices` as one mirrored graph with pair vectors in float32, and their labels.

        `pairs=False` leaves the graph without pairs, for networks whose descriptors are known already.
        """
        data, indices = self.structures, np.asarray(indices, dtype=np.int64)
        rows, counts = ragged_rows(data.offsets, indices)
        first, second, shifts, pair_counts = self._pairs(indices if pairs else indices[:0])
        local = np.repeat((np.cumsum(counts) - counts)[: len(pair_counts)], pair_counts)
        first, second = first + local, second + local
        positions = np.asarray(data.positions[rows], dtype=np.float64)
        vectors = positions[second] - positions[first]
        if shifts is not None and data.cell is not None:
            cells = data.cell[np.repeat(indices[: len(pair_counts)], pair_counts)]
            vectors += np.einsum("pi,pij->pj", shifts.astype(np.float64), cells)

        def tensor(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        charge = np.zeros(len(indices)) if data.total_charge is None else data.total_charge[indices]
        graph = AtomGraph(
            numbers=tensor(data.numbers[rows].astype(np.int64)),
            positions=tensor(positions),
            vectors=tensor(np.concatenate([vectors, -vectors])).float(),
            centers=tensor(np.concatenate([first, second])),
            neighbors=tensor(np.concatenate([second, first])),
            system=tensor(np.repeat(np.arange(len(indices)), counts)),
            total_charge=tensor(charge.astype(np.float64)),
            volume=tensor(self._volumes(indices)),
            mirrored=True,
        )
        values: dict[str, Tensor | None] = {}
        for name in LABELS:
            array = getattr(data, name)
            values[name] = None if array is None else tensor(array[rows if name in PER_ATOM else indices])
        return graph, Labels(**values, n_atoms=tensor(counts))  # type: ignore[arg-type]

    @property
    def n_pairs(self) -> NDArray[np.int64] | None:
        """(S,) pairs of each structure, if they are kept."""
        return None if self._kept is None else np.diff(self._kept.offsets)

    def _pairs(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64]]:
        if self._kept is not None:
            return self._kept.of(indices)
        found = [pairs_of(self.structures, int(s), self.cutoff) for s in indices]
        counts = np.array([len(pairs.first) for pairs in found], dtype=np.int64)
        none = np.zeros(0, np.int64)
        first = np.concatenate([none, *(pairs.first for pairs in found)])
        second = np.concatenate([none, *(pairs.second for pairs in found)])
        shifts = np.concatenate([none.reshape(0, 3), *(pairs.shifts for pairs in found)])
        return first, second, shifts, counts

    def _volumes(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Volumes for the stress; NaN for structures without a periodic direction or a full cell, as in `AtomGraph`."""
        if self.structures.cell is None or self.structures.pbc is None:
            return np.full(len(indices), np.nan)
        cells = self.structures.cell[indices]
        volumes = np.abs(np.linalg.det(cells))
        full = volumes > 1e-6 * np.prod(np.linalg.norm(cells, axis=2), axis=1)
        return np.where(full & self.structures.pbc[indices].any(axis=1), volumes, np.nan)


class _KeptPairs:
    """Pairs of all structures in small integers."""

    def __init__(self, structures: StructureSet, cutoff: float) -> None:
        self.offsets = np.zeros(len(structures) + 1, np.int64)
        small = int(structures.n_atoms.max(initial=0)) < 2**15
        first, second, shifts = [], [], []
        for s in range(len(structures)):
            pairs = pairs_of(structures, s, cutoff)
            first.append(pairs.first.astype(np.int16 if small else np.int32))
            second.append(pairs.second.astype(np.int16 if small else np.int32))
            shifts.append(pairs.shifts.astype(np.int16) if structures.pbc is not None else None)
            self.offsets[s + 1] = self.offsets[s] + len(pairs.first)
        self.first, self.second = np.concatenate(first), np.concatenate(second)
        self.shifts = np.concatenate([s for s in shifts if s is not None]) if structures.pbc is not None else None

    def of(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64]]:
        rows, counts = ragged_rows(self.offsets, indices)
        shifts = None if self.shifts is None else self.shifts[rows].astype(np.int64)
        return self.first[rows].astype(np.int64), self.second[rows].astype(np.int64), shifts, counts


def pairs_of(structures: StructureSet, s: int, cutoff: float) -> Pairs:
    """Neighbor pairs of structure s.

    Raises:
        ValueError: the geometry is unusable; the message names the structure.
    """
    positions = np.asarray(structures.positions[structures.offsets[s] : structures.offsets[s + 1]], dtype=np.float64)
    cell = np.zeros((3, 3)) if structures.cell is None else structures.cell[s]
    pbc = np.zeros(3, bool) if structures.pbc is None else structures.pbc[s]
    try:
        return find_pairs(positions, cell, pbc, cutoff)
    except ValueError as error:
        raise ValueError(f"structure {s}: {error}") from error


def epoch_batches(indices: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Batches of `indices` in an order that depends on seed and epoch only, so that a resumed run sees the same ones."""
    order = np.random.default_rng([seed, epoch]).permutation(indices)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def bucketed_batches(
    indices: NDArray[np.int64], sizes: NDArray[np.int64], budget: int, seed: int, epoch: int
) -> Iterator[NDArray[np.int64]]:
    """Batches whose sizes (atoms, or pairs) add up to at most `budget`, of structures of similar size.

    Every step then takes about the same time and memory, however much structures differ. A structure beyond the budget makes
    a batch of its own. Which structures meet, and the order of the batches, depend on seed and epoch only.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(indices)
    order = order[np.argsort(sizes[order], kind="stable")]  # chance decides among equals
    batches, start, filled = [], 0, 0
    for position, size in enumerate(sizes[order]):
        if filled and filled + size > budget:
            batches.append(order[start:position])
            start, filled = position, 0
        filled += int(size)
    if len(order):
        batches.append(order[start:])
    for number in rng.permutation(len(batches)):
        yield batches[number]
