"""Displacements as heat makes them: what a system looks like while it stays the same molecule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable
from ase_xai.explainers.subject import batches

STEP = 0.005  # Å, of the finite differences of forces
SLOWEST = 200.0  # cm⁻¹; slower modes are not harmonic
PLAIN = 0.02  # Å, standard deviation of displacements without modes
MOST_ATOMS = 40  # for modes: the forces of 6N displaced systems are needed


@dataclass(frozen=True, eq=False)
class Displacements:
    """Random displacements of all atoms.

    Args:
        shifts: (n, N, 3) Å.
        how: where they come from, in words.
    """

    shifts: NDArray[np.float64]
    how: str

    def of(self, atoms: Atoms) -> list[Atoms]:
        """The displaced systems."""
        frames = []
        for shift in self.shifts:
            frame = atoms.copy()
            frame.positions += shift
            frames.append(frame)
        return frames


def thermal(calculator: Explainable, atoms: Atoms, n: int, temperature: float, rng: np.random.Generator) -> Displacements:
    """Classical harmonic displacements: independent normal modes of variance kT/ω² in mass-weighted coordinates.

    Modes slower than 200 cm⁻¹ are left out. Systems with more than 40 atoms, and those without faster modes, get Gaussian
    displacements of 0.02 Å for each coordinate instead, and `how` says so.
    """
    size = (n, len(atoms), 3)
    if len(atoms) > MOST_ATOMS:
        return Displacements(rng.normal(0.0, PLAIN, size), f"Gaussian, {PLAIN:g} Å: too many atoms for normal modes")
    masses = np.repeat(atoms.get_masses(), 3)
    inside = np.eye(len(masses)) - rigid_motions(atoms).T @ rigid_motions(atoms)
    weighted = inside @ (hessian(calculator, atoms) / np.sqrt(np.outer(masses, masses))) @ inside
    squares, modes = np.linalg.eigh(weighted)  # ω² in eV/(Å²·u)
    slowest = (SLOWEST * units.invcm / (units._hbar * units.J * units.s)) ** 2
    fast = squares > slowest
    if not fast.any():
        return Displacements(rng.normal(0.0, PLAIN, size), f"Gaussian, {PLAIN:g} Å: no mode above {SLOWEST:g} cm⁻¹")
    amplitudes = np.sqrt(units.kB * temperature / squares[fast]) * rng.normal(size=(n, int(fast.sum())))
    shifts = (amplitudes @ modes[:, fast].T / np.sqrt(masses)).reshape(size)
    return Displacements(shifts, f"{int(fast.sum())} harmonic modes at {temperature:g} K")


def rigid_motions(atoms: Atoms) -> NDArray[np.float64]:
    """(3 to 6, 3N) orthonormal translations, and rotations of an open system, in mass-weighted coordinates."""
    about = atoms.positions - atoms.get_center_of_mass()
    motions = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    if not atoms.pbc.any():
        motions += [np.cross(axis, about) for axis in np.eye(3)]
    rows = np.stack(motions).reshape(len(motions), -1) * np.sqrt(np.repeat(atoms.get_masses(), 3))
    _, singular, directions = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(directions[singular > 1e-6 * singular[0]])


def hessian(calculator: Explainable, atoms: Atoms) -> NDArray[np.float64]:
    """(3N, 3N) ∂²E/∂r∂r in eV/Å² by central differences of the forces, symmetrized."""
    shifts = np.concatenate([STEP * np.eye(3 * len(atoms)), -STEP * np.eye(3 * len(atoms))])
    _, forces = energies_and_forces(calculator, Displacements(shifts.reshape(-1, len(atoms), 3), "").of(atoms))
    plus, minus = forces.reshape(2, 3 * len(atoms), -1)
    found = (minus - plus) / (2 * STEP)
    return 0.5 * (found + found.T)


def energies_and_forces(
    calculator: Explainable, systems: Sequence[Atoms]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) eV without references of the elements, and (n, N, 3) eV/Å, of systems of the same atoms."""
    energies, forces = [], []
    for graph in batches([calculator.checked_graph(system) for system in systems]):
        prediction = calculator.predict(graph)
        energies.append(graph.sum_systems(prediction.output.energies.double()))
        forces.append(prediction.forces.reshape(graph.n_systems, -1, 3))
    return torch.cat(energies).cpu().numpy(), torch.cat(forces).cpu().numpy()
