"""Which sign latent charges have, after a training that could not know it."""

from __future__ import annotations

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import nn

from ase_xai.networks import AtomisticNetwork, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.networks.base import add_up
from ase_xai.training.loader import GraphLoader
from ase_xai.training.settings import LossWeights
from ase_xai.training.splits import Split

NEGATIVE = ("O", "F", "N", "Cl", "S")  # the first that the data hold shall be negative on average
SAMPLE = 500  # validation structures that are asked


def fix_charge_sign(network: AtomisticNetwork, loader: GraphLoader, split: Split, weights: LossWeights) -> str:
    """Choose the sign of the charges where training left it open, and say what decides it.

    The magnitude of a neutral system's dipole does not change under q -> -q, so a network trained on magnitudes alone ends
    with either sign, everywhere the same. The last layers of the charge readout are linear: their negation negates all
    charges.

    Args:
        network: changed in place if its charges have the wrong sign.
        loader, split: validation structures are asked.
        weights: what was trained on.

    Returns:
        A sentence for the model card.
    """
    if not network.has_charges or not set(weights.targets) & {"dipole", "dipole_magnitude", "charges"}:
        return "charges are not trained"
    if weights.charges or weights.dipole:
        return "from reference charges" if weights.charges else "from dipole vectors"
    structures, layers = loader.structures, _last_charge_layers(network)
    element = next((symbol for symbol in NEGATIVE if atomic_numbers[symbol] in structures.elements), None)
    charged = structures.total_charge is not None and bool(np.any(structures.total_charge))
    if element is None or charged or not layers:
        return "arbitrary: trained on dipole magnitudes alone"
    total = 0.0
    for part in np.array_split(split.validation[:SAMPLE], -(-min(SAMPLE, len(split.validation)) // 50)):
        graph, _ = loader.batch(part, network.device)
        with torch.no_grad():
            charges = add_up(graph, network(graph)).charges
        assert charges is not None
        total += float(charges[graph.numbers == atomic_numbers[element]].sum())
    if total > 0.0:
        with torch.no_grad():
            for layer in layers:
                layer.weight.neg_()
                layer.bias.neg_()
    return f"arbitrary in training, fixed afterwards: {element} negative"


def _last_charge_layers(network: AtomisticNetwork) -> list[nn.Linear]:
    if isinstance(network, SchNetNetwork) and network.charge_readout is not None:
        modules = [network.charge_readout[-1]]
    elif isinstance(network, BehlerParrinelloNetwork):
        modules = list(network.charge_readouts)
    else:
        return []
    return [module for module in modules if isinstance(module, nn.Linear)]
