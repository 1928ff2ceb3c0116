"""What a trained network says about its training data, for the weight file: means, spreads, rigidity, ranges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput
from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
from ase_xai.statistics import HeadStatistics, TrainingStatistics, centered, placed, stable_ridge
from ase_xai.training.data import StructureSet
from ase_xai.training.loader import GraphLoader
from ase_xai.training.loss import MAGNITUDE_FLOOR
from ase_xai.training.settings import LossWeights
from ase_xai.training.splits import Split

BATCH = 100  # structures
LEVERAGE_SAMPLE = 2000  # training structures whose atoms give the usual leverages
OF_EACH_ELEMENT = 100  # structures at least, as far as there are so many, that hold it
RIGID = 1e-3  # of the 90th percentile of leverages; labels below it say nothing of how far the last layer may be wrong


@dataclass(frozen=True, eq=False)
class Rows:
    """Last-layer inputs of one readout for a batch: of its atoms (N, D), and of the labels they add up to (M, D)."""

    atoms: Tensor
    labels: Tensor


def summarize(
    network: AtomisticNetwork, loader: GraphLoader, split: Split, weights: LossWeights
) -> TrainingStatistics | None:
    """Statistics of the training part of `split`; None for a network that does not tell its last-layer inputs.

    Args:
        network: trained.
        loader: of the data.
        split: its validation part calibrates the size of uncertainties; without one the training part does.
        weights: of the loss; only readouts that were trained on get statistics.
    """
    heads = [head for head in ("energies", "charges") if _trained(network, head, weights)]
    totals = {head: _Totals(network, head, loader.structures, weights) for head in heads}
    ranges = _Ranges(network)
    n_atoms = torch.zeros(len(network.elements), dtype=torch.float64)
    for indices, graph, output in _outputs(network, loader, split.training):
        if output.energy_inputs is None:
            return None
        element = network.element_index(graph.numbers)
        n_atoms += torch.bincount(element, minlength=len(n_atoms)).double()
        ranges.add(graph, element)
        for total in totals.values():
            total.add(indices, graph, output, element)
    totals = {head: total for head, total in totals.items() if total.told_something}
    for total in totals.values():
        total.close(n_atoms)
    sample = _sample(loader.structures, split.training)
    for _, graph, output in _outputs(network, loader, sample):
        for total in totals.values():
            total.add_leverages(graph, output, network.element_index(graph.numbers))
    for indices, graph, output in _outputs(network, loader, split.validation if len(split.validation) else sample):
        for total in totals.values():
            total.add_residuals(indices, graph, output)
    records = {head: total.record() for head, total in totals.items()}
    return TrainingStatistics(
        n_atoms,
        torch.tensor([len(split.training)], dtype=torch.float64),
        records.get("energies"),
        records.get("charges"),
        ranges.record(),
    )


def _sample(structures: StructureSet, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some of `indices`, drawn with a fixed seed, so that no element among them is missed."""
    order = np.random.default_rng(0).permutation(indices)
    holds = structures.composition(order) > 0
    chosen = np.zeros(len(order), bool)
    chosen[:LEVERAGE_SAMPLE] = True
    for column in holds.T:
        chosen[np.flatnonzero(column)[:OF_EACH_ELEMENT]] = True
    return np.sort(order[chosen])


def _trained(network: AtomisticNetwork, head: str, weights: LossWeights) -> bool:
    if head == "energies":
        return bool(weights.energy)
    return network.has_charges and bool(weights.dipole or weights.dipole_magnitude)


