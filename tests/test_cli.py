"""The command line: what it prints, its exit codes, and that expected errors are one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed
from ase.io import read, write
from typer.testing import CliRunner

import ase_xai
from ase_xai import Explanation, contract, runs
from ase_xai import weights as weight_files
from ase_xai.cli import app, force_error
from ase_xai.networks import SchNetNetwork
from ase_xai.runs.frames import load_state
from ase_xai.weights.format import ModelCard, load_weights, save_weights

COMMAND = [sys.executable, "-m", "ase_xai.cli"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights, with an energy scale so small that molecules stay whole."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SchNetNetwork([1, 6, 7, 8], n_features=16, n_interactions=2, n_radial=10)
    network.energy.scale = 1e-3
    save_weights(path, network, ModelCard.describe(network, reference_kind="none"))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ethanol in it."""
    monkeypatch.chdir(tmp_path)
    write("ethanol.xyz", molecule("CH3CH2OH"))
    return tmp_path


Call = Callable[..., Any]


@pytest.fixture
def call(weights: str) -> Call:
    """Run a command; relax and md get the small weights unless others are named."""

    def run(*arguments: object) -> Any:
        words = [str(argument) for argument in arguments]
        if words[0] in ("relax", "md", "explain") and "--weights" not in words:
            words += ["--weights", weights]
        return CliRunner().invoke(app, words)

    return run


def assert_refused(result: Any, message: str, code: int = 2) -> None:
    assert result.exit_code == code
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr and "Traceback" not in result.output


def test_relax_writes_frames_and_prints_atoms(folder: Path, call: Call) -> None:
    result = call("relax", "ethanol.xyz", "--fmax", 0.001)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["atom", "element", "energy", "(eV)", "charge", "(e)"]
    assert lines[1].split()[:2] == ["0", "C"] and lines[9].split()[:2] == ["8", "H"]
    assert lines[10].startswith("relaxed in") and "largest force" in lines[11]
    assert lines[12].startswith("wrote ethanol.relax.traj")
    last = read("ethanol.relax.traj")
    assert float(lines[1].split()[2]) == pytest.approx(last.get_potential_energies()[0], abs=1e-4)
    assert float(lines[1].split()[3]) == pytest.approx(last.get_charges()[0], abs=1e-4)
    assert last.calc.parameters["sha256"] == load_weights(last.calc.parameters["weights"]).sha256


def test_table_ends_after_twenty_atoms(folder: Path, call: Call) -> None:
    two = molecule("C6H6")
    two.translate([0, 0, 9])
    write("two.xyz", molecule("C6H6") + two)
    result = call("relax", "two.xyz", "--steps", 0, "--fmax", 1e-9, "--output", "two.extxyz")
    assert "... 4 more atoms" in result.stdout and "not relaxed to 1e-09 eV/Å in 0 steps" in result.stdout
    assert len(read("two.extxyz").get_charges()) == 24


def test_md_restarts_where_it_ended(folder: Path, call: Call) -> None:
    common = ("md", "ethanol.xyz", "--interval", 3, "--temperature", 100)
    assert call(*common, "--steps", 30, "--output", "whole.traj").exit_code == 0
    assert call(*common, "--steps", 15, "--output", "parts.traj").exit_code == 0
    result = call(*common, "--steps", 30, "--output", "parts.traj", "--restart")
    assert result.exit_code == 0 and "15 fs of dynamics" in result.stdout and "11 frames" in result.stdout
    whole, parts = (load_state(Path(name)) for name in ("whole.traj", "parts.traj"))
    assert whole[0] == parts[0]
    assert_refused(call(*common, "--steps", 40, "--output", "parts.traj", "--restart", "--seed", 1), "seed is 1, was 0")
    assert_refused(call(*common, "--output", "parts.traj", "--restart", "--overwrite"), "Give one of them")
    assert_refused(call(*common, "--output", "parts.traj"), "parts.traj exists")


@pytest.mark.parametrize("thermostat", ["none", "bussi"])
def test_md_with_other_integrators(folder: Path, call: Call, thermostat: str) -> None:
    assert call("md", "ethanol.xyz", "--thermostat", thermostat, "--steps", 5).exit_code == 0
    assert read("ethanol.md.traj").has("momenta")


@pytest.mark.parametrize(("index", "n_atoms"), [((), 3), (("--index", "0"), 9), (("--index", "-2"), 9)])
def test_one_of_several_frames_is_taken(folder: Path, call: Call, index: tuple[str, ...], n_atoms: int) -> None:
    write("both.extxyz", [molecule("CH3CH2OH"), molecule("H2O")])
    assert call("relax", "both.extxyz", "--steps", 0, "--output", "one.traj", *index).exit_code == 0
    assert len(read("one.traj")) == n_atoms


