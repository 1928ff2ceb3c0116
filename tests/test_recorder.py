"""The recorder keeps what the steps said, asks for nothing twice, and its statistics are those of the whole series."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from recorded import GROUPS, assert_same_files, dynamics_of, ethanol, network_calculator, on_springs
from systems import random_schnet

from ase_xai import Ensemble, load
from ase_xai.explainers import AtomicEnergies, LocalRigidity, NBodyRelevance
from ase_xai.explainers.explanation import Explanation
from ase_xai.runs import MDSettings, RunError, relax, run_md
from ase_xai.trajectory import (
    Autocorrelation,
    Extremes,
    Histogram,
    Moments,
    Recorder,
    Recording,
    RecordingError,
    annotate,
    open_run,
)
from ase_xai.trajectory.recording import Settings
from ase_xai.weights import ModelCard, save_weights

EVERYTHING = ("energies", "charges", "dipole", "forces", "velocities", "kinetic_energy")


@dataclass
class Log:
    """Full-precision copies of what each recorded step had."""

    atoms: Atoms

    def __post_init__(self) -> None:
        self.rows: dict[str, list] = {}

    def __call__(self) -> None:
        results = self.atoms.calc.results
        row = {name: results[name] for name in ("energy", "energies", "forces", "charges", "dipole") if name in results}
        row |= {"positions": self.atoms.positions, "velocities": self.atoms.get_velocities() * units.fs}
        row |= {"kinetic_energy": self.atoms.get_kinetic_energy()}
        for name, value in row.items():
            self.rows.setdefault(name, []).append(np.array(value))

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.rows[name])


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_file_holds_what_each_step_said(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    dynamics, log = dynamics_of(atoms), Log(atoms)
    with Recorder(atoms, tmp_path / "run.h5", dynamics=dynamics, fields=EVERYTHING, groups=GROUPS) as recorder:
        dynamics.attach(log, interval=3)
        dynamics.attach(recorder, interval=3)
        dynamics.run(150)
    run = open_run(tmp_path / "run.h5")
    assert run.n_frames == len(run) == 51
    assert run.n_atoms == 9
    assert (run.steps == np.arange(0, 151, 3)).all()
    assert np.abs(run.times - 0.5 * run.steps).max() < 1e-9
    assert run.time_unit == "fs"
    assert run.symbols == list(atoms.symbols)
    assert set(run.fields) == {*EVERYTHING, "energy", "group_energies", "group_charges"}
    for name in ("energy", "dipole", "kinetic_energy"):
        assert np.abs(run[name][:] - log[name]).max() < 1e-12, name
    for name in ("charges", "forces", "velocities"):
        assert np.abs(run[name][:] - log[name]).max() < 1e-6 * max(1, np.abs(log[name]).max()), name
    assert np.abs(run.positions[:] - log["positions"]).max() < 1e-6
    references = atoms.calc.references(atoms)
    assert (run.references == references).all()
    assert np.abs(run["energies"][:] + references - log["energies"]).max() < 1e-6
    for name, source in (("group_energies", log["energies"] - references), ("group_charges", log["charges"])):
        assert run[name].labels == ("methyl", "rest")
        expected = np.stack([source[:, members].sum(axis=1) for members in GROUPS.values()], axis=1)
        assert np.abs(run[name][:] - expected).max() < 1e-10


def test_atomic_energies_and_references_sum_to_the_energy(tmp_path: Path) -> None:
    """Atomic energies of -2000 eV in float32 would be wrong by 1e-4 eV each; without the reference they are not."""
    atoms = ethanol(load("organic"))
    dynamics = dynamics_of(atoms)
    with Recorder(atoms, tmp_path / "run.h5", dynamics=dynamics) as recorder:
        dynamics.attach(recorder)
        dynamics.run(30)
    with h5py.File(tmp_path / "run.h5") as file:
        stored = file["particles/atoms/xai_energy/value"][:]
        total = file["observables/atoms/potential_energy/value"][:]
        assert stored.dtype == np.float32
        assert total.dtype == np.float64
        full = stored.astype(float).sum(axis=1) + file["xai/references"][:].sum()
    assert np.abs(total).max() > 100
    assert np.abs(full - total).max() < 9 * np.abs(stored).max() * 2**-24
    assert open_run(tmp_path / "run.h5")["energies"].reference == "composition"


def test_full_energies_without_a_reference_keep_their_digits(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder()
    run = open_run(tmp_path / "run.h5")
    assert run["energies"].reference == "none"
    assert run["energies"].dtype == np.float64
    assert (run["energies"][0] == atoms.calc.results["energies"]).all()
    assert "charges" not in run.fields
    assert run.about.model == "emt"
    assert run.atoms(0).pbc.all()
    assert np.abs(run.atoms(0).cell.array - atoms.cell.array).max() == 0


def test_no_step_is_evaluated_twice(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    dynamics = dynamics_of(atoms)
    with Recorder(atoms, tmp_path / "run.h5", dynamics=dynamics, fields=EVERYTHING, groups=GROUPS) as recorder:
        dynamics.attach(recorder)
        dynamics.run(40)
    assert atoms.calc.n_evaluations == 41
    before = {name: np.copy(value) for name, value in atoms.calc.results.items()}
    with Recorder(atoms, tmp_path / "more.h5", explainers={"mine": AtomicEnergies()}) as recorder:
        recorder()
    assert atoms.calc.n_evaluations == 41
    assert set(atoms.calc.results) == set(before)
    assert all((atoms.calc.results[name] == value).all() for name, value in before.items())


def test_results_of_an_older_geometry_are_not_taken(tmp_path: Path) -> None:
    atoms = on_springs()
    atoms.get_potential_energy()
    atoms.positions += 0.1
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder()
    expected = 0.5 * (1 + np.arange(5)) * 3 * 0.1**2
    assert np.abs(open_run(tmp_path / "run.h5")["energies"][0] - expected).max() < 1e-12


def test_explainers_have_their_own_stride(tmp_path: Path) -> None:
    calculator = network_calculator(tmp_path)
    atoms, kept = ethanol(calculator), {}
    dynamics = dynamics_of(atoms)
    explainers = {"split": (AtomicEnergies(), 4), "always": AtomicEnergies()}
    with Recorder(atoms, tmp_path / "run.h5", dynamics=dynamics, explainers=explainers) as recorder:
        dynamics.attach(recorder, interval=2)
        dynamics.attach(lambda: kept.update({dynamics.nsteps: calculator.explain(atoms, AtomicEnergies())}), interval=2)
        dynamics.run(30)
    run = open_run(tmp_path / "run.h5")
    assert run["always"].steps.tolist() == list(range(0, 31, 2))
    assert run["split"].steps.tolist() == [0, 8, 16, 24]
    assert run["split"].times.tolist() == [0.0, 4.0, 8.0, 12.0]
    assert run["split"].method == "AtomicEnergies"
    for row, step in enumerate(run["split"].steps):
        assert np.abs(run["split"][row] - kept[step].values).max() < 1e-3  # full energies in float32
    answer = run.explanation("split", 8)  # frame 8 is step 16
    assert isinstance(answer, Explanation)
    assert np.abs(answer.positions - kept[16].positions).max() < 1e-6
    assert answer.residual == pytest.approx(kept[16].residual)
    assert run.explanation("always", 3).units == "eV"
    with pytest.raises(ValueError, match=r"split was not recorded at step 18"):
        run.explanation("split", 9)
    with h5py.File(tmp_path / "run.h5") as file:  # viewers would take rows of another stride for other frames
        assert "xai_always" in file["particles/atoms"]
        assert "xai_split" not in file["particles/atoms"]
        assert len(file["xai/fields/split/value"]) == 4


def test_masks_of_an_explainer_are_kept(tmp_path: Path) -> None:
    atoms = ethanol(load("organic"))
    with Recorder(atoms, tmp_path / "run.h5", explainers={"lpr": LocalRigidity()}) as recorder:
        recorder()
    answer, run = load("organic").explain(atoms, LocalRigidity()), open_run(tmp_path / "run.h5")
    recorded = run.explanation("lpr", 0)
    assert (recorded.mask == answer.mask).all()
    assert np.abs(recorded.values / answer.values - 1).max() < 1e-5
    assert (recorded.target, recorded.gauge, recorded.notes) == (answer.target, answer.gauge, answer.notes)
    assert run.atoms(0).arrays["xai_lpr"].shape == (9,)


def test_a_frame_comes_back_as_atoms_and_as_explanations(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    dynamics = dynamics_of(atoms)
    with Recorder(atoms, tmp_path / "run.h5", dynamics=dynamics, fields=EVERYTHING) as recorder:
        dynamics.attach(recorder)
        dynamics.run(5)
    run = open_run(tmp_path / "run.h5")
    frame = run.atoms(-1)
    assert frame.get_potential_energy() == atoms.get_potential_energy()
    assert np.abs(frame.get_potential_energies() - atoms.get_potential_energies()).max() < 1e-6
    assert np.abs(frame.get_forces() - atoms.get_forces()).max() < 1e-5
    assert np.abs(frame.get_velocities() - atoms.get_velocities()).max() < 1e-6
    assert frame.info["step"] == 5
    energies = run.explanation("energies", -1)
    assert energies.reference == "composition"
    raw = run.explanation("energies", -1, reference="none")
    expected = atoms.calc.explain(atoms, AtomicEnergies())
    assert np.abs(raw.values - expected.values).max() < 1e-6
    assert np.abs(raw.relative("composition").values - energies.values).max() < 1e-9
    difference = energies - run.explanation("energies", 0)
    assert difference.total == pytest.approx(run["energy"][-1] - run["energy"][0], abs=1e-5)
    assert run.explanation("charges", 0).by(GROUPS).values.sum() == pytest.approx(0, abs=1e-6)


def test_ensembles_are_recorded_with_their_mean(tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2):
        network = random_schnet(seed)
        path = tmp_path / str(seed)
        save_weights(path, network, ModelCard.describe(network, reference_kind="invented", level_of_theory="none"))
        paths.append(path)
    atoms = ethanol(Ensemble(paths, dtype="float64"))
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder()
    run = open_run(tmp_path / "run.h5")
    assert np.abs(run["energies"][0] + run.references - atoms.get_potential_energies()).max() < 1e-6
    assert run.about.model.startswith("mean of 2 models")
    assert run.about.model_id.count("+") == 1


def test_relaxations_count_steps(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    optimizer = BFGS(atoms, logfile=None)
    with Recorder(atoms, tmp_path / "run.h5", dynamics=optimizer) as recorder:
        optimizer.attach(recorder)
        optimizer.run(fmax=1e-9, steps=6)
    run = open_run(tmp_path / "run.h5")
    assert run.time_unit == "step"
    assert run.steps.tolist() == run.times.tolist() == list(range(7))
    with h5py.File(tmp_path / "run.h5") as file:
        assert "unit" not in file["particles/atoms/position/time"].attrs


def test_settings_are_those_of_a_recording() -> None:
    """What editors and type checkers are told of `Recorder` and `annotate` is what `Recording` takes."""
    told = {name: hint.__forward_arg__ for name, hint in Settings.__annotations__.items()}
    assert {field.name: field.type for field in fields(Recording)} == told
    recording = Recording(("energies",), {"split": (AtomicEnergies(), 3)}, GROUPS, [Moments("energies")], False, ("a",))
    assert recording.given.keys() == told.keys() and Recording.of(**recording.given).settings == recording.settings


def test_an_interval_records_the_steps_that_attaching_with_it_does(tmp_path: Path) -> None:
    """Also over an interruption between two of them, and in a run without dynamics."""
    files = {name: tmp_path / f"{name}.h5" for name in ("attached", "own", "parts", "calls")}
    for name, interval in (("attached", 5), ("own", 1)):
        atoms = on_springs()
        dynamics = dynamics_of(atoms)
        with Recorder(atoms, files[name], dynamics=dynamics, groups={"all": range(5)}, interval=5 // interval) as recorder:
            dynamics.attach(recorder, interval=interval)
            dynamics.run(32)
    assert open_run(files["own"]).steps.tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert_same_files(files["attached"], files["own"])
    atoms = on_springs()
    for k in range(2):
        dynamics = dynamics_of(atoms)
        with Recorder(
            atoms, files["parts"], dynamics=dynamics, groups={"all": range(5)}, interval=5, resume=k > 0
        ) as recorder:
            dynamics.attach(recorder)
            dynamics.run(20 if k == 0 else 12)
    assert_same_files(files["parts"], files["own"])
    with Recorder(on_springs(), files["calls"], interval=3) as recorder:
        for _ in range(8):
            recorder()
    with Recorder(on_springs(), files["calls"], interval=3, resume=True) as recorder:
        for _ in range(3):
            recorder()
    assert open_run(files["calls"]).steps.tolist() == [0, 3, 6, 9]


def test_without_a_dynamics_calls_are_counted(tmp_path: Path) -> None:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        for _ in range(4):
            atoms.positions += 0.01
            recorder()
    with Recorder(atoms, tmp_path / "run.h5", resume=True) as recorder:
        atoms.positions += 0.01
        recorder()
    assert open_run(tmp_path / "run.h5").steps.tolist() == [0, 1, 2, 3, 4]


def test_provenance_is_kept(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    with Recorder(atoms, tmp_path / "run.h5", groups=GROUPS, notes=("Made in a test.",)) as recorder:
        recorder()
    about = open_run(tmp_path / "run.h5").about
    assert about.model == atoms.calc.model
    assert about.model_id == atoms.calc.sha256
    assert about.calculator["dtype"] == "float64"
    assert about.total_charge == 0
    assert {"ase_xai", "ase", "torch", "h5py", "numpy"} <= set(about.versions)
    assert "pytest" in about.command
    assert about.notes[0] == "Made in a test."
    assert about.settings["groups"] == GROUPS
    assert open_run(tmp_path / "run.h5").groups == {name: tuple(atoms) for name, atoms in GROUPS.items()}


# --- online statistics ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A thermostatted run with statistics and no stored atoms, and the full series beside it."""
    atoms, folder = on_springs(), tmp_path_factory.mktemp("reduced")
    dynamics = Langevin(
        atoms, 2 * units.fs, temperature_K=300, friction=0.02 / units.fs, fixcm=False, rng=np.random.default_rng(3)
    )
    log = Log(atoms)
    groups = {"a": [0, 3], "b": [1, 2, 4]}
    reducers = [
        kind(field)
        for kind in (Moments, Extremes, Autocorrelation)
        for field in ("energies", "charges", "group_energies", "dipole")
    ]
    reducers += [Histogram("charges", -0.05, 0.05, 20), Histogram("energies", 0.0, 0.2, 10)]
    what = {"fields": (), "groups": groups, "reducers": reducers, "positions": False}
    with Recorder(atoms, folder / "run.h5", dynamics=dynamics, **what) as recorder:
        dynamics.attach(log)
        dynamics.attach(recorder)
        dynamics.run(1500)
    energies = log["energies"]
    series = {"energies": energies, "charges": log["charges"], "dipole": log["dipole"]}
    series["group_energies"] = np.stack([energies[:, [0, 3]].sum(axis=1), energies[:, [1, 2, 4]].sum(axis=1)], axis=1)
    return open_run(folder / "run.h5"), series, groups


