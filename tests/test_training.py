"""Training learns, survives a kill, and never mixes up its data."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from systems import random_behler_parrinello, random_schnet

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, SchNetNetwork, predict
from ase_xai.training import GraphLoader, LossWeights, StructureSet, Trainer, TrainingSettings
from ase_xai.training.loss import Metrics, loss
from ase_xai.training.trainer import evaluate


def labeled_file(path: Path, n_molecules: int = 12, n_copies: int = 4) -> Path:
    """Shaken small molecules with Lennard-Jones energies and forces, and dipoles of charges by element."""
    names = ["H2O", "CH4", "CH3OH", "NH3", "CH3CH2OH", "C2H4"]
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {key: [] for key in ("n_atoms", "Z", "R", "E_eV", "F_eV_A", "dipole_eA", "qm9_index", "kind")}
    for index in range(n_molecules):
        for copy in range(n_copies):
            atoms: Atoms = molecule(names[index % len(names)])
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            atoms.calc = LennardJones(sigma=0.9, epsilon=0.3, rc=6.0)
            charges = np.array([{1: 0.2, 6: -0.3, 7: -0.5, 8: -0.6}[z] for z in atoms.numbers])
            charges -= charges.mean()
            rows["n_atoms"].append(len(atoms))
            rows["Z"].extend(atoms.numbers)
            rows["R"].extend(atoms.positions)
            rows["E_eV"].append(atoms.get_potential_energy() - 10.0 * atoms.numbers.sum())
            rows["F_eV_A"].extend(atoms.get_forces())
            rows["dipole_eA"].append(charges @ atoms.positions)
            rows["qm9_index"].append(index)
            rows["kind"].append(copy % 2)
    np.savez(path, **{key: np.array(value) for key, value in rows.items()})
    return path


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> StructureSet:
    return StructureSet.from_npz([labeled_file(tmp_path_factory.mktemp("data") / "set.npz")])


def test_split_never_separates_a_molecule(structures: StructureSet) -> None:
    train, validation, test = structures.split((0.25, 0.25), seed=3)
    assert sorted(np.concatenate([train, validation, test])) == list(range(len(structures)))
    groups = [set(structures.group[part]) for part in (train, validation, test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all(
        np.array_equal(a, b) for a, b in zip(structures.split((0.25, 0.25), seed=3), (train, validation, test), strict=True)
    )


def test_references_recover_energies_per_element(structures: StructureSet) -> None:
    references = structures.fit_references(np.arange(len(structures)))
    left = structures.energy - structures.composition(np.arange(len(structures))) @ np.array(list(references.values()))
    assert set(references) == {1, 6, 7, 8} and references[8] == pytest.approx(-80, abs=5)
    assert left.std() < 0.2 * structures.energy.std()


@pytest.mark.parametrize("network", [random_schnet(), random_behler_parrinello()], ids=["schnet", "bp"])
def test_batches_equal_graphs_made_one_by_one(structures: StructureSet, network: AtomisticNetwork) -> None:
    network = network.double()
    loader = GraphLoader(structures, network.cutoff)
    indices = np.array([17, 3, 40, 3])
    graph, labels = loader.batch(indices)
    singles = []
    for s in indices:
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        atoms = Atoms(structures.numbers[rows], structures.positions[rows])
        singles.append(AtomGraph.from_atoms(atoms, network.cutoff))
        assert float(labels.energy[len(singles) - 1]) == structures.energy[s]
    a, b = predict(network, graph), predict(network, AtomGraph.batch(singles))
    assert torch.allclose(a.energies, b.energies, atol=1e-4) and torch.allclose(a.forces.double(), b.forces, atol=1e-4)
    assert labels.forces.shape == a.forces.shape and labels.n_atoms.tolist() == [len(s.numbers) for s in singles]


def test_loss_by_hand(structures: StructureSet) -> None:
    network = random_schnet()
    graph, labels = GraphLoader(structures, network.cutoff).batch(np.array([0, 5]))
    p = predict(network, graph)
    expected = (
        2.0 * np.mean(np.abs((p.energy - labels.energy).numpy()) / labels.n_atoms.numpy())
        + 3.0 * np.mean(np.linalg.norm((p.forces - labels.forces).numpy(), axis=1))
        + 5.0 * np.mean(np.linalg.norm((p.dipole - labels.dipole).numpy(), axis=1))
    )
    assert float(loss(p, labels, LossWeights(2.0, 3.0, 5.0))) == pytest.approx(expected, rel=1e-6)
    metrics = Metrics()
    metrics.add(p, labels)
    means, error = metrics.means(), (p.dipole - labels.dipole).numpy()
    assert means["dipole_mae_eA"] == pytest.approx(np.linalg.norm(error, axis=1).mean(), rel=1e-6)
    assert means["dipole_component_mae_eA"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    magnitudes = [np.linalg.norm(mu.numpy(), axis=1) for mu in (p.dipole, labels.dipole)]
    assert means["dipole_magnitude_mae_eA"] == pytest.approx(np.abs(magnitudes[0] - magnitudes[1]).mean(), rel=1e-6)
    assert means["forces_mae_eV_per_A"] == pytest.approx(float((p.forces - labels.forces).abs().mean()), rel=1e-6)


def settings(steps: int) -> TrainingSettings:
    return TrainingSettings(steps=steps, batch_size=8, learning_rate=3e-3, warmup=5, checkpoint_every=7, seed=1)


def fresh(structures: StructureSet, make: Callable[[int], AtomisticNetwork] = random_schnet) -> AtomisticNetwork:
    network = make(5)
    network.energy.scale, network.energy.shift = 1.0, 0.0
    network.energy.references = structures.fit_references(np.arange(len(structures)))
    return network


def test_training_learns_and_logs(structures: StructureSet, tmp_path: Path) -> None:
    network = fresh(structures)
    loader = GraphLoader(structures, network.cutoff)
    train, validation, _ = structures.split((0.25, 0.0), seed=0)
    before = evaluate(network, loader, validation)
    after = Trainer(network, loader, train, validation, settings(300), tmp_path).run(progress=False)
    assert after["forces_mae_eV_per_A"] < 0.5 * before["forces_mae_eV_per_A"]
    assert after["dipole_mae_eA"] < 0.5 * before["dipole_mae_eA"]
    assert evaluate(network, loader, validation) == after
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 300 and float(rows[-1]["learning_rate"]) == 0.0
    assert float(rows[-1]["forces_mae_eV_per_A"]) < float(rows[0]["forces_mae_eV_per_A"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("make", [random_schnet, random_behler_parrinello])
def test_an_interrupted_run_ends_bit_equal(
    structures: StructureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], AtomisticNetwork]
) -> None:
    train, validation, _ = structures.split((0.25, 0.0), seed=0)

    def run(folder: Path, kill_at: int | None = None) -> AtomisticNetwork:
        network = fresh(structures, make)
        trainer = Trainer(network, GraphLoader(structures, network.cutoff), train, validation, settings(30), folder)
        step = Trainer._train_step

        def deadly(self: Trainer, batch: np.ndarray) -> None:
            if self.step == kill_at:
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
        resumed = run(tmp_path / f"cut{kill_at}")
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (kill_at, name)
        assert (tmp_path / f"cut{kill_at}" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
import test_training as t
torch.set_num_threads(1)
structures = t.StructureSet.from_npz([sys.argv[2]])
network = t.fresh(structures)
train, validation, _ = structures.split((0.25, 0.0), seed=0)
settings = t.replace(t.settings(60), checkpoint_every=1)
t.Trainer(network, t.GraphLoader(structures, network.cutoff), train, validation, settings, sys.argv[3]).run(progress=False)
torch.set_printoptions(precision=17)
print(float(sum(value.double().sum() for value in network.state_dict().values())).hex())
"""


