"""What does the identity of each atom contribute to the energy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from ase_xai.explainers.alchemy import unseen_elements
from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph
from ase_xai.networks.response import element_shares, interaction_energy, share_gradients


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients of the energy along a straight path of the embeddings, in eV per atom: (N,).

        IG_i = (x_i⁰ - x_i′)·∫₀¹ ∂E/∂x_i(α) dα,   x(α) = x′ + α(x⁰ - x′),     Σ_i IG_i = E(x⁰) - E(x′)

    Reference energies of the elements are not in it. The baseline x′ is part of the question: values with different ones
    are different quantities. The residual is what the quadrature misses.

    Args:
        baseline: "zero", no embedding at all; "mean", the mean over elements with training data, at every atom; the symbol
            of an element, at every atom; or N symbols, another molecule in the same places.
        n_nodes: of the Gauss-Legendre quadrature; one forward and one backward pass each.

    Raises:
        ValueError: a network without embeddings (symmetry functions have no zero that stands for "nothing known"), or an
            unknown baseline.

    Source: Sundararajan, Taly, Yan, arXiv:1703.01365; on SchNet's embeddings, arXiv:1706.08566.
    """

    baseline: str | Sequence[str] = "zero"
    n_nodes: int = 32

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if not 1 <= self.n_nodes <= 1024:
            raise ValueError(f"n_nodes must be from 1 to 1024, got {self.n_nodes}. 32 usually reach rounding.")
        network = calculator.network
        try:
            network.element_vectors()
        except NotImplementedError as error:
            raise ValueError(f"{calculator.model}: {error}") from error
        with torch.inference_mode(False):
            graph = calculator.checked_graph(atoms)
            end = element_shares(network, graph.numbers)
            start = baseline_shares(calculator, graph, self.baseline)
            nodes, weights = np.polynomial.legendre.leggauss(self.n_nodes)
            mean = torch.zeros_like(end)
            for node, weight in zip(0.5 * (nodes + 1), 0.5 * weights, strict=True):
                _, gradients = share_gradients(network, graph, start + node * (end - start), interaction_energy)
                mean += weight * gradients
            values = ((end - start) * mean).sum(dim=1).cpu().numpy()
            energies = [share_gradients(network, graph, shares, interaction_energy)[0] for shares in (start, end)]
        return answer(
            calculator,
            atoms,
            self,
            target="energy",
            level="atom",
            values=values,
            units="eV",
            reference=f"baseline {self.baseline if isinstance(self.baseline, str) else ' '.join(self.baseline)}",
            gauge="parametrization",
            residual=energies[1] - energies[0] - float(values.sum()),
            notes=(f"Energy of the baseline: {energies[0]:.6g} eV, reference energies not included.",),
        )


def baseline_shares(calculator: Explainable, graph: AtomGraph, baseline: str | Sequence[str]) -> Tensor:
    """(N, Z) float64 shares of each element in a baseline of `IntegratedGradients`. Embeddings are linear in them."""
    network = calculator.network
    shape = (len(graph.numbers), len(network.elements))
    if baseline == "zero":
        return torch.zeros(shape, dtype=torch.float64, device=graph.numbers.device)
    if baseline == "mean":
        seen = [chemical_symbols[z] not in unseen_elements(calculator) for z in network.elements]
        share = torch.tensor(seen, dtype=torch.float64, device=graph.numbers.device) / sum(seen)
        return share.expand(shape).clone()
    symbols = [baseline] * shape[0] if isinstance(baseline, str) else list(baseline)
    known = [chemical_symbols[z] for z in network.elements]
    unknown = sorted(set(symbols) - set(known))
    if unknown or len(symbols) != shape[0]:
        raise ValueError(
            f'baseline must be "zero", "mean", one of {", ".join(known)}, or {shape[0]} of these for {shape[0]} atoms; got '
            f"{baseline!r}."
        )
    numbers = torch.tensor([atomic_numbers[symbol] for symbol in symbols], device=graph.numbers.device)
    return element_shares(network, numbers)
