"""Hand-written derivatives and kernels against automatic differentiation; splines against what they stand for."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from systems import RANDOM_NETWORKS, random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai import BehlerParrinello, SchNet
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, Prediction, SchNetNetwork, predict
from ase_xai.networks.inference import convolution, filters
from ase_xai.networks.inference import engine as engine_module
from ase_xai.networks.inference.convolution import Convolution, TorchConvolution
from ase_xai.networks.inference.engine import Engine
from ase_xai.networks.inference.filters import ExactFilters, Filters, FilterTable, values_and_slopes
from ase_xai.networks.inference.pairs import PairList
from ase_xai.networks.inference.schnet import SchNetEvaluator
from ase_xai.networks.inference.team import Team, team_of
from ase_xai.networks.response import dipole_response
from ase_xai.networks.splines import SplineGrid, b_spline_slopes, b_splines
from ase_xai.weights import resolve

pytest.importorskip("numba")

from ase_xai.networks.inference.convolution_loops import CompiledConvolution

SCHNETS = [name for name in RANDOM_NETWORKS if name.startswith("schnet")]
CONVOLUTIONS = {"torch": TorchConvolution, "numba": CompiledConvolution}


def crystal() -> Atoms:
    atoms = bulk("C", cubic=True) * (1, 1, 2)
    atoms.positions += np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    return atoms


def batch(cutoff: float, charge: float = 1.0) -> AtomGraph:
    """Two molecules, a lone atom and a crystal smaller than the cutoff, so that atoms are neighbors of their own images."""
    tiny = bulk("C") * (1, 1, 1)
    tiny.positions += np.random.default_rng(1).normal(0, 0.05, tiny.positions.shape)
    systems = [shaken_molecule("CH3CH2OH"), Atoms("O"), tiny, shaken_molecule("CH3CONH2", seed=1), crystal()]
    return AtomGraph.batch([AtomGraph.from_atoms(atoms, cutoff, total_charge=charge) for atoms in systems])


def deviations(one: Prediction, other: Prediction) -> tuple[float, float]:
    """Largest deviation of energies and charges (eV, e), and of forces, pair gradients and stress (eV/Å, eV/Å³)."""

    def largest(name: str) -> float:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None) and (a is None or (a.shape == b.shape and a.dtype == b.dtype)), name
        return 0.0 if a is None or not a.numel() else float(torch.nan_to_num(a - b).abs().max())

    values = max(largest(name) for name in ("energies", "charges", "energy"))
    return values, max(largest(name) for name in ("forces", "pair_gradients", "stress", "dipole"))


@pytest.mark.parametrize("kernels", CONVOLUTIONS)
@pytest.mark.parametrize("name", SCHNETS)
def test_exact_filters_equal_automatic_differentiation(name: str, kernels: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    graph = batch(network.cutoff)
    evaluator = SchNetEvaluator.of(network, CONVOLUTIONS[kernels], tabulated=False)
    assert max(deviations(evaluator(graph, Team()), predict(network, graph))) < 1e-9


def test_exact_filters_of_large_systems_are_evaluated_twice_instead_of_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_schnet(5, n_interactions=3).double()
    graph, engine = batch(network.cutoff), Engine(network, "exact")
    kept = engine(graph)
    monkeypatch.setattr(filters, "KEPT", 0)
    monkeypatch.setattr(convolution, "BLOCK", 7)
    assert max(deviations(engine(graph), kept)) < 1e-10
    assert max(deviations(engine(graph), predict(network, graph))) < 1e-9


@pytest.mark.parametrize("name", [name for name in RANDOM_NETWORKS if name not in SCHNETS])
def test_behler_parrinello_equals_automatic_differentiation(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    graph = batch(network.cutoff)
    assert max(deviations(Engine(network, "exact")(graph), predict(network, graph))) < 1e-9
    exact, single = predict(network, graph), copy.deepcopy(network).float()
    for fast, usual in zip(deviations(Engine(single)(graph), exact), deviations(predict(single, graph), exact), strict=True):
        assert fast < 1.5 * usual + 1e-5


@pytest.mark.parametrize("name", [name for name in SCHNETS if "no-charges" not in name])
def test_born_charges_equal_automatic_differentiation(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    systems = [shaken_molecule("CH3CH2OH"), Atoms("O"), shaken_molecule("CH3CONH2", seed=1)]
    graph = AtomGraph.batch([AtomGraph.from_atoms(atoms, network.cutoff, total_charge=1.0) for atoms in systems])
    fast, usual = dipole_response(network, graph, Engine(network).charge_flux), dipole_response(network, graph)
    assert torch.allclose(fast.charge, usual.charge, rtol=0, atol=1e-12)
    assert torch.allclose(fast.flux, usual.flux, rtol=0, atol=1e-12) and float(usual.flux.abs().max()) > 1e-3


@pytest.mark.parametrize("kernels", CONVOLUTIONS)
@pytest.mark.parametrize("name", [*SCHNETS, "organic", "water"])
def test_tables_in_single_precision(name: str, kernels: str) -> None:
    network = RANDOM_NETWORKS[name]() if name in SCHNETS else resolve(name).network
    systems = [shaken_molecule("H2O"), shaken_molecule("H2O2" if name == "water" else "CH3CH2OH")]
    graph = AtomGraph.batch([AtomGraph.from_atoms(atoms, network.cutoff) for atoms in systems])
    evaluator = SchNetEvaluator.of(network, CONVOLUTIONS[kernels], tabulated=True)
    values, derivatives = deviations(evaluator(graph, Team()), predict(network, graph))
    assert values < 1e-5 and derivatives < 1e-4
    output = evaluator(graph, Team()).output
    for field in ("features", "energy_inputs", "charge_inputs", "unconstrained"):
        expected = getattr(predict(network, graph).output, field)
        assert (getattr(output, field) is None) == (expected is None)
        assert expected is None or torch.allclose(getattr(output, field), expected, rtol=1e-4, atol=1e-4), field


def test_slopes_of_filters_are_their_derivatives() -> None:
    network = random_schnet(4).double()
    distances = torch.linspace(0.3, 4.9, 50, dtype=torch.float64)
    for layer in range(network.n_layers):
        values, slopes = network.filter_and_slope(layer, distances)
        assert torch.allclose(values, network.filter(layer, distances))
        _, expected = torch.autograd.functional.jvp(lambda r: network.filter(layer, r), distances, torch.ones(50).double())  # noqa: B023
        assert torch.allclose(slopes, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["exact", "table"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_agree_with_one_another(kind: str, dtype: torch.dtype) -> None:
    """The same sums, and the same derivatives, whoever adds them up; against loops written out for one layer."""
    network = random_schnet(3, n_interactions=1).to(dtype)
    made = made_filters(network, kind)
    rng = torch.Generator().manual_seed(0)
    n_atoms, n_pairs = 13, 60
    first = torch.randint(n_atoms, (n_pairs,), generator=rng).sort().values
    second = torch.randint(n_atoms, (n_pairs,), generator=rng)  # an atom may be its own neighbor
    distances = (0.5 + 4.4 * torch.rand(n_pairs, generator=rng)).double()
    x, g = (torch.randn(n_atoms, network.n_features, generator=rng).to(dtype) for _ in range(2))
    pairs = pair_list(first, second, distances, n_atoms)
    with torch.no_grad():
        values, slopes = made.at(distances).rows(0, slice(0, n_pairs))
    y, gx, dr = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(n_pairs).double()
    for p, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        y[i] += values[p] * x[j]
        y[j] += values[p] * x[i]
        gx[i] += values[p] * g[j]
        gx[j] += values[p] * g[i]
        dr[p] = (slopes[p] * (x[i] * g[j] + x[j] * g[i])).sum()
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for kernels in CONVOLUTIONS.values():
        found = summed(kernels(pairs, made), x, g)
        for actual, expected in zip(found, (y, gx, dr), strict=True):
            assert torch.allclose(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def made_filters(network: SchNetNetwork, name: str) -> Filters:
    if name == "exact":
        return ExactFilters(network, network.cutoff_function, network.dtype)
    double = copy.deepcopy(network).double()
    return FilterTable(double, network.cutoff_function, network.dtype, torch.device("cpu"))


def pair_list(first: torch.Tensor, second: torch.Tensor, distances: torch.Tensor, n_atoms: int) -> PairList:
    vectors = distances[:, None] * torch.tensor([1.0, 0.0, 0.0])
    return PairList(first, second, vectors, distances, n_atoms)


@torch.no_grad()
def summed(convolution: Convolution, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Forward and backward sums, added up in two parts."""
    n = len(convolution.pairs)
    y, gx, slopes = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(n).double()
    for part in (slice(0, n // 3), slice(n // 3, n)):
        convolution.forward(0, x, y, part)
        convolution.backward(0, x, g, gx, slopes, part)
    return y, gx, slopes


# --- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["schnet-3", "behler-parrinello-elements"])
@pytest.mark.parametrize("threads", [2, 5])
def test_a_team_gives_what_one_thread_gives(name: str, threads: int) -> None:
    """Also with more members than atoms; and the number of threads of PyTorch stays."""
    network = RANDOM_NETWORKS[name]().double()
    engine, before = Engine(network), torch.get_num_threads()
    for graph in (batch(network.cutoff), *(AtomGraph.from_atoms(atoms, 4.0) for atoms in (molecule("H2O"), Atoms("O")))):
        assert max(deviations(engine(graph, threads), engine(graph))) < 1e-11
        assert torch.equal(engine(graph, threads).forces, engine(graph, threads).forces)
    assert torch.get_num_threads() == before


def test_an_error_in_one_member_ends_all_and_the_next_team_works() -> None:
    def work(rank: int) -> None:
        team.wait(rank)
        if rank == 1:
            raise KeyError("broken")
        team.wait(rank)

    with pytest.raises(KeyError, match="broken"), team_of(3) as team:
        team.run(work)
    done = []
    with team_of(3) as team:
        team.run(lambda rank: (team.wait(rank), done.append(rank)))
    assert sorted(done) == [0, 1, 2]


def test_a_busy_team_is_not_waited_for() -> None:
    with team_of(2) as one, team_of(2) as other:
        assert (one.size, other.size) == (2, 1)


def test_calculators_in_several_threads_do_not_disturb_one_another() -> None:
    frames = [shaken_molecule("CH3CH2OH", seed=k) for k in range(6)]
    expected = [SchNet("organic", dtype="float64").get_forces(atoms) for atoms in frames]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda atoms: SchNet("organic", dtype="float64", threads=2).get_forces(atoms), frames))
    assert all(np.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(found, expected, strict=True))


