"""Known answers, and slow independent versions of what the networks compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from systems import CHARGED_NETWORKS, ELEMENTS, RANDOM_NETWORKS, random_behler_parrinello, random_schnet, shaken_molecule

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, BehlerParrinelloNetwork, SchNetNetwork, predict
from ase_xai.networks.layers import CosineCutoff, GaussianBasis, ShiftedSoftplus
from ase_xai.networks.wacsf import SymmetryFunctions


def graph_of(atoms: Atoms, cutoff: float = 5.0, charge: float = 0.0) -> AtomGraph:
    return AtomGraph.from_atoms(atoms, cutoff, total_charge=charge)


def test_shifted_softplus() -> None:
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    y = ShiftedSoftplus()(x)
    (slope,) = torch.autograd.grad(y, x)
    assert abs(float(y.detach())) < 1e-15 and float(slope) == pytest.approx(0.5, abs=1e-15)
    values = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert torch.allclose(ShiftedSoftplus()(values), torch.log(0.5 * torch.exp(values) + 0.5), rtol=1e-14)


def test_cosine_cutoff() -> None:
    cutoff = CosineCutoff(5.0)
    r = torch.tensor([0.0, 2.5, 5.0, 5.1, 80.0], dtype=torch.float64, requires_grad=True)
    values = cutoff(r)
    assert torch.allclose(values, torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64), atol=1e-15)
    (slopes,) = torch.autograd.grad(values.sum(), r)
    assert torch.allclose(slopes, torch.tensor([0.0, -math.pi / 10, 0.0, 0.0, 0.0], dtype=torch.float64), atol=1e-15)


def test_gaussian_basis_is_exact_after_a_change_of_precision() -> None:
    network = random_schnet().float().double()
    centers = np.linspace(0.0, network.cutoff, network.n_radial)
    spacing = centers[1] - centers[0]
    expected = np.exp(-((1.234 - centers) ** 2) / (2 * spacing**2))
    basis = network.radial_basis(torch.tensor([1.234], dtype=torch.float64))[0]
    assert np.allclose(basis.numpy(), expected, rtol=1e-13)
    with pytest.raises(ValueError, match="at least 2"):
        GaussianBasis(0.0, 1.0, 1)


# --- wACSF ------------------------------------------------------------------------------------------------------------


def fc(r: float, cutoff: float) -> float:
    return 0.5 * (math.cos(math.pi * r / cutoff) + 1) if r < cutoff else 0.0


def slow_wacsf(atoms: Atoms, cutoff: float, n_radial: int, n_angular: int, zetas: tuple[int, ...]) -> np.ndarray:
    """The definition, with explicit loops over pairs and triples of an open system."""
    mus, widths = np.linspace(0.5, cutoff - 0.5, n_radial), np.linspace(1.0, cutoff - 0.5, n_angular)
    s = mus[1] - mus[0]
    z, r = atoms.numbers.astype(float), atoms.positions
    rows = []
    for i in range(len(atoms)):
        others = [j for j in range(len(atoms)) if j != i and np.linalg.norm(r[j] - r[i]) < cutoff]
        row = []
        for mu in mus:
            row.append(
                sum(
                    z[j]
                    * math.exp(-((np.linalg.norm(r[j] - r[i]) - mu) ** 2) / (2 * s * s))
                    * fc(np.linalg.norm(r[j] - r[i]), cutoff)
                    for j in others
                )
            )
        for zeta in zetas:
            for lam in (1, -1):
                for width in widths:
                    total = 0.0
                    for a, j in enumerate(others):
                        for k in others[a + 1 :]:
                            dj, dk = r[j] - r[i], r[k] - r[i]
                            rj, rk = np.linalg.norm(dj), np.linalg.norm(dk)
                            cos = dj @ dk / (rj * rk)
                            total += (
                                z[j]
                                * z[k]
                                * 2.0 ** (1 - zeta)
                                * (1 + lam * cos) ** zeta
                                * math.exp(-(rj**2 + rk**2) / (2 * width**2))
                                * fc(rj, cutoff)
                                * fc(rk, cutoff)
                            )
                    row.append(total)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("zetas", [(1,), (1, 2, 3), (4,)])
@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "H2O"])
def test_moments_equal_the_sum_over_triples(name: str, zetas: tuple[int, ...]) -> None:
    atoms = shaken_molecule(name)
    functions = SymmetryFunctions(3.5, 8, 3, zetas)
    fast = functions(graph_of(atoms, 3.5), torch.float64).numpy()
    slow = slow_wacsf(atoms, 3.5, 8, 3, zetas)
    assert fast.shape == slow.shape
    assert np.abs(fast - slow).max() < 1e-10 * np.abs(slow).max()


def test_resolved_functions_equal_sums_over_neighbors_of_given_elements() -> None:
    """For each element and each pair of elements: the weighted functions of a molecule from which all other neighbors are
    taken away, divided by the weights."""
    atoms = shaken_molecule("CH3CH2OH")
    elements, n_radial, n_angular, zetas = [1, 6, 8], 6, 3, (1, 2)
    resolved = SymmetryFunctions(3.5, n_radial, n_angular, zetas, elements)(graph_of(atoms, 3.5), torch.float64).numpy()
    radial = resolved[:, : 3 * n_radial].reshape(-1, 3, n_radial)
    angular = resolved[:, 3 * n_radial :].reshape(len(atoms), 6, -1)

    def alone(center: int, *kept: int) -> np.ndarray:
        chosen = [center, *(k for k in range(len(atoms)) if k != center and atoms.numbers[k] in kept)]
        return slow_wacsf(atoms[chosen], 3.5, n_radial, n_angular, zetas)[0]

    for center in range(len(atoms)):
        for a, z in enumerate(elements):
            assert np.allclose(radial[center, a] * z, alone(center, z)[:n_radial], rtol=1e-10, atol=1e-10)
        for q, (z, y) in enumerate([(1, 1), (1, 6), (1, 8), (6, 6), (6, 8), (8, 8)]):
            expected = alone(center, z, y) - (0 if z == y else alone(center, z) + alone(center, y))
            assert np.allclose(angular[center, q] * z * y, expected[n_radial:], rtol=1e-9, atol=1e-9)


def test_number_of_functions() -> None:
    assert SymmetryFunctions().n_functions == 32
    assert SymmetryFunctions(zetas=(1, 2)).n_functions == 42
    assert SymmetryFunctions(elements=[1, 8], zetas=(1, 2)).n_functions == 2 * 22 + 3 * 20
    atoms = molecule("CH3CH2OH")
    assert SymmetryFunctions()(graph_of(atoms), torch.float64).shape == (9, 32)


def test_symmetry_functions_by_hand() -> None:
    r = 0.97
    values = SymmetryFunctions()(graph_of(Atoms("OH", [[0, 0, 0], [0, 0, r]])), torch.float64).numpy()
    mus = np.linspace(0.5, 4.5, 22)
    gaussian = np.exp(-((r - mus) ** 2) / (2 * (4 / 21) ** 2)) * fc(r, 5.0)
    assert np.allclose(values[0, :22], 1 * gaussian, rtol=1e-12)  # oxygen sees hydrogen
    assert np.allclose(values[1, :22], 8 * gaussian, rtol=1e-12)  # hydrogen sees oxygen
    assert np.abs(values[:, 22:]).max() < 1e-12  # two atoms have no angle

    water = Atoms("OHH", [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]])
    angular = SymmetryFunctions()(graph_of(water), torch.float64).numpy()[:, 22:27]
    widths = np.linspace(1.0, 4.5, 5)
    cos_hoh = -0.28
    on_oxygen = (1 + cos_hoh) * np.exp(-2 / (2 * widths**2)) * fc(1.0, 5.0) ** 2
    assert np.allclose(angular[0], on_oxygen, rtol=1e-12)  # one triple, weight 1·1
    on_hydrogen = 8 * (1 + 0.8) * np.exp(-(1 + 1.6**2) / (2 * widths**2)) * fc(1.0, 5.0) * fc(1.6, 5.0)
    assert np.allclose(angular[1], on_hydrogen, rtol=1e-12)  # one triple, weight 8·1
    assert np.allclose(angular[2], on_hydrogen, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"zetas": (1.5,)}, "integers"), ({"zetas": ()}, "integers"), ({"cutoff": 1.0}, "exceed 1.5")],
)
def test_symmetry_functions_refuse_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SymmetryFunctions(**settings)


def test_memory_of_angular_terms_is_linear_in_neighbors() -> None:
    """No array of the fast path grows with the number of triples: the widest holds pairs times functions of the distance."""
    sizes: list[int] = []
    atoms = Atoms("C40", np.random.default_rng(0).uniform(0, 8, (40, 3)))
    graph = graph_of(atoms)

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor))
            return out

    with Recorder():
        SymmetryFunctions()(graph, torch.float64)
    n_triples = sum(n * (n - 1) // 2 for n in torch.bincount(graph.centers).tolist())
    assert max(sizes) <= graph.n_unique * 27 < n_triples * 5


# --- SchNet, Behler-Parrinello: written again with loops --------------------------------------------------------------


def slow_schnet(network: SchNetNetwork, atoms: Atoms) -> np.ndarray:
    """Atomic interaction energies by the equations, pair by pair, in numpy."""
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}

    def ssp(x: np.ndarray) -> np.ndarray:
        return np.log(0.5 * np.exp(x) + 0.5)

    def dense(prefix: str, x: np.ndarray) -> np.ndarray:
        return state[f"{prefix}.weight"] @ x + state.get(f"{prefix}.bias", 0.0)

    mus = np.linspace(0, network.cutoff, network.n_radial)
    gamma = 1 / (2 * (mus[1] - mus[0]) ** 2)
    x = np.array([state["embedding.weight"][network.elements.index(z)] for z in atoms.numbers])
    for t in range(network.n_interactions):
        p = f"interactions.{t}"
        new = []
        for i in range(len(atoms)):
            message = np.zeros(x.shape[1])
            for j in range(len(atoms)):
                r = np.linalg.norm(atoms.positions[j] - atoms.positions[i])
                if j == i or r >= network.cutoff:
                    continue
                hidden = ssp(dense(f"{p}.filter_network.0", np.exp(-gamma * (r - mus) ** 2)))
                filters = dense(f"{p}.filter_network.2", hidden) * fc(r, network.cutoff)
                message += dense(f"{p}.sender", x[j]) * filters
            new.append(x[i] + dense(f"{p}.update.2", ssp(dense(f"{p}.update.0", message))))
        x = np.array(new)
    readout = [dense("energy_readout.2", ssp(dense("energy_readout.0", features)))[0] for features in x]
    return network.energy.scale * np.array(readout) + network.energy.shift


def test_schnet_equals_its_equations() -> None:
    network = random_schnet(5, n_interactions=3, cutoff=3.0).double()
    atoms = shaken_molecule("CH3CH2OH")
    fast = predict(network, graph_of(atoms, 3.0)).output.energies.numpy()
    assert np.allclose(fast, slow_schnet(network, atoms), rtol=1e-12)


def test_behler_parrinello_equals_its_equations() -> None:
    network = random_behler_parrinello(6, zetas=(1, 2), cutoff=4.0).double()
    atoms = shaken_molecule("CH3CH2NH2")
    descriptors = slow_wacsf(atoms, 4.0, 22, 5, (1, 2))
    x = (descriptors - network.descriptor_mean.numpy()) / network.descriptor_std.numpy()
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    expected = []
    for z, row in zip(atoms.numbers, x, strict=True):
        k = network.elements.index(z)
        for layer in ("0.0", "0.2"):
            name = f"hidden_networks.{k}.{layer}"
            row = np.log(0.5 * np.exp(state[f"{name}.weight"] @ row + state[f"{name}.bias"]) + 0.5)
        energy = state[f"energy_readouts.{k}.weight"][0] @ row + state[f"energy_readouts.{k}.bias"][0]
        expected.append(network.energy.scale * energy + network.energy.shift)
    fast = predict(network, graph_of(atoms, 4.0)).output.energies.numpy()
    assert np.allclose(fast, expected, rtol=1e-10)


def test_standardization_uses_mean_and_spread_of_the_atoms() -> None:
    network = BehlerParrinelloNetwork(ELEMENTS)
    graphs = [graph_of(shaken_molecule("CH3CH2OH", seed)) for seed in range(20)]
    network.standardize_on(graphs)
    values = torch.cat([network.descriptor(graph, torch.float64) for graph in graphs])
    standardized = (values - network.descriptor_mean) / network.descriptor_std
    varied = values.std(dim=0) > 0.01
    assert standardized.mean(dim=0).abs().max() < 1e-2 * standardized.std(dim=0).max()
    assert torch.allclose(standardized.std(dim=0)[varied], torch.ones(int(varied.sum()), dtype=torch.float64), rtol=1e-5)


# --- charges, dipoles, references -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHARGED_NETWORKS)
@pytest.mark.parametrize("charge", [-1.0, 0.0, 2.0])
def test_charges_sum_to_the_total_charge_in_every_precision(name: str, charge: float) -> None:
    for dtype in (torch.float32, torch.float64):
        network = RANDOM_NETWORKS[name]().to(dtype)
        systems = [shaken_molecule("CH3CH2OH"), molecule("H2O"), Atoms("N")]
        graph = AtomGraph.batch([graph_of(atoms, network.cutoff, charge) for atoms in systems])
        prediction = predict(network, graph)
        totals = graph.sum_systems(prediction.charges)
        assert torch.allclose(totals, torch.full((3,), charge, dtype=torch.float64), atol=1e-13)
        assert torch.allclose(graph.sum_systems(prediction.energies), prediction.energy, rtol=1e-14)


@pytest.mark.parametrize("name", CHARGED_NETWORKS)
def test_equivalent_atoms_are_equal_and_planar_dipoles_in_plane(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    benzene = molecule("C6H6")
    benzene.positions -= benzene.positions.mean(axis=0)
    angle = np.pi / 3 * np.arange(6)
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    benzene.positions = np.concatenate([1.39 * ring, 2.48 * ring])  # exactly sixfold
    prediction = predict(network, graph_of(benzene, network.cutoff))
    for values in (prediction.energies, prediction.charges):
        assert values[:6].std() < 1e-10 and values[6:].std() < 1e-10
    assert prediction.dipole.abs().max() < 1e-10
    rng = np.random.default_rng(0)
    benzene.positions[:, :2] += rng.normal(0, 0.1, (12, 2))
    assert abs(float(predict(network, graph_of(benzene, network.cutoff)).dipole[0, 2])) < 1e-12


@pytest.mark.parametrize("make", [random_schnet, random_behler_parrinello])
def test_a_network_without_charges_says_none(make: Callable[..., AtomisticNetwork]) -> None:
    network = make(charges=False)
    prediction = predict(network, graph_of(molecule("H2O"), network.cutoff))
    assert not network.has_charges and prediction.charges is None and prediction.dipole is None
    assert network.settings()["charges"] is False and type(network)(**network.settings()).has_charges is False


def test_references_stay_apart_and_in_float64() -> None:
    network = random_schnet().float()
    network.energy.references = {1: -13.612345678901234, 8: -2042.6112359312345}
    prediction = predict(network, graph_of(molecule("H2O")))
    references = prediction.energies - prediction.output.energies
    assert references.tolist() == pytest.approx([-2042.6112359312345, -13.612345678901234, -13.612345678901234], abs=1e-11)
    network.energy.references = {}
    assert torch.equal(predict(network, graph_of(molecule("H2O"))).energies, prediction.output.energies)


def test_a_graph_without_mirror_gives_the_same_numbers() -> None:
    """The half-list shortcut is exact: the same pairs listed one by one, in any order, predict the same."""
    for make in RANDOM_NETWORKS.values():
        network = make().double()
        graph = graph_of(shaken_molecule("CH3CH2OH"), network.cutoff)
        order = torch.randperm(len(graph.centers), generator=torch.Generator().manual_seed(0))
        plain = AtomGraph(
            graph.numbers, graph.positions, graph.vectors[order], graph.centers[order], graph.neighbors[order],
            graph.system, graph.total_charge, graph.volume, mirrored=False,
        )  # fmt: skip
        a, b = predict(network, graph), predict(network, plain)
        assert torch.allclose(a.energies, b.energies, rtol=1e-13)
        assert torch.allclose(a.forces, b.forces, atol=1e-11)


def test_graph_refuses_wrong_shapes() -> None:
    graph = graph_of(molecule("H2O"))
    with pytest.raises(ValueError, match=r"vectors must have shape \(6, 3\), got \(4, 3\)"):
        graph.with_vectors(graph.vectors[:4])
    with pytest.raises(ValueError, match="no graphs"):
        AtomGraph.batch([])


@pytest.mark.parametrize(
    ("elements", "cutoff", "message"), [([], 5, "distinct"), ([1, 1], 5, "distinct"), ([1], -5, "positive")]
)
def test_networks_refuse_bad_settings(elements: list[int], cutoff: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchNetNetwork(elements, cutoff=cutoff, n_features=8, n_interactions=1)
