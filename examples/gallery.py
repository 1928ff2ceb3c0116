"""Atomic energies and charges of small molecules: what two networks that never saw either make of them.

    python examples/gallery.py [OUTPUT_FOLDER]

Molecules are relaxed with SchNet "organic". Tables compare SchNet and Behler-Parrinello ("organic-bp") atom by atom; figures
show the SchNet values, all molecules on one scale: gallery-energies.png (minus the mean of the element over the training
data), gallery-charges.png and by-element-*.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from small_molecules import BUILDERS, relaxed

from ase_xai import Explanation, explain, load
from ase_xai.explainers import AtomicEnergies, LatentCharges
from ase_xai.report import by_element, gallery


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "gallery-output")
    folder.mkdir(parents=True, exist_ok=True)
    calculators = [load(name, dtype="float64") for name in ("organic", "organic-bp")]
    molecules = {name: relaxed(name, calculators[0]) for name in BUILDERS}
    questions = {"energies": AtomicEnergies(reference="element_mean"), "charges": LatentCharges()}
    for title, question in questions.items():
        schnet, behler = ({m: explain(a, question, c) for m, a in molecules.items()} for c in calculators)
        print(f"\n{title}: SchNet and Behler-Parrinello, all atoms of {len(molecules)} molecules")
        print_agreement(schnet, behler)
        gallery(schnet, n_columns=5).savefig(folder / f"gallery-{title}.png", dpi=150)
        by_element(schnet).savefig(folder / f"by-element-{title}.png", dpi=150)
    print(f"\nfigures in {folder}/")


def print_agreement(one: dict[str, Explanation], other: dict[str, Explanation]) -> None:
    """For each element: atoms, mean and spread of both, correlation, and the lowest and highest atom of the first."""
    numbers = np.concatenate([e.numbers for e in one.values()])
    mine, theirs = (np.concatenate([e.values for e in side.values()]) for side in (one, other))
    names = [f"{e.atoms.symbols[i]}{i} of {name}" for name, e in one.items() for i in range(len(e.numbers))]
    unit = next(iter(one.values())).units
    print(f"| element | atoms | SchNet mean, spread ({unit}) | BP mean, spread ({unit}) | r | lowest | highest |")
    print("| --- " * 7 + "|")
    for z in np.unique(numbers):
        rows = np.flatnonzero(numbers == z)
        x, y = mine[rows], theirs[rows]
        r = np.corrcoef(x, y)[0, 1] if len(rows) > 2 else float("nan")
        low, high = rows[x.argmin()], rows[x.argmax()]
        symbol = names[low].split(" ")[0].rstrip("0123456789")
        print(
            f"| {symbol} | {len(rows)} | {x.mean():+.3f}, {x.std():.3f} | {y.mean():+.3f}, {y.std():.3f} | {r:.2f} "
            f"| {names[low]} {mine[low]:+.3f} | {names[high]} {mine[high]:+.3f} |"
        )


if __name__ == "__main__":
    main()