# --- splines and tables ------------------------------------------------------------------------------------------------


def gaussian(r: torch.Tensor) -> torch.Tensor:
    return torch.exp(-((r - 2.3) ** 2) / (2 * 0.1**2))


def spline(function: Callable[[torch.Tensor], torch.Tensor], n_intervals: int, at: torch.Tensor) -> list[torch.Tensor]:
    """Value and slope of the spline of `function`."""
    grid = SplineGrid(5.0, n_intervals)
    coefficients = grid.coefficients(function(grid.knots(at))[None, :, None])[0, :, 0]
    row, u = grid.place(at)
    rows = coefficients[row[:, None] + torch.arange(4)]
    return [(b_splines(u) * rows).sum(dim=1), (b_spline_slopes(u) * rows).sum(dim=1) / grid.spacing]


def test_splines_converge_with_the_fourth_power_and_their_slopes_with_the_third() -> None:
    """Within the bounds of Hall and Meyer: 5/384 h⁴ and 1/24 h³ times the largest fourth derivative, 3/s⁴ of a Gaussian."""
    at = torch.linspace(0.0, 5.0, 3333, dtype=torch.float64)[:-1]
    slope = -(at - 2.3) / 0.1**2 * gaussian(at)
    errors = []
    for n in (200, 400, 800):
        value, derivative = spline(gaussian, n, at)
        errors.append((float((value - gaussian(at)).abs().max()), float((derivative - slope).abs().max())))
        h = 5.0 / n
        assert errors[-1][0] < 5 / 384 * h**4 * 3 / 0.1**4 and errors[-1][1] < h**3 / 24 * 3 / 0.1**4
    for coarse, fine in itertools.pairwise(errors):
        assert 12 < coarse[0] / fine[0] < 20 and 7 < coarse[1] / fine[1] < 10
    constant = spline(lambda r: 1 + 0 * r, 50, at)
    assert float((constant[0] - 1).abs().max()) < 1e-13 and float(constant[1].abs().max()) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_a_table_is_bounded_and_reported(seed: int) -> None:
    """On random weights: within the bounds from the fourth derivatives, and no larger than the table says of itself."""
    network = random_schnet(seed).double()
    table = FilterTable(network, network.cutoff_function, torch.float64, torch.device("cpu"))
    distances = torch.linspace(0.3, network.cutoff - 1e-6, 4001, dtype=torch.float64)

    def fourth(r: torch.Tensor) -> torch.Tensor:
        h = 0.01
        return sum(c * network.filters(r + k * h) for k, c in zip(range(-2, 3), (1, -4, 6, -4, 1), strict=True)) / h**4

    with torch.no_grad():
        bound = 1.1 * float(fourth(distances).abs().max())  # 1.1: from finite differences
        h, exact = table.grid.spacing, values_and_slopes(network, distances)
        row, u = table.grid.place(distances)
        rows = table.table[:, row[:, None] + torch.arange(4)]
        found = [torch.einsum("pa,tpaf->tpf", w, rows) for w in (b_splines(u), b_spline_slopes(u) / h)]
    errors = [float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)]
    assert errors[0] < 5 / 384 * h**4 * bound and errors[1] < h**3 / 24 * bound
    relative = [e / float(v.abs().amax(dim=(1, 2)).max()) for e, v in zip(errors, exact, strict=True)]
    assert relative[0] <= 1.5 * table.error.value and relative[1] <= 1.5 * table.error.slope
    assert table.error.value < 1e-6 and table.error.slope < 1e-5


