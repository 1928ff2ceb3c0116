"""How energy and charge move between atoms: work between groups, and charge along bonds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import checked_groups
from ase_xai.explainers.fragments import BONDED, bonds, components
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


@dataclass(frozen=True, eq=False)
class ChargeFlow:
    """Charge that flows along bonds.

    Args:
        bonds: (B, 2) atoms i < j of each bond.
        times: (L-1,) middle of the interval between two frames, in `time_unit`.
        intervals: (L-1,) their lengths.
        time_unit: "fs" or "step".
        flow: (L-1, B) e per unit of time, from i to j if positive.
        component: (N,) connected component of each atom in the graph of bonds.
        by_component: (L-1, C) e per unit of time, Σ dq/dt of each component: what no bond of it can bring.
        residual: (L-1,) e per unit of time, largest |(Bᵀf)_i - dq_i/dt| after an equal share of `by_component` was taken
            from the rate of each atom: rounding.
        unique: True where the graph has no rings, so that charge conservation fixes the flow; on rings it is the flow of
            smallest Σf², one of many.
    """

    bonds: NDArray[np.int64]
    times: NDArray[np.float64]
    intervals: NDArray[np.float64]
    time_unit: str
    flow: NDArray[np.float64]
    component: NDArray[np.int64]
    by_component: NDArray[np.float64]
    residual: NDArray[np.float64]
    unique: bool
    units: str = "e/fs"
    gauge: str = "dependent"

    @property
    def transferred(self) -> NDArray[np.float64]:
        """(L, B) e, charge that has passed each bond since the first frame."""
        passed = np.cumsum(self.flow * self.intervals[:, None], axis=0)
        return np.concatenate([np.zeros((1, len(self.bonds))), passed])


def flow_on_bonds(charges: ArrayLike, times: ArrayLike, index: ArrayLike, *, time_unit: str = "fs") -> ChargeFlow:
    """The smallest flow along bonds that makes the charges change as they do.

        f = B L⁺ dq/dt,   L = BᵀB,   B_ei = -1 at the first and +1 at the second atom of bond e:     Bᵀf = dq/dt

    dq/dt is the difference between two frames over their distance in time, so that the flow, summed, transfers exactly the
    charge that has moved.

    Args:
        charges: (L, N) e.
        times: (L,) rising.
        index: (B, 2) bonded atoms.
        time_unit: of `times`.

    Raises:
        ValueError: shapes that do not fit, a bond named twice or of an atom with itself, fewer than two frames.

    Source: discrete Hodge theory, e.g. Lim, SIAM Rev. 62, 685 (2020): a gradient flow has no part that runs around rings.
    """
    q, t = np.asarray(charges, dtype=np.float64), np.asarray(times, dtype=np.float64)
    edges = np.sort(np.asarray(index, dtype=np.int64).reshape(-1, 2), axis=1)
    n = q.shape[1] if q.ndim == 2 else 0
    if q.ndim != 2 or t.shape != q.shape[:1] or len(t) < 2 or not (np.diff(t) > 0).all():
        raise ValueError(f"charges must be (L, N) at two or more rising times (L,); got {q.shape} and {t.shape}.")
    if len(edges) and not 0 <= edges.min() <= edges.max() < n:
        raise ValueError(f"bonds name atom {int(edges.max())} or a negative one; atoms are 0 to {n - 1}.")
    if (edges[:, 0] == edges[:, 1]).any() or len(np.unique(edges, axis=0)) != len(edges):
        raise ValueError("bonds join two different atoms, and each stands once; charge cannot flow from an atom to itself.")
    component = components(edges, n)
    rates = np.diff(q, axis=0) / np.diff(t)[:, None]
    sums = np.zeros((len(rates), int(component.max(initial=-1)) + 1))
    np.add.at(sums.T, component, rates.T)
    conserved = rates - (sums / np.bincount(component))[:, component]
    incidence = np.zeros((len(edges), n))
    incidence[np.arange(len(edges)), edges[:, 0]], incidence[np.arange(len(edges)), edges[:, 1]] = -1.0, 1.0
    flow = conserved @ np.linalg.pinv(incidence.T @ incidence, hermitian=True) @ incidence.T
    gap = np.abs(flow @ incidence - conserved).max(axis=1, initial=0.0)
    unique = len(edges) == n - sums.shape[1]
    middle, per = 0.5 * (t[1:] + t[:-1]), f"e/{time_unit}"
    return ChargeFlow(edges, middle, np.diff(t), time_unit, flow, component, sums, gap, unique, units=per)


def charge_flow(run: Run, index: ArrayLike | None = None, *, scale: float = BONDED) -> ChargeFlow:
    """The flow of latent charge along the bonds of a run.

    Args:
        run: with charges.
        index: (B, 2) bonded atoms; None takes those of the first and of the last frame together, which are joined to a ring
            where a proton has moved from one heavy atom to another.
        scale: atoms closer than this times the sum of their covalent radii are bonded.

    Raises:
        ValueError: charges were not recorded.
    """
    charges = run["charges"]
    if index is None:
        ends = [bonds(run.atoms(k), scale)[0] for k in (0, -1)]
        both = np.unique(np.concatenate(ends), axis=0)
        index = both[both[:, 0] < both[:, 1]]
    return flow_on_bonds(charges[...], charges.times, index, time_unit=run.time_unit)
