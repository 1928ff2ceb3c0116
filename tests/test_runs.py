"""Runs survive Ctrl-C, a full disk, kill -9 and explosions; frames and restarts are exact.

Processes that get killed or limited are forked from the test, so that they start at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read

from ase_xai import load, runs
from ase_xai.networks import SchNetNetwork
from ase_xai.runs import MDSettings, RunError, RunExploded, RunInterrupted, StorageError, dynamics, frames, relax, run_md
from ase_xai.runs.frames import FrameFile, Signals
from ase_xai.runs.steps import frame_of
from ase_xai.weights import ModelCard, save_weights

SUFFIXES = (".traj", ".extxyz")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C acts, also where the tests run in the background and it would be ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


class Springs(Calculator):
    """Springs between all atoms, E = Σ_pairs k/2 (r - r0)²; charges follow the strain and sum to zero."""

    name = "springs"
    implemented_properties = ["energy", "free_energy", "energies", "forces", "charges"]  # noqa: RUF012
    default_parameters = {"k": 5.0}  # noqa: RUF012

    def __init__(self, rest: Atoms, *, delay: float = 0.0, fault_at: int | None = None, **parameters: float) -> None:
        super().__init__(**parameters)
        self.rest, self.delay, self.fault_at, self.n_evaluations = rest.get_all_distances(), delay, fault_at, 0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms, properties or ["energy"], system_changes or [])
        time.sleep(self.delay if self.n_evaluations else 0.0)
        vectors = self.atoms.positions[None] - self.atoms.positions[:, None]  # (N, N, 3)
        distances = np.linalg.norm(vectors, axis=2)
        stretch = np.where(distances > 0, distances - self.rest, 0.0)
        pull = self.parameters["k"] * stretch / np.where(distances > 0, distances, 1.0)
        energies = 0.25 * self.parameters["k"] * (stretch**2).sum(axis=1)
        forces = (pull[:, :, None] * vectors).sum(axis=1)
        if self.n_evaluations == self.fault_at:
            forces[2, 1] = np.nan
        charges = stretch.sum(axis=1) - stretch.sum(axis=1).mean()
        energy = float(energies.sum())
        self.results = {"energy": energy, "free_energy": energy, "energies": energies, "forces": forces, "charges": charges}
        self.n_evaluations += 1


class Picky(Springs):
    """Refuses its second geometry, as a calculator does that finds no energy."""

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        if self.n_evaluations:
            raise InputError("out of reach.")
        super().calculate(atoms, properties, system_changes)


def make_atoms(name: str = "CH3OH", **settings: Any) -> Atoms:
    atoms = molecule(name)
    atoms.calc = Springs(atoms, **settings)
    return atoms


def frames_of(path: Path) -> list[Atoms]:
    frames = read(path, ":")
    assert isinstance(frames, list)
    return frames


def assert_same_frames(one: Path, other: Path) -> None:
    a, b = frames_of(one), frames_of(other)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.info == y.info
        assert (x.positions == y.positions).all()
        assert (x.get_momenta() == y.get_momenta()).all()
        assert x.calc.results.keys() == y.calc.results.keys()
        assert all(np.array_equal(x.calc.results[k], y.calc.results[k]) for k in x.calc.results)


def assert_same_end(one: Path, other: Path) -> None:
    """Equal positions, momenta and random state after the last step, to the bit."""
    a, b = (frames.load_state(path)[0] for path in (one, other))
    assert a == b


@contextlib.contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """Writing beyond `n_bytes` of any file fails, as on a full disk (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def forked(function: Callable[[], object]) -> int:
    """Start `function` in a process of its own; 0 if it ends well, 130 if interrupted, 1 if it fails."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return child


def exit_code_of(child: int, *, within: float) -> int:
    end = time.monotonic() + within
    while time.monotonic() < end:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the process still ran after {within} s")


def wait_for_frames(path: Path, n_frames: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # not there yet, or empty
            if len(frames_of(path)) >= n_frames:
                return
        time.sleep(0.01)
    raise AssertionError(f"{path.name} never had {n_frames} frames")


# --- what is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_hold_the_results_of_each_step(tmp_path: Path, suffix: str) -> None:
    atoms = make_atoms()
    summary = run_md(atoms, tmp_path / f"run{suffix}", MDSettings(steps=20, interval=5))
    frames = frames_of(summary.output)
    assert [frame.info["step"] for frame in frames] == [0, 5, 10, 15, 20]
    assert frames[-1].info["time_fs"] == 10.0
    precision = {"rtol": 0, "atol": 0 if suffix == ".traj" else 1e-8}
    for name, value in atoms.calc.results.items():
        np.testing.assert_allclose(frames[-1].calc.results[name], value, **precision)
    np.testing.assert_allclose(frames[-1].positions, atoms.positions, **precision)
    for frame in frames:
        assert frame.get_potential_energies().sum() == pytest.approx(frame.get_potential_energy(), abs=1e-6)
        assert abs(frame.get_charges().sum()) < 1e-6
    assert all(np.abs(frame.get_charges()).max() > 1e-4 for frame in frames[1:])
    assert (summary.frames, summary.step, summary.finished) == (5, 20, True)
    assert summary.energy == atoms.get_potential_energy()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_restart_refuses_the_output_of_another_run(tmp_path: Path, suffix: str) -> None:
    """Same molecule, same number of bytes and first bytes; only the frames are others."""
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
    run_md(make_atoms(), ours, MDSettings(steps=10, interval=1, seed=1))
    run_md(make_atoms(), theirs, MDSettings(steps=10, interval=1, seed=2))
    kept = ours.read_bytes()
    flipped = bytearray(kept)
    flipped[-200] ^= 1
    for content in (theirs.read_bytes(), bytes(flipped)):
        ours.write_bytes(content)
        with pytest.raises(RunError, match=r"is not the file that .* belongs to, or was changed"):
            run_md(make_atoms(), ours, MDSettings(steps=20, interval=1, seed=1), restart=True)
        assert ours.read_bytes() == content
    ours.write_bytes(kept)
    assert run_md(make_atoms(), ours, MDSettings(steps=20, interval=1, seed=1), restart=True).frames == 21


def test_restart_finds_the_same_weights_under_another_path(tmp_path: Path) -> None:
    network = SchNetNetwork([1, 6, 7, 8], n_features=8, n_interactions=1)
    for name in ("here", "there"):
        save_weights(tmp_path / name, network, ModelCard.describe(network, reference_kind="none"))
    atoms = molecule("CH3OH")
    atoms.calc = load(tmp_path / "here")
    run_md(atoms, tmp_path / "run.traj", MDSettings(steps=2, timestep=0.1))
    atoms.calc = load(tmp_path / "there")
    assert run_md(atoms, tmp_path / "run.traj", MDSettings(steps=4, timestep=0.1), restart=True).step == 4
    atoms.calc = load(tmp_path / "there", dtype="float64")
    with pytest.raises(RunError, match="dtype is 'float64', was 'float32'"):
        run_md(atoms, tmp_path / "run.traj", MDSettings(steps=6, timestep=0.1), restart=True)


@pytest.mark.parametrize("settings", [{"steps": 10.5}, {"interval": 2.5}, {"seed": 1.5}])
def test_counts_must_be_integers(settings: dict[str, float]) -> None:
    with pytest.raises(RunError, match="must be an integer"):
        MDSettings(**settings)


def test_traj_names_the_calculator_and_its_parameters(tmp_path: Path) -> None:
    run_md(make_atoms(k=4.0), tmp_path / "run.traj", MDSettings(steps=1, interval=1))
    frame = frames_of(tmp_path / "run.traj")[-1]
    assert frame.calc.name == "springs" and frame.calc.parameters["k"] == 4.0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("interval", [1, 7])
def test_dynamics_make_one_evaluation_per_step(tmp_path: Path, suffix: str, interval: int) -> None:
    atoms = make_atoms()
    run_md(atoms, tmp_path / f"run{suffix}", MDSettings(steps=20, interval=interval))
    assert atoms.calc.n_evaluations == 21


@pytest.mark.parametrize("optimizer", ["BFGS", "FIRE", "LBFGS"])
def test_relaxation_converges_with_one_evaluation_per_step(tmp_path: Path, optimizer: str) -> None:
    atoms = make_atoms()
    atoms.rattle(0.1, seed=1)
    summary = relax(atoms, tmp_path / "run.traj", optimizer=optimizer)
    assert summary.finished and summary.max_force <= 0.02
    assert len(frames_of(summary.output)) == summary.frames == summary.step + 1 == atoms.calc.n_evaluations


def test_relaxation_stops_at_the_number_of_steps(tmp_path: Path) -> None:
    atoms = make_atoms()
    atoms.rattle(0.1, seed=1)
    summary = relax(atoms, tmp_path / "run.traj", steps=2, fmax=1e-6)
    assert (summary.finished, summary.step, summary.frames) == (False, 2, 3)


def test_cell_is_relaxed_on_demand(tmp_path: Path) -> None:
    crystal = bulk("Ar", "fcc", a=5.0, cubic=True)
    crystal.calc = LennardJones(epsilon=0.0103, sigma=3.4, rc=8.0, smooth=True)
    summary = relax(crystal, tmp_path / "run.traj", cell=True, fmax=1e-3)
    assert summary.finished and np.abs(crystal.get_stress()).max() < 1e-3
    assert frames_of(summary.output)[0].cell.volume < crystal.cell.volume


def test_cell_of_a_molecule_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises((PropertyNotImplementedError, ValueError)):
        relax(make_atoms(), tmp_path / "run.traj", cell=True)
    assert not list(tmp_path.iterdir())


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = repr(np.random.get_state())
    run_md(make_atoms(), tmp_path / "run.traj", MDSettings(steps=5))
    assert repr(np.random.get_state()) == before


def test_seed_decides_the_run(tmp_path: Path) -> None:
    ends = []
    for seed in (1, 1, 2):
        atoms = make_atoms()
        run_md(atoms, tmp_path / "run.traj", MDSettings(steps=5, seed=seed), overwrite=True)
        ends.append(atoms.positions)
    assert (ends[0] == ends[1]).all() and not (ends[0] == ends[2]).all()


def test_runs_work_outside_the_main_thread(tmp_path: Path) -> None:
    summaries: list[runs.RunSummary] = []
    thread = threading.Thread(
        target=lambda: summaries.append(run_md(make_atoms(), tmp_path / "run.traj", MDSettings(steps=5)))
    )
    thread.start()
    thread.join()
    assert summaries[0].finished


# --- thermodynamics -----------------------------------------------------------------------------------------------------


def test_nve_has_no_drift_and_conserves_energy(tmp_path: Path) -> None:
    atoms = make_atoms()
    run_md(atoms, tmp_path / "run.traj", MDSettings(steps=200, thermostat="none", timestep=0.2, interval=20))
    totals = [frame.get_total_energy() for frame in frames_of(tmp_path / "run.traj")]
    assert np.ptp(totals) < 2e-3
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10


@pytest.mark.parametrize(
    ("name", "thermostat", "degrees_of_freedom"),
    [("H2O", "none", 3), ("H2O", "langevin", 9), ("N2", "bussi", 1), ("CO2", "none", 4), ("Ar", "none", 1)],
)
def test_conserved_motions_do_not_count_as_temperature(
    tmp_path: Path, name: str, thermostat: str, degrees_of_freedom: int
) -> None:
    atoms = Atoms("Ar") if name == "Ar" else molecule(name)
    atoms.calc = Springs(atoms)
    run_md(atoms, tmp_path / "run.traj", MDSettings(steps=1, thermostat=thermostat))
    assert frames.load_state(tmp_path / "run.traj")[0]["degrees_of_freedom"] == degrees_of_freedom


@pytest.mark.parametrize("thermostat", ["langevin", "bussi"])
def test_thermostats_reach_their_temperature(tmp_path: Path, thermostat: str) -> None:
    settings = MDSettings(steps=2000, thermostat=thermostat, timestep=1.0, friction=0.05, interval=10, seed=3)
    run_md(make_atoms(), tmp_path / "run.traj", settings)
    counted = frames.load_state(tmp_path / "run.traj")[0]["degrees_of_freedom"]
    kinetic = np.mean([frame.get_kinetic_energy() for frame in frames_of(tmp_path / "run.traj")[100:]])
    assert 2 * kinetic / (units.kB * counted) == pytest.approx(300, rel=0.15)


def test_momenta_can_be_kept(tmp_path: Path) -> None:
    run_md(make_atoms(), tmp_path / "equilibration.traj", MDSettings(steps=20, interval=20))
    last = frames_of(tmp_path / "equilibration.traj")[-1]
    last.calc = Springs(molecule("CH3OH"))
    run_md(last, tmp_path / "run.traj", MDSettings(steps=0, keep_momenta=True))
    start = frames_of(tmp_path / "run.traj")[0]
    assert (start.get_momenta() == frames_of(tmp_path / "equilibration.traj")[-1].get_momenta()).all()
    with pytest.raises(RunError, match="no momenta to keep"):
        run_md(make_atoms(), tmp_path / "none.traj", MDSettings(keep_momenta=True))


# --- restart ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("thermostat", ["langevin", "bussi", "none"])
def test_restarted_run_equals_an_uninterrupted_one(tmp_path: Path, suffix: str, thermostat: str) -> None:
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    run_md(make_atoms(), whole, MDSettings(steps=40, interval=3, thermostat=thermostat))
    run_md(make_atoms(), parts, MDSettings(steps=20, interval=3, thermostat=thermostat))
    summary = run_md(make_atoms(), parts, MDSettings(steps=40, interval=3, thermostat=thermostat), restart=True)
    assert summary.finished and summary.frames == 14
    assert_same_frames(whole, parts)
    assert_same_end(whole, parts)


def test_restart_is_exact_with_constraints_and_a_cell(tmp_path: Path) -> None:
    def make_crystal() -> Atoms:
        crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
        crystal.set_constraint(FixAtoms([0]))
        crystal.calc = LennardJones(epsilon=0.0103, sigma=3.4, rc=8.0)
        return crystal

    settings = {"temperature": 40.0, "timestep": 4.0, "interval": 2}
    run_md(make_crystal(), tmp_path / "whole.traj", MDSettings(steps=20, **settings))
    run_md(make_crystal(), tmp_path / "parts.traj", MDSettings(steps=9, **settings))
    run_md(make_crystal(), tmp_path / "parts.traj", MDSettings(steps=20, **settings), restart=True)
    assert_same_frames(tmp_path / "whole.traj", tmp_path / "parts.traj")
    assert_same_end(tmp_path / "whole.traj", tmp_path / "parts.traj")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_restart_exactly(tmp_path: Path, suffix: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 at random moments, again and again; the last process finishes the run."""
    monkeypatch.setattr(runs, "STATE_SECONDS", 0.03)
    whole, parts, settings = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}", MDSettings(steps=300, interval=2)
    run_md(make_atoms(), whole, settings)
    random, kills = np.random.default_rng(seed), 0

    def go_on() -> None:
        resumable = frames.state_path(parts).exists()
        run_md(make_atoms(delay=0.002), parts, settings, restart=resumable, overwrite=not resumable)

    for _ in range(50):
        child = forked(go_on)
        time.sleep(random.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    else:
        raise AssertionError("the run did not get ahead")
    assert kills >= 2
    assert_same_frames(whole, parts)
    assert_same_end(whole, parts)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_after_the_saved_state_are_cut_off(tmp_path: Path, suffix: str) -> None:
    """As after kill -9 between two states: the file is ahead of the state, and its index block may have moved."""
    whole, ahead = tmp_path / f"whole{suffix}", tmp_path / f"ahead{suffix}"
    run_md(make_atoms(), whole, MDSettings(steps=60, interval=1))
    run_md(make_atoms(), ahead, MDSettings(steps=30, interval=1))
    early = frames.state_path(ahead).read_bytes()
    run_md(make_atoms(), ahead, MDSettings(steps=60, interval=1), restart=True)
    frames.state_path(ahead).write_bytes(early)
    with ahead.open("ab") as file:
        file.write(b"half a frame")
    run_md(make_atoms(), ahead, MDSettings(steps=60, interval=1), restart=True)
    assert_same_frames(whole, ahead)
    assert_same_end(whole, ahead)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 42, 43])