# --- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_schnet, random_behler_parrinello])
def test_new_weights_are_noticed(make: Callable[..., AtomisticNetwork]) -> None:
    network = make(1).double()
    graph = batch(network.cutoff)
    engine = Engine(network, "auto")

    def agrees() -> bool:
        return max(deviations(engine(graph), predict(network, graph))) < 1e-9

    assert agrees()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
    assert agrees()
    network.load_state_dict(make(2).double().state_dict())
    assert agrees()
    network.energy.scale = 3.0
    assert agrees()
    name, child = next(iter(network.named_children()))
    setattr(network, name, copy.deepcopy(child))
    assert agrees()


class Doubled(torch.nn.Module):
    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        return 2.0 * torch.cos(distances)


def test_what_was_changed_by_hand_takes_the_reference() -> None:
    network = random_schnet()
    assert "Numba" in Engine(network).describe()
    network.cutoff_function = Doubled()
    engine = Engine(network)
    assert "parts of the network were replaced" in engine.describe()
    graph = batch(network.cutoff)
    assert torch.equal(engine(graph).forces, predict(network, graph).forces)
    with pytest.raises(ValueError, match="cannot be had: parts of the network were replaced"):
        Engine(network, "tabulated")


def test_hooks_are_called() -> None:
    calls = []
    network = random_schnet()
    engine, graph = Engine(network), batch(network.cutoff)
    engine(graph)
    handle = network.interactions[0].register_forward_hook(lambda *_: calls.append(1))
    engine(graph)
    assert calls and "hooks" in engine.describe()
    handle.remove()
    assert "Numba" in engine.describe()


