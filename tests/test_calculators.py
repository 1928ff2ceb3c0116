"""The calculators behave as ASE, and the people who use it, expect."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.io import Trajectory, read, write
from ase.md import MDLogger
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.vibrations import Infrared, Vibrations
from systems import RANDOM_NETWORKS, random_behler_parrinello, random_schnet, shaken_molecule

import ase_xai
from ase_xai import BehlerParrinello, Ensemble, NetworkCalculator, SchNet, WeightsError, load
from ase_xai.networks import SchNetNetwork, predict
from ase_xai.weights import ModelCard, resolve, save_weights

OPEN_NAMES = {"energy", "free_energy", "energies", "forces", "charges", "dipole"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files of random networks: two SchNets, one Behler-Parrinello, and one trained for charges -1, 0 and 1."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "schnet": (random_schnet(1), (0.0,)),
        "schnet-b": (random_schnet(2), (0.0,)),
        "bp": (random_behler_parrinello(3), (0.0,)),
        "charged": (random_schnet(4), (-1.0, 0.0, 1.0)),
    }
    for name, (network, charges) in networks.items():
        card = ModelCard.describe(network, reference_kind="invented", total_charges=charges, level_of_theory="none")
        save_weights(folder / name, network, card)
    return {name: folder / name for name in networks}


@pytest.fixture(params=["schnet", "bp"])
def calculator(request: pytest.FixtureRequest, weights: dict[str, Path]) -> NetworkCalculator:
    return load(weights[request.param], dtype="float64")


def ethanol(calculator: Calculator | None = None) -> Atoms:
    atoms = shaken_molecule("CH3CH2OH")
    atoms.calc = calculator
    return atoms


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_have_ases_names_shapes_and_types(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    energy = atoms.get_potential_energy()
    results = calculator.results
    assert set(results) == OPEN_NAMES
    assert type(results["energy"]) is float and results["free_energy"] == results["energy"] == energy
    for name, shape in {"energies": (9,), "forces": (9, 3), "charges": (9,), "dipole": (3,)}.items():
        value = results[name]
        assert value.shape == shape and value.dtype == np.float64 and value.flags.c_contiguous and value.flags.owndata, name
    assert results["energies"].sum() == pytest.approx(energy, rel=1e-14)
    assert abs(results["charges"].sum()) < 1e-13
    assert np.allclose(results["dipole"], results["charges"] @ atoms.positions, atol=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(energy, rel=1e-14)
    assert np.array_equal(atoms.get_charges(), results["charges"])
    assert np.array_equal(atoms.get_dipole_moment(), results["dipole"])
    assert calculator.n_evaluations == 1


def test_periodic_results(calculator: NetworkCalculator) -> None:
    atoms = bulk("C", "diamond", a=3.6)
    atoms.calc = calculator
    stress = atoms.get_stress()
    assert stress.shape == (6,) and set(calculator.results) == (OPEN_NAMES - {"dipole"}) | {"stress"}
    assert calculator.n_evaluations == 1
    slab = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[2.8, 2.8, 0], pbc=(True, True, False), calculator=calculator)
    slab.get_potential_energy()
    assert "stress" not in calculator.results and "dipole" not in calculator.results


@pytest.mark.parametrize("ask", ["get_dipole_moment", "get_stress"])
def test_undefined_results_are_refused_without_an_evaluation(calculator: NetworkCalculator, ask: str) -> None:
    atoms = bulk("C", "diamond", a=3.6) if ask == "get_dipole_moment" else ethanol()
    atoms.calc = calculator
    atoms.get_potential_energy()
    for _ in range(3):
        with pytest.raises(PropertyNotImplementedError, match="pbc"):
            getattr(atoms, ask)()
    assert calculator.n_evaluations == 1 and "energy" in calculator.results


def test_single_precision_is_close_and_still_adds_up(weights: dict[str, Path]) -> None:
    single, double = (ethanol(load(weights["schnet"], dtype=dtype)) for dtype in ("float32", "float64"))
    assert single.get_potential_energy() == pytest.approx(double.get_potential_energy(), abs=1e-4)
    assert np.abs(single.get_forces() - double.get_forces()).max() < 1e-4
    assert single.get_potential_energies().sum() == pytest.approx(single.get_potential_energy(), rel=1e-14)
    assert single.get_potential_energy() != double.get_potential_energy()


def test_far_from_the_origin_nothing_is_lost(weights: dict[str, Path]) -> None:
    here, there = (ethanol(load(weights["schnet"], dtype="float32")) for _ in range(2))
    there.translate([1000.0, -2000.0, 500.0])
    assert np.abs(here.get_forces() - there.get_forces()).max() < 1e-5
    assert np.abs(here.get_dipole_moment() - there.get_dipole_moment()).max() < 1e-6


# --- ASE's tools, unmodified ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_relaxation(calculator: NetworkCalculator, optimizer: type) -> None:
    atoms = ethanol(calculator)
    before = atoms.get_potential_energy()
    optimizer(atoms, logfile=None).run(fmax=0.05, steps=20)
    assert atoms.get_potential_energy() < before


def test_cell_relaxation(calculator: NetworkCalculator) -> None:
    atoms = bulk("C", "diamond", a=3.6, cubic=True)
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=5)
    assert atoms.get_potential_energy() < before and atoms.cell.volume != 3.6**3


def test_md_calls_the_network_once_per_step_and_keeps_the_list(calculator: NetworkCalculator, tmp_path: Path) -> None:
    atoms = ethanol(calculator)
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    dynamics.attach(Trajectory(tmp_path / "run.traj", "w", atoms), interval=1)
    dynamics.attach(MDLogger(dynamics, atoms, tmp_path / "md.log"), interval=1)
    seen: list[float] = []
    dynamics.attach(lambda: seen.append(atoms.get_charges().sum() + atoms.get_dipole_moment()[0]), interval=1)
    dynamics.attach(lambda: atoms.set_initial_charges(atoms.get_charges()), interval=1)
    dynamics.run(20)
    assert calculator.n_evaluations == 21 and len(seen) == 21
    assert calculator.neighbor_list.n_builds == 1
    frames = read(tmp_path / "run.traj", ":")
    assert len(frames) == 21 and set(frames[-1].calc.results) >= OPEN_NAMES
    assert np.array_equal(frames[-1].get_potential_energies(), atoms.get_potential_energies())


def test_langevin(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    Langevin(atoms, 0.2 * units.fs, temperature_K=50, friction=0.01 / units.fs, rng=np.random.default_rng(0)).run(10)
    assert np.isfinite(atoms.positions).all() and calculator.n_evaluations == 11


def test_neb_shares_one_calculator(calculator: NetworkCalculator) -> None:
    images = [ethanol() for _ in range(5)]
    images[-1].positions[0] += [0.3, 0.1, 0.0]
    for image in images:
        image.calc = calculator
    neb = NEB(images, allow_shared_calculator=True)
    neb.interpolate()
    FIRE(neb, logfile=None).run(fmax=0.5, steps=2)
    separate = images[2].copy()
    separate.calc = copy.deepcopy(calculator)
    assert images[2].get_potential_energy() == pytest.approx(separate.get_potential_energy(), rel=1e-14)


def test_vibrations_and_infrared(calculator: NetworkCalculator, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.calc = calculator
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    assert len(vibrations.get_frequencies()) == 9
    calculator.n_evaluations = 0
    infrared = Infrared(atoms, name=str(tmp_path / "ir"))
    infrared.run()
    assert calculator.n_evaluations <= 1 + 6 * 3
    infrared.get_spectrum()
    assert np.isfinite(infrared.intensities).all() and infrared.intensities.max() > 0


@pytest.mark.parametrize(("suffix", "tolerance"), [("traj", 0.0), ("extxyz", 1e-7)])
def test_files_keep_every_result(calculator: NetworkCalculator, tmp_path: Path, suffix: str, tolerance: float) -> None:
    atoms = ethanol(calculator)
    atoms.get_potential_energy()
    write(tmp_path / f"frame.{suffix}", atoms)
    again = read(tmp_path / f"frame.{suffix}")
    for name in OPEN_NAMES:
        assert np.abs(np.asarray(again.calc.results[name]) - calculator.results[name]).max() <= tolerance, name


def test_database(calculator: NetworkCalculator, tmp_path: Path) -> None:
    atoms = ethanol(calculator)
    atoms.get_potential_energy()
    with connect(tmp_path / "all.db") as database:
        database.write(atoms)
        row = database.get(1)
    assert row.energy == atoms.get_potential_energy()
    assert np.array_equal(row.charges, atoms.get_charges()) and np.array_equal(row.dipole, atoms.get_dipole_moment())


def test_todict_and_parameters_are_json(calculator: NetworkCalculator) -> None:
    assert json.loads(json.dumps(calculator.todict()))["dtype"] == "float64"


def test_properties_interfaces(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    properties = atoms.get_properties(["energy", "charges"])
    assert properties["energy"] == atoms.get_potential_energy() and properties["natoms"] == 9
    total = SumCalculator([calculator, LennardJones()])
    both = ethanol(total)
    lone = ethanol(LennardJones())
    assert both.get_potential_energy() == pytest.approx(atoms.get_potential_energy() + lone.get_potential_energy())
    kept = SinglePointCalculator(atoms, **calculator.results)
    assert kept.get_property("charges").shape == (9,)


def test_copies_and_pickles(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    energy = atoms.get_potential_energy()
    for twin in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert twin.calc is not calculator and twin.get_potential_energy() == energy
        twin.positions[0, 0] += 0.1
        assert twin.get_potential_energy() != energy
    assert atoms.copy().calc is None
    assert atoms.get_potential_energy() == energy


def test_several_atoms_share_one_calculator(calculator: NetworkCalculator) -> None:
    systems = [ethanol(calculator), molecule("H2O"), molecule("CH4")]
    alone = []
    for atoms in systems:
        atoms.calc = copy.deepcopy(calculator)
        alone.append(atoms.get_potential_energy())
        atoms.calc = calculator
    assert [atoms.get_potential_energy() for atoms in systems * 2] == alone * 2


@pytest.mark.parametrize("ask", ["get_forces", "get_properties"])
@pytest.mark.parametrize("shared", [False, True])
def test_threads(weights: dict[str, Path], shared: bool, ask: str) -> None:
    """Four threads, with a calculator each or one between them, get the numbers of one thread."""
    common = load(weights["schnet"], dtype="float64")
    moved = [ethanol() for _ in range(4)]
    for number, atoms in enumerate(moved):
        atoms.positions[0] += 0.05 * number
    expected = []
    for atoms in moved:
        atoms.calc = load(weights["schnet"], dtype="float64")
        expected.append(atoms.get_forces().copy())
    wrong: list[str] = []

    def work(number: int) -> None:
        atoms = moved[number].copy()
        atoms.calc = common if shared else load(weights["schnet"], dtype="float64")
        for _ in range(25):
            forces = atoms.get_forces() if ask == "get_forces" else atoms.get_properties(["forces"])["forces"]
            if not np.array_equal(forces, expected[number]):
                wrong.append(f"thread {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _energy_in_another_process(atoms: Atoms) -> float:
    atoms.calc.reset()
    return atoms.get_potential_energy()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_get_the_same_number(weights: dict[str, Path], method: str) -> None:
    atoms = ethanol(load(weights["schnet"], dtype="float64"))
    energy = atoms.get_potential_energy()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_energy_in_another_process, [atoms] * 4) == [energy] * 4


def test_memory_stays_flat(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    rng = np.random.default_rng(0)

    def resident_after(times: int) -> int:
        for _ in range(times):
            atoms.positions += rng.normal(0, 0.002, atoms.positions.shape)
            atoms.get_forces()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() // 1024

    before = resident_after(300)
    assert resident_after(1000) - before < 4096  # kB; a leaked graph of 9 atoms would be 100 kB at each step


FORK_AFTER_THREADS = """
import multiprocessing, sys
import numpy as np, torch
from ase import Atoms
from ase_xai import load

