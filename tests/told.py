"""Runs whose numbers are given, not predicted: a calculator that says what its atoms carry."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import Explanation
from ase_xai.trajectory.recording import Recording, Sample
from ase_xai.trajectory.run import Run
from ase_xai.trajectory.store import Source
from ase_xai.trajectory.writer import RunWriter

ELEMENT_MEAN = {1: -13.0, 6: -1030.0, 7: -1480.0, 8: -2040.0}
COMPOSITION = {1: -13.5, 6: -1031.0, 7: -1481.0, 8: -2041.5}


class Told(Calculator):
    """Gives back the arrays "energy_of", "charge_of" and "dipole" of its atoms; knows the references of its energies."""

    implemented_properties = ["energy", "energies", "charges", "dipole", "forces"]  # noqa: RUF012
    model, sha256 = "told [by the test]", "0123456789abcdef" * 4
    card = SimpleNamespace(reference_kind="invented references", notes="")

    def __init__(self, notes: str = "", model: str = model) -> None:
        super().__init__()
        self.card, self.model = SimpleNamespace(reference_kind="invented references", notes=notes), model

    @property
    def members(self) -> list[Told]:
        return [self]

    def baselines(self, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
        tables = {"composition": COMPOSITION, "element_mean": ELEMENT_MEAN}
        return {name: np.array([table[z] for z in atoms.numbers]) for name, table in tables.items()}

    def charge_of(self, atoms: Atoms) -> float:
        return 0.0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energies = atoms.arrays["energy_of"]
        self.results = {
            "energy": float(energies.sum()), "energies": energies.copy(), "charges": atoms.arrays["charge_of"].copy(),
            "dipole": np.array(atoms.info["dipole"]), "forces": np.zeros((len(atoms), 3)),
        }  # fmt: skip


@dataclass(frozen=True)
class Size:
    """An explainer: the distance of each atom from the origin, without a sign and without a unit.

    Args:
        doubted: atoms whose value is not to be trusted while their x is positive.
    """

    doubted: tuple[int, ...] | None = None

    def __call__(self, calculator: Any, atoms: Atoms) -> Explanation:
        own = np.isin(np.arange(len(atoms)), self.doubted or ())
        mask = None if self.doubted is None else ~(own & (atoms.positions[:, 0] > 0))
        return Explanation(
            target="rigidity of energy", level="atom", values=0.1 + np.linalg.norm(atoms.positions, axis=1), units="1",
            method="Size", numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc,
            gauge="invariant", mask=mask,
        )  # fmt: skip


def told_frames(
    atoms: Atoms, energies: ArrayLike, charges: ArrayLike, positions: ArrayLike, velocities: ArrayLike | None = None
) -> list[Atoms]:
    """Frames that carry what they will be said to have.

    Args:
        energies: (L, N) eV, above the means of the elements.
        charges: (L, N) e.
        positions: (L, N, 3) Å.
        velocities: (L, N, 3) Å/fs.
    """
    means = np.array([ELEMENT_MEAN[z] for z in atoms.numbers])
    frames = []
    for k, (e, q, r) in enumerate(zip(np.asarray(energies), np.asarray(charges), np.asarray(positions), strict=True)):
        frame = Atoms(atoms.numbers, r, cell=atoms.cell, pbc=atoms.pbc)
        frame.arrays["energy_of"], frame.arrays["charge_of"] = e + means, q.copy()
        frame.info["dipole"] = (q[:, None] * r).sum(axis=0).tolist()
        if velocities is not None:
            frame.set_velocities(np.asarray(velocities)[k] / units.fs)
        frames.append(frame)
    return frames


def told_run(
    name: str | Atoms = "CH3CH2OH",
    n_frames: int = 60,
    *,
    seed: int = 0,
    dt: float | None = 0.5,
    groups: Mapping[str, Sequence[int]] | None = None,
    calculator: Calculator | None = None,
    fields: Sequence[str] = ("energies", "charges", "dipole", "kinetic_energy"),
    size_every: int = 0,
    doubted: tuple[int, ...] | None = None,
    output: str | None = None,
    **given: ArrayLike,
) -> Run:
    """A run in memory of a molecule that shakes, with energies and charges that swing; `given` replaces any of them."""
    atoms = molecule(name) if isinstance(name, str) else name
    rng, n = np.random.default_rng(seed), len(atoms)
    phase = np.linspace(0, 6 * np.pi, n_frames)[:, None] + rng.uniform(0, 6, n)
    about: dict[str, Any] = {
        "energies": 0.3 * np.sin(phase) + rng.normal(0, 0.2, n),
        "charges": 0.2 * np.cos(phase) + rng.normal(0, 0.1, n),
        "positions": atoms.positions + 0.05 * np.sin(phase)[:, :, None] * rng.normal(size=(n, 3)),
        "velocities": rng.normal(0, 0.01, (n_frames, n, 3)),
    }
    frames = told_frames(atoms, **{**about, **given})
    size = Size(doubted)
    explainers: dict[str, Any] = {"size": (size, size_every)} if size_every else {}
    calculator = calculator or Told()
    source = Source(memory=io.BytesIO()) if output is None else Source(path=Path(output))
    writer = RunWriter(source, Recording(fields, explainers, groups or {}, ()))
    for k, frame in enumerate(frames):
        calculator.calculate(frame)
        answers = {"size": size(calculator, frame)} if size_every and k % size_every == 0 else {}
        writer.add(Sample(frame, dict(calculator.results), answers), k, None if dt is None else dt * k, calculator)
    writer.flush()
    return Run(source)
