"""Everything that decides how a training run goes, beside data and network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SCHEDULES = ("linear", "cosine", "plateau")
PRECISIONS = ("float32", "tf32")
FORMS = ("l1", "l2", "huber")
TARGETS = ("energy", "forces", "stress", "dipole", "dipole_magnitude", "charges")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the error terms; 0 leaves a target out.

    Args:
        energy: per (eV/atom).
        forces: per (eV/Å).
        stress: per (eV/Å^3).
        dipole: per (e·Å), for dipole vectors.
        dipole_magnitude: per (e·Å), where only |μ| is known.
        charges: per e; partial charges as an additional target.
        form: what is averaged of an error e: "l1" |e|; "l2" e², so weights are per unit squared; "huber" e²/2δ below δ and
            |e| - δ/2 above, so weights keep their meaning.
        delta: δ of "huber" in the unit of each target.
    """

    energy: float = 8.0
    forces: float = 1.0
    stress: float = 0.0
    dipole: float = 3.0
    dipole_magnitude: float = 0.0
    charges: float = 0.0
    form: str = "l1"
    delta: float = 0.01

    def __post_init__(self) -> None:
        for name in TARGETS:
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"loss weight of {name} must be zero or positive, got {getattr(self, name)}.")
        if not self.targets:
            raise ValueError("all loss weights are zero. Give at least one target a weight.")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}.")
        if not 0.0 < self.delta < math.inf:
            raise ValueError(f"delta must be positive, got {self.delta}.")

    @property
    def targets(self) -> list[str]:
        """Names of the targets with a weight."""
        return [name for name in TARGETS if getattr(self, name)]

    @property
    def derivatives(self) -> bool:
        """Whether the energy must be differentiated: forces or stress are trained on."""
        return bool(self.forces or self.stress)


@dataclass(frozen=True)
class TrainingSettings:
    """How a run goes.

    Args:
        steps: optimizer steps in all; a resumed run may ask for another number. 0: see `epochs`.
        epochs: passes over the training structures, if `steps` is 0.
        batch_size: structures per step, over all processes.
        batch_atoms: if not 0, batches of similar structures with at most this many atoms instead.
        learning_rate: of Adam after warm-up.
        warmup: steps of linear rise.
        schedule: "linear" holds the rate and lets it fall to zero over the last `cooldown` of the steps; "cosine" lets it
            fall from the first step to the last; "plateau" multiplies it by `factor` when validation has not improved for
            `patience` validations.
        cooldown, factor, patience: see `schedule`.
        validate_every: epochs between validations; the last step is validated in any case.
        stop_after: validations without a better one after which training ends; 0: never.
        weight_decay: of AdamW; 0 gives Adam.
        ema_decay: of the exponential moving average of the weights, which is what gets validated and saved.
        gradient_norm: gradients are clipped to this norm.
        precision: "float32", or "tf32" for matrix products on a GPU that has it. Sums are float64 in any case.
            bfloat16 is left out: with it in the matrix products, the preview `organic` (64 features, 3 interactions) changed
            by 2.3 meV/atom, 10 meV/Å and 0.04 D on QM7-X molecules, and `organic-bp` by 1.3, 13 and 0.04, as much as the
            errors to be reached.
        compiled: use compiled CPU kernels where the network has them (extra `fast`); None: if they are available.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: a checkpoint is written after this time at the latest.
        seed: of initial weights and batch order.
        loss: weights of the error terms.
    """

    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 32
    batch_atoms: int = 0
    learning_rate: float = 1e-3
    warmup: int = 500
    schedule: str = "linear"
    cooldown: float = 0.4
    factor: float = 0.5
    patience: int = 10
    validate_every: int = 1
    stop_after: int = 0
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_norm: float = 10.0
    precision: str = "float32"
    compiled: bool | None = None
    checkpoint_every: int = 500
    checkpoint_minutes: float = 10.0
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(
                f"give the length of training as steps or as epochs, got steps={self.steps}, epochs={self.epochs}."
            )
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        positive = ("batch_size", "learning_rate", "gradient_norm", "checkpoint_every", "checkpoint_minutes", "patience")
        for name in (*positive, "validate_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("ema_decay", "cooldown", "factor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")

    def total_steps(self, steps_per_epoch: int) -> int:
        return self.steps or max(1, round(self.epochs * steps_per_epoch))

    def rate(self, step: int, total: int, reductions: int = 0) -> float:
        """Learning rate of a step out of `total`, after `reductions` by the schedule "plateau"."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "cosine":
            fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / total)))
        elif self.schedule == "linear":
            fall = min(1.0, (total - step) / max(1.0, self.cooldown * total))
        else:
            fall = self.factor**reductions
        return self.learning_rate * rise * fall
