"""Energy drift of NVE dynamics: a straight line through the total energy, meV per atom and ps.

    python benchmarks/nve_drift.py [--weights organic organic-bp] [--picoseconds 5] [--timestep 0.5]
        [--kernels auto reference]

The molecule is relaxed, given momenta for 300 K, run 1 ps with a thermostat, then left alone. Beside the slope stands its
standard error from 10 block slopes, and the standard deviation of the total energy around the line, which is the
discretization error of velocity Verlet and falls with the square of the time step.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ase_xai import load

MOLECULE = Path(__file__).parents[1] / "examples" / "paracetamol.xyz"


def equilibrated(weights: str, timestep: float) -> Atoms:
    """The molecule after relaxation and 1 ps at 300 K, in float64."""
    atoms = read(MOLECULE)
    atoms.calc = load(weights, dtype="float64")
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=500)
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    friction = 0.05 / units.fs
    Langevin(atoms, timestep * units.fs, temperature_K=300, friction=friction, rng=rng, fixcm=False).run(
        round(1000 / timestep)
    )
    Stationary(atoms)
    ZeroRotation(atoms)
    return atoms


def total_energies(atoms: Atoms, steps: int, timestep: float) -> tuple[np.ndarray, float]:
    """(steps + 1,) total energy in eV, and seconds per step."""
    energies: list[float] = []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=1)
    started = time.perf_counter()
    dynamics.run(steps)
    return np.array(energies), (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["organic", "organic-bp"])
    parser.add_argument("--picoseconds", type=float, default=5.0)
    parser.add_argument("--kernels", nargs="+", default=["auto", "reference"], help="see the calculators")
    parser.add_argument("--timestep", type=float, default=0.5)
    arguments = parser.parse_args()
    steps = round(1000 * arguments.picoseconds / arguments.timestep)
    times = np.arange(steps + 1) * arguments.timestep / 1000
    print(f"{MOLECULE.stem}, {arguments.picoseconds:g} ps NVE from 300 K, time step {arguments.timestep:g} fs")
    titles = ("weights", "dtype", "kernels", "drift / meV/atom/ps", "error", "std / meV/atom", "ms/step")
    print(" ".join(f"{title:>{width}}" for title, width in zip(titles, (12, 8, 10, 20, 8, 15, 8), strict=True)))
    for weights in arguments.weights:
        start = equilibrated(weights, arguments.timestep)
        for dtype, kernels in itertools.product(("float32", "float64"), arguments.kernels):
            atoms = start.copy()
            atoms.calc = load(weights, dtype=dtype, kernels=kernels)
            energies, seconds = total_energies(atoms, steps, arguments.timestep)
            scaled = 1000 * energies / len(atoms)
            slope, offset = np.polyfit(times, scaled, 1)
            blocks = [
                np.polyfit(t, e, 1)[0] for t, e in zip(np.array_split(times, 10), np.array_split(scaled, 10), strict=True)
            ]
            error = np.std(blocks, ddof=1) / np.sqrt(10) / 10
            spread = np.std(scaled - slope * times - offset)
            print(
                f"{weights:>12} {dtype:>8} {kernels:>10} {slope:20.4f} {error:8.4f} {spread:15.4f} {1000 * seconds:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
