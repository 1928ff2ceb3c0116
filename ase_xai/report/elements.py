"""Elements as a network sees them: components of their vectors, and maps on the periodic table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from ase_xai.explainers.explanation import Explanation
from ase_xai.periodic_table import F_BLOCK, place_in_table
from ase_xai.report import colors
from ase_xai.report.colors import Floats
from ase_xai.report.sheets import chart, draw_bar, style
from ase_xai.report.training import GRAY, INK, MEDIUM, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCK_COLORS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7")
BLOCK_NAMES = ("hydrogen", "groups 1 and 2", "groups 3 to 12", "groups 13 to 17", "group 18")
EMPTY = "#F1F1F1"


def embedding(explanation: Explanation, *, components: tuple[int, int] = (0, 1)) -> Figure:
    """Elements at two principal components of their vectors, with the share of the variance that each shows.

    Args:
        explanation: of level "element", (Z, c) scores with their shares in `settings["explained_variance"]`, as
            ElementEmbeddings gives it.
        components: which two to draw, counted from 0.

    Raises:
        ValueError: another level, too few components, or no shares of the variance.
    """
    (record,) = colors.together(explanation, "element")
    shares = np.asarray(record.settings.get("explained_variance", ()), dtype=np.float64)
    n_components = record.values.shape[1] if record.values.ndim == 2 else 1
    if record.values.ndim != 2 or max(components) >= min(n_components, len(shares)):
        raise ValueError(
            f"{record.method} has {n_components} components and {len(shares)} shares of the variance; drawing components "
            f"{components} needs both. Ask for ElementEmbeddings(n_components={max(components) + 1}) or more."
        )
    x, y = record.values[:, components[0]], record.values[:, components[1]]
    shown = float(shares[list(components)].sum())
    told = f"These two components show {shown:.0%} of the variance. One projection of one network, not the periodic table."
    figure, axes = chart(5.6, 4.6, colors.legend(record, told, *record.notes))
    labels = [f"component {k + 1} ({shares[k]:.0%} of variance), {colors.shown_units(record.units)}" for k in components]
    style(axes, *labels)
    axes.axhline(0, color=GRAY, linewidth=0.6)
    axes.axvline(0, color=GRAY, linewidth=0.6)
    numbers = np.array([atomic_numbers[symbol] for symbol in record.labels])
    blocks = np.array([_block(int(z)) for z in numbers])
    radius = 20 + 190 * covalent_radii[numbers]
    for block in np.unique(blocks):
        chosen = blocks == block
        look = {"color": BLOCK_COLORS[block], "alpha": 0.25, "label": BLOCK_NAMES[block], "linewidths": 0}
        axes.scatter(x[chosen], y[chosen], s=radius[chosen], **look)
    for symbol, here in zip(record.labels, record.values[:, list(components)], strict=True):
        axes.text(*here, symbol, ha="center", va="center_baseline", fontsize=MEDIUM, color=INK)
    axes.margins(0.13)
    marks = axes.legend(fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=INK)
    for mark in marks.legend_handles:
        mark.set_sizes([60])
    return figure


def periodic_table(explanation: Explanation, *, column: int = 0, distance_to: str | None = None) -> Figure:
    """Elements colored on the periodic table, by one number each or by the distance of their vectors to one element's.

    Args:
        explanation: of level "element": (Z,) or (Z, c).
        column: of several numbers an element, which to draw.
        distance_to: symbol of an element; draws Euclidean distances to it over all columns instead, which are those of the
            vectors themselves if all components were kept.

    Raises:
        ValueError: another level, no such column, or an element that the explanation lacks.
    """
    (record,) = colors.together(explanation, "element")
    table = record.values.reshape(len(record.labels), -1)
    drawn, own = np.array(colors.trusted_rows(record)), None
    if distance_to is not None:
        if distance_to not in record.labels:
            raise ValueError(
                f"there is no element {distance_to!r} in this explanation; there are {' '.join(record.labels)}."
            )
        own = record.labels.index(distance_to)
        numbers = np.linalg.norm(table - table[own], axis=1)
        drawn[own] = False
        title = f"distance to {distance_to} in {record.target} ({colors.shown_units(record.units)})"
    else:
        if not 0 <= column < table.shape[1]:
            raise ValueError(f"column must be from 0 to {table.shape[1] - 1}, got {column}. {record.method} has no other.")
        numbers = table[:, column]
        title = colors.quantity(record).replace(" (", f", column {column + 1} of {table.shape[1]} (")
    scale = colors.scale_of(numbers[drawn], record.units, signed=distance_to is None)
    figure, axes = chart(9.6, 4.6, colors.legend(record, scale.words, *_kept(record)))
    _draw_table(axes, record, numbers, scale.colors(numbers, drawn), own)
    draw_bar(axes.inset_axes((0.22, 0.80, 0.4, 0.045)), scale, title, horizontal=True)
    return figure


def _kept(record: Explanation) -> list[str]:
    shares = record.settings.get("explained_variance")
    return [] if shares is None else [f"The columns hold {float(np.sum(shares)):.0%} of the variance of the vectors."]


def _draw_table(axes: Axes, record: Explanation, numbers: Floats, fills: Floats, own: int | None) -> None:
    """118 squares, those with a number in color; the element in row `own` is framed."""
    from matplotlib.patches import Rectangle

    place_of = {symbol: row for row, symbol in enumerate(record.labels)}
    axes.set_axis_off()
    axes.set_xlim(0.3, 18.7)
    axes.set_ylim(10.2, 0.2)
    axes.set_aspect("equal")
    trusted = colors.trusted_rows(record)
    for symbol, z in atomic_numbers.items():
        if not 1 <= z <= 118:
            continue
        x, y = place_drawn(z)
        row = place_of.get(symbol)
        fill = EMPTY if row is None else "white" if row == own else fills[row]
        hatch = None if row is None or trusted[row] else colors.HATCH
        edge = INK if row is not None and row == own else "none" if hatch is None else "#7A7A7A"
        axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, facecolor=fill, edgecolor=edge, hatch=hatch))
        ink = "#B5B5B5" if row is None else INK if row == own else colors.ink_on(fills[row])
        axes.text(x, y - (0 if row is None else 0.12), symbol, ha="center", va="center", fontsize=SMALL, color=ink)
        if row is not None:
            axes.text(x, y + 0.25, colors.number(numbers[row], 2), ha="center", va="center", fontsize=5, color=ink)


def place_drawn(number: int) -> tuple[float, float]:
    """Column and row of an element in the drawn table, whose f block stands in rows of its own below."""
    group, period = place_in_table(number)
    return (float(group), float(period)) if group else (float(number - F_BLOCK[period][0] + 3), period + 2.7)


def _block(number: int) -> int:
    if number == 1:
        return 0
    group, _ = place_in_table(number)
    if group == 0 or 3 <= group <= 12:
        return 2
    return 1 if group <= 2 else 4 if group == 18 else 3
