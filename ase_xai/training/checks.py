"""What is wrong with a set of labeled structures, said before it is trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from ase_xai.training.data import LABELS, PER_ATOM, StructureSet
from ase_xai.training.loader import pairs_of
from ase_xai.training.references import least_squares
from ase_xai.training.splits import PARTS, Split

TOO_CLOSE = 0.3  # Å
OUTLIER = 20.0  # robust standard deviations
SAME = 1e-6  # relative difference of invariants of copies
SAMPLE = 1000  # structures that statistics on units are taken from

# All-electron total energies of free atoms in eV, to a percent the same for any density functional (Hartree-Fock limits and
# beyond; e.g. Szabo, Ostlund). Valence-only and tight-binding energies are far from them by other factors.
ATOMS_TOTAL = {"C": -1030.0, "N": -1485.0, "O": -2043.0, "F": -2714.0}
ENERGY_FACTORS = {"hartree": 1 / 27.2114, "kcal/mol": 23.0605, "kJ/mol": 96.4853, "rydberg": 1 / 13.6057}
LENGTH_FACTORS = {"bohr read as Å": 1 / 0.529177, "Å read as bohr": 0.529177, "nm read as Å": 0.1, "Å read as nm": 10.0}


@dataclass(frozen=True)
class Finding:
    """Something about structure `structure` (None: about the set), which makes it unusable or just doubtful."""

    structure: int | None
    text: str
    unusable: bool

    def __str__(self) -> str:
        return self.text if self.structure is None else f"structure {self.structure}: {self.text}"


def check(structures: StructureSet) -> list[Finding]:
    """All findings: values that are not finite, coincident atoms, energies far off, copies, doubtful units and signs."""
    findings = list(_not_finite(structures))
    if findings:  # what follows computes with the values
        return findings
    invariants, nearest = _geometry(structures)
    for s in np.flatnonzero(nearest < TOO_CLOSE):
        text = f"two atoms are {nearest[s]:.3f} Å apart, closer than {TOO_CLOSE} Å. Are the positions in Å?"
        findings.append(Finding(int(s), text, unusable=True))
    findings += _energy_outliers(structures)
    findings += _copies(invariants)
    findings += [*_missing(structures), *_length_unit(structures), *_energy_unit(structures), *_work_of_forces(structures)]
    return findings


def require_sound(structures: StructureSet, *, skip: bool = False) -> StructureSet:
    """The structures, if none is unusable; doubts become warnings.

    Args:
        structures: to be checked.
        skip: leave unusable structures out and say how many, instead of raising.

    Raises:
        ValueError: a structure is unusable; the message names the first ones.
    """
    findings = check(structures)
    for finding in findings:
        if not finding.unusable:
            warnings.warn(str(finding), stacklevel=2)
    bad = [finding for finding in findings if finding.unusable]
    if not bad:
        return structures
    first = "; ".join(str(finding) for finding in bad[:3])
    if not skip:
        raise ValueError(f"{len(bad)} unusable structures: {first}. Correct or remove them, or skip them (skip_bad = true).")
    numbers = np.unique([finding.structure for finding in bad if finding.structure is not None])
    warnings.warn(f"left out {len(numbers)} of {len(structures)} structures: {first}", stacklevel=2)
    return require_sound(structures.take(np.setdiff1d(np.arange(len(structures)), numbers)))


def leakage(structures: StructureSet, split: Split) -> list[Finding]:
    """Copies (rotated, permuted or plain) that stand in two parts of a split."""
    invariants, _ = _geometry(structures)
    part = np.full(len(structures), -1)
    for number, name in enumerate(PARTS):
        part[split.part(name)] = number
    pairs = [(a, b) for a, b in _equal_rows(invariants) if part[a] != part[b] and min(part[a], part[b]) >= 0]
    return [
        Finding(b, f"equals structure {a}, but is in {PARTS[part[b]]}, not in {PARTS[part[a]]}. Group them.", unusable=False)
        for a, b in pairs
    ]


def _not_finite(structures: StructureSet) -> Iterator[Finding]:
    for name in ("positions", "cell", *LABELS):
        array = getattr(structures, name)
        if array is None:
            continue
        label = name in LABELS
        bad = np.isinf(array) if label else ~np.isfinite(array)
        rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
        owners = structures.structure_of_row[rows] if name in PER_ATOM or name == "positions" else rows
        for s in np.unique(owners):
            what = "infinite" if label else "not finite"
            yield Finding(int(s), f"{name} is {what}. Remove the structure or correct it (NaN marks a missing label).", True)


def _missing(structures: StructureSet) -> Iterator[Finding]:
    for name in structures.targets:
        array = np.asarray(getattr(structures, name))
        rows = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(axis=1))
        owners = np.unique(structures.structure_of_row[rows] if name in PER_ATOM else rows)
        if len(owners):
            yield Finding(
                None, f"{name} is missing for {len(owners)} structures, the first being {owners[0]}.", unusable=False
            )


def _geometry(structures: StructureSet) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers that rotation, translation and renumbering leave alone (S, 5), and the nearest distance (S,) within the cell."""
    invariants, nearest = np.zeros((len(structures), 5)), np.full(len(structures), np.inf)
    n_atoms = structures.n_atoms
    if structures.cell is not None:
        invariants[:, 4] = np.abs(np.linalg.det(structures.cell)) + np.linalg.norm(structures.cell, axis=(1, 2))
    for n in np.unique(n_atoms):
        members = np.flatnonzero(n_atoms == n)
        for portion in np.array_split(members, max(1, len(members) * int(n) ** 2 // 2_000_000)):
            rows = structures.offsets[portion][:, None] + np.arange(n)
            z, r = structures.numbers[rows].astype(float), np.asarray(structures.positions[rows], dtype=float)
            first, second = np.triu_indices(n, 1)
            distances = np.linalg.norm(r[:, first] - r[:, second], axis=2)
            pair, total = z[:, first] * z[:, second], z[:, first] + z[:, second]
            with np.errstate(divide="ignore"):
                columns = (
                    z.sum(1) + n * 1000.0,
                    (pair / distances).sum(1),
                    (pair * distances).sum(1),
                    (total * distances**2).sum(1),
                )
            invariants[portion, :4] = np.stack(columns, axis=1)
            if n > 1:
                nearest[portion] = distances.min(axis=1)
    return invariants, nearest


def _equal_rows(invariants: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of neighboring rows, in sorted order, that agree in all columns."""
    order = np.lexsort(invariants.T[::-1])
    a, b = invariants[order[:-1]], invariants[order[1:]]
    same = (np.abs(a - b) <= SAME * np.maximum(np.abs(a), 1e-12)).all(axis=1)
    return [(int(min(order[k], order[k + 1])), int(max(order[k], order[k + 1]))) for k in np.flatnonzero(same)]


def _copies(invariants: NDArray[np.float64]) -> list[Finding]:
    pairs = _equal_rows(invariants)
    if not pairs:
        return []
    some = ", ".join(f"{a} = {b}" for a, b in pairs[:5])
    return [Finding(None, f"{len(pairs)} structures are copies, maybe rotated, of others ({some}, ...).", unusable=False)]


def _energy_outliers(structures: StructureSet) -> list[Finding]:
    """Energies per atom far from what the composition lets expect."""
    if structures.energy is None or len(structures) < 20:
        return []
    known = np.flatnonzero(np.isfinite(structures.energy))
    if len(known) < 20:
        return []
    composition = structures.composition(known)
    residual = structures.energy[known].copy()
    trusted = np.arange(len(known))
    for _ in range(3):  # fit, leave out what is far off, fit again: one wild value must not hide in its own fit
        references = np.linalg.lstsq(composition[trusted], structures.energy[known][trusted], rcond=None)[0]
        residual = (structures.energy[known] - composition @ references) / composition.sum(axis=1)
        center = np.median(residual)
        spread = 1.4826 * float(np.median(np.abs(residual - center))) + 1e-6
        trusted = np.flatnonzero(np.abs(residual - center) < OUTLIER * spread)
    sigmas = np.abs(residual - center) / spread
    return [
        Finding(
            int(known[k]),
            f"energy is {sigmas[k]:.0f} standard deviations from what its composition lets expect "
            f"({structures.energy[known[k]]:.6g} eV). Unit or convergence?",
            unusable=True,
        )
        for k in np.flatnonzero(sigmas > OUTLIER)
    ]


def _sample(structures: StructureSet) -> NDArray[np.int64]:
    return np.linspace(0, len(structures) - 1, min(SAMPLE, len(structures))).astype(np.int64)


def _length_unit(structures: StructureSet) -> Iterator[Finding]:
    """Nearest neighbors stand about one sum of covalent radii apart, in molecules and in most solids."""
    ratios = []
    for s in _sample(structures):
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        radii = covalent_radii[structures.numbers[rows]]
        pairs = pairs_of(structures, int(s), 12.0 if structures.n_atoms[s] < 50 else 4.0)
        cell = np.zeros((3, 3)) if structures.cell is None else structures.cell[s]
        lengths = np.linalg.norm(pairs.vectors(np.asarray(structures.positions[rows], dtype=float), cell), axis=1)
        if len(lengths):
            ratios.append(float((lengths / (radii[pairs.first] + radii[pairs.second])).min()))
    if not ratios or 0.75 < np.median(ratios) < 1.4:
        return
    typical = float(np.median(ratios))
    for meaning, ratio in LENGTH_FACTORS.items():
        if 0.8 < typical / ratio < 1.2:
            text = f"nearest atoms stand {typical:.2f} sums of covalent radii apart: a factor {ratio:.3f}, as of {meaning}."
            yield Finding(None, text, unusable=False)


def _energy_unit(structures: StructureSet) -> Iterator[Finding]:
    """Least-squares energies of C, N, O, F against all-electron energies of the atoms, which differ by a percent at most."""
    if structures.energy is None or not np.isfinite(structures.energy).any():
        return
    fitted = least_squares(structures, _sample(structures))
    ratios = [fitted[atomic_numbers[s]] / e for s, e in ATOMS_TOTAL.items() if atomic_numbers[s] in fitted]
    if not ratios:
        return
    for unit, ratio in ENERGY_FACTORS.items():
        if all(abs(r / ratio - 1) < 0.03 for r in ratios):
            text = f"energies read as eV look like total energies in {unit}: a factor {ratio:.4g}. Give units = {{energy = {unit!r}}}."
            yield Finding(None, text, unusable=False)


def _work_of_forces(structures: StructureSet) -> Iterator[Finding]:
    """Between close geometries of one molecule, energies change by minus the work of the forces: slope 1."""
    if structures.energy is None or structures.forces is None:
        return
    changes, works = [], []
    start = structures.offsets
    for s in range(min(len(structures) - 1, 20 * SAMPLE)):
        a, b = slice(start[s], start[s + 1]), slice(start[s + 1], start[s + 2])
        if not np.array_equal(structures.numbers[a], structures.numbers[b]):
            continue
        step = structures.positions[b] - structures.positions[a]
        if np.sqrt((step**2).mean()) > 0.15:
            continue
        works.append(-0.5 * float(((structures.forces[a] + structures.forces[b]) * step).sum()))
        changes.append(float(structures.energy[s + 1] - structures.energy[s]))
    change, work = np.array(changes), np.array(works)
    usable = np.isfinite(change) & np.isfinite(work)
    if usable.sum() < 20 or work[usable].std() == 0.0:
        return
    correlation = float(np.corrcoef(change[usable], work[usable])[0, 1])
    slope = float((change[usable] * work[usable]).sum() / (work[usable] ** 2).sum())
    if abs(correlation) < 0.9 or 0.7 < slope < 1.4:
        return
    causes = {"forces are gradients: their sign is reversed": -1.0}
    causes |= {f"energies in {u} beside forces in eV/Å": r for u, r in ENERGY_FACTORS.items()}
    causes |= {f"forces in {u}/Å beside energies in eV": 1 / r for u, r in ENERGY_FACTORS.items()}
    causes |= {"forces per bohr beside positions in Å": 1 / 0.529177, "positions in bohr beside forces per Å": 0.529177}
    likely = min(causes, key=lambda cause: abs(slope / causes[cause] - 1))
    guess = f", as of {likely}" if abs(slope / causes[likely] - 1) < 0.25 else ""
    text = f"energies change {slope:.3g} times as much as the forces' work between close geometries{guess}."
    yield Finding(None, text, unusable=False)
