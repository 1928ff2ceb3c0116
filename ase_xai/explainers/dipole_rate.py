"""Which atoms make the dipole move?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.energy_flow import velocities_of
from ase_xai.explainers.explanation import Explanation, checked_groups
from ase_xai.explainers.fragments import connected, made_whole
from ase_xai.networks.rates import dipole_rate


@dataclass(frozen=True)
class DipoleRate:
    """What the motion of each atom adds to the rate of change of the dipole, (N, 3) in e·Å/fs: Z*_j·v_j.

        dμ/dt = Σ_j Z*_j·v_j = Σ_i (q_i v_i + q̇_i r_i),     Z*_j = ∂μ/∂r_j

    Recorded along a run, its Fourier transform is the infrared spectrum, by atom or group. Σ_i q_i v_i alone would miss the
    charge that flows between atoms.

    In a periodic system r_i depends on the choice of images. With `fragments`, r_i is replaced by r_i - R_f: the place of
    the atom in its molecule made whole, relative to the molecule's centroid. What is lost is charge that flows from molecule
    to molecule; it is measured as Σ_f |Σ_{i∈f} q̇_i| / Σ_i |q̇_i|, stands in the notes, and above `traffic` it is refused.

    Args:
        fragments: None for open systems; indices by name, groups of bonded atoms that partition the system; or "connected",
            the molecules of each frame, which makes a jump where an atom goes from one to another.
        traffic: largest share of the charge flow that may cross between fragments.

    The residual compares the sum over moving atoms with Σ_i (q_i v_i + q̇_i r_i), where q̇_i is found in another way.

    Raises:
        ValueError: atoms without velocities, a periodic system without fragments, fragments that exchange charge, or a
            network without charges.

    Source: Gastegger, Behler, Marquetand, doi 10.1039/c7sc02267k; Thomas et al., Phys. Chem. Chem. Phys. 15, 6608 (2013)
    (molecular dipoles in periodic systems).
    """

    fragments: str | Mapping[str, Sequence[int]] | None = None
    traffic: float = 0.25

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        velocities = velocities_of(atoms)
        fragments = self._fragments(atoms)
        if not calculator.network.has_charges:
            raise ValueError(f"{calculator.model} has no charges: it was trained without dipoles. Use other weights.")
        places = atoms.positions - atoms.positions.mean(axis=0) if fragments is None else _inside(atoms, fragments)
        with torch.inference_mode(False):
            graph = calculator.checked_graph(atoms)
            moving = torch.as_tensor(velocities, device=graph.positions.device)
            rate = dipole_rate(calculator.network, graph, moving, torch.as_tensor(places, device=moving.device))
        values, charge_rates = rate.by_atom.cpu().numpy(), rate.charge_rates.cpu().numpy()
        expected = rate.charges.cpu().numpy() @ velocities + charge_rates @ places
        notes = [f"Total charge {float(graph.total_charge[0]):+g} e."]
        if fragments is not None:
            share = _traffic(charge_rates, fragments)
            notes.append(f"Dipoles of {len(fragments)} fragments; {share:.1%} of the charge flow crosses between them.")
            if share > self.traffic:
                raise ValueError(
                    f"{share:.1%} of the charge flow crosses between fragments, more than traffic={self.traffic:.1%}: the "
                    "sum of their dipoles would miss it. Use larger fragments, or allow more traffic and say so."
                )
        return answer(
            calculator,
            atoms,
            self,
            target="dipole rate",
            level="atom",
            values=values,
            units="e·Å/fs",
            gauge="invariant" if fragments is None else "dependent",
            residual=float(np.abs(values.sum(axis=0) - expected).max()),
            notes=tuple(notes),
        )

    def _fragments(self, atoms: Atoms) -> Mapping[str, Sequence[int]] | None:
        if self.fragments is None:
            if atoms.pbc.any():
                raise ValueError(
                    f"the dipole of a periodic system (pbc={atoms.pbc.tolist()}) depends on the choice of images. Use "
                    'DipoleRate(fragments="connected") for molecules made whole, or atoms.pbc = False for an isolated one.'
                )
            return None
        if isinstance(self.fragments, str):
            if self.fragments != "connected":
                raise ValueError(f'fragments must be "connected", indices by name or None, got {self.fragments!r}.')
            return connected(atoms)
        checked_groups(self.fragments, len(atoms))
        return self.fragments


def _inside(atoms: Atoms, fragments: Mapping[str, Sequence[int]]) -> NDArray[np.float64]:
    """(N, 3) places of the atoms in their fragments, relative to the fragments' centroids, in Å."""
    whole = made_whole(atoms, fragments)
    for members in fragments.values():
        own = list(members)
        whole[own] -= whole[own].mean(axis=0)
    return whole


def _traffic(charge_rates: NDArray[np.float64], fragments: Mapping[str, Sequence[int]]) -> float:
    """Share of the charge flow that crosses between fragments."""
    crossing = sum(abs(charge_rates[list(members)].sum()) for members in fragments.values())
    total = np.abs(charge_rates).sum()
    return float(crossing / total) if total > 0 else 0.0
