"""The pairs of one geometry, and what becomes of the derivatives with respect to their vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks import compiled
from ase_xai.networks.base import AtomwiseOutput, Prediction, add_up, stress_of


@dataclass(frozen=True, eq=False)
class PairList:
    """P undirected pairs of N atoms.

    Args:
        first, second: (P,) int64 atoms of each pair, ordered by the first.
        vectors: (P, 3) from first to second, Å, float64.
        distances: (P,) Å, float64.
        n_atoms: N.
    """

    first: Tensor
    second: Tensor
    vectors: Tensor
    distances: Tensor
    n_atoms: int

    @classmethod
    def of(cls, graph: AtomGraph) -> PairList:
        """The pairs of a mirrored graph."""
        n, vectors = graph.n_unique, graph.unique_vectors.double()
        distances = torch.linalg.vector_norm(vectors, dim=1)
        return cls(graph.centers[:n], graph.neighbors[:n], vectors, distances, len(graph.numbers))

    def __len__(self) -> int:
        return len(self.first)

    def prediction(self, graph: AtomGraph, output: AtomwiseOutput, gradients: Tensor) -> Prediction:
        """Sums, forces and stress from what the atoms say and from g = ∂E/∂D (P, 3) in eV/Å, float64."""
        return Prediction(
            **vars(add_up(graph, output)),
            forces=self.forces(gradients),
            stress=self._stress(graph, gradients),
            pair_gradients=torch.cat([gradients, torch.zeros_like(gradients)]),
        )

    def forces(self, gradients: Tensor) -> Tensor:
        """(N, 3) F_i = Σ_(i,j) g_ij - Σ_(k,i) g_ki."""
        forces = gradients.new_zeros((self.n_atoms, 3))
        if compiled.available() and forces.device.type == "cpu":
            from ase_xai.networks.compiled.pair_loops import push_and_pull

            push_and_pull(self.first.numpy(), self.second.numpy(), gradients.numpy(), forces.numpy())
            return forces
        return forces.index_add_(0, self.first, gradients).index_add_(0, self.second, gradients, alpha=-1)

    def _stress(self, graph: AtomGraph, gradients: Tensor) -> Tensor:
        if graph.volume.device.type == "cpu" and bool(torch.isnan(graph.volume).all()):
            return gradients.new_full((graph.n_systems, 6), float("nan"))
        return stress_of(graph, self.first, self.vectors, gradients)
