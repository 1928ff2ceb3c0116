"""Neighbor pairs inside a cutoff: one function, several back ends."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

# Largest open system for which all N² distances are computed no slower than vesin finds the near ones. Measured with one
# thread at cutoffs of 5 to 8 Å: both take equal time at about 140 atoms for loose conformers, 300 to 500 for compact ones.
DENSE_MAX_ATOMS = 150

# Periodic cell vectors spanning less than this (Å) are taken for a mistake: the number of images grows as its inverse.
FLAT = 1e-3

# Pairs that are still searched for, by a rough estimate from the density; more would fill the memory (some 150 bytes each).
MAX_PAIRS = 5e7

# Å; at this distance from the origin double precision resolves 1e-10 Å.
FAR = 1e6


@dataclass(frozen=True, eq=False)
class Pairs:
    """P unordered pairs of atoms, each exactly once.

    The pair (i, j, S) has the vector D = r_j + S·h - r_i and stands for (j, i, -S) with -D too. Of an atom and its own
    periodic images (i = j) only one of S and -S is kept. Shifts refer to the positions as given, wrapped or not.

    Args:
        first: (P,) int64 index i.
        second: (P,) int64 index j.
        shifts: (P, 3) int64 cell shifts S; zero along directions that are not periodic.

    Raises:
        ValueError: the three shapes do not belong together.
    """

    first: np.ndarray
    second: np.ndarray
    shifts: np.ndarray

    def __post_init__(self) -> None:
        n_pairs = len(self.first)
        for name, shape in (("first", (n_pairs,)), ("second", (n_pairs,)), ("shifts", (n_pairs, 3))):
            actual = getattr(self, name).shape
            if actual != shape:
                raise ValueError(f"Pairs.{name} must have shape {shape}, got {actual}. Build pairs with find_pairs.")

    def vectors(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """D = r_j + S·h - r_i, (P, 3) Å, for positions (N, 3) Å and cell vectors as the rows of cell (3, 3) Å."""
        vectors = positions.take(self.second, axis=0)
        vectors -= positions.take(self.first, axis=0)
        if cell.any():
            vectors += self.shifts @ cell
        return vectors


def find_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, backend: str = "auto") -> Pairs:
    """Every pair of atoms, periodic images included, with a distance strictly below the cutoff.

    Args:
        positions: (N, 3) Å; atoms may lie outside the cell.
        cell: (3, 3) Å, cell vectors as rows, of either handedness. Rows of directions that are not periodic are ignored.
        pbc: (3,) bool.
        cutoff: Å; it may exceed the cell.
        backend: "auto", or one of
            "dense": torch, all N² distances, open systems;
            "vesin": any system;
            "cluster": pyg-lib or torch-cluster (extra `cluster`), open systems;
            "nvalchemi": nvalchemi-toolkit-ops (extra `gpu`), any system, on the GPU if there is one.
            "auto" takes "dense" for open systems of up to `DENSE_MAX_ATOMS` atoms and "vesin" otherwise.

    Returns:
        Pairs with i <= j, sorted by i, j and S: the same atoms give the same arrays, and so the same sums to the last bit,
        whichever back end found them and whenever.

    Raises:
        ValueError: unknown back end; one that cannot treat periodic systems asked to; cutoff not positive; wrong shape;
            positions or cell not finite; a periodic direction without a cell vector of its own.
        ImportError: the package behind the back end is not installed.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    cell = np.ascontiguousarray(cell, dtype=np.float64)
    pbc = np.ascontiguousarray(pbc, dtype=bool)
    check_distance("cutoff", cutoff, positive=True)
    _check_geometry(positions, cell, pbc)
    _check_size(len(positions), cell[pbc], cutoff)
    find = _choose(backend, pbc, len(positions))
    if len(positions) == 0 or (len(positions) == 1 and not pbc.any()):
        return _open_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return _sorted(find(positions, cell, pbc, float(cutoff)), len(positions))


