"""One colored molecule, surface or cloud of points as a self-contained HTML page that can be turned in a browser."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import assembly, colors
from ase_xai.report.assembly import rounded
from ase_xai.report.colors import Scale
from ase_xai.report.molecules import bonds_of, cell_edges, molecule, principal_view
from ase_xai.report.surfaces import probe_surfaces

MAX_POINTS = 60_000  # 3Dmol.js mixes up the colors of a mesh from 64,000 on


def write_page(explanation: Explanation, path: str | Path) -> None:
    """Write an explanation as one HTML file that shows it with 3Dmol.js, needs no network, and works without WebGL too.

    It can be turned; a click on an atom shows its value, or what a surface says near it. The colors are those of the
    figures. Where the browser has no WebGL, the page shows the figure as a picture and says why.

    Args:
        explanation: of level "atom", "surface" or "points", one number a row.
        path: of the file, which is overwritten.

    Raises:
        ValueError: not drawable, see `ase_xai.report.colors.together`; more than 60,000 points.
    """
    Path(path).write_text(page(explanation), encoding="utf-8")


def page(explanation: Explanation) -> str:
    """The text of the page that `write_page` writes."""
    (record,) = colors.together(colors.scalars(explanation), "atom", "surface", "points")
    refuse_large(record)
    shows = [show for show in colors.SHOWN if show == "values" or record.uncertainty is not None]
    scales = {show: colors.shared_scale(record, show) for show in shows}
    formula = record.atoms.get_chemical_formula()
    title = f"{record.target} of {formula} by {record.level}"
    facts = [*colors.legend(record, *(scale.words for scale in scales.values())), *record.notes]
    figure = molecule(record) if record.level == "atom" else probe_surfaces(record)
    parts = {
        "TITLE": escape(title),
        "HEADING": assembly.with_subscripts(title, formula),
        "ALT": escape(f"{title}: {colors.quantity(record)}"),
        "PNG": assembly.png_text(figure),
        "QUANTITY": escape(colors.quantity(record)),
        "FACTS": "".join(f"<li>{escape(fact)}</li>" for fact in facts),
        "LICENSE": escape(assembly.asset("3Dmol-LICENSE.txt")),
        "DATA": assembly.json_text(page_data(record, scales)),
        "LIBRARY": assembly.script("3Dmol-min.js"),
        "PROGRAM": assembly.script("shared.js", "page.js"),
    }
    return assembly.filled("page.html", parts)


def refuse_large(record: Explanation) -> None:
    """Raise ValueError for more points than a page can color."""
    if len(record.values) > MAX_POINTS:
        raise ValueError(
            f"{len(record.values):,} points are more than the {MAX_POINTS:,} that the viewer colors correctly. Take a wider "
            "spacing."
        )


def page_data(record: Explanation, scales: dict[str, Scale]) -> dict[str, Any]:
    """What the page draws: atoms, points, triangles, and for each of `scales` the numbers with their colors."""
    view = principal_view(record.numbers, record.positions)
    return {
        "level": record.level,
        "names": colors.atom_names(record),
        "symbols": [chemical_symbols[z] for z in record.numbers],
        "positions": rounded(record.positions, 4),
        "bonds": bonds_of(record.numbers, record.positions).tolist(),
        "cell": rounded(cell_edges(record), 4),
        "turn": assembly.quaternion(view.axes),
        "points": None if record.points is None else rounded(record.points, 3),
        "faces": None if record.faces is None else record.faces.tolist(),
        "fields": [_field(record, show, scale) for show, scale in scales.items()],
    }


def _field(record: Explanation, show: str, scale: Scale) -> dict[str, Any]:
    numbers = colors.shown_numbers(record, show)
    return {
        "name": colors.quantity(record, show),
        "units": record.units,
        "values": [float(f"{value:.7g}") if np.isfinite(value) else None for value in numbers],
        "trusted": colors.trusted_rows(record).tolist(),
        **scale_data(scale),
    }


def scale_data(scale: Scale) -> dict[str, Any]:
    """What a page needs to color numbers as `Scale.colors` does."""
    return {
        "low": scale.low,
        "high": scale.high,
        "logarithmic": scale.logarithmic,
        "colored": scale.n_values,
        "beyond": scale.n_beyond,
        "table": base64.b64encode(scale.table.tobytes()).decode("ascii"),
    }
