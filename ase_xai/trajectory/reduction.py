"""The states of all online statistics of a run, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.trajectory.h5md import Books, states
from ase_xai.trajectory.layout import MAIN, FieldSpec, Header
from ase_xai.trajectory.reducers import KINDS, FieldAbout, Reducer, State, named
from ase_xai.trajectory.store import Source


def announced(
    reducers: Sequence[Reducer], rows: Mapping[str, NDArray[Any]], specs: Mapping[str, FieldSpec]
) -> dict[str, dict[str, Any]]:
    """What the header of a file says of each reducer: its settings, and which values it is of.

    Raises:
        ValueError: a field that is not there.
    """
    found = {}
    for name, reducer in named(reducers).items():
        if reducer.field not in rows:
            raise ValueError(f"{name} is of a field that frames do not have; they have {', '.join(rows)}.")
        spec = specs[reducer.field]
        about = {key: getattr(spec, key) for key in ("units", "level", "labels", "reference", "gauge")}
        found[name] = {"settings": reducer.settings, "shape": np.shape(rows[reducer.field]), "about": about}
    return found


class Reduction:
    """The states of all reducers of a run, side by side in one array.

    Args:
        announced: what the header of the file says of them.
    """

    def __init__(self, announced: Mapping[str, Mapping[str, Any]]) -> None:
        self._reducers, self._abouts = {}, {}
        layouts: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, entry in announced.items():
            settings = dict(entry["settings"])
            self._reducers[name] = KINDS[settings.pop("kind")](**settings)
            self._abouts[name] = FieldAbout(
                settings["field"], **{**entry["about"], "labels": tuple(entry["about"]["labels"])}
            )
            layouts[name] = self._reducers[name].sizes(tuple(entry["shape"]))
        self._all = np.zeros(sum(int(np.prod(s, dtype=np.int64)) for sizes in layouts.values() for s in sizes.values()))
        self._states: dict[str, State] = {name: {} for name in layouts}
        end = 0
        for name, sizes in layouts.items():
            for array, shape in sizes.items():
                start, end = end, end + int(np.prod(shape, dtype=np.int64))
                self._states[name][array] = self._all[start:end].reshape(shape)

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Take in one frame; a field with a stride of its own is often not there."""
        for name, reducer in self._reducers.items():
            if reducer.field in values:
                reducer.add(self._states[name], np.asarray(values[reducer.field], dtype=np.float64))

    def state(self) -> NDArray[np.float64] | None:
        """All states, None if there are no reducers."""
        return self._all if self._reducers else None

    def take_up(self, source: Source, n_frames: int) -> int:
        """Go on with the state that belongs to the first `n_frames` frames of a file; returns the place it stands in.

        Raises:
            ValueError: the file has no such state.
        """
        found = {n: (place, state) for place, n, state in states(source) if state.shape == self._all.shape}
        if n_frames not in found:
            raise ValueError(
                f"{source} cannot go on after {n_frames} frames: its online statistics are those of "
                f"{' or '.join(map(str, found)) or 'no'} frames, and frames cannot be taken out of them. Record anew."
            )
        place, state = found[n_frames]
        self._all[...] = state
        return place

    def results(self) -> dict[str, Any]:
        return {name: reducer.result(self._states[name], self._abouts[name]) for name, reducer in self._reducers.items()}


def read_results(source: Source, header: Header, books: Books) -> dict[str, Any]:
    """Results by name of the reducers of a file.

    Raises:
        ValueError: they are damaged, or the file has been written to meanwhile.
    """
    reduction = Reduction(header.reducers)
    if header.reducers and books.frames[MAIN]:
        reduction.take_up(source, books.frames[MAIN])
    return reduction.results()
