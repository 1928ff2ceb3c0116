"""Pair lists of many systems that survive small moves, with everything but the search on the systems' device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.neighbors import Pairs, check_distance
from ase_xai.refusals import MIN_DISTANCE

SINGULAR = 1e-6  # a cell spans a volume if it has more than this part of the box with the same edges


@dataclass(frozen=True, eq=False)
class SystemPairs:
    """P undirected pairs of all systems, in their order: (P,) atoms first and second, (P, 3) cell shifts in float64."""

    first: Tensor
    second: Tensor
    shifts: Tensor


@dataclass(frozen=True, eq=False)
class Systems:
    """B systems on one device.

    Args:
        numbers: (N,) int64.
        positions: (N, 3) Å, float64.
        cells: (B, 3, 3) Å, cell vectors as rows, float64.
        system: (N,) int64, ascending.
        pbc: periodic directions.
    """

    numbers: Tensor
    positions: Tensor
    cells: Tensor
    system: Tensor
    pbc: tuple[bool, ...]

    def volumes(self) -> Tensor:
        """(B,) Å^3, NaN where there is none, by the rule of `stress_volume`."""
        volumes = torch.linalg.det(self.cells).abs()
        boxes = torch.linalg.vector_norm(self.cells, dim=2).prod(dim=1)
        full = (volumes > SINGULAR * boxes) & any(self.pbc)
        return torch.where(full, volumes, float("nan"))

    def graph(self, pairs: SystemPairs, cutoff: float, total_charge: float) -> AtomGraph:
        """The graph of pairs closer than `cutoff`.

        Raises:
            InputError: atoms that are closer than 0.1 Å.
        """
        vectors = self.positions[pairs.second] - self.positions[pairs.first]
        if any(self.pbc):
            vectors += torch.einsum("pk,pkd->pd", pairs.shifts, self.cells[self.system[pairs.first]])
        squares = (vectors**2).sum(dim=1)
        if len(squares) and float(squares.min()) < MIN_DISTANCE**2:
            self._refuse_overlap(int(pairs.first[squares.argmin()]), int(pairs.second[squares.argmin()]))
        near = (squares < cutoff**2).nonzero()[:, 0]
        first, second, vectors = pairs.first[near], pairs.second[near], vectors[near]
        return AtomGraph(
            numbers=self.numbers,
            positions=self.positions,
            vectors=torch.cat([vectors, -vectors]),
            centers=torch.cat([first, second]),
            neighbors=torch.cat([second, first]),
            system=self.system,
            total_charge=self.positions.new_full((len(self.cells),), total_charge),
            volume=self.volumes(),
            mirrored=True,
        )

    def _refuse_overlap(self, i: int, j: int) -> None:
        system = int(self.system[i])
        start = int((self.system < system).sum())
        raise InputError(
            f"system {system} cannot be evaluated: its atoms {i - start} and {j - start} are less than {MIN_DISTANCE} Å "
            "apart. Look for duplicates or wrong units, or take smaller steps."
        )


@dataclass(frozen=True, eq=False)
class _Kept:
    """The list of one system, and the atoms it was made for: numbers (N,), positions (N, 3) Å, cell (3, 3) Å."""

    pairs: Pairs
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray


class ManySkins:
    """Pairs out to cutoff + skin of every system, by the rule of `SkinList`: a list that was made for positions r0 and cell
    h0 holds every pair inside the cutoff r_c as long as, with F = h0^-1 h and w = max_i |r_i - r0_i F|,

        r_c + 2w <= σ_min(F)·(r_c + skin),

    where σ_min is the least singular value. When one system needs a new list, or leaves, the lists of the others are kept.

    Args:
        find: pairs of some atoms within a distance in Å.
        cutoff, skin: Å.

    Attributes:
        n_builds: number of lists made so far, one for each system.
    """

    def __init__(self, find: Callable[[Atoms, float], Pairs], cutoff: float, skin: float) -> None:
        check_distance("skin", skin, positive=False)
        self.find, self.cutoff, self.skin = find, cutoff, float(skin)
        self.n_builds = 0
        self._kept: list[_Kept] = []
        self._made_for: Systems | None = None
        self._pairs: SystemPairs | None = None

    def update(self, now: Systems) -> SystemPairs:
        """Every pair closer than the cutoff, and others.

        Raises:
            InputError: a system for which there is no list, with its number.
        """
        then = self._made_for
        if then is None or self._pairs is None or not self._same_systems(then, now):
            if bool((now.system.diff() < 0).any()):
                raise InputError("atoms of a state must be ordered by system. Build it with torch_sim's own functions.")
            followed = then is not None and then.pbc == now.pbc
            reusable: list[_Kept | None] = self._followed(now) if followed else [None] * len(now.cells)
        else:
            fresh = self._fresh(then, now)
            if all(fresh):
                return self._pairs
            reusable = [kept if still else None for kept, still in zip(self._kept, fresh, strict=True)]
        self._made_for = None  # first: whatever happens from here on, the old lists are not used again
        self._kept = self._completed(reusable, now)
        self._pairs = self._joined(now)
        self._made_for = Systems(
            now.numbers,
            torch.as_tensor(np.concatenate([kept.positions for kept in self._kept]), device=now.positions.device),
            torch.as_tensor(np.stack([kept.cell for kept in self._kept]), device=now.positions.device),
            now.system,
            now.pbc,
        )
        return self._pairs

    def _same_systems(self, then: Systems, now: Systems) -> bool:
        return (
            then.pbc == now.pbc
            and then.cells.shape == now.cells.shape
            and torch.equal(then.system, now.system)
            and torch.equal(then.numbers, now.numbers)
        )

    def _fresh(self, then: Systems, now: Systems) -> list[bool]:
        """Whether the list of each system still holds every pair inside the cutoff."""
        moved_cells = any(now.pbc) and not torch.equal(then.cells, now.cells)
        before, least = then.positions, torch.ones_like(then.cells[:, 0, 0])
        if moved_cells and all(now.pbc):
            deformation = torch.linalg.solve(then.cells, now.cells)
            least = torch.linalg.svdvals(deformation)[:, -1]
            before = torch.bmm(before[:, None], deformation[then.system])[:, 0]
        elif moved_cells:
            least = torch.where((then.cells == now.cells).all(dim=2).all(dim=1), least, 0.0)
        steps = torch.linalg.vector_norm(now.positions - before, dim=1)
        largest = torch.zeros_like(least).scatter_reduce(0, now.system, steps, "amax")
        fresh = self.cutoff + 2.0 * largest <= least * (self.cutoff + self.skin)
        return (fresh & (self.skin > 0.0)).tolist()

    def _followed(self, now: Systems) -> list[_Kept | None]:
        """A list for each system that was there before, in the same order as now, though others have left or come."""
        found: list[_Kept | None] = []
        start, failures = 0, 0
        for numbers, positions, cell in _apart(now):
            found.append(None)
            for k in range(start, len(self._kept)):
                if self._serves(self._kept[k], numbers, positions, cell, any(now.pbc)):
                    found[-1], start = self._kept[k], k + 1
                    break
                failures += 1
                if failures > len(self._kept):  # other systems than before
                    return [*found, *[None] * (len(now.cells) - len(found))]
        return found

    def _serves(self, kept: _Kept, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, periodic: bool) -> bool:
        if self.skin == 0.0 or not np.array_equal(kept.numbers, numbers) or (periodic and not (kept.cell == cell).all()):
            return False
        return bool(self.cutoff + 2.0 * np.linalg.norm(positions - kept.positions, axis=1).max() <= self.cutoff + self.skin)

    def _completed(self, reusable: list[_Kept | None], now: Systems) -> list[_Kept]:
        """Lists of all systems, with new ones where there is none to be reused."""
        complete = []
        for b, (kept, (numbers, positions, cell)) in enumerate(zip(reusable, _apart(now), strict=True)):
            if kept is None:
                try:
                    pairs = self.find(Atoms(numbers, positions, cell=cell, pbc=now.pbc), self.cutoff + self.skin)
                except (InputError, ValueError) as error:
                    raise InputError(f"system {b} cannot be evaluated: {error}") from error
                kept = _Kept(pairs, numbers, positions, cell)
                self.n_builds += 1
            complete.append(kept)
        return complete

    def _joined(self, now: Systems) -> SystemPairs:
        starts = np.cumsum([0, *(len(kept.numbers) for kept in self._kept)])[:-1]
        own = list(zip((kept.pairs for kept in self._kept), starts, strict=True))

        def tensor(arrays: list[np.ndarray], dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.concatenate(arrays), dtype=dtype, device=now.positions.device)

        return SystemPairs(
            first=tensor([pairs.first + start for pairs, start in own], torch.int64),
            second=tensor([pairs.second + start for pairs, start in own], torch.int64),
            shifts=tensor([pairs.shifts for pairs, _ in own], torch.float64),
        )


def _apart(systems: Systems) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers, positions and cell of each system."""
    ends = np.cumsum(torch.bincount(systems.system, minlength=len(systems.cells)).cpu().numpy())[:-1]
    numbers, positions, cells = (t.cpu().numpy() for t in (systems.numbers, systems.positions, systems.cells))
    return list(zip(np.split(numbers, ends), np.split(positions, ends), cells, strict=True))
