"""How long molecules stay what they are: dynamics of several at once, each until it fails, and failures per ns.

A molecule has failed when a bond is broken (a pair within 1.3 times the sum of covalent radii at the start is found beyond
1.6 times) or formed (another pair within 1.0 times), when a force exceeds 30 eV/Å, or when it explodes as `ase_xai.runs`
tells it. `active_learning.py` uses this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.io import read as read_frames
from scipy.stats import chi2

from ase_xai.runs import MDSettings, RunExploded, run_md

MAX_FORCE = 30.0  # eV/Å
INTERVAL, SEGMENT = 20, 500  # steps between frames, and between two looks at the molecules
APART = 60.0  # Å


@dataclass(frozen=True)
class Outcome:
    """Of the dynamics of one molecule: fs until it failed or the end came, and how it failed, if it did."""

    fs: float
    failure: str


Molecules = dict[int, Atoms]  # by a number that tells them apart
Outcomes = dict[int, Outcome]


def bond_ratios(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(N, N) distances over sums of covalent radii; infinite on the diagonal."""
    radii = covalent_radii[numbers]
    ratios = np.linalg.norm(positions[:, None] - positions, axis=2) / (radii[:, None] + radii)
    np.fill_diagonal(ratios, np.inf)
    return ratios


def failure(molecule: Atoms, positions: np.ndarray, forces: np.ndarray) -> str:
    """What is wrong with a frame of the dynamics of `molecule`; empty if nothing is."""
    bonded, ratios = bond_ratios(molecule.numbers, molecule.positions) < 1.3, bond_ratios(molecule.numbers, positions)
    for kind, changed in (("broken", bonded & (ratios > 1.6)), ("formed", ~bonded & (ratios < 1.0))):
        for i, j in np.argwhere(changed)[:1]:
            return f"{molecule.symbols[i]}{i}-{molecule.symbols[j]}{j} {kind}"
    largest = np.linalg.norm(forces, axis=1).max()
    return f"a force of {largest:.0f} eV/Å" if largest > MAX_FORCE else ""


def dynamics(folder: Path, molecules: Molecules, calculator: Calculator, settings: MDSettings) -> Outcomes:
    """Of all molecules at once, far apart on a line; after each segment those that failed are taken out."""
    folder.mkdir(parents=True, exist_ok=True)
    alive, outcomes, steps, segment = dict(molecules), {}, 0, 0
    while alive and steps < settings.steps:
        path = folder / f"{segment:04d}.traj"
        length = min(SEGMENT, settings.steps - steps)
        now = replace(settings, steps=length, seed=settings.seed + segment, keep_momenta=segment > 0)
        start = side_by_side(alive)
        exploded = advanced(start, calculator, path, now)
        frames = read_frames(path, ":") if path.exists() else [start]
        for number in alive:
            mine = frames[0].get_tags() == number
            reasons = [failure(molecules[number], frame.positions[mine], frame.get_forces()[mine]) for frame in frames]
            failed = [(steps + k * settings.interval, reason) for k, reason in enumerate(reasons) if reason]
            failed += [(steps + step, reason) for at, step, reason in exploded if at == number]
            if failed:
                outcomes[number] = Outcome(failed[0][0] * settings.timestep, failed[0][1])
        alive = {n: frames[-1][frames[-1].get_tags() == n] for n in alive if n not in outcomes}
        steps, segment = steps + (len(frames) - 1) * settings.interval, segment + 1
    return outcomes | {number: Outcome(settings.steps * settings.timestep, "") for number in alive}


def side_by_side(molecules: Molecules) -> Atoms:
    """All molecules in one system, beyond the reach of one another, tagged with their numbers."""
    together = Atoms()
    for place, (number, molecule) in enumerate(molecules.items()):
        atoms = molecule.copy()
        atoms.translate([APART * place, 0, 0] - atoms.get_center_of_mass())
        atoms.set_tags(number)
        together += atoms
    return together


def advanced(atoms: Atoms, calculator: Calculator, path: Path, settings: MDSettings) -> list[tuple[int, int, str]]:
    """Dynamics with frames in `path`; number of the molecule, step and reason if one explodes, which ends them."""
    atoms.calc, going = calculator, path.with_name(f"{path.name}.restart.json").exists()
    try:
        run_md(atoms, path, settings, restart=going, overwrite=not going, progress=False)
    except RunExploded as error:
        hottest = np.argmax((atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses())
        return [(int(atoms.get_tags()[hottest if error.atom is None else error.atom]), error.step, str(error))]
    return []


def per_ns(outcomes: Outcomes) -> str:
    """Failures, time, and failures per ns with the 95 % interval of a Poisson process."""
    n = sum(bool(outcome.failure) for outcome in outcomes.values())
    ns = max(1.0, sum(outcome.fs for outcome in outcomes.values())) / 1e6
    low, high = chi2.ppf(0.025, 2 * n) / 2 if n else 0.0, chi2.ppf(0.975, 2 * n + 2) / 2
    return f"{n} in {1000 * ns:.1f} ps: {n / ns:.0f} ({low / ns:.0f} to {high / ns:.0f})"
