"""Online statistics: what a long run comes to, atom by atom and group by group, without a stored frame.

    Recorder(atoms, "run.h5", fields=(), reducers=[Moments("energies"), Autocorrelation("charges")])
    open_run("run.h5").reducers["energies_moments"].mean        # (N,) eV

Every frame is added once, in float64, in the order of the run, so that a run which was interrupted and resumed gives the
same numbers as one that was left alone. Atomic energies have the reference of the weights subtracted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.trajectory import correlation

State = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Reducer(ABC):
    """Settings of one statistic of one field.

    Args:
        field: name of a result of the step, of "group_energies" or "group_charges", or of a recorded explainer.
    """

    field: str

    @property
    def name(self) -> str:
        """Under which `run.reducers` has the result."""
        return f"{self.field}_{type(self).__name__.lower()}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, **asdict(self)}

    @abstractmethod
    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of the state, for values of `shape`; all begin as zeros."""

    @abstractmethod
    def add(self, state: State, values: NDArray[np.float64]) -> None:
        """Take in the values of one frame."""

    @abstractmethod
    def result(self, state: State, about: FieldAbout) -> Any:
        """What the frames so far come to."""


@dataclass(frozen=True)
class FieldAbout:
    """Which values a statistic is of; see `Explanation`."""

    field: str
    units: str
    level: str
    labels: tuple[str, ...]
    reference: str
    gauge: str


@dataclass(frozen=True, eq=False)
class MomentsResult:
    """Mean and variance (n - 1) over `n` frames, shape of the field; an error of the mean needs `Autocorrelation`."""

    about: FieldAbout
    n: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True)
class Moments(Reducer):
    """Mean and variance by Welford's update: m += (x - m)/n, s += (x - m_old)(x - m).

    Source: Welford, Technometrics 4, 419 (1962), doi 10.1080/00401706.1962.10490022.
    """

    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"n": (), "mean": shape, "squares": shape}

    def add(self, state: State, values: NDArray[np.float64]) -> None:
        state["n"] += 1
        before = values - state["mean"]
        state["mean"] += before / state["n"]
        state["squares"] += before * (values - state["mean"])

    def result(self, state: State, about: FieldAbout) -> MomentsResult:
        n = int(state["n"])
        variance = state["squares"] / (n - 1) if n > 1 else np.full_like(state["squares"], np.nan)
        return MomentsResult(about, n, state["mean"].copy(), variance)


@dataclass(frozen=True, eq=False)
class ExtremesResult:
    """Smallest and largest value, and the number of the frame, among the `n` that were added, where each came first."""

    about: FieldAbout
    n: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    low_frame: NDArray[np.int64]
    high_frame: NDArray[np.int64]


@dataclass(frozen=True)
class Extremes(Reducer):
    """Smallest and largest value, and when."""

    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"n": (), "low": shape, "high": shape, "low_frame": shape, "high_frame": shape}

    def add(self, state: State, values: NDArray[np.float64]) -> None:
        n = float(state["n"])
        for name, better in (("low", values < state["low"]), ("high", values > state["high"])):
            better = better | (n == 0)
            state[name][...] = np.where(better, values, state[name])
            state[f"{name}_frame"][...] = np.where(better, n, state[f"{name}_frame"])
        state["n"] += 1

    def result(self, state: State, about: FieldAbout) -> ExtremesResult:
        frames = (state[name].astype(np.int64) for name in ("low_frame", "high_frame"))
        return ExtremesResult(about, int(state["n"]), state["low"].copy(), state["high"].copy(), *frames)


@dataclass(frozen=True, eq=False)
class HistogramResult:
    """Counts (n_bins, ...) between `edges` (n_bins + 1,), and how many of the `n` values lay below and above."""

    about: FieldAbout
    n: int
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    below: NDArray[np.int64]
    above: NDArray[np.int64]