def test_state_saved_just_after_the_index_has_moved(tmp_path: Path, suffix: str, n_steps: int) -> None:
    """The free places of a .traj file's new index are then among the last bytes, and are filled before the kill."""
    path = tmp_path / f"run{suffix}"
    run_md(make_atoms(), path, MDSettings(steps=n_steps, interval=1))
    early = frames.state_path(path).read_bytes()
    run_md(make_atoms(), path, MDSettings(steps=n_steps + 2, interval=1), restart=True)
    frames.state_path(path).write_bytes(early)
    run_md(make_atoms(), path, MDSettings(steps=n_steps + 2, interval=1), restart=True)
    assert len(frames_of(path)) == n_steps + 3


@pytest.mark.parametrize(
    ("atoms", "settings", "message"),
    [
        (make_atoms(), MDSettings(steps=9, interval=1, friction=0.02), "friction is 0.02, was 0.01"),
        (make_atoms(), MDSettings(steps=9, interval=1, timestep=1.0, seed=1), r"timestep is 1.0, was 0.5; seed is 1, was 0"),
        (make_atoms("CH3SH"), MDSettings(steps=9, interval=1), r"atomic numbers is .*; masses is"),
        (make_atoms(k=4.0), MDSettings(steps=9, interval=1), "calculator's k is 4.0, was None"),
    ],
)
def test_restart_of_another_run_is_refused(tmp_path: Path, atoms: Atoms, settings: MDSettings, message: str) -> None:
    path = tmp_path / "run.traj"
    run_md(make_atoms(), path, MDSettings(steps=4, interval=1))
    before = path.read_bytes()
    with pytest.raises(RunError, match=message):
        run_md(atoms, path, settings, restart=True)
    assert path.read_bytes() == before


