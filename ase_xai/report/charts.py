"""Charts of explanations: values by element, many-body terms, what a difference is made of, report cards."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import find_mic
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.colors import Floats, Scale, Several, number
from ase_xai.report.sheets import TINY, chart, mark_logarithmic, style
from ase_xai.report.training import BLUE, GRAY, INK, LARGE, LIGHT, MEDIUM, SMALL, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VIOLIN_FROM, BARS_UP_TO = 8, 60  # values of an element: a violin from here on, error bars up to here
GOLDEN = 0.61803398875
KIND_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
N_BINS = 14
NOTE_CHARACTERS = 135
VERDICT_COLORS = {"pass": BLUE, "fail": VERMILLION}


class CardRow(Protocol):
    """One check of a report card."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def tolerance(self) -> float | None: ...
    @property
    def verdict(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def units(self) -> str: ...
    @property
    def note(self) -> str: ...


class Card(Protocol):
    """A report card: what was checked, and how it came out."""

    @property
    def title(self) -> str: ...
    @property
    def rows(self) -> Sequence[CardRow]: ...


def by_element(explanations: Several) -> Figure:
    """Atomic values of many explanations by element: every value, their distribution from 8 on, the median.

    Args:
        explanations: of level "atom", one number an atom.

    Raises:
        ValueError: not drawable together, see `ase_xai.report.colors.together`.
    """
    records = [colors.scalars(record) for record in colors.together(explanations, "atom")]
    numbers, values = np.concatenate([r.numbers for r in records]), np.concatenate([r.values for r in records])
    trusted = np.concatenate([colors.trusted_rows(record) for record in records])
    spreads = [np.full(len(r.values), np.nan) if r.uncertainty is None else r.uncertainty for r in records]
    scale, elements = colors.shared_scale(records), np.unique(numbers)
    lines = colors.legend(records, scale.words, f"{len(records)} explanations. Black bar: median; width: density of values.")
    figure, axes = chart(max(4.6, 1.5 + 1.05 * len(elements)), 3.9, lines)
    style(axes, "", colors.quantity(records[0]))
    for place, element in enumerate(elements):
        of_element = numbers == element
        spread = np.concatenate(spreads)[of_element]
        _draw_strip(axes, place, values[of_element], trusted[of_element], spread, scale)
    if scale.logarithmic:
        axes.set_yscale("log")
        mark_logarithmic(axes.yaxis, *axes.get_ylim())
    else:
        axes.axhline(0, color=GRAY, linewidth=0.8, zorder=1)
    counts = [int(np.count_nonzero(numbers == element)) for element in elements]
    titles = [f"{chemical_symbols[z]}\nn = {n}" for z, n in zip(elements, counts, strict=True)]
    axes.set_xticks(range(len(elements)), titles, fontsize=MEDIUM)
    axes.set_xlim(-0.6, len(elements) - 0.4)
    axes.grid(visible=False, axis="x")
    return figure


def _draw_strip(axes: Axes, place: int, values: Floats, trusted: NDArray[np.bool_], spread: Floats, scale: Scale) -> None:
    """The values of one element about x = `place`, untrusted ones as gray crosses."""
    known = values[trusted]
    if len(known) >= VIOLIN_FROM and np.ptp(known) > 0 and not scale.logarithmic:
        violin: Any = axes.violinplot([known], [place], widths=0.9, showextrema=False)
        violin["bodies"][0].set(facecolor=LIGHT, edgecolor="none", alpha=1.0)
    aside = 0.5 * ((GOLDEN * np.arange(len(values))) % 1.0 - 0.5) * min(1.0, len(values) / 6)
    if len(values) <= BARS_UP_TO and np.isfinite(spread).any():
        axes.errorbar(place + aside, values, spread, fmt="none", ecolor="#9A9A9A", elinewidth=0.7, zorder=2)
    fills = scale.colors(known)
    axes.scatter(place + aside[trusted], known, s=16, c=fills, edgecolors="#5A5A5A", linewidths=0.4, zorder=3)
    axes.scatter(place + aside[~trusted], values[~trusted], s=16, c=GRAY, marker="x", linewidths=0.8, zorder=3)
    if len(known):
        axes.plot([place - 0.33, place + 0.33], [np.median(known)] * 2, color="black", linewidth=1.8, zorder=4)


def decay(explanation: Explanation) -> Figure:
    """Many-body terms: the size of each pair's term against distance, and how much each order holds.

    Args:
        explanation: of level "tuple", e.g. of NBodyRelevance or ManyBodyExpansion; a row without atoms holds higher orders.

    Raises:
        ValueError: another level, gauge-dependent energies without a reference, or no pairs among the rows.
    """
    (record,) = colors.together(colors.scalars(explanation), "tuple")
    assert record.index is not None
    sizes = (record.index >= 0).sum(axis=1)
    if not (sizes == 2).any():
        raise ValueError(
            f"{record.method} has rows of {sorted(set(sizes.tolist()))} atoms and none of 2, so there is nothing to draw "
            "against distance. Ask it for order 2 or more."
        )
    residual = record.residual or 0.0
    whole = float(np.abs(record.values).sum()) + abs(residual)
    share = abs(residual) / whole if whole > 0 else 0.0
    bias = colors.with_units(residual, record.units)
    told = f"What no term holds (bias part or truncated orders): {bias}, {share:.0%} of all sizes."
    lines = colors.legend(record, told, *record.notes)
    figure, (left, right) = chart(10.2, 3.9, lines, ncols=2, width_ratios=[1.35, 1])
    _draw_pairs(left, record, np.flatnonzero(sizes == 2))
    _draw_orders(right, record, sizes, residual, whole)
    left.set_title(colors.formula(record), loc="left", fontsize=LARGE, color=INK)
    return figure


def _draw_pairs(axes: Axes, record: Explanation, rows: NDArray[np.int64]) -> None:
    """|term| of each pair against the distance to the nearest image, colored by elements, with mean ± sem."""
    assert record.index is not None
    pairs = np.array([[atom for atom in record.index[row] if atom >= 0] for row in rows])
    vectors = record.positions[pairs[:, 1]] - record.positions[pairs[:, 0]]
    distance, size = np.asarray(find_mic(vectors, record.cell, record.pbc)[1]), np.abs(record.values[rows])
    style(axes, "distance of the pair (Å)", f"|term of a pair| in {record.target} ({colors.shown_units(record.units)})")
    axes.set_yscale("log")
    drawn = size > 0
    kinds = ["-".join(chemical_symbols[z] for z in sorted(record.numbers[pair], reverse=True)) for pair in pairs]
    common = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    for place, kind in enumerate(common):
        chosen = np.array([k == kind for k in kinds]) & drawn
        color = KIND_COLORS[place] if place < len(KIND_COLORS) else "#B0B0B0"
        label = f"{kind} ({kinds.count(kind)})" if place < len(KIND_COLORS) else None
        axes.scatter(distance[chosen], size[chosen], s=11, color=color, alpha=0.7, linewidths=0, label=label)
    edges = np.linspace(distance.min(), distance.max() + 1e-9, N_BINS + 1)
    found = np.clip(np.digitize(distance, edges) - 1, 0, N_BINS - 1)
    filled = np.array([k for k in range(N_BINS) if (found == k).sum() > 1 and size[found == k].max() > 0], dtype=int)
    means = np.array([size[found == k].mean() for k in filled])
    errors = np.array([size[found == k].std(ddof=1) / np.sqrt((found == k).sum()) for k in filled])
    middle = np.array([distance[found == k].mean() for k in filled])
    errors = np.stack([np.minimum(errors, 0.999 * means), errors])
    axes.errorbar(middle, means, errors, color=INK, linewidth=1.2, elinewidth=0.9, capsize=2, label="mean ± sem", zorder=4)
    axes.legend(fontsize=SMALL, frameon=False, ncols=2, handletextpad=0.4, columnspacing=1.0, labelcolor=INK)
    n_zero = int(np.count_nonzero(~drawn))
    axes.set_title(
        f"{len(size)} pairs" + (f", {n_zero} of them 0" if n_zero else ""), loc="right", fontsize=SMALL, color=GRAY
    )


def _draw_orders(axes: Axes, record: Explanation, sizes: NDArray[np.int64], residual: float, whole: float) -> None:
    """Sum and summed size of the terms of each order, of the higher ones together, and of the residual."""
    orders = [int(n) for n in np.unique(sizes) if n > 0]
    titles = [str(n) for n in orders]
    signed = [float(record.values[sizes == n].sum()) for n in orders]
    absolute = [float(np.abs(record.values[sizes == n]).sum()) for n in orders]
    if (sizes == 0).any():
        titles.append(f"above {orders[-1]}")
        signed.append(float(record.values[sizes == 0].sum()))
        absolute.append(abs(signed[-1]))
    titles.append("residual")
    signed.append(residual)
    absolute.append(abs(residual))
    places = np.arange(len(titles))
    style(axes, "atoms in a term", f"sum over terms ({colors.shown_units(record.units)})")
    axes.bar(places - 0.2, absolute, 0.38, color="#C9C9C9", label="sum of |terms|")
    axes.bar(places + 0.2, signed, 0.38, color=[BLUE] * (len(titles) - 1) + [VERMILLION], label="sum of terms")
    axes.axhline(0, color=GRAY, linewidth=0.8)
    for place, size in zip(places, absolute, strict=True):
        share = f"{size / whole:.0%}" if whole > 0 else ""
        axes.text(place - 0.2, size, share, ha="center", va="bottom", fontsize=SMALL, color=INK)
    axes.set_xticks(places, titles)
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)


