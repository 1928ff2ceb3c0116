"""A training described in a TOML file, read into records that refuse what they do not know.

[data]       files, extra, columns, units, group, kind, kind_names, references, require, skip_bad, store
[split]      validation, test, training, seed
[network]    architecture, and the arguments of its constructor; elements are those of the data unless given.
             start: weights to start from, a name or a path from this file; what they tell need not be said again
[training]   the fields of `TrainingSettings`
[training.loss]  the fields of `LossWeights`; a target that is not named has no weight
[model]      license, level_of_theory, notes, closed_shell: what the model card shall say
"""

from __future__ import annotations

import difflib
import inspect
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ase.data import atomic_numbers

from ase_xai.networks import NETWORKS
from ase_xai.training.data import LABELS
from ase_xai.training.readers import Columns
from ase_xai.training.settings import TARGETS, LossWeights, TrainingSettings

LEAST_SQUARES = "least-squares"
Record = TypeVar("Record")


@dataclass(frozen=True)
class DataConfig:
    """Which structures are trained on.

    Args:
        files: files or folders.
        extra: more of them, as paths from the configuration, that are all trained on: the split leaves them alone, so that
            validation and test measure the data of `files`. Labels in `require` may be missing there.
        columns: label -> name in the files, see `Columns`.
        units: quantity -> unit, see `Columns`.
        group, kind, kind_names: see `Columns`.
        references: "least-squares" on the training structures, or eV by chemical symbol.
        require: labels without which a structure is left out; a missing label otherwise counts nothing in the loss.
        skip_bad: leave unusable structures out instead of refusing the data.
        store: folder for a memory-mapped copy, for sets larger than memory; written once.
    """

    files: tuple[Path, ...]
    extra: tuple[Path, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    kind: str | None = None
    kind_names: tuple[str, ...] = ("all",)
    references: str | Mapping[str, float] = LEAST_SQUARES
    require: tuple[str, ...] = ()
    skip_bad: bool = False
    store: Path | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty. Name at least one file or folder.")
        for label in self.require:
            _refuse_unknown(label, LABELS, "label", "require")
        if isinstance(self.references, str) and self.references != LEAST_SQUARES:
            raise ValueError(
                f"references must be {LEAST_SQUARES!r} or a table of energies in eV such as {{H = -13.6, O = -2042.6}}, got "
                f"{self.references!r}."
            )
        for symbol in () if isinstance(self.references, str) else self.references:
            _refuse_unknown(symbol, atomic_numbers, "chemical symbol", "references")
        self.read_as()

    def read_as(self) -> Columns:
        """How the files are read."""
        return Columns(self.columns, self.units, self.group, self.kind, self.kind_names)


@dataclass(frozen=True)
class SplitConfig:
    """Parts of the data, see `split_by_group`: fractions below 1, else numbers of groups."""

    validation: float = 0.05
    test: float = 0.05
    training: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """An entry of `ase_xai.networks.NETWORKS` and arguments of its constructor.

    Args:
        architecture: name of the entry.
        arguments: those that are stated.
        start: weights that training starts from, instead of random ones: a name, or a path, which holds a slash or ends in
            .safetensors. Settings, energy scale, shift and references and the standardization of descriptors are theirs, so
            that the first step sees the same function.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What the model card says beside what was measured; see `ase_xai.weights.format.ModelCard`."""

    license: str = "unknown"
    level_of_theory: str = "unknown"
    notes: str = ""
    closed_shell: bool = False


@dataclass(frozen=True)
class Config:
    """A whole training."""

    data: DataConfig
    network: NetworkConfig
    training: TrainingSettings
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


def load_config(path: str | Path, *, steps: int | None = None, data: Path | None = None) -> Config:
    """Read a TOML file.

    Args:
        path: of the configuration.
        data: folder that relative paths in [data] are relative to; by default that of the configuration.
        steps: optimizer steps in place of the length that the file asks for.

    Raises:
        ValueError: the file is missing or no TOML, or a key or value is not known; names the key, and the nearest known one.
    """
    path = Path(path)
    try:
        table = _parsed(path.read_text(encoding="utf-8"))
        if steps is not None:
            training = {k: v for k, v in table.get("training", {}).items() if k not in ("steps", "epochs")}
            table = {**table, "training": {**training, "steps": steps}}
        return config_of(table, path.parent if data is None else data, path.parent)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_of(table: Mapping[str, Any], folder: Path, beside: Path) -> Config:
    """The configuration in a table as TOML gives it; paths of data are relative to `folder`, others to `beside`."""
    table = dict(table)
    known = [f.name for f in fields(Config)]
    for name in table:
        _refuse_unknown(name, known, "section")
    for name in ("data", "network", "training"):
        if not isinstance(table.get(name), Mapping):
            raise ValueError(f"there is no section [{name}]. Needed are [data], [network] and [training].")
    data = dict(table["data"])
    for name in ("files", "extra"):
        if isinstance(data.get(name), str):
            data[name] = [data[name]]
    if isinstance(data.get("extra"), list):
        data["extra"] = [str(beside.resolve() / path) for path in data["extra"] if isinstance(path, str)]
    return Config(
        data=_record(DataConfig, data, "data", folder),
        network=_network(table["network"], beside),
        training=_record(TrainingSettings, table["training"], "training", folder),
        split=_record(SplitConfig, table.get("split", {}), "split", folder),
        model=_record(ModelConfig, table.get("model", {}), "model", folder),
    )


def _parsed(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _network(table: Mapping[str, Any], beside: Path) -> NetworkConfig:
    arguments = dict(table)
    architecture, start = arguments.pop("architecture", None), arguments.pop("start", None)
    if not isinstance(architecture, str):
        raise ValueError(f"network.architecture is missing. Known are {', '.join(sorted(NETWORKS))}.")
    _refuse_unknown(architecture, NETWORKS, "architecture", "network")
    constructor = NETWORKS[architecture].__init__
    known = ["start", *(name for name in inspect.signature(constructor).parameters if name != "self")]
    hints = get_type_hints(constructor)
    for name, value in arguments.items():
        _refuse_unknown(name, known, "key", "network")
        arguments[name] = _converted(hints[name], value, f"network.{name}", Path())
    if start is not None:
        start = _converted(str, start, "network.start", Path())
        is_path = "/" in start or start.endswith(".safetensors")  # else it is a name
        start = str(beside / start) if is_path else start
    return NetworkConfig(architecture, arguments, start)


def _record(kind: type[Record], table: Any, where: str, folder: Path) -> Record:
    """A dataclass from a table: no unknown keys, no missing ones, values of the annotated types."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} must be a table, got {table!r}.")
    hints = get_type_hints(kind)
    for name in table:
        _refuse_unknown(name, hints, "key", where)
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    for name in required:
        if name not in table:
            raise ValueError(f"{where}.{name} is missing.")
    values = {name: _converted(hints[name], value, f"{where}.{name}", folder) for name, value in table.items()}
    if kind is LossWeights:
        values = {**dict.fromkeys(TARGETS, 0.0), **values}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"[{where}] {error}") from error


def _converted(hint: Any, value: Any, where: str, folder: Path) -> Any:
    """`value` as what the annotation asks for."""
    origin, parameters = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        choices = [choice for choice in parameters if choice is not type(None)]
        tables = [choice for choice in choices if (get_origin(choice) is Mapping) == isinstance(value, Mapping)]
        return _converted((tables or choices)[0], value, where, folder)
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, value, where, folder)
    if origin in (tuple, Sequence):
        if isinstance(value, list):
            return tuple(_converted(parameters[0], entry, f"{where}[{n}]", folder) for n, entry in enumerate(value))
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {key: _converted(parameters[1], entry, f"{where}.{key}", folder) for key, entry in value.items()}
    elif hint is Path:
        if isinstance(value, str):
            return folder / value
    elif hint is float:
        if type(value) in (int, float):
            return float(value)
    elif type(value) is hint:
        return value
    names = {Path: "a path", float: "a number", int: "an integer", str: "a text", bool: "true or false"}
    wanted = names.get(hint) or ("a table" if origin is Mapping else f"a list of {names.get(parameters[0], 'values')[2:]}s")
    raise ValueError(f"{where} must be {wanted}, got {value!r}.")


def _refuse_unknown(name: str, known: Iterable[str], what: str, where: str = "") -> None:
    known = list(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known are {', '.join(known[:20])}."
    raise ValueError(f"unknown {what} {name!r}{f' in [{where}]' if where else ''}. {hint}")