def test_restart_needs_output_and_state(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no .*run\.traj\.restart\.json and no .*run\.traj"):
        run_md(make_atoms(), tmp_path / "run.traj", restart=True)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"[]", b"{}", b'{"format": 7}', b"[" * 100_000, None])
def test_damaged_state_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.traj"
    run_md(make_atoms(), path, MDSettings(steps=2))
    state = frames.state_path(path)
    state.write_bytes(state.read_bytes()[:-200] if content is None else content)
    with pytest.raises(RunError, match=r"cannot restart from .*restart\.json"):
        run_md(make_atoms(), path, MDSettings(steps=4), restart=True)


def test_flipped_bytes_in_the_state_never_give_another_run(tmp_path: Path) -> None:
    path, random = tmp_path / "run.traj", np.random.default_rng(0)
    run_md(make_atoms(), path, MDSettings(steps=2))
    good, content = frames.load_state(path), frames.state_path(path).read_bytes()
    for place in random.integers(len(content), size=500):
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.integers(8)
        frames.state_path(path).write_bytes(flipped)
        with contextlib.suppress(RunError):
            assert frames.load_state(path) == good  # a blank that became another kind of blank


def test_state_with_missing_entries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.traj"
    run_md(make_atoms(), path, MDSettings(steps=2))
    state, mark = frames.load_state(path)
    del state["rng"]
    frames.save_state(path, state, mark)
    with pytest.raises(RunError, match="no state of dynamics"):
        run_md(make_atoms(), path, MDSettings(steps=4), restart=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_output_that_does_not_belong_to_the_state_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    run_md(make_atoms(), path, MDSettings(steps=4, interval=1))
    whole = path.read_bytes()
    for content in (whole[:-1], b"x" * len(whole), b""):
        path.write_bytes(content)
        with pytest.raises(RunError, match="was changed"):
            run_md(make_atoms(), path, MDSettings(steps=8, interval=1), restart=True)
        assert path.read_bytes() == content


# --- outputs ------------------------------------------------------------------------------------------------------------


def test_existing_output_is_kept_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.traj"
    path.write_text("precious")
    for run in (run_md, relax):
        with pytest.raises(RunError, match="exists"):
            run(make_atoms(), path)
    assert path.read_text() == "precious"
    run_md(make_atoms(), path, MDSettings(steps=3, interval=1), overwrite=True)
    assert len(frames_of(path)) == 4
    relax(make_atoms(), path, overwrite=True)
    assert len(frames_of(path)) == 1 and not frames.state_path(path).exists()


def test_atoms_and_a_calculator_are_needed(tmp_path: Path) -> None:
    for run in (run_md, relax):
        with pytest.raises(RunError, match=r"Set atoms\.calc"):
            run(molecule("H2O"), tmp_path / "run.traj")


def test_output_is_replaced_only_after_a_first_evaluation(tmp_path: Path) -> None:
    class Refusing(Springs):
        def calculate(self, *_: Any, **__: Any) -> None:
            raise InputError("unknown element.")

    path, atoms = tmp_path / "run.traj", molecule("CH3OH")
    path.write_text("precious")
    atoms.calc = Refusing(atoms)
    for run in (run_md, relax):
        with pytest.raises(InputError):
            run(atoms, path, overwrite=True)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "message"),
    [("run.xyz", r"must end in \.traj or \.extxyz"), ("run", "must end"), ("missing/run.traj", "no folder")],
)
def test_impossible_outputs_are_refused(tmp_path: Path, name: str, message: str) -> None:
    for run in (run_md, relax):
        with pytest.raises(RunError, match=message):
            run(make_atoms(), tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match="Permission denied"):
        relax(make_atoms(), tmp_path / "run.traj")


