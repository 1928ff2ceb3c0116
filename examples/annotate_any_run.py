"""Explain somebody else's trajectory.

    python examples/annotate_any_run.py [TRAJECTORY] [FOLDER]

Whatever calculator made a run, `annotate` asks a network about each of its frames, many at once, and the result is the same
kind of file that a recorder writes. Without TRAJECTORY, one is made with GFN2-xTB if tblite is installed (extra `tblite`),
and else with another network of this package, `organic-bp`. FOLDER (annotated-output) gets run.h5 and run.html.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ase import units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from ase_xai import BehlerParrinello, SchNet
from ase_xai.report import analyze, write_run_page
from ase_xai.trajectory import annotate
from ase_xai.trajectory.means import mean

FRAMES, INTERVAL, TIMESTEP = 200, 4, 0.5  # number, steps, fs


def main() -> None:
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("annotated-output")
    folder.mkdir(exist_ok=True)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else made(folder / "made.traj")
    run = annotate(path, SchNet("organic"), folder / "run.h5", timestep=INTERVAL * TIMESTEP, overwrite=True)
    print(f"{len(run)} frames of {run.atoms(0).get_chemical_formula()}, now with {', '.join(run.fields)}")

    theirs = np.array([frame.get_potential_energy() for frame in read(path, ":")])
    difference = run["energy"][...] - theirs
    print(f"our energy minus theirs: spread {difference.std():.3f} eV; theirs itself spreads by {theirs.std():.3f} eV")
    for atom in range(min(3, run.n_atoms)):
        print(f"charge of {run.symbols[atom]}{atom}: {mean(run['charges'][:, atom])} e")
    analyses = analyze(run)
    for name, reason in analyses.missing.items():
        print(f"without {name}: {reason}")
    print(f"page: {write_run_page(run, folder / 'run.html', analyses=analyses)}")


def made(path: Path) -> Path:
    """A short run of acetic acid by another calculator."""
    atoms, rng = molecule("CH3COOH"), np.random.default_rng(1)
    atoms.calc = calculator()
    print(f"made with {type(atoms.calc).__name__}")
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng, fixcm=False)
    with Trajectory(path, "w", atoms) as trajectory:
        dynamics.attach(trajectory, interval=INTERVAL)
        dynamics.run(FRAMES * INTERVAL)
    return path


def calculator() -> Calculator:
    if find_spec("tblite"):
        from tblite.ase import TBLite

        return TBLite(method="GFN2-xTB", verbosity=0)
    return BehlerParrinello("organic-bp")


if __name__ == "__main__":
    main()
