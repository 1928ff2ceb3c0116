"""Files of labeled structures, read into a `StructureSet` in ASE's units. Nothing is ever unpickled.

Formats, by suffix:

    .npz                    ragged arrays: n_atoms (S,), Z (ΣN,), R (ΣN, 3), labels, optionally cell (S, 3, 3), pbc (S, 3)
                            and total_charge (S,)
    .h5 .hdf5               the same names as data sets, or groups of one composition each with `species` (symbols) or
                            `atomic_numbers`, `coordinates` (C, N, 3) and labels, as ANI files have it
    .extxyz .xyz .traj .db  whatever ASE reads; labels and total charge from the attached results, from info (of a data base:
                            key-value pairs and data) and from arrays, by name
    a folder                all of these in it, in the order of their names; or a store, see `ase_xai.training.store`

Units come from the end of a name (E_Ha, F_eV_A, dipole_D), from the attribute `units` of an HDF5 data set, from the metadata
that SchNetPack writes into a data base, or from `units`. Where none of them speaks, lengths are in Å, and what ASE reads is
in ASE's units. A unit that is not known is an error, never a guess.
"""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ase_xai.training.columns import Columns
from ase_xai.training.data import LABELS, PER_ATOM, PER_STRUCTURE, StructureSet
from ase_xai.training.ragged import OPTIONAL, converted, integers, labeled_set, needed, numeric, ragged_set
from ase_xai.training.store import is_store, open_store
from ase_xai.training.units import DEFAULTS

__all__ = ["Columns", "chunks", "read"]

HDF5_SUFFIXES = (".h5", ".hdf5")
ASE_FORMATS = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj", ".db": "db"}
SUFFIXES = (".npz", *HDF5_SUFFIXES, *ASE_FORMATS)
CHUNK = 2000  # structures held at once when a file is streamed


def read(paths: str | Path | Sequence[str | Path], columns: Columns | None = None) -> StructureSet:
    """All structures of some files, in their order.

    Args:
        paths: a file, a folder, or several.
        columns: names and units; see `Columns`.

    Raises:
        ValueError: a format, name or unit is not known, shapes do not fit, or a file is damaged; the message names the file.
    """
    return StructureSet.concatenate(list(chunks(paths, columns)))


def chunks(paths: str | Path | Sequence[str | Path], columns: Columns | None = None) -> Iterator[StructureSet]:
    """The structures of some files in portions, for sets larger than memory; arguments as in `read`."""
    found = False
    for path in _files([paths] if isinstance(paths, (str, Path)) else paths):
        for chunk in _chunks_of(path, columns or Columns()):
            found = True
            yield chunk
    if not found:
        raise ValueError(f"no structures in {paths}. Formats are {', '.join(SUFFIXES)}.")


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        if path.is_dir() and not is_store(path):
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            yield path
        else:
            raise ValueError(f"{path} has a suffix that is not read. Formats are {', '.join(SUFFIXES)}.")


