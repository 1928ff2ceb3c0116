"""Calculators with random networks that several test files explain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from systems import random_behler_parrinello, random_schnet

from ase_xai.networks import AtomisticNetwork
from ase_xai.statistics import HeadStatistics, TrainingStatistics
from ase_xai.weights import ModelCard, resolve, save_weights

NETWORKS = {
    "schnet": lambda: random_schnet(1),
    "bp": lambda: random_behler_parrinello(3),
    "bp-elements": lambda: random_behler_parrinello(5, zetas=(1, 3), cutoff=4.5, resolve_elements=True),
}
SHIPPED = ("organic", "organic-bp")


def write_shipped(path: Path, name: str) -> Path:
    """Shipped weights with a card that lets identities be asked of ions and of the radicals that parts of molecules are."""
    loaded = resolve(name)
    card = replace(loaded.card, total_charges=(-1.0, 0.0, 1.0), closed_shell=False)
    save_weights(path, loaded.network, card, loaded.statistics)
    return path


def write_weights(path: Path, network: AtomisticNetwork, statistics: bool = True, **about: object) -> Path:
    """A weight file of `network`, with invented statistics of its training data."""
    facts = {"reference_kind": "least squares, invented", "level_of_theory": "none", **about}
    save_weights(path, network, ModelCard.describe(network, **facts), invented_statistics(network) if statistics else None)
    return path


def invented_statistics(network: AtomisticNetwork, seed: int = 0) -> TrainingStatistics:
    """Statistics as of 40 training structures whose last-layer inputs are random."""
    generator = torch.Generator().manual_seed(seed)
    n = len(network.elements)
    width = network.hidden[-1] if network.element_readouts else network.n_features // 2
    size = n * (width + 1) if network.element_readouts else width + 1

    def head(mean: float) -> HeadStatistics:
        rows = torch.randn((40, size), generator=generator, dtype=torch.float64)
        usual = torch.tensor([[0.1, 1.0, 2.0]], dtype=torch.float64).repeat(n, 1)
        one = torch.ones(1, dtype=torch.float64)
        return HeadStatistics(mean + torch.arange(n).double(), torch.ones(n).double(), rows.T @ rows, one, one, usual)

    ranges = None
    if network.element_readouts:
        ranges = torch.tensor([-1.0, 1.0], dtype=torch.float64)[None, :, None].repeat(n, 1, network.descriptor.n_functions)
    counts = torch.tensor(np.arange(1, n + 1), dtype=torch.float64)
    return TrainingStatistics(counts, torch.tensor([40.0], dtype=torch.float64), head(-1.0), head(0.0), ranges)
