"""What weight files say about the training data, made again structure by structure, and refused where it is damaged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from explained import invented_statistics
from systems import ELEMENTS, random_behler_parrinello, random_schnet
from training_data import energies_only, labeled

from ase_xai.files import sealed, unsealed
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, AtomwiseOutput, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.statistics import HeadStatistics, TrainingStatistics, stable_ridge
from ase_xai.training import GraphLoader, LossWeights, Split, StructureSet, split_by_group, summary
from ase_xai.training.loss import MAGNITUDE_FLOOR
from ase_xai.training.summary import RIGID, summarize
from ase_xai.weights import ModelCard, WeightsError, load_weights, save_weights

MAKERS = {"schnet": random_schnet, "bp": random_behler_parrinello}
DIPOLES = LossWeights(energy=1.0, forces=0.0, dipole=1.0)


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> StructureSet:
    """Shaken molecules and, as every tenth structure, one with a total charge; some labels are missing."""
    found = labeled(tmp_path_factory.mktemp("data"))
    charge = np.zeros(len(found))
    charge[::10] = 1.0
    energy = found.energy.copy()
    energy[5] = np.nan
    return replace(found, total_charge=charge, energy=energy)


@pytest.fixture(scope="module")
def split(structures: StructureSet) -> Split:
    return split_by_group(structures, validation=0.25, test=0.0, seed=0)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def network(request: pytest.FixtureRequest) -> AtomisticNetwork:
    return MAKERS[request.param](5).double()


@pytest.fixture(scope="module")
def statistics(network: AtomisticNetwork, structures: StructureSet, split: Split) -> TrainingStatistics:
    return summarize(network, GraphLoader(structures, network.cutoff), split, DIPOLES)


def atoms_of(structures: StructureSet, index: int) -> tuple[Atoms, float]:
    rows = slice(structures.offsets[index], structures.offsets[index + 1])
    return Atoms(structures.numbers[rows], structures.positions[rows]), float(structures.total_charge[index])


def output_of(network: AtomisticNetwork, atoms: Atoms, charge: float = 0.0) -> AtomwiseOutput:
    graph = AtomGraph.from_atoms(atoms, network.cutoff, total_charge=charge)
    graph = graph.with_vectors(graph.vectors.float())  # as training sees them
    with torch.no_grad():
        return network(graph)


def slow_rows(network: AtomisticNetwork, atoms: Atoms, inputs: torch.Tensor) -> np.ndarray:
    """(N, D) last-layer inputs and a one, written into the block of each atom's element by hand."""
    found = []
    for z, row in zip(atoms.numbers, inputs.numpy(), strict=True):
        own = [*row, 1.0]
        if isinstance(network, BehlerParrinelloNetwork):
            blocks = [[0.0] * len(own) for _ in network.elements]
            blocks[network.elements.index(z)] = own
            own = [x for block in blocks for x in block]
        found.append(own)
    return np.array(found)


def last_layer(network: AtomisticNetwork, head: str) -> np.ndarray:
    """(D,) weights and bias in the order of the rows, times the energy scale for energies."""
    if isinstance(network, SchNetNetwork):
        layers = [network.energy_readout[-1] if head == "energies" else network.charge_readout[-1]]
    else:
        layers = list(network.energy_readouts if head == "energies" else network.charge_readouts)
    scale = network.energy.scale if head == "energies" else 1.0
    return scale * np.concatenate([[*layer.weight[0].tolist(), *layer.bias.tolist()] for layer in layers])


def moments(network: AtomisticNetwork, atoms: Atoms, charge: float) -> np.ndarray:
    """(3, D) Φ = Σ_i r_i ⊗ (f_i - f̄), with loops."""
    rows = slow_rows(network, atoms, output_of(network, atoms, charge).charge_inputs)
    mean = rows.mean(axis=0)
    return sum(np.outer(r, row - mean) for r, row in zip(atoms.positions, rows, strict=True))


# --- the matrices ------------------------------------------------------------------------------------------------------


