"""Subsets of atoms: which there are, their graphs, and what belongs to a subset as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import Linearized

MAX_CANDIDATES = 20_000_000
BATCH = 30_000
"""Atoms and pairs in one batch of small graphs; 100 to 300 MB with 128 features in float64."""
BLOCK = 2_000_000
"""Places of pairs looked up at once."""


def checked_order(order: int, n_atoms: int) -> int:
    """`order`, or the number of atoms if that is less.

    Raises:
        ValueError: not an integer from 1 on.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be an integer from 1 on, got {order!r}. It is the largest number of atoms in a term.")
    return min(order, n_atoms)


def connected_subsets(graph: AtomGraph, order: int) -> list[NDArray[np.int64]]:
    """Every set of 1, 2, ... `order` atoms that pairs of one system hold together: one table (K_n, n) each, sorted.

    What falls apart into parts without pairs between them is the sum of its parts, so that nothing belongs to it as a whole:
    terms of all other sets are zero, exactly, and need no evaluation.

    Raises:
        ValueError: more sets than fit into memory.
    """
    n_atoms = len(graph.numbers)
    pairs = np.unique(torch.stack([graph.centers, graph.neighbors], dim=1).cpu().numpy(), axis=0).reshape(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    first = np.searchsorted(pairs[:, 0], np.arange(n_atoms + 1))
    tables = [np.arange(n_atoms, dtype=np.int64)[:, None]]
    for size in range(2, order + 1):
        grown = [_grown(tables[-1], column, first, pairs[:, 1]) for column in range(size - 1)]
        rows = np.concatenate(grown)
        _, once = np.unique(_keys(rows, n_atoms), return_index=True)
        rows = rows[once]
        tables.append(rows[np.lexsort(rows.T[::-1])])
    return tables


def _grown(
    rows: NDArray[np.int64], column: int, first: NDArray[np.int64], neighbors: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sorted rows with one neighbor more of the atom in `column`, for each neighbor that is not yet there."""
    atoms = rows[:, column]
    counts = first[atoms + 1] - first[atoms]
    n_candidates = int(counts.sum()) * (rows.shape[1])
    if n_candidates > MAX_CANDIDATES:
        raise ValueError(
            f"there are about {n_candidates:.1g} sets of {rows.shape[1] + 1} atoms, at most {MAX_CANDIDATES:.1g} fit. "
            "Take a lower order, or fewer atoms."
        )
    start = np.repeat(first[atoms] - (np.cumsum(counts) - counts), counts)
    added = neighbors[start + np.arange(len(start))]
    longer = np.repeat(rows, counts, axis=0)
    new = (longer != added[:, None]).all(axis=1)
    return np.sort(np.column_stack([longer[new], added[new]]), axis=1)


def _keys(rows: NDArray[np.int64], n_atoms: int) -> NDArray[np.int64]:
    """One integer for each row of distinct atoms, whatever their order if there are at most 62, else in ascending order."""
    if n_atoms <= 62:
        return np.bitwise_or.reduce(np.int64(1) << rows, axis=1)
    if n_atoms ** rows.shape[1] >= 2**63:
        raise ValueError(f"sets of {rows.shape[1]} out of {n_atoms} atoms cannot be counted in 64 bits. Take a lower order.")
    keys = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        keys = keys * n_atoms + column
    return keys


def subset_terms(
    tables: Sequence[NDArray[np.int64]], totals: Sequence[NDArray[np.float64]], n_atoms: int
) -> list[NDArray[np.float64]]:
    """What belongs to each set as a whole and to no part of it (Möbius inversion): (K_n,) for each size.

        t(S) = v(S) - Σ_(U ⊊ S) t(U) = Σ_(U ⊆ S) (-1)^(|S|-|U|) v(U),     v(∅) = 0

    Args:
        tables: of `connected_subsets`; t of a set that is not in them is zero.
        totals: v of each set.
        n_atoms: in the system.
    """
    found: list[NDArray[np.float64]] = []
    orders: list[NDArray[np.int64]] = []
    keys: list[NDArray[np.int64]] = []
    for rows, values in zip(tables, totals, strict=True):
        own = values.copy()
        for size in range(1, rows.shape[1]):
            for columns in combinations(range(rows.shape[1]), size):
                wanted = _keys(rows[:, columns], n_atoms)
                place = np.minimum(np.searchsorted(keys[size - 1], wanted), max(len(keys[size - 1]) - 1, 0))
                known = keys[size - 1][place] == wanted if len(keys[size - 1]) else np.zeros(len(wanted), dtype=bool)
                own[known] -= found[size - 1][orders[size - 1][place[known]]]
        table_keys = _keys(rows, n_atoms)
        orders.append(np.argsort(table_keys))
        keys.append(table_keys[orders[-1]])
        found.append(own)
    return found


def padded(tables: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All tables below each other, unused places -1."""
    width = max(rows.shape[1] for rows in tables)
    return np.concatenate([np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=-1) for rows in tables])


def subset_totals(graph: AtomGraph, rows: NDArray[np.int64], energies: Linearized) -> NDArray[np.float64]:
    """(K,) sum of what `energies` says of the atoms of each set, each set being a system of its own.

    Args:
        graph: of one system.
        rows: (K, n) atoms of each set; -1 where a place is unused, in any arrangement.
        energies: (small graphs, (n,) original index of their atoms) -> (n,).
    """
    totals = [small.sum_systems(energies(small, index).double()) for small, index in small_graphs(graph, rows)]
    return torch.cat(totals).cpu().numpy() if totals else np.zeros(0)


def small_graphs(graph: AtomGraph, rows: NDArray[np.int64]) -> Iterator[tuple[AtomGraph, Tensor]]:
    """Batches of graphs of the sets `rows`, in their order, with the original index (n,) of each atom.

    A small graph has the atoms of its set and the pairs of the original with both ends among them, periodic images included,
    and carries the total charge of the whole.
    """
    table = _PairTable.of(graph)
    per_block = max(1, BLOCK // max(1, rows.shape[1] ** 2))
    for begin in range(0, len(rows), per_block):
        block = torch.as_tensor(rows[begin : begin + per_block], device=graph.centers.device)
        start, count = table.find(block)
        cost = 1 + (block >= 0).sum(dim=1) + count.sum(dim=(1, 2))
        batch_of = torch.div(torch.cumsum(cost, dim=0) - cost, BATCH, rounding_mode="floor").cpu()
        sizes = torch.unique_consecutive(batch_of, return_counts=True)[1].tolist()
        parts = (block.split(sizes), start.split(sizes), count.split(sizes))
        for part in zip(*parts, strict=True):
            yield table.graph_of(*part)


@dataclass(frozen=True, eq=False)
class _PairTable:
    """Unique pairs of a graph, sorted by their atoms: keys i·N + j and the place of each pair."""

    graph: AtomGraph
    keys: Tensor
    places: Tensor

    @classmethod
    def of(cls, graph: AtomGraph) -> _PairTable:
        n = graph.n_unique
        keys, places = torch.sort(graph.centers[:n] * len(graph.numbers) + graph.neighbors[:n], stable=True)
        return cls(graph, keys, places)

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """First place and number of the pairs between every two atoms of each set: (K, n, n) both."""
        wanted = rows[:, :, None] * len(self.graph.numbers) + rows[:, None, :]
        start = torch.searchsorted(self.keys, wanted)
        count = torch.searchsorted(self.keys, wanted, right=True) - start
        used = rows >= 0
        return start, torch.where(used[:, :, None] & used[:, None, :], count, 0)

    def graph_of(self, rows: Tensor, start: Tensor, count: Tensor) -> tuple[AtomGraph, Tensor]:
        """The sets `rows` as one batch of graphs, from what `find` gave."""
        whole, used = self.graph, rows >= 0
        number = (torch.cumsum(used.flatten(), dim=0) - 1).reshape(rows.shape)  # of each atom in the batch
        counts = count.flatten()
        begin = (start.flatten() - (torch.cumsum(counts, dim=0) - counts)).repeat_interleave(counts)
        pairs = self.places[begin + torch.arange(len(begin), device=begin.device)]
        first = number[:, :, None].expand(count.shape).flatten().repeat_interleave(counts)
        second = number[:, None, :].expand(count.shape).flatten().repeat_interleave(counts)
        if whole.mirrored:
            pairs = torch.cat([pairs, pairs + whole.n_unique])
            first, second = torch.cat([first, second]), torch.cat([second, first])
        index = rows[used]
        systems = torch.arange(len(rows), device=rows.device).repeat_interleave(used.sum(dim=1))
        small = replace(
            whole,
            numbers=whole.numbers[index],
            positions=whole.positions[index],
            vectors=whole.vectors[pairs],
            centers=first,
            neighbors=second,
            system=systems,
            total_charge=whole.total_charge[:1].expand(len(rows)),
            volume=whole.volume.new_full((len(rows),), float("nan")),
        )
        return small, index
