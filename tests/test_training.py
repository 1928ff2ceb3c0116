"""Training learns what it is asked to, survives a kill, and refuses what cannot be trained."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from systems import random_behler_parrinello, random_schnet
from training_data import energies_only, fresh, labeled, labeled_file, settings, state_bits

from ase_xai.networks import AtomisticNetwork, SchNetNetwork, predict
from ase_xai.training import (
    GraphLoader,
    LossWeights,
    Split,
    StructureSet,
    Trainer,
    TrainingSettings,
    descriptors,
    split_by_group,
)
from ase_xai.training.charge_sign import fix_charge_sign
from ase_xai.training.checks import require_sound
from ase_xai.training.evaluation import errors, predicted
from ase_xai.training.loss import MAGNITUDE_FLOOR, loss, loss_terms


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> StructureSet:
    return labeled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(structures: StructureSet) -> Split:
    return split_by_group(structures, validation=0.25, test=0.0, seed=0)


def with_all_labels(structures: StructureSet) -> StructureSet:
    """The set with magnitudes and charges as labels, some of everything missing."""
    assert structures.dipole is not None and structures.forces is not None and structures.energy is not None
    rng = np.random.default_rng(4)
    charges = rng.normal(0, 0.2, len(structures.numbers)).astype(np.float32)
    magnitude = np.linalg.norm(structures.dipole, axis=1)
    holed = replace(
        structures,
        energy=structures.energy.copy(), forces=structures.forces.copy(), dipole=structures.dipole.copy(),
        dipole_magnitude=magnitude, charges=charges,
    )  # fmt: skip
    holed.energy[3], holed.dipole[0], holed.dipole_magnitude[5] = np.nan, np.nan, np.nan
    holed.forces[holed.offsets[5] : holed.offsets[6]] = np.nan
    holed.charges[2] = np.nan
    return holed


def test_loss_by_hand_with_missing_labels(structures: StructureSet) -> None:
    holed, network, chosen = with_all_labels(structures), random_schnet(), np.array([0, 3, 5, 9])
    graph, labels = GraphLoader(holed, network.cutoff).batch(chosen)
    p, part = predict(network, graph), holed.take(chosen)
    weights = LossWeights(energy=2.0, forces=3.0, dipole=5.0, dipole_magnitude=7.0, charges=11.0)
    predicted_magnitude = np.sqrt((p.dipole.numpy() ** 2).sum(axis=1) + MAGNITUDE_FLOOR**2)
    expected = (
        2.0 * np.nanmean(np.abs(p.energy.numpy() - part.energy) / part.n_atoms)
        + 3.0 * np.nanmean(np.linalg.norm(p.forces.numpy() - part.forces, axis=1))
        + 5.0 * np.nanmean(np.linalg.norm(p.dipole.numpy() - part.dipole, axis=1))
        + 7.0 * np.nanmean(np.abs(predicted_magnitude - part.dipole_magnitude))
        + 11.0 * np.nanmean(np.abs(p.charges.numpy() - part.charges))
    )
    terms = loss_terms(p, labels, weights)
    assert [terms[name][1] for name in ("energy", "dipole", "dipole_magnitude")] == [3, 3, 3]
    assert float(loss(terms, weights)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["l2", "huber"])
def test_forms_of_the_loss_by_hand(structures: StructureSet, form: str) -> None:
    network, chosen = random_schnet(), np.array([0, 3, 5, 9])
    graph, labels = GraphLoader(structures, network.cutoff).batch(chosen)
    p, part = predict(network, graph), structures.take(chosen)
    size = np.linalg.norm(p.forces.numpy() - part.forces, axis=1)
    delta = float(np.median(size))
    by_hand = {"l2": size**2, "huber": np.where(size < delta, size**2 / (2 * delta), size - delta / 2)}
    weights = energies_only(energy=0.0, forces=2.0, form=form, delta=delta)
    assert float(loss(loss_terms(p, labels, weights), weights)) == pytest.approx(2.0 * by_hand[form].mean(), rel=1e-5)


@pytest.mark.parametrize("form", ["l1", "l2", "huber"])
def test_missing_labels_do_not_poison_gradients(structures: StructureSet, form: str) -> None:
    holed, network = with_all_labels(structures), random_schnet()
    graph, labels = GraphLoader(holed, network.cutoff).batch(np.array([0, 3, 5, 9]))
    weights = LossWeights(dipole_magnitude=1.0, charges=1.0, form=form)
    value = loss(loss_terms(predict(network, graph, create_graph=True), labels, weights), weights)
    gradients = torch.autograd.grad(value, [p for p in network.parameters() if p.requires_grad], allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_magnitude_loss_has_a_gradient_at_zero_dipole() -> None:
    dipole = torch.zeros((1, 3), dtype=torch.float64, requires_grad=True)
    value = (dipole.square().sum(dim=1) + MAGNITUDE_FLOOR**2).sqrt().sum()
    assert torch.isfinite(torch.autograd.grad(value, dipole)[0]).all()


@pytest.mark.parametrize("make", [random_schnet, random_behler_parrinello])
@pytest.mark.parametrize("weights", [LossWeights(), energies_only(dipole=3.0)], ids=["forces", "no forces"])
def test_training_learns_and_logs(
    structures: StructureSet,
    split: Split,
    tmp_path: Path,
    make: Callable[[int], AtomisticNetwork],
    weights: LossWeights,
) -> None:
    network = fresh(structures, make)
    loader = GraphLoader(structures, network.cutoff)
    reference = structures.take(split.validation)
    before = errors(reference, predicted(network, loader, split.validation))
    after = Trainer(network, loader, split, settings(90, loss=weights), tmp_path).run(progress=False)
    trained_on = ["energy_mae_eV_per_atom", "dipole_mae_eA"] + ["forces_mae_eV_per_A"] * weights.derivatives
    assert all(after[name] < 0.7 * before[name] for name in trained_on)
    assert errors(reference, predicted(network, loader, split.validation)) == pytest.approx(after, rel=1e-5)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 90 and float(rows[-1]["learning_rate"]) == 0.0
    assert float(rows[-1]["energy_mae_eV_per_atom"]) < float(rows[0]["energy_mae_eV_per_atom"])


def test_kept_descriptors_change_nothing(structures: StructureSet, split: Split) -> None:
    """Training on energies and dipoles from kept symmetry functions takes the steps that anew computed ones would."""
    network = fresh(structures, random_behler_parrinello)
    loader = GraphLoader(structures, network.cutoff)
    from ase_xai.networks.base import add_up
    from ase_xai.training.descriptors import DescriptorCache

    cache = DescriptorCache.of(network, loader, compiled=False)
    assert cache is not None and DescriptorCache.of(random_schnet(), loader, compiled=False) is None
    indices = np.array([11, 2, 30])
    sums, labels = cache.outputs(indices, torch.device("cpu"))
    graph, expected_labels = loader.batch(indices)
    expected = add_up(graph, network(graph))
    for name in ("energy", "charges", "dipole"):
        assert torch.allclose(getattr(sums, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert labels.energy is not None and torch.equal(labels.energy, expected_labels.energy)


def test_kept_descriptors_take_the_same_steps(
    structures: StructureSet, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept in memory, kept in a mapped file that vanishes with the process, or not kept at all."""

    def run(folder: str, keep: bool = True) -> tuple[AtomisticNetwork, object]:
        network = fresh(structures, random_behler_parrinello)
        chosen = settings(10, compiled=False, loss=energies_only(dipole=1.0))
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, chosen, tmp_path / folder)
        kept = None if trainer.cache is None else trainer.cache.values
        trainer.cache = trainer.cache if keep else None
        trainer.run(progress=False)
        return network, kept

    memory, array = run("memory")
    plain, _ = run("plain", keep=False)
    monkeypatch.setattr(descriptors, "MAX_IN_MEMORY", 0)
    mapped, file = run("mapped")
    assert isinstance(file, np.memmap) and not isinstance(array, np.memmap)
    assert not list((tmp_path / "mapped").glob(".descriptors*")) and state_bits(mapped) == state_bits(memory)
    gauge = "charge_readouts"  # a constant added to all unconstrained charges changes nothing, and wanders with rounding
    for name, value in plain.state_dict().items():
        assert gauge in name or torch.allclose(value, memory.state_dict()[name], atol=1e-5), name


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without what a clock says."""
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


class Killed(Exception):
    pass


SCHEDULES = {
    "schnet": (random_schnet, {}),
    "kept descriptors, plateau": (
        random_behler_parrinello,
        {"schedule": "plateau", "patience": 2, "loss": energies_only(dipole=1.0)},
    ),
    "buckets, cosine": (random_schnet, {"schedule": "cosine", "batch_atoms": 60, "weight_decay": 0.01}),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_an_interrupted_run_ends_bit_equal(
    structures: StructureSet, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    make, changes = SCHEDULES[case]

    def run(folder: Path, kill_at: int | None = None) -> AtomisticNetwork:
        network = fresh(structures, make)
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, settings(30, **changes), folder)
        step = Trainer._train_step

        def deadly(self: Trainer, batch: np.ndarray) -> None:
            if self.progress.step == kill_at:
                raise Killed
            step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_train_step", deadly)
            trainer.run(progress=False)
        return network

    whole = run(tmp_path / "whole")
    for kill_at in (3, 17, 25):  # before the first checkpoint, in the middle, in the cool-down
        with pytest.raises(Killed):
            run(tmp_path / f"cut{kill_at}", kill_at)
        assert state_bits(run(tmp_path / f"cut{kill_at}")) == state_bits(whole), kill_at
        assert metrics(tmp_path / f"cut{kill_at}") == metrics(tmp_path / "whole")


FORKING = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from training_data import *
from ase_xai.training import GraphLoader, Trainer, split_by_group
torch.set_num_threads(1)
structures = read(sys.argv[2], COLUMNS)
loader, split = GraphLoader(structures, 5.0), split_by_group(structures, validation=0.25, test=0.0, seed=0)
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # what it imports is slow
for line in sys.stdin:
    (folder, every), process = line.split(), os.fork()
    if process == 0:
        network = fresh(structures)
        chosen = settings(60, checkpoint_every=int(every), compiled=False, schedule="plateau", patience=1)
        Trainer(network, loader, split, chosen, folder).run(progress=False)
        open(folder + "/bits", "w").write(state_bits(network))
        os._exit(0)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""


def test_a_killed_run_ends_bit_equal(tmp_path: Path) -> None:
    """kill -9 at six moments, half of them while a checkpoint is being written (one is, at every step)."""
    labeled_file(tmp_path / "set.npz")
    command = [sys.executable, "-c", FORKING, str(Path(__file__).parent), str(tmp_path / "set.npz")]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], **streams) as parent:  # type: ignore[call-overload]

        def start(folder: str, checkpoint_every: int) -> int:
            parent.stdin.write(f"{tmp_path / folder} {checkpoint_every}\n")
            parent.stdin.flush()
            return int(parent.stdout.readline())

        folder, rng, n_torn = tmp_path / "cut", random.Random(0), 0
        for number in range(6):
            process = start("cut", 1)
            deadline = time.monotonic() + rng.uniform(0.05, 0.12)
            while time.monotonic() < deadline or (number % 2 and not any(folder.glob(".checkpoint*"))):
                assert not (folder / "bits").exists(), "the run ended before it was killed often enough"
            os.kill(process, signal.SIGKILL)
            assert int(parent.stdout.readline()) == signal.SIGKILL
            torn = list(folder.glob(".checkpoint*"))
            n_torn += len(torn)
            for path in torn:
                path.unlink()
        for name in ("cut", "whole"):
            start(name, 1000)
            assert int(parent.stdout.readline()) == 0
    assert (folder / "bits").read_text() == (tmp_path / "whole" / "bits").read_text()
    assert metrics(folder) == metrics(tmp_path / "whole") and n_torn


@pytest.fixture
def ctrl_c_works() -> Iterator[None]:
    """The tests may run in the background, where SIGINT is ignored from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_ends_between_two_steps(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    """The checkpoint holds every step made, the run goes on to the same bits, and signals are handled as before."""

    def run(folder: str, interrupt_at: int | None = None) -> AtomisticNetwork:
        network = fresh(structures)
        chosen = settings(30, checkpoint_every=1000, compiled=False)
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, chosen, tmp_path / folder)
        step = trainer._train_step

        def interrupted(batch: np.ndarray) -> None:
            if trainer.progress.step == interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            step(batch)

        trainer._train_step = interrupted  # type: ignore[method-assign]
        trainer.run(progress=False)
        return network

    before, whole = signal.getsignal(signal.SIGINT), run("whole")
    with pytest.raises(KeyboardInterrupt, match=r"interrupted after step 13; .*checkpoint\.safetensors is written"):
        run("cut", interrupt_at=12)
    assert state_bits(run("cut")) == state_bits(whole) and signal.getsignal(signal.SIGINT) == before


