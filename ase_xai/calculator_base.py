"""The rules of ASE, kept once for every calculator of this package."""

from __future__ import annotations

import threading
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs
from numpy.typing import NDArray

from ase_xai.graph import stress_volume
from ase_xai.refusals import refuse_bad_geometry, refuse_infinite

if TYPE_CHECKING:
    from ase_xai.explainers.base import Explainer
    from ase_xai.explainers.explanation import Explanation

PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress", "charges", "dipole")
GEOMETRY = ("positions", "numbers", "cell", "pbc")
EXACT = 1e-15  # ASE's tolerance for changes, which positions beyond some Å cannot resolve anyway
BORN_CHARGES = "born_effective_charges"
NO_BORN_CHARGES = (
    "Born charges as an ASE property come from a calculator of one network that has charges. Of an ensemble, "
    "explain(atoms, BornCharges()) gives mean and spread."
)


class AtomisticCalculator(Calculator):
    """What all calculators of this package share: ASE's rules, one evaluation per geometry, refusals with a remedy.

    Results, in ASE's names and units: `energy` and `free_energy` (equal, eV), `energies` (N,) eV that sum to `energy`,
    `forces` (N, 3) eV/Å, `charges` (N,) e that sum to the total charge, `dipole` (3,) e·Å for open systems, `stress` (6,)
    eV/Å^3 in Voigt order for periodic ones. All of them come from one evaluation, whichever was asked for. A calculator of
    one network also has `born_effective_charges` (N, 3, 3) e of open systems, ∂μ_a/∂r_ib about a fixed origin: they sum to
    the total charge times the unit matrix, and are computed only when asked for, by name.

    The total charge is `total_charge` if given, else `atoms.info["charge"]`, else 0.

    Args:
        elements: atomic numbers that may occur.
        total_charges: total charges in e that the networks were trained for.
        closed_shell: whether they were trained on closed-shell systems only; others cause a warning then.
        total_charge: e; None reads `atoms.info["charge"]`.
        dipole_origin: what the dipole of a charged system refers to: "center_of_mass", "centroid" or a point (3,) in Å.
            Without it such a dipole is refused; that of a neutral open system needs none.

    Raises (at the first use of bad atoms, which leaves the calculator ready for the next good ones):
        InputError: no atoms, unknown element, position not finite, atoms closer than 0.1 Å, degenerate periodic cell, or
            a total charge that the networks were not trained for.
        PropertyNotImplementedError: dipole of a periodic or charged system, Born charges of a periodic one, stress without
            a full cell.
    """

    ignored_changes = {  # noqa: RUF012  (ASE's own class attribute)
        "initial_charges",
        "initial_magmoms",
    }

    def __init__(
        self,
        *,
        elements: Sequence[int],
        total_charges: Sequence[float],
        closed_shell: bool = False,
        total_charge: float | None = None,
        dipole_origin: str | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.implemented_properties = list(PROPERTIES)
        self.elements = tuple(elements)
        self.total_charges = tuple(float(q) for q in total_charges)
        self.closed_shell = closed_shell
        self._total_charge = _checked_charge(total_charge)
        self.dipole_origin = _checked_origin(dipole_origin)
        self.n_evaluations = 0
        self._warnings: set[str] = set()
        self._lock = threading.RLock()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results` with everything that is defined for `atoms`."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError("there are no atoms to calculate. Set atoms.calc = calculator and ask the atoms.")
        charge = self.charge_of(atoms)
        self._refuse_undefined(atoms, charge, properties or ())
        self._refuse_bad_input(atoms, charge)
        self._warn_of_ignored(atoms, charge)
        with self._lock:
            self.results = {}  # first: whatever happens from here on, no older result belongs to these atoms
            self.atoms = atoms.copy()
            with torch.inference_mode(False):
                results = self._evaluate(atoms, charge)
            if not self.has_dipole(atoms, charge):
                results.pop("dipole", None)
            if np.isnan(stress_volume(atoms)):
                results.pop("stress", None)
            refuse_infinite(results)
            self.n_evaluations += 1
            self.results = results

    @property
    def total_charge(self) -> float | None:
        """The charge in e that the calculator was built with; None reads it from the atoms."""
        return self._total_charge

    @abstractmethod
    def _evaluate(self, atoms: Atoms, charge: float) -> dict[str, Any]:
        """All results of `atoms` as float64 arrays, dipole about the chosen origin, stress NaN where undefined."""

    @abstractmethod
    def references(self, atoms: Atoms) -> NDArray[np.float64]:
        """(N,) reference energies E0 of the elements in eV that are part of `energies`.

        The model card says what they are: often a least-squares fit to the training energies, not free atoms.
        """

    @property
    @abstractmethod
    def members(self) -> Sequence[Any]:
        """The calculators of one network each that this one consists of; explanations are made by these."""

    def explain(self, atoms: Atoms, explainer: Explainer) -> Explanation:
        """The answer of this calculator's networks to a question about `atoms`, see `ase_xai.explain`."""
        from ase_xai.explainers.base import explain

        return explain(atoms, explainer, self)

    def calculate_many(self, frames: Sequence[Atoms]) -> list[dict[str, Any]]:
        """The results of each of `frames`, several in one call of the network; see `ase_xai.many.evaluate_many`."""
        from ase_xai.many import evaluate_many

        return evaluate_many(self, frames)

    def check_atoms(self, atoms: Atoms) -> None:
        """Raise InputError for atoms that this calculator would refuse; warn of what it would ignore."""
        charge = self.charge_of(atoms)
        self._refuse_bad_input(atoms, charge)
        self._warn_of_ignored(atoms, charge)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Refuse changes, which would not reach the network (ASE's constructor calls this without any)."""
        if settings:
            raise ValueError(f"a built calculator keeps its settings, got {sorted(settings)}. Build a new one with them.")
        return {}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A result by ASE's name. Safe when threads share the calculator: one evaluation at a time, each gets its own."""
        with self._lock:
            if name == BORN_CHARGES and name not in self.implemented_properties:
                raise PropertyNotImplementedError(NO_BORN_CHARGES)
            return super().get_property(name, atoms, allow_calculation)

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Properties:
        """What `atoms.get_properties` asks for, from one evaluation that no other thread can replace meanwhile."""
        with self._lock:
            return super().calculate_properties(atoms, properties)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last evaluation, the total charge included."""
        changes = super().check_state(atoms, tol=tol) if tol > EXACT else _changes(self.atoms, atoms)
        if self.atoms is not None and not np.array_equal(self.atoms.info.get("charge", 0), atoms.info.get("charge", 0)):
            changes = [*changes, "charge"]
        by_mass = self.atoms is not None and self.dipole_origin == "center_of_mass"
        if by_mass and not np.array_equal(self.atoms.get_masses(), atoms.get_masses()):  # type: ignore[union-attr]
            changes = [*changes, "masses"]
        return changes

    def export_properties(self) -> Properties:
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def charge_of(self, atoms: Atoms) -> float:
        """Total charge in e used for `atoms`."""
        stated = atoms.info.get("charge")
        if stated is not None and (isinstance(stated, bool) or not isinstance(stated, Real)):
            raise InputError(f'atoms.info["charge"] is {stated!r}, not a number. Give the total charge in e.')
        if self.total_charge is None:
            return float(stated or 0)
        if stated is not None and float(stated) != self.total_charge:
            raise InputError(
                f'atoms.info["charge"] is {stated} e, the calculator was built with total_charge={self.total_charge} e. '
                "Give the charge in one place."
            )
        return self.total_charge

    def has_dipole(self, atoms: Atoms, charge: float) -> bool:
        return not atoms.pbc.any() and (charge == 0 or self.dipole_origin is not None)

    def _refuse_undefined(self, atoms: Atoms, charge: float, properties: Sequence[str]) -> None:
        if "dipole" in properties and not self.has_dipole(atoms, charge):
            if atoms.pbc.any():
                raise PropertyNotImplementedError(
                    f"the dipole of a periodic system (pbc={atoms.pbc.tolist()}) depends on the choice of images and is not "
                    "defined here. For an isolated molecule set atoms.pbc = False."
                )
            raise PropertyNotImplementedError(
                f"the dipole of a system with charge {charge:+g} e depends on the origin. Build the calculator with "
                'dipole_origin="center_of_mass", "centroid" or a point in Å.'
            )
        if BORN_CHARGES in properties and atoms.pbc.any():
            raise PropertyNotImplementedError(
                f"Born charges of a periodic system (pbc={atoms.pbc.tolist()}) are not defined here: how far charge flows "
                "depends on the choice of images. For an isolated molecule set atoms.pbc = False."
            )
        if "stress" in properties and np.isnan(stress_volume(atoms)):
            raise PropertyNotImplementedError(
                f"stress needs a full cell and at least one periodic direction; pbc is {atoms.pbc.tolist()} and the cell "
                f"has rank {atoms.cell.rank}. Set atoms.cell and atoms.pbc."
            )

    def _refuse_bad_input(self, atoms: Atoms, charge: float) -> None:
        if len(atoms) == 0:
            raise InputError("there are no atoms: the Atoms object is empty. Check the file or builder it came from.")
        unknown = sorted(set(atoms.numbers.tolist()) - set(self.elements))
        if unknown:
            known = ", ".join(chemical_symbols[z] for z in self.elements)
            names = ", ".join(chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in unknown)
            raise InputError(f"the network does not know {names}; it knows {known}. Use weights trained on {names}.")
        refuse_bad_geometry(atoms)
        if charge not in self.total_charges:
            raise InputError(
                f"total charge {charge:+g} e was asked for; these weights were trained for {list(self.total_charges)} e "
                'only. Use others, or correct atoms.info["charge"].'
            )

    def _warn_of_ignored(self, atoms: Atoms, charge: float) -> None:
        if atoms.has("initial_charges") and abs(atoms.get_initial_charges().sum() - charge) > 0.01:
            self._warn_once(
                f"initial charges sum to {atoms.get_initial_charges().sum():+.3g} e and are ignored; the total charge used "
                f'is {charge:+g} e. Set atoms.info["charge"], or total_charge of the calculator.'
            )
        if atoms.has("initial_magmoms") and atoms.get_initial_magnetic_moments().any():
            self._warn_once("initial magnetic moments are ignored: these networks know no spin.")
        n_electrons = int(atoms.numbers.sum()) - round(charge)
        if self.closed_shell and n_electrons % 2 and not atoms.pbc.any():
            self._warn_once(
                f"{atoms.get_chemical_formula()} with charge {charge:+g} e has an odd number of electrons, {n_electrons}: "
                "it is a radical. The network was trained on closed shells only; do not trust its numbers here."
            )

    def _warn_once(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            warnings.warn(message, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())


def _changes(before: Atoms | None, after: Atoms) -> list[str]:
    """Like ASE's `compare_atoms` without tolerance, which takes a tenth of the time."""
    if before is None:
        return list(all_changes)
    return [name for name in GEOMETRY if not np.array_equal(getattr(before, name), getattr(after, name))]


def _checked_charge(charge: object) -> float | None:
    if charge is None:
        return None
    if not isinstance(charge, Real) or not np.isfinite(float(charge)):
        raise ValueError(f"total_charge must be a number in e, got {charge!r}.")
    return float(charge)


def _checked_origin(origin: str | Sequence[float] | None) -> str | list[float] | None:
    if origin is None or origin in ("center_of_mass", "centroid"):
        return origin  # type: ignore[return-value]
    point = np.asarray(origin, dtype=float) if not isinstance(origin, str) else np.zeros(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ValueError(f'dipole_origin must be "center_of_mass", "centroid" or a point (3,) in Å, got {origin!r}.')
    return [float(x) for x in point]


def dipole_origin_point(origin: str | list[float] | None, atoms: Atoms) -> NDArray[np.float64]:
    if origin == "center_of_mass":
        return np.asarray(atoms.get_center_of_mass())
    if origin == "centroid":
        return np.asarray(atoms.positions.mean(axis=0))
    return np.zeros(3) if origin is None else np.asarray(origin)
