"""Systems on which a network is checked: clusters and crystals of its own elements."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import cellpar_to_cell

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, Prediction
from ase_xai.networks.inference.engine import Engine


@dataclass(frozen=True)
class Probe:
    """A network in float64 and systems of its elements: an open cluster, and a triclinic cell smaller than the cutoff.

    `kernels` says how it is evaluated, see `Engine`.
    """

    network: AtomisticNetwork
    cluster: Atoms
    crystal: Atoms
    total_charge: float = 0.0
    kernels: str = "reference"

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.network, self.kernels)

    def predict(self, *systems: Atoms) -> Prediction:
        graphs = [AtomGraph.from_atoms(s, self.network.cutoff, total_charge=self.total_charge) for s in systems]
        return self.engine(AtomGraph.batch(graphs))

    def energy(self, atoms: Atoms) -> float:
        """Interaction energy in eV, reference energies left out so that small differences keep their digits."""
        return float(self.predict(atoms).output.energies.sum())


def make_probe(network: AtomisticNetwork, *, total_charge: float = 0.0, seed: int = 0, kernels: str = "reference") -> Probe:
    """A float64 copy of `network` with a 12-atom cluster and a 3-atom crystal of its elements, at bonded distances."""
    rng = np.random.default_rng(seed)
    double = copy.deepcopy(network).to(device="cpu", dtype=torch.float64).eval().requires_grad_(False)
    cell = cellpar_to_cell([3.1, 3.4, 4.3, 80.0, 95.0, 108.0])
    cell *= max(1.0, 1.4 * 2 * max(covalent_radii[z] for z in network.elements) / 3.1)
    crystal = Atoms(
        rng.choice(network.elements, 3),
        scaled_positions=np.array([[0.05, 0.1, 0.0], [0.45, 0.6, 0.35], [0.9, 0.35, 0.7]]) + rng.normal(0, 0.02, (3, 3)),
        cell=cell,
        pbc=True,
    )
    return Probe(double, random_cluster(network.elements, 12, rng), crystal, total_charge, kernels)


def random_cluster(elements: Sequence[int], n_atoms: int, rng: np.random.Generator) -> Atoms:
    """A connected open cluster: each atom at bond distance from an earlier one and not much closer to any other."""
    numbers = rng.choice(elements, n_atoms)
    positions = np.zeros((1, 3))
    while len(positions) < n_atoms:
        k = len(positions)
        partner = rng.integers(k)
        direction = rng.normal(size=3)
        bond = covalent_radii[numbers[k]] + covalent_radii[numbers[partner]]
        trial = positions[partner] + rng.uniform(1.0, 1.15) * bond * direction / np.linalg.norm(direction)
        closest = np.linalg.norm(positions - trial, axis=1) / (covalent_radii[numbers[:k]] + covalent_radii[numbers[k]])
        if closest.min() > 0.95:
            positions = np.vstack([positions, trial])
    return Atoms(numbers, positions)
