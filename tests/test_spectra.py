"""Infrared spectra from moving dipoles: sum rules, known lines, and a real molecule against its harmonic band."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from scipy import constants

from ase_xai import explain, load
from ase_xai.explainers import HarmonicInfrared
from ase_xai.explainers import infrared as harmonic
from ase_xai.explainers.dipole_rate import DipoleRate
from ase_xai.trajectory import spectra
from ase_xai.trajectory.spectra import CM_FS, CORRECTIONS, KM_PER_MOL, equal_interval, infrared_spectrum, line_width

LABELS = ("a", "b", "c")


def noise(n: int = 301, seed: int = 0) -> np.ndarray:
    """Rates of three groups, two of which move against each other."""
    rates = np.random.default_rng(seed).normal(size=(n, 3, 3))
    rates[:, 1] -= 0.8 * rates[:, 0]
    return rates


@pytest.mark.parametrize("window", ["hann", "blackman", "none"])
@pytest.mark.parametrize("n", [300, 301])
def test_terms_sum_to_the_total_and_the_total_to_its_sum_rule(window: str, n: int) -> None:
    """Σ_GH I_GH = I, Σ_ω |M|² = L Σ_t |w dμ/dt|² and ∫ S dν = ⟨|dμ/dt|²⟩ with the window's weights."""
    rates = noise(n)
    spectrum = infrared_spectrum(rates, 0.5, 300.0, labels=LABELS, window=window, max_wavenumber=1e9)
    np.testing.assert_allclose(spectrum.terms.sum(axis=(0, 1)), spectrum.total, rtol=1e-12)
    np.testing.assert_allclose(spectrum.own.sum(axis=0) + spectrum.cross, spectrum.total, rtol=1e-12)
    np.testing.assert_allclose(spectrum.shares().sum(axis=0), spectrum.total, rtol=1e-12)
    np.testing.assert_allclose(spectrum.terms, spectrum.terms.transpose(1, 0, 2), rtol=0, atol=1e-12 * spectrum.total.max())
    assert spectrum.residual < 1e-13
    w = spectra.WINDOWS[window](n)
    weighted = ((w[:, None] * rates.sum(axis=1)) ** 2).sum() / (w**2).sum()  # (e·Å/fs)²
    si = weighted * (constants.e * 1e-10 / 1e-15) ** 2
    expected = constants.N_A / (12 * constants.epsilon_0 * constants.c**2 * constants.k * 300.0) * si / 1e3  # km/mol
    assert spectrum.area(0, math.inf) == pytest.approx(expected, rel=1e-4)  # to the digits of 42.255
    assert spectrum.terms[0, 1].min() < 0 and spectrum.cross.min() < 0  # against each other, and not clipped
    alone = infrared_spectrum(rates[:, :1], 0.5, 300.0, labels=("a",), window=window, max_wavenumber=1e9)
    np.testing.assert_allclose(alone.total, spectrum.terms[0, 0], rtol=1e-11, atol=1e-12 * spectrum.total.max())


def test_terms_are_the_slow_fourier_sums() -> None:
    n, interval = 40, 0.7
    rates = noise(n, 1)
    spectrum = infrared_spectrum(rates, interval, 250.0, labels=LABELS, max_wavenumber=1e9, correction="none")
    w = np.array([math.sin(math.pi * (t + 0.5) / n) ** 2 for t in range(n)])
    scale = spectrum.total[7] / sum(
        abs(sum(w[t] * rates[t].sum(axis=0)[a] * np.exp(-2j * math.pi * 7 * t / n) for t in range(n))) ** 2 for a in range(3)
    )
    for g in range(3):
        for h in range(3):
            m = [
                [sum(w[t] * rates[t, k, a] * np.exp(-2j * math.pi * 7 * t / n) for t in range(n)) for a in range(3)]
                for k in (g, h)
            ]
            slow = sum((m[0][a].conjugate() * m[1][a]).real for a in range(3))
            assert spectrum.terms[g, h, 7] == pytest.approx(scale * slow, rel=1e-10)
    assert spectrum.wavenumbers[7] == pytest.approx(7 / (n * interval * 1e-15) / constants.c / 100, rel=1e-9)
    assert pytest.approx(constants.c * 100 * 1e-15) == CM_FS


def line(wavenumber: float, n: int, interval: float, amplitude: float = 1.0) -> np.ndarray:
    """(n, 1, 3) dμ/dt of μ_z = amplitude·cos ωt."""
    omega = 2 * math.pi * wavenumber * CM_FS
    rates = np.zeros((n, 1, 3))
    rates[:, 0, 2] = -amplitude * omega * np.sin(omega * interval * np.arange(n))
    return rates


@pytest.mark.parametrize("window", ["hann", "blackman"])
def test_a_line_has_its_place_and_its_area(window: str) -> None:
    """An oscillator that holds k_B·T has the area of its harmonic intensity, whatever the temperature."""
    place, slope, mass = 1734.0, 0.3, 4.0  # cm⁻¹, ∂μ/∂r in e, amu
    for temperature in (100.0, 700.0):
        omega = 2 * math.pi * place * CM_FS
        amplitude = math.sqrt(2 * units.kB * temperature * units.fs**2 / mass) / omega  # ½ m ω² A² = k_B·T
        rates = line(place, 2000, 1.0, slope * amplitude)
        spectrum = infrared_spectrum(rates, 1.0, temperature, labels=("all",), window=window)
        (peak,) = spectrum.peaks()
        assert peak == pytest.approx(place, abs=0.05 * spectrum.resolution)
        intensity = KM_PER_MOL * (slope / units.Debye) ** 2 / mass
        assert spectrum.area(place - 150, place + 150) == pytest.approx(intensity, rel=1e-3)
        above = spectrum.wavenumbers[spectrum.total > 0.5 * spectrum.total.max()]
        assert np.ptp(above) <= spectrum.resolution < np.ptp(above) + 2 * (spectrum.wavenumbers[1] + 1e-9)
    assert KM_PER_MOL == harmonic.KM_PER_MOL


