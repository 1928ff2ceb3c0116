"""From a configuration to a folder with weights, their model card, the split, the log and figures."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

import ase_xai
from ase_xai.files import write_atomically
from ase_xai.networks import NETWORKS, AtomisticNetwork, BehlerParrinelloNetwork
from ase_xai.report import learning_curve
from ase_xai.training.assessment import assess, write_figures
from ase_xai.training.charge_sign import fix_charge_sign
from ase_xai.training.checks import leakage, require_sound
from ase_xai.training.config import Config, DataConfig, SplitConfig, load_config
from ase_xai.training.data import PER_ATOM, StructureSet
from ase_xai.training.engine import Distributed, Engine, SingleProcess
from ase_xai.training.evaluation import MAIN_ERRORS, errors
from ase_xai.training.loader import GraphLoader
from ase_xai.training.logs import RunLog
from ase_xai.training.loss import labels_known
from ase_xai.training.readers import chunks, read
from ase_xai.training.references import composition_rank, free_atoms, least_squares
from ase_xai.training.settings import LossWeights
from ase_xai.training.splits import Split, split_by_group
from ase_xai.training.start import continued
from ase_xai.training.store import open_store, write_store
from ase_xai.training.summary import summarize
from ase_xai.training.trainer import Trainer
from ase_xai.weights import LoadedWeights, ModelCard, resolve, save_weights

WEIGHTS = "weights.safetensors"
SAMPLE = 2000  # training structures that descriptors are standardized on
Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data and an untrained network, as a configuration asks for them; `digest` is that of the data that were split."""

    loader: GraphLoader
    split: Split
    digest: str
    network: AtomisticNetwork
    about_references: str
    start: LoadedWeights | None = None


def train(
    config_path: Path,
    folder: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    steps: int | None = None,
    progress: bool = True,
    report: Report = print,
) -> Path:
    """Train what a configuration describes, or go on with it where a run in `folder` stopped.

    `folder` gets config.toml, split.json, checkpoint.safetensors and metrics.csv while the run goes, and at its end
    weights.safetensors with the model card, learning_curve.png and parity_<target>.png. Under torchrun, or wherever
    WORLD_SIZE says so, all processes share the work and the first one writes.

    Args:
        config_path: TOML, see `ase_xai.training.config`.
        folder: made if missing.
        data: folder of the data files; by default that of the configuration.
        device: "cpu", "cuda", ...
        steps: in place of the length that the configuration asks for.
        progress: show a bar.
        report: told what is going on, line by line.

    Returns:
        Path of the weight file.

    Raises:
        ValueError: the configuration, the data or a checkpoint in the folder cannot be used.
        KeyboardInterrupt: interrupted; the checkpoint is written.
    """
    config = load_config(config_path, steps=steps, data=data)
    engine = engine_for(device)
    tell: Report = report if engine.rank == 0 else lambda line: None
    prepared = prepare(config, tell)
    folder.mkdir(parents=True, exist_ok=True)
    start = None if prepared.start is None else prepared.start.sha256
    trainer = Trainer(prepared.network, prepared.loader, prepared.split, config.training, folder, engine, start)
    weights = folder / WEIGHTS
    if trainer.finished and weights.exists():
        tell(f"finished before: {trainer.progress.step} steps, {weights}. Ask for more steps to go on.")
        return weights
    if engine.rank == 0:
        prepared.split.save(folder / "split.json")
        write_atomically(folder / "config.toml", config_path.read_bytes())
    if trainer.progress.step:
        tell(f"goes on after step {trainer.progress.step} of {trainer.total_steps}")
    trainer.run(progress=progress)
    done, seconds = trainer.progress.step, trainer.progress.seconds
    per_epoch, speed = seconds * trainer.steps_per_epoch / done, trainer.structures_per_second
    tell(f"{done} steps in {seconds:.0f} s: {per_epoch:.1f} s per epoch, {speed:.0f} structures/s")
    if engine.rank == 0:
        finish(config, prepared, trainer, tell)
    return weights


