"""Weight files: safetensors with a model card in the header, sealed by a hash. Nothing is ever unpickled.

A file holds the tensors of one network and, in the header, its model card. The seal (see `ase_xai.files`) covers both: a
changed card is found as surely as a changed weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from ase_xai.files import sealed, unsealed, write_atomically
from ase_xai.networks import NETWORKS, AtomisticNetwork
from ase_xai.networks.base import Undrawn
from ase_xai.statistics import PREFIX, TrainingStatistics

FORMAT_VERSION = 1
MAX_FILE_BYTES = 2_000_000_000
MAX_SETTING = 4096  # the largest integer in a network's settings
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

    def build(self, device: str = "cpu") -> AtomisticNetwork:
        """An untrained float32 network of this architecture, with the card's energy scale and references.

        On the device "meta" it has shapes and no numbers.
        """
        if self.architecture not in NETWORKS:
            raise WeightsError(
                f"unknown architecture {self.architecture!r}; known are {sorted(NETWORKS)}. If it is your own, first "
                "import the module that adds it to ase_xai.networks.NETWORKS."
            )
        # Initial weights are drawn and soon replaced: the caller's seed stays, and the caller's contexts have no say.
        drawing = Undrawn() if device == "meta" else nullcontext()
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), drawing, torch.device(device):
            network = NETWORKS[self.architecture](**self.settings).float()
        network.energy.scale, network.energy.shift = self.scale, self.shift
        network.energy.references = {atomic_numbers[symbol]: e for symbol, e in self.references.items()}
        return network


def save_weights(
    path: str | Path, network: AtomisticNetwork, card: ModelCard, statistics: TrainingStatistics | None = None
) -> str:
    """Write `network` in float32 with its card, atomically. Returns the SHA-256 of the sealed content.

    Args:
        path: of the file.
        network: any architecture in `NETWORKS`.
        card: its model card.
        statistics: of its training data; without them there are no uncertainties of single atoms.
    """
    tensors = {name: value.detach().cpu().float().contiguous() for name, value in network.state_dict().items()}
    tensors |= {} if statistics is None else statistics.tensors()
    content = sealed(tensors, {"card": asdict(card)})
    write_atomically(path, content)
    return str(unsealed(content)["sha256"])


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A verified weight file.

    Args:
        network: on the CPU, in evaluation mode, its weights without gradients.
        card: its model card.
        sha256: of the sealed content.
        source: the name or path it was asked for by.
        statistics: of the training data, in float64; None in files without.
    """

    network: AtomisticNetwork
    card: ModelCard
    sha256: str
    source: str
    statistics: TrainingStatistics | None = None


def load_weights(path: str | Path) -> LoadedWeights:
    """Read and verify a weight file.

    Raises:
        WeightsError: the file is missing, empty, cut off, foreign, altered, of a newer version, or does not fit its card.
    """
    path = Path(path)
    content = _read(path)
    try:
        about = unsealed(content)
        card = _card(about["card"])
        everything = tensors_from_bytes(content)
        tensors = {name: value for name, value in everything.items() if not name.startswith(PREFIX)}
        _refuse_misfit(card, tensors)
        network = card.build()
        statistics = TrainingStatistics.from_tensors(everything)
        if statistics is not None:
            statistics.require_fit(len(network.elements))
        with torch.inference_mode(False):
            network.load_state_dict(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error}") from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path} cannot be used: {type(error).__name__}: {error}") from error
    return LoadedWeights(network.eval().requires_grad_(False), card, about["sha256"], str(path), statistics)


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(f"cannot read weights from {path}: it is not a regular file.")
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            raise WeightsError(
                f"cannot read weights from {path}: {path.stat().st_size} bytes is more than any network here has."
            )
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights from {path}: {error.strerror}.") from error


def _card(values: object) -> ModelCard:
    if not isinstance(values, dict):
        raise WeightsError(f"its model card is a {type(values).__name__}, not a table.")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(f"it has format version {version}; this ase_xai reads version {FORMAT_VERSION}. Update ase_xai.")
    unknown = set(values) - {f.name for f in fields(ModelCard)}
    if unknown:
        raise WeightsError(f"its model card has unknown entries {sorted(unknown)}.")
    card = ModelCard(**{**values, "total_charges": tuple(values.get("total_charges", (0.0,)))})
    if card.units != UNITS:
        raise WeightsError(f"its units are {card.units}; networks here use {UNITS}. Convert the weights.")
    numbers = [card.scale, card.shift, *card.references.values(), *card.total_charges]
    if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise WeightsError("scale, shift, references and total charges of its card must be finite numbers.")
    return card


def _refuse_misfit(card: ModelCard, tensors: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and values with what the card asks for, before memory for a network is taken."""
    n_values = sum(value.numel() for value in tensors.values())
    largest = max((x for x in _integers(card.settings)), default=0)
    if largest > min(n_values, MAX_SETTING):
        raise WeightsError(f"its card asks for a size of {largest}, its tensors hold {n_values} values in all.")
    skeleton = card.build("meta")
    elements = {chemical_symbols[z] for z in skeleton.elements}
    if card.references and set(card.references) != elements:
        raise WeightsError(f"its references are for {sorted(card.references)}, its elements are {sorted(elements)}.")
    own = skeleton.state_dict()
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise WeightsError(f"its tensors do not fit its card: missing {missing}, extra {extra}.")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise WeightsError(f"tensor {name} has shape {tuple(value.shape)}, its card needs {tuple(own[name].shape)}.")
        if value.dtype not in (torch.float32, torch.float64) or not bool(torch.isfinite(value.float()).all()):
            raise WeightsError(f"tensor {name} is not a finite floating-point array ({value.dtype}).")
        if name.endswith("_std") and not bool((value > 0).all()):
            raise WeightsError(f"tensor {name} must be positive.")


def _integers(settings: object) -> Iterator[int]:
    if isinstance(settings, int):
        yield settings
    elif isinstance(settings, dict):
        for value in settings.values():
            yield from _integers(value)
    elif isinstance(settings, list):
        yield len(settings)
        for value in settings:
            yield from _integers(value)
