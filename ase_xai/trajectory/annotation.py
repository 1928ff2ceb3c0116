"""Explanations of frames that are there already: of a run made by any program, with any calculator."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.io import iread

from ase_xai.trajectory.evaluation import Work, parts, samples, samples_apart
from ase_xai.trajectory.recording import Recording, Sample, refuse_missing
from ase_xai.trajectory.run import Run
from ase_xai.trajectory.store import Source
from ase_xai.trajectory.writer import RunWriter

if TYPE_CHECKING:
    from typing import Unpack

    from ase_xai.trajectory.recording import Settings

PART = 64  # frames that are read, evaluated and written together
AHEAD = 2  # parts for each worker that are under way


def annotate(
    frames: str | Path | Atoms | Iterable[Atoms],
    calculator: Any,
    output: str | Path | None = None,
    *,
    times: Sequence[float] | None = None,
    timestep: float | None = None,
    client: Any = None,
    overwrite: bool = False,
    **what: Unpack[Settings],
) -> Run:
    """A run like a recorded one, of frames of any origin; calculators of this package take several frames in one call.

        run = annotate("md.traj", load("organic"), "run.h5")

    Args:
        frames: file of any format that ASE reads, or atoms one after another; read piece by piece.
        calculator: that explains; what the frames bring of their own is not used, except positions, cells and momenta.
        output: .h5 file; None keeps the run in memory.
        times: fs, one per frame; None takes `info["time_fs"]` of the frames, which runs of this package write, or counts
            frames.
        timestep: fs between frames, instead of `times`.
        client: a `dask.distributed.Client`, whose workers evaluate (extra `dask`).
        overwrite: replace an existing file.
        what: is recorded: `fields`, `explainers`, `groups`, `reducers`, `positions`, `notes`, see `Recording`.

    Raises:
        ValueError: no frames, or one that cannot be evaluated or differs in its atoms from the first, with its number.
        RecordingError: an existing file, or one that cannot be written.
    """
    if not hasattr(calculator, "get_property"):
        raise ValueError(f"annotate needs a calculator, got {type(calculator).__name__}. Give e.g. ase_xai.load('organic').")
    recording = Recording.of(**what)
    refuse_missing(recording, calculator)
    source = Source(memory=io.BytesIO()) if output is None else Source(path=Path(output))
    writer = RunWriter(source, recording, overwrite=overwrite)
    clock = _Clock(times, timestep)
    for part in _evaluated(_read(frames), calculator, recording, client):
        for sample in part:
            step, time = clock.read(sample.atoms)
            writer.add(sample, step, time, calculator)
        writer.flush()
    if writer.n_frames == 0:
        raise ValueError(f"there are no frames in {frames if isinstance(frames, (str, Path)) else 'what was given'}.")
    clock.check_end()
    return Run(source)


def _evaluated(frames: Iterable[Atoms], calculator: Any, recording: Recording, client: Any) -> Iterator[list[Sample]]:
    """Samples part by part, in order; with a client, parts ahead are evaluated meanwhile."""
    first = 0
    under_way: deque[Any] = deque()
    for part in parts(frames, PART):
        work, first = Work(part, first, recording), first + len(part)
        if client is None:
            yield samples(calculator, work)
            continue
        under_way.append(client.submit(samples_apart, calculator, work, pure=False))
        if len(under_way) > AHEAD * max(1, sum(client.ncores().values())):
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _read(frames: str | Path | Atoms | Iterable[Atoms]) -> Iterator[Atoms]:
    """Frames one after another, never all in memory."""
    if isinstance(frames, Atoms):
        yield frames
    elif isinstance(frames, (str, Path)):
        path = Path(frames)
        if not path.is_file():
            raise FileNotFoundError(f"cannot read {path}: there is no such file.")
        number = -1
        try:
            for atoms in iread(str(path), index=":", do_not_split_by_at_sign=True):
                number += 1
                yield atoms
        except Exception as error:  # ASE's readers raise whatever their parsing runs into
            raise ValueError(
                f"cannot read frame {number + 1} of {path} ({type(error).__name__}: {error}). Is the file complete?"
            ) from error
    else:
        for number, atoms in enumerate(frames):
            if not isinstance(atoms, Atoms):
                raise ValueError(f"frame {number} is {type(atoms).__name__}, not Atoms. Give a path, or atoms in a list.")
            yield atoms


class _Clock:
    """Step and time of each frame: as stated, as the frames say, or by counting."""

    def __init__(self, times: Sequence[float] | None, timestep: float | None) -> None:
        if timestep is not None and (times is not None or not timestep > 0):
            raise ValueError(f"give times or a positive timestep in fs, not both; got timestep={timestep}.")
        self._times, self._timestep = None if times is None else [float(time) for time in times], timestep
        self._n, self._informed = 0, False

    def read(self, atoms: Atoms) -> tuple[int, float | None]:
        k, self._n = self._n, self._n + 1
        if self._times is not None:
            if k >= len(self._times):
                raise ValueError(f"there are more frames than the {len(self._times)} times given. Give one for each frame.")
            return k, self._times[k]
        if self._timestep is not None:
            return k, k * self._timestep
        informed = "time_fs" in atoms.info and "step" in atoms.info
        if k and informed != self._informed:
            raise ValueError(f"frame {k} differs from those before in having step and time_fs. Give times=.")
        self._informed = informed
        return (int(atoms.info["step"]), float(atoms.info["time_fs"])) if informed else (k, None)

    def check_end(self) -> None:
        if self._times is not None and self._n != len(self._times):
            raise ValueError(f"{len(self._times)} times were given for {self._n} frames. Give one for each frame.")