torch.set_num_threads(2)
atoms = Atoms("C300", np.random.default_rng(0).permutation(np.argwhere(np.ones((7, 7, 7)))[:300]) * 1.6)
atoms.calc = load(sys.argv[1], dtype="float64")

def energy(_):
    atoms.calc.reset()
    return atoms.get_potential_energy()

expected = energy(0)
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert np.isclose(pool.map(energy, [0])[0], expected, rtol=1e-12)
"""


def test_a_forked_process_does_not_wait_for_threads_it_never_had(weights: dict[str, Path]) -> None:
    command = [sys.executable, "-c", FORK_AFTER_THREADS, str(weights["schnet"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


GUARDS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("name", ["schnet", "bp"])
def test_works_inside_the_callers_torch_contexts(weights: dict[str, Path], name: str, guard: str) -> None:
    """Evaluated there, built there, and built there and evaluated elsewhere."""
    outside = ethanol(load(weights[name], dtype="float64"))
    forces = outside.get_forces().copy()
    outside.calc.reset()
    with GUARDS[guard]():
        assert np.array_equal(outside.get_forces(), forces)
        inside = ethanol(load(weights[name], dtype="float64"))
        assert np.array_equal(inside.get_forces(), forces)
    inside.calc.reset()
    assert np.array_equal(inside.get_forces(), forces)


def test_nothing_global_is_touched(weights: dict[str, Path]) -> None:
    before = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.random.get_rng_state(),
        np.random.get_state()[1].copy(),
    )
    inherited = list(Calculator.implemented_properties)
    ethanol(load(weights["schnet"], threads=2)).get_forces()
    after = (torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state(), np.random.get_state()[1])
    assert before[:2] == after[:2] and torch.equal(before[2], after[2]) and np.array_equal(before[3], after[3])
    assert Calculator.implemented_properties == inherited


# --- total charge and dipole origin -----------------------------------------------------------------------------------


def test_total_charge_comes_from_info_or_argument(weights: dict[str, Path]) -> None:
    atoms = ethanol(SchNet(weights["charged"], dtype="float64"))
    neutral = atoms.get_charges()
    atoms.info["charge"] = -1
    assert atoms.get_charges().sum() == pytest.approx(-1, abs=1e-13)
    assert np.allclose(atoms.get_charges(), neutral - 1 / 9, atol=1e-13)
    atoms.info["note"] = "costs nothing"
    atoms.get_charges()
    assert atoms.calc.n_evaluations == 2
    fixed = ethanol(SchNet(weights["charged"], total_charge=1, dtype="float64"))
    assert fixed.get_charges().sum() == pytest.approx(1, abs=1e-13)
    fixed.info["charge"] = -1
    with pytest.raises(InputError, match="one place"):
        fixed.get_charges()


def test_dipole_of_an_ion_needs_an_origin(weights: dict[str, Path]) -> None:
    atoms = ethanol(SchNet(weights["charged"]))
    atoms.info["charge"] = 1
    with pytest.raises(PropertyNotImplementedError, match="dipole_origin"):
        atoms.get_dipole_moment()
    for origin in ("center_of_mass", "centroid", [1.0, 2.0, 3.0]):
        calculator = SchNet(weights["charged"], dipole_origin=origin, dtype="float64")
        atoms.calc = calculator
        dipole = atoms.get_dipole_moment()
        points = {"center_of_mass": atoms.get_center_of_mass(), "centroid": atoms.positions.mean(axis=0)}
        point = points[origin] if isinstance(origin, str) else np.array(origin)
        assert np.allclose(dipole, atoms.get_charges() @ (atoms.positions - point), atol=1e-12)
        assert calculator.todict()["dipole_origin"] == origin
    with pytest.raises(ValueError, match="dipole_origin must be"):
        SchNet(weights["charged"], dipole_origin="somewhere")


# --- bad input --------------------------------------------------------------------------------------------------------


def bad_atoms() -> dict[str, tuple[Atoms, str]]:
    nan, infinite, close, flat = ethanol(), ethanol(), ethanol(), ethanol()
    nan.positions[3, 1] = np.nan
    infinite.positions[2, 0] = np.inf
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.05]
    flat.set_cell([[5, 0, 0], [0, 5, 0], [5, 5, 0]])
    flat.pbc = True
    ion = ethanol()
    ion.info["charge"] = 1
    image = bulk("C", "sc", a=0.09)
    dummy = Atoms("C600", np.random.default_rng(0).uniform(0, 30, (600, 3)), cell=[1, 1, 1], pbc=True)
    far = ethanol()
    far.positions[0] += 1e8
    return {
        "nan": (nan, "position of atom 3"),
        "infinite": (infinite, "position of atom 2"),
        "overlap": (close, "atoms 0 and 1 are 0.05 Å apart"),
        "tiny cell": (image, "shorter than 0.1 Å"),
        "dummy cell": (dummy, "some .* GB. Is the cell a dummy"),
        "far away": (far, "lose their digits"),
        "element": (Atoms("AuH", [[0, 0, 0], [0, 0, 1.5]]), "does not know Au; it knows H, C, N, O"),
        "dummy atom": (Atoms("XH", [[0, 0, 0], [0, 0, 1.5]]), "does not know X"),
        "empty": (Atoms(), "no atoms"),
        "flat cell": (flat, "linearly dependent"),
        "no cell": (Atoms("H", pbc=True), "Set the cell"),
        "charge": (ion, "trained for"),
    }


@pytest.mark.parametrize("case", bad_atoms())
def test_bad_atoms_are_refused_and_the_next_good_ones_are_right(calculator: NetworkCalculator, case: str) -> None:
    good = ethanol(calculator)
    energy = good.get_potential_energy()
    bad, message = bad_atoms()[case]
    bad.calc = calculator
    for ask in ("get_potential_energy", "get_forces"):
        with pytest.raises(InputError, match=message):
            getattr(bad, ask)()
    assert good.get_potential_energy() == energy


def test_a_refused_geometry_never_gets_an_older_energy(calculator: NetworkCalculator) -> None:
    """`get_properties` calls `calculate` without ASE's cache rules in front."""
    ethanol(calculator).get_potential_energy()
    bad = bad_atoms()["overlap"][0]
    bad.calc = calculator
    with pytest.raises(InputError):
        bad.get_properties(["energy"])
    with pytest.raises(InputError):
        bad.get_potential_energy()


