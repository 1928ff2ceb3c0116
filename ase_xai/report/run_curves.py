"""What every frame of a run has one number of: energy, temperature, size of the dipole ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units as ase_units

from ase_xai.report.colors import Floats
from ase_xai.report.run_data import RUN_MEAN

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Run


@dataclass(frozen=True, eq=False)
class Curves:
    """What every frame has one number of, as curves of one chart.

    Args:
        title, units: of the chart.
        lines: (L,) by name.
        relative: whether they are drawn minus their mean over the run.
    """

    title: str
    units: str
    lines: Mapping[str, Floats]
    relative: bool = False

    @property
    def drawn(self) -> dict[str, Floats]:
        return {name: values - values.mean() * self.relative for name, values in self.lines.items()}

    @property
    def label(self) -> str:
        return self.title + f" − {RUN_MEAN}" * self.relative


def curves(run: Run) -> list[Curves]:
    """Energy, temperature, size of the dipole ...: of every recorded field with one value a frame."""
    found = [name for name in run.fields if run[name].level == "frame" and run[name].shape[0] == run.n_frames]
    charts = []
    if "energy" in found:
        energy = np.asarray(run["energy"], dtype=np.float64)
        lines = {"potential": energy}
        if "kinetic_energy" in found:
            lines["potential + kinetic"] = energy + np.asarray(run["kinetic_energy"])
        charts.append(Curves("energy of all atoms", "eV", lines, relative=True))
    if "kinetic_energy" in found:
        kelvin = 2 * np.asarray(run["kinetic_energy"]) / (3 * run.n_atoms * ase_units.kB)
        charts.append(Curves("temperature of 3N degrees of freedom", "K", {"temperature": kelvin}))
    for name in (name for name in found if name not in ("energy", "kinetic_energy")):
        field = run[name]
        title = name.replace("_", " ")
        if field.shape[1:] == ():
            charts.append(Curves(title, field.units, {title: np.asarray(field, dtype=np.float64)}))
        elif field.shape[1:] == (3,):
            charts.append(Curves(f"size of the {title}", field.units, {title: np.linalg.norm(np.asarray(field), axis=1)}))
    return charts
