"""What may come with a run, made ready for its page: events, spectrum, probe surfaces, means, report card."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.charts import KIND_COLORS, Card
from ase_xai.report.colors import Floats, number
from ase_xai.report.page import refuse_large, scale_data
from ase_xai.report.run_curves import Curves
from ase_xai.report.run_data import AtomSeries, Held, packed
from ase_xai.trajectory.means import drift, mean

if TYPE_CHECKING:
    from ase_xai.trajectory.event_table import Events
    from ase_xai.trajectory.run import Run
    from ase_xai.trajectory.spectra import Spectrum

GLYPHS = {
    "bond formed": "▲", "bond broken": "▼", "proton transfer": "◆", "change of energies": "●", "change of charges": "○",
    "outside training data": "✕",
}  # fmt: skip
OTHER_GLYPHS = ("■", "★", "✚", "▶", "◀")
HIGHEST_WAVENUMBER = 4500.0  # 1/cm; nothing of a molecule vibrates faster
TOTAL_COLOR = "#222222"
DASHES: tuple[list[int], ...] = ([], [6, 3], [2, 2])
MIN_FRAMES_OF_MEANS = 20


def look_of(place: int, palette: Sequence[str]) -> dict[str, Any]:
    """Color and dashes of the curve number `place`: every color once, then again with dashes."""
    return {"color": palette[place % len(palette)], "dash": DASHES[place // len(palette) % len(DASHES)]}


# --- events -----------------------------------------------------------------------------------------------------------


def event_frames(run: Run, events: Events | None) -> list[int]:
    """The frame of each event: the one of its step, or the next recorded."""
    steps: list[int] = [event.step for event in events or ()]
    return np.minimum(np.searchsorted(np.asarray(run.steps), steps), run.n_frames - 1).astype(int).tolist()


def events_data(run: Run, kept: NDArray[np.int64], events: Events | None) -> dict[str, Any]:
    """Rows of the table of events in the order of time, and the sign of each kind."""
    found = list(events or ())
    kinds = list(dict.fromkeys(event.kind for event in found))
    others = iter(OTHER_GLYPHS * len(kinds))
    names = [kind.replace("_", " ") for kind in kinds]
    counts = ", ".join(f"{sum(e.kind == kind for e in found)} {name}" for kind, name in zip(kinds, names, strict=True))
    settings: Mapping[str, Any] = getattr(events, "settings", {})
    hold = f" Passages that last {number(settings['hold'])} {run.time_unit} or longer." if settings.get("hold") else ""
    rows = [
        {
            "frame": nearest_kept(kept, frame),
            "step": int(event.step),
            "time": colors.number(event.time, 6),
            "kind": kinds.index(event.kind),
            "atoms": [int(atom) for atom in event.atoms],
            "text": told(event.payload),
        }
        for event, frame in zip(found, event_frames(run, events), strict=True)
    ]
    return {
        "given": events is not None,
        "rows": rows,
        "kinds": [{"name": name, "glyph": GLYPHS.get(name) or next(others)} for name in names],
        "note": f"{counts}.{hold} Click one to go there; its atoms are chosen." if rows else "",
    }


def told(payload: Mapping[str, Any]) -> str:
    """What is known of an event, as text; "before (eV)": 1.0 becomes "before 1 eV"."""
    parts = []
    for name, value in payload.items():
        title, _, unit = name.removesuffix(")").partition(" (")
        shown = number(value) if isinstance(value, float) else value
        parts.append(f"{title.replace('_', ' ')} {shown}" + f" {unit}" * bool(unit))
    return ", ".join(parts)


def nearest_kept(kept: NDArray[np.int64], frame: int) -> int:
    """Place among the frames drawn of the one nearest to `frame`."""
    return int(np.abs(kept - frame).argmin())


# --- spectrum ---------------------------------------------------------------------------------------------------------


def spectrum_data(spectrum: Spectrum | None, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Total with the auto terms of groups, and apart from them the cross terms.

    Args:
        looks: color and dashes of groups that the page knows already.
    """
    if spectrum is None:
        return None
    shown = np.asarray(spectrum.wavenumbers) <= HIGHEST_WAVENUMBER
    own = [
        {"name": label, **(looks.get(label) or look_of(place, KIND_COLORS)), "width": 1.3, "data": packed(term[shown])}
        for place, (label, term) in enumerate(zip(spectrum.labels, spectrum.own, strict=True))
    ]
    total = {"name": "total", "color": TOTAL_COLOR, "dash": [], "width": 2, "data": packed(spectrum.total[shown])}
    band = None
    if np.isfinite(spectrum.error).all():
        total["name"] = "total ± 1σ"
        band = [packed((spectrum.total + sign * spectrum.error)[shown]) for sign in (1, -1)]
    plots: list[dict[str, Any]] = [
        {"title": f"total and each group by itself ({spectrum.units})", "series": [total, *own], "band": band}
    ]
    cross = cross_terms(spectrum)
    if cross:
        drawn = [
            {"name": name, **look, "data": packed(term[shown])}
            for (name, term), look in zip(cross.items(), cross_looks(), strict=False)
        ]
        plots.append({"title": f"cross terms of groups ({spectrum.units})", "series": drawn, "band": None})
    return {"wavenumbers": packed(spectrum.wavenumbers[shown]), "plots": plots, "note": spectrum_words(spectrum)}


