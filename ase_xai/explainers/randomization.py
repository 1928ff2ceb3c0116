"""The same network with weights that have learned nothing: what in an explanation comes from the architecture alone?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from ase_xai.networks.base import AtomisticNetwork


def stages(network: AtomisticNetwork) -> list[tuple[str, list[nn.Parameter]]]:
    """Names and weights of the parts of `network` from the output down to the input.

    Parts are those that the network's attributes name; lists of layers that follow each other count one by one, lists with
    one network for each element as a whole.
    """
    found: list[tuple[str, list[nn.Parameter]]] = []
    for name, module in network.named_children():
        parts: list[tuple[str, nn.Module]] = [(name, module)]
        if isinstance(module, nn.ModuleList) and not network.element_readouts:
            parts = [(f"{name}.{k}", part) for k, part in enumerate(module)]
        found += [(title, list(part.parameters())) for title, part in parts if any(True for _ in part.parameters())]
    return found[::-1]


def randomized(network: AtomisticNetwork, n_stages: int | None, seed: int) -> AtomisticNetwork:
    """A copy of `network` whose first `n_stages` stages have random weights; None: all.

    Each weight array becomes independent normal numbers of its own root mean square, so that activations keep their size.
    """
    twin = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weights in stages(twin)[:n_stages]:
            for weight in weights:
                size = float(weight.double().square().mean().sqrt())
                drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(size * drawn)
    return twin


def cascade(network: AtomisticNetwork, seed: int) -> Iterator[tuple[str, AtomisticNetwork]]:
    """Copies with the first stage random, the first two ..., and at last all."""
    for number, (name, _) in enumerate(stages(network), start=1):
        yield name, randomized(network, number, seed)
