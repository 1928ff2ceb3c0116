"""Whose motion changes whose energy?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation, checked_groups
from ase_xai.networks.rates import group_powers

Groups = Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class EnergyFlow:
    """Rates (G, N) in eV/fs at which the motion of atom j changes the latent energy of group G: (∂E_G/∂r_j)·v_j.

    Their sum over j is dE_G/dt, and the sum over everything is dE/dt = -Σ_j F_j·v_j, whatever the split of the energy among
    the atoms; the residual is the difference of these two. One backward pass a group. `trajectory.flow.energy_flow`
    integrates them along a run to the work W_GH that group H does on group G.

    Args:
        groups: indices by name, or pairs of name and indices, which must partition the atoms. None takes every atom as a
            group of its own: the finest answer, N backward passes and N² numbers.

    Raises:
        ValueError: atoms without velocities, or groups that do not partition them.

    Source: dE/dt along a trajectory by the chain rule; the split over atoms is the network's, see `AtomicEnergies`.
    """

    groups: Groups | None = None

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        velocities = velocities_of(atoms)
        groups = {f"{s}{i}": (i,) for i, s in enumerate(atoms.symbols)} if self.groups is None else dict(self.groups)
        members = checked_groups(groups, len(atoms))
        member = np.zeros(len(atoms), dtype=np.int64)
        for k, own in enumerate(members):
            member[own] = k
        with torch.inference_mode(False):
            graph = calculator.checked_graph(atoms)
            moving = torch.as_tensor(velocities, device=graph.positions.device)
            on_device = torch.as_tensor(member, device=moving.device)
            powers = group_powers(calculator.network, graph, moving, on_device, len(members)).cpu().numpy()
            forces = calculator.predict(graph).forces.cpu().numpy()
        return answer(
            calculator,
            atoms,
            self,
            target="energy flow",
            level="group",
            values=powers,
            units="eV/fs",
            labels=tuple(groups),
            gauge="dependent",
            residual=float(powers.sum() + (forces * velocities).sum()),
            settings={"groups": {name: own.tolist() for name, own in zip(groups, members, strict=True)}},
            notes=(
                "Row: the group whose energy changes; column: the atom whose motion changes it.",
                "Latent: only the sum over all groups is independent of how the network splits the energy.",
            ),
        )


def velocities_of(atoms: Atoms) -> NDArray[np.float64]:
    """(N, 3) velocities in Å/fs.

    Raises:
        ValueError: the atoms carry no momenta.
    """
    if not atoms.has("momenta"):
        raise ValueError(
            f"{atoms.get_chemical_formula()} has no velocities: a rate of change needs motion. Take atoms from molecular "
            "dynamics, or call atoms.set_velocities."
        )
    return np.asarray(atoms.get_velocities() * units.fs)