def test_per_atom_storage_can_be_switched_off(reduced: tuple) -> None:
    run, series, _ = reduced
    assert set(run.fields) == {"energy", "group_energies", "group_charges"}
    assert np.abs(run["group_energies"][:] - series["group_energies"]).max() < 1e-12
    assert not run.has_positions
    with pytest.raises(ValueError, match=r"positions were not recorded"):
        run.positions  # noqa: B018


@pytest.mark.parametrize("name", ["energies", "charges", "group_energies", "dipole"])
def test_moments_and_extremes_are_those_of_the_series(reduced: tuple, name: str) -> None:
    run, series, _ = reduced
    moments, extremes, all_frames = run.reducers[f"{name}_moments"], run.reducers[f"{name}_extremes"], series[name]
    assert moments.n == extremes.n == len(all_frames) == 1501
    assert np.abs(moments.mean - all_frames.mean(axis=0)).max() < 1e-12
    assert np.abs(moments.variance / all_frames.var(axis=0, ddof=1) - 1).max() < 1e-10
    assert (extremes.low == all_frames.min(axis=0)).all()
    assert (extremes.high == all_frames.max(axis=0)).all()
    assert (extremes.low_frame == all_frames.argmin(axis=0)).all()
    assert (extremes.high_frame == all_frames.argmax(axis=0)).all()
    assert moments.about.units == {"charges": "e", "dipole": "e·Å"}.get(name, "eV")


