"""Faults in data are found and named; clean data of several kinds raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron
from clean_data import CLEAN, clean, molecular, set_of

from ase_xai.training.checks import check, require_sound
from ase_xai.training.data import StructureSet


def said(structures: StructureSet) -> str:
    return "\n".join(map(str, check(structures)))


@pytest.mark.parametrize("name", CLEAN)
def test_clean_data_raise_no_alarm(name: str) -> None:
    assert said(clean(name)) == ""
    assert require_sound(clean(name)) is clean(name)


def scaled(structures: StructureSet, energy: float = 1.0, length: float = 1.0, forces: float = 1.0) -> StructureSet:
    return replace(
        structures,
        energy=energy * structures.energy,
        positions=length * structures.positions,
        cell=None if structures.cell is None else length * structures.cell,
        forces=(forces * structures.forces).astype(np.float32),
    )


WRONG_UNITS = {
    "hartree energies": ({"energy": 1 / 27.2114}, "hartree"),
    "kcal/mol energies": ({"energy": 23.0605}, "kcal/mol"),
    "kJ/mol energies": ({"energy": 96.4853}, "kJ/mol"),
    "bohr positions": ({"length": 1 / 0.529177}, "bohr read as Å"),
    "positions converted twice": ({"length": 0.529177}, "Å read as bohr"),
    "nm positions": ({"length": 0.1}, "Å"),
    "gradients": ({"forces": -1.0}, "sign"),
    "hartree/bohr forces": ({"forces": 0.529177 / 27.2114}, "hartree/bohr"),
    "kcal/mol/Å forces": ({"forces": 23.0605}, "kcal/mol/angstrom"),
    "kJ/mol/Å forces": ({"forces": 96.4853}, "kJ/mol/angstrom"),
    "hartree energies and gradients": ({"energy": 1 / 27.2114, "forces": -0.529177 / 27.2114}, "sign"),
}


@pytest.mark.parametrize("fault", WRONG_UNITS)
@pytest.mark.parametrize("name", ["molecules", "copper"])
def test_wrong_units_and_signs_are_found(name: str, fault: str) -> None:
    factors, message = WRONG_UNITS[fault]
    assert message in said(scaled(clean(name), **factors))


def test_a_reversed_part_is_named() -> None:
    parts = [molecular(140, seed) for seed in range(3)]
    parts[1] = scaled(parts[1], forces=-1.0)
    (finding,) = check(StructureSet.concatenate(parts))
    first, last = (int(word) for word in finding.text.removeprefix("structures ").partition(":")[0].split(" to "))
    assert abs(first - 140) <= 15 and abs(last - 279) <= 15 and "sign" in finding.text and not finding.unusable


@pytest.mark.parametrize("name", ["molecules", "copper"])
def test_wild_energies_are_named(name: str) -> None:
    data = clean(name)
    n_atoms = data.n_atoms[17]
    spread = np.std([data.energy[s] / data.n_atoms[s] for s in range(len(data))]) if name == "copper" else 0.1
    for off, unusable in ((25 * spread, False), (-15.0, True)):
        energy = data.energy.copy()
        energy[17] += off * n_atoms
        (finding,) = check(replace(data, energy=energy))
        assert finding.structure == 17 and finding.unusable == unusable and "standard deviations" in finding.text
    energy[40] += 20.0 * data.n_atoms[40]
    assert [finding.structure for finding in check(replace(data, energy=energy))] == [17, 40]


def with_fault(data: StructureSet, s: int, fault: str) -> StructureSet:
    first = int(data.offsets[s])
    if fault in ("energy", "forces", "positions"):
        array = getattr(data, fault).copy()
        array[s if fault == "energy" else first] = np.inf
        return replace(data, **{fault: array})
    positions = data.positions.copy()
    if fault == "NaN positions":
        positions[first + 1, 2] = np.nan
    elif fault == "coincident":
        positions[first + 1] = positions[first] + 0.1
    elif fault == "image":
        positions[first + 1] = positions[first] + data.cell[s, 0] - 0.1
    elif fault == "flat":
        cell = data.cell.copy()
        cell[s, 2] = 0.0
        return replace(data, cell=cell)
    return replace(data, positions=positions)


FAULTS = {
    "energy": "energy is infinite",
    "forces": "forces is infinite",
    "positions": "positions is not finite",
    "NaN positions": "positions is not finite",
    "coincident": "atoms 0 and 1 are 0.173 Å apart",
    "image": "atoms 0 and 1 are 0.173 Å apart",
    "flat": "pbc is True along direction 2",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_structures_are_named(fault: str) -> None:
    data = clean("copper" if fault in ("image", "flat") else "molecules")
    (finding,) = check(with_fault(data, 23, fault))
    assert finding.structure == 23 and finding.unusable and FAULTS[fault] in finding.text


def test_bad_structures_can_be_skipped() -> None:
    data = with_fault(with_fault(with_fault(clean("molecules"), 11, "coincident"), 5, "NaN positions"), 90, "energy")
    data.energy[17] += 15.0 * data.n_atoms[17]
    assert [finding.structure for finding in check(data)] == [5, 90, 11, 17]
    with pytest.raises(
        ValueError, match=r"4 of 140 structures are unusable: structure 5: .*; structure 90: .*; structure 11"
    ):
        require_sound(data)
    with pytest.warns(UserWarning, match="left out 4 of 140 structures: structure 5"):
        sound = require_sound(data, skip=True)
    assert sound.digest() == data.take(np.setdiff1d(np.arange(140), [5, 11, 17, 90])).digest()
    with pytest.raises(ValueError, match="1 of 1 structures are unusable"):
        require_sound(data.take(np.array([5])), skip=True)


def test_missing_labels_are_counted() -> None:
    data = clean("molecules")
    energy, forces = data.energy.copy(), data.forces.copy()
    energy[[3, 9]] = np.nan
    forces[data.offsets[4]] = np.nan
    with pytest.warns(UserWarning) as caught:
        require_sound(replace(data, energy=energy, forces=forces))
    assert [str(warning.message) for warning in caught] == [
        "energy is missing for 2 of 140 structures, first for 3.",
        "forces is missing for 1 of 140 structures, first for 4.",
    ]


def with_dipoles() -> StructureSet:
    """Molecules with dipoles; 3 and 9 are charged, 5 and 9 periodic, and the dipole of 5 is missing."""
    data, rng = clean("molecules"), np.random.default_rng(0)
    n = len(data)
    dipole = rng.normal(size=(n, 3)).astype(np.float32)
    charge, pbc = np.zeros(n), np.zeros((n, 3), bool)
    charge[[3, 9]], pbc[5], pbc[9, 2], dipole[5] = (1.0, -1.0), True, True, np.nan
    magnitude = np.linalg.norm(np.nan_to_num(dipole), axis=1)
    cell = np.tile(20.0 * np.eye(3), (n, 1, 1))
    return replace(data, dipole=dipole, dipole_magnitude=magnitude, total_charge=charge, cell=cell, pbc=pbc)


def test_dipoles_of_ions_and_crystals_are_no_labels() -> None:
    """Those that another origin, or other images of the atoms, would change."""
    data = with_dipoles()
    with pytest.warns(UserWarning) as caught:
        sound = require_sound(data)
    assert [str(warning.message) for warning in caught] == [
        "dipole is missing for 1 of 140 structures, first for 5.",
        "dipole is not used for 2 of 140 structures, first for 3. It depends on the origin in charged systems (2) and on "
        "the choice of images in periodic ones (1).",
        "dipole_magnitude is not used for 3 of 140 structures, first for 3. It depends on the origin in charged systems (2) "
        "and on the choice of images in periodic ones (2).",
    ]
    rng = np.random.default_rng(1)
    for s in range(len(data)):
        rows = slice(*data.offsets[s : s + 2])
        n = int(data.n_atoms[s])
        charges = rng.normal(size=n)
        charges += (data.total_charge[s] - charges.sum()) / n
        images = data.positions[rows] + (rng.integers(-1, 2, (n, 3)) * data.pbc[s]) @ data.cell[s]
        moments = [charges @ r for r in (data.positions[rows], images, data.positions[rows] + 1.0)]
        unique = np.allclose(moments, moments[0])
        assert np.array_equal(sound.dipole[s], data.dipole[s] if unique else np.full(3, np.nan), equal_nan=True), s
        assert np.isnan(sound.dipole_magnitude[s]) == (not unique)
    assert sound.energy is data.energy and not np.isnan(data.dipole[3]).any()


def test_a_set_of_crystals_has_no_dipoles() -> None:
    data = clean("copper")
    with pytest.warns(UserWarning, match="dipole is not used for 60 of 60 structures, first for 0"):
        sound = require_sound(replace(data, dipole=np.ones((len(data), 3), np.float32)))
    assert sound.targets == ["energy", "forces"]


def test_turned_frames_are_compared() -> None:
    """Frames of an open system are laid over each other; their forces turn with them."""
    data, rng = clean("copper"), np.random.default_rng(0)
    positions, forces = data.positions.copy(), data.forces.copy()
    for s in range(len(data)):
        rows = slice(*data.offsets[s : s + 2])
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.linalg.det(rotation)
        positions[rows], forces[rows] = positions[rows] @ rotation, forces[rows] @ rotation
    turned = replace(data, positions=positions, forces=forces, cell=None, pbc=None)
    assert said(turned) == ""
    assert "kcal/mol" in said(scaled(turned, energy=23.0605))


# Arrangements, and distributions of shakes in Å. The crystals are at rest, and stretched to where their stiffness vanishes.
SHAKEN = {
    "cluster": (Icosahedron("Ar", 2, latticeconstant=1.45), (0.05, 0.05), {}),
    "crystal": (bulk("Ar", "fcc", a=1.56, cubic=True) * 2, (0.02, 0.1), {"rc": 2.5}),
    "stretched crystal": (bulk("Ar", "fcc", a=6.0, cubic=True) * 2, (0.02, 0.1), {"sigma": 3.4, "epsilon": 0.01, "rc": 8.5}),
}


def shaken(at_rest: Atoms, amplitudes: tuple[float, float], lennard_jones: dict[str, float], n: int = 250) -> StructureSet:
    rng, frames = np.random.default_rng(1), []
    for _ in range(n):
        atoms = at_rest.copy()
        atoms.positions += rng.normal(0, rng.uniform(*amplitudes), atoms.positions.shape)
        atoms.calc = LennardJones(**lennard_jones)
        frames.append(atoms)
    return set_of(frames)


@pytest.mark.parametrize("name", SHAKEN)
def test_independently_shaken_structures_are_no_path(name: str) -> None:
    """From one side of a steep well to the other, mean forces do more work than energies change, in the best of units."""
    data = shaken(*SHAKEN[name])
    assert said(data) == ""
    assert "times as much as by the work of the forces" in said(scaled(data, energy=23.0605))
    assert "a reversed sign of the forces" in said(scaled(data, forces=-1.0))


def test_forces_at_rest_are_not_judged() -> None:
    """Lengths of bonds that hardly vary tell more about their neighbors than about their stiffness."""
    assert said(scaled(clean("cold molecules"), forces=0.05)) == ""
