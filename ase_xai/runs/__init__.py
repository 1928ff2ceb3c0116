"""Relaxations and molecular dynamics that survive what happens to long runs: Ctrl-C, a full disk, kill -9, an explosion.

Every step is one evaluation of the calculator, whatever is written. Frames hold ASE's results of that evaluation, per-atom
energies and charges included, and stand in the output whole or not at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from tqdm import tqdm

from ase_xai.runs.dynamics import (
    ExplosionWatch,
    MDSettings,
    MDState,
    RunExploded,
    first_state,
    identity_of,
    motion_of,
    refuse_not_finite,
)
from ase_xai.runs.frames import (
    FrameFile,
    RunError,
    RunInterrupted,
    Signals,
    StorageError,
    checked_output,
    refuse_existing,
)
from ase_xai.runs.steps import frame_of, recorder_of, refuse_idle

if TYPE_CHECKING:
    from ase_xai.trajectory import Recorder, Recording

__all__ = [
    "MDSettings",
    "RunError",
    "RunExploded",
    "RunInterrupted",
    "RunSummary",
    "StorageError",
    "relax",
    "run_md",
]

OPTIMIZERS = {"BFGS": BFGS, "FIRE": FIRE, "LBFGS": LBFGS}
STATE_SECONDS = 1.0  # about this much work is repeated after kill -9


@dataclass(frozen=True)
class RunSummary:
    """What a run came to: frames in `output`, last `step`, its `energy` (eV) and `max_force` (eV/Å), `seconds` of this call.

    `finished`: the relaxation converged, or the dynamics made all its steps.
    """

    output: Path
    frames: int
    step: int
    finished: bool
    energy: float
    max_force: float
    seconds: float


def relax(
    atoms: Atoms,
    output: str | Path,
    *,
    fmax: float = 0.02,
    steps: int = 500,
    optimizer: str = "BFGS",
    cell: bool = False,
    record: str | Path | None = None,
    recording: Recording | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> RunSummary:
    """Relax `atoms` in place and write each step to `output`.

    Args:
        atoms: with a calculator.
        output: .traj or .extxyz file.
        fmax: eV/Å; the run ends when no force is larger.
        steps: at most this many.
        optimizer: "BFGS", "FIRE" or "LBFGS".
        cell: relax the cell as well (`FrechetCellFilter`).
        record: .h5 file for `ase_xai.trajectory.open_run`: energy and charge of every atom at each step.
        recording: what to record beside them; None records what `Recorder` does by default.
        overwrite: replace an existing output and record.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        RunError, StorageError, RunInterrupted, RunExploded: see there.
    """
    path, started = checked_output(output), time.perf_counter()
    refuse_idle(atoms)
    if optimizer not in OPTIMIZERS or not fmax > 0 or steps < 0:
        raise RunError(f"got {optimizer=}, {fmax=} eV/Å, {steps=}. Optimizers: {', '.join(OPTIMIZERS)}; fmax is positive.")
    refuse_existing(path, overwrite)
    target = FrechetCellFilter(atoms) if cell else atoms
    target.get_forces()  # errors of the first evaluation come before anything is written; the optimizer finds it cached
    dynamics, step, converged = OPTIMIZERS[optimizer](target, logfile=None), 0, False
    with (
        recorder_of(atoms, record, recording, overwrite=overwrite) as recorder,
        FrameFile(path, overwrite=overwrite) as frames,
        _bar(steps, 0, progress) as bar,
        Signals() as signals,
    ):
        try:
            for step, converged in enumerate(dynamics.irun(fmax=fmax, steps=steps)):  # noqa: B007
                with signals.held():
                    refuse_not_finite(atoms, step)
                    frames.append(frame_of(atoms, step=step))
                    if recorder is not None:
                        recorder.record(step)
                    bar.set_postfix_str(f"{_energy(atoms):.4f} eV, fmax {_max_force(atoms):.4f} eV/Å", refresh=False)
                    bar.update(step > 0)
        except CalculatorError as error:
            raise RunExploded(step + 1, None, f"the calculator refuses the geometry: {error}") from error
        except RunInterrupted:
            raise RunInterrupted(
                f"interrupted after step {step}; {path} holds {frames.mark.frames} complete frames. To continue, relax "
                f"{path} with another output: it starts from the last frame."
            ) from None
    return _summary(atoms, frames, step, bool(converged), started)


def run_md(
    atoms: Atoms,
    output: str | Path,
    settings: MDSettings | None = None,
    *,
    record: str | Path | None = None,
    recording: Recording | None = None,
    restart: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> RunSummary:
    """Molecular dynamics of `atoms`, in place, with frames in `output` and the state for a restart beside it.

    The state, `<output>.restart.json`, is saved about once a second and at the end. A run killed at any moment and restarted
    gives bit for bit the trajectory of one that was left alone, if equal positions always give equal forces.

    Args:
        atoms: with a calculator. On restart positions and momenta come from the state.
        output: .traj or .extxyz file.
        settings: see `MDSettings`.
        record: .h5 file for `ase_xai.trajectory.open_run`: energy and charge of every atom in the frames of the output. On
            restart it goes on like the output. While a reader has it open, no state is saved.
        recording: what to record beside them; None records what `Recorder` does by default.
        restart: go on from the state; frames written after it are cut off and computed again.
        overwrite: replace an existing output, its state and the record.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        RunError: existing output, or restart with other settings, atoms or calculator.
        RunExploded: a position or force is not finite, two atoms are closer than 0.5 Å (0.3 Å if one is hydrogen), or the
            temperature exceeds 10 times the thermostat's, at least 1000 K (NVE: 10 times the first, plus 1000 K).
        StorageError, RunInterrupted: see there.
    """
    path, started, settings = checked_output(output), time.perf_counter(), settings or MDSettings()
    refuse_idle(atoms)
    identity, rng = identity_of(atoms, settings), np.random.default_rng(settings.seed)
    if restart:
        state, mark = MDState.load(path, identity)
        state.apply(atoms, rng)
    else:
        refuse_existing(path, overwrite)
        state, mark = first_state(atoms, settings, identity, rng), None
    dynamics = settings.dynamics(atoms, rng, state.degrees_of_freedom)
    watch = ExplosionWatch(atoms, state)
    watch.check(state.step)  # errors of the first evaluation come before anything is written
    resume = state.step if restart else None
    with (
        recorder_of(atoms, record, recording, overwrite=overwrite, resume=resume) as recorder,
        FrameFile(path, mark, overwrite=overwrite) as frames,
        _bar(settings.steps, state.step, progress) as bar,
    ):
        run = _Dynamics(settings, dynamics, rng, watch, frames, recorder, state)
        with Signals() as signals:
            run.go(signals, bar)
    return _summary(atoms, frames, run.state.step, run.state.step >= settings.steps, started)


@dataclass
class _Dynamics:
    """The loop over time steps, and its books: frames and state always belong to the last complete step."""

    settings: MDSettings
    dynamics: Any
    rng: np.random.Generator
    watch: ExplosionWatch
    frames: FrameFile
    recorder: Recorder | None
    state: MDState
    saved: float = field(default_factory=time.monotonic)

    @property
    def atoms(self) -> Atoms:
        return self.watch.atoms

    def go(self, signals: Signals, bar: tqdm[Any]) -> None:
        try:
            with signals.held():
                if not self.frames.mark.frames:
                    self._write_frame(0)
                    self._save()
            for step in range(self.state.step + 1, self.settings.steps + 1):
                self._advance(step)
                with signals.held():
                    self._keep_books(step)
                    bar.set_postfix_str(f"{_energy(self.atoms):.4f} eV, {self.watch.temperature():.0f} K", refresh=False)
                    bar.update()
            with signals.held():
                self._save(last=True)
        except RunExploded:
            self._save(last=True)
            raise
        except RunInterrupted:
            self._save(last=True)
            raise RunInterrupted(
                f"interrupted after step {self.state.step} of {self.settings.steps}; {self.frames.path} holds "
                f"{self.frames.mark.frames} complete frames. Continue with the same command and --restart (restart=True)."
            ) from None

    def _advance(self, step: int) -> None:
        try:
            self.dynamics.step()
        except CalculatorError as error:
            self.watch.check_geometry(step)
            raise RunExploded(step, None, f"the calculator refuses the geometry: {error}") from error

    def _keep_books(self, step: int) -> None:
        self.watch.check(step)
        if step % self.settings.interval == 0:
            self._write_frame(step)
        self.state = replace(self.state, step=step, **motion_of(self.atoms, self.rng))
        if time.monotonic() - self.saved > STATE_SECONDS:
            self._save()

    def _write_frame(self, step: int) -> None:
        self.frames.append(frame_of(self.atoms, step=step, time_fs=step * self.settings.timestep))
        if self.recorder is not None:
            self.recorder.record(step, step * self.settings.timestep, flush=False)

    def _save(self, *, last: bool = False) -> None:
        """Save the state; it may only say what frames and record hold on the disk as well."""
        self.frames.sync()
        if self.recorder is not None:
            if last:
                self.recorder.close()
            elif not self.recorder.flush(sync=True):
                return
        self.state.save(self.frames.path, self.frames.mark)
        self.saved = time.monotonic()


def _bar(total: int, initial: int, progress: bool | None) -> tqdm[Any]:
    return tqdm(total=total, initial=initial, unit="step", disable=None if progress is None else not progress)


def _energy(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy())


def _max_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def _summary(atoms: Atoms, frames: FrameFile, step: int, finished: bool, started: float) -> RunSummary:
    seconds = time.perf_counter() - started
    return RunSummary(frames.path, frames.mark.frames, step, finished, _energy(atoms), _max_force(atoms), seconds)
