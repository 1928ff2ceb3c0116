"""A recorded run, read lazily: nothing is loaded before it is asked for, and the file is open only meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.trajectory.field import Field
from ase_xai.trajectory.frames import Frames, frame_atoms, frame_explanation
from ase_xai.trajectory.h5md import Books, read_header
from ase_xai.trajectory.layout import (
    BASELINES,
    EDGES,
    MAIN,
    NUMBERS,
    PBC,
    POSITION,
    REFERENCES,
    RESULTS,
    FieldSpec,
    Header,
    RunAbout,
)
from ase_xai.trajectory.store import Source

if TYPE_CHECKING:
    import pandas
    import xarray

    from ase_xai.report.run_view import RunView

__all__ = ["Field", "Run", "open_run"]


def open_run(path: str | Path) -> Run:
    """The run in a file that `Recorder` or `annotate` has written, or is still writing: what it holds now.

    Raises:
        FileNotFoundError, ValueError: no file; no run, or a damaged one.
    """
    return Run(Source(path=Path(path)))


class Run:
    """Frames of a run with what was recorded of them. It shows the file as it was when opened; open it again for more.

    run = open_run("run.h5")
    run["energies"][:, 3]         # one atom's energy along the run, reference subtracted, eV
    run.atoms(-1)                 # the last frame, with its results
    run.explanation("charges", 0)
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._header: Header
        self._books: Books
        self._header, self._books, self._fixed = read_header(source)
        self._specs = {spec.name: spec for spec in self._header.fields}

    @property
    def path(self) -> Path | None:
        """Of the file; None in memory."""
        return self._source.path

    @property
    def about(self) -> RunAbout:
        return self._header.about

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of everything recorded beside positions, cells and time."""
        return tuple(self._specs)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(N,) atomic numbers."""
        return np.array(self._fixed[NUMBERS], dtype=np.int64)

    @property
    def symbols(self) -> list[str]:
        return [chemical_symbols[z] for z in self.numbers]

    @property
    def n_atoms(self) -> int:
        return len(self._fixed[NUMBERS])

    @property
    def n_frames(self) -> int:
        return self._books.frames[MAIN]

    @property
    def steps(self) -> NDArray[np.int64]:
        """(L,) numbers of the steps."""
        return self._clock(MAIN)[0]

    @property
    def times(self) -> NDArray[np.float64]:
        """(L,) in `time_unit`."""
        return self._clock(MAIN)[1]

    @property
    def time_unit(self) -> str:
        """ "fs", or "step" where there is no time."""
        return self._header.time_unit

    @property
    def has_positions(self) -> bool:
        """Whether positions were recorded."""
        return self._header.positions

    @property
    def positions(self) -> Field:
        """(L, N, 3) Å, float32."""
        if not self._header.positions:
            raise ValueError("positions were not recorded. Record with positions=True, the default.")
        return Field(FieldSpec("positions", POSITION, "Å", "atom", "positions", (self.n_atoms, 3)), self)

    @property
    def cells(self) -> Field:
        """(L, 3, 3) Å."""
        return Field(FieldSpec("cells", EDGES, "Å", "frame", "cell", (3, 3), "float64"), self)

    @property
    def pbc(self) -> NDArray[np.bool_]:
        """(3,) of the first frame."""
        return np.asarray(self._pbc[0] if self.n_frames else np.zeros(3, bool))

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Atoms by the name of their group, as given when recording; empty if none were."""
        return dict(self._header.groups)

    @property
    def references(self) -> NDArray[np.float64]:
        """(N,) eV, what was subtracted from the atomic energies; see `run["energies"].reference`."""
        return np.array(self._fixed[REFERENCES], dtype=np.float64)

    @property
    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """(N,) eV by name: what full atomic energies may be compared with, see `NetworkCalculator.baselines`."""
        start = f"{BASELINES}/"
        return {path[len(start) :]: np.array(a) for path, a in self._fixed.items() if path.startswith(start)}

    @property
    def reducers(self) -> dict[str, Any]:
        """Records of the online statistics by name, see `ase_xai.trajectory.reducers`."""
        from ase_xai.trajectory.reduction import read_results

        return read_results(self._source, self._header, self._books)

    def __getitem__(self, name: str) -> Field:
        if name in ("positions", "cells"):
            return self.positions if name == "positions" else self.cells
        if name not in self._specs:
            how = f"fields=({name!r}, ...)" if name in RESULTS else f"explainers={{{name!r}: ...}}"
            how = "groups={...}" if name.startswith("group_") else how
            raise ValueError(
                f"{self._source} has no field {name!r}; it has {', '.join(self.fields) or 'none'}. It would be recorded by "
                f"Recorder(..., {how}), or afterwards by annotate(run.frames(), calculator, {how})."
            )
        return Field(self._specs[name], self)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    __iter__ = None  # frames or fields? run.frames() and run.fields say which

    def __len__(self) -> int:
        return self.n_frames

    def atoms(self, k: int) -> Atoms:
        """Frame `k` with a calculator that holds its results; values recorded of its atoms are arrays named xai_*.

        `xai_energy` has the reference subtracted; `get_potential_energies()` gives the full energies.
        """
        return frame_atoms(self, self._frame(k))

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Sequence[Atoms]:
        """Frames as a sequence that reads each when it is asked for."""
        return Frames(self, range(*slice(start, stop, step).indices(self.n_frames)))

    def explanation(self, name: str, k: int, *, reference: str | None = None) -> Explanation:
        """What was recorded as `name` of frame `k`, as the explainer said it.

        Args:
            reference: of atomic energies, "none" or one of `baselines`; None keeps the one of the file.

        Raises:
            ValueError: not recorded at this frame, of no level that an explanation has, or no such reference.
        """
        return frame_explanation(self, name, self._frame(k), reference)

    def to_xarray(self, fields: Sequence[str] | None = None, *, chunks: Any = None) -> xarray.Dataset:
        """Fields with named dimensions, coordinates and units (extra `analysis`); see `ase_xai.trajectory.views`."""
        from ase_xai.trajectory.views import labeled

        return labeled(self, fields, chunks)

    def to_pandas(self, field: str | None = None) -> pandas.DataFrame:
        """A table with one row per frame (extra `analysis`); see `ase_xai.trajectory.views`."""
        from ase_xai.trajectory.views import table

        return table(self, field)

    def export(self, path: str | Path, **settings: Any) -> Path:
        """Write frames for other programs: .extxyz with xai_ arrays, or .json(.gz) for chemiscope."""
        from ase_xai.trajectory.export import export

        return export(self, path, **settings)

    def report(self, path: str | Path, **settings: Any) -> Path:
        """One HTML page that works offline, with all analyses that the run allows.

        Args:
            path: of the file, which is overwritten.
            settings: `groups`, `probe`, `card` of `ase_xai.report.write_run_page`; `analyses` in place of what
                `ase_xai.report.analyze` finds.
        """
        from ase_xai.report import analyze, write_run_page

        if "analyses" not in settings:
            settings["analyses"] = analyze(self, settings.get("groups"))
        return write_run_page(self, path, **settings)

    def view(self, *, height: int = 720, **settings: Any) -> RunView:
        """The same page inside a notebook, as the last line of a cell; frames are left out evenly beyond 2.3 MB.

        Args:
            height: pixels.
            settings: as of `report`.
        """
        from ase_xai.report import analyze
        from ase_xai.report.run_page import run_page
        from ase_xai.report.run_view import VIEW_BYTES, RunView

        if "analyses" not in settings:
            settings["analyses"] = analyze(self, settings.get("groups"))
        title = f"{self.n_frames} frames of {Atoms(self.numbers).get_chemical_formula()}"
        return RunView(run_page(self, max_bytes=VIEW_BYTES, **settings), height, title)

    def __repr__(self) -> str:
        return (
            f"Run({self._source}: {self.n_frames} frames of {Atoms(self.numbers).get_chemical_formula()}, "
            f"fields {', '.join(self.fields)}; {self.about.model})"
        )

    def _frame(self, k: int) -> int:
        if not -self.n_frames <= k < self.n_frames:
            raise IndexError(f"there is no frame {k}; the run has {self.n_frames}, counted from 0 or from -1 backwards.")
        return k % self.n_frames

    @cached_property
    def _pbc(self) -> NDArray[np.bool_]:
        with self._source.reading() as file:
            return np.asarray(file[f"{PBC}/value"][: self.n_frames])

    def _clock(self, track: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if track not in self._clocks:
            path, n = self._header.clock_of(track), self._books.frames[track]
            with self._source.reading() as file:
                steps, times = file[f"{path}/step"][:n], file[f"{path}/time"][:n]
            for array in (steps, times):
                array.flags.writeable = False
            self._clocks[track] = (steps, times)
        return self._clocks[track]

    @cached_property
    def _clocks(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        return {}