@pytest.mark.parametrize(("name", "low", "high", "n_bins"), [("charges", -0.05, 0.05, 20), ("energies", 0.0, 0.2, 10)])
def test_histograms_are_those_of_numpy(reduced: tuple, name: str, low: float, high: float, n_bins: int) -> None:
    run, series, _ = reduced
    found = run.reducers[f"{name}_histogram"]
    for atom, values in enumerate(series[name].T):
        counts, edges = np.histogram(values, n_bins, (low, high))
        assert (found.counts[:, atom] == counts).all()
        assert np.abs(found.edges - edges).max() < 1e-15
        assert found.below[atom] == (values < low).sum()
        assert found.above[atom] == (values > high).sum()
    assert found.counts.sum() + found.below.sum() + found.above.sum() == series[name].size


def slow_correlation(values: np.ndarray, mean: float, lag: int) -> float:
    return float(np.mean([(a - mean) * (b - mean) for a, b in zip(values[: len(values) - lag], values[lag:], strict=True)]))


def test_correlations_are_those_of_the_series_and_of_its_block_means(reduced: tuple) -> None:
    run, series, _ = reduced
    found = run.reducers["energies_autocorrelation"]
    for atom in (0, 3):
        values = series["energies"][:, atom]
        variance = values.var()
        assert found.variance[atom] == pytest.approx(variance, rel=1e-9)
        for k, lag in enumerate(found.lags):
            level = 0 if lag < 16 else int(np.log2(lag / 8))
            n_blocks = len(values) >> level
            blocks = values[: n_blocks << level].reshape(n_blocks, 1 << level).mean(axis=1)
            if k % 7 == 0:
                expected = slow_correlation(blocks, values.mean(), lag >> level) / variance
                assert found.correlation[k, atom] == pytest.approx(expected, abs=1e-9)


