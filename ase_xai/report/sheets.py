"""Sheets: panels laid out in inches, so that one Ångström is equally long in all of them; color bars; the legend below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_xai.report.colors import Floats, Scale
from ase_xai.report.training import DPI, GRAY, INK, LIGHT, MEDIUM, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

TINY, CHARACTERS_PER_INCH = 7, 16.5  # of the legend
TITLE, BAR = 0.3, 1.25  # inches above each panel, and for a color bar beside one
NARROWEST, LOWEST, LOWEST_BAR = 1.4, 0.9, 2.0  # inches of a panel, and of one with a color bar
LONGEST_ANGSTROM = 0.62  # inches
TALLEST_BAR = 3.2
LABEL_PER_INCH = 12  # characters of a color bar's label


@dataclass(frozen=True, eq=False)
class Sheet:
    """A figure with panels in which all lengths are true.

    Args:
        figure: that holds everything.
        panels: axes in Å about the middle of each panel, row by row.
        bars: axes for color bars: one for each panel, or one for all.
        inch: inches of one Å.
    """

    figure: Figure
    panels: list[Axes]
    bars: list[Axes]
    inch: float


def sheet(extents: Floats, lines: Sequence[str], *, n_columns: int, width: float, bar_each: bool) -> Sheet:
    """Empty panels with a length bar and a legend below them.

    Args:
        extents: (n, 2) Å, half the width and half the height that each panel must show.
        lines: of the legend.
        n_columns: panels side by side.
        width: inches that all panels and color bars may take.
        bar_each: whether each panel has a color bar of its own.
    """
    from matplotlib.figure import Figure

    n_bars = n_columns if bar_each else 1
    inch = min(LONGEST_ANGSTROM, (width - n_bars * BAR) / n_columns / (2 * extents[:, 0].max()))
    across = max(2 * extents[:, 0].max() * inch, NARROWEST)
    rows = [extents[i : i + n_columns] for i in range(0, len(extents), n_columns)]
    lowest = LOWEST_BAR if bar_each or len(rows) == 1 else LOWEST
    heights = [max(2 * row[:, 1].max() * inch, lowest) for row in rows]
    step = across + (BAR if bar_each else 0.0)
    full = max(n_columns * step + (0.0 if bar_each else BAR), 5.4)
    wrapped = _wrapped(lines, full)
    below = legend_height(wrapped) + 0.35
    figure = Figure(figsize=(full, below + sum(heights) + TITLE * len(rows)), dpi=DPI)
    write_legend(figure, wrapped)
    panels, bars, top = [], [], figure.get_figheight()
    for row, height in zip(rows, heights, strict=True):
        top -= height + TITLE
        for column in range(len(row)):
            axes = _placed(figure, column * step, top, across, height)
            axes.set_xlim(-across / inch / 2, across / inch / 2)
            axes.set_ylim(-height / inch / 2, height / inch / 2)
            panels.append(axes)
            if bar_each:
                bars.append(_bar_place(figure, column * step + across, top, height))
    if not bar_each:
        bars = [_bar_place(figure, n_columns * step, below, sum(heights) + TITLE * (len(rows) - 1))]
    _draw_length(_placed(figure, 0.1, below - 0.27, 3.0, 0.22), inch)
    return Sheet(figure, panels, bars, inch)


def columns_for(n_panels: int) -> int:
    """How many panels stand side by side in a sheet that is a little wider than high."""
    return n_panels if n_panels <= 3 else round(np.sqrt(1.3 * n_panels))


def _placed(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without frame at a place given in inches."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.set_axis_off()
    return axes


def _bar_place(figure: Figure, left: float, bottom: float, height: float) -> Axes:
    tall = min(0.92 * height, TALLEST_BAR)
    return _placed(figure, left + 0.12, bottom + (height - tall) / 2, 0.15, tall)


def _draw_length(axes: Axes, inch: float) -> None:
    """A bar of 1, 2, 5 ... Å in axes 3 inches wide."""
    length = max((a for a in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if a * inch < 1.3), default=0.5)
    axes.set_xlim(0, 3.0)
    axes.set_ylim(0, 1)
    axes.plot([0, length * inch], [0.5, 0.5], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(length * inch + 0.07, 0.5, f"{length:g} Å", va="center", fontsize=SMALL, color=INK)


def draw_bar(axes: Axes, scale: Scale, label: str, *, horizontal: bool = False) -> None:
    """A color bar that fills `axes`, with arrows where values lie beyond."""
    from matplotlib.cm import ScalarMappable

    axes.set_axis_on()
    extend, side = "both" if scale.n_beyond else "neither", "horizontal" if horizontal else "vertical"
    colored = ScalarMappable(scale.norm, scale.map)
    bar: Any = axes.figure.colorbar(colored, cax=axes, extend=extend, orientation=side)
    if scale.logarithmic:
        mark_logarithmic(bar.long_axis, scale.low, scale.high)
    if not scale.n_values:
        bar.set_ticks([])
    figure: Any = axes.figure
    height = axes.get_position().height * figure.get_figheight()
    width = 200 if horizontal else max(24, int(LABEL_PER_INCH * height))
    bar.set_label("\n".join(wrap(label, width)), fontsize=MEDIUM, color=INK)
    bar.ax.tick_params(which="both", labelsize=SMALL, color=GRAY, labelcolor=INK)
    bar.outline.set_edgecolor(GRAY)


def mark_logarithmic(axis: Axis, low: float, high: float) -> None:
    """Plain numbers at round places of a logarithmic axis, three at least where rounder ones are too few."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    decades = np.log10(high / low)
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    ticks: list[float] = []
    for locator in (LogLocator(subs=subs, numticks=30), MaxNLocator(nbins=5)):
        found = np.asarray(locator.tick_values(low, high))
        ticks = ticks if len(ticks) > 2 else found[(found >= low) & (found <= high)].tolist()
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def chart(width: float, height: float, lines: Sequence[str], **settings: Any) -> tuple[Figure, Any]:
    """A figure `width` inches wide with a legend below, and its panels, each `height` inches high or less.

    Args:
        settings: of `Figure.subplots`.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    wrapped = _wrapped(lines, width)
    below = legend_height(wrapped)
    figure = Figure(figsize=(width, height * settings.get("nrows", 1) + below), dpi=DPI)
    share = below / figure.get_figheight()
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06, rect=(0, share, 1, 1 - share)))
    write_legend(figure, wrapped)
    return figure, figure.subplots(**settings)


def _wrapped(lines: Sequence[str], width: float) -> list[str]:
    n_characters = int((width - 0.2) * CHARACTERS_PER_INCH)
    return [row for line in lines for row in wrap(line, n_characters, subsequent_indent="   ")]


def legend_height(lines: Sequence[str]) -> float:
    """Inches of wrapped `lines`."""
    return 0.12 + len(lines) * 1.42 * TINY / 72


def write_legend(figure: Figure, lines: Sequence[str]) -> None:
    """Wrapped `lines` at the lower left of `figure`."""
    left, bottom = 0.1 / figure.get_figwidth(), 0.06 / figure.get_figheight()
    about: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": TINY, "color": GRAY, "linespacing": 1.35}
    figure.text(left, bottom, "\n".join(lines), **about)


def style(axes: Axes, x_label: str, y_label: str) -> None:
    """Axes with quiet lines, in the manner of the figures of a training."""
    axes.set_xlabel(x_label, fontsize=MEDIUM, color=INK)
    axes.set_ylabel(y_label, fontsize=MEDIUM, color=INK)
    axes.tick_params(which="both", labelsize=SMALL, color=GRAY, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
