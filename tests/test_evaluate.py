"""From a configuration to weights, and from weights back to the errors in their card."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read as read_frames
from training_data import COLUMNS, labeled_file
from typer.testing import CliRunner, Result

from ase_xai.cli import app
from ase_xai.training import StructureSet, read
from ase_xai.training.assessment import part_rows, table_rows
from ase_xai.training.config import SplitConfig
from ase_xai.training.evaluation import MAIN_ERRORS, error_tables, errors, worst
from ase_xai.training.pipeline import split_of
from ase_xai.weights import load_weights
from ase_xai.weights.format import save_weights

CONFIG = """
[data]
files = "set.npz"
columns = {charges = "charges_e"}
group = "qm9_index"
kind = "kind"
kind_names = ["even", "odd"]
[split]
validation = 0.2
test = 0.3
seed = 1
[network]
architecture = "schnet"
n_features = 8
n_interactions = 1
n_radial = 10
[training]
steps = 24
batch_size = 8
learning_rate = 3e-3
warmup = 5
compiled = false
loss = {energy = 8, forces = 1, dipole = 3}
[model]
license = "CC0-1.0"
level_of_theory = "Lennard-Jones"
"""
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in `run`, beside its data and configuration."""
    folder = tmp_path_factory.mktemp("training")
    labeled_file(folder / "set.npz", n_molecules=18)
    (folder / "run.toml").write_text(CONFIG)
    result = call("train", folder / "run.toml", "--out", folder / "run", "--no-progress")
    assert result.exit_code == 0, result.output
    (folder / "train.txt").write_text(result.stdout)
    return folder


