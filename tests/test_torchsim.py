"""TorchSim moves systems as ASE does with the same calculator."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.optimize import FIRE
from systems import random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai import Ensemble, NetworkCalculator, load
from ase_xai.neighbors import find_pairs
from ase_xai.skins import ManySkins, Systems
from ase_xai.weights import ModelCard, save_weights

ts = pytest.importorskip("torch_sim", reason="extra `torchsim`")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from ase_xai.torchsim import TorchSimModel  # noqa: E402

CPU = torch.device("cpu")
MISSING = """
import sys
sys.modules["torch_sim"] = None
try:
    import ase_xai.torchsim
except ImportError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    networks = {"schnet": random_schnet(1), "short": random_schnet(2, cutoff=3.5), "bp": random_behler_parrinello(3)}
    metals = random_schnet(4).settings() | {"elements": [14, 26]}
    networks["metals"] = type(random_schnet(4))(**metals)
    for name, network in networks.items():
        card = ModelCard.describe(network, reference_kind="invented", level_of_theory="none", total_charges=(0.0, 1.0))
        save_weights(folder / name, network, card)
    return {name: folder / name for name in networks}


@pytest.fixture
def organic() -> Iterator[NetworkCalculator]:
    yield load("organic", dtype="float64", device="cpu")


def molecules() -> list[Atoms]:
    names = ("CH3CH2OH", "C6H6", "NH3", "CH3CH2OH", "H2O", "CH3CONH2", "CH4", "C2H4")
    return [shaken_molecule(name, seed, 0.08) for seed, name in enumerate(names)]


def crystals() -> list[Atoms]:
    """Cells far from cubic, of both hands, smaller and larger than the cutoff, atoms outside of them."""
    diamond = bulk("C", "diamond", a=3.6)
    skewed = bulk("C", "diamond", a=3.7, cubic=True)
    skewed.set_cell([[3.7, 0.5, -0.3], [-0.4, 3.9, 0.2], [0.1, 0.6, 3.5]], scale_atoms=True)
    box = molecule("CH3CH2OH")
    box.set_cell([[0, 7, 1], [8, 0, 0], [0.5, 1, 6]])
    box.pbc = True
    box.positions += [9.0, -11.0, 4.0]
    found = [diamond, skewed, box]
    for k, atoms in enumerate(found):
        atoms.rattle(0.08, seed=k)
    assert np.linalg.det(found[2].cell.array) < 0 < np.linalg.det(found[1].cell.array)
    return found


def state_of(frames: list[Atoms], dtype: torch.dtype = torch.float64) -> Any:
    return ts.io.atoms_to_state(frames, CPU, dtype)


def assert_as_ase(results: dict[str, torch.Tensor], frames: list[Atoms], calculator: Any, close: float = 1e-9) -> None:
    start = 0
    for k, atoms in enumerate(frames):
        atoms = atoms.copy()
        atoms.calc = calculator
        own = slice(start, start := start + len(atoms))
        assert results["energy"][k] == pytest.approx(atoms.get_potential_energy(), abs=close)
        assert np.abs(results["forces"][own].numpy() - atoms.get_forces()).max() < close
        assert np.abs(results["energies"][own].numpy() - atoms.get_potential_energies()).max() < close
        assert np.abs(results["charges"][own].numpy() - atoms.get_charges()).max() < close
        if atoms.pbc.any():
            assert np.abs(results["stress"][k].numpy() - atoms.get_stress(voigt=False)).max() < close
        else:
            assert bool(results["stress"][k].isnan().all())


@pytest.mark.parametrize("name", ["schnet", "bp"])
@pytest.mark.parametrize("frames", [molecules, crystals])
def test_results_are_those_of_ase(weights: dict[str, Path], name: str, frames: Any) -> None:
    calculator = load(weights[name], dtype="float64", device="cpu")
    model = TorchSimModel(calculator)
    state = state_of(frames())
    before = {key: value.clone() for key, value in vars(state).items() if isinstance(value, torch.Tensor)}
    results = model(state)
    assert_as_ase(results, frames(), load(weights[name], dtype="float64", device="cpu"))
    assert all(torch.equal(getattr(state, key), value) for key, value in before.items())
    results["forces"].zero_()
    assert_as_ase(model(state), frames(), calculator)  # nothing that was given away is used again
    assert calculator.todict() and model.device == CPU and model.compute_forces and model.compute_stress


def test_an_ensemble_of_two_cutoffs(weights: dict[str, Path]) -> None:
    ensemble = Ensemble([weights["schnet"], weights["short"]], dtype="float64", device="cpu")
    for frames in (molecules(), crystals()):
        assert_as_ase(TorchSimModel(ensemble)(state_of(frames)), frames, ensemble)


