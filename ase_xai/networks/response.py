"""How networks respond: second derivatives, and derivatives of dipoles and with respect to elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, add_up
from ase_xai.networks.inference.team import SMALL, cpu_threads

Quantity = Callable[[AtomGraph, AtomwiseOutput], Tensor]
"""One number, differentiable, from what the atoms of a graph say."""


@dataclass(frozen=True, eq=False)
class DipoleResponse:
    """Z*_{i,ab} = ∂μ_a/∂r_ib about a fixed origin and its two parts, each (N, 3, 3) in e: first index dipole, second
    displacement.

    Args:
        charge: q_i δ_ab, the charge moves with its atom.
        flux: Σ_j (r_j - r_0)_a ∂q_j/∂r_ib, charge flows between atoms. As Σ_j q_j stays, the origin r_0 drops out.
    """

    charge: Tensor
    flux: Tensor

    @property
    def total(self) -> Tensor:
        return self.charge + self.flux


def born_charges(network: AtomisticNetwork, graph: AtomGraph, flux: Flux | None = None) -> Tensor:
    """(N, 3, 3) Born charges Z*_{i,ab} = ∂μ_a/∂r_ib in e, see `dipole_response`."""
    return dipole_response(network, graph, flux).total


def charge_flux(network: AtomisticNetwork, graph: AtomGraph, weights: Tensor) -> tuple[AtomwiseOutput, Tensor]:
    """What the atoms say, and (A, N, 3) ∂(Σ_i w_ai q_i)/∂r in the units of w times e/Å, from A backward passes.

    Args:
        network: one with charges.
        graph: one system or a batch.
        weights: (A, N), of mean zero over each system, so that what conserves the charge drops out.
    """
    with differentiating(graph):
        shift = torch.zeros_like(graph.positions).requires_grad_()
        output = network(displaced(graph, shift))
        assert output.charges is not None
        return output, torch.stack([gradient(moment, shift, keep=True) for moment in weights @ output.charges])


Flux = Callable[[AtomGraph, Tensor], tuple[AtomwiseOutput, Tensor]]
"""`charge_flux` of a network, however it is computed."""


def dipole_response(network: AtomisticNetwork, graph: AtomGraph, flux: Flux | None = None) -> DipoleResponse:
    """Born charges of open systems, from one forward and three backward passes whatever the number of atoms.

    Their sum over a system is its total charge times the unit matrix: the origin is fixed and does not follow the atoms.

    Args:
        network: one with charges.
        graph: one system or a batch. The caller makes sure that none is periodic: the dipole of charge that flows through a
            periodic system depends on the choice of images.
        flux: kernels for `charge_flux`; None differentiates automatically.

    Raises:
        ValueError: the network has no charges.
    """
    if not network.has_charges:
        raise ValueError("Born charges need charges, and this network was trained without dipoles. Use other weights.")
    weights = _about_centroid(graph).T  # (3, N); systems do not know each other, so their moments can be summed
    output, rows = charge_flux(network, graph, weights) if flux is None else flux(graph, weights)
    charges = output.charges
    assert charges is not None
    identity = torch.eye(3, dtype=charges.dtype, device=charges.device)
    return DipoleResponse(charge=charges.detach()[:, None, None] * identity, flux=rows.transpose(0, 1))


def hessian(network: AtomisticNetwork, graph: AtomGraph) -> Tensor:
    """(3N, 3N) second derivatives of the energy in eV/Å², exact and symmetrized, from 3N backward passes.

    Compiled kernels have no second derivatives, so the plain ones are used.
    """
    plain = replace(graph, mirrored=False) if network.compiled else graph
    with differentiating(graph):
        shift = torch.zeros_like(graph.positions).requires_grad_()
        energy = add_up(plain, network(displaced(plain, shift))).energy.sum()
        if not energy.requires_grad:
            return shift.new_zeros((shift.numel(), shift.numel()))
        (slopes,) = torch.autograd.grad(energy, shift, create_graph=True)
        rows = torch.stack([gradient(slope, shift, keep=True) for slope in slopes.flatten()]).flatten(1)
    return 0.5 * (rows + rows.T)


def share_gradients(network: AtomisticNetwork, graph: AtomGraph, shares: Tensor, quantity: Quantity) -> tuple[float, Tensor]:
    """A quantity of atoms that are mixtures of elements, and its (N, Z) derivatives with respect to the mixtures.

    Args:
        network: one that mixes elements, see `AtomisticNetwork.mixed`.
        graph: one system.
        shares: (N, Z) float64.
        quantity: what is differentiated.

    Raises:
        NotImplementedError: the network does not mix elements.
    """
    with differentiating(graph):
        leaf = shares.detach().clone().requires_grad_()
        value = quantity(graph, network.mixed(graph, leaf))
        return float(value.detach()), gradient(value, leaf)


def interaction_energy(graph: AtomGraph, output: AtomwiseOutput) -> Tensor:
    """Energy in eV without the reference energies of the elements."""
    return output.energies.double().sum()


def dipole_magnitude(graph: AtomGraph, output: AtomwiseOutput) -> Tensor:
    """|μ| in e·Å about the centroid, which is the origin that a neutral system does not need."""
    assert output.charges is not None
    return torch.linalg.vector_norm(_about_centroid(graph).T @ output.charges.double())


def element_shares(network: AtomisticNetwork, numbers: Tensor) -> Tensor:
    """(N, Z) float64, a one at each atom's own element."""
    return torch.nn.functional.one_hot(network.element_index(numbers), len(network.elements)).double()


def displaced(graph: AtomGraph, shift: Tensor) -> AtomGraph:
    """The graph whose pair vectors follow displacements (N, 3) of the atoms, differentiably; pairs and positions stay."""
    return graph.with_vectors(graph.vectors.detach() + shift[graph.neighbors] - shift[graph.centers])


@contextmanager
def differentiating(graph: AtomGraph) -> Iterator[None]:
    """Gradients on, mixed precision and inference mode off, whatever the caller has set; one CPU thread for few atoms."""
    with (
        cpu_threads(1 if len(graph.numbers) < SMALL else None),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(graph.vectors.device.type, enabled=False),
    ):
        yield


def _about_centroid(graph: AtomGraph) -> Tensor:
    """(N, 3) positions relative to the centroid of each system: small numbers, so that sums over charges lose little."""
    positions = graph.positions.double()
    counts = graph.sum_systems(torch.ones_like(positions))
    return positions - (graph.sum_systems(positions) / counts)[graph.system]


def gradient(value: Tensor, leaf: Tensor, *, keep: bool = False) -> Tensor:
    """∂value/∂leaf, zero where nothing depends on it, as for a lone atom."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