def test_a_run_leaves_all_it_should(folder: Path) -> None:
    names = {path.name for path in (folder / "run").iterdir() if path.is_file()}
    figures = {"learning_curve.png", *(f"parity_{name}.png" for name in ("energy", "forces", "dipole", "charges"))}
    assert names == {"checkpoint.safetensors", "config.toml", "metrics.csv", "split.json", "weights.safetensors", *figures}
    assert all((folder / "run" / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert (folder / "run" / "config.toml").read_text() == CONFIG
    board = list((folder / "run" / "tensorboard").glob("events*"))
    assert bool(board) == (importlib.util.find_spec("tensorboard") is not None)
    text = (folder / "train.txt").read_text()
    assert "charges known for 72 of 72 structures, not trained on: its loss weight is 0" in text
    assert "Compositions determine one offset for each of the 4 elements" in text and "s per epoch" in text


def test_the_card_says_where_the_weights_come_from(folder: Path) -> None:
    import hashlib

    card = load_weights(folder / "run" / "weights.safetensors").card
    about = card.training
    assert about["files"] == {"set.npz": hashlib.sha256((folder / "set.npz").read_bytes()).hexdigest()}
    assert about["split"] == {"validation": 0.2, "test": 0.3, "training": None, "seed": 1}
    assert sum(about["structures"].values()) == 72 and about["steps"] == 24 and about["settings"]["batch_size"] == 8
    assert set(about["versions"]) >= {"ase_xai", "torch", "python"} and about["seconds"] > 0
    assert about["charge_sign"] == "from dipole vectors"
    assert (card.license, card.level_of_theory) == ("CC0-1.0", "Lennard-Jones")
    assert set(card.errors["test"]) == {"all", "even", "odd", *(f"element {s}" for s in "HCNO")}


def test_extra_structures_are_all_trained_on(folder: Path, tmp_path: Path) -> None:
    """They stand behind the others, only in the training part, without energies here; what is measured stays the same."""
    with np.load(labeled_file(tmp_path / "all.npz", n_molecules=3)) as data:
        np.savez(tmp_path / "extra.npz", **{name: data[name] for name in data.files if name != "E_eV"})
    config = CONFIG.replace('files = "set.npz"', 'files = "set.npz"\nextra = "extra.npz"')
    (tmp_path / "run.toml").write_text(config)
    result = call("train", tmp_path / "run.toml", "--data", folder, "--out", tmp_path / "run", "--no-progress")
    assert result.exit_code == 0, result.output
    assert "energy known for 72 of 84 structures" in result.stdout
    split, base = (json.loads((where / "run" / "split.json").read_text()) for where in (tmp_path, folder))
    assert split["training"] == base["training"] + list(range(72, 84))
    assert (split["test"], split["validation"]) == (base["test"], base["validation"])
    card = load_weights(tmp_path / "run" / "weights.safetensors").card
    assert set(card.training["files"]) == {"set.npz", "extra.npz"}
    found = call("evaluate", tmp_path / "run" / "weights.safetensors", folder / "set.npz", "--json")
    assert json.loads(found.stdout) == card.errors["test"], found.output


def test_the_same_command_again_says_that_it_is_done(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").iterdir() if path.is_file()}
    result = call("train", folder / "run.toml", "--out", folder / "run")
    assert result.exit_code == 0 and "finished before: 24 steps" in result.stdout
    weights = folder / "run" / "weights.safetensors"
    assert weights.stat().st_mtime_ns == before[weights]
    assert result.stdout.splitlines()[-12:] == (folder / "train.txt").read_text().splitlines()[-12:]


def test_evaluation_prints_the_digits_of_the_card(folder: Path) -> None:
    weights = folder / "run" / "weights.safetensors"
    result = call("evaluate", weights, folder / "set.npz", "--out", folder / "found", "--worst", 3)
    assert result.exit_code == 0, result.output
    trained = (folder / "train.txt").read_text()
    table = trained[trained.index("errors on the test structures:\n") :].split("\n", 1)[1]
    assert result.stdout.endswith(table) and "(test)" in result.stdout
    found = json.loads((folder / "found" / "errors.json").read_text())
    assert found == load_weights(weights).card.errors["test"]
    frames: Any = read_frames(folder / "found" / "worst.extxyz", ":")
    data = read(folder / "set.npz", COLUMNS)
    lengths = []
    for atoms in frames:
        s = atoms.info["structure"]
        own = slice(data.offsets[s], data.offsets[s + 1])
        assert np.array_equal(atoms.numbers, data.numbers[own])
        assert np.allclose(atoms.arrays["reference_forces"], data.forces[own], atol=1e-6)
        lengths.append(np.linalg.norm(atoms.arrays["predicted_forces"] - data.forces[own], axis=1).mean())
    assert len(frames) == 3 and lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("part", ["training", "validation", "all"])
def test_other_parts_and_split_files(folder: Path, part: str) -> None:
    weights, data = folder / "run" / "weights.safetensors", folder / "set.npz"
    words = ["evaluate", weights, data, "--json", "--part", part]
    result, same = call(*words), call(*words, "--split", folder / "run" / "split.json")
    assert result.exit_code == 0 and result.stdout == same.stdout, result.output
    stored = json.loads((folder / "run" / "split.json").read_text())
    expected = 72 if part == "all" else len(stored[part])
    assert json.loads(result.stdout)["all"]["n_structures"] == expected


def test_other_data_are_evaluated_whole(folder: Path, tmp_path: Path) -> None:
    """Half the structures, in hartree: not the data of the training, so there is no test part of them."""
    weights = folder / "run" / "weights.safetensors"
    arrays = dict(np.load(folder / "set.npz", allow_pickle=False))
    arrays["U_Ha"] = arrays.pop("E_eV") / 27.211386
    np.savez(tmp_path / "other.npz", **arrays)
    words = ["evaluate", weights, tmp_path / "other.npz", "--columns", "energy=U_Ha", "--json"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    whole = json.loads(call("evaluate", weights, folder / "set.npz", "--part", "all", "--json").stdout)
    assert json.loads(result.stdout)["all"]["energy_mae_eV"] == pytest.approx(whole["all"]["energy_mae_eV"], rel=1e-3)
    refused = call(*words, "--part", "test")
    assert refused.exit_code == 2 and "not the ones of the training" in refused.stderr
    refused = call(*words, "--split", folder / "run" / "split.json")
    assert refused.exit_code == 2 and "other structures" in refused.stderr
    assert call(*words[:-1], "--units", "energy").exit_code == 2
    assert "part must be one of" in call(*words, "--part", "tests").stderr


def test_foreign_elements_are_refused(folder: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(folder / "set.npz", allow_pickle=False))
    arrays["Z"] = np.where(arrays["Z"] == 7, 15, arrays["Z"])
    np.savez(tmp_path / "phosphorus.npz", **arrays)
    result = call("evaluate", folder / "run" / "weights.safetensors", tmp_path / "phosphorus.npz")
    assert result.exit_code == 2 and "the data hold P, the network knows H C N O" in result.stderr


def test_what_cannot_be_trained_is_one_line(folder: Path, tmp_path: Path) -> None:
    def refused(old: str, new: str) -> str:
        (tmp_path / "run.toml").write_text(CONFIG.replace(old, new))
        result = call("train", tmp_path / "run.toml", "--data", folder, "--out", tmp_path / "run")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        return result.stderr

    assert "unknown key 'n_feature'" in refused("n_features", "n_feature")
    assert "does not exist" in refused("set.npz", "sets.npz")
    assert "the loss weighs stress, but the data have only" in refused("energy = 8,", "energy = 8, stress = 1,")
    assert "stress is required" in refused('kind = "kind"', 'kind = "kind"\nrequire = ["stress"]')
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_weights_of_nothing_but_nan_are_no_result(folder: Path, tmp_path: Path) -> None:
    """Predictions that are not finite must not be taken for missing labels."""
    loaded = load_weights(folder / "run" / "weights.safetensors")
    loaded.network.energy_readout[-1].weight.fill_(3e38)  # type: ignore[operator, union-attr]
    save_weights(tmp_path / "wild.safetensors", loaded.network, loaded.card)
    result = call("evaluate", tmp_path / "wild.safetensors", folder / "set.npz")
    assert result.exit_code == 1 and "not finite" in result.stderr


def with_predictions(structures: StructureSet) -> StructureSet:
    rng = np.random.default_rng(0)

    def moved(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else (array + rng.normal(0, 0.1, array.shape)).astype(array.dtype)

    names = ("energy", "forces", "dipole", "charges")
    return replace(structures, **{name: moved(getattr(structures, name)) for name in names})


def test_errors_by_hand(folder: Path) -> None:
    reference = read(folder / "set.npz", replace(COLUMNS, names={"charges": "charges_e"}))
    reference.forces[4, 1] = np.nan  # one missing component
    prediction = with_predictions(reference)
    tables = error_tables(reference, prediction)
    table, difference = tables["all"], prediction.energy - reference.energy
    assert table["energy_rmse_eV"] == pytest.approx(np.sqrt((difference**2).mean()))
    assert table["energy_mae_eV_per_atom"] == pytest.approx((np.abs(difference) / reference.n_atoms).mean())
    assert table["forces_mae_eV_per_A"] == pytest.approx(np.nanmean(np.abs(prediction.forces - reference.forces)), rel=1e-6)
    dipoles = np.linalg.norm(prediction.dipole - reference.dipole, axis=1)
    assert table["dipole_mae_eA"] == pytest.approx(dipoles.mean(), rel=1e-6)
    nitrogen = reference.numbers == 7
    expected = np.abs(prediction.charges - reference.charges)[nitrogen].mean()
    assert tables["element N"]["charges_mae_e"] == pytest.approx(expected, rel=1e-5)
    odd = np.flatnonzero(reference.kinds == 1)
    assert tables["odd"] == errors(reference.take(odd), prediction.take(odd))
    assert set(MAIN_ERRORS.values()) >= {"energy_mae_eV_per_atom"} and "forces_mae_eV_per_A" in table


def test_the_worst_structures_are_those_with_the_largest_errors(folder: Path) -> None:
    reference = read(folder / "set.npz", COLUMNS)
    forces = reference.forces.copy()
    for s, shift in ((7, 5.0), (40, 9.0)):
        forces[reference.offsets[s] : reference.offsets[s + 1]] += shift
    assert worst(reference, replace(reference, forces=forces), 2).tolist() == [40, 7]
    energy = reference.energy.copy()
    energy[[3, 9]] += [100.0, 300.0]
    bare = replace(reference, forces=None)
    assert worst(bare, replace(bare, energy=energy), 1).tolist() == [9]


def test_tables_show_units_that_fit() -> None:
    tables = {
        "all": {"n_structures": 2, "energy_mae_eV": 0.0123456, "energy_rmse_eV": 0.02, "dipole_mae_eA": 0.1},
        "hot": {"n_structures": 1, "energy_mae_eV": 0.5},
        "element H": {"n_atoms": 3},
    }
    assert table_rows(tables)[1:] == [("energy", "12.35", "20", "meV"), ("dipole error vector", "0.4803", "", "D")]
    assert part_rows(tables, elements=False) == [("MAE of", "structures", "energy (meV)"), ("hot", "1", "500")]
    assert part_rows(tables, elements=True) == []


def test_a_split_is_made_again_from_its_description(folder: Path) -> None:
    structures = read(folder / "set.npz", COLUMNS)
    stored = json.loads((folder / "run" / "split.json").read_text())
    assert split_of(structures, SplitConfig(0.2, 0.3, None, 1)).test.tolist() == stored["test"]
