"""Where does energy travel?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.energy_flow import velocities_of
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph
from ase_xai.networks.rates import barycenter_rate, receptive_hops, unfold

PARTS = ("total", "potential", "convective")
AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}
"""How well energies of a cell and of its unfolded images must agree, eV per atom."""


@dataclass(frozen=True)
class HeatFlux:
    """Each atom's part of the heat flux J in eV·Å/fs, (N, 3); divide their sum by the volume for a flux density.

        J = Σ_i v_i (U_i + K_i) + Σ_ij (r_i - r_j) (∂U_i/∂r_j)·v_j      ( = d/dt Σ_i r_i (U_i + K_i) for a free cluster)

    U_i are latent interaction energies, the reference energies of the elements left out, K_i kinetic energies. An atom's
    part is its convective term and the potential term of its motion. In a periodic cell j runs over the images inside the
    receptive field, in an unfolded copy of the cell, so that messages across several neighbors are counted where they go. A
    cell smaller than the receptive field (T·cutoff) costs as much as the atoms of that field.

    J depends on how the network splits the energy; the thermal conductivity by Green and Kubo does not. With several
    elements a constant for each shifts J by mass fluxes: choose it, or project it out.

    Args:
        part: "total", "potential" or "convective".

    Raises:
        ValueError: atoms without velocities, or atomic energies that are not local.

    Source: Langer et al., Phys. Rev. B 108, L100302 (2023), arXiv:2303.14434; Fan et al., Phys. Rev. B 92, 094301 (2015);
    Ercole et al., arXiv:1601.00158 (gauge invariance of the conductivity).
    """

    part: str = "total"

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}.")

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        velocities = velocities_of(atoms)
        with torch.inference_mode(False):
            graph = calculator.checked_graph(atoms)
            potential, energies = _potential(calculator, graph, atoms, velocities)
        kinetic = 0.5 * atoms.get_masses() * (velocities**2).sum(axis=1) / units.fs**2  # amu (Å/fs)² to eV
        convective = velocities * (energies + kinetic)[:, None]
        values = {"total": potential + convective, "potential": potential, "convective": convective}[self.part]
        return answer(
            calculator,
            atoms,
            self,
            target="heat flux",
            level="atom",
            values=values,
            units="eV·Å/fs",
            gauge="dependent",
            reference="references of the elements",
            notes=(
                "By moving atom, and not divided by a volume: only the sum is a flux.",
                "Latent: the conductivity by Green and Kubo does not depend on the split of the energy; the flux does.",
            ),
        )


def _potential(
    calculator: Explainable, graph: AtomGraph, atoms: Atoms, velocities: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 3) potential part by atom and (N,) energies without references."""
    network, n = calculator.network, len(atoms)
    device = graph.positions.device
    whole, origin = graph, torch.arange(n, device=device)
    if atoms.pbc.any():
        cell = torch.as_tensor(atoms.cell.array[atoms.pbc], device=device)
        whole, origin = unfold(graph, cell, max(1, receptive_hops(network)))
    moving = torch.as_tensor(velocities, device=device)
    by_atom, energies = barycenter_rate(network, whole, moving[origin], origin, n)
    if atoms.pbc.any():
        with torch.no_grad():
            gap = float((network(replace(graph, mirrored=False)).energies.double() - energies).abs().max())
        if not gap < AGREEMENT[network.dtype]:
            raise ValueError(
                f"{calculator.model}: an atomic energy differs by {gap:.3g} eV between the cell and its unfolded images, so "
                "it is not local and its heat flux is not defined. Explain an isolated cluster, or use other weights."
            )
    return by_atom.cpu().numpy(), energies.cpu().numpy()
