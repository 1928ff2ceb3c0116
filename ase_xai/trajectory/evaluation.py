"""Results and explanations of many frames, several frames in one call of the network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from numpy.typing import NDArray

from ase_xai.calculator_base import dipole_origin_point
from ase_xai.explainers.base import explain
from ase_xai.explainers.explanation import Explanation
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import Prediction, Sums, add_up, predict
from ase_xai.trajectory.recording import Recording, Sample, missing, results_of

BATCH_SIZE = 30_000  # atoms and pairs in one call of the network
NEED_GRADIENTS = ("forces", "stress")


@dataclass(frozen=True, eq=False)
class Work:
    """Consecutive frames to be evaluated.

    Args:
        frames: the atoms.
        first: number of the first frame in the run.
        recording: says which results are needed, and which explainers are asked of which frame.
    """

    frames: Sequence[Atoms]
    first: int
    recording: Recording


def samples(calculator: Any, work: Work) -> list[Sample]:
    """Results and explanations of all frames of `work`.

    Raises:
        ValueError: a frame that the calculator refuses, or a result that it does not have, with the number of the frame.
    """
    if getattr(calculator, "members", None):
        results = _batched(calculator, work)
    else:
        results = [_alone(calculator, atoms, work.recording, work.first + k) for k, atoms in enumerate(work.frames)]
    answers = [_asked(calculator, atoms, work, work.first + k) for k, atoms in enumerate(work.frames)]
    for k, found in enumerate(results):
        for name in work.recording.required:
            if name not in found:
                raise ValueError(f"frame {work.first + k}: {missing(name, calculator)}")
    return [Sample(*parts) for parts in zip(work.frames, results, answers, strict=True)]


def samples_apart(calculator: Any, work: Work) -> list[Sample]:
    """The same with a calculator of one's own, for threads and other processes."""
    return samples(copy.deepcopy(calculator), work)


def _alone(calculator: Any, atoms: Atoms, recording: Recording, number: int) -> dict[str, Any]:
    try:
        return {name: copy.copy(value) for name, value in results_of(atoms, calculator, recording).items()}
    except (InputError, NotImplementedError, ValueError) as error:
        raise ValueError(f"frame {number} cannot be evaluated: {error}") from error


def _asked(calculator: Any, atoms: Atoms, work: Work, number: int) -> dict[str, Explanation]:
    try:
        return {name: explain(atoms, explainer, calculator) for name, explainer in work.recording.due(number).items()}
    except (InputError, NotImplementedError, ValueError) as error:
        raise ValueError(f"frame {number} cannot be explained: {error}") from error


def _batched(calculator: Any, work: Work) -> list[dict[str, Any]]:
    """Mean over the members of the calculator, frame by frame."""
    by_member = [list(_by_network(member, work)) for member in calculator.members]
    if len(by_member) == 1:
        return by_member[0]
    found = []
    for results in zip(*by_member, strict=True):
        shared = [name for name in results[0] if all(name in other for other in results)]
        found.append({name: np.mean([other[name] for other in results], axis=0) for name in shared})
    return found


def _by_network(calculator: Any, work: Work) -> Iterator[dict[str, Any]]:
    gradients = any(name in NEED_GRADIENTS for name in work.recording.required)
    for graph, atoms in _batches(calculator, work):
        if gradients:
            sums: Sums = predict(calculator.network, graph)
        else:
            with torch.no_grad():
                sums = add_up(graph, calculator.network(graph))
        yield from _separated(calculator, sums, atoms)


def _batches(calculator: Any, work: Work) -> Iterator[tuple[AtomGraph, list[Atoms]]]:
    """Graphs of as many frames as are evaluated together, and these frames."""
    graphs: list[AtomGraph] = []
    atoms: list[Atoms] = []
    size = 0
    for k, frame in enumerate(work.frames):
        try:
            graph = calculator.checked_graph(frame)
        except InputError as error:
            raise ValueError(f"frame {work.first + k} cannot be evaluated: {error}") from error
        cost = len(graph.numbers) + len(graph.centers)
        if graphs and size + cost > BATCH_SIZE:
            yield AtomGraph.batch(graphs), atoms
            graphs, atoms, size = [], [], 0
        graphs.append(graph)
        atoms.append(frame)
        size += cost
    if graphs:
        yield AtomGraph.batch(graphs), atoms


def _separated(calculator: Any, sums: Sums, frames: Sequence[Atoms]) -> Iterator[dict[str, Any]]:
    """ASE's results of each system of a batch."""

    def array(tensor: torch.Tensor | None) -> NDArray[np.float64] | None:
        return None if tensor is None else np.array(tensor.cpu().numpy(), dtype=np.float64)

    per_atom = {"energies": array(sums.energies), "charges": array(sums.charges)}
    per_system = {"energy": array(sums.energy), "dipole": array(sums.dipole)}
    if isinstance(sums, Prediction):
        per_atom["forces"], per_system["stress"] = array(sums.forces), array(sums.stress)
    ends = np.cumsum([len(atoms) for atoms in frames])
    for k, (atoms, end) in enumerate(zip(frames, ends, strict=True)):
        own = {name: values[end - len(atoms) : end] for name, values in per_atom.items() if values is not None}
        own |= {name: values[k] for name, values in per_system.items() if values is not None}
        yield _defined(calculator, atoms, own)


def _defined(calculator: Any, atoms: Atoms, results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as the calculator gives them: the dipole about its origin, and nothing that is not defined."""
    found, charge = dict(results), calculator.charge_of(atoms)
    if "dipole" in found:
        if atoms.pbc.any() or (charge != 0 and calculator.dipole_origin is None):
            del found["dipole"]
        else:
            found["dipole"] = found["dipole"] - charge * dipole_origin_point(calculator.dipole_origin, atoms)
    if "stress" in found and np.isnan(found["stress"]).any():
        del found["stress"]
    return found


def parts(frames: Iterable[Atoms], size: int) -> Iterator[list[Atoms]]:
    """`frames` in lists of `size`."""
    frames = iter(frames)
    while part := list(islice(frames, size)):
        yield part
