"""Which substitution lowers the energy, or raises the dipole, most?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.response import response_graph
from ase_xai.networks.response import dipole_magnitude, element_shares, interaction_energy, share_gradients

QUANTITIES = {"energy": ("eV", interaction_energy), "dipole": ("e·Å", dipole_magnitude)}
VANISHING = 1e-8  # e·Å


class Substitution(NamedTuple):
    """The first-order change, in units of the explanation, when `element` takes the place of atom `site`."""

    site: int
    element: str
    change: float


@dataclass(frozen=True)
class AlchemicalDerivatives:
    """First-order change d/dλ of energy or dipole as atom i turns into another element, for all sites and targets: (N, T).

        x_i⁰ = (1 - λ)·a[Z] + λ·a[Z′] at λ = 0     (SchNet)
        w_i = (1 - λ)·Z + λ·Z′ as a neighbor, E_i = (1 - λ)·E_Z(G_i) + λ·E_Z′(G_i) as a center     (Behler-Parrinello)

    Symmetry functions resolved by element take 1 - λ and λ as the atom's share in two channels. One forward and one backward
    pass serve all sites and elements. The change is vertical: the geometry stays. It is also linear, and λ has no meaning
    between 0 and 1: rank candidates with it (`best_substitutions`), then replace, relax and compare for real. Where the
    networks of the elements are separate (Behler-Parrinello), the target's has often never seen such surroundings: values of
    many eV are its extrapolation.

    Energies exclude the reference energies of the elements; their differences stand in settings["reference_change"], eV by
    site and target. An atom's own element has the value 0.

    Args:
        targets: symbols of elements that the network knows; None takes all that the weights saw in training.
        of: "energy" in eV, or "dipole", |μ| in e·Å of a neutral open system.

    Raises:
        ValueError: a network that does not mix elements; unknown targets; for "dipole" a periodic or charged system, or a
            dipole of zero, which has no derivative.

    Source: Nam, Peng, Gómez-Bombarelli, arXiv:2404.10746 (alchemical atoms in learned potentials).
    """

    targets: Sequence[str] | None = None
    of: str = "energy"

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if self.of not in QUANTITIES:
            raise ValueError(f"of must be one of {', '.join(QUANTITIES)}, got {self.of!r}.")
        targets = self._targets(calculator)
        elements, table = calculator.network.elements, calculator.network.energy.references
        numbers = [atomic_numbers[symbol] for symbol in targets]
        slopes = self._slopes(calculator, atoms)
        own = slopes[np.arange(len(atoms)), [elements.index(z) for z in atoms.numbers]]
        references = [[table.get(target, 0.0) - table.get(int(z), 0.0) for target in numbers] for z in atoms.numbers]
        return answer(
            calculator,
            atoms,
            self,
            target=self.of,
            level="atom",
            values=slopes[:, [elements.index(z) for z in numbers]] - own[:, None],
            units=QUANTITIES[self.of][0],
            gauge="parametrization",
            settings={"targets": targets, "of": self.of, "reference_change": references},
            notes=(
                f"Columns: {' '.join(targets)}. First order in λ at fixed geometry: confirm by real substitution.",
                *(("Reference energies of the elements are left out, see settings.",) if self.of == "energy" else ()),
                *self._doubts(calculator, targets),
            ),
        )

    def _slopes(self, calculator: Explainable, atoms: Atoms) -> NDArray[np.float64]:
        """(N, Z) derivatives with respect to how much of each of the network's elements an atom is."""
        network, quantity = calculator.network, QUANTITIES[self.of][1]
        with torch.inference_mode(False):
            graph = response_graph(calculator, atoms) if self.of == "dipole" else calculator.checked_graph(atoms)
            charge = float(graph.total_charge[0])
            if self.of == "dipole" and charge:
                raise ValueError(
                    f"the dipole of a system with charge {charge:+g} e depends on the origin. Use a neutral one, or "
                    'of="energy".'
                )
            try:
                value, gradients = share_gradients(network, graph, element_shares(network, graph.numbers), quantity)
            except NotImplementedError as error:
                raise ValueError(f"{calculator.model}: {error}") from error
        if self.of == "dipole" and value < VANISHING:
            raise ValueError(f"|μ| is {value:.2g} e·Å, and has no derivative at zero. Break the symmetry first.")
        return np.asarray(gradients.cpu().numpy())

    def _targets(self, calculator: Explainable) -> list[str]:
        known = [chemical_symbols[z] for z in calculator.network.elements]
        unseen = unseen_elements(calculator)
        targets = [s for s in known if s not in unseen] if self.targets is None else list(self.targets)
        if isinstance(self.targets, str) or not targets or set(targets) - set(known) or len(set(targets)) < len(targets):
            raise ValueError(f"targets must be distinct elements of {', '.join(known)}, got {self.targets!r}.")
        return targets

    def _doubts(self, calculator: Explainable, targets: Sequence[str]) -> tuple[str, ...]:
        unseen = [symbol for symbol in targets if symbol in unseen_elements(calculator)]
        return (f"No training data held {' '.join(unseen)}: these columns mean nothing.",) if unseen else ()


def unseen_elements(calculator: Explainable) -> set[str]:
    """Elements that the network has a place for and never saw; nothing is known without statistics."""
    if calculator.statistics is None:
        return set()
    elements, counts = calculator.network.elements, calculator.statistics.n_atoms.tolist()
    return {chemical_symbols[z] for z, count in zip(elements, counts, strict=True) if count == 0}


def best_substitutions(explanation: Explanation, n: int = 10, *, largest: bool | None = None) -> list[Substitution]:
    """The `n` substitutions with the lowest change of the energy, or the largest change of the dipole.

    Args:
        explanation: by `AlchemicalDerivatives`.
        n: how many at most; an atom's own element is not among them.
        largest: first the largest changes; None does so for dipoles only.
    """
    if explanation.method != AlchemicalDerivatives.__name__:
        raise ValueError(f"substitutions come from AlchemicalDerivatives, got an explanation by {explanation.method}.")
    targets = explanation.settings["targets"]
    found = [
        Substitution(site, symbol, float(explanation.values[site, column]))
        for site, number in enumerate(explanation.numbers)
        for column, symbol in enumerate(targets)
        if symbol != chemical_symbols[number]
    ]
    descending = explanation.target == "dipole" if largest is None else largest
    return sorted(found, key=lambda s: -s.change if descending else s.change)[:n]
