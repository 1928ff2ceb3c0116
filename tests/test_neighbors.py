"""Every back end finds ASE's pairs, and the skin list never misses one."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from ase_xai import neighbors
from ase_xai.neighbors import BACKENDS, OPEN_ONLY, Pairs, find_pairs
from ase_xai.skin import SkinList

PACKAGES = {
    "dense": ("torch",),
    "vesin": ("vesin",),
    "cluster": ("pyg_lib", "torch_cluster"),
    "nvalchemi": ("nvalchemiops",),
}


def parameter(name: str):
    missing = not any(importlib.util.find_spec(package) for package in PACKAGES[name])
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"none of {PACKAGES[name]} is installed"))


every_backend = pytest.mark.parametrize("backend", [parameter(name) for name in BACKENDS])


def ordered(first, second, shifts, vectors):
    """Integers (E, 5) and vectors (E, 3), sorted by the integers."""
    integers = np.column_stack([first, second, shifts]).reshape(-1, 5)
    order = np.lexsort(integers.T[::-1])
    return integers[order], vectors[order]


def directed(pairs: Pairs, atoms: Atoms, cutoff: float = np.inf):
    """Both directions of all pairs closer than the cutoff."""
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    near = np.linalg.norm(vectors, axis=1) < cutoff
    first, second, shifts, vectors = pairs.first[near], pairs.second[near], pairs.shifts[near], vectors[near]
    return ordered(
        np.concatenate([first, second]),
        np.concatenate([second, first]),
        np.concatenate([shifts, -shifts]),
        np.concatenate([vectors, -vectors]),
    )


def assert_complete(pairs: Pairs, atoms: Atoms, cutoff: float, inside: float = np.inf) -> None:
    """Pairs (those closer than `inside`) are ASE's at `cutoff`: the same (i, j, S), and D to 1e-12."""
    integers, vectors = directed(pairs, atoms, inside)
    expected_integers, expected_vectors = ordered(*neighbor_list("ijSD", atoms, cutoff))
    assert np.array_equal(integers, expected_integers)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-12)


def pairs_of(atoms: Atoms, cutoff: float, backend: str = "auto") -> Pairs:
    return find_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, backend)


