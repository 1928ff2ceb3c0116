"""Pair forces, integrated gradients and alchemical derivatives: what pairs, identities and substitutions do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers
from explained import NETWORKS, SHIPPED, invented_statistics, write_shipped, write_weights
from systems import ELEMENTS, RANDOM_NETWORKS, random_schnet, shaken_molecule
from torch import Tensor

from ase_xai import Ensemble, NetworkCalculator, explain, load
from ase_xai.explainers import AlchemicalDerivatives, IntegratedGradients, PairForces
from ase_xai.explainers.alchemy import Substitution, best_substitutions
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, predict
from ase_xai.networks.base import add_up
from ase_xai.networks.response import element_shares, interaction_energy, share_gradients
from ase_xai.networks.wacsf import SymmetryFunctions
from ase_xai.weights import LoadedWeights, ModelCard

SYMBOLS = ["H", "C", "N", "O"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    made = {name: (make(), (-1.0, 0.0, 1.0)) for name, make in NETWORKS.items()}
    made["none"] = (random_schnet(6, charges=False), (0.0,))
    paths = {name: write_weights(folder / name, network, total_charges=q) for name, (network, q) in made.items()}
    return paths | {name: write_shipped(folder / name, name) for name in SHIPPED}


@pytest.fixture(params=list(NETWORKS))
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


@pytest.fixture
def schnet(weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights["schnet"], dtype="float64")


WITH_SHIPPED = pytest.mark.parametrize("calculator", [*NETWORKS, *SHIPPED], indirect=True)


class Springs(AtomisticNetwork):
    """E = Σ_pairs φ(r), φ(r) = (r - 1.1)²·(1 - r/r_c)², halves to both atoms: a network whose pair forces are known."""

    architecture = "springs"
    has_charges = False

    def __init__(self, elements: list[int], cutoff: float = 4.0) -> None:
        super().__init__(elements, cutoff)
        self.register_parameter("nothing", torch.nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False))

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        r = torch.linalg.vector_norm(graph.unique_vectors, dim=1)
        ones = torch.ones((len(graph.numbers), 1), dtype=torch.float64)
        return self.atomwise(graph, graph.gather_neighbors(0.5 * self.spring(r)[:, None], ones), None, ones)

    def spring(self, r: Tensor) -> Tensor:
        return (r - 1.1) ** 2 * (1 - r / self.cutoff) ** 2

    def slope(self, r: np.ndarray) -> np.ndarray:
        """φ′, by hand."""
        inside = 1 - r / self.cutoff
        return 2 * (r - 1.1) * inside**2 - 2 * (r - 1.1) ** 2 * inside / self.cutoff

    def settings(self) -> dict[str, object]:
        return {"elements": list(self.elements), "cutoff": self.cutoff}


@pytest.fixture
def springs() -> NetworkCalculator:
    network = Springs(ELEMENTS)
    card = ModelCard.describe(network, reference_kind="none", level_of_theory="invented")
    return NetworkCalculator(LoadedWeights(network, card, "0" * 64, "springs"), dtype="float64")


# --- pair forces ------------------------------------------------------------------------------------------------------


def crystal() -> Atoms:
    atoms = bulk("C", "diamond", a=3.57)
    atoms.rattle(0.1, seed=1)
    atoms.numbers[1] = 7
    return atoms


def force_by_differences(calculator: NetworkCalculator, atoms: Atoms, h: float = 1e-4) -> np.ndarray:
    forces = np.zeros((len(atoms), 3))
    for i, axis in np.ndindex(len(atoms), 3):
        for step in (-1, 1):
            moved = atoms.copy()
            moved.positions[i, axis] += step * h
            forces[i, axis] -= step * calculator.get_property("energy", moved) / (2 * h)
    return forces


@pytest.mark.parametrize("make", [lambda: shaken_molecule("CH3OH"), crystal], ids=["molecule", "crystal"])
def test_pair_forces_add_up_to_the_forces(calculator: NetworkCalculator, make) -> None:
    atoms = make()
    pairs = explain(atoms, PairForces(), calculator)
    first, second = pairs.index.T
    assert (first <= second).all() and sorted(map(tuple, pairs.index)) == list(map(tuple, pairs.index))
    assert len({tuple(row) for row in pairs.index}) == len(pairs.index)
    forces = np.zeros((len(atoms), 3))
    for (i, j), force in zip(pairs.index, pairs.values, strict=True):
        forces[i] += force
        forces[j] -= force
    np.testing.assert_allclose(forces, force_by_differences(calculator, atoms), rtol=0, atol=2e-6)
    np.testing.assert_allclose(forces, calculator.get_property("forces", atoms), atol=1e-12)
    assert pairs.residual < 1e-12 and (pairs.units, pairs.gauge) == ("eV/Å", "parametrization")


def test_pair_forces_of_springs(springs: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH", amplitude=0.1)
    vectors, radial = (explain(atoms, PairForces(component), springs) for component in ("vector", "radial"))
    expected = {}
    for i, j in itertools.combinations(range(9), 2):
        direction = atoms.positions[j] - atoms.positions[i]
        r = np.linalg.norm(direction)
        if r < springs.network.cutoff:
            expected[i, j] = springs.network.slope(r) * direction / r, springs.network.slope(r)
    assert list(map(tuple, vectors.index)) == sorted(expected)
    np.testing.assert_allclose(vectors.values, [expected[tuple(row)][0] for row in vectors.index], atol=1e-12)
    np.testing.assert_allclose(radial.values, [expected[tuple(row)][1] for row in radial.index], atol=1e-12)
    stretched = Atoms("H2", [[0, 0, 0], [0, 0, 1.3]])
    assert explain(stretched, PairForces("radial"), springs).values[0] > 0  # longer than the spring: attraction


def test_periodic_images_are_summed(springs: NetworkCalculator) -> None:
    atoms = crystal()
    vectors, radial = (explain(atoms, PairForces(component), springs) for component in ("vector", "radial"))
    np.testing.assert_array_equal(vectors.index, [[0, 0], [0, 1], [1, 1]])
    forces, tensions = np.zeros((3, 3)), np.zeros(3)
    shifts = [np.array(s) @ atoms.cell.array for s in itertools.product(range(-4, 5), repeat=3)]
    for row, (i, j) in enumerate(vectors.index):
        for shift in shifts:
            d = atoms.positions[j] + shift - atoms.positions[i]
            r = np.linalg.norm(d)
            if 0 < r < springs.network.cutoff:
                forces[row] += springs.network.slope(r) * d / r
                tensions[row] += springs.network.slope(r) * (0.5 if i == j else 1)  # image and opposite image: one pair
    np.testing.assert_allclose(vectors.values, forces, atol=1e-11)
    np.testing.assert_allclose(radial.values, tensions, atol=1e-11)


def test_only_angles_make_pair_forces_leave_the_line(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    pairs = explain(atoms, PairForces(), calculator)
    i, j = pairs.index.T
    lines = atoms.positions[j] - atoms.positions[i]
    lines /= np.linalg.norm(lines, axis=1)[:, None]
    off = np.abs(np.cross(pairs.values, lines)).max()
    assert off < 1e-12 if calculator.card.architecture == "schnet" else off > 1e-3
    radial = explain(atoms, PairForces("radial"), calculator)
    np.testing.assert_allclose(radial.values, (pairs.values * lines).sum(axis=1), atol=1e-12)


def test_pair_forces_of_directed_graphs_and_lone_atoms(calculator: NetworkCalculator, monkeypatch) -> None:
    atoms = shaken_molecule("H2O")
    expected = explain(atoms, PairForces(), calculator).values
    whole = calculator.checked_graph(atoms)
    monkeypatch.setattr(type(calculator), "checked_graph", lambda *_: replace(whole, mirrored=False))
    np.testing.assert_allclose(explain(atoms, PairForces(), calculator).values, expected, atol=1e-13)
    monkeypatch.undo()
    alone = explain(Atoms("O"), PairForces(), calculator)
    assert alone.values.shape == (0, 3) and alone.residual == 0
    with pytest.raises(ValueError, match="component must be one of vector, radial, got 'tangential'"):
        explain(atoms, PairForces("tangential"), calculator)


# --- mixtures of elements ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM_NETWORKS)
def test_a_pure_mixture_is_the_element(name: str) -> None:
    """λ = 0 and 1 reproduce the molecules, references included, whatever numbers the graph itself holds."""
    network = RANDOM_NETWORKS[name]().double()
    real = AtomGraph.from_atoms(shaken_molecule("CH3OH"), network.cutoff)
    other = replace(real, numbers=torch.tensor([7, 8, 1, 1, 6, 1]))
    for graph in (real, other):
        mixed, pure = network.mixed(real, element_shares(network, graph.numbers)), network(graph)
        assert torch.allclose(mixed.energies, pure.energies, rtol=0, atol=1e-13)
        assert torch.allclose(mixed.references, pure.references, rtol=1e-15)
        assert torch.allclose(mixed.features, pure.features, rtol=0, atol=1e-13)
        if network.has_charges:
            assert torch.allclose(mixed.charges, pure.charges, rtol=0, atol=1e-13)


@pytest.mark.parametrize("elements", [None, ELEMENTS])
def test_symmetry_functions_are_linear_in_each_neighbor(elements: list[int] | None) -> None:
    """A neighbor occurs once in each term, so that a mixture gives the mean of the functions, pairs of channels included."""
    functions = SymmetryFunctions(4.5, 8, 3, (1, 2), elements)
    graph = AtomGraph.from_atoms(shaken_molecule("CH3OH"), 4.5)
    pure = [replace(graph, numbers=torch.where(torch.arange(6) == 3, z, graph.numbers)) for z in (1, 8)]
    ends = torch.stack([functions(g, torch.float64) for g in pure])

    def occupation(g: AtomGraph) -> Tensor:
        if elements is None:
            return g.numbers.double()[:, None]
        return (g.numbers[:, None] == torch.tensor(elements)).double()

    for share in (0.0, 0.3, 1.0):
        mixture = (1 - share) * occupation(pure[0]) + share * occupation(pure[1])
        mixed = functions(graph, torch.float64, occupation=mixture)
        assert torch.allclose(mixed, (1 - share) * ends[0] + share * ends[1], rtol=1e-12, atol=1e-12)


# --- alchemical derivatives -------------------------------------------------------------------------------------------


def mixed_value(network: AtomisticNetwork, atoms: Atoms, site: int, symbol: str, share: float, of: str) -> float:
    graph = AtomGraph.from_atoms(atoms, network.cutoff)
    shares = element_shares(network, graph.numbers)
    shares[site] *= 1 - share
    shares[site, SYMBOLS.index(symbol)] += share
    sums = add_up(graph, network.mixed(graph, shares))
    return float(sums.output.energies.sum() if of == "energy" else sums.dipole[0].norm())


@WITH_SHIPPED
@pytest.mark.parametrize("of", ["energy", "dipole"])
def test_alchemical_derivatives_are_differences(calculator: NetworkCalculator, of: str) -> None:
    atoms, h = shaken_molecule("CH3OH"), 1e-3
    explanation = explain(atoms, AlchemicalDerivatives(SYMBOLS, of), calculator)
    assert explanation.values.shape == (6, 4) and explanation.settings["targets"] == SYMBOLS
    assert explanation.units == {"energy": "eV", "dipole": "e·Å"}[of] and explanation.gauge == "parametrization"
    for site, (column, symbol) in itertools.product((0, 1, 4), enumerate(SYMBOLS)):
        steps = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
        slope = sum(c / h * mixed_value(calculator.network, atoms, site, symbol, step * h, of) for step, c in steps)
        assert explanation.values[site, column] == pytest.approx(slope, rel=1e-8, abs=1e-8), (site, symbol)
    own = [SYMBOLS.index(symbol) for symbol in atoms.get_chemical_symbols()]
    assert not explanation.values[np.arange(6), own].any()


@WITH_SHIPPED
def test_the_path_ends_at_the_substituted_molecule(calculator: NetworkCalculator) -> None:
    """∫ dE/dλ dλ = E(Z′) - E(Z), and the reference energies, stated apart, make up the rest."""
    atoms, network = shaken_molecule("CH3OH"), calculator.network
    other = atoms.copy()
    other.numbers[1] = 7
    graph = calculator.checked_graph(atoms)
    start, end = (element_shares(network, torch.tensor(a.numbers)) for a in (atoms, other))
    nodes, weights = np.polynomial.legendre.leggauss(48)
    work = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        _, gradients = share_gradients(network, graph, start + 0.5 * (node + 1) * (end - start), interaction_energy)
        work += 0.5 * weight * float(((end - start) * gradients).sum())
    explanation = explain(atoms, AlchemicalDerivatives(["N"]), calculator)
    reference = explanation.settings["reference_change"][1][0]
    assert reference == pytest.approx(network.energy.references[7] - network.energy.references[8], abs=1e-9)
    change = calculator.get_property("energy", other) - calculator.get_property("energy", atoms)
    assert work + reference == pytest.approx(change, abs=1e-8)


def test_best_substitutions(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = explain(atoms, AlchemicalDerivatives(["N", "H"]), calculator)
    everything = best_substitutions(explanation, 100)
    assert len(everything) == 2 * 6 - 4  # the hydrogens are hydrogens already
    assert everything == sorted(everything, key=lambda s: s.change)
    site, column = np.unravel_index(explanation.values.argmin(), (6, 2))
    assert everything[0] == Substitution(int(site), ["N", "H"][column], explanation.values.min())
    assert best_substitutions(explanation, 2) == everything[:2]
    assert best_substitutions(explanation, 1, largest=True) == everything[-1:]
    dipoles = best_substitutions(explain(atoms, AlchemicalDerivatives(of="dipole"), calculator), 5)
    assert dipoles == sorted(dipoles, key=lambda s: -s.change)
    with pytest.raises(ValueError, match="substitutions come from AlchemicalDerivatives, got an explanation by PairForces"):
        best_substitutions(explain(atoms, PairForces(), calculator))


def test_elements_that_were_never_trained_are_named(tmp_path: Path) -> None:
    network = random_schnet(1)
    calculator = load(write_weights(tmp_path / "w", network), dtype="float64")
    statistics = invented_statistics(network)
    statistics.n_atoms[2] = 0
    calculator.statistics = statistics
    atoms = shaken_molecule("H2O")
    explanation = explain(atoms, AlchemicalDerivatives(), calculator)
    assert explanation.settings["targets"] == ["H", "C", "O"]
    asked = explain(atoms, AlchemicalDerivatives(["N", "C"]), calculator)
    assert any("No training data held N" in note for note in asked.notes)
    mean = explain(atoms, IntegratedGradients("mean", 8), calculator)
    graph = calculator.checked_graph(atoms)
    shares = torch.tensor([[1 / 3, 1 / 3, 0, 1 / 3]], dtype=torch.float64).repeat(3, 1)
    baseline = float(calculator.network.mixed(graph, shares).energies.sum())
    assert mean.notes[0].startswith(f"Energy of the baseline: {baseline:.6g} eV")


def test_alchemy_refuses(calculator: NetworkCalculator, weights: dict[str, Path], springs: NetworkCalculator) -> None:
    atoms = shaken_molecule("H2O")
    for targets in (["Xx"], ["F"], [], "N", ["N", "N"]):
        with pytest.raises(ValueError, match="targets must be distinct elements of H, C, N, O"):
            explain(atoms, AlchemicalDerivatives(targets), calculator)
    with pytest.raises(ValueError, match="of must be one of energy, dipole, got 'charge'"):
        explain(atoms, AlchemicalDerivatives(of="charge"), calculator)
    with pytest.raises(ValueError, match="periodic"):
        explain(crystal(), AlchemicalDerivatives(of="dipole"), calculator)
    assert explain(crystal(), AlchemicalDerivatives(), calculator).values.shape == (2, 4)
    atoms.info["charge"] = 1.0
    with pytest.raises(ValueError, match=r"charge \+1 e depends on the origin"):
        explain(atoms, AlchemicalDerivatives(of="dipole"), calculator)
    assert np.isfinite(explain(atoms, AlchemicalDerivatives(), calculator).values).all()
    with pytest.raises(ValueError, match="no derivative at zero"):
        explain(Atoms("O"), AlchemicalDerivatives(of="dipole"), calculator)
    with pytest.raises(ValueError, match="has no charges"):
        explain(shaken_molecule("H2O"), AlchemicalDerivatives(of="dipole"), load(weights["none"]))
    with pytest.raises(ValueError, match="springs networks do not mix elements"):
        explain(shaken_molecule("H2O"), AlchemicalDerivatives(), springs)


# --- integrated gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean", "O", ["N", "C", "H", "O", "H", "H"]])
def test_integrated_gradients_add_up(schnet: NetworkCalculator, baseline: str | list[str]) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = explain(atoms, IntegratedGradients(baseline, 64), schnet)
    assert abs(explanation.residual) < 1e-10
    energy = schnet.get_property("energy", atoms) - schnet.references(atoms).sum()
    if isinstance(baseline, list) or baseline == "O":
        other = atoms.copy()
        other.set_chemical_symbols(baseline if isinstance(baseline, list) else ["O"] * 6)
        start = schnet.get_property("energy", other) - schnet.references(other).sum()
    else:  # a network whose embeddings are all the baseline's
        twin = load(schnet.parameters["weights"], dtype="float64")
        table = twin.network.embedding.weight
        with torch.no_grad():
            table[:] = table.mean(dim=0) if baseline == "mean" else 0.0
        start = twin.get_property("energy", atoms) - twin.references(atoms).sum()
    assert explanation.total == pytest.approx(energy - start, abs=1e-9)
    assert abs(explain(atoms, IntegratedGradients(baseline, 1), schnet).residual) > 1e-6
    assert explanation.reference.startswith("baseline ") and explanation.gauge == "parametrization"


def test_integrated_gradients_by_small_steps(schnet: NetworkCalculator) -> None:
    """Each atom's value from differences of energies only: Σ over steps of what its own part of the step changes."""
    atoms, n = shaken_molecule("H2O"), 150
    explanation = explain(atoms, IntegratedGradients("zero"), schnet)
    network, graph = schnet.network, schnet.checked_graph(atoms)
    end = element_shares(network, graph.numbers)

    def energy(shares: Tensor) -> float:
        return float(network.mixed(graph, shares).energies.sum())

    values = np.zeros(3)
    for step, atom in itertools.product(range(n), range(3)):
        own = (torch.arange(3) == atom).double()[:, None] * end * (0.5 / n)
        middle = (step + 0.5) / n * end
        values[atom] += energy(middle + own) - energy(middle - own)
    np.testing.assert_allclose(explanation.values, values, rtol=5e-4, atol=1e-6)


