"""Energy that moves between groups, charge that moves along bonds, heat that moves through space."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from explained import NETWORKS, write_weights
from systems import random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai import Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import explainer_by_name
from ase_xai.explainers.dipole_rate import DipoleRate
from ase_xai.explainers.energy_flow import EnergyFlow
from ase_xai.explainers.fragments import connected
from ase_xai.explainers.gauge import gauge_change, in_another_gauge
from ase_xai.explainers.heat_flux import HeatFlux
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, compiled
from ase_xai.networks.rates import receptive_hops, unfold
from ase_xai.trajectory.bond_flow import flow_on_bonds
from ase_xai.trajectory.flow import EnergyFlowResult, integrate_flow

SHIPPED = ("organic", "organic-bp")
GROUPS = {"methyl": (0, 2, 4, 5), "hydroxyl": (1, 3)}  # of ASE's methanol: C O H H H H
RATES = ("EnergyFlow", "DipoleRate", "HeatFlux")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    made = {name: (make(), (-1.0, 0.0, 1.0)) for name, make in NETWORKS.items()}
    made["none"] = (random_schnet(6, charges=False), (0.0,))
    made["near"] = (random_schnet(7, n_interactions=2, cutoff=2.2), (0.0,))
    made["near-bp"] = (random_behler_parrinello(8, cutoff=3.0), (0.0,))
    return {name: write_weights(folder / name, network, total_charges=q) for name, (network, q) in made.items()}


@pytest.fixture(params=list(NETWORKS))
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64", dipole_origin="centroid")


def moving(name: str = "CH3OH", seed: int = 0, speed: float = 0.03) -> Atoms:
    """A molecule with velocities of order `speed` Å/fs."""
    atoms = shaken_molecule(name, seed)
    velocities = np.random.default_rng(seed + 1).normal(0, speed, atoms.positions.shape)
    atoms.set_velocities((velocities - velocities.mean(axis=0)) / units.fs)
    return atoms


def along(atoms: Atoms, calculator: NetworkCalculator, what: Callable[[Atoms], np.ndarray], h: float = 1e-3) -> np.ndarray:
    """Derivative with respect to time of what a function says of atoms moving on at their velocities, h in fs."""
    values = []
    for step in (-2, -1, 1, 2):
        moved = atoms.copy()
        moved.positions += step * h * atoms.get_velocities() * units.fs
        moved.calc = calculator
        values.append(np.asarray(what(moved)))
    return (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)


# --- energy flow, one frame ------------------------------------------------------------------------------------------


def test_rates_are_changes_of_atomic_energies(calculator: NetworkCalculator) -> None:
    """Row sums against energies of moved atoms, and each column against energies when that atom alone moves."""
    atoms = moving()
    flow = explain(atoms, EnergyFlow(), calculator)
    assert flow.values.shape == (6, 6) and flow.labels[:2] == ("C0", "O1")
    assert (flow.units, flow.gauge, flow.level) == ("eV/fs", "dependent", "group")
    rates = along(atoms, calculator, lambda a: a.get_potential_energies())
    np.testing.assert_allclose(flow.values.sum(axis=1), rates, rtol=0, atol=1e-8)
    for j in (0, 3):
        alone = atoms.copy()
        momenta = np.zeros((6, 3))
        momenta[j] = atoms.get_momenta()[j]
        alone.set_momenta(momenta)
        column = along(alone, calculator, lambda a: a.get_potential_energies())
        np.testing.assert_allclose(flow.values[:, j], column, rtol=0, atol=1e-8)


def test_groups_sum_atoms_and_everything_is_the_power_of_the_forces(calculator: NetworkCalculator) -> None:
    atoms = moving()
    atoms.calc = calculator
    fine, coarse = explain(atoms, EnergyFlow()), explain(atoms, EnergyFlow(tuple(GROUPS.items())))
    for k, members in enumerate(GROUPS.values()):
        np.testing.assert_allclose(coarse.values[k], fine.values[list(members)].sum(axis=0), rtol=0, atol=1e-14)
    power = -(atoms.get_forces() * atoms.get_velocities() * units.fs).sum()
    assert coarse.values.sum() == pytest.approx(power, abs=1e-13)
    assert abs(coarse.residual) < 1e-13
    assert coarse.settings["groups"] == {name: list(members) for name, members in GROUPS.items()}
    with pytest.raises(ValueError, match=r"missing \[1, 3\]"):
        explain(atoms, EnergyFlow({"methyl": GROUPS["methyl"]}))


@pytest.mark.parametrize("name", RATES)
def test_rates_leave_everything_as_it_was(name: str, calculator: NetworkCalculator) -> None:
    atoms = moving()
    atoms.calc = calculator
    atoms.get_forces()
    network, before = calculator.network, copy.deepcopy(calculator.network.state_dict())
    results, state = copy.deepcopy(calculator.results), atoms.copy()
    one, two = explain(atoms, explainer_by_name(name)()), explain(atoms, explainer_by_name(name)())
    np.testing.assert_array_equal(one.values, two.values)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any(m.training or m._forward_hooks or m._backward_hooks for m in network.modules())
    assert all(np.array_equal(results[key], calculator.results[key]) for key in results) and atoms == state
    still = atoms.copy()
    del still.arrays["momenta"]
    with pytest.raises(ValueError, match=r"has no velocities.*set_velocities"):
        explain(still, explainer_by_name(name)(), calculator)


@pytest.mark.parametrize("name", RATES)
def test_rates_turn_with_the_atoms(name: str, calculator: NetworkCalculator) -> None:
    atoms = moving()
    order = np.array([3, 0, 5, 1, 4, 2])
    turned = atoms[order]
    turned.set_velocities(atoms.get_velocities()[order])
    turned.positions += [1.0, -2.0, 0.5]
    matrix = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    turned.positions = turned.positions @ matrix.T
    turned.set_velocities(turned.get_velocities() @ matrix.T)
    one, other = (explain(a, explainer_by_name(name)(), calculator).values for a in (atoms, turned))
    expected = one[np.ix_(order, order)] if name == "EnergyFlow" else one[order] @ matrix.T
    np.testing.assert_allclose(other, expected, rtol=0, atol=1e-11)


def test_what_depends_on_the_gauge_is_said_to(calculator: NetworkCalculator) -> None:
    """Another split of the same energy: other flows and heat flux, the same power of the forces, the same dipole rate."""
    atoms = moving()
    other = in_another_gauge(calculator)
    for explainer in (EnergyFlow(), HeatFlux(), DipoleRate()):
        change = gauge_change(calculator, atoms, explainer)
        dependent = explainer(calculator, atoms).gauge == "dependent"
        assert change > 1e-3 if dependent else change < 1e-12
    assert EnergyFlow()(other, atoms).total.sum() == pytest.approx(EnergyFlow()(calculator, atoms).total.sum(), abs=1e-13)
    assert receptive_hops(other.network) == max(2, receptive_hops(calculator.network))


@pytest.mark.parametrize("name", RATES)
def test_answers_are_kept_in_files(name: str, calculator: NetworkCalculator, tmp_path: Path) -> None:
    answer = explain(moving(), explainer_by_name(name)(), calculator)
    answer.save(tmp_path / "a.h5")
    again = Explanation.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(again.values, answer.values)
    assert again.units == answer.units and again.labels == answer.labels and dict(again.settings) == dict(answer.settings)
    assert "fail" not in [row.verdict for row in answer.check("float64").rows]


# --- energy flow along a run -----------------------------------------------------------------------------------------


WATER = {"oxygen": (0,), "hydrogens": (1, 2)}


def simulated(calculator: NetworkCalculator, timestep: float, total: float = 3.2) -> EnergyFlowResult:
    """Energy flow of water in the NVE ensemble, its total compared with the work of the forces."""
    atoms = moving("H2O", speed=0.01)
    atoms.calc = calculator
    rates, energies, times, forces = [], [], [], []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)

    def keep() -> None:
        rates.append(explain(atoms, EnergyFlow(WATER)).values)
        energies.append(atoms.get_potential_energies() - calculator.references(atoms))
        times.append(dynamics.nsteps * timestep)
        forces.append((atoms.get_forces() * atoms.get_velocities() * units.fs).sum())

    dynamics.attach(keep)
    dynamics.run(round(total / timestep))
    rows = {name: [k] for k, name in enumerate(WATER)}
    flow = integrate_flow(np.array(rates), times, np.array(energies), rows, WATER)
    work = -np.trapezoid(forces, times)
    assert flow.total[-1] == pytest.approx(work, abs=1e-12)
    return flow


@pytest.mark.parametrize("name", ["schnet", "bp", *SHIPPED])
def test_closure_is_of_second_order(name: str, weights: dict[str, Path]) -> None:
    """Σ_H W_GH → ΔE_G and Σ_GH W_GH → ΔE = -Σ_j∫F_j·dr_j, with a quarter of the error for half of the step.

    Each run is compared with its own energies, so the integrator's error does not matter.
    """
    calculator = load(name if name in SHIPPED else weights[name], dtype="float64")
    steps = (0.4, 0.2, 0.1)
    flows = [simulated(calculator, step) for step in steps]
    errors = [np.abs(flow.residual).max() for flow in flows]
    totals = [np.abs(flow.total - flow.changes.sum(axis=1)).max() for flow in flows]
    for one, half in ((errors[0], errors[1]), (errors[1], errors[2]), (totals[1], totals[2])):
        assert one / half == pytest.approx(4.0, rel=0.03)
    assert flows[-1].closure < 5e-3
    for flow in flows:
        np.testing.assert_allclose(flow.net, -flow.net.transpose(0, 2, 1))
        np.testing.assert_array_equal(flow.work[0], 0)


def test_rates_of_a_made_up_motion_integrate_to_known_work() -> None:
    """E_i = a_i·x with x_j = sin(t + j): everything by hand."""
    times = np.linspace(0, 3, 4001)
    a = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [0.3, 0.3, 0.1]])
    x, v = np.sin(times[:, None] + np.arange(3)), np.cos(times[:, None] + np.arange(3))
    groups = {"ab": (0, 2), "c": (1,)}
    flow = integrate_flow(a[None] * v[:, None, :], times, x @ a.T, groups, groups)
    expected = a[None] * (x - x[:1])[:, None, :]
    np.testing.assert_allclose(flow.work[:, 0, 1], expected[:, [0, 2], 1].sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(flow.work[:, 1, 0], expected[:, 1][:, [0, 2]].sum(axis=1), atol=1e-6)
    assert np.abs(flow.residual).max() < 1e-6 and flow.closure < 1e-6
    for change, message in (
        ({"times": times[:10]}, r"rates must have shape \(L, R, N\)"),
        ({"times": times[::-1]}, "times must rise"),
        ({"columns": {"ab": (0, 1), "d": (2,)}}, "need the same groups"),
    ):
        arguments = {
            "rates": a[None] * v[:, None, :],
            "times": times,
            "energies": x @ a.T,
            "rows": groups,
            "columns": groups,
        }
        with pytest.raises(ValueError, match=message):
            integrate_flow(**{**arguments, **change})


# --- dipole rate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("charge", [0.0, 1.0])
def test_dipole_rate_is_the_derivative_of_the_dipole(calculator: NetworkCalculator, charge: float) -> None:
    atoms = moving()
    atoms.info["charge"] = charge
    rate = explain(atoms, DipoleRate(), calculator)
    drift = charge * atoms.get_velocities().mean(axis=0) * units.fs  # of the centroid, the calculator's origin
    expected = along(atoms, calculator, lambda a: a.get_dipole_moment()) + drift
    np.testing.assert_allclose(rate.total, expected, rtol=0, atol=1e-9)
    assert (rate.units, rate.gauge, rate.level) == ("e·Å/fs", "invariant", "atom")
    assert rate.residual < 1e-14
    tensors = explain(atoms, explainer_by_name("BornCharges")(), calculator).values
    velocities = atoms.get_velocities() * units.fs
    np.testing.assert_allclose(rate.values, np.einsum("iab,ib->ia", tensors, velocities), rtol=0, atol=1e-13)


def test_fragments_made_whole_do_not_care_where_the_boundary_is(calculator: NetworkCalculator) -> None:
    """Two far molecules in a cell: the sum of their dipoles' rates, wherever they are cut; an infinite chain is refused."""
    one, other = moving("H2O", 1), moving("CH3OH", 2)
    other.positions += [0, 0, 9.0]
    pair = one + other
    loose = DipoleRate(fragments="connected", traffic=1.0)
    open_rate = explain(pair, DipoleRate(), calculator)
    periodic = pair.copy()
    periodic.set_cell([16.0, 17.0, 18.0])
    periodic.pbc = True
    rate = explain(periodic, loose, calculator)
    assert rate.gauge == "dependent" and any("of the charge flow crosses" in note for note in rate.notes)
    for shift in ([0.4, 0.1, 8.3], [16.2, -3.0, 0.2]):
        cut = periodic.copy()
        cut.positions += shift
        cut.wrap()
        np.testing.assert_allclose(explain(cut, loose, calculator).values, rate.values, rtol=0, atol=1e-11)
    # What crosses is what is missing: Σ_f (Σ_{i in f} dq_i/dt) R_f
    rates = along(pair, calculator, lambda a: a.get_charges())
    crossing = sum(rates[list(own)].sum() * pair.positions[list(own)].mean(axis=0) for own in connected(pair).values())
    np.testing.assert_allclose(rate.total + crossing, open_rate.total, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"crosses between fragments, more than traffic=0.0%"):
        explain(periodic, DipoleRate(fragments="connected", traffic=0.0), calculator)
    with pytest.raises(ValueError, match=r"depends on the choice of images.*fragments"):
        explain(periodic, DipoleRate(), calculator)
    with pytest.raises(ValueError, match="got 'molecules'"):
        explain(periodic, DipoleRate(fragments="molecules"), calculator)
    crystal = bulk("C", "diamond", a=3.57, cubic=True)
    crystal.set_velocities(np.full((8, 3), 0.01))
    with pytest.raises(ValueError, match="bonded to its own periodic image"):
        explain(crystal, loose, calculator)