def test_rows_are_what_energies_and_dipoles_are_linear_in(network: AtomisticNetwork, structures: StructureSet) -> None:
    """E_i = w·f_i + m and μ = Φw + Q·centroid, exactly, for neutral and charged systems."""
    for index in (0, 3, 10, 21):
        atoms, _ = atoms_of(structures, index)
        for charge in (-1.0, 0.0, 1.0):
            output = output_of(network, atoms, charge)
            rows = slow_rows(network, atoms, output.energy_inputs)
            predicted = rows @ last_layer(network, "energies") + network.energy.shift
            np.testing.assert_allclose(predicted, output.energies.numpy(), atol=1e-12)
            dipole = output.charges.numpy() @ atoms.positions
            linear = moments(network, atoms, charge) @ last_layer(network, "charges")
            np.testing.assert_allclose(linear + charge * atoms.positions.mean(axis=0), dipole, atol=1e-12)


def test_gram_matrices_add_up_structure_by_structure(
    network: AtomisticNetwork, structures: StructureSet, split: Split, statistics: TrainingStatistics
) -> None:
    energies, charges = 0.0, 0.0
    for index in split.training:
        atoms, charge = atoms_of(structures, index)
        if np.isfinite(structures.energy[index]):
            row = slow_rows(network, atoms, output_of(network, atoms, charge).energy_inputs).sum(axis=0)
            energies = energies + np.outer(row, row)
        phi = moments(network, atoms, charge)
        charges = charges + phi.T @ phi
    for expected, head in ((energies, statistics.energies), (charges, statistics.charges)):
        np.testing.assert_allclose(head.gram.numpy(), expected, atol=1e-9 * np.abs(expected).max())
    assert np.isnan(structures.energy[split.training]).any(), "no label is missing, so this test shows less than it should"


def test_magnitudes_give_one_projected_row(network: AtomisticNetwork, structures: StructureSet, split: Split) -> None:
    """Trained on |μ|, a structure tells ∂|μ|/∂w: by finite differences of the last layer, |μ| as the loss takes it."""
    magnitude = np.linalg.norm(structures.dipole, axis=1)
    known = replace(structures, dipole_magnitude=magnitude.astype(np.float32))
    weights = LossWeights(energy=0.0, forces=0.0, dipole=0.0, dipole_magnitude=1.0)
    found = summarize(network, GraphLoader(known, network.cutoff), replace(split, training=split.training[:6]), weights)
    assert found.energies is None
    expected, w, h = 0.0, last_layer(network, "charges"), 1e-6
    for index in split.training[:6]:
        atoms, charge = atoms_of(structures, index)
        phi, offset = moments(network, atoms, charge), charge * atoms.positions.mean(axis=0)

        def size(weights: np.ndarray, phi: np.ndarray = phi, offset: np.ndarray = offset) -> float:
            return float(np.sqrt(((phi @ weights + offset) ** 2).sum() + MAGNITUDE_FLOOR**2))

        slope = np.array([(size(w + h * e) - size(w - h * e)) / (2 * h) for e in np.eye(len(w))])
        expected = expected + np.outer(slope, slope)
    np.testing.assert_allclose(found.charges.gram.numpy(), expected, atol=1e-7 * np.abs(expected).max())


def test_means_and_counts(
    network: AtomisticNetwork, structures: StructureSet, split: Split, statistics: TrainingStatistics
) -> None:
    energies: dict[int, list[float]] = {z: [] for z in network.elements}
    charges: dict[int, list[float]] = {z: [] for z in network.elements}
    for index in split.training:
        atoms, charge = atoms_of(structures, index)
        output = output_of(network, atoms, charge)
        for z, energy, q in zip(atoms.numbers, output.energies.tolist(), output.charges.tolist(), strict=True):
            energies[z].append(energy)
            charges[z].append(q)
    for head, values in ((statistics.energies, energies), (statistics.charges, charges)):
        np.testing.assert_allclose(head.mean.numpy(), [np.mean(v) for v in values.values()], rtol=1e-9)
        np.testing.assert_allclose(head.spread.numpy(), [np.std(v) for v in values.values()], atol=1e-7)
    assert statistics.n_atoms.tolist() == [len(v) for v in energies.values()]
    assert statistics.n_structures.tolist() == [len(split.training)]