def test_autocorrelation_times_of_a_known_process() -> None:
    """x' = a·x + noise has tau = 1/2 + a/(1 - a); a shift by a million must not matter."""
    rng, n = np.random.default_rng(5), 40_000
    decay = np.array([0.0, 0.6, 0.95])
    noise, x = rng.normal(size=(n, 3)), np.zeros((n, 3))
    for k in range(1, n):
        x[k] = decay * x[k - 1] + noise[k]
    results = []
    for shift in (0.0, 1e6):
        reducer = Autocorrelation("energies")
        state = {name: np.zeros(shape) for name, shape in reducer.sizes((3,)).items()}
        for row in x + shift:
            reducer.add(state, row)
        results.append(reducer.result(state, None))
    expected = 0.5 + decay / (1 - decay)
    assert np.abs(results[0].tau / expected - 1).max() < 0.1
    assert np.abs(results[1].tau / results[0].tau - 1).max() < 1e-6
    assert results[0].reliable.all()
    assert np.abs(results[0].n_effective - n / (2 * results[0].tau)).max() < 1e-6
    assert np.abs(results[0].mean).max() < 4 * results[0].error.max()
    short = Autocorrelation("energies")
    state = {name: np.zeros(shape) for name, shape in short.sizes((3,)).items()}
    for row in x[:20]:
        short.add(state, row)
    assert not short.result(state, None).reliable[2]