def _complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with unit vectors perpendicular to all periodic ones in place of those that are not periodic."""
    if pbc.all():
        return cell
    completed = cell.copy()
    completed[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :] if pbc.any() else np.eye(3)
    return completed


def check_distance(name: str, value: float, *, positive: bool) -> None:
    """Raise ValueError unless `value` (Å) is finite and positive (or also zero)."""
    if not math.isfinite(value) or value < 0.0 or (positive and value == 0.0):
        rule = "positive" if positive else "zero or positive"
        typical = "Cutoffs are usually 5 to 8 Å." if name == "cutoff" else "A skin is usually 0 (rebuild always) to 2 Å."
        raise ValueError(f"{name} must be {rule} and finite, got {value} Å. It is a distance. {typical}")


def _check_geometry(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
    for name, array, shape in (("positions", positions, (len(positions), 3)), ("cell", cell, (3, 3)), ("pbc", pbc, (3,))):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}. Pass atoms.{name} of an ase.Atoms.")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity. The structure or a preceding step went wrong.")
    if np.abs(positions).max(initial=0.0) > FAR:
        raise ValueError(
            f"positions reach {np.abs(positions).max():.1e} Å, beyond {FAR:.0e} Å, where distances lose their digits. "
            "Center or wrap the atoms."
        )
    for axis in np.flatnonzero(pbc):
        if not cell[axis].any():
            raise ValueError(
                f"pbc is True along direction {axis}, but cell vector {axis} is [0, 0, 0] Å. A periodic direction repeats "
                f"along its cell vector. Set atoms.cell[{axis}], or switch the direction off (atoms.pbc[{axis}] = False)."
            )
    if pbc.any() and np.linalg.svd(cell[pbc], compute_uv=False)[-1] < FLAT:
        raise ValueError(
            f"The periodic cell vectors {cell[pbc].tolist()} Å are linearly dependent or too short (they span less than "
            f"{FLAT} Å in one direction). Images would overlap. Set independent vectors, or switch a direction off in pbc."
        )


def _check_size(n_atoms: int, periodic: np.ndarray, cutoff: float) -> None:
    """Refuse a list that would not fit, taking a neighborhood as a box of side 2 cutoff along periodic directions."""
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(periodic), axis=0) if len(periodic) else np.ones(0)
    estimate = n_atoms**2 * float(np.prod(2.0 * cutoff / heights)) / 2.0 if len(periodic) else 0.0
    if estimate > MAX_PAIRS:
        raise ValueError(
            f"{n_atoms} atoms in periodic cell vectors {np.round(periodic, 3).tolist()} Å have about {estimate:.1e} pairs "
            f"within {cutoff:g} Å, some {estimate * 150 / 1e9:.0f} GB. Is the cell a dummy, or in other units? Set "
            "atoms.pbc = False for an isolated molecule, or take a smaller system."
        )


def check_backend(backend: str) -> None:
    """Raise ValueError unless `backend` is "auto" or a name in `BACKENDS`."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"Unknown neighbor back end {backend!r}. Choose one of {['auto', *BACKENDS]}.")


def _choose(backend: str, pbc: np.ndarray, n_atoms: int) -> Callable[..., Pairs]:
    check_backend(backend)
    if backend == "auto":
        return _dense if n_atoms <= DENSE_MAX_ATOMS and not pbc.any() else _vesin
    if backend in OPEN_ONLY and pbc.any():
        raise ValueError(
            f"Back end {backend!r} was given pbc = {pbc.tolist()}, but it knows no cells and would miss every periodic "
            'image. Use "vesin" or "auto", or switch atoms.pbc off for an isolated system.'
        )
    return BACKENDS[backend]


def _sorted(pairs: Pairs, n_atoms: int) -> Pairs:
    """The same pairs, turned so that i < j (for i = j: the first non-zero shift positive), in order of i, j, S."""
    first, second, shifts = pairs.first, pairs.second, pairs.shifts
    largest = int(np.abs(shifts).max(initial=0))
    width = 2 * largest + 1
    if n_atoms**2 * width**3 >= 2**63:
        raise ValueError(f"{n_atoms} atoms with shifts up to {largest} cells are too many to order. Use a smaller cutoff.")
    shift_key = (shifts[:, 0] * width + shifts[:, 1]) * width + shifts[:, 2]
    turn = (first > second) | ((first == second) & (shift_key < 0))
    sign = np.where(turn, -1, 1)
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.argsort((low * n_atoms + high) * width**3 + sign * shift_key)
    return Pairs(low[order], high[order], (sign[:, None] * shifts)[order])


def _open_pairs(first: np.ndarray, second: np.ndarray) -> Pairs:
    return Pairs(first, second, np.zeros((len(first), 3), np.int64))


