"""Symmetry functions and their derivatives in compiled loops, for a CPU.

The functions do not depend on the weights of a network. Training on forces therefore needs three things only: their values
G(D) of the pair vectors D, the product of a gradient with their Jacobian (forces), and the product of their Jacobian with
vectors of pairs (the gradient of a loss on forces), which is the derivative of the second with respect to its argument.
Notation as in `SymmetryFunctions`: neighbor density of a channel

    M_i[n, c] = Σ_j a_j(n) m_c(u_j),     m_c: the monomials of the direction u_j,     d_i[n] = Σ_j a_j(n)²
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from ase_xai.graph import AtomGraph
from ase_xai.networks.compiled.autograd import NoSecondDerivative, array
from ase_xai.networks.compiled.density_loops import (
    density,
    density_gradient,
    density_tangent,
    multiply,
    multiply_gradient,
    multiply_tangent,
)
from ase_xai.networks.wacsf import SymmetryFunctions, multiplicity


@dataclass(frozen=True, eq=False)
class Environment:
    """Everything the loops read, as arrays.

    Args:
        first, second: (P,) atoms of the undirected pairs.
        directions: (P, 3) unit vectors from first to second.
        distances: (P,) Å.
        shapes, slopes: (P, n_radial + n_angular) radial functions and their derivatives per Å.
        channel, weight: (N,) of each atom as a neighbor.
        exponents: (C, 3) of the monomials.
        starts: (p_max + 2,) first monomial of each order, and C.
        multiplicities: (C,).
        channel_pairs: (Q, 2).
    """

    first: NDArray[Any]
    second: NDArray[Any]
    directions: NDArray[Any]
    distances: NDArray[Any]
    shapes: NDArray[Any]
    slopes: NDArray[Any]
    channel: NDArray[Any]
    weight: NDArray[Any]
    exponents: NDArray[Any]
    starts: NDArray[Any]
    multiplicities: NDArray[Any]
    channel_pairs: NDArray[Any]
    n_radial: int
    n_channels: int

    @classmethod
    def of(cls, functions: SymmetryFunctions, graph: AtomGraph, dtype: torch.dtype) -> Environment:
        vectors = graph.unique_vectors.detach()
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        distances = lengths.to(dtype)
        shapes, slopes = functions.shapes_and_slopes(distances)
        n = graph.n_unique
        return cls(
            first=graph.centers[:n].numpy(),
            second=graph.neighbors[:n].numpy(),
            directions=(vectors / lengths[:, None]).to(dtype).numpy(),
            distances=distances.numpy(),
            shapes=shapes.numpy(),
            slopes=slopes.numpy(),
            channel=functions.channel_of[graph.numbers].numpy(),
            weight=functions.weights(graph, dtype).numpy(),
            exponents=np.array(functions.exponents),
            starts=np.searchsorted([sum(e) for e in functions.exponents], range(max(functions.zetas) + 2)),
            multiplicities=np.array([multiplicity(e) for e in functions.exponents]).astype(shapes.numpy().dtype),
            channel_pairs=np.array(functions.channel_pairs),
            n_radial=functions.n_radial,
            n_channels=functions.n_channels,
        )

    def part(self, own: slice) -> Environment:
        """The same atoms with a part of the pairs."""
        by_pair = ("first", "second", "directions", "distances", "shapes", "slopes")
        return replace(self, **{name: getattr(self, name)[own] for name in by_pair})

    @property
    def pairs(self) -> tuple[NDArray[Any], ...]:
        return self.first, self.second, self.directions, self.shapes

    @property
    def atoms(self) -> tuple[NDArray[Any], ...]:
        return self.channel, self.weight, self.exponents

    @property
    def products(self) -> tuple[NDArray[Any], ...]:
        return self.starts, self.multiplicities, self.channel_pairs

    def sums(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Zeros for radial sums (N, channels, R), moments (N, channels, n, C) and diagonal (N, channels, n)."""
        n_angular = self.shapes.shape[1] - self.n_radial
        leading = (len(self.channel), self.n_channels)
        shapes = ((*leading, self.n_radial), (*leading, n_angular, len(self.exponents)), (*leading, n_angular))
        radial, moments, diagonal = (np.zeros(shape, self.shapes.dtype) for shape in shapes)
        return radial, moments, diagonal

    def invariants(self) -> NDArray[Any]:
        """Zeros for (N, channel pairs, n, p)."""
        shape = (len(self.channel), len(self.channel_pairs), self.shapes.shape[1] - self.n_radial, len(self.starts) - 1)
        return np.zeros(shape, self.shapes.dtype)


def compiled_invariants(functions: SymmetryFunctions, graph: AtomGraph, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Radial sums (N, channels, R) and Σ_{j<k} a_j a_k cos^p (N, channel pairs, n, p), differentiable as described above."""
    environment = Environment.of(functions, graph, dtype)
    radial, invariants = _Invariants.apply(graph.unique_vectors, environment)
    return radial, invariants


class _Invariants(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, environment: Environment) -> tuple[Tensor, Tensor]:
        radial, moments, diagonal = environment.sums()
        invariants = environment.invariants()
        density(*environment.pairs, *environment.atoms, radial, moments, diagonal)
        multiply(moments, diagonal, *environment.products, invariants)
        ctx.environment, ctx.moments = environment, moments
        ctx.save_for_backward(vectors)
        return torch.from_numpy(radial), torch.from_numpy(invariants)

    @staticmethod
    def backward(ctx: Any, radial: Tensor, invariants: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (vectors,) = ctx.saved_tensors
        gradient = _VectorGradient.apply(radial, invariants, vectors.detach(), ctx.environment, ctx.moments)
        if torch.is_grad_enabled():
            gradient = gradient + NoSecondDerivative.apply(vectors)
        return gradient, None


class _VectorGradient(torch.autograd.Function):
    """∂⟨g, (radial, invariants)⟩/∂D of every pair, as a function of g."""

    @staticmethod
    def forward(
        ctx: Any, radial: Tensor, invariants: Tensor, vectors: Tensor, environment: Environment, moments: NDArray[Any]
    ) -> Tensor:
        ctx.environment, ctx.moments, ctx.dtype = environment, moments, vectors.dtype
        by_moments = np.zeros_like(moments)
        by_diagonal = np.zeros(moments.shape[:3], moments.dtype)
        multiply_gradient(moments, array(invariants), *environment.products, by_moments, by_diagonal)
        gradient = np.zeros_like(environment.directions)
        density_gradient(
            *environment.pairs,
            *environment.atoms,
            environment.distances,
            environment.slopes,
            array(radial),
            by_moments,
            by_diagonal,
            gradient,
        )
        return torch.from_numpy(gradient).to(vectors.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        environment = ctx.environment
        radial, moments, diagonal = environment.sums()
        tangents = array(h.to(torch.from_numpy(environment.shapes).dtype))
        geometry = environment.distances, environment.slopes, tangents
        density_tangent(*environment.pairs, *environment.atoms, *geometry, radial, moments, diagonal)
        invariants = environment.invariants()
        multiply_tangent(ctx.moments, moments, diagonal, *environment.products, invariants)
        return torch.from_numpy(radial), torch.from_numpy(invariants), None, None, None
