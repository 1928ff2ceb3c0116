"""Sets of structures in memory, in stores and in batches, against loops over single structures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from labeled import SETS, make_set, mixed, molecules

from ase_xai.graph import AtomGraph
from ase_xai.training.data import StructureSet
from ase_xai.training.loader import GraphLoader, bucketed_batches, epoch_batches
from ase_xai.training.store import open_store, write_store

CUTOFF = 4.0


@pytest.mark.parametrize("kind", SETS)
def test_take_concatenate_and_composition_against_loops(kind: str) -> None:
    frames = SETS[kind]()
    data = make_set(frames, group=np.arange(len(frames)) // 2, kind=np.arange(len(frames)) % 2, kind_names=("a", "b"))
    indices = np.array([3, 0, 3, 5])
    taken = data.take(indices)
    for position, s in enumerate(indices):
        mine, theirs = slice(*taken.offsets[position : position + 2]), slice(*data.offsets[s : s + 2])
        np.testing.assert_array_equal(taken.numbers[mine], frames[s].numbers)
        for name in ("positions", "forces", "charges"):
            np.testing.assert_array_equal(getattr(taken, name)[mine], getattr(data, name)[theirs])
        for name in ("energy", "dipole", "total_charge", "group", "kind", *(["cell", "pbc"] if kind == "periodic" else [])):
            np.testing.assert_array_equal(getattr(taken, name)[position], getattr(data, name)[s])
    assert taken.kind_names == ("a", "b") and len(data.take(np.zeros(0, int))) == 0
    for row, s in zip(data.composition(indices), indices, strict=True):
        expected = [frames[s].get_chemical_symbols().count(Atoms([z]).get_chemical_symbols()[0]) for z in data.elements]
        np.testing.assert_array_equal(row, expected)
    parts = [data.take(part) for part in np.array_split(np.arange(len(data)), 3)]
    assert StructureSet.concatenate(parts).digest() == data.digest()


def test_digest_tells_every_change_apart() -> None:
    data = make_set(mixed())
    digests = {data.digest()}
    for field in fields(data):
        array = getattr(data, field.name)
        if isinstance(array, np.ndarray) and field.name != "offsets":
            changed = array.copy()
            changed.flat[-1] = not changed.flat[-1] if array.dtype == bool else changed.flat[-1] + 1
            digests.add(replace(data, **{field.name: changed}).digest())
    digests.add(replace(data, forces=None).digest())
    digests.add(data.take(np.arange(len(data))[::-1]).digest())
    assert len(digests) == 1 + 10 + 2
    assert make_set(mixed()).digest() == data.digest()


def test_equal_groups_of_several_sets_are_one() -> None:
    frames = molecules(4)
    with_groups, without = make_set(frames, group=np.array([7, 0, 7, 1])), make_set(frames)
    groups = StructureSet.concatenate([without, with_groups, with_groups, without]).groups
    np.testing.assert_array_equal(groups[4:8], groups[8:12])
    assert groups[4] == groups[6] and len(set(groups)) == 4 + 3 + 4
    open_and_periodic = StructureSet.concatenate([without, make_set(mixed())])
    assert not open_and_periodic.pbc[:4].any() and open_and_periodic.pbc[5].all()
    assert np.isnan(open_and_periodic.stress[:4]).all() and not np.isnan(open_and_periodic.stress[4:]).any()


@pytest.mark.parametrize("name", ["positions", "forces", "energy", "dipole", "charges", "total_charge", "cell"])
def test_wrong_shapes_are_refused(name: str) -> None:
    data = make_set(mixed())
    with pytest.raises(ValueError, match=rf"StructureSet\.{name} must have shape"):
        replace(data, **{name: getattr(data, name)[:-1]})
    with pytest.raises(ValueError, match="offsets must start at 0 and rise"):
        replace(data, offsets=data.offsets[[0, 2, 1, *range(3, len(data) + 1)]])
    with pytest.raises(ValueError, match="cell and pbc together"):
        replace(data, pbc=None)


@pytest.mark.parametrize("keep_pairs", [True, False])
@pytest.mark.parametrize("kind", SETS)
def test_batches_equal_graphs_made_one_by_one(kind: str, keep_pairs: bool) -> None:
    frames = SETS[kind]()
    data = make_set(frames)
    loader = GraphLoader(data, CUTOFF, keep_pairs=keep_pairs)
    for indices in (np.array([4, 0, 2]), np.array([5]), np.arange(len(frames))):
        graph, labels = loader.batch(indices)
        charges = data.total_charge[indices]
        expected = AtomGraph.batch(
            [AtomGraph.from_atoms(frames[s], CUTOFF, total_charge=q) for s, q in zip(indices, charges, strict=True)]
        )
        for field in fields(AtomGraph):
            found, wanted = getattr(graph, field.name), getattr(expected, field.name)
            if field.name == "vectors":
                torch.testing.assert_close(found, wanted.float(), rtol=1e-6, atol=1e-6)
            elif isinstance(wanted, torch.Tensor):
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)
            else:
                assert found == wanted
        np.testing.assert_array_equal(labels.energy, data.energy[indices])
        rows = np.concatenate([np.arange(*data.offsets[s : s + 2]) for s in indices])
        np.testing.assert_array_equal(labels.forces, data.forces[rows])
        np.testing.assert_array_equal(labels.n_atoms, [len(frames[s]) for s in indices])
        np.testing.assert_array_equal(labels.charges, data.charges[rows])
        np.testing.assert_array_equal(labels.dipole, data.dipole[indices])
        assert labels.dipole_magnitude is None and (labels.stress is None) == (kind == "open")
        bare, _ = loader.batch(indices, pairs=False)
        assert len(bare.centers) == 0 and torch.equal(bare.system, graph.system)
    if keep_pairs:
        counts = [len(AtomGraph.from_atoms(atoms, CUTOFF).centers) // 2 for atoms in frames]
        np.testing.assert_array_equal(loader.n_pairs, counts)


def test_unusable_geometry_is_named() -> None:
    data = make_set(mixed())
    data.positions[data.offsets[3]] = np.nan
    with pytest.raises(ValueError, match="structure 3: positions must be finite"):
        GraphLoader(data, CUTOFF)


def test_bucketed_batches_respect_the_budget() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, 500)
    sizes[17] = 1000
    indices = rng.permutation(500)[:400]
    batches = list(bucketed_batches(indices, sizes, 128, seed=3, epoch=5))
    assert sorted(np.concatenate(batches)) == sorted(indices)
    for batch in batches:
        assert sizes[batch].sum() <= 128 or len(batch) == 1
    waste = [sizes[batch].max() - sizes[batch].min() for batch in batches]
    assert np.median(waste) <= 2
    again = list(bucketed_batches(indices, sizes, 128, seed=3, epoch=5))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    for seed, epoch in ((3, 6), (4, 5)):
        other = list(bucketed_batches(indices, sizes, 128, seed=seed, epoch=epoch))
        assert {tuple(sorted(batch)) for batch in other} != {tuple(sorted(batch)) for batch in batches}
    assert list(bucketed_batches(indices[:0], sizes, 128, seed=0, epoch=0)) == []


def test_epoch_batches_hold_every_index_once() -> None:
    indices = np.arange(100, 117)
    batches = list(epoch_batches(indices, 5, seed=1, epoch=2))
    assert [len(batch) for batch in batches] == [5, 5, 5, 2]
    assert sorted(np.concatenate(batches)) == list(indices)
    assert np.array_equal(batches[0], next(epoch_batches(indices, 5, seed=1, epoch=2)))
    assert not np.array_equal(batches[0], next(epoch_batches(indices, 5, seed=1, epoch=3)))


@pytest.mark.parametrize("kind", SETS)
def test_store_equals_the_set_in_memory(kind: str, tmp_path: Path) -> None:
    data = make_set(SETS[kind](), group=np.arange(len(SETS[kind]())), kind_names=("x",))
    portions = [data.take(part) for part in np.array_split(np.arange(len(data)), 3)]
    stored = write_store(tmp_path / "store", iter(portions))
    assert stored.digest() == open_store(tmp_path / "store").digest() == data.digest() and stored.kind_names == ("x",)
    for field in fields(stored):
        array = getattr(stored, field.name)
        if isinstance(array, np.ndarray) and field.name != "offsets":
            assert isinstance(array, np.memmap), field.name
            with pytest.raises(ValueError, match="read-only"):
                array.flat[0] = 0
    found, labels = GraphLoader(stored, CUTOFF, keep_pairs=False).batch(np.array([4, 1]))
    expected, _ = GraphLoader(data, CUTOFF).batch(np.array([4, 1]))
    assert torch.equal(found.vectors, expected.vectors)
    labels.energy[0] = 0.0  # a copy: the store is left alone
    assert open_store(tmp_path / "store").digest() == data.digest()


def test_unfinished_and_damaged_stores_are_refused(tmp_path: Path) -> None:
    data = make_set(mixed())

    def interrupted() -> Iterator[StructureSet]:
        yield data
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "unfinished", interrupted())
    with pytest.raises(ValueError, match="unfinished is no finished store"):
        open_store(tmp_path / "unfinished")
    with pytest.raises(ValueError, match="not empty"):
        write_store(tmp_path / "unfinished", [data])
    with pytest.raises(ValueError, match="no structures to store"):
        write_store(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="portion 1 differs from the ones before in forces"):
        write_store(tmp_path / "other", [data, replace(data, forces=None)])
    write_store(folder := tmp_path / "store", [data])
    manifest = json.loads((folder / "structures.json").read_text())
    counts = np.fromfile(folder / "n_atoms.bin", np.int64)
    for name, content in {
        "forces.bin": (folder / "forces.bin").read_bytes()[:-4],
        "positions.bin": b"",
        "charges.bin": (folder / "charges.bin").read_bytes() + b"1234",
        "n_atoms.bin": (counts + 1).tobytes(),
        "structures.json": json.dumps(manifest | {"arrays": manifest["arrays"] | {"energy": {"dtype": "O", "shape": [7]}}}),
    }.items():
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match="store is no finished store"):
            open_store(folder)
        (folder / name).write_bytes(good)
    assert open_store(folder).digest() == data.digest()
