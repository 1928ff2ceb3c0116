"""Atom-centered symmetry functions, weighted or resolved by element, without a list of triples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import comb, factorial

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks.layers import CosineCutoff, GaussianBasis


class SymmetryFunctions(nn.Module):
    """Radial and angular symmetry functions of every atom: (N, n_functions).

    Weighted (wACSF), with a weight w_j = Z_j for each neighbor j:

        G_i^rad(m)     = Σ_j w_j · exp(-(r_ij - μ_m)²/2s²) · f_c(r_ij)
        G_i^ang(n,λ,ζ) = Σ_{j<k} 2^(1-ζ) (1 + λ cosθ_jik)^ζ · a_j a_k,     a_j = w_j exp(-r_ij²/2s_n²) f_c(r_ij),   λ = ±1

    Resolved by element (ACSF), with w_j = 1: one set of radial functions for each element of j, one set of angular functions
    for each unordered pair of elements of j and k.

    The angular sum needs no triples. With unit vectors u_j and cosθ_jik = u_j·u_k, the binomial theorem and
    (u_j·u_k)^p = ⟨u_j^⊗p, u_k^⊗p⟩ turn it into products of moments of the neighbor density,

        Σ_{j<k} a_j a_k (u_j·u_k)^p = ½ ( |Σ_j a_j u_j^⊗p|² - Σ_j a_j² ),

    linear in the number of neighbors instead of quadratic; between two elements the same without ½ and without the last sum.
    Of u^⊗p only the distinct monomials are kept, with their multiplicities. ζ must therefore be a positive integer.

    Args:
        cutoff: Å.
        n_radial: Gaussians with centers from 0.5 Å to cutoff - 0.5 Å and their spacing as width s.
        n_angular: origin-centered Gaussians with widths s_n from 1.0 Å to cutoff - 0.5 Å.
        zetas: exponents ζ; larger ones resolve angles more sharply and cost more moments, ζ(ζ+1)(ζ+2)/6 or so.
        elements: atomic numbers to resolve neighbors by; None for wACSF.

    Source: Behler, J. Chem. Phys. 134, 074106 (2011); Gastegger et al., arXiv:1712.05861; settings of SchNetPack 0.2.1. The
    moment form is an identity, see above.
    """

    channel_of: Tensor

    def __init__(
        self,
        cutoff: float = 5.0,
        n_radial: int = 22,
        n_angular: int = 5,
        zetas: Sequence[int] = (1,),
        elements: Sequence[int] | None = None,
    ) -> None:
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
        self.exponents = [e for p in range(max(self.zetas) + 1) for e in _exponents(p)]
        self.weighted = elements is None
        self.n_channels = len(elements) if elements is not None else 1
        channels = [0 if elements is None or z not in elements else list(elements).index(z) for z in range(119)]
        self.register_buffer("channel_of", torch.tensor(channels), persistent=False)

    @property
    def channel_pairs(self) -> list[tuple[int, int]]:
        """Unordered pairs of channels: one for wACSF, one per pair of elements for ACSF."""
        return list(itertools.combinations_with_replacement(range(self.n_channels), 2))

    @property
    def n_functions(self) -> int:
        return self.n_channels * self.n_radial + len(self.channel_pairs) * 2 * self.n_angular * len(self.zetas)

    def forward(
        self, graph: AtomGraph, dtype: torch.dtype, *, compiled: bool = False, occupation: Tensor | None = None
    ) -> Tensor:
        """The functions of all atoms, computed in `dtype` from pair vectors of any precision.

        Args:
            graph: any graph; the compiled kernels serve mirrored ones.
            dtype: of the result.
            compiled: use the compiled CPU kernels, which have no second derivative with respect to positions.
            occupation: (N, channels) weight of each atom as a neighbor in each channel, for atoms that are a mixture of
                elements; None takes the weights of their own elements.
        """
        if compiled and graph.mirrored and occupation is None:
            from ase_xai.networks.compiled.density import compiled_invariants

            radial, invariants = compiled_invariants(self, graph, dtype)
        else:
            radial, invariants = self._invariants(graph, dtype, occupation)
        return self.combined(radial, invariants)

    def weights(self, graph: AtomGraph, dtype: torch.dtype) -> Tensor:
        """(N,) weight w_j of each atom as a neighbor."""
        return graph.numbers.to(dtype) if self.weighted else torch.ones_like(graph.numbers, dtype=dtype)

    def shapes(self, distances: Tensor) -> Tensor:
        """Radial and angular Gaussians times the cutoff function: (P, n_radial + n_angular)."""
        return self._gaussians(distances) * self.cutoff_function(distances)[:, None]

    def shapes_and_slopes(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """The shapes, and their derivatives per Å written out."""
        radial = (distances[:, None] - self.radial_basis.centers(distances)) / self.radial_basis.width**2
        angular = distances[:, None] / self._shell_widths(distances) ** 2
        envelope, slope = self.cutoff_function(distances)[:, None], self.cutoff_function.slope(distances)[:, None]
        gaussians = self._gaussians(distances)
        return gaussians * envelope, gaussians * (slope - torch.cat([radial, angular], dim=1) * envelope)

    def _gaussians(self, distances: Tensor) -> Tensor:
        shells = torch.exp(-0.5 * (distances[:, None] / self._shell_widths(distances)) ** 2)
        return torch.cat([self.radial_basis(distances), shells], dim=1)

    def _shell_widths(self, like: Tensor) -> Tensor:
        return torch.linspace(*self.widths, self.n_angular, dtype=like.dtype, device=like.device)

    def _invariants(self, graph: AtomGraph, dtype: torch.dtype, occupation: Tensor | None) -> tuple[Tensor, Tensor]:
        """Radial sums (N, channels, n_radial) and Σ_{j<k} a_j a_k cos^p: (N, channel pairs, n_angular, p)."""
        vectors = graph.unique_vectors
        distances = torch.linalg.vector_norm(vectors, dim=1)  # (P,)
        directions = (vectors / distances[:, None]).to(dtype)  # (P, 3)
        radial, shells = self.shapes(distances.to(dtype)).split([self.n_radial, self.n_angular], dim=1)
        monomials = torch.stack([_monomial(directions, e) for e in self.exponents], dim=1)  # (P, C)
        terms = (shells[:, :, None] * monomials[:, None, :]).flatten(1)  # (P, n_angular · C)
        parity = torch.tensor([(-1.0) ** sum(e) for e in self.exponents], dtype=dtype, device=terms.device)
        parity = parity.repeat(self.n_angular)
        inside = self.channel_of[graph.numbers][:, None] == torch.arange(self.n_channels, device=terms.device)
        values = inside * self.weights(graph, dtype)[:, None] if occupation is None else occupation  # (N, channels)
        channels = values.split(1, dim=1)
        sums = [graph.gather_neighbors(radial, channel) for channel in channels]
        moments = [graph.gather_neighbors(terms, c, parity).reshape(len(values), self.n_angular, -1) for c in channels]
        products = []
        for a, b in self.channel_pairs:
            itself = None  # an atom is no neighbor pair with itself; only a mixture is in two channels
            if a == b or occupation is not None:
                itself = graph.gather_neighbors(shells**2, channels[a] * channels[b])
            product = self._product(moments[a], moments[b], itself)
            products.append(0.5 * product if a == b else product)
        return torch.stack(sums, dim=1), torch.stack(products, dim=1)

    def _product(self, one: Tensor, other: Tensor, itself: Tensor | None) -> Tensor:
        """Σ_{j≠k} a_j b_k cos^p between two channels: (N, n_angular, p); `itself` is Σ_j a_j b_j."""
        weights = torch.tensor([multiplicity(e) for e in self.exponents], dtype=one.dtype, device=one.device)
        by_monomial = (one * other * weights).split([(p + 1) * (p + 2) // 2 for p in range(max(self.zetas) + 1)], dim=2)
        products = torch.stack([block.sum(dim=2) for block in by_monomial], dim=2)
        return products if itself is None else products - itself[:, :, None]

    def combined(self, radial: Tensor, invariants: Tensor) -> Tensor:
        """(N, n_functions) of radial sums (N, channels, n_radial) and cosine sums (N, channel pairs, n_angular, p).

        Radial functions first; then one block of n_angular per channel pair, ζ and λ, in this order, λ = +1 before λ = -1.
        """
        angular = (invariants @ self.combinations(invariants).T).transpose(2, 3).flatten(1)
        return torch.cat([radial.flatten(1), angular], dim=1)

    def divided(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to radial sums and invariants from one (N, n_functions) with respect to the functions."""
        n_radial = self.n_channels * self.n_radial
        shape = (len(gradient), len(self.channel_pairs), 2 * len(self.zetas), self.n_angular)
        angular = gradient[:, n_radial:].reshape(shape).transpose(2, 3) @ self.combinations(gradient)
        return gradient[:, :n_radial].reshape(-1, self.n_channels, self.n_radial), angular

    def combinations(self, like: Tensor) -> Tensor:
        """(2·zetas, p) what Σ_{j<k} a_j a_k cos^p count for in each ζ and λ."""
        rows = [
            [2.0 ** (1 - zeta) * comb(zeta, p) * sign**p for p in range(max(self.zetas) + 1)]
            for zeta in self.zetas
            for sign in (1, -1)
        ]
        return like.new_tensor(rows)


def _exponents(order: int) -> list[tuple[int, int, int]]:
    """Exponents of the distinct monomials x^a y^b z^c of an order."""
    return [(a, b, order - a - b) for a in range(order, -1, -1) for b in range(order - a, -1, -1)]


def multiplicity(exponents: tuple[int, int, int]) -> int:
    """How often a monomial occurs in u^⊗p."""
    return factorial(sum(exponents)) // (factorial(exponents[0]) * factorial(exponents[1]) * factorial(exponents[2]))


def _monomial(directions: Tensor, exponents: tuple[int, int, int]) -> Tensor:
    """(P,) x^a y^b z^c by repeated multiplication, differentiable at zero as well."""
    result = torch.ones_like(directions[:, 0])
    for axis, exponent in enumerate(exponents):
        for _ in range(exponent):
            result = result * directions[:, axis]
    return result
