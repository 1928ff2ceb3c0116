"""Report cards of the shipped molecular weights on ten molecules, put together.

    python benchmarks/report_cards.py [--weights organic organic-bp qm9 qm9-bp] [--dtype float64]

Molecules are those of `examples/small_molecules.py`, relaxed with "organic"; methane and benzene are symmetric, as built.
For each check and each of the weights: how many molecules pass (of those with a verdict), and the median and largest
|value|. A check without a verdict informs.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_molecules import BUILDERS, relaxed

from ase_xai import load
from ase_xai.explainers import report_card

SYMMETRIC = ("methane", "benzene")
RELAXED = ("propane", "ethanol", "acetaldehyde", "acetic acid", "acetonitrile", "acetamide", "furan", "pyridine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["organic", "organic-bp", "qm9", "qm9-bp"])
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    arguments = parser.parse_args()
    molecules = {name: BUILDERS[name]() for name in SYMMETRIC}
    molecules |= {name: relaxed(name, load("organic", dtype="float64")) for name in RELAXED}
    rows: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for name in arguments.weights:
        calculator = load(name, dtype=arguments.dtype)
        for atoms in molecules.values():
            for row in report_card(calculator, atoms).rows:
                rows[row.name][name].append(row)
    print(f"{len(molecules)} molecules, {arguments.dtype}: passed of judged; median and largest |value|\n")
    print("| check | " + " | ".join(arguments.weights) + " |\n" + "| --- " * (1 + len(arguments.weights)) + "|")
    for check, by_weights in rows.items():
        print(f"| {check} | " + " | ".join(cell(by_weights[name]) for name in arguments.weights) + " |")


def cell(rows: list) -> str:
    """One check of one network over all molecules."""
    if not rows:
        return ""
    judged = [row for row in rows if row.verdict != "info"]
    values = np.array([abs(row.value) for row in rows if row.value is not None])
    passed = f"{sum(row.verdict == 'pass' for row in judged)} of {len(judged)}; " if judged else ""
    numbers = f"{np.median(values):.2g}, {values.max():.2g}" if len(values) else "no value"
    return f"{passed}{numbers}"


if __name__ == "__main__":
    main()
