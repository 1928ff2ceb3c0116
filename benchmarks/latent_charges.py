"""Latent charges, learned from dipoles alone, beside charges of population analyses; atomic energies beside those of IQA.

    python benchmarks/latent_charges.py DATA_FOLDER

Reported, never tuned to. For each element: atoms, Pearson correlation with the reference, slope of the reference on the
latent charge, means, and the share of atoms whose sign agrees.

- `organic` beside Mulliken charges of GFN2-xTB, on its test structures;
- `qm9` beside Mulliken and Löwdin charges of MP2/def2-TZVP, on QM9 molecules that it was not trained on;
- Mulliken beside Löwdin: how far two references disagree;
- `organic` beside interacting-quantum-atoms energies of water clusters: kinetic-energy-like self terms are another
  partition, so only the correlation of *changes* per molecule is meaningful, and it is printed as found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.units import Hartree

from ase_xai.training import Columns, GraphLoader, StructureSet, read
from ase_xai.weights import LoadedWeights, resolve


def compare(title: str, numbers: np.ndarray, latent: np.ndarray, reference: np.ndarray) -> None:
    """Print one table; all charges in e."""
    print(f"\n{title}\n\n| element | atoms | Pearson r | slope | mean latent (e) | mean reference (e) | sign agrees |")
    print("| --- " * 7 + "|")
    for z in np.unique(numbers):
        x, y = latent[numbers == z], reference[numbers == z]
        r, slope = np.corrcoef(x, y)[0, 1], np.polyfit(x, y, 1)[0]
        same = (np.sign(x) == np.sign(y)).mean()
        print(
            f"| {chemical_symbols[z]} | {len(x)} | {r:.3f} | {slope:.2f} | {x.mean():+.3f} | {y.mean():+.3f} | {same:.0%} |"
        )
    print(f"| all | {len(latent)} | {np.corrcoef(latent, reference)[0, 1]:.3f} | | | | |")


def latent_of(weights: LoadedWeights, structures: StructureSet) -> np.ndarray:
    """(N,) charges in e of all atoms, structure after structure."""
    loader, found = GraphLoader(structures, weights.network.cutoff), []
    with torch.no_grad():
        for part in np.array_split(np.arange(len(structures)), max(1, len(structures) // 100)):
            charges = weights.network(loader.batch(part)[0]).charges
            assert charges is not None
            found.append(charges.numpy())
    return np.concatenate(found)


def unseen(weights: LoadedWeights, structures: StructureSet, groups: np.ndarray) -> np.ndarray:
    """Indices of `structures` whose molecules are in the test part of the split that the weights' card describes.

    Args:
        groups: labels of all molecules that were split.
    """
    split = weights.card.training["split"]
    order = np.random.default_rng(split["seed"]).permutation(np.unique(groups))
    return np.flatnonzero(np.isin(structures.groups, order[: round(split["test"] * len(order))]))


def organic(data: Path) -> None:
    weights, files = resolve("organic"), ("gfn2_organic_hcno.npz", "gfn2_organic_fscl.npz")
    structures = read([data / name for name in files], Columns(group="qm9_index"))
    with np.load(data / "gfn2_organic_atoms.npz", allow_pickle=False) as file:
        mulliken = np.concatenate([file["q_mulliken_e_hcno"], file["q_mulliken_e_fscl"]])
    indices = unseen(weights, structures, structures.groups)
    rows = np.isin(structures.structure_of_row, indices)
    test = structures.take(indices)
    compare("organic, test structures: GFN2-xTB Mulliken charges", test.numbers, latent_of(weights, test), mulliken[rows])


def qm9(data: Path) -> None:
    weights, path = resolve("qm9"), data / "qm9_mp2_charges.npz"
    names = {"Mulliken": "q_mulliken_MP2_e", "Löwdin": "q_loewdin_MP2_e"}
    sets = {
        title: read(path, Columns({"charges": name, "energy": "E_MP2_Ha", "dipole": "dipole_MP2_D"}, group="index"))
        for title, name in names.items()
    }
    with np.load(data / "qm9_b3lyp.npz", allow_pickle=False) as file:
        trained_on = file["index"][np.isfinite(file["E_scf_Ha"]) & np.isfinite(file["mu_D"])]
    first = sets["Mulliken"]
    new = np.union1d(unseen(weights, first, trained_on), np.flatnonzero(~np.isin(first.groups, trained_on)))
    test = first.take(new)
    latent, references = latent_of(weights, test), {title: s.take(new).charges for title, s in sets.items()}
    for title, reference in references.items():
        compare(f"qm9, {len(test)} unseen molecules: MP2 {title} charges", test.numbers, latent, reference)
    compare(
        "MP2 Löwdin charges as if latent, Mulliken as reference", test.numbers, references["Löwdin"], references["Mulliken"]
    )


def water_clusters(data: Path) -> None:
    """Latent atomic energies of `organic` against half the IQA interaction energies of each atom."""
    weights = resolve("organic")
    with np.load(data / "iqa_water_clusters.npz", allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    n_pairs = np.concatenate([[0], np.cumsum(columns["n_pairs"].astype(int))])
    offsets = np.concatenate([[0], np.cumsum(columns["n_atoms"].astype(int))])
    atomic = np.zeros(offsets[-1])
    for s in range(len(columns["n_atoms"])):
        pairs = slice(n_pairs[s], n_pairs[s + 1])
        for end in ("pair_i", "pair_j"):
            np.add.at(atomic, offsets[s] + columns[end][pairs].astype(int) - 1, 0.5 * columns["E_inter_Ha"][pairs])
    structures = read(data / "iqa_water_clusters.npz", Columns({"energy": "E_iqa_Ha"}))
    loader = GraphLoader(structures, weights.network.cutoff)
    found = []
    for s in range(len(structures)):
        graph, _ = loader.batch(np.array([s]))
        found.append(weights.network(graph).energies.detach().numpy())
    latent, interaction = np.concatenate(found), atomic * Hartree
    print("\norganic, water clusters: latent atomic energies against half the IQA interaction energy of each atom\n")
    print("| element | atoms | Pearson r | spread latent (eV) | spread IQA interaction (eV) |\n" + "| --- " * 5 + "|")
    for z in (1, 8):
        x, y = latent[structures.numbers == z], interaction[structures.numbers == z]
        print(f"| {chemical_symbols[z]} | {len(x)} | {np.corrcoef(x, y)[0, 1]:.3f} | {x.std():.3f} | {y.std():.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    organic(data)
    qm9(data)
    water_clusters(data)


if __name__ == "__main__":
    main()
