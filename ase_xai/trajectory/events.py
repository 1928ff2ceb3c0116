"""What happened when: bonds formed and broken, protons transferred, changes of level, atoms outside the training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.trajectory.changes import change_points
from ase_xai.trajectory.event_table import Event, Events
from ase_xai.trajectory.passages import Frames, Watch, bond_events, proton_transfers
from ase_xai.trajectory.run import Run

__all__ = ["Aligned", "Event", "Events", "alarms", "aligned", "find_events", "frames_of", "level_changes"]

HOLD = 20.0  # fs
KINDS = ("bonds", "protons", "energies", "charges", "validity")
RIGIDITY = ("LocalRigidity", "ExtrapolationFlags")


def find_events(run: Run, kinds: Sequence[str] | None = None, *, hold: float | None = None) -> Events:
    """Everything that happened along a run, as one table.

    Args:
        run: an open run.
        kinds: of `KINDS`: "bonds" and "protons" from positions; "energies" and "charges", changes of the level of an atom;
            "validity", an atom that leaves the training data, from a recorded `LocalRigidity` or `ExtrapolationFlags`. None
            looks for all that the run can tell; `settings["not looked for"]` says why for the others.
        hold: how long a passage must last to count, in the unit of time of the run; None takes 20 fs, or 0 where the run
            counts steps.

    Raises:
        ValueError: an unknown kind, or one that was asked for by name and that the run cannot tell.
    """
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if unknown:
        raise ValueError(f"kinds must be of {', '.join(KINDS)}, got {unknown[0]!r}.")
    hold = (HOLD if run.time_unit == "fs" else 0.0) if hold is None else float(hold)
    searches: dict[str, Callable[[], list[Event]]] = {
        "bonds": lambda: bond_events(frames_of(run), hold=hold),
        "protons": lambda: proton_transfers(frames_of(run), hold=hold),
        "energies": lambda: _level_changes(run, "energies"),
        "charges": lambda: _level_changes(run, "charges"),
        "validity": lambda: _alarms(run),
    }
    found: list[Event] = []
    missed: dict[str, str] = {}
    for kind in KINDS if kinds is None else kinds:
        try:
            found += searches[kind]()
        except ValueError as error:
            if kinds is not None:
                raise
            missed[kind] = str(error)
    looked = [kind for kind in (KINDS if kinds is None else kinds) if kind not in missed]
    return Events(tuple(found), run.time_unit, {"hold": hold, "looked for": looked, "not looked for": missed})


def frames_of(run: Run) -> Frames:
    """Times and positions of a run, as searches for events read them."""
    pbc = (bool(run.pbc[0]), bool(run.pbc[1]), bool(run.pbc[2]))
    cells = run.cells if any(pbc) else None
    return Frames(run.numbers, run.steps, run.times, run.positions, cells, pbc)


def level_changes(
    values: ArrayLike, steps: ArrayLike, times: ArrayLike, kind: str, units: str = "", **settings: Any
) -> list[Event]:
    """Lasting changes of the level of each atom's series.

    Args:
        values: (L, N).
        steps, times: (L,).
        kind: of the events.
        units: of the values.
        settings: of `change_points`.
    """
    rows, when, clock = np.asarray(values, dtype=np.float64), np.asarray(steps), np.asarray(times)
    unit = f" ({units})" if units else ""
    return [
        Event(
            int(when[change.index]),
            float(clock[change.index]),
            kind,
            (atom,),
            {f"before{unit}": change.before, f"after{unit}": change.after},
        )
        for atom in range(rows.shape[1])
        for change in change_points(rows[:, atom], **settings)
    ]


def alarms(inside: ArrayLike, steps: ArrayLike, times: ArrayLike, *, hold: float = 0.0) -> list[Event]:
    """Atoms that leave the training data, and that come back.

    Args:
        inside: (L, N) whether each atom's surroundings are like those of training, see `ExtrapolationFlags`.
        steps, times: (L,).
        hold: how long it must last to count.
    """
    rows, when, clock = np.asarray(inside, dtype=bool), np.asarray(steps), np.asarray(times, dtype=np.float64)
    watch = Watch(np.zeros(rows.shape[1], dtype=bool), 0.5, 0.5, hold)
    events = []
    for time, row in zip(clock.tolist(), rows, strict=True):
        for atom, start, is_out in watch.update(time, (~row).astype(float)):
            kind = "outside training data" if is_out else "inside training data again"
            events.append(Event(int(when[start]), float(clock[start]), kind, (atom,)))
    return events


def _level_changes(run: Run, name: str) -> list[Event]:
    field = run[name]
    return level_changes(field[...], field.steps, field.times, f"change of {name}", field.units)


def _alarms(run: Run) -> list[Event]:
    names = [name for name in run.fields if run[name].method in RIGIDITY and "mask" in run[name].spec.extras]
    if not names:
        raise ValueError(
            "the run holds nothing that tells which atoms are unlike the training data. Record it with "
            'explainers={"lpr": (LocalRigidity(), 50)}.'
        )
    field = run[names[0]]
    return alarms(field.extra("mask")[...], field.steps, field.times)


@dataclass(frozen=True, eq=False)
class Aligned:
    """A series averaged over what surrounds events.

    Args:
        lags: (W,) time after the event, in the unit of the series' times.
        mean: (W, ...) of the series.
        error: (W, ...) one standard deviation of the mean, the events being independent; NaN for one event.
        n: number of events with a whole window.
    """

    lags: NDArray[np.float64]
    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    n: int


def aligned(series: ArrayLike, times: ArrayLike, events: Sequence[Event], *, window: float = 200.0) -> Aligned:
    """The mean of a series around events, from `window` before to `window` after each.

    Args:
        series: (L, ...).
        times: (L,) at equal intervals.
        events: at times of the series, to half an interval; those nearer than `window` to an end are left out.
        window: in the unit of the times.

    Raises:
        ValueError: no event with a whole window, or intervals that are not equal.
    """
    rows, clock = np.asarray(series, dtype=np.float64), np.asarray(times, dtype=np.float64)
    steps = np.diff(clock)
    if len(rows) != len(clock) or not len(steps) or not np.allclose(steps, steps[0], rtol=1e-6):
        raise ValueError("aligned means need one row for each of at least two times at equal intervals.")
    width = int(window // steps[0])
    places = [round((event.time - clock[0]) / steps[0]) for event in events]
    whole = [k for k in places if width <= k < len(rows) - width]
    if not whole:
        raise ValueError(
            f"none of {len(places)} events has {window:g} of the series before and after it. Take a smaller window."
        )
    cut = np.stack([rows[k - width : k + width + 1] for k in whole])
    spread = cut.std(axis=0, ddof=1) / np.sqrt(len(cut)) if len(cut) > 1 else np.full(cut.shape[1:], np.nan)
    return Aligned(steps[0] * np.arange(-width, width + 1), cut.mean(axis=0), spread, len(whole))
