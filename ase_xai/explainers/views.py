"""Explanations as tables: pandas, xarray, HTML for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from ase_xai.explainers.explanation import Explanation

if TYPE_CHECKING:
    import pandas
    import xarray

SHOWN_ROWS = 30


def names(explanation: Explanation) -> list[str]:
    """What each row belongs to, in words: "C0", "C0-H3", "methyl", "(0.00, 1.20, 0.00)"."""
    atoms = [f"{chemical_symbols[z]}{i}" for i, z in enumerate(explanation.numbers)]
    if explanation.level == "atom":
        return atoms
    if explanation.index is not None:
        return ["-".join(atoms[i] for i in row if i >= 0) for row in explanation.index]
    if explanation.points is not None:
        return [f"({x:.2f}, {y:.2f}, {z:.2f})" for x, y, z in explanation.points]
    return list(explanation.labels)


def columns(explanation: Explanation) -> dict[str, Any]:
    """Values (and uncertainty, mask) by column title, unit included; further axes become columns."""
    found: dict[str, Any] = {}
    for title, array in ((explanation.target, explanation.values), ("uncertainty", explanation.uncertainty)):
        if array is None:
            continue
        for place in np.ndindex(array.shape[1:]):
            suffix = "".join(f" {axis}" for axis in place)
            found[f"{title}{suffix} ({explanation.units})"] = array[(slice(None), *place)]
    if explanation.mask is not None:
        found["trusted"] = explanation.mask
    return found


def table(explanation: Explanation) -> pandas.DataFrame:
    """One row per row of the values, indexed by its name."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas. Install the extra: pip install 'ase-xai[analysis]'.") from error
    frame = pandas.DataFrame(columns(explanation), index=pandas.Index(names(explanation), name=explanation.level))
    frame.attrs.update(about(explanation))
    return frame


def labeled(explanation: Explanation) -> xarray.DataArray:
    """The values as a DataArray whose first dimension is the level."""
    try:
        import xarray
    except ImportError as error:
        raise ImportError("labeled arrays need xarray. Install the extra: pip install 'ase-xai[analysis]'.") from error
    further = [f"axis_{number}" for number in range(1, explanation.values.ndim)]
    return xarray.DataArray(
        explanation.values,
        dims=[explanation.level, *further],
        coords={explanation.level: names(explanation)},
        name=explanation.target,
        attrs=about(explanation),
    )


def about(explanation: Explanation) -> dict[str, str]:
    """What belongs beside the numbers, in words."""
    facts = {
        "method": explanation.method,
        "units": explanation.units,
        "reference": explanation.reference,
        "gauge": explanation.gauge,
        "residual": "not claimed" if explanation.residual is None else f"{explanation.residual:.3g} {explanation.units}",
        "model": f"{explanation.model} ({explanation.model_id[:12]})",
    }
    return {**facts, **{f"note {number}": note for number, note in enumerate(explanation.notes, start=1)}}


def html(explanation: Explanation) -> str:
    """A heading with the facts and a table of the first rows."""
    data, rows = columns(explanation), names(explanation)
    heads = "".join(f"<th>{escape(title)}</th>" for title in (explanation.level, *data))
    body = []
    for number, name in enumerate(rows[:SHOWN_ROWS]):
        cells = "".join(f"<td>{cell(values[number])}</td>" for values in data.values())
        body.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    more = f"<p>{len(rows) - SHOWN_ROWS} more rows</p>" if len(rows) > SHOWN_ROWS else ""
    facts = "".join(f"<li>{escape(key)}: {escape(text)}</li>" for key, text in about(explanation).items())
    formula = escape(explanation.atoms.get_chemical_formula())
    return (
        f"<div><b>{escape(explanation.target)} of {formula} by {escape(explanation.level)}</b><ul>{facts}</ul>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>{more}</div>"
    )


def cell(value: Any) -> str:
    """A number or truth as tables show it."""
    return str(bool(value)) if isinstance(value, np.bool_) else f"{value:.4f}"
