"""Every format gives the same structures in eV, Å and e·Å."""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.stress import voigt_6_to_full_3x3_stress
from labeled import WRITERS, labeled, ragged

from ase_xai.training.columns import Columns
from ase_xai.training.data import StructureSet
from ase_xai.training.readers import chunks, read
from ase_xai.training.units import DEFAULTS, QUANTITIES, factor, unit_in

# Units in eV, Å and e from SI values alone (CODATA 2018).
E_CHARGE, AVOGADRO, LIGHT = 1.602176634e-19, 6.02214076e23, 299792458.0
HARTREE, BOHR = 4.3597447222071e-18 / E_CHARGE, 0.529177210903
KCAL, DEBYE = 4184.0 / AVOGADRO / E_CHARGE, 1e-21 / LIGHT / E_CHARGE * 1e10


def assert_same(found: StructureSet, frames: list[Atoms]) -> None:
    assert len(found) == len(frames)
    for s, atoms in enumerate(frames):
        rows = slice(found.offsets[s], found.offsets[s + 1])
        np.testing.assert_array_equal(found.numbers[rows], atoms.numbers)
        np.testing.assert_allclose(found.positions[rows], atoms.positions, atol=1e-7)
        for name, value in atoms.calc.results.items():
            array = getattr(found, name)
            np.testing.assert_allclose(array[rows if name in ("forces", "charges") else s], value, rtol=1e-6, atol=1e-7)
        if any(a.pbc.any() for a in frames):
            np.testing.assert_array_equal(found.pbc[s], atoms.pbc)
            np.testing.assert_allclose(found.cell[s], atoms.cell.array, atol=1e-7)
        if found.total_charge is not None:
            assert found.total_charge[s] == atoms.info["total_charge"]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("periodic", [False, True])
def test_every_format_reads_the_same(name: str, periodic: bool, tmp_path: Path) -> None:
    frames = labeled(periodic)
    WRITERS[name](tmp_path / name, frames)
    found = read(tmp_path / name)
    assert_same(found, frames)
    assert found.targets == ["energy", "forces", "stress", "dipole", "charges"]
    assert found.total_charge is not None
    assert (found.pbc is not None) == periodic


def test_traj_reads_the_same(tmp_path: Path) -> None:
    frames = labeled(periodic=True)
    ase.io.write(tmp_path / "set.traj", frames)
    assert_same(read(tmp_path / "set.traj"), frames)


def test_plain_xyz_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("2\nsome words, gdb 1\t157.7 -0.2\nH 0 0 0\nH 0 0 0.74\n")
    found = read(tmp_path / "a.xyz")
    assert found.targets == [] and found.positions[1, 2] == 0.74
    (tmp_path / "a.xyz").write_text("2\nenergy -31.0\nH 0 0 0\nH 0 0 0.74\n")
    with pytest.raises(ValueError, match=r"a\.xyz: energy holds bool, not numbers"):
        read(tmp_path / "a.xyz")


def test_units_from_first_principles() -> None:
    expected = {
        ("energy", "hartree"): HARTREE, ("energy", "kcal/mol"): KCAL, ("energy", "kJ/mol"): KCAL / 4.184,
        ("energy", "Ry"): HARTREE / 2, ("energy", "meV"): 1e-3, ("length", "bohr"): BOHR, ("length", "nm"): 10.0,
        ("dipole", "debye"): DEBYE, ("dipole", "e*bohr"): BOHR, ("dipole_magnitude", "D"): DEBYE,
        ("forces", "hartree/bohr"): HARTREE / BOHR, ("forces", "Ha/Å"): HARTREE, ("forces", "kcal/mol/A"): KCAL,
        ("forces", "kJ/mol/nm"): KCAL / 41.84, ("forces", "Ha_bohr"): HARTREE / BOHR, ("forces", "meV/Å"): 1e-3,
        ("stress", "GPa"): 1e9 * 1e-30 / E_CHARGE, ("stress", "kbar"): 1e8 * 1e-30 / E_CHARGE,
        ("stress", "hartree/bohr^3"): HARTREE / BOHR**3, ("charges", "e"): 1.0,
    }  # fmt: skip
    for (quantity, unit), value in expected.items():
        assert factor(quantity, unit) == pytest.approx(value, rel=1e-6), (quantity, unit)
    for quantity, unit in DEFAULTS.items():
        assert factor(quantity, unit) == 1.0
    assert unit_in("energy", "E_scf_Ha") == "Ha" and unit_in("forces", "F_kcal_A") == "kcal_A"
    assert unit_in("energy", "E_eV_atom") == "eV_atom" and unit_in("dipole", "dipole") is None


