"""Which pairs of atoms pull and push?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation

COMPONENTS = ("vector", "radial")


@dataclass(frozen=True)
class PairForces:
    """The force on atom i from atom j in eV/Å, for each pair (i, j) with i ≤ j: (K, 3), rows sorted.

        f_ij = ∂E/∂D_ij - ∂E/∂D_ji = -f_ji,     F_i = Σ_j f_ij

    Energies of many-body networks have no unique pair forces, since the distances of more than four atoms depend on one
    another: these are the ones of the network's own pair vectors. They need not point along the line between the atoms
    where angles are descriptors (Behler-Parrinello); those of a SchNet do.

    Periodic images are summed: a row holds all images of j, and a row (i, i), the atom's own images, is zero as a vector.

    Args:
        component: "vector" (K, 3), or "radial" (K,), the part f_ij·D_ij/r_ij summed over images: above zero the pair
            attracts, below zero it repels.

    Source: the pair form of the forces of any network on pair vectors, e.g. Fan et al., Phys. Rev. B 92, 094301 (2015).
    """

    component: str = "vector"

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if self.component not in COMPONENTS:
            raise ValueError(f"component must be one of {', '.join(COMPONENTS)}, got {self.component!r}.")
        with torch.inference_mode(False):
            graph = calculator.checked_graph(atoms)
            prediction = calculator.predict(graph)
        ends = np.stack([graph.centers.cpu().numpy(), graph.neighbors.cpu().numpy()], axis=1)  # (E, 2)
        vectors, gradients = graph.vectors.cpu().numpy(), prediction.pair_gradients.cpu().numpy()
        index, row = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
        sign = np.where(ends[:, 0] <= ends[:, 1], 1.0, -1.0)[:, None]
        sign[ends[:, 0] == ends[:, 1]] = 0.0  # the pull of one image and of the opposite one
        forces = _summed(sign * gradients, row, len(index))
        radial = (gradients * vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)
        by_atom = np.zeros((len(atoms), 3))
        np.add.at(by_atom, index[:, 0], forces)
        np.add.at(by_atom, index[:, 1], -forces)
        return answer(
            calculator,
            atoms,
            self,
            target="forces",
            level="pair",
            values=forces if self.component == "vector" else _summed(radial, row, len(index)),
            index=index,
            units="eV/Å",
            gauge="parametrization",
            residual=float(np.abs(by_atom - prediction.forces.cpu().numpy()).max(initial=0.0)),
            notes=("Force on the first atom from the second; another network of equal forces may split them otherwise.",),
        )


def _summed(values: NDArray[np.float64], row: NDArray[np.int64], n_rows: int) -> NDArray[np.float64]:
    total = np.zeros((n_rows, *values.shape[1:]))
    np.add.at(total, row.reshape(-1), values)
    return total
