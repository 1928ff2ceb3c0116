"""Which atoms make one frame higher in energy than another: differences that sum to ΔE, barriers included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.trajectory.groups import Groups, group_series, groups_of
from ase_xai.trajectory.run import Run


@dataclass(frozen=True, eq=False)
class Difference:
    """The change of energy between two frames, by group.

    Args:
        labels: of the groups.
        values: (G,) eV, E_G(end) - E_G(start).
        total: eV, E(end) - E(start) of the calculator.
        residual: eV, Σ_G values - total: rounding of the recorded atomic energies.
        start, end: numbers of the frames.
        uncertainty: (G,) eV, one standard deviation, an upper bound; None if none was recorded.
        explanation: the same by atom, for pictures and files.
    """

    labels: tuple[str, ...]
    values: NDArray[np.float64]
    total: float
    residual: float
    start: int
    end: int
    uncertainty: NDArray[np.float64] | None
    explanation: Explanation
    units: str = "eV"
    gauge: str = "dependent"

    def __str__(self) -> str:
        rows = [f"{label:>20} {value:+10.4f} eV" for label, value in zip(self.labels, self.values, strict=True)]
        return "\n".join([*rows, f"{'total':>20} {self.total:+10.4f} eV (residual {self.residual:+.1e})"])


def path_difference(run: Run, groups: Groups | None = None, *, start: int = 0, end: int = -1) -> Difference:
    """What each group adds to E(end) - E(start).

    The split depends on how the network splits its energy; the total does not. References cancel.

    Args:
        run: an open run: dynamics, a relaxation, images of a path.
        groups: a partition of the atoms; None takes the recorded ones, or the elements.
        start, end: numbers of frames.

    Raises:
        ValueError: energies were not recorded.
        IndexError: no such frame.
    """
    chosen = groups_of(run, groups)
    by_atom = run.explanation("energies", end) - run.explanation("energies", start)
    by_group = by_atom.by(chosen)
    total = float(run["energy"][end]) - float(run["energy"][start])
    n = len(run)
    return Difference(
        tuple(chosen),
        by_group.values,
        total,
        float(by_group.values.sum()) - total,
        start % n,
        end % n,
        by_group.uncertainty,
        by_atom,
    )


def barrier(run: Run, groups: Groups | None = None, *, backward: bool = False) -> Difference:
    """What each group adds to a barrier: from the lowest frame before the highest one, the saddle, to it.

    Args:
        run: images of a path, such as those of `ase.mep.NEB`, in order.
        groups: a partition of the atoms.
        backward: start from the lowest frame behind the saddle instead.

    Raises:
        ValueError: the highest frame is the first or the last one on its side, so that there is no barrier.
    """
    energy = np.asarray(run["energy"], dtype=np.float64)
    saddle = int(energy.argmax())
    side = energy[saddle:] if backward else energy[: saddle + 1]
    if len(side) < 2:
        where = "last" if backward else "first"
        raise ValueError(f"frame {saddle} is the highest and the {where} one: there is no barrier to climb on this side.")
    start = saddle + int(side.argmin()) if backward else int(side.argmin())
    return path_difference(run, groups, start=start, end=saddle)


@dataclass(frozen=True, eq=False)
class Profile:
    """Group energies along a run relative to one frame.

    Args:
        labels: of the groups.
        times: (L,) in `time_unit`.
        time_unit: "fs" or "step".
        values: (L, G) eV, E_G - E_G(start).
        total: (L,) eV, E - E(start) of the calculator.
        residual: (L,) eV, Σ_G values - total.
    """

    labels: tuple[str, ...]
    times: NDArray[np.float64]
    time_unit: str
    values: NDArray[np.float64]
    total: NDArray[np.float64]
    residual: NDArray[np.float64]
    units: str = "eV"
    gauge: str = "dependent"


def profile(run: Run, groups: Groups | None = None, *, start: int = 0) -> Profile:
    """How the energy of each group rises and falls along a path, relative to frame `start`.

    Raises:
        ValueError: energies were not recorded.
        IndexError: no such frame.
    """
    series = group_series(run, "energies", groups)
    energy = np.asarray(run["energy"], dtype=np.float64)
    values, total = series.values - series.values[start], energy - energy[start]
    return Profile(series.labels, series.times, run.time_unit, values, total, values.sum(axis=1) - total)