@pytest.mark.parametrize("quantity", [*QUANTITIES, "forces"])
def test_unknown_units_are_refused_with_those_known(quantity: str) -> None:
    known = QUANTITIES.get(quantity, {"hartree": 0.0, "bohr": 0.0})
    for wrong in ("furlong", "EV", "hartree/furlong"):
        with pytest.raises(ValueError, match=wrong) as caught:
            Columns(units={quantity: wrong})
        assert all(unit in str(caught.value) for unit in known)
    with pytest.raises(ValueError, match="length, energy, stress"):
        Columns(units={"mass": "u"})


def test_units_by_name_by_argument_and_by_attribute(tmp_path: Path) -> None:
    frames = labeled(periodic=True)
    arrays = ragged(frames)
    arrays["R"], arrays["cell"] = arrays["R"] / BOHR, arrays["cell"] / BOHR
    arrays["E_Ha"] = arrays.pop("E_eV") / HARTREE
    arrays["forces"] = arrays.pop("F_eV_A") / KCAL * BOHR
    arrays["dipole_D"] = arrays.pop("dipole_eA") / DEBYE
    arrays["stress_GPa"] = arrays.pop("stress_eV_A3") / (1e-21 / E_CHARGE)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"a\.npz: the unit of forces \(forces\) is unknown"):
        read(tmp_path / "a.npz", Columns(units={"length": "bohr"}))
    assert_same(read(tmp_path / "a.npz", Columns(units={"length": "bohr", "forces": "kcal/mol/bohr"})), frames)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["R"].attrs["units"], file["forces"].attrs["units"] = "bohr", np.bytes_(b"kcal/mol/bohr")
    assert_same(read(tmp_path / "a.h5"), frames)


