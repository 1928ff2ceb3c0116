"""Columns as they stand in files, made a `StructureSet` in ASE's units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.training.columns import Columns
from ase_xai.training.data import LABELS, StructureSet

GEOMETRY = ("n_atoms", "Z", "R")
OPTIONAL = ("cell", "pbc", "total_charge")
DTYPES: dict[str, type] = {"energy": np.float64, "stress": np.float64}  # labels otherwise float32
VOIGT = (0, 4, 8, 5, 2, 1)  # xx yy zz yz xz xy among nine components


def needed(present: Iterable[str], columns: Columns) -> list[str]:
    """Which of the columns that are there must be read.

    Raises:
        ValueError: the geometry is incomplete, or a column that was named is not there.
    """
    present = list(present)
    missing = [name for name in GEOMETRY if name not in present]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}. Needed are n_atoms (S,), Z (ΣN,) and R (ΣN, 3).")
    return list(dict.fromkeys([*GEOMETRY, *set(OPTIONAL).intersection(present), *columns.wanted(present).values()]))


def ragged_set(arrays: Mapping[str, NDArray[Any]], stored: Mapping[str, str], columns: Columns) -> StructureSet:
    """A set from ragged columns; `stored` holds units that the file states.

    Raises:
        ValueError: shapes do not fit, numbers are no integers, or a unit is not known.
    """
    n_atoms, numbers = integers("n_atoms", arrays["n_atoms"], 1, 10**6), integers("Z", arrays["Z"], 1, 118)
    if len(numbers) != n_atoms.sum():
        raise ValueError(f"Z has {len(numbers)} rows, but n_atoms adds up to {n_atoms.sum()}.")
    if not len(n_atoms):
        raise ValueError("holds no structures.")
    length = columns.factor("length", "R", stored.get("R"), "angstrom")
    values: dict[str, Any] = {
        "numbers": numbers,
        "offsets": np.concatenate([[0], np.cumsum(n_atoms)]),
        "positions": length * arrays["R"].astype(np.float64),
    }
    if "cell" in arrays:
        scale = columns.factor("length", "cell", stored.get("cell", stored.get("R")), "angstrom")
        values["cell"] = scale * arrays["cell"].astype(np.float64)
        values["pbc"] = np.asarray(arrays["pbc"], bool) if "pbc" in arrays else values["cell"].any(axis=-1)
    elif "pbc" in arrays and arrays["pbc"].any():
        raise ValueError("has pbc, but no cell. Give cell (S, 3, 3).")
    if "total_charge" in arrays:
        values["total_charge"] = arrays["total_charge"].astype(np.float64)
    for quantity, name in columns.wanted(arrays).items():
        if quantity in LABELS:
            scale = columns.factor(quantity, name, stored.get(name))
            values[quantity] = converted(quantity, scale, arrays[name])
            if columns.per_atom(quantity, name, stored.get(name)):
                values[quantity] = values[quantity] * n_atoms
        else:
            values[quantity] = integers(name, arrays[name], 0, 2**62)
    return labeled_set(values, columns)


def converted(label: str, scale: float, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a label in ASE's unit and in the precision kept; stress tensors (S, 3, 3) or (S, 9) in Voigt's order."""
    values = scale * values.astype(np.float64)
    if label == "stress" and values.shape[1:] in ((3, 3), (9,)):
        tensors = values.reshape(-1, 3, 3)
        values = (0.5 * (tensors + tensors.transpose(0, 2, 1))).reshape(-1, 9)[:, VOIGT]
    return values.astype(DTYPES.get(label, np.float32))


def integers(name: str, array: NDArray[Any], low: int, high: int) -> NDArray[np.int64]:
    """The array as int64, if it is a row of integers from `low` to `high`."""
    if array.dtype.kind not in "iuf" or array.ndim != 1:
        raise ValueError(f"{name} must be a row of integers, got shape {array.shape} of {array.dtype}.")
    bad = np.flatnonzero(~((array >= low) & (array <= high) & (array == np.floor(array))))
    if len(bad):
        raise ValueError(f"{name} is {array[bad[0]]} in row {bad[0]}, not an integer from {low} to {high}.")
    return array.astype(np.int64)


def numeric(name: str, array: Any) -> NDArray[Any]:
    """The array, if it holds real numbers; only pbc may hold truth values."""
    array = np.asarray(array)
    if array.dtype.kind not in ("iufb" if name == "pbc" else "iuf"):
        raise ValueError(f"{name} holds {array.dtype}, not numbers.")
    return array


def labeled_set(values: Mapping[str, Any], columns: Columns) -> StructureSet:
    """A set of these arrays, if all kinds have names."""
    kind = values.get("kind")
    if kind is not None and int(kind.max(initial=0)) >= len(columns.kind_names):
        raise ValueError(f"{columns.kind} reaches {kind.max()}, but there are {len(columns.kind_names)} kind_names.")
    return StructureSet(**values, kind_names=columns.kind_names)
