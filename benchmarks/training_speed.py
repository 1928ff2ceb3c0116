"""Training speed of SchNet here and in SchNetPack: same molecules, batches, network sizes and threads, interleaved.

    python benchmarks/training_speed.py DATA.npz [--threads 1] [--batch-size 32] [--rounds 20]

DATA.npz is ragged with n_atoms, Z, R (Å), E_eV, F_eV_A. Needs `pip install schnetpack` beside `ase_xai[fast]`; without
SchNetPack its lines are left out. A step is everything from the arrays of a batch to updated weights: graph, energies,
forces, loss, gradients, Adam. Neighbor pairs are found beforehand for both. Medians; structures/s of the median step.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks import SchNetNetwork, predict
from ase_xai.networks.compiled import available

CUTOFF = 5.0


class Batch:
    """One batch in the form that either program reads, made beforehand except for what belongs to a step."""

    def __init__(self, file: np.lib.npyio.NpzFile, indices: np.ndarray) -> None:
        offsets = np.concatenate([[0], np.cumsum(file["n_atoms"].astype(np.int64))])
        rows = [slice(offsets[s], offsets[s + 1]) for s in indices]
        molecules = [Atoms(file["Z"][r], file["R"][r]) for r in rows]
        graph = AtomGraph.batch([AtomGraph.from_atoms(atoms, CUTOFF) for atoms in molecules])
        self.graph = graph.with_vectors(graph.vectors.float())
        self.n_atoms = torch.tensor([len(m) for m in molecules])
        self.energy = torch.from_numpy(file["E_eV"][indices].astype(np.float64))
        self.forces = torch.from_numpy(np.concatenate([file["F_eV_A"][r] for r in rows]))

    @property
    def schnetpack(self) -> dict[str, Tensor]:
        graph, n_systems = self.graph, self.graph.n_systems
        order = torch.argsort(graph.centers, stable=True)
        return {
            "_atomic_numbers": graph.numbers,
            "_positions": graph.positions.float(),
            "_cell": torch.zeros(n_systems, 3, 3),
            "_pbc": torch.zeros(3 * n_systems, dtype=torch.bool),
            "_idx_i": graph.centers[order],
            "_idx_j": graph.neighbors[order],
            "_offsets": torch.zeros(len(order), 3),
            "_idx_m": graph.system,
            "_n_atoms": self.n_atoms,
        }


def ours(network: SchNetNetwork, forces: bool) -> Callable[[Batch], Tensor]:
    def loss(batch: Batch) -> Tensor:
        if not forces:
            output = network(batch.graph)
            energy = batch.graph.sum_systems(output.energies + output.references)
            return (energy - batch.energy).square().mean()
        prediction = predict(network, batch.graph, create_graph=True)
        return (prediction.energy - batch.energy).square().mean() + (prediction.forces - batch.forces).square().mean()

    return loss


def schnetpack_model(features: int, interactions: int, forces: bool) -> nn.Module:
    import schnetpack as spk

    radial = spk.nn.GaussianRBF(n_rbf=50, cutoff=CUTOFF)
    representation = spk.representation.SchNet(features, interactions, radial, spk.nn.CosineCutoff(CUTOFF))
    outputs: list[nn.Module] = [spk.atomistic.Atomwise(n_in=features, output_key="energy")]
    if forces:
        outputs.append(spk.atomistic.Forces(energy_key="energy", force_key="forces"))
    model = spk.model.NeuralNetworkPotential(representation, [spk.atomistic.PairwiseDistances()], outputs)
    return model.train()


def theirs(model: nn.Module, forces: bool) -> Callable[[Batch], Tensor]:
    def loss(batch: Batch) -> Tensor:
        result = model(batch.schnetpack)
        value = (result["energy"] - batch.energy.float()).square().mean()
        return value + (result["forces"] - batch.forces).square().mean() if forces else value

    return loss


def stepper(model: nn.Module, loss: Callable[[Batch], Tensor], weights_only: bool) -> Callable[[Batch], None]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-6)

    def step(batch: Batch) -> None:
        value = loss(batch)
        if weights_only:
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(value, parameters, allow_unused=True), strict=True
            ):
                parameter.grad = gradient
        else:  # as in its own training loop
            optimizer.zero_grad()
            value.backward()
        optimizer.step()

    return step


def contestants(features: int, interactions: int, forces: bool) -> dict[str, Callable[[Batch], None]]:
    steps = {}
    for name, compiled in (("ase_xai, compiled kernels", True), ("ase_xai, plain PyTorch", False)):
        if compiled and not available():
            continue
        network = SchNetNetwork([1, 6, 7, 8, 9, 16, 17], n_features=features, n_interactions=interactions)
        network.compiled = compiled
        steps[name] = stepper(network, ours(network, forces), weights_only=True)
    try:
        model = schnetpack_model(features, interactions, forces)
    except ImportError:
        print("SchNetPack is not installed: left out.")
        return steps
    return {**steps, "SchNetPack": stepper(model, theirs(model, forces), weights_only=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with np.load(arguments.data, allow_pickle=False) as file:
        chosen = np.random.default_rng(0).choice(len(file["n_atoms"]), (8, arguments.batch_size), replace=False)
        columns = {key: file[key] for key in ("n_atoms", "Z", "R", "E_eV", "F_eV_A")}
        batches = [Batch(columns, indices) for indices in chosen]  # type: ignore[arg-type]
    atoms, pairs = (statistics.mean(getattr(b.graph, k).shape[0] for b in batches) for k in ("numbers", "centers"))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {arguments.threads} thread(s), float32")
    print(f"batches of {arguments.batch_size} molecules: {atoms:.0f} atoms, {pairs:.0f} pairs on average")
    print(
        "| network | trained on | program | ms per step | structures/s | SchNetPack's time / this |\n" + "| --- " * 6 + "|"
    )
    for features, interactions in ((128, 6), (64, 3)):
        for forces in (True, False):
            steps = contestants(features, interactions, forces)
            times: dict[str, list[float]] = {name: [] for name in steps}
            for number in range(arguments.rounds + 2):
                for name, step in steps.items():
                    start = time.perf_counter()
                    step(batches[number % len(batches)])
                    if number >= 2:
                        times[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(values) for name, values in times.items()}
            for name, median in medians.items():
                ratio = f"{medians['SchNetPack'] / median:.1f}" if "SchNetPack" in medians else ""
                what = f"{features} x {interactions} | {'energy, forces' if forces else 'energy'} | {name}"
                print(f"| {what} | {1e3 * median:.1f} | {arguments.batch_size / median:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
