"""A plain training loop: Adam, averaged weights, three-phase learning rate, checkpoints that survive a kill."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from tqdm import tqdm

from ase_xai.files import write_atomically
from ase_xai.networks.base import AtomisticNetwork, predict
from ase_xai.training.data import GraphLoader, epoch_batches
from ase_xai.training.loss import LossWeights, Metrics, loss


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides how a run goes, beside data and network.

    Args:
        steps: optimizer steps in all; a resumed run may ask for another number.
        batch_size: structures per step.
        learning_rate: of Adam after warm-up.
        warmup: steps of linear rise.
        cooldown: fraction of the steps, at the end, in which the rate falls to zero linearly.
        ema_decay: of the exponential moving average of the weights, which is what gets validated and saved.
        gradient_norm: gradients are clipped to this norm.
        checkpoint_every: steps between checkpoints.
        seed: of initial weights and batch order.
        loss: weights of the error terms.
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 500
    cooldown: float = 0.4
    ema_decay: float = 0.999
    gradient_norm: float = 10.0
    checkpoint_every: int = 500
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)

    def rate(self, step: int) -> float:
        """Learning rate of a step: rise, plateau, linear fall."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.cooldown * self.steps))
        return self.learning_rate * rise * fall


class Trainer:
    """Trains `network` in place and keeps `checkpoint.safetensors` and `metrics.csv` in `folder`.

    A checkpoint in `folder` is continued. It holds weights, their average, Adam's moments and the step, from which batch
    order and learning rate follow, so that an interrupted run goes on as if nothing had happened.

    Args:
        network: trained in place.
        loader: data.
        train, validation: indices into the loader's structures.
        settings: see `TrainingSettings`.
        folder: made if missing.
    """

    def __init__(
        self,
        network: AtomisticNetwork,
        loader: GraphLoader,
        train: np.ndarray,
        validation: np.ndarray,
        settings: TrainingSettings,
        folder: str | Path,
    ) -> None:
        self.network, self.loader, self.settings = network, loader, settings
        self.train_indices, self.validation_indices = train, validation
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step, self.running_loss = 0, float("nan")
        self.parameters = dict(network.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def run(self, *, progress: bool = True) -> dict[str, float]:
        """Train to the last step, validate once an epoch, and leave the averaged weights in the network.

        Returns:
            Validation errors of the averaged weights.
        """
        bar = tqdm(total=self.settings.steps, initial=self.step, disable=not progress, unit="step", mininterval=5.0)
        with bar:
            for batch, ends_epoch in self._batches():
                self._train_step(batch)
                bar.update()
                if self.step % self.settings.checkpoint_every == 0:
                    bar.set_postfix_str(f"loss {self.running_loss:.4f}")
                    self._save()
                if ends_epoch:
                    self._log(self.validate())
        self._save()
        errors = self.validate()
        self._log(errors)
        self._load_average()
        return errors

    def validate(self) -> dict[str, float]:
        """Mean absolute errors of the averaged weights on the validation structures."""
        current = {name: value.detach().clone() for name, value in self.parameters.items()}
        self._load_average()
        try:
            return evaluate(self.network, self.loader, self.validation_indices)
        finally:
            with torch.no_grad():
                for name, value in current.items():
                    self.parameters[name].copy_(value)

    def _batches(self) -> Iterator[tuple[np.ndarray, bool]]:
        per_epoch = -(-len(self.train_indices) // self.settings.batch_size)
        while self.step < self.settings.steps:
            epoch, position = divmod(self.step, per_epoch)
            batches = list(epoch_batches(self.train_indices, self.settings.batch_size, self.settings.seed, epoch))
            for number in range(position, min(per_epoch, position + self.settings.steps - self.step)):
                yield batches[number], number == per_epoch - 1

    def _train_step(self, batch: np.ndarray) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        graph, labels = self.loader.batch(batch, self.network.device)
        self.optimizer.zero_grad()
        value = loss(predict(self.network, graph, create_graph=True), labels, self.settings.loss)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.gradient_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient is {norm} at step {self.step}; the last checkpoint is {self.checkpoint}. Lower the learning rate."
            )
        self.optimizer.step()
        self.step += 1
        decay = min(self.settings.ema_decay, self.step / (self.step + 9.0))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.parameters[name], 1.0 - decay)
        latest = float(value.detach())
        self.running_loss = latest if np.isnan(self.running_loss) else 0.99 * self.running_loss + 0.01 * latest

    def _load_average(self) -> None:
        with torch.no_grad():
            for name, average in self.average.items():
                self.parameters[name].copy_(average)

    def _log(self, errors: dict[str, float]) -> None:
        row = {"step": self.step, "learning_rate": self.settings.rate(self.step), "loss": self.running_loss, **errors}
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            tensors[f"average.{name}"] = self.average[name].contiguous()
            tensors[f"exp_avg.{name}"] = state["exp_avg"].contiguous()
            tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].contiguous()
        about = {
            "step": self.step,
            "running_loss": self.running_loss,
            "settings": asdict(self.settings),
            "network": self._network_record(),
        }
        write_atomically(self.checkpoint, tensors_to_bytes(tensors, metadata={"training": json.dumps(about)}))

    def _resume(self) -> None:
        try:
            with safe_open(self.checkpoint, framework="pt") as file:
                about = json.loads(file.metadata()["training"])
                if about["network"] != self._network_record():
                    raise ValueError(f"it belongs to another network, {about['network']}")
                self._refuse_other_settings(about["settings"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.checkpoint} cannot be continued: {error}. Remove it, or use another folder.") from error
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(about["step"])),
                    "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
                }
        self.step, self.running_loss = int(about["step"]), float(about["running_loss"])

    def _refuse_other_settings(self, stored: dict[str, object]) -> None:
        own = {name: value for name, value in asdict(self.settings).items() if name != "steps"}
        changed = [f"{name}={stored.get(name)}, now {value}" for name, value in own.items() if stored.get(name) != value]
        if changed:
            raise ValueError(f"it was made with {'; '.join(changed)}")

    def _network_record(self) -> dict[str, object]:
        return {"architecture": self.network.architecture, **self.network.settings()}


def evaluate(network: AtomisticNetwork, loader: GraphLoader, indices: np.ndarray, batch_size: int = 100) -> dict[str, float]:
    """Mean absolute errors of `network` on the structures at `indices`."""
    metrics = Metrics()
    for start in range(0, len(indices), batch_size):
        graph, labels = loader.batch(indices[start : start + batch_size], network.device)
        metrics.add(predict(network, graph), labels)
    return metrics.means()
