"""Rows of a run in its file: made, appended, cut off, and checked before they are believed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ase_xai.trajectory.layout import (
    CHUNK_FRAMES,
    MAIN,
    META,
    NUMBERS,
    OBSERVABLES,
    PARTICLES,
    UNNAMED_UNITS,
    XAI,
    FieldSpec,
    Header,
    chunk_of,
    frame_series,
    row_types,
)
from ase_xai.trajectory.store import RecordingError, Source

Block = Mapping[str, NDArray[Any]]
"""New rows by the path of their dataset, all of one track."""


@dataclass(frozen=True)
class Books:
    """What a file says it holds: valid rows by track, and how often it was appended to."""

    frames: Mapping[str, int]
    flushes: int

    @property
    def vector(self) -> NDArray[np.int64]:
        return np.array([*self.frames.values(), self.flushes], np.int64)


def create(source: Source, header: Header, fixed: Mapping[str, NDArray[Any]], pbc: NDArray[np.bool_]) -> Books:
    """A file without frames.

    Args:
        source: where; an existing file is replaced.
        header: what it will hold.
        fixed: arrays that belong to the whole run, by path; the atomic numbers among them.
        pbc: (3,) of the first frame.
    """
    books = Books(dict.fromkeys(header.tracks, 0), 0)
    with source.writing(sum(values.nbytes for values in fixed.values()), create=True) as file:
        _sign(file, header)
        _create_series(file, header.clock, header.time_unit)
        for path, (shape, dtype, unit) in frame_series(header, len(fixed[NUMBERS])).items():
            _create_dataset(file, path, shape, dtype, unit)
            _link_clock(file, path, header.clock)
        box = file[f"{PARTICLES}/box"]
        box.attrs["dimension"] = np.int32(3)
        box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in pbc]
        for spec in header.fields:
            _create_field(file, header, spec)
        for path, values in fixed.items():
            file[path] = values
        file[META] = header.to_json()
        file[META].attrs["token"] = header.token
        file[META].attrs["frames"] = books.vector
    return books


def _sign(file: h5py.File, header: Header) -> None:
    group = file.create_group("h5md")
    group.attrs["version"] = np.array([1, 1], np.int32)
    group.create_group("author").attrs["name"] = "not stated"
    creator = group.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "ase_xai", header.about.versions.get("ase_xai", "")


def _create_field(file: h5py.File, header: Header, spec: FieldSpec) -> None:
    if spec.track != MAIN:
        _create_series(file, spec.path, header.time_unit)
    _create_dataset(file, spec.path, spec.shape, spec.dtype, "" if spec.name in UNNAMED_UNITS else spec.units)
    for name, (shape, dtype) in spec.extra_rows.items():
        whole = {"shape": (0, *shape), "maxshape": (None, *shape), "chunks": chunk_of(shape, dtype), "dtype": dtype}
        file.create_dataset(spec.extra(name), **whole)
    if spec.track == MAIN:
        _link_clock(file, spec.path, header.clock)
    if spec.path.startswith(PARTICLES):
        file[spec.path.replace(PARTICLES, OBSERVABLES)] = file[spec.path]


def _create_series(file: h5py.File, path: str, time_unit: str) -> None:
    for name, dtype in (("step", "int64"), ("time", "float64")):
        file.create_dataset(f"{path}/{name}", shape=(0,), maxshape=(None,), chunks=chunk_of((), dtype), dtype=dtype)
    if time_unit == "fs":
        file[f"{path}/time"].attrs["unit"] = "fs"


def _create_dataset(file: h5py.File, path: str, shape: tuple[int, ...], dtype: str, unit: str) -> None:
    whole = {"shape": (0, *shape), "maxshape": (None, *shape), "chunks": chunk_of(shape, dtype), "dtype": dtype}
    values = file.create_dataset(f"{path}/value", **whole)
    if unit:
        values.attrs["unit"] = unit


def _link_clock(file: h5py.File, path: str, clock: str) -> None:
    if path != clock:
        for name in ("step", "time"):
            file[f"{path}/{name}"] = file[f"{clock}/{name}"]


def append(
    source: Source,
    header: Header,
    books: Books,
    blocks: Mapping[str, Block],
    state: NDArray[np.float64] | None = None,
    *,
    sync: bool = False,
) -> Books:
    """Write the rows of `blocks` behind the valid ones, then declare them valid.

    Args:
        source: of the file.
        header: of the run; another file in its place is refused.
        books: as they were after the last append; a file that another writer has changed is refused.
        blocks: rows by track and path.
        state: of the reducers after these rows, or None if there are none.
        sync: have the operating system put all of it on the disk.

    Returns:
        The new books.

    Raises:
        FileBusy, RecordingError: nothing was declared valid; the same call may be made again.
    """
    added = {track: len(next(iter(block.values()))) for track, block in blocks.items()}
    after = Books({track: n + added.get(track, 0) for track, n in books.frames.items()}, books.flushes + 1)
    with source.writing(_room(blocks) + (0 if state is None else 2 * state.nbytes)) as file:
        _refuse_foreign(source, file, header, books)
        for track, block in blocks.items():
            for path, rows in block.items():
                dataset = file[path]
                dataset.resize(after.frames[track], axis=0)
                dataset[books.frames[track] :] = rows
        if state is not None:
            _write_state(file, after, state)
        file.flush()
        file[META].attrs.modify("frames", after.vector)
    if sync:
        source.sync()
    return after


def _room(blocks: Mapping[str, Block]) -> int:
    """Bytes that these rows may take: HDF5 adds whole chunks."""
    rows = [array for block in blocks.values() for array in block.values() if len(array)]
    return sum(2 * array[:1].nbytes * (len(array) + CHUNK_FRAMES) for array in rows)


def _refuse_foreign(source: Source, file: h5py.File, header: Header, books: Books) -> None:
    attributes = file[META].attrs if META in file else {}
    if attributes.get("token") != header.token or not np.array_equal(attributes["frames"], books.vector):
        raise RecordingError(
            f"{source} is no longer the file that this recorder wrote: it was replaced, or another program wrote to it. "
            "Frames not yet written are kept in memory; record into another file."
        )


def _write_state(file: h5py.File, books: Books, state: NDArray[np.float64]) -> None:
    """States stand in two places used in turn, so that the last one is whole while the next is being written."""
    sealed = np.concatenate([[books.frames[MAIN], zlib.crc32(state.tobytes())], state])
    place = f"{XAI}/reducers/{books.flushes % 2}"
    if place in file:
        file[place][...] = sealed
    else:
        file[place] = sealed


def states(source: Source) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Place, number of frames and state of the reducers, from each of the two places that holds a whole one."""
    found = []
    with source.reading() as file:
        for place in (0, 1):
            if f"{XAI}/reducers/{place}" in file:
                sealed = np.asarray(_own(file, f"{XAI}/reducers/{place}")[()], dtype=np.float64)
                if sealed.ndim == 1 and len(sealed) >= 2 and sealed[1] == zlib.crc32(sealed[2:].tobytes()):
                    found.append((place, int(sealed[0]), sealed[2:]))
    return found