def test_kernels_by_name() -> None:
    with pytest.raises(ValueError, match="kernels must be one of"):
        SchNet("organic", kernels="fast")
    with pytest.raises(ValueError, match="no filters to tabulate"):
        BehlerParrinello("organic-bp", kernels="tabulated")
    descriptions = {k: SchNet("organic", kernels=k).describe() for k in ("auto", "exact", "reference")}
    assert "cubic splines" in descriptions["auto"] and "exactly" in descriptions["exact"]
    assert "automatic differentiation" in descriptions["reference"]
    assert "exactly" in SchNet("organic", dtype="float64").describe()
    assert "cubic splines" in SchNet("organic", dtype="float64", kernels="tabulated").describe()


def test_missing_numba_is_said_once_and_changes_no_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    atoms = shaken_molecule("CH3CH2OH")
    expected = SchNet("organic", kernels="reference").get_potential_energy(atoms)
    monkeypatch.setattr(engine_module.compiled, "available", lambda: False)
    engine_module._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ase_xai"):
        for calculator in (SchNet("organic"), SchNet("organic"), BehlerParrinello("organic-bp")):
            calculator.get_potential_energy(atoms)
            assert "Numba is not installed" in calculator.describe()
    assert len(caplog.records) == 1 and "ase_xai[fast]" in caplog.text
    assert SchNet("organic").get_potential_energy(atoms) == expected


@pytest.mark.parametrize("calculator", [SchNet, BehlerParrinello])
def test_a_default_device_of_the_caller_changes_nothing(calculator: Callable[[], Calculator]) -> None:
    atoms = molecule("CH3OH")
    expected = calculator().get_forces(atoms)
    with torch.device("meta"):
        assert np.array_equal(calculator().get_forces(atoms), expected)


def test_calculators_travel_without_their_tables() -> None:
    atoms = molecule("H2O")
    calculator = SchNet("organic")
    energy = calculator.get_potential_energy(atoms)
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        other.reset()
        assert other.get_potential_energy(atoms) == energy


def test_importing_the_package_does_not_import_kernels() -> None:
    code = "import sys, ase_xai, ase_xai.calculators; sys.exit(bool({'numba', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