def test_blanks_and_letters_of_all_kinds_in_paths(tmp_path: Path) -> None:
    folder = tmp_path / "où est l'été @ 1"
    folder.mkdir()
    for suffix in SUFFIXES:
        run_md(make_atoms(), folder / f"läuft {suffix}", MDSettings(steps=3, interval=1))
        summary = run_md(make_atoms(), folder / f"läuft {suffix}", MDSettings(steps=5, interval=1), restart=True)
        assert summary.frames == 6


def test_output_of_another_run_is_locked(tmp_path: Path) -> None:
    with FrameFile(tmp_path / "run.traj"), pytest.raises(RunError, match="another run"):
        run_md(make_atoms(), tmp_path / "run.traj", overwrite=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be finite and not negative, got -1.0 K"),
        ({"timestep": 0.0}, "timestep must be finite and positive, got 0.0 fs"),
        ({"friction": float("nan")}, "friction .* got nan/fs"),
        ({"interval": 0}, "interval"),
        ({"steps": -1}, "steps"),
        ({"seed": -1}, "seed"),
        ({"thermostat": "nose"}, "langevin, bussi, none, got 'nose'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        MDSettings(**settings)


@pytest.mark.parametrize("settings", [{"optimizer": "Newton"}, {"fmax": 0.0}, {"fmax": float("nan")}, {"steps": -1}])
def test_impossible_relaxations_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="Optimizers: BFGS"):
        relax(make_atoms(), tmp_path / "run.traj", **settings)


# --- interruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_interrupted_dynamics_leave_everything_in_order(tmp_path: Path, suffix: str, number: int) -> None:
    whole, parts, settings = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}", MDSettings(steps=100, interval=2)
    run_md(make_atoms(), whole, settings)
    child = forked(lambda: run_md(make_atoms(delay=0.02), parts, settings))
    wait_for_frames(parts, 5)
    os.kill(child, number)
    assert exit_code_of(child, within=2.0) == 130
    state, mark = frames.load_state(parts)
    assert 8 <= state["step"] < 100
    assert mark.frames == len(frames_of(parts)) == state["step"] // 2 + 1
    run_md(make_atoms(), parts, settings, restart=True)
    assert_same_frames(whole, parts)
    assert_same_end(whole, parts)


