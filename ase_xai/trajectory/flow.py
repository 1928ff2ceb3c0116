"""How energy moves between groups: the work that the motion of one does on the energy of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import checked_groups
from ase_xai.trajectory.groups import Groups, groups_of, summed
from ase_xai.trajectory.run import Run


@dataclass(frozen=True, eq=False)
class EnergyFlowResult:
    """Work that the motion of groups has done on the latent energies of groups since the first frame.

    W depends on how the network splits its energy ("dependent"); its sum over everything, ΔE = -Σ_j ∫F_j·dr_j, does not.

    Args:
        labels: of the groups.
        times: (L,) in `time_unit`.
        time_unit: "fs".
        work: (L, G, H) eV, W_GH: by the motion of H on the energy of G, trapezoidal rule.
        changes: (L, G) eV, E_G(t) - E_G(0) of the recorded energies.
        residual: (L, G) eV, Σ_H W_GH - changes: the error of integrating with this interval between frames, O(dt²).
    """

    labels: tuple[str, ...]
    times: NDArray[np.float64]
    time_unit: str
    work: NDArray[np.float64]
    changes: NDArray[np.float64]
    residual: NDArray[np.float64]
    units: str = "eV"
    gauge: str = "dependent"

    @property
    def total(self) -> NDArray[np.float64]:
        """(L,) Σ_GH W_GH in eV, the work of all forces with the opposite sign: gauge-invariant."""
        return np.asarray(self.work.sum(axis=(1, 2)))

    @property
    def net(self) -> NDArray[np.float64]:
        """(L, G, H) ½ (W_GH - W_HG) in eV: what went from H to G on balance, antisymmetric."""
        return np.asarray(0.5 * (self.work - self.work.transpose(0, 2, 1)))

    @property
    def closure(self) -> float:
        """Largest |residual| over the largest |change| of a group's energy; print it beside every picture of the flow."""
        largest = float(np.abs(self.changes).max(initial=0.0))
        return float(np.abs(self.residual).max(initial=0.0)) / largest if largest > 0 else 0.0


def integrate_flow(
    rates: ArrayLike, times: ArrayLike, energies: ArrayLike, rows: Groups, columns: Groups, *, time_unit: str = "fs"
) -> EnergyFlowResult:
    """Integrate rates of energy change along a run.

        W_GH(t) = ∫₀ᵗ Σ_{j∈H} (∂E_G/∂r_j)·v_j dt'

    Args:
        rates: (L, R, N) eV/fs, of the energies of R finer or equal groups with the motion of N atoms.
        times: (L,) fs.
        energies: (L, N) eV, atomic energies at the same times.
        rows: which of the R rows make up each group G, a partition of 0 .. R-1.
        columns: atoms of each group, a partition of the atoms, with the names of `rows`.
        time_unit: of `times`.

    Raises:
        ValueError: shapes that do not fit, groups that do not partition, or times that do not rise.
    """
    rates, energies, times = np.asarray(rates), np.asarray(energies, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if rates.ndim != 3 or rates.shape[0] != len(times) or energies.shape != (len(times), rates.shape[2]):
        raise ValueError(
            f"rates must have shape (L, R, N), energies (L, N) and times (L,); got {rates.shape}, {energies.shape} and "
            f"{times.shape}."
        )
    checked_groups(rows, rates.shape[1])
    checked_groups(columns, rates.shape[2])
    if tuple(rows) != tuple(columns):
        raise ValueError(f"rows and columns need the same groups, got {tuple(rows)} and {tuple(columns)}.")
    power = summed(summed(rates, rows).transpose(0, 2, 1), columns).transpose(0, 2, 1)  # (L, G, H)
    work = _cumulative(power, times)
    e_groups = summed(energies, columns)
    changes = e_groups - e_groups[:1]
    return EnergyFlowResult(tuple(columns), times, time_unit, work, changes, work.sum(axis=2) - changes)


def _cumulative(rates: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """∫ along the first axis by the trapezoidal rule, zero at the first time."""
    steps = np.diff(times)
    if not (steps > 0).all():
        raise ValueError(f"times must rise from frame to frame; the smallest step is {steps.min():.3g}. Sort the frames.")
    whole = np.zeros_like(rates, dtype=np.float64)
    np.cumsum(0.5 * (rates[1:] + rates[:-1]) * steps.reshape(-1, *[1] * (rates.ndim - 1)), axis=0, out=whole[1:])
    return whole


def energy_flow(run: Run, groups: Groups | None = None, *, field: str = "energy_flow") -> EnergyFlowResult:
    """The work between groups along a run in which `EnergyFlow` was recorded.

    Args:
        run: with energies, and with rates by the explainer `EnergyFlow`.
        groups: a partition of the atoms; None takes the groups that were recorded. They must be unions of those.
        field: name under which the rates were recorded.

    Raises:
        ValueError: not recorded, no time, groups that cut a recorded one, or rates at frames without energies.
    """
    rates = run[field]
    if run.time_unit != "fs":
        raise ValueError(
            f"energy flow needs time, and this run counts in {run.time_unit!r}. Take the differences of frames."
        )
    recorded = {name: tuple(own) for name, own in rates.spec.settings.get("groups", {}).items()}
    if tuple(recorded) != rates.labels:
        raise ValueError(f"{field} was not recorded by EnergyFlow: it does not say which atoms its groups hold.")
    columns = recorded if groups is None else groups_of(run, groups)
    frames = np.searchsorted(run.steps, rates.steps)
    if not np.array_equal(run.steps[np.minimum(frames, len(run) - 1)], rates.steps):
        raise ValueError(f"{field} was recorded at steps that the run has no frames of. Record it again with annotate.")
    return integrate_flow(
        rates[...], rates.times, run["energies"][frames], _unions(recorded, columns), columns, time_unit=run.time_unit
    )


def _unions(finer: Groups, coarser: Groups) -> dict[str, list[int]]:
    """Which of the finer groups make up each of the coarser ones."""
    rows: dict[str, list[int]] = {}
    for name, members in coarser.items():
        inside = set(members)
        rows[name] = [k for k, own in enumerate(finer.values()) if inside.issuperset(own)]
        if sum(len(own) for k, own in enumerate(finer.values()) if k in rows[name]) != len(inside):
            raise ValueError(
                f"group {name!r} cuts a group that was recorded as a whole. Use unions of {list(finer)}, or record "
                "EnergyFlow() by atom."
            )
    return rows