def test_an_end_in_the_middle_of_a_validation_changes_nothing(
    structures: StructureSet, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step before a validation has its checkpoint already: the next run starts with that validation."""

    def run(folder: str, kill: bool = False) -> AtomisticNetwork:
        network = fresh(structures)
        chosen = settings(20, checkpoint_every=1, compiled=False, schedule="plateau", patience=1)
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, chosen, tmp_path / folder)

        def deadly() -> dict[str, float]:
            raise Killed

        if kill:
            monkeypatch.setattr(trainer, "validate", deadly)
        trainer.run(progress=False)
        return network

    with pytest.raises(Killed):
        run("cut", kill=True)
    assert not (tmp_path / "cut" / "metrics.csv").exists()
    assert state_bits(run("cut")) == state_bits(run("whole"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_validations_every_other_epoch(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    network, chosen = fresh(structures), settings(0, epochs=5.0, validate_every=2, compiled=False)
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, chosen, tmp_path)
    trainer.run(progress=False)
    epochs = [int(row["step"]) / trainer.steps_per_epoch for row in metrics(tmp_path)]
    assert epochs == [2.0, 4.0, 5.0] and trainer.structures_per_second > 0


def test_a_finished_run_stays_as_it_is(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    def run(steps: int) -> Trainer:
        network = fresh(structures)
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, settings(steps, compiled=False), tmp_path)
        trainer.run(progress=False)
        return trainer

    first, rows, checkpoint = run(8), metrics(tmp_path), (tmp_path / "checkpoint.safetensors").read_bytes()
    assert first.finished and state_bits(run(8).network) == state_bits(first.network)
    assert metrics(tmp_path) == rows and (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint
    assert run(11).progress.step == 11 and metrics(tmp_path)[: len(rows)] == rows


def test_a_checkpoint_that_does_not_fit_is_refused(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    def trainer(network: AtomisticNetwork, parts: Split = split, **changes: object) -> Trainer:
        return Trainer(network, GraphLoader(structures, network.cutoff), parts, settings(7, **changes), tmp_path)

    trainer(fresh(structures)).run(progress=False)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors cannot be continued: .*network="):
        trainer(random_behler_parrinello())
    network = fresh(structures)
    network.energy.scale = 5.0
    with pytest.raises(ValueError, match=r"scale=1\.0, now 5\.0"):
        trainer(network)
    with pytest.raises(ValueError, match="training="):
        trainer(fresh(structures), replace(split, training=split.training[1:]))
    with pytest.raises(ValueError, match="batch_size=8, now 4; seed=1, now 9"):
        trainer(fresh(structures), seed=9, batch_size=4)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (b"", content[:100], content[:-1], b"\x80\x04K\x01.", bytes(flipped)):
        (tmp_path / "checkpoint.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint.safetensors cannot be continued"):
            trainer(fresh(structures))


def test_a_checkpoint_of_a_large_network_stays_below_15_mb(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    network = SchNetNetwork([1, 6, 7, 8, 9, 16, 17])
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, settings(1), tmp_path)
    trainer.run(progress=False)
    assert 1e6 < trainer.checkpoint.stat().st_size < 15e6


def test_learning_rates() -> None:
    s = TrainingSettings(steps=1000, learning_rate=1.0, warmup=100, cooldown=0.4)
    assert s.rate(0, 1000) == pytest.approx(0.01) and s.rate(99, 1000) == s.rate(599, 1000) == 1.0
    assert s.rate(800, 1000) == pytest.approx(0.5) and s.rate(1000, 1000) == 0.0
    cosine = replace(s, schedule="cosine")
    assert cosine.rate(500, 1000) == pytest.approx(0.5) and cosine.rate(1000, 1000) == pytest.approx(0.0)
    assert replace(s, schedule="plateau", factor=0.5).rate(900, 1000, reductions=3) == pytest.approx(0.125)
    assert replace(s, steps=0, epochs=2.5).total_steps(10) == 25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5, "epochs": 5.0}, "steps or"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, plateau"),
        ({"precision": "bf16"}, "precision must be one of float32, tf32"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"ema_decay": 1.5}, "ema_decay must lie between 0 and 1"),
        ({"validate_every": 0}, "validate_every must be positive"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**{"steps": 5, **changes})


def test_early_stopping_and_plateaus(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing, no validation beats the first: the run stops after so many epochs."""
    network = fresh(structures)
    quiet = settings(500, learning_rate=1e-12, stop_after=3, schedule="plateau", patience=2, ema_decay=0.0)
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, quiet, tmp_path)
    trainer.run(progress=False)
    assert trainer.progress.step <= 5 * trainer.steps_per_epoch and trainer.progress.reductions >= 1


