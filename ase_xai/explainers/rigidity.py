"""How well do the training data determine a prediction?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation, checked_groups
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.statistics import HeadStatistics, centered, placed

TARGETS = {"energy": "eV", "charge": "e"}
FIRMEST = 1e6  # the largest relative rigidity that is told apart
LIMITS = "Linear and Gaussian in the last layer: it does not see that the split among atoms could be another one."


@dataclass(frozen=True)
class LocalRigidity:
    """Local prediction rigidity LPR_i = 1/(f_i C f_iᵀ), how firmly the training data hold the value of each atom.

    f_i are the inputs of the last layer and C = (XᵀX + ς²)⁻¹ over the training structures: to move the value of atom i by
    ε, the training loss ½|Xw - y|² + ½ς²|w|² of the last layer must rise by ½·LPR_i·ε². For charges f_i - f̄ takes the place
    of f_i, since conservation takes the mean out. The values are relative to the median over the training atoms of the
    same element: 1 is as firm as usual there, 0.01 a hundred times looser, and 10⁶, the largest value given, stands for what
    symmetry or the total charge fixes alone. Elements without training atoms get 0.

    It is a linear, Gaussian estimate in the last layer. It does not see that the split of the energy could be another one.

    Args:
        target: "energy" or "charge".

    Raises:
        ValueError: the weights have no training statistics for this target.

    Source: Chong et al., J. Chem. Theory Comput. 2023, doi 10.1021/acs.jctc.3c00704; Bigi et al., arXiv:2403.02251.
    """

    target: str = "energy"

    def __post_init__(self) -> None:
        _refuse_unknown(self.target)

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = calculator.checked_graph(atoms)
        statistics, rows = _required(calculator, graph, self.target)
        leverage = statistics.leverages(rows)
        usual = usual_leverage(calculator, graph, self.target)
        return answer(
            calculator,
            atoms,
            self,
            target=f"rigidity of {self.target}",
            level="atom",
            values=torch.where(leverage * FIRMEST > usual[:, 0], usual[:, 0] / leverage, FIRMEST).numpy(),
            units="1",
            gauge="parametrization",
            mask=(leverage <= usual[:, 1]).numpy(),
            notes=("Relative to the median training atom of the element; not trusted: looser than 99 % of these.", LIMITS),
        )


@dataclass(frozen=True)
class PredictionUncertainty:
    """One standard deviation σ_G = α·sqrt(f_G C f_Gᵀ), f_G = Σ_{i∈G} f_i, of the energy or charge of groups of atoms.

    Without groups, of the sum over all atoms: of the total energy, in eV. Errors of atoms are not independent: those of a
    molecule usually compensate, and σ_G is at most, and mostly far below, the sum of the σ_i. α is calibrated on energies or
    dipoles of validation structures.

    Args:
        target: "energy" or "charge".
        groups: indices by name, which must partition the atoms; None takes one group of all.

    Raises:
        ValueError: the weights have no training statistics for this target, or groups do not partition the atoms.

    Source: Chong et al., doi 10.1021/acs.jctc.3c00704 (prediction rigidity); Bigi et al., arXiv:2403.02251 (calibration).
    """

    target: str = "energy"
    groups: Mapping[str, Sequence[int]] | None = None

    def __post_init__(self) -> None:
        _refuse_unknown(self.target)

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = calculator.checked_graph(atoms)
        statistics, rows = _required(calculator, graph, self.target)
        groups = {"all atoms": range(len(atoms))} if self.groups is None else self.groups
        sums = torch.stack([rows[torch.from_numpy(m)].sum(dim=0) for m in checked_groups(groups, len(atoms))])
        return answer(
            calculator,
            atoms,
            self,
            target=f"uncertainty of {self.target}",
            level="group",
            values=torch.sqrt(statistics.scale * statistics.leverages(sums)).numpy(),
            units=TARGETS[self.target],
            labels=tuple(groups),
            gauge="parametrization",
            notes=(LIMITS,),
        )


def _refuse_unknown(target: str) -> None:
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}.")


def head_statistics(calculator: Explainable, target: str) -> HeadStatistics:
    """What the weight file of `calculator` says about the readout of `target`.

    Raises:
        ValueError: nothing.
    """
    head = _known(calculator, target)
    if head is None:
        raise ValueError(
            f"{calculator.model} has no training statistics of its {target} readout, which rigidity and uncertainty need. "
            "Use weights that `ase-xai train` of this version has written."
        )
    return head


def _known(calculator: Explainable, target: str) -> HeadStatistics | None:
    statistics = calculator.statistics
    return None if statistics is None else statistics.energies if target == "energy" else statistics.charges


def last_layer_rows(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput, target: str) -> Tensor | None:
    """(N, D) what each atom's energy or charge is linear in, on the CPU; None for a network that does not tell.

    E_i = s·(w·f_i) + m with the bias among the inputs, and q_i = w·(f_i - f̄) + Q/N.
    """
    network = calculator.network
    inputs = output.energy_inputs if target == "energy" else output.charge_inputs
    if inputs is None:
        return None
    element = network.element_index(graph.numbers)
    rows = placed(inputs, element, len(network.elements), by_element=network.element_readouts)
    return (centered(rows, graph.system, graph.n_systems) if target == "charge" else rows).cpu()


def usual_leverage(calculator: Explainable, graph: AtomGraph, target: str) -> Tensor:
    """(N, 3) median, 99th percentile and maximum of f·C·fᵀ over the training atoms of each atom's element."""
    return head_statistics(calculator, target).leverage[calculator.network.element_index(graph.numbers).cpu()]


def _required(calculator: Explainable, graph: AtomGraph, target: str) -> tuple[HeadStatistics, Tensor]:
    statistics = head_statistics(calculator, target)
    with torch.no_grad():
        rows = last_layer_rows(calculator, graph, calculator.output(graph), target)
    if rows is None:
        raise ValueError(
            f"{calculator.model} does not tell what its last layer gets, which rigidity needs. Let the network give "
            f"{target}_inputs to `atomwise`."
        )
    return statistics, rows


def energy_uncertainty(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput) -> NDArray[np.float64] | None:
    """(N,) σ_i = α·sqrt(f_i C f_iᵀ) of the atomic energies in eV; None where the weights have no statistics."""
    return _uncertainty(calculator, graph, output, "energy")


def charge_uncertainty(calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput) -> NDArray[np.float64] | None:
    """(N,) σ_i of the latent charges in e; None where the weights have no statistics."""
    return _uncertainty(calculator, graph, output, "charge")


def _uncertainty(
    calculator: Explainable, graph: AtomGraph, output: AtomwiseOutput, target: str
) -> NDArray[np.float64] | None:
    statistics = _known(calculator, target)
    rows = None if statistics is None else last_layer_rows(calculator, graph, output, target)
    if statistics is None or rows is None:
        return None
    return np.asarray(torch.sqrt(statistics.scale * statistics.leverages(rows)).numpy())