def waterfall(explanation: Explanation, *, largest: int = 14) -> Figure:
    """What a sum is made of: one step for each atom or group, largest first, up to the total.

    Args:
        explanation: of level "atom" or "group", e.g. a difference of two explanations, or that by groups:
            `waterfall(after.by(groups) - before.by(groups))`.
        largest: so many steps of their own; the others make one step together.

    Raises:
        ValueError: another level, or gauge-dependent energies without a reference.
    """
    (record,) = colors.together(colors.scalars(explanation), "atom", "group")
    names = colors.atom_names(record) if record.level == "atom" else list(record.labels)
    order = np.argsort(-np.abs(record.values), kind="stable")
    shown, rest = (order, order[:0]) if len(order) <= largest + 1 else (order[:largest], order[largest:])
    titles, steps = [names[i] for i in shown], record.values[shown].tolist()
    trusted, spread = colors.trusted_rows(record), np.zeros(len(names)) if record.uncertainty is None else record.uncertainty
    hatched, errors = (~trusted[shown]).tolist(), spread[shown].tolist()
    if len(rest):
        titles.append(f"{len(rest)} others")
        steps.append(float(record.values[rest].sum()))
        hatched.append(bool((~trusted[rest]).any()))
        errors.append(float(spread[rest].sum()))
    total = float(record.values.sum())
    scale = colors.shared_scale(record)
    told = f"Total {colors.with_units(total, record.units, 4)}. Errors of sums are upper bounds (added linearly)."
    figure, axes = chart(6.6, 1.3 + 0.24 * (len(steps) + 1), colors.legend(record, told, scale.words))
    style(axes, colors.quantity(record), "")
    _draw_steps(axes, [*titles, "total"], np.array([*steps, total]), scale, np.array([*hatched, False]))
    if record.uncertainty is not None:
        ends, places = np.append(np.cumsum(steps), total), np.arange(len(steps) + 1)
        bars = [*errors, float(spread.sum())]
        axes.errorbar(ends, places, xerr=bars, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2, zorder=4)
    axes.set_title(colors.formula(record), loc="left", fontsize=LARGE, color=INK)
    return figure


