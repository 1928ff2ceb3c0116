"""Shipped weights by name, and any weight file by path."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ase_xai.weights.format import LoadedWeights, ModelCard, WeightsError, load_weights, save_weights

FOLDER = Path(__file__).parent

__all__ = [
    "LoadedWeights",
    "ModelCard",
    "ShippedWeights",
    "WeightsError",
    "load_weights",
    "resolve",
    "save_weights",
    "shipped",
]


@dataclass(frozen=True)
class ShippedWeights:
    """One weight file of this package: its name, model card, SHA-256 and size in bytes."""

    name: str
    card: ModelCard
    sha256: str
    n_bytes: int


def shipped() -> list[ShippedWeights]:
    """All weights inside the package, read and verified."""
    records = []
    for name in _manifest():
        loaded = resolve(name)
        records.append(ShippedWeights(name, loaded.card, loaded.sha256, (FOLDER / f"{name}.safetensors").stat().st_size))
    return records


def resolve(name_or_path: str | Path) -> LoadedWeights:
    """Shipped weights by name, or a weight file by path. Names win over paths.

    Raises:
        WeightsError: no such name or file (the nearest name is suggested), or a file that cannot be used.
    """
    manifest = _manifest()
    name = str(name_or_path)
    if name in manifest:
        loaded = load_weights(FOLDER / f"{name}.safetensors")
        if loaded.sha256 != manifest[name]:
            raise WeightsError(f"the shipped weights {name!r} are not those of this release. Reinstall ase-xai.")
        return replace(loaded, source=name)
    if not os.path.exists(name_or_path):
        nearest = difflib.get_close_matches(name, manifest, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise WeightsError(f"{name!r} is neither shipped weights ({', '.join(sorted(manifest))}) nor a file.{hint}")
    return load_weights(name_or_path)


def _manifest() -> dict[str, str]:
    """SHA-256 of every shipped weight file by name."""
    return dict(json.loads((FOLDER / "manifest.json").read_text()))