def test_interruption_acts_within_a_long_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "run.traj"
    child = forked(lambda: run_md(make_atoms(delay=5.0), path, MDSettings(steps=3, interval=1)))
    wait_for_frames(path, 1)
    os.kill(child, signal.SIGINT)
    assert exit_code_of(child, within=2.0) == 130
    assert len(frames_of(path)) == 1 and frames.load_state(path)[0]["step"] == 0


def test_interruption_says_how_to_continue(tmp_path: Path) -> None:
    class Interrupting(Springs):
        def calculate(self, *arguments: Any, **named: Any) -> None:
            super().calculate(*arguments, **named)
            if self.n_evaluations == 4:
                os.kill(os.getpid(), signal.SIGINT)

    for run, how in ((run_md, "--restart"), (relax, r"relax .*run\.traj")):
        atoms = molecule("CH3OH")
        atoms.calc = Interrupting(atoms)
        atoms.rattle(0.1, seed=1)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(RunInterrupted, match=f"interrupted after step 2.*{how}"):
            run(atoms, tmp_path / "run.traj", overwrite=True)
        assert signal.getsignal(signal.SIGINT) is before
        assert frames_of(tmp_path / "run.traj")[-1].info["step"] == (0 if run is run_md else 2)


def test_signals_wait_while_books_are_kept() -> None:
    done = False
    with pytest.raises(RunInterrupted), Signals() as signals:
        with signals.held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done = True
        raise AssertionError("not reached")
    assert done
    with pytest.raises(RunInterrupted), Signals():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_ignored_signals_stay_ignored() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


