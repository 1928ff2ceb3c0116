"""Where would an H, C, N or O atom be welcome? Probe maps of five molecules, and their gauge-free sibling.

    python examples/probe_maps.py [OUTPUT_FOLDER] [WEIGHTS]

For benzene, toluene, methane, pyrazine and propane: the local chemical potential of each probe on a smooth van der Waals
surface, minus the value of a lone probe, all molecules of a probe on one scale; and for benzene the vertical insertion
energy of H. Points are hatched where the training data do not hold the answer: at this distance from a molecule no training
structure has an atom, so that is part of the answer. By default the network is SchNet "qm9", trained on relaxed molecules.
Prints the mean over trusted points, their share, and over which kind of atom the lowest trusted values lie.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from small_molecules import relaxed

from ase_xai import Explanation, explain, load
from ase_xai.explainers import InsertionEnergy, LocalChemicalPotential
from ase_xai.report import probe_surfaces, write_page

MOLECULES = ("benzene", "toluene", "methane", "pyrazine", "propane")
PROBES = ("H", "C", "N", "O")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "probe-output")
    folder.mkdir(parents=True, exist_ok=True)
    calculator = load(sys.argv[2] if len(sys.argv) > 2 else "qm9")
    molecules = {name: relaxed(name, load("organic")) for name in MOLECULES}
    for atoms in molecules.values():
        atoms.calc = calculator
    print("| probe | molecule | points | trusted | mean (eV) | lowest tenth (eV) | lies over |\n" + "| --- " * 7 + "|")
    for probe in PROBES:
        maps = {name: explain(atoms, LocalChemicalPotential(probe=probe)) for name, atoms in molecules.items()}
        for name, answer in maps.items():
            print(f"| {probe} | {name} | {summary(answer)} |")
        probe_surfaces(maps, both_sides=False).savefig(folder / f"probe-{probe}.png", dpi=150)
    benzene = molecules["benzene"]
    insertion = explain(benzene, InsertionEnergy(probe="H"))
    print(f"| H, insertion energy | benzene | {summary(insertion)} |")
    probe_surfaces({"insertion energy of H, benzene": insertion}).savefig(folder / "insertion-H.png", dpi=150)
    write_page(explain(benzene, LocalChemicalPotential(probe="H")), folder / "benzene.html")
    print(f"\nfigures and benzene.html in {folder}/")


def summary(answer: Explanation) -> str:
    """Cells of the table."""
    trusted = answer.mask
    if not trusted.any():
        return f"{len(trusted)} | none | | | "
    values, points = answer.values[trusted], answer.points[trusted]
    low = values <= np.quantile(values, 0.1)
    nearest = np.linalg.norm(points[low][:, None] - answer.positions[None], axis=2).argmin(axis=1)
    kinds = Counter(answer.atoms.symbols[i] for i in nearest)
    where = ", ".join(f"{kind} {count / low.sum():.0%}" for kind, count in kinds.most_common())
    return f"{len(trusted)} | {trusted.mean():.0%} | {values.mean():+.2f} | {values[low].mean():+.2f} | {where}"


if __name__ == "__main__":
    main()
