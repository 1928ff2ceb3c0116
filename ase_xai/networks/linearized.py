"""Networks with frozen activations: linear in what goes in, for questions about subsets of atoms.

An activation frozen at z is the factor ssp(z)/z. With every activation replaced by its factor, and biases left out, a
network passes on only what its inputs say: the sum over all walks (SchNet), or over all pairs and triples
(Behler-Parrinello).

Source: Schnake et al., arXiv:2006.03589 (walks, here with γ = 0); Xiong et al., PMLR 162, 24478 (subsets of atoms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ase_xai.graph import AtomGraph
from ase_xai.networks.layers import ShiftedSoftplus

if TYPE_CHECKING:
    from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
    from ase_xai.networks.schnet import Interaction, SchNetNetwork

SMALL = 0.01
"""Below it ssp(z)/z comes from its series, whose next term is 3e-20; the quotient would lose digits, and is 0/0 at 0."""


def gate(z: Tensor) -> Tensor:
    """ssp(z)/z with its limit ½ at z = 0."""
    small = z.abs() < SMALL
    quotient = ShiftedSoftplus()(z) / torch.where(small, 1.0, z)
    return torch.where(small, 0.5 + z / 8 - z**3 / 192 + z**5 / 2880, quotient)


@dataclass(frozen=True, eq=False)
class FrozenLayers:
    """Dense layers without biases, their activations frozen: y = W_n (g ∘ W_(n-1) ( ... g ∘ W_1 x)).

    Args:
        weights: n matrices (n_out, n_in).
        gates: n - 1 tables (N, n_out) with one row for each row of the inputs the layers were frozen at.
    """

    weights: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]

    @classmethod
    def at(cls, layers: Sequence[nn.Module], inputs: Tensor) -> tuple[FrozenLayers, Tensor]:
        """Linear layers with shifted softplus between them, frozen at `inputs` (N, D); and their outputs there."""
        weights, gates = [], []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                weights.append(layer.weight.detach())
                inputs = layer(inputs)
            else:
                gates.append(gate(inputs))
                inputs = layer(inputs)
        return cls(tuple(weights), tuple(gates)), inputs

    def __call__(self, values: Tensor, rows: Tensor) -> Tensor:
        """Outputs (n, n_out) of `values` (n, D), each frozen as the row of the original inputs that `rows` (n,) names."""
        for weight, factors in zip(self.weights, self.gates, strict=False):
            values = functional.linear(values, weight) * factors[rows]
        return functional.linear(values, self.weights[-1])

    def gradient(self) -> Tensor:
        """(N, D) derivative of the last layer's only output with respect to each row of the inputs."""
        slopes = self.weights[-1]  # (1, n_in)
        for weight, factors in zip(reversed(self.weights[:-1]), reversed(self.gates), strict=True):
            slopes = (slopes * factors) @ weight
        return slopes


class LinearizedSchNet:
    """SchNet frozen at a graph: see `Linearized`. Filters depend on distances only and are constants anyway.

    Args:
        network: keeps its weights while this is used.
        graph: where activations are frozen; any number of systems.
    """

    def __init__(self, network: SchNetNetwork, graph: AtomGraph) -> None:
        self.network = network
        self.interactions = [cast("Interaction", module) for module in network.interactions]
        self.updates: list[FrozenLayers] = []
        with torch.no_grad():
            pairs = _Pairs(network, graph)
            features = network.embedding(network.element_index(graph.numbers))
            for interaction in self.interactions:
                messages = pairs.gather(interaction.filter_network, interaction.sender(features))
                update, change = FrozenLayers.at(list(interaction.update), messages)
                self.updates.append(update)
                features = features + change
            self.readout, _ = FrozenLayers.at(list(network.energy_readout), features)

    def __call__(self, graph: AtomGraph, index: Tensor) -> Tensor:
        network = self.network
        with torch.no_grad():
            pairs = _Pairs(network, graph)
            features = network.embedding(network.element_index(graph.numbers))
            for interaction, update in zip(self.interactions, self.updates, strict=True):
                messages = pairs.gather(interaction.filter_network, interaction.sender(features))
                features = features + update(messages, index)
            return network.energy.scale * self.readout(features, index)[:, 0].double()


class _Pairs:
    """Filters of a graph whose pairs occur many times, each distance filtered once."""

    def __init__(self, network: SchNetNetwork, graph: AtomGraph) -> None:
        distances = torch.linalg.vector_norm(graph.unique_vectors, dim=1).to(network.dtype)
        distinct, self.place = torch.unique(distances, return_inverse=True)
        self.graph = graph
        self.basis, self.envelope = network.radial_basis(distinct), network.cutoff_function(distinct)[:, None]

    def gather(self, filter_network: nn.Module, values: Tensor) -> Tensor:
        filters = filter_network(self.basis) * self.envelope  # (distinct distances, F)
        return self.graph.gather_neighbors(filters[self.place], values)


class LinearizedBehlerParrinello:
    """A Behler-Parrinello network frozen at a graph: see `Linearized`.

        E_i = s · g_i·G_i / std + (bias part),     g_i = ∂(output)/∂(standardized G_i) with frozen activations

    G_i of some atoms alone holds their pairs and triples only. Means subtracted in standardization belong to the bias part.

    Args:
        network: keeps its weights while this is used.
        graph: where activations are frozen; any number of systems.
    """

    def __init__(self, network: BehlerParrinelloNetwork, graph: AtomGraph) -> None:
        self.network = network
        with torch.no_grad():
            standardized = (network.descriptor(graph, network.dtype) - network.descriptor_mean) / network.descriptor_std
            element = network.element_index(graph.numbers)
            self.slopes = torch.zeros_like(standardized)  # (N, G)
            for number, (hidden, readout) in enumerate(zip(network.hidden_networks, network.energy_readouts, strict=True)):
                rows = torch.nonzero(element == number)[:, 0]
                layers = [layer for layer in hidden.modules() if not isinstance(layer, nn.Sequential)]
                frozen, _ = FrozenLayers.at([*layers, readout], standardized[rows])
                self.slopes[rows] = frozen.gradient() / network.descriptor_std

    def __call__(self, graph: AtomGraph, index: Tensor) -> Tensor:
        with torch.no_grad():
            functions = self.network.descriptor(graph, self.network.dtype)  # (n, G)
            return self.network.energy.scale * (self.slopes[index] * functions).sum(dim=1).double()