def test_a_killed_run_ends_bit_equal(tmp_path: Path) -> None:
    """kill -9 at five moments, with a checkpoint written at every step, so that some hit the writing."""
    labeled_file(tmp_path / "set.npz")

    def start(folder: str) -> subprocess.Popen[str]:
        paths = (Path(__file__).parent, tmp_path / "set.npz", tmp_path / folder)
        command = [sys.executable, "-c", KILLED, *map(str, paths)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])

    whole = start("whole")
    checkpoint, rng = tmp_path / "cut" / "checkpoint.safetensors", random.Random(0)
    for _ in range(5):
        process = start("cut")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
    last = start("cut")
    expected, found = whole.communicate(timeout=120)[0], last.communicate(timeout=120)[0]
    assert expected == found and expected.startswith(("0x", "-0x"))


def test_a_checkpoint_that_does_not_fit_is_refused(structures: StructureSet, tmp_path: Path) -> None:
    train, validation, _ = structures.split((0.25, 0.0), seed=0)

    def trainer(network: AtomisticNetwork) -> Trainer:
        return Trainer(network, GraphLoader(structures, network.cutoff), train, validation, settings(7), tmp_path)

    trainer(fresh(structures)).run(progress=False)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors cannot be continued: .*network="):
        trainer(random_behler_parrinello())
    network = fresh(structures)
    network.energy.scale = 5.0
    with pytest.raises(ValueError, match=r"scale=1\.0, now 5\.0"):
        Trainer(network, GraphLoader(structures, network.cutoff), train, validation, settings(7), tmp_path)
    network = fresh(structures)
    with pytest.raises(ValueError, match="structures="):
        Trainer(network, GraphLoader(structures, network.cutoff), train[1:], validation, settings(7), tmp_path)
    other = replace(settings(7), seed=9, batch_size=4)
    with pytest.raises(ValueError, match="batch_size=8, now 4; seed=1, now 9"):
        Trainer(network, GraphLoader(structures, network.cutoff), train, validation, other, tmp_path)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (b"", content[:100], content[:-1], b"\x80\x04K\x01.", bytes(flipped)):
        (tmp_path / "checkpoint.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint.safetensors cannot be continued"):
            trainer(fresh(structures))


