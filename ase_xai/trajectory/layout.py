"""What stands where in the file of a run: H5MD, with additions below /xai that its readers leave alone.

    /particles/atoms/{position, species, xai_energy, xai_charge, force}/{step, time, value}   one row per frame
    /particles/atoms/box/{edges, pbc}/{step, time, value}
    /observables/atoms/{potential_energy, dipole, ...}/{step, time, value}, and hard links to the atomic fields
    /xai/fields/<name>/{step, time, value}       fields with a stride of their own
    /xai/groups/<name>/{step, time, value}       sums over groups
    /xai/reducers/<name>/{0, 1}                  states of online statistics, in two places used in turn
    /xai/meta                                    JSON; its attribute `frames` says how many rows of each track are valid

`step` and `time` of a track stand once and are hard-linked elsewhere. Nothing is compressed: a chunk is then rewritten in
place, so that rows which are valid already stay valid whenever the writer dies.

Source: de Buyl, Colberg, Höfling, H5MD: a structured, efficient, and portable file format for molecular data, Comput. Phys.
Commun. 2014, arXiv:1308.6382.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

SCHEMA = "ase_xai run 1"
MAIN = "atoms"  # the track with one row per frame
PARTICLES, OBSERVABLES, XAI = "/particles/atoms", "/observables/atoms", "/xai"
POSITION, EDGES, PBC, SPECIES = (f"{PARTICLES}/{name}" for name in ("position", "box/edges", "box/pbc", "species"))
META, NUMBERS, REFERENCES, BASELINES = (f"{XAI}/{name}" for name in ("meta", "numbers", "references", "baselines"))
UNNAMED_UNITS = ("forces",)  # MDAnalysis refuses a file whose force is in eV/Å
EXTRAS = ("mask", "uncertainty", "residual")  # of an explanation, beside its values
CHUNK_FRAMES, CHUNK_BYTES, MAX_CHUNK_BYTES = 256, 1 << 15, 1 << 20
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class FieldSpec:
    """One quantity along a run.

    Args:
        name: by which `run[name]` finds it.
        path: of its group in the file.
        track: `MAIN`, or its own name if it has a stride of its own.
        units, level, target, reference, gauge, method, labels, settings, notes: see `Explanation`; level "frame" means one
            value per frame that belongs to no atom.
        shape: of one row.
        dtype: of the stored numbers.
        extras: those of `EXTRAS` that are stored beside the values.
    """

    name: str
    path: str
    units: str
    level: str
    target: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    track: str = MAIN
    reference: str = "none"
    gauge: str = "invariant"
    method: str = ""
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shape", "labels", "notes", "extras"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a field is named by letters, digits and _, got {self.name!r}.")

    @property
    def value(self) -> str:
        """Path of the values."""
        return f"{self.path}/value"

    def extra(self, name: str) -> str:
        """Path of `name`, one of `EXTRAS`."""
        return f"{XAI}/fields/{self.name}/{name}"

    @property
    def extra_rows(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a row and type of each of `extras`."""
        rows = {"mask": (self.shape[:1], "bool"), "uncertainty": (self.shape, "float32"), "residual": ((), "float64")}
        return {name: rows[name] for name in self.extras}


RESULTS: dict[str, FieldSpec] = {
    spec.name: spec
    for spec in (
        FieldSpec("energy", f"{OBSERVABLES}/potential_energy", "eV", "frame", "energy", (), "float64"),
        FieldSpec("kinetic_energy", f"{OBSERVABLES}/kinetic_energy", "eV", "frame", "kinetic energy", (), "float64"),
        FieldSpec("dipole", f"{OBSERVABLES}/dipole", "e·Å", "frame", "dipole", (3,), "float64"),
        FieldSpec("stress", f"{OBSERVABLES}/stress", "eV/Å^3", "frame", "stress", (6,), "float64"),
        FieldSpec("energies", f"{PARTICLES}/xai_energy", "eV", "atom", "energy", (0,), gauge="dependent"),
        FieldSpec("charges", f"{PARTICLES}/xai_charge", "e", "atom", "charge", (0,), gauge="dependent"),
        FieldSpec("forces", f"{PARTICLES}/force", "eV/Å", "atom", "forces", (0, 3)),
        FieldSpec("velocities", f"{PARTICLES}/xai_velocity", "Å/fs", "atom", "velocities", (0, 3)),
    )
}
"""What a step of a calculator gives, without any further evaluation; the number of atoms is put in when recording."""