def test_networks_without_charges_have_no_dipole_rate(weights: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="has no charges"):
        explain(moving(), DipoleRate(), load(weights["none"]))


# --- heat flux -------------------------------------------------------------------------------------------------------


def barycenter(atoms: Atoms, velocities: np.ndarray, calculator: NetworkCalculator) -> np.ndarray:
    """Σ_i r_i (U_i + K_i) in eV·Å, references of the elements left out."""
    kinetic = 0.5 * atoms.get_masses() * (velocities**2).sum(axis=1)
    return (atoms.get_potential_energies() - calculator.references(atoms) + kinetic) @ atoms.positions


def test_heat_flux_of_a_cluster_moves_its_barycenter(calculator: NetworkCalculator) -> None:
    """d/dt Σ r_i (U_i + K_i) under Newton's equations, by differences; and the double sum over pairs."""
    atoms = moving()
    atoms.calc = calculator
    velocities, accelerations = atoms.get_velocities(), atoms.get_forces() / atoms.get_masses()[:, None]
    h, values = 1e-3 * units.fs, []
    for step in (-2, -1, 1, 2):
        t = step * h
        moved = atoms.copy()
        moved.positions += t * velocities + 0.5 * t**2 * accelerations
        moved.calc = calculator
        values.append(barycenter(moved, velocities + t * accelerations, calculator))
    expected = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h) * units.fs
    flux = explain(atoms, HeatFlux())
    np.testing.assert_allclose(flux.total, expected, rtol=0, atol=1e-8)
    parts = [explain(atoms, HeatFlux(part)).values for part in ("potential", "convective")]
    np.testing.assert_allclose(parts[0] + parts[1], flux.values, rtol=0, atol=1e-14)
    powers = explain(atoms, EnergyFlow()).values  # (i, j)
    apart = atoms.positions[:, None] - atoms.positions[None]
    np.testing.assert_allclose(parts[0], np.einsum("ija,ij->ja", apart, powers), rtol=0, atol=1e-13)
    assert (flux.units, flux.gauge) == ("eV·Å/fs", "dependent")


