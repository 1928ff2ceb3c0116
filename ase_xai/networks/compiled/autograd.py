"""What the kernels share on their way between PyTorch and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class NoSecondDerivative(torch.autograd.Function):
    """Zero, and an error for whoever asks for its derivative: marks where a second derivative would silently be missing."""

    @staticmethod
    def forward(ctx: Any, geometry: Tensor) -> Tensor:
        return geometry.new_zeros(()).expand_as(geometry)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError(
            "compiled kernels have no second derivative with respect to positions. Set `network.compiled = False`, or ask "
            "for the gradient with respect to the weights alone: torch.autograd.grad(loss, parameters)."
        )


def array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())
