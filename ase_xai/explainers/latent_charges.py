"""Where is the charge?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.rigidity import charge_uncertainty


@dataclass(frozen=True)
class LatentCharges:
    """Latent partial charges q_i with Σ_i q_i = Q, in e, which the network learned from dipoles.

    The residual is Σ_i q_i - Q. A dipole vector and a total charge fix only rank[1, x, y, z] combinations of the charges
    of one molecule; the notes say how many directions its own dipole leaves open, which only what was learned from other
    molecules decides.

    Source: Schütt et al., arXiv:1806.10349; charges from dipoles alone resemble CM5 (Sifain et al., arXiv:1803.04395).
    """

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = calculator.checked_graph(atoms)
        with torch.no_grad():
            output = calculator.network(graph)
        if output.charges is None:
            raise ValueError(f"{calculator.model} has no charges: it was trained without dipoles. Use other weights.")
        charges = output.charges.cpu().numpy()
        n_open = len(open_directions(atoms.positions))
        return answer(
            calculator,
            atoms,
            self,
            target="charge",
            level="atom",
            values=charges,
            units="e",
            gauge="dependent",
            residual=float(charges.sum()) - float(graph.total_charge[0]),
            uncertainty=charge_uncertainty(calculator, graph, output),
            notes=(
                f"Sign: {calculator.card.training.get('charge_sign', 'not stated')}.",
                f"Total charge {float(graph.total_charge[0]):+g} e, imposed by one shift shared by all atoms.",
                f"This molecule's total charge and dipole leave {n_open} of {len(atoms)} charge directions open.",
            ),
        )


def open_directions(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N - rank, N) orthonormal changes of the charges that leave total charge and dipole of a molecule as they are.

    Args:
        positions: (N, 3) Å.
    """
    about_centroid = positions - positions.mean(axis=0)
    rows = np.vstack([np.ones(len(positions)), about_centroid.T])
    _, singular, directions = np.linalg.svd(rows)
    rank = int((singular > 1e-9 * singular[0]).sum())
    return np.asarray(directions[rank:])
