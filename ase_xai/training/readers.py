"""Files of labeled structures, read into a `StructureSet` in ASE's units. Nothing is ever unpickled.

Formats, by suffix:

    .npz                    ragged arrays: n_atoms (S,), Z (ΣN,), R (ΣN, 3), labels, optionally cell (S, 3, 3)
    .h5 .hdf5               the same names as data sets, or groups of one composition each with `species` (symbols) or
                            `atomic_numbers`, `coordinates` (C, N, 3) and labels, as ANI files have it
    .extxyz .xyz .traj .db  whatever ASE reads; labels from the attached results, or from info and arrays by name
    a folder                all of these in it, in the order of their names; or a store, see `ase_xai.training.store`

Units come from the end of a name (E_Ha, F_eV_A, dipole_D), from the attribute `units` of an HDF5 data set, or from `units`;
files that ASE reads are in ASE's units unless `units` says otherwise. A unit that is not known is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ase_xai.training.data import LABELS, PER_ATOM, PER_STRUCTURE, StructureSet
from ase_xai.training.units import DEFAULTS, factor

USUAL_NAMES = {
    "energy": ("energy", "energies", "E_eV", "E_Ha"),
    "forces": ("forces", "F_eV_A"),
    "stress": ("stress", "stress_eV_A3"),
    "dipole": ("dipole", "dipole_eA", "dipole_D"),
    "dipole_magnitude": ("dipole_magnitude", "mu_D"),
    "charges": ("charges",),
}
NAME_UNITS = ("_eV_A3", "_eV_A", "_Ha", "_eV", "_eA", "_kcal", "_D", "_e", "_GPa", "_A")
ASE_SUFFIXES = (".extxyz", ".xyz", ".traj", ".db")
HDF5_SUFFIXES = (".h5", ".hdf5")
CHUNK = 2000  # structures held at once when a file is streamed
DTYPES: dict[str, type] = {"energy": np.float64, "stress": np.float64}  # labels otherwise float32


@dataclass(frozen=True)
class Columns:
    """Which columns of the files are what, and in which unit.

    Args:
        names: label -> name in the files; labels not named are looked for under their usual names.
        units: quantity -> unit, also "length"; see `ase_xai.training.units`.
        group, kind: names of per-structure integers; `kind` indexes `kind_names`.
        kind_names: names of the kinds.

    Raises:
        ValueError: a label or a unit is not known.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    kind: str | None = None
    kind_names: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(LABELS))
        if unknown:
            raise ValueError(f"columns {unknown} are no labels. Labels are {', '.join(LABELS)}.")
        for quantity, unit in self.units.items():
            factor(quantity, unit)

    def find(self, label: str, present: Iterable[str]) -> str | None:
        """Name of the column that holds `label`, or None."""
        present = set(present)
        if label in self.names:
            if self.names[label] not in present:
                raise ValueError(f"no column {self.names[label]!r} for {label}. There are {', '.join(sorted(present))}.")
            return self.names[label]
        found = [name for name in USUAL_NAMES[label] if name in present]
        if len(found) > 1:
            raise ValueError(f"{label} could be {' or '.join(found)}. Say which: columns = {{{label} = ...}}.")
        return found[0] if found else None

    def factor(self, quantity: str, name: str, stored: str | None = None) -> float:
        """What the values of column `name` are multiplied with, `stored` being a unit the file states beside it."""
        suffix = next((s[1:] for s in NAME_UNITS if name.endswith(s)), None)
        stated = [unit for unit in (self.units.get(quantity), stored, suffix) if unit is not None]
        if not stated:
            raise ValueError(
                f"the unit of {quantity} ({name}) is not known. Give it, e.g. units = {{{quantity} = {DEFAULTS[quantity]!r}}}."
            )
        factors = {factor(quantity, unit) for unit in stated}
        if len(factors) > 1:
            raise ValueError(
                f"the unit of {quantity} ({name}) is stated as {' and as '.join(map(str, stated))}. Which is it?"
            )
        return factors.pop()


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
        raise ValueError(f"no structures in {paths}. Formats are .npz, .h5, .hdf5, {', '.join(ASE_SUFFIXES)}.")


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        known = (".npz", *HDF5_SUFFIXES, *ASE_SUFFIXES)
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix in known)
        elif path.suffix in known:
            yield path
        else:
            raise ValueError(f"{path} has a suffix that is not read. Formats are {', '.join(known)}.")


