"""Do networks trained on totals alone find the atomic energies of a real-space partition? Does rigidity say where?

    python benchmarks/iqa_water.py DATA_FOLDER OUT [--steps 6000] [--seeds 3]

1,016 water clusters of one to seven molecules with energies partitioned by interacting quantum atoms (Gallegos et al.,
Nat. Commun. 15, 4345 (2024)). SchNets and Behler-Parrinello networks of several sizes and seeds are trained on the totals
of 80 % of the clusters. On a held-out tenth the latent atomic energies are compared with those of quantum atoms by the
virial theorem, E_i = E·T_i/ΣT (T_i kinetic energy of atom i in its basin), per element and summed over each water molecule.
All clusters are (H2O)n, so the data leave the split between O and H open: means per element are taken out first.

Columns: MAE of the total on test clusters; Pearson r with the quantum atoms for H, O and whole molecules; Spearman
correlation of σ from prediction rigidity with the actual deviation (after the best linear map) over atoms; and between
seeds, mean Pearson r of the latent energies. The same command continues an interrupted run. Writes iqa_water.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Hartree
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from ase_xai import explain, load
from ase_xai.explainers import AtomicEnergies
from ase_xai.training import pipeline

FILE = "iqa_water_clusters.npz"
SIZES = {
    "schnet": {"16 x 2": "n_features = 16\nn_interactions = 2", "32 x 2": "n_features = 32\nn_interactions = 2",
               "64 x 3": "n_features = 64\nn_interactions = 3"},
    "behler-parrinello": {"10, 10": "hidden = [10, 10]", "30, 30": "hidden = [30, 30]", "100, 100": "hidden = [100, 100]"},
}  # fmt: skip
CONFIG = """
[data]
files = ["{file}"]
columns = {{energy = "E_iqa_Ha"}}

[split]
validation = 0.1
test = 0.1
seed = 20261125

[network]
architecture = "{architecture}"
charges = false
{size}

[training]
steps = {steps}
batch_size = 16
learning_rate = 2e-3
seed = {seed}
loss = {{energy = 1.0, forces = 0.0, dipole = 0.0}}

[model]
level_of_theory = "not stated by the source (IQA totals)"
"""


@dataclass(frozen=True)
class Clusters:
    """Test clusters with their quantum atoms' energies (eV)."""

    molecules: list[Atoms]
    quantum: NDArray[np.float64]

    @property
    def numbers(self) -> NDArray[np.int64]:
        return np.concatenate([m.numbers for m in self.molecules])

    @property
    def waters(self) -> NDArray[np.int64]:
        """(N,) index of the water molecule of each atom: that of the nearest oxygen."""
        found, n = [], 0
        for atoms in self.molecules:
            oxygens = np.flatnonzero(atoms.numbers == 8)
            distances = atoms.get_all_distances()[:, oxygens]
            found.append(n + distances.argmin(axis=1))
            n += len(oxygens)
        return np.concatenate(found)


def test_clusters(data: Path, indices: NDArray[np.int64]) -> Clusters:
    with np.load(data / FILE, allow_pickle=False) as file:
        n, z, r = file["n_atoms"].astype(int), file["Z"], file["R"].astype(float)
        kinetic, energy = file["T_atom_Ha"].astype(float), file["E_iqa_Ha"]

    offsets = np.concatenate([[0], np.cumsum(n)])
    rows = [slice(offsets[s], offsets[s + 1]) for s in indices]
    quantum = [energy[s] * kinetic[row] / kinetic[row].sum() * Hartree for s, row in zip(indices, rows, strict=True)]
    return Clusters([Atoms(z[row], r[row]) for row in rows], np.concatenate(quantum))