def test_divergence_is_reported(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    network = fresh(structures)
    with torch.no_grad():
        network.embedding.weight.fill_(float("inf"))
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, settings(5), tmp_path)
    with pytest.raises(FloatingPointError, match="step 0; the last checkpoint"):
        trainer.run(progress=False)


@pytest.mark.parametrize("words", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory: you tried", "a bug"])
def test_a_batch_too_large_for_memory_is_explained(
    structures: StructureSet, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    network = fresh(structures)
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), split, settings(5, compiled=False), tmp_path)

    def full(batch: np.ndarray) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(trainer, "_outputs", full)
    expected = (
        (RuntimeError, "a bug") if words == "a bug" else (MemoryError, "a batch of 8 structures .* batch_size = 4, or")
    )
    with pytest.raises(expected[0], match=expected[1]):
        trainer.run(progress=False)


def test_what_cannot_be_trained_is_refused(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    network = fresh(structures)
    loader = GraphLoader(structures, network.cutoff)
    with pytest.raises(ValueError, match="the data hold N, the network knows H C O"):
        Trainer(SchNetNetwork([1, 6, 8], n_features=8, n_interactions=1), loader, split, settings(3), tmp_path)
    with pytest.raises(ValueError, match="the loss weighs stress, but the data have only energy, forces, dipole"):
        Trainer(network, loader, split, settings(3, loss=LossWeights(stress=1.0)), tmp_path)
    assert structures.forces is not None
    halfway = replace(structures, forces=structures.forces.copy())
    halfway.forces[np.isin(structures.structure_of_row, split.validation)] = np.nan
    with pytest.raises(ValueError, match="the loss weighs forces, but no validation structure has a label of it"):
        Trainer(network, GraphLoader(halfway, network.cutoff), split, settings(3), tmp_path)
    network.has_charges = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="no charges, so it cannot learn dipole"):
        Trainer(network, loader, split, settings(3), tmp_path)


