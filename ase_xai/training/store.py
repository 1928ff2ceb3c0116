"""A folder of plain arrays that is mapped, not read: for sets larger than memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ase_xai.files import write_atomically
from ase_xai.training.data import LABELS, StructureSet

MANIFEST = "structures.json"
ARRAYS = ("numbers", "positions", "n_atoms", "cell", "pbc", "total_charge", *LABELS, "group", "kind")


def is_store(folder: str | Path) -> bool:
    """Whether the folder holds a finished store."""
    return (Path(folder) / MANIFEST).is_file()


def write_store(folder: str | Path, portions: Iterable[StructureSet]) -> StructureSet:
    """Append portions of structures to one binary file per array, and open the result.

    The manifest is written last: a folder without one is an unfinished store and is refused.

    Args:
        folder: new or empty.
        portions: e.g. `ase_xai.training.readers.chunks(...)`; all with the same labels.

    Raises:
        ValueError: the folder is in use, or portions differ in their labels.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty. Give a new folder for the store.")
    about: dict[str, Any] = {}
    for number, portion in enumerate(portions):
        arrays = {name: getattr(portion, name) for name in ARRAYS}
        present = {name: array for name, array in arrays.items() if array is not None}
        if about and (set(about["arrays"]) != set(present) or about["kind_names"] != list(portion.kind_names)):
            differing = sorted(set(about["arrays"]) ^ set(present)) or ["kind_names"]
            raise ValueError(f"portion {number} differs from the ones before in {', '.join(differing)}. Store them apart.")
        if not about:
            about = {"arrays": {}, "kind_names": list(portion.kind_names)}
            for name, array in present.items():
                about["arrays"][name] = {"dtype": array.dtype.str, "shape": [0, *array.shape[1:]]}
        for name, array in present.items():
            about["arrays"][name]["shape"][0] += len(array)
            with (folder / f"{name}.bin").open("ab") as file:
                file.write(np.ascontiguousarray(array, dtype=about["arrays"][name]["dtype"]).data)
    if not about:
        raise ValueError(f"there are no structures to store in {folder}.")
    write_atomically(folder / MANIFEST, json.dumps(about, indent=1).encode())
    return open_store(folder)


def open_store(folder: str | Path) -> StructureSet:
    """The structures of a store, memory-mapped read-only.

    Raises:
        ValueError: no store, an unfinished or a damaged one.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / MANIFEST).read_text())
        arrays: dict[str, Any] = {}
        for name in sorted(set(about["arrays"]) & set(ARRAYS)):
            kind, shape = np.dtype(str(about["arrays"][name]["dtype"])), tuple(map(int, about["arrays"][name]["shape"]))
            if kind.kind not in "iufb":
                raise ValueError(f"{name} claims to hold {kind}")
            size, expected = (folder / f"{name}.bin").stat().st_size, math.prod(shape) * kind.itemsize
            if size != expected:
                raise ValueError(f"{name}.bin has {size} bytes instead of {expected}")
            arrays[name] = np.memmap(folder / f"{name}.bin", dtype=kind, mode="r", shape=shape)
        n_atoms = arrays.pop("n_atoms")
        offsets = np.concatenate([[0], np.cumsum(n_atoms, dtype=np.int64)])
        return StructureSet(**arrays, offsets=offsets, kind_names=tuple(about["kind_names"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no finished store: {error}. Write it again with write_store.") from error
