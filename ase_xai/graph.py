"""Atoms as tensors: the only form in which geometry reaches a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_xai.neighbors import Pairs, find_pairs


@dataclass(frozen=True, eq=False)
class AtomGraph:
    """One system, or a batch of B systems, with the directed pairs inside a cutoff.

    A pair (i, j) stands for "j is a neighbor of i" with the vector D_ij = r_j + S·h - r_i (ASE's sign; S integer cell
    shifts, h cell). Pair vectors carry all geometry a network sees; positions serve the dipole only.

    Args:
        numbers: (N,) int64 atomic numbers.
        positions: (N, 3) Å.
        vectors: (E, 3) D_ij in Å.
        centers: (E,) int64 index i of each pair.
        neighbors: (E,) int64 index j of each pair.
        system: (N,) int64 index of the system of each atom, ascending, 0 .. B-1.
        total_charge: (B,) e.
        volume: (B,) Å^3; NaN for a system without a stress (no periodicity, or no full cell).
        mirrored: True when pair E/2 + e is pair e reversed, as `from_pairs` builds it. A function of the distance alone is
            then evaluated on `unique_vectors` only, half the work, exactly.
    """

    numbers: Tensor
    positions: Tensor
    vectors: Tensor
    centers: Tensor
    neighbors: Tensor
    system: Tensor
    total_charge: Tensor
    volume: Tensor
    mirrored: bool = False

    def __post_init__(self) -> None:
        n_atoms, n_pairs = self.numbers.shape[0], self.centers.shape[0]
        expected = {
            "positions": (n_atoms, 3),
            "vectors": (n_pairs, 3),
            "neighbors": (n_pairs,),
            "system": (n_atoms,),
            "volume": tuple(self.total_charge.shape),
        }
        for name, shape in expected.items():
            actual = tuple(getattr(self, name).shape)
            if actual != shape:
                raise ValueError(f"AtomGraph.{name} must have shape {shape}, got {actual}. Use from_atoms or batch.")

    @classmethod
    def from_atoms(
        cls, atoms: Atoms, cutoff: float, *, total_charge: float = 0.0, device: torch.device | str = "cpu"
    ) -> AtomGraph:
        """The graph of `atoms` with every pair closer than `cutoff` (Å), in float64."""
        pairs = find_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        return cls.from_pairs(atoms, pairs, total_charge=total_charge, device=device)

    @classmethod
    def from_pairs(
        cls,
        atoms: Atoms,
        pairs: Pairs,
        *,
        total_charge: float = 0.0,
        cutoff: float | None = None,
        device: torch.device | str = "cpu",
    ) -> AtomGraph:
        """The graph of `atoms` over known undirected pairs; those not closer than `cutoff` (Å), if given, are left out."""
        vectors = pairs.vectors(atoms.positions, atoms.cell.array)
        first, second = pairs.first, pairs.second
        if cutoff is not None:
            near = np.flatnonzero(np.einsum("ij,ij->i", vectors, vectors) < cutoff * cutoff)
            first, second, vectors = first.take(near), second.take(near), vectors.take(near, axis=0)

        def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=device)

        return cls(
            numbers=tensor(atoms.numbers.copy(), torch.int64),
            positions=tensor(atoms.positions.copy(), torch.float64),
            vectors=tensor(np.concatenate([vectors, -vectors]), torch.float64),
            centers=tensor(np.concatenate([first, second]), torch.int64),
            neighbors=tensor(np.concatenate([second, first]), torch.int64),
            system=torch.zeros(len(atoms), dtype=torch.int64, device=device),
            total_charge=torch.full((1,), float(total_charge), dtype=torch.float64, device=device),
            volume=torch.full((1,), stress_volume(atoms), dtype=torch.float64, device=device),
            mirrored=True,
        )

    @classmethod
    def batch(cls, graphs: Sequence[AtomGraph]) -> AtomGraph:
        """Several graphs as one, without pairs between them."""
        if not graphs:
            raise ValueError("AtomGraph.batch got no graphs. Give at least one.")
        atom_offsets = np.cumsum([0] + [len(g.numbers) for g in graphs])
        system_offsets = np.cumsum([0] + [g.n_systems for g in graphs])
        mirrored = all(g.mirrored for g in graphs)

        def pairs(columns: Sequence[Tensor]) -> Tensor:
            if not mirrored:
                return torch.cat(list(columns))
            halves = [c.chunk(2) if len(c) else (c, c) for c in columns]
            return torch.cat([h[0] for h in halves] + [h[1] for h in halves])

        return cls(
            numbers=torch.cat([g.numbers for g in graphs]),
            positions=torch.cat([g.positions for g in graphs]),
            vectors=pairs([g.vectors for g in graphs]),
            centers=pairs([g.centers + int(o) for g, o in zip(graphs, atom_offsets, strict=False)]),
            neighbors=pairs([g.neighbors + int(o) for g, o in zip(graphs, atom_offsets, strict=False)]),
            system=torch.cat([g.system + int(o) for g, o in zip(graphs, system_offsets, strict=False)]),
            total_charge=torch.cat([g.total_charge for g in graphs]),
            volume=torch.cat([g.volume for g in graphs]),
            mirrored=mirrored,
        )

    @property
    def n_systems(self) -> int:
        return self.total_charge.shape[0]

    @property
    def n_unique(self) -> int:
        """Number of pairs on which a function of the distance must be evaluated: E/2 when mirrored, else E."""
        return len(self.centers) // 2 if self.mirrored else len(self.centers)

    @property
    def unique_vectors(self) -> Tensor:
        """(n_unique, 3) Å."""
        return self.vectors[: self.n_unique]

    def gather_neighbors(self, weights: Tensor, values: Tensor, parity: Tensor | None = None) -> Tensor:
        """Σ_j weights_ij · values_j for each atom i: (N, F).

        Args:
            weights: (n_unique, F) one row per unique pair.
            values: (N, F) or (N, 1).
            parity: (F,) sign of each weight under reversal of a pair, -1 for components of a vector; None if none changes.
        """
        n = self.n_unique
        first, second = self.centers[:n], self.neighbors[:n]
        total = values.new_zeros((len(self.numbers), weights.shape[1]))
        total = total.index_add(0, first, weights * values[second])
        if self.mirrored:
            back = weights if parity is None else weights * parity
            total = total.index_add(0, second, back * values[first])
        return total

    def sum_systems(self, values: Tensor) -> Tensor:
        """Sum of per-atom `values` (N, ...) over each system: (B, ...)."""
        if self.n_systems == 1:
            return values.sum(dim=0, keepdim=True)
        return values.new_zeros((self.n_systems, *values.shape[1:])).index_add(0, self.system, values)

    def with_vectors(self, vectors: Tensor) -> AtomGraph:
        """The same graph with other pair vectors, e.g. ones that require a gradient."""
        return replace(self, vectors=vectors)


def stress_volume(atoms: Atoms) -> float:
    """Volume in Å^3 that a stress refers to; NaN when `atoms` has no periodic direction or no full cell."""
    if not atoms.pbc.any():
        return float("nan")
    volume = float(atoms.cell.volume)
    full = volume > 1e-6 * float(np.prod(atoms.cell.lengths()))  # rank counts dependent vectors as well
    return volume if full else float("nan")