def test_integrated_gradients_know_what_is_alike(schnet: NetworkCalculator) -> None:
    methane = explain(molecule("CH4"), IntegratedGradients("mean"), schnet)
    np.testing.assert_allclose(methane.values[1:], methane.values[1], atol=1e-12)
    atoms = shaken_molecule("CH3OH")
    itself = explain(atoms, IntegratedGradients(atoms.get_chemical_symbols()), schnet)
    assert not itself.values.any() and itself.residual == 0
    partner = atoms.get_chemical_symbols()
    partner[1] = "N"
    changed = explain(atoms, IntegratedGradients(partner), schnet)
    assert changed.values[1] and not np.delete(changed.values, 1).any()


def test_integrated_gradients_refuse(schnet: NetworkCalculator, weights: dict[str, Path]) -> None:
    atoms = shaken_molecule("H2O")
    with pytest.raises(ValueError, match="no element embeddings"):
        explain(atoms, IntegratedGradients(), load(weights["bp"]))
    for baseline in ("nothing", "F", ["O", "H"], ["O", "H", "Xx"]):
        with pytest.raises(ValueError, match='baseline must be "zero", "mean", one of H, C, N, O, or 3 of these'):
            explain(atoms, IntegratedGradients(baseline), schnet)
    with pytest.raises(ValueError, match="n_nodes must be from 1"):
        explain(atoms, IntegratedGradients(n_nodes=0), schnet)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", [PairForces(), AlchemicalDerivatives(), IntegratedGradients(n_nodes=4)])