def engine_for(device: str) -> Engine:
    """One process, or what the environment of a launcher such as torchrun says."""
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if n_processes == 1:
        return SingleProcess(device)
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", str(n_processes)))
    return Distributed(torch.device(device).type, n_local, n_processes // n_local)


def prepare(config: Config, report: Report = print) -> Prepared:
    """Data read, checked and split; a network with its first weights, references and standardization."""
    structures = load_structures(config.data, report)
    split = split_of(structures, config.split)
    digest = split.digest
    if config.data.extra:
        extra = load_structures(replace(config.data, files=config.data.extra, require=(), store=None), report)
        structures, split = extended(structures, split, extra)
    _report_labels(structures, split, config.training.loss, report)
    _report_leakage(structures, split, report)
    start = None if config.network.start is None else resolve(config.network.start)
    network = build_network(config, structures) if start is None else continued(config, start.network, structures.elements)
    loader = GraphLoader(structures, network.cutoff, keep_pairs=config.data.store is None)
    kept = start and f"Kept from {start.source}: {start.card.reference_kind}"
    about = kept or _set_references(network, config, structures, split)
    report(about)
    if start is None and isinstance(network, BehlerParrinelloNetwork):
        rng = np.random.default_rng(config.training.seed)
        sample = rng.permutation(split.training)[:SAMPLE]
        network.standardize_on([loader.batch(part)[0] for part in np.array_split(sample, -(-len(sample) // 50))])
    return Prepared(loader, split, digest, network, about, start)


def extended(structures: StructureSet, split: Split, extra: StructureSet) -> tuple[StructureSet, Split]:
    """Structures with others that are all trained on, behind them."""
    together = StructureSet.concatenate([structures, extra])
    more = np.arange(len(structures), len(together))
    return together, replace(split, training=np.concatenate([split.training, more]), digest=together.digest())


def load_structures(data: DataConfig, report: Report = print) -> StructureSet:
    """The structures of a configuration: read, checked, and without those that lack a required label."""
    if data.store is None:
        structures = read(data.files, data.read_as())
    elif data.store.exists() and any(data.store.iterdir()):
        structures = open_store(data.store)
    else:
        structures = write_store(data.store, chunks(data.files, data.read_as()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        structures = require_sound(structures, skip=data.skip_bad)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        report(f"warning: {text}")
    complete = np.ones(len(structures), bool)
    for label in data.require:
        if label not in structures.targets:
            raise ValueError(f"{label} is required, but the data have only {', '.join(structures.targets) or 'no labels'}.")
        values = np.asarray(getattr(structures, label))
        known = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        complete &= np.logical_and.reduceat(known, structures.offsets[:-1]) if label in PER_ATOM else known
    if complete.all():
        return structures
    report(f"left out {int((~complete).sum())} of {len(structures)} structures without {', '.join(data.require)}")
    return structures.take(np.flatnonzero(complete))


def _report_labels(structures: StructureSet, split: Split, weights: LossWeights, report: Report) -> None:
    report(f"{', '.join(f'{n} {name}' for name, n in split.sizes.items())} structures")
    untrained = sorted(set(structures.elements) - set(np.unique(structures.take(split.training).numbers).tolist()))
    if untrained:
        report(f"warning: no training structure holds {', '.join(chemical_symbols[z] for z in untrained)}, but others do.")
    for name, n in labels_known(structures, np.arange(len(structures))).items():
        used = "" if name in weights.targets else ", not trained on: its loss weight is 0"
        report(f"{name} known for {n} of {len(structures)} structures{used}")


def _report_leakage(structures: StructureSet, split: Split, report: Report) -> None:
    """Say how many structures of the validation and test parts have copies in another part, and which."""
    found = leakage(structures, split)
    if found:
        some = "; ".join(str(finding) for finding in found[:3])
        report(f"warning: {len(found)} structures of the validation and test parts have copies in other parts: {some}")


def split_of(structures: StructureSet, settings: SplitConfig) -> Split:
    return split_by_group(structures, **asdict(settings))


def build_network(config: Config, structures: StructureSet) -> AtomisticNetwork:
    """A network with the initial weights of the seed; the random state outside is left alone."""
    arguments = dict(config.network.arguments)
    elements = arguments.pop("elements", structures.elements)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return NETWORKS[config.network.architecture](elements, **arguments)


def _set_references(network: AtomisticNetwork, config: Config, structures: StructureSet, split: Split) -> str:
    """Give the network its reference energies; returns a sentence about what they are."""
    if not config.training.loss.energy:
        return "No energies are trained on: no reference energies."
    foreign = [chemical_symbols[z] for z in network.elements if z not in structures.elements]
    if isinstance(config.data.references, str):
        if foreign:
            raise ValueError(f"the data hold no {', '.join(foreign)} to fit references on. Leave these elements out.")
        network.energy.references = least_squares(structures, split.training)
        return f"References: least squares on the training structures. {composition_rank(structures, split.training)}"
    given = {atomic_numbers[symbol]: energy for symbol, energy in config.data.references.items()}
    free_atoms(structures, given)  # names what is missing
    network.energy.references = {z: given[z] for z in network.elements}
    assert structures.energy is not None
    residual = structures.energy[split.training] - structures.composition(split.training) @ [
        given[z] for z in structures.elements
    ]
    network.energy.shift = float(np.nanmean(residual / structures.n_atoms[split.training]))
    return f"References: as given. Mean energy beyond them: {network.energy.shift:.4f} eV/atom."


def finish(config: Config, prepared: Prepared, trainer: Trainer, report: Report) -> None:
    """Measure the trained network and write weights with their card, and figures."""
    folder, split, network = trainer.folder, prepared.split, prepared.network
    charge_sign = fix_charge_sign(network, prepared.loader, split, config.training.loss)
    measured = "test" if len(split.test) else "validation"
    assessment = assess(network, prepared.loader, split.part(measured))
    tables: dict[str, Any] = {measured: assessment.tables}
    if measured != "validation":
        validation = assess(network, prepared.loader, split.validation)
        tables["validation"] = {"all": errors(validation.reference, validation.prediction)}
    card = ModelCard.describe(
        network,
        reference_kind=prepared.about_references,
        training={**training_record(config, prepared, trainer), "charge_sign": charge_sign},
        errors=tables,
        **asdict(config.model),
    )
    columns = RunLog(folder, trainer.progress.validated).columns()
    if columns:
        buffer = io.BytesIO()
        shown = ["step", "learning_rate", "loss", *(MAIN_ERRORS[name] for name in config.training.loss.targets)]
        learning_curve({name: columns[name] for name in shown if name in columns}).savefig(buffer, format="png")
        write_atomically(folder / "learning_curve.png", buffer.getvalue())
    write_figures(assessment, folder, f"{network.architecture}, {measured} structures")
    statistics = summarize(network, prepared.loader, split, config.training.loss)
    digest = save_weights(folder / WEIGHTS, network, card, statistics)
    report(f"wrote {folder / WEIGHTS}, SHA-256 {digest}")


def training_record(config: Config, prepared: Prepared, trainer: Trainer) -> dict[str, Any]:
    """What the card says about the training, enough to read the data and to make the split again."""
    data, split, progress = config.data, prepared.split, trainer.progress
    return {
        "files": {path.name: file_digest(path) for path in data_files([*data.files, *data.extra])},
        "data": {
            "columns": dict(data.columns),
            "units": dict(data.units),
            "group": data.group,
            "kind": data.kind,
            "kind_names": list(data.kind_names),
            "require": list(data.require),
            "skip_bad": data.skip_bad,
            "digest": prepared.digest,
        },
        "structures": split.sizes,
        "split": asdict(config.split),
        "settings": asdict(config.training),
        "start": prepared.start and {"weights": prepared.start.source, "sha256": prepared.start.sha256},
        "steps": progress.step,
        "epochs": round(progress.step / trainer.steps_per_epoch, 2),
        "seconds": round(progress.seconds, 1),
        "structures_per_second": round(trainer.structures_per_second, 1),
        "device": str(trainer.engine.device),
        "processes": trainer.engine.world_size,
        "versions": {"ase_xai": ase_xai.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def data_files(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and those in the folders among them."""
    return [
        file for path in paths for file in (sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path])
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in portions."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while portion := file.read(1 << 20):
            sha.update(portion)
    return sha.hexdigest()
