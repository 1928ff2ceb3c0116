"""The pieces networks are made of: activation, cutoff, radial basis, dense stacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LN2 = math.log(2.0)
LINEAR = 40.0
"""Beyond it ln(1 + eˣ) is x in float64 too; PyTorch's default of 20 would make slopes jump by 2e-9."""


def softplus(x: Tensor, out: Tensor | None = None) -> Tensor:
    """ln(1 + eˣ)."""
    return functional.softplus(x, 1.0, LINEAR, out=out)  # type: ignore[call-arg]


class ShiftedSoftplus(nn.Module):
    """ssp(x) = ln(½ eˣ + ½): smooth, ssp(0) = 0, ssp'(0) = ½. Source: SchNet, arXiv:1706.08566."""

    def forward(self, x: Tensor) -> Tensor:
        return softplus(x) - LN2


class CosineCutoff(nn.Module):
    """f_c(r) = ½[cos(π r/r_c) + 1] below the cutoff r_c (Å), 0 beyond: value and slope vanish at r_c."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distances: Tensor) -> Tensor:
        inside = torch.clamp(distances / self.cutoff, max=1.0)
        return 0.5 * (torch.cos(math.pi * inside) + 1.0)

    def slope(self, distances: Tensor) -> Tensor:
        """Its derivative per Å."""
        inside = torch.clamp(distances / self.cutoff, max=1.0)
        return -0.5 * math.pi / self.cutoff * torch.sin(math.pi * inside)


class GaussianBasis(nn.Module):
    """exp(-(r - μ_k)² / 2s²) with K centers μ from `start` to `stop` (Å) and s their spacing: (..., K)."""

    def __init__(self, start: float, stop: float, n_basis: int) -> None:
        super().__init__()
        if n_basis < 2:
            raise ValueError(f"a Gaussian basis needs at least 2 functions, got {n_basis}.")
        self.start, self.stop, self.n_basis = start, stop, n_basis
        self.width = (stop - start) / (n_basis - 1)

    def forward(self, distances: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((distances[..., None] - self.centers(distances)) / self.width) ** 2)

    def slope(self, distances: Tensor) -> Tensor:
        """Derivatives per Å."""
        return self(distances) * (self.centers(distances) - distances[..., None]) / self.width**2

    def centers(self, like: Tensor) -> Tensor:
        """(K,) μ in Å, made anew in the caller's precision: a stored copy would keep the rounding of an earlier one."""
        return torch.linspace(self.start, self.stop, self.n_basis, dtype=like.dtype, device=like.device)


def dense_stack(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with shifted softplus between them; the last one is linear."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [dense(n_in, n_out), ShiftedSoftplus()]
    return nn.Sequential(*layers[:-1])


def dense(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer, Glorot-uniform weights and zero bias as in the SchNet papers."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
