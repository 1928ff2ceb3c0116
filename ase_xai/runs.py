"""Relaxations and molecular dynamics that survive what happens to long runs: Ctrl-C, a full disk, kill -9, an explosion.

Every step is one evaluation of the calculator, whatever is written. Frames hold ASE's results of that evaluation, per-atom
energies and charges included, and stand in the output whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculatorError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.io.jsonio import encode
from ase.io.trajectory import TrajectoryWriter
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS, FIRE, LBFGS
from ase.outputs import all_outputs
from numpy.typing import NDArray
from tqdm import tqdm

from ase_xai.weights.format import write_atomically

# --- Files that survive ----------------------------------------------------------------------------------------------------

SUFFIXES = (".traj", ".extxyz")
STATE_FORMAT = 1
HEADER_BYTES = 48  # of a .traj file: number of frames and place of their index, rewritten with each frame


class RunError(ValueError):
    """A run that cannot start, or not go on as asked, with the remedy."""


class StorageError(OSError):
    """Frames or state could not be written. What was written before is complete."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. The output is complete, and the message says how to continue."""


@dataclass(frozen=True)
class Mark:
    """Where the last complete frame of an output ends, and the first bytes of the file at that time."""

    frames: int = 0
    n_bytes: int = 0
    header: bytes = b""


class FrameFile:
    """A .traj or .extxyz file to which frames are appended; one that cannot be written whole is taken back.

    Args:
        path: of the file, which is locked against other runs.
        mark: end of the frames to keep; whatever follows is cut off. None starts a new file.
        overwrite: a new file may replace an existing one, and its saved state.

    Raises:
        RunError: the file exists, is being written by another run, or is not the one that was marked.
        StorageError: the file cannot be opened.
    """

    def __init__(self, path: Path, mark: Mark | None = None, *, overwrite: bool = False) -> None:
        self.path, self.mark = path, mark or Mark()
        if mark is None:
            refuse_existing(path, overwrite)
        try:
            self._raw = io.FileIO(path, "r+" if path.exists() else "x+")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}. Choose an output in a writable folder.") from error
        try:
            self._prepare(resume=mark is not None)
        except BaseException:
            self._raw.close()
            raise

    def _prepare(self, *, resume: bool) -> None:
        _lock(self._raw, self.path)
        state = state_path(self.path)
        if not resume:
            state.unlink(missing_ok=True)
        elif not _has(self._raw, self.mark):
            raise RunError(f"{self.path} is not the file that {state} belongs to, or was changed. Start a new run.")
        _cut(self._raw, self.mark)
        self._file = _CheckedFile(self._raw)  # type: ignore[type-var]
        self._trajectory = TrajectoryWriter(self._file, "a" if resume else "w") if self.path.suffix == ".traj" else None
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> FrameFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, frame: Atoms) -> None:
        """Write `frame` with the results of its calculator, or nothing.

        Raises:
            StorageError: the disk is full or failing.
        """
        try:
            self._write(frame)
            self._file.flush()
            self.mark = Mark(self.mark.frames + 1, self._file.seek(0, os.SEEK_END), self._header())
        except OSError as error:
            self._take_back()
            raise _storage_error(self.path, f"frame {self.mark.frames}", self.mark, error) from error
        except Exception:
            self._take_back()
            raise

    def sync(self) -> None:
        """Have the operating system put all frames on the disk."""
        os.fsync(self._raw.fileno())

    def _write(self, frame: Atoms) -> None:
        if self._trajectory is not None:
            self._trajectory.write(frame)
        else:
            text = io.StringIO()
            write(text, frame, format="extxyz")
            self._file.write(text.getvalue().encode())

    def _header(self) -> bytes:
        self._file.seek(0)
        header = self._file.read(HEADER_BYTES)
        self._file.seek(0, os.SEEK_END)
        return header

    def _take_back(self) -> None:
        with contextlib.suppress(OSError):  # closing tries once more to write what is buffered, and is cut off below
            self._file.close()
        with io.FileIO(self.path, "r+") as raw:
            _cut(raw, self.mark)


