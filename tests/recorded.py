"""Calculators and short runs that the tests of recordings use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from systems import random_schnet, shaken_molecule

from ase_xai import NetworkCalculator, load
from ase_xai.trajectory import open_run
from ase_xai.weights import ModelCard, save_weights

GROUPS = {"methyl": [0, 5, 6], "rest": [1, 2, 3, 4, 7, 8]}


class Springs(Calculator):
    """Every atom on a spring about where it was at first, with a constant of its own, and a charge that follows it."""

    implemented_properties = ["energy", "energies", "forces", "charges", "dipole"]  # noqa: RUF012

    def __init__(self, home: np.ndarray) -> None:
        super().__init__()
        self.home, self.stiffness = home.copy(), 1.0 + np.arange(len(home))
        self.n_evaluations = 0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.n_evaluations += 1
        moved = self.atoms.positions - self.home
        energies = 0.5 * self.stiffness * (moved**2).sum(axis=1)
        charges = 0.1 * moved[:, 0] - 0.1 * moved[:, 0].mean()
        self.results = {
            "energy": float(energies.sum()),
            "energies": energies,
            "forces": -self.stiffness[:, None] * moved,
            "charges": charges,
            "dipole": charges @ self.atoms.positions,
        }


def on_springs(n_atoms: int = 5, seed: int = 0) -> Atoms:
    """Atoms in motion that cost next to nothing."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(f"Ar{n_atoms}", rng.uniform(0, 8, (n_atoms, 3)))
    atoms.calc = Springs(atoms.positions)
    atoms.set_velocities(rng.normal(0, 0.05, (n_atoms, 3)))
    return atoms


def network_calculator(folder: Path, **settings: Any) -> NetworkCalculator:
    """A small random network with references, float64 unless stated."""
    path = folder / "network.safetensors"
    if not path.exists():
        network = random_schnet(1)
        network.energy.scale = 0.03  # gentle forces: dynamics with random weights stays together
        card = ModelCard.describe(network, reference_kind="least squares, invented", level_of_theory="none")
        save_weights(path, network, card)
    return load(path, **{"dtype": "float64", **settings})


def ethanol(calculator: Calculator, seed: int = 0) -> Atoms:
    """With momenta."""
    atoms = shaken_molecule("CH3CH2OH", amplitude=0.02)
    atoms.calc = calculator
    atoms.set_velocities(np.random.default_rng(seed).normal(0, 0.01, (9, 3)))
    return atoms


def dynamics_of(atoms: Atoms, timestep: float = 0.5) -> VelocityVerlet:
    return VelocityVerlet(atoms, timestep * units.fs)


def assert_same_files(one: Path, other: Path) -> None:
    """All rows and statistics to the last bit."""
    with h5py.File(one) as first, h5py.File(other) as second:
        names = []
        first.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            if name != "xai/meta" and not name.startswith("xai/reducers"):
                assert first[name].shape == second[name].shape, name
                assert first[name][()].tobytes() == second[name][()].tobytes(), name
        assert (first["xai/meta"].attrs["frames"][:-1] == second["xai/meta"].attrs["frames"][:-1]).all()
    one_run, other_run = open_run(one), open_run(other)
    for name, result in one_run.reducers.items():
        for attribute, value in vars(result).items():
            assert np.array_equal(value, getattr(other_run.reducers[name], attribute), equal_nan=attribute == "correlation")
