"""Do drug-like molecules stay what they are in long dynamics?

    python benchmarks/long_md.py FOLDER [--weights organic] [--temperature 300] [--ps 100]

Ten molecules of 21 to 50 atoms (`drug_like.xyz`: RDKit conformers from the SMILES in the file) run at once, 60 Å apart,
which is beyond every cutoff, so each moves as if alone. Relaxed first, then Langevin dynamics (0.5 fs, friction 0.01/fs)
with one frame every 50 fs in FOLDER; the same command continues a run that was cut off. A molecule is intact if in every
frame its bonds are those of the start: bonded pairs are closer than 1.3 times the sum of covalent radii at the start, and
broken or formed if a pair is found beyond 1.6 times, or a new one within 1.0 times, that sum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import iread, read
from ase.optimize import FIRE

from ase_xai import load
from ase_xai.runs import MDSettings, run_md

APART = 60.0  # Å


def side_by_side(molecules: list[Atoms]) -> Atoms:
    """All molecules in one open system, on a line."""
    together = Atoms()
    for number, molecule in enumerate(molecules):
        copy = Atoms(molecule.numbers, molecule.positions - molecule.get_center_of_mass())
        copy.translate([number * APART, 0, 0])
        together += copy
    return together


def bond_ratios(molecule: Atoms, positions: np.ndarray) -> np.ndarray:
    """(n, n) distances over sums of covalent radii."""
    radii = covalent_radii[molecule.numbers]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return np.asarray(distances / (radii[:, None] + radii[None]))


def first_change(molecule: Atoms, frames: list[np.ndarray]) -> tuple[int, str] | None:
    """Frame and kind of the first bond broken or formed."""
    pairs = np.triu(np.ones((len(molecule), len(molecule)), bool), 1)
    bonded = (bond_ratios(molecule, molecule.positions) < 1.3) & pairs
    for number, positions in enumerate(frames):
        ratios = bond_ratios(molecule, positions)
        for kind, changed in (("broken", bonded & (ratios > 1.6)), ("formed", ~bonded & pairs & (ratios < 1.0))):
            if changed.any():
                i, j = np.argwhere(changed)[0]
                return number, f"{molecule.symbols[i]}{i}-{molecule.symbols[j]}{j} {kind}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="organic")
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--ps", type=float, default=100.0)
    parser.add_argument("--compiled", action="store_true", help="compiled kernels (extra `fast`)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    molecules = read(Path(__file__).with_name("drug_like.xyz"), ":")
    name = f"{Path(arguments.weights).stem}-{arguments.temperature:.0f}K"
    start, trajectory = arguments.folder / f"{name}-start.xyz", arguments.folder / f"{name}.traj"
    calculator = load(arguments.weights)
    calculator.network.compiled = arguments.compiled
    if not start.exists():
        atoms = side_by_side(molecules)
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=0.05, steps=2000)
        Atoms(atoms.numbers, atoms.positions).write(start)
    atoms = read(start)
    atoms.calc = calculator
    settings = MDSettings(
        steps=round(arguments.ps * 2000), timestep=0.5, temperature=arguments.temperature, interval=100, seed=1
    )
    run_md(atoms, trajectory, settings, restart=trajectory.exists())
    report(molecules, read(start), trajectory, arguments)


def report(molecules: list[Atoms], start: Atoms, trajectory: Path, arguments: argparse.Namespace) -> None:
    frames = [frame.positions for frame in iread(trajectory)]
    print(f"{arguments.weights}: {arguments.ps:g} ps at {arguments.temperature:g} K, {len(frames)} frames")
    offset, intact = 0, 0
    for molecule in molecules:
        rows = slice(offset, offset + len(molecule))
        offset += len(molecule)
        change = first_change(start[rows], [frame[rows] for frame in frames])
        intact += change is None
        outcome = "intact" if change is None else f"{change[1]} after {change[0] * 0.05:.2f} ps"
        print(f"| {molecule.info['name']} | {molecule.get_chemical_formula()} | {len(molecule)} atoms | {outcome} |")
    print(f"{intact} of {len(molecules)} intact")


if __name__ == "__main__":
    main()
