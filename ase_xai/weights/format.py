"""Weight files: safetensors with a model card in the header, sealed by a hash. Nothing is ever unpickled.

A file holds the tensors of one network, and in the safetensors metadata two strings: `card`, the model card as JSON, and
`sha256`, the hash of the whole file with the 64 digits of that very field set to zero. Every byte is covered, so a changed
card is found as surely as a changed weight.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from ase_xai.files import write_atomically
from ase_xai.networks import NETWORKS, AtomisticNetwork

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 8_000_000
_NO_HASH = "0" * 64
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "charges": "e", "dipole": "e·Å"}


class WeightsError(ValueError):
    """A weight file that cannot be used, with the path and the reason."""


@dataclass(frozen=True)
class ModelCard:
    """What a weight file says about its network.

    Args:
        architecture: name in `ase_xai.networks.NETWORKS`.
        settings: the network's constructor arguments.
        scale, shift: eV per atom, of `AtomicEnergy`.
        references: reference energy E0 in eV by chemical symbol.
        reference_kind: where the references come from, e.g. "least squares on the training set".
        total_charges: total charges in e found in the training data.
        closed_shell: whether the training data are closed-shell only, so that radicals deserve a warning.
        level_of_theory: of the labels.
        training: data files with SHA-256, split, seed, steps, loss.
        errors: measured errors on named sets of structures, units in the keys.
        license: of the weights.
        notes: limits in plain words.
        units: units of everything the network predicts.
        format_version: of this file layout.
    """

    architecture: str
    settings: dict[str, Any]
    scale: float
    shift: float
    references: dict[str, float]
    reference_kind: str
    total_charges: tuple[float, ...] = (0.0,)
    closed_shell: bool = False
    level_of_theory: str = "unknown"
    training: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)
    license: str = "unknown"
    notes: str = ""
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    format_version: int = FORMAT_VERSION

    @classmethod
    def describe(cls, network: AtomisticNetwork, **about: Any) -> ModelCard:
        """The card of `network`; `about` gives the fields that the network itself does not know."""
        energy = network.energy
        return cls(
            architecture=network.architecture,
            settings=network.settings(),
            scale=energy.scale,
            shift=energy.shift,
            references={chemical_symbols[z]: e for z, e in energy.references.items()},
            **about,
        )

    def build(self) -> AtomisticNetwork:
        """An untrained network of this architecture, with the card's energy scale and references."""
        if self.architecture not in NETWORKS:
            raise WeightsError(
                f"unknown architecture {self.architecture!r}; known are {sorted(NETWORKS)}. If it is your own, first "
                "import the module that adds it to ase_xai.networks.NETWORKS."
            )
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and soon replaced; the caller's seed stays
            network = NETWORKS[self.architecture](**self.settings)
        network.energy.scale, network.energy.shift = self.scale, self.shift
        network.energy.references = {atomic_numbers[symbol]: e for symbol, e in self.references.items()}
        return network


def save_weights(path: str | Path, network: AtomisticNetwork, card: ModelCard) -> str:
    """Write `network` in float32 with its card, atomically. Returns the SHA-256 of the sealed content."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    content = tensors_to_bytes(tensors, metadata={"card": json.dumps(asdict(card), ensure_ascii=True), "sha256": _NO_HASH})
    seal = hashlib.sha256(content).hexdigest()
    write_atomically(path, content.replace(_NO_HASH.encode(), seal.encode(), 1))
    return seal


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A verified weight file.

    Args:
        network: on the CPU, in evaluation mode, its weights without gradients.
        card: its model card.
        sha256: of the sealed content.
        source: the name or path it was asked for by.
    """

    network: AtomisticNetwork
    card: ModelCard
    sha256: str
    source: str


def load_weights(path: str | Path) -> LoadedWeights:
    """Read and verify a weight file.

    Raises:
        WeightsError: the file is missing, empty, cut off, foreign, altered, of a newer version, or does not fit its card.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights from {path}: {error.strerror}.") from error
    try:
        metadata = _metadata(content)
        seal = _verify(content, metadata)
        card = _card(metadata["card"])
        network = card.build()
        _fill(network, tensors_from_bytes(content))
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error}") from error
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
    return LoadedWeights(network.eval().requires_grad_(False), card, seal, str(path))


def _metadata(content: bytes) -> Mapping[str, str]:
    """The string metadata of a safetensors file, read before anything is allocated for its tensors."""
    if len(content) < 8:
        raise WeightsError(f"it has {len(content)} bytes, too few for a weight file. Copy or download it again.")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise WeightsError("it is not a safetensors file, or it was cut off. Weight files are written by save_weights.")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not {"card", "sha256"} <= set(metadata):
        raise WeightsError("its header holds no ase_xai model card. It may be a weight file of another program.")
    return metadata


def _verify(content: bytes, metadata: Mapping[str, str]) -> str:
    seal = metadata["sha256"]
    unsealed = content.replace(seal.encode(), _NO_HASH.encode(), 1) if len(seal) == 64 else content
    if hashlib.sha256(unsealed).hexdigest() != seal:
        raise WeightsError("its content does not match its SHA-256: it was damaged or altered. Copy or download it again.")
    return seal


def _card(text: str) -> ModelCard:
    values = json.loads(text)
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(f"it has format version {version}; this ase_xai reads version {FORMAT_VERSION}. Update ase_xai.")
    unknown = set(values) - {f.name for f in fields(ModelCard)}
    if unknown:
        raise WeightsError(f"its model card has unknown entries {sorted(unknown)}.")
    return ModelCard(**{**values, "total_charges": tuple(values["total_charges"])})


def _fill(network: AtomisticNetwork, tensors: Mapping[str, Tensor]) -> None:
    own = network.state_dict()
    if set(own) != set(tensors):
        missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
        raise WeightsError(f"its tensors do not fit its card: missing {missing}, extra {extra}.")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise WeightsError(f"tensor {name} has shape {tuple(value.shape)}, its card needs {tuple(own[name].shape)}.")
        if not value.dtype.is_floating_point or not bool(torch.isfinite(value).all()):
            raise WeightsError(f"tensor {name} is not a finite floating-point array ({value.dtype}).")
    network.load_state_dict(dict(tensors))
