"""A plain training loop: Adam, averaged weights, a learning rate that rises and falls, checkpoints that survive a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ase_xai.networks import compiled
from ase_xai.networks.base import AtomisticNetwork, Sums, add_up, predict
from ase_xai.training.checkpoint import Progress, TrainingTensors, load_checkpoint, save_checkpoint
from ase_xai.training.descriptors import DescriptorCache
from ase_xai.training.engine import Engine, SingleProcess, is_out_of_memory, share
from ase_xai.training.evaluation import errors, predicted, refuse_unknown_elements, score
from ase_xai.training.interruption import Interruption
from ase_xai.training.loader import GraphLoader, Labels, bucketed_batches, epoch_batches
from ase_xai.training.logs import RunLog
from ase_xai.training.loss import loss, loss_terms, refuse_missing_targets
from ase_xai.training.settings import TrainingSettings
from ase_xai.training.splits import Split

MAY_CHANGE = ("steps", "epochs", "stop_after", "checkpoint_every", "checkpoint_minutes")  # when a checkpoint is continued


class Trainer:
    """Trains `network` in place and keeps `checkpoint.safetensors` and `metrics.csv` in `folder`.

    A checkpoint in `folder` is continued. It holds weights, their average, the best average so far, buffers, Adam's moments
    and the step, from which batch order and learning rate follow, so that an interrupted run goes on as if nothing had
    happened (on a CPU: to the same bits). Only the length of the run and the times of checkpoints may differ.

    Args:
        network: trained in place, on the engine's device.
        loader: data.
        split: which structures are trained on and validated.
        settings: see `TrainingSettings`.
        folder: made if missing.
        engine: one process on the CPU, unless told otherwise.
        start: SHA-256 of the weights that the network holds at first; None if they follow from the seed.

    Raises:
        ValueError: labels or charges the loss needs are missing, elements are unknown to the network, or the checkpoint in
            the folder is damaged or of another run.
        ImportError: compiled kernels are asked for and Numba is not installed.
    """

    def __init__(
        self,
        network: AtomisticNetwork,
        loader: GraphLoader,
        split: Split,
        settings: TrainingSettings,
        folder: str | Path,
        engine: Engine | None = None,
        start: str | None = None,
    ) -> None:
        self.network, self.loader, self.split, self.settings, self.start = network, loader, split, settings, start
        self.engine = SingleProcess() if engine is None else engine
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        refuse_unknown_elements(network, loader.structures)
        refuse_missing_targets(loader.structures, split, settings.loss, has_charges=network.has_charges)
        network.to(self.engine.device)
        self._compiled = _wants_compiled(settings, self.engine)
        file = self.folder / f".descriptors.{self.engine.rank}"
        kept = None if settings.loss.derivatives else DescriptorCache.of(network, loader, compiled=self._compiled, file=file)
        self.cache = kept
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        copies = [{name: value.detach().clone() for name, value in self.parameters.items()} for _ in range(2)]
        buffers = {name: value for name, value in network.state_dict().items() if name not in self.parameters}
        optimizer = torch.optim.AdamW(self.parameters.values(), settings.learning_rate, weight_decay=settings.weight_decay)
        self.tensors = TrainingTensors(self.parameters, copies[0], copies[1], buffers, optimizer)
        self.progress = Progress()
        self.steps_per_epoch = len(self._epoch(0))  # the same in every epoch
        self.total_steps = settings.total_steps(self.steps_per_epoch)
        if self.checkpoint.exists():
            self.progress = load_checkpoint(self.checkpoint, self.tensors, self._record())
        self.log = RunLog(self.folder, self.progress.validated) if self.engine.rank == 0 else None

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the last step is made, or validation has not improved for as long as the settings allow."""
        return self.progress.step >= self.total_steps or 0 < self.settings.stop_after <= self.progress.stale

    @property
    def structures_per_second(self) -> float:
        """Trained structures over all the time spent so far, validations included; NaN before the first step."""
        per_step = len(self.split.training) / self.steps_per_epoch
        return per_step * self.progress.step / self.progress.seconds if self.progress.seconds else float("nan")

    def run(self, *, progress: bool = True) -> dict[str, float]:
        """Train to the last step, validate once an epoch, and leave the best averaged weights in the network.

        Returns:
            Validation errors of these weights.
        """
        started, earlier, saved = time.perf_counter(), self.progress.seconds, time.perf_counter()
        alone = self.engine.world_size == 1
        with self._bar(progress) as bar, _matmul_precision(self.settings.precision), Interruption(alone) as interruption:
            for batch in self._batches():
                self._train_step(batch)
                bar.update()
                self.progress.seconds = earlier + time.perf_counter() - started
                minutes = (time.perf_counter() - saved) / 60
                if self.progress.step % self.settings.checkpoint_every == 0 or minutes > self.settings.checkpoint_minutes:
                    saved = time.perf_counter()
                    bar.set_postfix_str(
                        f"loss {self.progress.running_loss:.4f}, {self.structures_per_second:.0f} structures/s"
                    )
                    self._save()
                if interruption.received:
                    self._save()
                    raise KeyboardInterrupt(f"interrupted after step {self.progress.step}; {self.checkpoint} is written")
        self._save()
        self._put(self.tensors.best)
        return self.validate()

    def validate(self) -> dict[str, float]:
        """Errors of the network, with the weights it holds, on the validation structures."""
        indices = self.split.validation
        prediction = predicted(self.network, self.loader, indices, None if self.cache is None else self._from_cache)
        return errors(self.loader.structures.take(indices), prediction)

    def _validate(self) -> None:
        """Validate the averaged weights, remember them if they are the best, and write a row of the log."""
        current = {name: value.detach().clone() for name, value in self.parameters.items()}
        rate = self.settings.rate(self.progress.step, self.total_steps, self.progress.reductions)
        self._put(self.tensors.average)
        try:
            table = self.validate()
        finally:
            self._put(current)
        # Sums on a GPU differ in the last bits from process to process, but all must decide alike.
        own = torch.tensor(score(table, self.settings.loss), dtype=torch.float64, device=self.engine.device)
        value = float(self.engine.total(own)) / self.engine.world_size
        self.progress.validated = self.progress.step
        self.progress.stale += 1
        if value < self.progress.best:
            self.progress.best, self.progress.stale = value, 0
            for name, average in self.tensors.average.items():
                self.tensors.best[name].copy_(average)
        if self.progress.stale and self.progress.stale % self.settings.patience == 0:
            self.progress.reductions += 1
        if self.log is not None:
            beginning = {"step": self.progress.step, "learning_rate": rate, "loss": self.progress.running_loss}
            self.log.add({**beginning, "seconds": round(self.progress.seconds, 1), **table})

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        indices, settings = self.split.training, self.settings
        if settings.batch_atoms:
            sizes = self.loader.structures.n_atoms
            return list(bucketed_batches(indices, sizes, settings.batch_atoms, settings.seed, epoch))
        return list(epoch_batches(indices, settings.batch_size, settings.seed, epoch))

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Batches from the present step on, with a validation wherever one is due."""
        epoch, batches = -1, []
        while True:
            if self._is_due():
                self._validate()
                self._save()
            if self.finished:
                return
            now, position = divmod(self.progress.step, self.steps_per_epoch)
            if now != epoch:
                epoch, batches = now, self._epoch(now)
            yield batches[position]

    def _is_due(self) -> bool:
        """Whether the weights at the end of an epoch, or of the run, still wait for their validation."""
        step = self.progress.step
        ends = step % (self.steps_per_epoch * self.settings.validate_every) == 0 or step >= self.total_steps
        return step > self.progress.validated and ends

    def _train_step(self, batch: NDArray[np.int64]) -> None:
        for group in self.tensors.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.progress.step, self.total_steps, self.progress.reductions)
        try:
            value, gradients = self._gradients(share(self.engine, batch))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            n_atoms = int(self.loader.structures.n_atoms[batch].sum())
            raise MemoryError(
                f"a batch of {len(batch)} structures with {n_atoms} atoms does not fit into memory. Halve it: batch_size = "
                f"{max(1, len(batch) // 2)}, or batch_atoms = {max(1, n_atoms // 2)}."
            ) from error
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.gradient_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient is {norm} at step {self.progress.step}; the last checkpoint is {self.checkpoint}. Lower the "
                "learning rate, or look for wild labels with `ase_xai.training.checks`."
            )
        self.tensors.optimizer.step()
        self.progress.step += 1
        decay = min(self.settings.ema_decay, self.progress.step / (self.progress.step + 9.0))
        with torch.no_grad():
            for name, average in self.tensors.average.items():
                average.lerp_(self.parameters[name], 1.0 - decay)
        before = self.progress.running_loss
        self.progress.running_loss = value if np.isnan(before) else 0.99 * before + 0.01 * value

    def _gradients(self, batch: NDArray[np.int64]) -> tuple[float, list[Tensor]]:
        """The loss of a batch and its gradient, over all processes.

        The gradient is taken with respect to the weights alone: `backward` would go on to the positions, half as much again.
        """
        weights, parameters = self.settings.loss, list(self.parameters.values())
        terms = loss_terms(*self._outputs(batch), weights) if len(batch) else {}  # more processes than structures
        own = [terms[name][1] if terms else 0 for name in weights.targets]
        counts = self.engine.total(torch.tensor(own, dtype=torch.float64, device=self.engine.device))
        value, gradients = torch.zeros((), device=self.engine.device), [torch.zeros_like(p) for p in parameters]
        if terms:
            value = loss(terms, weights, dict(zip(weights.targets, counts.tolist(), strict=True)))
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            gradients = [zero if g is None else g for zero, g in zip(gradients, found, strict=True)]
        if self.engine.world_size > 1:
            summed = self.engine.total(torch.cat([gradient.flatten() for gradient in gradients]))  # one message, not many
            parts = summed.split([gradient.numel() for gradient in gradients])
            gradients = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        return float(self.engine.total(value.detach().double())), gradients

    def _outputs(self, batch: NDArray[np.int64]) -> tuple[Sums, Labels]:
        if self.cache is not None:
            return self.cache.outputs(batch, self.engine.device)
        graph, labels = self.loader.batch(batch, self.engine.device)
        self.network.compiled = self._compiled
        try:
            if self.settings.loss.derivatives:
                return predict(self.network, graph, create_graph=True), labels
            return add_up(graph, self.network(graph)), labels
        finally:
            self.network.compiled = False

    def _from_cache(self, batch: NDArray[np.int64]) -> Sums:
        assert self.cache is not None
        with torch.no_grad():
            return self.cache.outputs(batch, self.engine.device)[0]

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.parameters[name].copy_(value)

    def _save(self) -> None:
        if self.engine.rank == 0:
            save_checkpoint(self.checkpoint, self.tensors, self.progress, self._record())

    def _bar(self, progress: bool) -> tqdm:
        show = progress and self.engine.rank == 0
        return tqdm(total=self.total_steps, initial=self.progress.step, disable=not show, unit="step", mininterval=5.0)

    def _record(self) -> dict[str, object]:
        """What must be the same when a checkpoint is continued, as JSON gives it back."""
        settings = {name: value for name, value in asdict(self.settings).items() if name not in MAY_CHANGE}
        energy = self.network.energy
        record = {
            "network": {"architecture": self.network.architecture, **self.network.settings()},
            "scale": energy.scale,
            "shift": energy.shift,
            "references": energy.references,
            "start": self.start,
            "structures": self.split.digest,
            "training": _digest(self.split.training),
            "validation": _digest(self.split.validation),
            **settings,
            "compiled": self._compiled,
        }
        return dict(json.loads(json.dumps(record)))


def _digest(indices: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(indices, dtype=np.int64).data).hexdigest()


def _wants_compiled(settings: TrainingSettings, engine: Engine) -> bool:
    possible = engine.device.type == "cpu" and compiled.available()
    if settings.compiled and engine.device.type != "cpu":
        raise ValueError(f"compiled kernels run on the CPU, not on {engine.device}. Set compiled = false.")
    if settings.compiled and not possible:
        raise ImportError("compiled kernels need Numba: pip install 'ase_xai[fast]', or set compiled = false.")
    return possible if settings.compiled is None else settings.compiled


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """TF32 for the time of training, if asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
