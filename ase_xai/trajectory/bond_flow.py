"""How charge moves along bonds, and with it between groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import checked_groups
from ase_xai.explainers.fragments import BONDED, bonds, components
from ase_xai.trajectory.groups import Groups, summed
from ase_xai.trajectory.run import Run


@dataclass(frozen=True, eq=False)
class ChargeFlow:
    """Charge that flows along bonds.

    Args:
        bonds: (B, 2) atoms i < j of each bond.
        frames: (L,) times of the frames, in `time_unit`.
        time_unit: "fs" or "step".
        flow: (L-1, B) e per unit of time, from i to j if positive.
        component: (N,) connected component of each atom in the graph of bonds.
        by_component: (L-1, C) e per unit of time, Σ dq/dt of each component: what no bond of it can bring.
        residual: (L-1,) e per unit of time, largest |(Bᵀf)_i - dq_i/dt| after an equal share of `by_component` was taken
            from the rate of each atom: rounding.
        changes: (L, N) e, q(t) - q(0) of the recorded charges.
        unique: True where the graph has no rings, so that charge conservation fixes the flow; on rings it is the flow of
            smallest Σf², one of many.
    """

    bonds: NDArray[np.int64]
    frames: NDArray[np.float64]
    time_unit: str
    flow: NDArray[np.float64]
    component: NDArray[np.int64]
    by_component: NDArray[np.float64]
    residual: NDArray[np.float64]
    changes: NDArray[np.float64]
    unique: bool
    units: str = "e/fs"
    gauge: str = "dependent"

    @property
    def times(self) -> NDArray[np.float64]:
        """(L-1,) middle of the interval between two frames, in `time_unit`: where `flow` belongs."""
        return np.asarray(0.5 * (self.frames[1:] + self.frames[:-1]))

    @property
    def intervals(self) -> NDArray[np.float64]:
        """(L-1,) in `time_unit`."""
        return np.diff(self.frames)

    @cached_property
    def transferred(self) -> NDArray[np.float64]:
        """(L, B) e, charge that has passed each bond since the first frame."""
        passed = np.cumsum(self.flow * self.intervals[:, None], axis=0)
        return np.concatenate([np.zeros((1, len(self.bonds))), passed])

    def between(self, groups: Groups) -> GroupTransfer:
        """The charge that has passed from group to group along the bonds that join them.

        Args:
            groups: atoms by name, a partition.
        """
        n = self.changes.shape[1]
        checked_groups(groups, n)
        labels, member = tuple(groups), np.empty(n, dtype=np.int64)
        for place, atoms in enumerate(groups.values()):
            member[list(atoms)] = place
        ends = member[self.bonds]
        across = ends[:, 0] != ends[:, 1]
        pairs, which = np.unique(np.sort(ends[across], axis=1), axis=0, return_inverse=True)
        sign = np.where(ends[across, 0] < ends[across, 1], 1.0, -1.0)
        passed = np.zeros((len(self.frames), len(pairs)))
        np.add.at(passed.T, which.reshape(-1), (self.transferred[:, across] * sign).T)
        brought = np.zeros((len(self.frames), len(labels)))
        np.add.at(brought.T, pairs[:, 1], passed.T)
        np.subtract.at(brought.T, pairs[:, 0], passed.T)
        changes = summed(self.changes, groups)
        forest = len(pairs) == len(labels) - len(set(components(pairs, len(labels)).tolist()))
        return GroupTransfer(labels, pairs, self.frames, self.time_unit, passed, changes, brought - changes, forest)


@dataclass(frozen=True, eq=False)
class GroupTransfer:
    """Charge that has passed between groups along bonds since the first frame.

    Args:
        labels: of the groups.
        pairs: (P, 2) groups g < h that bonds join, as places in `labels`.
        times: (L,) in `time_unit`.
        time_unit: "fs" or "step".
        passed: (L, P) e, net charge from g to h.
        changes: (L, G) e, Q_G(t) - Q_G(0) of the recorded charges.
        residual: (L, G) e, what bonds brought to a group minus its change. In a molecule whose total charge is kept this is
            rounding; between molecules a network can move charge through space, along no bond.
        unique: True where the groups are joined to no ring, so that conservation alone fixes `passed`.
    """

    labels: tuple[str, ...]
    pairs: NDArray[np.int64]
    times: NDArray[np.float64]
    time_unit: str
    passed: NDArray[np.float64]
    changes: NDArray[np.float64]
    residual: NDArray[np.float64]
    unique: bool
    units: str = "e"
    gauge: str = "dependent"

    @property
    def names(self) -> list[str]:
        """(P,) "g → h"."""
        return [f"{self.labels[g]} → {self.labels[h]}" for g, h in self.pairs]

    @property
    def closure(self) -> float:
        """Largest |residual| in e: charge of a group that came or went along no bond."""
        return float(np.abs(self.residual).max(initial=0.0))


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
    flow = np.zeros((len(rates), len(edges)))
    place = component[edges[:, 0]]
    for c in np.unique(place):
        inside, own = place == c, np.flatnonzero(component == c)
        flow[:, inside] = _potential_flow(conserved[:, own], np.searchsorted(own, edges[inside]))
    brought = np.zeros_like(rates)
    np.add.at(brought.T, edges[:, 1], flow.T)
    np.subtract.at(brought.T, edges[:, 0], flow.T)
    gap = np.abs(brought - conserved).max(axis=1, initial=0.0)
    unique = len(edges) == n - sums.shape[1]
    return ChargeFlow(edges, t, time_unit, flow, component, sums, gap, q - q[:1], unique, units=f"e/{time_unit}")


def _potential_flow(rates: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """(L, B) f = B φ with (BᵀB + 11ᵀ/n) φ = dq/dt in one connected component: φ = L⁺ dq/dt, as the rates sum to 0."""
    n = rates.shape[1]
    matrix = np.full((n, n), 1.0 / n)
    first, second = edges.T
    for i, j, sign in ((first, first, 1.0), (second, second, 1.0), (first, second, -1.0), (second, first, -1.0)):
        np.add.at(matrix, (i, j), sign)
    potential = np.linalg.solve(matrix, rates.T)
    return np.asarray((potential[second] - potential[first]).T)


def charge_flow(run: Run, index: ArrayLike | None = None, *, scale: float = BONDED, step: int = 1) -> ChargeFlow:
    """The flow of latent charge along the bonds of a run.

    Args:
        run: with charges.
        index: (B, 2) bonded atoms; None takes those of the first and of the last frame together, which are joined to a ring
            where a proton has moved from one heavy atom to another.
        scale: atoms closer than this times the sum of their covalent radii are bonded.
        step: take every so many frames; up to them the same charge has passed, as the flow is linear in the charges.

    Raises:
        ValueError: charges were not recorded.
    """
    charges = run["charges"]
    if index is None:
        ends = [bonds(run.atoms(k), scale)[0] for k in (0, -1)]
        both = np.unique(np.concatenate(ends), axis=0)
        index = both[both[:, 0] < both[:, 1]]
    return flow_on_bonds(charges[::step], charges.times[::step], index, time_unit=run.time_unit)
