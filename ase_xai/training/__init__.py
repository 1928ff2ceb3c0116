"""Training: ragged data in, weight files out."""

from __future__ import annotations

from ase_xai.training.data import GraphLoader, StructureSet
from ase_xai.training.loss import LossWeights
from ase_xai.training.trainer import Trainer, TrainingSettings

__all__ = ["GraphLoader", "LossWeights", "StructureSet", "Trainer", "TrainingSettings"]
