"""Labeled structures as ragged arrays, in ASE's units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

PER_ATOM = {"forces": (3,), "charges": ()}
PER_STRUCTURE = {"energy": (), "stress": (6,), "dipole": (3,), "dipole_magnitude": ()}
LABELS = ("energy", "forces", "stress", "dipole", "dipole_magnitude", "charges")


@dataclass(frozen=True, eq=False)
class StructureSet:
    """S structures; structure s owns rows offsets[s]:offsets[s+1] of the per-atom arrays, which may be memory-mapped.

    A label that is missing for one structure is NaN there; one that is missing everywhere is None.

    Args:
        numbers: (ΣN,) atomic numbers.
        positions: (ΣN, 3) Å.
        offsets: (S+1,).
        cell: (S, 3, 3) cell vectors as rows, Å; None if no structure is periodic.
        pbc: (S, 3) bool, given with `cell`.
        total_charge: (S,) e; None for neutral structures.
        energy: (S,) eV, total.
        forces: (ΣN, 3) eV/Å.
        stress: (S, 6) eV/Å^3, Voigt order xx yy zz yz xz xy.
        dipole: (S, 3) e·Å in the frame of the positions.
        dipole_magnitude: (S,) e·Å, where the direction is unknown.
        charges: (ΣN,) e.
        group: (S,) label of the molecule a structure was made from; splits never separate equal labels. None: all differ.
        kind: (S,) index into `kind_names`, for error tables. None: all alike.
        kind_names: names of the kinds.

    Raises:
        ValueError: shapes do not belong together, or a structure has no atoms.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    offsets: NDArray[np.int64]
    cell: NDArray[np.float64] | None = None
    pbc: NDArray[np.bool_] | None = None
    total_charge: NDArray[np.float64] | None = None
    energy: NDArray[np.float64] | None = None
    forces: NDArray[np.float32] | None = None
    stress: NDArray[np.float64] | None = None
    dipole: NDArray[np.float32] | None = None
    dipole_magnitude: NDArray[np.float32] | None = None
    charges: NDArray[np.float32] | None = None
    group: NDArray[np.int64] | None = None
    kind: NDArray[np.int64] | None = None
    kind_names: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or (self.n_atoms < 1).any():
            raise ValueError("StructureSet.offsets must start at 0 and rise: every structure needs at least one atom.")
        n_rows, n_structures = int(self.offsets[-1]), len(self)
        expected = {"numbers": (n_rows,), "positions": (n_rows, 3), "cell": (n_structures, 3, 3), "pbc": (n_structures, 3)}
        expected |= {name: (n_rows, *shape) for name, shape in PER_ATOM.items()}
        expected |= {name: (n_structures, *shape) for name, shape in PER_STRUCTURE.items()}
        expected |= {name: (n_structures,) for name in ("total_charge", "group", "kind")}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"StructureSet.{name} must have shape {shape} for these offsets, got {array.shape}.")
        if (self.cell is None) != (self.pbc is None):
            raise ValueError("StructureSet needs cell and pbc together, or neither.")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def elements(self) -> list[int]:
        return [int(z) for z in np.flatnonzero(np.bincount(self.numbers, minlength=119))]

    @property
    def targets(self) -> list[str]:
        """Names of the labels that are there, in the order of `LABELS`."""
        return [name for name in LABELS if getattr(self, name) is not None]

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(len(self)) if self.group is None else self.group

    @property
    def kinds(self) -> NDArray[np.int64]:
        return np.zeros(len(self), np.int64) if self.kind is None else self.kind

    @property
    def structure_of_row(self) -> NDArray[np.int64]:
        """(ΣN,) structure that each row belongs to."""
        return np.repeat(np.arange(len(self)), self.n_atoms)

    def take(self, indices: NDArray[np.int64]) -> StructureSet:
        """The structures at `indices`, copied, in this order."""
        indices = np.asarray(indices, dtype=np.int64)
        rows, counts = ragged_rows(self.offsets, indices)
        taken: dict[str, object] = {"offsets": np.concatenate([[0], np.cumsum(counts)])}
        for name in _array_names():
            array = getattr(self, name)
            per_atom = name in PER_ATOM or name in ("numbers", "positions")
            taken[name] = None if array is None else array[rows if per_atom else indices]
        return replace(self, **taken)  # type: ignore[arg-type]

    def composition(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """(len(indices), n_elements) number of atoms of each element."""
        elements = self.elements
        column = np.zeros(119, np.int64)
        column[elements] = np.arange(len(elements))
        rows, counts = ragged_rows(self.offsets, indices)
        cells = np.repeat(np.arange(len(indices)) * len(elements), counts) + column[self.numbers[rows]]
        n_cells = len(indices) * len(elements)
        return np.bincount(cells, minlength=n_cells).reshape(len(indices), -1).astype(np.float64)

    @classmethod
    def concatenate(cls, sets: Sequence[StructureSet]) -> StructureSet:
        """All structures of several sets; labels that a set lacks become NaN there. Equal groups are one."""
        if not sets:
            raise ValueError("StructureSet.concatenate got no sets. Give at least one.")
        if len(sets) == 1:
            return sets[0]
        if any(s.kind_names != sets[0].kind_names for s in sets):
            raise ValueError(f"sets differ in kinds: {[s.kind_names for s in sets]}. Name the same kinds for all files.")
        joined = {name: _joined(name, sets) for name in _array_names()}
        starts = np.cumsum([0] + [int(s.offsets[-1]) for s in sets[:-1]])
        offsets = [s.offsets[:-1] + start for s, start in zip(sets, starts, strict=True)]
        total = int(starts[-1] + sets[-1].offsets[-1])
        return cls(**joined, offsets=np.concatenate([*offsets, [total]]), kind_names=sets[0].kind_names)  # type: ignore[arg-type]

    def digest(self) -> str:
        """SHA-256 over all arrays, in hexadecimal: two sets are equal if their digests are."""
        sha = hashlib.sha256()
        for name in ("offsets", *_array_names()):
            array = getattr(self, name)
            if array is not None:
                sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def ragged_rows(offsets: NDArray[np.int64], indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows owned by the ragged entries at `indices`, in order, and how many each owns."""
    counts = offsets[indices + 1] - offsets[indices]
    starts = np.repeat(offsets[indices] - (np.cumsum(counts) - counts), counts)
    return starts + np.arange(len(starts)), counts


def _array_names() -> list[str]:
    return [field.name for field in fields(StructureSet) if field.name not in ("offsets", "kind_names")]


def _joined(name: str, sets: Sequence[StructureSet]) -> NDArray[np.generic] | None:
    arrays = [getattr(s, name) for s in sets]
    if name == "group" and any(array is not None for array in arrays):
        start = 1 + max(int(array.max(initial=-1)) for array in arrays if array is not None)
        counts = np.cumsum([0] + [len(s) for s in sets[:-1]])
        fresh = [start + count + np.arange(len(s)) for count, s in zip(counts, sets, strict=True)]
        return np.concatenate([f if array is None else array for array, f in zip(arrays, fresh, strict=True)])
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    filled = [_filled(array, name, s, present[0]) for array, s in zip(arrays, sets, strict=True)]
    return np.concatenate(filled)


def _filled(
    array: NDArray[np.generic] | None, name: str, structures: StructureSet, like: NDArray[np.generic]
) -> NDArray[np.generic]:
    if array is not None:
        return array
    n = int(structures.offsets[-1]) if name in PER_ATOM else len(structures)
    missing = np.nan if name in LABELS else 0  # open and neutral, of the first kind
    return np.full((n, *like.shape[1:]), missing, dtype=like.dtype)