def test_conflicting_units_are_refused(tmp_path: Path) -> None:
    arrays = ragged(labeled(periodic=False))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="stated as hartree and as eV"):
        read(tmp_path / "a.npz", Columns(units={"energy": "hartree"}))
    read(tmp_path / "a.npz", Columns(units={"energy": "eV"}))
    np.savez(tmp_path / "a.npz", **arrays, E_Ha=arrays["E_eV"])
    with pytest.raises(ValueError, match="energy could be E_Ha or E_eV"):
        read(tmp_path / "a.npz")
    assert read(tmp_path / "a.npz", Columns({"energy": "E_Ha"})).energy[0] == pytest.approx(HARTREE * arrays["E_eV"][0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["E_eV"].attrs["units"] = "hartree"
    with pytest.raises(ValueError, match="stated as hartree and as eV"):
        read(tmp_path / "a.h5")


def test_what_ase_reads_takes_units_by_name_and_from_schnetpack(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["E_Ha"] = -76.4
    ase.io.write(tmp_path / "a.extxyz", atoms)
    assert read(tmp_path / "a.extxyz").energy[0] == pytest.approx(-76.4 * units.Hartree)
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(atoms, data={"energy": np.array([-76.4]), "forces": np.ones((3, 3))})
        database.metadata = {
            "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Bohr"}, "_distance_unit": "Bohr",
        }  # fmt: skip
    found = read(tmp_path / "a.db")
    assert found.energy[0] == pytest.approx(-76.4 * HARTREE)
    np.testing.assert_allclose(found.forces, HARTREE / BOHR, rtol=1e-6)
    np.testing.assert_allclose(found.positions, atoms.positions * BOHR)


def test_stress_tensors_are_put_in_the_order_of_voigt(tmp_path: Path) -> None:
    frames = labeled(periodic=True)
    arrays = ragged(frames)
    tensors = np.array([voigt_6_to_full_3x3_stress(s) for s in arrays["stress_eV_A3"]])
    tensors[:, 0, 1] += 0.01  # what is not symmetric is noise
    tensors[:, 1, 0] -= 0.01
    for shape in ((-1, 3, 3), (-1, 9)):
        np.savez(tmp_path / "a.npz", **{**arrays, "stress_eV_A3": tensors.reshape(shape)})
        assert_same(read(tmp_path / "a.npz"), frames)
    bare = [atoms.copy() for atoms in frames]
    for atoms, tensor in zip(bare, tensors, strict=True):
        atoms.info["stress"] = tensor
    ase.io.write(tmp_path / "a.traj", bare)
    np.testing.assert_allclose(read(tmp_path / "a.traj").stress, arrays["stress_eV_A3"], atol=1e-12)


def test_missing_labels_are_nan(tmp_path: Path) -> None:
    frames = labeled(periodic=False)
    for name in ("energy", "forces"):
        del frames[1].calc.results[name]
    frames[4].calc = None
    ase.io.write(tmp_path / "a.extxyz", frames)
    for found in (read(tmp_path / "a.extxyz"), StructureSet.concatenate([read(tmp_path / "a.extxyz"), unlabeled(tmp_path)])):
        missing = np.isnan(found.forces).any(axis=1)
        assert set(np.flatnonzero(np.isnan(found.energy))) == {1, 4, *range(6, len(found))}
        assert set(found.structure_of_row[missing]) == {1, 4, *range(6, len(found))}
        assert np.isnan(found.dipole[4]).all() and not np.isnan(found.dipole[1]).any()


def unlabeled(folder: Path) -> StructureSet:
    ase.io.write(folder / "b.xyz", [molecule("H2"), molecule("N2")])
    return read(folder / "b.xyz")


def test_named_columns_group_and_kind(tmp_path: Path) -> None:
    frames = labeled(periodic=False)
    for index, atoms in enumerate(frames):
        atoms.info |= {"REF": 2.0 * index, "molecule": index // 2, "class": index % 2}
    columns = Columns({"energy": "REF"}, group="molecule", kind="class", kind_names=("cold", "hot"))
    ase.io.write(tmp_path / "a.extxyz", frames)
    found = read(tmp_path / "a.extxyz", columns)
    np.testing.assert_array_equal(found.energy, 2.0 * np.arange(6))
    np.testing.assert_array_equal(found.group, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.kind, [0, 1] * 3)
    for wrong, message in (
        (Columns({"energy": "NONE"}), r"a\.extxyz: no column 'NONE' for energy\. There are .*REF"),
        (Columns(group="NONE"), r"no column 'NONE' for group\. There are .*molecule"),
        (Columns(kind="class"), "class reaches 1, but there are 1 kind_names"),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.extxyz", wrong)
    with pytest.raises(ValueError, match=r"\['enrgy'\] are no labels. Labels are energy, forces"):
        Columns({"enrgy": "E"})


def test_portions_hold_what_the_whole_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = labeled(periodic=True)
    for index, atoms in enumerate(frames):
        atoms.info["molecule"] = index // 3
    ase.io.write(tmp_path / "a.extxyz", frames)
    columns = Columns(group="molecule")
    whole = read(tmp_path / "a.extxyz", columns)
    monkeypatch.setattr("ase_xai.training.readers.CHUNK", 5)
    portions = list(chunks(tmp_path / "a.extxyz", columns))
    assert [len(portion) for portion in portions] == [5, 3]
    assert read(tmp_path / "a.extxyz", columns).digest() == whole.digest()


@pytest.mark.parametrize(("name", "units"), [("E_eV_atom", {}), ("heat", {"energy": "eV/atom"}), ("E_kcal/mol/atom", {})])
def test_energies_per_atom_become_totals(tmp_path: Path, name: str, units: dict[str, str]) -> None:
    per_atom = np.array([-1.5, 2.0])
    arrays = {"n_atoms": np.array([2, 3]), "Z": np.array([8, 8, 1, 1, 8]), "R": np.eye(5, 3) * 3, name: per_atom}
    np.savez(tmp_path / "set.npz", **arrays)
    found = read(tmp_path / "set.npz", Columns(names={"energy": name}, units=units))
    scale = 4184 / 96485.33212 if "kcal" in name else 1.0
    assert found.energy == pytest.approx(scale * per_atom * [2, 3], rel=1e-6)
