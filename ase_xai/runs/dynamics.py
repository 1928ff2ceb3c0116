"""Molecular dynamics: its settings, its state, and how an explosion is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io.jsonio import encode
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from ase_xai.runs.frames import (
    Mark,
    RunError,
    load_state,
    save_state,
    state_path,
)

THERMOSTATS = ("langevin", "bussi", "none")
MIN_DISTANCE, MIN_DISTANCE_H = 0.5, 0.3  # Å, the latter if hydrogen is involved; even hot bonds are longer
SEARCH_DISTANCE = 1.5  # Å; closer pairs decide when distances are looked at again


class RunExploded(RuntimeError):
    """The run left physics at `step`; `atom` is the index of the atom that shows it, None if no single one does."""

    def __init__(self, step: int, atom: int | None, reason: str) -> None:
        super().__init__(
            f"stopped at step {step}: {reason.rstrip('.')}. Earlier frames are kept. Relax first, or take shorter steps."
        )
        self.step, self.atom = step, atom


@dataclass(frozen=True)
class MDSettings:
    """How molecular dynamics is run.

    Args:
        temperature: K, of the thermostat and of the momenta drawn at the start.
        steps: time steps in all; a restart may ask for another number.
        timestep: fs.
        thermostat: "langevin", "bussi" (stochastic velocity rescaling) or "none" (NVE, velocity Verlet). The last two
            conserve momentum, so drift and, without a cell, rotation are taken out first and do not count as temperature.
        friction: 1/fs, of Langevin dynamics; the time constant of "bussi" is 1/friction.
        interval: steps between frames. Step 0 and each multiple are written.
        seed: of momenta and thermostat; the global random state is never used.
        keep_momenta: start from the momenta of the atoms instead of drawing new ones.
    """

    temperature: float = 300.0
    steps: int = 1000
    timestep: float = 0.5
    thermostat: str = "langevin"
    friction: float = 0.01
    interval: int = 10
    seed: int = 0
    keep_momenta: bool = False

    def __post_init__(self) -> None:
        if self.thermostat not in THERMOSTATS:
            raise RunError(f"thermostat must be one of {', '.join(THERMOSTATS)}, got {self.thermostat!r}.")
        for name in ("steps", "interval", "seed"):
            if not isinstance(getattr(self, name), Integral):
                raise RunError(f"{name} must be an integer, got {getattr(self, name)!r}.")
        for name, unit in (("temperature", " K"), ("steps", ""), ("seed", "")):
            if not 0 <= getattr(self, name) < np.inf:
                raise RunError(f"{name} must be finite and not negative, got {getattr(self, name)}{unit}.")
        for name, unit in (("timestep", " fs"), ("friction", "/fs"), ("interval", " steps")):
            if not 0 < getattr(self, name) < np.inf:
                raise RunError(f"{name} must be finite and positive, got {getattr(self, name)}{unit}.")

    @property
    def conserves_momentum(self) -> bool:
        return self.thermostat != "langevin"

    def dynamics(self, atoms: Atoms, rng: np.random.Generator, degrees_of_freedom: int) -> MolecularDynamics:
        """ASE's integrator for `atoms`, with its own random numbers."""
        timestep = self.timestep * units.fs
        if self.thermostat == "none":
            return VelocityVerlet(atoms, timestep)
        if self.thermostat == "langevin":
            friction = self.friction / units.fs
            return Langevin(atoms, timestep, temperature_K=self.temperature, friction=friction, fixcm=False, rng=rng)
        bussi = Bussi(atoms, timestep, self.temperature, units.fs / self.friction, rng=rng)
        bussi.ndof, bussi.target_kinetic_energy = degrees_of_freedom, 0.5 * bussi.temp * degrees_of_freedom
        return bussi


@dataclass(frozen=True, eq=False)
class MDState:
    """Everything that dynamics needs to go on.

    Args:
        identity: settings, atoms and calculator, as JSON values by name; a restart must have the same.
        degrees_of_freedom: that the temperature counts.
        temperature_limit: K, above which the run has exploded.
        step: last complete one.
        positions, momenta: (N, 3) Å and ASE's momentum unit, float64, which JSON keeps to the last bit.
        rng: state of the random generator.
    """

    identity: dict[str, Any]
    degrees_of_freedom: int
    temperature_limit: float
    step: int
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    rng: dict[str, Any]

    def save(self, output: Path, mark: Mark) -> None:
        save_state(output, {**vars(self), "positions": self.positions.tolist(), "momenta": self.momenta.tolist()}, mark)

    @classmethod
    def load(cls, output: Path, identity: dict[str, Any]) -> tuple[MDState, Mark]:
        """The saved state, refused if it is not of the run that `identity` describes."""
        saved, mark = load_state(output)
        try:
            positions, momenta = (np.array(saved[name], dtype=float).reshape(-1, 3) for name in ("positions", "momenta"))
            state = cls(**{**saved, "positions": positions, "momenta": momenta})
        except (TypeError, ValueError, KeyError) as error:
            raise RunError(f"cannot restart from {state_path(output)}: it holds no state of dynamics ({error}).") from error
        differences = [
            f"{name} is {_short(identity.get(name))}, was {_short(state.identity.get(name))}"
            for name in {**state.identity, **identity}
            if state.identity.get(name) != identity.get(name)
        ]
        if differences:
            raise RunError(
                f"cannot restart {output}, the setup is another: {'; '.join(differences)}. Start a new run for it."
            )
        return state, mark

    def apply(self, atoms: Atoms, rng: np.random.Generator) -> None:
        """Put `atoms` and `rng` back to where they were."""
        atoms.set_positions(self.positions, apply_constraint=False)
        atoms.set_momenta(self.momenta, apply_constraint=False)
        rng.bit_generator.state = self.rng


