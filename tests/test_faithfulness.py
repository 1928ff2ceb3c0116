"""The report card sees what is broken, lets pass what is not, and touches nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from explained import SHIPPED, write_shipped, write_weights
from scipy.stats import spearmanr
from systems import random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai import Ensemble, Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import AtomicEnergies, LatentCharges, LocalRigidity, ReportCard, report_card
from ase_xai.explainers import checks_identities as identities
from ase_xai.explainers import checks_sanity as sanity
from ase_xai.explainers.base import answer
from ase_xai.explainers.card import Row
from ase_xai.explainers.displacements import Displacements, hessian, thermal
from ase_xai.explainers.gauge import GaugedNetwork, Substituted, gauge_change, in_another_gauge
from ase_xai.explainers.randomization import cascade, randomized, stages
from ase_xai.explainers.removal import binding, deletion_curve, infidelity, sensitivity_n
from ase_xai.explainers.subject import Subject, label_of, spearman, within_elements
from ase_xai.explainers.symmetry import equivalent_atoms
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, predict


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    about = {
        "reference_kind": "References: least squares. Compositions determine 3 of 4 element offsets (H C N O). Left open"
    }
    return {
        "schnet": write_weights(folder / "schnet", random_schnet(1), **about),
        "schnet-b": write_weights(folder / "schnet-b", random_schnet(2), statistics=False),
        "bp": write_weights(folder / "bp", random_behler_parrinello(3), **about),
        **{name: write_shipped(folder / name, name) for name in SHIPPED},
    }


@pytest.fixture(params=["schnet", "bp"])
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


WITH_SHIPPED = pytest.mark.parametrize("calculator", ["schnet", "bp", *SHIPPED], indirect=True)


def subject_of(calculator: NetworkCalculator, atoms: Atoms, *explainers: object) -> Subject:
    asked = {label_of(e): e for e in explainers}
    return Subject(calculator, atoms, {name: e(calculator, atoms) for name, e in asked.items()}, asked, 0)


def benzene() -> Atoms:
    angle = np.pi / 3 * np.arange(6)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    return Atoms("C6H6", np.concatenate([1.39 * ring, 2.48 * ring]))


# --- the gauge ---------------------------------------------------------------------------------------------------------


def slow_exchange(atoms: Atoms, cutoff: float) -> np.ndarray:
    """Σ_j χ_ij for c = 1, written as in the equations."""

    def near(i: int, j: int) -> float:
        r = np.linalg.norm(atoms.positions[i] - atoms.positions[j])
        return 0.5 * (np.cos(np.pi * r / cutoff) + 1) if r < cutoff and i != j else 0.0

    n = len(atoms)
    a = [atoms.numbers[i] + sum(near(i, k) for k in range(n)) for i in range(n)]
    return np.array([sum((a[i] - a[j]) * near(i, j) for j in range(n)) for i in range(n)])


@WITH_SHIPPED
@pytest.mark.parametrize("system", ["molecule", "crystal", "two"])
def test_another_gauge_changes_atomic_energies_and_nothing_else(calculator: NetworkCalculator, system: str) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    if system == "crystal":
        atoms = bulk("CO", "rocksalt", a=4.2)
        atoms.rattle(0.1, seed=0)
    graph = calculator.checked_graph(atoms)
    if system == "two":
        graph = AtomGraph.batch([graph, calculator.checked_graph(molecule("H2O"))])
    one, two = predict(calculator.network, graph), predict(GaugedNetwork(calculator.network, 0.3), graph)
    assert float((one.energy - two.energy).abs().max()) < 1e-10
    assert float((one.forces - two.forces).abs().max()) < 1e-10
    assert torch.equal(one.charges, two.charges) and torch.equal(one.output.energy_inputs, two.output.energy_inputs)
    if atoms.pbc.any():
        assert float((one.stress - two.stress).abs().max()) < 1e-10
    change = (two.energies - one.energies).numpy()
    assert np.abs(change).max() > 0.1 and abs(change.sum()) < 1e-10
    if system == "molecule":
        np.testing.assert_allclose(change, 0.3 * slow_exchange(atoms, calculator.network.cutoff), atol=1e-10)


@WITH_SHIPPED
def test_second_derivatives_are_the_same_in_another_gauge(calculator: NetworkCalculator) -> None:
    atoms = molecule("H2O")
    one, two = hessian(calculator, atoms), hessian(in_another_gauge(calculator), atoms)
    np.testing.assert_allclose(one, two, atol=1e-8)


def test_mixed_elements_have_their_gauge_too(calculator: NetworkCalculator) -> None:
    """Pure shares are the pure network; the total of a mixture does not see χ, and neither does its slope along shares."""
    network = GaugedNetwork(calculator.network, 0.3)
    graph = calculator.checked_graph(shaken_molecule("CH3OH"))
    pure = torch.nn.functional.one_hot(network.element_index(graph.numbers), len(network.elements)).double()
    with torch.no_grad():
        assert torch.allclose(network.mixed(graph, pure).energies, network(graph).energies, atol=1e-10)
    shares = (0.7 * pure + 0.3 / pure.shape[1]).requires_grad_()
    slopes = []
    for one in (calculator.network, network):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(one.mixed(graph, shares).energies.sum(), shares)
        slopes.append(slope)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-10)


@WITH_SHIPPED
def test_lone_atoms_have_no_gauge(calculator: NetworkCalculator) -> None:
    other = in_another_gauge(calculator)
    for z in calculator.network.elements:
        a, b = (predict(c.network, calculator.checked_graph(Atoms([z]))) for c in (calculator, other))
        assert torch.equal(a.energies, b.energies)


@WITH_SHIPPED
def test_insertion_energies_are_gauge_free_and_chemical_potentials_are_not(calculator: NetworkCalculator) -> None:
    """A hydrogen atom put near a molecule: E(with) - E(without) stays; what the atom says of itself does not, neither in
    full contact nor as a probe that receives and never sends."""
    atoms, place = molecule("H2O"), np.array([0.3, 1.6, 0.4])
    both = atoms + Atoms("H", [place])
    other = in_another_gauge(calculator)
    graph = calculator.checked_graph(both)
    heard = graph.neighbors != len(atoms)
    probe = replace(
        graph, vectors=graph.vectors[heard], centers=graph.centers[heard], neighbors=graph.neighbors[heard], mirrored=False
    )  # fmt: skip

    def answers(network: AtomisticNetwork) -> tuple[float, float, float]:
        without = float(predict(network, calculator.checked_graph(atoms)).energy)
        full = predict(network, graph)
        return float(full.energy) - without, float(full.energies[-1]), float(predict(network, probe).energies[-1])

    one, two = answers(calculator.network), answers(other.network)
    assert one[0] == pytest.approx(two[0], abs=1e-10)
    assert abs(one[1] - two[1]) > 1e-3 and abs(one[2] - two[2]) > 1e-3


def test_gauge_change_tells_dependent_answers_from_others(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    assert gauge_change(calculator, atoms, AtomicEnergies()) > 0.01
    assert gauge_change(calculator, atoms, LatentCharges()) < 1e-12
    assert gauge_change(calculator, atoms, LocalRigidity()) < 1e-12


# --- a sound network passes, and stays as it is ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CH3CH2OH", "H2O", "O"])
def test_random_networks_keep_every_identity(calculator: NetworkCalculator, name: str) -> None:
    """Networks that have learned nothing: the card fails for no identity, and shows its numbers."""
    atoms = Atoms("O") if name == "O" else shaken_molecule(name)
    subject = subject_of(calculator, atoms, AtomicEnergies(), LatentCharges(), LocalRigidity())
    rows = {title: check() for title, check in identities.identity_checks(subject)}
    assert not [row for row in rows.values() if row.verdict == "fail"], rows
    judged = [row for row in rows.values() if row.verdict == "pass"]
    assert len(judged) >= 15 and all(row.value <= row.tolerance for row in judged)


def test_benzene_and_crystals(calculator: NetworkCalculator) -> None:
    subject = subject_of(calculator, benzene(), AtomicEnergies(), LatentCharges())
    for explanation in subject.answers.values():
        row = identities.equivalence(subject, explanation)
        assert row.verdict == "pass" and row.value < 1e-9 and "2 classes" in row.note
    diamond = bulk("C", "diamond", a=3.57)
    subject = subject_of(calculator, diamond, AtomicEnergies())
    explanation = subject.answers["AtomicEnergies"]
    row = identities.symmetry(subject, AtomicEnergies(), explanation)
    assert row.verdict == "pass" and all(word in row.note for word in ("wrapping", "supercell", "reflection"))
    assert "only for neutral open systems" in identities.locality(subject, AtomicEnergies(), explanation).note


def test_the_whole_card(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    atoms = shaken_molecule("CH3CH2OH")
    atoms.calc = calculator
    atoms.get_forces()
    network, results = calculator.network, copy.deepcopy(calculator.results)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, seed, numpy_state = atoms.copy(), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    card = report_card(calculator, atoms)
    again = report_card(calculator, atoms)
    assert [replace(row, seconds=0) for row in card.rows] == [replace(row, seconds=0) for row in again.rows]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(m.training or m._forward_hooks for m in network.modules())
    assert atoms == state and torch.equal(seed, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert calculator.results.keys() == results.keys()
    assert all(np.array_equal(results[key], calculator.results[key]) for key in results)
    assert isinstance(card, ReportCard)
    assert {row.verdict for row in card.rows} >= {"pass", "info"}
    assert all(row.name and row.seconds >= 0 for row in card.rows)
    assert card["gauge count of the training set"].value == 1.0
    assert card["uncertainty of the energy"].value > 0
    assert card["energy and forces in another gauge"].verdict == "pass"
    assert any("leaves the training distribution" in note for note in card.notes)
    assert not [row for row in card.failures if "rigidity" not in row.name and "random weights" not in row.name]


def test_single_precision_is_judged_by_its_own_tolerance(weights: dict[str, Path]) -> None:
    for name in ("schnet", "bp"):
        subject = subject_of(
            load(weights[name], dtype="float32"), shaken_molecule("CH3CH2OH"), AtomicEnergies(), LatentCharges()
        )
        assert subject.tolerance == 1e-5
        rows = {title: check() for title, check in identities.identity_checks(subject)}
        assert not [(title, row) for title, row in rows.items() if row.verdict == "fail"]
        assert rows["forces add up from atomic energies"].value > 1e-10


def test_ensembles_are_checked_for_agreement(weights: dict[str, Path]) -> None:
    members = [load(weights[name], dtype="float64") for name in ("schnet", "schnet-b")]
    atoms = shaken_molecule("CH3CH2OH")
    subject = subject_of(members[0], atoms, AtomicEnergies())
    ((name, check),) = sanity.ensemble_checks(subject, members)
    row = check()
    values = [explain(atoms, AtomicEnergies(), member).values for member in members]
    within = []
    for value in values:
        centered = value - [value[atoms.numbers == z].mean() for z in atoms.numbers]
        within.append(centered[np.isin(atoms.numbers, [1, 6])])  # one oxygen only
    assert name == "AtomicEnergies: agreement of members"
    assert row.value == pytest.approx(spearmanr(*within).statistic)
    assert "three or more" in row.note and row.verdict == "info"
    assert ", member 1 of 2" in report_card(Ensemble(members), atoms, [LatentCharges()]).title


# --- broken things are seen --------------------------------------------------------------------------------------------


class Broken(AtomisticNetwork):
    """A network with one fault."""

    architecture = "broken"

    def __init__(self, network: AtomisticNetwork, fault: str) -> None:
        super().__init__(network.elements, network.cutoff)
        self.inner, self.fault, self.energy = network, fault, network.energy
        self.element_readouts = network.element_readouts  # type: ignore[misc]
        self.eval()

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        output = self.inner(graph)
        added = torch.zeros_like(output.energies)
        if self.fault == "direction":  # not invariant under rotation
            added = added.index_add(0, graph.centers, 0.1 * torch.sin(graph.vectors[:, 0]))
        elif self.fault == "order":  # depends on the place in the list
            added = 0.1 * torch.arange(len(added)).double()
        elif self.fault == "step":  # a jump at the cutoff
            added = added.index_add(0, graph.centers, torch.full_like(graph.vectors[:, 0], 0.01))
        elif self.fault == "global":  # every atom knows how many there are
            added = added + 0.01 * len(added)
        elif self.fault == "long range":  # sees positions, not pairs
            center = graph.positions.mean(dim=0)
            added = 0.01 * (graph.positions - center).norm(dim=1)
        elif self.fault == "forces":  # energies without the gradient they should have
            added = added.index_add(0, graph.centers, 0.1 * graph.vectors.norm(dim=1).detach())
        charges = output.charges + 0.01 if self.fault == "charge" else output.charges
        return replace(output, energies=output.energies + added, charges=charges)

    def settings(self) -> dict[str, object]:
        return {}


FAULTS = {
    "direction": "AtomicEnergies: symmetry",
    "order": "AtomicEnergies: symmetry",
    "step": "AtomicEnergies: jump at the cutoff",
    "global": "AtomicEnergies: size consistency",
    "long range": "AtomicEnergies: locality",
    "forces": "forces integrate to the energy, order",
    "charge": "LatentCharges: total charge",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_of_networks_are_seen(calculator: NetworkCalculator, fault: str) -> None:
    broken = Substituted(calculator, Broken(calculator.network, fault))
    subject = subject_of(broken, shaken_molecule("CH3OH"), AtomicEnergies(), LatentCharges())
    rows = {title: check() for title, check in identities.identity_checks(subject)}
    assert rows[FAULTS[fault]].verdict == "fail", rows[FAULTS[fault]]
    sound = subject_of(calculator, shaken_molecule("CH3OH"), AtomicEnergies(), LatentCharges())
    assert dict(identities.identity_checks(sound))[FAULTS[fault]]().verdict == "pass"


@dataclass(frozen=True)
class Doubtful:
    """An explainer with one fault."""

    fault: str = "none"

    def __call__(self, calculator: NetworkCalculator, atoms: Atoms) -> Explanation:
        if self.fault == "raises" or (self.fault == "raises later" and len(atoms) > 9):
            raise RuntimeError("no such thing")
        right = AtomicEnergies()(calculator, atoms)
        values = {"incomplete": right.values * 1.001, "unstable": right.values + 1e-3 * np.arange(len(atoms))}
        gauge = "invariant" if self.fault == "claims too much" else "dependent"
        about = {"target": "energy", "level": "atom", "units": "eV", "residual": 0.0, "gauge": gauge}
        return answer(
            calculator, atoms, self, values=values.get(self.fault, right.values), baselines=right.baselines, **about
        )


@pytest.mark.parametrize(
    ("fault", "name"),
    [("incomplete", "completeness"), ("unstable", "symmetry"), ("claims too much", "gauge as declared")],
)
def test_faults_of_explainers_are_seen(calculator: NetworkCalculator, fault: str, name: str) -> None:
    atoms, label = shaken_molecule("CH3OH"), f"Doubtful(fault={fault!r})"
    subject = subject_of(calculator, atoms, Doubtful(fault), Doubtful())
    rows = dict([*identities.identity_checks(subject), *sanity.sanity_checks(subject)])
    assert rows[f"{label}: {name}"]().verdict == "fail"
    assert rows[f"Doubtful: {name}"]().verdict in ("pass", "info")


def test_a_check_that_raises_is_a_failed_row(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    card = report_card(calculator, atoms, [Doubtful("raises"), Doubtful("raises later"), AtomicEnergies(), AtomicEnergies()])
    for name in ("Doubtful(fault='raises')", "Doubtful(fault='raises later'): locality"):
        assert card[name].verdict == "fail" and card[name].note == "RuntimeError: no such thing"
        assert card[name].value is None
    assert card["AtomicEnergies again: symmetry"].verdict == "pass"
    assert card["agreement of explainers"].value == pytest.approx(1.0)
    assert not card.passed and len(card.failures) >= 4


def test_report_card_refuses_what_it_cannot_check(calculator: NetworkCalculator) -> None:
    from ase.calculators.calculator import InputError
    from ase.calculators.lj import LennardJones

    with pytest.raises(ValueError, match="got LennardJones"):
        report_card(LennardJones(), molecule("H2O"))
    with pytest.raises(InputError, match="does not know Xe"):
        report_card(calculator, Atoms("Xe"))


# --- the table ---------------------------------------------------------------------------------------------------------


def test_the_card_as_text_markdown_and_html() -> None:
    rows = (
        Row("short", 1.25e-12, 1e-10, "pass", 0.5, "eV", "fine"),
        Row("a much longer name", None, None, "fail", 1.25, note="ValueError: a | b <script>"),
        Row.told(0.5, "1", name="told"),
    )
    card = ReportCard("Title", rows, ("A note.",))
    lines = str(card).splitlines()
    assert lines[0] == "Title" and lines[1].split() == ["check", "value", "allowed", "unit", "verdict", "s", "note"]
    column = lines[1].index("verdict")
    assert [line[column : column + 4] for line in lines[3:6]] == ["pass", "fail", "info"]
    assert "1.25e-12" in lines[3] and lines[6] == "1 pass, 1 fail, 1 info; 1.8 s" and lines[7] == "A note."
    markdown = card.to_markdown().splitlines()
    assert markdown[2].startswith("| check | value |") and all(line.count(" | ") == 6 for line in markdown[2:7])
    assert "a \\| b" in card.to_markdown()
    assert "<script>" not in card._repr_html_() and "&lt;script&gt;" in card._repr_html_()
    assert card["told"].value == 0.5 and card.failures == (rows[1],) and not card.passed
    with pytest.raises(KeyError, match="no row 'missing'"):
        card["missing"]
    with pytest.raises(ValueError, match="verdict must be one of"):
        Row("x", 1.0, 1.0, "maybe")
    with pytest.raises(ValueError, match="cannot pass with nan"):
        Row("x", float("nan"), 1.0, "pass")
    assert Row.judged(float("nan"), 1.0).verdict == "fail" and Row.judged(1.0, 1.0).verdict == "pass"


# --- one record alone --------------------------------------------------------------------------------------------------


def test_a_record_checks_itself(calculator: NetworkCalculator) -> None:
    explanation = explain(shaken_molecule("CH3CH2OH"), AtomicEnergies(), calculator)
    card = explanation.check("float64")
    assert card.passed and card["residual per atom"].tolerance == 1e-10
    assert any("Not checked" in note for note in card.notes)
    loose = replace(explanation, residual=1e-6)
    assert not loose.check("float64").passed and loose.check().passed
    assert not replace(explanation, residual=1.0).check().passed
    assert not replace(explanation, residual=float("nan")).check().passed
    assert not replace(explanation, uncertainty=-explanation.uncertainty).check().passed
    masked = replace(explanation, values=np.where(np.arange(9) == 3, np.inf, explanation.values), mask=np.arange(9) != 3)
    assert masked.check()["rows that are not trusted"].value == 1
    same = replace(explanation, values=np.full(9, -1.0), residual=5e-5)
    assert same.check()["residual over spread of the values"].value is None
    flat = replace(explanation, values=-1.0 + 1e-4 * np.arange(9), residual=5e-5)
    assert flat.check()["residual per atom"].verdict == "pass"
    assert flat.check()["residual over spread of the values"].verdict == "fail"
    with pytest.raises(ValueError, match="dtype must be one of"):
        explanation.check("float16")


def test_declared_remainders_and_repeated_rows_of_pairs(calculator: NetworkCalculator) -> None:
    base = explain(molecule("H2O"), AtomicEnergies(), calculator)
    pairs = replace(
        base, level="pair", values=np.array([1.0, 2.0]), index=np.array([[0, 1], [0, 2]]), uncertainty=None, baselines={},
        residual=0.5,
    )  # fmt: skip
    assert pairs.check().passed and "declared remainder" in pairs.check()["residual"].note
    twice = replace(pairs, index=np.array([[0, 1], [0, 1]]))
    beyond = replace(pairs, index=np.array([[0, 1], [0, 3]]))
    for wrong in (twice, beyond):
        assert wrong.check()["rows with unknown or repeated atoms"].verdict == "fail"


# --- symmetry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "classes"),
    [
        (benzene(), [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
        (molecule("CH4"), [[1, 2, 3, 4]]),
        (molecule("CH3CH2OH"), [[4, 5], [7, 8]]),
        (shaken_molecule("CH3CH2OH"), []),
        (Atoms("OCO", [[0, 0, 0], [1.16, 0, 0], [2.32, 0, 0]]), [[0, 2]]),
        (Atoms("HCCH", [[0, 0, 0], [1.06, 0, 0], [2.26, 0, 0], [3.32, 0, 0]]), [[0, 3], [1, 2]]),
        (bulk("C", "diamond", a=3.57, cubic=True), [list(range(8))]),
        (Atoms("O"), []),
    ],
)
def test_equivalent_atoms(atoms: Atoms, classes: list[list[int]]) -> None:
    found = [group.tolist() for group in equivalent_atoms(atoms, 4.0)]
    if atoms.get_chemical_formula() == "C2H6O" and classes:
        assert len(found) == 2 and all(len(group) == 2 for group in found)  # mirror images of each other
        for a, b in found:
            assert atoms.numbers[a] == atoms.numbers[b] == 1
            np.testing.assert_allclose(atoms.positions[a], atoms.positions[b] * [1, 1, -1], atol=1e-6)
        return
    assert found == classes


def test_rank_correlation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 5, 12).astype(float), rng.normal(size=12)
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)
    assert spearman(other, -3 * other + 1) == pytest.approx(-1.0)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    noise = 1.0 + 1e-15 * rng.normal(size=6)
    assert np.isnan(spearman(noise, np.arange(6.0)))
    values = np.array([1.0, 2.0, 10.0, 20.0, 7.0])
    np.testing.assert_allclose(within_elements(values, np.array([1, 1, 6, 6, 8])), [-0.5, 0.5, -5, 5])


# --- displacements, removal --------------------------------------------------------------------------------------------


def test_hessian_against_second_differences_of_the_energy(calculator: NetworkCalculator) -> None:
    atoms, h = shaken_molecule("H2O"), 1e-3
    found = hessian(calculator, atoms)

    def energy(*moves: tuple[int, float]) -> float:
        moved = atoms.copy()
        for coordinate, step in moves:
            moved.positions.ravel()[coordinate] += step
        return float(predict(calculator.network, calculator.checked_graph(moved)).output.energies.sum())

    for a, b in ((0, 0), (0, 4), (2, 7), (8, 8)):
        second = (energy((a, h), (b, h)) - energy((a, h), (b, -h)) - energy((a, -h), (b, h)) + energy((a, -h), (b, -h))) / (
            4 * h * h
        )
        assert found[a, b] == pytest.approx(second, abs=2e-3 * np.abs(found).max())


def test_thermal_displacements_have_the_energy_of_equipartition(weights: dict[str, Path]) -> None:
    """½ d·H·d averages to kT/2 for each mode; masses make light atoms move more. On shipped weights, at a minimum."""
    from ase import units
    from ase.optimize import BFGS

    calculator = load("organic", dtype="float64")
    atoms = molecule("H2O")
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=60)
    moves = thermal(calculator, atoms, 2000, 300.0, np.random.default_rng(0))
    assert moves.how == "3 harmonic modes at 300 K"
    flat = moves.shifts.reshape(2000, -1)
    potential = 0.5 * np.einsum("na,ab,nb->n", flat, hessian(calculator, atoms), flat)
    assert potential.mean() == pytest.approx(1.5 * units.kB * 300, rel=0.05)
    drift = moves.shifts.transpose(0, 2, 1) @ atoms.get_masses()
    assert np.abs(drift).max() < 1e-3  # no translation among the modes
    spread = moves.shifts.std(axis=(0, 2))
    assert spread[1] > 2 * spread[0]
    many = thermal(calculator, atoms.repeat(1), 3, 300.0, np.random.default_rng(0))
    np.testing.assert_array_equal(many.shifts, thermal(calculator, atoms, 3, 300.0, np.random.default_rng(0)).shifts)
    assert "Gaussian" in thermal(calculator, Atoms("O"), 3, 300.0, np.random.default_rng(0)).how


def test_infidelity_is_what_forces_miss(calculator: NetworkCalculator) -> None:
    """It falls with the square of the displacement; halves add up as written; at a stationary point it is at least 1."""
    atoms = shaken_molecule("CH3OH")
    shifts = np.random.default_rng(0).normal(0, 0.02, (40, 6, 3))
    values = [infidelity(calculator, atoms, Displacements(f * shifts, "")) for f in (1.0, 0.5, 0.25)]
    assert values[0] / values[1] == pytest.approx(4, rel=0.3) and values[1] / values[2] == pytest.approx(4, rel=0.3)
    forces = predict(calculator.network, calculator.checked_graph(atoms)).forces.numpy()
    changes = []
    for shift in shifts:
        moved = atoms.copy()
        moved.positions -= shift
        energies = [float(predict(calculator.network, calculator.checked_graph(a)).energy) for a in (atoms, moved)]
        changes.append(energies[0] - energies[1])
    claimed = [-(shift * forces).sum() for shift in shifts]
    expected = np.mean((np.array(claimed) - changes) ** 2) / np.var(changes)
    assert values[0] == pytest.approx(expected, rel=1e-6)
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 30.0]])
    assert np.isnan(infidelity(calculator, pair, Displacements(shifts[:, :2], "")))


def test_binding_energies_of_sets_by_building_them(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    rows = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 3, -1, -1, -1], [4, -1, -1, -1, -1, -1], [-1, 5, 2, -1, 0, -1]])
    found = binding(calculator, calculator.checked_graph(atoms), rows)

    def energy(part: Atoms) -> float:
        graph = AtomGraph.from_atoms(part, calculator.network.cutoff)
        return float(predict(calculator.network, graph).energy)

    for value, row in zip(found, rows, strict=True):
        part = atoms[[i for i in row if i >= 0]]
        assert value == pytest.approx(energy(part) - sum(energy(Atoms([z])) for z in part.numbers), abs=1e-9)
    assert found[2] == pytest.approx(0.0, abs=1e-12)


def test_deletion_curve_by_building_every_molecule(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = explain(atoms, AtomicEnergies(), calculator)
    curve = deletion_curve(calculator, atoms, explanation, n_random=30, seed=3)
    lone = {z: float(predict(calculator.network, calculator.checked_graph(Atoms([z]))).energy) for z in (1, 6, 8)}
    shares = explanation.values - [lone[z] for z in atoms.numbers]
    assert curve.order.tolist() == np.argsort(shares).tolist()

    def binding_of(part: Atoms) -> float:
        if not len(part):
            return 0.0
        graph = AtomGraph.from_atoms(part, calculator.network.cutoff)
        return float(predict(calculator.network, graph).energy) - sum(lone[z] for z in part.numbers)

    whole = binding_of(atoms)
    assert shares.sum() == pytest.approx(whole, abs=1e-9)
    expected = [binding_of(atoms[sorted(set(range(6)) - set(curve.order[: k + 1].tolist()))]) - whole for k in range(6)]
    np.testing.assert_allclose(curve.change, expected, atol=1e-9)
    np.testing.assert_allclose(curve.random[:, -1], -whole, atol=1e-9)
    assert curve.area == pytest.approx(np.mean(expected)) and curve.random.shape == (30, 6)
    better = (curve.random.mean(axis=1) >= curve.area).sum()
    assert curve.p_value == pytest.approx((1 + better) / 31)
    for reference in ("composition", "element_mean"):
        deletion_curve(calculator, atoms, explanation.relative(reference), n_random=30)
    by_parts = deletion_curve(calculator, atoms, explanation.relative("composition"), n_random=30, seed=3)
    np.testing.assert_array_equal(by_parts.order, curve.order)
    with pytest.raises(ValueError, match="at least 30"):
        deletion_curve(calculator, atoms, explanation, n_random=3)
    with pytest.raises(ValueError, match="atomic energies in eV, got charge"):
        deletion_curve(calculator, atoms, explain(atoms, LatentCharges(), calculator))
    moved = atoms.copy()
    moved.positions[0] += 0.1
    with pytest.raises(ValueError, match="moved"):
        deletion_curve(calculator, moved, explanation)


def test_sensitivity_n_by_building_every_molecule(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3OH")
    explanation = explain(atoms, AtomicEnergies(), calculator)
    lone = {z: float(predict(calculator.network, calculator.checked_graph(Atoms([z]))).energy) for z in (1, 6, 8)}
    whole, rng = float(predict(calculator.network, calculator.checked_graph(atoms)).energy), np.random.default_rng(7)
    claimed, changes = [], []
    for _ in range(25):
        gone, kept = np.split(rng.permutation(6), [2])
        graph = AtomGraph.from_atoms(atoms[kept], calculator.network.cutoff)
        free = sum(lone[z] for z in atoms.numbers[gone])
        claimed.append(explanation.values[gone].sum() - free)
        changes.append(whole - float(predict(calculator.network, graph).energy) - free)
    expected = np.corrcoef(claimed, changes)[0, 1]
    assert sensitivity_n(calculator, atoms, explanation, 2, n_sets=25, seed=7) == pytest.approx(expected, abs=1e-9)
    apart = Atoms("CHO", [[0, 0, 0], [20, 0, 0], [40, 0, 0]])
    assert np.isnan(sensitivity_n(calculator, apart, explain(apart, AtomicEnergies(), calculator), 1))
    with pytest.raises(ValueError, match="size must be from 1 to 5, got 6"):
        sensitivity_n(calculator, atoms, explanation, 6)


# --- random weights ----------------------------------------------------------------------------------------------------


def test_stages_go_from_the_output_to_the_input() -> None:
    names = [name for name, _ in stages(random_schnet(1, n_interactions=3))]
    assert names == ["charge_readout", "energy_readout", "interactions.2", "interactions.1", "interactions.0", "embedding"]
    assert [name for name, _ in stages(random_behler_parrinello(1))] == [
        "charge_readouts",
        "energy_readouts",
        "hidden_networks",
    ]
    for network in (random_schnet(1), random_behler_parrinello(1)):
        n_weights = sum(weight.numel() for weight in network.parameters())
        assert sum(weight.numel() for _, weights in stages(network) for weight in weights) == n_weights
        changed = [
            sum(int((a != b).sum()) for a, b in zip(twin.parameters(), network.parameters(), strict=True))
            for _, twin in cascade(network, 0)
        ]
        assert changed == sorted(changed) and changed[-1] >= 0.95 * n_weights
        first, second = randomized(network, None, 1), randomized(network, None, 1)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# --- shipped weights: trends on molecules ------------------------------------------------------------------------------

MOLECULES = ("CH3CH2OH", "CH3COOH", "CH3CONH2", "CH3CH2NH2", "HCOOCH3", "CH3CH2Cl")


@pytest.fixture(scope="module", params=["organic", "organic-bp"])
def trained(request: pytest.FixtureRequest) -> NetworkCalculator:
    return load(request.param, dtype="float64")


def test_atoms_taken_away_by_their_energy_matter_more_than_random_ones(trained: NetworkCalculator) -> None:
    areas = []
    for name in MOLECULES:
        atoms = molecule(name)
        curve = deletion_curve(trained, atoms, explain(atoms, AtomicEnergies(), trained), n_random=30)
        areas.append(curve.advantage)
    assert np.mean(areas) > 1.0 and np.mean(np.array(areas) > 0) >= 0.75, areas


def test_random_networks_forget_atomic_energies(trained: NetworkCalculator) -> None:
    correlations = []
    for name in MOLECULES[:4]:
        atoms = shaken_molecule(name, amplitude=0.1)
        own = within_elements(explain(atoms, AtomicEnergies(), trained).values, atoms.numbers)
        for seed in range(3):
            other = Substituted(trained, randomized(trained.network, None, seed))
            correlations.append(spearman(own, within_elements(AtomicEnergies()(other, atoms).values, atoms.numbers)))
    assert np.mean(np.abs(correlations)) < 0.75, correlations
