"""Weighted atom-centered symmetry functions (wACSF) without a list of triples."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks.layers import CosineCutoff, GaussianBasis


class WeightedSymmetryFunctions(nn.Module):
    """Radial and angular wACSF of every atom: (N, n_radial + 2·n_angular·len(zetas)).

        G_i^rad(m)     = Σ_j Z_j · exp(-(r_ij - μ_m)²/2s²) · f_c(r_ij)
        G_i^ang(n,λ,ζ) = Σ_{j<k} 2^(1-ζ) (1 + λ cosθ_jik)^ζ · a_j a_k,     a_j = Z_j exp(-r_ij²/2s_n²) f_c(r_ij),   λ = ±1

    The angular sum needs no triples. With unit vectors u_j and cosθ_jik = u_j·u_k, the binomial theorem and
    (u_j·u_k)^p = ⟨u_j^⊗p, u_k^⊗p⟩ turn it into squared moments of the neighbor density,

        Σ_{j<k} a_j a_k (u_j·u_k)^p = ½ ( |Σ_j a_j u_j^⊗p|² - Σ_j a_j² ),

    linear in the number of neighbors instead of quadratic. ζ must therefore be a positive integer.

    Args:
        cutoff: Å.
        n_radial: Gaussians with centers from 0.5 Å to cutoff - 0.5 Å and their spacing as width s.
        n_angular: origin-centered Gaussians with widths s_n from 1.0 Å to cutoff - 0.5 Å.
        zetas: exponents ζ; larger ones resolve angles more sharply and cost 3^ζ moments.

    Source: Gastegger et al., arXiv:1712.05861; settings of SchNetPack 0.2.1. The moment form is an identity, see above.
    """

    def __init__(self, cutoff: float = 5.0, n_radial: int = 22, n_angular: int = 5, zetas: Sequence[int] = (1,)) -> None:
        super().__init__()
        if not zetas or any(z != int(z) or not 1 <= z <= 8 for z in zetas):
            raise ValueError(f"zetas must be integers from 1 to 8, got {tuple(zetas)}.")
        if cutoff <= 1.5:
            raise ValueError(f"cutoff of symmetry functions must exceed 1.5 Å, got {cutoff} Å. Usual values are 5 to 8 Å.")
        self.zetas = tuple(int(z) for z in zetas)
        self.n_radial, self.n_angular = n_radial, n_angular
        self.cutoff_function = CosineCutoff(cutoff)
        self.radial_basis = GaussianBasis(0.5, cutoff - 0.5, n_radial)
        self.widths = (1.0, cutoff - 0.5)

    @property
    def n_functions(self) -> int:
        return self.n_radial + 2 * self.n_angular * len(self.zetas)

    def forward(self, graph: AtomGraph, dtype: torch.dtype) -> Tensor:
        """The functions of all atoms, computed in `dtype` from pair vectors of any precision."""
        vectors = graph.unique_vectors
        distances = torch.linalg.vector_norm(vectors, dim=1)  # (P,)
        directions = (vectors / distances[:, None]).to(dtype)  # (P, 3)
        distances = distances.to(dtype)
        envelope = self.cutoff_function(distances)[:, None]  # (P, 1)
        weights = graph.numbers.to(dtype)[:, None]  # (N, 1)
        radial = graph.gather_neighbors(self.radial_basis(distances) * envelope, weights)
        widths = torch.linspace(*self.widths, self.n_angular, dtype=dtype, device=distances.device)
        shells = torch.exp(-0.5 * (distances[:, None] / widths) ** 2) * envelope  # (P, n_angular)
        return torch.cat([radial, *self._angular(shells, directions, weights, graph)], dim=1)

    def _angular(self, shells: Tensor, directions: Tensor, weights: Tensor, graph: AtomGraph) -> list[Tensor]:
        """One (N, n_angular) block per ζ and λ, λ = +1 before λ = -1."""
        diagonal = graph.gather_neighbors(shells**2, weights**2)  # (N, n_angular): Σ_j a_j²
        invariants = [
            0.5 * (self._squared_moment(p, shells, directions, weights, graph) - diagonal)
            for p in range(max(self.zetas) + 1)
        ]
        return [
            2.0 ** (1 - zeta) * sum(comb(zeta, p) * sign**p * invariants[p] for p in range(zeta + 1))
            for zeta in self.zetas
            for sign in (1, -1)
        ]

    def _squared_moment(self, order: int, shells: Tensor, directions: Tensor, weights: Tensor, graph: AtomGraph) -> Tensor:
        """|Σ_j a_j u_j^⊗p|²: (N, n_angular)."""
        powers = directions.new_ones((len(directions), 1))
        for _ in range(order):
            powers = (powers[:, :, None] * directions[:, None, :]).flatten(1)  # (P, 3^p)
        terms = (shells[:, :, None] * powers[:, None, :]).flatten(1)  # (P, n_angular · 3^p)
        moments = graph.gather_neighbors(terms, weights, parity=(-1) ** order)
        return (moments.reshape(len(moments), shells.shape[1], -1) ** 2).sum(dim=2)
