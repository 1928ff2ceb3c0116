"""What a run keeps of its steps: frames, and a record of what the calculator says of every atom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.outputs import all_outputs

from ase_xai.runs.frames import RunError

if TYPE_CHECKING:
    from ase_xai.trajectory import Recorder, Recording


def refuse_idle(atoms: Atoms) -> None:
    """Raise RunError unless there are atoms and a calculator."""
    if atoms.calc is None or not len(atoms):
        raise RunError(
            f"{atoms} cannot be run: atoms and a calculator are needed. Set atoms.calc, e.g. to ase_xai.load(...)."
        )


def frame_of(atoms: Atoms, **info: float) -> Atoms:
    """A copy of `atoms` that holds the results at hand, with no further evaluation."""
    frame = atoms.copy()
    frame.info.update(info)
    results = {name: value for name, value in atoms.calc.results.items() if name in all_outputs}
    frame.calc = SinglePointCalculator(frame, **results)
    frame.calc.name = atoms.calc.name
    frame.calc.parameters.update(atoms.calc.todict())
    return frame


@contextmanager
def recorder_of(
    atoms: Atoms, path: str | Path | None, recording: Recording | None, *, overwrite: bool, resume: int | None = None
) -> Iterator[Recorder | None]:
    """The recorder of a run, closed at its end; None if there is no file to record to.

    Args:
        atoms: of the run.
        path: of the .h5 file.
        recording: what to keep; None keeps the usual.
        overwrite: replace an existing file.
        resume: step after which it goes on; None begins a file.
    """
    if path is None:
        if recording is not None:
            raise RunError("a recording was given but no file for it. Give record=, the path of an .h5 file.")
        yield None
        return
    from ase_xai.trajectory import Recorder

    going_on = False if resume is None else resume
    what = {} if recording is None else recording.given
    with Recorder(atoms, path, overwrite=overwrite, resume=going_on, **what) as recorder:
        yield recorder
