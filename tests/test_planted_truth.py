"""Networks trained on sums alone, where the parts are known: what they find, and what they cannot."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms

from ase_xai import NetworkCalculator, explain
from ase_xai.explainers import (
    AtomicEnergies,
    ExtrapolationFlags,
    LatentCharges,
    LocalRigidity,
    PredictionUncertainty,
    report_card,
)
from ase_xai.explainers.gauge import in_another_gauge
from ase_xai.networks import predict

EXAMPLE = Path(__file__).parents[1] / "examples" / "planted_truth.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted_truth", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def lennard_jones(example: ModuleType, folder: Path) -> NetworkCalculator:
    return example.fitted("lennard-jones", "behler-parrinello", folder, n_structures=160, steps=200)


@pytest.fixture(scope="module")
def emt(example: ModuleType, folder: Path) -> NetworkCalculator:
    return example.fitted("emt", "schnet", folder, n_structures=160, steps=200)


@pytest.fixture(scope="module")
def charges(example: ModuleType, folder: Path) -> NetworkCalculator:
    return example.fitted("charges", "schnet", folder, n_structures=160, steps=200)


def held_out(example: ModuleType, name: str, n: int = 30) -> list[Atoms]:
    return example.systems(example.TRUTHS[name], n, np.random.default_rng(11))


def test_planted_values_add_up(example: ModuleType) -> None:
    """What is planted sums to what is trained on, and charges follow electronegativity."""
    for name, truth in example.TRUTHS.items():
        for atoms in held_out(example, name, 5):
            values, forces = truth.atomic(atoms)
            seen = example.labeled(truth, atoms).calc.results
            if truth.target == "charge":
                assert values.sum() == pytest.approx(0, abs=1e-12)
                np.testing.assert_allclose(seen["dipole"], sum(q * r for q, r in zip(values, atoms.positions, strict=True)))
                assert values[atoms.numbers == 8].max(initial=-1) < 0 < values[atoms.numbers == 1].min(initial=1)
            else:
                assert values.sum() == pytest.approx(seen["energy"]) and np.array_equal(seen["forces"], forces)
                assert np.ptp(values) > 0.01 or len(atoms) == 2


def test_atomic_energies_of_a_pair_potential_are_found(example: ModuleType, lennard_jones: NetworkCalculator) -> None:
    """Half of each pair energy for each partner: found almost exactly, far better than by random weights."""
    found = example.recovery("lennard-jones", lennard_jones, n=30)
    assert found.correlation(found.recovered)["Ar"] > 0.98
    assert found.leftover < 0.2
    null = found.within(found.null)
    assert np.sqrt(((null - found.within(found.planted)) ** 2).mean() / (found.within(found.planted) ** 2).mean()) > 0.8
    assert found.correlation(found.recovered)["Ar"] > abs(found.correlation(found.null)["Ar"]) + 0.05


def test_a_gauge_that_no_label_sees_spoils_the_recovery(example: ModuleType, lennard_jones: NetworkCalculator) -> None:
    """Same totals, same forces, other parts: the measure of recovery sees what training cannot."""
    other = in_another_gauge(lennard_jones, strength=0.2)
    before = example.recovery("lennard-jones", lennard_jones, n=15)
    after = example.recovery("lennard-jones", other, n=15)
    assert after.leftover > 2 * before.leftover
    atoms = held_out(example, "lennard-jones", 1)[0]
    a, b = (predict(c.network, lennard_jones.checked_graph(atoms)) for c in (lennard_jones, other))
    assert float((a.energy - b.energy).abs()) < 1e-10 and float((a.forces - b.forces).abs().max()) < 1e-10


def test_a_many_body_potential_is_learned_but_split_otherwise(example: ModuleType, emt: NetworkCalculator) -> None:
    """Totals to a few per cent of their spread, parts in the right order and yet not the same: the gauge is real."""
    truth, totals, errors = example.TRUTHS["emt"], [], []
    for atoms in held_out(example, "emt"):
        planted = truth.atomic(atoms)[0].sum() / len(atoms)
        totals.append(planted)
        errors.append(explain(atoms, AtomicEnergies(), emt).total / len(atoms) - planted)
    accuracy = np.sqrt(np.mean(np.square(errors))) / np.std(totals)
    found = example.recovery("emt", emt, n=30)
    assert accuracy < 0.1
    assert min(found.correlation(found.recovered).values()) > 0.6
    assert np.mean(list(found.correlation(found.recovered).values())) > 0.2 + np.mean(
        list(found.correlation(found.null).values())
    )
    assert found.leftover > 3 * accuracy


def test_charges_are_found_from_dipoles(example: ModuleType, charges: NetworkCalculator) -> None:
    found = example.recovery("charges", charges, n=30)
    recovered, null = (found.correlation(values) for values in (found.recovered, found.null))
    assert min(recovered.values()) > 0.6, recovered
    assert np.mean(list(recovered.values())) > 0.8
    assert np.mean(list(recovered.values())) > 0.2 + np.mean([abs(r) for r in null.values()])
    for atoms in held_out(example, "charges", 10):
        values = explain(atoms, LatentCharges(), charges)
        assert values.values[atoms.numbers == 8].max(initial=-1) < 0  # vectors of dipoles fix the sign
        assert abs(values.total) < 1e-12


@pytest.mark.parametrize(("name", "architecture"), [("lennard-jones", "behler-parrinello"), ("charges", "schnet")])
def test_shuffled_labels_teach_nothing(
    example: ModuleType,
    lennard_jones: NetworkCalculator,
    charges: NetworkCalculator,
    folder: Path,
    name: str,
    architecture: str,
) -> None:
    """The same structures with the sums of others: what is said of atoms then has nothing to do with the truth."""
    trained = {"lennard-jones": lennard_jones, "charges": charges}[name]
    misled = example.fitted(name, architecture, folder, n_structures=160, steps=200, shuffle=True)
    true, null = (example.recovery(name, calculator, n=30) for calculator in (trained, misled))
    before, after = (np.mean(list(one.correlation(one.recovered).values())) for one in (true, null))
    assert before > after + 0.4, (before, after)
    assert null.leftover > 0.9 and null.leftover > 2 * true.leftover, (null.leftover, true.leftover)


def test_trained_weights_carry_statistics(
    example: ModuleType, lennard_jones: NetworkCalculator, emt: NetworkCalculator, charges: NetworkCalculator
) -> None:
    """Training writes them: σ has the size of the errors, and strange structures are seen."""
    assert lennard_jones.statistics.charges is None and charges.statistics.energies is None
    for name, calculator in (("lennard-jones", lennard_jones), ("emt", emt)):
        ratios = []
        for atoms in held_out(example, name):
            error = explain(atoms, AtomicEnergies(), calculator).total - example.TRUTHS[name].atomic(atoms)[0].sum()
            ratios.append(error / explain(atoms, PredictionUncertainty(), calculator).values[0])
        assert 0.2 < np.sqrt(np.mean(np.square(ratios))) < 5, ratios
    usual = held_out(example, "lennard-jones", 1)[0]
    strange = usual.copy()
    strange.positions *= 0.7
    assert explain(strange, ExtrapolationFlags(), lennard_jones).values.max() > 0
    assert (
        explain(strange, LocalRigidity(), lennard_jones).values.min()
        < 0.5 * explain(usual, LocalRigidity(), lennard_jones).values.min()
    )
    for atoms in held_out(example, "charges", 3):
        sigma = explain(atoms, LatentCharges(), charges).uncertainty
        assert sigma.shape == (len(atoms),) and (sigma >= 0).all() and sigma.max() < 1.0


def test_the_card_of_a_trained_network(example: ModuleType, lennard_jones: NetworkCalculator) -> None:
    atoms = max(held_out(example, "lennard-jones"), key=len)
    card = report_card(lennard_jones, atoms)
    identities = [row for row in card.rows if row.tolerance is not None and "random weights" not in row.name]
    assert len(identities) >= 9 and all(row.verdict == "pass" for row in identities), str(card)
    assert card["gauge count of the training set"].value == 0.0
    assert card["AtomicEnergies: sensitivity-n"].value > 0.5
    assert 0 < card["uncertainty of the energy"].value < 1.0


def test_the_figure(example: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat([1, 6], 10)
    planted = rng.normal(size=20)
    one = example.Recovery(numbers, planted, 2 * planted + 5 * (numbers == 6), rng.normal(size=20))
    assert one.leftover == pytest.approx(1.0) and one.correlation(one.recovered) == pytest.approx({"H": 1.0, "C": 1.0})
    example.draw(
        {(name, architecture): one for name in example.TRUTHS for architecture in example.NETWORKS}, tmp_path / "f.png"
    )
    assert (tmp_path / "f.png").stat().st_size > 10_000
