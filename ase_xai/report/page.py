"""One colored molecule, surface or cloud of points as a self-contained HTML page that can be turned in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.colors import Floats, Scale
from ase_xai.report.molecules import bonds_of, cell_edges, molecule, principal_view
from ase_xai.report.surfaces import probe_surfaces

ASSETS = Path(__file__).parent / "assets"
MAX_POINTS = 60_000  # 3Dmol.js mixes up the colors of a mesh from 64,000 on
PNG_DPI = 110


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
    if len(record.values) > MAX_POINTS:
        raise ValueError(
            f"{len(record.values):,} points are more than the {MAX_POINTS:,} that the viewer colors correctly. Take a wider "
            "spacing."
        )
    shows = [show for show in colors.SHOWN if show == "values" or record.uncertainty is not None]
    scales = {show: colors.shared_scale(record, show) for show in shows}
    formula = record.atoms.get_chemical_formula()
    title = f"{record.target} of {formula} by {record.level}"
    facts = [*colors.legend(record, *(scale.words for scale in scales.values())), *record.notes]
    parts = {
        "TITLE": escape(title),
        "HEADING": escape(title).replace(formula, re.sub(r"(\d+)", r"<sub>\1</sub>", formula), 1),
        "ALT": escape(f"{title}: {colors.quantity(record)}"),
        "PNG": _png(record),
        "QUANTITY": escape(colors.quantity(record)),
        "FACTS": "".join(f"<li>{escape(fact)}</li>" for fact in facts),
        "LICENSE": escape(_asset("3Dmol-LICENSE.txt")),
        "DATA": _json(page_data(record, scales)),
        "LIBRARY": _script(_asset("3Dmol-min.js")),
        "PROGRAM": _script(_asset("page.js")),
    }
    text = _asset("page.html")
    pieces = re.split(r"@([A-Z]+)@", text)  # every second piece is a name; the parts themselves are never searched
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def page_data(record: Explanation, scales: dict[str, Scale]) -> dict[str, Any]:
    """What the page draws: atoms, points, triangles, and for each of `scales` the numbers with their colors."""
    view = principal_view(record.numbers, record.positions)
    edges = cell_edges(record)
    return {
        "level": record.level,
        "names": colors.atom_names(record),
        "symbols": [chemical_symbols[z] for z in record.numbers],
        "positions": _rounded(record.positions, 4),
        "bonds": bonds_of(record.numbers, record.positions).tolist(),
        "cell": _rounded(edges, 4),
        "turn": _quaternion(view.axes),
        "points": None if record.points is None else _rounded(record.points, 3),
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
        "low": scale.low,
        "high": scale.high,
        "logarithmic": scale.logarithmic,
        "colored": scale.n_values,
        "beyond": scale.n_beyond,
        "table": base64.b64encode(scale.table.tobytes()).decode("ascii"),
    }


def _quaternion(axes: Floats) -> list[float]:
    """x, y, z, w of the rotation whose matrix is `axes`."""
    values, vectors = np.linalg.eigh(_quaternion_matrix(axes))
    return [float(part) for part in vectors[:, np.argmax(values)]]


def _quaternion_matrix(r: Floats) -> Floats:
    """Symmetric matrix whose eigenvector of largest eigenvalue is the quaternion (Bar-Itzhack, doi 10.2514/2.4654)."""
    skew = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = r + r.T - np.eye(3) * np.trace(r)
    matrix[:3, 3] = matrix[3, :3] = skew
    matrix[3, 3] = np.trace(r)
    return matrix / 3.0


def _png(record: Explanation) -> str:
    figure = molecule(record) if record.level == "atom" else probe_surfaces(record)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PNG_DPI)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _script(code: str) -> str:
    """Code as it may stand between script tags."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _json(data: dict[str, Any]) -> str:
    """JSON as it may stand between script tags."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rounded(array: Floats, digits: int) -> list[Any]:
    return list(np.round(array, digits).tolist())