def test_usual_leverages_and_calibration(
    network: AtomisticNetwork, structures: StructureSet, split: Split, statistics: TrainingStatistics
) -> None:
    """Percentiles over training atoms, and α² over validation structures, from the inverse matrix itself."""
    head = statistics.energies
    inverse = np.linalg.inv(head.gram.numpy() + float(head.ridge) * np.eye(len(head.gram)))
    scale = np.abs(inverse).max() * float(head.gram.diagonal().mean())
    leverages: dict[int, list[float]] = {z: [] for z in network.elements}
    for index in split.training:
        atoms, charge = atoms_of(structures, index)
        rows = slow_rows(network, atoms, output_of(network, atoms, charge).energy_inputs)
        for z, row in zip(atoms.numbers, rows, strict=True):
            leverages[z].append(row @ inverse @ row)
    expected = [[np.median(v), np.quantile(v, 0.99), np.max(v)] for v in leverages.values()]
    np.testing.assert_allclose(head.leverage.numpy(), expected, rtol=1e-12 * scale + 1e-6)
    ratios = []
    for index in split.validation:
        atoms, charge = atoms_of(structures, index)
        output = output_of(network, atoms, charge)
        row = slow_rows(network, atoms, output.energy_inputs).sum(axis=0)
        residual = structures.energy[index] - float((output.energies + output.references).sum())
        ratios.append(residual**2 / (row @ inverse @ row))
    assert np.isfinite(ratios).all()
    np.testing.assert_allclose(float(head.scale), np.mean(ratios), rtol=1e-12 * scale + 1e-6)


def test_ranges_hold_every_training_atom(
    network: AtomisticNetwork, structures: StructureSet, split: Split, statistics: TrainingStatistics
) -> None:
    if not isinstance(network, BehlerParrinelloNetwork):
        assert statistics.feature_range is None
        return
    seen: dict[int, list[np.ndarray]] = {z: [] for z in network.elements}
    for index in split.training:
        atoms, _ = atoms_of(structures, index)
        graph = AtomGraph.from_atoms(atoms, network.cutoff)
        for z, row in zip(atoms.numbers, network.descriptors(graph).detach().numpy(), strict=True):
            seen[z].append(row)
    low, high = (np.array([edge(v, axis=0) for v in seen.values()]) for edge in (np.min, np.max))
    np.testing.assert_allclose(statistics.feature_range[:, 0].numpy(), low, atol=1e-4)
    np.testing.assert_allclose(statistics.feature_range[:, 1].numpy(), high, atol=1e-4)


# --- awkward data ------------------------------------------------------------------------------------------------------


def flat_and_symmetric(n: int = 12, noise: float = 1e-3) -> StructureSet:
    """Molecules in the plane z = 0, methane and single atoms, whose dipoles a charge model cannot give in part or at all."""
    rng = np.random.default_rng(0)
    frames: list[Atoms] = []
    for k in range(n):
        water = molecule("H2O")
        water.positions = np.column_stack([water.positions[:, 1:] + rng.normal(0, 0.03, (3, 2)), np.zeros(3)])
        frames += [water, [molecule("CH4"), Atoms("O"), Atoms("H2", [[0, 0, 0], [0, 0, 0.74 + 0.01 * k]])][k % 3]]
    return StructureSet(
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        positions=np.concatenate([atoms.positions for atoms in frames]),
        offsets=np.cumsum([0] + [len(atoms) for atoms in frames]),
        energy=rng.normal(size=len(frames)),
        dipole=(rng.normal(0, 0.1, (len(frames), 3)) * [1, 1, noise]).astype(np.float32),
    )


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0])
def test_components_that_charges_cannot_give_do_not_spoil_the_calibration(noise: float) -> None:
    data, network = flat_and_symmetric(noise=noise), random_schnet(5).double()
    half = len(data) // 2
    split = Split(np.arange(half), np.arange(half, len(data)), np.zeros(0, np.int64), 0, "")
    head = summarize(network, GraphLoader(data, network.cutoff), split, DIPOLES).charges
    leverages, squares = [], []
    for index in split.validation:
        rows = slice(data.offsets[index], data.offsets[index + 1])
        atoms = Atoms(data.numbers[rows], data.positions[rows])
        output = output_of(network, atoms)
        phi = moments(network, atoms, 0.0)
        leverages += head.leverages(torch.tensor(phi)).tolist()
        squares += ((data.dipole[index] - output.charges.numpy() @ atoms.positions) ** 2).tolist()
    told = np.array(leverages) > RIGID * np.quantile(leverages, 0.9)
    assert told.sum() < len(told) - len(split.validation) // 2, "no component was left out"
    expected = (np.array(squares)[told] / np.array(leverages)[told]).mean()
    assert float(head.scale) == pytest.approx(expected, rel=1e-3)


