"""A run as one self-contained HTML page: structure, curves, carpet, events, spectrum, all linked, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import assembly, colors
from ase_xai.report.charts import KIND_COLORS, Card
from ase_xai.report.colors import Floats
from ase_xai.report.molecules import BOND_REACH, molecule, principal_view
from ase_xai.report.page import scale_data
from ase_xai.report.run_analyses import Analyses
from ase_xai.report.run_curves import Curves, curves
from ase_xai.report.run_data import (
    AtomSeries,
    Held,
    Members,
    View,
    atom_fields,
    atom_series,
    held,
    kept_frames,
    packed,
    short,
    taken,
)
from ase_xai.report.run_extras import (
    card_data,
    event_frames,
    events_data,
    look_of,
    means_data,
    probes_data,
    spectrum_data,
)
from ase_xai.report.run_flows import charge_flow_data, flow_data
from ase_xai.trajectory.groups import groups_of

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Run

MAX_BYTES = 9_500_000
FIXED_BYTES = 1_100_000  # libraries, picture, colors
MAX_FRAMES = 10_000
MARKS = ("#111111", "#882255", "#44AA99", "#999933", "#332288", "#DDCC77")  # of chosen atoms; Tol's muted colors
PROGRAM = ("shared.js", "run-data.js", "run-structure.js", "run-charts.js", "run-tables.js", "run.js")


def write_run_page(
    run: Run,
    path: str | Path,
    *,
    groups: Members | None = None,
    analyses: Analyses | None = None,
    probe: Mapping[int, Explanation] | None = None,
    card: Card | None = None,
) -> Path:
    """Write a run as one HTML file below 10 MB that shows it with 3Dmol.js and uPlot, and needs no network.

    Structure, curves, carpet plot and tables show the same frame: a click in any of them moves all. Atoms have the colors of
    the figures, on one scale for the whole run. Beyond the size, frames are left out evenly and the page says how many.

    Args:
        run: with at least one frame and positions.
        path: of the file, which is overwritten.
        groups: atoms by name, a partition; None takes those of the run, or its elements.
        analyses: events, flows, spectrum, see `analyze`, which finds all that the run allows; None shows none.
        probe: explanations of level "surface" by the frame they belong to.
        card: a report card.

    Raises:
        ValueError: no frames, no positions, groups that are no partition, or surfaces that do not fit.
    """
    path = Path(path)
    path.write_text(run_page(run, groups=groups, analyses=analyses, probe=probe, card=card), encoding="utf-8")
    return path


def run_page(
    run: Run,
    *,
    groups: Members | None = None,
    analyses: Analyses | None = None,
    probe: Mapping[int, Explanation] | None = None,
    card: Card | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """The text of the page that `write_run_page` writes, of `max_bytes` at most."""
    found = analyses or Analyses()
    if not run.n_frames:
        raise ValueError(f"{run!r} has no frame to show. Record or annotate at least one.")
    members = groups_of(run, groups)
    charts = curves(run)
    wanted = [*event_frames(run, found.events), *(probe or ())]
    kept = kept_frames(run.n_frames, room_for(run, found, max_bytes), wanted)
    positions = np.asarray(taken(run.positions, kept), dtype=np.float64)
    hold = None if run.pbc.any() else held(positions, atomic_masses[run.numbers])
    series = [atom_series(run, name, kept, members) for name in atom_fields(run)]
    looks = {name: look_of(place, KIND_COLORS) for place, name in enumerate(members)}
    data = {
        **structure_data(run, kept, positions, hold),
        **series_data(run, kept, charts, series, members),
        "groups": [{"name": name, "atoms": list(atoms), **looks[name]} for name, atoms in members.items()],
        "marks": [{"color": color, "dash": []} for color in MARKS],
        "events": events_data(run, kept, found.events),
        "flow": flow_data(run, kept, found.flow),
        "chargeFlow": charge_flow_data(run, kept, found.charge_flow, members),
        "spectrum": spectrum_data(found.spectrum, looks),
        **probes_data(kept, probe, hold),
        "means": means_data(run, series, charts, list(members)),
        "meansNote": (
            "Errors are 1σ of the mean from the autocorrelation time τ; N_eff is the number of independent frames. "
            f'Over all {run.n_frames:,} frames; "short": fewer than 50 correlation times, so the error is uncertain itself.'
        ),
        "card": card_data(card),
    }
    formula = Atoms(run.numbers).get_chemical_formula()
    title = f"{formula}: {extent(run)}"
    picture, alt = picture_of(run, series, formula)
    parts = {
        "TITLE": escape(title),
        "STYLE": assembly.asset("uPlot.min.css") + assembly.asset("run.css"),
        "HEADING": assembly.with_subscripts(title, formula),
        "LEDE": escape(f"{thinned(run, kept)} · {run.about.model}"),
        "ALT": escape(alt),
        "PNG": picture,
        "ABOUT": "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in provenance(run, series, kept)),
        "LICENSE": escape("\n\n".join(assembly.asset(f"{name}-LICENSE.txt") for name in ("3Dmol", "uPlot"))),
        "DATA": assembly.json_text(data),
        "VIEWER": assembly.script("3Dmol-min.js"),
        "PLOTTER": assembly.script("uPlot.iife.min.js"),
        "PROGRAM": assembly.script(*PROGRAM),
    }
    return assembly.filled("run.html", parts)


def room_for(run: Run, analyses: Analyses, max_bytes: int) -> int:
    """How many frames fit into the page."""
    n_flow = 0 if analyses.flow is None else len(analyses.flow.labels) ** 2
    n_bonds = 0 if analyses.charge_flow is None else len(analyses.charge_flow.bonds)
    numbers = run.n_atoms * (3 + len(atom_fields(run))) + 12 + n_flow + n_bonds
    per_frame = 8 / 3 * numbers + 12  # two bytes a number, and base64
    return int(min(MAX_FRAMES, max(2, (max_bytes - FIXED_BYTES) / per_frame)))


def structure_data(run: Run, kept: NDArray[np.int64], positions: Floats, hold: Held | None) -> dict[str, Any]:
    """Atoms, time and cell of the frames drawn; molecules are held in place."""
    if hold is not None:
        positions = np.stack([hold(frame, k) for k, frame in enumerate(positions)])
    cells = taken(run.cells, kept) if run.pbc.any() else None
    fixed = cells is not None and bool(np.abs(cells - cells[0]).max() < 1e-6)
    view = principal_view(run.numbers, positions[0])
    symbols = [chemical_symbols[z] for z in run.numbers]
    times = np.asarray(run.times)[kept]
    digits = next((d for d in range(3) if np.allclose(np.round(times, d), times, rtol=0, atol=1e-6)), 3)
    return {
        "names": [f"{symbol}{i}" for i, symbol in enumerate(symbols)],
        "symbols": symbols,
        "radii": [float(radius) for radius in covalent_radii[run.numbers]],
        "reach": BOND_REACH,
        "turn": assembly.quaternion(view.axes),
        "total": run.n_frames,
        "kept": None if len(kept) == run.n_frames else kept.tolist(),
        "unit": run.time_unit,
        "times": [short(time, 9) for time in times],
        "timeDigits": digits,
        "positions": packed(positions),
        "cell": None if cells is None else packed(cells[:1] if fixed else cells),
        "cellFixed": fixed,
        "heldNote": "" if hold is None else "Shown without its translation and rotation.",
    }


def series_data(
    run: Run, kept: NDArray[np.int64], charts: list[Curves], series: list[AtomSeries], groups: Members
) -> dict[str, Any]:
    """Curves of the whole system, atomic fields, and the ways to color atoms by them."""
    panels = []
    for chart in charts:
        drawn = [
            {"name": name, **look_of(place, KIND_COLORS), "data": packed(values[kept])}
            for place, (name, values) in enumerate(chart.drawn.items())
        ]
        panels.append({"title": chart.label, "units": chart.units, "series": drawn, "digits": 4})
    views = [view_data(place, view) for place, one in enumerate(series) for view in one.views]
    return {
        "panels": panels,
        "fields": [field_data(one, len(kept)) for one in series],
        "views": [*views, *categories(run, groups)],
    }


def field_data(series: AtomSeries, n_frames: int) -> dict[str, Any]:
    record = series.record
    name = f"latent {record.target}" if record.gauge == "dependent" else record.target
    which = "groups and atoms" if series.adds_up else "groups (mean over their atoms) and atoms"
    return {
        "id": series.name,
        "title": f"{name} of {which}" + (" − mean over the run" if series.relative else ""),
        "units": record.units,
        "combine": "sum" if series.adds_up else "mean",
        "relative": series.relative,
        "means": [short(value) for value in np.nan_to_num(series.means)],
        "at": None if len(series.at) == n_frames else series.at.tolist(),
        "data": packed(series.rows),
    }


def view_data(field: int, view: View) -> dict[str, Any]:
    return {
        "field": field,
        "name": view.name,
        "short": view.series.record.target.partition(" of ")[0],
        "minus": None if view.shift is None else [short(value) for value in np.nan_to_num(view.shift)],
        "units": view.series.record.units,
        "words": view.words,
        "gaps": view.series.n_unknown > 0,
        **scale_data(view.scale),
    }


def categories(run: Run, groups: Members) -> list[dict[str, Any]]:
    """Colors that tell groups and elements apart, the same in every frame."""
    by_atom = np.zeros(run.n_atoms, dtype=int)
    entries = []
    for place, (name, atoms) in enumerate(groups.items()):
        color = int(look_of(place, KIND_COLORS)["color"][1:], 16)
        by_atom[list(atoms)] = color
        entries.append([name, color])
    jmol = [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in np.rint(255 * jmol_colors[run.numbers])]
    elements = {chemical_symbols[z]: color for z, color in zip(run.numbers, jmol, strict=True)}
    about: dict[str, Any] = {"field": -1, "short": "", "minus": None, "units": "1"}
    again = " Colors repeat." if len(groups) > len(KIND_COLORS) else ""
    return [
        {
            **about,
            "name": "group",
            "words": f"One color for each group.{again}",
            "colors": by_atom.tolist(),
            "entries": entries,
        },
        {**about, "name": "element", "words": "Jmol's colors.", "colors": jmol, "entries": list(elements.items())},
    ]


def picture_of(run: Run, series: list[AtomSeries], formula: str) -> tuple[str, str]:
    """The first frame in the first colors, as a PNG picture, and what it shows."""
    for view in (view for one in series for view in one.views):
        record = view.record(view.series.record)
        return assembly.png_text(molecule(record, scale=view.scale)), f"{view.name} of {formula}, first frame"
    raise ValueError("the run has no field with one number for each atom. Record energies or charges.")


def extent(run: Run) -> str:
    """ "2,001 frames over 2 ps"."""
    span = float(run.times[-1] - run.times[0])
    frames = f"{run.n_frames:,} frame{'s' * (run.n_frames != 1)}"
    if run.time_unit != "fs":
        return f"{frames}"
    return f"{frames} over {span / 1000:.4g} ps" if span >= 1000 else f"{frames} over {span:.4g} fs"


def thinned(run: Run, kept: NDArray[np.int64]) -> str:
    """How many frames are drawn."""
    if len(kept) == run.n_frames:
        return f"all {run.n_frames:,} frames" if run.n_frames > 1 else "1 frame"
    return f"{len(kept):,} of {run.n_frames:,} frames, evenly spaced ones and those of events"


def provenance(run: Run, series: list[AtomSeries], kept: NDArray[np.int64]) -> list[tuple[str, str]]:
    """What the numbers come from, as names and texts."""
    about = run.about
    rows = [("model", about.model), ("weights (SHA-256)", about.model_id or "not stated")]
    rows.append(("calculator", "; ".join(f"{name} {value}" for name, value in about.calculator.items())))
    rows += [
        ("total charge", f"{about.total_charge:g} e"),
        ("frames", f"{thinned(run, kept)} drawn; {extent(run)} recorded"),
    ]
    for one in series:
        r = one.record
        text = f"{colors.quantity(r)} by {r.method}; reference: {r.reference}; gauge: {r.gauge}"
        every = f"; {len(one.steps):,} of {run.n_frames:,} frames" if len(one.steps) != run.n_frames else ""
        rows.append((one.name, text + every))
    rows.append(("units", "energy eV, charge e, dipole e·Å, length Å, time fs"))
    rows += [("recorded", about.created), ("command", about.command)]
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())))
    rows += [
        ("note", note) for note in dict.fromkeys([*about.notes, *(note for one in series for note in one.record.notes)])
    ]
    return [(name, text) for name, text in rows if text]