def test_an_interruption_leaves_no_older_energy(calculator: NetworkCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = ethanol(calculator)
    before = atoms.get_potential_energy()
    atoms.positions[0] += 0.1

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NetworkCalculator, "_evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atoms.get_properties(["energy"])
    assert atoms.get_potential_energy() != before


def test_stress_of_a_slab_with_a_dependent_vector_is_refused(calculator: NetworkCalculator) -> None:
    cell = [[2.8, 0, 0], [0, 2.8, 0], [2.8, 0, 0]]
    slab = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=cell, pbc=(True, True, False), calculator=calculator)
    with pytest.raises(PropertyNotImplementedError, match="full cell"):
        slab.get_stress()
    assert "stress" not in slab.calc.results and np.isfinite(slab.get_potential_energy())


def test_masses_count_when_they_set_the_origin(weights: dict[str, Path]) -> None:
    atoms = molecule("H2O")
    atoms.info["charge"] = 1
    atoms.calc = SchNet(weights["charged"], dipole_origin="center_of_mass", dtype="float64")
    atoms.get_dipole_moment()
    atoms.set_masses([16, 2, 50])
    expected = atoms.get_charges() @ (atoms.positions - atoms.get_center_of_mass())
    assert np.allclose(atoms.get_dipole_moment(), expected, atol=1e-12)


