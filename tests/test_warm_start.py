"""Training that starts from the weights of another run: the same function at first, and nothing that contradicts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from systems import random_behler_parrinello, random_schnet, shaken_molecule
from training_data import labeled_file, state_bits

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, predict
from ase_xai.training import Trainer, pipeline
from ase_xai.training.config import load_config
from ase_xai.weights import LoadedWeights, ModelCard, load_weights, save_weights

CONFIG = """
[data]
files = "set.npz"
[split]
validation = 0.25
test = 0
[network]
architecture = "schnet"
start = "start.safetensors"
[training]
steps = 9
batch_size = 6
warmup = 0
checkpoint_every = 4
compiled = false
learning_rate = 1e-3
loss = {energy = 8, forces = 1}
"""
STATED = {
    "schnet": "n_features = 16\nelements = [8, 1, 6, 7]\ncutoff = 5",
    "behler-parrinello": "hidden = [12, 10]\nzetas = [1]",
}
MAKERS: dict[str, Callable[[int], AtomisticNetwork]] = {
    "schnet": random_schnet,
    "behler-parrinello": random_behler_parrinello,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration beside its data and the weights it starts from."""
    labeled_file(tmp_path / "set.npz", n_molecules=6, n_copies=3)
    write_start(tmp_path, 3)
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[AtomisticNetwork]:
    """Networks of runs that came to their end, instead of weights, errors and figures, which take longer than the runs."""
    networks: list[AtomisticNetwork] = []
    monkeypatch.setattr(pipeline, "finish", lambda config, prepared, trainer, tell: networks.append(prepared.network))
    return networks


def write_start(folder: Path, seed: int, architecture: str = "schnet") -> LoadedWeights:
    network = MAKERS[architecture](seed)
    save_weights(folder / "start.safetensors", network, ModelCard.describe(network, reference_kind="made up"))
    return load_weights(folder / "start.safetensors")


def change(config: Path, old: str, new: str) -> None:
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def train(config: Path, folder: str) -> Path:
    return pipeline.train(config, config.parent / folder, progress=False, report=lambda line: None)


@pytest.mark.parametrize("architecture", MAKERS)
def test_a_run_that_learns_nothing_ends_as_the_function_it_started_from(
    config: Path, architecture: str, ended: list[AtomisticNetwork]
) -> None:
    """Weights, energy scale, shift, references and standardization stay, whatever the data would have them be."""
    start = write_start(config.parent, 3, architecture)
    change(config, '"schnet"', f'"{architecture}"\n{STATED[architecture]}')  # what is true may be said again
    change(config, "1e-3", "1e-30")
    train(config, "run")
    for name in ("H2O", "CH3CH2OH", "NH3"):
        graph = AtomGraph.from_atoms(shaken_molecule(name), start.network.cutoff)
        before, after = (predict(network, graph).energies for network in (start.network, ended[0]))
        assert before.isfinite().all() and before.equal(after)


def test_the_card_says_what_a_run_started_from(config: Path) -> None:
    start = load_weights(config.parent / "start.safetensors")
    card = load_weights(train(config, "run")).card
    assert card.training["start"] == {"weights": start.source, "sha256": start.sha256}
    assert card.reference_kind == f"Kept from {start.source}: made up"


def test_all_that_learns_in_a_new_network_learns_in_a_continued_one(config: Path) -> None:
    """Loaded weights have no gradients; in training only the last bias of the charges has none: nothing depends on it."""
    network = pipeline.prepare(load_config(config), lambda line: None).network
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["charge_readout.2.bias"]


def test_a_start_is_a_name_or_a_path_beside_the_configuration(config: Path) -> None:
    change(config, '"start.safetensors"', '"organic"')
    assert load_config(config, data=Path("elsewhere")).network.start == "organic"
    start = pipeline.prepare(load_config(config), lambda line: None).start
    assert start is not None and start.source == "organic"
    change(config, '"organic"', '"other/weights"')
    assert load_config(config, data=Path("elsewhere")).network.start == str(config.parent / "other/weights")
    change(config, '"other/weights"', '"organik"')
    with pytest.raises(ValueError, match="Did you mean 'organic'"):
        train(config, "run")
    change(config, '"organik"', "3")
    with pytest.raises(ValueError, match=r"network\.start must be a text, got 3"):
        load_config(config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n_features = 32", r"network\.n_features = 32 contradicts .*start\.safetensors.* there it is 16"),
        ("charges = false", r"network\.charges = False contradicts .* there it is True"),
        ("elements = [1, 6]", r"network\.elements = \[1, 6\] contradicts .* \[1, 6, 7, 8\]"),
        ("zetas = [1]", r"network\.architecture = 'behler-parrinello' contradicts .* there it is 'schnet'"),
        ("[data.references]\nH = -10", r"data\.references = {'H': -10\.0} contradicts .*'C': -1029\.9"),
    ],
)
def test_what_contradicts_the_start_is_named_with_both_values(config: Path, line: str, message: str) -> None:
    if "zetas" in line:
        change(config, '"schnet"', '"behler-parrinello"')
    change(config, "[training]", f"{line}\n[training]")
    with pytest.raises(ValueError, match=message):
        train(config, "run")
    assert not (config.parent / "run").exists()


def test_elements_that_the_start_does_not_know_are_named(config: Path) -> None:
    data = dict(np.load(config.parent / "set.npz", allow_pickle=False))
    data["Z"][data["Z"] == 7] = 15
    np.savez(config.parent / "set.npz", **data)
    with pytest.raises(ValueError, match=r"the data hold P, but .*start\.safetensors, .*, knows only H C N O"):
        train(config, "run")


class Killed(Exception):
    pass


def test_a_killed_run_ends_bit_equal_and_never_under_another_start(
    config: Path, monkeypatch: pytest.MonkeyPatch, ended: list[AtomisticNetwork]
) -> None:
    step, start = Trainer._train_step, load_weights(config.parent / "start.safetensors")

    def deadly(self: Trainer, batch: np.ndarray) -> None:
        if self.progress.step == 6:
            raise Killed
        step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_train_step", deadly)
        train(config, "cut")
    other = write_start(config.parent, 4)
    with pytest.raises(ValueError, match=f"cannot be continued: it was made with start={start.sha256}, now {other.sha256}"):
        train(config, "cut")
    settings = start.network.settings()
    own = "\n".join(f"{name} = {settings[name]}" for name in ("n_features", "n_interactions", "n_radial"))
    change(config, 'start = "start.safetensors"', own)
    with pytest.raises(ValueError, match=f"start={start.sha256}, now None"):
        train(config, "cut")
    write_start(config.parent, 3)
    config.write_text(CONFIG)
    train(config, "cut")
    train(config, "whole")
    cut, whole = ended
    assert state_bits(cut) == state_bits(whole) != state_bits(start.network)
