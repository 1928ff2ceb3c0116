"""Time of a map of the local chemical potential, beside one structure of N + 1 atoms per point, and its error.

    python benchmarks/probe_map.py [--weights organic] [--molecule aspirin] [--points 100000] [--naive 200] [--threads 2]

The molecules are those of benchmarks/drug_like.xyz; points stand on a grid around the molecule. The slow ways are timed on
fewer points, and every way in turns, best of the rounds. Errors are against the exact way in float64, at points outside of
atoms.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import read

from ase_xai import NetworkCalculator, load
from ase_xai.explainers import Explanation, InsertionEnergy, LocalChemicalPotential
from ase_xai.explainers.places import Grid
from ase_xai.graph import AtomGraph

MARGIN = 3.0  # Å


def grid_of(atoms: Atoms, n_points: int) -> tuple[int, int, int]:
    """About `n_points` points in a box, equally spaced."""
    lengths = np.ptp(atoms.positions, axis=0) + 2 * MARGIN
    spacing = (lengths.prod() / n_points) ** (1 / 3)
    n1, n2 = (max(2, round(length / spacing)) for length in lengths[:2])
    return n1, n2, round(n_points / (n1 * n2))


def one_by_one(calculator: NetworkCalculator, atoms: Atoms, points: np.ndarray) -> None:
    """Energies of N + 1 atoms, one structure per point, by the bare network: the least that this way can cost."""
    network = calculator.network
    with torch.no_grad():
        for point in points:
            network(AtomGraph.from_atoms(atoms + Atoms("H", [point]), network.cutoff))


def as_calculator(calculator: NetworkCalculator, atoms: Atoms, points: np.ndarray) -> None:
    """The same through ASE, which also gives forces."""
    for point in points:
        joint = atoms + Atoms("H", [point])
        joint.calc = calculator
        joint.get_potential_energy()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def error(one: Explanation, other: Explanation) -> float:
    """Largest difference in eV at points outside of atoms."""
    assert one.mask is not None
    return float(np.abs(one.values - other.values)[one.mask].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="organic")
    parser.add_argument("--molecule", default="aspirin")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--naive", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message=".* is a radical")
    molecules = {system.info["name"]: system for system in read(Path(__file__).with_name("drug_like.xyz"), index=":")}
    if arguments.molecule not in molecules:
        parser.error(f"there is no {arguments.molecule}; there are {', '.join(molecules)}")
    atoms = molecules[arguments.molecule]
    single, double = (load(arguments.weights, dtype=dtype) for dtype in ("float32", "float64"))
    shape = grid_of(atoms, arguments.points)
    grid = Grid(margin=MARGIN, shape=shape)
    points = grid.around(atoms).points
    far_enough = np.linalg.norm(points[:, None] - atoms.positions[None], axis=2).min(axis=1) > 0.8
    few = points[far_enough][:: max(1, far_enough.sum() // arguments.naive)][: arguments.naive]
    some = points[:: max(1, len(points) // 5000)]

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "N + 1 atoms, one by one, ASE calculator": (len(few), lambda: as_calculator(single, atoms, few)),
        "N + 1 atoms, one by one, network only": (len(few), lambda: one_by_one(single, atoms, few)),
        "N + 1 atoms, batched: InsertionEnergy": (len(few), lambda: InsertionEnergy("H", points=few)(single, atoms)),
        "probes, exact": (
            len(some),
            lambda: LocalChemicalPotential("H", points=some, tabulated=False)(single, atoms),
        ),
        "probes, tables": (len(points), lambda: LocalChemicalPotential("H", grid=grid, tabulated=True)(single, atoms)),
    }
    best = dict.fromkeys(ways, np.inf)
    for _, (name, (_, work)) in itertools.product(range(arguments.rounds), ways.items()):
        best[name] = min(best[name], timed(work))
    print(
        f"{arguments.molecule}, {len(atoms)} atoms, weights {arguments.weights}, float32, {arguments.threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}, grid of {' x '.join(map(str, shape))} points\n"
    )
    print(
        f"| way | points timed | µs per point | s per {len(points):,} points | times faster |\n"
        "| --- | --- | --- | --- | --- |"
    )
    slowest = best["N + 1 atoms, one by one, network only"] / len(few)
    for name, (count, _) in ways.items():
        each = best[name] / count
        print(f"| {name} | {count:,} | {1e6 * each:,.1f} | {each * len(points):,.1f} | {slowest / each:,.1f} |")

    exact = LocalChemicalPotential("H", points=some, tabulated=False, limit=None)(double, atoms)
    print("\n| against the exact way in float64 | largest difference, eV |\n| --- | --- |")
    for calculator, tabulated in itertools.product((double, single), (False, True)):
        answer = LocalChemicalPotential("H", points=some, tabulated=tabulated, limit=None)(calculator, atoms)
        dtype = str(calculator.network.dtype).removeprefix("torch.")
        print(f"| {dtype}, {'tables' if tabulated else 'exact'} | {error(exact, answer):.1e} |")
    print(f"\nThe map spans {np.ptp(exact.values[exact.mask]):.2f} eV at {int(exact.mask.sum()):,} points outside of atoms.")


if __name__ == "__main__":
    main()
