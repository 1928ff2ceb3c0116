"""What is wrong with a set of labeled structures, said before it is trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ase_xai.training.copies import copies, fingerprints
from ase_xai.training.data import LABELS, PER_ATOM, StructureSet
from ase_xai.training.loader import pairs_of
from ase_xai.training.plausibility import implausible
from ase_xai.training.splits import PARTS, Split

TOO_CLOSE = 0.3  # Å
OUTLIER = 20.0  # robust standard deviations
APART = 3.0  # an outlier is this many times farther off than all that are none
BEYOND_CHEMISTRY = 10.0  # eV per atom: no bond is as strong
ENOUGH = 20  # energies, from which on there are outliers
NAMED = 5  # structures that a summary names
DIPOLES = ("dipole", "dipole_magnitude")


@dataclass(frozen=True)
class Finding:
    """Something about structure `structure` (None: about the set), which makes it unusable or just doubtful."""

    structure: int | None
    text: str
    unusable: bool

    def __str__(self) -> str:
        return self.text if self.structure is None else f"structure {self.structure}: {self.text}"


def check(structures: StructureSet) -> list[Finding]:
    """All findings: values that are not finite, unusable geometries, energies far off, copies, doubtful units and signs."""
    findings = list(_not_finite(structures))
    structures, numbers = _without(findings, structures, np.arange(len(structures)))  # what follows computes with the values
    prints, nearest = fingerprints(structures)
    found = [_renumbered(finding, numbers) for finding in _unusable_geometry(structures, nearest)]
    structures, usable = _without(found, structures, numbers)
    findings += found
    if not len(structures):
        return findings
    findings += [_renumbered(finding, usable) for finding in _energy_outliers(structures)]
    texts = [
        *_missing(structures, usable),
        *_ambiguous(structures, usable),
        *_copies(structures, prints[np.isin(numbers, usable)], usable),
    ]
    return findings + [Finding(None, text, unusable=False) for text in (*texts, *implausible(structures))]


def require_sound(structures: StructureSet, *, skip: bool = False) -> StructureSet:
    """The structures, if none is unusable; doubts become warnings, and ambiguous dipoles missing labels.

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
        return _without_ambiguous_dipoles(structures)
    numbers = np.unique([finding.structure for finding in bad]).astype(int)
    first = "; ".join(str(finding) for finding in bad[:3])
    if not skip or len(numbers) == len(structures):
        raise ValueError(
            f"{len(numbers)} of {len(structures)} structures are unusable: {first}. Correct or remove them, or skip them "
            "(skip_bad = true)."
        )
    warnings.warn(f"left out {len(numbers)} of {len(structures)} structures: {first}", stacklevel=2)
    return _without_ambiguous_dipoles(structures.take(np.setdiff1d(np.arange(len(structures)), numbers)))


def ambiguous_dipoles(structures: StructureSet) -> dict[str, NDArray[np.bool_]]:
    """Which labels of dipoles, (S,) each, depend on the origin (charged systems) or on the choice of periodic images."""
    either = _charged(structures) | _periodic(structures)
    known = {name: ~np.isnan(np.asarray(getattr(structures, name))) for name in structures.targets if name in DIPOLES}
    return {name: either & label.reshape(len(label), -1).any(axis=1) for name, label in known.items()}


def leakage(structures: StructureSet, split: Split) -> list[Finding]:
    """Structures of the validation and test parts whose copies, rotated ones included, stand in another part."""
    part = np.full(len(structures), -1)
    for number, name in enumerate(PARTS):
        part[split.part(name)] = number
    findings = []
    for equal in copies(structures):
        members = equal[part[equal] >= 0]
        for s in members:
            elsewhere = members[part[members] < part[s]]
            if len(elsewhere):
                text = f"is in {PARTS[part[s]]}, but its copy {elsewhere[0]} in {PARTS[part[elsewhere[0]]]}. Group copies."
                findings.append(Finding(int(s), text, unusable=False))
    return findings


def _without_ambiguous_dipoles(structures: StructureSet) -> StructureSet:
    labels: dict[str, NDArray[np.float32] | None] = {}
    for name, ambiguous in ambiguous_dipoles(structures).items():
        if ambiguous.any():
            values = np.array(getattr(structures, name))
            values[ambiguous] = np.nan
            labels[name] = None if np.isnan(values).all() else values
    return replace(structures, **labels) if labels else structures  # type: ignore[arg-type]


def _charged(structures: StructureSet) -> NDArray[np.bool_]:
    return np.asarray(np.zeros(len(structures)) if structures.total_charge is None else structures.total_charge) != 0.0


def _periodic(structures: StructureSet) -> NDArray[np.bool_]:
    if structures.pbc is None:
        return np.zeros(len(structures), bool)
    return np.asarray(structures.pbc.any(axis=1), dtype=bool)


def _without(
    findings: list[Finding], structures: StructureSet, numbers: NDArray[np.int64]
) -> tuple[StructureSet, NDArray[np.int64]]:
    """The structures that no finding names, and their numbers."""
    named = [finding.structure for finding in findings if finding.structure is not None]
    sound = np.flatnonzero(~np.isin(numbers, named))
    return (structures if len(sound) == len(numbers) else structures.take(sound)), numbers[sound]


def _renumbered(finding: Finding, numbers: NDArray[np.int64]) -> Finding:
    return finding if finding.structure is None else replace(finding, structure=int(numbers[finding.structure]))


