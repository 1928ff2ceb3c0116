"""Explanations as files: JSON, or HDF5 with a JSON header. Lossless, never executed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ase_xai.explainers.explanation import ARRAYS, Explanation
from ase_xai.files import write_atomically

SCHEMA = "ase_xai explanation 1"
HDF5 = (".h5", ".hdf5")


def save(explanation: Explanation, path: str | Path) -> None:
    """Write `explanation` to .h5, .hdf5 or .json, atomically.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    arrays = {name: getattr(explanation, name) for name in ARRAYS if getattr(explanation, name) is not None}
    arrays |= {f"baselines/{name}": values for name, values in explanation.baselines.items()}
    header = {"schema": SCHEMA, **_header(explanation)}
    if path.suffix == ".json":
        text = json.dumps({**header, "arrays": {name: values.tolist() for name, values in arrays.items()}}, allow_nan=True)
        write_atomically(path, text.encode())
    elif path.suffix in HDF5:
        write_atomically(path, _hdf5(header, arrays))
    else:
        raise ValueError(f"an explanation is saved as .h5, .hdf5 or .json, got {path.name!r}.")


def load(path: str | Path) -> Explanation:
    """Read an explanation.

    Raises:
        ValueError: not a readable explanation, or one of another version.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    try:
        header, arrays = _from_hdf5(path) if path.suffix in HDF5 else _from_json(path)
        if header.pop("schema", None) != SCHEMA:
            raise ValueError(f"it is no explanation of schema {SCHEMA!r}")
        baselines = {name.removeprefix("baselines/"): v for name, v in arrays.items() if name.startswith("baselines/")}
        own = {name: values for name, values in arrays.items() if not name.startswith("baselines/")}
        own["positions"] = np.reshape(own["positions"], (-1, 3))  # JSON does not keep the shape of nothing
        unknown = (set(header) | set(own)) - {f.name for f in fields(Explanation)}
        if unknown:
            raise ValueError(f"it has unknown entries {sorted(unknown)}")
        shape = header.pop("grid_shape")
        header |= {"labels": tuple(header["labels"]), "notes": tuple(header["notes"])}
        return Explanation(**header, **own, baselines=baselines, grid_shape=None if shape is None else tuple(shape))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as an explanation: {error}.") from error


def _header(explanation: Explanation) -> dict[str, Any]:
    names = [f.name for f in fields(Explanation) if f.name not in (*ARRAYS, "baselines")]
    header = {name: getattr(explanation, name) for name in names}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in header.items()}


def _hdf5(header: dict[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["header"] = json.dumps(header)
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return buffer.getvalue()


def _from_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import h5py

    try:
        file = h5py.File(io.BytesIO(path.read_bytes()), "r")
    except OSError as error:
        if not path.is_file():
            raise
        raise ValueError(f"it is no HDF5 file, or a damaged one ({error})") from error
    with file:
        arrays = {name: file[name][()] for name in file if name != "baselines"}
        if "baselines" in file:
            arrays |= {f"baselines/{name}": file["baselines"][name][()] for name in file["baselines"]}
        return json.loads(file.attrs["header"]), arrays


def _from_json(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or not isinstance(content.get("arrays"), dict):
        raise ValueError("it holds no table with arrays")
    return content, content.pop("arrays")
