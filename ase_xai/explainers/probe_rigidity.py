"""How firmly do the training data hold what a probe atom says?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_xai.explainers.base import Explainable
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.statistics import HeadStatistics, placed


@dataclass(frozen=True, eq=False)
class Rigidity:
    """How firmly the training data hold the readout of one element: leverage and variance of last-layer inputs.

    Args:
        factor: (d + 1, d + 1) R with |R·(f, 1)|² = f·C·fᵀ for inputs f of this element.
        isolated: (d,) inputs of a lone probe, or None if its value is not subtracted.
        usual: 99th percentile of the leverage over training atoms of the element; 0 if there are none.
        scale: α².
    """

    factor: Tensor
    isolated: Tensor | None
    usual: float
    scale: float

    @classmethod
    def of(
        cls,
        calculator: Explainable,
        graph: AtomGraph,
        number: int,
        molecule: AtomwiseOutput,
        isolated: AtomwiseOutput,
        *,
        readout: str = "energy",
        relative: bool,
    ) -> Rigidity | None:
        """For a probe element near the atoms of `graph`; None where weights or network do not tell.

        The readout is "energy" or "charge". A charge is held by f - f̄, the mean taken over the molecule, whose conservation
        shift the probe shares.
        """
        network, statistics = calculator.network, head_of(calculator, readout)
        alone, others = getattr(isolated, f"{readout}_inputs"), getattr(molecule, f"{readout}_inputs")
        if statistics is None or alone is None or others is None:
            return None
        identity = torch.eye(len(statistics.gram), dtype=torch.float64)
        elements = network.element_index(torch.cat([graph.numbers, graph.numbers.new_tensor([number])])).cpu()
        size = alone.shape[1] + 1
        start = int(elements[-1]) * size if network.element_readouts else 0
        basis = identity[:, start : start + size].clone()
        if readout == "charge":
            rows = placed(others.cpu(), elements[:-1], len(network.elements), by_element=network.element_readouts)
            basis[:, -1] -= rows.mean(dim=0)
        lower = torch.linalg.cholesky(statistics.gram + statistics.ridge * identity)
        return cls(
            factor=torch.linalg.qr(torch.linalg.solve_triangular(lower, basis, upper=False)).R,
            isolated=alone[0].double().cpu() if relative else None,
            usual=float(statistics.leverage[elements[-1], 1]),
            scale=float(statistics.scale),
        )

    def leverage(self, inputs: Tensor) -> Tensor:
        """(P,) f·C·fᵀ of inputs (P, d)."""
        return self._quadratic(inputs.double().cpu(), 1.0)

    def variance(self, inputs: Tensor) -> Tensor:
        """(P,) σ² of what is shown: the readout, or its difference from the lone probe's."""
        rows = inputs.double().cpu()
        shown = self._quadratic(rows, 1.0) if self.isolated is None else self._quadratic(rows - self.isolated, 0.0)
        return self.scale * shown

    def _quadratic(self, inputs: Tensor, constant: float) -> Tensor:
        extended = torch.cat([inputs, inputs.new_full((len(inputs), 1), constant)], dim=1)
        return ((extended @ self.factor.T) ** 2).sum(dim=1)


def head_of(calculator: Explainable, readout: str) -> HeadStatistics | None:
    """What the weight file says about the readout "energy" or "charge"; None if nothing."""
    statistics = calculator.statistics
    if statistics is None:
        return None
    return statistics.energies if readout == "energy" else statistics.charges