def _chunks_of(path: Path, columns: Columns) -> Iterator[StructureSet]:
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            yield open_store(path)
        elif suffix == ".npz":
            yield _npz(path, columns)
        elif suffix in HDF5_SUFFIXES:
            yield from _hdf5(path, columns)
        else:
            yield from _ase(path, columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # parsers meet damaged files with errors of any kind
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _npz(path: Path, columns: Columns) -> StructureSet:
    if not zipfile.is_zipfile(path):
        raise ValueError("is no .npz file, or was cut off. Copy or write it again.")
    with np.load(path, allow_pickle=False) as file:
        for member in file.zip.infolist():
            file.zip.open(member).close()  # compares its two names: a damaged one must not pass for a missing label
        return ragged_set({name: numeric(name, file[name]) for name in needed(file.files, columns)}, {}, columns)


def _hdf5(path: Path, columns: Columns) -> Iterator[StructureSet]:
    import h5py

    with h5py.File(path, "r") as file:
        groups: list[Any] = [file]
        file.visititems(lambda _, node: groups.append(node) if isinstance(node, h5py.Group) else None)
        found = False
        for group in groups:
            sets = {name: value for name, value in group.items() if isinstance(value, h5py.Dataset)}
            stated = {name: _text(value.attrs["units"]) for name, value in sets.items() if "units" in value.attrs}
            if "n_atoms" in sets:
                arrays = {name: numeric(name, sets[name][()]) for name in needed(sets, columns)}
            elif "coordinates" in sets:
                arrays = _one_composition(sets, group.name, columns)
                stated |= {"R": stated["coordinates"]} if "coordinates" in stated else {}
            else:
                continue
            found = True
            yield ragged_set(arrays, stated, columns)
        if not found:
            raise ValueError("holds neither n_atoms, Z, R nor groups with coordinates.")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _one_composition(sets: Mapping[str, Any], where: str, columns: Columns) -> dict[str, NDArray[Any]]:
    """Ragged columns of a group whose structures share their atoms."""
    coordinates = numeric("coordinates", sets["coordinates"][()])
    species = sets["species"] if "species" in sets else sets.get("atomic_numbers")
    if species is None or coordinates.ndim != 3:
        raise ValueError(f"{where} needs species or atomic_numbers beside coordinates of shape (C, N, 3).")
    n_frames, n_atoms = coordinates.shape[:2]
    symbols = np.asarray(species[()])
    if symbols.dtype.kind in "OS":
        symbols = np.array([_number_of(_text(symbol)) for symbol in symbols])
    if symbols.shape not in ((n_atoms,), (n_frames, n_atoms)):
        raise ValueError(f"{where}: species has shape {symbols.shape}, but coordinates {coordinates.shape}.")
    arrays = {
        "n_atoms": np.full(n_frames, n_atoms),
        "Z": np.broadcast_to(symbols, (n_frames, n_atoms)).ravel(),
        "R": coordinates.reshape(-1, *coordinates.shape[2:]),
    }
    wanted = columns.wanted(sets)
    per_atom = {name for quantity, name in wanted.items() if quantity in PER_ATOM}
    for name in (*set(OPTIONAL).intersection(sets), *wanted.values()):
        array = numeric(name, sets[name][()])
        first = (n_frames, n_atoms) if name in per_atom else (n_frames,)
        if array.shape[: len(first)] != first:
            raise ValueError(f"{where}: {name} has shape {array.shape}, but coordinates {coordinates.shape}.")
        arrays[name] = array.reshape(-1, *array.shape[2:]) if name in per_atom else array
    return arrays


def _number_of(symbol: str) -> int:
    if symbol not in atomic_numbers:
        raise ValueError(f"{symbol!r} is no chemical symbol.")
    return int(atomic_numbers[symbol])


def _ase(path: Path, columns: Columns) -> Iterator[StructureSet]:
    stored: dict[str, str] = {}
    frames: Iterator[Atoms]
    if path.suffix.lower() == ".db":
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise ValueError(f"is damaged: {verdict}.")
        database = ase.db.connect(str(path), type="db")
        stored = dict(database.metadata.get("_property_unit_dict", {}))
        if "_distance_unit" in database.metadata:
            stored["R"] = database.metadata["_distance_unit"]
        frames = (row.toatoms(add_additional_information=True) for row in database.select())
    else:
        frames = ase.io.iread(str(path), ":", format=ASE_FORMATS[path.suffix.lower()], do_not_split_by_at_sign=True)
    while portion := list(islice(frames, CHUNK)):
        yield _from_atoms(portion, stored, columns)


def _from_atoms(frames: Sequence[Atoms], stored: Mapping[str, str], columns: Columns) -> StructureSet:
    attached = [_attached(atoms) for atoms in frames]
    length = columns.factor("length", "R", stored.get("R"), "angstrom")
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    values: dict[str, Any] = {
        "numbers": integers("atomic number", numbers, 1, 118),
        "positions": length * np.concatenate([atoms.positions for atoms in frames]),
        "offsets": np.cumsum([0] + [len(atoms) for atoms in frames]),
    }
    if any(atoms.pbc.any() for atoms in frames):
        values["cell"] = length * np.stack([atoms.cell.array for atoms in frames])
        values["pbc"] = np.stack([atoms.pbc for atoms in frames])
    charges = [known.get("charge", known.get("total_charge")) for known in attached]
    if any(charge is not None for charge in charges):
        values["total_charge"] = np.array([float(charge or 0.0) for charge in charges])
    for quantity, name in columns.wanted({key for known in attached for key in known}).items():
        if quantity in LABELS:
            scale = columns.factor(quantity, name, stored.get(name), DEFAULTS[quantity])
            rows = [_shaped(known.get(name), quantity, len(atoms)) for known, atoms in zip(attached, frames, strict=True)]
            values[quantity] = converted(quantity, scale, np.concatenate(rows))
            if columns.per_atom(quantity, name, stored.get(name)):
                values[quantity] = values[quantity] * np.array([len(atoms) for atoms in frames])
        else:
            values[quantity] = integers(name, np.array([known.get(name, np.nan) for known in attached]), 0, 2**62)
    return labeled_set(values, columns)


def _attached(atoms: Atoms) -> dict[str, Any]:
    """Everything that is known about `atoms`, by name; results of a calculation come first."""
    nested = [atoms.info[name] for name in ("data", "key_value_pairs") if isinstance(atoms.info.get(name), Mapping)]
    results = {} if atoms.calc is None else atoms.calc.results
    known = {**atoms.arrays}
    for place in (*nested, atoms.info, results):
        known.update(place)
    return known


def _shaped(value: Any, label: str, n_atoms: int) -> NDArray[Any]:
    """Rows of one structure, as many as `n_atoms` or one; NaN if there is no value."""
    shape = (n_atoms, *PER_ATOM[label]) if label in PER_ATOM else (1, *PER_STRUCTURE[label])
    if value is None:
        return np.full(shape, np.nan)
    array = numeric(label, value)
    if label == "stress" and array.size == 9:
        array = converted(label, 1.0, array.reshape(1, 9))
    if label in PER_STRUCTURE and array.shape == shape[1:]:
        array = array[None]
    if array.shape != shape:
        raise ValueError(f"{label} of a structure with {n_atoms} atoms has shape {array.shape}, expected {shape}.")
    return array
