"""Where is the charge?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
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
        output = calculator.output(graph)
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


@dataclass(frozen=True)
class Agreement:
    """Latent charges of one element beside reference charges.

    Args:
        element: symbol, or "all".
        n_atoms: number of atoms.
        correlation: Pearson's r; NaN for fewer than three atoms.
        slope: of the reference on the latent charge.
        same_sign: share of atoms whose charges have the same sign.
        mean, reference_mean: e.
    """

    element: str
    n_atoms: int
    correlation: float
    slope: float
    same_sign: float
    mean: float
    reference_mean: float


def compare_charges(explanations: Sequence[Explanation], references: Sequence[NDArray[np.float64]]) -> tuple[Agreement, ...]:
    """Latent charges against a population analysis, element by element and over all atoms.

    Reference analyses disagree among themselves: report the agreement, never call it a proof.

    Args:
        explanations: of `LatentCharges`.
        references: (N,) charges in e for each of them.

    Raises:
        ValueError: other explanations, or references of other lengths.
    """
    if any(e.target != "charge" or e.level != "atom" for e in explanations):
        raise ValueError("latent charges are compared, got explanations of something else. Use LatentCharges.")
    if [len(e.values) for e in explanations] != [len(r) for r in references] or not len(explanations):
        raise ValueError("there must be one reference charge for each atom of each explanation.")
    numbers = np.concatenate([e.numbers for e in explanations])
    latent = np.concatenate([e.values for e in explanations])
    reference = np.concatenate([np.asarray(r, dtype=float) for r in references])
    rows = {chemical_symbols[z]: numbers == z for z in np.unique(numbers)}
    everything = {**rows, "all": np.ones(len(numbers), dtype=bool)}
    return tuple(_agreement(name, latent[own], reference[own]) for name, own in everything.items())


def _agreement(element: str, latent: NDArray[np.float64], reference: NDArray[np.float64]) -> Agreement:
    varied = len(latent) > 2 and latent.std() > 0 and reference.std() > 0
    return Agreement(
        element,
        len(latent),
        float(np.corrcoef(latent, reference)[0, 1]) if varied else float("nan"),
        float(np.polyfit(latent, reference, 1)[0]) if varied else float("nan"),
        float((np.sign(latent) == np.sign(reference)).mean()),
        float(latent.mean()),
        float(reference.mean()),
    )
