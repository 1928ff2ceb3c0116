"""Which columns of a file are what, and in which unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ase_xai.training.data import LABELS
from ase_xai.training.units import DEFAULTS, factor, is_per_atom, unit_in

# Names that are looked for: alone or with a unit (energy, energy_Ha), and those that say nothing without a unit (E_Ha).
USUAL_NAMES = {
    "energy": ("energy", "energies"),
    "forces": ("forces",),
    "stress": ("stress",),
    "dipole": ("dipole",),
    "dipole_magnitude": ("dipole_magnitude",),
    "charges": ("charges",),
}
SHORT_NAMES = {"energy": "E", "forces": "F", "dipole_magnitude": "mu", "charges": "q"}


@dataclass(frozen=True)
class Columns:
    """Which columns of the files are what, and in which unit.

    Args:
        names: label -> name in the files; labels not named are looked for under their usual names.
        units: quantity -> unit, also "length"; see `ase_xai.training.units`.
        group, kind: names of per-structure integers; `kind` indexes `kind_names`.
        kind_names: names of the kinds.

    Raises:
        ValueError: a label or a unit is not known.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    kind: str | None = None
    kind_names: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(LABELS))
        if unknown:
            raise ValueError(f"columns {unknown} are no labels. Labels are {', '.join(LABELS)}.")
        for quantity, unit in self.units.items():
            factor(quantity, unit)

    def find(self, label: str, present: Iterable[str]) -> str | None:
        """Name of the column that holds `label`, or None.

        Raises:
            ValueError: the column that was named is not there, or several might be meant.
        """
        present = sorted(present)
        if label in self.names:
            if self.names[label] not in present:
                raise ValueError(f"no column {self.names[label]!r} for {label}. There are {', '.join(present)}.")
            return self.names[label]
        found = [name for name in present if _is_usual(label, name)]
        if len(found) > 1:
            raise ValueError(f"{label} could be {' or '.join(found)}. Say which: columns = {{{label} = {found[0]!r}}}.")
        return found[0] if found else None

    def wanted(self, present: Iterable[str]) -> dict[str, str]:
        """Columns to be read, by what they hold: labels, "group" and "kind".

        Raises:
            ValueError: a column that was named is not there.
        """
        present = sorted(present)
        found = {label: self.find(label, present) for label in LABELS}
        for quantity, name in (("group", self.group), ("kind", self.kind)):
            if name is not None and name not in present:
                raise ValueError(f"no column {name!r} for {quantity}. There are {', '.join(present)}.")
            found[quantity] = name
        return {quantity: name for quantity, name in found.items() if name is not None}

    def factor(self, quantity: str, name: str, stored: str | None = None, default: str | None = None) -> float:
        """What the values of column `name` are multiplied with to be in ASE's units.

        Args:
            quantity: a label, or "length".
            name: of the column; it may end in a unit.
            stored: unit that the file states beside the column.
            default: unit if nothing states one.

        Raises:
            ValueError: no unit is stated, an unknown one, or several different ones.
        """
        stated = self._stated(quantity, name, stored)
        if not stated and default is None:
            raise ValueError(
                f"the unit of {quantity} ({name}) is unknown. Give it, e.g. units = {{{quantity} = {DEFAULTS[quantity]!r}}}."
            )
        factors = {(factor(quantity, unit), is_per_atom(quantity, unit)) for unit in stated or [str(default)]}
        if len(factors) > 1:
            raise ValueError(f"the unit of {quantity} ({name}) is stated as {' and as '.join(stated)}. Which is it?")
        return factors.pop()[0]

    def per_atom(self, quantity: str, name: str, stored: str | None = None) -> bool:
        """Whether column `name` holds energies per atom; arguments as of `factor`."""
        return any(is_per_atom(quantity, unit) for unit in self._stated(quantity, name, stored))

    def _stated(self, quantity: str, name: str, stored: str | None) -> list[str]:
        return [unit for unit in (self.units.get(quantity), stored, unit_in(quantity, name)) if unit is not None]


def _is_usual(label: str, name: str) -> bool:
    unit = unit_in(label, name)
    base = name if unit is None else name.removesuffix(f"_{unit}")
    return base in USUAL_NAMES[label] or (unit is not None and base == SHORT_NAMES.get(label))