def cross_terms(spectrum: Spectrum) -> dict[str, Floats]:
    """All cross terms together, and the largest ones, each of both orders of two groups."""
    n = len(spectrum.labels)
    pairs = {
        f"{spectrum.labels[a]} × {spectrum.labels[b]}": 2 * spectrum.terms[a, b] for a in range(n) for b in range(a + 1, n)
    }
    largest = sorted(pairs, key=lambda name: -float(np.abs(pairs[name]).sum()))[: len(KIND_COLORS)]
    return {"all cross terms": spectrum.cross, **{name: pairs[name] for name in largest if n > 2}} if pairs else {}


def cross_looks() -> Iterator[dict[str, Any]]:
    """Looks of the curves of `cross_terms`."""
    yield {"color": TOTAL_COLOR, "dash": [], "width": 2}
    for place in range(len(KIND_COLORS)):
        yield {**look_of(place, KIND_COLORS), "width": 1.3}


def spectrum_words(spectrum: Spectrum) -> str:
    """How a spectrum was made, and how well its sum rule holds."""
    segments = f"{spectrum.n_segments} segment{'s' * (spectrum.n_segments != 1)}"
    return (
        f"From the {spectrum.source.replace('_', ' ')}; resolution {number(spectrum.resolution)} cm⁻¹, window "
        f"{spectrum.window}, {segments}, quantum correction: {spectrum.correction}. Sum rule holds to "
        f"{number(spectrum.residual, 2)}. Cross terms may be negative: groups that absorb against each other."
    )


# --- probe surfaces ---------------------------------------------------------------------------------------------------


def probes_data(kept: NDArray[np.int64], probe: Mapping[int, Explanation] | None, hold: Held | None) -> dict[str, Any]:
    """Meshes by frame, on one scale, moved with their frames.

    Raises:
        ValueError: no surfaces, surfaces that do not share a scale, or a frame that is not drawn.
    """
    if not probe:
        return {"probes": [], "probeScale": None, "probeWords": {}}
    records = [colors.scalars(record) for record in colors.together(list(probe.values()), "surface")]
    scale = colors.shared_scale(records)
    found = []
    for frame, record in zip(probe, records, strict=True):
        refuse_large(record)
        if frame not in kept or record.faces is None or record.points is None:
            raise ValueError(
                f"the surface of frame {frame} cannot be shown: {'it has no faces' if frame in kept else 'no such frame'}. "
                "Key the surfaces by the frame they were made of, counted from 0."
            )
        place = int(np.searchsorted(kept, frame))
        values = np.where(colors.trusted_rows(record), record.values, np.nan)
        faces = record.faces.astype("<u2")
        found.append(
            {
                "frame": place,
                "points": packed(record.points if hold is None else hold(record.points, place)),
                "faces": base64.b64encode(faces.tobytes()).decode("ascii"),
                "values": packed(values),
            }
        )
    about, _, _, *closing = colors.legend(records, scale.words)
    words = {"name": colors.quantity(records[0]), "words": " ".join([about, *closing])}
    return {"probes": found, "probeScale": scale_data(scale), "probeWords": words}


# --- means and report card --------------------------------------------------------------------------------------------


def means_data(
    run: Run, series: Sequence[AtomSeries], charts: Sequence[Curves], groups: Sequence[str]
) -> list[dict[str, str]]:
    """Mean with error, effective number of frames, correlation time and drift of every curve, as text."""
    rows = []
    for chart in charts:
        for name, values in chart.lines.items():
            label = chart.title if len(chart.lines) == 1 else f"{chart.title}: {name}"
            rows += _mean_row(label, chart.units, values, np.asarray(run.times), run.time_unit)
    for one in series:
        title = colors.quantity(one.record).rsplit(" (", 1)[0]
        for place, group in enumerate(groups):
            rows += _mean_row(f"{title}: {group}", one.record.units, one.sums[:, place], one.times, run.time_unit)
    return rows


def _mean_row(name: str, units: str, values: Floats, times: Floats, time_unit: str) -> list[dict[str, str]]:
    """A row of the table; none of series that are too short or that have gaps."""
    gaps = np.diff(times)
    if len(values) < MIN_FRAMES_OF_MEANS or not np.isfinite(values).all() or np.ptp(gaps) > 1e-6 * gaps.max():
        return []
    found, line = mean(values), drift(values, times)
    per, unit = (1000.0, "ps") if time_unit == "fs" else (1.0, "step")
    return [
        {
            "name": name,
            "units": colors.shown_units(units),
            "value": with_error(found.value, found.error) + ("" if found.converged else " (short)"),
            "effective": number(found.n_effective),
            "tau": number(found.tau * float(gaps[0])),
            "drift": f"{with_error(line.slope * per, line.error * per)} per {unit}",
        }
    ]


def with_error(value: float, error: float) -> str:
    """A number rounded to two digits of its error, and the error."""
    if not np.isfinite(error) or error <= 0:
        return number(value, 6)
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def card_data(card: Card | None) -> dict[str, Any] | None:
    """Rows of a report card as text."""
    if card is None:
        return None
    verdicts = [row.verdict for row in card.rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    return {
        "summary": f"{card.title}: {counts}",
        "notes": list(getattr(card, "notes", ())),
        "rows": [
            {
                "name": row.name,
                "value": "" if row.value is None else number(row.value),
                "tolerance": "" if row.tolerance is None else number(row.tolerance, 1),
                "units": row.units,
                "verdict": row.verdict,
                "note": row.note,
            }
            for row in card.rows
        ],
    }
