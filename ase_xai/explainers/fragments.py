"""Which atoms hang together: bonds from distances, fragments, and fragments made whole across periodic boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

BONDED = 1.25
"""Atoms closer than this times the sum of their covalent radii count as bonded: O-H below 1.21 Å, C-C below 1.90 Å."""


def bonds(atoms: Atoms, scale: float = BONDED) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(B, 2) bonded atoms i ≤ j, each pair of images once, rows sorted, and (B, 3) vectors from i to that image of j in Å.

    Args:
        atoms: periodic or not; images count.
        scale: largest bond length over the sum of the covalent radii (`ase.data.covalent_radii`).

    Source: Cordero et al., Dalton Trans. 2008, 2832 (radii).
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}. It multiplies sums of covalent radii; 1.25 is usual.")
    first, second, vectors = neighbor_list("ijD", atoms, list(scale * covalent_radii[atoms.numbers]))
    kept = first < second
    for k in np.flatnonzero(first == second):  # an atom and its own image
        kept[k] = _points_up(vectors[k])
    index, vectors = np.stack([first[kept], second[kept]], axis=1), vectors[kept]
    order = np.lexsort((*np.round(vectors, 6).T, index[:, 1], index[:, 0]))
    return index[order].astype(np.int64), vectors[order]


def _points_up(vector: NDArray[np.float64]) -> bool:
    """True for exactly one of a vector and its opposite."""
    nonzero = vector[np.abs(vector) > 1e-9]
    return bool(len(nonzero) and nonzero[0] > 0)


def components(index: NDArray[np.int64], n_atoms: int) -> NDArray[np.int64]:
    """(N,) number of the connected component of each atom, 0, 1, ... in the order of their first atoms.

    Args:
        index: (B, 2) bonded atoms.
        n_atoms: N.
    """
    label = np.arange(n_atoms)
    while True:
        smallest = label.copy()
        np.minimum.at(smallest, index[:, 0], label[index[:, 1]])
        np.minimum.at(smallest, index[:, 1], label[index[:, 0]])
        smallest = smallest[smallest]
        if np.array_equal(smallest, label):
            return np.unique(label, return_inverse=True)[1].astype(np.int64)
        label = smallest


def made_whole(atoms: Atoms, groups: Mapping[str, Sequence[int]], scale: float = BONDED) -> NDArray[np.float64]:
    """(N, 3) positions in Å with the atoms of each group moved to the images that are bonded to one another.

    Args:
        atoms: periodic or not.
        groups: indices by name; atoms of no group stay where they are.
        scale: see `bonds`.

    Raises:
        ValueError: a group that is not connected by bonds of its own, or that is bonded to its own image and so has no ends.
    """
    index, vectors = bonds(atoms, scale)
    near: dict[int, list[tuple[int, NDArray[np.float64]]]] = {i: [] for i in range(len(atoms))}
    for (i, j), vector in zip(index.tolist(), vectors, strict=True):
        near[i].append((j, vector))
        near[j].append((i, -vector))
    positions = np.array(atoms.positions)
    for name, members in groups.items():
        _walk(name, [int(i) for i in members], near, positions)
    return positions


def _walk(
    name: str,
    members: list[int],
    near: Mapping[int, list[tuple[int, NDArray[np.float64]]]],
    positions: NDArray[np.float64],
) -> None:
    """Place the atoms of one group along its bonds, in `positions`."""
    inside, placed, waiting = set(members), set(members[:1]), members[:1]
    while waiting:
        i = waiting.pop()
        for j, vector in near[i]:
            if j not in inside:
                continue
            if j not in placed:
                positions[j] = positions[i] + vector
                placed.add(j)
                waiting.append(j)
            elif np.abs(positions[j] - positions[i] - vector).max() > 1e-6:
                raise ValueError(
                    f"group {name!r} is bonded to its own periodic image (atoms {i} and {j}), so it cannot be made whole. "
                    "Use groups of finite molecules."
                )
    if len(placed) < len(members):
        apart = sorted(inside - placed)[:10]
        raise ValueError(f"group {name!r} is not connected: atoms {apart} hang on nothing in it. Use connected fragments.")


def connected(atoms: Atoms, scale: float = BONDED) -> dict[str, tuple[int, ...]]:
    """The connected fragments of `atoms` by name ("H2O 1", "H2O 2" ...; a formula that stands once has no number)."""
    label = components(bonds(atoms, scale)[0], len(atoms))
    members = [np.flatnonzero(label == k) for k in range(int(label.max(initial=-1)) + 1)]
    return named([atoms[own].get_chemical_formula() for own in members], members)


def named(names: Sequence[str], members: Sequence[NDArray[np.int64]]) -> dict[str, tuple[int, ...]]:
    """Groups by name, with a number behind each name that stands more than once."""
    groups, seen = {}, {name: 0 for name in names}
    for name, own in zip(names, members, strict=True):
        seen[name] += 1
        groups[name if names.count(name) == 1 else f"{name} {seen[name]}"] = tuple(int(i) for i in own)
    return groups
