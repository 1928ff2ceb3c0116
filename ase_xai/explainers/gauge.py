"""The same energies and forces with another split among the atoms: what in an explanation is a matter of choice?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, Explainer
from ase_xai.explainers.extrapolation import Described
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Linearized, Prediction, predict
from ase_xai.networks.layers import CosineCutoff
from ase_xai.networks.response import DipoleResponse, dipole_response
from ase_xai.statistics import TrainingStatistics
from ase_xai.weights.format import ModelCard

CHANGED = 1e-6
"""Relative to the largest value: what an explanation must move by under another gauge to count as changed."""


class GaugedNetwork(AtomisticNetwork):
    """A network whose atomic energies are E_i + Σ_j χ_ij, with a χ that no energy and no force can see.

        χ_ij = c·(a_i - a_j)·f_c(r_ij),      a_i = Z_i + Σ_k f_c(r_ik)

    χ is antisymmetric, so that Σ_i Σ_j χ_ij = 0 wherever each pair stands in both directions, smooth, local, invariant and
    zero for a lone atom: nothing that is trained on or measured tells this network from the first. Everything else, charges,
    features and inputs of the last layer, is the first network's.

    Args:
        network: any network; it is shared, not copied.
        strength: c in eV.

    Source: this project's construction; that latent atomic energies have this freedom is discussed by Ercole et al.,
    arXiv:1601.00158, and seen by Yoo et al., arXiv:1903.04366.
    """

    architecture = "gauged"

    def __init__(self, network: AtomisticNetwork, strength: float = 0.1) -> None:
        super().__init__(network.elements, network.cutoff)
        self.inner, self.strength = network, float(strength)
        self.energy = network.energy
        self.has_charges = network.has_charges
        self.cutoff_function = CosineCutoff(network.cutoff)
        self.training = network.training
        self._element_index = network._element_index  # on the network's device

    @property
    def element_readouts(self) -> bool:  # type: ignore[override]
        return self.inner.element_readouts

    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        return self._shifted(self.inner(graph), graph, graph.numbers.double())

    def mixed(self, graph: AtomGraph, shares: Tensor) -> AtomwiseOutput:
        elements = torch.tensor(self.elements, dtype=torch.float64, device=shares.device)
        return self._shifted(self.inner.mixed(graph, shares), graph, shares.double() @ elements)

    def _shifted(self, output: AtomwiseOutput, graph: AtomGraph, numbers: Tensor) -> AtomwiseOutput:
        near = self.cutoff_function(torch.linalg.vector_norm(graph.vectors, dim=1).double())
        return replace(output, energies=output.energies + self.strength * exchanged(graph, near, numbers))

    def settings(self) -> dict[str, object]:
        return {"network": self.inner.settings(), "strength": self.strength}

    def element_vectors(self) -> Tensor:
        return self.inner.element_vectors()

    def descriptors(self, graph: AtomGraph) -> Tensor:
        if not isinstance(self.inner, Described):
            raise NotImplementedError(f"{self.inner.architecture} networks have no fixed descriptors.")
        return self.inner.descriptors(graph)

    def linearize(self, graph: AtomGraph) -> Linearized:
        return self.inner.linearize(graph)


def exchanged(graph: AtomGraph, near: Tensor, numbers: Tensor) -> Tensor:
    """(N,) Σ_j χ_ij for c = 1, in float64; it sums to zero.

    Args:
        graph: any.
        near: (E,) f_c(r_ij).
        numbers: (N,) Z_i.
    """
    here = torch.zeros_like(numbers)
    a = numbers + here.index_add(0, graph.centers, near)
    return here.index_add(0, graph.centers, (a[graph.centers] - a[graph.neighbors]) * near)


class Substituted:
    """A calculator as explainers see it, with another network in its place. The calculator itself stays as it is."""

    def __init__(self, calculator: Explainable, network: AtomisticNetwork) -> None:
        self.calculator, self.network = calculator, network
        self.card: ModelCard = calculator.card
        self.sha256: str = calculator.sha256
        self.statistics: TrainingStatistics | None = calculator.statistics

    @property
    def model(self) -> str:
        return f"{self.calculator.model}, {type(self.network).__name__}"

    def checked_graph(self, atoms: Atoms) -> AtomGraph:
        return self.calculator.checked_graph(atoms)

    def predict(self, graph: AtomGraph) -> Prediction:
        return predict(self.network, graph)

    def output(self, graph: AtomGraph) -> AtomwiseOutput:
        with torch.inference_mode(False), torch.no_grad():
            return self.network(graph)  # type: ignore[no-any-return]

    def dipole_response(self, graph: AtomGraph) -> DipoleResponse:
        return dipole_response(self.network, graph)

    def baselines(self, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
        return self.calculator.baselines(atoms)


def in_another_gauge(calculator: Explainable, strength: float = 0.1) -> Substituted:
    """`calculator` with the same energies, forces and charges, but with atomic energies shifted by an antisymmetric χ_ij.

    explain(atoms, AtomicEnergies())                                    # what the network says
    AtomicEnergies()(in_another_gauge(calculator), atoms)               # what it could say as well
    """
    return Substituted(calculator, GaugedNetwork(calculator.network, strength))


def gauge_change(calculator: Explainable, atoms: Atoms, explainer: Explainer, strength: float = 0.1) -> float:
    """How far an answer moves, relative to its largest value, when the atomic energies go to another gauge.

    Values without their references, so that the energy of free atoms does not hide a change.
    """
    before, after = explainer(calculator, atoms), explainer(in_another_gauge(calculator, strength), atoms)
    size = before.values
    for name in ("composition", "free_atom"):
        size = size - before.baselines[name] if name in before.baselines and before.reference == "none" else size
    return float(np.abs(after.values - before.values).max(initial=0.0) / max(float(np.abs(size).max(initial=0.0)), 1e-12))
