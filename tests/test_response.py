"""How dipoles and forces follow the atoms: Born charges, Hessian, infrared intensities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.md.verlet import VelocityVerlet
from ase.vibrations import Infrared
from explained import NETWORKS, SHIPPED, write_shipped, write_weights
from scipy import constants
from scipy.spatial.transform import Rotation
from systems import CHARGED_NETWORKS, RANDOM_NETWORKS, random_schnet, shaken_molecule

from ase_xai import Ensemble, NetworkCalculator, explain, load
from ase_xai.explainers import BornCharges, HarmonicInfrared
from ase_xai.explainers.infrared import KM_PER_MOL
from ase_xai.graph import AtomGraph
from ase_xai.networks import compiled, predict
from ase_xai.networks.response import DipoleResponse, born_charges, dipole_response, hessian
from ase_xai.weights import resolve

BORN = "born_effective_charges"
ORIGIN = [0.3, -1.2, 0.5]
Build = Callable[..., NetworkCalculator]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files of random networks that know total charges -1, 0 and 1, and one of a network without charges."""
    folder = tmp_path_factory.mktemp("weights")
    made = {name: (make(), (-1.0, 0.0, 1.0)) for name, make in NETWORKS.items()}
    made["none"] = (random_schnet(6, charges=False), (0.0,))
    paths = {name: write_weights(folder / name, network, total_charges=q) for name, (network, q) in made.items()}
    return paths | {name: write_shipped(folder / name, name) for name in SHIPPED}


@pytest.fixture(params=list(NETWORKS))
def build(request: pytest.FixtureRequest, weights: dict[str, Path]) -> Build:
    """Makes calculators of one network, a random one unless a test asks for shipped weights as well."""
    return lambda **settings: load(weights[request.param], dtype="float64", **settings)


def methanol(charge: float = 0.0) -> Atoms:
    atoms = shaken_molecule("CH3OH", seed=3)
    atoms.info["charge"] = charge
    return atoms


WITH_SHIPPED = pytest.mark.parametrize("build", [*NETWORKS, *SHIPPED], indirect=True)

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
"""Steps and factors of the fourth-order central difference."""


def displaced(atoms: Atoms, motions: np.ndarray, cutoff: float, h: float = 1e-3) -> AtomGraph:
    """The four displacements of the stencil along each of the motions (M, N, 3) as one batch."""
    graphs = []
    for motion in motions:
        for step, _ in STENCIL:
            moved = atoms.copy()
            moved.positions += step * h * motion
            graphs.append(AtomGraph.from_atoms(moved, cutoff, total_charge=atoms.info.get("charge", 0.0)))
    return AtomGraph.batch(graphs)


