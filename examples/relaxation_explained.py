"""A strained molecule relaxes: which atoms gain the energy?

    python examples/relaxation_explained.py [FOLDER]

The central bond of bicyclobutane is pulled to 2 Å. SchNet `organic` relaxes the molecule, and the record of the relaxation
says what each atom and each group contributes to the energy set free, with the ensemble `organic-s0` ... `-s3` as a second
opinion. FOLDER (relaxation-output) gets run.h5, run.html and waterfall.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase.build import molecule
from ase.optimize import BFGS

from ase_xai import Ensemble, SchNet
from ase_xai.report import waterfall, write_run_page
from ase_xai.trajectory import Recorder, annotate, open_run
from ase_xai.trajectory.differences import path_difference
from ase_xai.trajectory.groups import by_element

STRETCH = 0.25  # Å, by which each of the two central carbon atoms is pulled out
MEMBERS = ("organic-s0", "organic-s1", "organic-s2", "organic-s3")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("relaxation-output")
    folder.mkdir(exist_ok=True)
    atoms = molecule("bicyclobutane")
    first, second = central(atoms)
    axis = atoms.get_distance(first, second, vector=True) / atoms.get_distance(first, second)
    atoms.positions[first] -= STRETCH * axis
    atoms.positions[second] += STRETCH * axis
    atoms.calc = SchNet("organic")
    groups = {
        "pulled C": [first, second],
        "other C": [i for i in by_element(atoms.numbers)["C"] if i not in (first, second)],
        "H": by_element(atoms.numbers)["H"],
    }

    optimizer = BFGS(atoms, logfile=None)
    with Recorder(atoms, folder / "run.h5", dynamics=optimizer, groups=groups, overwrite=True) as recorder:
        optimizer.attach(recorder)
        optimizer.run(fmax=0.02, steps=200)
    run = open_run(folder / "run.h5")
    change = path_difference(run)
    before, after = (run.atoms(k).get_distance(first, second) for k in (0, -1))
    print(f"{len(run)} frames; central bond {before:.2f} to {after:.2f} Å; share of each group in the change of the energy:")
    print(change)

    both = annotate([run.atoms(0), run.atoms(-1)], Ensemble(MEMBERS), groups=groups)
    print(f"\nThe same two frames by the mean of {len(MEMBERS)} other networks:")
    print(path_difference(both))
    waterfall(change.explanation).savefig(folder / "waterfall.png", dpi=150)
    print(f"\npage: {write_run_page(run, folder / 'run.html')}")


def central(atoms) -> tuple[int, int]:
    """The two carbon atoms with one hydrogen atom."""
    hydrogens = [i for i, symbol in enumerate(atoms.symbols) if symbol == "H"]
    carbons = [i for i, symbol in enumerate(atoms.symbols) if symbol == "C"]
    single = [c for c in carbons if sum(atoms.get_distance(c, h) < 1.25 for h in hydrogens) == 1]
    return single[0], single[1]


if __name__ == "__main__":
    main()
