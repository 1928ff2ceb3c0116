"""One quantity along a run, read as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.trajectory.indexing import read_rows
from ase_xai.trajectory.layout import FieldSpec

if TYPE_CHECKING:
    from ase_xai.trajectory.run import Run


@dataclass(frozen=True, eq=False)
class Field:
    """One quantity along a run: `field[k]`, `field[:, atom]`, `field[::10]` read only what they need.

    What the attributes say is explained at `Explanation`; `steps` and `times` are its own, if it has its own stride.
    """

    spec: FieldSpec
    run: Run

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def units(self) -> str:
        return self.spec.units

    @property
    def level(self) -> str:
        return self.spec.level

    @property
    def reference(self) -> str:
        return self.spec.reference

    @property
    def gauge(self) -> str:
        return self.spec.gauge

    @property
    def method(self) -> str:
        return self.spec.method

    @property
    def labels(self) -> tuple[str, ...]:
        return self.spec.labels

    @property
    def notes(self) -> tuple[str, ...]:
        return self.spec.notes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.run._books.frames[self.spec.track], *self.spec.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.dtype)

    @property
    def steps(self) -> NDArray[np.int64]:
        """(L,) number of the step of each row."""
        return self.run._clock(self.spec.track)[0]

    @property
    def times(self) -> NDArray[np.float64]:
        """(L,) time of each row in `run.time_unit`."""
        return self.run._clock(self.spec.track)[1]

    def extra(self, name: str) -> Field:
        """What stands beside the values: "mask", "uncertainty" or "residual".

        Raises:
            ValueError: the explainer gives none.
        """
        if name not in self.spec.extras:
            raise ValueError(f"{self.name} has no {name} beside its values; it has {', '.join(self.spec.extras) or 'none'}.")
        shape, dtype = self.spec.extra_rows[name]
        units = self.units if name != "mask" else "1"
        return Field(_Extra(f"{self.name}_{name}", self.spec.extra(name), units, self.level, name, shape, dtype,
                            self.spec.track), self.run)  # fmt: skip

    def row(self, k: int) -> int:
        """Which row belongs to frame `k` of the run.

        Raises:
            ValueError: none, because of the stride.
        """
        step = self.run.steps[k]
        row = int(np.searchsorted(self.steps, step))
        if row == len(self.steps) or self.steps[row] != step:
            raise ValueError(f"{self.name} was not recorded at step {step}. `run[{self.name!r}].steps` says where it was.")
        return row

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        with self.run._source.reading() as file:
            return read_rows(file[self.spec.value], self.shape, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def __repr__(self) -> str:
        return (
            f"Field({self.name}: {self.shape} {self.units}, by {self.level}, reference {self.reference}, {self.gauge}, "
            f"from {self.method or 'the calculator'})"
        )


class _Extra(FieldSpec):
    """A dataset that stands alone, without a group of its own."""

    @property
    def value(self) -> str:
        return self.path
