"""Times of explanations, each beside the naive way to the same numbers, one after the other in one run.

    python benchmarks/explanations.py [--threads 2]

    rigidity of a 100-atom frame (here)     what it adds to an energy evaluation that gives the last layer's inputs anyway
    probe_map.py                            100,000 probe points, beside one structure per point
    relevance.py                            all 1-, 2- and 3-body relevances, beside enumerated walks
    born_charges.py                         Born charges in forward passes, beside finite differences

Each of the three scripts runs in a process of its own and takes more arguments by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from ase.io import iread
from born_charges import median_ms

from ase_xai import load
from ase_xai.explainers import LocalRigidity
from ase_xai.explainers.rigidity import head_statistics, last_layer_rows

HERE = Path(__file__).parent


def print_rigidity(weights: str) -> None:
    """One line: energies alone, the leverages that rigidity needs beside them, both through the explainer."""
    by_name = {atoms.info["name"]: atoms for atoms in iread(HERE / "drug_like.xyz")}
    atoms = by_name["loratadine"].copy()
    second = by_name["loratadine"].copy()
    second.translate([0.0, 0.0, 8.0])
    atoms += second
    calculator = load(weights)
    graph, statistics = calculator.checked_graph(atoms), head_statistics(calculator, "energy")
    with torch.no_grad():
        output = calculator.network(graph)
        times = [
            median_ms(lambda: calculator.network(graph), 30),
            median_ms(lambda: statistics.leverages(last_layer_rows(calculator, graph, output, "energy")), 30),
            median_ms(lambda: LocalRigidity()(calculator, atoms), 30),
        ]
    print(f"| {weights} | {len(atoms)} | " + " | ".join(f"{ms:.2f}" for ms in times) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    titles = (
        "weights",
        "atoms",
        "energies (ms)",
        "rigidity on top (ms)",
        "whole explanation, list and energies included (ms)",
    )
    print("Rigidity, one thread, float32\n\n| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
    for weights in ("organic", "organic-bp"):
        print_rigidity(weights)
    threads = ["--threads", str(arguments.threads)]
    for script, extra in (
        ("probe_map.py", threads),
        ("relevance.py", [*threads, "--molecules", "aspirin"]),
        ("born_charges.py", []),
    ):
        print(f"\n{script}\n", flush=True)
        subprocess.run([sys.executable, HERE / script, *extra], check=True)


if __name__ == "__main__":
    main()
