"""Units and signs that physics finds implausible: texts that say so, and where. Silence proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, pairwise

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from ase_xai.training.data import StructureSet, ragged_rows
from ase_xai.training.loader import pairs_of
from ase_xai.training.units import ENERGY, LENGTH, factor

SAMPLE = 1000  # structures that are looked at
NEAR = 0.15  # Å; rms displacement below which energies change by the work of mean forces
TIGHT = 0.07  # share of the changes left over by a factor near one that is believed: mean forces alone can be off by a third
PER_BLOCK = 60  # pairs of geometries, or bonds, that are judged together
STIFFNESS = 30.0  # eV/Å^2; bonds of H to C, N, O and S have 20 to 55 in sets of any temperature
STRETCHED = 0.015  # Å; deviation of bond lengths from which on stretching, not chemistry, makes the force
NOBLE = [atomic_numbers[symbol] for symbol in ("He", "Ne", "Ar", "Kr", "Xe", "Rn")]

# Energies of free atoms in eV: Hartree-Fock limits (Clementi and Roetti 1974). Molecules are lower by 2.1 % at most (CH4).
ATOMS = {1: -13.606, 6: -1025.56, 7: -1480.32, 8: -2035.67, 9: -2705.07}
TOTAL_UNITS = ("hartree", "mhartree", "kcal/mol", "kJ/mol", "meV")
FORCE_UNITS = ("hartree/bohr", "hartree/angstrom", "rydberg/bohr", "kcal/mol/angstrom", "kJ/mol/angstrom", "kJ/mol/nm")

Verdict = tuple[str, str]  # category and text
FINE = "fine"


def implausible(structures: StructureSet) -> Iterator[str]:
    """All that is implausible about units and signs."""
    yield from length_unit(structures)
    yield from energy_unit(structures)
    yield from forces_on_hydrogen(structures)
    yield from work_of_forces(structures)


def length_unit(structures: StructureSet) -> Iterator[str]:
    """Nearest atoms stand about one sum of covalent radii apart, in molecules and in solids, but for noble gases."""
    ratios = [ratio for s in _sample(len(structures), SAMPLE // 3) if (ratio := _nearest_ratio(structures, int(s)))]
    if not ratios:
        return
    typical = float(np.median(ratios))
    causes = {f"{unit} read as Å": 1 / LENGTH[unit] for unit in ("bohr", "nm")}
    causes |= {f"Å read as {unit}": LENGTH[unit] for unit in ("bohr", "nm")}
    for cause, ratio in causes.items():
        if 0.8 < typical / ratio < 1.2:
            yield f"nearest atoms stand {typical:.2g} sums of covalent radii apart, as of {cause} (a factor {ratio:.3g})."


def _nearest_ratio(structures: StructureSet, s: int) -> float | None:
    """Least distance over the sum of covalent radii among the nearest pairs, noble gases left out; None without pairs."""
    rows = slice(structures.offsets[s], structures.offsets[s + 1])
    numbers, positions = structures.numbers[rows], np.asarray(structures.positions[rows], dtype=float)
    cell = np.zeros((3, 3)) if structures.cell is None else structures.cell[s]
    radii = np.where(np.isin(numbers, NOBLE), np.nan, covalent_radii[numbers])
    for cutoff in (1.6, 3.2, 6.4, 12.8, 25.6):
        pairs = pairs_of(structures, s, cutoff)
        if len(pairs.first):
            sums = radii[pairs.first] + radii[pairs.second]
            ratios = np.linalg.norm(pairs.vectors(positions, cell), axis=1) / sums
            return None if np.isnan(ratios).all() else float(np.nanmin(ratios))
    return None


def energy_unit(structures: StructureSet) -> Iterator[str]:
    """Total energies of molecules of C, N, O, F (and H) exceed those of their free atoms by less than 3 %."""
    if structures.energy is None or not set(structures.elements) <= set(ATOMS) or structures.elements == [1]:
        return
    sample = _sample(len(structures), SAMPLE)
    ratios = structures.energy[sample] / (structures.composition(sample) @ [ATOMS[z] for z in structures.elements])
    ratios = ratios[np.isfinite(ratios)]
    for unit in TOTAL_UNITS if len(ratios) else ():
        scaled = ratios * ENERGY[unit]
        if 0.995 < np.median(scaled) < 1.03 and ((scaled > 0.97) & (scaled < 1.06)).mean() > 0.9:
            yield f"energies read as eV look like total energies in {unit}. Give units = {{energy = {unit!r}}}."


def forces_on_hydrogen(structures: StructureSet) -> Iterator[str]:
    """H is drawn back along its bond by some 30 eV/Å^2 times the stretch, in molecules and liquids alike."""
    if structures.forces is None or 1 not in structures.elements:
        return
    found = [_hydrogen_bonds(structures, int(s)) for s in _sample(len(structures), SAMPLE)]
    owner, element, length, force = np.concatenate(found, axis=1)
    known = np.isfinite(force)
    owner, element, length, force = owner[known].astype(int), element[known], length[known], force[known]
    for z in np.unique(element):
        length[element == z] -= np.median(length[element == z])

    def judge(block: slice) -> Verdict | None:
        x, y = length[block], force[block]
        if x.std() < STRETCHED or y.std() == 0.0 or abs(np.corrcoef(x, y)[0, 1]) < 0.8:
            return None
        stiffness = -float(np.polyfit(x, y, 1)[0])
        if stiffness < 0:
            return "sign", "forces drive H on where its bond is stretched, as gradients do. Reverse the sign."
        ratio = stiffness / STIFFNESS
        if 0.2 < ratio < 5.0:
            return FINE, ""
        units = [unit for unit in FORCE_UNITS if 0.5 < ratio * factor("forces", unit) < 2.0]
        guess = f", as if forces were in {' or '.join(units)}" if units else ""
        return ("soft" if ratio < 1 else "stiff"), f"bonds to H seem {ratio:.3g} times as stiff as usual{guess}."

    yield from _judged(owner, judge)


def _hydrogen_bonds(structures: StructureSet, s: int) -> NDArray[np.float64]:
    """Structure, element bound to, length (Å) and outward force on H (eV/Å) of its bonds to H: (4, bonds)."""
    assert structures.forces is not None
    rows = slice(structures.offsets[s], structures.offsets[s + 1])
    z, r = structures.numbers[rows], np.asarray(structures.positions[rows], dtype=float)
    hydrogen, heavy = np.flatnonzero(z == 1), np.flatnonzero(np.isin(z, (6, 7, 8, 16)))
    if not len(hydrogen) or not len(heavy):
        return np.zeros((4, 0))
    steps = r[hydrogen, None] - r[None, heavy]
    lengths = np.linalg.norm(steps, axis=2)
    nearest = lengths.argmin(axis=1)
    each = np.arange(len(hydrogen))
    length, partner = lengths[each, nearest], z[heavy[nearest]]
    bound = length < 1.3 * (covalent_radii[1] + covalent_radii[partner])
    outward = np.einsum("hx,hx->h", structures.forces[rows][hydrogen], steps[each, nearest] / length[:, None])
    return np.stack([np.full(len(hydrogen), float(s)), partner, length, outward])[:, bound]


def work_of_forces(structures: StructureSet) -> Iterator[str]:
    """Between close geometries of one system, energies change by minus the work of the mean forces."""
    if structures.energy is None or structures.forces is None or len(structures) < 2:
        return
    starts = _sample(len(structures) - 1, 5 * SAMPLE)
    found = [(s, *pair) for s in starts if (pair := _change_and_work(structures, int(s))) is not None]
    if not found:
        return
    owner, change, work = (np.array(column) for column in zip(*found, strict=True))

    def judge(block: slice) -> Verdict | None:
        changes, works = change[block], work[block]
        ratio = float(np.median(changes / works))
        scale = float(np.median(np.abs(changes))) or 1.0
        as_found, as_stated = (float(np.median(np.abs(changes - f * works))) / scale for f in (ratio, 1.0))
        if min(as_found, as_stated) > 0.25:
            return None
        if as_stated < max(0.3, 3 * as_found) or (0.4 < ratio < 2.5 and as_found > TIGHT):
            return FINE, ""
        causes = {f"energies in {unit}": 1 / value for unit, value in ENERGY.items() if value != 1.0}
        causes |= {f"forces in {unit}": factor("forces", unit) for unit in FORCE_UNITS}
        causes |= {"positions in bohr": LENGTH["bohr"], "forces per bohr": 1 / LENGTH["bohr"]}
        likely = " or ".join(cause for cause, expected in causes.items() if 0.8 < abs(ratio) / expected < 1.25)
        guess = " and ".join([*(["a reversed sign of the forces"] if ratio < 0 else []), *([likely] if likely else [])])
        category = "sign" if ratio < 0 else "less" if ratio < 1 else "more"
        text = f"energies change {ratio:.3g} times as much as by the work of the forces{guess and ', as of ' + guess}."
        return category, text

    yield from _judged(owner, judge)


def _change_and_work(structures: StructureSet, s: int) -> tuple[float, float] | None:
    """Change of the energy from structure s to the next and the work against the forces, eV; None if they are not close."""
    assert structures.energy is not None and structures.forces is not None
    rows, _ = ragged_rows(structures.offsets, np.array([s, s + 1]))
    n = len(rows) // 2
    charge = structures.total_charge
    if not np.array_equal(structures.numbers[rows[:n]], structures.numbers[rows[n:]]) or len(rows) % 2:
        return None
    if charge is not None and charge[s] != charge[s + 1]:
        return None
    r = np.asarray(structures.positions[rows], dtype=float).reshape(2, n, 3)
    forces = structures.forces[rows].astype(float).reshape(2, n, 3)
    if structures.pbc is None or not structures.pbc[s : s + 2].any():
        r = r - r.mean(axis=1, keepdims=True)
        u, _, v = np.linalg.svd(r[1].T @ r[0])
        rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
        r[1], forces[1] = r[1] @ rotation, forces[1] @ rotation
    step = r[1] - r[0]
    work = -0.5 * float((forces.sum(axis=0) * step).sum())
    change = float(structures.energy[s + 1] - structures.energy[s])
    close = float((step**2).sum(axis=1).mean()) < NEAR**2
    return (change, work) if close and work != 0.0 and np.isfinite(change) and np.isfinite(work) else None


def _judged(owner: NDArray[np.int64], judge: Callable[[slice], Verdict | None]) -> Iterator[str]:
    """Verdicts on blocks of consecutive samples, those of one category together, with the structures they concern."""
    n_blocks = min(20, len(owner) // PER_BLOCK) or int(len(owner) >= PER_BLOCK // 3)
    edges = np.linspace(0, len(owner), n_blocks + 1).astype(int) if n_blocks else np.zeros(1, int)
    blocks = [slice(a, b) for a, b in pairwise(edges)]
    verdicts = [(verdict, block) for block in blocks if (verdict := judge(block)) is not None]
    for category, group in groupby(verdicts, key=lambda judged: judged[0][0]):
        members = list(group)
        whole = slice(members[0][1].start, members[-1][1].stop)
        pooled = judge(whole)
        text = pooled[1] if pooled is not None and pooled[0] == category else members[0][0][1]
        if category != FINE:
            yield f"structures {owner[whole.start]} to {owner[whole.stop - 1]}: {text}"


def _sample(n: int, size: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(size, n)).astype(np.int64))