def test_states_of_any_form(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["schnet"], dtype="float64", device="cpu")
    state = state_of(molecules())
    expected = model(state)
    names = ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    as_table = model({name: getattr(state, name) for name in names})
    assert all(torch.equal(as_table[name], expected[name]) for name in ("energy", "forces"))
    with torch.inference_mode():
        assert torch.equal(TorchSimModel(model.calculator)(state_of(molecules()))["forces"], expected["forces"])
    single = model(state_of(molecules(), torch.float32))
    assert single["energy"].dtype == single["forces"].dtype == torch.float32
    assert float((single["forces"] - expected["forces"]).abs().max()) < 1e-4


def test_torchsim_accepts_the_model(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["metals"], dtype="float64", device="cpu")
    validate_model_outputs(model, CPU, torch.float64)
    assert model.memory_scales_with == "n_atoms"


def test_the_total_charge_is_that_of_the_calculator(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["schnet"], dtype="float64", device="cpu", total_charge=1.0)
    results = model(state_of(molecules()))
    sums = torch.zeros(8, dtype=torch.float64).index_add(0, state_of(molecules()).system_idx, results["charges"])
    assert np.allclose(sums, 1.0, atol=1e-12)


# --- pair lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [molecules, crystals])
def test_lists_are_kept_and_never_miss_a_pair(weights: dict[str, Path], frames: Any) -> None:
    """A walk of small steps, cells included, with a system that leaps now and then."""
    calculator = load(weights["schnet"], dtype="float64", device="cpu")
    model, other = TorchSimModel(calculator), load(weights["schnet"], dtype="float64", device="cpu")
    rng = np.random.default_rng(0)
    walkers = frames()
    model(state_of(walkers))
    assert model._skins.n_builds == len(walkers)
    for step in range(12):
        for k, atoms in enumerate(walkers):
            if atoms.pbc.any():
                atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.004, (3, 3))), scale_atoms=True)
            atoms.positions += rng.normal(0, 0.5 if (k, step) == (1, 6) else 0.03, atoms.positions.shape)
        assert_as_ase(model(state_of(walkers)), walkers, other)
    assert len(walkers) < model._skins.n_builds < 6 * len(walkers)


def test_a_state_that_loses_systems_keeps_the_lists_of_the_others(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["schnet"], dtype="float64", device="cpu")
    other = load(weights["schnet"], dtype="float64", device="cpu")
    frames = molecules()
    model(state_of(frames))
    for left in ([0, 2, 3, 5, 6], [2, 3, 6]):
        now = [frames[k] for k in left]
        for atoms in now:
            atoms.rattle(0.03, seed=len(left))
        assert_as_ase(model(state_of(now)), now, other)
    assert model._skins.n_builds == len(frames)
    now = [frames[2], frames[6], shaken_molecule("CH3OH"), frames[0]]  # one is new, one comes back, in another place
    assert_as_ase(model(state_of(now)), now, other)
    assert model._skins.n_builds == len(frames) + 2
    assert_as_ase(model(state_of(frames[::-1])), frames[::-1], other)


def test_no_skin_makes_new_lists_always(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["schnet"], dtype="float64", device="cpu", skin=0.0)
    for _ in range(3):
        model(state_of(molecules()))
    assert model._skins.n_builds == 3 * len(molecules())


def test_slabs_and_wires() -> None:
    """TorchSim itself has none; later versions may hand them over."""
    rng = np.random.default_rng(1)
    skins = ManySkins(lambda atoms, reach: find_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach), 4.0, 0.5)
    cells = np.diag([3.0, 3.5, 9.0])[None].repeat(2, axis=0)
    positions = rng.uniform(0, 3, (7, 3))
    numbers, system = torch.full((7,), 6), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    for step in range(6):
        positions = positions + rng.normal(0, 0.02, positions.shape)
        cells = cells * (1.01 if step % 2 else 1.0)
        now = Systems(numbers, torch.tensor(positions), torch.tensor(cells), system, (True, True, False))
        graph = now.graph(skins.update(now), 4.0, 0.0)
        for b, own in enumerate((slice(0, 3), slice(3, 7))):
            expected = find_pairs(positions[own], cells[b], np.array([True, True, False]), 4.0)
            vectors = expected.vectors(positions[own], cells[b])
            mine = graph.unique_vectors[system[graph.centers[: graph.n_unique]] == b].numpy()
            assert len(mine) == len(vectors) > 10
            assert np.allclose(np.sort(np.linalg.norm(mine, axis=1)), np.sort(np.linalg.norm(vectors, axis=1)), atol=1e-12)
    assert skins.n_builds == 2 * 4  # the first, and one for each cell


# --- what is refused --------------------------------------------------------------------------------------------------


