"""Behler-Parrinello: fixed symmetry functions, one network per element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Linearized
from ase_xai.networks.layers import ShiftedSoftplus, dense, dense_stack
from ase_xai.networks.linearized import LinearizedBehlerParrinello
from ase_xai.networks.wacsf import SymmetryFunctions

STD_FLOOR = 0.01
"""Symmetry functions that hardly vary in training are not amplified beyond 1/STD_FLOOR; their unit is a weighted count."""


class BehlerParrinelloNetwork(AtomisticNetwork):
    """wACSF descriptors, standardized, into one dense network per element of the central atom.

        E_i = s · w_Z·h_Z( (G_i - mean) / std ) + m + E0[Z_i]

    The last hidden layer h_Z feeds two linear readouts, energy and latent charge, and is the atom's feature vector.

    Args:
        elements: atomic numbers the network knows.
        cutoff: Å.
        n_radial, n_angular, zetas: see `SymmetryFunctions`; the defaults give 32 functions.
        resolve_elements: symmetry functions for each element and pair of elements of the neighbors (ACSF) instead of ones
            weighted by atomic number (wACSF): more of them, and no element can be mistaken for another.
        hidden: widths of the hidden layers of each element's network.
        charges: predict charges and dipoles beside energies; without data to learn them from, switch them off.

    Source: Behler, Parrinello, PRL 98, 146401 (2007); Gastegger et al., arXiv:1712.05861. Two hidden layers and standardized
    descriptors are this project's choice.
    """

    architecture: ClassVar[str] = "behler-parrinello"
    element_readouts: ClassVar[bool] = True
    descriptor_mean: Tensor
    descriptor_std: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        n_radial: int = 22,
        n_angular: int = 5,
        zetas: Sequence[int] = (1,),
        resolve_elements: bool = False,
        hidden: Sequence[int] = (100, 100),
        charges: bool = True,
    ) -> None:
        super().__init__(elements, cutoff)
        self.hidden = tuple(int(width) for width in hidden)
        self.resolve_elements = resolve_elements
        resolved = self.elements if resolve_elements else None
        self.descriptor = SymmetryFunctions(self.cutoff, n_radial, n_angular, zetas, resolved)
        n_functions = self.descriptor.n_functions
        self.register_buffer("descriptor_mean", torch.zeros(n_functions))
        self.register_buffer("descriptor_std", torch.ones(n_functions))
        self.hidden_networks = nn.ModuleList(
            nn.Sequential(dense_stack([n_functions, *self.hidden]), ShiftedSoftplus()) for _ in self.elements
        )
        self.energy_readouts = nn.ModuleList(dense(self.hidden[-1], 1) for _ in self.elements)
        self.has_charges = charges
        self.charge_readouts = nn.ModuleList(dense(self.hidden[-1], 1) for _ in self.elements if charges)

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        return self.from_descriptors(graph, self.descriptors(graph))

    def descriptors(self, graph: AtomGraph) -> Tensor:
        """(N, G) standardized symmetry functions. They do not depend on the weights: training may keep them."""
        values = self.descriptor(graph, self.dtype, compiled=self.compiled)
        return (values - self.descriptor_mean) / self.descriptor_std

    def from_descriptors(self, graph: AtomGraph, standardized: Tensor) -> AtomwiseOutput:
        """What the networks of the elements make of standardized symmetry functions (N, G)."""
        element = self.element_index(graph.numbers)
        order = torch.argsort(element, stable=True)  # atoms grouped by element
        counts = torch.bincount(element, minlength=len(self.elements)).tolist()
        groups = standardized[order].split(counts)
        hidden = [network(group) for network, group in zip(self.hidden_networks, groups, strict=True)]
        energies = torch.cat([read(h) for read, h in zip(self.energy_readouts, hidden, strict=True)])
        back = torch.argsort(order)
        charges = None
        if self.has_charges:
            charges = torch.cat([read(h) for read, h in zip(self.charge_readouts, hidden, strict=True)])[back]
        inputs = torch.cat(hidden)[back]
        charge_inputs = inputs if self.has_charges else None
        return self.atomwise(graph, energies[back], charges, inputs, energy_inputs=inputs, charge_inputs=charge_inputs)

    def mixed(self, graph: AtomGraph, shares: Tensor) -> AtomwiseOutput:
        """Interpolates what atoms weigh as neighbors, and the networks of the elements as centers."""
        shares_of = shares.to(self.dtype)
        occupation = shares_of @ self.element_numbers.to(self.dtype)[:, None] if self.descriptor.weighted else shares_of
        values = self.descriptor(graph, self.dtype, occupation=occupation)
        standardized = (values - self.descriptor_mean) / self.descriptor_std
        hidden = torch.stack([network(standardized) for network in self.hidden_networks])  # (Z, N, H)

        def blend(readouts: nn.ModuleList) -> Tensor:
            each = torch.cat([read(h) for read, h in zip(readouts, hidden, strict=True)], dim=1)  # (N, Z)
            return (shares_of * each).sum(dim=1, keepdim=True)

        features = torch.einsum("nz,znh->nh", shares_of, hidden)
        charges = blend(self.charge_readouts) if self.has_charges else None
        return self.atomwise(graph, blend(self.energy_readouts), charges, features, shares=shares)

    def standardize_on(self, graphs: Sequence[AtomGraph]) -> None:
        """Set mean and standard deviation of each symmetry function from the atoms of `graphs` (training structures)."""
        with torch.no_grad():
            values = torch.cat([self.descriptor(graph, torch.float64) for graph in graphs])
        spread = values.std(dim=0)
        self.descriptor_mean.copy_(values.mean(dim=0))
        self.descriptor_std.copy_(torch.clamp(spread, min=STD_FLOOR))

    def linearize(self, graph: AtomGraph) -> Linearized:
        return LinearizedBehlerParrinello(self, graph)

    def settings(self) -> dict[str, object]:
        return {
            "elements": list(self.elements),
            "cutoff": self.cutoff,
            "n_radial": self.descriptor.n_radial,
            "n_angular": self.descriptor.n_angular,
            "zetas": list(self.descriptor.zetas),
            "resolve_elements": self.resolve_elements,
            "hidden": list(self.hidden),
            "charges": self.has_charges,
        }