@dataclass(frozen=True)
class RunAbout:
    """Where a run comes from.

    Args:
        model, model_id: name and level of theory of the weights, SHA-256; of other calculators the name and "".
        calculator: its parameters, JSON values.
        total_charge: e.
        created, command: time (UTC) and command line of the program that began the file.
        versions: of the packages that made it.
        settings: what was asked to be recorded.
        notes: sentences that belong beside the numbers.
    """

    model: str
    model_id: str
    calculator: Mapping[str, Any]
    total_charge: float
    created: str
    command: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))


@dataclass(frozen=True)
class Header:
    """Everything of a run that does not change while it is recorded.

    Args:
        token: of this file, so that no other one is taken for it.
        time_unit: "fs", or "step" where there is no time.
        positions: whether positions are stored.
        fields: in the order of their names.
        groups: atoms by name, a partition, or nothing.
        reducers: settings of the online statistics by name.
        about: see `RunAbout`.
        reference: name of what was subtracted from atomic energies.
    """

    token: str
    time_unit: str
    positions: bool
    fields: tuple[FieldSpec, ...]
    groups: Mapping[str, tuple[int, ...]]
    reducers: Mapping[str, Mapping[str, Any]]
    about: RunAbout
    reference: str

    @property
    def tracks(self) -> tuple[str, ...]:
        """Names of the tracks, the one of all frames first."""
        return (MAIN, *(spec.name for spec in self.fields if spec.track != MAIN))

    @property
    def clock(self) -> str:
        """Path of the group whose `step` and `time` the others share."""
        return POSITION if self.positions else EDGES

    def clock_of(self, track: str) -> str:
        """The same of one track."""
        return self.clock if track == MAIN else f"{XAI}/fields/{track}"

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Header:
        """What `to_json` wrote.

        Raises:
            ValueError: something else.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ValueError(f"it is no run of schema {SCHEMA!r}, but perhaps one of another version")
        try:
            content["fields"] = tuple(FieldSpec(**spec) for spec in content["fields"])
            content["groups"] = {name: tuple(int(i) for i in atoms) for name, atoms in content["groups"].items()}
            content["about"] = RunAbout(**content["about"])
            return cls(**{f.name: content[f.name] for f in fields(cls)})
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"its description is incomplete ({type(error).__name__}: {error})") from error


def chunk_of(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Shape of the pieces in which rows of `shape` are stored: of many frames, but so few atoms that a piece is small; one
    atom's series is then read without those of all others."""
    if not shape:
        return (CHUNK_FRAMES,)
    per_atom = max(1, int(np.prod(shape[1:], dtype=int))) * np.dtype(dtype).itemsize
    n_frames = min(CHUNK_FRAMES, max(1, MAX_CHUNK_BYTES // per_atom))
    n_pieces = max(1, -(-shape[0] * per_atom * n_frames // CHUNK_BYTES))
    return (n_frames, max(1, -(-shape[0] // n_pieces)), *(max(1, n) for n in shape[1:]))


def frame_series(header: Header, n_atoms: int) -> dict[str, tuple[tuple[int, ...], str, str]]:
    """Shape of a row, type and H5MD's unit of what every frame has, by path."""
    series = {EDGES: ((3, 3), "float64", "Angstrom"), PBC: ((3,), "bool", ""), SPECIES: ((n_atoms,), "int8", "")}
    return series | ({POSITION: ((n_atoms, 3), "float32", "Angstrom")} if header.positions else {})


def row_types(header: Header, n_atoms: int) -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
    """Shape of a row and type of each dataset that has one row per frame of a track, by track and path."""
    types: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {}
    for track in header.tracks:
        clock = header.clock_of(track)
        types[track] = {f"{clock}/step": ((), "int64"), f"{clock}/time": ((), "float64")}
    types[MAIN] |= {f"{path}/value": (shape, dtype) for path, (shape, dtype, _) in frame_series(header, n_atoms).items()}
    for spec in header.fields:
        types[spec.track][spec.value] = (spec.shape, spec.dtype)
        types[spec.track] |= {spec.extra(name): rows for name, rows in spec.extra_rows.items()}
    return types
