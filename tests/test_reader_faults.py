"""Files that are damaged, foreign or malicious are refused with their name, and never executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from labeled import WRITERS, labeled, ragged

from ase_xai.training.readers import read

WRONG_ARRAYS: dict[str, tuple[str, object, str]] = {
    "forces of a wrong shape": ("F_eV_A", np.ones((20, 3)), r"forces must have shape \(21, 3\)"),
    "positions of a wrong shape": ("R", np.ones((21, 2)), r"positions must have shape \(21, 3\)"),
    "too few numbers": ("Z", np.ones(3), "Z has 3 rows, but n_atoms adds up to 21"),
    "numbers in two columns": ("Z", np.ones((21, 1)), "Z must be a row of integers"),
    "half a proton": ("Z", np.full(21, 6.5), "Z is 6.5 in row 0, not an integer from 1 to 118"),
    "no element": ("Z", np.full(21, 119), "Z is 119 in row 0"),
    "NaN as number": ("Z", np.full(21, np.nan), "Z is nan in row 0"),
    "an empty structure": ("n_atoms", np.array([5, 3, 3, 4, 6, 0]), "n_atoms is 0 in row 5"),
    "truth as energy": ("E_eV", np.ones(6, bool), "E_eV holds bool, not numbers"),
    "text as energy": ("E_eV", np.array(["a"] * 6), "E_eV holds <U1, not numbers"),
    "complex energy": ("E_eV", np.ones(6, complex), "E_eV holds complex128, not numbers"),
    "objects": ("E_eV", np.array([None] * 6), "Object arrays cannot be loaded"),
    "cell of a wrong shape": ("cell", np.ones((6, 3)), "cell must have shape"),
    "pbc without cell": ("pbc", np.ones((6, 3), bool), "has pbc, but no cell"),
    "no structures": ("n_atoms", np.zeros(0, int), "n_atoms adds up to 0"),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays_are_refused(case: str, tmp_path: Path) -> None:
    name, array, message = WRONG_ARRAYS[case]
    np.savez(tmp_path / "a.npz", **{**ragged(labeled(periodic=False)), name: array})
    with pytest.raises(ValueError, match=rf"a\.npz: .*{message}"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("name", [*WRITERS, "set.traj"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    WRITERS.get(name, ase.io.write)(path := tmp_path / name, labeled(periodic=True))
    path = path / "a.npz" if path.is_dir() else path
    content = path.read_bytes()
    for fraction in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(content[: int(fraction * len(content))])
        with pytest.raises(ValueError, match=path.name if fraction else f"{path.name}|no structures"):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".extxyz", ".xyz", ".traj", ".db"])
def test_files_of_another_kind_are_refused(suffix: str, tmp_path: Path) -> None:
    for content in (b"some text\n", b"\x89PNG\r\n\x1a\n" + bytes(100), pickle.dumps(Bomb(tmp_path))):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\{suffix}") as caught:
            read(tmp_path / f"a{suffix}")
        assert "allow_pickle" not in str(caught.value)  # nobody shall be led to it
    assert not (tmp_path / "touched").exists()
    with pytest.raises(ValueError, match="suffix that is not read"):
        read([write_text(tmp_path / "a.json")])
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "none.npz")


def write_text(path: Path) -> Path:
    path.write_text("{}")
    return path


class Bomb:
    """Its pickle touches a file when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (write_text, (self.folder / "touched",))


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    arrays = ragged(labeled(periodic=False))
    np.savez(tmp_path / "a.npz", allow_pickle=True, **{**arrays, "E_eV": np.array([Bomb(tmp_path)] * 6)})
    np.savez(tmp_path / "b.npz", **{name: array for name, array in arrays.items() if name != "E_eV"})
    with zipfile.ZipFile(tmp_path / "b.npz", "a") as file:
        file.writestr("E_eV", pickle.dumps(Bomb(tmp_path)))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path)))
    assert (tmp_path / "touched").exists()


def test_hdf5_objects_are_refused(tmp_path: Path) -> None:
    for kind in (h5py.string_dtype(), h5py.vlen_dtype(np.float64), h5py.ref_dtype):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, array in ragged(labeled(periodic=False)).items():
                if name != "E_eV":
                    file[name] = array
            file.create_dataset("E_eV", (6,), dtype=kind)
        with pytest.raises(ValueError, match=r"a\.h5: E_eV holds object, not numbers"):
            read(tmp_path / "a.h5")


def test_claims_beyond_memory_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in ragged(labeled(periodic=False)).items():
            file[name] = array
        del file["R"]
        file.create_dataset("R", (10**13, 3), dtype=np.float64, chunks=(1000, 3))
    with pytest.raises(ValueError, match=r"a\.h5"):
        read(tmp_path / "a.h5")


def test_flipped_bits_do_not_pass_for_other_data(tmp_path: Path) -> None:
    np.savez(path := tmp_path / "a.npz", **ragged(labeled(periodic=True)))
    content, digest = path.read_bytes(), read(path).digest()
    directory = content.rindex(b"E_eV.npy")  # its first name stands before the data, its second in the directory at the end
    rng = np.random.default_rng(0)
    for place in (directory, *rng.integers(0, content.index(b"PK\x01\x02"), 200)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            found = read(path)
        except ValueError as error:
            assert "a.npz" in str(error)
        else:  # dates and other things that do not matter
            assert found.digest() == digest and place != directory
