"""Files of a run that survive Ctrl-C, a full disk and kill -9: frames, and the state for a restart."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ase import Atoms
from ase.io import write
from ase.io.trajectory import TrajectoryWriter
from ase.io.ulm import N1

from ase_xai.files import write_atomically
from ase_xai.signals import SignalReceiver

SUFFIXES = (".traj", ".extxyz")
STATE_FORMAT = 1
TAIL_BYTES = 4096
TRAJECTORY = b"- of Ulm"  # how a .traj file begins
HEADER_BYTES = 48  # of a .traj file: number of frames and place of their index, rewritten with each frame


class RunError(ValueError):
    """A run that cannot start, or not go on as asked, with the remedy."""


class StorageError(OSError):
    """Frames or state could not be written. What was written before is complete."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. The output is complete, and the message says how to continue."""


@dataclass(frozen=True)
class Mark:
    """Where the last complete frame of an output ends, the first bytes of the file at that time, and a hash of the last."""

    frames: int = 0
    n_bytes: int = 0
    header: bytes = b""
    tail: str = ""


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
            self.mark = self._next_mark()
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

    def _next_mark(self) -> Mark:
        n_bytes = self._file.seek(0, os.SEEK_END)
        header = self._header()
        return Mark(self.mark.frames + 1, n_bytes, header, _tail(self._raw, n_bytes, header))

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
        return dict(about["state"]), Mark(**{**mark, "header": bytes.fromhex(mark["header"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"cannot restart from {path}: {type(error).__name__}: {error}. Start a new run.") from error


def _seal(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Signals(SignalReceiver):
    """Turns Ctrl-C and SIGTERM into `RunInterrupted`, at once, but never inside `held()`, where books are kept."""

    def __init__(self) -> None:
        self._received = self._held = False

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
    """Whether the marked frames are still in the file. The first 32 bytes of a .traj file never change."""
    if raw.seek(0, os.SEEK_END) < mark.n_bytes:
        return False
    raw.seek(0)
    return raw.read(32) == mark.header[:32] and _tail(raw, mark.n_bytes, mark.header) == mark.tail


def _tail(raw: io.FileIO, n_bytes: int, header: bytes) -> str:
    """SHA-256 of the last bytes before `n_bytes`, without what later frames change: header, and free places of the index."""
    start = min(n_bytes, max(HEADER_BYTES, n_bytes - TAIL_BYTES))
    tail = bytearray(os.pread(raw.fileno(), n_bytes - start, start))
    if header.startswith(TRAJECTORY):
        frames, index = struct.unpack("<2q", header[32:HEADER_BYTES])
        capacity = 1
        while capacity < frames:
            capacity *= N1
        first, end = (min(max(0, index + 8 * k - start), len(tail)) for k in (frames, capacity))
        tail[first:end] = bytes(end - first)
    return hashlib.sha256(tail).hexdigest()


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
