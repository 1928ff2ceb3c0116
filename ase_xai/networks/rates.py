"""How fast energies, dipoles and the energy's barycenter change while atoms move: derivatives along velocities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork
from ase_xai.networks.response import differentiating, displaced, gradient

MAX_HOPS = 16
"""Layers of messages that are looked for; networks that reach further are taken for non-local."""


def group_powers(network: AtomisticNetwork, graph: AtomGraph, velocities: Tensor, member: Tensor, n_groups: int) -> Tensor:
    """(G, N) rates (∂E_G/∂r_j)·v_j at which the motion of atom j changes the energy of group G, in eV/fs.

    One forward pass and one backward pass a group.

    Args:
        network: any.
        graph: one system.
        velocities: (N, 3) Å/fs.
        member: (N,) index of the group of each atom.
        n_groups: G.
    """
    plain = _plain(network, graph)
    with differentiating(graph):
        shift = torch.zeros_like(graph.positions).requires_grad_()
        energies = network(displaced(plain, shift)).energies.double()
        sums = energies.new_zeros(n_groups).index_add(0, member, energies)
        rows = [(gradient(value, shift, keep=True) * velocities).sum(dim=1) for value in sums]
    return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class DipoleRate:
    """How fast the dipole moves.

    Args:
        by_atom: (N, 3) e·Å/fs, what the motion of each atom contributes.
        charges: (N,) e.
        charge_rates: (N,) dq_i/dt in e/fs.
    """

    by_atom: Tensor
    charges: Tensor
    charge_rates: Tensor


def dipole_rate(network: AtomisticNetwork, graph: AtomGraph, velocities: Tensor, places: Tensor) -> DipoleRate:
    """Each atom's part in Σ_i [q_i v_i + (dq_i/dt) x_i], x_i fixed places: q_j v_j + Σ_i x_i (∂q_i/∂r_j)·v_j.

    Three backward passes for the parts, and a fourth differentiated once more for dq/dt.

    Args:
        network: one with charges.
        graph: one system.
        velocities: (N, 3) Å/fs.
        places: (N, 3) x_i in Å, the positions of an open system.
    """
    plain = _plain(network, graph)
    with differentiating(graph):
        shift = torch.zeros_like(graph.positions).requires_grad_()
        charges = network(displaced(plain, shift)).charges
        if charges is None:
            raise ValueError("a dipole rate needs charges, and this network was trained without dipoles. Use other weights.")
        charges = charges.double()
        flux = [(gradient(moment, shift, keep=True) * velocities).sum(dim=1) for moment in places.T @ charges]
        weights = torch.ones_like(charges).requires_grad_()
        motion = charges.new_zeros(())
        if charges.requires_grad:
            (slopes,) = torch.autograd.grad(weights @ charges, shift, create_graph=True, allow_unused=True)
            motion = motion if slopes is None else (slopes * velocities).sum()
        rates = gradient(motion, weights)  # Σ_i w_i dq_i/dt is linear in w
    by_atom = charges.detach()[:, None] * velocities + torch.stack(flux, dim=1)
    return DipoleRate(by_atom, charges.detach(), rates)


def barycenter_rate(
    network: AtomisticNetwork, graph: AtomGraph, velocities: Tensor, origin: Tensor, n_atoms: int
) -> tuple[Tensor, Tensor]:
    """The potential part of the heat flux by moving atom, (N, 3) eV·Å/fs, and the (N,) energies of the first atoms in eV.

        J_j = Σ_i (r_i - r_j) (∂U_i/∂r_j)·v_j,     i over the first N atoms, j over them and their images

    from the barycenter B = Σ_i r_i U_i with r_i held fixed: J_j = (∂B/∂r_j)·v_j - r_j (∂U/∂r_j)·v_j, four backward passes.

    Args:
        network: any.
        graph: one open system, or a cell unfolded by `unfold`.
        velocities: (M, 3) Å/fs of all M atoms of `graph`.
        origin: (M,) atom of the cell that each atom is an image of; arange(N) for the first N.
        n_atoms: N.

    Source: Langer et al., Phys. Rev. B 108, L100302 (2023), arXiv:2303.14434 (barycenter of the unfolded cell); Fan et al.,
    Phys. Rev. B 92, 094301 (2015) (heat flux of many-body potentials).
    """
    plain = _plain(network, graph)
    places = graph.positions.double() - graph.positions[:n_atoms].double().mean(dim=0)  # small numbers lose few digits
    with differentiating(graph):
        shift = torch.zeros_like(graph.positions).requires_grad_()
        energies = network(displaced(plain, shift)).energies.double()[:n_atoms]
        moments = [*(places[:n_atoms].T @ energies), energies.sum()]
        *rows, power = [(gradient(moment, shift, keep=True) * velocities).sum(dim=1) for moment in moments]
    by_image = torch.stack(rows, dim=1) - places * power[:, None]
    return by_image.new_zeros((n_atoms, 3)).index_add(0, origin, by_image), energies.detach()


def unfold(graph: AtomGraph, cell: Tensor, n_hops: int) -> tuple[AtomGraph, Tensor]:
    """An open system around one periodic cell whose first N atoms have the energies they have in the cell.

    Beside the cell's atoms it holds the images that they reach in `n_hops` steps from neighbor to neighbor, and the pairs of
    every atom but those of the last step, which nobody further in listens to.

    Args:
        graph: the periodic system.
        cell: (P, 3) Å, the vectors of its periodic directions.
        n_hops: layers of messages of the network, see `receptive_hops`.

    Returns:
        The open graph, and (M,) the atom of the cell that each of its atoms is an image of.
    """
    n_atoms, device = len(graph.numbers), graph.numbers.device
    jump = graph.vectors - graph.positions[graph.neighbors] + graph.positions[graph.centers]
    steps = torch.round(jump @ torch.linalg.pinv(cell)).long()  # (E, P)
    reach = n_hops * int(steps.abs().max()) if len(steps) else 0
    width = (2 * reach + 1) ** torch.arange(cell.shape[0], device=device)

    def key(atom: Tensor, shift: Tensor) -> Tensor:
        """One integer for each image, rising with nothing in particular."""
        return atom + n_atoms * ((shift + reach) * width).sum(dim=1)

    by_center = torch.argsort(graph.centers, stable=True)
    counts = torch.bincount(graph.centers, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    atoms, shifts = torch.arange(n_atoms, device=device), steps.new_zeros((n_atoms, cell.shape[0]))
    shell = torch.arange(n_atoms, device=device)
    starts: list[Tensor] = []
    ends: list[Tensor] = []
    chosen: list[Tensor] = []
    for _ in range(n_hops):
        n_pairs = counts[atoms[shell]]
        start = torch.repeat_interleave(shell, n_pairs)
        rank = torch.arange(len(start), device=device) - torch.repeat_interleave(torch.cumsum(n_pairs, 0) - n_pairs, n_pairs)
        pair = by_center[first[atoms[start]] + rank]
        atom, shift = graph.neighbors[pair], shifts[start] + steps[pair]
        new = ~torch.isin(key(atom, shift), key(atoms, shifts))
        found = torch.unique(torch.cat([atom[new, None], shift[new]], dim=1), dim=0)
        shell = torch.arange(len(atoms), len(atoms) + len(found), device=device)
        atoms, shifts = torch.cat([atoms, found[:, 0]]), torch.cat([shifts, found[:, 1:]])
        starts.append(start)
        ends.append(key(atom, shift))
        chosen.append(pair)
    keys, place = torch.sort(key(atoms, shifts))
    pairs = torch.cat(chosen)
    open_graph = replace(
        graph,
        numbers=graph.numbers[atoms],
        positions=graph.positions[atoms] + shifts.to(cell.dtype) @ cell,
        vectors=graph.vectors[pairs],
        centers=torch.cat(starts),
        neighbors=place[torch.searchsorted(keys, torch.cat(ends))],
        system=torch.zeros_like(atoms),
        volume=torch.full_like(graph.volume, float("nan")),
        mirrored=False,
    )
    return open_graph, atoms


def receptive_hops(network: AtomisticNetwork) -> int:
    """How many steps from neighbor to neighbor an atom's energy sees: 1 for descriptors, T for T layers of messages.

    Read off a chain in which only adjacent atoms are neighbors: beyond the receptive field derivatives are exactly zero.

    Raises:
        ValueError: the energy of an atom depends on atoms more than `MAX_HOPS` steps away.
    """
    n = MAX_HOPS + 2
    along = torch.arange(n, dtype=torch.float64, device=network.device)
    positions = 0.6 * network.cutoff * torch.stack([along, 0 * along, 0 * along], dim=1)
    first = torch.arange(n - 1, device=network.device)
    centers, neighbors = torch.cat([first, first + 1]), torch.cat([first + 1, first])
    chain = AtomGraph(
        numbers=network.element_numbers[torch.arange(n, device=network.device) % len(network.elements)],
        positions=positions,
        vectors=positions[neighbors] - positions[centers],
        centers=centers,
        neighbors=neighbors,
        system=torch.zeros(n, dtype=torch.int64, device=network.device),
        total_charge=torch.zeros(1, dtype=torch.float64, device=network.device),
        volume=torch.full((1,), float("nan"), dtype=torch.float64, device=network.device),
    )
    with differentiating(chain):
        shift = torch.zeros_like(positions).requires_grad_()
        slopes = gradient(network(displaced(chain, shift)).energies[0], shift)
    reached = torch.nonzero((slopes != 0).any(dim=1)).flatten()
    n_hops = int(reached.max()) if len(reached) else 0
    if n_hops > MAX_HOPS:
        raise ValueError(
            f"{network.architecture}: the energy of an atom depends on atoms more than {MAX_HOPS} steps away. Heat flux of "
            "a periodic system needs local atomic energies. Explain an isolated cluster, or use other weights."
        )
    return n_hops


def _plain(network: AtomisticNetwork, graph: AtomGraph) -> AtomGraph:
    """The graph on which plain kernels are used: compiled ones have no second derivatives, and interpolate."""
    return replace(graph, mirrored=False) if network.compiled else graph
