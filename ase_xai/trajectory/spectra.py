"""Infrared spectra from the motion of the dipole, and which groups of atoms make them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import units
from numpy.typing import ArrayLike, NDArray

from ase_xai.trajectory.groups import Groups, groups_of, summed
from ase_xai.trajectory.run import Run

KM_PER_MOL = 42.255
"""Intensity in km/mol per (D/Å)²/amu. Source: Porezag, Pederson, Phys. Rev. B 54, 7830 (1996)."""
CM_FS = units._c * 1e2 * 1e-15  # speed of light in cm/fs: wavenumber = frequency (1/fs) / CM_FS
CORRECTIONS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], str]] = {
    "harmonic": (np.ones_like, "x/(1 - e⁻ˣ)"),
    "classical": (np.ones_like, "1, and ħ → 0 in the prefactor too"),
    "none": (lambda x: -np.expm1(-x) / x, "1"),
    "standard": (lambda x: 2 * np.tanh(x / 2) / x, "2/(1 + e⁻ˣ)"),
    "schofield": (lambda x: 2 * np.sinh(x / 2) / x, "e^(x/2)"),
}
"""By name: what the correction factor Q leaves of Q·(1 - e⁻ˣ)/x with x = βħω, and Q in words."""
WINDOWS: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "hann": lambda n: 0.5 - 0.5 * np.cos(2 * math.pi * (np.arange(n) + 0.5) / n),
    "none": np.ones,
    "blackman": lambda n: 0.42 - 0.5 * np.cos(t := 2 * math.pi * (np.arange(n) + 0.5) / n) + 0.08 * np.cos(2 * t),
}


@dataclass(frozen=True, eq=False)
class Spectrum:
    """An infrared absorption spectrum and its parts, in km/mol per cm⁻¹: the area of a band is its intensity in km/mol.

    Args:
        wavenumbers: (K,) cm⁻¹.
        total: (K,) Σ_GH terms.
        labels: of the groups.
        terms: (G, G, K) Re(M_G*·M_H): terms with G = H are a group's own absorption, others how far two groups absorb
            together (positive) or against each other (negative). Nothing is clipped. They sum to `total`.
        error: (K,) one standard deviation of `total` from the segments; NaN for one segment.
        resolution: cm⁻¹, full width at half maximum of a sharp line.
        window: by which each segment was multiplied.
        correction: quantum correction, see `infrared_spectrum`.
        temperature: K, the classical one that the intensities were divided by.
        n_segments: number of segments averaged over.
        nyquist: cm⁻¹, the largest wavenumber that the interval between frames can tell; faster motions appear below it.
        residual: relative violation of the sum rule Σ_ω |M(ω)|² = L Σ_t |w dμ/dt|² before any correction.
        source: "dipole_rate" or "dipole".
        gauge: "invariant" for the total of an open system; parts depend on the choice of groups only.
    """

    wavenumbers: NDArray[np.float64]
    total: NDArray[np.float64]
    labels: tuple[str, ...]
    terms: NDArray[np.float64]
    error: NDArray[np.float64]
    resolution: float
    window: str
    correction: str
    temperature: float
    n_segments: int
    nyquist: float
    residual: float
    source: str
    gauge: str
    units: str = "km/mol per cm⁻¹"

    @property
    def own(self) -> NDArray[np.float64]:
        """(G, K) the terms with G = H."""
        return np.asarray(np.einsum("ggk->gk", self.terms))

    @property
    def cross(self) -> NDArray[np.float64]:
        """(K,) the sum of all terms with G ≠ H."""
        return np.asarray(self.total - self.own.sum(axis=0))

    def shares(self) -> NDArray[np.float64]:
        """(G, K) Σ_H terms: each group's part in the total, half of its cross terms included; negative where it opposes."""
        return np.asarray(self.terms.sum(axis=1))

    def area(self, low: float, high: float) -> float:
        """Intensity in km/mol between two wavenumbers."""
        inside = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        return float(self.total[inside].sum() * (self.wavenumbers[1] - self.wavenumbers[0]))

    def peaks(self, least: float = 0.05) -> NDArray[np.float64]:
        """Wavenumbers of the local maxima above `least` times the highest one, refined by a parabola through logarithms."""
        y = self.total
        inner = np.flatnonzero((y[1:-1] > y[:-2]) & (y[1:-1] >= y[2:]) & (y[1:-1] > least * y.max())) + 1
        y = np.log(np.maximum(y, 1e-12 * y.max()))
        bend = y[inner - 1] - 2 * y[inner] + y[inner + 1]
        shift = 0.5 * (y[inner - 1] - y[inner + 1]) / np.where(bend == 0, 1.0, bend)
        return np.asarray(self.wavenumbers[inner] + shift * (self.wavenumbers[1] - self.wavenumbers[0]))


