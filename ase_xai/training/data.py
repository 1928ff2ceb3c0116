"""Labeled structures for training: ragged arrays in, batches of graphs out. Units are converted at this door."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.neighbors import find_pairs

WIDTHS = {"R": (3,), "F_eV_A": (3,), "dipole_eA": (3,)}
MAX_ATOMS = 32_767  # of one structure: pair indices are kept in 16 bits
REQUIRED = ("n_atoms", "Z", "R", "E_eV", "F_eV_A", "dipole_eA", "qm9_index", "kind")


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of a batch: energy (B,) eV, forces (N, 3) eV/Å, dipole (B, 3) e·Å, number of atoms (B,)."""

    energy: Tensor
    forces: Tensor
    dipole: Tensor
    n_atoms: Tensor


@dataclass(frozen=True, eq=False)
class StructureSet:
    """S open, neutral structures as ragged arrays; structure s owns rows offsets[s]:offsets[s+1] of the per-atom arrays.

    Args:
        numbers: (ΣN,) atomic numbers.
        positions: (ΣN, 3) Å.
        forces: (ΣN, 3) eV/Å.
        energy: (S,) eV, total.
        dipole: (S, 3) e·Å.
        offsets: (S+1,).
        group: (S,) label of the molecule a structure was made from; splits never separate equal labels.
        kind: (S,) small integer class of the structure, for error tables.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    energy: NDArray[np.float64]
    dipole: NDArray[np.float32]
    offsets: NDArray[np.int64]
    group: NDArray[np.int64]
    kind: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def elements(self) -> list[int]:
        return [int(z) for z in np.unique(self.numbers)]

    @classmethod
    def from_npz(cls, paths: Sequence[str | Path]) -> StructureSet:
        """Read ragged .npz files with the keys n_atoms, Z, R (Å), E_eV, F_eV_A, dipole_eA, qm9_index, kind.

        Raises:
            ValueError: a key is missing, a value is not finite, or array lengths disagree; the message names file and key.
        """
        columns: dict[str, list[np.ndarray]] = {key: [] for key in REQUIRED}
        for path in paths:
            for key, array in _read_npz(Path(path)).items():
                columns[key].append(array)
        joined = {key: np.concatenate(arrays) for key, arrays in columns.items()}
        return cls(
            numbers=joined["Z"].astype(np.int64),
            positions=joined["R"].astype(np.float32),
            forces=joined["F_eV_A"].astype(np.float32),
            energy=joined["E_eV"].astype(np.float64),
            dipole=joined["dipole_eA"].astype(np.float32),
            offsets=np.concatenate([[0], np.cumsum(joined["n_atoms"].astype(np.int64))]),
            group=joined["qm9_index"].astype(np.int64),
            kind=joined["kind"].astype(np.int64),
        )

    def split(self, fractions: tuple[float, float], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices for training, validation and test; whole groups go to one side, so no molecule is on two.

        Args:
            fractions: of the groups, for validation and test.
            seed: of the permutation of the groups.
        """
        groups = np.random.default_rng(seed).permutation(np.unique(self.group))
        n_validation, n_test = (round(fraction * len(groups)) for fraction in fractions)
        test, validation = groups[:n_test], groups[n_test : n_test + n_validation]
        in_test, in_validation = np.isin(self.group, test), np.isin(self.group, validation)
        return np.flatnonzero(~(in_test | in_validation)), np.flatnonzero(in_validation), np.flatnonzero(in_test)

    def composition(self, indices: np.ndarray) -> np.ndarray:
        """(len(indices), n_elements) number of atoms of each element."""
        structure = np.repeat(np.arange(len(self)), self.n_atoms)
        counts = np.stack(
            [np.bincount(structure, weights=self.numbers == z, minlength=len(self)) for z in self.elements], axis=1
        )
        return counts[indices]

    def fit_references(self, indices: np.ndarray) -> dict[int, float]:
        """Energy per element in eV by least squares of the total energy on composition, over `indices`."""
        solution, *_ = np.linalg.lstsq(self.composition(indices), self.energy[indices], rcond=None)
        return {z: float(e) for z, e in zip(self.elements, solution, strict=True)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        missing = [key for key in REQUIRED if key not in file]
        if missing:
            raise ValueError(f"{path} lacks the keys {missing}. Needed are {list(REQUIRED)}.")
        arrays = {key: file[key] for key in REQUIRED}
    n_structures, n_rows = len(arrays["n_atoms"]), int(arrays["n_atoms"].astype(np.int64).sum())
    for key, array in arrays.items():
        expected = (n_rows if key in ("Z", "R", "F_eV_A") else n_structures, *WIDTHS.get(key, ()))
        if array.shape != expected:
            raise ValueError(f"{path}: {key} has shape {array.shape}, expected {expected} from n_atoms.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise ValueError(f"{path}: {key} is not finite in row {row}. Remove that structure or complete its labels.")
    for key, low, high in (("n_atoms", 1, MAX_ATOMS), ("Z", 1, 118)):
        bad = np.flatnonzero((arrays[key] < low) | (arrays[key] > high) | (arrays[key] != np.floor(arrays[key])))
        if len(bad):
            raise ValueError(f"{path}: {key} is {arrays[key][bad[0]]} in row {bad[0]}, not an integer from {low} to {high}.")
    return arrays


class GraphLoader:
    """Makes batches of graphs and labels from a `StructureSet`; pairs are found once and kept.

    Args:
        structures: the data.
        cutoff: Å.
    """

    def __init__(self, structures: StructureSet, cutoff: float) -> None:
        self.structures = structures
        first, second, counts = [], [], []
        for start, stop in zip(structures.offsets, structures.offsets[1:], strict=False):
            pairs = find_pairs(structures.positions[start:stop].astype(float), np.zeros((3, 3)), np.zeros(3, bool), cutoff)
            first.append(pairs.first.astype(np.int16))
            second.append(pairs.second.astype(np.int16))
            counts.append(len(pairs.first))
        self._first, self._second = np.concatenate(first), np.concatenate(second)
        self._pair_offsets = np.concatenate([[0], np.cumsum(counts)])

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> tuple[AtomGraph, Labels]:
        """The structures at `indices` as one mirrored graph in float32, with their labels."""
        data = self.structures
        n_atoms = data.n_atoms[indices]
        rows, _ = _ragged_rows(data.offsets, indices)
        pair_rows, pair_counts = _ragged_rows(self._pair_offsets, indices)
        local = np.repeat(np.cumsum(n_atoms) - n_atoms, pair_counts)
        first, second = self._first[pair_rows] + local, self._second[pair_rows] + local
        positions = data.positions[rows]
        vectors = positions[second] - positions[first]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        graph = AtomGraph(
            numbers=tensor(data.numbers[rows]),
            positions=tensor(positions),
            vectors=tensor(np.concatenate([vectors, -vectors])),
            centers=tensor(np.concatenate([first, second])),
            neighbors=tensor(np.concatenate([second, first])),
            system=tensor(np.repeat(np.arange(len(indices)), n_atoms)),
            total_charge=tensor(np.zeros(len(indices))),
            volume=tensor(np.full(len(indices), np.nan)),
            mirrored=True,
        )
        labels = Labels(
            energy=tensor(data.energy[indices]),
            forces=tensor(data.forces[rows]),
            dipole=tensor(data.dipole[indices]),
            n_atoms=tensor(n_atoms),
        )
        return graph, labels


def _ragged_rows(offsets: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows owned by the ragged entries at `indices`, in order, and how many each owns."""
    counts = offsets[indices + 1] - offsets[indices]
    starts = np.repeat(offsets[indices] - (np.cumsum(counts) - counts), counts)
    return starts + np.arange(len(starts)), counts


def epoch_batches(indices: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Batches of `indices` in an order that depends on seed and epoch only, so that a resumed run sees the same ones."""
    order = np.random.default_rng([seed, epoch]).permutation(indices)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
