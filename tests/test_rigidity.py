"""Rigidity and extrapolation: identities of the linear last layer, and what explainers make of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.cluster import Icosahedron
from explained import SHIPPED, write_weights
from skmatter.metrics import local_prediction_rigidity
from systems import random_behler_parrinello, random_schnet, shaken_molecule
from training_data import labeled

from ase_xai import NetworkCalculator, explain, load
from ase_xai.explainers import AtomicEnergies, ExtrapolationFlags, LatentCharges, LocalRigidity, PredictionUncertainty
from ase_xai.explainers.rigidity import FIRMEST, last_layer_rows
from ase_xai.networks import BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.statistics import HeadStatistics, TrainingStatistics, placed
from ase_xai.training import GraphLoader, LossWeights, StructureSet, split_by_group
from ase_xai.training.summary import summarize
from ase_xai.weights import ModelCard, save_weights

TARGETS = ("energy", "charge")


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> StructureSet:
    return labeled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(structures: StructureSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files of random networks with the statistics of real, if few, structures."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name, network in (("schnet", random_schnet(1)), ("bp", random_behler_parrinello(3))):
        split = split_by_group(structures, validation=0.25, test=0.0, seed=0)
        made = summarize(network, GraphLoader(structures, network.cutoff), split, LossWeights(forces=0.0))
        found[name] = folder / name
        save_weights(found[name], network, ModelCard.describe(network, reference_kind="invented"), made)
    return found | {name: Path(name) for name in SHIPPED}


@pytest.fixture(params=["schnet", "bp"])
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(str(weights[request.param]), dtype="float64")


WITH_SHIPPED = pytest.mark.parametrize("calculator", ["schnet", "bp", *SHIPPED], indirect=True)


def head(rows: np.ndarray, ridge: float = 0.0, scale: float = 1.0) -> HeadStatistics:
    """Statistics of training rows X (n, D)."""
    x = torch.as_tensor(rows, dtype=torch.float64)
    zero, usual = torch.zeros(1, dtype=torch.float64), torch.zeros((1, 3), dtype=torch.float64)
    return HeadStatistics(zero, zero, x.T @ x, zero + ridge, zero + scale, usual)


def leverages(statistics: HeadStatistics, rows: np.ndarray) -> np.ndarray:
    return statistics.leverages(torch.as_tensor(rows, dtype=torch.float64)).numpy()


# --- identities of linear regression -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 7), (200, 30)])
def test_leverages_of_training_structures_sum_to_the_rank(n: int, d: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, d))
    h = leverages(head(x), x)
    assert h.sum() == pytest.approx(d, rel=1e-9)
    assert (h <= 1.0 + 1e-10).all()
    np.testing.assert_allclose(h, np.diag(x @ np.linalg.pinv(x)), atol=1e-8)


def test_leverages_of_few_structures_sum_to_their_number() -> None:
    """Rank 5 of 9: the smallest stable ridge stands for the pseudo-inverse."""
    x = np.random.default_rng(1).normal(size=(5, 9))
    ridge = 1e-9 * (x**2).sum() / 9
    h = leverages(head(x, ridge), x)
    assert h.sum() == pytest.approx(5, abs=1e-6)
    assert (h < 1.0).all()


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_an_atom_that_is_a_training_structure_has_a_rigidity_of_at_least_one(ridge: float) -> None:
    rng = np.random.default_rng(2)
    atom = rng.normal(size=6)
    x = np.vstack([atom, rng.normal(size=(20, 6)) + rng.normal(size=6)])
    assert 1.0 / leverages(head(x, ridge), atom[None])[0] >= 1.0 - 1e-12
    far = 30 * rng.normal(size=(1, 6))
    assert 1.0 / leverages(head(x, ridge), far)[0] < 1.0


@pytest.mark.parametrize("epsilon", [0.01, -0.7, 3.0])
def test_forcing_a_local_prediction_costs_half_its_rigidity_times_the_square(epsilon: float) -> None:
    """By constrained least squares, Lagrange multiplier included, against ½·LPR·ε²: exact, for any size of ε."""
    rng = np.random.default_rng(3)
    x, y, f, ridge = rng.normal(size=(25, 6)), rng.normal(size=25), rng.normal(size=6), 0.4

    def loss(w: np.ndarray) -> float:
        return 0.5 * float(((x @ w - y) ** 2).sum()) + 0.5 * ridge * float(w @ w)

    hessian = x.T @ x + ridge * np.eye(6)
    best = np.linalg.solve(hessian, x.T @ y)
    bordered = np.block([[hessian, f[:, None]], [f[None, :], np.zeros((1, 1))]])
    forced = np.linalg.solve(bordered, np.concatenate([x.T @ y, [f @ best + epsilon]]))[:6]
    assert f @ forced == pytest.approx(f @ best + epsilon)
    rigidity = 1.0 / leverages(head(x, ridge), f[None])[0]
    assert loss(forced) - loss(best) == pytest.approx(0.5 * rigidity * epsilon**2, rel=1e-9)


def test_drawing_weights_reproduces_sigma() -> None:
    rng = np.random.default_rng(4)
    x, rows, ridge, alpha = rng.normal(size=(30, 5)), rng.normal(size=(4, 5)), 0.2, 0.3
    covariance = alpha**2 * np.linalg.inv(x.T @ x + ridge * np.eye(5))
    drawn = rng.multivariate_normal(np.zeros(5), covariance, size=40_000) @ rows.T
    sigma = alpha * np.sqrt(leverages(head(x, ridge), rows))
    np.testing.assert_allclose(drawn.std(axis=0), sigma, rtol=0.015)
    together = alpha * np.sqrt(leverages(head(x, ridge), rows.sum(axis=0)[None]))[0]
    assert drawn.sum(axis=1).std() == pytest.approx(together, rel=0.015)


def test_the_variance_of_a_sum_is_the_sum_of_covariances() -> None:
    """σ_A² = α²·Σ_ij f_i C f_j with an explicit inverse, and σ_A ≤ Σσ_i."""
    rng = np.random.default_rng(6)
    x, rows, ridge = rng.normal(size=(30, 5)), rng.normal(size=(4, 5)), 0.2
    covariance = rows @ np.linalg.inv(x.T @ x + ridge * np.eye(5)) @ rows.T
    together, singles = leverages(head(x, ridge), rows.sum(axis=0)[None])[0], leverages(head(x, ridge), rows)
    assert together == pytest.approx(covariance.sum(), rel=1e-10)
    np.testing.assert_allclose(singles, np.diag(covariance), rtol=1e-10)
    assert np.sqrt(together) <= np.sqrt(singles).sum()


def test_agreement_with_scikit_matter() -> None:
    """Its LPR uses the mean over the atoms of a structure and features over s = sqrt(Σ_k mean f_k²). With structures of N
    atoms each, LPR = N²·LPR(scikit-matter) for ς² = N²·s²·λ; with means as rows, LPR the same for ς² = s²·λ."""
    rng = np.random.default_rng(5)
    test = [rng.normal(size=(3, 6)), rng.normal(size=(7, 6))]
    for sizes, power in (([4] * 20, 2), (list(rng.integers(2, 9, 20)), 0)):
        train = [rng.normal(size=(n, 6)) + rng.normal(size=6) for n in sizes]
        lam = 3e-3
        theirs, missing = local_prediction_rigidity(train, test, lam)
        assert missing == 0
        s2 = (np.vstack(train) ** 2).mean(axis=0).sum()
        n = sizes[0] ** power
        rows = [f.sum(axis=0) if power else f.mean(axis=0) for f in train]
        ours = 1.0 / leverages(head(np.array(rows), n * s2 * lam), np.vstack(test))
        np.testing.assert_allclose(ours, n * np.concatenate(theirs), rtol=1e-8)


# --- explainers --------------------------------------------------------------------------------------------------------


def rows_of(calculator: NetworkCalculator, atoms: Atoms, target: str) -> np.ndarray:
    graph = calculator.checked_graph(atoms)
    with torch.no_grad():
        return last_layer_rows(calculator, graph, calculator.network(graph), target).numpy()


def statistics_of(calculator: NetworkCalculator, target: str) -> HeadStatistics:
    return calculator.statistics.energies if target == "energy" else calculator.statistics.charges


@WITH_SHIPPED
@pytest.mark.parametrize("target", TARGETS)
def test_sigma_of_atoms_and_of_the_whole(calculator: NetworkCalculator, target: str) -> None:
    """σ_A² = α²·Σ_ij f_i C f_j from the inverse matrix; σ_A ≤ Σσ_i; charges sum to a constant, without any doubt."""
    atoms = shaken_molecule("CH3CH2OH")
    statistics, rows = statistics_of(calculator, target), rows_of(calculator, atoms, target)
    covariance = rows @ np.linalg.solve(statistics.gram.numpy() + float(statistics.ridge) * np.eye(rows.shape[1]), rows.T)
    covariance *= float(statistics.scale)
    explanation = explain(atoms, AtomicEnergies() if target == "energy" else LatentCharges(), calculator)
    sigma = explanation.uncertainty
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(covariance)), rtol=1e-4)
    whole = explain(atoms, PredictionUncertainty(target), calculator)
    assert whole.labels == ("all atoms",) and whole.units == explanation.units
    assert whole.values[0] <= sigma.sum() * (1 + 1e-9)
    groups = {"methyl": [0, 4, 5, 6], "rest": [1, 2, 3, 7, 8]}
    parts = explain(atoms, PredictionUncertainty(target, groups), calculator)
    for value, group in zip(parts.values, groups.values(), strict=True):
        assert value == pytest.approx(np.sqrt(covariance[np.ix_(group, group)].sum()), rel=1e-4)
        assert value <= sigma[group].sum() * (1 + 1e-9)
    if target == "charge":
        assert whole.values[0] < 1e-6 * sigma.min()
        assert parts.values[0] == pytest.approx(parts.values[1], rel=1e-6)
    else:
        assert whole.values[0] == pytest.approx(np.sqrt(covariance.sum()), rel=1e-4)
    singles = explain(atoms, PredictionUncertainty(target, {str(i): [i] for i in range(9)}), calculator)
    np.testing.assert_allclose(singles.values, sigma, rtol=1e-9)


@WITH_SHIPPED
def test_predictions_are_linear_in_the_weights_that_sigma_is_about(calculator: NetworkCalculator) -> None:
    """Changing the last layer by δ changes E_i by s·f_i·δ and q_i by (f_i - f̄)·δ, exactly."""
    atoms = shaken_molecule("CH3CH2NH2")
    graph, rng = calculator.checked_graph(atoms), np.random.default_rng(0)
    twin = copy.deepcopy(calculator.network)
    for target, field in (("energy", "energies"), ("charge", "charges")):
        rows = rows_of(calculator, atoms, target)
        delta = rng.normal(size=rows.shape[1])
        if isinstance(twin, SchNetNetwork):
            layers = [twin.energy_readout[-1] if target == "energy" else twin.charge_readout[-1]]
        else:
            layers = list(twin.energy_readouts if target == "energy" else twin.charge_readouts)
        with torch.no_grad():
            before = getattr(twin(graph), field).clone()
            for layer, change in zip(layers, np.split(delta, len(layers)), strict=True):
                layer.weight += torch.from_numpy(change[None, :-1])
                layer.bias += float(change[-1])
            after = getattr(twin(graph), field)
        scale = twin.energy.scale if target == "energy" else 1.0
        np.testing.assert_allclose((after - before).numpy(), scale * rows @ delta, atol=1e-10)


def some_structures() -> list[Atoms]:
    names = ("CH3CH2OH", "CH3OH", "CH3CHO", "H2CO", "CH3CN", "HCN", "C6H6", "H2O", "CH4", "NH3")
    return [*(shaken_molecule(name) for name in names), Atoms("O")]


@WITH_SHIPPED
def test_leverages_of_learned_features_sum_to_the_rank(calculator: NetworkCalculator) -> None:
    """Summed last-layer inputs of structures on their first four principal axes; the last structure is one atom."""
    x = np.stack([rows_of(calculator, atoms, "energy").sum(axis=0) for atoms in some_structures()])
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:4].T
    h = leverages(head(x), x)
    assert h.sum() == pytest.approx(4, rel=1e-8) and (h <= 1 + 1e-10).all()
    np.testing.assert_allclose(h, np.diag(x @ np.linalg.pinv(x)), atol=1e-8)
    assert 1.0 / h[-1] >= 1.0


@WITH_SHIPPED
def test_agreement_with_scikit_matter_on_learned_features(calculator: NetworkCalculator) -> None:
    """With means over atoms as rows, LPR is the same for ς² = s²·λ, s² = Σ_k mean f_k²."""
    features, lam = [rows_of(calculator, atoms, "energy") for atoms in some_structures()], 3e-3
    theirs, _ = local_prediction_rigidity(features[:-2], features[-2:], lam)
    s2 = (np.vstack(features[:-2]) ** 2).mean(axis=0).sum()
    means = np.array([f.mean(axis=0) for f in features[:-2]])
    ours = 1.0 / leverages(head(means, s2 * lam), np.vstack(features[-2:]))
    np.testing.assert_allclose(ours, np.concatenate(theirs), rtol=1e-8)


@WITH_SHIPPED
@pytest.mark.parametrize("target", TARGETS)
def test_rigidity_and_sigma_of_the_last_layer(calculator: NetworkCalculator, target: str) -> None:
    """What weights that keep the loss low leave open: the cheapest change of the last layer that moves one atomic value by
    ε costs ½·LPR·ε², and weights drawn from N(ŵ, α²C) scatter the values by σ. As exact as C itself, an inverse to 1e-6."""
    atoms, statistics = shaken_molecule("CH3CH2OH"), statistics_of(calculator, target)
    rows, size = rows_of(calculator, atoms, target), len(statistics.gram)
    hessian = statistics.gram.numpy() + float(statistics.ridge) * np.eye(size)
    bordered = np.block([[hessian, rows[:1].T], [rows[:1], np.zeros((1, 1))]])
    change = np.linalg.solve(bordered, np.append(np.zeros(size), 0.3))[:size]
    cost = 0.5 * change @ hessian @ change
    assert cost == pytest.approx(0.5 / leverages(statistics, rows[:1])[0] * 0.3**2, rel=1e-4)
    normal = np.random.default_rng(0).normal(size=(size, 4000))
    drawn = rows @ np.linalg.solve(np.linalg.cholesky(hessian).T, normal) * np.sqrt(float(statistics.scale))
    sigma = explain(atoms, AtomicEnergies() if target == "energy" else LatentCharges(), calculator).uncertainty
    np.testing.assert_allclose(drawn.std(axis=1), sigma, rtol=0.06)


@pytest.mark.parametrize("target", TARGETS)
def test_local_rigidity_is_relative_to_the_usual_atom(
    calculator: NetworkCalculator, structures: StructureSet, target: str
) -> None:
    """Over all training atoms of an element the median is 1 and one in a hundred is not trusted."""
    split = split_by_group(structures, validation=0.25, test=0.0, seed=0)
    values: dict[int, list[float]] = {}
    trusted: dict[int, list[bool]] = {}
    for index in split.training:
        rows = slice(structures.offsets[index], structures.offsets[index + 1])
        atoms = Atoms(structures.numbers[rows], structures.positions[rows])
        found = explain(atoms, LocalRigidity(target), calculator)
        for z, value, mask in zip(atoms.numbers, found.values, found.mask, strict=True):
            values.setdefault(z, []).append(value)
            trusted.setdefault(z, []).append(mask)
    for z in values:
        assert np.median(values[z]) == pytest.approx(1.0, rel=0.3)  # inputs in single precision when they were summarized
        assert 0.9 <= np.mean(trusted[z]) < 1.0 or len(values[z]) < 50
    assert found.target == f"rigidity of {target}" and found.gauge == "parametrization" and found.units == "1"


def test_unlike_atoms_are_looser(calculator: NetworkCalculator) -> None:
    """A dense ball of carbon with one oxygen, against a molecule of the kind trained on."""
    usual, strange = molecule("CH3OH"), Icosahedron("C", 2, latticeconstant=2.0)
    strange.numbers[3] = 8
    for target in TARGETS:
        near, far = (explain(atoms, LocalRigidity(target), calculator) for atoms in (usual, strange))
        assert far.values.min() < 0.5 * near.values.min()
        assert not far.mask.all()
    sigma = [explain(a, PredictionUncertainty(), calculator).values[0] for a in (usual, strange)]
    assert sigma[1] > 1.5 * sigma[0]


def test_charges_that_symmetry_fixes_are_as_firm_as_can_be(calculator: NetworkCalculator) -> None:
    """One atom, or two equal ones: their charges are Q/N whatever the weights, and no division by zero spoils the answer."""
    for atoms in (Atoms("O"), Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])):
        found = explain(atoms, LocalRigidity("charge"), calculator)
        np.testing.assert_array_equal(found.values, FIRMEST)
        assert found.mask.all()
        assert explain(atoms, LatentCharges(), calculator).uncertainty.max() < 1e-6


def test_elements_without_training_atoms_are_not_trusted(structures: StructureSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    elements = [1, 6, 7, 8, 17]
    split = split_by_group(structures, validation=0.25, test=0.0, seed=0)
    for number, network in enumerate(
        (SchNetNetwork(elements, n_features=16, n_interactions=1), BehlerParrinelloNetwork(elements))
    ):
        made = summarize(network, GraphLoader(structures, network.cutoff), split, LossWeights(forces=0.0))
        save_weights(tmp_path / str(number), network, ModelCard.describe(network, reference_kind="none"), made)
        calculator = load(tmp_path / str(number), dtype="float64")
        atoms = molecule("CH3Cl")
        chlorine = atoms.numbers == 17
        for target in TARGETS:
            found = explain(atoms, LocalRigidity(target), calculator)
            assert (found.values[chlorine] == 0).all() and not found.mask[chlorine].any()
        flags = explain(atoms, ExtrapolationFlags(), calculator)
        assert not flags.mask[chlorine].any()
        assert any("No training structure held Cl" in note for note in flags.notes)
        by_rigidity = explain(atoms, ExtrapolationFlags("rigidity"), calculator)
        assert np.isinf(by_rigidity.values[chlorine]).all()


# --- extrapolation -----------------------------------------------------------------------------------------------------


def test_training_atoms_lie_inside_and_others_do_not(calculator: NetworkCalculator, structures: StructureSet) -> None:
    split = split_by_group(structures, validation=0.25, test=0.0, seed=0)
    by_range = isinstance(calculator.network, BehlerParrinelloNetwork)
    inside = []
    for index in split.training:
        rows = slice(structures.offsets[index], structures.offsets[index + 1])
        inside += explain(
            Atoms(structures.numbers[rows], structures.positions[rows]), ExtrapolationFlags(), calculator
        ).mask.tolist()
    assert np.mean(inside) == 1.0 if by_range else 0.95 < np.mean(inside) < 1.0
    flags = explain(Icosahedron("C", 2, latticeconstant=2.0), ExtrapolationFlags(), calculator)
    assert not flags.mask.all() and "Outside: C0" in flags.notes[1]
    assert flags.gauge == ("invariant" if by_range else "parametrization")
    assert flags.values.max() >= 1


def test_flags_count_functions_by_hand(weights: dict[str, Path]) -> None:
    """The range is set so that known numbers of functions of known atoms lie outside, above or below."""
    loaded = load(weights["bp"], dtype="float64")
    atoms = molecule("CH3OH")
    with torch.no_grad():
        values = loaded.network.descriptors(loaded.checked_graph(atoms)).numpy()
    elements = list(loaded.network.elements)
    wide = np.stack([np.full((4, 32), -1e3), np.full((4, 32), 1e3)], axis=1)
    carbon, oxygen = elements.index(6), elements.index(8)
    wide[carbon, 1, :3] = values[0, :3] - 0.5  # three functions of the carbon lie above
    wide[oxygen, 0, [4, 9]] = values[1, [4, 9]] + 0.5  # two of the oxygen below
    wide[oxygen, 1, 7] = values[1, 7] - 1e-5  # and one within rounding
    loaded.statistics = replace(loaded.statistics, feature_range=torch.from_numpy(wide))
    flags = explain(atoms, ExtrapolationFlags(), loaded)
    assert flags.values.tolist() == [3.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert flags.mask.tolist() == [False, False, True, True, True, True]
    assert flags.notes[1] == "Outside: C0, O1."


def test_flags_by_rigidity_are_leverages_over_the_99th_percentile(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    flags = explain(atoms, ExtrapolationFlags("rigidity"), calculator)
    statistics = calculator.statistics.energies
    element = [calculator.network.elements.index(z) for z in atoms.numbers]
    usual = statistics.leverage.numpy()[element]
    relative = explain(atoms, LocalRigidity(), calculator).values
    np.testing.assert_allclose(flags.values, usual[:, 0] / relative / usual[:, 1], rtol=1e-9)


def test_without_statistics_the_question_is_refused(tmp_path: Path) -> None:
    for name, network in (("schnet", random_schnet(1)), ("bp", random_behler_parrinello(3))):
        calculator = load(write_weights(tmp_path / name, network, statistics=False), dtype="float64")
        for explainer in (ExtrapolationFlags(), LocalRigidity(), LocalRigidity("charge"), PredictionUncertainty()):
            with pytest.raises(ValueError, match=rf"{name}.*no training statistics.*ase-xai train"):
                explain(molecule("H2O"), explainer, calculator)
        assert explain(molecule("H2O"), AtomicEnergies(), calculator).uncertainty is None
        assert explain(molecule("H2O"), LatentCharges(), calculator).uncertainty is None


def test_what_the_weights_do_not_know_is_refused(weights: dict[str, Path]) -> None:
    schnet = load(weights["schnet"], dtype="float64")
    with pytest.raises(ValueError, match=r"no training ranges.*by='rigidity'"):
        explain(molecule("H2O"), ExtrapolationFlags("range"), schnet)
    with pytest.raises(ValueError, match="by must be one of"):
        ExtrapolationFlags("distance")
    for explainer in (LocalRigidity, PredictionUncertainty):
        with pytest.raises(ValueError, match="target must be one of energy, charge, got 'dipole'"):
            explainer("dipole")
    schnet.statistics = TrainingStatistics(
        *(getattr(schnet.statistics, n) for n in ("n_atoms", "n_structures", "energies")), None, None
    )
    with pytest.raises(ValueError, match="no training statistics of its charge readout"):
        explain(molecule("H2O"), LocalRigidity("charge"), schnet)
    with pytest.raises(ValueError, match="every atom once"):
        explain(molecule("H2O"), PredictionUncertainty(groups={"O": [0]}), schnet)


def test_statistics_of_another_network_are_noticed(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    calculator.statistics = load(weights["bp"]).statistics
    with pytest.raises(ValueError, match="9 inputs, the training statistics are of 44"):
        explain(molecule("H2O"), LocalRigidity(), calculator)


def test_a_network_that_does_not_tell_has_no_rigidity(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    forward = type(calculator.network).forward

    class Silent(SchNetNetwork):
        def forward(self, graph):
            return replace(forward(self, graph), energy_inputs=None, charge_inputs=None)

    calculator.network.__class__ = Silent
    for explainer in (LocalRigidity(), PredictionUncertainty("charge"), ExtrapolationFlags()):
        with pytest.raises(ValueError, match="does not tell what its last layer gets"):
            explain(molecule("H2O"), explainer, calculator)
    assert explain(molecule("H2O"), AtomicEnergies(), calculator).uncertainty is None


def test_float32_rigidity_is_that_of_float64(weights: dict[str, Path]) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    for name in weights:
        one, other = (explain(atoms, LocalRigidity(), load(weights[name], dtype=d)).values for d in ("float32", "float64"))
        np.testing.assert_allclose(one, other, rtol=0.05)


def test_placing_is_by_the_atoms_own_element() -> None:
    inputs = torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    element = torch.tensor([1, 0])
    assert placed(inputs, element, 2, by_element=False).tolist() == [[2.0, 3.0, 1.0], [4.0, 5.0, 1.0]]
    assert placed(inputs, element, 2, by_element=True).tolist() == [[0, 0, 0, 2, 3, 1], [4, 5, 1, 0, 0, 0]]
