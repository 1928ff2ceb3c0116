"""Weight files: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from systems import RANDOM_NETWORKS, random_schnet

from ase_xai.files import sealed
from ase_xai.graph import AtomGraph
from ase_xai.networks import predict
from ase_xai.weights import ModelCard, WeightsError, load_weights, resolve, save_weights, shipped

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "random é.safetensors"
    network = random_schnet()
    save_weights(path, network, ModelCard.describe(network, reference_kind="invented", notes="for tests"))
    return path


def forged(tensors: dict[str, torch.Tensor], card: object) -> bytes:
    """A well-sealed file of any content, as a careful forger would make it."""
    return sealed(tensors, {"card": card})


def test_the_seal_is_what_the_documentation_says(good: Path) -> None:
    content = good.read_bytes()
    digest = load_weights(good).sha256
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64, 1)).hexdigest() == digest


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return tensors_from_bytes(path.read_bytes()), asdict(load_weights(path).card)


@pytest.mark.parametrize("name", RANDOM_NETWORKS)
def test_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    network = RANDOM_NETWORKS[name]()
    card = ModelCard.describe(network, reference_kind="invented", total_charges=(-1.0, 0.0), errors={"test": {"x": 0.1}})
    seal = save_weights(tmp_path / "w", network, card)
    again = load_weights(tmp_path / "w")
    loaded = again.network
    assert again.sha256 == seal and again.card == card and not loaded.training
    assert type(loaded) is type(network) and loaded.settings() == network.settings()
    assert loaded.energy.references == network.energy.references
    graph = AtomGraph.from_atoms(molecule("CH3CH2OH"), network.cutoff)
    a, b = predict(network, graph), predict(loaded, graph)
    assert torch.equal(a.energies, b.energies) and torch.equal(a.forces, b.forces)
    assert a.charges is b.charges is None or torch.equal(a.charges, b.charges)
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("name", ["schnet", "behler-parrinello"])
def test_files_of_format_1_are_read_for_ever(name: str) -> None:
    """Files and numbers written by version 0.1.0; never write them anew."""
    network = load_weights(DATA / f"format-1-{name}.safetensors").network
    kept = json.loads((DATA / "format-1.json").read_text())[name]
    prediction = predict(network.double(), AtomGraph.from_atoms(molecule("CH3CH2OH"), network.cutoff))
    assert float(prediction.energy) == pytest.approx(kept["energy_eV"], abs=1e-9)
    assert float(prediction.charges[2]) == pytest.approx(kept["charge_of_atom_2_e"], abs=1e-12)


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    card = ModelCard.describe(random_schnet(), reference_kind="invented")
    seals = {save_weights(tmp_path / str(k), random_schnet(), card) for k in range(8)}
    assert len(seals) == 1 and len({(tmp_path / str(k)).read_bytes() for k in range(8)}) == 1


def test_saving_leaves_the_callers_random_state(good: Path) -> None:
    before = torch.random.get_rng_state()
    load_weights(good)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_truncation_is_refused(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, 7, 8, 9, len(content) - 1, *rng.integers(0, len(content), 100)]:
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(WeightsError, match="cut cannot be used"):
            load_weights(tmp_path / "cut")


def test_every_flipped_byte_is_noticed(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    rng = np.random.default_rng(1)
    (header,) = struct.unpack("<Q", content[:8])
    places = [*range(8), *rng.integers(8, 8 + header, 500), *rng.integers(0, len(content), 500)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= int(rng.integers(1, 256))
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(WeightsError):
            load_weights(tmp_path / "flipped")


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_foreign_files_are_refused_and_never_run(good: Path, tmp_path: Path) -> None:
    fuse = tmp_path / "exploded"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("../../outside", "x")
        z.writestr("archive/data.pkl", pickle.dumps(Bomb(fuse)))
    torch_file = io.BytesIO()
    torch.save({"_metadata": Bomb(fuse)}, torch_file)
    foreign = {
        "pickle": pickle.dumps(Bomb(fuse)),
        "zip": archive.getvalue(),
        "torch": torch_file.getvalue(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "text": b"weights, honestly",
        "json": json.dumps({"card": "x"}).encode(),
        "sealed pickle": pickle.dumps({"__metadata__": {"ase_xai": Bomb(fuse)}}),
        "huge header": struct.pack("<Q", 2**62) + b"{}",
        "nested json": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "other safetensors": tensors_to_bytes({"a": torch.zeros(2)}),
        "claims terabytes": _claims_terabytes(),
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} cannot be used"):
            load_weights(tmp_path / name)
    assert not fuse.exists() and not (tmp_path.parent / "outside").exists()
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(WeightsError, match="cannot read"):
            load_weights(missing)


def _claims_terabytes() -> bytes:
    """Well sealed, with one tensor of 1e12 elements and no data behind it."""
    tensor = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
    about = json.dumps({"sha256": "0" * 64, "card": {}})
    header = json.dumps({"__metadata__": {"ase_xai": about}, "a": tensor}).encode()
    content = struct.pack("<Q", len(header)) + header
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


REFUSE_WITH_LITTLE_MEMORY = """
import sys, time
from pathlib import Path
from ase_xai.weights import WeightsError, load_weights

