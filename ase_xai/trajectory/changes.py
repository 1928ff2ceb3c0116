"""Where a series changes its level: cumulative sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.trajectory.means import correlation_time

REFERENCE = 0.2  # of the series, from which its level and spread are learned
SLACK, ALARM = 1.0, 8.0  # in standard deviations of a block average
MIN_BLOCKS = 8


@dataclass(frozen=True)
class Change:
    """A lasting change of the level of a series.

    Args:
        index: first sample of the new level.
        before, after: level before and after, in the units of the series.
    """

    index: int
    before: float
    after: float


def change_points(
    series: ArrayLike, *, reference: float = REFERENCE, slack: float = SLACK, alarm: float = ALARM, block: int | None = None
) -> list[Change]:
    """Lasting changes of the level of a series, by cumulative sums of block averages y in units of their spread:

        S⁺ ← max(0, S⁺ + z - slack),   S⁻ ← max(0, S⁻ - z - slack),   z = (y - level)/spread;     max(S⁺, S⁻) > alarm

    Level and spread come from the beginning, and after each change from what follows it; the fewer blocks they come from,
    the wider the spread is taken. The change is dated inside the blocks around the alarm's beginning, at the sample that
    splits the series best into two levels. Averages over several correlation times make vibrations cancel and samples
    independent.

    Args:
        series: (L,).
        reference: share of the series from which level and spread are learned.
        slack: changes below 2·slack are not looked for.
        alarm: the higher, the rarer a false alarm, and the later a true one.
        block: samples per average; None takes 4 correlation times of the reference part.

    Raises:
        ValueError: a series too short for 8 blocks in its reference part.

    Source: Page, Biometrika 41, 100 (1954) (cumulative sums); Hinkley, Biometrika 57, 1 (1970) (dating).
    """
    x = np.asarray(series, dtype=np.float64)
    n_reference = round(reference * len(x))
    if x.ndim != 1 or n_reference < 2 * MIN_BLOCKS:
        raise ValueError(
            f"a series of at least {math.ceil(2 * MIN_BLOCKS / reference)} samples is needed, got shape {x.shape}. Record "
            "more frames, or learn the level from a larger share (reference)."
        )
    if block is None:
        block = _block_length(x[:n_reference])
    found: list[Change] = []
    start = 0
    while (change := _first_change(x, start, n_reference, block, slack, alarm)) is not None:
        found.append(change)
        start = change.index
    return found


def _block_length(x: NDArray[np.float64]) -> int:
    longest = max(1, len(x) // MIN_BLOCKS)
    if np.ptp(x) <= 1e-12 * np.abs(x).max(initial=1e-300):
        return 1
    return int(min(longest, math.ceil(4 * correlation_time(x)) if correlation_time(x) > 0.75 else 1))


def _first_change(
    x: NDArray[np.float64], start: int, n_reference: int, block: int, slack: float, alarm: float
) -> Change | None:
    """The first change after sample `start`, where a level begins."""
    n_blocks = (len(x) - start) // block
    n_known = n_reference // block
    if n_blocks <= n_known:
        return None
    y = x[start : start + n_blocks * block].reshape(n_blocks, block).mean(axis=1)
    level, spread = y[:n_known].mean(), y[:n_known].std(ddof=1)
    known = (1 + 2.64 / (n_known - 1)) * math.sqrt(1 + 1 / n_known)  # Student's t over the normal law's value at 0.1 %
    spread = max(spread * known, 1e-12 * abs(level), 1e-300)
    up = down = 0.0
    up_from = down_from = n_known
    for k in range(n_known, n_blocks):
        z = (y[k] - level) / spread
        up, down = max(0.0, up + z - slack), max(0.0, down - z - slack)
        up_from, down_from = (up_from if up else k + 1), (down_from if down else k + 1)
        if max(up, down) > alarm:
            begin = up_from if up >= down else down_from
            return _dated(x, start, start + (begin - 1) * block, start + (k + 1) * block, block)
    return None


def _dated(x: NDArray[np.float64], start: int, low: int, high: int, block: int) -> Change:
    """The split of x[start:high] into two levels, near sample `low`, with the smallest sum of squares."""
    high = min(len(x), high + 2 * block)
    low = max(start + 1, low - block)
    candidates = np.arange(low, high)
    part = x[start:high] - x[start:high].mean()
    sums = np.concatenate([[0.0], np.cumsum(part)])
    n_before = candidates - start
    n_after = len(part) - n_before
    gain = sums[n_before] ** 2 / n_before + (sums[-1] - sums[n_before]) ** 2 / n_after
    index = int(candidates[int(gain.argmax())])
    return Change(index, float(x[start:index].mean()), float(x[index:high].mean()))
