"""SchNet: continuous-filter convolutions, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Linearized
from ase_xai.networks.layers import CosineCutoff, GaussianBasis, dense, dense_stack
from ase_xai.networks.linearized import LinearizedSchNet
from ase_xai.networks.messages import HearsByDistance

Gather = Callable[[nn.Module, Tensor], Tensor]
"""(filter network, values (N, F)) -> Σ_j W(r_ij) ∘ values_j: (N, F)."""


class SchNetNetwork(AtomisticNetwork, HearsByDistance):
    """SchNet with a cosine cutoff, atomic energies and latent charges.

        x_i⁰     = a[Z_i]
        x_i^t+1  = x_i^t + Dense(ssp(Dense( Σ_j Dense(x_j^t) ∘ W^t(r_ij) )))
        W^t(r)   = Dense(ssp(Dense(rbf(r)))) · f_c(r)

    The cutoff function is always on: energies and forces stay continuous when an atom crosses the cutoff.

    Args:
        elements: atomic numbers the network knows.
        cutoff: Å.
        n_features: width F of the atomic features.
        n_interactions: number T of interaction layers; the receptive field is T·cutoff.
        n_radial: number K of Gaussians between 0 and the cutoff.
        charges: predict charges and dipoles beside energies; without data to learn them from, switch them off.

    Source: Schütt et al., arXiv:1706.08566 and arXiv:1712.06113. Departs from the first code by the cutoff function and a
    linear second filter layer, both as in SchNetPack.
    """

    architecture: ClassVar[str] = "schnet"

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        n_features: int = 128,
        n_interactions: int = 6,
        n_radial: int = 50,
        charges: bool = True,
    ) -> None:
        super().__init__(elements, cutoff)
        self.n_features, self.n_interactions, self.n_radial = n_features, n_interactions, n_radial
        self.embedding = nn.Embedding(len(self.elements), n_features)
        self.radial_basis = GaussianBasis(0.0, cutoff, n_radial)
        self.cutoff_function = CosineCutoff(cutoff)
        self.interactions = nn.ModuleList(Interaction(n_features, n_radial) for _ in range(n_interactions))
        self.energy_readout = dense_stack([n_features, n_features // 2, 1])
        self.has_charges = charges
        self.charge_readout = dense_stack([n_features, n_features // 2, 1]) if charges else None
        if self.charge_readout is not None:  # conservation takes a constant out again: its gradient is rounding noise
            self.charge_readout[-1].bias.requires_grad_(False)

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        return self._from_embedding(graph, self.embedding(self.element_index(graph.numbers)))

    def mixed(self, graph: AtomGraph, shares: Tensor) -> AtomwiseOutput:
        return self._from_embedding(graph, shares.to(self.dtype) @ self.embedding.weight, shares)

    def _from_embedding(self, graph: AtomGraph, features: Tensor, shares: Tensor | None = None) -> AtomwiseOutput:
        """What follows from x_i⁰ (N, F)."""
        gather = self._gather(graph)
        for interaction in self.interactions:
            features = features + interaction(features, gather)
        return self._read(graph, features, shares)

    def _read(self, graph: AtomGraph, features: Tensor, shares: Tensor | None = None) -> AtomwiseOutput:
        """What the readouts make of x_i^T (N, F)."""
        energy_inputs = self.energy_readout[:-1](features)  # (N, F/2)
        energies = self.energy_readout[-1](energy_inputs)
        charges = charge_inputs = None
        if self.charge_readout is not None:
            charge_inputs = self.charge_readout[:-1](features)
            charges = self.charge_readout[-1](charge_inputs)
        return self.atomwise(
            graph, energies, charges, features, energy_inputs=energy_inputs, charge_inputs=charge_inputs, shares=shares
        )

    def sent(self, graph: AtomGraph) -> list[Tensor]:
        values: list[Tensor] = []
        gather, features = self._gather(graph), self.embedding(self.element_index(graph.numbers))
        for interaction in self.layers:
            values.append(interaction.sender(features))
            features = features + interaction(features, gather)
        return values

    @property
    def n_layers(self) -> int:
        return self.n_interactions

    @property
    def width(self) -> int:
        return self.n_features

    def filter(self, layer: int, distances: Tensor) -> Tensor:
        filtered: Tensor = self.layers[layer].filter_network(self.radial_basis(distances))
        return filtered

    def filter_and_slope(self, layer: int, distances: Tensor) -> tuple[Tensor, Tensor]:
        network = self.layers[layer].filter_network
        first, second = (stage.weight.T for stage in network if isinstance(stage, nn.Linear))
        inner = network[0](self.radial_basis(distances))
        change = torch.sigmoid(inner) * (self.radial_basis.slope(distances) @ first)
        return network[1:](inner), change @ second

    def envelope(self, distances: Tensor) -> Tensor:
        return self.cutoff_function(distances)

    def listen(self, graph: AtomGraph, heard: Callable[[int], Tensor]) -> AtomwiseOutput:
        features = self.embedding(self.element_index(graph.numbers))
        for layer, interaction in enumerate(self.layers):
            features = features + interaction.update(heard(layer))
        return self._read(graph, features)

    @property
    def layers(self) -> list[Interaction]:
        """The interactions."""
        return [layer for layer in self.interactions if isinstance(layer, Interaction)]

    def _gather(self, graph: AtomGraph) -> Gather:
        distances = torch.linalg.vector_norm(graph.unique_vectors, dim=1).to(self.dtype)  # (P,)
        tabulated = self.compiled and graph.mirrored
        return self._tabulated(graph, distances) if tabulated else self._exact(graph, distances)

    def _exact(self, graph: AtomGraph, distances: Tensor) -> Gather:
        basis, envelope = self.radial_basis(distances), self.cutoff_function(distances)[:, None]  # (P, K), (P, 1)
        return lambda filter_network, values: graph.gather_neighbors(filter_network(basis) * envelope, values)

    def _tabulated(self, graph: AtomGraph, distances: Tensor) -> Gather:
        from ase_xai.networks.compiled.convolution import Grid, PlacedPairs, convolve

        grid = Grid.over(self.cutoff, distances)
        basis, envelope = self.radial_basis(grid.distances), self.cutoff_function(grid.distances)[:, None]  # on K knots
        n = graph.n_unique
        pairs = PlacedPairs.on(grid, distances, graph.centers[:n], graph.neighbors[:n])
        return lambda filter_network, values: convolve(values, filter_network(basis) * envelope, distances, pairs)

    def element_vectors(self) -> Tensor:
        return self.embedding.weight

    def linearize(self, graph: AtomGraph) -> Linearized:
        return LinearizedSchNet(self, graph)

    def settings(self) -> dict[str, object]:
        return {
            "elements": list(self.elements),
            "cutoff": self.cutoff,
            "n_features": self.n_features,
            "n_interactions": self.n_interactions,
            "n_radial": self.n_radial,
            "charges": self.has_charges,
        }


class Interaction(nn.Module):
    """One SchNet interaction: atoms listen to their neighbors through a filter of the distance."""

    def __init__(self, n_features: int, n_radial: int) -> None:
        super().__init__()
        self.filter_network = dense_stack([n_radial, n_features, n_features])
        self.sender = dense(n_features, n_features, bias=False)
        self.update = dense_stack([n_features, n_features, n_features])

    def forward(self, features: Tensor, gather: Gather) -> Tensor:
        return self.update(gather(self.filter_network, self.sender(features)))  # (N, F)
