"""From atomic readouts to energies and charges that add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph


class AtomicEnergy(nn.Module):
    """E_i = s·f_i + m, beside the reference energy E0[Z_i] of the element; all in float64 whatever the network's precision.

    Scale s and shift m (eV per atom) bring network outputs of order one to the training data. References are a thousand
    times larger than the energies of interest, so they are kept apart and never pass through float32.
    Source: SchNetPack 0.2.1 for s and m; the references apart are this project's choice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = 1.0, 0.0
        self._references: dict[int, float] = {}
        self._table = torch.zeros(119, dtype=torch.float64)

    @property
    def references(self) -> dict[int, float]:
        """E0[Z] in eV by atomic number Z; elements not in it count as 0."""
        return dict(self._references)

    @references.setter
    def references(self, references: Mapping[int, float]) -> None:
        self._references = {int(z): float(e) for z, e in references.items()}
        self._table.zero_()
        for number, energy in self._references.items():
            self._table[number] = energy

    def forward(self, readout: Tensor) -> Tensor:
        """(N,) interaction energies in eV, float64, from (N,) network outputs."""
        return self.scale * readout.double() + self.shift

    def reference(self, numbers: Tensor) -> Tensor:
        """(N,) E0[Z] in eV, float64."""
        return self._table[numbers]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Follow the network to another device, never to another precision."""
        super()._apply(fn, recurse)
        self._table = self._table.to(fn(self._table.new_empty(0)).device)
        return self


def conserve_charge(readout: Tensor, graph: AtomGraph) -> Tensor:
    """q_i = p_i + (Q - Σ_j p_j)/N: latent charges that sum to the total charge Q, in float64.

    The correction is global within a system: adding a far molecule to the same system shifts every charge in it, so latent
    charges are additive between systems, not between far parts of one system.

    Args:
        readout: (N,) unconstrained charges p in e.
        graph: gives each atom's system and each system's total charge.
    """
    latent = readout.double()
    missing = graph.total_charge.double() - graph.sum_systems(latent)
    if graph.n_systems == 1:
        return latent + missing / len(latent)
    counts = graph.sum_systems(torch.ones_like(latent))
    return latent + (missing / counts)[graph.system]