def without_element_means(values: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    out = values.copy()
    for z in np.unique(numbers):
        out[numbers == z] -= values[numbers == z].mean()
    return out


def latent(weights: Path, clusters: Clusters) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Latent energies and their σ (eV) of all test atoms, and the MAE of the totals (meV)."""
    calculator = load(weights)
    answers = [explain(atoms, AtomicEnergies(), calculator) for atoms in clusters.molecules]
    energies = np.concatenate([answer.values for answer in answers])
    sigma = np.concatenate([answer.uncertainty for answer in answers])
    sizes = np.array([len(atoms) for atoms in clusters.molecules])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    error = np.add.reduceat(energies - clusters.quantum, starts)
    return energies, sigma, 1e3 * float(np.abs(error).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows, best = [], None
    for architecture, sizes in SIZES.items():
        for size, text in sizes.items():
            found = []
            for seed in range(arguments.seeds):
                folder = arguments.out / f"{architecture}-{size.replace(' ', '').replace(',', '-')}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                config = folder / "run.toml"
                file = (arguments.data / FILE).resolve()
                config.write_text(
                    CONFIG.format(file=file, architecture=architecture, size=text, steps=arguments.steps, seed=seed)
                )
                weights = pipeline.train(config, folder, report=lambda line: None)
                clusters = test_clusters(arguments.data, np.array(json.loads((folder / "split.json").read_text())["test"]))
                found.append(latent(weights, clusters))
            rows.append(row_of(f"{architecture} {size}", found, clusters))
            print(rows[-1], flush=True)
            if best is None or size in ("64 x 3", "100, 100"):
                best = (best or []) + [(f"{architecture} {size}", found[0][0])]
    print("\n| network | MAE of total (meV) | r H | r O | r H2O | Spearman σ, deviation | r between seeds |")
    print("| --- " * 7 + "|\n" + "\n".join(rows))
    figure_of(best, clusters).savefig(arguments.out / "iqa_water.png")


def row_of(name: str, found: list[tuple[NDArray[np.float64], NDArray[np.float64], float]], clusters: Clusters) -> str:
    """Means over seeds, with the standard deviation where it says something."""
    numbers, waters = clusters.numbers, clusters.waters
    reference = without_element_means(clusters.quantum, numbers)
    columns: list[list[float]] = [[] for _ in range(5)]
    for energies, sigma, error in found:
        values = without_element_means(energies, numbers)
        columns[0].append(error)
        for column, z in ((1, 1), (2, 8)):
            columns[column].append(pearsonr(values[numbers == z], reference[numbers == z])[0])
        columns[3].append(pearsonr(np.bincount(waters, values), np.bincount(waters, reference))[0])
        deviation = np.concatenate([_deviation(values[numbers == z], reference[numbers == z]) for z in (1, 8)])
        ordered = np.concatenate([sigma[numbers == z] for z in (1, 8)])
        columns[4].append(spearmanr(ordered, deviation)[0])
    pairs = [
        pearsonr(without_element_means(a[0], numbers), without_element_means(b[0], numbers))[0]
        for a, b in itertools.combinations(found, 2)
    ]
    cells = [f"{np.mean(c):.{1 if k == 0 else 2}f} ± {np.std(c):.{1 if k == 0 else 2}f}" for k, c in enumerate(columns)]
    return f"| {name} | {' | '.join(cells)} | {np.mean(pairs) if pairs else float('nan'):.2f} |"


def _deviation(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """|reference - best linear function of the values|."""
    return np.abs(reference - np.polyval(np.polyfit(values, reference, 1), values))


def figure_of(best: list[tuple[str, NDArray[np.float64]]], clusters: Clusters) -> Figure:
    numbers = clusters.numbers
    reference = without_element_means(clusters.quantum, numbers)
    figure = Figure(figsize=(4.2 * len(best), 3.8), dpi=150, layout="constrained")
    for axes, (name, energies) in zip(np.atleast_1d(figure.subplots(1, len(best))), best, strict=True):
        values = without_element_means(energies, numbers)
        for z, symbol, color in ((1, "H", "#999999"), (8, "O", "#D55E00")):
            axes.plot(reference[numbers == z], values[numbers == z], ".", ms=3, color=color, label=symbol)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("quantum atoms (virial), minus element mean (eV)")
        axes.set_ylabel("latent, minus element mean (eV)")
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