def test_initial_charges_are_not_passed_over_in_silence(weights: dict[str, Path]) -> None:
    atoms = ethanol(SchNet(weights["charged"]))
    atoms.set_initial_charges([1.0] + 8 * [0.0])
    with pytest.warns(UserWarning, match=r"initial charges sum to \+1 e and are ignored; the total charge used is \+0 e"):
        atoms.get_potential_energy()


def test_the_graph_owns_its_numbers(calculator: NetworkCalculator) -> None:
    atoms = ethanol()
    for array in (atoms.arrays["numbers"], atoms.arrays["positions"]):
        array.flags.writeable = False
    graph = calculator.graph(atoms)
    graph.numbers[0] = 7
    assert atoms.numbers[0] == 6


def test_networks_without_charges_offer_none(weights: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SchNetNetwork([1, 6, 7, 8], n_features=8, n_interactions=1, charges=False)
    save_weights(tmp_path / "w", network, ModelCard.describe(network, reference_kind="none", level_of_theory="none"))
    atoms = ethanol(load(tmp_path / "w"))
    assert type(atoms.calc) is SchNet and not {"charges", "dipole"} & set(atoms.calc.implemented_properties)
    atoms.get_forces()
    for ask in (atoms.get_charges, atoms.get_dipole_moment):
        with pytest.raises(PropertyNotImplementedError):
            ask()
    assert atoms.calc.n_evaluations == 1
    for members in ([weights["schnet"], tmp_path / "w"], [tmp_path / "w", weights["schnet"]]):
        both = ethanol(Ensemble(members))
        assert np.isfinite(both.get_forces()).all() and "charges" not in both.calc.results


def test_charges_that_are_no_numbers_and_spins_are_not_passed_over(calculator: NetworkCalculator) -> None:
    atoms = ethanol(calculator)
    atoms.get_potential_energy()
    for charge in ("plus one", float("nan"), [1, 2], np.array([1, 2]), True):
        atoms.info["charge"] = charge
        with pytest.raises(InputError, match="charge"):
            atoms.get_potential_energy()
    atoms.info["charge"] = 0
    atoms.set_initial_magnetic_moments([1.0] + 8 * [0.0])
    with pytest.warns(UserWarning, match="magnetic moments are ignored"):
        atoms.get_potential_energy()
    atoms.positions[0] += 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()  # said once is enough


def test_radicals_are_warned_of_when_the_weights_know_closed_shells_only(tmp_path: Path) -> None:
    network = random_schnet(1)
    card = ModelCard.describe(network, reference_kind="invented", closed_shell=True)
    save_weights(tmp_path / "closed", network, card)
    atoms = molecule("CH3")
    atoms.set_initial_magnetic_moments(None)
    atoms.calc = load(tmp_path / "closed")
    with pytest.warns(UserWarning, match=r"CH3 with charge \+0 e has an odd number of electrons, 9"):
        atoms.get_potential_energy()


def test_a_built_calculator_keeps_its_settings(calculator: NetworkCalculator) -> None:
    with pytest.raises(ValueError, match=r"keeps its settings, got \['dtype'\]"):
        calculator.set(dtype="float32")
    assert calculator.todict()["dtype"] == "float64"


def test_references_are_the_part_of_the_energies_that_belongs_to_the_element(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64")
    atoms = ethanol(calculator)
    references = calculator.references(atoms)
    assert [set(references[atoms.numbers == z]) for z in (1, 6, 8)] == [{-13.6}, {-1029.9}, {-2042.6}]
    interaction = predict(calculator.network, calculator.graph(atoms)).output.energies.numpy()
    assert np.allclose(atoms.get_potential_energies() - references, interaction, atol=1e-9)
    both = Ensemble([weights["schnet"], weights["bp"]])
    assert np.allclose(both.references(atoms), references)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "half"}, "dtype must be one of"),
        ({"device": "gpu"}, r'device must be "cpu", "cuda"'),
        ({"threads": 0}, "threads must be a positive integer"),
        ({"threads": 1.5}, "threads must be a positive integer"),
        ({"total_charge": "a"}, "total_charge must be a number in e, got 'a'"),
        ({"skin": -1.0}, "skin must be"),
        ({"neighbors": "magic"}, "Unknown neighbor back end"),
        ({"dipole_origin": "here"}, "dipole_origin must be"),
    ],
)
def test_settings_are_checked_when_given(weights: dict[str, Path], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchNet(weights["schnet"], **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_named(weights: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="no CUDA device here"):
        SchNet(weights["schnet"], device="cuda")


def test_calculators_from_the_same_loaded_weights_are_independent(weights: dict[str, Path]) -> None:
    loaded = resolve(weights["schnet"])
    double, single = SchNet(loaded, dtype="float64"), SchNet(loaded, dtype="float32")
    assert double.network.dtype == torch.float64 and single.network.dtype == torch.float32
    assert double.todict()["weights"] == str(weights["schnet"])


def test_unknown_names_and_wrong_settings(weights: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"neither shipped weights .* nor a file"):
        SchNet("no-such-weights-anywhere")
    with pytest.raises(WeightsError, match="Did you mean 'organic'"):
        SchNet("organik")
    with pytest.raises(WeightsError, match="holds a schnet network"):
        BehlerParrinello(weights["schnet"])
    assert type(load(weights["bp"])) is BehlerParrinello and type(load(weights["schnet"])) is SchNet


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_ensemble_is_mean_and_spread(weights: dict[str, Path]) -> None:
    names = ("schnet", "schnet-b", "bp")
    ensemble = Ensemble([weights[name] for name in names], dtype="float64")
    atoms = ethanol(ensemble)
    singles = [ethanol(load(weights[name], dtype="float64")) for name in names]
    for name, ask in (("forces", "get_forces"), ("energies", "get_potential_energies"), ("charges", "get_charges")):
        values = np.stack([getattr(single, ask)() for single in singles])
        assert np.allclose(getattr(atoms, ask)(), values.mean(axis=0), atol=1e-12), name
        assert np.allclose(ensemble.spread[name], values.std(axis=0, ddof=1), atol=1e-12), name
    assert type(atoms.get_potential_energy()) is float and type(ensemble.spread["energy"]) is float
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-14)
    assert ensemble.n_evaluations == 1 and set(ensemble.spread) == OPEN_NAMES
    json.dumps(ensemble.todict())
    BFGS(atoms, logfile=None).run(steps=3)


def test_ensemble_refuses_members_that_do_not_fit(weights: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 members, got 1"):
        Ensemble([weights["schnet"]])
    with pytest.raises(ValueError, match="must be a list"):
        Ensemble("organic")
    with pytest.raises(ValueError, match="same weights"):
        Ensemble([weights["schnet"], weights["schnet"]])
    with pytest.raises(ValueError, match=r"settings \['dtype'\] would not reach"):
        Ensemble([load(weights["schnet"]), weights["bp"]], dtype="float64")
    with pytest.raises(RuntimeError, match="before the first evaluation"):
        _ = Ensemble([weights["schnet"], weights["bp"]]).spread
    network = RANDOM_NETWORKS["schnet-1"]()
    card = ModelCard.describe(network, reference_kind="invented", level_of_theory="another")
    save_weights(tmp_path / "other", network, card)
    with pytest.raises(ValueError, match="levels"):
        Ensemble([weights["schnet"], tmp_path / "other"])


def test_public_names() -> None:
    for name in ase_xai.__all__:
        assert getattr(ase_xai, name) is not None
    with pytest.raises(AttributeError, match="it has"):
        ase_xai.SchNett  # noqa: B018
