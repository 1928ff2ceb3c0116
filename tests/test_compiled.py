"""The compiled kernels against the plain networks: values, forces, stress, and the gradient of a loss on all of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase.build import bulk
from systems import RANDOM_NETWORKS, shaken_molecule

from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomisticNetwork, Prediction, predict
from ase_xai.networks.layers import GaussianBasis

pytest.importorskip("numba")

from ase_xai.networks.compiled.convolution import KNOTS_PER_ANGSTROM, Grid, PlacedPairs, convolve

TOLERANCE = {"schnet": 1e-3, "behler-parrinello": 1e-12}
"""Relative. SchNet's filters are interpolated, Behler-Parrinello's functions are not."""


def batch(cutoff: float) -> AtomGraph:
    crystal = bulk("C", cubic=True) * (1, 1, 2)
    crystal.positions += np.random.default_rng(0).normal(0, 0.1, crystal.positions.shape)
    systems = [shaken_molecule("CH3CH2OH"), shaken_molecule("CH3CONH2", seed=1), crystal]
    return AtomGraph.batch([AtomGraph.from_atoms(atoms, cutoff) for atoms in systems])


def loss(prediction: Prediction) -> torch.Tensor:
    """Something smooth that needs every output."""
    dipole = 0.0 if prediction.dipole is None else prediction.dipole.sum()
    stress = prediction.stress[torch.isfinite(prediction.stress)]
    return (0.1 * prediction.energies).sin().sum() + (prediction.forces**2).sum() + dipole + (stress**2).sum()


def outcome(network: AtomisticNetwork, graph: AtomGraph) -> tuple[Prediction, list[torch.Tensor]]:
    prediction = predict(network, graph, create_graph=True)
    return prediction, list(torch.autograd.grad(loss(prediction), [p for p in network.parameters() if p.requires_grad]))


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-12


@pytest.mark.parametrize("name", RANDOM_NETWORKS)
def test_compiled_equals_plain(name: str) -> None:
    network = RANDOM_NETWORKS[name]().double()
    graph, tolerance = batch(network.cutoff), TOLERANCE[network.architecture]
    expected, expected_gradients = outcome(network, graph)
    network.compiled = True
    actual, gradients = outcome(network, graph)
    for quantity in ("energies", "forces", *(("charges", "dipole") if network.has_charges else ())):
        assert close(getattr(actual, quantity).detach(), getattr(expected, quantity).detach(), tolerance), quantity
    assert close(actual.stress[2].detach(), expected.stress[2].detach(), tolerance)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for parameter, gradient, reference in zip(names, gradients, expected_gradients, strict=True):
        assert close(gradient, reference, 10 * tolerance), parameter


@pytest.mark.parametrize("name", RANDOM_NETWORKS)
def test_compiled_in_single_precision(name: str) -> None:
    network = RANDOM_NETWORKS[name]()
    graph = batch(network.cutoff)
    expected = predict(network, graph)
    network.compiled = True
    actual = predict(network, graph)
    assert actual.energy.dtype == torch.float64
    assert close(actual.forces, expected.forces, 2e-3)


@pytest.mark.parametrize("name", ["schnet-1", "behler-parrinello"])
def test_second_derivatives_in_positions_are_refused(name: str) -> None:
    network = RANDOM_NETWORKS[name]()
    network.compiled = True
    value = predict(network, batch(network.cutoff), create_graph=True).forces.square().sum()
    with pytest.raises(RuntimeError, match="no second derivative with respect to positions"):
        value.backward()


def test_interpolation_error_falls_with_the_fourth_power_of_the_spacing() -> None:
    """Cubic Lagrange interpolation of a Gaussian: error ~ h⁴. The filters come out as accurate as promised."""
    basis = GaussianBasis(0.0, 5.0, 50)
    distances = torch.linspace(0.31, 4.93, 500, dtype=torch.float64)
    index = torch.arange(len(distances))

    def error(grid: Grid) -> float:
        table, pairs = basis(grid.distances), PlacedPairs.on(grid, distances, 2 * index, 2 * index + 1)
        values = convolve(torch.ones((2 * len(distances), 50), dtype=torch.float64), table, distances, pairs)
        return float((values[::2] - basis(distances)).abs().max())

    fine = Grid.over(5.0, distances)
    assert len(fine.distances) == 5 * KNOTS_PER_ANGSTROM + 3
    coarse = Grid(2 * fine.spacing * torch.arange(-1, 2 + len(fine.distances) // 2), 2 * fine.spacing)
    assert error(fine) < 2e-4
    assert error(fine) < error(coarse) / 10


def test_importing_the_networks_does_not_import_numba() -> None:
    code = "import sys, ase_xai.networks, ase_xai.training; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_numba_names_the_extra() -> None:
    code = "import sys; sys.modules['numba'] = None\nfrom ase_xai.networks.compiled import convolution"
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'ase_xai[fast]'" in run.stderr
