"""The record of an explanation, the verb that makes it, and what every explainer must keep."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.calculators.lj import LennardJones
from explained import NETWORKS, SHIPPED, write_shipped, write_weights
from systems import random_schnet, shaken_molecule

import ase_xai.explainers
from ase_xai import Ensemble, Explanation, NetworkCalculator, explain, load
from ase_xai.explainers import (
    EXPLAINERS,
    AtomicEnergies,
    AtomicFeatures,
    ElementEmbeddings,
    LatentCharges,
    LocalRigidity,
    explainer_by_name,
)
from ase_xai.explainers.embeddings import (
    comparisons,
    cosine_similarity,
    distances_between,
    order_within_groups,
    place_in_table,
    principal_components,
)
from ase_xai.explainers.features import feature_map, separability
from ase_xai.explainers.latent_charges import compare_charges, open_directions
from ase_xai.explainers.surfaces import Surface
from ase_xai.networks import predict


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: write_weights(folder / name, make(), total_charges=(-1.0, 0.0, 1.0)) for name, make in NETWORKS.items()}
    return paths | {name: write_shipped(folder / name, name) for name in SHIPPED}


@pytest.fixture(params=list(NETWORKS))
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


WITH_SHIPPED = pytest.mark.parametrize("calculator", [*NETWORKS, *SHIPPED], indirect=True)


def energies(calculator: NetworkCalculator, atoms: Atoms | None = None) -> Explanation:
    return explain(shaken_molecule("CH3CH2OH") if atoms is None else atoms, AtomicEnergies(), calculator)


# --- atomic energies and charges ---------------------------------------------------------------------------------------


@WITH_SHIPPED
def test_atomic_energies_are_the_calculators_and_sum_to_the_energy(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    atoms.calc = calculator
    explanation = calculator.explain(atoms, AtomicEnergies())
    np.testing.assert_allclose(explanation.values, atoms.get_potential_energies(), rtol=0, atol=1e-10)
    assert explanation.total + explanation.residual == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert abs(explanation.residual) < 1e-9
    assert (explanation.units, explanation.gauge, explanation.reference) == ("eV", "dependent", "none")
    assert explanation.model_id == calculator.sha256


def test_references_are_subtracted_by_name(calculator: NetworkCalculator, tmp_path: Path) -> None:
    raw = energies(calculator)
    elements = list(calculator.network.elements)
    means = np.array([-1.0 + elements.index(z) for z in raw.numbers])  # the invented statistics
    references = calculator.references(raw.atoms)
    np.testing.assert_allclose(raw.relative("composition").values, raw.values - references, rtol=0, atol=1e-9)
    by_mean = explain(raw.atoms, AtomicEnergies(reference="element_mean"), calculator)
    np.testing.assert_allclose(by_mean.values, raw.values - references - means, rtol=0, atol=1e-9)
    assert by_mean.reference == "element_mean"
    path = write_weights(tmp_path / "free", calculator.network, reference_kind="free atoms")
    by_atom = explain(raw.atoms, AtomicEnergies(reference="free_atom"), load(path, dtype="float64"))
    np.testing.assert_allclose(by_atom.values, raw.values - references, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"no reference 'free_atom' here; known: composition, element_mean"):
        raw.relative("free_atom")
    with pytest.raises(ValueError, match="subtracted already"):
        by_mean.relative("composition")


@pytest.mark.parametrize("name", [*NETWORKS, *SHIPPED])
def test_charges_sum_to_the_total_charge_and_make_the_dipole(name: str, weights: dict[str, Path]) -> None:
    for charge in (-1, 0, 1):
        atoms = shaken_molecule("CH3CH2OH")
        atoms.info["charge"] = charge
        atoms.calc = load(weights[name], dtype="float64", dipole_origin=[0, 0, 0])
        explanation = explain(atoms, LatentCharges())
        assert explanation.total == pytest.approx(charge, abs=1e-12)
        assert abs(explanation.residual) < 1e-12
        np.testing.assert_allclose(explanation.values @ atoms.positions, atoms.get_dipole_moment(), rtol=0, atol=1e-12)


@WITH_SHIPPED
@pytest.mark.parametrize("name", ["C6H6", "CH4", "H2O"])
def test_equivalent_atoms_have_equal_values(calculator: NetworkCalculator, name: str) -> None:
    angles = np.pi / 3 * np.arange(6)
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    atoms = Atoms("C6H6", np.concatenate([1.39 * ring, 2.48 * ring])) if name == "C6H6" else molecule(name)
    atoms.rotate(37, (1, 2, 3))
    for explainer in (AtomicEnergies(), LatentCharges()):
        values = explain(atoms, explainer, calculator).values
        groups = [values[atoms.numbers == z] for z in set(atoms.numbers)]
        assert max(np.ptp(group) for group in groups) < 1e-10 < 1e-4 < np.ptp([group.mean() for group in groups])


@pytest.mark.parametrize(("name", "n_open"), [("CH4", 1), ("CH3CH2OH", 5), ("C6H6", 9), ("N2", 0), ("CO2", 1)])
def test_open_charge_directions_change_neither_charge_nor_dipole(name: str, n_open: int) -> None:
    atoms = molecule(name)
    directions = open_directions(atoms.positions)
    assert len(directions) == n_open  # methane 1, ethanol 5, benzene 9 of 12: N - rank[1, x, y, z]
    np.testing.assert_allclose(directions.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(directions @ atoms.positions, 0, atol=1e-12)


def test_networks_without_charges_refuse(tmp_path: Path) -> None:
    network = random_schnet(6, charges=False)
    calculator = load(write_weights(tmp_path / "w", network, statistics=False))
    with pytest.raises(ValueError, match="has no charges"):
        explain(molecule("H2O"), LatentCharges(), calculator)


def test_rigidity_needs_statistics_and_says_so(tmp_path: Path) -> None:
    calculator = load(write_weights(tmp_path / "w", random_schnet(1), statistics=False))
    assert explain(molecule("H2O"), AtomicEnergies(), calculator).uncertainty is None
    with pytest.raises(ValueError, match="no training statistics"):
        explain(molecule("H2O"), LocalRigidity(), calculator)
    with pytest.raises(ValueError, match="target must be one of energy, charge"):
        explain(molecule("H2O"), LocalRigidity("forces"), calculator)


# --- the record --------------------------------------------------------------------------------------------------------


def test_groups_partition_the_atoms(calculator: NetworkCalculator) -> None:
    explanation = energies(calculator)
    carbon, rest = [0, 1], list(range(2, 9))
    grouped = explanation.by({"carbon": carbon, "rest": rest})
    assert grouped.labels == ("carbon", "rest")
    np.testing.assert_allclose(grouped.values, [explanation.values[:2].sum(), explanation.values[2:].sum()])
    np.testing.assert_allclose(grouped.uncertainty, [explanation.uncertainty[:2].sum(), explanation.uncertainty[2:].sum()])
    assert grouped.total == pytest.approx(explanation.total)
    for groups, message in (
        ({"a": [0, 1], "b": [1, *rest]}, r"twice \[1\]"),
        ({"a": [0]}, r"missing \[1, 2"),
        ({"a": [0, 1, 9], "b": rest}, "name atom 9"),
    ):
        with pytest.raises(ValueError, match=message):
            explanation.by(groups)
    with pytest.raises(ValueError, match="level 'group'"):
        grouped.by({"a": [0]})


def test_records_are_frozen_copies(calculator: NetworkCalculator) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    explanation = energies(calculator, atoms)
    before = explanation.positions.copy()
    atoms.positions += 1.0
    np.testing.assert_array_equal(explanation.positions, before)
    with pytest.raises(ValueError, match="read-only"):
        explanation.values[0] = 0.0
    with pytest.raises(AttributeError):
        explanation.units = "kcal/mol"  # type: ignore[misc]
    with pytest.raises(TypeError):
        explanation.settings["reference"] = "other"  # type: ignore[index]


def test_records_refuse_what_does_not_fit(calculator: NetworkCalculator) -> None:
    good = energies(calculator)
    facts = {"units": "eV", "method": "test", "numbers": good.numbers, "positions": good.positions}
    facts |= {"cell": good.cell, "pbc": good.pbc, "target": "energy"}
    nan = np.where(np.arange(9) == 3, np.nan, good.values)
    for change, message in (
        ({"level": "atom", "values": good.values[:5]}, "needs one row of values for each of numbers, 9, got 5"),
        ({"level": "molecule", "values": good.values}, "level must be one of"),
        ({"level": "atom", "values": good.values, "gauge": "free"}, "gauge one of"),
        ({"level": "atom", "values": nan}, "not finite"),
        ({"level": "pair", "values": good.values}, "each of index, 0, got 9"),
        ({"level": "atom", "values": good.values, "uncertainty": good.values[:3]}, "uncertainty must have shape"),
        ({"level": "grid", "values": good.values, "points": good.positions, "grid_shape": (2, 2, 2)}, "has 8 points, got 9"),
        ({"level": "atom", "values": 1.0}, "at least one axis"),
        (
            {"level": "atom", "values": good.values, "baselines": {"free_atom": np.zeros(3)}},
            "baseline 'free_atom' must have",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Explanation(**facts, **change)
    masked = Explanation(**facts, level="atom", values=nan, mask=np.isfinite(nan))
    assert masked.mask.sum() == 8


def test_differences_need_the_same_question(calculator: NetworkCalculator, weights: dict[str, Path]) -> None:
    one = energies(calculator)
    moved = one.atoms
    moved.positions[0] += 0.1
    other = energies(calculator, moved)
    difference = other - one
    np.testing.assert_allclose(difference.values, other.values - one.values)
    np.testing.assert_allclose(difference.uncertainty, np.hypot(one.uncertainty, other.uncertainty))
    assert "another explanation" in difference.reference
    assert other.relative(one).total == pytest.approx(difference.total)
    charges = explain(moved, LatentCharges(), calculator)
    foreign = load(weights["organic"])
    with pytest.raises(ValueError, match="target"):
        one - charges
    with pytest.raises(ValueError, match="different rows"):
        one - energies(calculator, molecule("H2O"))
    swapped = moved[[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    swapped.numbers[[0, 2]] = swapped.numbers[[2, 0]]
    with pytest.raises(ValueError, match="another order"):
        one - energies(calculator, swapped)
    with pytest.raises(ValueError, match="references"):
        one - other.relative("composition")
    with pytest.raises(ValueError, match="different models"):
        one - energies(foreign)
    with pytest.raises(ValueError, match="units 'eV' and 'kcal/mol'"):
        one - Explanation(**{**_fields(one), "units": "kcal/mol"})


def test_moved_atoms_are_noticed(calculator: NetworkCalculator) -> None:
    explanation = energies(calculator)
    atoms = explanation.atoms
    explanation.attach(atoms)
    np.testing.assert_array_equal(atoms.arrays["xai_energy"], explanation.values)
    np.testing.assert_array_equal(atoms.arrays["xai_energy_uncertainty"], explanation.uncertainty)
    atoms.positions[0, 0] += 0.01
    with pytest.raises(ValueError, match=r"moved by up to 0\.01 Å"):
        explanation.attach(atoms)
    with pytest.raises(ValueError, match="was explained"):
        explanation.require_unmoved(molecule("CH4"))
    periodic = explanation.atoms
    periodic.pbc = True
    with pytest.raises(ValueError, match="cell changed"):
        explanation.require_unmoved(periodic)
    with pytest.raises(ValueError, match="only atomic values"):
        explanation.by({"all": range(9)}).attach(explanation.atoms)


# --- files and views ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".json", ".h5", ".hdf5"])
def test_files_are_lossless(calculator: NetworkCalculator, tmp_path: Path, ending: str) -> None:
    explanation = energies(calculator)
    path = tmp_path / f"answer{ending}"
    explanation.save(path)
    again = Explanation.load(path)
    for name in Explanation.__dataclass_fields__:
        mine, theirs = getattr(explanation, name), getattr(again, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        elif name == "baselines":
            assert set(mine) == set(theirs)
            for key in mine:
                np.testing.assert_array_equal(mine[key], theirs[key])
        else:
            assert mine == theirs, name
    assert (again - explanation).total == 0.0


@pytest.mark.parametrize("ending", [".json", ".h5"])
def test_records_without_atoms_are_read_again(weights: dict[str, Path], tmp_path: Path, ending: str) -> None:
    explanation = ElementEmbeddings()(load(weights["schnet"]))
    explanation.save(tmp_path / f"elements{ending}")
    again = Explanation.load(tmp_path / f"elements{ending}")
    np.testing.assert_array_equal(again.values, explanation.values)
    assert again.labels == explanation.labels and len(again.atoms) == 0


@pytest.mark.parametrize("ending", [".json", ".h5"])
def test_files_that_are_damaged_or_foreign_are_refused(calculator: NetworkCalculator, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"answer{ending}"
    energies(calculator).save(path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04K\x01.", b"[]", b'{"arrays": {}}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as an explanation"):
            Explanation.load(path)
    with pytest.raises(OSError, match="No such file"):
        Explanation.load(tmp_path / f"missing{ending}")
    with pytest.raises(ValueError, match="saved as"):
        energies(calculator).save(tmp_path / "answer.pkl")


def test_a_newer_or_larger_file_is_refused(calculator: NetworkCalculator, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    energies(calculator).save(path)
    content = json.loads(path.read_text())
    for change, message in (({"schema": "ase_xai explanation 2"}, "schema"), ({"color": "red"}, "unknown entries")):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            Explanation.load(path)


def test_tables_carry_units_and_names(calculator: NetworkCalculator) -> None:
    explanation = energies(calculator)
    frame = explanation.to_pandas()
    assert list(frame.columns) == ["energy (eV)", "uncertainty (eV)"]
    assert list(frame.index[:3]) == ["C0", "C1", "O2"]
    np.testing.assert_array_equal(frame["energy (eV)"], explanation.values)
    array = explanation.to_xarray()
    assert array.dims == ("atom",)
    assert array.attrs["units"] == "eV"
    assert float(array.sel(atom="O2")) == explanation.values[2]
    html = explanation._repr_html_()
    for text in ("energy of C2H6O by atom", "energy (eV)", "gauge: dependent", f"{explanation.values[0]:.4f}"):
        assert text in html
    assert "<script" not in Explanation(**{**_fields(explanation), "notes": ("<script>",)})._repr_html_()


def _fields(explanation: Explanation) -> dict[str, object]:
    return {name: getattr(explanation, name) for name in Explanation.__dataclass_fields__}


# --- explain() ---------------------------------------------------------------------------------------------------------


def test_explain_needs_a_calculator_of_this_package() -> None:
    atoms = molecule("H2O")
    with pytest.raises(ValueError, match="got NoneType"):
        explain(atoms, AtomicEnergies())
    atoms.calc = LennardJones()
    with pytest.raises(ValueError, match="got LennardJones"):
        explain(atoms, AtomicEnergies())


def test_explain_refuses_what_the_calculator_refuses(calculator: NetworkCalculator) -> None:
    for atoms, message in (
        (Atoms("Xe"), "does not know Xe"),
        (Atoms(), "no atoms"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "finite"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), "apart"),
    ):
        with pytest.raises(InputError, match=message):
            explain(atoms, AtomicEnergies(), calculator)


def test_an_ensemble_answers_with_mean_and_spread(weights: dict[str, Path]) -> None:
    members = [load(weights[name], dtype="float64") for name in ("schnet", "bp")]
    atoms = shaken_molecule("CH3CH2OH")
    both = explain(atoms, AtomicEnergies(), Ensemble(members))
    singles = np.stack([explain(atoms, AtomicEnergies(), member).values for member in members])
    np.testing.assert_allclose(both.values, singles.mean(axis=0))
    np.testing.assert_allclose(both.uncertainty, singles.std(axis=0, ddof=1))
    assert "mean of 2 models" in both.model
    assert both.relative("element_mean").values.shape == (9,)


# --- what every explainer keeps ----------------------------------------------------------------------------------------


def moving(name: str) -> Atoms:
    """A molecule with velocities, without which some explainers have nothing to say."""
    atoms = shaken_molecule(name)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    return atoms


FEW_POINTS = {name: {"surface": Surface(spacing=0.8)} for name in ("LocalChemicalPotential", "InsertionEnergy")}
NEED_EMBEDDINGS = ("ElementEmbeddings", "IntegratedGradients")


def answers_of(name: str, calculator: NetworkCalculator, atoms: Atoms) -> Explanation | None:
    """The explainer's answer with its own settings, at few points; None where a network has none and says so."""
    explainer = explainer_by_name(name)(**FEW_POINTS.get(name, {}))
    if name in NEED_EMBEDDINGS and calculator.card.architecture == "behler-parrinello":
        with pytest.raises(ValueError, match=r"behler-parrinello networks have no element embeddings.*weights\.$"):
            explainer(calculator, atoms)
        return None
    return explainer(calculator, atoms)


