"""Training: labeled structures in, weight files out."""

from __future__ import annotations

from ase_xai.training.data import StructureSet
from ase_xai.training.loader import GraphLoader
from ase_xai.training.readers import Columns, read
from ase_xai.training.settings import LossWeights, TrainingSettings
from ase_xai.training.splits import Split, split_by_group
from ase_xai.training.trainer import Trainer

__all__ = [
    "Columns",
    "GraphLoader",
    "LossWeights",
    "Split",
    "StructureSet",
    "Trainer",
    "TrainingSettings",
    "read",
    "split_by_group",
]