def _chunks_of(path: Path, columns: Columns) -> Iterator[StructureSet]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield _ragged({name: file[name] for name in file.files}, {}, columns)
        elif path.suffix in HDF5_SUFFIXES:
            yield from _hdf5(path, columns)
        else:
            frames = iter(ase.io.iread(path, ":"))
            while portion := list(islice(frames, CHUNK)):
                yield _from_atoms(portion, columns)
    except (ValueError, OSError, KeyError, EOFError, ase.io.formats.UnknownFileTypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _ragged(arrays: Mapping[str, NDArray[Any]], stored: Mapping[str, str], columns: Columns) -> StructureSet:
    """A set from ragged columns; `stored` holds units that the file states."""
    missing = [name for name in ("n_atoms", "Z", "R") if name not in arrays]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}. Needed are n_atoms (S,), Z (ΣN,) and R (ΣN, 3).")
    n_atoms, numbers = _integers("n_atoms", arrays["n_atoms"], 1, 10**6), _integers("Z", arrays["Z"], 1, 118)
    offsets = np.concatenate([[0], np.cumsum(n_atoms)])
    length = columns.factor("length", "R", stored.get("R", "angstrom"))
    values: dict[str, Any] = {"numbers": numbers, "offsets": offsets, "positions": length * arrays["R"].astype(np.float64)}
    if "cell" in arrays:
        values["cell"] = length * arrays["cell"].astype(np.float64)
        default = np.broadcast_to(values["cell"].any(axis=2), (len(n_atoms), 3))
        values["pbc"] = np.array(arrays.get("pbc", default), dtype=bool)
    if "total_charge" in arrays:
        values["total_charge"] = arrays["total_charge"].astype(np.float64)
    for label in LABELS:
        name = columns.find(label, arrays)
        if name is not None:
            scale = columns.factor(label, name, stored.get(name))
            values[label] = (scale * arrays[name].astype(np.float64)).astype(DTYPES.get(label, np.float32))
    for quantity, name in (("group", columns.group), ("kind", columns.kind)):
        if name is not None and name not in arrays:
            raise ValueError(f"has no {name!r} for {quantity}. There are {', '.join(sorted(arrays))}.")
        if name is not None:
            values[quantity] = _integers(name, arrays[name], 0, 2**62)
    _refuse_unknown_kinds(values.get("kind"), columns)
    if numbers.shape != (int(offsets[-1]),):
        raise ValueError(f"Z has shape {numbers.shape}, but n_atoms adds up to {int(offsets[-1])}.")
    return StructureSet(**values, kind_names=columns.kind_names)


def _integers(name: str, array: NDArray[Any], low: int, high: int) -> NDArray[np.int64]:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be integers, got {array.dtype}.")
    bad = np.flatnonzero(~((array >= low) & (array <= high) & (array == np.floor(array))))
    if len(bad):
        raise ValueError(f"{name} is {array[bad[0]]} in row {bad[0]}, not an integer from {low} to {high}.")
    return array.astype(np.int64)


def _refuse_unknown_kinds(kind: NDArray[np.int64] | None, columns: Columns) -> None:
    if kind is not None and int(kind.max(initial=0)) >= len(columns.kind_names):
        raise ValueError(
            f"{columns.kind} reaches {kind.max()}, but kind_names has {len(columns.kind_names)} names. Name all."
        )


def _hdf5(path: Path, columns: Columns) -> Iterator[StructureSet]:
    import h5py

    with h5py.File(path, "r") as file:
        if "n_atoms" in file:
            sets = {name: value for name, value in file.items() if isinstance(value, h5py.Dataset)}
            yield _ragged({name: _plain(v) for name, v in sets.items()}, _stated(sets), columns)
            return
        groups: list[Any] = []
        file.visititems(
            lambda _, node: groups.append(node) if isinstance(node, h5py.Group) and "coordinates" in node else None
        )
        if not groups:
            raise ValueError("holds neither n_atoms, Z, R nor groups with coordinates.")
        for group in groups:
            yield _ragged(*_one_composition(group), columns)


