"""The contract of every network, and proof that it notices networks that break it."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from systems import RANDOM_NETWORKS, random_schnet

from ase_xai.contract import CONTRACT, check_network
from ase_xai.networks import NETWORKS
from ase_xai.probe import Probe, make_probe
from ase_xai.weights import resolve, shipped

SHIPPED = [record.name for record in shipped()]


@pytest.fixture(scope="module")
def probe(request: pytest.FixtureRequest) -> Probe:
    name, charge, kernels = request.param
    network = RANDOM_NETWORKS[name]() if name in RANDOM_NETWORKS else resolve(name).network
    return make_probe(network, total_charge=charge, kernels=kernels)


CASES = [(name, charge, "reference") for name in RANDOM_NETWORKS for charge in (-1.0, 0.0, 1.0)]
CASES += [(name, 0.0, "reference") for name in SHIPPED]
CASES += [(name, 1.0, "exact") for name in RANDOM_NETWORKS] + [("schnet-3", 0.0, "tabulated"), ("organic", 0.0, "exact")]


@pytest.mark.parametrize("check", CONTRACT)
@pytest.mark.parametrize("probe", CASES, indirect=True, ids=lambda case: f"{case[0]}{case[1]:+g}-{case[2]}")
def test_contract(probe: Probe, check: str) -> None:
    function, tolerance, units = CONTRACT[check]
    value = function(probe)
    assert value <= tolerance, f"{check}: {value:.2e} {units}, allowed {tolerance:.0e}"


def test_every_architecture_is_covered() -> None:
    assert {make().architecture for make in RANDOM_NETWORKS.values()} == set(NETWORKS)


def test_both_preview_networks_ship() -> None:
    assert {"organic", "organic-bp"} <= set(SHIPPED)


def test_checks_leave_the_network_untouched() -> None:
    network = random_schnet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    checks = check_network(network)
    assert [check.name for check in checks] == list(CONTRACT) and all(check.passed for check in checks)
    assert network.training and network.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class HardCutoff(torch.nn.Module):
    """Breaks continuity: pairs vanish abruptly."""

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(distances)


class LeakyReadout(torch.nn.Sequential):
    """Breaks locality: every atom feels the sum over all atoms."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) + torch.sin(features.sum())


def failures(network: torch.nn.Module) -> set[str]:
    return {check.name for check in check_network(network) if not check.passed}


def test_a_network_without_cutoff_function_fails() -> None:
    network = random_schnet()
    network.cutoff_function = HardCutoff()
    assert "energy and forces continuous at the cutoff" in failures(network)


def test_a_network_with_global_state_fails() -> None:
    network = random_schnet()
    network.energy_readout.__class__ = LeakyReadout
    assert {"far copies add up", "batch equals singles"} <= failures(network)


def test_a_network_that_sees_directions_fails() -> None:
    network = random_schnet()
    original = type(network).forward

    class Anisotropic(type(network)):
        def forward(self, graph):
            return original(self, graph.with_vectors(graph.vectors * graph.vectors.new_tensor([1.0, 1.0, 1.05])))

    network.__class__ = Anisotropic
    assert "rotation" in failures(network)


def test_probe_systems_are_what_they_claim() -> None:
    probe = make_probe(random_schnet())
    distances = probe.cluster.get_all_distances() + 10 * torch.eye(len(probe.cluster)).numpy()
    assert 0.5 < distances.min() < 2.0
    assert probe.crystal.cell.lengths().min() < probe.network.cutoff
    assert isinstance(probe.cluster, Atoms) and probe.crystal.pbc.all()
