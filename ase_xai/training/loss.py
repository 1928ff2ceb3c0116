"""What training minimizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.networks.base import Prediction, Sums
from ase_xai.training.checks import ambiguous_dipoles
from ase_xai.training.data import PER_ATOM, StructureSet
from ase_xai.training.loader import Labels
from ase_xai.training.settings import LossWeights
from ase_xai.training.splits import Split

MAGNITUDE_FLOOR = 1e-3
"""e·Å: |μ| is taken as √(|μ|² + floor²), which has a gradient at μ = 0 (methane, benzene)."""


def loss_terms(sums: Sums, labels: Labels, weights: LossWeights) -> dict[str, tuple[Tensor, int]]:
    """For each weighted target the sum of its errors over the batch, and how many errors that are.

        w_E |ΔE|/N    w_F ‖ΔF_i‖    w_σ mean|Δσ|    w_μ ‖Δμ‖    w_|μ| |Δ|μ||    w_q |Δq_i|

    First powers by default, not squares: off-equilibrium data have heavy tails, and a few strained structures must not rule
    the rest. The force and dipole terms are lengths of error vectors, which are invariant under rotation. Missing labels
    (NaN) do not count.
    """
    return {name: _counted(ERRORS[name](sums, labels), weights) for name in weights.targets}


def loss(terms: Mapping[str, tuple[Tensor, int]], weights: LossWeights, counts: Mapping[str, float] | None = None) -> Tensor:
    """Weighted sum of the mean errors.

    Args:
        terms: from `loss_terms`.
        weights: see `LossWeights`.
        counts: numbers of errors to divide by, if they are not those of the terms (several processes).
    """
    own = {name: count for name, (_, count) in terms.items()}
    divisors = own if counts is None else counts
    return torch.stack([getattr(weights, k) * total / max(1.0, divisors[k]) for k, (total, _) in terms.items()]).sum()


def refuse_missing_targets(structures: StructureSet, split: Split, weights: LossWeights, *, has_charges: bool) -> None:
    """Raise ValueError if a weighted target has no label where it is needed, an ambiguous one, or needs charges that the
    network does not have."""
    missing = [name for name in weights.targets if name not in structures.targets]
    if missing:
        raise ValueError(
            f"the loss weighs {', '.join(missing)}, but the data have only {', '.join(structures.targets) or 'no labels'}. "
            "Name their columns, or set these weights to 0."
        )
    for part in ("training", "validation"):
        counts = labels_known(structures, split.part(part))
        unlabeled = [name for name in weights.targets if not counts[name]]
        if unlabeled:
            raise ValueError(
                f"the loss weighs {', '.join(unlabeled)}, but no {part} structure has a label of it. Change the split, "
                "or set these weights to 0."
            )
    used = np.concatenate([split.training, split.validation])
    for name, ambiguous in ambiguous_dipoles(structures).items():
        if name in weights.targets and ambiguous[used].any():
            raise ValueError(
                f"the loss weighs {name}, but {ambiguous[used].sum()} structures with such a label are charged or periodic: "
                "it depends on the origin or on the choice of images. `checks.require_sound` takes these labels away; or "
                "set this weight to 0."
            )
    electric = [name for name in weights.targets if name in ("dipole", "dipole_magnitude", "charges")]
    if electric and not has_charges:
        raise ValueError(
            f"this network has no charges, so it cannot learn {', '.join(electric)}. Give `atomwise` a charge readout, or "
            "set these weights to 0."
        )


def _counted(errors: Tensor, weights: LossWeights) -> tuple[Tensor, int]:
    """Sum over the known errors (n,), which are lengths or absolute values, in the form that the weights ask for."""
    known = torch.isfinite(errors.detach())
    size = torch.where(known, errors, 0.0)
    if weights.form == "l2":
        size = size.square()
    elif weights.form == "huber":
        size = torch.where(size < weights.delta, size.square() / (2 * weights.delta), size - 0.5 * weights.delta)
    return torch.where(known, size, 0.0).sum(), int(known.sum())


def labels_known(structures: StructureSet, indices: NDArray[np.int64]) -> dict[str, int]:
    """How many of the structures at `indices` have each label, at least in part."""
    counts = {}
    for name in structures.targets:
        array = np.asarray(getattr(structures, name))
        known = np.isfinite(array.reshape(len(array), -1)).any(axis=1)
        counts[name] = int(
            (np.logical_or.reduceat(known, structures.offsets[:-1]) if name in PER_ATOM else known)[indices].sum()
        )
    return counts


def _length(difference: Tensor) -> Tensor:
    """(n,) lengths of error vectors; NaN where a component is missing, without NaN in the gradients of the others."""
    known = torch.isfinite(difference.detach()).all(dim=1)
    lengths = torch.linalg.vector_norm(torch.where(known[:, None], difference, 1.0), dim=1)
    return torch.where(known, lengths, float("nan"))


def _energy(sums: Sums, labels: Labels) -> Tensor:
    assert labels.energy is not None
    return (sums.energy - labels.energy).abs() / labels.n_atoms


def _forces(sums: Sums, labels: Labels) -> Tensor:
    assert labels.forces is not None and isinstance(sums, Prediction)
    return _length(sums.forces - labels.forces)


def _stress(sums: Sums, labels: Labels) -> Tensor:
    assert labels.stress is not None and isinstance(sums, Prediction)
    difference = sums.stress - labels.stress
    known = torch.isfinite(difference.detach()).all(dim=1)
    return torch.where(known, torch.where(known[:, None], difference, 0.0).abs().mean(dim=1), float("nan"))


def _dipole(sums: Sums, labels: Labels) -> Tensor:
    assert labels.dipole is not None and sums.dipole is not None
    return _length(sums.dipole - labels.dipole)


def _dipole_magnitude(sums: Sums, labels: Labels) -> Tensor:
    assert labels.dipole_magnitude is not None and sums.dipole is not None
    return ((sums.dipole.square().sum(dim=1) + MAGNITUDE_FLOOR**2).sqrt() - labels.dipole_magnitude).abs()


def _charges(sums: Sums, labels: Labels) -> Tensor:
    assert labels.charges is not None and sums.charges is not None
    return (sums.charges - labels.charges).abs()


ERRORS: dict[str, Callable[[Sums, Labels], Tensor]] = {
    "energy": _energy,
    "forces": _forces,
    "stress": _stress,
    "dipole": _dipole,
    "dipole_magnitude": _dipole_magnitude,
    "charges": _charges,
}
