"""What a report card is about, and small tools that its checks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, Explainer
from ase_xai.explainers.card import TOLERANCES
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import Prediction, predict

BATCH = 30_000  # atoms and pairs in one batch


@dataclass(frozen=True, eq=False)
class Subject:
    """One network, one system, and what explainers say about it.

    Args:
        calculator: with one network.
        atoms: what is explained.
        answers: explanations by the label of their explainer.
        explainers: by the same labels.
        seed: of everything that is drawn.
    """

    calculator: Explainable
    atoms: Atoms
    answers: dict[str, Explanation]
    explainers: dict[str, Explainer]
    seed: int

    @property
    def tolerance(self) -> float:
        """Of identities, per atom and in units of the values, for the network's precision."""
        return TOLERANCES["float64" if self.calculator.network.dtype == torch.float64 else "float32"]

    @property
    def isolated(self) -> bool:
        """Whether the system is an open, neutral molecule, next to which another one may be put."""
        graph = self.calculator.checked_graph(self.atoms)
        return not self.atoms.pbc.any() and float(graph.total_charge[0]) == 0.0

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def predict(self, *systems: Atoms) -> Prediction:
        """Energies and forces of systems like the one explained, in one batch."""
        return predict(self.calculator.network, AtomGraph.batch([self.calculator.checked_graph(s) for s in systems]))

    def predictions(self, systems: Sequence[Atoms]) -> Iterator[Prediction]:
        """The same for any number of systems, batch by batch."""
        for part in batches([self.calculator.checked_graph(system) for system in systems]):
            yield predict(self.calculator.network, part)


def batches(graphs: Sequence[AtomGraph]) -> Iterator[AtomGraph]:
    """Graphs together, as many as fit into memory."""
    held: list[AtomGraph] = []
    size = 0
    for graph in graphs:
        cost = len(graph.numbers) + len(graph.centers)
        if held and size + cost > BATCH:
            yield AtomGraph.batch(held)
            held, size = [], 0
        held.append(graph)
        size += cost
    if held:
        yield AtomGraph.batch(held)


def label_of(explainer: object) -> str:
    """Name of an explainer with the settings that are not the default ones."""
    name = type(explainer).__name__
    if not is_dataclass(explainer):
        return name
    changed = [
        f"{f.name}={getattr(explainer, f.name)!r}" for f in fields(explainer) if getattr(explainer, f.name) != f.default
    ]
    return f"{name}({', '.join(changed)})" if changed else name


def without_references(explanation: Explanation) -> NDArray[np.float64]:
    """Values without the energies of elements, which are a thousand times larger than what a network says."""
    for name in ("composition", "free_atom"):
        if explanation.reference == "none" and name in explanation.baselines:
            return np.asarray(explanation.values - explanation.baselines[name])
    return np.asarray(explanation.values)


def within_elements(values: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values (N,) minus the mean of their element, of the atoms that are not the only one of theirs."""
    centered = values.copy()
    for z in np.unique(numbers):
        centered[numbers == z] -= values[numbers == z].mean()
    counts = np.bincount(numbers)
    return centered[counts[numbers] > 1]


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN where one side has no differences.

    Values closer than 1e-6 of the spread are equal: symmetry makes some so, up to rounding.
    """
    ranks = [_ranks(values) for values in (one, other)]
    if len(one) < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = float(np.ptp(values)) if len(values) else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0.0))):
        return np.zeros(len(values))
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=values[order[:1]]) > 1e-6 * spread
    group = np.cumsum(new)
    mean_rank = np.bincount(group, weights=np.arange(len(values))) / np.bincount(group)
    ranks = np.empty(len(values))
    ranks[order] = mean_rank[group]
    return ranks
