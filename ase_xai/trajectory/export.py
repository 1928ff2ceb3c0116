"""Frames for other programs: extxyz with arrays that ASE GUI and OVITO color by, JSON for chemiscope."""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.io import write

from ase_xai.trajectory.frames import ARRAY_NAMES, NO_ARRAYS
from ase_xai.trajectory.layout import MAIN

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Run

SUFFIXES = (".extxyz", ".json", ".json.gz")  # ASE's .traj files keep no arrays of their own


def export(
    run: Run, path: str | Path, *, start: int = 0, stop: int | None = None, step: int = 1, overwrite: bool = False
) -> Path:
    """Write frames start, start + step, ... of `run`; what the ending of `path` says decides the format.

    .extxyz: results of the calculator, and atomic fields as arrays `xai_energy`, `xai_charge` and xai_<name>.
    .json, .json.gz: for chemiscope (extra `chemiscope`), a map of energy over time beside structures colored by energy.

    Raises:
        ValueError: another ending, or no frames.
        FileExistsError: the file is there and `overwrite` is not set.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    frames = run.frames(start, stop, step)
    if suffix is None or not len(frames):
        raise ValueError(f"{len(frames)} frames cannot go to {path.name!r}. Take some, and one of {', '.join(SUFFIXES)}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another file, or replace it with overwrite=True.")
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        if suffix == ".extxyz":
            with temporary.open("w", encoding="utf-8") as file:
                for atoms in frames:
                    write(file, atoms, format="extxyz")
        else:
            text = json.dumps(chemiscope_input(run, frames)).encode()
            temporary.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def chemiscope_input(run: Run, frames: Sequence[Atoms]) -> dict[str, Any]:
    """What chemiscope shows of some frames: `chemiscope.show_input`, or its page at chemiscope.org, reads it."""
    try:
        import chemiscope
    except ImportError as error:
        raise ImportError("this export needs chemiscope. Install the extra: pip install 'ase-xai[chemiscope]'.") from error
    held = [atoms.copy() for atoms in frames]
    arrays = {name: ARRAY_NAMES.get(name, f"xai_{name}") for name in run.fields if _colors(run, name)}
    numbers: dict[str, dict[str, Any]] = {
        "time": {"target": "structure", "values": [_time(run, atoms) for atoms in held], "units": run.time_unit},
        "energy": {"target": "structure", "values": [atoms.get_potential_energy() for atoms in frames], "units": "eV"},
    }
    for name, array in arrays.items():
        values = np.concatenate([atoms.arrays[array] for atoms in held])
        numbers[array] = {"target": "atom", "values": values, "units": run[name].units, "description": _words(run, name)}
    for atoms in held:
        for array in [array for array in atoms.arrays if array.startswith("xai_")]:
            del atoms.arrays[array]
    about = {"name": f"{held[0].get_chemical_formula()} by {run.about.model}", "description": run.about.command}
    return dict(
        chemiscope.create_input(
            held,
            environments=chemiscope.all_atomic_environments(held),
            properties=numbers,
            settings=_settings(numbers, list(arrays.values())),
            metadata=about,
        )
    )


def _colors(run: Run, name: str) -> bool:
    """Whether a field is one number per atom in every frame."""
    spec = run[name].spec
    return spec.level == "atom" and spec.track == MAIN and len(spec.shape) == 1 and name not in NO_ARRAYS


def _time(run: Run, atoms: Atoms) -> float:
    return float(atoms.info["time_fs" if run.time_unit == "fs" else "step"])


def _words(run: Run, name: str) -> str:
    field = run[name]
    return f"{field.method}, reference {field.reference}, {field.gauge} in gauge"


def _settings(numbers: dict[str, Any], arrays: list[str]) -> dict[str, Any]:
    """A map of energy over time, and structures colored by the first array on one scale for all frames."""
    settings: dict[str, Any] = {
        "target": "structure",
        "map": {"x": {"property": "time"}, "y": {"property": "energy"}, "joinPoints": True},
    }
    if arrays:
        limit = float(np.percentile(np.abs(numbers[arrays[0]]["values"]), 98)) or 1.0
        color = {"property": arrays[0], "palette": "bwr", "min": -limit, "max": limit}
        settings["structure"] = [{"color": color, "keepOrientation": True}]
    return settings
