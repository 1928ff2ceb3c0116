"""Analyses of whole runs: they read what was recorded, and their sums are the calculator's totals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from explained import NETWORKS, write_weights
from systems import shaken_molecule

from ase_xai import NetworkCalculator, explain, load
from ase_xai.explainers import LatentCharges
from ase_xai.explainers.dipole_rate import DipoleRate
from ase_xai.explainers.energy_flow import EnergyFlow
from ase_xai.explainers.fragments import bonds
from ase_xai.trajectory import Recorder, Run, annotate, open_run
from ase_xai.trajectory.bond_flow import charge_flow
from ase_xai.trajectory.differences import barrier, path_difference, profile
from ase_xai.trajectory.flow import energy_flow
from ase_xai.trajectory.groups import group_series, groups_of
from ase_xai.trajectory.means import energy_drift, group_drifts, group_means, mean
from ase_xai.trajectory.spectra import infrared

GROUPS = {"methyl": (0, 2, 4, 5), "hydroxyl": (1, 3)}


@pytest.fixture(scope="module", params=["schnet", "bp"])
def calculator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NetworkCalculator:
    path = tmp_path_factory.mktemp("weights") / "w"
    return load(write_weights(path, NETWORKS[request.param]()), dtype="float64")


@pytest.fixture(scope="module")
def run(calculator: NetworkCalculator, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """240 steps of methanol, with rates of energy and dipole."""
    atoms = shaken_molecule("CH3OH", seed=3)
    atoms.set_velocities(np.random.default_rng(0).normal(0, 0.01 / units.fs, (6, 3)))
    atoms.calc = calculator
    path = tmp_path_factory.mktemp("runs") / "run.h5"
    dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
    fields = ("energies", "charges", "dipole", "kinetic_energy", "forces")
    explainers = {"energy_flow": EnergyFlow(), "dipole_rate": (DipoleRate(), 2)}
    with Recorder(atoms, path, dynamics=dynamics, fields=fields, explainers=explainers, groups=GROUPS) as recorder:
        dynamics.attach(recorder, interval=2)
        dynamics.run(240)
    return open_run(path)


@pytest.fixture(scope="module")
def inversion() -> Run:
    """A path of ammonia turned inside out, its saddle climbed to."""
    calculator = load("organic", dtype="float64")
    first, last = molecule("NH3"), molecule("NH3")
    last.positions[:, 2] *= -1
    for end in (first, last):
        end.calc = calculator
        BFGS(end, logfile=None).run(fmax=0.01, steps=40)
    images = [first, *(first.copy() for _ in range(3)), last]
    band = NEB(images, climb=True, allow_shared_calculator=True, method="improvedtangent")
    for image in images:
        image.calc = calculator
    band.interpolate()
    BFGS(band, logfile=None).run(fmax=0.05, steps=30)
    return annotate(images, calculator, groups={"nitrogen": (0,), "hydrogens": (1, 2, 3)})


# --- differences and barriers ----------------------------------------------------------------------------------------


def test_the_barrier_is_the_sum_over_groups(inversion: Run) -> None:
    """Σ_G ΔE_G = E_saddle - E_min, to the rounding of recorded atomic energies; both ends are the same molecule."""
    energies = np.asarray(inversion["energy"])
    found = barrier(inversion)
    assert (found.start, found.end) == (0, 2) and found.labels == ("nitrogen", "hydrogens")
    assert found.total == pytest.approx(energies.max() - energies[0], abs=1e-12) and 0.1 < found.total < 0.6
    assert found.values.sum() == pytest.approx(found.total, abs=5e-6) and abs(found.residual) < 5e-6
    back = barrier(inversion, backward=True)
    assert back.end == 2 and back.start == 4 and back.total == pytest.approx(found.total, abs=2e-3)
    calculator = load("organic", dtype="float64")
    full = [inversion.atoms(k) for k in (0, 2)]
    parts = []
    for atoms in full:
        atoms.calc = calculator
        parts.append(atoms.get_potential_energies())
    change = parts[1] - parts[0]
    np.testing.assert_allclose(found.values, [change[0], change[1:].sum()], rtol=0, atol=1e-4)  # positions are float32
    np.testing.assert_allclose(found.explanation.values, change, rtol=0, atol=1e-4)
    assert "total" in str(found) and "nitrogen" in str(found)
    np.testing.assert_allclose(path_difference(inversion, start=1, end=1).values, 0)
    with pytest.raises(ValueError, match="frame 2 is the highest and the last one"):
        barrier(annotate([inversion.atoms(k) for k in (0, 1, 2)], calculator), backward=True)
    with pytest.raises(IndexError, match="no frame 9"):
        path_difference(inversion, end=9)


def test_profiles_rise_and_fall_with_the_total(inversion: Run) -> None:
    found = profile(inversion)
    np.testing.assert_allclose(found.values.sum(axis=1), found.total, rtol=0, atol=5e-6)
    np.testing.assert_allclose(found.residual, found.values.sum(axis=1) - found.total)
    np.testing.assert_array_equal(found.values[0], 0)
    np.testing.assert_allclose(found.values[2], barrier(inversion).values, atol=1e-12)
    assert found.time_unit == "step"
    np.testing.assert_allclose(profile(inversion, start=2).total, np.asarray(inversion["energy"]) - inversion["energy"][2])


# --- groups and means of a run ---------------------------------------------------------------------------------------


def test_groups_of_a_run(run: Run, calculator: NetworkCalculator) -> None:
    assert groups_of(run) == GROUPS
    assert groups_of(run, {"all": range(6)}) == {"all": tuple(range(6))}
    assert set(groups_of(annotate([run.atoms(0)], calculator))) == {"C", "H", "O"}
    series = group_series(run, "charges", block=7)
    values = np.asarray(run["charges"], dtype=np.float64)
    np.testing.assert_allclose(series.values[:, 1], values[:, 1] + values[:, 3], atol=1e-14)
    np.testing.assert_allclose(series.total, 0, atol=1e-6)
    energies = group_series(run)
    full = np.asarray(run["energy"]) - run.references.sum()
    np.testing.assert_allclose(energies.total, full, rtol=0, atol=5e-6)
    assert energies.reference == run["energies"].reference and energies.gauge == "dependent"
    with pytest.raises(ValueError, match="level 'frame'"):
        group_series(run, "dipole")


def test_means_of_a_run(run: Run) -> None:
    means = group_means(run)
    series = group_series(run)
    assert list(means) == [*GROUPS, "total"]
    assert means["methyl"] == mean(series.values[:, 0])
    assert means["methyl"].value + means["hydroxyl"].value == pytest.approx(means["total"].value, abs=1e-9)
    drifts = group_drifts(run, "charges")
    assert drifts["methyl"].slope == pytest.approx(-drifts["hydroxyl"].slope, rel=1e-3)
    assert abs(energy_drift(run).slope) < 1e-4  # eV per atom and fs
    with pytest.raises(ValueError, match="several components"):
        group_means(run, "forces")


# --- flows and spectra of a run --------------------------------------------------------------------------------------


def test_energy_flow_of_a_run(run: Run) -> None:
    """By group from rates by atom; Σ_GH W_GH = -Σ_j ∫F_j·dr_j, and the closure of the trapezoidal rule."""
    flow = energy_flow(run, GROUPS)
    rates = np.asarray(run["energy_flow"], dtype=np.float64)
    power = rates[:, list(GROUPS["methyl"])][:, :, list(GROUPS["hydroxyl"])].sum(axis=(1, 2))
    np.testing.assert_allclose(flow.work[-1, 0, 1], np.trapezoid(power, run.times), atol=1e-12)
    assert flow.closure < 1e-2 and flow.labels == tuple(GROUPS)
    changes = np.asarray(run["energy"]) - run["energy"][0]
    np.testing.assert_allclose(flow.changes.sum(axis=1), changes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(flow.total, changes, rtol=0, atol=1e-2 * np.abs(changes).max())
    by_atom = energy_flow(run)
    assert len(by_atom.labels) == 6
    np.testing.assert_allclose(by_atom.total, flow.total, atol=1e-12)


def test_recorded_groups_are_not_cut(calculator: NetworkCalculator) -> None:
    frames = []
    for k in range(3):
        frames.append(shaken_molecule("CH3OH", seed=k))
        frames[-1].set_velocities(np.full((6, 3), 0.1))
    coarse = annotate(frames, calculator, timestep=1.0, explainers={"energy_flow": EnergyFlow(GROUPS)})
    assert energy_flow(coarse).labels == tuple(GROUPS)
    assert energy_flow(coarse, {"all": range(6)}).work.shape == (3, 1, 1)
    with pytest.raises(ValueError, match="cuts a group that was recorded as a whole"):
        energy_flow(coarse, {"carbon": (0,), "others": (1, 2, 3, 4, 5)})
    with pytest.raises(ValueError, match="counts in 'step'"):
        energy_flow(annotate(frames, calculator, explainers={"energy_flow": EnergyFlow(GROUPS)}))
    with pytest.raises(ValueError, match="no field 'energy_flow'"):
        energy_flow(annotate(frames, calculator, timestep=1.0))


def test_charge_flow_of_a_run(run: Run, calculator: NetworkCalculator) -> None:
    flow = charge_flow(run, bonds(run.atoms(0))[0])
    assert flow.unique and len(flow.bonds) == 5 and flow.residual.max() < 1e-12
    charges = np.asarray(run["charges"], dtype=np.float64)
    moved = charges[-1] - charges[0]
    (bond,) = [k for k, pair in enumerate(flow.bonds.tolist()) if pair == [0, 1]]
    assert flow.transferred[-1, bond] == pytest.approx(moved[[1, 3]].sum(), abs=1e-6)  # from C to what hangs on it
    last = explain(run.atoms(-1), LatentCharges(), calculator).values
    np.testing.assert_allclose(charges[-1], last, atol=1e-5)
    ends = charge_flow(run)  # bonds of the first and of the last frame
    both = {tuple(pair) for k in (0, -1) for pair in bonds(run.atoms(k))[0].tolist()}
    assert {tuple(pair) for pair in ends.bonds.tolist()} == both and ends.residual.max() < 1e-12


def test_infrared_of_a_run(run: Run) -> None:
    spectrum = infrared(run, max_wavenumber=30_000)
    assert spectrum.labels == tuple(GROUPS) and spectrum.gauge == "invariant" and spectrum.residual < 1e-12
    np.testing.assert_allclose(spectrum.terms.sum(axis=(0, 1)), spectrum.total, rtol=1e-11)
    temperature = 2 * np.mean(run["kinetic_energy"][...]) / (18 * units.kB)
    assert spectrum.temperature == pytest.approx(temperature)
    by_atom = infrared(run, {str(k): (k,) for k in range(6)}, max_wavenumber=30_000)
    np.testing.assert_allclose(by_atom.total, spectrum.total, rtol=1e-9)
    assert spectrum.nyquist == pytest.approx(0.5 / 0.4 / 2.99792458e-5)
    with pytest.raises(ValueError, match="the total dipole has no groups"):
        infrared(run, GROUPS, source="dipole")


def test_spectra_of_dipoles_and_of_their_rates_agree(calculator: NetworkCalculator) -> None:
    """The same run, from dμ/dt and from differences of μ, whose frequency response is taken out."""
    frames = []
    for k in range(160):
        frames.append(molecule("H2O"))
        angle = 0.5 * k
        frames[-1].positions[1, 2] += 0.02 * np.sin(angle)
        frames[-1].set_velocities([[0, 0, 0], [0, 0, 0.02 * 0.5 * np.cos(angle) / units.fs], [0, 0, 0]])
    made = annotate(frames, calculator, timestep=1.0, fields=("dipole",), explainers={"dipole_rate": DipoleRate()})
    one, other = infrared(made, temperature=300), infrared(made, temperature=300, source="dipole")
    assert other.source == "dipole" and other.labels == ("all",)
    peak = one.total.argmax()
    assert other.peaks()[0] == pytest.approx(one.peaks()[0], abs=0.1 * one.resolution)
    near = one.resolution * 3
    place = one.wavenumbers[peak]
    assert other.area(place - near, place + near) == pytest.approx(one.area(place - near, place + near), rel=2e-3)


def test_spectra_need_time(inversion: Run, calculator: NetworkCalculator) -> None:
    with pytest.raises(ValueError, match="no field 'dipole_rate'"):
        infrared(inversion)
    with pytest.raises(ValueError, match="counts in 'step'"):
        infrared(inversion, source="dipole")
    frames = [shaken_molecule("H2O", k) for k in range(20)]
    uneven = annotate(frames, calculator, times=np.arange(20.0) ** 2, fields=("dipole",))
    with pytest.raises(ValueError, match="equal intervals"):
        infrared(uneven, source="dipole", temperature=300)
    cold = annotate(frames, calculator, timestep=1.0, fields=("dipole",))
    with pytest.raises(ValueError, match=r"no kinetic energy was recorded.*Give temperature="):
        infrared(cold, source="dipole")


def test_other_calculators_have_differences_too(tmp_path: Path) -> None:
    """EMT gives atomic energies as well."""
    frames = [Atoms("Cu3", [[0, 0, 0], [d, 0, 0], [0, d, 0]]) for d in (2.3, 2.5, 2.9)]
    run = annotate(frames, EMT(), tmp_path / "emt.h5")
    found = path_difference(run, {"corner": (0,), "ends": (1, 2)})
    assert found.values.sum() == pytest.approx(found.total, abs=1e-5)
