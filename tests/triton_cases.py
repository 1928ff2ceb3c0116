"""What `test_triton.py` runs in processes of its own: in Triton's interpreter on the CPU, or on a device."""

from __future__ import annotations

import os

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from systems import random_schnet, shaken_molecule

from ase_xai.graph import AtomGraph
from ase_xai.networks import Prediction, SchNetNetwork, predict
from ase_xai.networks.inference.convolution import Convolution, TorchConvolution
from ase_xai.networks.inference.convolution_triton import TritonConvolution
from ase_xai.networks.inference.filters import FilterTable
from ase_xai.networks.inference.pairs import PairList
from ase_xai.networks.inference.schnet import SchNetEvaluator
from ase_xai.networks.inference.team import Team

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def table_of(n_features: int, dtype: torch.dtype) -> FilterTable:
    torch.manual_seed(n_features)
    network = SchNetNetwork([1, 6, 7, 8], cutoff=2.0, n_features=n_features, n_interactions=2, n_radial=20).double()
    return FilterTable(network, network.cutoff_function, dtype, DEVICE)


def random_pairs(n_pairs: int, n_atoms: int = 11) -> PairList:
    """Three of the atoms have no neighbors; some are their own neighbors, one of them twice."""
    rng = torch.Generator().manual_seed(n_pairs)
    first, second = torch.randint(1, n_atoms - 2, (2, n_pairs), generator=rng)
    second[: n_pairs // 8] = first[: n_pairs // 8]
    second[:2], first[:2] = 4, 4
    order = first.argsort(stable=True)
    distances = (0.3 + 1.6 * torch.rand(n_pairs, generator=rng)).double()
    vectors = distances[:, None] * torch.tensor([1.0, 0.0, 0.0])
    return PairList(*(t.to(DEVICE) for t in (first[order], second[order], vectors, distances)), n_atoms)


@torch.no_grad()
def summed(convolution: Convolution, dtype: torch.dtype, layer: int, parts: list[slice]) -> Sums:
    n_atoms, n_features = convolution.pairs.n_atoms, convolution.filters.table.shape[2]
    rng = torch.Generator().manual_seed(3)
    x, g, y, gx = torch.randn(4, n_atoms, n_features, generator=rng, dtype=torch.float64).to(DEVICE, dtype)
    slopes = torch.randn(len(convolution.pairs), generator=rng, dtype=torch.float64).to(DEVICE)
    for part in parts:
        convolution.forward(layer, x, y, part)
        convolution.backward(layer, x, g, gx, slopes, part)
    return y, gx, slopes


def agree(found: Sums, expected: Sums, tolerance: float) -> None:
    for actual, correct in zip(found, expected, strict=True):
        assert actual.shape == correct.shape and actual.dtype == correct.dtype
        if len(correct):
            assert float((actual - correct).abs().max()) < tolerance * float(correct.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_features", "n_pairs"), [(16, 0), (16, 1), (16, 300), (64, 90), (100, 50), (128, 50), (260, 12)])
def test_kernels_equal_pytorch_operations(n_features: int, n_pairs: int, dtype: torch.dtype) -> None:
    """Neighborhoods are longer and shorter than what a program takes at once, and each array holds something before."""
    filters = table_of(n_features, dtype)
    pairs, whole = random_pairs(n_pairs), [slice(0, n_pairs)]
    expected = summed(TorchConvolution(pairs, filters), dtype, 1, whole)
    found = summed(TritonConvolution(pairs, filters), dtype, 1, whole)
    agree(found, expected, TOLERANCE[dtype])
    again = summed(TritonConvolution(pairs, filters), dtype, 1, whole)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_parts_of_the_pairs_add_up() -> None:
    filters, pairs = table_of(16, torch.float64), random_pairs(40)
    expected = summed(TorchConvolution(pairs, filters), torch.float64, 0, [slice(0, 40)])
    agree(summed(TritonConvolution(pairs, filters), torch.float64, 0, [slice(0, 13), slice(13, 40)]), expected, 1e-12)


def graph_of(systems: list[Atoms], cutoff: float) -> AtomGraph:
    return AtomGraph.batch([AtomGraph.from_atoms(atoms, cutoff, total_charge=1.0, device=DEVICE) for atoms in systems])


def mixture(cutoff: float) -> AtomGraph:
    """A molecule, a lone atom and a crystal smaller than the cutoff, so that atoms are neighbors of their own images."""
    diamond = bulk("C")
    diamond.positions[1] += 0.05, -0.1, 0.02
    return graph_of([shaken_molecule("CH3OH"), Atoms("O"), diamond], cutoff)


def deviation(one: Prediction, other: Prediction) -> float:
    """Largest of energies, charges and their derivatives in eV, e and Å."""
    names = ("energy", "energies", "charges", "dipole", "forces", "pair_gradients", "stress")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    assert all(a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) for a, b in pairs)
    return max(float((a - b).nan_to_num().abs().max()) for a, b in pairs if len(b))


@pytest.mark.parametrize(
    ("dtype", "tabulated", "limit"),
    [(torch.float32, True, 1e-4), (torch.float64, True, 1e-5), (torch.float32, False, 1e-4), (torch.float64, False, 1e-9)],
)
def test_evaluation_equals_automatic_differentiation(dtype: torch.dtype, tabulated: bool, limit: float) -> None:
    network = random_schnet(2, cutoff=3.0).to(DEVICE, dtype)
    graph = mixture(network.cutoff)
    evaluator = SchNetEvaluator.of(network, TritonConvolution, tabulated=tabulated)
    found = evaluator(graph, Team())
    assert deviation(found, predict(network, graph)) < limit
    usual = SchNetEvaluator(network, evaluator.filters, TorchConvolution)  # the same filters, added up in another order
    assert deviation(found, usual(graph, Team())) < (1e-5 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("systems", [[Atoms("O")], [Atoms("O"), Atoms("H")]])
def test_lone_atoms(systems: list[Atoms]) -> None:
    network = random_schnet(1).to(DEVICE)
    graph = graph_of(systems, network.cutoff)
    evaluator = SchNetEvaluator.of(network, TritonConvolution, tabulated=True)
    assert deviation(evaluator(graph, Team()), predict(network, graph)) < 1e-5
