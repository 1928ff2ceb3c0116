"""An ASE observer that keeps what the steps of a run say."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms, units

from ase_xai.explainers.base import explain
from ase_xai.trajectory.recording import Recording, Sample, refuse_missing, results_of
from ase_xai.trajectory.store import FileBusy, Source
from ase_xai.trajectory.writer import RunWriter

if TYPE_CHECKING:
    from typing import Unpack

    from ase_xai.trajectory.recording import Settings

FLUSH_FRAMES, FLUSH_SECONDS = 1024, 5.0
CLOSE_PATIENCE = 10.0  # s that the last frames wait for a reader to let go of the file


class Recorder:
    """Writes frames of a run, with energy and charge of every atom, to an H5MD file that `open_run` reads.

        with Recorder(atoms, "run.h5", dynamics=dyn, groups=groups, interval=5) as recorder:
            dyn.attach(recorder)
            dyn.run(100_000)

    What a step has computed is copied from its calculator, never computed again; explainers are asked besides. Frames are
    written in batches, every few seconds; a killed process loses only those not yet written. While a reader holds the file
    they wait in memory.

    Args:
        atoms: that the run moves, with any ASE calculator.
        path: of the file.
        dynamics: ASE's dynamics or optimizer, which knows step and time; without it calls are counted.
        interval: record every so many steps only, counted from step 0; `dyn.attach(recorder, interval=5)` does the same.
        resume: go on in an existing file behind its last step, or behind the step given; later ones are cut off. The
            dynamics goes on counting from there.
        overwrite: replace an existing file.
        what: is recorded: `fields`, `explainers`, `groups`, `reducers`, `positions`, `notes`, see `Recording`.

    Raises:
        ValueError: no calculator, no such interval, a result that there is not, or a file of another model or recording.
        RecordingError: an existing file, or one that cannot be written. What was written is complete; the rest is kept.
    """

    def __init__(
        self,
        atoms: Atoms,
        path: str | Path,
        *,
        dynamics: Any = None,
        interval: int = 1,
        resume: bool | int = False,
        overwrite: bool = False,
        **what: Unpack[Settings],
    ) -> None:
        recording = Recording.of(**what)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval is a number of steps, 1 or more, got {interval!r}. 5 records every fifth step.")
        if atoms.calc is None:
            raise ValueError("there is no calculator to record from. Set atoms.calc, e.g. to ase_xai.load('organic').")
        refuse_missing(recording, atoms.calc)
        resumes = resume is not False
        self.atoms, self.dynamics, self.interval = atoms, dynamics, interval
        self._offset, self._passed = 0, 0
        self.writer = RunWriter(Source(path=Path(path)), recording, overwrite=overwrite, resume=resumes)
        self._flushed, self._warned = time.monotonic(), False
        if resumes:
            step = self.writer.resume(atoms, atoms.calc, None if resume is True else int(resume))
            self._offset = step - (0 if dynamics is None else dynamics.nsteps)

    def __call__(self) -> None:
        """Record the step at hand if it is its turn, and unless it is recorded already, as the first of a resumed run is."""
        last = self.writer.last_step
        if self.dynamics is None:
            step = (-1 if last is None else last) + 1 + self._passed
            if step % self.interval:
                self._passed += 1
                return
            self.record(step)
            self._passed = 0
            return
        step, timestep = self._offset + self.dynamics.nsteps, getattr(self.dynamics, "dt", None)
        if step == last:
            self.writer.refuse_moved(self.atoms)
        elif step % self.interval == 0:
            self.record(step, None if timestep is None else step * timestep / units.fs)

    def record(self, step: int, time_fs: float | None = None, *, flush: bool = True) -> None:
        """Record the atoms as they are now.

        Args:
            step: its number, larger than the last one.
            time_fs: fs; None in a run without time, where steps are counted.
            flush: write when it is time to; False leaves all writing to calls of `flush`.

        Raises:
            ValueError: a frame that does not fit, or values that are not finite; nothing of it is kept.
            RecordingError: it cannot be written now, see `flush`.
        """
        atoms, writer = self.atoms, self.writer
        if atoms.calc is None:
            raise ValueError("the atoms have lost their calculator. Set atoms.calc again.")
        results = results_of(atoms, atoms.calc, writer.recording)
        due = writer.recording.due(writer.n_frames)
        answers = {name: explain(atoms, explainer) for name, explainer in due.items()}
        writer.add(Sample(atoms, results, answers), step, time_fs, atoms.calc)
        waited = time.monotonic() - self._flushed
        if flush and (writer.n_written == 0 or writer.n_waiting >= FLUSH_FRAMES or waited > FLUSH_SECONDS):
            self.flush()

    def flush(self, *, sync: bool = False) -> bool:
        """Write the frames that wait in memory. Returns False if a reader has the file open; they then go on waiting.

        Args:
            sync: have the operating system put them on the disk.

        Raises:
            RecordingError: the disk is full or failing. Nothing is lost: make room and call it again.
        """
        self._flushed = time.monotonic()
        try:
            self.writer.flush(sync=sync)
        except FileBusy as error:
            if not self._warned:
                warnings.warn(f"{error} Frames wait in memory until the reader closes it.", stacklevel=2)
            self._warned = True
            return False
        return True

    def close(self, patience: float = CLOSE_PATIENCE) -> None:
        """Write what is left; the recorder may be used, and closed, again.

        Args:
            patience: s that a reader of the file is waited for.

        Raises:
            FileBusy, RecordingError: the last frames are not written but kept. Call it again.
        """
        until = time.monotonic() + patience
        while True:
            try:
                return self.writer.flush(sync=True)
            except FileBusy:
                if time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
