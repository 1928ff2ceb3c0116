"""The file of a run: other programs read it, it is read lazily, exported, and made from frames of any origin."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory, read, write
from recorded import GROUPS, dynamics_of, ethanol, network_calculator, on_springs
from typer.testing import CliRunner

from ase_xai import Ensemble, cli, load
from ase_xai.explainers import AtomicEnergies, BornCharges, LocalRigidity
from ase_xai.runs import MDSettings, run_md
from ase_xai.trajectory import Moments, Recorder, RecordingError, Run, annotate, open_run
from ase_xai.trajectory.indexing import read_rows

EVERYTHING = ("energies", "charges", "dipole", "forces", "velocities", "kinetic_energy")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ethanol, 81 frames 1 fs apart, an explainer at every tenth."""
    folder = tmp_path_factory.mktemp("run")
    atoms = ethanol(network_calculator(folder))
    dynamics = dynamics_of(atoms)
    explainers = {"born": (BornCharges(), 10)}
    with Recorder(
        atoms, folder / "run.h5", dynamics=dynamics, fields=EVERYTHING, explainers=explainers, groups=GROUPS
    ) as recorder:
        dynamics.attach(recorder, interval=2)
        dynamics.run(160)
    return open_run(folder / "run.h5")


def test_layout_is_h5md(run: Run) -> None:
    with h5py.File(run.path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "ase_xai"
        atoms = file["particles/atoms"]
        assert atoms["box"].attrs["dimension"] == 3
        assert list(atoms["box"].attrs["boundary"]) == ["none"] * 3
        for name in ("position", "species", "xai_energy", "xai_charge", "box/edges", "box/pbc"):
            assert set(atoms[name]) == {"step", "time", "value"}
            assert len(atoms[name]["value"]) == 81
            assert atoms[name]["step"].id.__hash__() == atoms["position/step"].id.__hash__()
        assert atoms["position/value"].attrs["unit"] == "Angstrom"
        assert atoms["position/time"].attrs["unit"] == "fs"
        assert atoms["xai_energy/value"].attrs["unit"] == "eV"
        assert atoms["xai_charge/value"].attrs["unit"] == "e"
        assert "unit" not in atoms["force/value"].attrs
        assert (atoms["species/value"][40] == run.numbers).all()
        assert file["observables/atoms/xai_energy/value"] == atoms["xai_energy/value"]
        assert isinstance(file["observables/atoms"].get("xai_energy", getlink=True), h5py.HardLink)
        assert file["xai/meta"].attrs["frames"][:-1].tolist() == [81, 9]  # frames, and rows of `born`
        meta = json.loads(file["xai/meta"][()])
    assert meta["schema"] == "ase_xai run 1"
    by_name = {spec["name"]: spec for spec in meta["fields"]}
    assert by_name["energies"]["reference"] == "composition"
    assert by_name["energies"]["gauge"] == "dependent"
    assert by_name["forces"]["units"] == "eV/Å"


def test_mdanalysis_reads_it(run: Run) -> None:
    analysis = pytest.importorskip("MDAnalysis", reason="extra `test`: pip install MDAnalysis")
    universe = analysis.Universe.empty(9)
    universe.load_new(str(run.path), format="H5MD", convert_units=False)
    with universe.trajectory as trajectory:
        assert len(trajectory) == 81
        for k in (0, 7, 80):
            step = trajectory[k]
            assert np.abs(step.positions - run.positions[k]).max() < 1e-7
            assert (step.data["atoms/xai_energy"] == run["energies"][k]).all()
            assert (step.data["atoms/xai_charge"] == run["charges"][k]).all()
            assert step.data["atoms/potential_energy"] == run["energy"][k]
            assert step.time == run.times[k]


def test_znh5md_reads_it(run: Run) -> None:
    znh5md = pytest.importorskip("znh5md", reason="extra `test`: pip install znh5md")
    frames = znh5md.IO(str(run.path))
    assert len(frames) == 81
    for k in (0, 7, 80):
        atoms = frames[k]
        assert (atoms.numbers == run.numbers).all()
        assert np.abs(atoms.positions - run.positions[k]).max() < 1e-7
        assert (atoms.arrays["xai_energy"] == run["energies"][k]).all()
        assert (atoms.arrays["xai_charge"] == run["charges"][k]).all()
        assert atoms.get_potential_energy() == run["energy"][k]
        assert np.abs(atoms.get_forces() - run["forces"][k]).max() < 1e-7
        assert not atoms.pbc.any()


def test_both_read_a_periodic_run_without_positions_of_two_kinds(tmp_path: Path) -> None:
    znh5md = pytest.importorskip("znh5md", reason="extra `test`: pip install znh5md")
    atoms = ethanol(network_calculator(tmp_path))
    atoms.set_cell([9, 10, 11])
    atoms.pbc = (True, True, False)
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        for _ in range(3):
            atoms.positions += 0.01
            atoms.set_cell(atoms.cell * 1.001, scale_atoms=True)
            recorder()
    frame = znh5md.IO(str(tmp_path / "run.h5"))[2]
    assert np.abs(frame.cell.array - atoms.cell.array).max() < 1e-12
    assert (frame.pbc == atoms.pbc).all()
    run = open_run(tmp_path / "run.h5")
    assert (run.pbc == atoms.pbc).all()
    assert (run.cells[2] == atoms.cell.array).all()


# --- reading ----------------------------------------------------------------------------------------------------------

KEYS = [
    3, -1, slice(None), slice(2, 50, 7), slice(None, None, -3), slice(60, 5, -9), slice(5, 5), ..., (4, 2),
    (slice(None), 3), (slice(3, 9), slice(None, None, 2)), ([5, 2, 2, 70],), np.array([0, 80, 3]), np.arange(81) % 20 == 3,
    (slice(None), [4, 1]), (..., -1), (np.array([[1, 2], [3, 4]]), 5), ([1, 2, 3], [0, 4, 8]), [], (7, ..., 2), np.int64(5),
]  # fmt: skip


@pytest.mark.parametrize("name", ["energies", "positions"])
def test_fields_index_like_arrays(run: Run, name: str) -> None:
    field = run[name]
    with h5py.File(run.path) as file:
        path = {"energies": "particles/atoms/xai_energy/value", "positions": "particles/atoms/position/value"}[name]
        array = file[path][()]
    for key in KEYS:
        assert np.array_equal(field[key], array[key]), key
        assert np.shape(field[key]) == array[key].shape, key
    assert np.array_equal(np.asarray(field), array)
    assert np.asarray(field, dtype=np.float64).dtype == np.float64
    assert field.shape == array.shape
    for key in (81, -82, (0, 9), 1.5, np.ones(80, bool), (0, 0, 0, 0), None):
        with pytest.raises(IndexError):
            field[key]


def test_only_what_is_asked_for_is_read() -> None:
    class Counted:
        def __init__(self) -> None:
            self.array, self.n = np.arange(1000.0 * 7).reshape(1000, 7), 0

        def __getitem__(self, key: object) -> np.ndarray:
            found = self.array[key]
            self.n += found.size
            return found

    limits = [(5, 7), ((slice(None), 2), 1000), ([0, 999], 14), (slice(0, 1000, 100), 70), ((slice(9), [1, 3]), 27)]
    for key, largest in limits:
        dataset = Counted()
        assert np.array_equal(read_rows(dataset, (1000, 7), key), dataset.array[key])
        assert dataset.n <= largest, key


def test_the_file_is_open_only_while_it_is_read(run: Run) -> None:
    run["energies"][3]
    with h5py.File(run.path, "r+") as file:
        assert "xai" in file
    assert len(run["born"]) == 9


def test_a_missing_field_says_how_to_record_it(tmp_path: Path) -> None:
    atoms = on_springs()
    with Recorder(atoms, tmp_path / "run.h5", fields=()) as recorder:
        recorder()
    run = open_run(tmp_path / "run.h5")
    for name, how in (("energies", "fields=('energies', ...)"), ("lpr", "explainers={'lpr'"), ("group_energies", "groups=")):
        with pytest.raises(ValueError, match="has no field") as error:
            run[name]
        assert how in str(error.value)
        assert "annotate(" in str(error.value)
    with pytest.raises(ValueError, match=r"one value per frame"):
        run.explanation("energy", 0)
    with pytest.raises(IndexError, match=r"no frame 1"):
        run.atoms(1)
    assert "energy" in run
    assert "charges" not in run


def test_reading_a_run_needs_no_torch(run: Run) -> None:
    code = f"""
import sys
from ase_xai.trajectory.run import open_run
run = open_run({str(run.path)!r})
run["energies"][0], run.atoms(3), run.explanation("born", 0), run.reducers
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- views and exports ------------------------------------------------------------------------------------------------


def test_xarray_has_units_and_coordinates(run: Run) -> None:
    xarray = pytest.importorskip("xarray", reason="extra `analysis`")
    data = run.to_xarray()
    assert isinstance(data, xarray.Dataset)
    assert data["energies"].dims == ("time", "atom")
    assert data["positions"].dims == ("time", "atom", "direction")
    assert data["born"].dims == ("time_born", "atom", "born_axis_0", "born_axis_1")
    assert data["group_energies"].sel(group="methyl").shape == (81,)
    assert data["time"].attrs["units"] == "fs"
    assert data["energies"].attrs == {
        "units": "eV", "reference": "composition", "gauge": "dependent", "method": "AtomicEnergies",
    }  # fmt: skip
    hydrogens = data["energies"].where(data["element"] == "H", drop=True)
    assert hydrogens.sizes["atom"] == 6
    assert np.abs(data["energies"].groupby("group_of_atom").sum().sel(group_of_atom="rest") -
                  data["group_energies"].sel(group="rest").values).max() < 1e-5  # fmt: skip


def test_xarray_reads_in_chunks_when_asked(run: Run) -> None:
    pytest.importorskip("xarray", reason="extra `analysis`")
    pytest.importorskip("dask.array", reason="extra `dask`")
    data = run.to_xarray(["energies"], chunks=(20, 9))
    assert data["energies"].chunks == ((20, 20, 20, 20, 1), (9,))
    assert (
        np.abs(data["energies"].mean("time").compute(scheduler="synchronous") - run["energies"][:].mean(axis=0)).max() < 1e-5
    )


def test_pandas_has_a_row_per_frame(run: Run) -> None:
    pytest.importorskip("pandas", reason="extra `analysis`")
    table = run.to_pandas()
    assert table.index.name == "time (fs)"
    assert (table["energy (eV)"].to_numpy() == run["energy"][:]).all()
    assert (table["dipole y (e·Å)"].to_numpy() == run["dipole"][:, 1]).all()
    assert (table["group_charges rest (e)"].to_numpy() == run["group_charges"][:, 1]).all()
    assert (run.to_pandas("charges")["charges O2 (e)"].to_numpy() == run["charges"][:, 2]).all()
    assert (run.to_pandas("forces")["forces H8 z (eV/Å)"].to_numpy() == run["forces"][:, 8, 2]).all()
    assert len(run.to_pandas("born")) == 9


def test_exports_for_ase_have_arrays_to_color_by(run: Run, tmp_path: Path) -> None:
    path = run.export(tmp_path / "run.extxyz", step=10)
    frames = read(path, index=":")
    assert len(frames) == 9
    for k, atoms in enumerate(frames):
        assert np.abs(atoms.arrays["xai_energy"] - run["energies"][10 * k]).max() < 1e-6
        assert np.abs(atoms.arrays["xai_charge"] - run["charges"][10 * k]).max() < 1e-6
        assert atoms.get_potential_energy() == pytest.approx(run["energy"][10 * k])
        assert atoms.info["time_fs"] == pytest.approx(run.times[10 * k])
    with pytest.raises(FileExistsError, match="exists"):
        run.export(path)
    with pytest.raises(ValueError, match=r"extxyz"):
        run.export(tmp_path / "run.pdb")
    with pytest.raises(ValueError, match="0 frames"):
        run.export(tmp_path / "b.extxyz", start=200)


def test_ase_gui_colors_by_what_was_exported(run: Run, tmp_path: Path) -> None:
    from ase.gui.images import Images

    view = pytest.importorskip("ase.gui.view", reason="Python without tkinter").View
    images = Images()
    images.read([str(run.export(tmp_path / "run.extxyz"))])
    assert len(images) == 81
    gui = types.SimpleNamespace(colormode="xai_charge", atoms=images[7])
    assert np.abs(view.get_color_scalars(gui) - run["charges"][7]).max() < 1e-6


IN_ASE_GUI = """
import json, sys
from ase.gui.colors import ColorWindow
from ase.gui.gui import GUI
from ase.gui.images import Images

images = Images()
images.read([sys.argv[1]])
gui = GUI(images)
window = ColorWindow(gui)  # View, Colors
shown = {"offered": window.radio.values, "colors": {}, "drawn": {}, "limits": {}}
for name, limit in json.loads(sys.argv[2]).items():
    gui.set_frame(1)
    window.toggle(name)
    shown["limits"][name] = [float(end) for end in gui.colormode_data[1:]]
    window.change_mnmx(-limit, limit)  # its fields min and max
    gui.set_frame(3)
    gui.window.win.update()
    canvas = gui.window.canvas
    kinds = [(canvas.type(item), canvas.itemcget(item, "fill")) for item in canvas.find_all()]
    shown["drawn"][name] = [color.lower() for kind, color in kinds if kind == "oval"]
    shown["colors"][name] = [color.lower() for color in gui.get_colors()]
gui.exit()
print(json.dumps(shown))
"""


def test_ase_gui_shows_the_colors_in_its_window(run: Run, tmp_path: Path) -> None:
    """Its window of colors offers arrays of atoms; the limits are those of the frame at hand, until min and max are set."""
    pytest.importorskip("tkinter", reason="Python without tkinter")
    screen = [] if os.environ.get("DISPLAY") else ["xvfb-run", "-a"]
    if screen and shutil.which("xvfb-run") is None:
        pytest.skip("no display, and no xvfb-run to make one")
    path = run.export(tmp_path / "run.extxyz", step=20)
    fields = {"xai_charge": "charges", "xai_energy": "energies"}
    limits = {name: round(float(np.abs(run[field][::20]).max()), 2) + 0.01 for name, field in fields.items()}
    command = [*screen, sys.executable, "-c", IN_ASE_GUI, str(path), json.dumps(limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert {"xai_energy", "xai_charge"} <= set(shown["offered"]) and "initial charge" in shown["offered"]
    for name, field in fields.items():
        at_hand, values = run[field][20], run[field][60]
        assert shown["limits"][name] == pytest.approx([at_hand.min(), at_hand.max()], abs=1e-6)
        assert sorted(shown["drawn"][name]) == sorted(shown["colors"][name]), "what is drawn are these colors"
        red = np.array([int(color[1:3], 16) for color in shown["colors"][name]])  # from green to pink
        assert np.abs((values / limits[name] + 1) / 2 - red / 250).max() < 1.1 / 25, name


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_chemiscope_loads_the_export(run: Run, tmp_path: Path, suffix: str) -> None:
    chemiscope = pytest.importorskip("chemiscope", reason="extra `chemiscope`")
    path = run.export(tmp_path / f"run{suffix}", step=10)
    widget = chemiscope.show_input(str(path))
    content = json.loads(widget.value)
    properties = content["properties"]
    assert set(properties) == {"time", "energy", "xai_energy", "xai_charge"}
    assert properties["xai_energy"]["units"] == "eV"
    assert np.abs(np.reshape(properties["xai_energy"]["values"], (9, 9)) - run["energies"][::10]).max() < 1e-6
    assert np.abs(np.array(properties["energy"]["values"]) - run["energy"][::10]).max() < 1e-6
    assert len(content["structures"]) == 9
    color = content["settings"]["structure"][0]["color"]
    assert color["min"] == -color["max"] < 0


# --- annotation -------------------------------------------------------------------------------------------------------


def test_annotation_in_batches_equals_recording_step_by_step(run: Run, tmp_path: Path) -> None:
    calculator = network_calculator(run.path.parent)
    explainers = {"born": (BornCharges(), 10)}
    again = annotate(run.frames(), calculator, fields=EVERYTHING, explainers=explainers, groups=GROUPS)
    assert calculator.n_evaluations == 0
    assert again.path is None
    assert (again.steps == run.steps).all()
    assert (again.times == run.times).all()
    assert (again.positions[:] == run.positions[:]).all()
    for name in run.fields:  # positions were rounded to float32
        scale = np.abs(run[name][:]).max()
        assert np.abs(again[name][:] - run[name][:]).max() < 3e-5 * max(1.0, scale), name
    path = tmp_path / "again.h5"
    stored = annotate(run.frames(), calculator, path, fields=EVERYTHING, explainers=explainers, groups=GROUPS)
    assert stored.path == path
    for name in run.fields:
        assert (open_run(path)[name][:] == again[name][:]).all()


def test_batches_equal_single_frames(tmp_path: Path) -> None:
    """Molecules whose graphs differ in size, in one call of the network, against the calculator one by one."""
    calculator, rng, frames = network_calculator(tmp_path), np.random.default_rng(0), []
    for _ in range(70):
        frames.append(molecule("CH3CH2OH"))
        frames[-1].positions *= rng.uniform(0.8, 3.0)
    run = annotate(frames, calculator, fields=("energies", "forces", "charges", "dipole"))
    for k in (0, 13, 69):
        atoms = frames[k]
        atoms.calc = calculator
        assert abs(run["energy"][k] - atoms.get_potential_energy()) < 1e-9
        assert np.abs(run["energies"][k] + run.references - atoms.get_potential_energies()).max() < 1e-6
        assert np.abs(run["forces"][k] - atoms.get_forces()).max() < 1e-5
        assert np.abs(run["dipole"][k] - atoms.get_dipole_moment()).max() < 1e-9


def test_dipoles_of_charged_systems_keep_their_origin(tmp_path: Path) -> None:
    from systems import random_schnet

    from ase_xai.weights import ModelCard, save_weights

    network = random_schnet(4)
    card = ModelCard.describe(network, reference_kind="invented", total_charges=(0.0, 1.0), level_of_theory="none")
    save_weights(tmp_path / "charged", network, card)
    for origin in (None, "centroid"):
        calculator = load(tmp_path / "charged", total_charge=1.0, dipole_origin=origin, dtype="float64")
        atoms = molecule("CH3OH")
        atoms.positions += 5.0
        run = annotate([atoms], calculator)
        assert run.about.total_charge == 1
        assert abs(run["charges"][0].sum() - 1) < 1e-6
        assert ("dipole" in run.fields) == (origin is not None)
        if origin:
            atoms.calc = calculator
            assert np.abs(run["dipole"][0] - atoms.get_dipole_moment()).max() < 1e-9
        else:
            with pytest.raises(ValueError, match=r"frame 0.*dipole"):
                annotate([atoms], calculator, fields=("dipole",))


def test_a_run_made_with_another_calculator_is_annotated(tmp_path: Path) -> None:
    """EMT knows H, C, N and O in its parametrization of nothing in particular: a trajectory of a foreign program."""
    atoms = molecule("H2O")
    atoms.calc = EMT()
    dynamics = dynamics_of(atoms, 0.2)
    with Trajectory(tmp_path / "emt.traj", "w", atoms) as trajectory:
        dynamics.attach(trajectory, interval=5)
        dynamics.run(50)
    calculator = load("organic")
    for suffix in (".traj", ".extxyz"):
        path = tmp_path / f"emt{suffix}"
        if suffix == ".extxyz":
            write(path, read(tmp_path / "emt.traj", index=":"))
        run = annotate(path, calculator, timestep=1.0)
        assert run.n_frames == 11
        assert run.times.tolist() == [float(k) for k in range(11)]
        frame = read(path, index=4)
        expected = calculator.explain(frame, AtomicEnergies()).relative("composition").values
        assert np.abs(run["energies"][4] - expected).max() < 1e-5
        assert run.about.model == calculator.model
    by_emt = annotate(tmp_path / "emt.traj", EMT())
    expected = [atoms.get_potential_energy() for atoms in read(tmp_path / "emt.traj", index=":")]
    assert np.abs(by_emt["energy"][:] - expected).max() < 1e-12


def test_ensembles_annotate_with_their_mean(tmp_path: Path) -> None:
    members = [load("organic-s0", dtype="float64"), load("organic-s1", dtype="float64")]
    frames = [ethanol(members[0], seed) for seed in range(3)]
    run = annotate(frames, Ensemble(members), fields=("energies", "forces"))
    parts = [annotate(frames, member, fields=("energies", "forces")) for member in members]
    assert np.abs(run["energy"][:] - np.mean([part["energy"][:] for part in parts], axis=0)).max() < 1e-9
    assert np.abs(run["forces"][:] - np.mean([part["forces"][:] for part in parts], axis=0)).max() < 1e-5


def test_times_come_from_the_frames_or_from_whoever_knows(tmp_path: Path) -> None:
    calculator = network_calculator(tmp_path)
    run_md(ethanol(calculator), tmp_path / "md.traj", MDSettings(steps=12, interval=4, timestep=0.25))
    run = annotate(tmp_path / "md.traj", calculator)
    assert (run.steps.tolist(), run.times.tolist(), run.time_unit) == ([0, 4, 8, 12], [0.0, 1.0, 2.0, 3.0], "fs")
    bare = [molecule("H2O") for _ in range(3)]
    assert annotate(bare, calculator).time_unit == "step"
    assert annotate(bare, calculator, times=[0, 1, 5]).times.tolist() == [0.0, 1.0, 5.0]
    for times in ([0, 1], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="times"):
            annotate(bare, calculator, times=times)
    with pytest.raises(ValueError, match="not both"):
        annotate(bare, calculator, times=[0, 1, 2], timestep=1.0)
    mixed = [*read(tmp_path / "md.traj", index=":"), ethanol(calculator)]
    with pytest.raises(ValueError, match=r"frame 4 differs"):
        annotate(mixed, calculator)


def test_statistics_of_annotated_frames(run: Run) -> None:
    found = annotate(run.frames(), network_calculator(run.path.parent), reducers=[Moments("charges")])
    assert np.abs(found.reducers["charges_moments"].mean - found["charges"][:].mean(axis=0)).max() < 1e-6


WITH_DASK = """
import pickle, sys
import numpy as np
from ase.build import molecule
from distributed import Client, LocalCluster
from recorded import network_calculator
from ase_xai.explainers import AtomicEnergies
from ase_xai.trajectory import annotate, open_run
from pathlib import Path

path, output = map(Path, sys.argv[1:])
calculator = network_calculator(path.parent)
frames = [*open_run(path).frames()] * 2
settings = {"times": np.arange(len(frames)), "explainers": {"split": (AtomicEnergies(), 50)}}
here = annotate(frames, calculator, **settings)
cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
with cluster, Client(cluster) as client:
    there = annotate(frames, pickle.loads(pickle.dumps(calculator)), output, client=client, **settings)
    assert there.n_frames == 162
    assert all((there[name][:] == here[name][:]).all() for name in here.fields)
    broken = [*frames[:100], molecule("SiH4")]
    try:
        annotate(broken, calculator, times=np.arange(101), client=client)
    except ValueError as error:
        print(error)
"""


def test_dask_workers_give_the_same(run: Run, tmp_path: Path) -> None:
    """In a process of its own: Dask looks up the name of this machine, which tests may not."""
    pytest.importorskip("distributed", reason="extra `dask`")
    command = [sys.executable, "-c", WITH_DASK, str(run.path), str(tmp_path / "there.h5")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "frame 100 cannot be evaluated: the network does not know Si" in done.stdout


class Nothing(Calculator):
    """Gives an energy that is no number."""

    implemented_properties = ["energy"]  # noqa: RUF012

    def calculate(self, *args: object, **settings: object) -> None:
        super().calculate(*args, **settings)
        self.results = {"energy": float("nan")}


def test_frames_that_cannot_be_annotated_are_named(tmp_path: Path) -> None:
    calculator = network_calculator(tmp_path)
    water, bad = molecule("H2O"), molecule("H2O")
    bad.positions[1] = np.nan
    cases = [
        (([], calculator), "no frames"),
        ((iter([]), calculator), "no frames"),
        (([water, "H2O"], calculator), r"frame 1 is str"),
        (([water, molecule("CH4")], calculator), r"frame 1 \(step 1\) holds CH4"),
        (([water, water[[1, 0, 2]]], calculator), r"frame 1.*another order"),
        (([water, water, bad], calculator), r"frame 2 cannot be evaluated.*finite"),
        (([molecule("SiH4")], calculator), r"frame 0 cannot be evaluated.*does not know"),
        (([Atoms()], calculator), r"frame 0 cannot be evaluated.*no atoms"),
        (([water], Nothing()), r"energy of frame 0.*not finite"),
        (([water], None), "needs a calculator"),
    ]
    for arguments, match in cases:
        with pytest.raises(ValueError, match=match):
            annotate(*arguments)
    with pytest.raises(ValueError, match=r"frame 0.*no momenta"):
        annotate([water], calculator, fields=("velocities",))
    with pytest.raises(ValueError, match=r"frame 0.*cannot be explained"):
        annotate([water], calculator, explainers={"lpr": LocalRigidity()})  # random weights have no training statistics
    with pytest.raises(FileNotFoundError, match="no such file"):
        annotate(tmp_path / "none.traj", calculator)
    (tmp_path / "text.extxyz").write_text("3\nhello\nH 0 0\n")
    with pytest.raises(ValueError, match=r"cannot read frame 0"):
        annotate(tmp_path / "text.extxyz", calculator)
    annotate([water], calculator, tmp_path / "run.h5")
    with pytest.raises(RecordingError, match="exists"):
        annotate([water], calculator, tmp_path / "run.h5")


def test_frames_before_a_bad_one_are_kept(tmp_path: Path) -> None:
    calculator = network_calculator(tmp_path)
    frames = [molecule("H2O") for _ in range(100)] + [molecule("CH4")]
    with pytest.raises(ValueError, match="frame 100"):
        annotate(frames, calculator, tmp_path / "run.h5")
    assert open_run(tmp_path / "run.h5").n_frames == 64


def test_frames_with_results_of_their_own_are_read_as_they_are(tmp_path: Path) -> None:
    """A calculator that only holds results, e.g. of a trajectory, can be recorded as well."""
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, energies=np.array([-1.0, -1.5, -0.5]), forces=np.zeros((3, 3)))
    with Recorder(atoms, tmp_path / "run.h5") as recorder:
        recorder()
    assert open_run(tmp_path / "run.h5")["energies"][0].tolist() == [-1.0, -1.5, -0.5]
    assert open_run(tmp_path / "run.h5").fields == ("energy", "energies")


# --- command line -----------------------------------------------------------------------------------------------------


def said(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_commands_record_and_annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("water.xyz", molecule("H2O"))
    said("md", "water.xyz", "--steps", 20, "--interval", 5, "--record", "md.h5")
    run = open_run("md.h5")
    assert run.steps.tolist() == [0, 5, 10, 15, 20]
    said("md", "water.xyz", "--steps", 30, "--interval", 5, "--record", "md.h5", "--restart")
    assert open_run("md.h5").steps.tolist() == [0, 5, 10, 15, 20, 25, 30]
    said("relax", "water.xyz", "--record", "relax.h5")
    assert open_run("relax.h5").time_unit == "step"
    question = ("--explain", "local-rigidity:3", "--set", "target=charge")
    output = said("annotate", "water.md.traj", "-o", "again.h5", *question)
    assert "7 frames of 3 atoms" in output
    again = open_run("again.h5")
    assert again["local_rigidity"].steps.tolist() == [0, 15, 30]
    assert np.abs(again["energies"][:] - open_run("md.h5")["energies"][:]).max() < 1e-5
    assert "exists" in said("annotate", "water.md.traj", "-o", "again.h5", code=2)
    assert "no question 'x'" in said("annotate", "water.md.traj", "-o", "b.h5", "--explain", "x", code=2)
    assert "setting probe" in said("annotate", "water.md.traj", "-o", "b.h5", "--set", "probe=H", code=2)
    assert "number N" in said("annotate", "water.md.traj", "-o", "b.h5", "--explain", "local-rigidity:a", code=2)
    assert "no result 'x'" in said("annotate", "water.md.traj", "-o", "b.h5", "--fields", "x", code=2)
    assert "there is no such file" in said("annotate", "none.traj", code=2)
    assert not Path("b.h5").exists()
