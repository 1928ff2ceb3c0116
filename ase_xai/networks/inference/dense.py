"""Dense layers without a record of operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ase_xai.networks.layers import LN2, softplus


def ssp_and_slope(values: Tensor) -> tuple[Tensor, Tensor]:
    """The activation ssp(x) = ln(½ eˣ + ½), in place, and its slope σ(x)."""
    slope = torch.sigmoid(values)
    return softplus(values, out=values).sub_(LN2), slope


def linear(layers: nn.Sequential | nn.ModuleList, position: int) -> nn.Linear:
    """The linear layer at a position."""
    layer = layers[position]
    assert isinstance(layer, nn.Linear)
    return layer
