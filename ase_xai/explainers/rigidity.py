"""How well do the training data determine a prediction?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.statistics import HeadStatistics, centered, placed

TARGETS = ("energy", "charge")


@dataclass(frozen=True)
class LocalRigidity:
    """Local prediction rigidity LPR_i = 1/(f_i C f_iᵀ), how firmly the training data hold the value of each atom.

    f_i are the inputs of the last layer and C = (XᵀX + ς²)⁻¹ over the training structures: to move the value of atom i by
    ε, the training loss ½|Xw - y|² + ½ς²|w|² of the last layer must rise by ½·LPR_i·ε². For charges f_i - f̄ takes the place
    of f_i, since conservation takes the mean out. The values are relative to the median over the training atoms of the
    same element: 1 is as firm as usual there, 0.01 a hundred times looser.

    It is a linear, Gaussian estimate in the last layer. It does not see that the split of the energy could be another one.

    Args:
        target: "energy" or "charge".

    Raises:
        ValueError: the weights have no training statistics for this target.

    Source: Chong et al., J. Chem. Theory Comput. 2023, doi 10.1021/acs.jctc.3c00704; Bigi et al., arXiv:2403.02251.
    """

    target: str = "energy"

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}.")
        graph = calculator.checked_graph(atoms)
        with torch.no_grad():
            output = calculator.network(graph)
        statistics = head_statistics(calculator, self.target)
        leverage = _leverages(calculator, graph, output, self.target)
        assert leverage is not None
        usual = statistics.leverage[calculator.network.element_index(graph.numbers).cpu()]
        return answer(
            calculator,
            atoms,
            self,
            target=f"rigidity of {self.target}",
            level="atom",
            values=(usual[:, 0] / leverage).numpy(),
            units="1",
            gauge="parametrization",
            mask=(leverage <= usual[:, 1]).numpy(),
            notes=("Relative to the median training atom of the element; not trusted: looser than 99 % of these.",),
        )


def head_statistics(calculator: Explainable, target: str) -> HeadStatistics:
    """What the weight file of `calculator` says about the readout of `target`.

    Raises:
        ValueError: nothing.
    """
    statistics = calculator.statistics
    head = None if statistics is None else statistics.energies if target == "energy" else statistics.charges
    if head is None:
        raise ValueError(
            f"{calculator.model} has no training statistics of its {target} readout, which rigidity and uncertainty need. "
            "Use weights that `ase-xai train` of this version has written."
        )
    return head


def _leverages(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput, target: str) -> Tensor | None:
    """(N,) f_i C f_iᵀ on the CPU, or None where weights or network do not tell."""
    network, statistics = calculator.network, calculator.statistics
    head = None if statistics is None else statistics.energies if target == "energy" else statistics.charges
    inputs = output.energy_inputs if target == "energy" else output.charge_inputs
    if head is None or inputs is None:
        return None
    element = network.element_index(graph.numbers)
    rows = placed(inputs, element, len(network.elements), by_element=network.element_readouts)
    if target == "charge":
        rows = centered(rows, graph.system, graph.n_systems)
    return head.leverages(rows.cpu())


def energy_uncertainty(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput) -> NDArray[np.float64] | None:
    """(N,) σ_i = α·sqrt(f_i C f_iᵀ) of the atomic energies in eV; None where the weights have no statistics."""
    return _uncertainty(calculator, graph, output, "energy")


def charge_uncertainty(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput) -> NDArray[np.float64] | None:
    """(N,) σ_i of the latent charges in e; None where the weights have no statistics."""
    return _uncertainty(calculator, graph, output, "charge")


def _uncertainty(
    calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput, target: str
) -> NDArray[np.float64] | None:
    leverage = _leverages(calculator, graph, output, target)
    if leverage is None:
        return None
    return np.asarray(torch.sqrt(head_statistics(calculator, target).scale * leverage).numpy())
