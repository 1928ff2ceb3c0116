"""Opening the file of a run, so that neither a full disk nor a reader costs a frame."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

READ_PATIENCE = 10.0  # s that a reader waits for a writer; one append takes milliseconds
SPARE_BYTES = 1 << 20  # room beyond the frames themselves that an append reserves


class RecordingError(OSError):
    """Frames could not be written. What was written before is complete, and what was not is kept in memory."""


class FileBusy(RecordingError):
    """A reader has the file open, so nothing can be appended now."""


@dataclass
class Source:
    """Where a run is: a file, opened for each access, or memory."""

    path: Path | None = None
    memory: io.BytesIO | None = None

    def __str__(self) -> str:
        return "a run in memory" if self.path is None else str(self.path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[h5py.File]:
        """The file, open for reading; a writer is waited for.

        Raises:
            FileNotFoundError, ValueError: no file, or not a complete HDF5 file.
        """
        file = self._opened()
        try:
            yield file
        finally:
            file.close()

    def _opened(self) -> h5py.File:
        if self.path is None:
            return h5py.File(self.memory, "r")
        until = time.monotonic() + READ_PATIENCE
        while True:
            try:
                return h5py.File(self.path, "r")
            except OSError as error:
                if isinstance(error, FileNotFoundError) or not self.path.is_file():
                    raise FileNotFoundError(f"cannot read the run {self.path}: there is no such file.") from error
                if not is_busy(error):
                    raise ValueError(f"cannot read {self.path}: it is no HDF5 file, or a damaged one ({error}).") from error
                if time.monotonic() > until:
                    raise FileBusy(f"cannot read {self.path}: a writer holds it for {READ_PATIENCE:g} s already.") from error
            time.sleep(0.003)

    @contextlib.contextmanager
    def writing(self, n_bytes: int = 0, *, create: bool = False) -> Iterator[h5py.File]:
        """The file, open for writing, with room for `n_bytes` more reserved before anything is touched.

        Raises:
            FileBusy: another process has it open.
            RecordingError: no room, no folder, no right to write.
        """
        if self.path is None:
            with h5py.File(self.memory, "w" if create else "r+") as file:
                yield file
            return
        try:
            with h5py.File(self.path, "w" if create else "r+") as file, reserved(file, n_bytes + SPARE_BYTES):
                yield file
        except OSError as error:
            if isinstance(error, RecordingError):
                raise
            if is_busy(error):
                raise FileBusy(f"{self.path} is open elsewhere, so nothing can be appended now ({error}).") from error
            free = shutil.disk_usage(self.path.parent).free / 1e6 if self.path.parent.is_dir() else 0.0
            reason = os.strerror(error.errno) if error.errno else error
            raise RecordingError(
                f"cannot write {self.path}: {reason} ({free:.1f} MB free). Frames written before are complete, later "
                "ones are kept in memory: make room, then flush or close the recorder again."
            ) from error

    def sync(self) -> None:
        """Have the operating system put the file on the disk."""
        if self.path is not None:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_busy(error: OSError) -> bool:
    """Whether opening failed only because someone else has the file open."""
    text = str(error)
    return isinstance(error, BlockingIOError) or "unable to lock file" in text or "already open" in text


@contextlib.contextmanager
def reserved(file: h5py.File, n_bytes: int) -> Iterator[None]:
    """Have the file system set aside `n_bytes` behind the end of an open file, or raise OSError and leave it as it was.

    HDF5 does not survive a disk that fills up while it writes; what it has not needed is cut off at the end.
    """
    descriptor = file.id.get_vfd_handle()
    end = os.fstat(descriptor).st_size
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, end, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # file systems that cannot reserve
                os.ftruncate(descriptor, end)
                raise
    yield
    file.flush()
    os.ftruncate(descriptor, file.id.get_filesize())