def test_a_value_that_never_changes_has_no_error() -> None:
    reducer = Autocorrelation("energies")
    state = {name: np.zeros(shape) for name, shape in reducer.sizes(()).items()}
    for _ in range(50):
        reducer.add(state, np.array(3.7))
    result = reducer.result(state, None)
    assert (result.mean, result.error, result.tau) == (3.7, 0.0, 0.5)


# --- runs of this package ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(25, 60), (7, 8, 33, 60)])
def test_a_continued_md_equals_an_uninterrupted_one(tmp_path: Path, parts: tuple[int, ...]) -> None:
    reducers = [Moments("energies"), Autocorrelation("charges")]
    recording = Recording(fields=EVERYTHING, explainers={"split": (AtomicEnergies(), 3)}, groups=GROUPS, reducers=reducers)
    files = {}
    for name, ends in (("whole", (60,)), ("parts", parts)):
        path, record = tmp_path / f"{name}.traj", tmp_path / f"{name}.h5"
        for k, steps in enumerate(ends):
            settings = MDSettings(steps=steps, interval=2, seed=4)
            atoms = ethanol(network_calculator(tmp_path))
            run_md(atoms, path, settings, record=record, recording=recording, restart=k > 0)
        files[name] = record
    assert_same_files(files["whole"], files["parts"])
    assert open_run(files["parts"]).steps.tolist() == list(range(0, 61, 2))


