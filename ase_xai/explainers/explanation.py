"""The answer to a question about a network: numbers with everything needed to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas
    import xarray

    from ase_xai.explainers.card import ReportCard

LEVELS = ("atom", "pair", "tuple", "grid", "surface", "points", "element", "feature", "group")
GAUGES = ("invariant", "dependent", "parametrization")
ARRAYS = ("values", "numbers", "positions", "cell", "pbc", "index", "points", "faces", "mask", "uncertainty")
DTYPES = {"numbers": np.int64, "pbc": np.bool_, "index": np.int64, "faces": np.int64, "mask": np.bool_}


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer with everything needed to read it: numbers in plain NumPy, read-only, never without unit and reference.

    Args:
        target: what is explained: "energy", "charge", "dipole", "forces" ...
        level: what a row of `values` belongs to, one of `LEVELS`.
        values: one row for each atom, pair, tuple, point, element, feature or group; further axes are free.
        units: of `values` and `uncertainty`: "eV", "e", "e·Å", "eV/Å", "1" ...
        method: name of the explainer.
        numbers, positions, cell, pbc: (N,), (N, 3) Å, (3, 3) Å, (3,) of the atoms explained.
        index: (K, n) atoms of each row of level "pair" or "tuple"; unused places are -1.
        labels: name of each row of level "element", "feature" or "group".
        points: (P, 3) Å of level "grid", "surface" or "points".
        faces: (T, 3) corners of the triangles of a surface.
        grid_shape: number of points along each step of a grid; points run with the last axis fastest.
        mask: one truth per row: False where a value should not be trusted and is not drawn.
        reference: what was subtracted: "none", "element_mean", "free_atom", "composition" or words.
        gauge: "invariant"; "dependent", if a choice that leaves energy, forces and dipole as they are would change it; or
            "parametrization", if networks that agree everywhere may still differ in it.
        residual: completeness error in `units`; None where completeness is not claimed.
        uncertainty: one standard deviation, shape of `values`, or None.
        baselines: (N,) arrays by the name of a reference; `relative` can subtract them from atomic values.
        settings: of the explainer, JSON values.
        seed: of what was drawn at random, or None.
        model, model_id: name and level of theory of the weights; SHA-256 of the weights.
        notes: sentences that belong beside the numbers.
    """

    target: str
    level: str
    values: NDArray[np.float64]
    units: str
    method: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    index: NDArray[np.int64] | None = None
    labels: tuple[str, ...] = ()
    points: NDArray[np.float64] | None = None
    faces: NDArray[np.int64] | None = None
    grid_shape: tuple[int, int, int] | None = None
    mask: NDArray[np.bool_] | None = None
    reference: str = "none"
    gauge: str = "dependent"
    residual: float | None = None
    uncertainty: NDArray[np.float64] | None = None
    baselines: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    model: str = ""
    model_id: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ARRAYS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _frozen(getattr(self, name), DTYPES.get(name, np.float64)))
        baselines = {name: _frozen(values, np.float64) for name, values in self.baselines.items()}
        object.__setattr__(self, "baselines", MappingProxyType(baselines))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        _refuse_misfit(self)

    @property
    def atoms(self) -> Atoms:
        """The atoms explained, without a calculator."""
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)

    @property
    def total(self) -> Any:
        """Sum of the values over their first axis."""
        return self.values.sum(axis=0)

    def by(self, groups: Mapping[str, Sequence[int]]) -> Explanation:
        """Sums over groups of atoms, which must partition them. Uncertainties add linearly, an upper bound.

        Raises:
            ValueError: not of level "atom", or groups that overlap, miss atoms or name atoms that do not exist.
        """
        if self.level != "atom":
            raise ValueError(f"groups sum atomic values, this explanation is of level {self.level!r}. Use an atomic one.")
        members = checked_groups(groups, len(self.numbers))
        uncertainty = None if self.uncertainty is None else np.stack([self.uncertainty[m].sum(axis=0) for m in members])
        return replace(
            self,
            level="group",
            values=np.stack([self.values[m].sum(axis=0) for m in members]),
            labels=tuple(groups),
            uncertainty=uncertainty,
            mask=None,
            baselines={},
            settings={**self.settings, "groups": {name: m.tolist() for name, m in zip(groups, members, strict=True)}},
        )

    def relative(self, to: str | Explanation) -> Explanation:
        """The values minus a reference: the name of one of `baselines`, or another explanation.

        Raises:
            ValueError: no such reference, a reference subtracted already, or an explanation that does not fit.
        """
        if isinstance(to, Explanation):
            return self - to
        if self.reference != "none":
            raise ValueError(f"the reference {self.reference!r} is subtracted already. Start from the raw explanation.")
        if to not in self.baselines:
            known = ", ".join(self.baselines) or "none"
            raise ValueError(f"there is no reference {to!r} here; known: {known}. Weights without statistics lack some.")
        return replace(self, values=self.values - self.baselines[to], reference=to, baselines={})

    def __sub__(self, other: Explanation) -> Explanation:
        """Row by row difference, e.g. of two geometries; independent uncertainties add in quadrature."""
        if not isinstance(other, Explanation):
            return NotImplemented
        refuse_mixing(self, other)
        both = (self.uncertainty, other.uncertainty)
        uncertainty = None if both[0] is None or both[1] is None else np.hypot(both[0], both[1])
        residuals = [r for r in (self.residual, other.residual) if r is not None]
        return replace(
            self,
            values=self.values - other.values,
            reference=f"another explanation ({other.model or 'same model'}, reference {other.reference})",
            uncertainty=uncertainty,
            residual=sum(residuals) if len(residuals) == 2 else None,
            mask=self.mask if other.mask is None else other.mask if self.mask is None else self.mask & other.mask,
            baselines={},
        )

    def require_unmoved(self, atoms: Atoms, tolerance: float = 1e-6) -> None:
        """Raise ValueError unless `atoms` are the ones explained, to `tolerance` in Å."""
        if not np.array_equal(atoms.numbers, self.numbers):
            raise ValueError(
                f"{atoms.get_chemical_formula()} was given, {self.atoms.get_chemical_formula()} was explained, or the order "
                "of atoms differs. Explain these atoms."
            )
        moved = np.abs(atoms.positions - self.positions).max(initial=0.0)
        same_box = np.array_equal(atoms.pbc, self.pbc) and np.allclose(atoms.cell.array, self.cell, rtol=0, atol=tolerance)
        if moved > tolerance or not same_box:
            raise ValueError(
                f"the atoms moved by up to {moved:.3g} Å, or their cell changed, since the explanation. Redo it."
            )

    def check(self, dtype: str = "float32") -> ReportCard:
        """What this record alone can tell of its soundness; the card says what it cannot.

        Args:
            dtype: of the network, which decides how large a residual may be.
        """
        from ase_xai.explainers.card import check_record

        return check_record(self, dtype)

    def attach(self, atoms: Atoms, name: str | None = None) -> None:
        """Copy atomic values to `atoms.arrays["xai_<name>"]`, by default xai_<target>, and uncertainties beside them."""
        if self.level != "atom":
            raise ValueError(f"only atomic values fit atoms.arrays; this explanation is of level {self.level!r}.")
        self.require_unmoved(atoms)
        key = f"xai_{name or self.target}"
        atoms.set_array(key, np.array(self.values))
        if self.uncertainty is not None:
            atoms.set_array(f"{key}_uncertainty", np.array(self.uncertainty))

    def save(self, path: str | Path) -> None:
        """Write to `path`, lossless: HDF5 for .h5 and .hdf5, else JSON (.json)."""
        from ase_xai.explainers.storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read what `save` wrote."""
        from ase_xai.explainers.storage import load

        return load(path)

    def to_pandas(self) -> pandas.DataFrame:
        """A table with one row per row of `values` (extra `analysis`)."""
        from ase_xai.explainers.views import table

        return table(self)

    def to_xarray(self) -> xarray.DataArray:
        """The values with named dimensions and coordinates (extra `analysis`)."""
        from ase_xai.explainers.views import labeled

        return labeled(self)

    def _repr_html_(self) -> str:
        from ase_xai.explainers.views import html

        return html(self)

    def __repr__(self) -> str:
        rows = f"{len(self.values)} rows" if self.level != "atom" else f"{self.atoms.get_chemical_formula()}"
        return (
            f"Explanation({self.method}: {self.target} by {self.level}, {rows}, {self.units}, reference {self.reference}, "
            f"{self.gauge})"
        )


def checked_groups(groups: Mapping[str, Sequence[int]], n_atoms: int) -> list[NDArray[np.int64]]:
    """Indices of each group, after checking that groups partition atoms 0 .. n_atoms - 1."""
    members = [np.asarray(group, dtype=np.int64).reshape(-1) for group in groups.values()]
    everything = np.concatenate([*members, np.zeros(0, np.int64)])
    if len(everything) and not 0 <= everything.min() <= everything.max() < n_atoms:
        raise ValueError(f"groups name atom {int(everything.max())} or a negative one; atoms are 0 to {n_atoms - 1}.")
    counts = np.bincount(everything, minlength=n_atoms)
    if (counts != 1).any():
        twice, missing = np.flatnonzero(counts > 1).tolist(), np.flatnonzero(counts == 0).tolist()
        raise ValueError(f"groups must hold every atom once: twice {twice}, missing {missing}. Add a group for the rest.")
    return members


def refuse_mixing(one: Explanation, other: Explanation, *, same_model: bool = True) -> None:
    """Raise ValueError unless two explanations have rows that mean the same.

    Args:
        same_model: gauge-dependent values of different models do not compare: their models must be the same one.
    """
    for name in ("target", "level", "units", "gauge", "method"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(f"explanations with {name} {mine!r} and {theirs!r} do not mix. Make them the same way.")
    if one.values.shape != other.values.shape or one.labels != other.labels or not same_array(one.index, other.index):
        raise ValueError("the explanations have different rows, so they do not mix. Explain atoms in the same order.")
    if not np.array_equal(one.numbers, other.numbers):
        raise ValueError("the explanations are of different atoms, or of atoms in another order, and do not mix.")
    if same_model and one.reference != other.reference:
        raise ValueError(f"references {one.reference!r} and {other.reference!r} do not mix. Subtract the same one first.")
    if same_model and one.model_id != other.model_id and one.gauge != "invariant":
        raise ValueError(
            f"{one.target} values of different models ({one.model}; {other.model}) are {one.gauge} in gauge: their "
            "difference means nothing. Subtract a reference of each model's own, and compare trends."
        )


def same_array(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    """Whether both are None or both hold the same numbers."""
    return (one is None and other is None) or (one is not None and other is not None and np.array_equal(one, other))


def _frozen(array: ArrayLike, dtype: type) -> NDArray[Any]:
    copy: NDArray[Any] = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


def _refuse_misfit(explanation: Explanation) -> None:
    e, n_atoms = explanation, len(explanation.numbers)
    if e.level not in LEVELS or e.gauge not in GAUGES:
        raise ValueError(f"level must be one of {LEVELS} and gauge one of {GAUGES}, got {e.level!r} and {e.gauge!r}.")
    if e.values.ndim == 0:
        raise ValueError("values need at least one axis, one row for each atom, pair, point ...")
    rows = len(e.values)
    needed = {"atom": ("numbers", n_atoms), "pair": ("index", _rows(e.index)), "tuple": ("index", _rows(e.index))}
    needed |= {level: ("points", _rows(e.points)) for level in ("grid", "surface", "points")}
    name, expected = needed.get(e.level, ("labels", len(e.labels)))
    if rows != expected:
        raise ValueError(f"level {e.level!r} needs one row of values for each of {name}, {expected}, got {rows}.")
    if e.grid_shape is not None and int(np.prod(e.grid_shape)) != rows:
        raise ValueError(f"a grid of shape {e.grid_shape} has {int(np.prod(e.grid_shape))} points, got {rows} values.")
    shapes = {"positions": (n_atoms, 3), "cell": (3, 3), "pbc": (3,), "uncertainty": e.values.shape, "mask": (rows,)}
    for field_name, shape in shapes.items():
        array = getattr(e, field_name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{field_name} must have shape {shape}, got {array.shape}.")
    for baseline, array in e.baselines.items():
        if array.shape != e.values.shape:
            raise ValueError(
                f"baseline {baseline!r} must have the shape of the values, {e.values.shape}, got {array.shape}."
            )
    if not np.isfinite(e.values if e.mask is None else e.values[e.mask]).all():
        raise ValueError(f"{e.method} gives values that are not finite. Look for atoms or points that almost coincide.")


def _rows(array: NDArray[Any] | None) -> int:
    return 0 if array is None else len(array)
