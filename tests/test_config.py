"""Configurations say what they mean, and a slip is named together with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from ase_xai.training import LossWeights, TrainingSettings
from ase_xai.training.config import Config, load_config

FULL = """
[data]
files = ["a.npz", "/data/b.extxyz"]
columns = {energy = "E_Ha"}
units = {energy = "hartree"}
group = "index"
kind = "kind"
kind_names = ["cold", "hot"]
references = {H = -13.6, O = -2042}
require = ["energy"]
skip_bad = true
store = "kept"

[split]
validation = 0.1
test = 20
training = 100
seed = 3

[network]
architecture = "behler-parrinello"
cutoff = 6
zetas = [1, 4]

[training]
epochs = 3
learning_rate = 1e-4
compiled = false

[training.loss]
energy = 2
forces = 0.5
form = "huber"

[model]
license = "CC0-1.0"
closed_shell = true
"""
SHORT = """
[data]
files = "a.npz"
[network]
architecture = "schnet"
n_features = 16
[training]
steps = 3
"""


def loaded(folder: Path, text: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text)
    return load_config(path)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = loaded(tmp_path, FULL)
    assert config.data.files == (tmp_path / "a.npz", Path("/data/b.extxyz")) and config.data.store == tmp_path / "kept"
    columns = config.data.read_as()
    assert (columns.names, columns.units) == ({"energy": "E_Ha"}, {"energy": "hartree"})
    assert (columns.group, columns.kind, columns.kind_names) == ("index", "kind", ("cold", "hot"))
    assert config.data.references == {"H": -13.6, "O": -2042.0}
    assert (config.split.validation, config.split.test, config.split.training, config.split.seed) == (0.1, 20.0, 100.0, 3)
    assert (config.network.architecture, config.network.arguments) == ("behler-parrinello", {"cutoff": 6.0, "zetas": (1, 4)})
    weights = LossWeights(energy=2.0, forces=0.5, dipole=0.0, form="huber")  # targets that are not named have no weight
    assert config.training == TrainingSettings(epochs=3.0, learning_rate=1e-4, compiled=False, loss=weights)
    assert (config.model.license, config.model.closed_shell, config.model.notes) == ("CC0-1.0", True, "")


def test_little_need_be_said(tmp_path: Path) -> None:
    config = loaded(tmp_path, SHORT)
    assert config.data.files == (tmp_path / "a.npz",) and config.training == TrainingSettings(steps=3)


def test_data_and_length_can_be_given_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(FULL)
    config = load_config(path, steps=7, data=Path("elsewhere"))
    assert (config.training.steps, config.training.epochs) == (7, 0.0)
    assert config.data.files == (Path("elsewhere/a.npz"), Path("/data/b.extxyz"))


SLIPS = [
    ("n_features", "n_feature", r"unknown key 'n_feature' in \[network\]. Did you mean 'n_features'"),
    ("steps = 3", "step = 3", r"unknown key 'step' in \[training\]. Did you mean 'steps'"),
    ("steps = 3", "steps = 3\nloss = {dipol = 1}", r"unknown key 'dipol' in \[training.loss\]. Did you mean 'dipole'"),
    ("[data]", "[dat]", "unknown section 'dat'. Did you mean 'data'"),
    ("schnet", "schnett", "unknown architecture 'schnett' .* Did you mean 'schnet'"),
    ('architecture = "schnet"', "", "network.architecture is missing. Known are behler-parrinello, schnet"),
    ('files = "a.npz"', "", "data.files is missing"),
    ('"a.npz"', "[]", r"\[data\] files is empty"),
    ('"a.npz"', "[1]", r"data.files\[0\] must be a path, got 1"),
    ('"a.npz"', "3", "data.files must be a list of paths, got 3"),
    ("steps = 3", "steps = 3.5", "training.steps must be an integer, got 3.5"),
    ("steps = 3", "steps = true", "training.steps must be an integer, got True"),
    ("steps = 3", "steps = 3\nlearning_rate = '1e-3'", "training.learning_rate must be a number, got '1e-3'"),
    ("steps = 3", "steps = 3\ncompiled = 1", "training.compiled must be true or false, got 1"),
    ("steps = 3", "steps = 3\nepochs = 3", r"\[training\] give the length of training as steps or as epochs"),
    ("steps = 3", "steps == 3", "run.toml: "),
    ("n_features = 16", "cutoff = '5'", "network.cutoff must be a number"),
    ("[network]", "references = 'free'\n[network]", "references must be 'least-squares' or a table"),
    ("[network]", "references = {Hh = -13}\n[network]", "unknown chemical symbol 'Hh'"),
    ("[network]", "columns = 'E'\n[network]", "data.columns must be a table, got 'E'"),
    ("[network]", "columns = {energi = 'E'}\n[network]", "energi"),
    ("[network]", "units = {energy = 'hartre'}\n[network]", "unit of energy must be one of .*hartree.* got 'hartre'"),
    ("[network]", "require = ['force']\n[network]", "unknown label 'force' .* Did you mean 'forces'"),
    ("[network]", "kind_names = 'cold'\n[network]", "data.kind_names must be a list of texts, got 'cold'"),
    ("[training]\nsteps = 3", "", r"there is no section \[training\]"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), SLIPS, ids=[message[:40] for *_, message in SLIPS])
def test_slips_are_named(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in SHORT
    with pytest.raises(ValueError, match=message) as caught:
        loaded(tmp_path, SHORT.replace(right, wrong, 1))
    assert str(caught.value).startswith(str(tmp_path / "run.toml"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none\.toml"):
        load_config(tmp_path / "none.toml")
