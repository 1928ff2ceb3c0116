"""Structures that are copies of others: rotated, mirrored, shifted, wrapped and renumbered ones included."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from ase_xai.training.data import StructureSet

SAME = 1e-6  # relative difference of the fingerprints of copies
WITHIN = 1e-3  # Å; difference of the sorted distances of open copies
WEIGHTS = np.sqrt([1.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0])  # no rational relations: sums of a few stay apart
PORTION = 200_000  # atoms whose distances are summed at once


def copies(structures: StructureSet, prints: NDArray[np.float64] | None = None) -> list[NDArray[np.int64]]:
    """Indices of structures that are equal, ascending, one array for each structure that occurs several times, in
    the order of their first members.

    Args:
        structures: finite ones.
        prints: their fingerprints, if they are known.
    """
    prints = fingerprints(structures)[0] if prints is None else prints
    key = prints[:, 2:] @ WEIGHTS
    order = np.lexsort((key, prints[:, 1], prints[:, 0]))
    original = _originals(prints[order], key[order])
    members = np.argsort(original, kind="stable")
    runs = np.split(order[members], np.flatnonzero(np.diff(original[members])) + 1)
    equal = [members for run in runs if len(run) > 1 for members in _verified(structures, np.sort(run))]
    return sorted(equal, key=lambda members: int(members[0]))


def _originals(prints: NDArray[np.float64], key: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row, the first row that is equal within rounding; rows are in order of two exact columns and of `key`."""
    tolerance = SAME * np.abs(prints)
    slack = tolerance[:, 2:] @ WEIGHTS
    blocks = np.cumsum(np.r_[0, (prints[1:, :2] != prints[:-1, :2]).any(axis=1)])
    rows = np.arange(len(prints))
    original = rows.copy()
    for apart in range(1, len(prints)):
        near = (blocks[apart:] == blocks[:-apart]) & (key[apart:] - key[:-apart] <= slack[apart:])
        earlier = np.flatnonzero(near & (original[apart:] == rows[apart:]))
        if not len(earlier):
            break
        same = (np.abs(prints[earlier + apart] - prints[earlier]) <= tolerance[earlier]).all(axis=1)
        original[earlier[same] + apart] = earlier[same]
    for row in rows:
        original[row] = original[original[row]]
    return original


def fingerprints(structures: StructureSet) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(S, 12) numbers that motions, mirror images and renumbering leave alone, and hardly anything else does.

    All: Σ_i z_i and the number of atoms, total charge. Open systems: sums over pairs of z_i z_j / d, z_i z_j d and
    (z_i + z_j) d². Periodic ones: lengths and angles of the cell, the spread along directions that are not periodic, and
    structure factors |Σ_i z_i exp(2πi k·x_i)| of the longest waves of the cell, x being fractional coordinates.

    Returns:
        The numbers, and the least distance (S,) between the atoms of open systems, in Å; infinite for periodic ones.
    """
    prints, nearest = np.zeros((len(structures), 12)), np.full(len(structures), np.inf)
    n_atoms = structures.n_atoms
    prints[:, 0] = np.add.reduceat(structures.numbers, structures.offsets[:-1]) + 1000.0 * n_atoms
    if structures.total_charge is not None:
        prints[:, 1] = structures.total_charge
    periodic = np.zeros(len(structures), bool) if structures.pbc is None else structures.pbc.any(axis=1)
    for s in np.flatnonzero(periodic):
        prints[s, 2:] = _periodic_print(structures, int(s))
    for n in np.unique(n_atoms[~periodic]):
        members = np.flatnonzero(~periodic & (n_atoms == n))
        for portion in np.array_split(members, 1 + len(members) * int(n) // PORTION):
            rows = structures.offsets[portion][:, None] + np.arange(n)
            numbers, positions = structures.numbers[rows].astype(float), np.asarray(structures.positions[rows], dtype=float)
            prints[portion, 2:5], nearest[portion] = _pair_sums(numbers, positions)
    return prints, nearest


def _pair_sums(z: NDArray[np.float64], r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ z_i z_j / d, Σ z_i z_j d, Σ (z_i + z_j) d² over the pairs of C systems (C, 3), z being (C, n); least d (C,)."""
    sums, nearest = np.zeros((len(z), 3)), np.full(len(z), np.inf)
    for apart in range(1, z.shape[1]):  # pairs (i, i + apart)
        first, second = z[:, :-apart], z[:, apart:]
        steps = r[:, apart:] - r[:, :-apart]
        squares = np.einsum("cix,cix->ci", steps, steps)
        products, distances = first * second, np.sqrt(squares)
        sums[:, 0] += (products / np.maximum(distances, 1e-6)).sum(axis=1)
        sums[:, 1] += (products * distances).sum(axis=1)
        sums[:, 2] += ((first + second) * squares).sum(axis=1)
        nearest = np.minimum(nearest, distances.min(axis=1))
    return sums, nearest


def _periodic_print(structures: StructureSet, s: int) -> NDArray[np.float64]:
    """Ten numbers of a periodic structure."""
    assert structures.cell is not None and structures.pbc is not None
    rows = slice(structures.offsets[s], structures.offsets[s + 1])
    z, r = structures.numbers[rows].astype(float), np.asarray(structures.positions[rows], dtype=float)
    vectors = structures.cell[s][structures.pbc[s]]
    inverse = np.linalg.pinv(vectors)
    waves = np.array(list(itertools.product((0, 1), repeat=len(vectors)))[1:])
    factors = np.abs(z @ np.exp(2j * np.pi * (r @ inverse) @ waves.T)) + z.sum()
    open_part = (r - r.mean(axis=0)) @ (np.eye(3) - inverse @ vectors)
    metric = (vectors @ vectors.T).ravel()
    numbers = np.zeros(10)
    numbers[0] = metric @ WEIGHTS[: len(metric)]
    numbers[1] = z @ (open_part**2).sum(axis=1) if len(vectors) < 3 else 0.0
    numbers[2] = 1.0 + structures.pbc[s] @ (1, 2, 4)
    numbers[3 : 3 + len(factors)] = factors
    return numbers


def _verified(structures: StructureSet, run: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The members of a run with equal fingerprints, apart where the sorted distances of open systems differ after all."""
    if structures.pbc is not None and structures.pbc[run[0]].any():
        return [run]
    equal: list[tuple[NDArray[np.float64], list[int]]] = []
    for s in run:
        distances = _sorted_distances(structures, int(s))
        for known, members in equal:
            if np.abs(distances - known).max(initial=0.0) < WITHIN:
                members.append(int(s))
                break
        else:
            equal.append((distances, [int(s)]))
    return [np.array(members) for _, members in equal if len(members) > 1]


def _sorted_distances(structures: StructureSet, s: int) -> NDArray[np.float64]:
    """Distances of all pairs, by elements and then by length."""
    rows = slice(structures.offsets[s], structures.offsets[s + 1])
    z, r = structures.numbers[rows], np.asarray(structures.positions[rows], dtype=float)
    first, second = np.triu_indices(len(z), 1)
    distances = np.linalg.norm(r[first] - r[second], axis=1)
    low, high = np.minimum(z[first], z[second]), np.maximum(z[first], z[second])
    return distances[np.lexsort((distances, high, low))]
