"""Many frames in one call give what each of them gives alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from systems import random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai import Ensemble, NetworkCalculator, load, many
from ase_xai.calculator_base import AtomisticCalculator
from ase_xai.weights import ModelCard, save_weights

CHARGES = (-1.0, 0.0, 1.0)
NETWORKS = {
    "schnet": lambda: random_schnet(1),
    "bp": lambda: random_behler_parrinello(3),
    "no-charges": lambda: random_schnet(6, charges=False),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, network in NETWORKS.items():
        card = ModelCard.describe(network(), reference_kind="invented", total_charges=CHARGES, level_of_theory="none")
        save_weights(folder / name, network(), card)
    return {name: folder / name for name in NETWORKS}


def frames() -> list[Atoms]:
    """Molecules, an ion, a lone atom, a crystal, a slab with and without a third vector, and one with a smaller cell than
    the cutoff; twice as many as fit in one call of the tests below."""
    ion = shaken_molecule("CH3OH", seed=1)
    ion.info["charge"] = 1
    ion.positions += [3.0, -2.0, 1.0]
    diamond = bulk("C", "diamond", a=3.6)
    diamond.rattle(0.05, seed=2)
    wire = Atoms("OHC", [[0.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-1.2, 0.5, 0.2]], cell=[4.0, 9.0, 9.0], pbc=(True, False, False))
    flat = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[2.8, 2.8, 0], pbc=(True, True, False))
    shaken = [shaken_molecule(name, seed) for seed, name in enumerate(("CH3CH2OH", "C6H6", "CH3CH2OH", "NH3"))]
    return [shaken[0], ion, Atoms("O"), diamond, *shaken[1:3], wire, flat, shaken[3]]


def alone(calculator: AtomisticCalculator, atoms: Atoms) -> dict:
    calculator.calculate(atoms.copy(), ["energy"])
    return calculator.results


@pytest.mark.parametrize(("dtype", "close"), [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_frame_as_if_it_were_alone(
    weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, kernels: str, dtype: str, close: float
) -> None:
    calculator = load(weights[name], dtype=dtype, kernels=kernels, dipole_origin="centroid", device="cpu")
    monkeypatch.setattr(many, "BATCH_SIZE", 400)
    assert_equal_to_single(calculator, close)


def assert_equal_to_single(calculator: AtomisticCalculator, close: float) -> None:
    given = frames()
    found = calculator.calculate_many(given)
    assert calculator.results == {} and calculator.n_evaluations == 0 and len(found) == len(given)
    expected = [alone(calculator, atoms) for atoms in given]
    for k, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert set(one) == set(other), k
        assert type(one["energy"]) is float and one["free_energy"] == one["energy"]
        for key, value in other.items():
            assert np.abs(one[key] - value).max() < close, (k, key)
            if key not in ("energy", "free_energy"):
                assert one[key].shape == value.shape and one[key].dtype == np.float64 and one[key].base is None
    kept = expected[0]["forces"].copy()
    found[0]["forces"][:] = 0  # nobody else's
    assert np.array_equal(expected[0]["forces"], kept)


@pytest.mark.parametrize("names", [("schnet", "bp"), ("bp", "no-charges")])
def test_an_ensemble_gives_the_mean(weights: dict[str, Path], names: tuple[str, ...]) -> None:
    ensemble = Ensemble([weights[name] for name in names], dtype="float64", device="cpu", dipole_origin="centroid")
    assert_equal_to_single(ensemble, 1e-9)
    members = [member.calculate_many(frames()) for member in ensemble.members]
    mean = np.mean([results[4]["energies"] for results in members], axis=0)
    assert np.allclose(ensemble.calculate_many(frames())[4]["energies"], mean, atol=1e-10)


def test_without_an_origin_ions_have_no_dipole(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64", device="cpu")
    found = calculator.calculate_many(frames())
    assert ["dipole" in results for results in found] == [True, False, True, False, True, True, False, False, True]
    assert ["stress" in results for results in found] == [False, False, False, True, False, False, True, False, False]


def test_results_and_list_of_the_calculator_are_left(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64", device="cpu")
    atoms = shaken_molecule("CH3CH2OH")
    atoms.calc = calculator
    atoms.get_forces()
    before, builds = calculator.results, calculator.neighbor_list.n_builds
    calculator.calculate_many(frames())
    assert calculator.results is before and calculator.neighbor_list.n_builds == builds
    assert calculator.calculate_many([]) == []
    (again,) = calculator.calculate_many(atoms.copy() for _ in range(1))
    assert again["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def refused() -> dict[str, tuple[Atoms, str]]:
    nan, close, far, ion = (molecule("CH3OH") for _ in range(4))
    nan.positions[3, 1] = np.nan
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.05]
    far.positions[0] += 1e8
    ion.info["charge"] = 2
    return {
        "nan": (nan, "position of atom 3"),
        "overlap": (close, "atoms 0 and 1 are 0.05 Å apart"),
        "images": (bulk("C", "sc", a=0.09), "shorter than 0.1 Å"),
        "far": (far, "lose their digits"),
        "element": (Atoms("AuH", [[0, 0, 0], [0, 0, 1.5]]), "does not know Au"),
        "empty": (Atoms(), "no atoms"),
        "charge": (ion, "trained for"),
    }


@pytest.mark.parametrize("case", refused())
def test_a_refused_frame_is_named(weights: dict[str, Path], case: str) -> None:
    calculator = load(weights["schnet"], dtype="float64", device="cpu")
    bad, message = refused()[case]
    with pytest.raises(InputError, match=rf"frame 2 cannot be evaluated: .*{message}"):
        calculator.calculate_many([molecule("H2O"), molecule("CH4"), bad])
    with pytest.raises(InputError, match=message):
        calculator.calculate(bad)


def test_what_is_no_list_of_atoms_is_refused(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], device="cpu")
    with pytest.raises(ValueError, match=r"one Atoms object, .*Write \[atoms\]"):
        calculator.calculate_many(molecule("H2O"))
    with pytest.raises(ValueError, match="frame 1 is str, not Atoms"):
        calculator.calculate_many([molecule("H2O"), "H2O"])


def test_a_network_that_gives_no_number_is_refused(weights: dict[str, Path]) -> None:
    calculator = load(weights["schnet"], dtype="float64", device="cpu", kernels="reference")
    table = calculator.network.energy._table
    table[8] = float("inf")
    with pytest.raises(InputError, match=r"frame 1 cannot be evaluated: the network gives energ.* not finite"):
        calculator.calculate_many([molecule("CH4"), molecule("H2O")])


@pytest.mark.parametrize("name", ["schnet", "bp"])
def test_without_forces_the_rest_is_the_same(weights: dict[str, Path], name: str) -> None:
    for kernels in ("auto", "reference"):
        calculator = load(weights[name], dtype="float64", device="cpu", kernels=kernels)
        with_forces = calculator.calculate_many(frames())
        without = many.evaluate_many(calculator, frames(), forces=False)
        for one, other in zip(without, with_forces, strict=True):
            assert {"energies", "charges"} <= set(one) and set(one) <= set(other)
            assert kernels == "auto" or "forces" not in one
            assert all(np.abs(one[key] - other[key]).max() < 1e-9 for key in one)


def test_threads_share_a_calculator(weights: dict[str, Path]) -> None:
    calculator: NetworkCalculator = load(weights["schnet"], dtype="float64", device="cpu")
    expected = [results["energy"] for results in calculator.calculate_many(frames())]

    def ask(together: bool) -> list[float]:
        found = []
        for _ in range(5):
            if together:
                found += [results["energy"] for results in calculator.calculate_many(frames())]
            else:
                found += [calculator.get_property("energy", atoms) for atoms in frames()]
        return found

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(ask, (True, False, True)))
    assert np.abs(np.array(answers) - 5 * expected).max() < 1e-9
