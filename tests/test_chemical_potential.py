"""Probe atoms: the local chemical potential, probe charges and insertion energies, against their definitions."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.geometry import cellpar_to_cell
from explained import NETWORKS, SHIPPED, invented_statistics, write_shipped
from systems import ELEMENTS, random_schnet, shaken_molecule
from torch import nn

from ase_xai import Ensemble, Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import InsertionEnergy, LocalChemicalPotential
from ase_xai.explainers.places import Grid, Images, Plane
from ase_xai.explainers.surfaces import Surface
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, probing
from ase_xai.networks.probing import Listener, Surroundings
from ase_xai.statistics import placed
from ase_xai.weights import LoadedWeights, ModelCard


class Own(AtomisticNetwork):
    """A user's network: one round of messages that also depend on directions, nothing else in common with the others."""

    architecture = "own"

    def __init__(self, elements: list[int], cutoff: float) -> None:
        super().__init__(elements, cutoff)
        self.element = nn.Embedding(len(elements), 4)
        self.readout = nn.Linear(5, 2)

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        distances = graph.vectors.norm(dim=1).to(self.dtype)
        weights = (torch.cos(math.pi * distances / self.cutoff) + 1)[:, None] * torch.exp(-distances)[:, None]
        sent = self.element(self.element_index(graph.numbers))
        heard = torch.zeros_like(sent).index_add(0, graph.centers, weights * sent[graph.neighbors])
        sums = sent.new_zeros((len(sent), 3)).index_add(0, graph.centers, weights * graph.vectors.to(self.dtype))
        features = torch.tanh(torch.cat([sent * heard, (sums**2).sum(dim=1, keepdim=True)], dim=1))
        energy, charge = self.readout(features).split(1, dim=1)
        return self.atomwise(graph, energy, charge, features)

    def settings(self) -> dict[str, object]:
        return {"elements": list(self.elements), "cutoff": self.cutoff}


def own() -> Own:
    torch.manual_seed(11)
    return Own(ELEMENTS, 4.0)


MAKE: dict[str, Callable[[], AtomisticNetwork]] = {
    **NETWORKS,
    "schnet-1": lambda: random_schnet(1, n_interactions=1),
    "schnet-3": lambda: random_schnet(2, n_interactions=3, cutoff=4.0),
    "own": own,
}


def calculator_of(
    network: AtomisticNetwork, charges: tuple[float, ...] = (0.0,), statistics: bool = False, dtype: str = "float64"
) -> NetworkCalculator:
    card = ModelCard.describe(network, reference_kind="invented", level_of_theory="none", total_charges=charges)
    sha256 = hashlib.sha256(repr([p.sum().item() for p in network.parameters()]).encode()).hexdigest()
    known = invented_statistics(network) if statistics else None
    loaded = LoadedWeights(network.eval().requires_grad_(False), card, sha256, "random", known)
    return NetworkCalculator(loaded, dtype=dtype)


@pytest.fixture(scope="module")
def calculators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkCalculator]:
    folder, made = tmp_path_factory.mktemp("weights"), {name: calculator_of(make()) for name, make in MAKE.items()}
    return made | {name: load(write_shipped(folder / name, name), dtype="float64") for name in SHIPPED}


@pytest.fixture(params=list(MAKE))
def calculator(request: pytest.FixtureRequest, calculators: dict[str, NetworkCalculator]) -> NetworkCalculator:
    return calculators[request.param]


WITH_SHIPPED = pytest.mark.parametrize("calculator", [*MAKE, *SHIPPED], indirect=True)