def test_frames_after_the_state_are_cut_off(tmp_path: Path) -> None:
    """The record may be one flush ahead of the state when a run is killed between the two."""
    recording = Recording(reducers=[Moments("energies")])
    settings = MDSettings(steps=20, interval=1, seed=1)
    run_md(
        ethanol(network_calculator(tmp_path)), tmp_path / "a.traj", settings, record=tmp_path / "a.h5", recording=recording
    )
    run_md(
        ethanol(network_calculator(tmp_path)), tmp_path / "b.traj", settings, record=tmp_path / "b.h5", recording=recording
    )
    atoms = open_run(tmp_path / "b.h5").atoms(-1)
    atoms.calc = network_calculator(tmp_path)
    with Recorder(atoms, tmp_path / "b.h5", **recording.given, resume=True) as ahead:
        for step in (21, 22, 23):
            atoms.positions += 0.01
            ahead.record(step, 0.5 * step, flush=False)
    assert open_run(tmp_path / "b.h5").n_frames == 24
    for name in ("a", "b"):
        more = MDSettings(steps=30, interval=1, seed=1)
        atoms = ethanol(network_calculator(tmp_path))
        run_md(atoms, tmp_path / f"{name}.traj", more, record=tmp_path / f"{name}.h5", recording=recording, restart=True)
    assert_same_files(tmp_path / "a.h5", tmp_path / "b.h5")