def test_labels_that_depend_on_nothing_give_no_statistics() -> None:
    """Dipoles of single atoms: every readout would do, and there is nothing to invert."""
    lone = StructureSet(
        numbers=np.array([8, 8, 8]),
        positions=np.zeros((3, 3)),
        offsets=np.arange(4),
        energy=np.array([1.0, 1.1, 0.9]),
        dipole=np.zeros((3, 3), np.float32),
    )
    network = random_schnet(5)
    split = Split(np.arange(2), np.array([2]), np.zeros(0, np.int64), 0, "")
    found = summarize(network, GraphLoader(lone, network.cutoff), split, DIPOLES)
    assert found.charges is None and found.energies is not None


def test_rare_elements_are_in_the_sample(structures: StructureSet, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "LEVERAGE_SAMPLE", 2)
    monkeypatch.setattr(summary, "OF_EACH_ELEMENT", 1)
    network = random_schnet(5)
    found = summarize(network, GraphLoader(structures, network.cutoff), split, energies_only())
    assert (found.energies.leverage[found.n_atoms > 0] > 0).all()


def test_elements_without_training_atoms(structures: StructureSet, split: Split) -> None:
    torch.manual_seed(0)
    for network in (
        SchNetNetwork([1, 6, 7, 8, 17], n_features=16, n_interactions=1),
        BehlerParrinelloNetwork([1, 6, 7, 8, 17]),
    ):
        found = summarize(network, GraphLoader(structures, network.cutoff), split, DIPOLES)
        assert found.n_atoms[4] == 0
        for head in (found.energies, found.charges):
            assert head.leverage[4].tolist() == [0.0, 0.0, 0.0] and head.mean[4] == 0 and head.spread[4] == 0


def test_only_what_was_trained_on(structures: StructureSet, split: Split) -> None:
    loader = GraphLoader(structures, 5.0)
    found = summarize(random_schnet(5), loader, split, energies_only())
    assert found.energies is not None and found.charges is None
    found = summarize(random_schnet(5, charges=False), loader, split, energies_only())
    assert found.energies is not None and found.charges is None

    class Silent(SchNetNetwork):
        """Does not tell the inputs of its last layer."""

        def forward(self, graph: AtomGraph) -> AtomwiseOutput:
            return replace(super().forward(graph), energy_inputs=None)

    assert summarize(Silent(ELEMENTS, n_features=8, n_interactions=1), loader, split, energies_only()) is None


def test_ridge_is_the_smallest_stable_one() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randn((50, 8), generator=generator, dtype=torch.float64)
    gram = full.T @ full
    assert float(stable_ridge(gram)) == pytest.approx(1e-13 * float(gram.diagonal().mean()))
    flat = torch.cat([full, full[:, :3]], dim=1)  # three columns twice: rank 8 of 11
    gram = flat.T @ flat
    ridge = stable_ridge(gram)
    inverse = torch.linalg.inv(gram + ridge * torch.eye(11))
    assert float(((gram + ridge * torch.eye(11)) @ inverse - torch.eye(11)).abs().max()) < 1e-5
    assert 1e-13 < float(ridge / gram.diagonal().mean()) < 1e-4


# --- files -------------------------------------------------------------------------------------------------------------


def equal(one: TrainingStatistics, other: TrainingStatistics) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("heads", [("energies", "charges"), ("energies",), ("charges",), ()])
def test_statistics_survive_a_weight_file(network: AtomisticNetwork, heads: tuple[str, ...], tmp_path: Path) -> None:
    whole = invented_statistics(network)
    kept = replace(whole, **{head: None for head in ("energies", "charges") if head not in heads})
    path = tmp_path / "w.safetensors"
    save_weights(path, network, ModelCard.describe(network, reference_kind="none"), kept)
    loaded = load_weights(path).statistics
    assert equal(loaded, kept)
    for head in heads:
        gram = getattr(loaded, head).gram
        assert torch.equal(gram, gram.T)
    assert (loaded.energies is None) == ("energies" not in heads) and (loaded.charges is None) == ("charges" not in heads)
    save_weights(path, network, ModelCard.describe(network, reference_kind="none"))
    assert load_weights(path).statistics is None