def jittered(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def random_open() -> Atoms:
    return Atoms("C40", np.random.default_rng(3).uniform(0, 9, (40, 3)))


def moved_out(atoms: Atoms, seed: int = 1) -> Atoms:
    """Atoms moved by random lattice vectors of the periodic directions."""
    shifts = np.random.default_rng(seed).integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    atoms.positions += shifts @ atoms.cell.array
    return atoms


def triclinic() -> Atoms:
    atoms = bulk("Si").repeat((2, 2, 1))
    atoms.set_cell(atoms.cell.array @ np.array([[1.0, 0.2, 0.1], [0.0, 0.9, -0.3], [0.1, 0.0, 1.1]]), scale_atoms=True)
    return moved_out(jittered(atoms))


def left_handed() -> Atoms:
    atoms = jittered(bulk("Cu", cubic=True).repeat((2, 1, 1)))
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def dummy_cell() -> Atoms:
    return Atoms(molecule("CH3CH2OH"), cell=[1.0, 1.0, 1.0], pbc=False)


def chain() -> Atoms:
    return moved_out(
        jittered(Atoms("CHNO", positions=np.eye(4, 3) * 1.3, cell=[[3.1, 0.4, 0.2], [0] * 3, [0] * 3], pbc=[1, 0, 0]))
    )


GEOMETRIES = {
    "benzene": (molecule("C6H6"), 5.0),
    "water": (molecule("H2O"), 5.0),
    "lone atom": (Atoms("H"), 5.0),
    "one-atom cell": (bulk("Cu"), 6.0),
    "Cu108": (jittered(bulk("Cu", cubic=True).repeat(3)), 5.0),
    "slab": (moved_out(jittered(fcc111("Al", (2, 2, 3), vacuum=6.0))), 5.0),
    "left-handed": (left_handed(), 5.0),
    "triclinic": (triclinic(), 5.0),
    "dummy cell": (dummy_cell(), 5.0),
    "chain": (chain(), 5.0),
}


def random_atoms(seed: int) -> Atoms:
    """Up to 12 atoms spread beyond a random, often small and skewed, cell."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + np.diag(rng.uniform(2.5, 6.0, 3)) * rng.choice([-1, 1], 3)
    n_atoms = rng.integers(1, 13)
    return Atoms(np.full(n_atoms, 6), positions=rng.uniform(-6, 6, (n_atoms, 3)), cell=cell, pbc=rng.integers(0, 2, 3))


@every_backend
@pytest.mark.parametrize("name", GEOMETRIES)
def test_hard_geometries_equal_ase(name, backend):
    atoms, cutoff = GEOMETRIES[name]
    if atoms.pbc.any() and backend in OPEN_ONLY:
        with pytest.raises(ValueError, match=rf"(?s)'{backend}'.*pbc = .*vesin"):
            pairs_of(atoms, cutoff, backend)
    else:
        assert_complete(pairs_of(atoms, cutoff, backend), atoms, cutoff)


@every_backend
@pytest.mark.parametrize("seed", range(25))
def test_random_geometries_equal_ase(seed, backend):
    atoms = random_atoms(seed)
    if backend in OPEN_ONLY:
        atoms.pbc = False
    assert_complete(pairs_of(atoms, 4.5, backend), atoms, 4.5)


@every_backend
def test_shapes_and_types(backend):
    for atoms, n_pairs in ((Atoms(), 0), (Atoms("H"), 0), (molecule("H2O"), 3)):
        pairs = pairs_of(atoms, 3.0, backend)
        assert pairs.first.shape == pairs.second.shape == (n_pairs,)
        assert pairs.shifts.shape == (n_pairs, 3)
        assert {pairs.first.dtype, pairs.second.dtype, pairs.shifts.dtype} == {np.dtype(np.int64)}
        assert pairs.vectors(atoms.positions, atoms.cell.array).dtype == np.float64


@every_backend
def test_each_pair_once(backend):
    atoms = molecule("C6H6") if backend in OPEN_ONLY else bulk("Cu")
    pairs = pairs_of(atoms, 6.0, backend)
    integers, _ = directed(pairs, atoms)
    assert len(np.unique(integers, axis=0)) == len(integers) == 2 * len(pairs.first) > 0


@every_backend
@pytest.mark.parametrize("make", [left_handed, triclinic, random_open], ids=lambda make: make.__name__)
def test_order_is_the_same_for_every_backend(make, backend):
    atoms = make()
    if backend in OPEN_ONLY and atoms.pbc.any():
        atoms.pbc = False
    pairs, reference = pairs_of(atoms, 5.0, backend), pairs_of(atoms, 5.0, "vesin")
    for name in ("first", "second", "shifts"):
        assert np.array_equal(getattr(pairs, name), getattr(reference, name))
    rows = np.column_stack([pairs.first, pairs.second, pairs.shifts]).tolist()
    assert rows == sorted(rows)
    assert all(i < j or (i == j and shift > [0, 0, 0]) for i, j, *shift in rows)


@every_backend
def test_cutoff_is_strict(backend):
    for distance, n_pairs in ((2.0, 0), (np.nextafter(2.0, 0.0), 1)):
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, distance]])
        assert len(pairs_of(atoms, 2.0, backend).first) == n_pairs


@every_backend
def test_never_truncated(backend):
    """200 atoms, all within the cutoff of one another: more neighbors than any library's default capacity."""
    directions = np.random.default_rng(0).normal(size=(200, 3))
    positions = 2.4 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    pairs = find_pairs(positions, np.zeros((3, 3)), np.zeros(3, bool), 5.0, backend)
    assert len(pairs.first) == 200 * 199 // 2


@every_backend
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("layout", [np.asfortranarray, np.ascontiguousarray])
def test_inputs_are_left_alone_in_any_layout(layout, backend):
    positions = layout(molecule("C6H6").positions)
    positions.flags.writeable = False
    pairs = find_pairs(positions, np.zeros((3, 3), dtype=int), np.zeros(3, int), 5.0, backend)
    assert len(pairs.first) == 66
    assert np.array_equal(positions, molecule("C6H6").positions)


def test_auto_gives_the_same_pairs_on_both_sides_of_the_crossover(monkeypatch):
    atoms = molecule("C60")
    for largest in (59, 60):
        monkeypatch.setattr(neighbors, "DENSE_MAX_ATOMS", largest)
        assert_complete(pairs_of(atoms, 4.0), atoms, 4.0)


def test_dependent_vectors_without_periodicity_do_not_matter():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], cell=[[3, 0, 0], [6, 0, 0], [9, 0, 0]], pbc=[1, 0, 0])
    expected = Atoms(atoms, cell=[[3, 0, 0], [0, 3, 0], [0, 0, 3]], pbc=[1, 0, 0])
    np.testing.assert_equal(directed(pairs_of(atoms, 4.0), atoms), directed(pairs_of(expected, 4.0), expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "matscipy"}, r"'matscipy'.*auto.*dense.*vesin.*cluster.*nvalchemi"),
        ({"cutoff": -5.0}, r"cutoff must be positive.*-5\.0 Å"),
        ({"cutoff": 0.0}, r"cutoff must be positive"),
        ({"cutoff": np.nan}, r"cutoff must be positive and finite, got nan"),
        ({"positions": np.zeros((2, 2))}, r"positions must have shape \(2, 3\), got \(2, 2\)"),
        ({"positions": np.full((2, 3), np.nan)}, r"positions must be finite"),
        ({"cell": np.ones(3)}, r"cell must have shape \(3, 3\)"),
        ({"pbc": True}, r"pbc must have shape \(3,\)"),
        ({"cell": np.diag([3.0, 3.0, 0.0])}, r"along direction 2.*cell vector 2 is \[0, 0, 0\].*atoms\.pbc\[2\] = False"),
        ({"cell": [[3.0, 0, 0], [0, 3, 0], [3, 3, 0]]}, r"linearly dependent"),
        ({"cell": np.diag([3.0, 3.0, 1e-5])}, r"too short"),
    ],
)
def test_errors_say_value_meaning_remedy(changes, message):
    arguments = {"positions": np.zeros((2, 3)), "cell": 3 * np.eye(3), "pbc": np.ones(3, bool), "cutoff": 2.5}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        find_pairs(**(arguments | changes))


