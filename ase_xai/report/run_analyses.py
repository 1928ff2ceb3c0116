"""All that a recorded run can tell by itself, and all its figures at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_xai.report.run_data import Members, atom_fields
from ase_xai.report.run_figures import carpet, event_curves, flow_matrix, group_curves, infrared_by_group
from ase_xai.trajectory.event_table import Events
from ase_xai.trajectory.events import find_events
from ase_xai.trajectory.flow import EnergyFlowResult, energy_flow
from ase_xai.trajectory.run import Run
from ase_xai.trajectory.spectra import Spectrum, infrared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")
SEGMENT = 2000.0  # fs, of a spectrum: a resolution of about 24 /cm


@dataclass(frozen=True)
class Analyses:
    """Analyses of one run; None where the run does not hold what one needs.

    Args:
        events, flow, spectrum: see `write_run_page`.
        missing: why one is None, by its name.
    """

    events: Events | None
    flow: EnergyFlowResult | None
    spectrum: Spectrum | None
    missing: Mapping[str, str]

    @property
    def found(self) -> dict[str, Any]:
        """Arguments of `write_run_page` and `write_run_figures`."""
        return {"events": self.events, "flow": self.flow, "spectrum": self.spectrum}


def analyze(run: Run, groups: Members | None = None) -> Analyses:
    """Events, energy flow and infrared spectrum, as far as the run holds what they need.

        write_run_page(run, "run.html", **analyze(run).found)

    Args:
        run: an open run.
        groups: atoms by name; None takes those of the run, or its elements.
    """
    searches: dict[str, Callable[[], Any]] = {
        "events": lambda: find_events(run),
        "flow": lambda: energy_flow(run, groups),
        "spectrum": lambda: _spectrum(run, groups),
    }
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, search in searches.items():
        try:
            found[name] = search()
        except ValueError as error:  # each names what was not recorded
            found[name] = None
            missing[name] = str(error)
    return Analyses(**found, missing=missing)


def _spectrum(run: Run, groups: Members | None) -> Spectrum:
    """By group where the rates of the dipole were recorded, else of the dipole; from segments of 2 ps, so it has errors."""
    segments = max(1, int((run.times[-1] - run.times[0]) // SEGMENT)) if run.n_frames else 1
    if "dipole_rate" in run.fields:
        return infrared(run, groups, n_segments=segments)
    return infrared(run, source="dipole", n_segments=segments)


def write_run_figures(
    run: Run,
    folder: str | Path,
    *,
    groups: Members | None = None,
    spectrum: Spectrum | None = None,
    events: Events | None = None,
    flow: EnergyFlowResult | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write all figures of a run into `folder`, each in all `formats`; returns their paths.

    Args:
        run, groups, spectrum, events, flow: see `write_run_page`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _figures(run, groups, spectrum, events, flow):
        for ending in formats:
            paths.append(folder / f"{name}.{ending}")
            figure.savefig(paths[-1])
    return paths


def _figures(
    run: Run, groups: Members | None, spectrum: Spectrum | None, events: Events | None, flow: EnergyFlowResult | None
) -> Iterator[tuple[str, Figure]]:
    for field in atom_fields(run):
        yield f"carpet-{field}", carpet(run, field, groups=groups, events=events)
        yield f"groups-{field}", group_curves(run, field, groups=groups, events=events)
        if events:
            yield f"events-{field}", event_curves(run, events, field)
    if flow is not None:
        yield "energy-flow", flow_matrix(flow)
    if spectrum is not None:
        yield "infrared", infrared_by_group(spectrum)