class _CheckedFile(io.BufferedRandom):
    """A file that hides its descriptor from `ndarray.tofile`, which loses bytes without an error when the disk is full."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def checked_output(output: str | Path) -> Path:
    """`output` as a path with a suffix that can hold frames."""
    path = Path(output)
    if path.suffix not in SUFFIXES:
        raise RunError(f"output must end in {' or '.join(SUFFIXES)}, which keep energies and charges of atoms; got {path}.")
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise RunError unless `path` is free, or a file that may be replaced, in a folder that exists."""
    if not path.parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.parent}.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise RunError(f"{path} exists. Choose another output, or replace a file with --overwrite (overwrite=True).")


def state_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.restart.json")


def save_state(output: Path, state: dict[str, Any], mark: Mark) -> None:
    """Write `state` beside `output`, whose frames up to `mark` are on the disk, atomically."""
    about = {"format": STATE_FORMAT, "mark": {**asdict(mark), "header": mark.header.hex()}, "state": state}
    try:
        write_atomically(state_path(output), json.dumps({"sha256": _seal(about), **about}).encode())
    except OSError as error:
        raise _storage_error(output, "the state for a restart", mark, error) from error


def load_state(output: Path) -> tuple[dict[str, Any], Mark]:
    """What `save_state` wrote.

    Raises:
        RunError: no state, no output, or a damaged or foreign state file.
    """
    path = state_path(output)
    missing = [str(p) for p in (path, output) if not p.is_file()]
    if missing:
        raise RunError(
            f"cannot restart: there is no {' and no '.join(missing)}. Start a new run, if need be with --overwrite."
        )
    try:
        about = json.loads(path.read_bytes())
        if about["format"] != STATE_FORMAT:
            raise ValueError(f"its format is {about['format']}, this version reads {STATE_FORMAT}")
        if about.pop("sha256") != _seal(about):
            raise ValueError("its content does not match its SHA-256, so it was damaged or altered")
        mark = about["mark"]
        return dict(about["state"]), Mark(int(mark["frames"]), int(mark["n_bytes"]), bytes.fromhex(mark["header"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"cannot restart from {path}: {type(error).__name__}: {error}. Start a new run.") from error


def _seal(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Signals:
    """Turns Ctrl-C and SIGTERM into `RunInterrupted`, at once, but never inside `held()`, where books are kept."""

    def __init__(self) -> None:
        self._received = self._held = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What happens inside is finished before an interruption acts."""
        self._held = True
        yield
        self._held = False
        self._interrupt()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if not self._held:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._received:
            self._held = True  # from here on the run winds up; further signals change nothing
            raise RunInterrupted


def _lock(raw: io.FileIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(f"{path} is being written by another run. Wait for it, or choose another output.") from error
    except OSError as error:
        warnings.warn(f"{path} cannot be locked ({error.strerror}). Let no other run write it.", stacklevel=3)


def _has(raw: io.FileIO, mark: Mark) -> bool:
    """Whether the marked frames can still be in the file. The first 32 bytes never change."""
    return raw.seek(0, os.SEEK_END) >= mark.n_bytes and raw.seek(0) == 0 and raw.read(32) == mark.header[:32]


def _cut(raw: io.FileIO, mark: Mark) -> None:
    """Cut off everything after the marked frames; bytes are only overwritten, so this works on a full disk."""
    raw.truncate(mark.n_bytes)
    raw.seek(0)
    raw.write(mark.header)


def _storage_error(path: Path, what: str, mark: Mark, error: OSError) -> StorageError:
    free = shutil.disk_usage(path.parent).free / 1e6
    return StorageError(
        f"cannot write {what} to {path}: {error.strerror or error} ({free:.1f} MB free). It holds {mark.frames} complete "
        "frames. Make room, then restart."
    )


# --- Dynamics: settings, state, explosions ---------------------------------------------------------------------------------

THERMOSTATS = ("langevin", "bussi", "none")
MIN_DISTANCE, MIN_DISTANCE_H = 0.5, 0.3  # Å, the latter if hydrogen is involved; even hot bonds are longer
SEARCH_DISTANCE = 1.5  # Å; closer pairs decide when distances are looked at again


class RunExploded(RuntimeError):
    """The run left physics at `step`; `atom` is the index of the atom that shows it, None if no single one does."""

    def __init__(self, step: int, atom: int | None, reason: str) -> None:
        super().__init__(
            f"stopped at step {step}: {reason.rstrip('.')}. Earlier frames are kept. Relax first, or take shorter steps."
        )
        self.step, self.atom = step, atom


@dataclass(frozen=True)
class MDSettings:
    """How molecular dynamics is run.

    Args:
        temperature: K, of the thermostat and of the momenta drawn at the start.
        steps: time steps in all; a restart may ask for another number.
        timestep: fs.
        thermostat: "langevin", "bussi" (stochastic velocity rescaling) or "none" (NVE, velocity Verlet). The last two
            conserve momentum, so drift and, without a cell, rotation are taken out first and do not count as temperature.
        friction: 1/fs, of Langevin dynamics; the time constant of "bussi" is 1/friction.
        interval: steps between frames. Step 0 and each multiple are written.
        seed: of momenta and thermostat; the global random state is never used.
        keep_momenta: start from the momenta of the atoms instead of drawing new ones.
    """

    temperature: float = 300.0
    steps: int = 1000
    timestep: float = 0.5
    thermostat: str = "langevin"
    friction: float = 0.01
    interval: int = 10
    seed: int = 0
    keep_momenta: bool = False

    def __post_init__(self) -> None:
        if self.thermostat not in THERMOSTATS:
            raise RunError(f"thermostat must be one of {', '.join(THERMOSTATS)}, got {self.thermostat!r}.")
        for name, unit in (("temperature", " K"), ("steps", ""), ("seed", "")):
            if not 0 <= getattr(self, name) < np.inf:
                raise RunError(f"{name} must be finite and not negative, got {getattr(self, name)}{unit}.")
        for name, unit in (("timestep", " fs"), ("friction", "/fs"), ("interval", " steps")):
            if not 0 < getattr(self, name) < np.inf:
                raise RunError(f"{name} must be finite and positive, got {getattr(self, name)}{unit}.")

    @property
    def conserves_momentum(self) -> bool:
        return self.thermostat != "langevin"

    def dynamics(self, atoms: Atoms, rng: np.random.Generator, degrees_of_freedom: int) -> MolecularDynamics:
        """ASE's integrator for `atoms`, with its own random numbers."""
        timestep = self.timestep * units.fs
        if self.thermostat == "none":
            return VelocityVerlet(atoms, timestep)
        if self.thermostat == "langevin":
            friction = self.friction / units.fs
            return Langevin(atoms, timestep, temperature_K=self.temperature, friction=friction, fixcm=False, rng=rng)
        bussi = Bussi(atoms, timestep, self.temperature, units.fs / self.friction, rng=rng)
        bussi.ndof, bussi.target_kinetic_energy = degrees_of_freedom, 0.5 * bussi.temp * degrees_of_freedom
        return bussi


@dataclass(frozen=True, eq=False)
class MDState:
    """Everything that dynamics needs to go on.

    Args:
        identity: settings, atoms and calculator, as JSON values by name; a restart must have the same.
        degrees_of_freedom: that the temperature counts.
        temperature_limit: K, above which the run has exploded.
        step: last complete one.
        positions, momenta: (N, 3) Å and ASE's momentum unit, float64, which JSON keeps to the last bit.
        rng: state of the random generator.
    """

    identity: dict[str, Any]
    degrees_of_freedom: int
    temperature_limit: float
    step: int
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    rng: dict[str, Any]

    def save(self, output: Path, mark: Mark) -> None:
        save_state(output, {**vars(self), "positions": self.positions.tolist(), "momenta": self.momenta.tolist()}, mark)

    @classmethod
    def load(cls, output: Path, identity: dict[str, Any]) -> tuple[MDState, Mark]:
        """The saved state, refused if it is not of the run that `identity` describes."""
        saved, mark = load_state(output)
        try:
            positions, momenta = (np.array(saved[name], dtype=float).reshape(-1, 3) for name in ("positions", "momenta"))
            state = cls(**{**saved, "positions": positions, "momenta": momenta})
        except (TypeError, ValueError, KeyError) as error:
            raise RunError(f"cannot restart from {state_path(output)}: it holds no state of dynamics ({error}).") from error
        differences = [
            f"{name} is {_short(identity.get(name))}, was {_short(state.identity.get(name))}"
            for name in {**state.identity, **identity}
            if state.identity.get(name) != identity.get(name)
        ]
        if differences:
            raise RunError(
                f"cannot restart {output}, the setup is another: {'; '.join(differences)}. Start a new run for it."
            )
        return state, mark

    def apply(self, atoms: Atoms, rng: np.random.Generator) -> None:
        """Put `atoms` and `rng` back to where they were."""
        atoms.set_positions(self.positions, apply_constraint=False)
        atoms.set_momenta(self.momenta, apply_constraint=False)
        rng.bit_generator.state = self.rng


def first_state(atoms: Atoms, settings: MDSettings, identity: dict[str, Any], rng: np.random.Generator) -> MDState:
    """Momenta drawn or kept, drift and rotation taken out where they would last for ever."""
    if not settings.keep_momenta:
        thermalize_momenta(atoms, settings.temperature, rng=rng)
    elif not atoms.has("momenta"):
        raise RunError("there are no momenta to keep. Start from a frame of dynamics, or have them drawn (no keep_momenta).")
    degrees_of_freedom = atoms.get_number_of_degrees_of_freedom()
    if settings.conserves_momentum and not atoms.constraints:
        Stationary(atoms, preserve_temperature=False)
        degrees_of_freedom -= 3
        if not atoms.pbc.any() and len(atoms) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):  # no moment of inertia about the axis of a linear molecule
                ZeroRotation(atoms, preserve_temperature=False)
            degrees_of_freedom -= int((atoms.get_moments_of_inertia() > 1e-3).sum())
    degrees_of_freedom = max(1, degrees_of_freedom)
    first = 2 * atoms.get_kinetic_energy() / (units.kB * degrees_of_freedom)
    limit = 10 * first + 1000 if settings.thermostat == "none" else max(10 * settings.temperature, 1000)
    return MDState(identity, degrees_of_freedom, float(limit), 0, **motion_of(atoms, rng))


def motion_of(atoms: Atoms, rng: np.random.Generator) -> dict[str, Any]:
    return {"positions": atoms.get_positions(), "momenta": atoms.get_momenta(), "rng": dict(rng.bit_generator.state)}


def identity_of(atoms: Atoms, settings: MDSettings) -> dict[str, Any]:
    """What must be the same on a restart, by name, as JSON gives it back."""
    identity = asdict(settings)
    del identity["steps"]
    identity |= {"atomic numbers": atoms.numbers.tolist(), "pbc": atoms.pbc.tolist(), "cell": atoms.cell.tolist()}
    identity |= {"masses": atoms.get_masses().tolist(), "total charge": float(atoms.info.get("charge") or 0)}
    identity |= {"constraints": [constraint.todict() for constraint in atoms.constraints], "calculator": atoms.calc.name}
    identity |= {f"calculator's {name}": value for name, value in atoms.calc.todict().items()}
    return dict(json.loads(encode(identity)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


class ExplosionWatch:
    """Looks for an explosion after each step.

    Pairs are searched anew only when two atoms can have come too close since the last search: when twice the largest
    displacement reaches the smallest margin found then.
    """

    def __init__(self, atoms: Atoms, state: MDState) -> None:
        self.atoms, self.limit, self.degrees_of_freedom = atoms, state.temperature_limit, state.degrees_of_freedom
        self._reference, self._margin = atoms.positions.copy(), 0.0

    def temperature(self) -> float:
        """K, of the degrees of freedom that are not conserved."""
        return float(2 * self.atoms.get_kinetic_energy() / (units.kB * self.degrees_of_freedom))

    def check(self, step: int) -> None:
        """Raise RunExploded if the atoms, or the forces on them, show an explosion."""
        self.check_geometry(step)
        refuse_not_finite(self.atoms, step)
        temperature = self.temperature()
        if not temperature <= self.limit:
            atom = int(np.argmax((self.atoms.get_velocities() ** 2).sum(axis=1) * self.atoms.get_masses()))
            reason = f"the temperature is {temperature:.0f} K, above {self.limit:.0f} K; atom {atom} is the hottest"
            raise RunExploded(step, atom, reason)

    def check_geometry(self, step: int) -> None:
        _refuse_bad_rows(self.atoms.positions, "position", "Å", step)
        moved = np.linalg.norm(self.atoms.positions - self._reference, axis=1).max(initial=0.0)
        if 2 * moved >= self._margin:
            self._search(step)

    def _search(self, step: int) -> None:
        i, j, distances = neighbor_list("ijd", self.atoms, SEARCH_DISTANCE)
        hydrogen = (self.atoms.numbers[i] == 1) | (self.atoms.numbers[j] == 1)
        margins = distances - np.where(hydrogen, MIN_DISTANCE_H, MIN_DISTANCE)
        self._margin = float(margins.min(initial=SEARCH_DISTANCE - MIN_DISTANCE))
        self._reference = self.atoms.positions.copy()
        if self._margin < 0:
            k = int(margins.argmin())
            raise RunExploded(step, int(i[k]), f"atoms {i[k]} and {j[k]} are {distances[k]:.3f} Å apart")


def refuse_not_finite(atoms: Atoms, step: int) -> None:
    _refuse_bad_rows(atoms.positions, "position", "Å", step)
    _refuse_bad_rows(atoms.get_forces(), "force", "eV/Å", step)


def _refuse_bad_rows(values: NDArray[np.float64], name: str, unit: str, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise RunExploded(step, int(bad[0]), f"the {name} of atom {bad[0]} is {values[bad[0]].tolist()} {unit}")


# --- Runs ------------------------------------------------------------------------------------------------------------------

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
        overwrite: replace an existing output.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        RunError, StorageError, RunInterrupted, RunExploded: see there.
    """
    path, started = checked_output(output), time.perf_counter()
    _refuse_idle(atoms)
    if optimizer not in OPTIMIZERS or not fmax > 0 or steps < 0:
        raise RunError(f"got {optimizer=}, {fmax=} eV/Å, {steps=}. Optimizers: {', '.join(OPTIMIZERS)}; fmax is positive.")
    refuse_existing(path, overwrite)
    target = FrechetCellFilter(atoms) if cell else atoms
    target.get_forces()  # errors of the first evaluation come before anything is written; the optimizer finds it cached
    dynamics, step, converged = OPTIMIZERS[optimizer](target, logfile=None), 0, False
    with FrameFile(path, overwrite=overwrite) as frames, _bar(steps, 0, progress) as bar, Signals() as signals:
        try:
            for step, converged in enumerate(dynamics.irun(fmax=fmax, steps=steps)):  # noqa: B007
                with signals.held():
                    refuse_not_finite(atoms, step)
                    frames.append(_frame(atoms, step=step))
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
        restart: go on from the state; frames written after it are cut off and computed again.
        overwrite: replace an existing output and its state.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        RunError: existing output, or restart with other settings, atoms or calculator.
        RunExploded: a position or force is not finite, two atoms are closer than 0.5 Å (0.3 Å if one is hydrogen), or the
            temperature exceeds 10 times the thermostat's, at least 1000 K (NVE: 10 times the first, plus 1000 K).
        StorageError, RunInterrupted: see there.
    """
    path, started, settings = checked_output(output), time.perf_counter(), settings or MDSettings()
    _refuse_idle(atoms)
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
    with FrameFile(path, mark, overwrite=overwrite) as frames, _bar(settings.steps, state.step, progress) as bar:
        run = _Dynamics(settings, dynamics, rng, watch, frames, state)
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
                self._save()
        except RunExploded:
            self._save()
            raise
        except RunInterrupted:
            self._save()
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
        self.frames.append(_frame(self.atoms, step=step, time_fs=step * self.settings.timestep))

    def _save(self) -> None:
        self.frames.sync()
        self.state.save(self.frames.path, self.frames.mark)
        self.saved = time.monotonic()


def _refuse_idle(atoms: Atoms) -> None:
    if atoms.calc is None or not len(atoms):
        raise RunError(
            f"{atoms} cannot be run: atoms and a calculator are needed. Set atoms.calc, e.g. to ase_xai.load(...)."
        )


def _frame(atoms: Atoms, **info: float) -> Atoms:
    """A copy of `atoms` that holds the results at hand, with no further evaluation."""
    frame = atoms.copy()
    frame.info.update(info)
    results = {name: value for name, value in atoms.calc.results.items() if name in all_outputs}
    frame.calc = SinglePointCalculator(frame, **results)
    frame.calc.name = atoms.calc.name
    frame.calc.parameters.update(atoms.calc.todict())
    return frame


def _bar(total: int, initial: int, progress: bool | None) -> tqdm[Any]:
    return tqdm(total=total, initial=initial, unit="step", disable=None if progress is None else not progress)


def _energy(atoms: Atoms) -> float:
    return float(atoms.get_potential_energy())


def _max_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def _summary(atoms: Atoms, frames: FrameFile, step: int, finished: bool, started: float) -> RunSummary:
    seconds = time.perf_counter() - started
    return RunSummary(frames.path, frames.mark.frames, step, finished, _energy(atoms), _max_force(atoms), seconds)
