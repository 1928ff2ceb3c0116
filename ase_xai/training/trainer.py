"""A plain training loop: Adam, averaged weights, three-phase learning rate, checkpoints that survive a kill."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor
from tqdm import tqdm

from ase_xai.files import sealed, unsealed, write_atomically
from ase_xai.networks.base import AtomisticNetwork, predict
from ase_xai.training.data import GraphLoader, epoch_batches
from ase_xai.training.loss import LossWeights, Metrics, loss

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


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

    A checkpoint in `folder` is continued. It holds weights, their average, buffers, Adam's moments and the step, from which
    batch order and learning rate follow, so that an interrupted run goes on as if nothing had happened (on a CPU: to the
    same bits). Only the number of steps may differ.

    Args:
        network: trained in place.
        loader: data.
        train, validation: indices into the loader's structures.
        settings: see `TrainingSettings`.
        folder: made if missing.

    Raises:
        ValueError: no structures, elements that the network does not know, or a checkpoint of another run or damaged.
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
        self._refuse_unusable()
        self.step, self.running_loss = 0, float("nan")
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        if self.checkpoint.exists():
            self._resume()

    def _refuse_unusable(self) -> None:
        if not len(self.train_indices) or not len(self.validation_indices):
            raise ValueError(
                f"got {len(self.train_indices)} training and {len(self.validation_indices)} validation structures. Both are "
                "needed; change the fractions of the split."
            )
        unknown = sorted(set(self.loader.structures.elements) - set(self.network.elements))
        if unknown:
            raise ValueError(f"the data hold atomic numbers {unknown}, the network knows {list(self.network.elements)}.")

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
        tensors = {f"buffer.{name}": value.contiguous() for name, value in self._buffers().items()}
        for name, parameter in self.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            tensors[f"average.{name}"] = self.average[name].contiguous()
            state = self.optimizer.state.get(parameter, {})  # none before the first step, and for unused parameters
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter)).contiguous()
        about = {"step": self.step, "running_loss": self.running_loss, **self._record()}
        write_atomically(self.checkpoint, sealed(tensors, about))

    def _resume(self) -> None:
        try:
            content = self.checkpoint.read_bytes()
            about = unsealed(content)
            own, stored = self._record(), {name: about[name] for name in self._record()}
            changed = [f"{name}={stored[name]}, now {own[name]}" for name in own if stored[name] != own[name]]
            if changed:
                raise ValueError(f"it was made with {'; '.join(changed)}")
            tensors = tensors_from_bytes(content)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.checkpoint} cannot be continued: {error}. Remove it, or use another folder.") from error
        with torch.no_grad():
            for name, value in self._buffers().items():
                value.copy_(tensors[f"buffer.{name}"])
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                self.optimizer.state[parameter] = {"step": torch.tensor(float(about["step"])), **moments}
        self.step, self.running_loss = int(about["step"]), float(about["running_loss"])
        self._forget_metrics_after(self.step)

    def _forget_metrics_after(self, step: int) -> None:
        """Cut lines of epochs that will be trained again."""
        path = self.folder / "metrics.csv"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
            write_atomically(path, "".join(lines[:1] + kept).encode())

    def _buffers(self) -> dict[str, Tensor]:
        """Tensors of the network that are saved but not trained, such as the standardization of descriptors."""
        return {name: value for name, value in self.network.state_dict().items() if name not in self.parameters}

    def _record(self) -> dict[str, object]:
        """What must be the same when a checkpoint is continued, as JSON gives it back."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "steps"}
        energy, structures = self.network.energy, hashlib.sha256()
        for indices in (self.train_indices, self.validation_indices):
            structures.update(np.asarray(indices, dtype=np.int64).tobytes())
        record = {
            "network": {"architecture": self.network.architecture, **self.network.settings()},
            "scale": energy.scale,
            "shift": energy.shift,
            "references": energy.references,
            "structures": structures.hexdigest(),
            **settings,
        }
        return dict(json.loads(json.dumps(record)))


def evaluate(network: AtomisticNetwork, loader: GraphLoader, indices: np.ndarray, batch_size: int = 100) -> dict[str, float]:
    """Mean absolute errors of `network` on the structures at `indices`."""
    metrics = Metrics()
    for start in range(0, len(indices), batch_size):
        graph, labels = loader.batch(indices[start : start + batch_size], network.device)
        metrics.add(predict(network, graph), labels)
    return metrics.means()