def _one_composition(group: Any) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Ragged columns of a group whose structures share their atoms."""
    sets = {name: group[name] for name in group}
    coordinates = _plain(sets.pop("coordinates"))
    species = sets.pop("species", None) if "species" in sets else sets.pop("atomic_numbers", None)
    if species is None or coordinates.ndim != 3:
        raise ValueError(f"{group.name} needs species or atomic_numbers beside coordinates of shape (C, N, 3).")
    symbols = np.asarray(species[()])
    if symbols.dtype.kind in "OS":
        symbols = np.array([atomic_numbers[s.decode() if isinstance(s, bytes) else str(s)] for s in symbols])
    n_frames, n_atoms = coordinates.shape[:2]
    columns = {"n_atoms": np.full(n_frames, n_atoms), "Z": np.tile(symbols, n_frames), "R": coordinates.reshape(-1, 3)}
    stated = {name: unit for name, unit in _stated({"R": group["coordinates"], **sets}).items()}
    for name, value in sets.items():
        array = _plain(value)
        if array.shape[:2] == (n_frames, n_atoms):
            columns[name] = array.reshape(n_frames * n_atoms, *array.shape[2:])
        elif len(array) == n_frames:
            columns[name] = array
    return columns, stated


def _plain(dataset: Any) -> NDArray[Any]:
    if dataset.dtype.kind not in "iufb":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, not numbers.")
    return np.asarray(dataset[()])


def _stated(sets: Mapping[str, Any]) -> dict[str, str]:
    units = {name: value.attrs["units"] for name, value in sets.items() if "units" in value.attrs}
    return {name: unit.decode() if isinstance(unit, bytes) else str(unit) for name, unit in units.items()}


def _from_atoms(frames: Sequence[Atoms], columns: Columns) -> StructureSet:
    n_atoms = np.array([len(atoms) for atoms in frames])
    length = columns.factor("length", "positions", columns.units.get("length", "angstrom"))
    values: dict[str, Any] = {
        "numbers": np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64),
        "positions": length * np.concatenate([atoms.positions for atoms in frames]),
        "offsets": np.concatenate([[0], np.cumsum(n_atoms)]),
    }
    if any(atoms.pbc.any() for atoms in frames):
        values["cell"] = length * np.stack([atoms.cell.array for atoms in frames])
        values["pbc"] = np.stack([atoms.pbc for atoms in frames])
    if any("charge" in atoms.info for atoms in frames):
        values["total_charge"] = np.array([float(atoms.info.get("charge", 0.0)) for atoms in frames])
    for label in LABELS:
        found = [_label(atoms, label, columns) for atoms in frames]
        if any(value is not None for value in found):
            unit = columns.units.get(label, DEFAULTS[label])
            name = columns.names.get(label, label)
            filled = [_shaped(v, label, len(atoms)) for v, atoms in zip(found, frames, strict=True)]
            joined = np.concatenate(filled) if label in PER_ATOM else np.stack(filled)
            values[label] = (columns.factor(label, name, unit) * joined).astype(DTYPES.get(label, np.float32))
    for quantity, name in (("group", columns.group), ("kind", columns.kind)):
        if name is not None:
            values[quantity] = _integers(name, np.array([atoms.info[name] for atoms in frames]), 0, 2**62)
    _refuse_unknown_kinds(values.get("kind"), columns)
    return StructureSet(**values, kind_names=columns.kind_names)


def _label(atoms: Atoms, label: str, columns: Columns) -> Any:
    """The value of a label: under the name that was given, else among the results, info and arrays; None if nowhere."""
    results = {} if atoms.calc is None else atoms.calc.results
    places = (results, atoms.info, atoms.arrays)
    name = columns.names.get(label, label)
    for place in places:
        if name in place:
            return place[name]
    if label in columns.names:
        there = sorted({key for place in places for key in place})
        raise ValueError(f"a structure has no {name!r} for {label}. There are {', '.join(there)}.")
    return None


def _shaped(value: Any, label: str, n_atoms: int) -> NDArray[np.float64]:
    shape = (n_atoms, *PER_ATOM[label]) if label in PER_ATOM else PER_STRUCTURE[label]
    if value is None:
        return np.full(shape, np.nan)
    array = np.asarray(value, dtype=np.float64)
    if label == "stress" and array.shape in ((3, 3), (9,)):
        array = array.reshape(3, 3)[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    if array.shape != shape:
        raise ValueError(f"{label} of a structure with {n_atoms} atoms has shape {array.shape}, expected {shape}.")
    return array
