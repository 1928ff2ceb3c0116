"""Frames of a run as ASE's atoms and as explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.trajectory.layout import MAIN, RESULTS

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Run

ARRAY_NAMES = {"energies": "xai_energy", "charges": "xai_charge"}
NO_ARRAYS = ("forces", "velocities")


def frame_atoms(run: Run, k: int) -> Atoms:
    """Frame `k`, see `Run.atoms`."""
    atoms = Atoms(run.numbers, run.positions[k], cell=run.cells[k], pbc=run._pbc[k])
    atoms.info["step"] = int(run.steps[k])
    if run.time_unit == "fs":
        atoms.info["time_fs"] = float(run.times[k])
    if run.about.total_charge:
        atoms.info["charge"] = run.about.total_charge
    results: dict[str, Any] = {}
    for name in run.fields:
        field = run[name]
        if name in RESULTS and field.spec.track == MAIN:
            results[name] = np.asarray(field[k], dtype=np.float64)
        fits = field.level == "atom" and field.ndim <= 3  # writers of structure files know rows of numbers only
        if fits and name not in NO_ARRAYS and run.steps[k] in field.steps:
            values = results[name] if name in results else np.asarray(field[field.row(k)], dtype=np.float64)
            atoms.set_array(ARRAY_NAMES.get(name, f"xai_{name}"), values)
    if "velocities" in results:
        atoms.set_velocities(results.pop("velocities") / units.fs)
    results.pop("kinetic_energy", None)
    if "energies" in results:
        results["energies"] = results["energies"] + run.references
    results["energy"] = float(results["energy"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def frame_explanation(run: Run, name: str, k: int, reference: str | None) -> Explanation:
    """What was recorded as `name` of frame `k`, see `Run.explanation`."""
    field = run[name]
    spec = field.spec
    if spec.level == "frame":
        raise ValueError(f"{name} is one value per frame, which explains no atoms. Take run[{name!r}][{k}].")
    row = field.row(k)
    values, stated = np.asarray(field[row], dtype=np.float64), spec.reference
    if reference is not None:
        values, stated = _rereferenced(run, name, values, reference), reference
    extras: dict[str, Any] = {extra: np.asarray(field.extra(extra)[row]) for extra in spec.extras}
    if "residual" in extras:
        extras["residual"] = float(extras["residual"])
    return Explanation(
        target=spec.target,
        level=spec.level,
        values=values,
        units=spec.units,
        method=spec.method,
        numbers=run.numbers,
        positions=run.positions[k],
        cell=run.cells[k],
        pbc=run._pbc[k],
        labels=spec.labels,
        reference=stated,
        gauge=spec.gauge,
        settings=spec.settings,
        baselines=run.baselines if stated == "none" and name == "energies" else {},
        model=run.about.model,
        model_id=run.about.model_id,
        notes=spec.notes,
        **extras,
    )


def _rereferenced(run: Run, name: str, values: NDArray[np.float64], reference: str) -> NDArray[np.float64]:
    known = {"none": np.zeros(run.n_atoms), **run.baselines}
    if name != "energies" or reference not in known:
        raise ValueError(f"{name} cannot be referred to {reference!r}. Atomic energies can, to {', '.join(known)}.")
    return values + run.references - known[reference]


class Frames(Sequence[Atoms]):
    """Atoms of some frames, each read when it is asked for."""

    def __init__(self, run: Run, kept: range) -> None:
        self._run, self._kept = run, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, key: Any) -> Any:
        return Frames(self._run, self._kept[key]) if isinstance(key, slice) else frame_atoms(self._run, self._kept[key])
