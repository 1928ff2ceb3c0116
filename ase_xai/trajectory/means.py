"""Means and drifts of correlated series, with errors that know of the correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.trajectory.groups import Groups, group_series
from ase_xai.trajectory.run import Run

WINDOW = 5.0  # of the sum over autocorrelations, in correlation times
ENOUGH = 50.0  # correlation times, below which neither error nor correlation time can be trusted
MIN_VALUES = 8
MIN_BLOCKS = 8


@dataclass(frozen=True)
class Mean:
    """A mean over a correlated series.

    Args:
        value: the mean, in the units of the series.
        error: one standard deviation of the mean, sqrt(variance / n_effective).
        tau: integrated autocorrelation time ½ + Σ_t ρ(t) in samples; ½ for independent ones.
        n_effective: n / (2 tau), the number of independent samples worth as much.
        n: number of samples.
        blocked: the error by blocking, a second estimate.
        converged: whether the series is long enough, `ENOUGH` correlation times, for its error to be trusted.
    """

    value: float
    error: float
    tau: float
    n_effective: float
    n: int
    blocked: float
    converged: bool

    def __str__(self) -> str:
        short = "" if self.converged else ", too short to trust"
        return f"{self.value:.6g} ± {self.error:.2g} (tau {self.tau:.3g} samples, N_eff {self.n_effective:.3g}{short})"


def autocorrelation(series: ArrayLike) -> NDArray[np.float64]:
    """(L,) ρ(t) = C(t)/C(0), C(t) = Σ_k x_k x_(k+t) / (L - t) about the mean of the series.

    Raises:
        ValueError: fewer than two values, values that are not finite, or all equal.
    """
    x = _checked(series, 2)
    x = x - x.mean()
    n = len(x)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    c = np.fft.irfft(spectrum * spectrum.conj(), size)[:n] / np.arange(n, 0, -1)
    if not c[0] > 0:
        raise ValueError("the series is constant, so it has no autocorrelation.")
    return np.asarray(c / c[0])


def correlation_time(series: ArrayLike) -> float:
    """Integrated autocorrelation time τ = ½ + Σ_{t=1}^{M} ρ(t) in samples, with the smallest M ≥ 5 τ(M).

    The mean was taken from the same series, which makes ρ too small by about 2τ/L; this is corrected to first order. At
    least the value of independent samples is given, ½, though series that alternate have less.

    Source: Sokal, Monte Carlo methods in statistical mechanics (1997) (window); Wolff, hep-lat/0306017, eq. 49 (bias).
    """
    rho = autocorrelation(series)
    n = len(rho)
    tau = 0.5 + np.concatenate([[0.0], np.cumsum(rho[1:])])
    inside = np.flatnonzero(np.arange(n) >= WINDOW * tau)
    m = int(inside[0]) if len(inside) else n - 1
    return float(max(0.5, tau[m] * (1.0 + (2 * m + 1) / n)))


def mean(series: ArrayLike) -> Mean:
    """The mean of a series of samples at equal intervals, with the error that its correlation leaves.

    A constant series has no error and τ = ½. Trends are not noticed here: look at `drift`.

    Args:
        series: (L,).

    Raises:
        ValueError: fewer than 8 values, or values that are not finite.

    Source: see `correlation_time` and `blocking`.
    """
    x = _checked(series, MIN_VALUES)
    n = len(x)
    if np.ptp(x) <= 1e-14 * np.abs(x).max(initial=1.0):
        return Mean(float(x.mean()), 0.0, 0.5, float(n), n, 0.0, True)
    tau = correlation_time(x)
    n_effective = n / (2 * tau)
    variance = x.var() / max(1e-3, 1.0 - 1.0 / n_effective)
    error = math.sqrt(variance / n_effective)
    return Mean(float(x.mean()), error, tau, n_effective, n, blocked_error(x), n >= ENOUGH * 2 * tau)


def blocking(series: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Error of the mean if blocks of 1, 2, 4 ... samples were independent: it rises to a plateau, which is the true one.

    Returns:
        Block lengths, errors, and the errors' own standard errors.

    Source: Flyvbjerg, Petersen, J. Chem. Phys. 91, 461 (1989).
    """
    x = _checked(series, 2)
    lengths, errors, spreads = [], [], []
    length = 1
    while len(x) >= 2:
        error = math.sqrt(x.var() / (len(x) - 1))
        lengths.append(length)
        errors.append(error)
        spreads.append(error / math.sqrt(2 * (len(x) - 1)))
        x = 0.5 * (x[0 : len(x) - 1 : 2] + x[1::2])
        length *= 2
    return np.array(lengths), np.array(errors), np.array(spreads)


