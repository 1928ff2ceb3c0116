"""Networks and atoms that several test files use."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.probe import random_cluster

ELEMENTS = [1, 6, 7, 8]


def random_schnet(seed: int = 0, n_interactions: int = 2, **settings: object) -> SchNetNetwork:
    torch.manual_seed(seed)
    return _shaken(SchNetNetwork(ELEMENTS, n_features=16, n_interactions=n_interactions, n_radial=20, **settings))


def random_behler_parrinello(seed: int = 0, zetas: tuple[int, ...] = (1,), **settings: object) -> BehlerParrinelloNetwork:
    torch.manual_seed(seed)
    network = _shaken(BehlerParrinelloNetwork(ELEMENTS, zetas=zetas, hidden=(12, 10), **settings))
    rng = np.random.default_rng(seed)
    graphs = [AtomGraph.from_atoms(random_cluster(ELEMENTS, 9, rng), network.cutoff) for _ in range(6)]
    network.standardize_on(graphs)
    return network


def _shaken(network: AtomisticNetwork) -> AtomisticNetwork:
    """Biases away from zero, and an energy scale, so that nothing vanishes by accident."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.energy.scale, network.energy.shift = 0.7, -2.5
    network.energy.references = {1: -13.6, 6: -1029.9, 7: -1485.3, 8: -2042.6}
    return network


RANDOM_NETWORKS = {
    "schnet-1": lambda: random_schnet(1, n_interactions=1),
    "schnet-3": lambda: random_schnet(2, n_interactions=3, cutoff=4.0),
    "behler-parrinello": lambda: random_behler_parrinello(3),
    "behler-parrinello-zeta": lambda: random_behler_parrinello(4, zetas=(1, 2, 3), cutoff=4.5),
    "behler-parrinello-elements": lambda: random_behler_parrinello(5, zetas=(1, 3), cutoff=4.5, resolve_elements=True),
    "schnet-no-charges": lambda: random_schnet(6, charges=False),
}
CHARGED_NETWORKS = [name for name in RANDOM_NETWORKS if "no-charges" not in name]


def shaken_molecule(name: str, seed: int = 0, amplitude: float = 0.05) -> Atoms:
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(seed).normal(0, amplitude, atoms.positions.shape)
    return atoms
