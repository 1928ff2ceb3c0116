"""Surfaces around atoms: level sets of a field, as watertight triangles."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, vdw_alvarez
from numpy.typing import NDArray

from ase_xai.explainers.places import Box, Images, Placed

Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(P, 3) Å -> (P,): 1 on the surface, less inside, more outside; about linear in the distance from the surface."""

SHARPNESS = 20.0
"""κ of the smooth union of spheres."""
HISTORIC = {"schnet": (1, 3.7), "dtnn": (2, 3.8)}
"""Power n of the distance and level (Å⁻ⁿ) of the surfaces of two earlier papers."""
BLOCK = 4_000_000
"""Distances computed at once: 100 MB with their vectors."""


@dataclass(frozen=True)
class Surface:
    """A closed surface around the atoms, triangulated by marching tetrahedra, vertices exactly on it.

    "vdw" follows the atoms: u(r) = scale for the smooth union of van der Waals spheres

        u(r) = -(1/κ) ln Σ_i exp(-κ |r - r_i| / R_i),   κ = 20,

    on or just outside the spheres of radius scale·R_i, and exactly a sphere for one atom. The historic level sets "schnet",
    Σ_i |r - r_i|⁻¹ = 3.7 Å⁻¹, and "dtnn", Σ_i |r - r_i|⁻² = 3.8 Å⁻², move outward with the number of atoms, so their values
    do not compare between molecules. Their formulas and levels are written down from memory: check them against the papers
    before citing, and set `level` where they differ.

    A periodic system's surface ("vdw" only) is that of all images, cut at the faces of the cell and open there.

    Args:
        name: "vdw", "schnet" or "dtnn".
        scale: of "vdw": multiple of the van der Waals radii.
        spacing: Å of the grid that the triangles are made on.
        level: of "schnet" (Å⁻¹) and "dtnn" (Å⁻²); None takes the one above.

    Source: radii of Alvarez, Dalton Trans. 42, 8617 (2013); "schnet" after J. Chem. Phys. 148, 241722 (2018), "dtnn" after
    Nat. Commun. 8, 13890 (2017). The smooth union is this project's choice.
    """

    name: str = "vdw"
    scale: float = 1.0
    spacing: float = 0.25
    level: float | None = None

    def __post_init__(self) -> None:
        if self.name != "vdw" and self.name not in HISTORIC:
            raise ValueError(f'surface must be "vdw", "schnet" or "dtnn", got {self.name!r}.')
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive, got {self.scale}. It multiplies van der Waals radii; 1 is usual.")
        if self.name == "vdw" and self.level is not None:
            raise ValueError(f'the surface "vdw" has a scale, no level; got level={self.level}.')
        if self.name != "vdw" and self.scale != 1.0:
            raise ValueError(f"the surface {self.name!r} has a level, no scale; got scale={self.scale}. Set level=.")
        if self.level is not None and not self.level > 0:
            raise ValueError(f"level must be positive, got {self.level}.")

    def around(self, atoms: Atoms) -> Placed:
        field, reach = self._vdw(atoms) if self.name == "vdw" else self._historic(atoms)
        box = Box.around(atoms, self.spacing, reach + self.spacing, closed=True)
        nodes = box.points()
        inside = (field(nodes) < 1.0).reshape(box.shape)
        edges, faces = marching_tetrahedra(inside)
        if not len(faces):
            found = "every point of the cell inside" if inside.all() else "no point inside"
            raise ValueError(
                f"a grid of {self.spacing} Å finds {found} the surface {self.name!r}: there is nothing to draw. Take "
                f"{'a smaller scale' if inside.all() else 'a smaller spacing'}, or ask on a grid or in a plane."
            )
        vertices = crossings(field, nodes[edges[:, 0]], nodes[edges[:, 1]])
        right_handed = np.linalg.det(box.steps) > 0
        return Placed("surface", vertices, faces=faces if right_handed else faces[:, ::-1])

    def _vdw(self, atoms: Atoms) -> tuple[Field, float]:
        """The field u/scale, and how far from its nearest atom the surface may be."""
        radii = van_der_waals_radii(atoms.numbers)
        reach = float(radii.max()) * (self.scale + np.log(max(len(atoms), 64)) / SHARPNESS)
        heard = float(radii.max()) * (self.scale + 32.0 / SHARPNESS)  # beyond, an atom adds less than e⁻³² to the sum
        centers, own = atoms.positions, radii
        if atoms.pbc.any():
            images = Images.near(atoms, Box.around(atoms, 1e3, reach, closed=True).points(), heard)
            centers, own = images.positions, radii[images.index]

        def field(points: NDArray[np.float64]) -> NDArray[np.float64]:
            low, high = points.min(axis=0) - heard, points.max(axis=0) + heard
            near = ((centers > low) & (centers < high)).all(axis=1)
            if not near.any():
                return np.full(len(points), 2.0)
            exponents = -SHARPNESS * _distances(points, centers[near]) / own[near]
            largest = exponents.max(axis=1)
            summed = np.log(np.exp(exponents - largest[:, None]).sum(axis=1)) + largest
            return np.asarray(-summed / (SHARPNESS * self.scale))

        return _blockwise(field, len(centers)), reach

    def _historic(self, atoms: Atoms) -> tuple[Field, float]:
        if atoms.pbc.any():
            raise ValueError(f'the surface {self.name!r} sums over all atoms, which a crystal has no end of. Use "vdw".')
        power, level = HISTORIC[self.name]
        level = level if self.level is None else self.level

        def field(points: NDArray[np.float64]) -> NDArray[np.float64]:
            with np.errstate(divide="ignore"):  # at a nucleus the sum is infinite and the field 0: inside
                summed = (_distances(points, atoms.positions) ** -power).sum(axis=1)
            return np.asarray((summed / level) ** (-1.0 / power))

        return _blockwise(field, len(atoms)), float((len(atoms) / level) ** (1.0 / power))


