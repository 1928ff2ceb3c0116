"""Figures of a run: the carpet of atoms over time, curves of groups, infrared by group, events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.report import colors
from ase_xai.report.charts import KIND_COLORS
from ase_xai.report.colors import Floats, number
from ase_xai.report.run_data import RUN_MEAN, AtomSeries, Members, View, atom_fields, atom_series, kept_frames
from ase_xai.report.run_extras import (
    GLYPHS,
    HIGHEST_WAVENUMBER,
    MIN_FRAMES_OF_MEANS,
    TOTAL_COLOR,
    cross_looks,
    cross_terms,
    look_of,
    spectrum_words,
    with_error,
)
from ase_xai.report.sheets import chart, draw_bar, style
from ase_xai.report.training import GRAY, INK, LARGE, MEDIUM, SMALL, VERMILLION
from ase_xai.trajectory.groups import groups_of
from ase_xai.trajectory.means import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ase_xai.trajectory.event_table import Event, Events
    from ase_xai.trajectory.run import Run
    from ase_xai.trajectory.spectra import Spectrum

WIDTH = 7.2  # inches
MAX_DRAWN = 4000  # frames in one figure
NAMED_ATOMS = 40


def carpet(
    run: Run, field: str = "energies", *, groups: Members | None = None, events: Iterable[Event] | None = None
) -> Figure:
    """Atoms over time, colored as on the page; signs at the atoms of events.

    Args:
        run: an open run.
        field: with one number for each atom.
        groups: order and separate the rows; None takes those of the run, or its elements.
        events: see `trajectory.find_events`.

    Raises:
        ValueError: no such field, or groups that are no partition.
    """
    members = groups_of(run, groups)
    series, times = _series(run, field, members)
    view, order = series.views[0], [i for atoms in members.values() for i in atoms]
    lines = [view.words, f"Model: {run.about.model}.", *_thinned(run, series), *_signs(events)]
    figure, axes = chart(WIDTH, min(5.2, 1.3 + 0.13 * len(order)), lines)
    painted = view.scale.colors(view.values(series.rows)[:, order]).transpose(1, 0, 2)
    axes.pcolormesh(_edges(times), np.arange(len(order) + 1), painted, rasterized=True)
    style(axes, _time_label(run), "")
    axes.grid(visible=False)
    _name_rows(axes, run, members, order)
    _mark(axes, run, events, order)
    axes.set_title(_formula(run), loc="left", fontsize=LARGE, color=INK)
    bar = axes.inset_axes((1.02, 0.0, 0.022, 1.0))
    draw_bar(bar, view.scale, view.name)
    return figure


def group_curves(
    run: Run, field: str = "energies", *, groups: Members | None = None, events: Iterable[Event] | None = None
) -> Figure:
    """The sum over each group (or mean, of what does not add up) along the run, with its mean and the error of that.

    Args:
        run, field, groups, events: see `carpet`.
    """
    members = groups_of(run, groups)
    series, _ = _series(run, field, members)
    kept = kept_frames(len(series.steps), MAX_DRAWN)
    shift = known_means(series.sums) if series.relative else np.zeros(len(members))
    told = [] if len(series.steps) >= MIN_FRAMES_OF_MEANS else ["Too few frames for errors."]
    gaps = [] if np.isfinite(series.sums).all() else ["Gaps: a value in the group is not known or not to be trusted."]
    lines = [_about(series), f"Model: {run.about.model}.", "Bands: mean ± 1σ from the autocorrelation time.", *told, *gaps]
    figure, axes = chart(WIDTH, 1.5, [*lines, *_signs(events)], nrows=len(members), sharex=True, squeeze=False)
    for place, (group, panel) in enumerate(zip(members, axes.flat, strict=True)):
        color, values = look_of(place, KIND_COLORS)["color"], series.sums[:, place] - shift[place]
        style(panel, _time_label(run) if place == len(members) - 1 else "", "")
        panel.plot(series.times[kept], values[kept], color=color, linewidth=0.7)
        panel.set_title(f"{group} ({len(members[group])} atoms){_band(panel, values, shift[place], series)}",
                        loc="left", fontsize=MEDIUM, color=INK)  # fmt: skip
        _lines_of(panel, run, events)
    figure.supylabel(_curve_label(series), fontsize=MEDIUM, color=INK)
    return figure


def event_curves(run: Run, events: Events, field: str = "charges", *, largest: int = 6) -> Figure:
    """Curves of the atoms that most events are about, with a line at each event.

    Args:
        run, field: see `carpet`.
        events: see `trajectory.find_events`.
        largest: number of atoms.

    Raises:
        ValueError: no events.
    """
    named = [atom for event in events for atom in event.atoms]
    if not named:
        raise ValueError("there are no events, so there is nothing to mark. Draw group_curves.")
    counts = np.bincount(named, minlength=run.n_atoms)
    atoms = np.sort(np.argsort(-counts, kind="stable")[: min(largest, int(np.count_nonzero(counts)))])
    series, times = _series(run, field, {str(i): (i,) for i in range(run.n_atoms)})
    lines = [_about(series), f"Model: {run.about.model}.", *_thinned(run, series), *_signs(events)]
    figure, axes = chart(WIDTH, 3.0, lines)
    style(axes, _time_label(run), _curve_label(series))
    for place, atom in enumerate(atoms):
        values = series.rows[:, atom] - (series.means[atom] if series.relative else 0.0)
        look = look_of(place, KIND_COLORS)
        axes.plot(times, values, color=look["color"], linewidth=0.9, label=f"{run.symbols[atom]}{atom}")
    _lines_of(axes, run, events, signs=True)
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK, ncols=3)
    return figure


def infrared_by_group(spectrum: Spectrum) -> Figure:
    """The spectrum with its error and what each group absorbs by itself; below it the cross terms.

    Args:
        spectrum: see `trajectory.infrared`.
    """
    shown = spectrum.wavenumbers <= HIGHEST_WAVENUMBER
    x, cross = spectrum.wavenumbers[shown], cross_terms(spectrum)
    figure, axes = chart(WIDTH, 2.2, [spectrum_words(spectrum)], nrows=2 if cross else 1, sharex=True, squeeze=False)
    top, bottom = axes[0, 0], axes[-1, 0]
    if np.isfinite(spectrum.error).all():
        band = (spectrum.total - spectrum.error)[shown], (spectrum.total + spectrum.error)[shown]
        top.fill_between(x, *band, color=TOTAL_COLOR, alpha=0.18, linewidth=0)
    top.plot(x, spectrum.total[shown], color=TOTAL_COLOR, linewidth=1.3, label="total")
    for place, (label, term) in enumerate(zip(spectrum.labels, spectrum.own, strict=True)):
        top.plot(x, term[shown], color=look_of(place, KIND_COLORS)["color"], linewidth=0.9, label=label)
    for (label, term), look in zip(cross.items(), cross_looks(), strict=False):
        bottom.plot(x, term[shown], color=look["color"], linewidth=0.6 * look["width"], label=label)
    for panel, title in ((top, "each group by itself"), (bottom, "cross terms"))[: 2 if cross else 1]:
        style(panel, "wavenumber (cm⁻¹)" if panel is bottom else "", spectrum.units)
        panel.set_title(title, loc="left", fontsize=MEDIUM, color=INK)
        panel.legend(fontsize=SMALL, frameon=False, labelcolor=INK, ncols=2)
    bottom.set_xlim(x.max(), x.min())
    return figure


def known_means(values: Floats) -> Floats:
    """Means over the first axis of what is known; zero where nothing is."""
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


# --- parts ------------------------------------------------------------------------------------------------------------


def _series(run: Run, field: str, members: Members) -> tuple[AtomSeries, Floats]:
    """The field, thinned, and the times of its rows."""
    known = atom_fields(run)
    if field not in known:
        raise ValueError(
            f"there is no field {field!r} with one number for each atom; there are {', '.join(known) or 'none'}."
        )
    kept = kept_frames(run.n_frames, MAX_DRAWN)
    series = atom_series(run, field, kept, members)
    return series, np.asarray(run.times)[kept][series.at]


def _about(series: AtomSeries) -> str:
    r = series.record
    reference = RUN_MEAN if series.relative else r.reference
    return f"{r.method}; reference: {reference}; gauge: {r.gauge}."


def _curve_label(series: AtomSeries) -> str:
    return View(series, None, RUN_MEAN if series.relative else series.record.reference).name


def _thinned(run: Run, series: AtomSeries) -> list[str]:
    n_rows = len(series.rows)
    return [] if n_rows == len(series.steps) else [f"{n_rows:,} of {len(series.steps):,} frames, evenly spaced."]


def _signs(events: Iterable[Event] | None) -> list[str]:
    kinds = dict.fromkeys(event.kind for event in events or ())
    return ["Events: " + ", ".join(f"{GLYPHS.get(kind, '■')} {kind}" for kind in kinds) + "."] if kinds else []


def _band(axes: Axes, values: Floats, shift: float, series: AtomSeries) -> str:
    """Draw mean ± error; returns them as text for a title."""
    if len(values) < MIN_FRAMES_OF_MEANS or not np.isfinite(values).all():
        return ""
    found = mean(values)
    axes.axhspan(found.value - found.error, found.value + found.error, color=GRAY, alpha=0.3, linewidth=0)
    told = f"{with_error(found.value + shift, found.error)} {colors.shown_units(series.record.units)}"
    return f": {told}, N_eff {number(found.n_effective, 2)}"


def _edges(times: Floats) -> Floats:
    """(K + 1,) between neighboring times."""
    if len(times) == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[times[0]], middles, [times[-1]]])


def _time_label(run: Run) -> str:
    return "step" if run.time_unit == "step" else f"time ({run.time_unit})"


def _formula(run: Run) -> str:
    return re.sub(r"(\d+)", r"$_{\1}$", Atoms(run.numbers).get_chemical_formula())


def _name_rows(axes: Axes, run: Run, members: Members, order: Sequence[int]) -> None:
    """Atoms or groups beside their rows, the first on top, and lines between groups."""
    axes.set_ylim(len(order), 0)
    ends = np.cumsum([len(atoms) for atoms in members.values()])
    for end in ends[:-1]:
        axes.axhline(end, color="white", linewidth=1.2)
    if len(order) <= NAMED_ATOMS:
        axes.set_yticks(np.arange(len(order)) + 0.5, [f"{run.symbols[i]}{i}" for i in order])
    else:
        starts = np.concatenate([[0], ends[:-1]])
        axes.set_yticks((starts + ends) / 2, list(members))


def _mark(axes: Axes, run: Run, events: Iterable[Event] | None, order: Sequence[int]) -> None:
    """Signs of events at their atoms."""
    rows: NDArray[np.int64] = np.argsort(np.asarray(order))
    for event in events or ():
        axes.axvline(event.time, color=VERMILLION, linewidth=0.5, alpha=0.5)
        for atom in event.atoms:
            _sign(axes, event, float(rows[atom]) + 0.5)


def _lines_of(axes: Axes, run: Run, events: Iterable[Event] | None, *, signs: bool = False) -> None:
    for event in events or ():
        axes.axvline(event.time, color=VERMILLION, linewidth=0.6, alpha=0.5)
        if signs:
            _sign(axes, event, 1.02, transform=axes.get_xaxis_transform())


def _sign(axes: Axes, event: Event, y: float, **settings: Any) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.6, foreground="white")]
    about: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "color": INK, "path_effects": halo}
    axes.text(event.time, y, GLYPHS.get(event.kind, "■"), **about, **settings)