@pytest.mark.parametrize("name", ["ethanol @ 300 K.xyz", "éthanol.xyz", "ethanol.traj", "ethanol.pdb", "ethanol.json"])
def test_names_and_formats_of_all_kinds(folder: Path, call: Call, name: str) -> None:
    write(name, molecule("CH3CH2OH"))
    result = call("relax", name, "--steps", 0)
    assert result.exit_code == 0, result.output
    assert Path(f"{name.rpartition('.')[0]}.relax.traj").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read bad.xyz: there is no such file"),
        (b"", "cannot read bad.xyz: it is empty (0 bytes)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "cannot read frame -1 of bad.xyz ("),
        (b"3\n\nH 0 0 0\nH 0 0", "cannot read frame -1 of bad.xyz ("),
        (b"0\n\n", "bad.xyz"),
    ],
)
def test_unreadable_structure_files_are_named(folder: Path, call: Call, content: bytes | None, message: str) -> None:
    if content is not None:
        Path("bad.xyz").write_bytes(content)
    for command in ("relax", "md"):
        assert_refused(call(command, "bad.xyz"), message)
    assert not list(folder.glob("*.traj"))


def test_pickles_are_not_opened(folder: Path, call: Call) -> None:
    """A pickle that would touch a file, under names that ASE might take for its own."""
    bomb = b"cos\nsystem\n(S'touch touched'\ntR."
    for name in ("bomb.traj", "bomb.trj", "bomb.pckl", "bomb.db", "bomb"):
        Path(name).write_bytes(bomb)
        assert_refused(call("relax", name), name)
        Path(name).write_bytes(b"PickleTrajectory" + bomb)
        assert_refused(call("relax", name), name)
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--index", "5"), "frame 5"),
        (("--output", "out.xyz"), "must end in .traj or .extxyz"),
        (("--output", "missing/out.traj"), "there is no folder missing"),
        (("--output", "ethanol.xyz", "--overwrite"), "is the input file"),
        (("--weights", "no such weights"), "no such weights"),
        (("--weights", "ethanol.xyz"), "ethanol.xyz cannot be used"),
        (("--charge", "1"), "total charge +1 e"),
        (("--device", "cuda"), "no CUDA device"),
        (("--steps", "-1"), "steps"),
    ],
)
def test_impossible_requests_are_one_line(folder: Path, call: Call, arguments: tuple[str, ...], message: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    for command in ("relax", "md"):
        assert_refused(call(command, "ethanol.xyz", *arguments), message)
    assert not list(folder.glob("*.traj"))


def test_unknown_element_is_named(folder: Path, call: Call) -> None:
    write("salt.xyz", Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    assert_refused(call("relax", "salt.xyz"), "Na, Cl")


def test_explosion_has_its_own_exit_code(folder: Path, call: Call) -> None:
    write("close.xyz", Atoms("C2", [[0, 0, 0], [0, 0, 0.4]]))
    assert_refused(call("md", "close.xyz"), "step 0: atoms 0 and 1 are 0.400 Å apart", code=1)


def test_calculator_errors_are_expected_and_bugs_are_not(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[..., None]:
        def run(*_: object, **__: object) -> None:
            raise error

        return run

    monkeypatch.setattr(runs, "relax", fail(CalculationFailed("no energy\nfor this")))
    assert_refused(call("relax", "ethanol.xyz"), "no energy for this")
    monkeypatch.setattr(runs, "relax", fail(FileNotFoundError(2, "No such file or directory", "x.traj")))
    assert_refused(call("relax", "ethanol.xyz"), "x.traj: No such file or directory")
    monkeypatch.setattr(runs, "relax", fail(KeyError("a bug")))
    result = call("relax", "ethanol.xyz")
    assert isinstance(result.exception, KeyError) and "error:" not in result.stderr


def test_models_are_listed(weights: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_weights(weights)
    card, sha256 = loaded.card, loaded.sha256
    card = ModelCard(**{**vars(card), "errors": {"test": {"all": {"energy": 1.0, "forces_mae_eV_per_A": 0.0456}}}})
    record = weight_files.ShippedWeights("small", card, sha256, 12_345_678)
    monkeypatch.setattr(weight_files, "shipped", lambda: [record])
    header, row = call("models").stdout.splitlines()
    assert header.split()[:3] == ["name", "architecture", "elements"]
    assert row.split() == ["small", "schnet", "H", "C", "N", "O", "unknown", "0.046", "eV/Å", "12.3", "MB", sha256[:12]]
    (listed,) = json.loads(call("models", "--json").stdout)
    assert (listed["name"], listed["sha256"], listed["n_bytes"]) == ("small", sha256, 12_345_678)
    assert listed["card"]["settings"]["elements"] == [1, 6, 7, 8]
    monkeypatch.setattr(weight_files, "shipped", list)
    assert call("models").exit_code == 0


def test_force_error_is_found_or_unknown() -> None:
    assert force_error({}) is None
    assert force_error({"test": {"energy": 1.0}, "more": {"all": {"forces_mae_eV_per_A": 0.1}}}) == 0.1


def test_check_prints_each_figure(weights: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("check", weights)
    assert result.exit_code == 0, result.output
    title, *lines, last = result.stdout.splitlines()
    assert "schnet" in title and len(lines) == len(contract.CONTRACT)
    assert all(line.startswith("pass  ") and "(at most" in line and line.endswith(" s") for line in lines)
    assert last == f"{len(lines)} of {len(lines)} checks passed"
    name = next(iter(contract.CONTRACT))
    monkeypatch.setattr(contract, "CONTRACT", {name: (lambda probe: 1.0, 1e-8, "eV")})
    result = call("check", weights)
    assert result.exit_code == 1 and "FAIL  " in result.stdout and "0 of 1 checks passed" in result.stdout
    assert_refused(call("check", "no such weights"), "no such weights")


def test_version_and_help(call: Call) -> None:
    assert call("--version").stdout == f"ase-xai {ase_xai.__version__}\n"
    assert all(command in call("--help").stdout for command in ("relax", "md", "models", "check"))
    assert call("bogus").exit_code == 2


def test_help_imports_nothing_slow() -> None:
    code = "import ase_xai.cli, sys; print([m for m in ('torch', 'ase', 'numpy', 'scipy', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_interrupted_command_ends_in_order_and_restarts(folder: Path, weights: str) -> None:
    """Ctrl-C in a real process: exit code 130, one line that says how to continue, and a restart to the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*COMMAND, "md", "ethanol.xyz", "--weights", weights, "--interval", "1", "--temperature", "50", "--steps"]
    process = subprocess.Popen(
        [*words, "1000000"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    end = time.monotonic() + 60
    while not Path("ethanol.md.traj.restart.json").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.startswith("interrupted after step") and "--restart" in message and message.count("\n") == 1
    state, mark = load_state(Path("ethanol.md.traj"))
    assert len(read("ethanol.md.traj", ":")) == mark.frames == state["step"] + 1
    more = str(state["step"] + 10)
    result = CliRunner().invoke(app, [*words[3:], more, "--restart"])
    assert result.exit_code == 0, result.output
    assert len(read("ethanol.md.traj", ":")) == mark.frames + 10


def test_explain_prints_and_writes_answers(folder: Path, call: Call) -> None:
    result = call("explain", "ethanol.xyz", "--out", "answers")
    assert result.exit_code == 0, result.output
    assert "AtomicEnergies: energy by atom" in result.stdout and "gauge: dependent" in result.stdout
    energies = Explanation.load("answers/ethanol.atomic-energies.json")
    charges = Explanation.load("answers/ethanol.latent-charges.json")
    atoms = read("answers/ethanol.explained.extxyz")
    assert atoms.arrays["xai_energy"] == pytest.approx(energies.values, abs=1e-6)
    assert atoms.arrays["xai_charge"] == pytest.approx(charges.values, abs=1e-6)
    assert f"{energies.values[0]:.4f}" in result.stdout
    assert Path("answers/ethanol.latent-charges.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("answers/ethanol.atomic-energies.png").exists()  # these weights know no reference to draw them against
    assert "3Dmol" in Path("answers/ethanol.latent-charges.html").read_text(encoding="utf-8")
    assert_refused(call("explain", "ethanol.xyz", "--out", "answers"), "exists")
    assert call("explain", "ethanol.xyz", "--out", "answers", "--overwrite").exit_code == 0


def test_explain_takes_questions_and_their_settings(folder: Path, call: Call) -> None:
    result = call("explain", "ethanol.xyz", "--what", "element-embeddings", "--set", "n_components=1", "--set", "seed=3")
    assert result.exit_code == 0, result.output
    assert "element embedding 0 (1)" in result.stdout
    assert "p = " in result.stdout
    listed = call("explain", "ethanol.xyz", "--list")
    assert "atomic-energies" in listed.stdout and "n_permutations" in listed.stdout
    assert_refused(call("explain", "ethanol.xyz", "--what", "lime"), "there is no question 'lime'; there are")
    assert_refused(call("explain", "ethanol.xyz", "--set", "color=1"), "none of these questions has a setting color")
    assert_refused(call("explain", "ethanol.xyz", "--set", "color"), "--set takes NAME=VALUE")
    assert_refused(call("explain", "ethanol.xyz", "--what", "local-rigidity"), "no training statistics")
