"""Which fields a file has, and how the rows of a frame are made."""

from __future__ import annotations

import math
import secrets
import shlex
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai import __version__
from ase_xai.explainers.base import plain
from ase_xai.explainers.explanation import Explanation, checked_groups
from ase_xai.trajectory.layout import (
    BASELINES,
    EXTRAS,
    MAIN,
    NUMBERS,
    PARTICLES,
    REFERENCES,
    RESULTS,
    XAI,
    FieldSpec,
    Header,
    RunAbout,
)
from ase_xai.trajectory.recording import SUMMED, USUAL, Model, Recording, Sample
from ase_xai.trajectory.reduction import announced

STORABLE = ("atom", "group", "element", "feature")


@dataclass(frozen=True, eq=False)
class Plan:
    """The fields of a file, and how the rows of a frame are made.

    Args:
        recording: what was asked for.
        model: that the calculator stands for.
        header: of the file.
        numbers: (N,) atomic numbers.
    """

    recording: Recording
    model: Model
    header: Header
    numbers: NDArray[np.int64]

    @cached_property
    def specs(self) -> dict[str, FieldSpec]:
        return {spec.name: spec for spec in self.header.fields}

    @cached_property
    def members(self) -> list[NDArray[np.int64]]:
        return checked_groups(self.header.groups, len(self.numbers)) if self.header.groups else []

    @property
    def fixed(self) -> dict[str, NDArray[Any]]:
        """Arrays that belong to the whole run, by path."""
        arrays = {NUMBERS: self.numbers, REFERENCES: self.model.references}
        return arrays | {f"{BASELINES}/{name}": values for name, values in self.model.baselines.items()}

    def rows(self, sample: Sample, frame: str) -> dict[str, NDArray[Any]]:
        """Values of a frame by the name of their field, in float64, references subtracted from atomic energies.

        Raises:
            ValueError: other atoms, no momenta where they are needed, or a value that is not finite.
        """
        atoms, values = sample.atoms, {name: np.asarray(value) for name, value in sample.results.items()}
        if not np.array_equal(atoms.numbers, self.numbers):
            raise ValueError(
                f"{frame} holds {atoms.get_chemical_formula()}, or its atoms in another order; the run is of "
                f"{Atoms(self.numbers).get_chemical_formula()}. Record other atoms in a file of their own."
            )
        if "energies" in values:
            values["energies"] = values["energies"] - self.model.references
        if self.recording.moving:
            if not atoms.has("momenta"):
                raise ValueError(f"{frame} has no momenta, so no velocities. Leave them out of fields, or run dynamics.")
            values["velocities"] = atoms.get_velocities() * units.fs
            values["kinetic_energy"] = np.asarray(atoms.get_kinetic_energy())
        for name, summed in SUMMED.items():
            if self.members and summed in values:
                values[name] = np.array([values[summed][members].sum() for members in self.members])
        absent = [spec.name for spec in self.header.fields if spec.track == MAIN and spec.name not in sample.explanations]
        absent = [name for name in absent if name not in values]
        if absent:
            raise ValueError(f"{frame} has no {absent[0]}, which the first frame had. Are cell and charge still the same?")
        for name, value in values.items():
            if not math.isfinite(value.sum()):
                raise ValueError(f"{name} of {frame} is not finite. Look for atoms that overlap, or an exploded run.")
        return values | {name: explanation.values for name, explanation in sample.explanations.items()}

    def beside(self, sample: Sample) -> dict[str, Any]:
        """What stands beside the values of each explanation, by path, after a check that they are like the first ones."""
        found = {}
        for name, answer in sample.explanations.items():
            spec = self.specs[name]
            if (answer.values.shape, answer.labels, answer.units) != (spec.shape, spec.labels, spec.units):
                raise ValueError(
                    f"{name} now has values of shape {answer.values.shape} in {answer.units}, the first frame had "
                    f"{spec.shape} in {spec.units}, or other labels. A field needs the same rows in every frame."
                )
            for extra in spec.extras:
                value = getattr(answer, extra)
                if value is None:
                    raise ValueError(f"{name} has no {extra} now, the first frame had one. A field needs it in every frame.")
                found[spec.extra(extra)] = value
        return found


