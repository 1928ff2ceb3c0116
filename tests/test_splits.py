"""Splits keep groups together; references and what compositions leave open about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from labeled import make_set, molecules

from ase_xai.training.references import composition_rank, free_atoms, least_squares
from ase_xai.training.splits import Split, split_by_group


def test_splits_never_separate_a_group() -> None:
    rng = np.random.default_rng(0)
    data = make_set(molecules(60), group=rng.integers(0, 20, 60) * 7)
    n_groups = len(np.unique(data.group))
    for seed in range(5):
        split = split_by_group(data, validation=0.2, test=3, seed=seed)
        parts = [set(data.group[split.part(name)]) for name in ("training", "validation", "test")]
        assert sorted(np.concatenate([split.training, split.validation, split.test])) == list(range(60))
        assert [len(part) for part in parts] == [n_groups - round(0.2 * n_groups) - 3, round(0.2 * n_groups), 3]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len({tuple(split_by_group(data, validation=0.2, test=3, seed=seed).test) for seed in range(5)}) == 5
    small = split_by_group(data, validation=2, test=0, training=5, seed=0)
    assert len(np.unique(data.group[small.training])) == 5 and len(small.test) == 0
    larger = split_by_group(data, validation=2, test=0, training=9, seed=0)
    assert set(small.training) < set(larger.training) and np.array_equal(small.validation, larger.validation)
    for wrong in ({"validation": -1, "test": 0}, {"validation": 15, "test": 6}, {"validation": 0, "test": 0}):
        with pytest.raises(ValueError, match=r"groups does not fit|leaves"):
            split_by_group(data, **wrong, seed=0)
    with pytest.raises(ValueError, match="common members"):
        replace(small, test=small.training[:1])


def test_splits_are_kept_in_files(tmp_path: Path) -> None:
    data = make_set(molecules(20))
    split = split_by_group(data, validation=0.2, test=0.1, seed=4)
    split.save(tmp_path / "split.json")
    found = Split.load(tmp_path / "split.json", data)
    assert found.sizes == {"training": 14, "validation": 4, "test": 2} and found.seed == 4
    for name in ("training", "validation", "test"):
        np.testing.assert_array_equal(found.part(name), split.part(name))
    with pytest.raises(ValueError, match="belongs to other structures"):
        Split.load(tmp_path / "split.json", make_set(molecules(20, seed=1)))
    about = json.loads((tmp_path / "split.json").read_text())
    for change in ({"test": [20, 1]}, {"test": about["training"]}, {"test": "abc"}, {"seed": None}):
        (tmp_path / "changed.json").write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=r"changed\.json"):
            Split.load(tmp_path / "changed.json", data)
    for content in (b"", b"[1]", b"\x80\x04", (tmp_path / "split.json").read_bytes()[:50]):
        (tmp_path / "changed.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"changed\.json is not a split"):
            Split.load(tmp_path / "changed.json", data)


def test_least_squares_recovers_references() -> None:
    data = make_set(molecules(30))
    known = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2043.0}
    exact = np.array([sum(known[z] for z in data.numbers[slice(*data.offsets[s : s + 2])]) for s in range(30)])
    exact[[3, 8]] = np.nan
    found = least_squares(replace(data, energy=exact), np.arange(30))
    assert found == pytest.approx(known, abs=1e-8)
    assert free_atoms(data, {**known, 9: -2714.0}) == known
    with pytest.raises(ValueError, match="no free-atom energy for N, O"):
        free_atoms(data, {1: -13.6, 6: -1030.0})
    for without in (replace(data, energy=None), replace(data, energy=np.full(30, np.nan))):
        with pytest.raises(ValueError, match="need energies"):
            least_squares(without, np.arange(30))


@pytest.mark.parametrize(
    ("formulas", "rank", "directions"),
    [
        (["CH4", "NH3", "H2O", "C2H6", "CO2"], 4, []),
        (["H2O"], 1, [{"H": 1.0, "O": -2.0}]),
        (["H2O", "H4O2", "H2O"], 1, [{"H": 1.0, "O": -2.0}]),
        (["C2H6O"], 1, [{"H": 1.0, "O": -6.0}, {"C": 1.0, "O": -2.0}]),
        (["CH4", "C2H4", "H2O"], 3, []),
        (["NaCl", "KCl", "NaBr", "KBr"], 3, [{"Na": 1.0, "Cl": -1.0, "K": 1.0, "Br": -1.0}]),
    ],
)
def test_rank_of_compositions(formulas: list[str], rank: int, directions: list[dict[str, float]]) -> None:
    data = make_set([Atoms(formula) for formula in formulas])
    found = composition_rank(data, np.arange(len(formulas)))
    assert found.rank == rank and len(found.open_directions) == len(found.elements) - rank == len(directions)
    for direction in found.open_directions:  # each one changes no energy
        for formula in formulas:
            symbols = Atoms(formula).get_chemical_symbols()
            assert sum(direction.get(symbol, 0.0) for symbol in symbols) == pytest.approx(0.0, abs=1e-12)
    for direction in directions:
        assert any(other == pytest.approx(direction) for other in found.open_directions)
    assert ("each of the" in str(found)) == (not directions)
    first = composition_rank(data, np.array([0]))  # elements that are absent there do not count
    assert first.rank == 1 and set(first.elements) == set(Atoms(formulas[0]).get_chemical_symbols())
