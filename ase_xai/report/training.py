"""Figures of a training: learning curves from its metrics.csv, and predictions against their references.

Figures are made without pyplot, so nothing global is touched; the caller saves them with `figure.savefig(path)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import Locator

Floats = NDArray[np.float64]

# Okabe and Ito's colors keep apart for color-blind readers; grays are for what stands in the second row.
BLUE, VERMILLION, INK, GRAY, LIGHT = "#0072B2", "#D55E00", "#222222", "#6E6E6E", "#E4E4E4"
DPI = 150
SMALL, MEDIUM, LARGE = 8, 9, 11  # font sizes in points
HEXBIN_ABOVE = 2000  # points; more of them hide each other in a scatter plot

# How the unit in a column's name is shown, and by what its values are multiplied.
SHOWN_UNITS = {
    "eV": ("meV", 1000.0),
    "eV_per_atom": ("meV/atom", 1000.0),
    "eV_per_A": ("meV/Å", 1000.0),
    "eV_per_A3": ("meV/Å³", 1000.0),
    "meV_per_A": ("meV/Å", 1.0),
    "eA": ("e·Å", 1.0),
}
ERROR_COLUMN = re.compile(r"(?P<quantity>.+)_(?P<measure>mae|rmse)_(?P<unit>.+)")


def learning_curve(columns: Mapping[str, Sequence[float]]) -> Figure:
    """A panel for each error (logarithmic), and one for the training loss with the learning rate behind it.

    Args:
        columns: of a metrics.csv, equally long: "step", "learning_rate", "loss" (both without unit) and errors named
            <quantity>_mae_<unit>, such as forces_mae_eV_per_A. Other columns are not drawn.

    Raises:
        ValueError: a column is missing or shorter than another, or there are no rows.
    """
    from matplotlib.figure import Figure

    data = _checked_columns(columns)
    errors = [name for name in data if ERROR_COLUMN.fullmatch(name)]
    n_panels = len(errors) + 1
    n_columns = n_panels if n_panels <= 3 else 2 if n_panels == 4 else 3
    n_rows = math.ceil(n_panels / n_columns)
    figure = Figure(figsize=(3.7 * n_columns + 0.4, 2.7 * n_rows + 0.2), dpi=DPI, layout=_layout())
    grid = list(figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).flat)
    for axes in grid[n_panels:]:
        axes.remove()
    for axes, name in zip(grid, errors, strict=False):
        label, unit, factor = _shown(name)
        _draw_error(axes, data["step"], factor * data[name], label, unit)
    _draw_loss(grid[n_panels - 1], data)
    for index, axes in enumerate(grid[:n_panels]):
        _draw_steps(axes, lowest=index + n_columns >= n_panels)
    return figure


def parity(reference: ArrayLike, predicted: ArrayLike, *, quantity: str, unit: str, title: str = "") -> Figure:
    """Predictions against references in a square, their errors as numbers, and a histogram of the errors beside it.

    Args:
        reference: of any shape, in `unit`.
        predicted: of the same shape, in `unit`. Pairs with a NaN are dropped.
        quantity: what is compared, e.g. "force component".
        unit: of both, and of all errors, e.g. "eV/Å".
        title: above the figure.

    Raises:
        ValueError: shapes differ, a value is infinite, or no pair is left.
    """
    from matplotlib.figure import Figure

    x, y, n_dropped = _checked_pairs(reference, predicted, quantity)
    figure = Figure(figsize=(9.4, 4.5), dpi=DPI, layout=_layout())
    left, right = figure.subplots(1, 2)
    _draw_pairs(left, x, y)
    _style(left, f"reference {quantity} ({unit})", f"predicted {quantity} ({unit})")
    error = y - x
    size = np.abs(error)
    lines = [
        f"n = {len(x):,}" + (f" ({n_dropped:,} with NaN dropped)" if n_dropped else ""),
        f"MAE = {size.mean():.4g} {unit}",
        f"RMSE = {np.sqrt(np.mean(error**2)):.4g} {unit}",
        f"max |error| = {size.max():.4g} {unit}",
    ]
    _note(left, "\n".join(lines))
    _draw_residuals(right, error, unit)
    _style(right, f"predicted − reference {quantity} ({unit})", "count of pairs")
    if title:
        figure.suptitle(title, fontsize=LARGE, color=INK)
    return figure


def _checked_columns(columns: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    missing = [name for name in ("step", "learning_rate", "loss") if name not in columns]
    if missing:
        raise ValueError(
            f"columns lack {', '.join(missing)}; they hold {', '.join(columns) or 'nothing'}. Give a metrics.csv."
        )
    wanted = [name for name in columns if name in ("step", "learning_rate", "loss") or ERROR_COLUMN.fullmatch(name)]
    data = {name: np.asarray(columns[name], dtype=np.float64) for name in wanted}
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}. A row of metrics.csv holds one value of each.")
    if not lengths["step"]:
        raise ValueError("columns are empty: no row of metrics to draw. The first one is written at the first validation.")
    return data


def _checked_pairs(reference: ArrayLike, predicted: ArrayLike, quantity: str) -> tuple[Floats, Floats, int]:
    x, y = np.asarray(reference, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: reference {x.shape}, predicted {y.shape}. Each value needs its partner.")
    known = ~(np.isnan(x) | np.isnan(y))
    n_dropped = int(x.size - np.count_nonzero(known))
    x, y = x[known], y[known]
    if not x.size:
        reason = f"all {n_dropped} pairs hold a NaN" if n_dropped else "the input is empty"
        raise ValueError(f"no pair of {quantity} to draw: {reason}. Give at least one reference with its prediction.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"{quantity} holds infinite values, which have no place on an axis. Remove or correct them.")
    return x, y, n_dropped


def _shown(name: str) -> tuple[str, str, float]:
    """Label and unit of an error column as they are drawn, and the factor from the column's unit to that one."""
    match = ERROR_COLUMN.fullmatch(name)
    assert match is not None
    unit, factor = SHOWN_UNITS.get(match["unit"], (match["unit"].replace("_per_", "/").replace("_", " "), 1.0))
    return f"{match['quantity'].replace('_', ' ')} {match['measure'].upper()}", unit, factor


