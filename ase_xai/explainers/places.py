"""Where to ask: free points, grids and planes around atoms, and the periodic images that points can see."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

MAX_POINTS = 20_000_000
"""More points than this are taken for a mistake in a spacing: their coordinates alone would fill half a gigabyte."""


@dataclass(frozen=True, eq=False)
class Placed:
    """P points around some atoms.

    Args:
        level: of an explanation: "points", "grid" or "surface".
        points: (P, 3) Å.
        faces: (T, 3) corners of triangles, seen counter-clockwise from outside.
        grid_shape: points along each step of a grid; the last axis runs fastest.
    """

    level: str
    points: NDArray[np.float64]
    faces: NDArray[np.int64] | None = None
    grid_shape: tuple[int, int, int] | None = None


class Place(Protocol):
    """A frozen dataclass of settings that places points around atoms."""

    def around(self, atoms: Atoms) -> Placed:
        """The points for these atoms."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points as given, (P, 3) or (3,) in Å."""

    positions: ArrayLike

    def around(self, atoms: Atoms) -> Placed:
        points = np.atleast_2d(np.array(self.positions, dtype=np.float64))
        if points.ndim != 2 or points.shape[1] != 3 or not len(points):
            raise ValueError(f"points must have shape (P, 3) with P > 0, got {points.shape}. Give x, y, z in Å per row.")
        if not np.isfinite(points).all():
            raise ValueError("points must be finite, got NaN or infinity. They are coordinates in Å.")
        return Placed("points", points)


@dataclass(frozen=True)
class Grid:
    """A regular grid: a box around open directions, the cell along periodic ones.

    Args:
        spacing: largest distance of neighboring points in Å, if no shape is given.
        margin: Å beyond the outermost atoms, along open directions.
        shape: number of points along each direction. Along a periodic one, n points stand on n steps of the cell.
    """

    spacing: float = 0.4
    margin: float = 3.0
    shape: tuple[int, int, int] | None = None

    def around(self, atoms: Atoms) -> Placed:
        box = Box.around(atoms, self.spacing, self.margin, shape=self.shape)
        return Placed("grid", box.points(), grid_shape=box.shape)