@pytest.mark.parametrize(("backend", "extra"), [("cluster", r"ase_xai\[cluster\]"), ("nvalchemi", r"ase_xai\[gpu\]")])
def test_missing_package_names_the_extra(monkeypatch, backend, extra):
    for package in PACKAGES[backend]:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"Install torch first.*{extra}.*vesin") as error:
        pairs_of(molecule("H2O"), 5.0, backend)
    assert backend != "cluster" or "--no-build-isolation" in str(error.value)


def reference_radius_graph(x, r, loop, max_num_neighbors):
    assert not loop
    near = torch.cdist(x, x) < r
    return torch.stack((near & ~torch.eye(len(x), dtype=torch.bool)).nonzero(as_tuple=True))


def test_cluster_prefers_pyg_lib_and_passes_over_one_without_radius_graph(monkeypatch):
    modules = {"pyg_lib": SimpleNamespace(radius_graph=reference_radius_graph), "torch_cluster": SimpleNamespace()}
    monkeypatch.setattr(neighbors, "_optional", lambda package, path: modules[package])
    atoms = molecule("C6H6")
    assert_complete(pairs_of(atoms, 3.0, "cluster"), atoms, 3.0)
    modules["pyg_lib"], modules["torch_cluster"] = modules["torch_cluster"], modules["pyg_lib"]
    assert_complete(pairs_of(atoms, 3.0, "cluster"), atoms, 3.0)


def truncated_radius_graph(x, r, loop, max_num_neighbors):
    edges = reference_radius_graph(x, r, loop, max_num_neighbors)
    rank = torch.arange(edges.shape[1]) - torch.searchsorted(edges[0], edges[0])
    return edges[:, rank < 32]


def duplicated_radius_graph(x, r, loop, max_num_neighbors):
    return reference_radius_graph(x, r, loop, max_num_neighbors).repeat(1, 2)


@pytest.mark.parametrize("radius_graph", [truncated_radius_graph, duplicated_radius_graph])
def test_cluster_rejects_a_list_that_is_not_whole(monkeypatch, radius_graph):
    monkeypatch.setattr(neighbors, "_optional", lambda package, path: SimpleNamespace(radius_graph=radius_graph))
    positions = np.random.default_rng(0).uniform(0, 2, (60, 3))
    with pytest.raises(RuntimeError, match="truncated"):
        find_pairs(positions, np.zeros((3, 3)), np.zeros(3, bool), 5.0, "cluster")


def test_pairs_check_their_shapes():
    one = np.zeros(1, np.int64)
    for first, second, shifts, name in (
        (one, np.zeros(2, np.int64), np.zeros((1, 3), np.int64), "second"),
        (one, one, np.zeros(3, np.int64), "shifts"),
    ):
        with pytest.raises(ValueError, match=f"Pairs.{name} must have shape"):
            Pairs(first, second, shifts)


# Skin list

CUTOFF, SKIN = 3.5, 1.0


