"""The state of a run in one sealed file, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from ase_xai.files import sealed, unsealed, write_atomically

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


@dataclass
class Progress:
    """Where a run stands, beside its tensors.

    Args:
        step: optimizer steps made.
        validated: step of the last validation.
        running_loss: exponential mean over steps; NaN before the first.
        best: lowest validation score so far.
        stale: validations since then.
        reductions: of the learning rate, by the schedule "plateau".
        seconds: spent training, over all calls.
    """

    step: int = 0
    validated: int = 0
    running_loss: float = float("nan")
    best: float = float("inf")
    stale: int = 0
    reductions: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class TrainingTensors:
    """Everything that changes while a network is trained, by name of the parameter."""

    parameters: Mapping[str, torch.nn.Parameter]
    average: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer

    def named(self) -> dict[str, Tensor]:
        """Copies for the file, on the CPU."""
        tensors = {f"buffer.{name}": value for name, value in self.buffers.items()}
        for name, parameter in self.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach()
            tensors[f"average.{name}"], tensors[f"best.{name}"] = self.average[name], self.best[name]
            state = self.optimizer.state.get(parameter, {})  # none before the first step
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter))
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        with torch.no_grad():
            for name, value in self.buffers.items():
                value.copy_(tensors[f"buffer.{name}"])
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                self.best[name].copy_(tensors[f"best.{name}"])
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                self.optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}


def save_checkpoint(path: Path, tensors: TrainingTensors, progress: Progress, record: Mapping[str, object]) -> None:
    """Write `path` atomically. `record` says what the run is made of; a checkpoint is continued only under an equal one."""
    write_atomically(path, sealed(tensors.named(), {"progress": asdict(progress), "record": dict(record)}))


def load_checkpoint(path: Path, tensors: TrainingTensors, record: Mapping[str, object]) -> Progress:
    """Restore `tensors` and return where the run stands.

    Raises:
        ValueError: the file is damaged, or another run's.
    """
    try:
        content = path.read_bytes()
        about: dict[str, Any] = unsealed(content)
        stored = about["record"]
        changed = [f"{name}={stored.get(name)}, now {record[name]}" for name in record if stored.get(name) != record[name]]
        if changed:
            raise ValueError(f"it was made with {'; '.join(changed)}")
        progress = Progress(**about["progress"])
        tensors.restore(tensors_from_bytes(content), progress.step)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be continued: {error}. Remove it, or use another folder.") from error
    return progress