def test_inference_mode_files_and_ensembles(explainer, weights: dict[str, Path], tmp_path: Path) -> None:
    atoms, names = shaken_molecule("H2O"), ("schnet", "none")
    members = [load(weights[name], dtype="float64") for name in names]
    singles = [explain(atoms, explainer, member) for member in members]
    with torch.inference_mode():
        np.testing.assert_array_equal(explain(atoms, explainer, members[0]).values, singles[0].values)
    both = explain(atoms, explainer, Ensemble(members))
    np.testing.assert_allclose(both.values, np.mean([single.values for single in singles], axis=0), atol=1e-14)
    singles[0].save(tmp_path / "a.json")
    again = type(both).load(tmp_path / "a.json")
    np.testing.assert_array_equal(again.values, singles[0].values)
    assert again.settings == singles[0].settings and singles[0]._repr_html_()


@pytest.mark.parametrize("name", ["organic", "organic-bp"])
def test_shipped_weights(name: str) -> None:
    atoms, calculator = shaken_molecule("H2O"), load(name, dtype="float64")
    pairs = explain(atoms, PairForces(), calculator)
    i, j = pairs.index.T
    forces = np.zeros((3, 3))
    np.add.at(forces, i, pairs.values)
    np.add.at(forces, j, -pairs.values)
    expected = predict(calculator.network, calculator.checked_graph(atoms)).forces.numpy()
    np.testing.assert_allclose(forces, expected, atol=1e-12)
    derivatives = explain(atoms, AlchemicalDerivatives(["N", "S"]), calculator)
    network, graph, h = calculator.network, calculator.checked_graph(atoms), 1e-4
    step = torch.zeros((3, len(network.elements)), dtype=torch.float64)
    step[0, network.elements.index(atomic_numbers["S"])] += h
    step[0, network.elements.index(8)] -= h
    ends = [float(network.mixed(graph, element_shares(network, graph.numbers) + s * step).energies.sum()) for s in (-1, 1)]
    assert derivatives.values[0, 1] == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-5, abs=1e-5)
    if name == "organic":
        assert abs(explain(atoms, IntegratedGradients(n_nodes=64), calculator).residual) < 1e-10
