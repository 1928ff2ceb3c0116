"""Do atomic energies learned from totals tell aromatic rings from others?

    python benchmarks/ring_energies.py DATA_FOLDER OUT_FOLDER [--weights qm9 qm9-bp]

Every ring of six carbon atoms in the QM9 molecules whose energies were not trained on gets the sum of its atoms' latent
energies, each minus the mean of its element over the training data (eV). Aromatic are planar rings whose atoms have three
neighbors each. Printed: the area under the ROC curve for "aromatic rings are lower" (0.5 is chance) with a 95 % bootstrap
interval, over the ring's carbon atoms and over its carbon and hydrogen atoms; the lowest and highest rings. Writes
ring_energies.png.

Source of the question: Schütt et al., Nat. Commun. 8, 13890 (2017), where rings were ranked by a network's atomic energies.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from ase_xai import explain, load
from ase_xai.explainers import AtomicEnergies

PLANAR = 0.1  # Å; largest distance of a ring atom from the mean plane of an aromatic ring


@dataclass(frozen=True, eq=False)
class Ring:
    """Six carbon atoms of molecule `molecule`."""

    molecule: int
    carbons: tuple[int, ...]
    hydrogens: tuple[int, ...]
    aromatic: bool


def bonds_of(atoms: Atoms) -> list[list[int]]:
    radii = covalent_radii[atoms.numbers]
    bonded = atoms.get_all_distances() < 1.25 * (radii[:, None] + radii[None])
    np.fill_diagonal(bonded, False)
    return [np.flatnonzero(row).tolist() for row in bonded]


def six_rings(atoms: Atoms, bonds: list[list[int]]) -> list[tuple[int, ...]]:
    """Rings of six carbon atoms without a chord."""
    found: dict[frozenset[int], tuple[int, ...]] = {}

    def grow(path: list[int]) -> None:
        for after in bonds[path[-1]]:
            if len(path) == 6 and after == path[0]:
                chords = sum(b in path for a in path for b in bonds[a])
                if chords == 12:
                    found.setdefault(frozenset(path), tuple(path))
            elif len(path) < 6 and after > path[0] and after not in path and atoms.numbers[after] == 6:
                grow([*path, after])

    for start in np.flatnonzero(atoms.numbers == 6):
        grow([int(start)])
    return list(found.values())


def rings_of(number: int, atoms: Atoms) -> list[Ring]:
    bonds = bonds_of(atoms)
    rings = []
    for carbons in six_rings(atoms, bonds):
        positions = atoms.positions[list(carbons)]
        off_plane = np.linalg.svd(positions - positions.mean(axis=0))[2][2] @ (positions - positions.mean(axis=0)).T
        aromatic = all(len(bonds[c]) == 3 for c in carbons) and np.abs(off_plane).max() < PLANAR
        hydrogens = tuple(h for c in carbons for h in bonds[c] if atoms.numbers[h] == 1)
        rings.append(Ring(number, carbons, hydrogens, bool(aromatic)))
    return rings


def area(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Probability that a value of `low` is below one of `high`, ties counted half."""
    ranks = rankdata(np.concatenate([low, high]))
    return 1.0 - (ranks[: len(low)].sum() - len(low) * (len(low) + 1) / 2) / (len(low) * len(high))


def interval(low: NDArray[np.float64], high: NDArray[np.float64], n: int = 500) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    areas = [area(rng.choice(low, len(low)), rng.choice(high, len(high))) for _ in range(n)]
    return float(np.quantile(areas, 0.025)), float(np.quantile(areas, 0.975))


def unseen(data: Path, weights: str) -> tuple[list[Atoms], list[str]]:
    """QM9 molecules whose labels `weights` never saw: the test part of its split, and those without labels."""
    with np.load(data / "qm9_b3lyp.npz", allow_pickle=False) as file:
        columns = {name: file[name] for name in ("index", "n_atoms", "Z", "R", "E_scf_Ha", "mu_D", "smiles")}
    labeled = np.isfinite(columns["E_scf_Ha"]) & np.isfinite(columns["mu_D"])
    split = load(weights).card.training["split"]
    order = np.random.default_rng(split["seed"]).permutation(np.unique(columns["index"][labeled]))
    test = np.isin(columns["index"], order[: round(split["test"] * len(order))])
    offsets = np.concatenate([[0], np.cumsum(columns["n_atoms"].astype(int))])
    chosen = np.flatnonzero(test | ~labeled)
    molecules = [
        Atoms(columns["Z"][offsets[s] : offsets[s + 1]], columns["R"][offsets[s] : offsets[s + 1]].astype(float))
        for s in chosen
    ]
    return molecules, [columns["smiles"][s].decode() for s in chosen]


def ring_energies(weights: str, molecules: list[Atoms], rings: list[Ring]) -> NDArray[np.float64]:
    """(rings, 2) eV: over the carbon atoms, and over carbon and hydrogen atoms of each ring."""
    calculator = load(weights)
    values = {
        m: explain(molecules[m], AtomicEnergies(reference="element_mean"), calculator).values
        for m in sorted({ring.molecule for ring in rings})
    }
    return np.array(
        [[values[r.molecule][list(r.carbons)].sum(), values[r.molecule][list(r.carbons + r.hydrogens)].sum()] for r in rings]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", nargs="+", default=["qm9", "qm9-bp"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    molecules, smiles = unseen(arguments.data, arguments.weights[0])
    rings = [ring for number, atoms in enumerate(molecules) for ring in rings_of(number, atoms)]
    aromatic = np.array([ring.aromatic for ring in rings])
    print(f"{len(molecules)} molecules, {len(rings)} rings of six carbon atoms, {aromatic.sum()} aromatic\n")
    print("| weights | atoms summed | mean aromatic (eV) | mean others (eV) | area under ROC | 95 % interval |")
    print("| --- " * 6 + "|")
    energies = {}
    for name in arguments.weights:
        energies[name] = ring_energies(name, molecules, rings)
        for column, what in enumerate(("C", "C and H")):
            low, high = energies[name][aromatic, column], energies[name][~aromatic, column]
            bounds = "{:.3f} to {:.3f}".format(*interval(low, high))
            print(f"| {name} | {what} | {low.mean():.2f} | {high.mean():.2f} | {area(low, high):.3f} | {bounds} |")
    for name, values in energies.items():
        order = np.argsort(values[:, 1])
        print(f"\n{name}, lowest: " + ", ".join(smiles[rings[k].molecule] for k in order[:8]))
        print(f"{name}, highest: " + ", ".join(smiles[rings[k].molecule] for k in order[-8:]))
    figure_of(energies, aromatic).savefig(arguments.out / "ring_energies.png")


def figure_of(energies: dict[str, NDArray[np.float64]], aromatic: NDArray[np.bool_]) -> Figure:
    figure = Figure(figsize=(4.4 * len(energies), 3.4), dpi=150, layout="constrained")
    for axes, (name, values) in zip(np.atleast_1d(figure.subplots(1, len(energies))), energies.items(), strict=True):
        bins = np.linspace(*np.quantile(values[:, 1], [0.0, 1.0]), 50)
        for kind, label, color in ((aromatic, "aromatic", "#0072B2"), (~aromatic, "others", "#D55E00")):
            axes.hist(values[kind, 1], bins, density=True, alpha=0.6, color=color, label=f"{label} ({kind.sum()})")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("ring energy, C and H minus element means (eV)")
        axes.set_ylabel("density (1/eV)")
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
