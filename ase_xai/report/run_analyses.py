"""All that a recorded run can tell by itself, and all its figures at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_xai.report.run_data import Members, atom_fields
from ase_xai.report.run_figures import carpet, event_curves, group_curves, infrared_by_group
from ase_xai.report.run_flows import charge_transfer, flow_matrix
from ase_xai.trajectory.bond_flow import ChargeFlow, charge_flow
from ase_xai.trajectory.event_table import Events
from ase_xai.trajectory.events import find_events
from ase_xai.trajectory.flow import EnergyFlowResult, energy_flow
from ase_xai.trajectory.groups import groups_of
from ase_xai.trajectory.run import Run
from ase_xai.trajectory.spectra import Spectrum, infrared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")
FLOW_NUMBERS = 20_000_000  # charges that their flow is made of; of longer runs, evenly spaced frames
SEGMENT = 2000.0  # fs, of a spectrum: a resolution of about 24 /cm


@dataclass(frozen=True)
class Analyses:
    """Analyses of one run; None where there is none.

    Args:
        events: of `trajectory.find_events`.
        flow: of `trajectory.energy_flow`.
        charge_flow: of `trajectory.charge_flow`.
        spectrum: of `trajectory.infrared`.
        missing: why the run does not allow one, by its name.
    """

    events: Events | None = None
    flow: EnergyFlowResult | None = None
    charge_flow: ChargeFlow | None = None
    spectrum: Spectrum | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def analyze(run: Run, groups: Members | None = None) -> Analyses:
    """Events, flows of energy and charge, and infrared spectrum, as far as the run holds what they need.

        write_run_page(run, "run.html", analyses=analyze(run))

    Args:
        run: an open run.
        groups: atoms by name; None takes those of the run, or its elements.
    """
    searches: dict[str, Callable[[], Any]] = {
        "events": lambda: find_events(run),
        "flow": lambda: energy_flow(run, groups),
        "charge_flow": lambda: charge_flow(run, step=max(1, run.n_frames * run.n_atoms // FLOW_NUMBERS)),
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
    analyses: Analyses | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write all figures of a run into `folder`, each in all `formats`; returns their paths.

    Args:
        run, groups, analyses: see `write_run_page`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _figures(run, groups, analyses or Analyses()):
        for ending in formats:
            paths.append(folder / f"{name}.{ending}")
            figure.savefig(paths[-1])
    return paths


def _figures(run: Run, groups: Members | None, analyses: Analyses) -> Iterator[tuple[str, Figure]]:
    events = analyses.events
    for name in atom_fields(run):
        yield f"carpet-{name}", carpet(run, name, groups=groups, events=events)
        yield f"groups-{name}", group_curves(run, name, groups=groups, events=events)
        if events:
            yield f"events-{name}", event_curves(run, events, name)
    if analyses.flow is not None:
        yield "energy-flow", flow_matrix(analyses.flow)
    between = None if analyses.charge_flow is None else analyses.charge_flow.between(groups_of(run, groups))
    if between is not None and len(between.pairs):
        yield "charge-flow", charge_transfer(between)
    if analyses.spectrum is not None:
        yield "infrared", infrared_by_group(analyses.spectrum)