# --- full disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_leaves_whole_frames_at_every_possible_place(tmp_path: Path, suffix: str) -> None:
    """The disk ends inside the 2nd, 43rd or 44th frame: with the 43rd, a .traj file gets a new index block."""
    frame = frame_of(_evaluated(make_atoms()), step=0)
    with FrameFile(tmp_path / f"all{suffix}") as frames:
        marks = [frames.mark]
        for _ in range(44):
            frames.append(frame)
            marks.append(frames.mark)
    whole = (tmp_path / f"all{suffix}").read_bytes()
    for n_frames in (1, 42, 43):
        start, end = marks[n_frames].n_bytes, marks[n_frames + 1].n_bytes
        for limit in [start, start + 1, end - 1, *range(start + 7, end, 197)]:
            path = tmp_path / f"cut{suffix}"
            path.write_bytes(whole)
            message = rf"{n_frames} complete frames"
            with (
                FrameFile(path, marks[n_frames]) as frames,
                file_size_limit(limit),
                pytest.raises(StorageError, match=message),
            ):
                frames.append(frame)
            assert path.stat().st_size == start
            kept = frames_of(path)
            assert len(kept) == n_frames
            assert (kept[-1].positions == kept[0].positions).all()
            assert (kept[-1].get_charges() == kept[0].get_charges()).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_run_on_a_full_disk_stops_and_goes_on_with_more_room(tmp_path: Path, suffix: str) -> None:
    whole, parts, settings = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}", MDSettings(steps=60, interval=1)
    run_md(make_atoms(), whole, settings)
    with file_size_limit(whole.stat().st_size // 2), pytest.raises(StorageError, match=r"cannot write frame \d+ .* restart"):
        run_md(make_atoms(), parts, settings)
    assert 20 < len(frames_of(parts)) < 40
    run_md(make_atoms(), parts, settings, restart=True)
    assert_same_frames(whole, parts)
    assert_same_end(whole, parts)


def test_relaxation_on_a_full_disk_stops(tmp_path: Path) -> None:
    atoms = make_atoms()
    atoms.rattle(0.2, seed=1)
    with file_size_limit(10_000), pytest.raises(StorageError, match="complete frames"):
        relax(atoms, tmp_path / "run.traj", fmax=1e-6)
    assert len(frames_of(tmp_path / "run.traj")) >= 2


def test_state_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    first, path = tmp_path / "first.extxyz", tmp_path / "run.extxyz"
    run_md(make_atoms(), first, MDSettings(steps=0))
    frame_size, state_size = first.stat().st_size, frames.state_path(first).stat().st_size
    with file_size_limit((frame_size + state_size) // 2), pytest.raises(StorageError, match="state for a restart"):
        run_md(make_atoms(), path)
    assert len(frames_of(path)) == 1
    assert not [p for p in tmp_path.iterdir() if path.name in p.name and p != path]


def test_frame_that_cannot_be_expressed_is_taken_back(tmp_path: Path) -> None:
    good = frame_of(_evaluated(make_atoms()), step=0)
    bad = frame_of(_evaluated(make_atoms()), step=1)
    bad.calc.parameters["model"] = object()
    with FrameFile(tmp_path / "run.traj") as frames:
        frames.append(good)
        with pytest.raises(TypeError):
            frames.append(bad)
    assert len(frames_of(tmp_path / "run.traj")) == 1


def _evaluated(atoms: Atoms) -> Atoms:
    atoms.get_forces()
    return atoms


# --- explosions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "distance", "explodes"),
    [("CC", 0.4, True), ("CC", 0.55, False), ("HC", 0.4, False), ("HC", 0.25, True), ("HH", 0.25, True)],
)
def test_atoms_too_close_at_the_start(tmp_path: Path, symbols: str, distance: float, explodes: bool) -> None:
    atoms = Atoms(symbols, [[0, 0, 0], [0, 0, distance]])
    atoms.calc = Springs(atoms)
    if explodes:
        with pytest.raises(RunExploded, match=rf"step 0: atoms 0 and 1 are {distance:.3f} Å apart"):
            run_md(atoms, tmp_path / "run.traj", MDSettings(steps=1))
        assert not list(tmp_path.iterdir())
    else:
        assert run_md(atoms, tmp_path / "run.traj", MDSettings(steps=1)).finished


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_force_that_is_not_finite_stops_the_run(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(RunExploded, match=r"step 7: the force of atom 2 is \[.*nan") as stop:
        run_md(make_atoms(fault_at=7), tmp_path / f"run{suffix}", MDSettings(steps=20, interval=2))
    assert (stop.value.step, stop.value.atom) == (7, 2)
    assert [frame.info["step"] for frame in frames_of(tmp_path / f"run{suffix}")] == [0, 2, 4, 6]
    with pytest.raises(RunExploded, match="step 3: the force of atom 2"):
        atoms = make_atoms(fault_at=3)
        atoms.rattle(0.1, seed=1)
        relax(atoms, tmp_path / f"relax{suffix}")
    assert len(frames_of(tmp_path / f"relax{suffix}")) == 3


@pytest.mark.parametrize("thermostat", ["langevin", "none"])
def test_steps_that_are_too_long_stop_the_run(tmp_path: Path, thermostat: str) -> None:
    with pytest.raises(RunExploded, match=r"stopped at step \d+: (the temperature is|atoms \d)") as stop:
        run_md(make_atoms(), tmp_path / "run.traj", MDSettings(steps=500, timestep=20.0, thermostat=thermostat, interval=1))
    frames = frames_of(tmp_path / "run.traj")
    assert frames[-1].info["step"] == stop.value.step - 1 and stop.value.atom is not None
    assert all(np.isfinite(frame.get_forces()).all() for frame in frames)


def test_geometry_that_the_calculator_refuses_stops_the_run(tmp_path: Path) -> None:
    for run in (run_md, relax):
        atoms = molecule("CH3OH")
        atoms.calc = Picky(atoms)
        atoms.rattle(0.1, seed=1)
        with pytest.raises(RunExploded, match=r"step 1: the calculator refuses the geometry: out of reach\. Earlier"):
            run(atoms, tmp_path / "run.traj", overwrite=True)
        assert len(frames_of(tmp_path / "run.traj")) == 1


@pytest.mark.parametrize("head_on", [True, False])
def test_close_pairs_are_never_overlooked(head_on: bool) -> None:
    """Atoms fly straight ahead; the watch, which seldom looks at distances, must agree with looking each time."""
    random, found = np.random.default_rng(0), 0
    for _ in range(30):
        if head_on:
            atoms, velocities = (
                Atoms("C2", [[0, 0, 0], [random.uniform(1, 4), 0, 0]]),
                np.array([[0.01, 0, 0], [-0.01, 0, 0]]),
            )
        else:
            atoms = Atoms("C6H6", random.uniform(0, 3.5, (12, 3)), cell=[3.5] * 3, pbc=random.random(3) < 0.5)
            velocities = random.normal(0, 0.03, (12, 3))
        atoms.calc = Springs(atoms)
        watch = dynamics.ExplosionWatch(atoms, dynamics.first_state(atoms, MDSettings(), {}, random))
        for step in range(200 if head_on else 60):
            limits = np.where((atoms.numbers == 1)[:, None] | (atoms.numbers == 1), 0.3, 0.5)
            np.fill_diagonal(limits, -1)
            close = (atoms.get_all_distances(mic=True) < limits).any()
            try:
                watch.check_geometry(step)
                assert not close
            except RunExploded:
                assert close
                found += 1
                break
            atoms.positions += velocities
    assert found >= 15
