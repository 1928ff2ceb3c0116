"""Copies are found however they are turned, and leaks between the parts of a split."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from clean_data import clean, set_of

from ase_xai.training.checks import check, leakage, require_sound
from ase_xai.training.copies import copies
from ase_xai.training.splits import Split


def moved(atoms: Atoms, rng: np.random.Generator, mirrored: bool = False) -> Atoms:
    """A copy, rotated at random, shifted and renumbered; a periodic one is wrapped as well."""
    copy = atoms[rng.permutation(len(atoms))]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation)) * (-1 if mirrored else 1)
    shift = rng.normal(0, 5, 3)
    copy.set_cell(copy.cell.array @ rotation, scale_atoms=False)
    copy.positions = copy.positions @ rotation + shift
    copy.wrap()
    return copy


@pytest.mark.parametrize("name", ["molecules", "copper", "argon"])
def test_copies_are_found_rotated_and_renumbered(name: str) -> None:
    data, rng = clean(name), np.random.default_rng(0)

    def atoms(s: int) -> Atoms:
        rows = slice(*data.offsets[s : s + 2])
        box = {} if data.cell is None else {"cell": data.cell[s], "pbc": data.pbc[s]}
        return Atoms(data.numbers[rows], data.positions[rows], **box)

    plain = [atoms(s) for s in range(len(data))]
    again = [plain[7], moved(plain[3], rng), moved(plain[30], rng, mirrored=True), moved(plain[30], rng)]
    frames = plain + again
    n = len(data)
    for single in frames:
        single.calc = SinglePointCalculator(single, energy=0.0, forces=np.zeros((len(single), 3)))
    found = {tuple(equal) for equal in copies(set_of(frames))}
    assert found == {(7, n), (3, n + 1), (30, n + 2, n + 3)}
    stretched = moved(plain[3], rng)
    stretched.positions[0] += 0.01
    stretched.calc = SinglePointCalculator(stretched, energy=0.0, forces=np.zeros((len(stretched), 3)))
    assert copies(set_of([frames[3], stretched])) == []


def test_copies_with_other_charges_or_energies() -> None:
    data = clean("molecules").take(np.array([0, 1, 0, 1]))
    data.energy[2] += 0.5
    assert "2 structures are copies of others, rotated or renumbered ones included: 0 = 2, 1 = 3." in "\n".join(
        map(str, check(data))
    )
    assert "differ by up to 0.5 eV" in "\n".join(map(str, check(data)))
    assert check(replace(data, total_charge=np.array([0.0, 0.0, 1.0, 1.0]))) == []


def test_copies_among_structures_that_look_alike() -> None:
    """Fingerprints that agree in the number they are sorted by are compared beyond the next one."""
    data = clean("molecules").take(np.array([0, 7, 0, 7, 0]))
    prints = np.zeros((5, 12))
    prints[:, 2:4] = [[5.0, 3.0], [5.0 + np.sqrt(2.0), 2.0], [5.0, 3.0], [5.0 + np.sqrt(2.0), 2.0], [5.0, 3.0]]
    prints[:, 2] += [0.0, 1e-9, 2e-9, 3e-9, 4e-9]
    assert [tuple(equal) for equal in copies(data, prints)] == [(0, 2, 4), (1, 3)]


def test_leakage_names_both_sides() -> None:
    data = clean("molecules").take(np.array([0, 1, 2, 3, 1, 2, 5, 1]))
    parts = {"training": [0, 1, 2], "validation": [3, 4], "test": [5, 6]}  # 7 is in none
    split = Split(**{name: np.array(members) for name, members in parts.items()}, seed=0, digest=data.digest())
    found = {(finding.structure, finding.text) for finding in leakage(data, split)}
    assert found == {
        (4, "is in validation, but its copy 1 in training. Group copies."),
        (5, "is in test, but its copy 2 in training. Group copies."),
    }
    clear = replace(split, validation=np.array([3]), test=np.array([6]))
    assert leakage(data, clear) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_sound(data.take(np.array([0, 1, 2])))