def test_resuming_after_an_earlier_step_by_hand(tmp_path: Path) -> None:
    files = {}
    for name, ends in (("whole", (30,)), ("parts", (20, 30))):
        files[name], start, atoms = tmp_path / f"{name}.h5", 0, on_springs()
        for end in ends:
            dynamics, fields = dynamics_of(atoms), ("energies", "velocities")
            with Recorder(atoms, files[name], dynamics=dynamics, fields=fields, resume=start > 0) as recorder:
                dynamics.attach(recorder, interval=5)
                dynamics.run(end - start)
            start = end
    assert_same_files(files["whole"], files["parts"])
    atoms = on_springs()
    with pytest.raises(ValueError, match=r"not where step 30 was recorded"):
        dynamics = dynamics_of(atoms)
        Recorder(atoms, files["parts"], dynamics=dynamics, fields=("energies", "velocities"), resume=True)()
    Recorder(atoms, files["parts"], fields=("energies", "velocities"), resume=12).close()
    assert open_run(files["parts"]).steps.tolist() == [0, 5, 10]


def test_relaxations_are_recorded(tmp_path: Path) -> None:
    atoms = ethanol(network_calculator(tmp_path))
    summary = relax(atoms, tmp_path / "r.traj", fmax=1e-9, steps=5, record=tmp_path / "r.h5")
    run = open_run(tmp_path / "r.h5")
    assert run.n_frames == summary.frames == 6
    assert run["energy"][-1] == summary.energy
    with pytest.raises(OSError, match="exists"):
        relax(atoms, tmp_path / "s.traj", steps=5, record=tmp_path / "r.h5")
    with pytest.raises(RunError, match="no file for it"):
        relax(atoms, tmp_path / "s.traj", steps=5, recording=Recording())


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(match: str, error: type[Exception] = ValueError) -> pytest.RaisesExc:
    return pytest.raises(error, match=match)


def test_what_cannot_be_recorded_is_refused_at_once(tmp_path: Path) -> None:
    path, atoms = tmp_path / "run.h5", ethanol(network_calculator(tmp_path))
    with refused("no calculator"):
        Recorder(molecule("H2O"), path)
    with refused(r"no result 'energie'.*energies"):
        Recorder(atoms, path, fields=("energie",))
    with refused("fields are a list"):
        Recorder(atoms, path, fields="energies")
    with refused("missing|hold every atom once"), Recorder(atoms, path, groups={"a": [0, 1]}) as recorder:
        recorder()
    with refused("letters, digits"):
        Recorder(atoms, path, explainers={"energies": AtomicEnergies()})
    with refused("positive integer"):
        Recorder(atoms, path, explainers={"e": (AtomicEnergies(), 0)})
    with refused("made like Moments"):
        Recorder(atoms, path, reducers=["mean"])
    for made in (Recorder, annotate):
        with refused(r"no setting feilds, recording. What is recorded is set by fields, explainers, groups", TypeError):
            made(atoms, atoms.calc if made is annotate else path, feilds=("energies",), recording=Recording())
    for interval in (0, -5, 2.5, True):
        with refused("number of steps, 1 or more"):
            Recorder(atoms, path, interval=interval)
    with refused("no folder", RecordingError):
        Recorder(atoms, tmp_path / "none" / "run.h5")
    assert not path.exists()
    bare = random_schnet(6, charges=False)
    save_weights(tmp_path / "bare", bare, ModelCard.describe(bare, reference_kind="invented", level_of_theory="none"))
    uncharged = ethanol(load(tmp_path / "bare"))
    with refused("charges cannot be recorded"):
        Recorder(uncharged, path, fields=("energies", "charges"))
    with Recorder(uncharged, path) as recorder:
        recorder()
    assert set(open_run(path).fields) == {"energy", "energies"}


def test_what_turns_out_at_the_first_frame(tmp_path: Path) -> None:
    still = molecule("CH3CH2OH")
    still.calc = network_calculator(tmp_path)
    with refused("no momenta"), Recorder(still, tmp_path / "a.h5", fields=("velocities",)) as recorder:
        recorder()
    with refused("level 'tuple'"), Recorder(still, tmp_path / "a.h5", explainers={"r": NBodyRelevance()}) as recorder:
        recorder()
    with refused("a field that frames do not have"), Recorder(still, tmp_path / "a.h5", reducers=[Moments("x")]) as recorder:
        recorder()
    still.set_cell(10 * np.eye(3))
    still.pbc = True
    with refused("dipole", Exception), Recorder(still, tmp_path / "a.h5", fields=("dipole",)) as recorder:
        recorder()
    assert not (tmp_path / "a.h5").exists()
    with Recorder(still, tmp_path / "a.h5") as recorder:
        recorder()
    assert set(open_run(tmp_path / "a.h5").fields) == {"energy", "energies", "charges"}


