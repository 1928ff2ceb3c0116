"""Labeled structures without faults: energies and forces belong together, and have the scale of real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from ase_xai.training.data import StructureSet

# Energies of molecules with all electrons, hartree (PBE or B3LYP, rounded): for scales only.
TOTAL = {"H2O": -76.4, "CH4": -40.5, "NH3": -56.5, "CH3OH": -115.7, "C2H4": -78.5, "CH3CH2OH": -155.0, "CO2": -188.5}


def set_of(frames: list[Atoms]) -> StructureSet:
    periodic = any(atoms.pbc.any() for atoms in frames)
    return StructureSet(
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        positions=np.concatenate([atoms.positions for atoms in frames]),
        offsets=np.cumsum([0] + [len(atoms) for atoms in frames]),
        cell=np.array([atoms.cell.array for atoms in frames]) if periodic else None,
        pbc=np.array([atoms.pbc for atoms in frames]) if periodic else None,
        energy=np.array([atoms.get_potential_energy() for atoms in frames]),
        forces=np.concatenate([atoms.get_forces() for atoms in frames]).astype(np.float32),
    )


def trajectory(atoms: Atoms, calculator: object, kelvin: float, timestep: float, n_frames: int) -> StructureSet:
    atoms.calc = calculator
    atoms.rattle(0.02, seed=1)
    Langevin(atoms, 2 * timestep, temperature_K=kelvin, friction=0.1 / units.fs, rng=np.random.default_rng(0)).run(100)
    dynamics, frames = VelocityVerlet(atoms, timestep), []
    for _ in range(n_frames):
        dynamics.run(2)
        frames.append(atoms.copy())
        frames[-1].calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces().copy())
    return set_of(frames)


def springs(name: str, rng: np.random.Generator, amplitude: float) -> Atoms:
    """A molecule with springs along its bonds (30 eV/Å^2) and between atoms with a common neighbor (3 eV/Å^2)."""
    atoms = molecule(name)
    radii = covalent_radii[atoms.numbers]
    lengths = atoms.get_all_distances()
    bonded = (lengths < 1.25 * (radii[:, None] + radii)) & ~np.eye(len(atoms), dtype=bool)
    stiffness = 30.0 * bonded + 3.0 * ((bonded @ bonded.astype(float) > 0) & ~bonded & ~np.eye(len(atoms), dtype=bool))
    atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
    steps = atoms.positions[:, None] - atoms.positions[None]
    found = np.linalg.norm(steps, axis=2) + np.eye(len(atoms))
    stretch = np.where(stiffness > 0, found - lengths, 0.0)
    energy = TOTAL[name] * units.Hartree + 0.25 * (stiffness * stretch**2).sum()
    forces = -((stiffness * stretch / found)[:, :, None] * steps).sum(axis=1)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def molecular(n: int = 140, seed: int = 0, amplitude: float = 0.05) -> StructureSet:
    rng = np.random.default_rng(seed)
    names = list(TOTAL)
    return set_of([springs(names[index % len(names)], rng, amplitude) for index in range(n)])


def clashes() -> StructureSet:
    """Few structures with energies ever farther from the rest, without a gap, as rotated bonds make them."""
    seeds_and_amplitudes = [(s, 0.02) for s in range(75)] + [(0, 0.02 * 1.1**k) for k in range(1, 25)]
    return set_of([springs("CH4", np.random.default_rng(seed), amplitude) for seed, amplitude in seeds_and_amplitudes])


def dissociation() -> StructureSet:
    """A Morse curve, and thermal molecules in one set."""
    frames = []
    for length in np.linspace(0.6, 6.0, 60):
        decay = np.exp(-1.9 * (length - 0.74))
        atoms = Atoms("H2", [[0, 0, 0], [0, 0, length]])
        slope = 2 * 4.75 * 1.9 * (1 - decay) * decay
        results = {"energy": -31.9 + 4.75 * (1 - decay) ** 2, "forces": [[0, 0, slope], [0, 0, -slope]]}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return StructureSet.concatenate([set_of(frames), molecular(70)])


def with_free_atoms() -> StructureSet:
    """Methane, and the atoms it is made of, with the energy of its bonds above what a fit to molecules gives them."""
    frames = []
    for symbol, energy in (("H", -13.6), ("C", -1027.0)):
        atoms = Atoms(symbol)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
        frames.append(atoms)
    return StructureSet.concatenate(
        [set_of([springs("CH4", np.random.default_rng(s), 0.03) for s in range(60)]), set_of(frames)]
    )


@cache
def clean(name: str) -> StructureSet:
    makers: dict[str, Callable[[], StructureSet]] = {
        "molecules": molecular,
        "cold molecules": lambda: molecular(amplitude=0.004),
        "copper": lambda: trajectory(bulk("Cu", cubic=True) * (2, 2, 2), EMT(), 600, 4 * units.fs, 60),
        "argon": lambda: trajectory(
            bulk("Ar", "fcc", a=5.3, cubic=True) * 2, LennardJones(sigma=3.4, epsilon=0.0103, rc=5.2), 60, 8 * units.fs, 60
        ),
        "dissociation": dissociation,
        "clashes": clashes,
        "free atoms": with_free_atoms,
        "equilibrium": lambda: molecular(7, amplitude=0.0),
    }
    return makers[name]()


CLEAN = ["molecules", "cold molecules", "copper", "argon", "dissociation", "clashes", "free atoms", "equilibrium"]
