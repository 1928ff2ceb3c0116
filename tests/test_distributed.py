"""Several processes take the steps that one would take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_data import fresh, labeled, settings

from ase_xai.training import GraphLoader, LossWeights, Trainer, pipeline, split_by_group
from ase_xai.training.config import load_config
from ase_xai.training.engine import Distributed, SingleProcess, share

CONFIG = """
[data]
files = "set.npz"
group = "qm9_index"
[split]
validation = 0.25
test = 0.0
[network]
architecture = "schnet"
n_features = 16
n_interactions = 2
n_radial = 20
[training]
steps = 12
batch_size = 7
learning_rate = 1e-3
warmup = 3
compiled = false
loss = {energy = 8, forces = 1, dipole = 3}
"""
TWO_PROCESSES = """
import os
import lightning_fabric, torch
from ase_xai.training import Trainer, pipeline
from ase_xai.training.config import load_config
torch.set_num_threads(1)
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # what is slow to import is imported once
rank = "0" if os.fork() else "1"
os.environ.update(RANK=rank, LOCAL_RANK=rank)
config, engine = load_config("run.toml"), pipeline.engine_for("cpu")
assert (engine.rank, engine.world_size) == (int(rank), 2)
prepared = pipeline.prepare(config, lambda line: None)
Trainer(prepared.network, prepared.loader, prepared.split, config.training, "two", engine).run(progress=False)
if rank == "1":
    os._exit(0)
assert os.wait()[1] == 0
"""


def torchrun_environment() -> dict[str, str]:
    """What `torchrun --standalone --nproc-per-node 2` sets for both processes, beside RANK and LOCAL_RANK."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
    about |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "PYTHONPATH": Path(__file__).parents[1]}
    return {**os.environ, **{name: str(value) for name, value in about.items()}}


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    """Two CPU processes, as torchrun starts them, against one: batches of 7 unequal structures, some without forces."""
    labeled(tmp_path)
    arrays = dict(np.load(tmp_path / "set.npz", allow_pickle=False))
    arrays["F_eV_A"][: len(arrays["F_eV_A"]) // 3] = np.nan
    np.savez(tmp_path / "set.npz", **arrays)
    (tmp_path / "run.toml").write_text(CONFIG)
    command, streams = [sys.executable, "-c", TWO_PROCESSES], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    pair = subprocess.Popen(command, cwd=tmp_path, env=torchrun_environment(), text=True, **streams)
    config = load_config(tmp_path / "run.toml")
    prepared = pipeline.prepare(config, lambda line: None)
    one = Trainer(prepared.network, prepared.loader, prepared.split, config.training, tmp_path / "one")
    one.run(progress=False)
    output, _ = pair.communicate(timeout=240)
    assert pair.returncode == 0, output
    single, double = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert set(single) == set(double) and len(single) > 100
    for name, value in single.items():
        assert torch.allclose(value, double[name], rtol=0, atol=1e-6), name


class Rank(SingleProcess):
    """One of three processes, of which this test plays all; sums over processes are handed in."""

    world_size = 3

    def __init__(self, rank: int, sums: list[torch.Tensor]) -> None:
        super().__init__()
        self.rank, self.sums, self.asked = rank, sums, []

    def total(self, values: torch.Tensor) -> torch.Tensor:
        self.asked.append(values)
        return self.sums[len(self.asked) - 1] if len(self.asked) <= len(self.sums) else values


def test_gradients_of_unequal_shares_add_up_to_that_of_the_batch(tmp_path: Path) -> None:
    """Sums and counts meet, not means: shares with other numbers of atoms and of labels weigh what they hold."""
    structures = labeled(tmp_path)
    forces = structures.forces.copy()
    forces[structures.offsets[3] : structures.offsets[5]] = np.nan
    structures = replace(structures, forces=forces)
    split, batch = split_by_group(structures, validation=0.25, test=0.0, seed=0), np.array([0, 3, 9, 30])
    loader = GraphLoader(structures, 5.0)

    def trainer(engine: SingleProcess, folder: str) -> Trainer:
        chosen = settings(5, compiled=False, loss=LossWeights(energy=2.0, forces=3.0, dipole=1.0))
        return Trainer(fresh(structures), loader, split, chosen, tmp_path / folder, engine)

    value, whole = trainer(SingleProcess(), "one")._gradients(batch)
    shares = [share(Rank(rank, []), batch) for rank in range(3)]
    assert sorted(np.concatenate(shares)) == sorted(batch) and [len(s) for s in shares] == [2, 1, 1]
    ranks = [Rank(rank, []) for rank in range(3)]
    for rank, part in zip(ranks, shares, strict=True):  # first round: what does each process count?
        trainer(rank, f"count{rank.rank}")._gradients(part)
    counts = torch.stack([rank.asked[0] for rank in ranks]).sum(dim=0)
    parts, values = [], []
    for number, part in enumerate(shares):  # second round, with the counts of all
        rank = Rank(number, [counts])
        parts.append(trainer(rank, f"sum{number}")._gradients(part)[1])
        values.append(float(rank.asked[-1]))
    assert sum(values) == pytest.approx(value, rel=1e-6)
    names = [name for name, parameter in fresh(structures).named_parameters() if parameter.requires_grad]
    for name, expected, *found in zip(names, whole, *parts, strict=True):
        assert torch.allclose(sum(found), expected, rtol=1e-4, atol=1e-5), name


def test_more_processes_than_structures(tmp_path: Path) -> None:
    structures = labeled(tmp_path)
    split = split_by_group(structures, validation=0.25, test=0.0, seed=0)
    trainer = Trainer(fresh(structures), GraphLoader(structures, 5.0), split, settings(5), tmp_path, Rank(2, []))
    value, gradients = trainer._gradients(share(Rank(2, []), np.array([0, 1])))
    assert value == 0.0 and not any(g.any() for g in gradients)


def test_lightning_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"pip install 'ase_xai\[train\]'"):
        Distributed("cpu", 2)