def blocked_error(series: ArrayLike) -> float:
    """The error of the mean at the shortest block length B with B³ > 2 L (error_B / error_1)⁴; the longest if none has.

    Source: Lee, Zhu, Ceperley et al., Phys. Rev. E 83, 066706 (2011), from Wolff, hep-lat/0306017 (optimal block length).
    """
    lengths, errors, _ = blocking(series)
    if errors[0] == 0.0:
        return 0.0
    n = len(np.asarray(series))
    enough = np.flatnonzero(lengths.astype(float) ** 3 > 2 * n * (errors / errors[0]) ** 4)
    return float(errors[enough[0]] if len(enough) else errors.max())


@dataclass(frozen=True)
class Drift:
    """A straight line through a correlated series.

    Args:
        slope: units of the series per unit of time.
        error: one standard deviation of the slope, from averages over blocks longer than the correlation time.
        start: value of the line at the first time.
        n_blocks: number of blocks.
        significance: |slope| / error; below about 2 there is no sign of a drift.
    """

    slope: float
    error: float
    start: float
    n_blocks: int

    @property
    def significance(self) -> float:
        return abs(self.slope) / self.error if self.error > 0 else (math.inf if self.slope else 0.0)


def drift(series: ArrayLike, times: ArrayLike) -> Drift:
    """Slope of the least-squares line through averages over blocks of a series.

    Blocks are four correlation times of the residuals long, 4·2τ samples, and at least 8 in number; they count as
    independent.

    Args:
        series: (L,).
        times: (L,) rising, at equal intervals.

    Raises:
        ValueError: a series too short for 8 blocks, or times that do not rise or do not fit.

    Source: linear regression of block averages; block length as in Flyvbjerg, Petersen, J. Chem. Phys. 91, 461 (1989).
    """
    x, t = _checked(series, 2 * MIN_BLOCKS), np.asarray(times, dtype=np.float64)
    if t.shape != x.shape or not (np.diff(t) > 0).all():
        raise ValueError(f"times must rise and have shape {x.shape}, one for each value; got shape {t.shape}.")
    line = np.polyval(np.polyfit(t - t[0], x, 1), t - t[0])
    residual = x - line
    flat = np.ptp(residual) <= 1e-13 * np.abs(x).max(initial=1.0)
    tau = 0.5 if flat else correlation_time(residual)
    length = min(max(1, math.ceil(8 * tau)), len(x) // MIN_BLOCKS)
    n = len(x) // length
    kept = slice(len(x) - n * length, len(x))
    y, s = x[kept].reshape(n, length).mean(axis=1), t[kept].reshape(n, length).mean(axis=1)
    centered = s - s.mean()
    slope = float(centered @ y / (centered @ centered))
    left = y - y.mean() - slope * centered
    error = math.sqrt(float(left @ left) / (n - 2) / float(centered @ centered))
    return Drift(slope, error, float(y.mean() + slope * (t[0] - s.mean())), n)


def group_means(run: Run, name: str = "energies", groups: Groups | None = None) -> dict[str, Mean]:
    """The mean of each group's sum of an atomic field over a run, and of the total under the name "total"."""
    series = group_series(run, name, groups)
    _refuse_vectors(series.values, name)
    rows = {label: series.values[:, k] for k, label in enumerate(series.labels)}
    return {label: mean(row) for label, row in {**rows, "total": series.total}.items()}


def group_drifts(run: Run, name: str = "energies", groups: Groups | None = None) -> dict[str, Drift]:
    """The drift of each group's sum of an atomic field, and of the total, per unit of time of the run."""
    series = group_series(run, name, groups)
    _refuse_vectors(series.values, name)
    rows = {label: series.values[:, k] for k, label in enumerate(series.labels)}
    return {label: drift(row, series.times) for label, row in {**rows, "total": series.total}.items()}


def energy_drift(run: Run) -> Drift:
    """The drift of the total energy, kinetic energy included, per atom: eV per atom and unit of time.

    Raises:
        ValueError: the kinetic energy was not recorded.
    """
    total = np.asarray(run["energy"], dtype=np.float64) + np.asarray(run["kinetic_energy"], dtype=np.float64)
    return drift(total / run.n_atoms, run.times)


def _refuse_vectors(values: NDArray[np.float64], name: str) -> None:
    if values.ndim != 2:
        raise ValueError(f"{name} has several components per atom; take the mean of each by itself.")


def _checked(series: ArrayLike, n_least: int) -> NDArray[np.float64]:
    x = np.asarray(series, dtype=np.float64)
    if x.ndim != 1 or len(x) < n_least:
        raise ValueError(f"a series of at least {n_least} numbers is needed, got shape {x.shape}. Record more frames.")
    if not np.isfinite(x).all():
        raise ValueError(
            f"{int((~np.isfinite(x)).sum())} values of the series are not finite. Take out the frames they are of."
        )
    return x
