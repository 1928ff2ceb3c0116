"""Points, grids, planes and surfaces around atoms, and the files they are written to."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data.vdw_alvarez import vdw_radii
from ase.geometry import cellpar_to_cell
from ase.io.cube import read_cube
from systems import shaken_molecule

from ase_xai.explainers import Explanation
from ase_xai.explainers.places import Box, Grid, Images, Placed, Plane, Points, own_images
from ase_xai.explainers.surfaces import Surface, marching_tetrahedra
from ase_xai.report.volumes import write_cube, write_mesh


def crystal(pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    """A triclinic cell smaller than the cutoff, atoms partly outside it."""
    positions = [[0.3, 0.2, 0.1], [-0.9, 1.8, 4.9], [2.1, -0.4, 2.2]]
    return Atoms("OCH", positions, cell=cellpar_to_cell([3.1, 3.4, 4.3, 80, 95, 108]), pbc=pbc)


# --- points, grids, planes ---------------------------------------------------------------------------------------------


def test_points_are_taken_as_given() -> None:
    placed = Points([1.0, 2.0, 3.0]).around(molecule("H2O"))
    assert placed.level == "points" and placed.points.tolist() == [[1.0, 2.0, 3.0]]
    for wrong, message in (([[1.0, 2.0]], "shape"), ([[1, 2, np.nan]], "finite"), (np.zeros((0, 3)), "P > 0")):
        with pytest.raises(ValueError, match=message):
            Points(wrong).around(molecule("H2O"))


def test_a_grid_is_a_box_around_a_molecule_with_the_last_axis_fastest() -> None:
    atoms = shaken_molecule("CH3CH2OH")
    placed = Grid(spacing=0.7, margin=2.5).around(atoms)
    grid = placed.points.reshape(*placed.grid_shape, 3)
    assert np.allclose(grid[0, 0, 0], atoms.positions.min(axis=0) - 2.5)
    assert np.allclose(grid[-1, -1, -1], atoms.positions.max(axis=0) + 2.5)
    for axis in range(3):
        steps = np.diff(grid, axis=axis)
        assert np.allclose(np.delete(steps, axis, axis=-1), 0, atol=1e-12)
        assert steps[..., axis].min() > 0.35 and steps[..., axis].max() <= 0.7 + 1e-12
    assert Grid(shape=(3, 4, 5)).around(atoms).grid_shape == (3, 4, 5)


def test_a_grid_of_a_crystal_repeats_with_its_cell() -> None:
    atoms = crystal()
    placed = Grid(shape=(3, 4, 5)).around(atoms)
    expected = [[a / 3, b / 4, c / 5] for a, b, c in itertools.product(range(3), range(4), range(5))]
    assert np.allclose(placed.points, np.array(expected) @ atoms.cell.array, atol=1e-12)
    slab = crystal((True, True, False))
    box = Box.around(slab, 0.5, 2.0)
    assert np.allclose(box.steps[:2] * np.array(box.shape)[:2, None], slab.cell.array[:2])  # whole cells
    normal = box.steps[2] / np.linalg.norm(box.steps[2])
    assert np.allclose(slab.cell.array[:2] @ normal, 0, atol=1e-12)
    heights = (box.points() - box.origin) @ normal
    atom_heights = (slab.positions - box.origin) @ normal
    assert heights.max() - atom_heights.max() == pytest.approx(2.0) and atom_heights.min() == pytest.approx(2.0)


def test_a_plane_of_a_planar_molecule_holds_its_atoms() -> None:
    atoms = molecule("C6H6")
    atoms.rotate(33, (1, 2, 3))
    normal = np.cross(atoms.positions[1] - atoms.positions[0], atoms.positions[2] - atoms.positions[0])
    normal /= np.linalg.norm(normal)
    for atoms_of_plane in (None, (0, 1, 2)):
        placed = Plane(atoms_of_plane, offset=1.2, spacing=0.4).around(atoms)
        heights = (placed.points - atoms.positions[0]) @ normal
        assert np.allclose(np.abs(heights), 1.2, atol=1e-3) and np.ptp(heights) < 1e-9
        n, m, one = placed.grid_shape
        assert one == 1 and n * m == len(placed.points)
        grid = placed.points.reshape(n, m, 3)
        assert np.allclose(np.diff(grid, axis=0), grid[1, 0] - grid[0, 0]) and (grid[1, 0] - grid[0, 0]) @ normal < 1e-9
        distances = np.linalg.norm(placed.points[:, None] - atoms.positions[None], axis=2).min(axis=0)
        assert distances.max() < math.hypot(1.2, 0.3)  # every atom has a point close above it
    with pytest.raises(ValueError, match="lie on a line"):
        Plane((0, 1, 2)).around(Atoms("CO2", [[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]]))
    with pytest.raises(ValueError, match="3 different atoms"):
        Plane((0, 0, 1)).around(atoms)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Grid(spacing=0.0), "spacing must be positive"),
        (Grid(spacing=1e-4), "more than 2e"),
        (Grid(shape=(2, 2)), "3 positive numbers"),
        (Grid(margin=-5.0), "larger margin"),
        (Plane(spacing=-1.0), "spacing must be positive"),
    ],
)
def test_places_refuse_bad_settings(place: Grid | Plane, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place.around(molecule("H2O"))


@pytest.mark.parametrize("pbc", list(itertools.product((False, True), repeat=3)))
def test_images_are_all_those_within_reach(pbc: tuple[bool, bool, bool]) -> None:
    """Against a generous block of cells."""
    atoms, reach = crystal(pbc), 4.5
    points = np.random.default_rng(0).uniform(-4, 6, (5, 3))
    images = Images.near(atoms, points, reach)
    ranges = [range(-6, 7) if periodic else range(1) for periodic in pbc]
    block = np.concatenate([atoms.positions + np.array(s) @ atoms.cell.array for s in itertools.product(*ranges)])
    for point in points:
        expected = np.sort(np.linalg.norm(block - point, axis=1))
        found = np.sort(np.linalg.norm(images.positions - point, axis=1))
        assert np.allclose(found[found < reach], expected[expected < reach], atol=1e-12)
    shifts = images.positions - atoms.positions[images.index]
    fractions = np.linalg.solve(atoms.cell.array.T, shifts.T).T
    assert np.allclose(fractions, np.round(fractions), atol=1e-9) and np.allclose(fractions[:, ~np.array(pbc)], 0, atol=1e-9)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, False, False), (True, True, True)])
def test_own_images_are_half_of_the_short_translations(pbc: tuple[bool, bool, bool]) -> None:
    atoms, cutoff = crystal(pbc), 7.0
    ranges = [range(-6, 7) if periodic else range(1) for periodic in pbc]
    all_of_them = [np.array(s) @ atoms.cell.array for s in itertools.product(*ranges) if any(s)]
    short = sorted(tuple(np.round(t, 9) + 0.0) for t in all_of_them if np.linalg.norm(t) < cutoff)
    half = own_images(atoms, cutoff)
    assert sorted(tuple(np.round(t, 9) + 0.0) for t in np.concatenate([half, -half])) == short


# --- surfaces ----------------------------------------------------------------------------------------------------------


def edges_of(placed: Placed) -> Counter:
    """Directed edges of all triangles."""
    return Counter((a, b) for face in placed.faces.tolist() for a, b in zip(face, face[1:] + face[:1], strict=True))


def require_closed(placed: Placed, n_parts: int = 1) -> float:
    """Every edge once in each direction, Euler characteristic of spheres, nothing unused; the signed volume."""
    edges = edges_of(placed)
    assert set(edges.values()) == {1} and all((b, a) in edges for a, b in edges)
    assert len(placed.points) - len(edges) // 2 + len(placed.faces) == 2 * n_parts
    assert set(placed.faces.ravel()) == set(range(len(placed.points)))
    corners = placed.points[placed.faces]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def smooth_union(points: np.ndarray, atoms: Atoms, kappa: float = 20.0) -> np.ndarray:
    """u(r) by its definition, point by point."""
    radii = vdw_radii[atoms.numbers]
    terms = [np.exp(-kappa * np.linalg.norm(points - r, axis=1) / R) for r, R in zip(atoms.positions, radii, strict=True)]
    return -np.log(sum(terms)) / kappa


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6])
def test_the_surface_of_one_atom_is_a_sphere(scale: float) -> None:
    center = np.array([1.0, -2.0, 0.3])
    placed = Surface(scale=scale).around(Atoms("C", [center]))
    radius = scale * vdw_radii[6]
    assert np.abs(np.linalg.norm(placed.points - center, axis=1) - radius).max() < 1e-10
    assert require_closed(placed) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)  # inscribed triangles
    corners = placed.points[placed.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", normals, corners.mean(axis=1) - center) > 0).all()  # all of them face outward


def test_triangles_converge_to_the_volume_of_a_sphere() -> None:
    errors = []
    for spacing in (0.4, 0.2, 0.1):
        volume = require_closed(Surface(spacing=spacing).around(Atoms("O")))
        errors.append(4 / 3 * np.pi * vdw_radii[8] ** 3 - volume)
    assert errors[0] > 0 and all(3 < coarse / fine < 5 for coarse, fine in itertools.pairwise(errors))  # second order


def test_vertices_lie_on_the_level_set_on_or_outside_the_spheres() -> None:
    atoms = shaken_molecule("CH3CH2OH")
    placed = Surface(scale=1.1, spacing=0.35).around(atoms)
    require_closed(placed)
    assert np.abs(smooth_union(placed.points, atoms) - 1.1).max() < 1e-11
    depth = np.linalg.norm(placed.points[:, None] - atoms.positions[None], axis=2) / vdw_radii[atoms.numbers]
    assert depth.min(axis=1).min() > 1.1 - 1e-12 and depth.min(axis=1).max() < 1.1 + np.log(9) / 20


@pytest.mark.parametrize(("name", "power", "level"), [("schnet", 1, 3.7), ("dtnn", 2, 3.8)])
def test_historic_level_sets(name: str, power: int, level: float) -> None:
    atoms = shaken_molecule("H2O")

    def total(placed: Placed) -> np.ndarray:
        return sum(np.linalg.norm(placed.points - r, axis=1) ** -power for r in atoms.positions)

    placed = Surface(name, spacing=0.15).around(atoms)
    assert require_closed(placed) > 0
    assert np.abs(total(placed) - level).max() < 1e-10
    assert np.abs(total(Surface(name, spacing=0.2, level=2.0).around(atoms)) - 2.0).max() < 1e-10
    for wrong in (lambda: Surface(name, scale=1.2), lambda: Surface(name, level=-1.0), lambda: Surface(level=1.0)):
        with pytest.raises(ValueError, match="level"):
            wrong()
    with pytest.raises(ValueError, match="no end of"):
        Surface(name).around(bulk("C", "diamond", a=3.57))


def test_distant_atoms_have_surfaces_of_their_own() -> None:
    placed = Surface(spacing=0.4).around(Atoms("CO", [[0, 0, 0], [7.0, 0.1, 0.2]]))
    assert require_closed(placed, n_parts=2) > 0


def test_the_surface_follows_atoms_that_are_moved() -> None:
    """Not the same vertices, but the same set: those of the turned molecule lie on the turned surface."""
    atoms = shaken_molecule("CH3OH")
    turned = atoms.copy()
    turned.rotate(50, (1, -1, 2))
    turned.positions += [3.0, -1.0, 0.4]
    one, other = (require_closed(Surface(spacing=0.25).around(system)) for system in (atoms, turned))
    assert one == pytest.approx(other, rel=2e-3)


def test_marching_tetrahedra_close_any_set_of_nodes() -> None:
    """Random nodes are the hardest case: every corner of every cube is in or out at will."""
    rng = np.random.default_rng(3)
    inside = np.zeros((8, 7, 9), dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = rng.random((6, 5, 7)) < 0.4
    edges, faces = marching_tetrahedra(inside)
    flat = inside.ravel()
    assert flat[edges[:, 0]].all() and not flat[edges[:, 1]].any()
    nodes = np.stack(np.unravel_index(np.arange(flat.size), inside.shape), axis=1).astype(float)
    placed = Placed("surface", nodes[edges].mean(axis=1), faces=faces)
    counts = edges_of(placed)
    assert set(counts.values()) == {1} and all((b, a) in counts for a, b in counts)
    corners = placed.points[faces]
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert 0 < volume < 2 * inside.sum()
    empty_edges, empty_faces = marching_tetrahedra(np.zeros((4, 4, 4), dtype=bool))
    assert len(empty_edges) == len(empty_faces) == 0


@pytest.mark.parametrize("handed", [1, -1])
def test_the_surface_of_a_crystal_is_cut_at_the_faces_of_its_cell(handed: int) -> None:
    cell = np.diag([6.0, 6.5, 7.0]) + 0.4 * np.eye(3, k=1)
    atoms = Atoms("C2", [[0.2, 0.1, 0.3], [1.4, 0.3, 0.2]], cell=cell if handed > 0 else cell[[1, 0, 2]], pbc=True)
    placed = Surface(spacing=0.5).around(atoms)
    edges = edges_of(placed)
    open_ones = [edge for edge in edges if edge[::-1] not in edges]
    ends = placed.points[np.array(open_ones)]
    fractions = np.linalg.solve(atoms.cell.array.T, ends.reshape(-1, 3).T).T.reshape(-1, 2, 3)
    on_a_face = (np.abs(fractions - np.round(fractions)) < 1e-9).all(axis=1)
    assert len(open_ones) and on_a_face.any(axis=1).all()
    repeated = atoms * (3, 3, 3)
    repeated.positions -= atoms.cell.array.sum(axis=0)
    assert np.abs(smooth_union(placed.points, repeated) - 1.0).max() < 1e-9
    corners = placed.points[placed.faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward /= np.maximum(np.linalg.norm(outward, axis=1), 1e-12)[:, None]
    middle = corners.mean(axis=1)
    slope = smooth_union(middle + 1e-3 * outward, repeated) - smooth_union(middle - 1e-3 * outward, repeated)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    assert (slope[area > 0.01] > 0).all()


def test_surfaces_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match="every point of the cell inside"):
        Surface().around(bulk("NaCl", "rocksalt", a=5.6))
    with pytest.raises(ValueError, match="no van der Waals radius of Po"):
        Surface().around(Atoms("Po"))
    with pytest.raises(ValueError, match="'ball'"):
        Surface("ball")
    with pytest.raises(ValueError, match="scale must be positive"):
        Surface(scale=0.0)


# --- files -------------------------------------------------------------------------------------------------------------


def record(placed: Placed, atoms: Atoms, **changed: object) -> Explanation:
    values = np.sin(placed.points @ [0.3, 0.5, 0.7])
    mask = np.arange(len(values)) % 7 != 3
    about = dict(
        target="local chemical potential of H", units="eV", method="Invented", reference="isolated atom of the network",
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc, model="none [none]",
        level=placed.level, points=placed.points, faces=placed.faces, grid_shape=placed.grid_shape, values=values, mask=mask,
    )  # fmt: skip
    return Explanation(**{**about, **changed})


@pytest.mark.parametrize("name", ["molecule", "crystal", "plane"])
def test_a_cube_comes_back(name: str, tmp_path: Path) -> None:
    atoms = crystal() if name == "crystal" else shaken_molecule("CH3CH2OH")
    placed = (Plane(spacing=0.8) if name == "plane" else Grid(shape=(4, 5, 6))).around(atoms)
    explanation = record(placed, atoms)
    write_cube(explanation, tmp_path / "map.cube", masked=9.0)
    with open(tmp_path / "map.cube") as file:
        read = read_cube(file)
    shape = placed.grid_shape
    expected = np.where(explanation.mask, explanation.values, 9.0).reshape(shape)
    assert np.allclose(read["data"], expected, rtol=1e-6, atol=1e-9)
    indices = np.stack(np.unravel_index(np.arange(len(placed.points)), shape), axis=1)
    assert np.allclose(read["origin"] + indices @ read["spacing"], placed.points, atol=2e-5)  # bohr and back, 6 digits
    assert np.allclose(read["atoms"].positions, atoms.positions, atol=1e-5)
    assert np.array_equal(read["atoms"].numbers, atoms.numbers)
    assert abs(np.linalg.det(read["spacing"])) > 1e-3
    lines = (tmp_path / "map.cube").read_text().splitlines()
    masked = int((~explanation.mask).sum())
    assert lines[0].startswith(
        "local chemical potential of H in eV; reference: isolated atom of the network; gauge: dependent"
    )
    assert f"{masked} of {len(placed.points)} points are masked and written as 9" in lines[0]
    first_length = float(lines[2].split()[1])
    assert first_length == pytest.approx(placed.points[0, 0] / 0.529177210903, abs=1e-5)


def test_a_cube_needs_a_regular_grid(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    grid = Grid(shape=(3, 3, 3)).around(atoms)
    bent = Placed("grid", grid.points + 0.01 * np.sin(np.arange(27))[:, None], grid_shape=(3, 3, 3))
    with pytest.raises(ValueError, match="leave a regular grid"):
        write_cube(record(bent, atoms), tmp_path / "x.cube")
    with pytest.raises(ValueError, match="level 'surface'"):
        write_cube(record(Surface(spacing=0.8).around(atoms), atoms), tmp_path / "x.cube")
    with pytest.raises(ValueError, match="lacks"):
        write_cube(record(grid, atoms, grid_shape=None), tmp_path / "x.cube")
    assert not (tmp_path / "x.cube").exists()


def test_a_ply_file_comes_back(tmp_path: Path) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = record(Surface(spacing=0.5).around(atoms), atoms)
    write_mesh(explanation, tmp_path / "map.ply")
    lines = (tmp_path / "map.ply").read_text().splitlines()
    head, body = lines[: lines.index("end_header")], lines[lines.index("end_header") + 1 :]
    assert head[:2] == ["ply", "format ascii 1.0"] and "in eV; reference: isolated atom" in head[2]
    n_vertices, n_faces = (int(line.split()[2]) for line in head if line.startswith("element"))
    names = [line.split()[-1] for line in head if line.startswith("property") and "list" not in line]
    vertices = np.array([line.split() for line in body[:n_vertices]], dtype=float)
    faces = np.array([line.split() for line in body[n_vertices:]], dtype=int)
    assert names == ["x", "y", "z", "value", "trusted"] and len(body) == n_vertices + n_faces
    assert np.allclose(vertices[:, :3], explanation.points, atol=1e-7)
    assert np.allclose(vertices[:, 3], explanation.values, atol=1e-7)
    assert np.array_equal(vertices[:, 4].astype(bool), explanation.mask)
    assert (faces[:, 0] == 3).all() and np.array_equal(faces[:, 1:], explanation.faces)
    assert f"{(~explanation.mask).sum()} of {n_vertices} vertices are masked" in head[2]


def test_an_obj_file_comes_back(tmp_path: Path) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = record(Surface(spacing=0.5).around(atoms), atoms, mask=None)
    write_mesh(explanation, tmp_path / "map.obj")
    rows = [line.split() for line in (tmp_path / "map.obj").read_text().splitlines()]
    assert np.allclose([[float(x) for x in r[1:]] for r in rows if r[0] == "v"], explanation.points, atol=1e-7)
    assert np.array_equal([[int(i) - 1 for i in r[1:]] for r in rows if r[0] == "f"], explanation.faces)
    values = [row[2:] for row in rows if row[:2] == ["#", "value"]]
    assert np.allclose([float(value) for _, value, _ in values], explanation.values, atol=1e-7)
    assert [int(number) for number, _, _ in values] == list(range(1, len(explanation.values) + 1))
    assert {trusted for _, _, trusted in values} == {"1"}


def test_meshes_refuse_other_files_and_levels(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    surface = Surface(spacing=0.8).around(atoms)
    with pytest.raises(ValueError, match=r"written as .ply or .obj, got 'x.stl'"):
        write_mesh(record(surface, atoms), tmp_path / "x.stl")
    with pytest.raises(ValueError, match="needs triangles"):
        write_mesh(record(surface, atoms, faces=None), tmp_path / "x.ply")
    with pytest.raises(ValueError, match="level 'grid'"):
        write_mesh(record(Grid(shape=(2, 2, 2)).around(atoms), atoms), tmp_path / "x.ply")