load_weights(sys.argv[1])
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # kB
for path in sys.argv[2:]:
    before, started = peak(), time.perf_counter()
    try:
        load_weights(path)
    except WeightsError as error:
        print(error)
    else:
        sys.exit(f"{path} was accepted")
    assert peak() - before < 50_000 and time.perf_counter() - started < 5, (path, peak() - before)
"""


def test_cards_that_ask_for_too_much_take_neither_memory_nor_time(good: Path, tmp_path: Path) -> None:
    tensors, card = parts(good)
    paths = []
    for name, size in (("n_features", 3000), ("n_interactions", 20_000), ("n_features", 10**9), ("n_radial", 10**12)):
        paths.append(tmp_path / f"{name}-{size}")
        paths[-1].write_bytes(forged(tensors, {**card, "settings": {**card["settings"], name: size}}))
    os.truncate(tmp_path / "n_features-3000", 4 * 10**9)  # sparse: claims 4 GB on the disk
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", REFUSE_WITH_LITTLE_MEMORY, str(good), *map(str, paths), str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 5 and "not a regular file" in done.stdout and "asks for a size" in done.stdout


def test_well_sealed_files_that_do_not_fit_are_refused(good: Path, tmp_path: Path) -> None:
    tensors, card = parts(good)
    first = next(name for name in tensors if name.endswith("weight"))
    misfits = {
        "format version 2": (tensors, {**card, "format_version": 2}),
        "format version None": (tensors, {k: v for k, v in card.items() if k != "format_version"}),
        "unknown entries": (tensors, {**card, "surprise": 1}),
        "unknown architecture 'painn'": (tensors, {**card, "architecture": "painn"}),
        "missing": ({k: v for k, v in tensors.items() if k != first}, card),
        "extra": ({**tensors, "more": torch.zeros(1)}, card),
        "has shape": ({**tensors, first: torch.zeros(3, 3)}, card),
        "not a finite": ({**tensors, first: tensors[first] * float("nan")}, card),
        "int64": ({**tensors, first: tensors[first].to(torch.int64)}, card),
        "unexpected keyword": (tensors, {**card, "settings": {**card["settings"], "depth": 3}}),
        "distinct atomic numbers": (tensors, {**card, "settings": {**card["settings"], "elements": [1, 1, 500]}}),
        "cutoff must be positive": (tensors, {**card, "settings": {**card["settings"], "cutoff": -1}}),
        "references are for": (tensors, {**card, "references": {"H": 1.0}}),
        "its units are": (tensors, {**card, "units": {"energy": "kcal/mol", "length": "Bohr"}}),
        "must be finite": (tensors, {**card, "scale": "1.0"}),
        "must be finite numbers": (tensors, {**card, "shift": None}),
        "charges of its card": (tensors, {**card, "total_charges": ["0"]}),
        "card must be finite": (tensors, {**card, "references": {**card["references"], "H": float("nan")}}),
        "AttributeError": (tensors, {**card, "references": [1, 2]}),
        "not a table": (tensors, [1, 2]),
        "finite floating-point": ({**tensors, first: tensors[first].double() * 1e200}, card),
    }
    for reason, (some, about) in misfits.items():
        (tmp_path / "forged").write_bytes(forged(some, about))
        with pytest.raises(WeightsError, match=reason):
            load_weights(tmp_path / "forged")
    (tmp_path / "fine").write_bytes(forged(tensors, card))
    load_weights(tmp_path / "fine")


def test_a_failed_save_keeps_the_old_file(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_schnet(9)
    path = tmp_path / "w"
    path.write_bytes(good.read_bytes())

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ase_xai.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, network, ModelCard.describe(network, reference_kind="x"))
    assert path.read_bytes() == good.read_bytes() and [p.name for p in tmp_path.iterdir()] == ["w"]


def test_names_are_resolved_before_paths_and_the_nearest_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organic").write_text("a file of that name in the working folder")
    assert resolve("organic").card.architecture == "schnet"
    for odd in ("", "x" * 5000, "a\0b"):
        with pytest.raises(WeightsError, match="neither shipped weights"):
            resolve(odd)
    for wrong, nearest in (("organik", "organic"), ("organic_bp", "organic-bp")):
        with pytest.raises(WeightsError, match=f"Did you mean '{nearest}'"):
            resolve(wrong)


LEVELS = {"organic": "GFN2-xTB", "qm9": "B3LYP", "water": "RPBE-D3", "elements": "RPBE"}


def test_shipped_weights_are_small_and_described() -> None:
    for record in shipped():
        card, family = record.card, record.name.split("-")[0]
        assert record.n_bytes < 10_000_000 and card.license != "unknown" and card.training["files"]
        assert replace(card) == card and card.level_of_theory.startswith(LEVELS[family])
        largest = 0.1 if family == "elements" else 0.02  # heats of formation of 56 elements, 0.47 by composition alone
        assert card.errors["test"]["all"]["energy_mae_eV_per_atom"] < largest
        assert resolve(record.name).statistics is not None
        if family == "organic":
            assert set(card.errors["test"]) >= {"all", "cold", "thermal", "torsion", "dimer", "relaxation"}