def test_dipoles_that_are_not_defined_are_refused(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    """Unless no loss weighs them, or the ions are not trained on, or the checks have taken their labels away."""
    network = fresh(structures)
    charged = replace(structures, total_charge=np.zeros(len(structures)))
    charged.total_charge[split.validation[:2]] = 1.0

    def trainer(data: StructureSet, **changes: object) -> Trainer:
        return Trainer(network, GraphLoader(data, network.cutoff), split, settings(3, **changes), tmp_path)

    with pytest.raises(ValueError, match="weighs dipole, but 2 structures with such a label are charged or periodic"):
        trainer(charged)
    trainer(charged, loss=energies_only())
    elsewhere = replace(split, validation=split.validation[2:])
    Trainer(network, GraphLoader(charged, network.cutoff), elsewhere, settings(3), tmp_path)
    with pytest.warns(UserWarning, match="dipole is not used for 2 of 48 structures"):
        sound = require_sound(charged)
    trainer(sound)


def test_frozen_parameters_stay(structures: StructureSet, split: Split, tmp_path: Path) -> None:
    network = fresh(structures)
    network.embedding.weight.requires_grad_(False)
    before = network.embedding.weight.clone()
    Trainer(network, GraphLoader(structures, network.cutoff), split, settings(8), tmp_path).run(progress=False)
    assert torch.equal(network.embedding.weight, before)


@pytest.mark.parametrize(
    "changes", [{"energy": -1.0}, {"form": "l3"}, {"delta": 0.0}, {"energy": 0.0, "forces": 0.0, "dipole": 0.0}]
)
def test_bad_loss_weights_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|all loss weights are zero"):
        LossWeights(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [random_schnet, random_behler_parrinello])
def test_the_sign_of_charges_is_fixed_where_magnitudes_leave_it_open(
    structures: StructureSet, split: Split, make: Callable[[int], AtomisticNetwork]
) -> None:
    """Whichever sign training came to, oxygen ends negative; the magnitudes of dipoles stay, to the bit."""
    network, weights = make(3), LossWeights(energy=0.0, forces=0.0, dipole=0.0, dipole_magnitude=1.0)
    loader = GraphLoader(structures, network.cutoff)
    oxygen = structures.take(split.validation).numbers == 8

    def look() -> tuple[np.ndarray, np.ndarray]:
        p = predicted(network, loader, split.validation)
        assert p.charges is not None and p.dipole is not None
        return p.charges, np.linalg.norm(p.dipole, axis=1)

    charges, magnitudes = look()
    for _ in range(2):  # the second time nothing changes
        assert fix_charge_sign(network, loader, split, weights) == "arbitrary in training, fixed afterwards: O negative"
        fixed, same = look()
        assert fixed[oxygen].mean() < 0 and np.array_equal(magnitudes, same)
        assert np.array_equal(fixed, charges if charges[oxygen].mean() < 0 else -charges)
    assert fix_charge_sign(network, loader, split, LossWeights()) == "from dipole vectors"
    assert fix_charge_sign(network, loader, split, energies_only()) == "charges are not trained"
    assert np.array_equal(look()[0], fixed)
