"""Reference energies of the elements, and what about them the data leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_xai.training.data import StructureSet


def least_squares(structures: StructureSet, indices: NDArray[np.int64]) -> dict[int, float]:
    """Energy of each element in eV by least squares of the total energy on composition; the smallest solution if many fit.

    Raises:
        ValueError: no energies.
    """
    if structures.energy is None:
        raise ValueError("least-squares references need energies, and the data have none.")
    known = indices[np.isfinite(structures.energy[indices])]
    if not len(known):
        raise ValueError("least-squares references need energies, and none of these structures has one.")
    solution, *_ = np.linalg.lstsq(structures.composition(known), structures.energy[known], rcond=None)
    return {z: float(e) for z, e in zip(structures.elements, solution, strict=True)}


def free_atoms(structures: StructureSet, energies: Mapping[int, float]) -> dict[int, float]:
    """The given energies of free atoms (eV) for the elements of the data.

    Raises:
        ValueError: an element is missing.
    """
    missing = [chemical_symbols[z] for z in structures.elements if z not in energies]
    if missing:
        raise ValueError(f"no free-atom energy for {', '.join(missing)}. Give one (eV) at the data's level of theory.")
    return {z: float(energies[z]) for z in structures.elements}


@dataclass(frozen=True)
class CompositionRank:
    """How far compositions determine one energy offset per element.

    Args:
        elements: symbols.
        rank: of the matrix of compositions.
        open_directions: for each direction left open, coefficients by element; adding such a multiple to the references and
            taking it from the atomic energies changes no energy in the data.
    """

    elements: tuple[str, ...]
    rank: int
    open_directions: tuple[dict[str, float], ...]

    def __str__(self) -> str:
        n = len(self.elements)
        if self.rank == n:
            return f"Compositions determine one offset for each of the {n} elements {' '.join(self.elements)}."
        shifts = "; ".join(
            " ".join(f"{value:+.3g} {symbol}" for symbol, value in direction.items()) for direction in self.open_directions
        )
        return (
            f"Compositions determine {self.rank} of {n} element offsets ({' '.join(self.elements)}). Left open, so that "
            f"atomic energies are comparable between structures only up to them: shifts along ({shifts})."
        )


def composition_rank(structures: StructureSet, indices: NDArray[np.int64]) -> CompositionRank:
    """Rank of the matrix of compositions and the directions it leaves open."""
    unique = np.unique(structures.composition(indices), axis=0)
    present = np.flatnonzero(unique.any(axis=0))
    elements = structures.elements
    symbols = [chemical_symbols[elements[column]] for column in present]
    _, singular, directions = np.linalg.svd(unique[:, present])
    rank = int((singular > 1e-9 * singular[0]).sum())
    readable = []
    for direction in _simplified(directions[rank:]):
        readable.append({s: float(v) for s, v in zip(symbols, direction, strict=True) if abs(v) > 1e-9})
    return CompositionRank(tuple(symbols), rank, tuple(readable))


def _simplified(null_space: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduced row echelon form: few and simple coefficients."""
    rows = null_space.copy()
    pivot_row = 0
    for column in range(rows.shape[1]):
        if pivot_row == len(rows):
            break
        best = pivot_row + int(np.abs(rows[pivot_row:, column]).argmax())
        if abs(rows[best, column]) < 1e-9:
            continue
        rows[[pivot_row, best]] = rows[[best, pivot_row]]
        rows[pivot_row] /= rows[pivot_row, column]
        for other in range(len(rows)):
            if other != pivot_row:
                rows[other] -= rows[other, column] * rows[pivot_row]
        pivot_row += 1
    return rows
