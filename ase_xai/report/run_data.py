"""What the page and the figures of a run draw: frames, atomic fields with their scales, curves, all read in blocks."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import colors
from ase_xai.report.colors import Floats, Scale

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Field, Run

BLOCK_NUMBERS = 4_000_000  # read at once
SAMPLE_NUMBERS = 8_000_000  # largest number of values that limits of colors are taken from
SUMMED = ("eV", "e")  # units of quantities that add up over the atoms of a group; of others, groups have means
FIRST = ("energies", "charges")  # fields that come first
LEVELS_OF_INT16 = 65_534
UNKNOWN = -32_768
RUN_MEAN = "mean over the run"
Members = Mapping[str, Sequence[int]]


def kept_frames(n_frames: int, room: int, wanted: Sequence[int] = ()) -> NDArray[np.int64]:
    """Which of `n_frames` are drawn where there is `room` for fewer: evenly spaced ones, and those `wanted` besides.

    Wanted frames take half of the room at most; of more, evenly spaced ones are taken.
    """
    if n_frames <= room:
        return np.arange(n_frames)
    special = np.unique(np.asarray(wanted, dtype=np.int64))
    special = special[_even(len(special), room // 2)]
    return np.union1d(_even(n_frames, max(2, room - len(special))), special)


def _even(n: int, room: int) -> NDArray[np.int64]:
    return np.arange(n) if n <= room else np.unique(np.rint(np.linspace(0, n - 1, room)).astype(np.int64))


@dataclass(frozen=True, eq=False)
class AtomSeries:
    """One number for each atom along the run, as much of it as is drawn, and what all of it says.

    Args:
        name: of the field.
        record: of its first frame; says what is shown.
        at: (R,) frames on the page where each row begins to hold.
        rows: (R, N) values on the page.
        means: (N,) over the whole run.
        sample: (S, N) evenly spaced rows of the whole run, from which limits of colors are taken.
        sums: (R', G) of every recorded row by group: sums, or means of quantities that do not add up; NaN where an atom's
            value is not known.
        n_unknown: how many values of the whole run are not known, or not to be trusted; they are NaN everywhere.
        steps: (R',) of every recorded row.
        times: (R',) of every recorded row.
    """

    name: str
    record: Explanation
    at: NDArray[np.int64]
    rows: Floats
    means: Floats
    sample: Floats
    sums: Floats
    n_unknown: int
    steps: NDArray[np.int64]
    times: Floats

    @property
    def adds_up(self) -> bool:
        """Whether the sum over atoms means something."""
        return self.record.units in SUMMED

    @property
    def relative(self) -> bool:
        """Whether curves are drawn minus their mean over the run: energies have no zero of their own."""
        return self.record.units == "eV"

    @cached_property
    def views(self) -> list[View]:
        """The ways to color atoms by it; values minus the mean of the atom are the last one."""
        found = [View(self, shift, reference) for reference, shift in self._shifts()]
        if self.adds_up:
            found.append(View(self, self.means, RUN_MEAN))
        return found

    def _shifts(self) -> Iterator[tuple[str, Floats | None]]:
        if "element_mean" in self.record.baselines:
            yield "element_mean", self.record.baselines["element_mean"]
        elif not (self.relative and self.record.gauge == "dependent" and self.record.reference == "none"):
            yield self.record.reference, None


@dataclass(frozen=True, eq=False)
class View:
    """Values of a series minus something, and their colors: one scale for the whole run.

    Args:
        series: whose values.
        shift: (N,) subtracted from them; None for nothing.
        reference: its name.
    """

    series: AtomSeries
    shift: Floats | None
    reference: str

    @cached_property
    def scale(self) -> Scale:
        sample = self.series.sample if self.shift is None else self.series.sample - self.shift
        signed = self.series.adds_up or bool((sample < 0).any())
        return colors.scale_of(sample.ravel(), self.series.record.units, signed=signed)

    @property
    def name(self) -> str:
        return colors.quantity(replace(self.series.record, reference=self.reference, baselines={}))

    def values(self, rows: Floats) -> Floats:
        return rows if self.shift is None else rows - self.shift

    def record(self, frame: Explanation) -> Explanation:
        """The explanation of a frame minus the shift."""
        return replace(frame, values=self.values(frame.values), reference=self.reference, baselines={})

    @property
    def words(self) -> str:
        one, r = self.series, self.series.record
        share = f"{one.n_unknown:,} of {len(one.steps) * len(one.means):,} values"
        gray = f" Gray, not known or not to be trusted: {share}." if one.n_unknown else ""
        return f"{self.scale.words} {r.method}; reference: {self.reference.replace('_', ' ')}; gauge: {r.gauge}.{gray}"


@dataclass(frozen=True, eq=False)
class Held:
    """How frames were moved so that molecules stay in place: r' = (r − center) R + center of the first frame.

    Args:
        centers: (K, 3) Å, of mass.
        turns: (K, 3, 3) rotations.
    """

    centers: Floats
    turns: Floats

    def __call__(self, points: Floats, k: int) -> Floats:
        """Points (n, 3) Å of frame `k`, moved with it."""
        return np.asarray((points - self.centers[k]) @ self.turns[k] + self.centers[0])


def held(positions: Floats, masses: Floats) -> Held:
    """Least-squares rotations of frames (K, N, 3) Å onto the first, weighted by mass.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976); the sign of the determinant keeps mirror images apart.
    """
    weights = masses / masses.sum()
    centers = np.einsum("n,knx->kx", weights, positions)
    moved = positions - centers[:, None]
    u, _, vt = np.linalg.svd(np.einsum("n,knx,ny->kxy", weights, moved, moved[0]))
    u[:, :, 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))[:, None]
    return Held(centers, u @ vt)


def atom_series(run: Run, name: str, kept: NDArray[np.int64], groups: Members) -> AtomSeries:
    """The field `name` of `run`, read once, block by block."""
    field = run[name]
    own = np.searchsorted(np.asarray(run.steps), np.asarray(field.steps))
    at = np.searchsorted(kept, own)  # a row holds from its frame on, or from the next one that is drawn
    last = np.append(np.diff(at) > 0, True) & (at < len(kept))
    n_rows, n_atoms = field.shape
    every = max(1, -(-n_rows * n_atoms // SAMPLE_NUMBERS))
    rows, sample, sums, total, known = [], [], [], np.zeros(n_atoms), np.zeros(n_atoms)
    for start, block in _trusted(field):
        numbers = np.arange(start, start + len(block))
        rows.append(block[last[numbers]])
        sample.append(block[numbers % every == 0])
        total += np.nansum(block, axis=0, dtype=np.float64)
        known += np.isfinite(block).sum(axis=0)
        combine = np.sum if field.units in SUMMED else np.mean
        sums.append(
            np.stack([combine(block[:, list(members)], axis=1, dtype=np.float64) for members in groups.values()], axis=1)
        )
    return AtomSeries(
        name=name,
        record=_described(run, name, field),
        at=at[last],
        rows=np.concatenate(rows),
        means=np.where(known > 0, total / np.maximum(known, 1), np.nan),
        sample=np.concatenate(sample),
        sums=np.concatenate(sums),
        n_unknown=int(n_rows * n_atoms - known.sum()),
        steps=np.asarray(field.steps),
        times=np.asarray(field.times),
    )


def blocks(field: Field, wanted: NDArray[np.int64] | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Start and rows of consecutive pieces of a field, each of some million numbers; of `wanted` rows, only these."""
    step = max(1, BLOCK_NUMBERS // max(1, int(np.prod(field.shape[1:], dtype=int))))
    for start in range(0, field.shape[0], step):
        if wanted is None:
            yield start, np.asarray(field[start : start + step])
            continue
        here = wanted[(wanted >= start) & (wanted < start + step)]
        if len(here):
            rows = np.asarray(field[int(here[0]) : int(here[-1]) + 1])
            yield start, rows[here - here[0]]


def _trusted(field: Field) -> Iterator[tuple[int, NDArray[Any]]]:
    """`blocks`, with NaN where the explainer said that a value is not to be trusted."""
    for start, block in blocks(field):
        if "mask" in field.spec.extras:
            block = np.where(field.extra("mask")[start : start + len(block)], block, np.nan)
        yield start, block


def taken(field: Field, wanted: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows of a field, ascending, read in blocks."""
    return np.concatenate([rows for _, rows in blocks(field, wanted)])


def _described(run: Run, name: str, field: Field) -> Explanation:
    """The first row as an explanation, with baselines that can be taken from its values, given what was taken before."""
    first = int(np.searchsorted(np.asarray(run.steps), int(field.steps[0])))
    record = run.explanation(name, first)
    baselines: dict[str, Floats] = {}
    if name == "energies":
        baselines = {title: np.asarray(values) - run.references for title, values in run.baselines.items()}
    return replace(record, baselines=baselines)


def atom_fields(run: Run) -> list[str]:
    """Names of the fields with one number for each atom, energies and charges first."""
    found = [name for name in run.fields if run[name].level == "atom" and run[name].shape[1:] == (run.n_atoms,)]
    found = [name for name in found if run[name].shape[0]]
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def packed(values: ArrayLike) -> dict[str, Any]:
    """Numbers as 16-bit integers in base64: value = level · scale + offset, with one offset for each column.

    The error is half a scale, 1/131,068 of the largest range of a column; what is not finite becomes -32768.
    """
    array = np.asarray(values, dtype=np.float64)
    table = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(-1, 1)
    known = np.isfinite(table)
    low = np.where(known, table, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, table, -np.inf).max(axis=0, initial=-np.inf)
    empty = low > high
    low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    offset, extent = (low + high) / 2, float((high - low).max(initial=0.0))
    scale = extent / LEVELS_OF_INT16 or 1.0
    levels = np.where(known, np.rint((np.where(known, table, offset) - offset) / scale), UNKNOWN).astype("<i2")
    return {
        "data": base64.b64encode(levels.tobytes()).decode("ascii"),
        "scale": scale,
        "offset": [short(value, 10) for value in offset],
    }


def short(value: float, digits: int = 7) -> float:
    """A number that takes little room in JSON."""
    return float(f"{float(value):.{digits}g}")