def test_learning_rate_rises_stays_and_falls() -> None:
    s = TrainingSettings(steps=1000, learning_rate=1.0, warmup=100, cooldown=0.4)
    assert s.rate(0) == pytest.approx(0.01) and s.rate(99) == s.rate(599) == 1.0
    assert s.rate(800) == pytest.approx(0.5) and s.rate(1000) == 0.0


def test_divergence_is_reported(structures: StructureSet, tmp_path: Path) -> None:
    network = fresh(structures)
    with torch.no_grad():
        network.embedding.weight.fill_(float("inf"))
    train, validation, _ = structures.split((0.25, 0.0), seed=0)
    trainer = Trainer(network, GraphLoader(structures, network.cutoff), train, validation, settings(5), tmp_path)
    with pytest.raises(FloatingPointError, match="step 0; the last checkpoint"):
        trainer.run(progress=False)


def _one_more(good: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One more entry in every array that has one per structure."""
    return {key: np.concatenate([good[key][:1], good[key]]) for key in ("E_eV", "dipole_eA", "qm9_index", "kind")}


def test_what_cannot_be_trained_is_refused(structures: StructureSet, tmp_path: Path) -> None:
    network, indices = fresh(structures), np.arange(len(structures))
    loader = GraphLoader(structures, network.cutoff)
    with pytest.raises(ValueError, match="0 validation structures"):
        Trainer(network, loader, indices, indices[:0], settings(3), tmp_path)
    with pytest.raises(ValueError, match=r"hold atomic numbers \[7\]"):
        other = SchNetNetwork([1, 6, 8], n_features=8, n_interactions=1)
        Trainer(other, loader, indices, indices, settings(3), tmp_path)


def test_no_steps_and_frozen_parameters_are_no_errors(structures: StructureSet, tmp_path: Path) -> None:
    network, indices = fresh(structures), np.arange(len(structures))
    loader = GraphLoader(structures, network.cutoff)
    network.embedding.weight.requires_grad_(False)
    before = network.embedding.weight.clone()
    for steps in (0, 8):
        Trainer(network, loader, indices, indices[:4], settings(steps), tmp_path).run(progress=False)
    assert torch.equal(network.embedding.weight, before)


def test_bad_data_is_named(tmp_path: Path) -> None:
    good = dict(np.load(labeled_file(tmp_path / "good.npz"), allow_pickle=False))

    def refused(message: str, **changes: np.ndarray | None) -> None:
        changed = {k: v for k, v in {**good, **changes}.items() if v is not None}
        np.savez(tmp_path / "bad.npz", **changed)
        with pytest.raises(ValueError, match=message):
            StructureSet.from_npz([tmp_path / "bad.npz"])

    nan = good["F_eV_A"].copy()
    nan[31, 2] = np.nan
    refused(r"bad.npz: F_eV_A is not finite in row 31", F_eV_A=nan)
    refused(r"lacks the keys \['dipole_eA'\]", dipole_eA=None)
    refused("Z has shape .*, expected", Z=good["Z"][:-1])
    refused("F_eV_A has shape .*, expected", F_eV_A=good["F_eV_A"][:, :1])
    refused("E_eV has shape .*, expected", E_eV=good["E_eV"][:, None])
    refused("Z is 1.4 in row 2, not an integer from 1 to 118", Z=np.where(np.arange(len(good["Z"])) == 2, 1.4, good["Z"]))
    refused("n_atoms is 0 in row 0", n_atoms=np.concatenate([[0], good["n_atoms"]]), **_one_more(good))
    np.savez(tmp_path / "bad.npz", **{**good, "Z": np.array([object()])})
    with pytest.raises(ValueError, match="allow_pickle"):
        StructureSet.from_npz([tmp_path / "bad.npz"])


def test_the_training_example_runs_and_resumes(tmp_path: Path) -> None:
    for name in ("gfn2_organic_hcno.npz", "gfn2_organic_fscl.npz"):
        labeled_file(tmp_path / name, n_molecules=60, n_copies=3)
    script = Path(__file__).parents[1] / "examples" / "train_organic.py"
    for steps in ("6", "9"):
        command = [sys.executable, str(script), "schnet", str(tmp_path), str(tmp_path / "run"), "--steps", steps]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    from ase_xai.weights import load_weights

    card = load_weights(tmp_path / "run" / "weights.safetensors").card
    assert card.training["settings"]["steps"] == 9 and set(card.errors["test"]) == {"all", "cold", "thermal"}