def test_bad_systems_are_named_and_the_next_good_ones_are_right(weights: dict[str, Path]) -> None:
    model = TorchSimModel(weights["schnet"], dtype="float64", device="cpu")
    expected = model(state_of(molecules()))
    state = state_of(molecules())
    cases = [
        ((9 + 12 + 1, 0), float("nan"), r"system 2 cannot be evaluated: position of atom 1"),
        ((slice(9, 11), slice(None)), 0.5, r"system 1 cannot be evaluated: its atoms 0 and 1 are less than 0.1 Å apart"),
        ((0, 0), 1e9, r"system 0 cannot be evaluated: .*lose their digits"),
    ]
    for where, value, message in cases:
        bad = state.clone()
        bad.positions[where] = value
        with pytest.raises(InputError, match=message):
            model(bad)
        assert torch.equal(model(state)["forces"], expected["forces"])
    bad = state.clone()
    bad.atomic_numbers[0] = 79
    with pytest.raises(InputError, match="system 0 cannot be evaluated: the network does not know Au"):
        model(bad)
    bad = state.clone()
    bad.system_idx = bad.system_idx.flip(0)
    with pytest.raises(InputError, match="ordered by system"):
        model(bad)
    model.calculator.network.energy._table[7] = float("inf")
    with pytest.raises(InputError, match="system 2 cannot be evaluated: the network gives an energy"):
        model(state)


def test_settings_that_reach_nobody(weights: dict[str, Path], organic: NetworkCalculator) -> None:
    with pytest.raises(ValueError, match=r"settings \['dtype'\] would not reach"):
        TorchSimModel(organic, dtype="float32")
    with pytest.raises(ValueError, match="skin must be"):
        TorchSimModel(organic, skin=-1.0)


def test_a_missing_package_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True)
    assert "pip install 'ase_xai[torchsim]'" in done.stdout


# --- TorchSim's own tools ---------------------------------------------------------------------------------------------


def test_fire_finds_the_minima_of_ases_fire(organic: NetworkCalculator) -> None:
    """Eight molecules at once, one by one by ASE; they converge at different times and leave the batch."""
    frames = molecules()
    criterion = ts.generate_force_convergence_fn(0.01, include_cell_forces=False)
    model = TorchSimModel(organic)
    final = ts.optimize(frames, model, optimizer=ts.optimizers.fire, convergence_fn=criterion, max_steps=1000)
    energies = []
    for atoms in frames:
        atoms.calc = organic
        assert FIRE(atoms, logfile=None).run(fmax=0.01, steps=1000)
        energies.append(atoms.get_potential_energy())
    assert final.n_systems == 8 and float(final.forces.norm(dim=1).max()) < 0.01
    assert np.abs(final.energy.numpy() - energies).max() < 1e-3
    assert model._skins.n_builds < 20


def test_stress_is_the_derivative_with_respect_to_strain(weights: dict[str, Path]) -> None:
    """σ_ab = (1/V) ∂E/∂ε_ab under r → r(1 + ε), by differences."""
    model, frames = TorchSimModel(weights["schnet"], dtype="float64", device="cpu"), crystals()
    stress = model(state_of(frames))["stress"]
    assert float(stress[:, 0, 1].abs().min()) > 1e-5
    for a, b in ((0, 0), (1, 1), (0, 1), (2, 0)):
        energies = []
        for size in (1e-4, -1e-4):
            strain = np.eye(3)
            strain[a, b] += size / 2
            strain[b, a] += size / 2
            strained = [atoms.copy() for atoms in frames]
            for atoms in strained:
                atoms.set_cell(atoms.cell.array @ strain)
                atoms.positions = atoms.positions @ strain
            energies.append(model(state_of(strained))["energy"])
        volumes = torch.tensor([atoms.cell.volume for atoms in frames])
        expected = (energies[0] - energies[1]) / 2e-4 / volumes
        assert np.allclose(stress[:, a, b], expected, rtol=1e-4, atol=1e-6)


def test_a_crowded_cell_expands(organic: NetworkCalculator) -> None:
    """The sign of the stress is TorchSim's too; its cell optimizers ask for right-handed cells."""
    box = crystals()[2]
    box.set_cell(0.7 * box.cell.array[[1, 0, 2]])
    init, step = ts.optimizers.frechet_cell_fire(model=TorchSimModel(organic))
    state = init(state_of([box]))
    volume, energy, pressure = float(state.cell.det()), float(state.energy), -float(state.stress[0].trace() / 3)
    for _ in range(60):
        state = step(state)
    assert pressure > 0.02 and -float(state.stress[0].trace() / 3) < 0.5 * pressure
    assert float(state.cell.det()) > 1.05 * volume and float(state.energy) < energy - 0.5


def test_energy_is_conserved(organic: NetworkCalculator) -> None:
    """NVE of a batch: forces are those of the energy, at every step, with lists that are kept."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init, step = ts.integrators.nve(
            model=TorchSimModel(organic), dt=torch.tensor(0.2 * 1e-3 * ts.units.MetalUnits.time), kT=torch.tensor(0.02)
        )
        state = init(state_of(molecules()[:3]), seed=1)

        def total() -> np.ndarray:
            kinetic = (state.momenta**2).sum(dim=1) / (2 * state.masses)
            return (state.energy + torch.zeros(3, dtype=torch.float64).index_add(0, state.system_idx, kinetic)).numpy()

        start, kinetic = total(), float((state.momenta**2).sum())
        for _ in range(60):
            state = step(state)
    assert np.abs(total() - start).max() < 2e-3 and float((state.momenta**2).sum()) != kinetic