def kept_rows(source: Source, header: Header, books: Books, last_step: int) -> dict[str, int]:
    """Rows of each track up to `last_step`."""
    with source.reading() as file:
        counts = {}
        for track, n in books.frames.items():
            steps = file[f"{header.clock_of(track)}/step"][:n]
            counts[track] = int(np.searchsorted(steps, last_step, side="right"))
        return counts


def truncate(source: Source, header: Header, kept: Mapping[str, int], flushes: int) -> Books:
    """Keep so many rows of each track; cut off the others, and what a killed writer left behind them.

    Args:
        flushes: its parity says in which place the state of the reducers is the one to keep.
    """
    after = Books(dict(kept), flushes)
    with source.writing() as file:
        file[META].attrs.modify("frames", after.vector)
        file.flush()
        for track, paths in row_types(header, len(file[NUMBERS])).items():
            for path in paths:
                file[path].resize(kept[track], axis=0)
    return after


def read_header(source: Source) -> tuple[Header, Books, dict[str, NDArray[Any]]]:
    """Header, books and the arrays of the whole run, after checks that their rows exist.

    Raises:
        ValueError: no run, one of another version, or a damaged one.
        FileNotFoundError: no file.
    """
    with source.reading() as file:
        try:
            text = file[META][()]
            header = Header.from_json(text.decode() if isinstance(text, bytes) else text)
            vector = np.asarray(file[META].attrs["frames"])
            if vector.shape != (len(header.tracks) + 1,) or vector.dtype != np.int64 or (vector < 0).any():
                raise ValueError(f"it counts its frames as {vector}")
            books = Books(dict(zip(header.tracks, vector.tolist(), strict=False)), int(vector[-1]))
            fixed = {f"{XAI}/{name}": _own(file, f"{XAI}/{name}")[()] for name in ("numbers", "references")}
            if "baselines" in file[XAI]:
                fixed |= {f"{XAI}/baselines/{n}": _own(file, f"{XAI}/baselines/{n}")[()] for n in file[f"{XAI}/baselines"]}
            _check(file, header, books)
            return header, books, fixed
        except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"cannot read {source} as a run: {str(error).rstrip('.')}. Runs are written by Recorder and annotate."
            ) from error


def _own(file: h5py.File, path: str) -> h5py.Dataset:
    """A dataset of this very file: links to other files, and data kept in them, are refused."""
    dataset = file[path]
    if not isinstance(dataset, h5py.Dataset) or dataset.file.id != file.id or dataset.is_virtual or dataset.external:
        raise ValueError(f"{path} is no dataset of this file")
    return dataset


def _check(file: h5py.File, header: Header, books: Books) -> None:
    n_atoms = len(file[NUMBERS])
    for track, types in row_types(header, n_atoms).items():
        for path, (shape, dtype) in types.items():
            dataset, rows = _own(file, path), books.frames[track]
            if dataset.shape[1:] != shape or dataset.dtype != np.dtype(dtype) or len(dataset) < rows:
                raise ValueError(f"{path} is {dataset.shape} {dataset.dtype}, announced are {rows} rows {shape} {dtype}")
            n_bytes = rows * dataset.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            if dataset.compression is None and dataset.id.get_storage_size() < n_bytes:
                raise ValueError(f"{path} holds fewer bytes than its {rows} rows need")
    for spec in header.fields:
        if spec.level == "atom" and spec.shape[:1] != (n_atoms,):
            raise ValueError(f"field {spec.name!r} has rows of {spec.shape}, not of {n_atoms} atoms")
