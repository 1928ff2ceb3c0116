"""Molecules whose atoms carry the color of their values, seen along a principal axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.colors import Floats, Scale, Several
from ase_xai.report.sheets import columns_for, draw_bar, sheet
from ase_xai.report.training import GRAY, INK, MEDIUM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOND_REACH = 1.2  # a bond is a distance below this times the sum of covalent radii
BOND_COLOR, BOND_WIDTH = "#8C8C8C", 0.16  # Å
MARGIN = 0.6  # Å around the atoms
TILTS = np.radians([-24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0])
MAX_TILTED, MAX_NUMBERED = 200, 40  # atoms
WIDTH = 11.0  # inches, of a gallery


@dataclass(frozen=True, eq=False)
class View:
    """A parallel projection: x to the right, y up, z towards the reader.

    Args:
        axes: (3, 3) orthonormal rows, in this order.
        center: (3,) Å, what is projected to the origin.
    """

    axes: Floats
    center: Floats

    def __call__(self, points: Floats) -> Floats:
        """(n, 3) Å of points (n, 3) Å."""
        return np.asarray((points - self.center) @ self.axes.T)

    @property
    def behind(self) -> View:
        """The same from behind, turned about the vertical."""
        return View(self.axes * [[-1.0], [1.0], [-1.0]], self.center)


def principal_view(numbers: NDArray[np.int64], positions: Floats) -> View:
    """Along the shortest principal axis, the longest to the right, tilted a little where atoms would hide each other."""
    center = positions.mean(axis=0) if len(positions) else np.zeros(3)
    axes = np.linalg.svd(positions - center, full_matrices=True)[2] if len(positions) else np.eye(3)
    for axis in axes[:2]:  # a sign that does not depend on the linear algebra library
        along = np.round((positions - center) @ axis, 6)
        extreme = along[np.abs(along).argmax()] if len(along) else 0.0
        axis *= -1.0 if extreme < 0 or (extreme == 0 and axis[np.abs(axis).argmax()] < 0) else 1.0
    axes[2] = np.cross(axes[0], axes[1])
    if not 2 < len(positions) <= MAX_TILTED:
        return View(axes, center)
    views = [View(_tilt(x, y) @ axes, center) for x, y in product(TILTS, TILTS)]
    effort = [np.hypot(x, y) for x, y in product(TILTS, TILTS)]
    hidden = [_hidden_area(view(positions), radii_of(numbers)) for view in views]
    return views[int(np.argmin(np.round(np.array(hidden) + 0.1 * np.array(effort), 6)))]


def _tilt(about_x: float, about_y: float) -> Floats:
    cx, sx, cy, sy = np.cos(about_x), np.sin(about_x), np.cos(about_y), np.sin(about_y)
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def _hidden_area(projected: Floats, radii: Floats) -> float:
    """How far circles overlap: sum of squared overlaps of their radii, Å²."""
    apart = np.linalg.norm(projected[:, None, :2] - projected[None, :, :2], axis=2)
    overlap = np.maximum(0.0, radii[:, None] + radii[None] - apart)
    np.fill_diagonal(overlap, 0.0)
    return float((overlap**2).sum() / 2)


def radii_of(numbers: NDArray[np.int64]) -> Floats:
    """(N,) Å of the circles that stand for atoms: smaller than the atoms, so that bonds show."""
    return 0.22 + 0.28 * covalent_radii[numbers]


def bonds_of(numbers: NDArray[np.int64], positions: Floats) -> NDArray[np.int64]:
    """(K, 2) pairs of atoms closer than 1.2 times the sum of their covalent radii; images in other cells do not count."""
    reach = BOND_REACH * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
    close = np.linalg.norm(positions[:, None] - positions[None], axis=2) < reach
    return np.argwhere(np.triu(close, 1))


def molecule(explanation: Explanation, *, numbered: bool | None = None, scale: Scale | None = None) -> Figure:
    """A molecule colored by its atomic values, and once more by their uncertainty where there is one.

    Args:
        explanation: of level "atom", one number an atom.
        numbered: whether to write the index of each atom; None does so up to 40 atoms.
        scale: colors of the values, e.g. those of a whole run; None takes them from this explanation.

    Raises:
        ValueError: not drawable, see `ase_xai.report.colors.together`.
    """
    (record,) = colors.together(explanation, "atom")
    shows = [show for show in colors.SHOWN if show == "values" or record.uncertainty is not None]
    scales = [colors.shared_scale(record, show) for show in shows]
    scales[0] = scales[0] if scale is None else scale
    view = fitted_view(record)
    lines = colors.legend(record, *(scale.words for scale in scales))
    extents = np.repeat(half_extent(record, view)[None], len(shows), axis=0)
    page = sheet(extents, lines, n_columns=len(shows), width=4.0 + 4.0 * len(shows), bar_each=True)
    numbered = len(record.numbers) <= MAX_NUMBERED if numbered is None else numbered
    for axes, bar, show, colored in zip(page.panels, page.bars, shows, scales, strict=True):
        draw_molecule(axes, record, view, colored, page.inch, show=show, numbered=numbered)
        draw_bar(bar, colored, colors.quantity(record, show))
    page.panels[0].set_title(colors.formula(record), fontsize=MEDIUM, color=INK, pad=3)
    return page.figure


def gallery(explanations: Several, *, n_columns: int | None = None) -> Figure:
    """Molecules side by side, all on one scale of colors and one scale of lengths.

    Args:
        explanations: of level "atom", one number an atom; a mapping gives the titles, else they are formulas.
        n_columns: None chooses.

    Raises:
        ValueError: not drawable together, see `ase_xai.report.colors.together`.
    """
    records = colors.together(explanations, "atom")
    scale = colors.shared_scale(explanations)
    views = [fitted_view(record) for record in records]
    extents = np.array([half_extent(record, view) for record, view in zip(records, views, strict=True)])
    spread = ["1σ in titles: median over the atoms."] if any(map(colors.trusted_spread, records)) else []
    lines = colors.legend(records, scale.words, *spread)
    page = sheet(extents, lines, n_columns=n_columns or columns_for(len(records)), width=WIDTH, bar_each=False)
    draw_bar(page.bars[0], scale, colors.quantity(records[0]))
    for axes, title, record, view in zip(page.panels, colors.named(explanations), records, views, strict=True):
        draw_molecule(axes, record, view, scale, page.inch)
        axes.set_title(title + colors.trusted_spread(record), fontsize=MEDIUM, color=INK, pad=3)
    return page.figure


def fitted_view(record: Explanation) -> View:
    """The principal view of the atoms, moved so that what is drawn lies about the origin."""
    view = principal_view(record.numbers, record.positions)
    corners = _drawn(record, view)
    return View(view.axes, view.center + (corners.min(axis=0) + corners.max(axis=0)) / 2 @ view.axes[:2])


def half_extent(record: Explanation, view: View) -> Floats:
    """(2,) Å from the middle of the drawing to its edges."""
    return np.asarray(np.abs(_drawn(record, view)).max(axis=0) + MARGIN)


def _drawn(record: Explanation, view: View) -> Floats:
    """(n, 2) Å of atoms, and of the corners of a periodic cell."""
    points = np.concatenate([record.positions, _cell_corners(record)]) if record.pbc.any() else record.positions
    return view(points)[:, :2] if len(points) else np.zeros((1, 2))


def draw_molecule(
    axes: Axes, record: Explanation, view: View, scale: Scale, inch: float, *, show: str = "values", numbered: bool = False
) -> None:
    """Atoms in the colors of `scale`, bonds, and the cell if there is one; `inch` is the length of one Å."""
    numbers = colors.shown_numbers(colors.scalars(record), show)
    draw_cell(axes, record, view)
    draw_atoms(axes, record, view, scale.colors(numbers, colors.trusted_rows(record)), inch, numbered)


def draw_atoms(axes: Axes, record: Explanation, view: View, fills: Floats, inch: float, numbered: bool) -> None:
    """Circles and bonds, from back to front, with symbols; `inch` is the length of one Å."""
    from matplotlib.patches import Circle, Polygon
    from matplotlib.patheffects import withStroke

    projected, radii, trusted = view(record.positions), radii_of(record.numbers), colors.trusted_rows(record)
    symbols = symbol_sizes(record.numbers, inch)
    for i, j in bonds_of(record.numbers, record.positions):
        corners = _bar_between(projected[i, :2], projected[j, :2], BOND_WIDTH)
        depth = 2 + min(projected[i, 2], projected[j, 2]) * 1e-3
        axes.add_patch(Polygon(corners, facecolor=BOND_COLOR, edgecolor="white", linewidth=0.4, zorder=depth))
    for i, (x, y, z) in enumerate(projected):
        depth = 2 + z * 1e-3 + 1e-6
        hatch = None if trusted[i] else colors.HATCH
        circle = Circle((x, y), radii[i], facecolor=fills[i], edgecolor=INK, linewidth=0.6, hatch=hatch, zorder=depth)
        axes.add_patch(circle)
        symbol, points = symbols[i]
        text, points = (f"{symbol}$_{{{i}}}$", 0.83 * points) if numbered else (symbol, points)
        about: dict[str, Any] = {"ha": "center", "va": "center_baseline", "clip_on": False}
        if not trusted[i]:  # hatching would cross the letters
            about["path_effects"] = [withStroke(linewidth=2.5, foreground=colors.UNTRUSTED)]
        axes.text(x, y, text, fontsize=points, color=colors.ink_on(fills[i]), zorder=depth + 1e-7, **about)


def symbol_sizes(numbers: NDArray[np.int64], inch: float) -> list[tuple[str, float]]:
    """Symbol of each atom and the size of type, in points, that fills its circle; `inch` is the length of one Å."""
    symbols = [chemical_symbols[z] for z in numbers]
    sizes = 72 * inch * radii_of(numbers) * [0.92 if len(symbol) > 1 else 1.15 for symbol in symbols]
    return list(zip(symbols, sizes.tolist(), strict=True))


def _bar_between(start: Floats, end: Floats, width: float) -> Floats:
    """(4, 2) corners of a bar; of no width where it points towards the reader."""
    along = end - start
    across = np.array([-along[1], along[0]]) * width / 2 / max(float(np.linalg.norm(along)), 1e-9)
    return np.array([start + across, end + across, end - across, start - across])


def _cell_corners(record: Explanation) -> Floats:
    return np.array(list(product((0.0, 1.0), repeat=3))) @ record.cell


def cell_edges(record: Explanation) -> Floats:
    """(12, 2, 3) Å ends of the edges of the cell of a periodic system; none of another."""
    if not record.pbc.any():
        return np.zeros((0, 2, 3))
    corners = _cell_corners(record)
    return np.array([corners[[a, a | bit]] for a in range(8) for bit in (1, 2, 4) if not a & bit])


def draw_cell(axes: Axes, record: Explanation, view: View) -> None:
    """The twelve edges of the cell of a periodic system."""
    for edge in cell_edges(record):
        axes.plot(*view(edge)[:, :2].T, color=GRAY, linewidth=0.6, zorder=1)
