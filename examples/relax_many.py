"""Many conformers relaxed at once, against one by one.

    pip install ".[torchsim]"
    python examples/relax_many.py [MOLECULES] [FILE]

MOLECULES (256) copies of aspirin, or of the molecule in FILE, are displaced at random and relaxed with SchNet `organic` to
0.05 eV/Å: by TorchSim all at once, on the GPU if there is one, and by ASE one after another. Both use FIRE, but TorchSim
changes its mixing of velocities one step earlier than ASE, so that a soft molecule may end in a neighboring minimum.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch_sim as ts
from ase import Atoms
from ase.io import read
from ase.optimize import FIRE

from ase_xai import load
from ase_xai.torchsim import TorchSimModel

FMAX, STEPS = 0.05, 1000
DISPLACEMENT = 0.05  # Å
SAME = 0.02  # eV between energies of the same minimum, whose bottom neither relaxation reaches
MOLECULE = Path(__file__).resolve().parents[1] / "benchmarks" / "drug_like.xyz"


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    start = read(sys.argv[2] if len(sys.argv) > 2 else MOLECULE, index=0)
    calculator = load("organic")
    print(f"{number} × {start.get_chemical_formula()}, {calculator.describe().splitlines()[1]}")
    calculator.calculate_many(displaced(start, 2))  # compiles
    relaxed, together, seconds_together = at_once(displaced(start, number), calculator)
    alone, seconds_alone, steps = one_by_one(displaced(start, number), calculator)
    again = [calculator.get_potential_energy(atoms) for atoms in relaxed]
    elsewhere = np.abs(together - alone) > SAME
    print(f"at once:    {seconds_together:8.1f} s")
    print(f"one by one: {seconds_alone:8.1f} s, {seconds_alone / seconds_together:.1f} times as long; {steps} steps in all")
    print(f"largest difference of an energy at the same geometry: {1000 * np.abs(together - again).max():.4f} meV")
    print(
        f"after both relaxations: {1000 * np.abs(together - alone)[~elsewhere].max(initial=0):.1f} meV, except for "
        f"{elsewhere.sum()} molecules in another minimum, up to {1000 * np.abs(together - alone).max():.0f} meV"
    )


def displaced(start: Atoms, number: int) -> list[Atoms]:
    """Copies of an open system, each displaced in its own way."""
    frames = [Atoms(start.numbers, start.positions) for _ in range(number)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(DISPLACEMENT, seed=seed)
    return frames


def at_once(frames: list[Atoms], calculator) -> tuple[list[Atoms], np.ndarray, float]:
    """Relaxed molecules, their energies in eV, and the time in s."""
    converged = ts.generate_force_convergence_fn(FMAX, include_cell_forces=False)
    started = time.perf_counter()
    final = ts.optimize(
        frames, TorchSimModel(calculator), optimizer=ts.optimizers.fire, convergence_fn=converged, max_steps=STEPS
    )
    seconds = time.perf_counter() - started
    largest = float(final.forces.norm(dim=1).max())
    if not largest < FMAX:
        raise RuntimeError(f"after {STEPS} steps there still is a force of {largest:.3f} eV/Å, more than {FMAX}.")
    return final.to_atoms(), final.energy.cpu().numpy(), seconds


def one_by_one(frames: list[Atoms], calculator) -> tuple[np.ndarray, float, int]:
    """Relaxed energies in eV, the time in s, and the number of steps."""
    started, energies, steps = time.perf_counter(), [], 0
    for atoms in frames:
        atoms.calc = calculator
        optimizer = FIRE(atoms, logfile=None)
        if not optimizer.run(fmax=FMAX, steps=STEPS):
            raise RuntimeError(f"{atoms.symbols} did not relax to {FMAX} eV/Å in {STEPS} steps.")
        energies.append(atoms.get_potential_energy())
        steps += optimizer.get_number_of_steps()
    return np.array(energies), time.perf_counter() - started, steps


if __name__ == "__main__":
    main()
