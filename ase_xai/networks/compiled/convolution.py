"""Continuous-filter convolution in one pass over the pairs, for training on a CPU.

The filter of a SchNet interaction depends on the distance alone. Within one optimizer step the weights stand still, so the
filter network is evaluated once on a grid of distances and interpolated at the pairs,

    W(r) = Σ_a w_a(u) T[k + a],      r = r_k + u·h,   a = -1 .. 2,   w: cubic Lagrange weights,

which leaves a few multiplications per pair and feature instead of two dense layers, and no (pairs, features) array is ever
written. The interpolation is linear in the table T, so gradients pass through it to the filter network's weights exactly.

Let y = C(x; T, r) stand for y_i = Σ_j W(r_ij) ∘ x_j. C is linear and symmetric in x, hence

    ∂⟨g, y⟩/∂x      = C(g; T, r)
    ∂⟨g, y⟩/∂r_ij   = Σ_f W'(r_ij) (x_j g_i + x_i g_j)
    ∂⟨g, y⟩/∂T[k+a] = w_a (x_j g_i + x_i g_j)

and the same rules applied once more give the gradient of a loss on forces. Each derivative is a node of its own in the
autograd graph, so that a backward pass computes only those that it was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from ase_xai.networks.compiled.autograd import NoSecondDerivative, array
from ase_xai.networks.compiled.convolution_loops import add_neighbors, pair_products, pair_products_gradient, table_gradient

KNOTS_PER_ANGSTROM = 80
"""With Gaussians 0.1 Å wide, filters are then exact to about 1e-5 and their slopes to 1e-3 (relative)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Distances at which filters are tabulated: (K,) from -h to cutoff + h in steps of h = `spacing` (Å)."""

    distances: Tensor
    spacing: float

    @classmethod
    def over(cls, cutoff: float, like: Tensor) -> Grid:
        """A grid for distances below `cutoff` (Å), with the precision and device of `like`."""
        n_intervals = math.ceil(cutoff * KNOTS_PER_ANGSTROM)
        spacing = cutoff / n_intervals
        return cls(spacing * torch.arange(-1, n_intervals + 2, dtype=like.dtype, device=like.device), spacing)


@dataclass(frozen=True, eq=False)
class PlacedPairs:
    """P undirected pairs with the interval `knot` (P,) and the fraction u (P,) of it in which each distance falls."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    knot: NDArray[np.int64]
    fraction: NDArray[Any]
    spacing: float

    @classmethod
    def on(cls, grid: Grid, distances: Tensor, first: Tensor, second: Tensor) -> PlacedPairs:
        position = distances.detach().double().numpy() / grid.spacing
        knot = np.clip(position.astype(np.int64), 0, len(grid.distances) - 4)
        fraction = (position - knot).astype(distances.detach().numpy().dtype)
        return cls(first.numpy(), second.numpy(), knot, fraction, grid.spacing)

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        return self.first, self.second, self.knot, self.fraction


def convolve(x: Tensor, table: Tensor, distances: Tensor, pairs: PlacedPairs) -> Tensor:
    """C(x; T, r): (N, F).

    Differentiable twice, but not twice with respect to distances: forces can be trained on, Hessians need the plain network.

    Args:
        x: (N, F) what neighbors send.
        table: (K, F) filters on the grid.
        distances: (P,) Å, in the graph of what is to be differentiated.
        pairs: the same distances placed on the grid.
    """
    y = _Values.apply(x, table, distances, pairs)
    if torch.is_grad_enabled():
        if table.requires_grad:
            y = y + _Table.apply(table, x.detach(), pairs)
        if distances.requires_grad:
            y = y + _Distances.apply(distances, x, table, pairs)
    return y  # type: ignore[no-any-return]


class _Values(torch.autograd.Function):
    """C, as a function of x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, distances: Tensor, pairs: PlacedPairs) -> Tensor:
        ctx.save_for_backward(table, distances)
        ctx.pairs = pairs
        y = torch.zeros_like(x)
        add_neighbors(*pairs.columns, array(table), array(x), y.numpy())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        table, distances = ctx.saved_tensors
        return convolve(g, table, distances, ctx.pairs), None, None, None


class _Table(torch.autograd.Function):
    """Zero in value; in derivative, that of C with respect to the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor, pairs: PlacedPairs) -> Tensor:
        ctx.save_for_backward(table, x)
        ctx.pairs = pairs
        return x.new_zeros(()).expand_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        table, x = ctx.saved_tensors
        gradient = torch.zeros_like(table)
        table_gradient(*ctx.pairs.columns, array(x), array(g), gradient.numpy())
        return gradient, None, None


class _Distances(torch.autograd.Function):
    """Zero in value; in derivative, that of C with respect to the distances."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, x: Tensor, table: Tensor, pairs: PlacedPairs) -> Tensor:
        ctx.save_for_backward(distances, x, table)
        ctx.pairs = pairs
        return x.new_zeros(()).expand_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        distances, x, table = ctx.saved_tensors
        products = _PairProducts.apply(x, g, table, ctx.pairs)
        if torch.is_grad_enabled():
            products = products + NoSecondDerivative.apply(distances)
        return products, None, None, None


class _PairProducts(torch.autograd.Function):
    """Σ_f W'(r_ij) (x_j g_i + x_i g_j) of every pair, as a function of x, g and the table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, table: Tensor, pairs: PlacedPairs) -> Tensor:
        ctx.save_for_backward(x, g, table)
        ctx.pairs = pairs
        products = x.new_zeros(len(pairs.first))
        pair_products(*pairs.columns, 1.0 / pairs.spacing, array(table), array(x), array(g), products.numpy())
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        x, g, table = ctx.saved_tensors
        gradients = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(table)
        inputs = (array(tensor) for tensor in (table, x, g, h))
        outputs = (gradient.numpy() for gradient in gradients)
        pair_products_gradient(*ctx.pairs.columns, 1.0 / ctx.pairs.spacing, *inputs, *outputs)
        return *gradients, None