def van_der_waals_radii(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) Å; elements without a tabulated radius are refused."""
    table = np.full(119, np.nan)
    known = vdw_alvarez.vdw_radii[:119]
    table[: len(known)] = known
    radii = table[numbers]
    if np.isnan(radii).any():
        missing = ", ".join(sorted({chemical_symbols[z] for z in numbers[np.isnan(radii)]}))
        raise ValueError(f"there is no van der Waals radius of {missing}. Ask on a grid, in a plane or at points instead.")
    return radii


def crossings(field: Field, inner: NDArray[np.float64], outer: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V, 3) Å where field = 1 on each segment from inside (field < 1) to outside, by regula falsi (Illinois variant)."""
    along, found = outer - inner, np.ones(len(inner))
    low, high = np.zeros(len(inner)), np.ones(len(inner))
    at_low, at_high = field(inner) - 1.0, field(outer) - 1.0
    open_ones, kept = np.flatnonzero(at_high > 0.0), np.zeros(len(inner))
    for _ in range(60):  # 5 suffice for a field about linear; halving would end here too
        if not len(open_ones):
            break
        i = open_ones
        t = low[i] - at_low[i] * (high[i] - low[i]) / (at_high[i] - at_low[i])
        value = field(inner[i] + t[:, None] * along[i]) - 1.0
        found[i], below = t, value < 0.0
        at_high[i] = np.where(below, np.where(kept[i] == 1, 0.5, 1.0) * at_high[i], value)
        at_low[i] = np.where(below, value, np.where(kept[i] == -1, 0.5, 1.0) * at_low[i])
        low[i], high[i] = np.where(below, t, low[i]), np.where(below, high[i], t)
        kept[i] = np.where(below, 1, -1)
        open_ones = i[np.abs(value) > 1e-12]
    return inner + found[:, None] * along


def marching_tetrahedra(inside: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The boundary of a set of grid nodes.

    Every cube of the grid is cut along its diagonal into six tetrahedra, the same in every cube, so that neighbors share
    faces; each tetrahedron with nodes on both sides gives one or two triangles between the edges that it has cut.

    Args:
        inside: (n1, n2, n3) truth of each node.

    Returns:
        edges (V, 2): flat index of the inner and the outer node of each cut edge; faces (T, 3): triangles of edges,
        counter-clockwise seen from outside if the grid's steps are right-handed.

    Source: Doi, Koide, IEICE Trans. E74, 214 (1991).
    """
    strides = np.array([inside[0].size, inside.shape[2], 1])
    mixed = np.zeros([max(n - 1, 0) for n in inside.shape], dtype=bool)
    first = inside[:-1, :-1, :-1]
    for corner in itertools.product((0, 1), repeat=3):
        mixed |= first != inside[tuple(slice(c, n - 1 + c) for c, n in zip(corner, inside.shape, strict=True))]
    corners = np.argwhere(mixed) @ strides
    flat, cut = inside.reshape(-1), [np.zeros((0, 3, 2), np.int64)]
    for tetrahedron in _tetrahedra():
        nodes = corners[:, None] + tetrahedron @ strides  # (C, 4)
        code = flat[nodes] @ np.array([1, 2, 4, 8])
        for case, triangles in _CASES.items():
            chosen = nodes[code == case]
            cut += [chosen[:, np.array(triangle)] for triangle in triangles]
    ends = np.concatenate(cut)  # (T, 3, 2)
    keys, faces = np.unique(ends[..., 0] * flat.size + ends[..., 1], return_inverse=True)
    return np.stack(np.divmod(keys, max(flat.size, 1)), axis=1), faces.reshape(-1, 3)


def _tetrahedra() -> list[NDArray[np.int64]]:
    """(4, 3) corners of six tetrahedra of positive volume that fill the unit cube."""
    found = []
    for axes in itertools.permutations(range(3)):
        corners = np.cumsum(np.vstack([np.zeros(3, np.int64), np.eye(3, dtype=np.int64)[list(axes)]]), axis=0)
        positive = np.linalg.det(corners[1:] - corners[0]) > 0
        found.append(corners if positive else corners[[0, 2, 1, 3]])
    return found


def _triangles(inside: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """Triangles of (inner, outer) corners of a positive tetrahedron whose corners `inside` are inside, facing outward."""
    outside = tuple(v for v in range(4) if v not in inside)
    order = [*inside, *outside] if len(inside) < 3 else [*outside, *inside]
    if np.linalg.det(np.eye(4)[order]) < 0:
        order[2:] = order[:1:-1]
    a, b, c, d = order
    if len(inside) == 1:
        return [[(a, b), (a, c), (a, d)]]
    if len(inside) == 3:
        return [[(b, a), (d, a), (c, a)]]
    return [[(a, c), (a, d), (b, d)], [(a, c), (b, d), (b, c)]]


_CASES = {
    sum(1 << v for v in inside): _triangles(inside)
    for size in (1, 2, 3)
    for inside in itertools.combinations(range(4), size)
}


def _distances(points: NDArray[np.float64], centers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(((points[:, None] - centers[None]) ** 2).sum(axis=2))


def _blockwise(field: Field, n_centers: int) -> Field:
    """`field`, a block of points at a time."""
    size = max(1, BLOCK // max(n_centers, 1))

    def blocks(points: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [field(points[start : start + size]) for start in range(0, len(points), size)]
        return np.concatenate([*parts, np.zeros(0)])

    return blocks