@dataclass(frozen=True)
class Plane:
    """A rectangle of points in a plane: through three atoms, or the plane closest to all of them.

    Args:
        atoms: indices of three atoms; None takes the least-squares plane of all atoms.
        offset: Å along the normal of the plane, e.g. to ask above a ring.
        spacing: largest distance of neighboring points in Å.
        margin: Å beyond the outermost atoms, seen along the normal.
    """

    atoms: Sequence[int] | None = None
    offset: float = 0.0
    spacing: float = 0.2
    margin: float = 3.0

    def around(self, atoms: Atoms) -> Placed:
        _require_positive(spacing=self.spacing)
        center, axes = self._frame(atoms)
        projected = (atoms.positions - center) @ axes[:2].T
        low, high = projected.min(axis=0) - self.margin, projected.max(axis=0) + self.margin
        counts = _counts(high - low, self.spacing)
        _refuse_many(counts)
        x, y = (np.linspace(a, b, n) for a, b, n in zip(low, high, counts, strict=True))
        flat = x[:, None, None] * axes[0] + y[None, :, None] * axes[1]
        points = center + self.offset * axes[2] + flat.reshape(-1, 3)
        return Placed("grid", points, grid_shape=(int(counts[0]), int(counts[1]), 1))

    def _frame(self, atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A point of the plane and rows x, y, normal, right-handed."""
        chosen = atoms.positions
        if self.atoms is not None:
            indices = [int(i) for i in self.atoms]
            if len(set(indices)) != 3 or not all(0 <= i < len(atoms) for i in indices):
                raise ValueError(f"a plane goes through 3 different atoms of 0 to {len(atoms) - 1}, got {indices}.")
            chosen = atoms.positions[indices]
        center = chosen.mean(axis=0)
        _, widths, axes = np.linalg.svd(np.vstack([chosen - center, np.zeros((3, 3))]), full_matrices=False)
        if self.atoms is not None and widths[1] < 1e-3:
            raise ValueError(f"atoms {list(self.atoms)} lie on a line and span no plane. Choose others, or atoms=None.")
        for row in axes[:2]:  # the decomposition leaves signs open: let the largest component be positive
            row *= np.sign(row[np.abs(row).argmax()])
        return center, np.stack([axes[0], axes[1], np.cross(axes[0], axes[1])])


@dataclass(frozen=True, eq=False)
class Box:
    """A regular grid: point (a, b, c) is origin + a·steps[0] + b·steps[1] + c·steps[2]."""

    origin: NDArray[np.float64]
    steps: NDArray[np.float64]
    shape: tuple[int, int, int]

    @classmethod
    def around(
        cls,
        atoms: Atoms,
        spacing: float,
        margin: float,
        *,
        shape: tuple[int, int, int] | None = None,
        closed: bool = False,
    ) -> Box:
        """The box of `Grid`; `closed` repeats the first face of the cell as its last one."""
        _require_positive(spacing=spacing)
        if shape is not None and (len(shape) != 3 or any(int(n) != n or n < 1 for n in shape)):
            raise ValueError(f"shape must be 3 positive numbers of points, got {shape}.")
        frame = _frame(atoms)
        coordinates = np.linalg.solve(frame.T, atoms.positions.T).T  # fractions along periodic directions, else Å
        low = np.where(atoms.pbc, 0.0, coordinates.min(axis=0) - margin)
        high = np.where(atoms.pbc, 1.0, coordinates.max(axis=0) + margin)
        lengths = (high - low) * np.linalg.norm(frame, axis=1)
        counts = np.array(shape) if shape is not None else _counts(lengths, spacing)
        if shape is None:
            counts = np.where(atoms.pbc, counts - 1, counts)
        intervals = np.where(atoms.pbc, counts, np.maximum(counts - 1, 1))
        counts = np.where(atoms.pbc & closed, counts + 1, counts)
        _refuse_many(counts)
        steps = frame * ((high - low) / intervals)[:, None]
        return cls(low @ frame, steps, (int(counts[0]), int(counts[1]), int(counts[2])))

    def points(self) -> NDArray[np.float64]:
        """(P, 3) Å, the last axis fastest."""
        a, b, c = (np.arange(n)[:, None] * step for n, step in zip(self.shape, self.steps, strict=True))
        grid = self.origin + a[:, None, None] + b[None, :, None] + c[None, None, :]
        return np.ascontiguousarray(grid.reshape(-1, 3))


@dataclass(frozen=True, eq=False)
class Images:
    """Atoms and periodic images of them: the atom (M,) that each is, and where (M, 3) Å it stands."""

    index: NDArray[np.int64]
    positions: NDArray[np.float64]

    @classmethod
    def near(cls, atoms: Atoms, points: NDArray[np.float64], reach: float) -> Images:
        """Every image that may be closer than `reach` (Å) to one of the points: those near the box around them."""
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        cell = atoms.cell.array[atoms.pbc]
        shifts = np.zeros((1, 3))
        if len(cell):
            inverse = np.linalg.pinv(cell)  # (3, n): Cartesian -> fractions along the periodic directions
            corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) @ inverse
            own = atoms.positions @ inverse
            first = np.floor(corners.min(axis=0) - own.max(axis=0)).astype(int)
            last = np.ceil(corners.max(axis=0) - own.min(axis=0)).astype(int)
            ranges = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
            shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(cell)) @ cell
        positions = (shifts[:, None] + atoms.positions[None]).reshape(-1, 3)
        index = np.tile(np.arange(len(atoms)), len(shifts))
        inside = ((positions >= low) & (positions <= high)).all(axis=1)
        return cls(index[inside], positions[inside])


def own_images(atoms: Atoms, cutoff: float) -> NDArray[np.float64]:
    """(S, 3) cell translations in Å shorter than `cutoff`, one of each and its reverse: how a probe sees its own images."""
    probe = Atoms("X", positions=np.zeros((1, 3)), cell=atoms.cell, pbc=atoms.pbc)
    translations = Images.near(probe, np.zeros((1, 3)), cutoff).positions
    lengths = np.linalg.norm(translations, axis=1)
    translations = translations[(lengths < cutoff) & (lengths > 1e-9)]
    half = len(translations) // 2  # near() lists S in rising order, so -S stands mirrored at the other end
    return translations[:half]


def _frame(atoms: Atoms) -> NDArray[np.float64]:
    """(3, 3) cell vectors along periodic directions, unit vectors perpendicular to them along open ones."""
    frame = atoms.cell.array.copy()
    if not atoms.pbc.any():
        return np.eye(3)
    if not atoms.pbc.all():
        frame[~atoms.pbc] = np.linalg.svd(frame[atoms.pbc])[2][atoms.pbc.sum() :]
        if np.linalg.det(frame) < 0:
            frame[np.flatnonzero(~atoms.pbc)[0]] *= -1
    return frame


def _counts(lengths: NDArray[np.float64], spacing: float) -> NDArray[np.int64]:
    if not np.isfinite(lengths).all() or (lengths < 0).any():
        raise ValueError(f"a grid of {np.round(lengths, 3).tolist()} Å has no points. Take a larger margin.")
    return (np.ceil(np.minimum(lengths / spacing - 1e-9, 1e12)).astype(np.int64) + 1).clip(min=2)


def _refuse_many(counts: NDArray[np.int64]) -> None:
    n_points = float(np.prod(counts.astype(float)))
    if n_points > MAX_POINTS:
        raise ValueError(
            f"{' x '.join(str(n) for n in counts)} = {n_points:.1e} points are more than {MAX_POINTS:.0e}. Take a larger "
            "spacing or a smaller margin."
        )


def _require_positive(**lengths: float) -> None:
    for name, value in lengths.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value} Å. It is a distance, usually 0.1 to 0.5 Å.")