def _layout() -> ConstrainedLayoutEngine:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.06)  # inches around each panel


def _style(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=MEDIUM, color=INK)
    axes.set_ylabel(y_label, fontsize=MEDIUM, color=INK)
    axes.tick_params(which="both", labelsize=SMALL, color=GRAY, labelcolor=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)


def _note(axes: Axes, text: str) -> None:
    """Numbers in the upper left corner, which a good prediction leaves empty."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2.0}
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=MEDIUM, color=INK, linespacing=1.4, bbox=box)


def _summary(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="right", fontsize=SMALL, color=GRAY)


def _draw_line(axes: Axes, x: Floats, y: Floats, color: str) -> None:
    """A line, with a mark for each value where there are few enough to tell apart (or only one, which has no line)."""
    few = np.count_nonzero(np.isfinite(y)) <= 40
    axes.plot(x, y, color=color, linewidth=1.6, marker="o" if few else "", markersize=3.2, solid_joinstyle="round")


def _make_logarithmic(axes: Axes, values: Floats) -> None:
    """A logarithmic axis that shows all of `values`, with plain numbers at ticks that are dense enough for any range."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    low, high = np.log10(values.min()), np.log10(values.max())
    margin = max(0.07 * (high - low), 0.03)
    limits = 10 ** (low - margin), 10 ** (high + margin)
    if high - low < 0.4:
        ticks = np.asarray(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(*limits))
        locator: Locator = FixedLocator(ticks[ticks > 0].tolist())
    else:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if high - low < 0.9 else (1.0, 2.0, 5.0) if high - low < 2 else (1.0,)
        locator = LogLocator(subs=subs, numticks=8)
    axes.set_yscale("log")
    axes.set_ylim(limits)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_error(axes: Axes, step: Floats, values: Floats, label: str, unit: str) -> None:
    _style(axes, "", f"{label} ({unit})")
    drawn = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    positive = drawn[np.isfinite(drawn)]
    if not positive.size:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no positive value", transform=axes.transAxes, ha="center", fontsize=MEDIUM, color=GRAY)
        return
    _draw_line(axes, step, drawn, BLUE)
    _make_logarithmic(axes, positive)
    _summary(axes, f"lowest {positive.min():.3g}, last {values[-1]:.3g} {unit}")


