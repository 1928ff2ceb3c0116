"""Label structures with GFN2-xTB: energy, forces, dipole and charges for training, through tblite (extra `tblite`).

    python examples/label_gfn2.py STRUCTURES OUTPUT.npz [--jitter 0.03 --copies 2 --seed 1]

STRUCTURES is anything `ase_xai.training.read` understands (.extxyz, .traj, .db, .npz, ...); labels in it are ignored. Each
structure is labeled as it is, and `--copies` times with all atoms displaced at random (normal, `--jitter` Å). OUTPUT is a
ragged .npz that training reads as it is. Structures for which the SCF does not converge, or with a force beyond
`--max-force`, are left out and counted. Interrupt it at will: finished portions lie in OUTPUT.parts, and the same command
goes on behind them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import units
from tqdm import tqdm

from ase_xai.files import write_atomically
from ase_xai.training import StructureSet, read

PORTION = 500  # structures between two saves
LABELS = ("n_atoms", "Z", "R", "E_eV", "F_eV_A", "dipole_eA", "charges_e", "source")


def label(numbers: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray] | None:
    """GFN2-xTB labels of one neutral closed-shell molecule in eV, eV/Å, e·Å and e; None if the SCF does not converge."""
    try:
        from tblite.interface import Calculator
    except ImportError as error:
        raise ImportError("labeling needs tblite: pip install 'ase_xai[tblite]'.") from error
    calculator = Calculator("GFN2-xTB", numbers, positions / units.Bohr)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except RuntimeError:
        return None
    return {
        "E_eV": np.array(float(result.get("energy")) * units.Hartree),
        "F_eV_A": -result.get("gradient") * units.Hartree / units.Bohr,
        "dipole_eA": result.get("dipole") * units.Bohr,
        "charges_e": result.get("charges"),
    }


Geometry = tuple[int, np.ndarray, np.ndarray]
"""Number of the structure it came from, atomic numbers, positions in Å."""


def geometries(structures: StructureSet, jitter: float, copies: int, seed: int) -> Iterator[Geometry]:
    """Each structure as it is and then displaced, the same for a seed."""
    for s in range(len(structures)):
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        numbers, positions = structures.numbers[rows], structures.positions[rows]
        yield s, numbers, positions
        rng = np.random.default_rng([seed, s])
        for _ in range(copies):
            yield s, numbers, positions + rng.normal(0.0, jitter, positions.shape)


def labeled(portion: list[Geometry], max_force: float) -> dict[str, np.ndarray]:
    """Ragged columns of those structures of a portion that can be labeled."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in LABELS}
    for source, numbers, positions in portion:
        labels = label(numbers, positions)
        if labels is None or np.abs(labels["F_eV_A"]).max() > max_force:
            continue
        row = {
            "n_atoms": np.array([len(numbers)]),
            "Z": numbers.astype(np.uint8),
            "R": positions,
            "source": np.array([source]),
        }
        row |= {name: np.atleast_1d(value) for name, value in labels.items()}
        row["dipole_eA"] = row["dipole_eA"][None]
        for name in LABELS:
            columns[name].append(row[name])
    empty = {"F_eV_A": (0, 3), "R": (0, 3), "dipole_eA": (0, 3)}
    return {name: np.concatenate(v) if v else np.zeros(empty.get(name, (0,))) for name, v in columns.items()}


def save(path: Path, columns: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--jitter", type=float, default=0.03, help="Å")
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--max-force", type=float, default=30.0, help="eV/Å")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    structures = read(arguments.structures)
    if structures.pbc is not None and structures.pbc.any():
        parser.error(f"{arguments.structures} holds periodic structures; this script labels molecules.")
    parts = arguments.output.with_suffix(".parts")
    parts.mkdir(exist_ok=True)
    record = {
        "structures": structures.digest(),
        "jitter": arguments.jitter,
        "copies": arguments.copies,
        "seed": arguments.seed,
    }
    stamp = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]  # parts of other settings are never mixed in
    work = list(geometries(structures, arguments.jitter, arguments.copies, arguments.seed))
    left_out, names = 0, []
    for start in tqdm(range(0, len(work), PORTION), unit="portion"):
        path = parts / f"{stamp}-{start:08d}.npz"
        names.append(path)
        if not path.exists():
            columns = labeled(work[start : start + PORTION], arguments.max_force)
            save(path, columns)
        with np.load(path, allow_pickle=False) as file:
            left_out += min(PORTION, len(work) - start) - len(file["n_atoms"])
    loaded = [dict(np.load(path, allow_pickle=False)) for path in names]
    save(arguments.output, {name: np.concatenate([part[name] for part in loaded]) for name in LABELS})
    shutil.rmtree(parts)
    print(f"{arguments.output}: {len(work) - left_out} structures labeled with GFN2-xTB, {left_out} left out")


if __name__ == "__main__":
    main()