def infrared_spectrum(
    rates: ArrayLike,
    interval: float,
    temperature: float,
    *,
    labels: tuple[str, ...],
    window: str = "hann",
    correction: str = "harmonic",
    n_segments: int = 1,
    max_wavenumber: float = 5000.0,
    source: str = "dipole_rate",
    gauge: str = "invariant",
) -> Spectrum:
    """The infrared spectrum of a dipole that moves, term by term.

        M_G(ω) = Σ_t w(t) dμ_G/dt e^(-iωt),   I_GH = Re(M_G*·M_H),   I = Σ_GH I_GH
        A(ν) = N_A/(12 ε0 c² k_B T) · S(ν) · Q(x) (1 - e⁻ˣ)/x,   x = βħω

    S is the one-sided spectral density of dμ/dt, ∫S dν = ⟨|dμ/dt|²⟩. The prefactor is that of absorption, ω(1 - e⁻ˣ) times
    the dipole's correlation function, with dμ/dt in place of ωμ. Q corrects the classical correlation function:

        "harmonic"   x/(1 - e⁻ˣ), exact for harmonic modes; with it the line shape is S(ν) itself
        "classical"  no correction and the prefactor's limit ħ → 0, which gives the same line shape
        "none"       1, "standard" 2/(1 + e⁻ˣ), "schofield" e^(x/2)

    Args:
        rates: (L, G, 3) e·Å/fs, dμ_G/dt.
        interval: fs between frames.
        temperature: K of the classical motion; a band's area is its harmonic intensity where its mode holds k_B·T.
        labels: of the groups.
        window: "hann", "blackman" or "none"; multiplies each segment.
        correction: see above.
        n_segments: the series is cut into so many, whose spectra are averaged: less noise, less resolution.
        max_wavenumber: cm⁻¹, where the result ends.
        source, gauge: for the record.

    Raises:
        ValueError: shapes that do not fit, an unknown window or correction, segments shorter than 16 frames.

    Source: Ramírez, López-Ciudad, Kumar, Marx, J. Chem. Phys. 121, 3973 (2004) (corrections); Thomas et al., Phys. Chem.
    Chem. Phys. 15, 6608 (2013) (spectra from dμ/dt); Gastegger, Behler, Marquetand, doi 10.1039/c7sc02267k.
    """
    m = np.asarray(rates, dtype=np.float64)
    _refuse_misfit(m, interval, temperature, labels, window, correction, n_segments)
    length = len(m) // n_segments
    w = WINDOWS[window](length)
    pieces = m[: length * n_segments].reshape(n_segments, length, *m.shape[1:]) * w[:, None, None]
    amplitudes = np.fft.rfft(pieces, axis=1)  # (S, K, G, 3)
    weights = np.full(amplitudes.shape[1], 2.0)  # of positive frequencies that stand for negative ones too
    weights[0] = 1.0
    if length % 2 == 0:
        weights[-1] = 1.0
    whole = (np.abs(amplitudes.sum(axis=2)) ** 2).sum(axis=2) * weights  # (S, K)
    expected = length * (pieces.sum(axis=2) ** 2).sum(axis=(1, 2))
    residual = float(np.abs(whole.sum(axis=1) - expected).max() / max(float(expected.max()), 1e-300))

    frequencies = np.fft.rfftfreq(length, interval)  # 1/fs
    wavenumbers = np.asarray(frequencies / CM_FS, dtype=np.float64)
    kept = slice(0, int(np.searchsorted(wavenumbers, max_wavenumber, side="right")))
    prefactor = _to_absorption(length, interval, w, temperature) * _quantum(wavenumbers, temperature, correction)
    factors, mine = (prefactor * weights)[kept], amplitudes[:, kept]
    terms = np.einsum("skga,skha->ghk", mine.conj(), mine).real / n_segments * factors
    by_segment = whole[:, kept] / weights[kept] * factors
    error = by_segment.std(axis=0, ddof=1) / math.sqrt(n_segments) if n_segments > 1 else np.full(len(factors), np.nan)
    return Spectrum(
        wavenumbers[kept],
        by_segment.mean(axis=0),
        labels,
        terms,
        error,
        resolution=line_width(w, interval),
        window=window,
        correction=f"{correction}: Q = {CORRECTIONS[correction][1]}, x = βħω",
        temperature=float(temperature),
        n_segments=n_segments,
        nyquist=float(0.5 / interval / CM_FS),
        residual=residual,
        source=source,
        gauge=gauge,
    )


def _refuse_misfit(
    m: NDArray[np.float64],
    interval: float,
    temperature: float,
    labels: tuple[str, ...],
    window: str,
    correction: str,
    n: int,
) -> None:
    if m.ndim != 3 or m.shape[1:] != (len(labels), 3):
        raise ValueError(f"rates must have shape (L, {len(labels)}, 3) for these groups, got {m.shape}.")
    for name, value, table in (("window", window, WINDOWS), ("correction", correction, CORRECTIONS)):
        if value not in table:
            raise ValueError(f"{name} must be one of {', '.join(table)}, got {value!r}.")
    if n < 1 or len(m) // n < 16:
        raise ValueError(f"{len(m)} frames in {n} segments are fewer than 16 for each. Record more, or use fewer segments.")
    for name, number, unit in (("interval", interval, "fs"), ("temperature", temperature, "K")):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be positive, got {number} {unit}. A spectrum needs moving atoms and time.")


