"""What leaves a system the same for a network: turned, mirrored, renumbered atoms, and atoms that symmetry makes equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.graph import AtomGraph

ALIKE = 1e-4
"""Å; atoms whose distances to all others agree to this are taken as equivalent."""


@dataclass(frozen=True, eq=False)
class Transformed:
    """A system that is the same as another one, and how atomic values go over.

    Args:
        name: of the transformation.
        atoms: the other system.
        expected: atomic values of the first system -> those of the other.
    """

    name: str
    atoms: Atoms
    expected: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def transformations(atoms: Atoms, rng: np.random.Generator) -> Iterator[Transformed]:
    """Every kind of symmetry operation once, with a random axis, order and so on."""
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned *= np.sign(np.linalg.det(turned))
    yield Transformed("rotation", _in_axes(atoms, turned), lambda values: in_axes(values, turned))
    mirror = turned @ np.diag([1.0, 1.0, -1.0]) @ turned.T
    yield Transformed("reflection", _in_axes(atoms, mirror), lambda values: in_axes(values, mirror))
    order = rng.permutation(len(atoms))
    yield Transformed("permutation", atoms[order], lambda values: values[order])
    shift = rng.normal(0.0, 10.0, 3)
    moved = atoms.copy()
    moved.positions += shift
    yield Transformed("translation", moved, lambda values: values)
    if atoms.pbc.any():
        wrapped = atoms.copy()
        wrapped.positions += (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
        yield Transformed("wrapping", wrapped, lambda values: values)
        axis = int(np.flatnonzero(atoms.pbc)[0])
        repeats = [2 if k == axis else 1 for k in range(3)]
        yield Transformed("supercell", atoms.repeat(repeats), lambda values: np.concatenate([values, values]))


def _in_axes(atoms: Atoms, matrix: NDArray[np.float64]) -> Atoms:
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ matrix.T)
    other.positions = atoms.positions @ matrix.T
    return other


def in_axes(values: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Atomic values in turned axes: (N,) and columns of scalars stay, (N, 3, 3) are tensors; (N, 3) are left as scalars."""
    if values.shape[1:] == (3, 3):
        return np.einsum("ac,ncd,bd->nab", matrix, values, matrix)
    return values


def equivalent_atoms(atoms: Atoms, cutoff: float) -> list[NDArray[np.int64]]:
    """Groups of at least two atoms that symmetry makes equal, as far as distances tell.

    Atoms are first told apart by element and by their distances to atoms of each kind, to all atoms of an open system and to
    those within the cutoff of a periodic one, again and again with the kinds found, until nothing new is told apart.
    """
    first, second, distances = _pairs(atoms, cutoff)
    kinds = np.unique(atoms.numbers, return_inverse=True)[1]
    while True:
        signatures = _signatures(kinds, first, second, distances)
        finer = np.full(len(atoms), -1)
        members: list[int] = []
        for i in range(len(atoms)):
            same = next(
                (k for k, j in enumerate(members) if _alike(signatures[i], signatures[j], kinds[i] == kinds[j])), None
            )
            if same is None:
                same = len(members)
                members.append(i)
            finer[i] = same
        if len(members) == len(np.unique(kinds)):
            return [group for k in range(len(members)) if len(group := np.flatnonzero(finer == k)) > 1]
        kinds = finer


def largest_asymmetry(atoms: Atoms, classes: list[NDArray[np.int64]], cutoff: float) -> float:
    """Å; how far the distances of equivalent atoms differ at most."""
    first, second, distances = _pairs(atoms, cutoff)
    kinds = np.arange(len(atoms)) + len(atoms)
    for number, group in enumerate(classes):
        kinds[group] = number
    signatures = _signatures(kinds, first, second, distances)
    worst = 0.0
    for group in classes:
        for i in group[1:]:
            one, other = signatures[group[0]][1], signatures[i][1]
            worst = max(worst, float(np.abs(one - other).max(initial=0.0))) if len(one) == len(other) else np.inf
    return worst


Signature = tuple[NDArray[np.int64], NDArray[np.float64]]


def _pairs(atoms: Atoms, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Directed pairs and their distances: all of an open system, else those within the cutoff."""
    if not atoms.pbc.any():
        first, second = np.nonzero(~np.eye(len(atoms), dtype=bool))
        return first, second, np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)
    graph = AtomGraph.from_atoms(atoms, cutoff)
    return graph.centers.numpy(), graph.neighbors.numpy(), graph.vectors.norm(dim=1).numpy()


def _signatures(
    kinds: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], distances: NDArray[np.float64]
) -> list[Signature]:
    """For each atom the kinds of its neighbors and their distances, sorted by kind and distance."""
    order = np.lexsort((distances, kinds[second], first))
    starts = np.searchsorted(first[order], np.arange(len(kinds) + 1))
    found = []
    for i in range(len(kinds)):
        own = order[starts[i] : starts[i + 1]]
        found.append((kinds[second[own]], distances[own]))
    return found


def _alike(one: Signature, other: Signature, same_kind: bool) -> bool:
    return bool(same_kind) and np.array_equal(one[0], other[0]) and float(np.abs(one[1] - other[1]).max(initial=0.0)) < ALIKE
