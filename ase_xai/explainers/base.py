"""The question and the verb: `Explainer`, `explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation, refuse_mixing, same_array
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Prediction
from ase_xai.networks.response import DipoleResponse
from ase_xai.statistics import TrainingStatistics
from ase_xai.weights.format import ModelCard


class Explainable(Protocol):
    """What explainers use of a calculator: one network and what its weight file says about it."""

    network: AtomisticNetwork
    card: ModelCard
    sha256: str
    statistics: TrainingStatistics | None

    @property
    def model(self) -> str:
        """Name and level of theory of the weights."""

    def checked_graph(self, atoms: Atoms) -> AtomGraph:
        """The graph of atoms that were checked as for an evaluation."""

    def predict(self, graph: AtomGraph) -> Prediction:
        """What the network says of a graph, with its derivatives, not differentiable any further."""

    def output(self, graph: AtomGraph) -> AtomwiseOutput:
        """The same without derivatives."""

    def dipole_response(self, graph: AtomGraph) -> DipoleResponse:
        """Born charges of the atoms of a graph."""

    def baselines(self, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
        """(N,) reference energies in eV by name."""


class Explainer(Protocol):
    """A frozen dataclass of settings that answers one question; it leaves calculator and network as they were."""

    def __call__(self, calculator: Any, atoms: Atoms) -> Explanation:
        """The answer for `atoms`, from the network of `calculator`."""


def explain(atoms: Atoms, explainer: Explainer, calculator: Any = None) -> Explanation:
    """Ask the network of a calculator a question about `atoms`.

    An `Ensemble` answers with the mean of its members' explanations, and their standard deviation as uncertainty.

    Args:
        atoms: what to explain.
        explainer: the question, e.g. `AtomicEnergies()`.
        calculator: of this package; None takes `atoms.calc`.

    Raises:
        ValueError: no calculator, or one that is not of this package.
        InputError: atoms that the calculator would refuse.
    """
    calculator = atoms.calc if calculator is None else calculator
    members = getattr(calculator, "members", None)
    if not members:
        raise ValueError(
            f"explain needs a calculator of ase_xai, got {type(calculator).__name__}. Set atoms.calc = SchNet(...) or pass "
            "calculator=."
        )
    answers = [explainer(member, atoms) for member in members]
    return answers[0] if len(answers) == 1 else combined(answers)


def combined(answers: Sequence[Explanation]) -> Explanation:
    """Mean of explanations of the same atoms by different models, with their standard deviation (n - 1) as uncertainty."""
    first = answers[0]
    for other in answers[1:]:
        refuse_mixing(first, other, same_model=False)
        for name in ("index", "points", "faces"):
            if not same_array(getattr(first, name), getattr(other, name)):
                raise ValueError(f"the members' explanations differ in {name}, so there is no mean of them.")
    values = np.stack([answer.values for answer in answers])
    residuals = [answer.residual for answer in answers if answer.residual is not None]
    masks = [answer.mask for answer in answers if answer.mask is not None]
    shared = set.intersection(*(set(answer.baselines) for answer in answers))
    return replace(
        first,
        values=values.mean(axis=0),
        uncertainty=values.std(axis=0, ddof=1),
        residual=max(residuals, key=abs) if len(residuals) == len(answers) else None,
        mask=np.logical_and.reduce(masks) if masks else None,
        baselines={name: np.mean([answer.baselines[name] for answer in answers], axis=0) for name in shared},
        model=f"mean of {len(answers)} models: {', '.join(answer.model for answer in answers)}",
        model_id="+".join(answer.model_id for answer in answers),
        notes=tuple(dict.fromkeys(note for answer in answers for note in answer.notes)),
    )


def answer(calculator: Explainable, atoms: Atoms, explainer: object, **about: Any) -> Explanation:
    """An `Explanation` by `explainer`; `about` gives the fields that neither it nor the calculator nor the atoms know."""
    stated = {} if not is_dataclass(explainer) else {f.name: getattr(explainer, f.name) for f in fields(explainer)}
    return Explanation(
        method=type(explainer).__name__,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        settings=about.pop("settings", None) or {name: plain(value) for name, value in stated.items()},
        model=calculator.model,
        model_id=calculator.sha256,
        **about,
    )


def plain(value: Any) -> Any:
    """`value` as JSON has it: records as tables, arrays as lists, what JSON does not know as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part) for name, part in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
