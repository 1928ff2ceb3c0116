"""Which atoms are unlike anything in the training data?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.rigidity import head_statistics, last_layer_rows, usual_leverage
from ase_xai.graph import AtomGraph

MARGIN = 1e-3
"""Of a training standard deviation: symmetry functions count as outside the training range beyond it. Rounding is less."""
WAYS = ("auto", "range", "rigidity")


@runtime_checkable
class Described(Protocol):
    """A network with fixed descriptors."""

    def descriptors(self, graph: AtomGraph) -> Tensor:
        """(N, G) standardized descriptors of each atom."""


@dataclass(frozen=True)
class ExtrapolationFlags:
    """How far each atom lies outside the training data. Masked (not trusted) are the atoms that do.

    by="range", for networks with fixed descriptors: the number of symmetry functions beyond their smallest or largest value
    over the training atoms of the same element. 0 is inside. It sees any single function out of range, and no unusual
    combination of usual values.

    by="rigidity", for any network: f_i C f_iᵀ of the last layer over its 99th percentile among the training atoms of the
    same element. Up to 1 is usual. It sees unusual combinations, as far as the last layer does.

    Args:
        by: "range", "rigidity", or "auto": the first where the weights know ranges, else the second.

    Raises:
        ValueError: the weights have no training statistics, or none of this kind.

    Source: Behler, Int. J. Quantum Chem. 115, 1032 (2015) (extrapolation warnings); Chong et al., doi
    10.1021/acs.jctc.3c00704, and Bigi et al., arXiv:2403.02251 (rigidity).
    """

    by: str = "auto"

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(f"by must be one of {', '.join(WAYS)}, got {self.by!r}.")

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        statistics = calculator.statistics
        if statistics is None:
            raise ValueError(
                f"{calculator.model} has no training statistics, so nothing tells what lies outside its training data. Use "
                "weights that `ase-xai train` of this version has written."
            )
        graph = calculator.checked_graph(atoms)
        by_range = self.by == "range" or (self.by == "auto" and statistics.feature_range is not None)
        values = _outside_range(calculator, graph) if by_range else _over_usual_leverage(calculator, graph)
        element = calculator.network.element_index(graph.numbers).cpu()
        unseen = sorted({int(z) for z in atoms.numbers[(statistics.n_atoms[element] == 0).numpy()]})
        inside = values <= (0.0 if by_range else 1.0)
        what = (
            "Symmetry functions out of their training range" if by_range else "f·C·fᵀ over its 99th percentile in training"
        )
        names = ", ".join(f"{symbol}{i}" for i, symbol in enumerate(atoms.symbols) if not inside[i])
        notes = [f"{what}.", f"Outside: {names}." if names else "All atoms lie inside."]
        if unseen:
            notes.append(f"No training structure held {', '.join(chemical_symbols[z] for z in unseen)}.")
        return answer(
            calculator,
            atoms,
            self,
            target="extrapolation",
            level="atom",
            values=values,
            units="1",
            gauge="invariant" if by_range else "parametrization",
            mask=inside,
            notes=tuple(notes),
        )


def _outside_range(calculator: Explainable, graph: AtomGraph) -> NDArray[np.float64]:
    """(N,) number of descriptors out of range; all of them for elements without training atoms."""
    network, statistics = calculator.network, calculator.statistics
    assert statistics is not None
    if statistics.feature_range is None or not isinstance(network, Described):
        raise ValueError(
            f"{calculator.model} has no training ranges of fixed descriptors. Use by='rigidity', or Behler-Parrinello "
            "weights."
        )
    element = network.element_index(graph.numbers).cpu()
    with torch.no_grad():
        values = network.descriptors(graph).double().cpu()
    low, high = statistics.feature_range[element].unbind(dim=1)
    outside = (values < low - MARGIN) | (values > high + MARGIN) | (statistics.n_atoms[element] == 0)[:, None]
    return outside.sum(dim=1).double().numpy()


def _over_usual_leverage(calculator: Explainable, graph: AtomGraph) -> NDArray[np.float64]:
    """(N,) f·C·fᵀ over the 99th percentile of the element; infinite for elements without training atoms."""
    target = "energy" if calculator.statistics is not None and calculator.statistics.energies is not None else "charge"
    head = head_statistics(calculator, target)
    with torch.no_grad():
        rows = last_layer_rows(calculator, graph, calculator.output(graph), target)
    if rows is None:
        raise ValueError(f"{calculator.model} does not tell what its last layer gets, which rigidity needs.")
    usual = usual_leverage(calculator, graph, target)[:, 1]
    leverage = head.leverages(rows)
    return torch.where(leverage > 0, leverage / usual, 0.0).numpy()
