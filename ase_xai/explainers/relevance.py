"""Which atoms, pairs and triples carry the energy inside the network?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.subsets import checked_order, connected_subsets, padded, subset_terms, subset_totals


@dataclass(frozen=True)
class NBodyRelevance:
    """What 1, 2, 3 ... atoms say together and no fewer of them, in eV: one value for each set of at most `order` atoms.

    The network is linearized at the input: every activation becomes y = z·(ssp(z)/z) with a constant quotient, which leaves
    the prediction as it is. R<S> is what then reaches the energy along paths inside the set S of atoms only, and

        R_S = Σ_{U⊆S} (-1)^(|S|-|U|) R<U>,      Σ_S R_S + (bias part) = E_net = Σ_i (E_i - m - E0[Z_i])

    A SchNet of T interactions has terms of up to T + 1 atoms, a Behler-Parrinello network pairs and triples. Sets that the
    cutoff does not hold together have none, exactly, and no row. The last row has no atoms (index -1): the sum of all orders
    above `order`. The residual is the bias part, what the network's biases say whatever the atoms do (for fixed descriptors
    with the means that standardization subtracts). It is signed and may exceed the energy itself.

    It answers what the network does, not what the molecule does: networks that agree on every energy may differ in it. Only
    the many-body expansion knows bonds in vacuo. `ase_xai.explainers.terms` has curves, elements and shares of orders.

    Args:
        order: largest number of atoms in a term. Cost: one small graph for each set; all triples of 21 atoms take seconds.

    Raises:
        NotImplementedError: the network has no linearized form.

    Source: Schnake et al., arXiv:2006.03589; Xiong et al., PMLR 162, 24478 (subset form); Bonneau et al., doi
    10.1038/s41467-025-65863-0 (n-body curves). The treatment of biases is this project's choice.
    """

    order: int = 3

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        order, graph = checked_order(self.order, len(atoms)), calculator.checked_graph(atoms)
        network = calculator.network
        tables = connected_subsets(graph, order)
        with torch.no_grad():
            linear = network.linearize(graph)
            totals = [subset_totals(graph, rows, linear) for rows in tables]
            everything = float(linear(graph, torch.arange(len(atoms), device=graph.centers.device)).double().sum())
            output = network(graph)
        found = np.concatenate(subset_terms(tables, totals, len(atoms)))
        rest, shift = everything - float(found.sum()), network.energy.shift * len(atoms)
        interaction, references = float(output.energies.double().sum()), float(output.references.sum())
        bias = interaction - shift - everything
        notes = [
            f"Bias part {bias:+.3f} eV: what the network says whatever the atoms do, "
            f"{_share(bias, interaction)} of the interaction energy {interaction:+.3f} eV.",
            f"Terms of 1 to {order} atoms {everything - rest:+.3f} eV, of more atoms together {rest:+.3f} eV (last row).",
            f"Outside: shift N·m {shift:+.3f} eV and references of the elements {references:+.3f} eV.",
            "Shows the network, not the molecule: networks with equal energies may differ in it.",
        ]
        if network.dtype != torch.float64:
            largest = max((np.abs(values).max(initial=0.0) for values in totals), default=0.0)
            rounding = torch.finfo(network.dtype).eps * max(largest, abs(everything))
            notes.append(f'Single precision: terms near {rounding:.0e} eV are rounding. Use dtype="float64" for small ones.')
        index = padded(tables)
        return answer(
            calculator,
            atoms,
            self,
            target="energy",
            level="tuple",
            values=np.append(found, rest),
            index=np.concatenate([index, np.full((1, index.shape[1]), -1)]),
            units="eV",
            gauge="parametrization",
            reference="shift and references of the elements",
            residual=bias,
            notes=tuple(notes),
        )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if abs(whole) > 1e-12 else "an undefined share"