def _dense(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """All distances at once, by differences: the matrix-product form of cdist would lose half the digits."""
    points = torch.tensor(positions, device="cpu")
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    first, second = (distances < cutoff).triu_(1).nonzero(as_tuple=True)
    return _open_pairs(first.numpy(), second.numpy())


def _vesin(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    from vesin import NeighborList

    search = NeighborList(cutoff=cutoff, full_list=False, n_threads=torch.get_num_threads())
    views = search.compute(points=positions, box=cell, periodic=pbc, quantities="ijS", copy=False)
    first, second, shifts = (view.astype(np.int64) for view in views)
    return Pairs(first, second, shifts)


def _cluster(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """pyg-lib or torch-cluster; by default both drop neighbors beyond 32 at random, hence the capacity and the check."""
    n_atoms = len(positions)
    edges = _radius_graph()(
        torch.tensor(positions, device="cpu"), r=_widened(cutoff), loop=False, max_num_neighbors=n_atoms
    ).numpy()
    once = edges[0] < edges[1]
    if np.bincount(edges[0], minlength=n_atoms).max() >= n_atoms or 2 * np.count_nonzero(once) != edges.shape[1]:
        raise RuntimeError(
            f"Back end 'cluster' truncated its list: of {edges.shape[1]} directed pairs of {n_atoms} atoms, some lack their "
            'reverse, or an atom reached the capacity. Use "vesin", or another version of pyg-lib or torch-cluster.'
        )
    return _strictly_inside(_open_pairs(edges[0, once], edges[1, once]), positions, cell, cutoff)


def _nvalchemi(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> Pairs:
    """nvalchemi-toolkit-ops; a list that outgrows its estimated capacity is made again with the capacity it asked for."""
    module = _optional("nvalchemiops", "nvalchemiops.torch.neighbors")
    if module is None:
        raise ImportError(
            "Back end 'nvalchemi' needs nvalchemi-toolkit-ops, which is not installed. "
            'Install torch first, then `pip install "ase_xai[gpu]"`, or use "vesin" or "auto".'
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    points, box, periodic = (torch.tensor(array, device=device) for array in (positions, _complete_cell(cell, pbc), pbc))
    options: dict[str, Any] = {"cell": box, "pbc": periodic, "half_fill": True, "return_neighbor_list": True}
    try:
        result = module.neighbor_list(points, _widened(cutoff), **options)
    except module.NeighborOverflowError as overflow:
        result = module.neighbor_list(points, _widened(cutoff), max_neighbors=overflow.num_neighbors, **options)
    edges, shifts = result[0].cpu().numpy().astype(np.int64), result[2].cpu().numpy().astype(np.int64)
    return _strictly_inside(Pairs(edges[0], edges[1], shifts), positions, cell, cutoff)


BACKENDS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, float], Pairs]] = {
    "dense": _dense,
    "vesin": _vesin,
    "cluster": _cluster,
    "nvalchemi": _nvalchemi,
}
OPEN_ONLY = ("dense", "cluster")


def _radius_graph() -> Callable[..., torch.Tensor]:
    for package, path in (("pyg_lib", "pyg_lib.ops"), ("torch_cluster", "torch_cluster")):
        function = getattr(_optional(package, path), "radius_graph", None)
        if function is not None:
            return function
    raise ImportError(
        "Back end 'cluster' needs pyg-lib 0.7 or later, or torch-cluster; neither is installed. Install torch first, then "
        '`pip install --no-build-isolation "ase_xai[cluster]"` (it compiles for many minutes), or use "vesin" or "auto".'
    )


def _optional(package: str, path: str) -> ModuleType | None:
    """The module at `path`, None if its package is not installed; an installed package that fails to load says so itself."""
    return importlib.import_module(path) if importlib.util.find_spec(package) is not None else None


def _widened(cutoff: float) -> float:
    """A radius that keeps pairs at the cutoff whatever the back end's rounding; `_strictly_inside` decides about them."""
    return cutoff * (1.0 + 1e-9)


def _strictly_inside(pairs: Pairs, positions: np.ndarray, cell: np.ndarray, cutoff: float) -> Pairs:
    vectors = pairs.vectors(positions, cell)
    near = np.einsum("ij,ij->i", vectors, vectors) < cutoff * cutoff
    return Pairs(pairs.first[near], pairs.second[near], pairs.shifts[near])