def test_made_statistics_survive_a_weight_file(
    network: AtomisticNetwork, statistics: TrainingStatistics, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, network, ModelCard.describe(network, reference_kind="none"), statistics)
    loaded = load_weights(path)
    assert equal(loaded.statistics, statistics)
    rows = torch.randn((3, len(statistics.energies.gram)), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.statistics.energies.leverages(rows), statistics.energies.leverages(rows))


DAMAGES = {
    "a matrix is missing": (lambda t: t.pop("statistics.energies.gram"), "energies.gram are missing"),
    "counts are missing": (lambda t: t.pop("statistics.n_atoms"), "n_atoms are missing"),
    "something unknown": (lambda t: t.update({"statistics.color": torch.ones(1)}), "unknown statistics"),
    "no triangle": (lambda t: t.update({"statistics.energies.gram": torch.ones(5).double()}), "triangle"),
    "not a number": (lambda t: t["statistics.energies.gram"].__setitem__(3, float("nan")), "gram must be finite"),
    "infinite mean": (lambda t: t["statistics.charges.mean"].__setitem__(0, float("inf")), "mean must be finite"),
    "negative scale": (lambda t: t["statistics.energies.scale"].neg_(), "scale must not be negative"),
    "negative ridge": (lambda t: t["statistics.charges.ridge"].neg_(), "ridge must not be negative"),
    "no Gram matrix": (lambda t: t["statistics.energies.gram"].__setitem__(1, 1e9), "not a Gram matrix"),
    "single precision": (
        lambda t: t.update({"statistics.energies.gram": t["statistics.energies.gram"].float()}),
        "float64, got torch.float32",
    ),
    "wrong shape": (lambda t: t.update({"statistics.energies.leverage": torch.ones((4, 2)).double()}), "shape"),
    "falling percentiles": (lambda t: t["statistics.energies.leverage"].__setitem__((0, 0), 9.0), "must rise"),
    "other elements": (
        lambda t: t.update({f"statistics.{k}": t[f"statistics.{k}"][:3].clone() for k in ("n_atoms", "feature_range")}),
        "of 3 elements, its network knows 4",
    ),
    "turned ranges": (lambda t: t["statistics.feature_range"].neg_(), "smallest values before"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_statistics_are_refused(damage: str, tmp_path: Path) -> None:
    """A file whose seal is intact but whose statistics cannot be: the error names the file and what is wrong."""
    network = random_behler_parrinello(3)
    path = tmp_path / "w.safetensors"
    save_weights(path, network, ModelCard.describe(network, reference_kind="none"), invented_statistics(network))
    content = path.read_bytes()
    from safetensors.torch import load

    tensors, about = load(content), unsealed(content)
    change, message = DAMAGES[damage]
    change(tensors)
    path.write_bytes(sealed(tensors, {"card": about["card"]}))
    with pytest.raises(WeightsError, match=f"w.safetensors cannot be used.*{message}"):
        load_weights(path)


def test_a_matrix_that_has_no_inverse_is_named() -> None:
    """Within the bounds of scalar products, and yet with a negative eigenvalue."""
    one = torch.ones(1, dtype=torch.float64)
    gram = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], dtype=torch.float64)
    mean, usual = torch.zeros(1, dtype=torch.float64), torch.ones((1, 3), dtype=torch.float64)
    head = HeadStatistics(mean, mean, gram, 1e-9 * one, one, usual)
    with pytest.raises(ValueError, match="not positive definite"):
        head.leverages(torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="2 inputs, the training statistics are of 3"):
        head.leverages(torch.ones((1, 2), dtype=torch.float64))


def test_every_field_is_stored() -> None:
    names = {name.rpartition(".")[2] for name in invented_statistics(random_schnet(1)).tensors()}
    assert names >= {field.name for field in fields(HeadStatistics)} | {"n_atoms", "n_structures"}
