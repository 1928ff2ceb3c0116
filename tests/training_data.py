"""Labeled structures that several test files train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from systems import random_schnet

from ase_xai.networks import AtomisticNetwork
from ase_xai.training import Columns, LossWeights, StructureSet, TrainingSettings, read
from ase_xai.training.references import least_squares

COLUMNS = Columns(group="qm9_index", kind="kind", kind_names=("even", "odd"))


def labeled_file(path: Path, n_molecules: int = 12, n_copies: int = 4) -> Path:
    """Shaken small molecules with Lennard-Jones energies and forces, and dipoles of charges by element."""
    names = ["H2O", "CH4", "CH3OH", "NH3", "CH3CH2OH", "C2H4"]
    rng = np.random.default_rng(0)
    labels = ("n_atoms", "Z", "R", "E_eV", "F_eV_A", "dipole_eA", "charges_e", "qm9_index", "kind")
    rows: dict[str, list] = {key: [] for key in labels}
    for index in range(n_molecules):
        for copy in range(n_copies):
            atoms: Atoms = molecule(names[index % len(names)])
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            atoms.calc = LennardJones(sigma=0.9, epsilon=0.3, rc=6.0)
            charges = np.array([{1: 0.2, 6: -0.3, 7: -0.5, 8: -0.6}[z] for z in atoms.numbers])
            charges -= charges.mean()
            rows["n_atoms"].append(len(atoms))
            rows["Z"].extend(atoms.numbers)
            rows["R"].extend(atoms.positions)
            rows["E_eV"].append(atoms.get_potential_energy() - 10.0 * atoms.numbers.sum())
            rows["F_eV_A"].extend(atoms.get_forces())
            rows["dipole_eA"].append(charges @ atoms.positions)
            rows["charges_e"].extend(charges)
            rows["qm9_index"].append(index)
            rows["kind"].append(copy % 2)
    np.savez(path, **{key: np.array(value) for key, value in rows.items()})
    return path


def labeled(folder: Path, **settings: int) -> StructureSet:
    return read(labeled_file(folder / "set.npz", **settings), COLUMNS)


def settings(steps: int, **changes: object) -> TrainingSettings:
    basis: dict[str, object] = {"batch_size": 8, "learning_rate": 3e-3, "warmup": 5, "checkpoint_every": 7, "seed": 1}
    return TrainingSettings(steps=steps, **{**basis, **changes})


def energies_only(**changes: object) -> LossWeights:
    return LossWeights(**{"forces": 0.0, "dipole": 0.0, **changes})  # type: ignore[arg-type]


def fresh(structures: StructureSet, make: object = random_schnet) -> AtomisticNetwork:
    network: AtomisticNetwork = make(5)  # type: ignore[operator]
    network.energy.scale, network.energy.shift = 1.0, 0.0
    network.energy.references = least_squares(structures, np.arange(len(structures)))
    return network


def state_bits(network: torch.nn.Module) -> str:
    """All weights in hexadecimal: equal strings mean equal bits."""
    return b"".join(value.numpy().tobytes() for value in network.state_dict().values()).hex()
