"""Groups of atoms: partitions from indices, bonds, residues, patterns and learned features."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.io import read
from explained import write_weights
from systems import random_schnet, shaken_molecule

from ase_xai import explain, load
from ase_xai.explainers import AtomicEnergies, AtomicFeatures
from ase_xai.explainers.fragments import bonds, components, made_whole
from ase_xai.trajectory.groups import by_element, connected_fragments, feature_clusters, partition, residues, smarts, summed


def waters(n: int, seed: int = 0, spacing: float = 3.2) -> Atoms:
    """Water molecules on a line in a periodic box, turned at random."""
    rng, whole = np.random.default_rng(seed), Atoms()
    for k in range(n):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.positions += [0, 0, spacing * k]
        whole += one
    whole.set_cell([9.0, 10.0, spacing * n])
    whole.pbc = True
    return whole


def is_partition(groups: dict[str, tuple[int, ...]], n: int) -> bool:
    return sorted(i for own in groups.values() for i in own) == list(range(n))


# --- indices ---------------------------------------------------------------------------------------------------------


def test_partitions_are_checked() -> None:
    assert partition({"a": [2, 0], "b": np.array([1])}, 3) == {"a": (2, 0), "b": (1,)}
    assert partition({"a": [2], "none": []}, 4, rest="rest") == {"a": (2,), "rest": (0, 1, 3)}
    assert partition({"a": [0, 1]}, 2, rest="rest") == {"a": (0, 1)}
    for groups, message in (
        ({"a": [0, 1], "b": [1, 2]}, r"twice \[1\]"),
        ({"a": [0]}, r"missing \[1, 2\]"),
        ({"a": [0, 1, 3], "b": [2]}, "name atom 3"),
    ):
        with pytest.raises(ValueError, match=message):
            partition(groups, 3)
    with pytest.raises(ValueError, match="named 'rest' already"):
        partition({"rest": [0]}, 2, rest="rest")


def test_sums_over_groups_are_the_total() -> None:
    values = np.random.default_rng(0).normal(size=(7, 6, 3)).astype(np.float32)
    groups = {"a": (0, 5), "b": (1, 2, 3), "c": (4,)}
    sums = summed(values, groups)
    np.testing.assert_allclose(sums.sum(axis=1), values.sum(axis=1, dtype=np.float64), atol=1e-12)
    np.testing.assert_allclose(sums[:, 1], values[:, 1].astype(float) + values[:, 2] + values[:, 3], atol=1e-12)
    assert by_element([8, 1, 1, 8]) == {"O": (0, 3), "H": (1, 2)}


# --- bonds and fragments ---------------------------------------------------------------------------------------------


def test_bonds_are_the_pairs_a_slow_search_finds() -> None:
    cell = np.array([[6, 0, 0], [1.5, 5.5, 0], [-1, 2, 6.5]])
    for pbc in ((True, True, True), (True, False, True), (False, False, False)):
        rng = np.random.default_rng(1)
        atoms = Atoms(rng.choice([1, 6, 8], 20), rng.uniform(0, 6, (20, 3)), cell=cell, pbc=pbc)
        index, vectors = bonds(atoms)
        found = set()
        for i in range(20):
            for j in range(i + 1, 20):
                for shift in np.ndindex(*[5 if p else 1 for p in pbc]):
                    vector = atoms.positions[j] - atoms.positions[i] + (np.array(shift) - 2) * np.array(pbc) @ cell
                    if np.linalg.norm(vector) < 1.25 * covalent_radii[atoms.numbers[[i, j]]].sum():
                        found.add((i, j, *np.round(vector, 6)))
        assert {(int(i), int(j), *np.round(v, 6)) for (i, j), v in zip(index, vectors, strict=True)} == found
        assert len(index) == len(found)
    chain = Atoms("C", cell=[1.4, 9, 9], pbc=[True, False, False])
    assert bonds(chain)[0].tolist() == [[0, 0]]  # bonded to its own image, once
    with pytest.raises(ValueError, match="scale must be positive"):
        bonds(atoms, scale=0.0)


def test_components_are_those_of_a_search_from_every_atom() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        n = int(rng.integers(1, 30))
        index = rng.integers(0, n, (int(rng.integers(0, n)), 2))
        label = np.full(n, -1)
        for start in range(n):
            waiting, number = [start], label.max() + 1
            while label[start] < 0 or waiting:
                i = waiting.pop()
                if label[i] < 0:
                    label[i] = number
                    waiting += [int(b if a == i else a) for a, b in index if i in (a, b)]
                if not waiting:
                    break
        np.testing.assert_array_equal(components(index, n), label)


def test_fragments_are_molecules_wherever_they_are_cut() -> None:
    box = waters(4)
    expected = {f"H2O {k + 1}": (3 * k, 3 * k + 1, 3 * k + 2) for k in range(4)}
    assert connected_fragments(box) == expected
    box.positions += [4.4, -0.3, 1.6]
    box.wrap()
    assert connected_fragments(box) == expected
    pair = molecule("CH4") + Atoms("Ar", [[9, 0, 0]])
    assert connected_fragments(pair) == {"CH4": (0, 1, 2, 3, 4), "Ar": (5,)}
    whole = made_whole(box, expected)
    for own in expected.values():
        apart = whole[list(own)]
        assert np.linalg.norm(apart[1:] - apart[0], axis=1) == pytest.approx(0.969, abs=2e-3)
    np.testing.assert_allclose((whole - box.positions) @ np.linalg.inv(box.cell.array) % 1.0 % 1.0, 0, atol=1e-9)
    with pytest.raises(ValueError, match="own periodic image"):
        made_whole(bulk("C", "diamond", a=3.57, cubic=True), {"all": range(8)})
    with pytest.raises(ValueError, match=r"'two' is not connected: atoms \[3, 4, 5\]"):
        made_whole(box, {"two": range(6)})


# --- residues, patterns, features ------------------------------------------------------------------------------------


def test_residues_of_a_pdb_file(tmp_path: Path) -> None:
    lines = [
        "ATOM      1  N   ALA A   1      11.104   6.134  -6.504  1.00  0.00           N",
        "ATOM      2  CA  ALA A   1      11.639   6.071  -5.147  1.00  0.00           C",
        "ATOM      3  N   GLY A   2      13.559   7.250  -5.504  1.00  0.00           N",
        "END",
    ]
    (tmp_path / "a.pdb").write_text("\n".join(lines) + "\n")
    assert residues(read(tmp_path / "a.pdb")) == {"ALA 1": (0, 1), "GLY 2": (2,)}
    with pytest.raises(ValueError, match="no array 'residuenames'"):
        residues(molecule("H2O"))


def test_patterns_find_functional_groups() -> None:
    pytest.importorskip("rdkit", reason="SMARTS patterns need RDKit (extra chem)")
    ethanol = shaken_molecule("CH3CH2OH", amplitude=0.02)
    groups = smarts(ethanol, {"hydroxyl": "[OX2H1]", "methyl": "[CX4H3]"})
    symbols = {name: sorted(ethanol.symbols[list(own)]) for name, own in groups.items()}
    assert symbols == {"hydroxyl": ["H", "O"], "methyl": ["C", "H", "H", "H"], "rest": ["C", "H", "H"]}
    assert is_partition(groups, 9)
    acid = molecule("CH3COOH")
    carboxyl = smarts(acid, {"carboxyl": "C(=O)[OX2H1]"})["carboxyl"]
    assert sorted(acid.symbols[list(carboxyl)]) == ["C", "H", "O", "O"]
    benzene = molecule("C6H6")
    assert set(smarts(benzene, {"aromatic": "c"}, hydrogens=False)) == {"aromatic", "rest"}
    each = smarts(molecule("C2H6"), {"methyl": "[CX4H3]"}, each=True)
    assert set(each) == {"methyl 1", "methyl 2"} and all(len(own) == 4 for own in each.values())
    ion = Atoms("NH4", molecule("CH4").positions)
    assert set(smarts(ion, {"ammonium": "[N+]"}, charge=1)) == {"ammonium"}
    first = smarts(ethanol, {"carbon": "[#6]", "methyl": "[CX4H3]"}, hydrogens=False)
    assert "methyl" not in first and len(first["carbon"]) == 2
    for arguments, message in (
        ((ethanol, {"odd": "(("}), r"no SMARTS: '\(\('"),
        ((ethanol, {"nitrile": "C#N"}), "matches no atom"),
        ((waters(2), {"water": "[OH2]"}), "need open molecules"),
    ):
        with pytest.raises(ValueError, match=message):
            smarts(*arguments)
    with pytest.raises(ValueError, match=r"no bond orders fit .* charge \+3 e"):
        smarts(molecule("CH4"), {"carbon": "C"}, charge=3)


def test_patterns_say_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"ase-xai\[chem\]"):
        smarts(molecule("H2O"), {"water": "[OH2]"})


def test_planted_clusters_are_found() -> None:
    rng = np.random.default_rng(3)
    label = rng.permutation(np.repeat(np.arange(4), 9))
    rows = 10 * rng.normal(size=(4, 5))[label] + rng.normal(size=(36, 5))
    groups = feature_clusters(rows, 4)
    assert is_partition(groups, 36) and list(groups) == ["cluster 1", "cluster 2", "cluster 3", "cluster 4"]
    assert {own for own in groups.values()} == {tuple(np.flatnonzero(label == k)) for k in range(4)}
    order = rng.permutation(36)
    other = feature_clusters(rows[order], 4)
    assert {tuple(sorted(order[list(own)])) for own in other.values()} == set(groups.values())
    with pytest.raises(ValueError, match="between 1 and 2, the number of distinct atoms; got 3"):
        feature_clusters([[0.0], [1.0], [1.0]], 3)


def test_equal_atoms_share_a_cluster(tmp_path: Path) -> None:
    calculator = load(write_weights(tmp_path / "w", random_schnet(1)), dtype="float64")
    features = explain(molecule("C2H6"), AtomicFeatures(), calculator)
    assert feature_clusters(features, 2) == {"C2": (0, 1), "H6": (2, 3, 4, 5, 6, 7)}
    with pytest.raises(ValueError, match="from AtomicFeatures, got an explanation by AtomicEnergies"):
        feature_clusters(explain(molecule("C2H6"), AtomicEnergies(), calculator), 2)


def test_analyses_do_without_torch() -> None:
    modules = ", ".join(
        f"ase_xai.trajectory.{name}" for name in ("groups", "means", "flow", "events", "spectra", "differences")
    )
    code = f"import sys, {modules}; print(sorted({{'torch', 'rdkit', 'matplotlib', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
