"""Assembly of self-contained HTML pages: the parts of a template, and text as it may stand inside a page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_xai.report.colors import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parent / "assets"
PNG_DPI = 110
PART = re.compile(r"@([A-Z]+)@")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The text of an asset with @NAME@ replaced by the part of that name; the parts themselves are never searched."""
    pieces = PART.split(asset(template))
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """The code of some assets as it may stand between script tags."""
    code = "\n".join(asset(name) for name in names)
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def json_text(data: Mapping[str, Any]) -> str:
    """JSON as it may stand between script tags."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def png_text(figure: Figure) -> str:
    """A figure as a PNG picture in base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PNG_DPI)
    return base64.b64encode(file.getvalue()).decode("ascii")


def with_subscripts(text: str, formula: str) -> str:
    """`text` escaped for HTML, with the numbers of the chemical `formula` in it lowered."""
    return escape(text).replace(formula, re.sub(r"(\d+)", r"<sub>\1</sub>", formula), 1)


def quaternion(axes: Floats) -> list[float]:
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


def rounded(array: Floats, digits: int) -> list[Any]:
    return list(np.round(array, digits).tolist())
