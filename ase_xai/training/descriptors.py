"""Symmetry functions kept between epochs, for training that needs no derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ase_xai.networks.base import AtomisticNetwork, Sums, add_up
from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
from ase_xai.training.data import ragged_rows
from ase_xai.training.loader import GraphLoader, Labels

BATCH = 200  # structures whose descriptors are computed at once
MAX_IN_MEMORY = 500_000_000  # bytes; more are kept in a file and mapped


@dataclass(frozen=True, eq=False)
class DescriptorCache:
    """Standardized symmetry functions of every atom of a set: they do not depend on the weights, so an epoch computes none.

    Args:
        network: whose descriptors they are.
        loader: of the structures.
        values: (ΣN, G) in the order of the structures.
    """

    network: BehlerParrinelloNetwork
    loader: GraphLoader
    values: NDArray[np.float32]

    @classmethod
    def of(
        cls, network: AtomisticNetwork, loader: GraphLoader, *, compiled: bool, file: Path | None = None
    ) -> DescriptorCache | None:
        """Compute all descriptors; None for a network without fixed descriptors.

        Args:
            network: with the standardization it will be trained with.
            loader: of the structures.
            compiled: use compiled kernels.
            file: where many descriptors are kept, instead of in memory. It has no name any more once it is open, so that it
                vanishes with the process.
        """
        if not isinstance(network, BehlerParrinelloNetwork):
            return None
        n_structures = len(loader.structures)
        values = _room((int(loader.structures.offsets[-1]), network.descriptor.n_functions), file)
        network.compiled = compiled
        try:
            with torch.no_grad():
                for start in range(0, n_structures, BATCH):
                    indices = np.arange(start, min(start + BATCH, n_structures))
                    rows, _ = ragged_rows(loader.structures.offsets, indices)
                    graph, _ = loader.batch(indices, network.device)
                    values[rows] = network.descriptors(graph).cpu().numpy()
        finally:
            network.compiled = False
        return cls(network, loader, values)

    def outputs(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Sums, Labels]:
        """Energies, charges and dipoles of some structures from their kept descriptors, and their labels."""
        graph, labels = self.loader.batch(indices, device, pairs=False)
        rows, _ = ragged_rows(self.loader.structures.offsets, indices)
        descriptors = torch.from_numpy(self.values[rows]).to(device)
        return add_up(graph, self.network.from_descriptors(graph, descriptors)), labels


def _room(shape: tuple[int, int], file: Path | None) -> NDArray[np.float32]:
    """An array in memory, or in a file where it is large."""
    if file is None or 4 * shape[0] * shape[1] <= MAX_IN_MEMORY:
        return np.empty(shape, np.float32)
    mapped = np.memmap(file, np.float32, mode="w+", shape=shape)
    file.unlink()
    return mapped