def _draw_steps(axes: Axes, titles: list[str], steps: Floats, scale: Scale, hatched: NDArray[np.bool_]) -> None:
    """Bars from one running sum to the next; the last one is the total, from zero."""
    starts = np.append(np.concatenate([[0.0], np.cumsum(steps[:-2])]), 0.0)
    fills = scale.colors(steps, ~hatched)
    for place, (start, step) in enumerate(zip(starts, steps, strict=True)):
        look: dict[str, Any] = {"facecolor": fills[place], "edgecolor": "#5A5A5A", "linewidth": 0.5}
        axes.barh(place, step, 0.72, left=start, hatch=colors.HATCH if hatched[place] else None, zorder=3, **look)
        if place < len(steps) - 1:
            axes.plot([start + step] * 2, [place - 0.36, place + 1.36], color=GRAY, linewidth=0.6, zorder=2)
    axes.axvline(0, color=GRAY, linewidth=0.8)
    signed = [("+" if step > 0 else "") + number(step, 2) for step in steps]
    axes.set_yticks(range(len(titles)), [f"{title}  {text}" for title, text in zip(titles, signed, strict=True)])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def card_table(card: Card) -> Figure:
    """A report card as a table: each check with value, tolerance, verdict, cost and what it means.

    Args:
        card: with a title, and rows that have name, value, tolerance, verdict, seconds, units and note.

    Raises:
        ValueError: no rows.
    """
    if not card.rows:
        raise ValueError(f"the report card {card.title!r} has no rows, so there is nothing to draw. Run a check first.")
    verdicts = [row.verdict for row in card.rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    told = f"{counts}; {sum(row.seconds for row in card.rows):.1f} s in all."
    notes = [wrap(row.note, NOTE_CHARACTERS) for row in card.rows]
    heights = [1.0 + 0.72 * len(lines) + (0.2 if lines else 0.0) for lines in notes]
    figure, axes = chart(9.2, 0.62 + 0.215 * sum(heights), [told])
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(sum(heights) + 0.1, -1.2)
    axes.set_title(card.title, loc="left", fontsize=LARGE, color=INK)
    _write_row(axes, -0.6, ("check", "value", "tolerance", "unit", "verdict", "s"), GRAY, GRAY)
    axes.axhline(0, color=GRAY, linewidth=0.8)
    for place, (row, lines, height) in enumerate(zip(card.rows, notes, heights, strict=True)):
        top = sum(heights[:place])
        if place % 2:
            axes.axhspan(top, top + height, color="#F4F4F4", linewidth=0)
        value = "" if row.value is None else number(row.value)
        tolerance = "" if row.tolerance is None else number(row.tolerance, 1)
        cells = (row.name, value, tolerance, row.units, row.verdict, f"{row.seconds:.2f}")
        _write_row(axes, top + 0.5, cells, INK, VERDICT_COLORS.get(row.verdict, GRAY))
        axes.text(0.012, top + 0.95, "\n".join(lines), va="top", fontsize=TINY, color=GRAY, linespacing=1.2)
    return figure


def _write_row(axes: Axes, place: float, cells: Sequence[str], ink: str, of_verdict: str) -> None:
    columns = ((0.0, "left"), (0.70, "right"), (0.80, "right"), (0.815, "left"), (0.90, "left"), (1.0, "right"))
    for column, ((x, side), text) in enumerate(zip(columns, cells, strict=True)):
        verdict = column == 4
        look: dict[str, Any] = {"color": of_verdict if verdict else ink, "weight": "bold" if verdict else "normal"}
        axes.text(x, place, text, ha=side, va="center", fontsize=MEDIUM, **look)
