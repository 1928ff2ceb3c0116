"""Lasting passages between two levels: bonds that form and break, protons that change their owner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from ase_xai.trajectory.event_table import Event

FORMED, BROKEN = 1.15, 1.45  # times the sum of the covalent radii
MARGIN = 0.2  # Å
BETWEEN = ("N", "O", "F", "S", "Cl")
BLOCK = 1 << 21  # distances computed at a time


class Watch:
    """Many signals watched at once for lasting passages between two levels.

    A signal is low or high. A low one becomes high when it has stayed above `high` without a break for `hold`, a high one
    low when it has stayed below `low`. The passage is dated at the first moment of that stay.

    Args:
        is_high: (S,) state at the start.
        low, high: levels, low ≤ high.
        hold: time.
    """

    def __init__(self, is_high: NDArray[np.bool_], low: float, high: float, hold: float) -> None:
        self.is_high, self.low, self.high, self.hold = is_high.copy(), low, high, hold
        self.since = np.full(len(is_high), -1)
        self.value = np.full(len(is_high), np.nan)  # at that moment
        self.times: list[float] = []

    def update(self, time: float, values: NDArray[np.float64]) -> list[tuple[int, int, bool]]:
        """Look at the (S,) values of the next moment: (signal, number of the moment of the date, now high) of passages."""
        self.times.append(time)
        over = np.where(self.is_high, values < self.low, values > self.high)
        self.since[~over] = -1
        begins = over & (self.since < 0)
        self.since[begins], self.value[begins] = len(self.times) - 1, values[begins]
        passed = []
        for signal in np.flatnonzero(over):
            start = int(self.since[signal])
            if time - self.times[start] >= self.hold:
                self.is_high[signal] = not self.is_high[signal]
                self.since[signal] = -1
                passed.append((int(signal), start, bool(self.is_high[signal])))
        return passed


@dataclass(frozen=True, eq=False)
class Frames:
    """What events are found in: times and positions, read block by block.

    Args:
        numbers: (N,) atomic numbers.
        steps, times: (L,).
        positions: (L, N, 3) Å, an array or a field of a run.
        cells: (L, 3, 3) Å, or None for open systems.
        pbc: (3,).
    """

    numbers: NDArray[np.int64]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    positions: Any
    cells: Any = None
    pbc: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        n_frames, n_atoms = len(self.times), len(self.numbers)
        if tuple(self.positions.shape) != (n_frames, n_atoms, 3) or len(self.steps) != n_frames:
            raise ValueError(
                f"positions must have shape ({n_frames}, {n_atoms}, 3), one frame for each time and step; got "
                f"{tuple(self.positions.shape)}."
            )
        if any(self.pbc) and self.cells is None:
            raise ValueError(f"pbc is {list(self.pbc)}, but there are no cells. Give the cell of each frame.")

    @property
    def reach(self) -> float:
        """Å, the longest distance that matters."""
        return 2 * BROKEN * float(covalent_radii[self.numbers].max(initial=0.0))

    def distances(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """(P,) distances in Å between atoms, to the nearest image, frame after frame."""
        n = max(1, BLOCK // max(1, len(first)))
        for start in range(0, len(self.times), n):
            block = np.asarray(self.positions[start : start + n], dtype=np.float64)
            vectors = block[:, second] - block[:, first]
            if not any(self.pbc):
                yield from np.sqrt(np.einsum("lpa,lpa->lp", vectors, vectors))
                continue
            cells = np.asarray(self.cells[start : start + n], dtype=np.float64)
            for frame, cell in zip(vectors, cells, strict=True):
                yield np.linalg.norm(nearest(frame, cell, self.pbc, self.reach), axis=1)


def nearest(
    vectors: NDArray[np.float64], cell: NDArray[np.float64], pbc: Sequence[bool], reach: float
) -> NDArray[np.float64]:
    """(P, 3) images of vectors in Å; those with an image shorter than `reach` are the shortest ones.

    Rounding in a reduced cell finds every image shorter than half of its smallest height; in smaller cells the neighbors of
    that image are searched as well.

    Source: Minkowski reduction as in `ase.geometry.minkowski_reduce`.
    """
    reduced = np.asarray(minkowski_reduce(cell, pbc)[0])[list(pbc)]
    inverse = np.linalg.pinv(reduced)
    vectors = vectors - np.round(vectors @ inverse) @ reduced
    if 0.5 / np.linalg.norm(inverse, axis=0).max() > reach:
        return vectors
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * len(reduced), indexing="ij"), axis=-1).reshape(-1, len(reduced))
    best, shortest = vectors, (vectors**2).sum(axis=1)
    for shift in steps @ reduced:
        moved = vectors + shift
        squares = (moved**2).sum(axis=1)
        best, shortest = np.where((squares < shortest)[:, None], moved, best), np.minimum(squares, shortest)
    return best


def bond_events(frames: Frames, *, hold: float, formed: float = FORMED, broken: float = BROKEN) -> list[Event]:
    """Bonds formed and broken: between two atoms, or an atom and the nearest image of another.

    Args:
        frames: where to look.
        hold: a passage counts when it lasts this long, in the unit of the times.
        formed, broken: a bond forms below `formed` and breaks above `broken` times the sum of the covalent radii. Between
            the two, what is stays; at the start the middle decides.

    Source: radii of Cordero et al., Dalton Trans. 2008, 2832, in `ase.data.covalent_radii`.
    """
    if not 0 < formed < broken:
        raise ValueError(
            f"formed must be positive and below broken, got {formed} and {broken}. Usual are {FORMED}, {BROKEN}."
        )
    first, second = np.triu_indices(len(frames.numbers), 1)
    usual = covalent_radii[frames.numbers[first]] + covalent_radii[frames.numbers[second]]
    events: list[Event] = []
    watch: Watch | None = None
    for time, distances in zip(frames.times.tolist(), frames.distances(first, second), strict=True):
        ratio = distances / usual
        watch = watch or Watch(ratio > 0.5 * (formed + broken), formed, broken, hold)
        for pair, start, is_broken in watch.update(time, ratio):
            kind = "bond broken" if is_broken else "bond formed"
            atoms = (int(first[pair]), int(second[pair]))
            payload = {"distance (Å)": float(watch.value[pair] * usual[pair])}
            events.append(Event(int(frames.steps[start]), float(frames.times[start]), kind, atoms, payload))
    return events


def proton_transfers(
    frames: Frames, *, hold: float, margin: float = MARGIN, between: Sequence[str] = BETWEEN
) -> list[Event]:
    """Hydrogen atoms that go from one heavy atom D to another one A.

    A hydrogen atom belongs to the nearest heavy atom of the first frame. It goes to A when ξ = r_DH - r_AH > 0 without a
    break for `hold`, A being the nearest one all the time, and ξ exceeds `margin` within that stay. The transfer is dated at
    the first frame of the stay: where ξ changes its sign.

    Args:
        frames: where to look.
        hold: see above, in the unit of the times.
        margin: Å; ξ that only trembles around zero means a shared proton and no transfer.
        between: elements of D and A.
    """
    numbers = frames.numbers
    heavy = np.flatnonzero(np.isin(numbers, [atomic_numbers[symbol] for symbol in between]))
    protons = np.flatnonzero(numbers == 1)
    if len(heavy) < 2 or not len(protons):
        return []
    events: list[Event] = []
    watch: _Owners | None = None
    usual = covalent_radii[1] + covalent_radii[numbers[heavy]]
    first, second = np.repeat(protons, len(heavy)), np.tile(heavy, len(protons))
    for time, distances in zip(frames.times.tolist(), frames.distances(first, second), strict=True):
        table = distances.reshape(len(protons), len(heavy))
        watch = watch or _Owners(table, table.min(axis=1) < BROKEN * usual[table.argmin(axis=1)], hold, margin)
        for row, start, donor, acceptor in watch.update(time, table):
            payload = {"largest r_DH - r_AH within hold (Å)": float(watch.peak[row])}
            atoms = (int(protons[row]), int(heavy[donor]), int(heavy[acceptor]))
            events.append(Event(int(frames.steps[start]), float(frames.times[start]), "proton transfer", atoms, payload))
    return events


class _Owners:
    """Which heavy atom each hydrogen atom belongs to.

    Args:
        table: (P, A) distances at the start.
        watched: (P,) whether the atom is bonded to one of them at all.
        hold, margin: see `proton_transfers`.
    """

    def __init__(self, table: NDArray[np.float64], watched: NDArray[np.bool_], hold: float, margin: float) -> None:
        self.owner, self.watched, self.hold, self.margin = table.argmin(axis=1), watched, hold, margin
        self.other = self.owner.copy()
        self.since = np.full(len(table), -1)
        self.peak = np.zeros(len(table))
        self.times: list[float] = []

    def update(self, time: float, table: NDArray[np.float64]) -> list[tuple[int, int, int, int]]:
        """(row, number of the moment it is dated at, old, new owner) of each transfer that is now certain."""
        self.times.append(time)
        rows = np.arange(len(table))
        closest = table.argmin(axis=1)
        away = self.watched & (closest != self.owner)
        fresh = away & ((self.since < 0) | (closest != self.other))
        self.since[fresh], self.other[fresh], self.peak[fresh] = len(self.times) - 1, closest[fresh], 0.0
        self.since[~away] = -1
        self.peak = np.maximum(self.peak, table[rows, self.owner] - table[rows, closest])
        found = []
        for row in np.flatnonzero(away & (self.peak > self.margin)):
            start = int(self.since[row])
            if time - self.times[start] >= self.hold:
                found.append((int(row), start, int(self.owner[row]), int(closest[row])))
                self.owner[row], self.since[row] = closest[row], -1
        return found