def first_plan(recording: Recording, calculator: Any, sample: Sample, time_unit: str, frame: str) -> Plan:
    """The plan of a new file, made from its first frame."""
    atoms, model = sample.atoms, Model.of(calculator, sample.atoms)
    groups = {str(name): tuple(int(i) for i in members) for name, members in recording.groups.items()}
    if groups:
        checked_groups(groups, len(atoms))
    usual = [name for name in USUAL if name in sample.results]
    stored = dict.fromkeys(["energy", *(usual if recording.fields is None else recording.fields)])
    specs = [*_result_specs(tuple(stored), model, len(atoms)), *_group_specs(tuple(groups), sample.results, model)]
    specs += [_explainer_spec(name, every, sample.explanations[name]) for name, (_, every) in recording.questions.items()]
    header = Header(
        token=secrets.token_hex(16),
        time_unit=time_unit,
        positions=recording.positions,
        fields=tuple(specs),
        groups=groups,
        reducers={},
        about=_about(recording, model),
        reference=model.reference,
    )
    plan = Plan(recording, model, header, atoms.numbers.astype(np.int64))
    rows = plan.rows(sample, frame)
    described = {spec.name: spec for spec in (*_result_specs(tuple(RESULTS), model, len(atoms)), *specs)}
    return replace(plan, header=replace(header, reducers=announced(recording.reducers, rows, described)))


def _result_specs(names: Sequence[str], model: Model, n_atoms: int) -> list[FieldSpec]:
    specs = []
    for name in names:
        spec = RESULTS[name]
        own: dict[str, Any] = {"shape": (n_atoms, *spec.shape[1:])} if spec.level == "atom" else {}
        if name == "energies":  # full energies need more digits than float32 has
            own |= {"reference": model.reference, "dtype": "float64" if model.reference == "none" else "float32"}
            own |= {"method": "AtomicEnergies", "notes": model.notes}
        if name == "charges":
            own |= {"method": "LatentCharges"}
        specs.append(replace(spec, **own))
    return specs


def _group_specs(labels: tuple[str, ...], names: Container[str], model: Model) -> list[FieldSpec]:
    specs = []
    for name, summed in SUMMED.items():
        if labels and summed in names:
            own: dict[str, Any] = {
                "reference": model.reference if summed == "energies" else "none",
                "dtype": "float64",
                "labels": labels,
            }
            base = replace(RESULTS[summed], name=name, path=f"{XAI}/groups/{summed}", level="group", shape=(len(labels),))
            specs.append(replace(base, **own))
    return specs


def _explainer_spec(name: str, every: int, answer: Explanation) -> FieldSpec:
    if answer.level not in STORABLE:
        raise ValueError(
            f"{name} gives values of level {answer.level!r}, whose rows change from frame to frame. Recorded are those by "
            f"{', '.join(STORABLE)}; ask this one about chosen frames: explain(run.atoms(k), explainer, calculator)."
        )
    visible = every == 1 and answer.level == "atom"
    return FieldSpec(
        name=name,
        path=f"{PARTICLES}/xai_{name}" if visible else f"{XAI}/fields/{name}",
        track=MAIN if every == 1 else name,
        units=answer.units,
        level=answer.level,
        target=answer.target,
        shape=answer.values.shape,
        reference=answer.reference,
        gauge=answer.gauge,
        method=answer.method,
        labels=answer.labels,
        settings=plain(answer.settings),
        notes=answer.notes,
        extras=tuple(extra for extra in EXTRAS if getattr(answer, extra) is not None),
    )


def _about(recording: Recording, model: Model) -> RunAbout:
    return RunAbout(
        model=model.name,
        model_id=model.model_id,
        calculator=model.calculator,
        total_charge=model.total_charge,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
        versions=versions(),
        settings=recording.settings,
        notes=(*recording.notes, *model.notes),
    )


def versions() -> dict[str, str]:
    """Of the packages that a run depends on."""
    return {"ase_xai": __version__, **{name: version(name) for name in ("ase", "numpy", "torch", "h5py")}}
