"""Networks: torch modules that predict energies and charges atom by atom. They know nothing of ASE."""

from __future__ import annotations

from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Prediction, predict
from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
from ase_xai.networks.schnet import SchNetNetwork

NETWORKS: dict[str, type[AtomisticNetwork]] = {
    network.architecture: network for network in (SchNetNetwork, BehlerParrinelloNetwork)
}
"""Every architecture by the name that stands in weight files. A new network is one more entry."""

__all__ = [
    "NETWORKS",
    "AtomisticNetwork",
    "AtomwiseOutput",
    "BehlerParrinelloNetwork",
    "Prediction",
    "SchNetNetwork",
    "predict",
]