def differences(values: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """(M, ...) from (4 M, ...)."""
    return np.einsum("ms...,s->m...", values.reshape(-1, 4, *values.shape[1:]), [factor / h for _, factor in STENCIL])


def every_coordinate(n_atoms: int) -> np.ndarray:
    return np.eye(3 * n_atoms).reshape(-1, n_atoms, 3)


def by_differences(calculator: NetworkCalculator, atoms: Atoms, weights: np.ndarray | None = None) -> np.ndarray:
    """(N, 3, 3) differences of the dipole about a fixed origin, or about a mean of the positions with these weights."""
    graph = displaced(atoms, every_coordinate(len(atoms)), calculator.network.cutoff)
    prediction = predict(calculator.network, graph)
    shares = np.zeros(len(atoms)) if weights is None else weights / weights.sum()
    origins = np.einsum("i,nia->na", shares, graph.positions.numpy().reshape(-1, len(atoms), 3))
    dipoles = prediction.dipole.numpy() - graph.total_charge.numpy()[:, None] * origins
    return differences(dipoles).reshape(len(atoms), 3, 3).transpose(0, 2, 1)


# --- Born charges: identities -----------------------------------------------------------------------------------------


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 0.0, 1.0])
def test_born_charges_are_differences_of_the_dipole(build: Build, charge: float) -> None:
    atoms, calculator = methanol(charge), build(dipole_origin=ORIGIN)
    tensors = explain(atoms, BornCharges(), calculator).values
    np.testing.assert_allclose(tensors, by_differences(calculator, atoms), rtol=0, atol=2e-8)
    assert np.abs(tensors).max() > 0.05


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 0.0, 1.0])
def test_sum_rules(build: Build, charge: float) -> None:
    atoms, calculator = methanol(charge), build(dipole_origin=ORIGIN)
    total, direct, flux = (explain(atoms, BornCharges(part), calculator) for part in ("total", "charge", "flux"))
    np.testing.assert_allclose(total.total, charge * np.eye(3), atol=1e-13)
    np.testing.assert_allclose(flux.total, 0, atol=1e-13)
    np.testing.assert_allclose(direct.values + flux.values, total.values, atol=1e-15)
    charges = calculator.get_property("charges", atoms)
    np.testing.assert_allclose(direct.values, charges[:, None, None] * np.eye(3), rtol=0, atol=1e-14)
    assert np.trace(total.values, axis1=1, axis2=2).sum() / 3 == pytest.approx(charge, abs=1e-13)
    assert np.abs(flux.values).max() > 0.01
    assert max(part.residual for part in (total, direct, flux)) < 1e-13
    assert (total.gauge, direct.gauge, flux.gauge, total.units) == ("invariant", "dependent", "dependent", "e")


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.3, -0.5, 0.8)])
def test_rotating_the_molecule_turns_the_dipole(build: Build, charge: float, axis: tuple[float, ...]) -> None:
    """Σ_i Z*_i (w × (r_i - r_0)) = w × μ."""
    atoms, calculator = methanol(charge), build(dipole_origin=ORIGIN)
    tensors = explain(atoms, BornCharges(), calculator).values
    motion = np.cross(axis, atoms.positions - ORIGIN)
    dipole = calculator.get_property("dipole", atoms)
    np.testing.assert_allclose(np.einsum("iab,ib->a", tensors, motion), np.cross(axis, dipole), atol=1e-12)


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 0.0, 1.0])
def test_born_charges_times_velocities_are_the_rate_of_the_dipole(build: Build, charge: float) -> None:
    atoms, calculator = methanol(charge), build(dipole_origin=ORIGIN)
    velocities, h = np.random.default_rng(0).normal(size=(1, 6, 3)), 3e-4
    prediction = predict(calculator.network, displaced(atoms, velocities, calculator.network.cutoff, h))
    rate = differences(prediction.dipole.numpy(), h)[0]
    tensors = explain(atoms, BornCharges(), calculator).values
    np.testing.assert_allclose(np.einsum("iab,ib->a", tensors, velocities[0]), rate, rtol=0, atol=1e-9)


@WITH_SHIPPED
@pytest.mark.parametrize("origin", ["center_of_mass", "centroid"])
def test_an_origin_that_moves_along_leaves_no_net_charge(build: Build, origin: str) -> None:
    atoms, calculator = methanol(1.0), build(dipole_origin=origin)
    moving = explain(atoms, BornCharges(origin=origin), calculator)
    np.testing.assert_allclose(moving.total, 0, atol=1e-13)
    weights = atoms.get_masses() if origin == "center_of_mass" else np.ones(6)
    np.testing.assert_allclose(moving.values, by_differences(calculator, atoms, weights), rtol=0, atol=2e-8)
    parts = [explain(atoms, BornCharges(part, origin), calculator).values for part in ("charge", "flux")]
    np.testing.assert_allclose(sum(parts), moving.values, atol=1e-14)
    neutral = [explain(methanol(), BornCharges(origin=o), calculator).values for o in (origin, "fixed")]
    np.testing.assert_array_equal(*neutral)


@WITH_SHIPPED
def test_planar_molecules(build: Build) -> None:
    """Scalar charges give no dipole out of the plane, and out there an atom moves its own charge and nothing else."""
    atoms, calculator = molecule("C6H6"), build()
    atoms.positions[:, :2] += np.random.default_rng(0).normal(0, 0.05, (12, 2))
    assert np.ptp(atoms.positions[:, 2]) == 0
    atoms.rotate(37, (1, 2, 3))
    normal = Rotation.from_rotvec(np.radians(37) * np.array([1, 2, 3]) / np.sqrt(14)).apply([0, 0, 1])
    assert abs(calculator.get_property("dipole", atoms) @ normal) < 1e-12
    tensors = explain(atoms, BornCharges(), calculator).values
    charges = calculator.get_property("charges", atoms)
    np.testing.assert_allclose(tensors @ normal, charges[:, None] * normal, atol=1e-12)
    np.testing.assert_allclose(np.einsum("a,iab->ib", normal, tensors), charges[:, None] * normal, atol=1e-12)


