"""Many-body terms and Shapley values against energies of molecules that are really cut up."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from explained import NETWORKS, SHIPPED, write_shipped, write_weights
from systems import random_schnet, shaken_molecule

from ase_xai import Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import subsets
from ase_xai.explainers.many_body import ManyBodyExpansion, ShapleyValues, all_subsets, shapley_of
from ase_xai.explainers.terms import order_shares, terms_of

Subset = tuple[int, ...]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: write_weights(folder / name, make()) for name, make in NETWORKS.items()}
    return paths | {name: write_shipped(folder / name, name) for name in SHIPPED}


@pytest.fixture(params=list(NETWORKS))
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


WITH_SHIPPED = pytest.mark.parametrize("calculator", [*NETWORKS, *SHIPPED], indirect=True)


def interaction(calculator: NetworkCalculator, atoms: Atoms) -> float:
    """E - ΣE0 as the calculator's user gets it; 0 of no atoms."""
    if not len(atoms):
        return 0.0
    return float(calculator.get_potential_energy(atoms) - calculator.references(atoms).sum())


def parts_of(calculator: NetworkCalculator, atoms: Atoms) -> dict[Subset, float]:
    """v of every set of atoms, each cut out with ASE and evaluated alone."""
    sets = [s for n in range(len(atoms) + 1) for s in itertools.combinations(range(len(atoms)), n)]
    return {s: interaction(calculator, atoms[list(s)]) for s in sets}


def alternating(parts: dict[Subset, float], subset: Subset) -> float:
    """Σ_{U⊆S} (-1)^(|S|-|U|) v(U)."""
    inner = [u for n in range(len(subset) + 1) for u in itertools.combinations(subset, n)]
    return math.fsum((-1) ** (len(subset) - len(u)) * parts[u] for u in inner)


def by_set(explanation: Explanation) -> dict[Subset, float]:
    return {
        tuple(int(i) for i in row if i >= 0): value for row, value in zip(explanation.index, explanation.values, strict=True)
    }


def stretched() -> Atoms:
    """Two waters, some of whose atoms are out of reach of each other."""
    atoms = shaken_molecule("H2O") + shaken_molecule("H2O", seed=1)
    atoms.positions[3:, 1] += 4.4
    return atoms


# --- many-body expansion -----------------------------------------------------------------------------------------------


@WITH_SHIPPED
@pytest.mark.parametrize("make", [lambda: shaken_molecule("H2CO"), stretched], ids=["formaldehyde", "two waters"])
def test_terms_are_those_of_molecules_cut_up(calculator: NetworkCalculator, make) -> None:
    atoms = make()
    parts = parts_of(calculator, atoms)
    found = by_set(explain(atoms, ManyBodyExpansion(order=len(atoms)), calculator))
    for subset in parts:
        assert found.pop(subset, 0.0) == pytest.approx(alternating(parts, subset), abs=1e-10)
    assert not found