def updated(skin_list: SkinList, atoms: Atoms) -> Pairs:
    """The updated list, after a check against a fresh one from ASE."""
    pairs = skin_list.update(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    assert_complete(pairs, atoms, skin_list.cutoff, inside=skin_list.cutoff)
    return pairs


def strain(scale: float, rng: np.random.Generator) -> np.ndarray:
    return np.eye(3) + rng.normal(scale=scale, size=(3, 3))


def displace(atoms, rng):
    atoms.positions += rng.normal(scale=rng.choice([0.01, 0.05, 0.2]), size=atoms.positions.shape)


def deform(atoms, rng):
    atoms.set_cell(atoms.cell.array @ strain(rng.choice([0.001, 0.01, 0.05]), rng), scale_atoms=atoms.cell.rank == 3)


def deform_cell_only(atoms, rng):
    atoms.set_cell(atoms.cell.array @ strain(0.002, rng), scale_atoms=False)


def rotate(atoms, rng):
    atoms.rotate(rng.uniform(0, 5), rng.normal(size=3), rotate_cell=True)


def wrap(atoms, rng):
    atoms.wrap()


def move_out(atoms, rng):
    moved_out(atoms, seed=int(rng.integers(1000)))


def transmute(atoms, rng):
    atoms.numbers[rng.integers(len(atoms))] = rng.integers(1, 30)


def switch_pbc(atoms, rng):
    atoms.pbc = rng.integers(0, 2, 3).astype(bool) & atoms.cell.array.any(axis=1)


def change_basis(atoms, rng):
    a, b = rng.permutation(3)[:2]
    cell = atoms.cell.array.copy()
    if atoms.pbc[a] and atoms.pbc[b]:
        cell[a] += rng.choice([-1, 1]) * cell[b]
    if np.linalg.norm(cell[a]) < 12.0:
        atoms.set_cell(cell)


def remove_atom(atoms, rng):
    if len(atoms) > 2:
        del atoms[int(rng.integers(len(atoms)))]


SMALL = (displace, deform, deform_cell_only, rotate)
LARGE = (wrap, move_out, transmute, switch_pbc, change_basis)


@pytest.mark.parametrize("name", ["benzene", "one-atom cell", "slab", "left-handed", "triclinic", "dummy cell", "chain"])
def test_skin_list_is_never_wrong(name):
    rng = np.random.default_rng(7)
    start = GEOMETRIES[name][0]
    atoms, skin_list, n_updates = start.copy(), SkinList(CUTOFF, SKIN), 0
    for step in range(120):
        if step % 30 == 0:
            atoms = start.copy()
        events = LARGE if rng.random() < 0.15 else SMALL
        events[rng.integers(len(events))](atoms, rng)
        updated(skin_list, atoms)
        n_updates += 1
    assert 5 < skin_list.n_builds < n_updates


@pytest.mark.parametrize("name", ["one-atom cell", "slab", "left-handed", "triclinic", "chain"])
def test_skin_list_survives_small_strains_and_displacements(name):
    rng = np.random.default_rng(3)
    start = GEOMETRIES[name][0]
    skin_list = SkinList(CUTOFF, SKIN)
    pairs = updated(skin_list, start)
    for _ in range(20):
        atoms = start.copy()
        atoms.set_cell(atoms.cell.array @ strain(0.01, rng), scale_atoms=False)
        if atoms.cell.rank == 3:
            atoms.set_scaled_positions(start.get_scaled_positions(wrap=False))
        atoms.positions += rng.uniform(-0.1, 0.1, atoms.positions.shape)
        assert updated(skin_list, atoms) is pairs
    assert skin_list.n_builds == 1


def test_skin_list_rebuilds_only_when_an_atom_moved_half_the_skin():
    atoms = Atoms("H2", positions=[[0, 0, 0], [CUTOFF + SKIN + 1e-6, 0, 0]])
    skin_list = SkinList(CUTOFF, SKIN)
    assert len(updated(skin_list, atoms).first) == 0
    atoms.positions[:, 0] += [0.4999, -0.4999]
    updated(skin_list, atoms)
    assert skin_list.n_builds == 1
    atoms.positions[:, 0] += [0.0002, -0.0002]
    assert len(updated(skin_list, atoms).first) == 1
    assert skin_list.n_builds == 2


def test_skin_list_counts_the_moves_of_both_atoms_when_the_cell_changes_too():
    atoms = Atoms("H2", positions=[[0, 0, 0], [CUTOFF + SKIN + 1e-6, 0, 0]], cell=[20, 20, 20], pbc=True)
    skin_list = SkinList(CUTOFF, SKIN)
    updated(skin_list, atoms)
    atoms.positions[:, 0] += [0.5001, -0.5001]
    atoms.set_cell([20, 20, 20 + 1e-9])
    assert len(updated(skin_list, atoms).first) == 1
    assert skin_list.n_builds == 2


def test_skin_list_is_not_misled_by_a_dependent_vector_without_periodicity():
    skin_list = SkinList(CUTOFF, SKIN)
    for length, n_pairs in ((4.6, 0), (3.0, 1)):
        cell = np.array([[length, 0, 0], [460.0, 0, 0], [0, 0, 9.0]])
        pairs = skin_list.update(np.ones(1), np.zeros((1, 3)), cell, np.array([True, False, False]))
        assert len(pairs.first) == n_pairs


def test_skin_list_follows_a_compressed_cell_to_its_limit():
    start = bulk("Cu")
    for extra, n_builds in ((1e-6, 1), (-1e-6, 2)):
        skin_list, atoms = SkinList(CUTOFF, SKIN), start.copy()
        updated(skin_list, atoms)
        atoms.set_cell(atoms.cell.array * (CUTOFF / (CUTOFF + SKIN) + extra), scale_atoms=True)
        updated(skin_list, atoms)
        assert skin_list.n_builds == n_builds


@pytest.mark.parametrize("event", [transmute, move_out, remove_atom])
def test_skin_list_rebuilds_for_other_systems(event):
    atoms, skin_list = triclinic(), SkinList(CUTOFF, SKIN)
    updated(skin_list, atoms)
    event(atoms, np.random.default_rng(0))
    updated(skin_list, atoms)
    assert skin_list.n_builds == 2


def test_skin_list_rebuilds_for_other_pbc_and_cutoff():
    atoms, skin_list = triclinic(), SkinList(CUTOFF, SKIN)
    updated(skin_list, atoms)
    atoms.pbc = [True, False, True]
    updated(skin_list, atoms)
    skin_list.cutoff = 5.0
    updated(skin_list, atoms)
    assert skin_list.n_builds == 3


def test_skin_list_of_an_open_system_ignores_its_cell():
    atoms, skin_list = dummy_cell(), SkinList(CUTOFF, SKIN)
    pairs = updated(skin_list, atoms)
    atoms.set_cell([7.0, 8.0, 9.0])
    assert updated(skin_list, atoms) is pairs


def test_skin_list_sees_positions_changed_in_place():
    atoms, skin_list = molecule("C6H6"), SkinList(CUTOFF, SKIN)
    updated(skin_list, atoms)
    atoms.positions[0] += 3.0
    updated(skin_list, atoms)
    assert skin_list.n_builds == 2


def test_skin_zero_builds_at_every_update():
    atoms, skin_list = molecule("C6H6"), SkinList(CUTOFF, 0.0)
    for _ in range(3):
        assert_complete(updated(skin_list, atoms), atoms, CUTOFF)
    assert skin_list.n_builds == 3


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deepcopy", "pickle"]
)
def test_skin_list_copies_are_independent(duplicate):
    atoms, skin_list = triclinic(), SkinList(CUTOFF, SKIN)
    updated(skin_list, atoms)
    twin = duplicate(skin_list)
    updated(twin, atoms)
    assert (twin.n_builds, twin.cutoff, twin.skin, twin.backend) == (1, CUTOFF, SKIN, "auto")
    atoms.positions[0] += 3.0
    updated(twin, atoms)
    assert (twin.n_builds, skin_list.n_builds) == (2, 1)


@every_backend
def test_skin_list_with_every_backend(backend):
    atoms, skin_list = molecule("C6H6"), SkinList(CUTOFF, SKIN, backend)
    for _ in range(3):
        updated(skin_list, atoms)
        atoms.positions *= 1.01
    assert skin_list.n_builds == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0), r"cutoff must be positive.*-1\.0 Å"),
        ((5.0, -0.1), r"skin must be zero or positive.*-0\.1 Å"),
        ((5.0, np.inf), r"skin must be zero or positive and finite"),
        ((5.0, 1.0, "fast"), r"Unknown neighbor back end 'fast'"),
    ],
)
def test_skin_list_rejects_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SkinList(*arguments)


def test_skin_list_rejects_missing_numbers_and_nan():
    atoms, skin_list = molecule("H2O"), SkinList(CUTOFF, SKIN)
    with pytest.raises(ValueError, match="2 numbers for 3 positions"):
        skin_list.update(atoms.numbers[:2], atoms.positions, atoms.cell.array, atoms.pbc)
    updated(skin_list, atoms)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="positions must be finite"):
        skin_list.update(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
