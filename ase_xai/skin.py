"""A pair list that survives small moves of atoms and cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ase_xai.neighbors import Pairs, check_backend, check_distance, find_pairs


class SkinList:
    """Pairs out to cutoff + skin, kept while atoms and cell move little (a Verlet list for changing cells).

    A list was built for positions r0 and cell h0. Atoms are now at r_i = r0_i F + u_i, where F = h0^-1 h carries the old
    cell into the new one; integer shifts S move with the cell. A pair vector obeys D = D0 F + u_j - u_i, so that with
    w = max_i |u_i| every pair inside the cutoff r_c had |D0| < ‖F^-1‖₂ (r_c + 2w). The list still holds all of them if

        ‖F^-1‖₂ (r_c + 2w) <= r_c + skin.

    F is the identity for an unchanged cell and for open systems, and acts as the identity across missing (zero) cell
    vectors. Other numbers or `pbc`, and an atom wrapped back into the cell (a large u), make a new list; a result is
    never incomplete.

    Args:
        cutoff: r_c in Å.
        skin: Å; 0 makes a new list at every update.
        backend: as in `find_pairs`.

    Attributes:
        n_builds: number of lists built so far.

    Raises:
        ValueError: cutoff not positive, skin negative, unknown back end.
    """

    def __init__(self, cutoff: float, skin: float, backend: str = "auto") -> None:
        check_distance("cutoff", cutoff, positive=True)
        check_distance("skin", skin, positive=False)
        check_backend(backend)
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.backend = backend
        self.n_builds = 0
        self._built: _Built | None = None

    def update(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Pairs:
        """Every pair closer than the cutoff, and others out to about cutoff + skin: filter by distance before use.

        Args:
            numbers: (N,) atomic numbers.
            positions: (N, 3) Å.
            cell: (3, 3) Å, cell vectors as rows.
            pbc: (3,) bool.

        Returns:
            Pairs, the same object as long as the list is reused; do not modify it.

        Raises:
            ValueError: another number of numbers than of positions; and as in `find_pairs`.
            ImportError: as in `find_pairs`.
        """
        positions = np.asarray(positions, dtype=np.float64)
        cell = np.asarray(cell, dtype=np.float64)
        pbc = np.asarray(pbc, dtype=bool)
        key = self._key(np.asarray(numbers, dtype=np.int64), positions, cell, pbc)
        built = self._built
        if built is not None and built.key == key and self._covers(built, positions, cell, pbc):
            return built.pairs
        if len(numbers) != len(positions):
            raise ValueError(f"Got {len(numbers)} numbers for {len(positions)} positions. Each atom needs one of both.")
        pairs = find_pairs(positions, cell, pbc, self.cutoff + self.skin, self.backend)
        self._built = _Built(key, positions.copy(), cell.copy(), cell.tobytes(), pairs)
        self.n_builds += 1
        return pairs

    def _key(self, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[object, ...]:
        """Whatever must be equal for a list to be reused."""
        settings = (self.cutoff, self.skin, self.backend)
        return (*settings, numbers.tobytes(), pbc.tobytes(), positions.shape, cell.shape)

    def _covers(self, built: _Built, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether the list holds every pair inside the cutoff: 1/‖F^-1‖₂ is the least singular value of F."""
        if self.skin == 0.0:
            return False
        reach = self.cutoff + self.skin
        if not pbc.any() or cell.tobytes() == built.cell_bytes:
            return self.cutoff + 2.0 * _largest_norm(positions - built.positions) <= reach
        deformation = _deformation(built.cell, cell)
        if not np.allclose((built.cell @ deformation)[pbc], cell[pbc], rtol=0.0, atol=1e-10):
            return False
        moved = _largest_norm(positions - built.positions @ deformation)
        return self.cutoff + 2.0 * moved <= float(np.linalg.svd(deformation, compute_uv=False)[-1]) * reach


@dataclass(frozen=True, eq=False)
class _Built:
    """A list and what it was built for."""

    key: tuple[object, ...]
    positions: np.ndarray
    cell: np.ndarray
    cell_bytes: bytes
    pairs: Pairs


def _largest_norm(vectors: np.ndarray) -> float:
    return math.sqrt(np.einsum("ij,ij->i", vectors, vectors).max()) if len(vectors) else 0.0


def _deformation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """F (3, 3) of least change with h0 F = h: h0^-1 h for three independent vectors, the identity across missing ones."""
    return np.eye(3) + np.linalg.pinv(old) @ (new - old)
