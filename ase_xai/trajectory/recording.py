"""What is recorded of a frame, and how its rows are made from results that are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainer, plain
from ase_xai.explainers.explanation import Explanation
from ase_xai.trajectory.layout import (
    MAIN,
    NAME,
    RESULTS,
)
from ase_xai.trajectory.reducers import Reducer, named

if TYPE_CHECKING:
    from typing import Unpack

USUAL = ("energies", "charges", "dipole")
PLAIN = frozenset({"numbers", "positions", "momenta", "tags"})  # arrays of which calculators see the first two only
MOTION = ("velocities", "kinetic_energy")
SUMMED = {"group_energies": "energies", "group_charges": "charges"}
STORABLE = ("atom", "group", "element", "feature")


class Settings(TypedDict, total=False):
    """What `Recorder` and `annotate` pass on to `Recording`, for editors and type checkers."""

    fields: Sequence[str] | None
    explainers: Mapping[str, Explainer | tuple[Explainer, int]]
    groups: Mapping[str, Sequence[int]]
    reducers: Sequence[Reducer]
    positions: bool
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Recording:
    """What to keep of each frame.

    Args:
        fields: of `RESULTS`; None keeps those of energies, charges and dipole that the calculator has. The total energy is
            always kept.
        explainers: by a name of your choice; a pair (explainer, n) is asked at every n-th recorded frame only.
        groups: atoms by name, a partition; sums of energies and charges over them are then always kept.
        reducers: online statistics, see `ase_xai.trajectory.reducers`.
        positions: keep positions, which viewers need.
        notes: sentences that belong beside the numbers.
    """

    fields: Sequence[str] | None = None
    explainers: Mapping[str, Explainer | tuple[Explainer, int]] = field(default_factory=dict)
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reducers: Sequence[Reducer] = ()
    positions: bool = True
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.fields, str):
            raise ValueError(f"fields are a list of names, got {self.fields!r}. Write fields=({self.fields!r},).")
        unknown = [name for name in self.fields or () if name not in RESULTS]
        if unknown:
            raise ValueError(
                f"there is no result {', '.join(map(repr, unknown))} of a step; there are {', '.join(RESULTS)}. Anything "
                "else is recorded by explainers={name: explainer}."
            )
        for name, (_, every) in self.questions.items():
            if not NAME.fullmatch(name) or name in RESULTS or name in SUMMED or name == MAIN:
                raise ValueError(f"an explainer is recorded under letters, digits and _ that name no result, got {name!r}.")
            if isinstance(every, bool) or not isinstance(every, int) or every < 1:
                raise ValueError(f"{name} is to be asked every {every!r} frames; give a positive integer.")
        named(self.reducers)

    @classmethod
    def of(cls, **settings: Unpack[Settings]) -> Recording:
        """Made of what `Recorder` or `annotate` were given.

        Raises:
            TypeError: a setting that there is not.
        """
        unknown = settings.keys() - Settings.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"there is no setting {', '.join(sorted(unknown))}. What is recorded is set by "
                f"{', '.join(Settings.__annotations__)}; see `Recording`."
            )
        return cls(**settings)

    @property
    def given(self) -> Settings:
        """What it was made of: `Recorder(atoms, path, **recording.given)` keeps the same."""
        made: Any = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return made

    @cached_property
    def questions(self) -> dict[str, tuple[Explainer, int]]:
        """Explainers with their strides."""
        return {name: q if isinstance(q, tuple) else (q, 1) for name, q in self.explainers.items()}

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Results that a calculator must give."""
        reduced = [SUMMED.get(reducer.field, reducer.field) for reducer in self.reducers]
        names = dict.fromkeys([*(self.fields or ()), *(name for name in reduced if name in RESULTS)])
        return tuple(name for name in names if name not in MOTION and name != "energy")

    @cached_property
    def welcome(self) -> tuple[str, ...]:
        """Results that are taken where there are any."""
        return USUAL if self.fields is None else tuple(SUMMED.values()) if self.groups else ()

    @cached_property
    def moving(self) -> bool:
        """Whether velocities are looked at."""
        return any(name in MOTION for name in (*(self.fields or ()), *(reducer.field for reducer in self.reducers)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """JSON values that must be the same where a recording goes on."""
        asked = {n: [type(e).__name__, plain(e), every] for n, (e, every) in self.questions.items()}
        return {
            "fields": None if self.fields is None else sorted({"energy", *self.fields}),
            "explainers": asked,
            "groups": {str(name): [int(i) for i in atoms] for name, atoms in self.groups.items()},
            "reducers": {name: reducer.settings for name, reducer in named(self.reducers).items()},
            "positions": self.positions,
        }

    def due(self, frame: int) -> dict[str, Explainer]:
        """The explainers that are asked at the frame of this number."""
        return {name: explainer for name, (explainer, every) in self.questions.items() if frame % every == 0}


@dataclass(frozen=True, eq=False)
class Model:
    """What a calculator says of itself: see `RunAbout`, and the references of its atomic energies."""

    name: str
    model_id: str
    calculator: dict[str, Any]
    total_charge: float
    reference: str
    references: NDArray[np.float64]
    baselines: dict[str, NDArray[np.float64]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, calculator: Any, atoms: Atoms) -> Model:
        """The model behind any ASE calculator; only those of this package know references."""
        members = getattr(calculator, "members", None)
        if not members:
            name = str(getattr(calculator, "name", None) or type(calculator).__name__)
            charge = float(atoms.info.get("charge") or 0)
            return cls(name, "", plain(calculator.todict()), charge, "none", np.zeros(len(atoms)), {}, ())
        several = len(members) > 1
        own = [member.baselines(atoms) for member in members]
        baselines = {name: np.mean([b[name] for b in own], axis=0) for name in own[0] if all(name in b for b in own)}
        kinds = [name for name in ("composition", "free_atom") if name in baselines]
        names = [member.model for member in members]
        return cls(
            name=f"mean of {len(members)} models: {', '.join(names)}" if several else names[0],
            model_id="+".join(member.sha256 for member in members),
            calculator=plain(calculator.todict()),
            total_charge=calculator.charge_of(atoms),
            reference=kinds[0] if kinds else "none",
            references=baselines[kinds[0]] if kinds else np.zeros(len(atoms)),
            baselines=baselines,
            notes=tuple(dict.fromkeys(n for m in members for n in (m.card.reference_kind, m.card.notes) if n)),
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame: the atoms, results of the calculator for them, and explanations by name."""

    atoms: Atoms
    results: Mapping[str, Any]
    explanations: Mapping[str, Explanation]


def results_of(atoms: Atoms, calculator: Any, recording: Recording) -> dict[str, Any]:
    """Results of `calculator` for `atoms` that `recording` looks at; those at hand are taken, nothing is evaluated twice.

    Raises:
        ValueError: a result that this calculator does not have.
    """
    if not current(atoms, calculator):
        calculator.get_property("energy", atoms)  # evaluates only if the atoms have changed
    at_hand = calculator.results
    found: dict[str, Any] = {"energy": at_hand["energy"]}
    for name in recording.required:
        value = at_hand.get(name)
        try:
            found[name] = calculator.get_property(name, atoms) if value is None else value
        except (PropertyNotImplementedError, NotImplementedError) as error:
            raise missing(name, calculator, str(error)) from error
        if found[name] is None:
            raise missing(name, calculator)
    return found | {name: at_hand[name] for name in recording.welcome if at_hand.get(name) is not None}


def current(atoms: Atoms, calculator: Any) -> bool:
    """Whether the results at hand surely belong to `atoms`: a quick test, after which ASE's thorough one is not needed."""
    then = getattr(calculator, "atoms", None)
    return (
        then is not None
        and calculator.results.get("energy") is not None
        and PLAIN.issuperset(atoms.arrays)
        and PLAIN.issuperset(then.arrays)
        and np.array_equal(atoms.positions, then.positions)
        and np.array_equal(atoms.numbers, then.numbers)
        and np.array_equal(atoms.cell.array, then.cell.array)
        and np.array_equal(atoms.pbc, then.pbc)
        and bool(atoms.info.get("charge", 0) == then.info.get("charge", 0))
    )


def missing(name: str, calculator: Any, reason: str = "") -> ValueError:
    """The error of a result that there is not."""
    about = getattr(calculator, "model", None) or getattr(calculator, "name", None) or type(calculator).__name__
    because = f" ({reason.rstrip('.')})" if reason else ""
    return ValueError(
        f"{name} cannot be recorded: {about} does not give it{because}. Leave it out, or use a calculator that has it."
    )


def refuse_missing(recording: Recording, calculator: Any) -> None:
    """Raise ValueError for a result that was asked for by name and that the calculator can never give."""
    for name in recording.required:
        if name not in calculator.implemented_properties:
            raise missing(name, calculator)
