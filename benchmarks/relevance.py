"""All 1-, 2- and 3-body relevances of drug-like molecules: time, memory, shares of each order; and what walks would cost.

    python benchmarks/relevance.py [--molecules aspirin caffeine] [--order 3] [--dtype float64] [--threads 1] [--others]

Molecules are those of `drug_like.xyz`. Terms come from one small graph for each connected set of atoms (`NBodyRelevance`).
Walks, the other way to the same terms, are enumerated one by one for water, whose network has few enough of them, checked
against the subset pass, and their time per walk is applied to the number of walks in each molecule, (A + 1)^T summed over
both ends. Times are wall and CPU time of one call; memory is the peak of the process beyond what it held before.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import iread

from ase_xai import NetworkCalculator, explain, load
from ase_xai.explainers import ManyBodyExpansion, NBodyRelevance, ShapleyValues
from ase_xai.explainers.terms import order_shares
from ase_xai.networks.linearized import LinearizedSchNet


def peak() -> float:
    """Peak memory of the process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(question: object, calculator: NetworkCalculator, atoms: Atoms) -> tuple[object, float, float, float]:
    """Answer, wall seconds, CPU seconds, MB."""
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    answer = explain(atoms, question, calculator)  # type: ignore[arg-type]
    return answer, time.perf_counter() - wall, time.process_time() - cpu, peak() - before


def enumerated(calculator: NetworkCalculator, atoms: Atoms) -> tuple[int, float, float]:
    """Number of walks, seconds per walk, and the deviation of their sum from the subset pass in eV; T at most 6 or so."""
    network, graph = calculator.network, calculator.checked_graph(atoms)
    n = len(atoms)
    started = time.perf_counter()
    linear = LinearizedSchNet(network, graph)
    with torch.no_grad():
        r = torch.linalg.vector_norm(graph.vectors, dim=1).to(network.dtype)
        basis, envelope = network.radial_basis(r), network.cutoff_function(r)[:, None]
        tables = [interaction.filter_network(basis) * envelope for interaction in linear.interactions]
        pairs = list(zip(graph.centers.tolist(), graph.neighbors.tolist(), strict=True))
        heard_by = [[(i, e) for e, (i, sender) in enumerate(pairs) if sender == j] for j in range(n)]
        count, total = 0, 0.0

        def follow(layer: int, atom: int, value: torch.Tensor) -> None:
            nonlocal count, total
            if layer == len(tables):
                count += 1
                total += float(network.energy.scale * linear.readout(value, torch.tensor([atom])))
                return
            follow(layer + 1, atom, value)  # stays where it is
            sent = linear.interactions[layer].sender(value)
            for i, e in heard_by[atom]:
                follow(layer + 1, i, linear.updates[layer](tables[layer][e] * sent, torch.tensor([i])))

        for start, value in enumerate(network.embedding(network.element_index(graph.numbers)).split(1)):
            follow(0, start, value)
        seconds = time.perf_counter() - started
        whole = float(linear(graph, torch.arange(n)).sum())
    return count, seconds / count, total - whole


def number_of_walks(calculator: NetworkCalculator, atoms: Atoms) -> int:
    graph, layers = calculator.checked_graph(atoms), len(calculator.network.interactions)
    steps = np.eye(len(atoms))
    steps[graph.centers.numpy(), graph.neighbors.numpy()] = 1.0
    return int(np.linalg.matrix_power(steps, layers).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", nargs="+", default=["aspirin", "caffeine", "ibuprofen"])
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--others", action="store_true", help="many-body terms and Shapley values, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    by_name = {atoms.info["name"]: atoms for atoms in iread(Path(__file__).parent / "drug_like.xyz")}
    schnet = load("organic", dtype=arguments.dtype)
    n_walks, per_walk, deviation = enumerated(schnet, molecule("H2O"))
    layers = len(schnet.network.interactions)
    print(
        f"water, T = {layers}: {n_walks} walks one by one, {1e3 * per_walk:.3f} ms each; "
        f"their sum deviates by {deviation:.1e} eV from the subset pass"
    )
    print(f"\n{arguments.dtype}, {arguments.threads} threads\n")
    print("| molecule | atoms | weights | question | terms | wall s | CPU s | MB | by walks |\n" + "| --- " * 9 + "|")
    questions: list[object] = [NBodyRelevance(arguments.order)]
    questions += [ManyBodyExpansion(arguments.order), ShapleyValues()] if arguments.others else []
    shares = []
    for name in arguments.molecules:
        atoms = by_name[name]
        for weights in ("organic", "organic-bp"):
            calculator = schnet if weights == "organic" else load(weights, dtype=arguments.dtype)
            for question in questions:
                answer, wall, cpu, memory = measured(question, calculator, atoms)
                title, walks = type(question).__name__, ""
                if isinstance(question, NBodyRelevance):
                    shares.append((name, weights, order_shares(answer)))
                    if weights == "organic":
                        number = number_of_walks(calculator, atoms)
                        walks = f"{number:.1e} walks, {number * per_walk / 86400:.1f} days"
                cells = (
                    name,
                    len(atoms),
                    weights,
                    title,
                    len(answer.values),
                    f"{wall:.2f}",
                    f"{cpu:.2f}",
                    f"{memory:.0f}",
                    walks,
                )
                print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    print("\nn-body relevance: sums in eV, and shares of absolute sums\n")
    print("| molecule | weights | order: sum (share) | higher | bias |\n" + "| --- " * 5 + "|")
    for name, weights, found in shares:
        orders = ", ".join(
            f"{n}: {s:+.2f} ({p:.0%})" for n, s, p in zip(found.orders, found.sums, found.shares, strict=True)
        )
        rest, bias = f"{found.rest:+.2f} ({found.rest_share:.0%})", f"{found.residual:+.2f} ({found.residual_share:.0%})"
        print(f"| {name} | {weights} | {orders} | {rest} | {bias} |")


if __name__ == "__main__":
    main()
