"""n-body relevance against walks counted one by one, masked gradients, and triples written out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from explained import SHIPPED, write_weights
from systems import random_behler_parrinello, random_schnet, shaken_molecule
from torch import Tensor, nn

from ase_xai import Ensemble, Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import subsets
from ase_xai.explainers.relevance import NBodyRelevance
from ase_xai.explainers.terms import element_strengths, order_shares, terms_of
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.networks.layers import ShiftedSoftplus
from ase_xai.networks.linearized import gate
from ase_xai.weights import resolve

Makers = dict[str, Callable[[], AtomisticNetwork]]
MAKERS: Makers = {
    "schnet-1": lambda: random_schnet(1, n_interactions=1),
    "schnet-2": lambda: random_schnet(2),
    "schnet-3": lambda: random_schnet(3, n_interactions=3, cutoff=3.0),
    "bp": lambda: random_behler_parrinello(4),
    "bp-elements": lambda: random_behler_parrinello(5, zetas=(1, 3), cutoff=4.5, resolve_elements=True),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {name: write_weights(folder / name, make()) for name, make in MAKERS.items()} | {name: name for name in SHIPPED}


@pytest.fixture(params=list(MAKERS))
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


def crystal() -> Atoms:
    """Three atoms, many images of each pair and of every atom with itself."""
    atoms = bulk("C", "diamond", a=3.6) + Atoms("O", [[1.9, 1.1, 1.2]])
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, (3, 3))
    return atoms


def hexagonal_benzene() -> Atoms:
    angles = np.pi / 3 * np.arange(6)
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    return Atoms("C6H6", np.concatenate([1.395 * ring, 2.482 * ring]))


def by_set(explanation: Explanation) -> dict[frozenset[int], float]:
    """Value of each set of atoms; the empty set holds the higher orders."""
    sets = [frozenset(int(i) for i in row if i >= 0) for row in explanation.index]
    assert len(set(sets)) == len(sets), "a set of atoms occurs twice"
    return dict(zip(sets, explanation.values.tolist(), strict=True))


def inside(terms: dict[frozenset[int], float], subset: Iterable[int]) -> float:
    return sum(value for atoms, value in terms.items() if atoms and atoms <= set(subset))


def network_energy(calculator: NetworkCalculator, graph: AtomGraph) -> float:
    """E_net: without the shift and the references of the elements."""
    network = calculator.network
    return float(network(graph).energies.sum()) - network.energy.shift * len(graph.numbers)


# --- independent derivations -------------------------------------------------------------------------------------------


class FrozenSoftplus(nn.Module):
    """The same value as shifted softplus, its gradient that of a constant factor."""

    def forward(self, z: Tensor) -> Tensor:
        y = nn.functional.softplus(z) - np.log(2.0)
        return z * torch.where(z == 0, torch.full_like(z, 0.5), y / torch.where(z == 0, torch.ones_like(z), z)).detach()


def with_frozen_gradients(network: AtomisticNetwork) -> AtomisticNetwork:
    """A copy with frozen activations after the embedding or descriptor; a SchNet's filters stay as they are."""
    frozen = copy.deepcopy(network).requires_grad_(True)
    for parent in [m for name, m in frozen.named_modules() if "filter_network" not in name]:
        for child, module in parent.named_children():
            if isinstance(module, ShiftedSoftplus):
                setattr(parent, child, FrozenSoftplus())
    return frozen