def _draw_loss(axes: Axes, data: Mapping[str, Floats]) -> None:
    """The loss in front of the learning rate, which has an axis of its own at the right."""
    rate = data["learning_rate"]
    highest = np.nanmax(np.abs(rate), initial=0.0)
    power = math.floor(math.log10(highest)) if highest > 0 else 0
    _style(axes, "", "training loss (dimensionless)")
    behind: Any = axes.twinx()
    behind.fill_between(data["step"], rate / 10.0**power, color=LIGHT, linewidth=0, alpha=0.5)
    behind.plot(data["step"], rate / 10.0**power, color="#B4B4B4", linewidth=1.0, marker="" if len(rate) > 1 else "s")
    behind.set_ylim(0, 1.15 * highest / 10.0**power if highest > 0 else 1)
    unit = f"$10^{{{power}}}$" if power else "dimensionless"
    behind.set_ylabel(f"learning rate ({unit})", fontsize=MEDIUM, color=GRAY)
    behind.tick_params(labelsize=SMALL, color="#B4B4B4", labelcolor=GRAY)
    behind.spines[:].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    loss = np.where(np.isfinite(data["loss"]), data["loss"], np.nan)
    known = loss[np.isfinite(loss)]
    _draw_line(axes, data["step"], loss, VERMILLION)
    if known.size and known.min() > 0:
        _make_logarithmic(axes, known)


def _draw_steps(axes: Axes, *, lowest: bool) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="x", labelbottom=lowest)
    if lowest:
        axes.set_xlabel("optimizer step", fontsize=MEDIUM, color=INK)


def _draw_pairs(axes: Axes, x: Floats, y: Floats) -> None:
    """Points, or hexagons colored by how many lie in them, about the diagonal of a square with equal limits."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.05 * (high - low) if high > low else 0.05 * abs(high) or 1.0
    limits = (float(low - margin), float(high + margin))
    if len(x) > HEXBIN_ABOVE:
        from matplotlib.colors import LogNorm

        hexagons = axes.hexbin(x, y, gridsize=90, extent=(*limits, *limits), mincnt=1, cmap="viridis", linewidths=0.2)
        counts: Any = hexagons.get_array()
        hexagons.set_norm(LogNorm(1, max(2.0, float(counts.max()))))
        bar: Any = axes.figure.colorbar(hexagons, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)))
        bar.set_label("pairs per hexagon", fontsize=MEDIUM, color=INK)
        bar.ax.tick_params(which="both", labelsize=SMALL, color=GRAY, labelcolor=INK)
        bar.outline.set_visible(False)
    else:
        axes.scatter(x, y, s=14, color=BLUE, alpha=0.6, linewidths=0)
    axes.plot(limits, limits, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_box_aspect(1)


def _draw_residuals(axes: Axes, error: Floats, unit: str) -> None:
    """Errors about zero; a few far ones do not stretch the axis, and are counted instead."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    size = np.abs(error)
    reach = float(min(size.max(), 1.5 * np.quantile(size, 0.99))) or float(size.max()) or 1.0
    inside = error[size <= reach]
    n_bins = int(np.clip(4 * np.ceil(np.cbrt(len(error))) + 1, 13, 61))  # odd: zero is the middle of a bin
    axes.hist(inside, bins=n_bins, range=(-reach, reach), color=BLUE, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(-1.04 * reach, 1.04 * reach)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, symmetric=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_box_aspect(1)
    n_outside = len(error) - len(inside)
    outside = f"; {n_outside:,} beyond ±{reach:.3g} {unit}" if n_outside else ""
    _summary(axes, f"mean error {error.mean():.3g} {unit}{outside}")
