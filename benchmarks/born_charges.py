"""What Born charges and infrared intensities of a 21-atom molecule (aspirin) cost, in forward passes of the same network.

    OMP_NUM_THREADS=1 python benchmarks/born_charges.py [WEIGHTS ...]

A forward pass is one evaluation of the network without gradients. `6N differences` is what central differences of the
dipole take, each with one forward pass; the last columns are the largest deviation between the two and what a call through
the calculator costs, graph and forces included. Medians of repeated runs, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import read

from ase_xai import load
from ase_xai.graph import AtomGraph
from ase_xai.networks import predict
from ase_xai.networks.base import AtomisticNetwork, add_up
from ase_xai.networks.response import born_charges, hessian

MOLECULES = Path(__file__).parent / "drug_like.xyz"
STEP = 1e-3  # Å


def median_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def by_differences(network: AtomisticNetwork, atoms: Atoms) -> np.ndarray:
    """(N, 3, 3) central differences of the dipole from 6N forward passes."""
    tensors = np.zeros((len(atoms), 3, 3))
    with torch.no_grad():
        for i, axis in np.ndindex(len(atoms), 3):
            for sign in (-1, 1):
                moved = atoms.copy()
                moved.positions[i, axis] += sign * STEP
                graph = AtomGraph.from_atoms(moved, network.cutoff)
                dipole = add_up(graph, network(graph)).dipole
                assert dipole is not None
                tensors[i, :, axis] += sign * dipole[0].numpy() / (2 * STEP)
    return tensors


def measure(weights: str, dtype: str, atoms: Atoms, repeats: int) -> None:
    calculator = load(weights, dtype=dtype, device="cpu")
    network, graph = calculator.network, calculator.checked_graph(atoms)

    def forward() -> None:
        with torch.no_grad():
            network(graph)

    def through_the_calculator() -> None:
        calculator.reset()
        calculator.get_property("born_effective_charges", atoms)

    base = median_ms(forward, 3 * repeats)
    rows = {
        "energy and forces": median_ms(lambda: predict(network, graph), repeats),
        "Born charges": median_ms(lambda: born_charges(network, graph), repeats),
        "ASE property": median_ms(through_the_calculator, repeats),
        "6N differences": median_ms(lambda: by_differences(network, atoms), 1),
        "Hessian": median_ms(lambda: hessian(network, graph), 1),
    }
    cells = " | ".join(f"{time / base:.1f}" for time in rows.values())
    deviation = np.abs(born_charges(network, graph).numpy() - by_differences(network, atoms)).max()
    print(f"| {weights}, {dtype} | {base:.2f} | {cells} | {deviation:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", default=["organic", "organic-bp"])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    atoms = read(MOLECULES, 0)
    heads = ("energy and forces", "Born charges", "ASE property", "6N differences", "Hessian")
    print(f"{len(atoms)} atoms ({atoms.get_chemical_formula()}); times in forward passes\n")
    print(f"| weights | forward (ms) | {' | '.join(heads)} | deviation (e) |\n" + "| --- " * (len(heads) + 3) + "|")
    for weights in arguments.weights:
        for dtype in ("float32", "float64"):
            measure(weights, dtype, atoms, arguments.repeats)


if __name__ == "__main__":
    main()