@pytest.mark.parametrize("name", ["near", "near-bp"])
def test_heat_flux_of_a_crystal_is_that_of_its_images(name: str, weights: dict[str, Path]) -> None:
    """An open block of cells, larger than the receptive field: Σ_i Σ_j (r_i - r_j) ∂U_i/∂r_j·v_j over all its atoms j,
    with the energies of the middle cell differentiated one moving atom at a time."""
    calculator = load(weights[name], dtype="float64")
    crystal = bulk("C", "diamond", a=3.4)
    crystal.numbers[1] = 8
    crystal.rattle(0.1, seed=2)
    crystal.set_velocities(np.random.default_rng(3).normal(0, 0.3, (2, 3)))
    shifts = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = shifts[np.argsort(np.abs(shifts).sum(axis=1), kind="stable")]
    positions = (crystal.positions[None] + (shifts @ crystal.cell.array)[:, None]).reshape(-1, 3)
    block = Atoms(np.tile(crystal.numbers, len(shifts)), positions)
    velocities = np.tile(crystal.get_velocities() * units.fs, (len(shifts), 1))
    network, h = calculator.network, 2e-4
    reach = receptive_hops(network) * network.cutoff + 0.1
    near = np.flatnonzero((np.linalg.norm(positions[:, None] - positions[None, :2], axis=2) < reach).any(axis=1))
    kept = block[near]
    expected = np.zeros((2, 3))
    graphs = []
    for j in range(len(kept)):
        for step in (h, -h):
            moved = kept.copy()
            moved.positions[j] += step * velocities[near[j]]
            graphs.append(AtomGraph.from_atoms(moved, network.cutoff))
    with torch.no_grad():
        energies = torch.cat([network(AtomGraph.batch(graphs[k : k + 64])).energies for k in range(0, len(graphs), 64)])
    inside = energies.reshape(len(kept), 2, len(kept)).numpy()[:, :, :2]
    for j, (forward, backward) in enumerate(inside):
        slopes = (forward - backward) / (2 * h)
        expected[near[j] % 2] += slopes @ (kept.positions[:2] - kept.positions[j])
    flux = explain(crystal, HeatFlux("potential"), calculator)
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(flux.values, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    doubled = crystal.repeat((2, 1, 1))
    doubled.set_velocities(np.tile(crystal.get_velocities(), (2, 1)))
    one, two = explain(crystal, HeatFlux(), calculator).total, explain(doubled, HeatFlux(), calculator).total
    np.testing.assert_allclose(two, 2 * one, rtol=1e-9)


def test_unfolding_keeps_energies_and_pairs(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    crystal = bulk("C", "diamond", a=3.57)
    crystal.rattle(0.05, seed=1)
    graph = calculator.checked_graph(crystal)
    cell = torch.as_tensor(crystal.cell.array)
    open_graph, origin = unfold(graph, cell, 2)
    torch.testing.assert_close(
        open_graph.positions[open_graph.neighbors] - open_graph.positions[open_graph.centers], open_graph.vectors
    )
    assert torch.equal(open_graph.numbers, graph.numbers[origin]) and len(torch.unique(open_graph.positions, dim=0)) == len(
        origin
    )
    with torch.no_grad():
        whole, cut = calculator.network(graph).energies, calculator.network(open_graph).energies[:2]
        less = calculator.network(unfold(graph, cell, 1)[0]).energies[:2]
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)
    assert (less - whole).abs().max() > 1e-6  # one step is not enough for two layers


def test_receptive_fields() -> None:
    for n in (1, 2, 4):
        assert receptive_hops(random_schnet(n, n_interactions=n).double()) == n
    assert receptive_hops(random_behler_parrinello(1).double()) == 1
    assert receptive_hops(random_schnet(3, n_interactions=3)) == 3  # in single precision
    with pytest.raises(ValueError, match=r"more than 16 steps away.*isolated cluster"):
        receptive_hops(Everywhere())


class Everywhere(AtomisticNetwork):
    """A network whose atomic energies depend on all atoms."""

    architecture = "everywhere"
    has_charges = False

    def __init__(self) -> None:
        super().__init__([1], 3.0)
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def settings(self) -> dict[str, object]:
        return {}

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        sums = torch.zeros(len(graph.numbers), dtype=torch.float64)
        sums = sums.index_add(0, graph.centers, (graph.vectors**2).sum(dim=1))
        everything = graph.sum_systems(sums)[graph.system]
        return self.atomwise(graph, self.weight * (sums + everything)[:, None], None, sums[:, None])


@pytest.mark.skipif(not compiled.available(), reason="the compiled kernels need Numba")
@pytest.mark.parametrize("name", RATES)
def test_compiled_networks_have_rates_too(name: str, calculator: NetworkCalculator) -> None:
    plain = explain(moving(), explainer_by_name(name)(), calculator).values
    calculator.network.compiled = True
    np.testing.assert_allclose(explain(moving(), explainer_by_name(name)(), calculator).values, plain, rtol=0, atol=1e-12)


# --- charge flow -----------------------------------------------------------------------------------------------------


def wandering(n_frames: int, n_atoms: int, seed: int, component: np.ndarray | None = None) -> np.ndarray:
    """Charges that move at random and are conserved in every component."""
    steps = np.random.default_rng(seed).normal(0, 0.01, (n_frames, n_atoms))
    label = np.zeros(n_atoms, dtype=int) if component is None else component
    for c in np.unique(label):
        steps[:, label == c] -= steps[:, label == c].mean(axis=1, keepdims=True)
    return 0.1 + np.cumsum(steps, axis=0)


@pytest.mark.parametrize(
    ("bonds", "unique"),
    [
        ([(0, 1), (1, 2), (1, 3), (3, 4), (5, 6)], True),
        ([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (6, 5)], False),
    ],
)
def test_flow_along_bonds_makes_the_charges_change(bonds: list[tuple[int, int]], unique: bool) -> None:
    """Bᵀf = dq/dt; on a tree by counting what lies behind each bond, on rings by a dense least-squares solver."""
    component = np.array([0, 0, 0, 0, 0, 1, 1])
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 2.0, 30))
    charges = wandering(30, 7, 1, component)
    result = flow_on_bonds(charges, times, bonds)
    rates = np.diff(charges, axis=0) / np.diff(times)[:, None]
    incidence = np.zeros((len(bonds), 7))
    for e, (i, j) in enumerate(result.bonds):
        incidence[e, i], incidence[e, j] = -1, 1
    assert result.unique is unique and (result.bonds[:, 0] < result.bonds[:, 1]).all()
    np.testing.assert_allclose(result.flow @ incidence, rates, rtol=0, atol=1e-15)
    dense = np.linalg.lstsq(incidence.T, rates.T, rcond=None)[0].T
    np.testing.assert_allclose(result.flow, dense, rtol=0, atol=1e-15)
    assert result.residual.max() < 1e-15 and np.abs(result.by_component).max() < 1e-15
    np.testing.assert_array_equal(result.component, component)
    np.testing.assert_allclose(result.transferred[-1] @ incidence, charges[-1] - charges[0], atol=1e-14)
    if unique:
        for e, behind in {0: [0], 1: [2], 2: [3, 4], 3: [4], 4: [6]}.items():
            sign = -1 if e == 0 else 1  # atom 0 stands at the beginning of its bond
            np.testing.assert_allclose(result.flow[:, e], sign * rates[:, behind].sum(axis=1), atol=1e-15)
    assert result.units == "e/fs"


