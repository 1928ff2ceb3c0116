"""Runs as labeled arrays and tables (extra `analysis`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_xai.trajectory.field import Field
from ase_xai.trajectory.layout import MAIN

if TYPE_CHECKING:
    import pandas
    import xarray

    from ase_xai.trajectory.run import Run

XYZ = ["x", "y", "z"]


def labeled(run: Run, fields: Sequence[str] | None = None, chunks: Any = None) -> xarray.Dataset:
    """Fields over time, atom (with its element and group), group and direction; a stride of its own gives `time_<field>`.

    Args:
        run: any.
        fields: names; None takes all, and positions.
        chunks: of Dask arrays, which read when computed (extra `dask`); None reads everything now.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError("labeled arrays need xarray. Install the extra: pip install 'ase-xai[analysis]'.") from error
    names = [*run.fields, *(["positions"] if run.has_positions else [])] if fields is None else list(fields)
    group_of = {atom: name for name, members in run.groups.items() for atom in members}
    coordinates: dict[str, Any] = {
        "time": ("time", run.times, {"units": run.time_unit}),
        "step": ("time", run.steps),
        "atom": np.arange(run.n_atoms),
        "element": ("atom", run.symbols),
        "group_of_atom": ("atom", [group_of.get(i, "") for i in range(run.n_atoms)]),
    }
    arrays = {}
    for name in names:
        field = run[name]
        dimensions = _dimensions(field, name)
        if dimensions[0] != "time":
            coordinates[dimensions[0]] = (dimensions[0], field.times, {"units": run.time_unit})
        if field.level == "group":
            coordinates["group"] = list(field.labels)
        about = {key: getattr(field, key) for key in ("units", "reference", "gauge", "method")}
        arrays[name] = (dimensions, field[...] if chunks is None else _lazy(field, chunks), about)
    facts = {"model": run.about.model, "model_id": run.about.model_id, "source": str(run.path or "memory")}
    return xarray.Dataset(arrays, coordinates, facts)


def _dimensions(field: Field, name: str) -> list[str]:
    own = field.spec.shape
    first = "time" if field.spec.track == MAIN else f"time_{name}"
    rows = [field.level] if field.level in ("atom", "group") else [f"{name}_row"] if field.level != "frame" else []
    further = own[len(rows) :]
    if further == (3,):
        return [first, *rows, "direction"]
    if field.level == "group" and further == (field.run.n_atoms,):
        return [first, *rows, "atom"]
    return [first, *rows, *(f"{name}_axis_{k}" for k in range(len(further)))]


def _lazy(field: Field, chunks: Any) -> Any:
    try:
        import dask.array
    except ImportError as error:
        raise ImportError("arrays in chunks need dask. Install the extra: pip install 'ase-xai[dask]'.") from error
    return dask.array.from_array(field, chunks=chunks)


def table(run: Run, name: str | None = None) -> pandas.DataFrame:
    """One row per frame, indexed by time, units in the titles.

    Args:
        run: any.
        name: of a field, whose atoms, groups or components become columns; None takes everything that is one number per
            frame, dipole components and sums over groups.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas. Install the extra: pip install 'ase-xai[analysis]'.") from error
    several = [n for n in run.fields if run[n].spec.track == MAIN and (run[n].level == "frame" or n.startswith("group_"))]
    fields = [run[n] for n in (several if name is None else [name])]
    columns = {title: values for field in fields for title, values in _columns(field)}
    index = pandas.Index(fields[0].times, name=f"time ({run.time_unit})")
    found = pandas.DataFrame(columns, index=index)
    found.attrs.update(model=run.about.model, model_id=run.about.model_id)
    return found


def _columns(field: Field) -> list[tuple[str, Any]]:
    """Title and values of each column of a field."""
    values = field[...]
    atoms = [f"{symbol}{i}" for i, symbol in enumerate(field.run.symbols)]
    rows = {"atom": atoms, "group": list(field.labels)}.get(field.level, [])
    found = []
    for place in np.ndindex(values.shape[1:]):
        words = [
            rows[place[0]] if rows else "",
            *(XYZ[k] if n == 3 else str(k) for k, n in _axes(values, place, bool(rows))),
        ]
        title = " ".join(word for word in (field.name, *words) if word)
        found.append((f"{title} ({field.units})", values[(slice(None), *place)]))
    return found


def _axes(values: Any, place: tuple[int, ...], named: bool) -> list[tuple[int, int]]:
    """Index and length of each axis of a row, without the first if that has names."""
    pairs = list(zip(place, values.shape[1:], strict=True))
    return pairs[1:] if named else pairs