def masked_relevances(network: SchNetNetwork, graph: AtomGraph, sets: Iterable[Iterable[int]]) -> list[float]:
    """Σ_i x_i⁰·∂E_net/∂x_i⁰ with gradients let through the atoms of one set only, after every interaction."""
    frozen, found = with_frozen_gradients(network), []
    keep, embedded = torch.zeros((len(graph.numbers), 1), dtype=torch.float64), []

    def mask(x: Tensor) -> Tensor:
        return keep * x + (1 - keep) * x.detach()

    def enter(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return mask(embedded[-1])

    frozen.embedding.register_forward_hook(enter)
    for interaction in frozen.interactions:
        interaction.register_forward_hook(lambda module, inputs, output: mask(output))
    for subset in sets:
        keep.zero_()
        keep[list(subset)] = 1.0
        (gradient,) = torch.autograd.grad(frozen(graph).energies.sum(), embedded[-1])
        found.append(float((embedded[-1].detach() * gradient).sum()))
    return found


def bias_part(network: AtomisticNetwork, graph: AtomGraph) -> float:
    """Σ b·∂E_net/∂b over the biases behind the embedding; for fixed descriptors with the subtracted means."""
    frozen = with_frozen_gradients(network)
    names = ("update", "energy_readout", "hidden_networks")
    biases = [p for name, p in frozen.named_parameters() if name.endswith("bias") and any(n in name for n in names)]
    assert biases
    if isinstance(frozen, BehlerParrinelloNetwork):
        standardized = frozen.descriptors(graph).detach().requires_grad_()
        energy = frozen.from_descriptors(graph, standardized).energies.sum()
        *gradients, slopes = torch.autograd.grad(energy, [*biases, standardized], allow_unused=True)
        means = -float((slopes * (frozen.descriptor_mean / frozen.descriptor_std)).sum())
    else:
        gradients, means = torch.autograd.grad(frozen(graph).energies.sum(), biases, allow_unused=True), 0.0
    pairs = zip(biases, gradients, strict=True)
    return means + sum(
        float((b.detach() * g).sum()) for b, g in pairs if g is not None
    )  # None: an element that is not there


def walks(network: SchNetNetwork, graph: AtomGraph) -> dict[tuple[int, ...], float]:
    """Relevance of every walk (j_0, j_1, ..., j_T), each worked out alone: E_net = Σ walks + (bias part)."""
    n, size = len(graph.numbers), network.n_features

    def array(tensor: Tensor) -> np.ndarray:
        return tensor.detach().double().numpy()

    def ssp(z: np.ndarray) -> np.ndarray:
        return np.logaddexp(z, 0.0) - np.log(2.0)

    x = array(network.embedding.weight)[[network.elements.index(int(z)) for z in graph.numbers]]
    start, steps = x.copy(), []  # steps[t][i, j]: what atom i at t + 1 hears of atom j at t
    for interaction in network.interactions:
        filters = np.zeros((n, n, size))
        for center, neighbor, vector in zip(graph.centers, graph.neighbors, graph.vectors, strict=True):
            r = torch.linalg.vector_norm(vector)[None]
            value = interaction.filter_network(network.radial_basis(r)) * network.cutoff_function(r)
            filters[center, neighbor] += array(value)[0]
        first, _, second = interaction.update
        send = array(interaction.sender.weight)
        z = np.einsum("ijf,jf->if", filters, x @ send.T) @ array(first.weight).T + array(first.bias)
        gates = ssp(z) / z
        step = np.zeros((n, n, size, size))
        for i, j in itertools.product(range(n), repeat=2):
            passed = array(first.weight) @ np.diag(filters[i, j]) @ send
            step[i, j] = array(second.weight) @ np.diag(gates[i]) @ passed + (np.eye(size) if i == j else 0.0)
        steps.append(step)
        x = x + ssp(z) @ array(second.weight).T + array(second.bias)
    first, _, second = network.energy_readout
    z = x @ array(first.weight).T + array(first.bias)
    last = network.energy.scale * (array(second.weight)[0] * (ssp(z) / z)) @ array(first.weight)  # (N, F)
    found = {}
    for walk in itertools.product(range(n), repeat=len(steps) + 1):
        value = start[walk[0]]
        for step, (j, i) in zip(steps, itertools.pairwise(walk), strict=True):
            value = step[i, j] @ value
        found[walk] = float(last[walk[-1]] @ value)
    return found


# --- gates -------------------------------------------------------------------------------------------------------------


def test_gate_is_the_quotient_without_its_rounding() -> None:
    z = torch.tensor([0.0, 1e-300, 1e-8, -1e-4, 0.0099999, 0.0100001, -0.01, 0.5, -3.0, 40.0], dtype=torch.float64)
    half = z.numpy() / 2  # ssp(z)/z = ½ + ln cosh(z/2)/z, without cancellation
    expected = 0.5 + np.log1p(2 * np.sinh(half / 2) ** 2) / np.where(half == 0, 1.0, 2 * half)
    np.testing.assert_allclose(gate(z).numpy(), expected, rtol=3e-14)
    assert float(gate(torch.zeros(1))) == 0.5
    large = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    np.testing.assert_allclose(gate(large).numpy(), [np.log(2) / 800, 1 - np.log(2) / 800], rtol=1e-14)


# --- walks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "formula"), [("schnet-1", "CH4"), ("schnet-2", "CH4"), ("schnet-3", "H2CO"), ("organic", "H2O")]
)
def test_terms_are_groups_of_walks(name: str, formula: str, weights: dict[str, Path]) -> None:
    calculator, atoms = load(weights[name], dtype="float64"), shaken_molecule(formula)
    graph = calculator.checked_graph(atoms)
    groups: dict[frozenset[int], float] = {}
    for walk, value in walks(calculator.network, graph).items():
        groups[frozenset(walk)] = groups.get(frozenset(walk), 0.0) + value
    explanation = explain(atoms, NBodyRelevance(order=len(atoms)), calculator)
    terms = by_set(explanation)
    assert abs(terms.pop(frozenset())) < 1e-12
    assert len(terms) == 2 ** len(atoms) - 1  # all atoms are within the cutoff of each other
    for atoms_of_term, value in terms.items():
        assert value == pytest.approx(groups.get(atoms_of_term, 0.0), abs=1e-12)
    most = calculator.network.n_interactions + 1
    assert max(abs(v) for s, v in terms.items() if len(s) > most) < 1e-12 if most < len(atoms) else True
    assert max(abs(v) for s, v in terms.items() if len(s) == min(most, len(atoms))) > 1e-9
    assert network_energy(calculator, graph) == pytest.approx(explanation.total + explanation.residual, abs=1e-12)


