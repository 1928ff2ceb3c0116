"""Results and explanations of many frames, several frames in one call of the network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ase import Atoms
from ase.calculators.calculator import InputError

from ase_xai.explainers.base import explain
from ase_xai.explainers.explanation import Explanation
from ase_xai.many import evaluate_many
from ase_xai.trajectory.recording import Recording, Sample, missing, results_of

NEED_FORCES = ("forces", "stress")


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
        results = _together(calculator, work)
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


def _together(calculator: Any, work: Work) -> list[dict[str, Any]]:
    forces = any(name in NEED_FORCES for name in work.recording.required)
    try:
        return evaluate_many(calculator, work.frames, forces=forces, first=work.first)
    except InputError as error:
        raise ValueError(str(error)) from error


def parts(frames: Iterable[Atoms], size: int) -> Iterator[list[Atoms]]:
    """`frames` in lists of `size`."""
    frames = iter(frames)
    while part := list(islice(frames, size)):
        yield part