def test_born_charges_turn_and_permute_with_the_molecule(build: Build) -> None:
    atoms, calculator = methanol(), build()
    rotation = Rotation.from_rotvec([0.5, -0.9, 0.2]).as_matrix()
    order = np.array([3, 0, 5, 1, 4, 2])
    other = atoms[order]
    other.positions = other.positions @ rotation.T + [5.0, -3.0, 1.0]
    one, two = (explain(a, BornCharges(), calculator).values for a in (atoms, other))
    np.testing.assert_allclose(two, rotation @ one[order] @ rotation.T, atol=1e-12)


@pytest.mark.parametrize("name", [*CHARGED_NETWORKS, *SHIPPED])
def test_signs_and_constants_of_the_charges(name: str) -> None:
    """q → q + c is taken out by charge conservation; q → -q keeps |μ| and turns the Born charges over."""
    network = resolve(name).network if name in SHIPPED else RANDOM_NETWORKS[name]()
    networks = [copy.deepcopy(network).double() for _ in range(3)]
    readouts = [getattr(n, "charge_readouts", None) or [n.charge_readout[-1]] for n in networks]
    with torch.no_grad():
        for layer in readouts[1]:
            layer.bias += 0.3
        for layer in readouts[2]:
            layer.weight *= -1
            layer.bias *= -1
    graph = AtomGraph.from_atoms(methanol(), networks[0].cutoff)
    dipoles = [predict(n, graph).dipole[0] for n in networks]
    tensors = [born_charges(n, graph) for n in networks]
    assert torch.allclose(dipoles[1], dipoles[0], atol=1e-13) and torch.allclose(tensors[1], tensors[0], atol=1e-13)
    assert torch.allclose(dipoles[2].norm(), dipoles[0].norm(), atol=1e-13)
    assert torch.allclose(tensors[2], -tensors[0], atol=1e-13)


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 1.0])
def test_a_constant_in_all_charges_is_gauge_about_the_centroid_only(build: Build, charge: float) -> None:
    """A charge more is a constant c = Q/N in all charges; it moves the dipole by c·N·(centroid - r_0)."""
    centroid = methanol().positions.mean(axis=0)
    for origin, moved in (("centroid", np.zeros(3)), (ORIGIN, charge * (centroid - ORIGIN))):
        calculator = build(dipole_origin=origin)
        for name, change in (("charges", np.full(6, charge / 6)), ("dipole", moved)):
            found, neutral = (calculator.get_property(name, methanol(q)) for q in (charge, 0.0))
            np.testing.assert_allclose(found - neutral, change, rtol=0, atol=1e-13)


@WITH_SHIPPED
@pytest.mark.parametrize("charge", [-1.0, 1.0])
def test_a_charged_molecule_carries_its_charge_along(build: Build, charge: float) -> None:
    atoms, calculator = methanol(charge), build(dipole_origin=ORIGIN)
    before = calculator.get_property("dipole", atoms)
    atoms.positions += [0.7, -0.4, 1.1]
    np.testing.assert_allclose(calculator.get_property("dipole", atoms) - before, charge * np.array([0.7, -0.4, 1.1]))