def test_shipped_weights_have_no_term_beyond_their_walks() -> None:
    """Six interactions, walks of seven atoms: the term of all eight atoms of ethane is nothing."""
    calculator, atoms = load("organic", dtype="float64"), shaken_molecule("C2H6")
    terms = by_set(explain(atoms, NBodyRelevance(order=8), calculator))
    assert calculator.network.n_interactions == 6 and len(terms) == 2**8
    sizes = {n: max(abs(v) for s, v in terms.items() if len(s) == n) for n in (7, 8)}
    assert sizes[8] < 1e-11 < sizes[7]


@pytest.mark.parametrize("system", ["molecule", "crystal"])
def test_terms_are_masked_gradients(system: str, weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet-3"], dtype="float64")
    atoms = shaken_molecule("CH3OH") if system == "molecule" else crystal()
    graph = calculator.checked_graph(atoms)
    linear = calculator.network.linearize(graph)
    terms = by_set(explain(atoms, NBodyRelevance(order=3), calculator))
    terms[frozenset()] = 0.0
    for size in (1, 2, 3, len(atoms)):
        sets = np.array(list(itertools.combinations(range(len(atoms)), size)))
        masked = masked_relevances(calculator.network, graph, sets)
        np.testing.assert_allclose(subsets.subset_totals(graph, sets, linear), masked, rtol=0, atol=1e-12)
        if size <= 3:
            np.testing.assert_allclose([inside(terms, subset) for subset in sets], masked, rtol=0, atol=1e-12)


# --- completeness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["molecule", "crystal"])
def test_terms_and_biases_make_the_energy(calculator: NetworkCalculator, system: str) -> None:
    atoms = shaken_molecule("CH3OH") if system == "molecule" else crystal()
    atoms.calc = calculator
    graph = calculator.checked_graph(atoms)
    explanation = explain(atoms, NBodyRelevance(order=2))
    biases = bias_part(calculator.network, graph)
    assert abs(biases) > 1e-3
    assert explanation.residual == pytest.approx(biases, abs=1e-11)
    assert explanation.total + biases == pytest.approx(network_energy(calculator, graph), abs=1e-11)
    outside = calculator.network.energy.shift * len(atoms) + calculator.references(atoms).sum()
    assert explanation.total + explanation.residual + outside == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    share = biases / (network_energy(calculator, graph) + calculator.network.energy.shift * len(atoms))
    assert explanation.notes[0].startswith(f"Bias part {biases:+.3f} eV") and f" {share:.0%} of" in explanation.notes[0]


def test_without_biases_the_terms_are_the_energy(tmp_path: Path) -> None:
    networks = (random_schnet(2), random_behler_parrinello(4), *(resolve(name).network for name in SHIPPED))
    for number, network in enumerate(networks):
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith("bias") and "filter" not in name:
                    parameter.zero_()
            if isinstance(network, BehlerParrinelloNetwork):
                network.descriptor_mean.zero_()
        calculator = load(write_weights(tmp_path / str(number), network, statistics=False), dtype="float64")
        atoms = shaken_molecule("CH3OH")
        explanation = explain(atoms, NBodyRelevance(), calculator)
        assert abs(explanation.residual) < 1e-12
        energy = network_energy(calculator, calculator.checked_graph(atoms))
        assert explanation.total == pytest.approx(energy, abs=1e-12) and abs(energy) > 1e-3


def test_every_order_gives_the_same_terms(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    whole = by_set(explain(atoms, NBodyRelevance(order=99), calculator))
    assert abs(whole.pop(frozenset())) < 1e-12
    for order in (1, 2, 3):
        part = by_set(explain(atoms, NBodyRelevance(order=order), calculator))
        rest = part.pop(frozenset())
        assert set(part) == {s for s in whole if len(s) <= order}
        np.testing.assert_allclose(list(part.values()), [whole[s] for s in part], rtol=0, atol=1e-12)
        assert rest == pytest.approx(sum(v for s, v in whole.items() if len(s) > order), abs=1e-12)


def test_sets_that_fall_apart_have_no_term(calculator: NetworkCalculator) -> None:
    """Of two molecules at the edge of the cutoff some sets hold together; the others are sums of their parts."""
    atoms = shaken_molecule("H2O") + shaken_molecule("H2O", seed=1)
    atoms.positions[3:, 1] += calculator.network.cutoff - 0.5
    graph = calculator.checked_graph(atoms)
    linear = calculator.network.linearize(graph)
    terms = by_set(explain(atoms, NBodyRelevance(order=3), calculator))
    near = {frozenset(pair) for pair in zip(graph.centers.tolist(), graph.neighbors.tolist(), strict=True)}
    apart = [pair for pair in itertools.combinations(range(6), 2) if frozenset(pair) not in near]
    assert {s for s in terms if len(s) == 2} == near
    assert apart and any(min(pair) < 3 <= max(pair) for pair in near), "the molecules should be partly out of reach"
    everything = [list(s) for n in (1, 2, 3) for s in itertools.combinations(range(6), n)]
    for rows in everything:
        (direct,) = subsets.subset_totals(graph, np.array([rows]), linear)
        assert inside(terms, rows) == pytest.approx(direct, abs=1e-12)


# --- Behler-Parrinello -------------------------------------------------------------------------------------------------


def pair_and_triple_functions(
    network: BehlerParrinelloNetwork, vectors: np.ndarray, numbers: np.ndarray
) -> tuple[list[np.ndarray], dict[tuple[int, int], np.ndarray]]:
    """Symmetry functions of one atom by neighbor and by pair of neighbors, from the formulas."""
    d, cutoff, elements = network.descriptor, network.cutoff, list(network.elements)
    weighted, n_channels = not network.resolve_elements, 1 if not network.resolve_elements else len(network.elements)
    channels = [0 if weighted else elements.index(z) for z in numbers]
    channel_pairs = list(itertools.combinations_with_replacement(range(n_channels), 2))
    mu, widths = np.linspace(0.5, cutoff - 0.5, d.n_radial), np.linspace(1.0, cutoff - 0.5, d.n_angular)
    r = np.linalg.norm(vectors, axis=1)
    fc = 0.5 * (np.cos(np.pi * r / cutoff) + 1)
    pairs, triples = [], {}
    for j in range(len(r)):
        functions = np.zeros(d.n_functions)
        radial = np.exp(-0.5 * ((r[j] - mu) / (mu[1] - mu[0])) ** 2) * fc[j] * (numbers[j] if weighted else 1.0)
        functions[channels[j] * d.n_radial : (channels[j] + 1) * d.n_radial] = radial
        pairs.append(functions)
    for j, k in itertools.combinations(range(len(r)), 2):
        cosine = vectors[j] @ vectors[k] / (r[j] * r[k])
        weight = numbers[j] * numbers[k] if weighted else 1.0
        shape = weight * np.exp(-0.5 * (r[j] ** 2 + r[k] ** 2) / widths**2) * fc[j] * fc[k]
        blocks = [2.0 ** (1 - z) * (1 + sign * cosine) ** z * shape for z in d.zetas for sign in (1, -1)]
        functions = np.zeros(d.n_functions)
        at = d.n_radial * n_channels + channel_pairs.index(tuple(sorted((channels[j], channels[k])))) * len(blocks) * len(
            widths
        )
        functions[at : at + len(blocks) * len(widths)] = np.concatenate(blocks)
        triples[j, k] = functions
    return pairs, triples


@pytest.mark.parametrize("name", ["bp", "bp-elements", "organic-bp"])
def test_behler_parrinello_is_biases_pairs_and_triples(name: str, weights: dict[str, Path]) -> None:
    """Each atomic energy, and the terms, from pairs and triples in a slow loop and g by autograd."""
    calculator, atoms = load(weights[name], dtype="float64"), shaken_molecule("CH3OH")
    network, graph = calculator.network, calculator.checked_graph(atoms)
    frozen = with_frozen_gradients(network)
    inputs = network.descriptors(graph).detach().requires_grad_()
    energies = frozen.from_descriptors(graph, inputs).energies
    (g,) = torch.autograd.grad(energies.sum(), inputs)  # of atom i from its own row only
    slopes, expected = (g / network.descriptor_std).numpy(), {}
    for i in range(len(atoms)):
        others = [j for j in range(len(atoms)) if j != i]
        pairs, triples = pair_and_triple_functions(
            network, atoms.positions[others] - atoms.positions[i], atoms.numbers[others]
        )
        pair_terms = {frozenset((i, j)): slopes[i] @ f for j, f in zip(others, pairs, strict=True)}
        triple_terms = {frozenset((i, others[j], others[k])): slopes[i] @ f for (j, k), f in triples.items()}
        bias = (
            float((energies[i] - network.energy.shift - (g[i] * inputs[i]).sum()).detach())
            - slopes[i] @ network.descriptor_mean.numpy()
        )
        total = bias + sum(pair_terms.values()) + sum(triple_terms.values())
        assert total == pytest.approx(float(energies[i].detach()) - network.energy.shift, abs=1e-11)
        for atoms_of_term, value in {**pair_terms, **triple_terms}.items():
            expected[atoms_of_term] = expected.get(atoms_of_term, 0.0) + value
    terms = by_set(explain(atoms, NBodyRelevance(order=4), calculator))
    for atoms_of_term, value in terms.items():
        assert value == pytest.approx(expected.get(atoms_of_term, 0.0), abs=1e-11)
    assert sum(len(s) == 3 and abs(v) > 1e-6 for s, v in terms.items()) == 20


# --- symmetry, precision, refusals -------------------------------------------------------------------------------------


def test_terms_follow_the_atoms(calculator: NetworkCalculator) -> None:
    for atoms in (shaken_molecule("CH3OH"), crystal()):
        terms = by_set(explain(atoms, NBodyRelevance(), calculator))
        order = np.random.default_rng(1).permutation(len(atoms))
        moved = atoms[order]
        moved.rotate(40, (1, 2, 3), rotate_cell=True)
        moved.positions += [0.3, -2.0, 5.0]
        moved.wrap()
        other = by_set(explain(moved, NBodyRelevance(), calculator))
        for atoms_of_term, value in other.items():
            assert value == pytest.approx(terms[frozenset(int(order[i]) for i in atoms_of_term)], abs=1e-10)


def test_single_precision_agrees_within_the_rounding_it_states(weights: dict[str, Path]) -> None:
    for name in ("schnet-3", "bp"):
        atoms = shaken_molecule("CH3CH2OH")
        double, single = (explain(atoms, NBodyRelevance(), load(weights[name], dtype=d)) for d in ("float64", "float32"))
        assert not any("Single" in note for note in double.notes)
        (note,) = [note for note in single.notes if note.startswith("Single precision")]
        stated = float(note.split("near ")[1].split(" eV")[0])
        error = float(np.abs(single.values - double.values).max())
        assert 0 < error < 20 * stated and stated < 1e-4
        assert single.residual == pytest.approx(double.residual, abs=20 * stated)


def test_batches_and_graphs_without_mirrored_pairs_change_nothing(
    weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calculator, atoms = load(weights["schnet-2"], dtype="float64"), shaken_molecule("CH3CH2OH")
    reference = explain(atoms, NBodyRelevance(), calculator)
    monkeypatch.setattr(subsets, "BATCH", 20)
    monkeypatch.setattr(subsets, "BLOCK", 100)
    np.testing.assert_allclose(explain(atoms, NBodyRelevance(), calculator).values, reference.values, rtol=0, atol=1e-13)
    graph = calculator.checked_graph(atoms)
    assert graph.mirrored
    shuffled = torch.randperm(len(graph.centers), generator=torch.Generator().manual_seed(0))
    columns = {name: getattr(graph, name)[shuffled] for name in ("vectors", "centers", "neighbors")}
    directed = AtomGraph(**{**vars(graph), **columns, "mirrored": False})
    rows = np.array([[0, 4, 2], [-1, 3, 1], [8, -1, -1]])
    totals = [subsets.subset_totals(g, rows, calculator.network.linearize(g)) for g in (graph, directed)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=0, atol=1e-13)


def test_shipped_weights_conserve() -> None:
    for name in ("organic", "organic-bp"):
        calculator, atoms = load(name, dtype="float64"), hexagonal_benzene()
        explanation = explain(atoms, NBodyRelevance(), calculator)
        graph = calculator.checked_graph(atoms)
        biases = bias_part(calculator.network, graph)
        assert explanation.residual == pytest.approx(biases, abs=1e-10)
        assert explanation.total + biases == pytest.approx(network_energy(calculator, graph), abs=1e-10)
        pairs = terms_of(explanation)
        bonds = np.isclose(pairs.distances[:, 0], 1.395)
        assert bonds.sum() == 6
        np.testing.assert_allclose(pairs.values[bonds], pairs.values[bonds][0], rtol=0, atol=1e-11)


def test_an_ensemble_gives_mean_and_spread(weights: dict[str, Path]) -> None:
    paths = [weights["schnet-1"], weights["schnet-2"]]
    atoms = shaken_molecule("H2O")
    answers = [explain(atoms, NBodyRelevance(), load(path, dtype="float64")) for path in paths]
    both = explain(atoms, NBodyRelevance(), Ensemble([load(path, dtype="float64") for path in paths]))
    np.testing.assert_allclose(both.values, (answers[0].values + answers[1].values) / 2, atol=1e-12)
    np.testing.assert_allclose(both.uncertainty, np.abs(answers[0].values - answers[1].values) / np.sqrt(2), atol=1e-12)


class OnlySums(AtomisticNetwork):
    """A network of one number for each element, without a linearized form."""

    architecture = "only-sums"

    def __init__(self) -> None:
        super().__init__([1, 8], 3.0)
        self.has_charges = False
        self.values = nn.Parameter(torch.ones(2))

    def settings(self) -> dict[str, object]:
        return {}

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        values = self.values[self.element_index(graph.numbers)][:, None]
        return self.atomwise(graph, values, None, values)


def test_what_cannot_be_answered_is_refused(weights: dict[str, Path]) -> None:
    calculator, atoms = load(weights["schnet-1"]), molecule("H2O")
    for order in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="order must be an integer from 1 on, got"):
            explain(atoms, NBodyRelevance(order=order), calculator)  # type: ignore[arg-type]
    calculator.network = OnlySums()
    with pytest.raises(NotImplementedError, match=r"only-sums networks have no linearized form.*many-body expansion"):
        explain(atoms, NBodyRelevance(), calculator)


@pytest.mark.parametrize("name", ["schnet-2", "bp"])
def test_one_atom_is_its_own_only_term(name: str, weights: dict[str, Path]) -> None:
    calculator, atoms = load(weights[name], dtype="float64"), Atoms("O")
    explanation = explain(atoms, NBodyRelevance(), calculator)
    assert explanation.index.tolist() == [[0], [-1]] and explanation.values[1] == 0.0
    assert explanation.residual == pytest.approx(bias_part(calculator.network, calculator.checked_graph(atoms)), abs=1e-12)


def test_too_many_sets_are_refused_before_they_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = AtomGraph.from_atoms(bulk("C", "diamond", a=3.6, cubic=True).repeat(2), 5.0)
    monkeypatch.setattr(subsets, "MAX_CANDIDATES", 10_000)
    assert len(subsets.connected_subsets(graph, 2)) == 2
    with pytest.raises(ValueError, match=r"sets of 3 atoms, at most 1e\+04 fit. Take a lower order"):
        subsets.connected_subsets(graph, 3)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_connected_sets_are_those_that_pairs_hold_together(order: int) -> None:
    """Against a search from every set; more than 62 atoms make another kind of key."""
    chain = Atoms("H70", [[1.0 * i, 0.3 * (i % 2), 0.0] for i in range(70)])
    for atoms in (chain, chain[:9], Atoms("H")):
        graph = AtomGraph.from_atoms(atoms, 1.5)
        tables = subsets.connected_subsets(graph, order)
        for size, table in enumerate(tables, start=1):
            runs = [list(range(i, i + size)) for i in range(len(atoms) - size + 1)]  # of a chain, runs of neighbors
            assert table.tolist() == runs and table.shape == (len(runs), size)
        rng = np.random.default_rng(0)
        totals = [rng.normal(size=len(table)) for table in tables]
        terms = subsets.subset_terms(tables, totals, len(atoms))
        known = {
            tuple(row): v
            for table, values in zip(tables, terms, strict=True)
            for row, v in zip(table.tolist(), values, strict=True)
        }
        for table, values in zip(tables, totals, strict=True):
            for row, total in zip(table.tolist(), values, strict=True):
                parts = (p for n in range(1, len(row) + 1) for p in itertools.combinations(row, n))
                assert sum(known.get(part, 0.0) for part in parts) == pytest.approx(total, abs=1e-12)


# --- in short ----------------------------------------------------------------------------------------------------------


def invented(**about: object) -> Explanation:
    """Water in a box, so that its second hydrogen is nearest through the boundary."""
    facts = {
        "target": "energy", "level": "tuple", "units": "eV", "method": "NBodyRelevance", "residual": 2.0,
        "numbers": [8, 1, 1], "positions": [[0.5, 0, 0], [1.5, 0, 0], [9.5, 0, 0]], "cell": 10 * np.eye(3), "pbc": [1] * 3,
        "values": [1.0, -2.0, 0.5, 3.0, -4.0, 0.25, -1.25, 0.5],
        "index": [[0, -1, -1], [1, -1, -1], [2, -1, -1], [0, 1, -1], [0, 2, -1], [1, 2, -1], [0, 1, 2], [-1, -1, -1]],
    }  # fmt: skip
    return Explanation(**{**facts, **about})  # type: ignore[arg-type]


def test_terms_in_short() -> None:
    pairs, triples = terms_of(invented()), terms_of(invented(), order=3)
    np.testing.assert_allclose(pairs.distances[:, 0], [1.0, 1.0, 2.0])
    assert pairs.index.tolist() == [[0, 1], [0, 2], [1, 2]] and pairs.numbers.tolist() == [[8, 1], [8, 1], [1, 1]]
    np.testing.assert_allclose(triples.distances, [[1.0, 1.0, 2.0]])
    assert triples.values.tolist() == [-1.25] and terms_of(invented(), order=1).distances.shape == (3, 0)
    strengths = element_strengths(invented())
    assert strengths.labels == ("H-H", "H-O") and strengths.counts.tolist() == [1, 2]
    assert strengths.sums.tolist() == [0.25, -1.0] and strengths.absolute.tolist() == [0.25, 7.0]
    shares = order_shares(invented())
    assert shares.orders.tolist() == [1, 2, 3] and shares.counts.tolist() == [3, 3, 1]
    assert shares.sums.tolist() == [-0.5, -0.75, -1.25] and shares.absolute.tolist() == [3.5, 7.25, 1.25]
    assert (shares.rest, shares.residual, shares.everything) == (0.5, 2.0, 14.5)
    assert shares.shares.sum() + shares.rest_share + shares.residual_share == pytest.approx(1.0)
    assert shares.residual_share == pytest.approx(2.0 / 14.5)


def test_terms_in_short_refuse_what_they_cannot_read() -> None:
    with pytest.raises(ValueError, match=r"NBodyRelevance gave terms of \[1, 2, 3\] atoms, none of 4"):
        terms_of(invented(), order=4)
    atomic = invented(level="atom", values=[1.0, 2.0, 3.0], index=None, method="AtomicEnergies")
    with pytest.raises(ValueError, match="AtomicEnergies explains by atom, not by tuples"):
        order_shares(atomic)


def test_saved_terms_come_back(tmp_path: Path, weights: dict[str, Path]) -> None:
    explanation = explain(molecule("H2O"), NBodyRelevance(), load(weights["schnet-2"]))
    explanation.save(tmp_path / "terms.json")
    again = Explanation.load(tmp_path / "terms.json")
    np.testing.assert_array_equal(again.values, explanation.values)
    np.testing.assert_array_equal(again.index, explanation.index)
    assert again.residual == explanation.residual and again.notes == explanation.notes
