"""Cost and memory against the number of atoms: periodic water from 24 to 50,000 atoms, energy and forces through ASE.

    python benchmarks/scaling.py [--threads 1] [--out benchmarks] [--largest 50000] [--device cpu]

SchNet with 128 features, 6 interactions, 5 Å, and Behler-Parrinello with 32 functions, random weights, float32. Every size
is measured in a process of its own, so that its peak memory is its own: what building the list adds to it, and what an
evaluation adds once the list is there. Medians of wall time; writes scaling.png, cost against atoms.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from md_step import our_networks, saved, water

from ase_xai import load

SIZES = (24, 81, 192, 648, 1536, 5184, 12288, 24000, 52728)
NETWORKS = ("SchNet", "Behler-Parrinello, 32 functions")


def peak() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(network: str, n_atoms: int, threads: int, device: str) -> dict[str, float]:
    """Times in ms and memory in bytes of one size, in this process."""
    torch.set_num_threads(threads)
    atoms = water(n_atoms)
    with tempfile.TemporaryDirectory() as folder:
        calculator = load(saved(our_networks()[network], Path(folder), "network"), threads=threads, device=device)
        small = water(24)
        small.calc = calculator
        small.get_forces()  # compiles, makes tables
    start = peak()
    started = time.perf_counter()
    pairs = calculator.neighbor_list.update(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    build = time.perf_counter() - started
    with_list = peak()
    atoms.calc = calculator
    rng, times = np.random.default_rng(0), []
    for _ in range(max(6, min(30, 20_000 // len(atoms)))):
        atoms.positions += rng.normal(0.0, 0.005, atoms.positions.shape)
        started = time.perf_counter()
        atoms.get_forces()
        times.append(1e3 * (time.perf_counter() - started))
    return {
        "atoms": len(atoms),
        "pairs": len(pairs.first),
        "build": 1e3 * build,
        "step": statistics.median(times),
        "list": with_list - start,
        "evaluation": peak() - with_list,
        "peak": peak(),
    }


def in_a_process(network: str, n_atoms: int, threads: int, device: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--device", device, "--one", network, str(n_atoms)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def figure_of(points: dict[str, list[dict[str, float]]], threads: int) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, rows), color, marker in zip(points.items(), ("#0072B2", "#D55E00"), "os", strict=True):
        atoms = [row["atoms"] for row in rows]
        axes.loglog(atoms, [row["step"] for row in rows], marker=marker, color=color, label=name)
        linear = [rows[-1]["step"] * n / atoms[-1] for n in atoms]
        axes.loglog(atoms, linear, color=color, linewidth=0.8, linestyle=":", label="_")
    axes.set_xlabel("atoms (periodic water)")
    axes.set_ylabel(f"energy and forces, ms, {threads} thread(s)")
    axes.grid(True, which="both", color="#E4E4E4", linewidth=0.6)
    axes.legend(frameon=False, title="dotted: proportional to the number of atoms")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--largest", type=int, default=60_000)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "ATOMS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one[0], int(arguments.one[1]), arguments.threads, arguments.device)))
        return
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, {arguments.threads} thread(s), float32\n")
    print("| network | atoms | pairs in the list | list (ms) | step (ms) | step, µs per atom | list, kB per atom |", end="")
    print(" evaluation, kB per atom | peak (GB) |\n" + "| --- " * 9 + "|")
    points: dict[str, list[dict[str, float]]] = {name: [] for name in NETWORKS}
    for name in NETWORKS:
        for size in SIZES:
            if size > arguments.largest:
                continue
            row = in_a_process(name, size, arguments.threads, arguments.device)
            points[name].append(row)
            n = row["atoms"]
            print(
                f"| {name} | {n:,.0f} | {row['pairs']:,.0f} | {row['build']:.1f} | {row['step']:.2f} | "
                f"{1e3 * row['step'] / n:.1f} | {row['list'] / n / 1e3:.1f} | {row['evaluation'] / n / 1e3:.1f} | "
                f"{row['peak'] / 1e9:.2f} |",
                flush=True,
            )
    if arguments.out:
        figure_of(points, arguments.threads).savefig(arguments.out / "scaling.png")


if __name__ == "__main__":
    main()