@WITH_SHIPPED
@pytest.mark.parametrize("name", sorted(EXPLAINERS))
def test_explaining_changes_nothing_and_repeats_itself(name: str, calculator: NetworkCalculator) -> None:
    atoms = moving("H2O")
    atoms.calc = calculator
    atoms.get_forces()
    network = calculator.network
    before = copy.deepcopy(dict([*network.named_parameters(), *network.named_buffers()]))
    results, state, seed = copy.deepcopy(calculator.results), atoms.copy(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    first, second = answers_of(name, calculator, atoms), answers_of(name, calculator, atoms)
    after = dict([*network.named_parameters(), *network.named_buffers()])
    assert set(after) == set(before) >= set(network.state_dict())
    assert all(torch.equal(value, before[key]) and value.dtype == before[key].dtype for key, value in after.items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not any(m.training or m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in network.modules())
    assert results.keys() == calculator.results.keys()
    assert all(np.array_equal(results[key], calculator.results[key]) for key in results)
    assert atoms == state
    assert torch.equal(seed, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    if first is not None and second is not None:
        np.testing.assert_array_equal(first.values, second.values)
        assert first.method == name
        assert first.model_id == calculator.sha256
        json.dumps(dict(first.settings))


COMPLETE = (
    "AtomicEnergies", "LatentCharges", "InsertionEnergy", "BornCharges", "PairForces", "IntegratedGradients",
    "NBodyRelevance", "ManyBodyExpansion", "ShapleyValues", "EnergyFlow", "DipoleRate",
)  # fmt: skip


@pytest.mark.parametrize("weights_name", ["schnet", "bp"])
@pytest.mark.parametrize("name", sorted(EXPLAINERS))
def test_residuals_are_reported_in_single_precision(name: str, weights_name: str, weights: dict[str, Path]) -> None:
    """By every explainer whose values are parts of a whole, as in double precision but for rounding."""
    atoms = moving("H2O")
    single, double = (answers_of(name, load(weights[weights_name], dtype=d), atoms) for d in ("float32", "float64"))
    if single is None or double is None:
        assert single is double
    elif name in COMPLETE:
        assert abs(single.residual - double.residual) < 1e-5 * max(1.0, np.abs(double.values).max())
    else:
        assert single.residual is None and double.residual is None


@pytest.mark.parametrize("name", sorted(EXPLAINERS))
def test_atomic_answers_follow_the_atoms(name: str, calculator: NetworkCalculator) -> None:
    """Scalar atomic values are permuted with the atoms, and do not change when the molecule is turned and moved."""
    if name in ("DipoleRate", "EnergyFlow", "HeatFlux"):
        pytest.skip("of moving atoms, whose velocities turn with them: test_flow.py")
    atoms = shaken_molecule("CH3OH")
    one = answers_of(name, calculator, atoms)
    if one is None or one.level != "atom" or one.values.ndim > 2:
        pytest.skip("no scalar atomic values from this explainer and network")
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = atoms[order]
    permuted.rotate(40, (1, 2, 3))
    permuted.positions += [1.0, -2.0, 0.5]
    other = answers_of(name, calculator, permuted)
    scale = max(1.0, float(np.abs(one.values).max()))
    np.testing.assert_allclose(other.values, one.values[order], rtol=0, atol=1e-9 * scale)


def test_explanations_of_crystals(calculator: NetworkCalculator) -> None:
    crystal = bulk("C", "diamond", a=3.57, cubic=True)
    crystal.rattle(0.05, seed=1)
    explanation = energies(calculator, crystal)
    graph = calculator.checked_graph(crystal)
    assert explanation.total == pytest.approx(float(predict(calculator.network, graph).energy[0]), abs=1e-8)
    assert explanation.pbc.all()
    with pytest.raises(ValueError, match="cell changed"):
        explanation.require_unmoved(_stretched(crystal))


def _stretched(crystal: Atoms) -> Atoms:
    other = crystal.copy()
    other.set_cell(crystal.cell * 1.01, scale_atoms=False)
    return other


def test_every_explainer_is_registered() -> None:
    folder = Path(ase_xai.explainers.__file__).parent
    homes = set(EXPLAINERS.values())
    assert homes <= {file.stem for file in folder.glob("*.py")}
    for name in EXPLAINERS:
        assert explainer_by_name(name).__name__ == name
    with pytest.raises(ValueError, match="no explainer 'Lime'"):
        explainer_by_name("Lime")


# --- learned features and reference charges ---------------------------------------------------------------------------


def test_features_keep_their_distances_on_all_components(calculator: NetworkCalculator) -> None:
    molecules = [shaken_molecule(name) for name in ("CH3CH2OH", "CH3OH", "CH3CHO", "H2O", "CH4", "NH3")]
    features = [explain(atoms, AtomicFeatures(), calculator) for atoms in molecules]
    raw = np.concatenate([f.values for f in features])
    projected = feature_map(features, n_components=raw.shape[1])
    np.testing.assert_allclose(
        distances_between(np.concatenate([p.values for p in projected])), distances_between(raw), rtol=0, atol=1e-9
    )
    assert [p.values.shape[1] for p in feature_map(features)] == [2] * 6
    np.testing.assert_allclose(
        features[0].values, predict(calculator.network, calculator.checked_graph(molecules[0])).output.features, atol=1e-12
    )


def test_planted_classes_are_separated_and_shuffled_ones_are_not(calculator: NetworkCalculator) -> None:
    molecules = [
        shaken_molecule(name, seed=k) for k, name in enumerate(["CH3CH2OH", "CH3OH", "CH3CHO", "CH4", "NH3", "H2O"])
    ]
    features = [explain(atoms, AtomicFeatures(), calculator) for atoms in molecules]
    elements = [list(atoms.symbols) for atoms in molecules]
    found = separability(features, [[s if s in "HC" else None for s in names] for names in elements])
    assert found.classes == ("C", "H")
    assert found.accuracy > 0.95  # elements have embeddings, or networks, of their own
    assert abs(found.chance[0] - 0.5) < 0.2
    np.testing.assert_allclose(found.confusion.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match="one class"):
        separability(features, elements[:-1])
    with pytest.raises(ValueError, match="got 1 classes"):
        separability(features, [["X"] * len(names) for names in elements])
    with pytest.raises(ValueError, match="from AtomicFeatures"):
        feature_map([energies(calculator)])


def test_reference_charges_are_compared_by_element(calculator: NetworkCalculator) -> None:
    charges = [explain(shaken_molecule(name), LatentCharges(), calculator) for name in ("CH3CH2OH", "CH3OH")]
    same = {a.element: a for a in compare_charges(charges, [2.0 * c.values for c in charges])}
    assert set(same) == {"H", "C", "O", "all"}
    assert same["all"].n_atoms == 15
    assert same["H"].correlation == pytest.approx(1.0) and same["H"].slope == pytest.approx(2.0)
    assert same["H"].same_sign == 1.0
    assert np.isnan(same["O"].correlation)
    opposite = {a.element: a for a in compare_charges(charges, [-c.values for c in charges])}
    assert opposite["H"].same_sign == 0.0 and opposite["H"].correlation == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="one reference charge"):
        compare_charges(charges, [charges[0].values])
    with pytest.raises(ValueError, match="something else"):
        compare_charges([energies(calculator)], [np.zeros(9)])


# --- element embeddings ------------------------------------------------------------------------------------------------


def test_all_components_keep_every_distance(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    explanation = explain(molecule("H2O"), ElementEmbeddings(n_components=None), calculator)
    vectors = calculator.network.embedding.weight.detach().numpy()
    np.testing.assert_allclose(distances_between(explanation.values), distances_between(vectors), atol=1e-12)
    assert explanation.labels == ("H", "C", "N", "O")
    assert sum(explanation.settings["explained_variance"]) == pytest.approx(1.0)
    symbols, cosines = cosine_similarity(calculator)
    assert symbols == explanation.labels
    np.testing.assert_allclose(np.diag(cosines), 1.0)


def test_descriptor_networks_have_no_embeddings(weights: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="no element embeddings"):
        explain(molecule("H2O"), ElementEmbeddings(), load(weights["bp"]))


def test_components_come_in_order_and_with_fixed_signs() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 3)) * [5.0, 1.0, 0.1]
    scores, shares = principal_components(rows)
    assert (np.diff(shares) < 0).all()
    again, _ = principal_components(rows[::-1])
    np.testing.assert_allclose(again[::-1], scores, atol=1e-12)


def test_elements_have_their_places() -> None:
    known = {1: (1, 1), 2: (18, 1), 5: (13, 2), 26: (8, 4), 57: (0, 6), 71: (3, 6), 79: (11, 6), 118: (18, 7)}
    assert {z: place_in_table(z) for z in known} == known


def test_the_null_model_finds_planted_order_and_no_other() -> None:
    numbers = np.array([3, 11, 19, 37, 9, 17, 35, 53, 4, 12, 20, 38])
    places = np.array([place_in_table(int(z)) for z in numbers], dtype=float)
    rng = np.random.default_rng(1)
    planted = comparisons(numbers, distances_between(places + 0.1 * rng.normal(size=places.shape)), 500, rng)
    chance = comparisons(numbers, distances_between(rng.normal(size=(12, 8))), 500, rng)
    title = "distance within groups / between"
    assert planted[title]["p"] < 0.01
    assert planted[title]["value"] < 0.5
    assert chance[title]["p"] > 0.05


def test_order_within_groups_follows_planted_vectors(tmp_path: Path) -> None:
    elements = [3, 11, 19, 37, 9, 17, 35]
    network = random_schnet(1).__class__(elements, n_features=8, n_interactions=1, n_radial=10)
    with torch.no_grad():
        for row, z in enumerate(network.elements):
            network.embedding.weight[row] = place_in_table(z)[1] * torch.ones(8) + 0.01 * torch.arange(8) * (z % 5)
    calculator = load(write_weights(tmp_path / "w", network, statistics=False))
    found = order_within_groups(calculator)
    assert {group: about["elements"] for group, about in found.items()} == {
        1: ["Li", "Na", "K", "Rb"],
        17: ["F", "Cl", "Br"],
    }
    assert all(about["order"] == pytest.approx(1.0) for about in found.values())
