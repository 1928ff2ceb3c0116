"""Which motions move the dipole?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph

PARTS = ("total", "charge", "flux")
ORIGINS = ("fixed", "centroid", "center_of_mass")


@dataclass(frozen=True)
class BornCharges:
    """Born effective charges (atomic polar tensors) in e, (N, 3, 3): how the dipole follows each atom.

        Z*_{i,ab} = ∂μ_a/∂r_ib = q_i δ_ab + Σ_j (r_j - r_0)_a ∂q_j/∂r_ib        first index dipole, second displacement

    They tell which motions absorb light, and how atoms respond to an electric field. Unlike latent charges they do not
    depend on how the network splits the dipole; their two parts do. A third of the trace is the atom's GAPT charge.

    Args:
        part: "total"; "charge", the first term; or "flux", the second one, charge that flows between atoms.
        origin: of the dipole. "fixed": they sum to the total charge times the unit matrix, wherever the origin is.
            "centroid" or "center_of_mass": it moves with the atoms, and they sum to zero. Neutral systems do not care.

    Raises:
        ValueError: a periodic system, or a network without charges.

    Source: Gastegger, Behler, Marquetand, doi 10.1039/c7sc02267k (derivatives of dipoles of network charges); Cioslowski,
    J. Am. Chem. Soc. 111, 8333 (1989) (GAPT charges).
    """

    part: str = "total"
    origin: str = "fixed"

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        for name, allowed in (("part", PARTS), ("origin", ORIGINS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        graph = response_graph(calculator, atoms)
        response = calculator.dipole_response(graph)
        values = getattr(response, self.part).cpu().numpy()
        charge = float(graph.total_charge[0])
        if self.origin != "fixed" and self.part != "flux":
            values = values - charge * _weights(atoms, self.origin)[:, None, None] * np.eye(3)
        expected = charge if self.origin == "fixed" and self.part != "flux" else 0.0
        invariant = self.part == "total"
        return answer(
            calculator,
            atoms,
            self,
            target="dipole",
            level="atom",
            values=values,
            units="e",
            gauge="invariant" if invariant else "dependent",
            residual=float(np.abs(values.sum(axis=0) - expected * np.eye(3)).max()),
            notes=(
                f"∂μ_a/∂r_b: first index dipole, second displacement; total charge {charge:+g} e, origin {self.origin}.",
                *(() if invariant else ("One part of the Born charges: the network chose this split of their sum.",)),
            ),
        )


def response_graph(calculator: Explainable, atoms: Atoms) -> AtomGraph:
    """The graph of `atoms`, which must have a dipole that can be differentiated.

    Raises:
        ValueError: a periodic system, or a network without charges.
    """
    if atoms.pbc.any():
        raise ValueError(
            f"Born charges of a periodic system (pbc={atoms.pbc.tolist()}) are not defined here: charge that flows between "
            "atoms moves by a distance that depends on the choice of images. For an isolated molecule set atoms.pbc = False."
        )
    if not calculator.network.has_charges:
        raise ValueError(f"{calculator.model} has no charges: it was trained without dipoles. Use other weights.")
    with torch.inference_mode(False):
        return calculator.checked_graph(atoms)


def _weights(atoms: Atoms, origin: str) -> NDArray[np.float64]:
    """(N,) share of each atom in a moving origin."""
    weights = atoms.get_masses() if origin == "center_of_mass" else np.ones(len(atoms))
    return np.asarray(weights / weights.sum())