def _outputs(
    network: AtomisticNetwork, loader: GraphLoader, indices: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], AtomGraph, AtomwiseOutput]]:
    with torch.no_grad():
        for part in np.array_split(indices, max(1, -(-len(indices) // BATCH))):
            if len(part):
                graph, _ = loader.batch(part, network.device)
                yield part, graph, network(graph)


class _Totals:
    """Sums over the training data for one readout."""

    def __init__(self, network: AtomisticNetwork, head: str, structures: StructureSet, weights: LossWeights) -> None:
        self.network, self.head, self.structures = network, head, structures
        self.vectors = bool(weights.dipole)  # else magnitudes of dipoles
        n_elements = len(network.elements)
        self.sums, self.squares = (torch.zeros(n_elements, dtype=torch.float64) for _ in range(2))
        self.gram: Tensor | None = None
        self.leverages: list[Tensor] = []
        self.elements: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.rigidity: list[Tensor] = []

    def add(self, indices: NDArray[np.int64], graph: AtomGraph, output: AtomwiseOutput, element: Tensor) -> None:
        values = (output.energies if self.head == "energies" else output.charges).cpu()  # type: ignore[union-attr]
        self.sums.index_add_(0, element.cpu(), values)
        self.squares.index_add_(0, element.cpu(), values**2)
        _, rows = self._known(indices, graph, output)
        gram = rows.T @ rows
        self.gram = gram if self.gram is None else self.gram + gram

    @property
    def told_something(self) -> bool:
        """Whether any label depends on the last layer at all; dipoles of single atoms, for one, do not."""
        return self.gram is not None and bool(self.gram.any())

    def close(self, n_atoms: Tensor) -> None:
        """The training data are complete: means, and the inverse that leverages need."""
        assert self.gram is not None
        counts = n_atoms.clamp(min=1.0)
        self.mean = self.sums / counts
        self.spread = (self.squares / counts - self.mean**2).clamp(min=0.0).sqrt()
        nothing = torch.zeros((len(counts), 3), dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        self.statistics = HeadStatistics(self.mean, self.spread, self.gram, stable_ridge(self.gram), one, nothing)

    def add_leverages(self, graph: AtomGraph, output: AtomwiseOutput, element: Tensor) -> None:
        self.leverages.append(self.statistics.leverages(self._rows(graph, output).atoms.cpu()))
        self.elements.append(element.cpu())

    def add_residuals(self, indices: NDArray[np.int64], graph: AtomGraph, output: AtomwiseOutput) -> None:
        residuals, rows = self._known(indices, graph, output)
        self.residuals.append(residuals)
        self.rigidity.append(self.statistics.leverages(rows))

    def scale(self) -> Tensor | None:
        """(1,) α². Labels that the last layer can hardly move, such as the dipole across a planar molecule, are left out."""
        residuals, leverages = torch.cat(self.residuals), torch.cat(self.rigidity)
        if not bool((leverages > 0).any()):
            return None
        told = leverages > RIGID * torch.quantile(leverages, 0.9)
        return (residuals[told] ** 2 / leverages[told]).mean().reshape(1)

    def record(self) -> HeadStatistics | None:
        """None if no label of the structures for calibration depends on the last layer."""
        scale = self.scale()
        if scale is None:
            return None
        leverages, elements = torch.cat(self.leverages), torch.cat(self.elements)
        usual = torch.zeros((len(self.mean), 3), dtype=torch.float64)
        for number in range(len(usual)):
            of_element = leverages[elements == number]
            if len(of_element):
                middle, high = torch.quantile(of_element, torch.tensor([0.5, 0.99], dtype=torch.float64))
                usual[number] = torch.stack([middle, high, of_element.max()])
        s = self.statistics
        return HeadStatistics(s.mean, s.spread, s.gram, s.ridge, scale, usual)

    def _known(self, indices: NDArray[np.int64], graph: AtomGraph, output: AtomwiseOutput) -> tuple[Tensor, Tensor]:
        """Residuals (M,) and inputs (M, D) of the labels that are known, on the CPU."""
        residuals = self._residuals(indices, graph, output)
        known = torch.isfinite(residuals)
        return residuals[known], self._rows(graph, output, indices).labels.cpu()[known]

    def _rows(self, graph: AtomGraph, output: AtomwiseOutput, indices: NDArray[np.int64] | None = None) -> Rows:
        inputs = output.energy_inputs if self.head == "energies" else output.charge_inputs
        assert inputs is not None
        element = self.network.element_index(graph.numbers)
        atoms = placed(inputs, element, len(self.network.elements), by_element=self.network.element_readouts)
        if self.head == "energies":
            return Rows(atoms, graph.sum_systems(atoms))
        atoms = centered(atoms, graph.system, graph.n_systems)
        positions = graph.positions.double()
        moments = graph.sum_systems((positions[:, :, None] * atoms[:, None, :]).flatten(1)).reshape(graph.n_systems, 3, -1)
        if not self.vectors:
            moments = torch.einsum("ba,bad->bd", _directions(graph, output), moments)[:, None]
        return Rows(atoms, moments.flatten(0, 1))

    def _residuals(self, indices: NDArray[np.int64], graph: AtomGraph, output: AtomwiseOutput) -> Tensor:
        data = self.structures
        if self.head == "energies":
            assert data.energy is not None
            predicted = graph.sum_systems(output.energies + output.references).cpu()
            return torch.as_tensor(np.asarray(data.energy[indices], dtype=float)) - predicted
        assert output.charges is not None
        dipole = graph.sum_systems(output.charges[:, None] * graph.positions.double()).cpu()
        if self.vectors:
            assert data.dipole is not None
            return (torch.as_tensor(np.asarray(data.dipole[indices], dtype=float)) - dipole).flatten()
        assert data.dipole_magnitude is not None
        return torch.as_tensor(np.asarray(data.dipole_magnitude[indices], dtype=float)) - dipole.norm(dim=1)


def _directions(graph: AtomGraph, output: AtomwiseOutput) -> Tensor:
    """(B, 3) ∂|μ|/∂μ at the predicted dipoles: to first order, what |μ| depends on; |μ| as the loss takes it."""
    assert output.charges is not None
    dipole = graph.sum_systems(output.charges[:, None] * graph.positions.double())
    return dipole / (dipole.square().sum(dim=1, keepdim=True) + MAGNITUDE_FLOOR**2).sqrt()


class _Ranges:
    """Smallest and largest standardized symmetry functions by element."""

    def __init__(self, network: AtomisticNetwork) -> None:
        self.network = network if isinstance(network, BehlerParrinelloNetwork) else None
        n_elements, n = len(network.elements), 0 if self.network is None else self.network.descriptor.n_functions
        self.low = torch.full((n_elements, n), float("inf"), dtype=torch.float64)
        self.high = -self.low

    def add(self, graph: AtomGraph, element: Tensor) -> None:
        if self.network is None:
            return
        values = self.network.descriptors(graph).double().cpu()
        for number in torch.unique(element.cpu()).tolist():
            of_element = values[element.cpu() == number]
            self.low[number] = torch.minimum(self.low[number], of_element.min(dim=0).values)
            self.high[number] = torch.maximum(self.high[number], of_element.max(dim=0).values)

    def record(self) -> Tensor | None:
        if self.network is None:
            return None
        unseen = self.low > self.high
        return torch.stack([self.low.masked_fill(unseen, 0.0), self.high.masked_fill(unseen, 0.0)], dim=1)
