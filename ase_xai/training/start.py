"""Training that starts from weights: the network, and what a configuration may not say about it any more."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols

from ase_xai.networks.base import AtomisticNetwork
from ase_xai.training.config import Config


def continued(config: Config, network: AtomisticNetwork, elements: Sequence[int]) -> AtomisticNetwork:
    """A copy of `network` to be trained, with its weights, energy scale and references.

    Args:
        config: names `network.start` and may repeat what is true of it.
        network: read from there, so without gradients.
        elements: atomic numbers in the data.

    Raises:
        ValueError: the configuration states something else, or the data hold elements that the network does not know.
    """
    _refuse_contradictions(config, network)
    unknown = [chemical_symbols[z] for z in elements if z not in network.elements]
    if unknown:
        known = " ".join(chemical_symbols[z] for z in network.elements)
        raise ValueError(
            f"the data hold {', '.join(unknown)}, but {config.network.start}, which training starts from, knows only "
            f"{known}. Leave such structures out, or train without a start."
        )
    settings: dict[str, Any] = network.settings()
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and replaced; which ones learn is the class's choice
        fresh = type(network)(**settings)
    fresh.load_state_dict(network.state_dict())
    fresh.energy = copy.deepcopy(network.energy)
    return fresh


def _refuse_contradictions(config: Config, network: AtomisticNetwork) -> None:
    kept = {chemical_symbols[z]: energy for z, energy in network.energy.references.items()}
    own = {"architecture": network.architecture, **network.settings()}
    stated: dict[str, object] = {"architecture": config.network.architecture, **config.network.arguments}
    _refuse_others("network", stated, own, config.network.start)
    if isinstance(config.data.references, Mapping):
        _refuse_others("data", {"references": config.data.references}, {"references": kept}, config.network.start)


def _refuse_others(section: str, stated: Mapping[str, object], own: Mapping[str, object], start: str | None) -> None:
    for name, value in stated.items():
        if isinstance(value, tuple):
            value = sorted(value) if name == "elements" else list(value)
        if value != own[name]:
            raise ValueError(
                f"{section}.{name} = {value!r} contradicts {start}, which training starts from: there it is {own[name]!r}. "
                "What is left out is taken from there."
            )