def _to_absorption(length: int, interval: float, w: NDArray[np.float64], temperature: float) -> float:
    """km/mol per cm⁻¹ for each unit of |M|² in (e·Å/fs)²: spectral density over ν, then intensity over k_B·T."""
    density = interval / (w**2).sum() * CM_FS
    thermal = units.kB * temperature * units.fs**2  # amu Å²/fs²
    return float(KM_PER_MOL / units.Debye**2 * density / thermal)


def _quantum(wavenumbers: NDArray[np.float64], temperature: float, correction: str) -> NDArray[np.float64]:
    x = np.maximum(wavenumbers * units.invcm / (units.kB * temperature), 1e-8)
    return np.asarray(CORRECTIONS[correction][0](x))


def line_width(w: NDArray[np.float64], interval: float) -> float:
    """cm⁻¹, full width at half maximum of |FFT of the window|²: the width that a sharp line gets."""
    fine = 64
    power = np.abs(np.fft.rfft(w, fine * len(w))) ** 2
    below = int(np.flatnonzero(power < 0.5 * power[0])[0])
    place = below - (0.5 * power[0] - power[below]) / (power[below - 1] - power[below])
    return float(2 * place / (fine * len(w) * interval) / CM_FS)


def infrared(
    run: Run,
    groups: Groups | None = None,
    *,
    temperature: float | None = None,
    source: str = "dipole_rate",
    window: str = "hann",
    correction: str = "harmonic",
    n_segments: int = 1,
    max_wavenumber: float = 5000.0,
) -> Spectrum:
    """The infrared spectrum of a run and which groups make it, see `infrared_spectrum`.

    Args:
        run: with the explainer `DipoleRate` recorded as `source`, or with "dipole" and no groups.
        groups: a partition of the atoms; None takes the recorded ones, or the elements.
        temperature: K; None takes 2⟨kinetic energy⟩/(3 N k_B) of the run.
        source: name of the recorded rates; "dipole" takes differences of the total dipole between frames instead, with their
            exact frequency response, and gives no groups.
        window, correction, n_segments, max_wavenumber: see `infrared_spectrum`.

    Raises:
        ValueError: not recorded, no time, frames at unequal intervals, groups asked of the total dipole, no temperature.
    """
    field = run[source]
    if run.time_unit != "fs":
        raise ValueError(f"a spectrum needs time, and this run counts in {run.time_unit!r}. Record molecular dynamics.")
    interval = equal_interval(field.times)
    if temperature is None:
        if "kinetic_energy" not in run:
            raise ValueError(
                "no kinetic energy was recorded, which tells the temperature that intensities refer to. Give temperature= "
                'in K, or record fields=(..., "kinetic_energy").'
            )
        temperature = float(np.mean(run["kinetic_energy"][...])) * 2 / (3 * run.n_atoms * units.kB)
    if source == "dipole":
        if groups is not None:
            raise ValueError("the total dipole has no groups. Record explainers={'dipole_rate': DipoleRate()} for them.")
        chosen: Groups = {"all": range(run.n_atoms)}
        rates = _differences(field[...], interval)[:, None]
    else:
        chosen = groups_of(run, groups)
        rates = summed(field[...], chosen)
    return infrared_spectrum(
        rates,
        interval,
        temperature,
        labels=tuple(chosen),
        window=window,
        correction=correction,
        n_segments=n_segments,
        max_wavenumber=max_wavenumber,
        source=source,
        gauge=field.gauge,
    )


def equal_interval(times: ArrayLike) -> float:
    """The interval between frames.

    Raises:
        ValueError: it varies by more than 1e-6 of itself.
    """
    steps = np.diff(np.asarray(times, dtype=np.float64))
    if not len(steps) or not steps[0] > 0 or np.abs(steps - steps[0]).max() > 1e-6 * steps[0]:
        found = f"between {steps.min():g} and {steps.max():g} fs" if len(steps) else "no interval at all"
        raise ValueError(f"a spectrum needs frames at equal intervals, got {found}. Record with a fixed interval.")
    return float(steps.mean())


def _differences(dipole: ArrayLike, interval: float) -> NDArray[np.float64]:
    """(L-1, 3) dμ/dt between frames, its frequencies multiplied by what a difference takes from a derivative."""
    mu = np.asarray(dipole, dtype=np.float64)
    steps = np.diff(mu, axis=0) / interval
    omega = 2 * math.pi * np.fft.rfftfreq(len(steps), interval)
    response = np.sinc(omega * interval / (2 * math.pi))  # of a difference, relative to the derivative
    return np.asarray(np.fft.irfft(np.fft.rfft(steps, axis=0) / response[:, None], len(steps), axis=0))