def _not_finite(structures: StructureSet) -> Iterator[Finding]:
    for name in ("positions", "cell", "total_charge", *LABELS):
        array = getattr(structures, name)
        if array is None:
            continue
        label = name in LABELS
        bad = np.isinf(array) if label else ~np.isfinite(array)
        rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
        owners = structures.structure_of_row[rows] if name in PER_ATOM or name == "positions" else rows
        what = "infinite" if label else "not finite"
        remedy = "Correct it (NaN marks a missing label) or remove the structure."
        for s in np.unique(owners):
            yield Finding(int(s), f"{name} is {what}. {remedy}", unusable=True)


def _unusable_geometry(structures: StructureSet, nearest: NDArray[np.float64]) -> Iterator[Finding]:
    """Coincident atoms, also of periodic images, and cells that cannot be repeated; `nearest` is known for open systems."""
    for s in np.flatnonzero(_periodic(structures) | (nearest < TOO_CLOSE)):
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        cell = np.zeros((3, 3)) if structures.cell is None else structures.cell[s]
        try:
            pairs = pairs_of(structures, int(s), 1.0)  # search boxes of 0.3 Å would be many
        except ValueError as error:
            yield Finding(int(s), str(error).partition(": ")[2], unusable=True)
            continue
        lengths = np.linalg.norm(pairs.vectors(np.asarray(structures.positions[rows], dtype=float), cell), axis=1)
        if lengths.min(initial=np.inf) < TOO_CLOSE:
            p = int(lengths.argmin())
            text = f"atoms {pairs.first[p]} and {pairs.second[p]} are {lengths[p]:.3f} Å apart. Are the positions in Å?"
            yield Finding(int(s), text, unusable=True)


def _missing(structures: StructureSet, numbers: NDArray[np.int64]) -> Iterator[str]:
    for name in structures.targets:
        array = np.asarray(getattr(structures, name))
        rows = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(axis=1))
        owners = np.unique(structures.structure_of_row[rows] if name in PER_ATOM else rows)
        if len(owners):
            yield f"{name} is missing for {len(owners)} of {len(structures)} structures, first for {numbers[owners[0]]}."


def _ambiguous(structures: StructureSet, numbers: NDArray[np.int64]) -> Iterator[str]:
    for name, ambiguous in ambiguous_dipoles(structures).items():
        if ambiguous.any():
            n_charged, n_periodic = (int((ambiguous & of).sum()) for of in (_charged(structures), _periodic(structures)))
            yield (
                f"{name} is not used for {ambiguous.sum()} of {len(structures)} structures, first for "
                f"{numbers[ambiguous.argmax()]}. It depends on the origin in charged systems ({n_charged}) and on the "
                f"choice of images in periodic ones ({n_periodic})."
            )


def _copies(structures: StructureSet, prints: NDArray[np.float64], numbers: NDArray[np.int64]) -> Iterator[str]:
    equal = copies(structures, prints)
    if not equal:
        return
    n_copies = sum(len(members) - 1 for members in equal)
    named = ", ".join(" = ".join(map(str, numbers[members[:NAMED]])) for members in equal[:NAMED])
    text = f"{n_copies} structures are copies of others, rotated or renumbered ones included: {named}."
    if structures.energy is not None:
        energies = [structures.energy[members] for members in equal]
        widest = max(float(np.ptp(e[np.isfinite(e)])) if np.isfinite(e).any() else 0.0 for e in energies)
        text += f" Their energies differ by up to {widest:.2g} eV." if widest > 1e-3 else ""
    yield text


def _energy_outliers(structures: StructureSet) -> Iterator[Finding]:
    """Energies far from what the composition lets expect, with nothing between; free atoms have no say."""
    if structures.energy is None:
        return
    known = np.flatnonzero(np.isfinite(structures.energy) & (structures.n_atoms > 1))
    composition, energy = structures.composition(known), np.asarray(structures.energy)[known]
    if len(known) < max(ENOUGH, 2 * composition.shape[1]):
        return
    off, spread = _residuals(composition, energy)
    order = np.argsort(off)
    ordered = off[order]
    jump = (ordered[1:] > OUTLIER * spread) & (ordered[1:] > APART * ordered[:-1])
    if not jump.any():
        return
    for k in order[1 + int(jump.argmax()) :]:
        text = (
            f"its energy {energy[k]:.6g} eV is {off[k]:.3g} eV/atom ({off[k] / spread:.0f} standard deviations) from what "
            "its composition lets expect, and no other is between. Another unit, or not converged?"
        )
        yield Finding(int(known[k]), text, unusable=bool(off[k] > BEYOND_CHEMISTRY))


def _residuals(composition: NDArray[np.float64], energy: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Deviations per atom from a fit of element energies, and their robust standard deviation, at least 1 meV."""
    trusted = np.arange(len(energy))
    for _ in range(3):  # fit, leave out what is far off, fit again: one wild value must not hide in its own fit
        references = np.linalg.lstsq(composition[trusted], energy[trusted], rcond=None)[0]
        residual = (energy - composition @ references) / composition.sum(axis=1)
        off = np.abs(residual - np.median(residual))
        spread = max(1.4826 * float(np.median(off)), 1e-3)
        trusted = np.flatnonzero(off < OUTLIER * spread)
    return off, spread
