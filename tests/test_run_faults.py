"""What may happen to a run while it is recorded, and to its file afterwards."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from recorded import assert_same_files, dynamics_of, on_springs

from ase_xai import runs
from ase_xai.runs import MDSettings, run_md
from ase_xai.trajectory import Autocorrelation, Extremes, Moments, Recorder, Recording, RecordingError, open_run
from ase_xai.trajectory import recorder as recorder_module
from ase_xai.trajectory.store import FileBusy

KILLS = 50
REDUCERS = (Moments("energies"), Extremes("charges"))


@pytest.fixture(autouse=True)
def written_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of some hundred frames are written several times, as longer ones are."""
    monkeypatch.setattr(recorder_module, "FLUSH_FRAMES", 128)


def values_at(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and charges that a writer below records at a step; anybody can tell them again."""
    rng = np.random.default_rng(step)
    return rng.uniform(0, 8, (7, 3)), rng.normal(0, 1, 7)


def endless_writer(path: Path, pipe: int, resume: bool) -> None:
    """Record step after step for ever, and tell how many frames are written after each flush."""
    atoms = on_springs(7)
    atoms.calc.home, atoms.calc.stiffness = np.zeros((7, 3)), np.ones(7)
    recorder = Recorder(atoms, path, fields=("energies", "charges"), reducers=REDUCERS, resume=resume)
    step = 0 if recorder.writer.last_step is None else recorder.writer.last_step + 1
    rng = np.random.default_rng(os.getpid())
    while True:
        atoms.positions[:] = values_at(step)[0]
        recorder.record(step, 0.5 * step, flush=False)
        step += 1
        if rng.random() < 0.2:
            recorder.flush()
            os.write(pipe, recorder.writer.n_written.to_bytes(8, "little"))


def killed_writer(path: Path, seconds: float, resume: bool) -> int:
    """Frames that a child process had confirmed when it was killed after `seconds` of writing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            endless_writer(path, writing, resume)
        finally:
            os._exit(1)
    os.close(writing)
    confirmed = os.read(reading, 8)  # the first flush
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    while part := os.read(reading, 1 << 16):
        confirmed += part
    os.close(reading)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(confirmed) % 8 == 0
    return int.from_bytes(confirmed[-8:], "little")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_kill_9_at_any_moment_costs_no_written_frame(tmp_path: Path) -> None:
    """Five files, each killed and resumed ten times at random moments of writing."""
    rng, n_frames = np.random.default_rng(0), 0
    for kill in range(KILLS):
        path, first = tmp_path / f"run{kill % 5}.h5", kill < 5
        confirmed = killed_writer(path, rng.uniform(0.0, 0.12), resume=not first)
        run = open_run(path)
        assert run.n_frames >= confirmed > 0
        assert (run.steps == np.arange(run.n_frames)).all()
        for k in {0, run.n_frames // 2, confirmed - 1, run.n_frames - 1}:
            positions = values_at(k)[0]
            assert np.abs(run.positions[k] - positions).max() < 1e-6
            assert np.abs(run["energies"][k] - 0.5 * (positions**2).sum(axis=1)).max() < 1e-9
        energies = run["energies"][:]
        moments = run.reducers["energies_moments"]
        assert moments.n == run.n_frames
        assert np.abs(moments.mean - energies.mean(axis=0)).max() < 1e-9
        n_frames += confirmed
    assert n_frames > 20 * KILLS, "the writers hardly wrote"


def md(folder: Path, *, restart: bool) -> None:
    """900 steps on springs, recorded every third with statistics."""
    settings = MDSettings(steps=900, interval=3, seed=1, timestep=1.0)
    recording = Recording(reducers=[Autocorrelation("energies")])
    run_md(on_springs(), folder / "md.traj", settings, record=folder / "md.h5", recording=recording, restart=restart)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_md_killed_and_restarted_equals_one_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts, rng = tmp_path / "whole", tmp_path / "parts", np.random.default_rng(1)
    whole.mkdir(), parts.mkdir()
    md(whole, restart=False)
    monkeypatch.setattr(runs, "STATE_SECONDS", 0.02)
    state = parts / "md.traj.restart.json"
    for kill in range(4):
        before = state.stat().st_mtime_ns if kill else 0
        child = os.fork()
        if child == 0:
            try:
                md(parts, restart=kill > 0)
            finally:
                os._exit(1)
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before it saved a state"
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert 1 < open_run(parts / "md.h5").n_frames < 301
    monkeypatch.undo()
    md(parts, restart=True)
    assert_same_files(whole / "md.h5", parts / "md.h5")


# --- readers ----------------------------------------------------------------------------------------------------------


@contextmanager
def read_by_another_process(path: Path) -> Iterator[None]:
    code = f"import h5py, sys; file = h5py.File({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"open\n"
        yield
        reader.stdin.close()
        reader.wait()


@pytest.mark.parametrize("who", ["another process", "this process"])
def test_a_reader_never_stops_the_dynamics(tmp_path: Path, who: str) -> None:
    atoms, path = on_springs(), tmp_path / "run.h5"
    dynamics = dynamics_of(atoms)
    with Recorder(atoms, path, dynamics=dynamics) as recorder:
        dynamics.attach(recorder)
        dynamics.run(10)
        recorder.flush()
        with read_by_another_process(path) if who == "another process" else h5py.File(path), warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.warns(UserWarning, match="wait in memory"):
                dynamics.run(300)
            assert not recorder.flush()
            assert recorder.writer.n_written == 11
            with pytest.raises(FileBusy, match="open elsewhere"):
                recorder.close(patience=0.05)
        dynamics.run(5)
    run = open_run(path)
    assert run.steps.tolist() == list(range(316))


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    atoms, path = on_springs(), tmp_path / "run.h5"
    dynamics, seen = dynamics_of(atoms), []
    with Recorder(atoms, path, dynamics=dynamics) as recorder:
        dynamics.attach(recorder)
        dynamics.attach(lambda: seen.append(open_run(path).n_frames), interval=10)
        dynamics.run(300)
    assert seen[0] == 1
    assert seen == sorted(seen)
    assert seen[-1] > 100
    early = open_run(path)
    with Recorder(atoms, path, dynamics=dynamics, resume=True) as recorder:
        dynamics.attach(recorder)
        dynamics.run(10)
    assert early.n_frames == 301  # a run is what the file was when it was opened
    assert len(early["energies"][:]) == 301
    assert open_run(path).n_frames == 311


def test_a_reader_waits_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with Recorder(on_springs(), path) as recorder:
        recorder()
    code = f"import h5py, time; file = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); time.sleep(0.4)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        start = time.monotonic()
        assert open_run(path).n_frames == 1
        assert time.monotonic() - start > 0.1


def test_two_writers_of_one_file_are_told(tmp_path: Path) -> None:
    atoms, path = on_springs(), tmp_path / "run.h5"
    one = Recorder(atoms, path)
    one()
    other = Recorder(atoms, path, resume=True)
    other()
    other.close()
    one()
    with pytest.raises(RecordingError, match="another program wrote to it"):
        one.close()
    replaced = Recorder(atoms, path, overwrite=True)
    replaced()
    with pytest.raises(RecordingError, match="no longer the file"):
        one.close()
    path.unlink()
    replaced()
    with pytest.raises(RecordingError, match="No such file"):
        replaced.close()


# --- disks ------------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory, for root; others skip."""
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_until_refused(recorder: Recorder) -> int:
    for step in range(2_000_000):
        recorder.atoms.positions[0] = step * 1e-6
        try:
            recorder.record(step)
        except RecordingError as error:
            assert "flush or close the recorder again" in str(error)
            return step
    raise AssertionError("the disk never was full")


def test_full_disk_loses_nothing_and_can_be_continued(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 6) as disk:
        (disk / "ballast").write_bytes(bytes(2_000_000))
        recorder = Recorder(on_springs(50), disk / "run.h5", reducers=REDUCERS)
        last = fill_until_refused(recorder)
        run = open_run(disk / "run.h5")
        assert run.n_frames == recorder.writer.n_written > 100
        assert run.n_frames + recorder.writer.n_waiting == last + 1
        assert np.abs(run.positions[:, 0, 0] - np.arange(run.n_frames) * 1e-6).max() < 1e-9
        assert (np.abs(run["energies"][:]).sum(axis=1) > 0)[1:].all()
        with pytest.raises(RecordingError, match="MB free"):
            recorder.close()
        (disk / "ballast").unlink()
        recorder.record(last + 1)
        recorder.close()
        run = open_run(disk / "run.h5")
        assert run.steps.tolist() == list(range(last + 2))
        assert run.reducers["energies_moments"].n == last + 2
        assert np.abs(run.positions[: last + 1, 0, 0] - np.arange(last + 1) * 1e-6).max() < 1e-8


def test_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        recorder = Recorder(on_springs(), disk / "run.h5")
        with pytest.raises(RecordingError, match=r"cannot write .*run.h5.*MB free"):
            recorder()
        assert recorder.writer.n_waiting == 1


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond `n_bytes`: another way for a disk to be full, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be reserved here")
def test_file_that_may_not_grow_stays_whole(tmp_path: Path) -> None:
    path, atoms = tmp_path / "run.h5", on_springs()
    with Recorder(atoms, path) as recorder:
        recorder()
        content = path.read_bytes()
        with file_size_limit(len(content) + 4096):
            atoms.positions += 0.1
            recorder()
            for _ in range(2):
                with pytest.raises(RecordingError, match="File too large"):
                    recorder.flush()
                assert path.read_bytes() == content
    assert open_run(path).n_frames == 2


def test_interrupted_append_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of an append: the rows already there are written again, none twice."""
    atoms, path = on_springs(), tmp_path / "run.h5"
    recorder = Recorder(atoms, path, reducers=REDUCERS)
    recorder()
    resize, calls = h5py.Dataset.resize, []

    def interrupted(self: h5py.Dataset, *arguments: object, **settings: object) -> None:
        calls.append(self.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        resize(self, *arguments, **settings)

    atoms.positions += 0.1
    recorder.record(1, flush=False)
    monkeypatch.setattr(h5py.Dataset, "resize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorder.flush()
    assert open_run(path).n_frames == 1
    monkeypatch.undo()
    recorder.close()
    run = open_run(path)
    assert run.steps.tolist() == [0, 1]
    assert np.abs(run.positions[1] - atoms.positions).max() < 1e-6


# --- damaged and hostile files ----------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5", reducers=REDUCERS) as recorder:
        for _ in range(700):
            atoms.positions += 0.001
            recorder()
    return tmp_path / "run.h5"


def test_files_that_are_no_runs_are_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_run(tmp_path / "none.h5")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_run(tmp_path)
    other = tmp_path / "other.h5"
    for content in (b"", b"hello", good.read_bytes()[:100]):
        other.write_bytes(content)
        with pytest.raises(ValueError, match="no HDF5 file, or a damaged one"):
            open_run(other)
    with h5py.File(other, "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="as a run"):
        open_run(other)


def test_truncated_files_are_refused_or_whole(good: Path, tmp_path: Path) -> None:
    content, path = good.read_bytes(), tmp_path / "cut.h5"
    for part in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(ValueError, match=r"cannot read .*cut.h5"):
            open_run(path)


def changed_meta(**changes: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        meta = json.loads(file["xai/meta"][()])
        attributes = dict(file["xai/meta"].attrs)
        del file["xai/meta"]
        file["xai/meta"] = json.dumps({**meta, **changes})
        for name, value in attributes.items():
            file["xai/meta"].attrs[name] = value

    return change


def linked_elsewhere(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("elsewhere.h5"), "w") as other:
        other["secret"] = np.zeros((700, 5))
    del file["particles/atoms/xai_energy/value"]
    file["particles/atoms/xai_energy/value"] = h5py.ExternalLink("elsewhere.h5", "/secret")


def kept_elsewhere(file: h5py.File) -> None:
    del file["particles/atoms/xai_energy/value"]
    external = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("particles/atoms/xai_energy/value", (700, 5), "float64", external=external)


def announce(vector: list[int]) -> Callable[[h5py.File], None]:
    return lambda file: file["xai/meta"].attrs.__setitem__("frames", np.array(vector, np.int64))


def hollow(file: h5py.File) -> None:
    for name in ("particles/atoms/position/value", "particles/atoms/position/step"):
        file[name].resize(10**12, axis=0)
    file["xai/meta"].attrs["frames"] = np.array([10**12, 3], np.int64)


HOSTILE = {
    "more frames than there are": announce([701, 3]),
    "fewer than none": announce([-1, 3]),
    "no counts": announce([]),
    "counts of other fields": announce([700, 7, 3]),
    "a trillion frames": hollow,
    "another schema": changed_meta(schema="ase_xai run 99"),
    "no fields": changed_meta(fields=None),
    "field without a path": changed_meta(fields=[{"name": "x"}]),
    "field that is not there": changed_meta(
        fields=[{"name": "x", "path": "/nowhere", "units": "eV", "level": "atom", "target": "x", "shape": [5]}]
    ),
    "field of other atoms": changed_meta(
        fields=[{"name": "x", "path": "/xai/box", "units": "Å", "level": "atom", "target": "x", "shape": [3]}]
    ),
    "field with an evil name": changed_meta(
        fields=[{"name": "../x", "path": "/xai", "units": "eV", "level": "atom", "target": "x", "shape": [5]}]
    ),
    "a link to another file": linked_elsewhere,
    "data of another file": kept_elsewhere,
    "meta that is a group": lambda file: (file.pop("xai/meta"), file.create_group("xai/meta")),
    "meta that is no JSON": lambda file: file["xai/meta"].__setitem__((), "{{{"),
    "numbers of more atoms": lambda file: (file.pop("xai/numbers"), file.__setitem__("xai/numbers", np.ones(6, int))),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused(good: Path, what: str) -> None:
    assert open_run(good).n_frames == 700
    with h5py.File(good, "r+") as file:
        HOSTILE[what](file)
    with pytest.raises(ValueError, match=r"cannot read .*run.h5 as a run"):
        open_run(good)


def test_damaged_statistics_are_found(good: Path) -> None:
    with h5py.File(good, "r+") as file:
        place = file["xai/meta"].attrs["frames"][-1] % 2
        file[f"xai/reducers/{place}"][5] += 1e-9
    run = open_run(good)
    assert len(run["energies"][:]) == 700
    with pytest.raises(ValueError, match="online statistics are those of"):
        run.reducers  # noqa: B018


def test_what_a_killed_writer_left_is_ignored_and_cut_off(good: Path) -> None:
    with h5py.File(good, "r+") as file:
        for name in ("position/value", "position/step", "position/time", "xai_energy/value"):
            file[f"particles/atoms/{name}"].resize(750, axis=0)
            file[f"particles/atoms/{name}"][700:] = 99
    run = open_run(good)
    assert run.n_frames == 700
    assert run.positions.shape == (700, 5, 3)
    assert run.positions[-1].max() < 90
    assert run.steps[-1] == 699
    Recorder(on_springs(), good, reducers=REDUCERS, resume=True).close()
    with h5py.File(good) as file:
        assert len(file["particles/atoms/position/value"]) == 700


def test_flush_happens_by_time_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 0.0)
    recorder = Recorder(on_springs(), tmp_path / "run.h5")
    recorder()
    time.sleep(0.01)
    recorder()
    assert open_run(tmp_path / "run.h5").n_frames == 2