@pytest.mark.parametrize("name", CHARGED_NETWORKS)
def test_batches_lone_atoms_and_plain_graphs(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    molecules = [(methanol(), 1.0), (Atoms("O", [[1.0, 2.0, 3.0]]), -1.0), (shaken_molecule("H2O"), 0.0)]
    graphs = [AtomGraph.from_atoms(atoms, network.cutoff, total_charge=q) for atoms, q in molecules]
    together = born_charges(network, AtomGraph.batch(graphs)).split([len(g.numbers) for g in graphs])
    for part, graph in zip(together, graphs, strict=True):
        assert torch.allclose(part, born_charges(network, graph), atol=1e-13)
    assert torch.equal(together[1], -torch.eye(3, dtype=torch.float64)[None])
    directed = replace(graphs[0], mirrored=False)
    assert torch.allclose(born_charges(network, directed), together[0], atol=1e-13)


def test_born_charges_under_the_callers_contexts(build: Build) -> None:
    atoms, calculator = methanol(), build()
    expected = explain(atoms, BornCharges(), calculator).values
    with torch.inference_mode():
        np.testing.assert_array_equal(explain(atoms, BornCharges(), calculator).values, expected)
    with torch.no_grad():
        np.testing.assert_array_equal(explain(atoms, BornCharges(), calculator).values, expected)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights(name: str) -> None:
    atoms = shaken_molecule("H2O", amplitude=0.1)
    double, single = (load(name, dtype=dtype) for dtype in ("float64", "float32"))
    tensors = explain(atoms, BornCharges(), double).values
    np.testing.assert_allclose(tensors, by_differences(double, atoms), rtol=0, atol=1e-7)
    np.testing.assert_allclose(explain(atoms, BornCharges(), single).values, tensors, rtol=0, atol=1e-4)
    np.testing.assert_allclose(tensors.sum(axis=0), 0, atol=1e-13)


# --- Born charges as an ASE property ----------------------------------------------------------------------------------


def test_ases_property(build: Build) -> None:
    atoms, calculator = methanol(1.0), build()
    atoms.calc = calculator
    assert BORN in calculator.implemented_properties
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert calculator.get_property(BORN, atoms, allow_calculation=False) is None
    tensors = calculator.get_property(BORN, atoms)
    np.testing.assert_array_equal(tensors, explain(atoms, BornCharges()).values)
    assert tensors.dtype == np.float64 and tensors.shape == (6, 3, 3)
    assert atoms.get_potential_energy() == energy and np.array_equal(atoms.get_forces(), forces)
    n = calculator.n_evaluations
    tensors[:] = 0
    assert calculator.get_property(BORN, atoms).any() and calculator.n_evaluations == n
    atoms.positions[0, 0] += 0.1
    assert calculator.get_property(BORN, atoms, allow_calculation=False) is None
    atoms.get_forces()
    assert calculator.get_property(BORN, atoms, allow_calculation=False) is None and calculator.n_evaluations == n + 1
    properties = atoms.get_properties(["forces", BORN])
    assert properties[BORN].shape == (6, 3, 3) and calculator.n_evaluations == n + 2
    np.testing.assert_array_equal(properties[BORN], explain(atoms, BornCharges()).values)
    atoms.info["charge"] = -1.0
    np.testing.assert_allclose(calculator.get_property(BORN, atoms).sum(axis=0), -np.eye(3), atol=1e-13)
    calculator.reset()
    np.testing.assert_allclose(calculator.get_property(BORN, atoms).sum(axis=0), -np.eye(3), atol=1e-13)
    assert BORN not in calculator.results and "forces" in calculator.results


def test_nobody_pays_for_born_charges_in_a_run(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: object) -> DipoleResponse:
        calls.append(1)
        return dipole_response(*arguments)

    monkeypatch.setattr("ase_xai.calculators.dipole_response", counted)
    atoms = methanol()
    atoms.calc = build()
    VelocityVerlet(atoms, 0.2 * units.fs).run(3)
    atoms.get_dipole_moment()
    assert not calls
    with Trajectory(tmp_path / "a.traj", "w", atoms) as trajectory:
        trajectory.write()
    assert not calls and BORN not in read(tmp_path / "a.traj").calc.results
    atoms.calc.get_property(BORN, atoms)
    assert len(calls) == 1


def test_files_and_other_calculators_take_born_charges(build: Build, tmp_path: Path) -> None:
    atoms = methanol()
    atoms.calc = build()
    tensors = atoms.calc.get_property(BORN, atoms)
    kept = SinglePointCalculator(atoms, **atoms.calc.results)
    assert BORN not in kept.results
    with Trajectory(tmp_path / "a.traj", "w", atoms) as trajectory:
        trajectory.write()
    assert np.array_equal(read(tmp_path / "a.traj").calc.results["forces"], atoms.calc.results["forces"])
    np.testing.assert_array_equal(read(tmp_path / "a.traj").calc.results[BORN], tensors)
    write(tmp_path / "a.extxyz", atoms)
    np.testing.assert_allclose(read(tmp_path / "a.extxyz").calc.results["forces"], atoms.get_forces(), atol=1e-7)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
        assert database.get(1).energy == atoms.get_potential_energy()
    doubled = methanol()
    doubled.calc = SumCalculator([build(), build()])
    np.testing.assert_allclose(doubled.calc.get_property(BORN, doubled), 2 * tensors, rtol=1e-14)


def test_refusals(weights: dict[str, Path], build: Build) -> None:
    crystal, calculator = bulk("C", "diamond", a=3.6), build()
    with pytest.raises(ValueError, match=r"periodic.*pbc.*images.*pbc = False"):
        explain(crystal, BornCharges(), calculator)
    with pytest.raises(PropertyNotImplementedError, match=r"periodic.*images.*pbc = False"):
        calculator.get_property(BORN, crystal)
    with pytest.raises(ValueError, match=r"part must be one of total, charge, flux, got 'half'"):
        explain(methanol(), BornCharges("half"), calculator)
    with pytest.raises(ValueError, match=r"origin must be one of .* got 'here'"):
        explain(methanol(), BornCharges(origin="here"), calculator)
    without = load(weights["none"])
    assert BORN not in without.implemented_properties
    for explainer in (BornCharges(), HarmonicInfrared()):
        with pytest.raises(ValueError, match="has no charges"):
            explain(methanol(), explainer, without)
    with pytest.raises(PropertyNotImplementedError, match="one network that has charges"):
        without.get_property(BORN, methanol())
    with pytest.raises(ValueError, match="trained without dipoles"):
        dipole_response(without.network, without.checked_graph(methanol()))


def test_ensembles_explain_but_have_no_ase_property(weights: dict[str, Path]) -> None:
    members = [load(weights[name], dtype="float64") for name in ("schnet", "bp")]
    ensemble, atoms = Ensemble(members), methanol()
    both = explain(atoms, BornCharges(), ensemble)
    singles = np.stack([explain(atoms, BornCharges(), member).values for member in members])
    np.testing.assert_allclose(both.values, singles.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(both.uncertainty, singles.std(axis=0, ddof=1), atol=1e-15)
    assert BORN not in ensemble.implemented_properties
    with pytest.raises(PropertyNotImplementedError, match=r"explain\(atoms, BornCharges\(\)\)"):
        ensemble.get_property(BORN, atoms)
    ensemble.get_property("dipole", atoms)
    assert set(ensemble.spread) == set(ensemble.results)


# --- Hessian and infrared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM_NETWORKS)
def test_hessian_is_the_difference_of_forces(name: str) -> None:
    network, atoms = RANDOM_NETWORKS[name]().double(), methanol()
    exact = hessian(network, AtomGraph.from_atoms(atoms, network.cutoff)).numpy()
    forces = predict(network, displaced(atoms, every_coordinate(6), network.cutoff)).forces.numpy()
    rows = -differences(forces.reshape(-1, 18))
    np.testing.assert_allclose(exact, rows, rtol=0, atol=1e-6 * np.abs(rows).max())
    np.testing.assert_allclose(exact.reshape(18, 6, 3).sum(axis=1), 0, atol=1e-11)  # translation costs nothing


@pytest.mark.skipif(not compiled.available(), reason="the compiled kernels need Numba")
@pytest.mark.parametrize("name", ["schnet-3", "behler-parrinello-elements"])
def test_compiled_networks_have_a_hessian_too(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    graph = AtomGraph.from_atoms(methanol(), network.cutoff)
    plain, tensors = hessian(network, graph), born_charges(network, graph)
    network.compiled = True
    assert torch.allclose(hessian(network, graph), plain, atol=1e-11) and network.compiled
    assert torch.allclose(born_charges(network, graph), tensors, atol=1e-4)


@pytest.mark.parametrize(("charge", "by_atom"), [(0.0, False), (1.0, True)])
def test_infrared_is_ases(build: Build, tmp_path: Path, charge: float, by_atom: bool) -> None:
    atoms = shaken_molecule("H2O", seed=1)
    atoms.info["charge"] = charge
    _compare_with_ase(atoms, build(dipole_origin=ORIGIN), tmp_path, by_atom=by_atom)


@pytest.mark.parametrize("name", SHIPPED)
def test_infrared_of_shipped_weights_is_ases(name: str, tmp_path: Path) -> None:
    _compare_with_ase(shaken_molecule("H2O", seed=1, amplitude=0.02), load(name, dtype="float64"), tmp_path)


def _compare_with_ase(atoms: Atoms, calculator: NetworkCalculator, folder: Path, by_atom: bool = False) -> None:
    """Frequencies, and intensities to 1e-3, of all modes but the translations, whose frequencies are rounding."""
    atoms.calc = calculator
    peer = Infrared(atoms, name=str(folder / "ir"), delta=0.001)
    peer.run()
    peer.read()
    energies = peer.hnu.real - peer.hnu.imag  # eV, imaginary ones negative
    ours = explain(atoms, HarmonicInfrared(by_atom))
    frequencies = np.array(ours.settings["frequencies_cm-1"]) * units.invcm
    intensities = ours.values.sum(axis=1) if by_atom else ours.values
    order = np.argsort(energies)
    kept = np.abs(energies[order]) > 1e-3
    assert kept.sum() >= 6 and ours.units == "(D/Å)²/amu"
    np.testing.assert_allclose(frequencies[kept], energies[order][kept], rtol=1e-3)
    reference = peer.intensities[order]
    np.testing.assert_allclose(intensities[kept], reference[kept], rtol=0, atol=1e-3 * reference.max())
    np.testing.assert_allclose(intensities.sum(), reference.sum(), rtol=1e-3)


def test_a_diatomic_by_hand(build: Build) -> None:
    """ω² = E″/m and I = (dμ/dr)²/m with the reduced mass m: the two numbers of one bond, from differences."""
    calculator, h = build(), 1e-3

    def stretched(r: float) -> Atoms:
        return Atoms("CO", [[0, 0, 0], [0.6 * r, 0, 0.8 * r]])

    def of(r: float) -> tuple[float, float]:
        atoms = stretched(r)
        return calculator.get_property("energy", atoms), calculator.get_property("dipole", atoms) @ [0.6, 0, 0.8]

    (e_minus, d_minus), (e, _), (e_plus, d_plus) = (of(1.15 + step * h) for step in (-1, 0, 1))
    mass = 12.011 * 15.999 / (12.011 + 15.999)
    curvature, slope = (e_plus - 2 * e + e_minus) / h**2, (d_plus - d_minus) / (2 * h)
    si = curvature * constants.e * 1e20 / (mass * constants.atomic_mass)
    wavenumber = np.sign(si) * np.sqrt(abs(si)) / (2 * np.pi * constants.c) / 100
    debye = 1e-21 / constants.c  # C·m
    intensity = (slope * constants.e / (debye * 1e10)) ** 2 / mass
    ours = explain(stretched(1.15), HarmonicInfrared(), calculator)
    frequencies = np.array(ours.settings["frequencies_cm-1"])
    mode = int(np.abs(frequencies - wavenumber).argmin())
    assert frequencies[mode] == pytest.approx(wavenumber, rel=1e-4)
    assert ours.values[mode] == pytest.approx(intensity, rel=1e-4)
    assert ours.labels[mode] == f"{abs(frequencies[mode]):.1f}{'i' if frequencies[mode] < 0 else ''} cm-1"


def test_factors() -> None:
    """N_A/(12 ε0 c²)·|∂μ/∂Q|² is the integrated molar absorption of a harmonic mode."""
    debye = 1e-21 / constants.c
    per_unit = (debye * 1e10) ** 2 / constants.atomic_mass  # C²/kg of 1 (D/Å)²/amu
    assert constants.N_A / (12 * constants.epsilon_0 * constants.c**2) * per_unit / 1e3 == pytest.approx(
        KM_PER_MOL, rel=1e-4
    )
    assert 1 / units.Debye == pytest.approx(4.803205, rel=1e-6)


def test_shares_of_atoms(build: Build) -> None:
    """They sum to the intensity, and an infinitely heavy atom takes no part in a vibration."""
    atoms, calculator = methanol(), build()
    masses = atoms.get_masses()
    masses[1] = 1e12
    atoms.set_masses(masses)
    whole, shares = (explain(atoms, HarmonicInfrared(by_atom), calculator) for by_atom in (False, True))
    assert shares.values.shape == (18, 6) and whole.values.shape == (18,)
    np.testing.assert_allclose(shares.values.sum(axis=1), whole.values, atol=1e-12)
    assert (whole.values >= 0).all() and np.abs(shares.values[:, 1]).max() < 1e-5 * whole.values.max()
    assert shares.residual < 1e-12 and whole.residual is None
    assert any("no stationary point" in note for note in whole.notes)


def test_infrared_leaves_everything_as_it_was(build: Build) -> None:
    atoms = methanol()
    atoms.calc = calculator = build()
    atoms.get_forces()
    before, results = copy.deepcopy(calculator.network.state_dict()), copy.deepcopy(calculator.results)
    explain(atoms, HarmonicInfrared())
    assert all(torch.equal(value, before[key]) for key, value in calculator.network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in calculator.network.parameters())
    assert results.keys() == calculator.results.keys()
    assert all(np.array_equal(value, calculator.results[key]) for key, value in results.items())