def test_values_that_are_not_finite_are_not_recorded(tmp_path: Path) -> None:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder()
        atoms.calc.stiffness[2] = np.nan
        atoms.positions += 0.1
        with refused(r"energ(y|ies) of frame 1 \(step 1\) is not finite"):
            recorder()
        atoms.calc.stiffness[2] = 1.0
        atoms.positions += 0.1
        recorder()
    assert open_run(tmp_path / "run.h5").n_frames == 2
    network = ethanol(network_calculator(tmp_path))
    network.positions[3] = np.nan
    with refused("finite", InputError), Recorder(network, tmp_path / "b.h5") as recorder:
        recorder()


def test_steps_must_rise(tmp_path: Path) -> None:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder.record(5, 1.0)
        with refused("Steps must rise"):
            recorder.record(5, 2.0)
        with refused("all or none"):
            recorder.record(6)


def test_a_file_goes_on_only_with_what_it_was_begun_with(tmp_path: Path) -> None:
    path, atoms = tmp_path / "run.h5", ethanol(network_calculator(tmp_path))
    begun = {"groups": GROUPS, "explainers": {"split": (AtomicEnergies(), 3)}}
    with Recorder(atoms, path, **begun) as recorder:
        recorder()
    with refused("exists", RecordingError):
        Recorder(atoms, path, **begun)
    with refused("groups"):
        Recorder(atoms, path, explainers=begun["explainers"], resume=True)
    with refused("explainers"):
        Recorder(atoms, path, groups=GROUPS, explainers={"split": (AtomicEnergies(), 2)}, resume=True)
    with refused("reducers"):
        Recorder(atoms, path, **begun, reducers=[Moments("energies")], resume=True)
    other = ethanol(load("organic"))
    with refused("model"):
        Recorder(other, path, **begun, resume=True)
    reordered = ethanol(network_calculator(tmp_path))[[1, 0, 2, 3, 4, 5, 6, 7, 8]]
    reordered.numbers[[0, 2]] = reordered.numbers[[2, 0]]
    reordered.calc = atoms.calc
    with refused("atoms OC2H6, not C2OH6"):
        Recorder(reordered, path, **begun, resume=True)
    water = molecule("H2O")
    water.calc = atoms.calc
    with refused("atoms OH2"):
        Recorder(water, path, **begun, resume=True)
    with refused("no such file", FileNotFoundError):
        Recorder(atoms, tmp_path / "none.h5", resume=True)
    (tmp_path / "text.h5").write_text("no run")
    with refused("no HDF5 file"):
        Recorder(atoms, tmp_path / "text.h5", resume=True)
    with h5py.File(path, "r+") as file:
        file["xai/meta"][()] = file["xai/meta"][()].decode().replace("ase_xai run 1", "ase_xai run 9")
    with refused("schema"):
        Recorder(atoms, path, **begun, resume=True)
    with Recorder(atoms, path, overwrite=True) as recorder:
        recorder()
    assert open_run(path).groups == {}


def test_statistics_cannot_be_taken_back_to_any_step(tmp_path: Path) -> None:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5", reducers=[Moments("energies")]) as recorder:
        for _ in range(8):
            atoms.positions += 0.01
            recorder()
    with refused("online statistics are those of"):
        Recorder(atoms, tmp_path / "run.h5", reducers=[Moments("energies")], resume=4)
    assert open_run(tmp_path / "run.h5").n_frames == 8