@WITH_SHIPPED
def test_all_orders_sum_to_the_energy(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    energy = interaction(calculator, atoms)
    whole = explain(atoms, ManyBodyExpansion(order=6), calculator)
    assert whole.total == pytest.approx(energy, abs=1e-10) and abs(whole.residual) < 1e-10
    for order in (1, 2, 3):
        part = explain(atoms, ManyBodyExpansion(order=order), calculator)
        sizes = (whole.index >= 0).sum(axis=1)
        np.testing.assert_allclose(part.values, whole.values[sizes <= order], rtol=0, atol=1e-10)
        assert part.residual == pytest.approx(whole.values[sizes > order].sum(), abs=1e-10)
        assert part.total + part.residual == pytest.approx(energy, abs=1e-10)
        shares = order_shares(part)
        assert shares.orders.tolist() == list(range(1, order + 1)) and shares.rest == 0.0
        assert f"all orders {energy:+.3f}" in part.notes[0]
    assert (whole.gauge, whole.units, whole.level) == ("invariant", "eV", "tuple")
    assert "outside the training data" in " ".join(whole.notes)


def test_pairs_beyond_the_cutoff_have_no_term(calculator: NetworkCalculator) -> None:
    atoms = stretched()
    parts = parts_of(calculator, atoms)
    pairs = terms_of(explain(atoms, ManyBodyExpansion(order=2), calculator))
    near = {tuple(row) for row in pairs.index.tolist()}
    far = [pair for pair in itertools.combinations(range(6), 2) if pair not in near]
    assert far and all(atoms.get_distance(*pair) >= calculator.network.cutoff for pair in far)
    assert all(abs(alternating(parts, pair)) < 1e-11 for pair in far)
    assert (pairs.distances < calculator.network.cutoff).all()


def test_message_passing_has_terms_beyond_its_walks(weights: dict[str, Path]) -> None:
    """Two interactions, yet terms of four and five atoms: not the orders of n-body relevance."""
    shares = order_shares(explain(shaken_molecule("CH4"), ManyBodyExpansion(5), load(weights["schnet"], dtype="float64")))
    assert shares.absolute[3] > 1e-6 and shares.absolute[4] > 1e-6


def test_terms_of_a_crystal_take_atoms_out_with_their_images(calculator: NetworkCalculator) -> None:
    atoms = bulk("C", "diamond", a=3.6) + Atoms("O", [[1.9, 1.1, 1.2]])
    parts = parts_of(calculator, atoms)
    found = by_set(explain(atoms, ManyBodyExpansion(order=3), calculator))
    assert len(found) == 7
    for subset, value in found.items():
        assert value == pytest.approx(alternating(parts, subset), abs=1e-10)


def test_terms_follow_the_atoms(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    terms = by_set(explain(atoms, ManyBodyExpansion(), calculator))
    order = np.random.default_rng(1).permutation(len(atoms))
    moved = atoms[order]
    moved.rotate(70, (3, 1, 2))
    for subset, value in by_set(explain(moved, ManyBodyExpansion(), calculator)).items():
        assert value == pytest.approx(terms[tuple(sorted(int(order[i]) for i in subset))], abs=1e-10)


# --- Shapley values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: shaken_molecule("H2CO"), stretched], ids=["formaldehyde", "two waters"])
def test_exact_values_are_the_mean_over_all_orders_of_arrival(calculator: NetworkCalculator, make) -> None:
    """And Σ_{S∋i} d(S)/|S|, from the many-body terms."""
    atoms = make()
    parts = parts_of(calculator, atoms)
    mean = np.zeros(len(atoms))
    for order in itertools.permutations(range(len(atoms))):
        for k, atom in enumerate(order):
            mean[atom] += parts[tuple(sorted(order[: k + 1]))] - parts[tuple(sorted(order[:k]))]
    mean /= math.factorial(len(atoms))
    explanation = explain(atoms, ShapleyValues(), calculator)
    np.testing.assert_allclose(explanation.values, mean, rtol=0, atol=1e-10)
    shared = np.zeros(len(atoms))
    for subset, value in by_set(explain(atoms, ManyBodyExpansion(order=len(atoms)), calculator)).items():
        shared[list(subset)] += value / len(subset)
    np.testing.assert_allclose(explanation.values, shared, rtol=0, atol=1e-10)
    assert explanation.total == pytest.approx(interaction(calculator, atoms), abs=1e-10)
    assert abs(explanation.residual) < 1e-10
    assert explanation.uncertainty is None and explanation.seed is None


@WITH_SHIPPED
def test_equal_atoms_get_equal_values(calculator: NetworkCalculator) -> None:
    explanation = explain(molecule("CH4"), ShapleyValues(), calculator)
    values = explanation.values
    assert explanation.total == pytest.approx(interaction(calculator, molecule("CH4")), abs=1e-10)
    np.testing.assert_allclose(values[1:], values[1], rtol=0, atol=1e-10)
    assert abs(values[0] - values[1]) > 1e-3


@WITH_SHIPPED
def test_an_atom_out_of_reach_gets_its_energy_alone(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("H2O") + Atoms("C", [[20.0, 0.0, 0.0]])
    alone = interaction(calculator, Atoms("C"))
    explanation = explain(atoms, ShapleyValues(), calculator)
    assert explanation.values[3] == pytest.approx(alone, abs=1e-10) and abs(alone) > 1e-3
    sampled = explain(atoms, ShapleyValues(max_exact=0, n_permutations=5), calculator)
    assert sampled.values[3] == pytest.approx(alone, abs=1e-10) and sampled.uncertainty[3] < 1e-10


def test_sampling_is_unbiased_adds_up_and_repeats_itself(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    exact = explain(atoms, ShapleyValues(), calculator)
    errors = []
    for seed in range(8):
        sampler = ShapleyValues(max_exact=5, n_permutations=40, seed=seed)
        sampled = explain(atoms, sampler, calculator)
        assert sampled.total == pytest.approx(exact.total, abs=1e-10) and abs(sampled.residual) < 1e-10
        assert sampled.seed == seed and "40 random orders" in sampled.notes[0]
        errors.append((sampled.values - exact.values) / sampled.uncertainty)
    np.testing.assert_array_equal(explain(atoms, sampler, calculator).values, sampled.values)
    assert 0.5 < np.std(errors) < 1.6 and np.abs(errors).max() < 5  # 48 deviations in units of the stated standard error


def test_batches_change_nothing(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calculator, atoms = load(weights["schnet"], dtype="float64"), shaken_molecule("CH3OH")
    questions = (ManyBodyExpansion(), ShapleyValues(), ShapleyValues(max_exact=0, n_permutations=3))
    before = [explain(atoms, question, calculator) for question in questions]
    monkeypatch.setattr(subsets, "BATCH", 15)
    monkeypatch.setattr(subsets, "BLOCK", 80)
    for question, expected in zip(questions, before, strict=True):
        np.testing.assert_allclose(explain(atoms, question, calculator).values, expected.values, rtol=0, atol=1e-11)


def test_shapley_values_of_a_game_known_by_hand() -> None:
    """Glove game: atoms 0 and 1 bring a left, 2 a right glove; a pair is worth 1. Values 1/6, 1/6, 2/3."""
    rows = all_subsets(3)
    assert rows.tolist()[5] == [0, -1, 2]
    worth = np.array([float(2 in row and (0 in row or 1 in row)) for row in rows.tolist()])
    np.testing.assert_allclose(shapley_of(worth), [1 / 6, 1 / 6, 2 / 3], atol=1e-15)


def test_settings_without_sense_are_refused(weights: dict[str, Path]) -> None:
    calculator, atoms = load(weights["schnet"]), molecule("H2O")
    for question, message in (
        (ManyBodyExpansion(order=0), "order must be an integer from 1 on, got 0"),
        (ShapleyValues(max_exact=21), "max_exact must be from 0 to 20, got 21"),
        (ShapleyValues(n_permutations=1), "n_permutations must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(atoms, question, calculator)


def test_charged_molecules_and_single_precision(tmp_path: Path) -> None:
    """Every part carries the total charge, of which these energies do not depend; float32 closes to its rounding."""
    path = write_weights(tmp_path / "ions", random_schnet(4), total_charges=(-1.0, 0.0))
    atoms = shaken_molecule("CH3OH")
    neutral = explain(atoms, ShapleyValues(), load(path))
    atoms.info["charge"] = -1
    charged = explain(atoms, ShapleyValues(), load(path))
    np.testing.assert_array_equal(charged.values, neutral.values)
    double = explain(atoms, ShapleyValues(), load(path, dtype="float64"))
    assert np.abs(neutral.values - double.values).max() < 1e-5 and abs(neutral.residual) < 1e-5
