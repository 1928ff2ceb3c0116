"""How many held-out molecules stay intact in molecular dynamics.

    python benchmarks/md_stability.py DATA_FOLDER [--weights organic organic-bp] [--molecules 100] [--steps 1000]

Molecules come from the test part of `examples/training/organic.toml`: none of them, in any geometry, was trained on. Each is
relaxed, given momenta for 300 K, and run with Langevin dynamics at 0.5 fs. It counts as intact if no bond ever exceeds 1.5
times its length at the start.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import BFGS

from ase_xai import load
from ase_xai.training.config import load_config
from ase_xai.training.pipeline import load_structures, split_of

CONFIG = Path(__file__).parents[1] / "examples" / "training" / "organic.toml"


def held_out(data: Path, n_molecules: int) -> list[Atoms]:
    """Test structures of distinct molecules, at least 6 atoms, no dimers, in an order fixed by a seed."""
    config = load_config(CONFIG, data=data)
    structures = load_structures(config.data)
    test = split_of(structures, config.split).test
    picked: dict[int, Atoms] = {}
    for s in np.random.default_rng(0).permutation(test):
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        if (
            structures.kind_names[structures.kinds[s]] != "dimer"
            and structures.n_atoms[s] >= 6
            and structures.groups[s] not in picked
        ):
            picked[int(structures.groups[s])] = Atoms(structures.numbers[rows], structures.positions[rows])
        if len(picked) == n_molecules:
            break
    return list(picked.values())


def largest_stretch(atoms: Atoms, steps: int, rng: np.random.Generator) -> float:
    """Relax, run, and give the largest ratio of a bond to its length at the start of the run."""
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=300)
    i, j, start = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=1.2))
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    Stationary(atoms)
    friction = 0.01 / units.fs
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=friction, rng=rng, fixcm=False)
    worst = 1.0
    for _ in dynamics.irun(steps):
        worst = max(worst, float((np.linalg.norm(atoms.positions[j] - atoms.positions[i], axis=1) / start).max()))
        if worst > 1.5:
            break
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", nargs="+", default=["organic", "organic-bp"])
    parser.add_argument("--molecules", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    for weights in arguments.weights:
        calculator, rng, started = load(weights), np.random.default_rng(1), time.perf_counter()
        stretches = []
        for atoms in held_out(arguments.data, arguments.molecules):
            atoms.calc = calculator
            stretches.append(largest_stretch(atoms, arguments.steps, rng))
            if stretches[-1] > 1.5:
                print(
                    f"{weights}: {atoms.get_chemical_formula()} broke (bond stretched {stretches[-1]:.2f} times)", flush=True
                )
        intact = sum(stretch <= 1.5 for stretch in stretches)
        print(
            f"{weights}: {intact} of {len(stretches)} intact after {arguments.steps} steps at 300 K; median largest stretch "
            f"{np.median(stretches):.3f}; {time.perf_counter() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
