"""Maps as files for other programs: Gaussian cubes of grids, PLY and OBJ meshes of surfaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.io import cube
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation

REGULAR = 1e-6
"""Å by which the points of a grid may leave their places."""


def write_cube(explanation: Explanation, path: str | Path, *, masked: float = 0.0) -> None:
    """Write a grid as a Gaussian cube.

    Lengths become bohr, as the format has them; values keep their unit, which stands in the first line with quantity,
    reference, model and the number of masked points. A step of a grid with one point along it is 1 Å along the normal of the
    others.

    Args:
        explanation: of level "grid", one number per point.
        path: of the file; `ase.io.cube.read_cube` reads it.
        masked: value written in place of those that should not be trusted.

    Raises:
        ValueError: no grid, or points that are not one.
    """
    values, trusted = _scalars(explanation, "grid")
    shape = explanation.grid_shape
    if shape is None:
        raise ValueError("a cube needs grid_shape, which this explanation lacks. Ask on a Grid or in a Plane.")
    assert explanation.points is not None
    steps = _steps(explanation.points.reshape(*shape, 3))
    box = explanation.atoms
    box.set_cell(steps * np.array(shape)[:, None])
    data = np.where(trusted, values, masked).reshape(shape)
    note = f"; {np.count_nonzero(~trusted)} of {len(values)} points are masked and written as {masked:g}"
    with open(path, "w", encoding="utf-8") as file:
        cube.write_cube(file, box, data=data, origin=explanation.points[0], comment=_heading(explanation) + note)


def write_mesh(explanation: Explanation, path: str | Path) -> None:
    """Write a surface as a .ply or .obj file, in Å.

    PLY: vertices with properties x, y, z, value and trusted (0 where the value should not be shown). OBJ, which has no
    values of its own: a comment "# value NUMBER VALUE TRUSTED" after each vertex. Masked vertices keep their place, so that
    the surface stays closed; the heading says how many there are.

    Args:
        explanation: of level "surface", one number per vertex.
        path: ending in .ply or .obj.

    Raises:
        ValueError: no surface, or another ending.
    """
    values, trusted = _scalars(explanation, "surface")
    ending = Path(path).suffix.lower()
    if ending not in (".ply", ".obj"):
        raise ValueError(f"a mesh is written as .ply or .obj, got {Path(path).name!r}.")
    if explanation.faces is None:
        raise ValueError("a mesh needs triangles, and this surface has none. Ask on a Surface.")
    assert explanation.points is not None
    heading = f"{_heading(explanation)}; {np.count_nonzero(~trusted)} of {len(values)} vertices are masked (trusted 0)"
    write = _ply if ending == ".ply" else _obj
    Path(path).write_text(write(heading, explanation.points, values, trusted, explanation.faces), encoding="utf-8")


def _ply(
    heading: str,
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    faces: NDArray[np.int64],
) -> str:
    lines = ["ply", "format ascii 1.0", f"comment {heading}", f"element vertex {len(points)}"]
    lines += [f"property double {name}" for name in ("x", "y", "z", "value")] + ["property uchar trusted"]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    rows = zip(points.tolist(), values.tolist(), trusted.tolist(), strict=True)
    lines += [f"{x:.9g} {y:.9g} {z:.9g} {value:.9g} {ok:d}" for (x, y, z), value, ok in rows]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]
    return "\n".join([*lines, ""])


def _obj(
    heading: str,
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    faces: NDArray[np.int64],
) -> str:
    lines = [f"# {heading}"]
    rows = zip(points.tolist(), values.tolist(), trusted.tolist(), strict=True)
    for number, ((x, y, z), value, ok) in enumerate(rows, start=1):
        lines += [f"v {x:.9g} {y:.9g} {z:.9g}", f"# value {number} {value:.9g} {ok:d}"]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.tolist()]
    return "\n".join([*lines, ""])


def _scalars(explanation: Explanation, level: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values (P,) and which of them to trust."""
    if explanation.level != level:
        raise ValueError(f"this file holds a {level}; the explanation is of level {explanation.level!r}. Ask on a {level}.")
    if explanation.values.ndim != 1:
        raise ValueError(f"this file holds one number per point, got values of shape {explanation.values.shape}.")
    trusted = np.ones(len(explanation.values), dtype=bool) if explanation.mask is None else np.array(explanation.mask)
    return np.array(explanation.values), trusted


def _steps(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rows: the steps of a grid of points (n1, n2, n3, 3)."""
    steps = np.zeros((3, 3))
    along = [axis for axis in range(3) if points.shape[axis] > 1]
    for axis in along:
        steps[axis] = points[tuple(int(a == axis) for a in range(3))] - points[0, 0, 0]
    across = [axis for axis in range(3) if axis not in along]
    basis = np.linalg.svd(steps[along])[2] if along else np.eye(3)
    for axis, direction in zip(across, basis[len(along) :], strict=True):
        steps[axis] = direction
    if np.linalg.det(steps) < 0 and across:
        steps[across[0]] *= -1
    places = points[0, 0, 0] + np.einsum("abcs,sx->abcx", np.moveaxis(np.indices(points.shape[:3]), 0, -1), steps)
    worst = float(np.abs(places - points).max())
    if worst > REGULAR:
        raise ValueError(f"the points leave a regular grid by {worst:.3g} Å. A cube has equal steps: ask on a Grid.")
    return steps


def _heading(explanation: Explanation) -> str:
    """What the numbers are, in one line."""
    facts = [
        f"{explanation.target} in {explanation.units}",
        f"reference: {explanation.reference}",
        f"gauge: {explanation.gauge}",
        f"model: {explanation.model}",
        f"by ase_xai {explanation.method}",
    ]
    return " ".join("; ".join(facts).split())
