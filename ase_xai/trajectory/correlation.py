"""Autocorrelation at logarithmically growing lags, in memory that does not grow with the run.

Level l holds the last p block means over 2^l frames. Each new one is multiplied with those before it; two of them make one
for the next level. With S_k = Σ x·y, T_k = Σ (x + y) over the n_k pairs at distance k and the mean m of all frames

    C(k·2^l) = (S_k - m T_k + n_k m²)/n_k        tau = 1/2 + Σ_{t ≥ 1} C(t)/C(0)

where C between the lags is interpolated and the sum ends at the first t ≥ 5 tau(t). All values are counted from the first
frame's, so that a large mean takes no digits from small fluctuations.

Source: Ramírez, Sukumaran, Vorselaars, Likhtman, J. Chem. Phys. 133, 154103 (2010), doi 10.1063/1.3491098; the window is
that of Sokal, Monte Carlo Methods in Statistical Mechanics (1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.float64]]
WINDOW = 5.0


def sizes(shape: tuple[int, ...], levels: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a state, all of which begin as zeros."""
    table = (levels, channels, *shape)
    single = {"n": (), "first": shape, "sum": shape, "entered": (levels,), "carry": (levels, *shape)}
    return {**single, "recent": table, "products": table, "ends": table}


def add(state: State, values: NDArray[np.float64]) -> None:
    """Take in the values of one frame."""
    if state["n"] == 0:
        state["first"][...] = values
    state["n"] += 1
    block = values - state["first"]
    state["sum"] += block
    levels, channels = state["recent"].shape[:2]
    for level in range(levels):
        n = int(state["entered"][level])
        recent = state["recent"][level]
        recent[n % channels] = block
        reach = np.arange(min(n + 1, channels))
        earlier = recent[(n - reach) % channels]
        state["products"][level, : len(reach)] += block * earlier
        state["ends"][level, : len(reach)] += block + earlier
        state["entered"][level] = n + 1
        if n % 2 == 0:
            state["carry"][level] = block
            return
        block = 0.5 * (state["carry"][level] + block)


@dataclass(frozen=True, eq=False)
class Correlation:
    """Lags (K,) in frames, the correlation (K, ...) at them, mean and variance of the field."""

    lags: NDArray[np.int64]
    values: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def correlation(state: State) -> Correlation:
    """What a state says; from level 1 on only the lags that the level below does not reach."""
    levels, channels = state["recent"].shape[:2]
    n = max(1.0, float(state["n"]))
    mean = state["sum"] / n
    lags, rows = [], []
    for level in range(levels):
        for k in range(channels // 2 if level else 0, channels):
            pairs = state["entered"][level] - k
            if pairs > 0:
                centered = state["products"][level, k] - mean * state["ends"][level, k] + pairs * mean**2
                lags.append(k * 2**level)
                rows.append(centered / pairs)
    return Correlation(np.array(lags, np.int64), np.array(rows), state["first"] + mean, rows[0] if rows else mean * 0)


def autocorrelation_time(
    lags: NDArray[np.int64], normalized: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(...) tau in frames, at least 1/2, and whether a lag of 5 tau was reached.

    Args:
        lags: (K,) rising from 0.
        normalized: (K, ...) with 1 at lag 0.
    """
    spacing = np.diff(lags).reshape(-1, *[1] * (normalized.ndim - 1)).astype(np.float64)
    rise = np.diff(normalized, axis=0)
    sums = spacing * (normalized[:-1] + normalized[1:]) / 2 + rise / 2  # of the interpolated values at a < t <= b
    tau = 0.5 + np.concatenate([np.zeros((1, *normalized.shape[1:])), np.cumsum(sums, axis=0)])
    reached = lags.reshape(-1, *[1] * (normalized.ndim - 1)) >= WINDOW * tau
    reached[0] = False
    reliable = np.asarray(reached.any(axis=0))
    where = np.where(reliable, reached.argmax(axis=0), len(lags) - 1)
    return np.maximum(0.5, np.take_along_axis(tau, where[None], axis=0)[0]), reliable
