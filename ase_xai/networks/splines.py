"""Cubic splines on evenly spaced knots: smooth functions of a distance, many at once, as rows of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = 16
"""Knots beyond both ends: what a spline does there has decayed by 0.27 per knot."""
POLE = math.sqrt(3.0) - 2.0
"""z with c_k = 6z/(z² - 1) Σ_m z^|m| values_{k+m}."""


@dataclass(frozen=True)
class SplineGrid:
    """Knots r_k = k·h for functions of a distance between 0 and `stop`, with coefficients c_k so that

        f(r) = Σ_a b_a(u) c_{k+a},     r = r_k + u·h,   0 <= u < 1,   a = -1 .. 2,   b: cubic B-splines.

    Value, slope and curvature are continuous. With f⁗ the fourth derivative of what was tabulated, the value is within
    (5/384) h⁴ max|f⁗| and the slope within (1/24) h³ max|f⁗| of it.

    Args:
        stop: Å.
        n_intervals: between 0 and `stop`; the table has PADDING knots more at both ends.

    Source: de Boor, A Practical Guide to Splines (1978); error bounds: Hall and Meyer, J. Approx. Theory 16, 105 (1976).
    """

    stop: float
    n_intervals: int

    @classmethod
    def over(cls, stop: float, knots_per_angstrom: float) -> SplineGrid:
        return cls(stop, math.ceil(stop * knots_per_angstrom))

    @property
    def spacing(self) -> float:
        """h in Å."""
        return self.stop / self.n_intervals

    @property
    def n_knots(self) -> int:
        return self.n_intervals + 2 * PADDING + 1

    def knots(self, like: Tensor) -> Tensor:
        """(K,) Å, of the precision and on the device of `like`; the first PADDING ones are negative."""
        numbers = torch.arange(-PADDING, self.n_intervals + PADDING + 1, dtype=like.dtype, device=like.device)
        return self.spacing * numbers

    def coefficients(self, values: Tensor) -> Tensor:
        """(T, K, F) c with (c_{k-1} + 4 c_k + c_{k+1})/6 = values_k, values continued as constants beyond both ends.

        Solved by one recursion upward and one downward, see Unser, IEEE Signal Process. Mag. 16, 22 (1999), box 2.

        Args:
            values: (T, K, F) functions at the knots.
        """
        first, last = values[:, 0], values[:, -1]
        ahead = torch.empty_like(values)  # Σ_{m>=0} z^m values_{k-m}
        ahead[:, 0] = first / (1.0 - POLE)
        for k in range(1, values.shape[1]):
            torch.add(values[:, k], ahead[:, k - 1], alpha=POLE, out=ahead[:, k])
        limit = last / (1.0 - POLE)
        both = torch.empty_like(values)  # -Σ_{m>=0} z^(m+1) ahead_{k+m}
        both[:, -1] = -POLE * (limit / (1.0 - POLE) + (ahead[:, -1] - limit) / (1.0 - POLE**2))
        for k in range(values.shape[1] - 2, -1, -1):
            torch.sub(both[:, k + 1], ahead[:, k], out=both[:, k]).mul_(POLE)
        return both.mul_(6.0)

    def place(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) int64 index of the first of the four rows of each distance, and (E,) its fraction u."""
        position = distances / self.spacing
        knot = position.long()
        return knot + (PADDING - 1), position - knot


def b_splines(u: Tensor) -> Tensor:
    """(E, 4) weights of the knots k - 1 .. k + 2 at fractions u (E,) in [0, 1]."""
    v = 1.0 - u
    return torch.stack([v**3, 4.0 - 6.0 * u**2 + 3.0 * u**3, 4.0 - 6.0 * v**2 + 3.0 * v**3, u**3], dim=1) / 6.0


def b_spline_slopes(u: Tensor) -> Tensor:
    """(E, 4) their derivatives with respect to u."""
    v = 1.0 - u
    return torch.stack([-(v**2), u * (3.0 * u - 4.0), v * (4.0 - 3.0 * v), u**2], dim=1) / 2.0