def first_state(atoms: Atoms, settings: MDSettings, identity: dict[str, Any], rng: np.random.Generator) -> MDState:
    """Momenta drawn or kept, drift and rotation taken out where they would last for ever."""
    if not settings.keep_momenta:
        thermalize_momenta(atoms, settings.temperature, rng=rng)
    elif not atoms.has("momenta"):
        raise RunError("there are no momenta to keep. Start from a frame of dynamics, or have them drawn (no keep_momenta).")
    degrees_of_freedom = atoms.get_number_of_degrees_of_freedom()
    if settings.conserves_momentum and not atoms.constraints:
        Stationary(atoms, preserve_temperature=False)
        degrees_of_freedom -= 3
        if not atoms.pbc.any() and len(atoms) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):  # no moment of inertia about the axis of a linear molecule
                ZeroRotation(atoms, preserve_temperature=False)
            degrees_of_freedom -= int((atoms.get_moments_of_inertia() > 1e-3).sum())
    degrees_of_freedom = max(1, degrees_of_freedom)
    first = 2 * atoms.get_kinetic_energy() / (units.kB * degrees_of_freedom)
    limit = 10 * first + 1000 if settings.thermostat == "none" else max(10 * settings.temperature, 1000)
    return MDState(identity, degrees_of_freedom, float(limit), 0, **motion_of(atoms, rng))


def motion_of(atoms: Atoms, rng: np.random.Generator) -> dict[str, Any]:
    return {"positions": atoms.get_positions(), "momenta": atoms.get_momenta(), "rng": dict(rng.bit_generator.state)}


def identity_of(atoms: Atoms, settings: MDSettings) -> dict[str, Any]:
    """What must be the same on a restart, by name, as JSON gives it back."""
    identity = asdict(settings)
    del identity["steps"]
    identity |= {"atomic numbers": atoms.numbers.tolist(), "pbc": atoms.pbc.tolist(), "cell": atoms.cell.tolist()}
    identity |= {"masses": atoms.get_masses().tolist(), "total charge": float(atoms.info.get("charge") or 0)}
    identity |= {"constraints": [constraint.todict() for constraint in atoms.constraints], "calculator": atoms.calc.name}
    calculator = atoms.calc.todict()
    if "sha256" in calculator:  # the same weights may have another path now
        calculator.pop("weights", None)
    identity |= {f"calculator's {name}": value for name, value in calculator.items()}
    return dict(json.loads(encode(identity)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


class ExplosionWatch:
    """Looks for an explosion after each step.

    Pairs are searched anew only when two atoms can have come too close since the last search: when twice the largest
    displacement reaches the smallest margin found then.
    """

    def __init__(self, atoms: Atoms, state: MDState) -> None:
        self.atoms, self.limit, self.degrees_of_freedom = atoms, state.temperature_limit, state.degrees_of_freedom
        self._reference, self._margin = atoms.positions.copy(), 0.0

    def temperature(self) -> float:
        """K, of the degrees of freedom that are not conserved."""
        return float(2 * self.atoms.get_kinetic_energy() / (units.kB * self.degrees_of_freedom))

    def check(self, step: int) -> None:
        """Raise RunExploded if the atoms, or the forces on them, show an explosion."""
        self.check_geometry(step)
        refuse_not_finite(self.atoms, step)
        temperature = self.temperature()
        if not temperature <= self.limit:
            atom = int(np.argmax((self.atoms.get_velocities() ** 2).sum(axis=1) * self.atoms.get_masses()))
            reason = f"the temperature is {temperature:.0f} K, above {self.limit:.0f} K; atom {atom} is the hottest"
            raise RunExploded(step, atom, reason)

    def check_geometry(self, step: int) -> None:
        _refuse_bad_rows(self.atoms.positions, "position", "Å", step)
        moved = np.linalg.norm(self.atoms.positions - self._reference, axis=1).max(initial=0.0)
        if 2 * moved >= self._margin:
            self._search(step)

    def _search(self, step: int) -> None:
        i, j, distances = neighbor_list("ijd", self.atoms, SEARCH_DISTANCE)
        hydrogen = (self.atoms.numbers[i] == 1) | (self.atoms.numbers[j] == 1)
        margins = distances - np.where(hydrogen, MIN_DISTANCE_H, MIN_DISTANCE)
        self._margin = float(margins.min(initial=SEARCH_DISTANCE - MIN_DISTANCE))
        self._reference = self.atoms.positions.copy()
        if self._margin < 0:
            k = int(margins.argmin())
            raise RunExploded(step, int(i[k]), f"atoms {i[k]} and {j[k]} are {distances[k]:.3f} Å apart")


def refuse_not_finite(atoms: Atoms, step: int) -> None:
    _refuse_bad_rows(atoms.positions, "position", "Å", step)
    _refuse_bad_rows(atoms.get_forces(), "force", "eV/Å", step)


def _refuse_bad_rows(values: NDArray[np.float64], name: str, unit: str, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise RunExploded(step, int(bad[0]), f"the {name} of atom {bad[0]} is {values[bad[0]].tolist()} {unit}")