def test_charge_that_no_bond_brings_is_reported() -> None:
    charges = wandering(10, 4, 2)
    result = flow_on_bonds(charges, np.arange(10.0), [(0, 1), (2, 3)])
    rates = np.diff(charges, axis=0)
    np.testing.assert_allclose(result.by_component, np.stack([rates[:, :2].sum(axis=1), rates[:, 2:].sum(axis=1)], axis=1))
    assert np.abs(result.by_component).max() > 1e-3 and result.residual.max() < 1e-15
    np.testing.assert_allclose(result.flow[:, 0], (rates[:, 1] - rates[:, 0]) / 2, atol=1e-15)
    alone = flow_on_bonds(charges, np.arange(10.0), np.zeros((0, 2), dtype=int))
    assert alone.flow.shape == (9, 0) and alone.unique
    for bonds, message in (
        ([(0, 4)], "name atom 4"),
        ([(1, 1)], "two different atoms"),
        ([(0, 1), (1, 0)], "each stands once"),
    ):
        with pytest.raises(ValueError, match=message):
            flow_on_bonds(charges, np.arange(10.0), bonds)
    with pytest.raises(ValueError, match="two or more rising times"):
        flow_on_bonds(charges, np.zeros(10), [(0, 1)])


def test_charge_between_groups_is_what_they_gain() -> None:
    """Groups on a tree: one at its end has gained what passed to it. Groups in a ring: one of many flows, which closes."""
    charges = wandering(20, 6, 5)
    chain = flow_on_bonds(charges, np.arange(20.0), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)])
    between = chain.between({"a": [0, 1], "b": [3, 2], "c": [5, 4]})
    gain = charges - charges[0]
    assert between.names == ["a → b", "b → c"] and between.unique
    np.testing.assert_allclose(between.passed[:, 0], -gain[:, :2].sum(axis=1), atol=1e-14)
    np.testing.assert_allclose(between.passed[:, 1], gain[:, 4:].sum(axis=1), atol=1e-14)
    np.testing.assert_allclose(between.changes[:, 1], gain[:, 2:4].sum(axis=1), atol=1e-15)
    assert between.closure < 1e-14 and between.residual.shape == (20, 3)
    turned = chain.between({"c": [4, 5], "a": [0, 1], "b": [2, 3]})
    assert turned.names == ["c → b", "a → b"]
    np.testing.assert_allclose(turned.passed, np.stack([-between.passed[:, 1], between.passed[:, 0]], axis=1), atol=1e-14)
    ring = flow_on_bonds(charges, np.arange(20.0), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)])
    joined = ring.between({"a": [0, 1], "b": [2, 3], "c": [4, 5]})
    assert joined.names == ["a → b", "a → c", "b → c"] and not joined.unique and joined.closure < 1e-14
    halves = ring.between({"a": [0, 1, 2], "b": [3, 4, 5]})  # two bonds join them, and their sum is fixed all the same
    assert halves.unique and not ring.unique
    np.testing.assert_allclose(halves.passed[:, 0], gain[:, 3:].sum(axis=1), atol=1e-14)


def test_charge_that_comes_to_a_group_along_no_bond_is_its_residual() -> None:
    charges = wandering(10, 4, 2)
    apart = flow_on_bonds(charges, np.arange(10.0), [(0, 1), (2, 3)])
    between = apart.between({"left": [0, 1], "right": [2, 3]})
    gain = (charges - charges[0])[:, 2:].sum(axis=1)
    assert between.passed.shape == (10, 0) and between.unique
    np.testing.assert_allclose(between.residual, np.stack([gain, -gain], axis=1), atol=1e-14)
    assert between.closure == pytest.approx(np.abs(gain).max(), abs=1e-14) and between.closure > 1e-3
    with pytest.raises(ValueError, match=r"hold every atom once"):
        apart.between({"left": [0, 1]})