def points_near(atoms: Atoms, n_points: int = 12, seed: int = 0) -> np.ndarray:
    """Points 0.9 to 4 Å from an atom and not closer to any."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n_points:
        direction = rng.normal(size=3)
        point = atoms.positions[rng.integers(len(atoms))] + rng.uniform(0.9, 4.0) * direction / np.linalg.norm(direction)
        if np.linalg.norm(atoms.positions - point, axis=1).min() > 0.85:
            found.append(point)
    return np.array(found)


def listener_of(calculator: NetworkCalculator, atoms: Atoms, probe: int, points: np.ndarray, tabulated: bool) -> Listener:
    images = Images.near(atoms, points, calculator.network.cutoff)
    graph = calculator.checked_graph(atoms)
    heard = Surroundings(graph, torch.as_tensor(images.index), torch.as_tensor(images.positions), calculator.network.cutoff)
    return Listener(calculator.network, heard, probe, tabulated=tabulated)


def crystal(pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    """A triclinic cell smaller than the cutoff, atoms partly outside it."""
    positions = [[0.3, 0.2, 0.1], [-0.9, 1.8, 4.9], [2.1, -0.4, 2.2]]
    return Atoms("OCH", positions, cell=cellpar_to_cell([3.1, 3.4, 4.3, 80, 95, 108]), pbc=pbc)


def omega(
    calculator: NetworkCalculator, atoms: Atoms, points: np.ndarray, probe: str = "H", **settings: object
) -> np.ndarray:
    return LocalChemicalPotential(probe, points=points, **settings)(calculator, atoms).values


# --- the definition ----------------------------------------------------------------------------------------------------


def slow_probes(calculator: NetworkCalculator, atoms: Atoms, element: int, points: np.ndarray) -> tuple[list, list]:
    """Ω without its reference energy and p by the equations of SchNet, atom by atom in numpy: features of the molecule
    first, layer by layer, then each probe, which only listens."""
    network = calculator.network
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    mus = np.linspace(0, network.cutoff, network.n_radial)

    def ssp(x: np.ndarray) -> np.ndarray:
        return np.log(0.5 * np.exp(x) + 0.5)

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return state[f"{name}.weight"] @ x + state.get(f"{name}.bias", 0.0)

    def heard(layer: int, features: list, at: np.ndarray, skipped: int = -1) -> np.ndarray:
        p, message = f"interactions.{layer}", np.zeros(network.n_features)
        for j, position in enumerate(atoms.positions):
            r = np.linalg.norm(position - at)
            if j != skipped and r < network.cutoff:
                basis = np.exp(-((r - mus) ** 2) / (2 * mus[1] ** 2))
                filters = dense(f"{p}.filter_network.2", ssp(dense(f"{p}.filter_network.0", basis)))
                message += dense(f"{p}.sender", features[j]) * filters * 0.5 * (math.cos(math.pi * r / network.cutoff) + 1)
        return dense(f"{p}.update.2", ssp(dense(f"{p}.update.0", message)))

    layers = [[state["embedding.weight"][network.elements.index(z)] for z in atoms.numbers]]
    for t in range(network.n_interactions):
        layers.append([x + heard(t, layers[t], atoms.positions[i], i) for i, x in enumerate(layers[t])])
    energies, charges = [], []
    for point in points:
        x = state["embedding.weight"][network.elements.index(element)]
        for t in range(network.n_interactions):
            x = x + heard(t, layers[t], point)
        energies.append(network.energy.scale * dense("energy_readout.2", ssp(dense("energy_readout.0", x)))[0] - 2.5)
        charges.append(dense("charge_readout.2", ssp(dense("charge_readout.0", x)))[0])
    return energies, charges


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize("name", ["schnet", "schnet-1", "schnet-3"])
def test_schnet_probes_equal_the_equations(name: str, tabulated: bool, calculators: dict[str, NetworkCalculator]) -> None:
    calculator, atoms = calculators[name], shaken_molecule("CH3CH2OH")
    points = points_near(atoms, 8)
    energies, charges = slow_probes(calculator, atoms, 8, points)
    tolerance = 1e-7 if tabulated else 1e-10
    raw = omega(calculator, atoms, points, "O", reference="none", tabulated=tabulated)
    assert np.allclose(raw, np.array(energies) - 2042.6, rtol=0, atol=tolerance)
    output = calculator.network(calculator.checked_graph(atoms))
    shift = float(output.charges[0] - output.unconstrained[0])
    raw = omega(calculator, atoms, points, "O", quantity="charge", reference="none", tabulated=tabulated)
    assert np.allclose(raw, np.array(charges) + shift, rtol=0, atol=tolerance)


@WITH_SHIPPED
@pytest.mark.parametrize("element", ["H", "O"])
def test_a_probe_in_the_place_of_a_missing_atom(element: str, calculator: NetworkCalculator) -> None:
    """It hears what the atom heard: the same energy and charge readout, unless the others had heard the atom before."""
    atoms = shaken_molecule("CH3CH2OH")
    full = calculator.network(calculator.checked_graph(atoms))
    energies = (full.energies + full.references).numpy()
    one_round = calculator.card.architecture != "schnet" or calculator.network.n_interactions == 1
    for k in [atom.index for atom in atoms if atom.symbol == element]:
        others = atoms[[i for i in range(len(atoms)) if i != k]]
        value = omega(calculator, others, atoms.positions[k : k + 1], element, reference="none", tabulated=False)[0]
        if one_round:
            assert value == pytest.approx(energies[k], abs=1e-10)
        else:
            assert abs(value - energies[k]) > 1e-4


# --- probes are not noticed --------------------------------------------------------------------------------------------


@WITH_SHIPPED
def test_the_molecule_does_not_notice_probes(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    points = points_near(atoms)
    graph = calculator.checked_graph(atoms)
    listener = listener_of(calculator, atoms, 6, points, tabulated=False)
    where = torch.as_tensor(points)
    extended = probing._extended(listener.surroundings, 6, where, *listener.surroundings.pairs(where))
    alone, watched = calculator.network(graph), calculator.network(extended)
    for name in ("energies", "references", "features", "charges", "unconstrained"):
        assert torch.allclose(getattr(watched, name)[: len(atoms)], getattr(alone, name), rtol=0, atol=1e-13), name
    assert extended.sum_systems(torch.ones_like(extended.numbers)).tolist() == [len(atoms)] + [1] * len(points)
    ends = extended.positions[extended.neighbors] - extended.positions[extended.centers]
    assert torch.allclose(extended.vectors, ends, rtol=0, atol=1e-12)  # ASE's sign, for probes as for atoms
    assert (extended.neighbors < len(atoms)).all()


class Coupled(Own):
    """Every atom feels the mean of its system, however far the others are."""

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        output = super().forward(graph)
        means = graph.sum_systems(output.energies) / graph.sum_systems(torch.ones_like(output.energies))
        return replace(output, energies=output.energies + means[graph.system])


def test_probes_of_a_network_that_couples_whole_systems() -> None:
    torch.manual_seed(0)
    calculator, atoms = calculator_of(Coupled(ELEMENTS, 4.0)), shaken_molecule("CH3OH")
    points = points_near(atoms)
    singles = [omega(calculator, atoms, point[None], reference="none")[0] for point in points]
    assert np.allclose(omega(calculator, atoms, points, reference="none"), singles, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("quantity", "tabulated"), [("energy", True), ("energy", False), ("charge", True)])
def test_probes_do_not_notice_each_other(calculator: NetworkCalculator, quantity: str, tabulated: bool) -> None:
    """Points on top of one another, in chunks of any size, in any order."""
    atoms = shaken_molecule("CH3CH2OH")
    points = points_near(atoms)
    points = np.concatenate([points, points[:3] + 0.01])
    asked = {"quantity": quantity, "tabulated": tabulated}
    together = omega(calculator, atoms, points, **asked)
    for chunk in (1, 4):
        assert np.allclose(omega(calculator, atoms, points, chunk=chunk, **asked), together, rtol=0, atol=1e-12)
    order = np.random.default_rng(1).permutation(len(points))
    assert np.allclose(omega(calculator, atoms, points[order], **asked), together[order], rtol=0, atol=1e-12)
    assert np.ptp(together) > 1e-3  # there is something to tell apart


@WITH_SHIPPED
def test_beyond_the_cutoff_a_probe_is_the_isolated_atom(calculator: NetworkCalculator) -> None:
    atoms, cutoff = shaken_molecule("CH3OH"), calculator.network.cutoff
    outermost = atoms.positions[atoms.positions[:, 0].argmax()]
    lone = float(calculator.get_potential_energy(Atoms("N")))

    def far(distance: float) -> np.ndarray:
        return outermost + np.array([[distance, 0.0, 0.0]])

    for explainer in (LocalChemicalPotential, InsertionEnergy):
        at = [explainer("N", points=far(cutoff + x))(calculator, atoms).values[0] for x in (1e-9, 40.0)]
        assert np.abs(at).max() < 1e-12
        raw = explainer("N", points=far(cutoff + 1e-9), reference="none")(calculator, atoms)
        assert raw.values[0] == pytest.approx(lone, abs=1e-9) and raw.reference == "none"
    assert omega(calculator, atoms, far(cutoff + 1.0), "N", quantity="charge")[0] == 0.0
    steps = [1e-1, 1e-2, 1e-3]
    near = [abs(omega(calculator, atoms, far(cutoff - h), "N")[0]) for h in steps]
    assert all(small < 0.02 * large for large, small in itertools.pairwise(near))  # at least as h²: no jump at the cutoff


@WITH_SHIPPED
@pytest.mark.parametrize("tabulated", [False, True])
def test_maps_turn_with_the_molecule(calculator: NetworkCalculator, tabulated: bool) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    points = points_near(atoms)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    rotation[:, 0] *= -np.sign(np.linalg.det(rotation))  # improper: a reflection is in it
    turned = atoms[np.random.default_rng(0).permutation(len(atoms))]
    turned.positions = turned.positions @ rotation + [1.0, -2.0, 3.0]
    for quantity in ("energy", "charge"):
        one = omega(calculator, atoms, points, quantity=quantity, tabulated=tabulated)
        two = omega(calculator, turned, points @ rotation + [1.0, -2.0, 3.0], quantity=quantity, tabulated=tabulated)
        assert np.allclose(one, two, rtol=0, atol=1e-10)
    surface = Surface(spacing=0.6).around(atoms).points
    assert np.allclose(omega(calculator, atoms, surface), omega(calculator, turned, surface @ rotation + [1.0, -2.0, 3.0]))


def test_symmetric_molecules_have_symmetric_maps(calculators: dict[str, NetworkCalculator]) -> None:
    ring = np.array([[np.cos(a), np.sin(a), 0.0] for a in np.pi / 3 * np.arange(6)])
    benzene = Atoms("C6H6", np.concatenate([1.39 * ring, 2.48 * ring]))
    points = np.random.default_rng(0).uniform(1.0, 4.0, (5, 3))
    c, s = 0.5, np.sqrt(0.75)
    sixfold, mirror = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]), np.diag([1.0, 1.0, -1.0])
    for name in ("schnet", "bp", *SHIPPED):
        values = omega(calculators[name], benzene, points)
        assert np.ptp(values) > 1e-3
        for operation in (sixfold, mirror, sixfold @ sixfold @ mirror):
            assert np.allclose(omega(calculators[name], benzene, points @ operation), values, rtol=0, atol=1e-10)


@WITH_SHIPPED
@pytest.mark.parametrize("quantity", ["energies", "charges"])
def test_slopes_of_maps(calculator: NetworkCalculator, quantity: str) -> None:
    """Autograd through the graph of probes against differences of the maps themselves."""
    atoms, step = shaken_molecule("CH3OH"), 1e-4
    points = points_near(atoms, 4)
    where = torch.as_tensor(points).requires_grad_()
    values = getattr(listener_of(calculator, atoms, 1, points, tabulated=False)(where), quantity)
    (slopes,) = torch.autograd.grad(values.sum(), where)
    kind = {"energies": "energy", "charges": "charge"}[quantity]
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        difference = omega(calculator, atoms, points + shift, quantity=kind, tabulated=False)
        difference = difference - omega(calculator, atoms, points - shift, quantity=kind, tabulated=False)
        assert np.allclose(slopes[:, axis].numpy(), difference / (2 * step), rtol=0, atol=1e-6)
    assert slopes.abs().max() > 1e-3


# --- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schnet", "schnet-1", "schnet-3"])
def test_tables_agree_with_the_exact_way(name: str, calculators: dict[str, NetworkCalculator]) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    for quantity in ("energy", "charge"):
        fast, exact = (
            LocalChemicalPotential("C", grid=Grid(spacing=1.1), quantity=quantity, tabulated=tabulated)(
                calculators[name], atoms
            )
            for tabulated in (True, False)
        )
        assert len(fast.values) > 200 and np.ptp(exact.values[exact.mask]) > 1e-2
        assert np.abs(fast.values - exact.values)[exact.mask].max() < 1e-7


def test_tables_in_single_precision(calculators: dict[str, NetworkCalculator]) -> None:
    atoms, grid = shaken_molecule("CH3CH2OH"), Grid(spacing=1.1)
    double = LocalChemicalPotential("H", grid=grid, tabulated=False)(calculators["schnet"], atoms)
    single = calculator_of(random_schnet(1), dtype="float32")
    for tabulated in (True, False):  # the table adds nothing to what single precision costs anyhow
        rough = LocalChemicalPotential("H", grid=grid, tabulated=tabulated)(single, atoms)
        assert np.abs(rough.values - double.values)[double.mask].max() < 5e-6


def test_little_memory_gives_the_same_map(
    monkeypatch: pytest.MonkeyPatch, calculators: dict[str, NetworkCalculator]
) -> None:
    """A budget of some kilobytes: points in small chunks, atoms in several tables, distances in blocks."""
    atoms, points = shaken_molecule("CH3CH2OH"), points_near(shaken_molecule("CH3CH2OH"), 100)
    for name in ("schnet", "bp"):
        ample = omega(calculators[name], atoms, points, tabulated=True)
        with monkeypatch.context() as patch:
            patch.setattr(probing, "BUDGET", 300_000)
            listener = listener_of(calculators[name], atoms, 1, points, tabulated=True)
            assert listener.chunk < len(points)
            scarce = omega(calculators[name], atoms, points, tabulated=True)
            assert np.allclose(scarce, ample, rtol=0, atol=1e-12)


# --- periodic systems --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
def test_probes_hear_periodic_images(calculator: NetworkCalculator, pbc: tuple[bool, bool, bool]) -> None:
    """One cell, four cells, and, where one round of messages is all, the images as an open cluster."""
    atoms = crystal(pbc)
    rng = np.random.default_rng(2)
    points = rng.uniform(-3, 6, (12, 3))
    repeats = [2 if periodic else 1 for periodic in pbc]
    one = omega(calculator, atoms, points)
    assert np.allclose(omega(calculator, atoms * repeats, points), one, rtol=0, atol=1e-9)
    shift = np.array([2 if periodic else 0 for periodic in pbc]) @ atoms.cell.array
    assert np.allclose(omega(calculator, atoms, points - shift), one, rtol=0, atol=1e-9)
    if calculator.card.architecture == "schnet" and calculator.network.n_interactions > 1:
        return
    steps = [range(-4, 5) if periodic else range(1) for periodic in pbc]
    copies = [atoms.positions + np.array(step) @ atoms.cell.array for step in itertools.product(*steps)]
    cluster = Atoms(np.tile(atoms.numbers, len(copies)), np.concatenate(copies))
    heard = np.linalg.norm(cluster.positions[:, None] - points[None], axis=2).min(axis=1) < calculator.network.cutoff
    assert np.allclose(omega(calculator, cluster[heard], points), one, rtol=0, atol=1e-9)


def test_a_map_of_a_crystal(calculators: dict[str, NetworkCalculator]) -> None:
    atoms = crystal()
    fast, exact = (
        LocalChemicalPotential("H", grid=((4, 4, 5), 0.0), tabulated=tabulated)(calculators["schnet"], atoms)
        for tabulated in (True, False)
    )
    assert fast.grid_shape == (4, 4, 5) and fast.pbc.all() and 0 < fast.mask.sum() < 80
    assert np.abs(fast.values - exact.values).max() < 1e-7


# --- charges -----------------------------------------------------------------------------------------------------------


def test_probe_charges_share_the_shift_of_the_molecule() -> None:
    """One charge more on the molecule raises the charge of each of N atoms, and of the probe, by 1/N."""
    atoms = shaken_molecule("CH3CH2OH")
    points, calculator = points_near(atoms), calculator_of(random_schnet(4), charges=(-1.0, 0.0, 1.0))
    maps = {}
    for charge in (-1, 0, 1):
        atoms.info["charge"] = charge
        maps[charge] = omega(calculator, atoms, points, quantity="charge", reference="none")
        assert np.allclose(
            omega(calculator, atoms, points, quantity="charge"),
            maps[charge] - omega(calculator, atoms, np.full((1, 3), 99.0), quantity="charge", reference="none"),
        )
    assert np.allclose(maps[1] - maps[0], 1 / 9, atol=1e-12) and np.allclose(maps[-1] - maps[0], -1 / 9, atol=1e-12)


class Weighted(Own):
    """Conserves charge by shifts that differ between atoms."""

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        output = super().forward(graph)
        assert output.charges is not None
        return replace(output, charges=output.charges + 0.01 * (torch.arange(len(graph.numbers)) - 1.0))


def test_charges_without_a_common_shift_are_refused() -> None:
    torch.manual_seed(0)
    calculator, atoms = calculator_of(Weighted(ELEMENTS, 4.0)), molecule("H2O")
    assert np.isfinite(omega(calculator, atoms, points_near(atoms, 3))).all()
    with pytest.raises(ValueError, match="other than one common shift"):
        omega(calculator, atoms, points_near(atoms, 3), quantity="charge")
    with pytest.raises(ValueError, match="it has none"):
        omega(calculator_of(random_schnet(6, charges=False)), atoms, points_near(atoms, 3), quantity="charge")


# --- insertion energies ------------------------------------------------------------------------------------------------


@WITH_SHIPPED
@pytest.mark.parametrize("system", ["molecule", "crystal", "slab"])
def test_insertion_energies_are_differences_of_totals(calculator: NetworkCalculator, system: str) -> None:
    atoms = {"molecule": shaken_molecule("CH3OH"), "crystal": crystal(), "slab": crystal((True, True, False))}[system]
    points = points_near(atoms, 5) if system == "molecule" else np.random.default_rng(2).uniform(-3, 6, (5, 3))
    parts = InsertionEnergy("C", points=points).parts(calculator, atoms)
    before = calculator.get_potential_energies(atoms)
    lone = calculator.get_potential_energy(Atoms("C"))
    for k, point in enumerate(points):
        joint = atoms + Atoms("C", [point])
        after = calculator.get_potential_energies(joint)
        assert parts.total.values[k] == pytest.approx(after.sum() - before.sum() - lone, abs=1e-9)
        assert parts.probe.values[k] == pytest.approx(after[-1] - lone, abs=1e-9)
        assert parts.molecule.values[k] == pytest.approx((after[:-1] - before).sum(), abs=1e-9)
    assert np.allclose(parts.total.values, parts.probe.values + parts.molecule.values, rtol=0, atol=1e-12)
    assert abs(parts.total.residual) < 1e-12
    assert (parts.total.gauge, parts.probe.gauge, parts.molecule.gauge) == ("invariant", "dependent", "dependent")
    assert parts.molecule.reference == "molecule without the probe"  # a difference, which figures take
    raw = InsertionEnergy("C", points=points, reference="none", chunk=2)(calculator, atoms)
    assert np.allclose(raw.values, parts.total.values + lone, rtol=0, atol=1e-9)


class Regauged(AtomisticNetwork):
    """E_i + Σ_j χ_ij with χ_ij = (a_i - a_j) f_c(r_ij) = -χ_ji, a_i = Z_i + Σ_k f_c(r_ik): the same total energy."""

    architecture = "regauged"

    def __init__(self, inner: AtomisticNetwork) -> None:
        super().__init__(inner.elements, inner.cutoff)
        self.inner, self.energy = inner, inner.energy

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        output = self.inner(graph)
        envelope = 0.5 * (torch.cos(math.pi * graph.vectors.norm(dim=1) / self.cutoff) + 1)
        a = graph.numbers.double().index_add(0, graph.centers, envelope)
        chi = (a[graph.centers] - a[graph.neighbors]) * envelope
        return replace(output, energies=output.energies.index_add(0, graph.centers, chi))

    def settings(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("name", ["schnet", "bp", *SHIPPED])
def test_another_gauge_changes_potentials_but_no_insertion_energy(name: str, calculators: dict) -> None:
    atoms = shaken_molecule("CH3OH")
    points, one, other = points_near(atoms), calculators[name], calculator_of(Regauged(calculators[name].network))
    assert other.get_potential_energy(atoms) == pytest.approx(one.get_potential_energy(atoms), abs=1e-9)
    first, second = (InsertionEnergy("N", points=points).parts(calculator, atoms) for calculator in (one, other))
    assert np.allclose(first.total.values, second.total.values, rtol=0, atol=1e-9)
    assert np.abs(first.probe.values - second.probe.values).max() > 0.1
    assert np.abs(omega(one, atoms, points, "N") - omega(other, atoms, points, "N")).max() > 0.1


# --- which points to trust ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", [LocalChemicalPotential, InsertionEnergy])
def test_points_inside_atoms_are_masked(explainer: type, calculators: dict[str, NetworkCalculator]) -> None:
    atoms = shaken_molecule("CH3OH")
    axis = np.array([0.6, 0.0, 0.8])
    distances = np.array([0.0, 1e-5, 0.05, 0.3, 0.56, 0.6, 1.2])
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
    points = atoms.positions[oxygen] + distances[:, None] * axis
    nearest = np.linalg.norm(points[:, None] - atoms.positions[None], axis=2)
    expected = (nearest / (covalent_radii[1] + covalent_radii[atoms.numbers])).min(axis=1) >= 0.6
    for name in ("schnet", "bp"):
        answer = explainer("H", points=points)(calculators[name], atoms)
        assert np.array_equal(answer.mask, expected) and expected.any() and not expected[:5].any()
        assert np.isfinite(answer.values).all() and (answer.values[:3] == 0).all()
        notes = " ".join(answer.notes)
        assert f"{(~expected).sum()} of 7 points masked: closer to an atom than 0.6" in notes
        assert "3 of them are on an atom and not evaluated" in notes and "no statistics" in notes
    assert explainer("H", points=points, closest=0.0)(calculators["bp"], atoms).mask.tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize("quantity", ["energy", "charge"])
@pytest.mark.parametrize("reference", ["isolated", "none"])
@pytest.mark.parametrize("name", ["schnet", "bp", "bp-elements"])
def test_statistics_mask_what_is_loose(name: str, quantity: str, reference: str) -> None:
    """Leverage and uncertainty of every point from the whole inverse matrix."""
    calculator, atoms = calculator_of(MAKE[name](), statistics=True), shaken_molecule("CH3OH")
    points, network = points_near(atoms, 30), calculator.network
    head = calculator.statistics.energies if quantity == "energy" else calculator.statistics.charges
    inverse = np.linalg.inv((head.gram + head.ridge * torch.eye(len(head.gram))).numpy())

    def rows(numbers: torch.Tensor, output: AtomwiseOutput) -> np.ndarray:
        inputs = output.energy_inputs if quantity == "energy" else output.charge_inputs
        element = network.element_index(numbers)
        return placed(inputs, element, len(ELEMENTS), by_element=network.element_readouts).numpy()

    listener = listener_of(calculator, atoms, 7, points, tabulated=False)
    nitrogen = torch.full((len(points),), 7)
    f = rows(nitrogen, listener(torch.as_tensor(points)))
    lone = rows(nitrogen[:1], listener.isolated())
    if quantity == "charge":
        mean = rows(torch.tensor(atoms.numbers), listener.molecule).mean(axis=0)
        f, lone = f - mean, lone - mean
    leverage = np.einsum("pi,ij,pj->p", f, inverse, f)
    shown = f - lone if reference == "isolated" else f
    sigma = np.sqrt(float(head.scale) * np.einsum("pi,ij,pj->p", shown, inverse, shown))

    limit = float(np.median(leverage))
    usual = torch.tensor([[0.0, limit, 1e9]], dtype=torch.float64).repeat(len(ELEMENTS), 1)
    changed = replace(head, leverage=usual)
    statistics = calculator.statistics
    calculator.statistics = replace(statistics, **{"energies" if quantity == "energy" else "charges": changed})
    answer = LocalChemicalPotential(
        "N", points=points, quantity=quantity, reference=reference, tabulated=False, closest=0.0
    )(calculator, atoms)
    assert np.array_equal(answer.mask, leverage <= limit) and answer.mask.sum() == 15
    assert np.allclose(answer.uncertainty, sigma, rtol=1e-8, atol=1e-12)
    assert "15 of 30 points masked: leverage above that of 99 % of the training atoms of N." in answer.notes
    everything = {"points": points, "quantity": quantity, "closest": 0.0}
    twice = LocalChemicalPotential("N", limit=2.0, **everything)(calculator, atoms)
    assert np.array_equal(twice.mask, leverage <= 2 * limit) and "above 2 times that of 99 %" in " ".join(twice.notes)
    unmasked = LocalChemicalPotential("N", limit=None, **everything)(calculator, atoms)
    assert unmasked.mask.all() and "Not masked (limit=None)" in " ".join(unmasked.notes)


@pytest.mark.parametrize("name", ["schnet", "bp-elements"])
def test_uncertainty_of_insertion_energies(name: str) -> None:
    """From the summed last-layer inputs of the joint system, those of the molecule and of the lone atom taken away."""
    calculator, atoms = calculator_of(MAKE[name](), statistics=True), shaken_molecule("CH3OH")
    points, network, head = points_near(atoms, 4), calculator.network, calculator.statistics.energies

    def summed(system: Atoms) -> torch.Tensor:
        graph = calculator.checked_graph(system)
        inputs, element = network(graph).energy_inputs, network.element_index(graph.numbers)
        return placed(inputs, element, len(ELEMENTS), by_element=network.element_readouts).sum(dim=0)

    answer = InsertionEnergy("O", points=points)(calculator, atoms)
    for point, sigma in zip(points, answer.uncertainty, strict=True):
        row = summed(atoms + Atoms("O", [point])) - summed(atoms) - summed(Atoms("O"))
        assert sigma == pytest.approx(float((head.scale * head.leverages(row[None])).sqrt()), rel=1e-8)


# --- places, refusals, records -----------------------------------------------------------------------------------------


def test_places_and_records(calculators: dict[str, NetworkCalculator], tmp_path: Path) -> None:
    calculator, atoms = calculators["schnet"], molecule("H2O")
    surface = explain(atoms, LocalChemicalPotential(scale=1.2), calculator)
    assert surface.level == "surface" and len(surface.faces) == 2 * len(surface.points) - 4
    assert dict(surface.settings["place"]) == {
        "kind": "Surface",
        "name": "vdw",
        "scale": 1.2,
        "spacing": 0.25,
        "level": None,
    }
    assert surface.reference == "isolated atom of the network" and surface.gauge == "dependent"
    assert surface.settings["tabulated"] is True  # more than 1000 points
    lone = calculator.get_potential_energy(Atoms("H"))
    assert surface.settings["isolated_atom"] == pytest.approx(lone, abs=1e-9)
    assert f"A lone probe has {lone:+.6f} eV, which is subtracted" in surface.notes[0]
    plane = LocalChemicalPotential(8, plane=Plane(spacing=0.5))(calculator, atoms)
    assert plane.level == "grid" and plane.grid_shape[2] == 1 and plane.target == "local chemical potential of O"
    assert plane.settings["tabulated"] is False and len(plane.values) < 1000
    grid = InsertionEnergy("H", grid=(2.0, 1.0))(calculator, atoms)
    assert grid.level == "grid" and grid.settings["place"]["spacing"] == 2.0 and grid.units == "eV"
    charge = LocalChemicalPotential(surface=Surface("dtnn", spacing=0.4), quantity="charge")(calculator, atoms)
    assert (charge.target, charge.units) == ("probe charge of H", "e")
    for name in ("map.json", "map.h5"):
        surface.save(tmp_path / name)
        again = Explanation.load(tmp_path / name)
        for field in ("values", "points", "faces", "mask"):
            assert np.array_equal(getattr(again, field), getattr(surface, field))


def test_an_ensemble_maps_its_mean_and_spread(calculators: dict[str, NetworkCalculator]) -> None:
    atoms, members = molecule("H2O"), [calculators["schnet"], calculators["bp"]]
    explainer = LocalChemicalPotential(surface=Surface(spacing=0.7))
    both = explain(atoms, explainer, Ensemble(members))
    singles = np.stack([explain(atoms, explainer, member).values for member in members])
    assert np.allclose(both.values, singles.mean(axis=0)) and np.allclose(both.uncertainty, singles.std(axis=0, ddof=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": "Xe"}, "does not know a probe 'Xe'; it knows H, C, N, O"),
        ({"probe": "hydrogen"}, "does not know a probe 'hydrogen'"),
        ({"probe": 0}, "does not know a probe 0"),
        ({"points": [[0, 0, 0]], "surface": "vdw"}, "got points and surface"),
        ({"reference": "free_atom"}, '"isolated" or "none"'),
        ({"quantity": "force"}, "energy, charge, got 'force'"),
        ({"surface": "ball"}, "'ball'"),
        ({"chunk": 0}, "chunk must be positive"),
        ({"limit": -1.0}, "limit must be positive or None"),
        ({"closest": 1.5}, "closest must be"),
        ({"surface": Surface(), "scale": 1.3}, "given by name"),
        ({"surface": "schnet", "scale": 1.3}, "no scale"),
        ({"points": molecule("H2O").positions}, "all 3 points are on atoms"),
    ],
)
def test_bad_questions_are_refused(settings: dict, message: str, calculators: dict[str, NetworkCalculator]) -> None:
    with pytest.raises(ValueError, match=message):
        LocalChemicalPotential(**settings)(calculators["schnet"], molecule("H2O"))
    if {"probe", "points"} & set(settings):
        with pytest.raises(ValueError, match=message):
            InsertionEnergy(**settings)(calculators["schnet"], molecule("H2O"))


# --- shipped weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["organic", "organic-bp"])
def test_identities_of_shipped_weights(weights: str) -> None:
    calculator, atoms = load(weights, dtype="float64"), shaken_molecule("CH3CH2OH")
    points = points_near(atoms, 30)
    fast, exact = (omega(calculator, atoms, points, "O", tabulated=tabulated) for tabulated in (True, False))
    assert np.abs(fast - exact).max() < 1e-6 and np.ptp(exact) > 0.1
    with pytest.warns(UserWarning, match="C2H5O with charge .* is a radical"):
        omega(calculator, atoms[:-1], atoms.positions[-1:], "H")


@pytest.mark.parametrize("weights", ["water", "water-bp"])
def test_periodic_probes_of_shipped_weights(weights: str) -> None:
    """A cell smaller than the cutoff beside eight of it, and tables beside the exact way."""
    calculator = load(weights, dtype="float64")
    atoms = molecule("H2O", cell=[3.1, 3.2, 3.3], pbc=True)
    points = points_near(atoms, 12)
    exact = omega(calculator, atoms, points, tabulated=False)
    assert np.ptp(exact) > 0.1
    assert np.allclose(omega(calculator, atoms * (2, 2, 2), points, tabulated=False), exact, rtol=0, atol=1e-9)
    assert np.allclose(omega(calculator, atoms, points, tabulated=True), exact, rtol=0, atol=1e-6)
