"""Learning curves on QM9: test errors of both networks against the number of training molecules.

    python benchmarks/qm9_learning_curve.py DATA_FOLDER OUT_FOLDER [--sizes 1000 5000 20000] [--steps 20000]

Validation and test parts are those of `examples/training/qm9.toml`; training parts are nested, since they are the first
molecules of one permutation. Each run can be interrupted and continued by the same command. With `--all qm9 qm9-bp` the
shipped weights of these names, trained on everything, are added as the last points. Prints a table, writes
learning_curve.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.units import Debye
from matplotlib.figure import Figure

from ase_xai.training import pipeline
from ase_xai.weights import load_weights, resolve
from ase_xai.weights.format import ModelCard

NETWORKS = {"SchNet": "qm9", "Behler-Parrinello": "qm9-bp"}
EXAMPLES = Path(__file__).parents[1] / "examples" / "training"


def configured(template: str, data: Path, size: int) -> str:
    """The shipped configuration with fewer training molecules."""
    text = (EXAMPLES / f"{template}.toml").read_text()
    text = text.replace('files = ["', f'files = ["{data.resolve()}/')
    return text.replace("[split]\n", f"[split]\ntraining = {size}\n")


def measured(card: ModelCard) -> tuple[int, float, float]:
    """Number of training molecules, energy MAE in meV, dipole MAE in D, on the test part."""
    table = card.errors["test"]["all"]
    n_training = card.training["structures"]["training"]
    return n_training, 1e3 * table["energy_mae_eV"], table["dipole_magnitude_mae_eA"] / Debye


def figure_of(points: dict[str, list[tuple[int, float, float]]]) -> Figure:
    figure = Figure(figsize=(8.0, 3.6), dpi=150, layout="constrained")
    for axes, column, label in zip(figure.subplots(1, 2), (1, 2), ("energy MAE (meV)", "|dipole| MAE (D)"), strict=True):
        for (name, rows), color, marker in zip(points.items(), ("#0072B2", "#D55E00"), "os", strict=True):
            axes.loglog([row[0] for row in rows], [row[column] for row in rows], marker=marker, color=color, label=name)
        axes.set_xlabel("training molecules")
        axes.set_ylabel(f"test {label}")
        axes.grid(True, which="both", color="#E4E4E4", linewidth=0.6)
        axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--all", nargs="*", default=[], help="shipped weights trained on all molecules")
    arguments = parser.parse_args()
    points: dict[str, list[tuple[int, float, float]]] = {name: [] for name in NETWORKS}
    for name, template in NETWORKS.items():
        for size in arguments.sizes:
            folder = arguments.out / f"{template}-{size}"
            folder.mkdir(parents=True, exist_ok=True)
            config = folder / "run.toml"
            config.write_text(configured(template, arguments.data, size))
            weights = pipeline.train(config, folder, steps=arguments.steps, report=lambda line: print(" ", line))
            points[name].append(measured(load_weights(weights).card))
        if template in arguments.all:
            points[name].append(measured(resolve(template).card))
    print("| network | training molecules | energy MAE (meV) | dipole magnitude MAE (D) |\n" + "| --- " * 4 + "|")
    for name, rows in points.items():
        for n, energy, dipole in rows:
            print(f"| {name} | {n} | {energy:.1f} | {dipole:.3f} |")
    figure_of(points).savefig(arguments.out / "learning_curve.png")


if __name__ == "__main__":
    main()
