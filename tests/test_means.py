"""Means and drifts of correlated series: known correlation times, errors that cover the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from ase_xai.trajectory.means import autocorrelation, blocked_error, blocking, correlation_time, drift, mean


def ar1(n: int, phi: float, seed: int, size: int = 1) -> np.ndarray:
    """(size, n) stationary x_t = φ x_(t-1) + noise of variance one: ρ(t) = φ^t, τ = (1 + φ)/(1 - φ)/2."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, math.sqrt(1 - phi**2), (size, n))
    noise[:, 0] = rng.normal(size=size)
    return lfilter([1.0], [1.0, -phi], noise, axis=1)


def tau_of(phi: float) -> float:
    return 0.5 * (1 + phi) / (1 - phi)


def test_autocorrelation_is_the_plain_sum() -> None:
    x = np.random.default_rng(0).normal(size=50)
    x -= x.mean()
    slow = np.array([(x[: 50 - t] * x[t:]).sum() / (50 - t) for t in range(50)])
    np.testing.assert_allclose(autocorrelation(x + 3.0), slow / slow[0], atol=1e-12)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.97])
def test_known_correlation_times_are_found(phi: float) -> None:
    found = [correlation_time(row) for row in ar1(20_000, phi, 1, 40)]
    expected = tau_of(phi)
    spread = expected * math.sqrt(2 * (2 * 5 * max(expected, 0.5) + 1) / 20_000)  # Wolff, hep-lat/0306017, eq. 42
    assert np.mean(found) == pytest.approx(expected, abs=max(4 * spread / math.sqrt(40), 0.02 * expected))


@pytest.mark.parametrize(("phi", "n"), [(0.0, 1000), (0.8, 2000), (0.95, 4000)])
def test_errors_cover_the_truth_as_often_as_they_say(phi: float, n: int) -> None:
    """68 % within one and 95 % within two standard deviations, to 3.5 binomial standard deviations over 400 series."""
    means = [mean(row + 2.0) for row in ar1(n, phi, 2, 400)]
    for width, share in ((1.0, math.erf(1 / math.sqrt(2))), (2.0, math.erf(2 / math.sqrt(2)))):
        inside = np.mean([abs(m.value - 2.0) < width * m.error for m in means])
        assert inside == pytest.approx(share, abs=3.5 * math.sqrt(share * (1 - share) / 400))
        blocked = np.mean([abs(m.value - 2.0) < width * m.blocked for m in means])
        assert blocked == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 400))
    exact = math.sqrt(2 * tau_of(phi) / n)
    assert np.mean([m.error for m in means]) == pytest.approx(exact, rel=0.06)
    assert np.mean([m.blocked for m in means]) == pytest.approx(exact, rel=0.12)
    first = means[0]
    assert first.n_effective == pytest.approx(n / (2 * first.tau)) and first.n == n and first.converged
    naive = np.mean([abs(row.mean()) < row.std() / math.sqrt(n) for row in ar1(n, phi, 2, 400)])
    assert phi == 0.0 or naive < 0.45  # what forgetting the correlation would claim as 68 %


def test_blocking_rises_to_the_true_error() -> None:
    x = ar1(2**15, 0.9, 3)[0]
    lengths, errors, spreads = blocking(x)
    assert lengths.tolist() == [2**k for k in range(15)]
    exact = math.sqrt(2 * tau_of(0.9) / len(x))
    assert errors[0] == pytest.approx(1 / math.sqrt(len(x)), rel=0.1)
    plateau = errors[8]
    assert plateau == pytest.approx(exact, abs=4 * spreads[8])
    assert blocked_error(x) == pytest.approx(exact, rel=0.25)


def test_short_and_constant_series_say_so() -> None:
    assert not mean(ar1(100, 0.98, 4)[0]).converged
    assert "too short to trust" in str(mean(ar1(100, 0.98, 4)[0]))
    constant = mean(np.full(20, 3.0))
    assert (constant.value, constant.error, constant.tau, constant.n_effective) == (3.0, 0.0, 0.5, 20.0)
    with pytest.raises(ValueError, match=r"at least 8 numbers is needed, got shape \(7,\)"):
        mean(np.zeros(7))
    with pytest.raises(ValueError, match="1 values of the series are not finite"):
        mean([1.0] * 10 + [math.nan])
    with pytest.raises(ValueError, match="constant"):
        autocorrelation(np.ones(9))


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_slopes_are_found_with_their_errors(phi: float) -> None:
    times = 5.0 * np.arange(4000)
    found = [drift(row + 1e-4 * times + 7.0, times) for row in ar1(4000, phi, 5, 300)]
    inside = np.mean([abs(d.slope - 1e-4) < d.error for d in found])
    assert inside == pytest.approx(0.683, abs=4 * math.sqrt(0.683 * 0.317 / 300))
    flat = [drift(row, times) for row in ar1(4000, phi, 6, 300)]
    assert np.mean([d.significance > 3 for d in flat]) < 0.02
    assert np.mean([d.slope for d in found]) == pytest.approx(1e-4, rel=0.02)
    assert np.mean([d.start for d in found]) == pytest.approx(7.0, abs=0.05)


def test_an_exact_line_has_no_error() -> None:
    times = np.arange(100.0)
    line = drift(3.0 - 0.25 * times, times)
    assert line.slope == pytest.approx(-0.25, abs=1e-14) and line.start == pytest.approx(3.0, abs=1e-12)
    assert line.error < 1e-14
    with pytest.raises(ValueError, match="times must rise"):
        drift(times, times[::-1])
