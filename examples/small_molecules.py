"""Small organic molecules made from ASE's collection, relaxed with a calculator; other examples use them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS


def benzene_with(replaced: dict[int, str], methyl_on: int | None = None) -> Atoms:
    """Benzene with ring atoms replaced by N (their hydrogen leaves), or one hydrogen by CH3.

    Args:
        replaced: ring position 0 to 5 -> element.
        methyl_on: ring position that gets the methyl group.
    """
    benzene = molecule("C6H6")
    hydrogen_of = {c: int(benzene.get_distances(c, range(6, 12)).argmin()) + 6 for c in range(6)}
    atoms = benzene.copy()
    for position, element in replaced.items():
        atoms.symbols[position] = element
    gone = [hydrogen_of[c] for c in replaced]
    if methyl_on is not None:
        outward = benzene.positions[hydrogen_of[methyl_on]] - benzene.positions[methyl_on]
        outward /= np.linalg.norm(outward)
        carbon = benzene.positions[methyl_on] + 1.51 * outward
        across = np.cross(outward, [0.0, 0.0, 1.0])
        for angle in np.radians([90.0, 210.0, 330.0]):
            sideways = np.cos(angle) * across + np.sin(angle) * np.array([0.0, 0.0, 1.0])
            atoms += Atoms("H", [carbon + 0.36 * outward + 1.03 * sideways])
        atoms += Atoms("C", [carbon])
        gone.append(hydrogen_of[methyl_on])
    del atoms[gone]
    return atoms


BUILDERS = {
    "methane": lambda: molecule("CH4"),
    "propane": lambda: molecule("C3H8"),
    "cyclopropane": lambda: molecule("C3H6_D3h"),
    "ethanol": lambda: molecule("CH3CH2OH"),
    "dimethyl ether": lambda: molecule("CH3OCH3"),
    "acetaldehyde": lambda: molecule("CH3CHO"),
    "acetic acid": lambda: molecule("CH3COOH"),
    "acetonitrile": lambda: molecule("CH3CN"),
    "acetamide": lambda: molecule("CH3CONH2"),
    "furan": lambda: molecule("C4H4O"),
    "pyrrole": lambda: molecule("C4H4NH"),
    "benzene": lambda: molecule("C6H6"),
    "toluene": lambda: benzene_with({}, methyl_on=0),
    "pyridine": lambda: benzene_with({0: "N"}),
    "pyrazine": lambda: benzene_with({0: "N", 3: "N"}),
}


def relaxed(name: str, calculator: Calculator) -> Atoms:
    """A molecule of `BUILDERS`, slightly disturbed and relaxed to 0.02 eV/Å."""
    atoms = BUILDERS[name]()
    atoms.rattle(0.01, seed=1)  # planar start geometries may be saddle points
    atoms.calc = calculator
    if not BFGS(atoms, logfile=None).run(fmax=0.02, steps=300):
        raise RuntimeError(f"{name} did not relax to 0.02 eV/Å in 300 steps.")
    return atoms
