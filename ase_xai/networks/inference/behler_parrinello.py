"""Behler-Parrinello energies, charges, forces and stress with the backward pass written out, for a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput, Prediction
from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
from ase_xai.networks.compiled.autograd import array
from ase_xai.networks.compiled.density import Environment
from ase_xai.networks.compiled.density_loops import density, density_gradient, multiply, multiply_gradient
from ase_xai.networks.inference.dense import linear, ssp_and_slope
from ase_xai.networks.inference.pairs import PairList
from ase_xai.networks.inference.team import Team
from ase_xai.networks.response import charge_flux


@dataclass(frozen=True, eq=False)
class _Work:
    """What one evaluation writes to.

    Args:
        parts: radial sums, moments and diagonal of the pairs of each member.
        gradients: ∂E with respect to these sums.
        by_pair: (P, 3) ∂E/∂D.
        hidden: (N, H) last hidden layer.
        energies, charges: (N, 1) readouts.
    """

    parts: list[tuple[NDArray[np.floating], ...]]
    gradients: tuple[NDArray[np.floating], ...]
    by_pair: NDArray[np.floating]
    hidden: Tensor
    energies: Tensor
    charges: Tensor

    @classmethod
    def of(cls, environment: Environment, network: BehlerParrinelloNetwork, team: Team) -> _Work:
        n = len(environment.channel)
        return cls(
            parts=[environment.sums() for _ in range(team.size)],
            gradients=environment.sums(),
            by_pair=np.zeros_like(environment.directions),
            hidden=torch.empty(n, network.hidden[-1], dtype=network.dtype, device=network.device),
            energies=torch.empty(n, 1, dtype=network.dtype, device=network.device),
            charges=torch.empty(n, 1, dtype=network.dtype, device=network.device),
        )


class BehlerParrinelloEvaluator:
    """`predict` for a `BehlerParrinelloNetwork`: the same equations, first derivatives by hand.

    The pairs are walked through twice: once for the moments of the neighbor density, see `SymmetryFunctions`, and once, with
    the gradient of the energy with respect to these moments, for ∂E/∂D. Neither pairs times moments nor a list of triples is
    ever in memory.

    Args:
        network: its weights are taken as they are now.
    """

    def __init__(self, network: BehlerParrinelloNetwork) -> None:
        self.network = network

    def describe(self) -> str:
        return "loops compiled by Numba, derivatives written out, exact symmetry functions"

    @torch.no_grad()
    def __call__(self, graph: AtomGraph, team: Team) -> Prediction:
        output, work = self._evaluated(graph, team, derivatives=True)
        return PairList.of(graph).prediction(graph, output, torch.from_numpy(work.by_pair).double())

    @torch.no_grad()
    def output(self, graph: AtomGraph, team: Team) -> AtomwiseOutput:
        return self._evaluated(graph, team, derivatives=False)[0]

    def charge_flux(self, graph: AtomGraph, weights: Tensor, team: Team) -> tuple[AtomwiseOutput, Tensor]:
        return charge_flux(self.network, graph, weights)

    def _evaluated(self, graph: AtomGraph, team: Team, *, derivatives: bool) -> tuple[AtomwiseOutput, _Work]:
        """What the atoms say, and ∂E/∂D in the work if it is asked for."""
        network = self.network
        environment = Environment.of(network.descriptor, graph, network.dtype)
        work = _Work.of(environment, network, team)
        element = network.element_index(graph.numbers)

        def part(rank: int) -> None:
            with torch.no_grad():
                self._part(rank, team, environment, work, element, derivatives)

        team.run(part)
        charges = work.charges if network.has_charges else None
        output = network.atomwise(
            graph,
            work.energies,
            charges,
            work.hidden,
            energy_inputs=work.hidden,
            charge_inputs=None if charges is None else work.hidden,
        )
        return output, work

    def _part(
        self, rank: int, team: Team, environment: Environment, work: _Work, element: Tensor, derivatives: bool
    ) -> None:
        """One member's part: its pairs in the sums over neighbors, its atoms in everything else."""
        own, share = team.share(len(element), rank), team.share(len(environment.first), rank)
        mine = environment.part(share)
        density(*mine.pairs, *mine.atoms, *work.parts[rank])
        team.wait(rank)
        radial, moments, diagonal = (sum(parts[k][own] for parts in work.parts) for k in range(3))
        invariants = environment.invariants()[own]
        multiply(moments, diagonal, *environment.products, invariants)
        functions = self.network.descriptor.combined(torch.from_numpy(radial), torch.from_numpy(invariants))
        by_functions = self._networks(functions, element[own], work, own)
        if not derivatives:
            return
        by_radial, by_invariants = self.network.descriptor.divided(by_functions)
        work.gradients[0][own] = by_radial.numpy()
        multiply_gradient(
            moments, array(by_invariants), *environment.products, work.gradients[1][own], work.gradients[2][own]
        )
        team.wait(rank)
        density_gradient(*mine.pairs, *mine.atoms, mine.distances, mine.slopes, *work.gradients, work.by_pair[share])

    def _networks(self, functions: Tensor, element: Tensor, work: _Work, own: slice) -> Tensor:
        """∂E/∂G (n, G) of some atoms; leaves their readouts and hidden values in `work`."""
        network = self.network
        standardized = (functions - network.descriptor_mean) / network.descriptor_std
        gradient = torch.empty_like(functions)
        for k in element.unique().tolist():
            atoms = (element == k).nonzero()[:, 0]
            inputs, slopes = standardized[atoms], []
            layers = [layer for layer in network.hidden_networks[k].modules() if isinstance(layer, nn.Linear)]
            for layer in layers:
                inputs, slope = ssp_and_slope(layer(inputs))
                slopes.append(slope)
            energy = linear(network.energy_readouts, k)
            rows = atoms + own.start
            work.hidden[rows], work.energies[rows] = inputs, energy(inputs)
            if network.has_charges:
                work.charges[rows] = linear(network.charge_readouts, k)(inputs)
            back = (network.energy.scale * energy.weight).expand_as(inputs)
            for layer, slope in zip(reversed(layers), reversed(slopes), strict=True):
                back = (back * slope) @ layer.weight
            gradient[atoms] = back / network.descriptor_std
        return gradient