@dataclass(frozen=True)
class Histogram(Reducer):
    """Counts in bins of equal width; the last one holds its right edge, as in NumPy.

    Args:
        low, high: in the units of the field.
        n_bins: how many.
    """

    low: float = -1.0
    high: float = 1.0
    n_bins: int = 50

    def __post_init__(self) -> None:
        if not self.low < self.high or self.n_bins < 1:
            raise ValueError(f"bins need low < high and n_bins > 0, got {self.low}, {self.high} and {self.n_bins}.")

    @property
    def edges(self) -> NDArray[np.float64]:
        return np.linspace(self.low, self.high, self.n_bins + 1)

    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"n": (), "counts": (self.n_bins + 2, *shape)}

    def add(self, state: State, values: NDArray[np.float64]) -> None:
        place = np.searchsorted(self.edges, values, side="right")
        place = np.where(values == self.high, self.n_bins, place)
        state["counts"].reshape(self.n_bins + 2, -1)[place.ravel(), np.arange(place.size)] += 1
        state["n"] += 1

    def result(self, state: State, about: FieldAbout) -> HistogramResult:
        counts = state["counts"].astype(np.int64)
        return HistogramResult(about, int(state["n"]), self.edges, counts[1:-1], counts[0], counts[-1])


@dataclass(frozen=True, eq=False)
class AutocorrelationResult:
    """Autocorrelation at growing lags, and what it says about the mean.

    Args:
        about, n: field, and number of frames.
        lags: (K,) frames.
        correlation: (K, ...) normalized to 1 at lag 0; NaN where a value never changed.
        mean, variance: of the field (variance by n).
        tau: integrated autocorrelation time in frames, 1/2 for independent ones.
        n_effective: n/(2 tau), the number of independent frames.
        error: standard error of the mean, sqrt(variance/n_effective).
        reliable: whether the run is long enough for `tau`: a lag of 5 tau was seen, and 50 tau altogether.
    """

    about: FieldAbout
    n: int
    lags: NDArray[np.int64]
    correlation: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    tau: NDArray[np.float64]
    n_effective: NDArray[np.float64]
    error: NDArray[np.float64]
    reliable: NDArray[np.bool_]


@dataclass(frozen=True)
class Autocorrelation(Reducer):
    """Autocorrelation time, number of independent frames and error of the mean, see `ase_xai.trajectory.correlation`.

    Args:
        channels: lags on each level; more are more exact.
        levels: the longest lag is channels·2^(levels - 1) frames.
    """

    channels: int = 16
    levels: int = 16

    def __post_init__(self) -> None:
        if self.channels < 4 or self.channels % 2 or self.levels < 1:
            raise ValueError(
                f"channels must be even and at least 4, levels positive; got {self.channels} and {self.levels}."
            )

    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return correlation.sizes(shape, self.levels, self.channels)

    def add(self, state: State, values: NDArray[np.float64]) -> None:
        correlation.add(state, values)

    def result(self, state: State, about: FieldAbout) -> AutocorrelationResult:
        found, n = correlation.correlation(state), int(state["n"])
        with np.errstate(invalid="ignore", divide="ignore"):
            normalized = np.where(found.variance > 0, found.values / found.variance, np.nan)
        tau, reached = correlation.autocorrelation_time(found.lags, np.where(np.isnan(normalized), 0.0, normalized))
        independent = n / (2 * tau)
        error = np.sqrt(np.maximum(found.variance, 0.0) / independent)
        return AutocorrelationResult(
            about, n, found.lags, normalized, found.mean, found.variance, tau, independent, error, reached & (n >= 50 * tau)
        )


KINDS: dict[str, type[Reducer]] = {kind.__name__: kind for kind in (Moments, Extremes, Histogram, Autocorrelation)}


def named(reducers: Sequence[Reducer]) -> dict[str, Reducer]:
    """Reducers by their names.

    Raises:
        ValueError: something else, or two of one name.
    """
    strangers = [reducer for reducer in reducers if not isinstance(reducer, Reducer)]
    if strangers:
        raise ValueError(f"reducers are made like Moments('energies'), got {strangers[0]!r}; there are {', '.join(KINDS)}.")
    found = {reducer.name: reducer for reducer in reducers}
    if len(found) < len(reducers):
        raise ValueError(
            f"two reducers have one name; the names are {[r.name for r in reducers]}. Give each field one of a kind."
        )
    return found
