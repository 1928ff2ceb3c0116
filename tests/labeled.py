"""Labeled structures that several test files use: in memory, and written in every format that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from ase_xai.training.data import StructureSet
from ase_xai.training.units import DEFAULTS


def labeled(periodic: bool) -> list[Atoms]:
    """Structures with all labels; in the order of the names of their compositions, as HDF5 sorts groups."""
    rng = np.random.default_rng(0)
    made = [molecule(name) for name in ("CH4", "CO2", "CO2", "H2O", "H2O", "NH3")]
    made += [bulk("NaCl", "rocksalt", a=5.6), bulk("NaCl", "rocksalt", a=5.7)] if periodic else []
    made.sort(key=lambda atoms: str(atoms.symbols))
    for atoms in made:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        results = {
            "energy": rng.normal(-500, 100),
            "forces": rng.normal(0, 1, (len(atoms), 3)),
            "stress": rng.normal(0, 0.1, 6),
            "dipole": rng.normal(0, 1, 3),
            "charges": rng.normal(0, 1, len(atoms)),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["total_charge"] = float(rng.integers(-1, 2))
    return made


def ragged(frames: list[Atoms]) -> dict[str, np.ndarray]:
    def stacked(name: str) -> np.ndarray:
        return np.array([atoms.calc.results[name] for atoms in frames])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([atoms.calc.results[name] for atoms in frames])

    arrays = {
        "n_atoms": np.array([len(atoms) for atoms in frames], dtype=np.uint8),
        "Z": np.concatenate([atoms.numbers for atoms in frames]).astype(np.uint8),
        "R": np.concatenate([atoms.positions for atoms in frames]),
        "E_eV": stacked("energy"),
        "F_eV_A": joined("forces"),
        "stress_eV_A3": stacked("stress"),
        "dipole_eA": stacked("dipole"),
        "q_e": joined("charges"),
        "total_charge": np.array([atoms.info["total_charge"] for atoms in frames]),
    }
    if any(atoms.pbc.any() for atoms in frames):
        arrays["cell"] = np.array([atoms.cell.array for atoms in frames])
    return arrays


def write_npz(path: Path, frames: list[Atoms]) -> None:
    np.savez_compressed(path, **ragged(frames))


def write_ragged_hdf5(path: Path, frames: list[Atoms]) -> None:
    names = {"E_eV": "energy", "F_eV_A": "forces", "stress_eV_A3": "stress", "dipole_eA": "dipole", "q_e": "charges"}
    with h5py.File(path, "w") as file:
        for name, array in ragged(frames).items():
            file.create_dataset(names.get(name, name), data=array)
            if name in names:
                file[names[name]].attrs["units"] = DEFAULTS[names[name]]
        file["smiles"] = [b"no number, and not asked for"]


def write_composition_hdf5(path: Path, frames: list[Atoms]) -> None:
    """As ANI files have it; H2O has three atoms, so that only its name tells a dipole from per-atom charges."""
    with h5py.File(path, "w") as file:
        for formula in {str(atoms.symbols) for atoms in frames}:
            members = [atoms for atoms in frames if str(atoms.symbols) == formula]
            group = file.create_group(f"data/{formula}")
            group["species"] = [s.encode() for s in members[0].get_chemical_symbols()]
            group["coordinates"] = np.array([atoms.positions for atoms in members])
            group["total_charge"] = [atoms.info["total_charge"] for atoms in members]
            if any(atoms.pbc.any() for atoms in frames):
                group["cell"] = np.array([atoms.cell.array for atoms in members])
            for name in members[0].calc.results:
                group[name] = np.array([atoms.calc.results[name] for atoms in members])
                group[name].attrs["units"] = DEFAULTS[name]


def write_db(path: Path, frames: list[Atoms]) -> None:
    with ase.db.connect(path) as database:
        for atoms in frames:
            database.write(atoms, total_charge=atoms.info["total_charge"])


def write_folder(path: Path, frames: list[Atoms]) -> None:
    path.mkdir()
    write_npz(path / "a.npz", frames[:2])
    ase.io.write(path / "b.extxyz", frames[2:])
    (path / "notes.txt").write_text("not read")


WRITERS: dict[str, Callable[[Path, list[Atoms]], None]] = {
    "set.npz": write_npz,
    "set.extxyz": ase.io.write,
    "set @ 1.xyz": lambda path, frames: ase.io.write(path, frames, format="extxyz"),
    "set.db": write_db,
    "set.h5": write_ragged_hdf5,
    "set.hdf5": write_composition_hdf5,
    "folder": write_folder,
}


def make_set(frames: list[Atoms], seed: int = 0, **more: object) -> StructureSet:
    """Frames with random labels; those without periodicity keep none."""
    rng = np.random.default_rng(seed)
    n_rows, n_structures = sum(map(len, frames)), len(frames)
    values: dict[str, object] = {
        "numbers": np.concatenate([atoms.numbers for atoms in frames]),
        "positions": np.concatenate([atoms.positions for atoms in frames]),
        "offsets": np.cumsum([0] + [len(atoms) for atoms in frames]),
        "energy": rng.normal(size=n_structures),
        "forces": rng.normal(size=(n_rows, 3)).astype(np.float32),
        "dipole": rng.normal(size=(n_structures, 3)).astype(np.float32),
        "charges": rng.normal(size=n_rows).astype(np.float32),
        "total_charge": rng.integers(-1, 2, n_structures).astype(np.float64),
    }
    if any(atoms.pbc.any() for atoms in frames):
        values["cell"] = np.array([atoms.cell.array for atoms in frames])
        values["pbc"] = np.array([atoms.pbc for atoms in frames])
        values["stress"] = rng.normal(size=(n_structures, 6))
    return StructureSet(**(values | more))  # type: ignore[arg-type]


def molecules(n: int = 12, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    names = ["H2O", "CH4", "CH3OH", "NH3", "CH3CH2OH", "C6H6"]
    frames = [molecule(names[index % len(names)]) for index in range(n)]
    for atoms in frames:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return frames


def mixed() -> list[Atoms]:
    """Open, periodic in one, two and three directions, smaller than the cutoff, left-handed."""
    chain = Atoms("HF", positions=[[0, 0, 0], [0, 0, 0.93]], cell=[0, 0, 2.5], pbc=[False, False, True])
    left_handed = bulk("Cu")
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    slab = fcc111("Al", (2, 2, 2), vacuum=5.0)
    slab.rattle(0.1, seed=1)
    frames = [molecule("H2O"), bulk("NaCl", "rocksalt", a=5.6), chain, slab, left_handed, Atoms("He")]
    boxed = molecule("CH4")
    boxed.set_cell([6.0, 7.0, 8.0])  # a box, but no periodicity
    return [*frames, boxed]


SETS: dict[str, Callable[[], list[Atoms]]] = {"open": molecules, "periodic": mixed}
