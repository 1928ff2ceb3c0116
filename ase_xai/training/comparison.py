"""Weights and data that someone names, brought together: columns, units and split as in training unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.files import write_atomically
from ase_xai.training.assessment import Assessment, assess, write_figures, write_worst
from ase_xai.training.config import DataConfig, SplitConfig
from ase_xai.training.data import StructureSet
from ase_xai.training.loader import GraphLoader
from ase_xai.training.pipeline import load_structures, split_of
from ase_xai.training.splits import PARTS, Split
from ase_xai.weights import ModelCard, resolve

READ_AS_TRAINED = ("columns", "units", "group", "kind", "kind_names", "require", "skip_bad")


@dataclass(frozen=True)
class Request:
    """What shall be compared with what.

    Args:
        files: files or folders.
        split: a split.json of these structures; None: the one that the model card describes, if it fits.
        part: "training", "validation", "test" or "all"; None: "test" if there is a split, else "all".
        columns, units: in place of those of the training, see `Columns`.
    """

    files: tuple[Path, ...]
    split: Path | None = None
    part: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.part not in (None, "all", *PARTS):
            raise ValueError(f"part must be one of {', '.join(PARTS)}, all, got {self.part!r}.")


def compare(
    weights: str | Path, request: Request, *, device: str = "cpu", report: Callable[[str], None] = print
) -> Assessment:
    """Errors of weights on some structures.

    Args:
        weights: name of shipped weights, or path of a weight file.
        request: which data, and which part of them.
        device: where to compute; digits beyond the printed ones may depend on it.
        report: told what is read and chosen, line by line.

    Raises:
        ValueError: weights, data or split cannot be used; elements or a part that are not there.
    """
    loaded = resolve(weights)
    structures = load_structures(_reading(loaded.card, request), report)
    part, indices = _chosen(loaded.card, structures, request)
    report(f"{len(indices)} of {len(structures)} structures ({part}), labels: {', '.join(structures.targets) or 'none'}")
    loader = GraphLoader(structures, loaded.network.cutoff, keep_pairs=False)
    return assess(loaded.network, loader, indices, device=device)


def write(found: Assessment, folder: Path, n_worst: int) -> list[Path]:
    """errors.json, parity plots, and the worst structures, in `folder`; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "errors.json", json.dumps(found.tables, indent=2, ensure_ascii=False).encode())
    written = [folder / "errors.json", *write_figures(found, folder, f"{len(found.indices)} structures")]
    if n_worst:
        write_worst(found, folder / "worst.extxyz", n_worst)
        written.append(folder / "worst.extxyz")
    return written


def _reading(card: ModelCard, request: Request) -> DataConfig:
    """How to read the files: as the training did, where the card says so."""
    trained: dict[str, Any] = {k: v for k, v in card.training.get("data", {}).items() if k in READ_AS_TRAINED}
    for name in ("kind_names", "require"):
        trained[name] = tuple(trained.get(name, DataConfig.__dataclass_fields__[name].default))
    config = replace(DataConfig(request.files), **trained)
    if not request.columns and not request.units:
        return config
    # Other columns than in training: other data, of which nothing else is known.
    columns, units = {**config.columns, **request.columns}, {**config.units, **request.units}
    return DataConfig(request.files, columns=columns, units=units)


def _chosen(card: ModelCard, structures: StructureSet, request: Request) -> tuple[str, NDArray[np.int64]]:
    """Name and indices of the part of the data that was asked for."""
    split = _split(card, structures, request)
    part = request.part or ("test" if split is not None and len(split.test) else "all")
    if part == "all":
        return part, np.arange(len(structures))
    if split is None:
        raise ValueError(
            f"the {part} part of these structures is not known: they are not the ones of the training. Give the same files "
            "in the same order, or a --split."
        )
    return part, split.part(part)


def _split(card: ModelCard, structures: StructureSet, request: Request) -> Split | None:
    if request.split is not None:
        return Split.load(request.split, structures)
    described = card.training.get("split")
    if not isinstance(described, dict) or card.training.get("data", {}).get("digest") != structures.digest():
        return None
    return split_of(structures, SplitConfig(**described))
