"""Liquid water: what does a hydrogen bond more do to the energy of a molecule?

    python examples/liquid_water.py [FOLDER]

64 molecules with the weights `water`: placed at random orientations, melted, then run at 300 K and recorded. For each frame
and molecule the hydrogen bonds are counted that it gives and takes (oxygens closer than 3.5 Å, hydrogen off their line by
less than 30°; Luzar and Chandler, Nature 379, 55 (1996)), and the latent energies of its atoms are averaged by that count.
FOLDER (liquid-water-output) gets run.h5 and run.html.

Molecules are compared with one another, so the references of the elements, which the training data do not fix, drop out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.geometry import get_distances
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

from ase_xai import SchNet
from ase_xai.report import write_run_page
from ase_xai.trajectory import Recorder, Run, open_run
from ase_xai.trajectory.groups import connected_fragments, group_series

PER_EDGE, SPACING = 4, 3.1  # molecules along an edge of the cube; Å, 1.0 g/cm³
MELT, STEPS, INTERVAL, TIMESTEP = 2000, 4000, 20, 0.5  # steps, steps, steps, fs
REACH, ANGLE = 3.5, 30.0  # Å, degrees


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("liquid-water-output")
    folder.mkdir(exist_ok=True)
    atoms = lattice()
    atoms.calc = SchNet("water")
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=200)
    thermalize_momenta(atoms, temperature_K=400, rng=np.random.default_rng(1))
    dynamics(atoms, 400).run(MELT)
    run = recorded(atoms, folder / "run.h5")

    series = group_series(run)
    energies = series.values - series.values.mean()
    bonds = np.array([hydrogen_bonds(run.atoms(k)) for k in range(len(run))])  # (L, molecules, 2)
    total = bonds.sum(axis=2)
    print(f"{len(run)} frames, {total.shape[1]} molecules, {total.mean():.2f} hydrogen bonds each")
    print("\n| hydrogen bonds | share of molecules | latent energy minus mean (eV) |\n| --- | --- | --- |")
    for count in np.unique(total):
        chosen = total == count
        by_molecule = [energies[chosen[:, m], m].mean() for m in range(total.shape[1]) if chosen[:, m].any()]
        error = np.std(by_molecule, ddof=1) / np.sqrt(len(by_molecule)) if len(by_molecule) > 1 else np.nan
        print(f"| {count} | {chosen.mean():.1%} | {energies[chosen].mean():+.3f} ± {error:.3f} |")
    print("\nerrors: molecules taken as independent of one another")
    for title, k in (("given", 0), ("taken", 1)):
        slope = np.polyfit(bonds[:, :, k].ravel(), energies.ravel(), 1)[0]
        print(f"one hydrogen bond {title} more: {slope:+.3f} eV")
    print(f"page: {write_run_page(run, folder / 'run.html')}")


def lattice(seed: int = 1) -> Atoms:
    """Molecules on a cubic lattice, each turned at random until no atom is within 1.6 Å of another molecule."""
    rng = np.random.default_rng(seed)
    box = Atoms(cell=[PER_EDGE * SPACING] * 3, pbc=True)
    for site in np.ndindex(PER_EDGE, PER_EDGE, PER_EDGE):
        while True:
            turned = molecule("H2O")
            turned.rotate(360 * rng.random(), rng.normal(size=3))
            turned.translate(np.array(site) * SPACING - turned.positions[0])
            if not len(box) or get_distances(turned.positions, box.positions, box.cell, box.pbc)[1].min() > 1.6:
                break
        box += turned
    return box


def dynamics(atoms: Atoms, temperature: float) -> Langevin:
    rng = np.random.default_rng(2)
    return Langevin(atoms, TIMESTEP * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng, fixcm=False)


def recorded(atoms: Atoms, path: Path) -> Run:
    """A run at 300 K, one group for each molecule."""
    moving = dynamics(atoms, 300)
    groups = connected_fragments(atoms)
    with Recorder(
        atoms, path, dynamics=moving, fields=("energies", "kinetic_energy"), groups=groups, overwrite=True
    ) as recorder:
        moving.attach(recorder, interval=INTERVAL)
        moving.run(STEPS)
    return open_run(path)


def hydrogen_bonds(atoms: Atoms) -> np.ndarray:
    """(M, 2) hydrogen bonds that each molecule gives and takes; molecules are O, H, H in this order."""
    oxygens = atoms.positions[0::3]
    vectors, distances = get_distances(oxygens, cell=atoms.cell, pbc=atoms.pbc)
    near = (distances < REACH) & ~np.eye(len(oxygens), dtype=bool)
    bonded = np.zeros_like(near)
    for offset in (1, 2):
        arms = np.array([atoms.get_distance(3 * m, 3 * m + offset, mic=True, vector=True) for m in range(len(oxygens))])
        cosines = np.einsum("mk,mnk->mn", arms, vectors) / np.maximum(
            np.linalg.norm(arms, axis=1)[:, None] * distances, 1e-9
        )
        bonded |= near & (cosines > np.cos(np.radians(ANGLE)))
    return np.stack([bonded.sum(axis=1), bonded.sum(axis=0)], axis=1)


if __name__ == "__main__":
    main()
