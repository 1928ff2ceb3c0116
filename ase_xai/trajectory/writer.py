"""Frames on their way into the file: kept in memory, then written in one go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.trajectory.h5md import Books, append, create, kept_rows, read_header, truncate
from ase_xai.trajectory.layout import EDGES, MAIN, NUMBERS, PBC, POSITION, SPECIES, Header, row_types
from ase_xai.trajectory.plan import Plan, first_plan
from ase_xai.trajectory.recording import Model, Recording, Sample
from ase_xai.trajectory.reduction import Reduction
from ase_xai.trajectory.store import RecordingError, Source

FIRST_ROWS = 64
MOVED = 1e-3  # Å, more than float32 rounds positions by


class Rows:
    """Rows of one track that wait for being written, by the path of their dataset."""

    def __init__(self, types: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        self._arrays = {path: np.empty((FIRST_ROWS, *shape), dtype) for path, (shape, dtype) in types.items()}
        self.n = 0

    def add(self, row: Mapping[str, Any]) -> None:
        for path, array in self._arrays.items():
            if self.n == len(array):
                array = self._arrays[path] = np.concatenate([array, np.empty_like(array)])
            array[self.n] = row[path]
        self.n += 1

    def block(self) -> dict[str, NDArray[Any]]:
        return {path: array[: self.n] for path, array in self._arrays.items()}


class RunWriter:
    """Appends samples to the file of a run.

    Args:
        source: a file or memory.
        recording: what is kept.
        overwrite: a new file may replace an existing one.

    Raises:
        RecordingError: there is a file already, or no folder.
    """

    def __init__(self, source: Source, recording: Recording, *, overwrite: bool = False, resume: bool = False) -> None:
        self.source, self.recording = source, recording
        self.plan: Plan | None = None
        self.last_step: int | None = None
        self._books: Books | None = None
        self._rows: dict[str, Rows] = {}
        self._reduction = Reduction({})
        self._resumed_at: NDArray[np.float32] | None = None
        path = source.path
        if path is not None and not path.parent.is_dir():
            raise RecordingError(f"cannot write {path}: there is no folder {path.parent}.")
        if path is not None and not resume and (path.is_dir() or (path.exists() and not overwrite)):
            raise RecordingError(
                f"{path} exists. Choose another file, go on in it (resume=True) or replace it (overwrite=True)."
            )

    @property
    def n_frames(self) -> int:
        """Frames recorded, those that wait included."""
        return self.n_written + self.n_waiting

    @property
    def n_written(self) -> int:
        return 0 if self._books is None else self._books.frames[MAIN]

    @property
    def n_waiting(self) -> int:
        return self._rows[MAIN].n if self._rows else 0

    def add(self, sample: Sample, step: int, time: float | None, calculator: Any) -> None:
        """Keep one frame for the next `flush`.

        Raises:
            ValueError: a frame that does not fit to those before; nothing of it is kept.
        """
        frame = f"frame {self.n_frames} (step {step})"
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"{frame} comes after step {self.last_step} was recorded. Steps must rise.")
        if self.plan is None:
            self._start(first_plan(self.recording, calculator, sample, "step" if time is None else "fs", frame))
        assert self.plan is not None
        if (time is None) != (self.plan.header.time_unit == "step"):
            raise ValueError(
                f"{frame} has time {time}, the run counts in {self.plan.header.time_unit}. Give times of all or none."
            )
        values, beside = self.plan.rows(sample, frame), self.plan.beside(sample)
        for name in sample.explanations:
            track = self.plan.specs[name].track
            if track != MAIN:
                spec, clock = self.plan.specs[name], self.plan.header.clock_of(track)
                own = {f"{clock}/step": step, f"{clock}/time": step if time is None else time, spec.value: values[name]}
                self._rows[track].add(own | beside)
        self._rows[MAIN].add(self._main_row(sample.atoms, step, time, values) | beside)
        self._reduction.add(values)
        self.last_step = step

    def flush(self, *, sync: bool = False) -> None:
        """Write what waits.

        Raises:
            FileBusy, RecordingError: it still waits, and what was written is complete.
        """
        if self.plan is None or not self.n_waiting:
            return
        header = self.plan.header
        if self._books is None:
            self._books = create(self.source, header, self.plan.fixed, self._rows[MAIN].block()[f"{PBC}/value"][0])
        blocks = {track: rows.block() for track, rows in self._rows.items() if rows.n}
        blocks[MAIN] = blocks[MAIN] | {f"{SPECIES}/value": np.tile(self.plan.numbers.astype(np.int8), (self.n_waiting, 1))}
        self._books = append(self.source, header, self._books, blocks, self._reduction.state(), sync=sync)
        for rows in self._rows.values():
            rows.n = 0

    def resume(self, atoms: Atoms, calculator: Any, last_step: int | None = None) -> int:
        """Go on in the existing file behind `last_step`, or its last one; later frames are cut off. Returns that step.

        Raises:
            ValueError: no run, or one of another model, system or recording.
            FileNotFoundError, FileBusy: no file, or a reader has it open.
        """
        header, books, fixed = read_header(self.source)
        model = Model.of(calculator, atoms)
        refuse_other(self.source, header, fixed[NUMBERS], self.recording, model, atoms)
        kept = dict(books.frames) if last_step is None else kept_rows(self.source, header, books, last_step)
        reduction, place = Reduction(header.reducers), books.flushes
        if header.reducers and kept[MAIN]:
            place = reduction.take_up(self.source, kept[MAIN])
        self._books = truncate(self.source, header, kept, place)
        numbers = atoms.numbers.astype(np.int64)
        self._start(Plan(self.recording, model, header, numbers))
        self._reduction = reduction
        if kept[MAIN]:
            with self.source.reading() as file:
                self.last_step = int(file[f"{header.clock}/step"][kept[MAIN] - 1])
                if header.positions:
                    self._resumed_at = file[f"{POSITION}/value"][kept[MAIN] - 1]
        return last_step if last_step is not None else self.last_step or 0

    def refuse_moved(self, atoms: Atoms) -> None:
        """Raise ValueError unless `atoms` are where the last step, before which a run was resumed, was recorded."""
        if self._resumed_at is not None and np.abs(atoms.positions - self._resumed_at).max(initial=0.0) > MOVED:
            raise ValueError(
                f"the atoms are not where step {self.last_step} was recorded in {self.source}, up to "
                f"{np.abs(atoms.positions - self._resumed_at).max():.3g} Å away. Take them from open_run(...).atoms(-1)."
            )
        self._resumed_at = None

    def _start(self, plan: Plan) -> None:
        self.plan = plan
        types = row_types(plan.header, len(plan.numbers))
        del types[MAIN][f"{SPECIES}/value"]
        self._rows = {track: Rows(own) for track, own in types.items()}
        self._reduction = Reduction(plan.header.reducers)

    def _main_row(self, atoms: Atoms, step: int, time: float | None, values: Mapping[str, Any]) -> dict[str, Any]:
        assert self.plan is not None
        header = self.plan.header
        row: dict[str, Any] = {f"{header.clock}/step": step, f"{header.clock}/time": step if time is None else time}
        row |= {f"{EDGES}/value": atoms.cell.array, f"{PBC}/value": atoms.pbc}
        if header.positions:
            row[f"{POSITION}/value"] = atoms.positions
        return row | {spec.value: values[spec.name] for spec in header.fields if spec.track == MAIN}


def refuse_other(
    source: Source, header: Header, numbers: NDArray[np.int64], recording: Recording, model: Model, atoms: Atoms
) -> None:
    """Raise ValueError unless frames of `recording` with `model` continue the run of `header`."""
    then, now = dict(header.about.settings), dict(recording.settings)
    if recording.fields is None:
        then.pop("fields"), now.pop("fields")
    pairs = {name: (then.get(name), now.get(name)) for name in now}
    pairs["atoms"] = (Atoms(numbers).get_chemical_formula("reduce"), Atoms(atoms.numbers).get_chemical_formula("reduce"))
    pairs["model"] = ((header.about.model_id or header.about.model), (model.model_id or model.name))
    pairs["total charge"] = (header.about.total_charge, model.total_charge)
    different = [f"{name} {_short(new)}, not {_short(old)}" for name, (old, new) in pairs.items() if old != new]
    if different:
        raise ValueError(
            f"{source} cannot go on with {'; '.join(different)}. Record into another file, or with the settings that it "
            "was begun with."
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
