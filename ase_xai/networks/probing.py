"""Probe atoms for any network: they hear a molecule that does not hear them, or join it one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput
from ase_xai.networks.messages import HearsByDistance, MessageTables

BUDGET = 2**28
"""Bytes that a chunk of points may take, by a rough estimate: 256 MB are small beside the memory of any machine that runs
PyTorch, and chunks of this size compute much longer than they take to start."""
CROWD = 80
"""Neighbors of a point that the estimate reckons with: 5 Å around a point of a dense organic solid hold as many atoms."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """One system, and the atoms and periodic images that points near it can hear.

    Args:
        graph: of the system.
        index: (M,) atom that each image belongs to.
        positions: (M, 3) Å, float64.
        cutoff: Å.
    """

    graph: AtomGraph
    index: Tensor
    positions: Tensor
    cutoff: float

    @torch.no_grad()
    def pairs(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Point (E,) and image (E,) of every pair closer than the cutoff, in order of the points."""
        low, high = points.detach().amin(dim=0) - self.cutoff, points.detach().amax(dim=0) + self.cutoff
        near = ((self.positions >= low) & (self.positions <= high)).all(dim=1).nonzero()[:, 0]
        size = max(1, BUDGET // 64 // max(len(near), 1))
        found = []
        for start in range(0, len(points), size):
            distances = _distances(points[start : start + size].detach(), self.positions[near])
            point, image = (distances < self.cutoff).nonzero(as_tuple=True)
            found.append((point + start, near[image]))
        return torch.cat([point for point, _ in found]), torch.cat([image for _, image in found])

    @torch.no_grad()
    def closest(self, points: Tensor, radii: Tensor) -> Tensor:
        """(P,) smallest distance of each point to an image in units of its radius, infinity with nothing near.

        Args:
            points: (P, 3) Å.
            radii: (N,) Å of each atom.
        """
        smallest = torch.full_like(points[:, 0], torch.inf)
        for rows in chunks(len(points), BUDGET // 128 // max(1, min(len(self.index), CROWD))):
            point, image = self.pairs(points[rows])
            relative = (
                torch.linalg.vector_norm(self.positions[image] - points[rows][point], dim=1) / radii[self.index[image]]
            )
            smallest[rows] = smallest[rows].scatter_reduce(0, point, relative, "amin")
        return smallest


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """By differences: the matrix-product form would lose half the digits."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def chunks(n_points: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` points that cover all."""
    return (slice(start, min(start + size, n_points)) for start in range(0, n_points, max(size, 1)))


# --- probes that listen -----------------------------------------------------------------------------------------------


class Listener:
    """Probe atoms that receive from a system and never send: Ω_A(r) and all that belongs to it.

    Every probe is a system of its own in the extended graph, and its pairs are directed, center = probe, neighbor = atom of
    the molecule: sums and charge conservation of the molecule do not see it, nor do other probes. Its charge is its
    unconstrained readout plus the shift that conservation gives to each of the molecule's atoms; None where there are no
    charges, or no common shift.

    Args:
        network: any network; one that `HearsByDistance` is served from tables.
        surroundings: what there is to hear.
        number: atomic number of the probe.
        tabulated: False for the exact way in any case, which is also differentiable in the points.
    """

    def __init__(
        self, network: AtomisticNetwork, surroundings: Surroundings, number: int, *, tabulated: bool = True
    ) -> None:
        self.network, self.surroundings, self.number = network, surroundings, number
        self.tables: MessageTables | None = None
        with torch.no_grad():
            self.molecule = network(surroundings.graph)
            if tabulated and isinstance(network, HearsByDistance):
                self.tables = MessageTables(network, surroundings.graph, surroundings.cutoff, BUDGET)
        self.shift = _conservation_shift(self.molecule)

    def __call__(self, points: Tensor) -> AtomwiseOutput:
        """What the network says of a probe at each of the points (P, 3) in Å."""
        return self._at(points, *self.surroundings.pairs(points))

    def isolated(self) -> AtomwiseOutput:
        """What it says of one probe that hears nothing."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self.surroundings.index.device)
        with torch.no_grad():
            return self._at(self.surroundings.graph.positions.new_zeros((1, 3)), nothing, nothing)

    @property
    def chunk(self) -> int:
        """Number of points whose evaluation takes about `BUDGET`."""
        width, crowd = max(64, self.molecule.features.shape[1]), max(1, min(len(self.surroundings.index), CROWD))
        if self.tables is not None:
            return max(1, BUDGET // (8 * (6 * width + 16 * crowd)))
        own = len(self.surroundings.graph.centers)  # the molecule is evaluated along with every chunk
        return max(1, BUDGET // (8 * 6 * width * crowd), 4 * own // crowd)

    def _at(self, points: Tensor, point: Tensor, image: Tensor) -> AtomwiseOutput:
        if self.tables is not None:
            index, positions = self.surroundings.index[image], self.surroundings.positions[image]
            distances = torch.linalg.vector_norm(positions - points[point], dim=1)
            output = self.tables(lone(self.surroundings.graph, self.number, points), point, index, distances)
        else:
            n_atoms = len(self.surroundings.graph.numbers)
            output = _mapped(self.network(_extended(self.surroundings, self.number, points, point, image)), n_atoms)
        shifted = None if output.unconstrained is None or self.shift is None else output.unconstrained + self.shift
        return replace(output, charges=shifted)


def _mapped(output: AtomwiseOutput, n_atoms: int) -> AtomwiseOutput:
    """The rows after the first `n_atoms`."""
    columns: dict[str, Any] = {}
    for name, value in vars(output).items():
        columns[name] = None if value is None else value[n_atoms:]
    return AtomwiseOutput(**columns)


def _conservation_shift(molecule: AtomwiseOutput) -> float | None:
    """What conservation adds to the readout of every atom, in e; None without charges, or where atoms differ in it."""
    if molecule.charges is None or molecule.unconstrained is None:
        return None
    shifts = molecule.charges.double() - molecule.unconstrained.double()
    return float(shifts.mean()) if float(shifts.max() - shifts.min()) < 1e-6 else None


def _extended(surroundings: Surroundings, number: int, points: Tensor, point: Tensor, image: Tensor) -> AtomGraph:
    """The graph of the molecule and of probes that hear it, each in a system of its own."""
    graph, n_probes = surroundings.graph, len(points)
    n_atoms, n_systems = len(graph.numbers), graph.n_systems
    return AtomGraph(
        numbers=torch.cat([graph.numbers, graph.numbers.new_full((n_probes,), number)]),
        positions=torch.cat([graph.positions, points]),
        vectors=torch.cat([graph.vectors, surroundings.positions[image] - points[point]]),
        centers=torch.cat([graph.centers, n_atoms + point]),
        neighbors=torch.cat([graph.neighbors, surroundings.index[image]]),
        system=torch.cat([graph.system, n_systems + torch.arange(n_probes, device=points.device)]),
        total_charge=torch.cat([graph.total_charge, graph.total_charge.new_zeros(n_probes)]),
        volume=torch.cat([graph.volume, graph.volume.new_full((n_probes,), torch.nan)]),
    )


def lone(graph: AtomGraph, number: int, points: Tensor) -> AtomGraph:
    """One system without pairs for each point."""
    n_points, nothing = len(points), graph.centers[:0]
    return AtomGraph(
        numbers=graph.numbers.new_full((n_points,), number),
        positions=points,
        vectors=graph.vectors[:0],
        centers=nothing,
        neighbors=nothing,
        system=torch.arange(n_points, device=points.device),
        total_charge=graph.total_charge.new_zeros(n_points),
        volume=graph.volume.new_full((n_points,), torch.nan),
    )


# --- probes that join -------------------------------------------------------------------------------------------------


def inserted(surroundings: Surroundings, number: int, points: Tensor, translations: Tensor) -> AtomGraph:
    """P systems of N + 1 atoms: the molecule with an atom at each of the points, last in its system.

    Args:
        surroundings: the molecule; its graph must be mirrored, as `AtomGraph.from_atoms` makes it.
        number: atomic number of the new atom.
        points: (P, 3) Å.
        translations: (S, 3) Å between the new atom and periodic images of itself, one of each and its reverse.
    """
    graph, n_points, n_own = surroundings.graph, len(points), len(surroundings.graph.numbers)
    if not graph.mirrored or graph.n_systems != 1:
        raise ValueError("insertion needs the mirrored graph of one system. Make it with AtomGraph.from_atoms.")
    point, image = surroundings.pairs(points)
    offset = (n_own + 1) * torch.arange(n_points, device=points.device)
    half = graph.n_unique
    own = [(offset[:, None] + column[:half]).flatten() for column in (graph.centers, graph.neighbors)]
    probe = offset + n_own
    itself = probe.repeat_interleave(len(translations))
    first = torch.cat([own[0], probe[point], itself])
    second = torch.cat([own[1], offset[point] + surroundings.index[image], itself])
    vectors = torch.cat([graph.vectors[:half].repeat(n_points, 1), surroundings.positions[image] - points[point]])
    vectors = torch.cat([vectors, translations.repeat(n_points, 1)])
    positions = torch.cat([graph.positions.expand(n_points, -1, -1), points[:, None]], dim=1)
    return AtomGraph(
        numbers=torch.cat([graph.numbers, graph.numbers.new_full((1,), number)]).repeat(n_points),
        positions=positions.flatten(0, 1),
        vectors=torch.cat([vectors, -vectors]),
        centers=torch.cat([first, second]),
        neighbors=torch.cat([second, first]),
        system=torch.arange(n_points, device=points.device).repeat_interleave(n_own + 1),
        total_charge=graph.total_charge.repeat(n_points),
        volume=graph.volume.repeat(n_points),
        mirrored=True,
    )


def insertion_chunk(surroundings: Surroundings, width: int) -> int:
    """Number of inserted systems whose evaluation takes about `BUDGET`; `width` is that of the features."""
    pairs = surroundings.graph.n_unique + min(len(surroundings.index), CROWD)
    return max(1, BUDGET // (8 * 6 * max(64, width) * max(pairs, 1)))