def test_resolutions_are_those_of_the_windows() -> None:
    """Full width at half of the power: 1.44, 0.886 and 1.64 bins. Source: Harris, Proc. IEEE 66, 51 (1978)."""
    for window, bins in (("hann", 1.44), ("none", 0.886), ("blackman", 1.64)):
        width = line_width(spectra.WINDOWS[window](500), 0.5)
        assert width == pytest.approx(bins / (500 * 0.5) / CM_FS, rel=0.01)


def test_corrections_are_the_published_factors() -> None:
    rates, temperature = noise(), 350.0
    by_name = {
        name: infrared_spectrum(rates, 0.5, temperature, labels=LABELS, correction=name, max_wavenumber=8000)
        for name in CORRECTIONS
    }
    reference = by_name["harmonic"]
    x = reference.wavenumbers[1:] * 100 * constants.h * constants.c / (constants.k * temperature)
    prefactor = (1 - np.exp(-x)) / x
    factors = {
        "harmonic": x / (1 - np.exp(-x)),
        "none": np.ones_like(x),
        "standard": 2 / (1 + np.exp(-x)),
        "schofield": np.exp(x / 2),
    }
    for name, factor in factors.items():
        ratio = by_name[name].total[1:] / reference.total[1:]
        np.testing.assert_allclose(ratio, prefactor * factor, rtol=1e-5)
        np.testing.assert_allclose(by_name[name].terms.sum(axis=(0, 1)), by_name[name].total, rtol=1e-12)
        assert name in by_name[name].correction and "Q = " in by_name[name].correction
    np.testing.assert_array_equal(by_name["classical"].total, reference.total)


def test_segments_average_and_tell_the_spread() -> None:
    rates = noise(4096, 2)
    whole = infrared_spectrum(rates, 0.5, 300.0, labels=LABELS, n_segments=16)
    first = infrared_spectrum(rates[:256], 0.5, 300.0, labels=LABELS)
    each = [infrared_spectrum(rates[256 * k : 256 * (k + 1)], 0.5, 300.0, labels=LABELS).total for k in range(16)]
    np.testing.assert_allclose(whole.total, np.mean(each, axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.error, np.std(each, axis=0, ddof=1) / 4, rtol=1e-10)
    np.testing.assert_allclose(whole.terms.sum(axis=(0, 1)), whole.total, rtol=1e-12)
    assert whole.resolution == first.resolution and whole.residual < 1e-13 and np.isnan(first.error).all()


def test_refusals() -> None:
    rates = noise()
    for change, message in (
        ({"labels": ("a",)}, r"must have shape \(L, 1, 3\)"),
        ({"window": "kaiser"}, "window must be one of hann"),
        ({"correction": "exact"}, "correction must be one of harmonic"),
        ({"n_segments": 30}, "fewer than 16 for each"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0 K"),
        ({"interval": -1.0}, "interval must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            infrared_spectrum(**{"rates": rates, "interval": 0.5, "temperature": 300.0, "labels": LABELS, **change})
    assert equal_interval(2.5 * np.arange(9)) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="equal intervals, got between 1 and 2 fs"):
        equal_interval([0.0, 1.0, 3.0])


# --- a real molecule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "symbols", "length", "timestep"), [("organic", "HF", 0.92, 0.5), ("organic-bp", "CO", 1.14, 0.9)]
)
def test_a_stiff_diatomic_absorbs_where_and_as_much_as_its_harmonic_mode(
    weights: str, symbols: str, length: float, timestep: float
) -> None:
    """Small vibrations: the band of the run lies within a twentieth of its width at the harmonic wavenumber, shifted by what
    the integrator does to it, sin(ω' dt/2) = ω dt/2, and has the harmonic intensity."""
    calculator = load(weights, dtype="float64")
    atoms = Atoms(symbols, [[0, 0, 0], [0.6 * length, 0, 0.8 * length]])
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=100)
    modes = explain(atoms, HarmonicInfrared())
    wavenumber, intensity = modes.settings["frequencies_cm-1"][-1], KM_PER_MOL * modes.values[-1]
    axis = atoms.positions[1] - atoms.positions[0]
    atoms.positions[0] -= 5e-4 * axis / np.linalg.norm(axis)
    atoms.set_velocities(np.zeros((2, 3)))
    rates, kinetic = [], []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)

    def keep() -> None:
        rates.append(explain(atoms, DipoleRate()).values)
        kinetic.append(atoms.get_kinetic_energy())

    dynamics.attach(keep, interval=4)
    dynamics.run(round(190 / timestep))
    temperature = 2 * np.mean(kinetic) / units.kB  # one mode
    spectrum = infrared_spectrum(np.array(rates), 4 * timestep, temperature, labels=tuple(symbols), max_wavenumber=9000)
    half = math.pi * wavenumber * CM_FS * timestep
    shifted = wavenumber * math.asin(half) / half
    (peak,) = spectrum.peaks()
    assert wavenumber > 1500
    assert peak == pytest.approx(shifted, abs=0.05 * spectrum.resolution)
    assert abs(peak - wavenumber) < spectrum.resolution
    width = 3 * spectrum.resolution
    assert spectrum.area(peak - width, peak + width) == pytest.approx(intensity, rel=0.02)
    np.testing.assert_allclose(spectrum.terms.sum(axis=(0, 1)), spectrum.total, rtol=0, atol=1e-12 * spectrum.total.max())
