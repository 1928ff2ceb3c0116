"""Does the spread of an ensemble know how wrong the ensemble is?

    python benchmarks/ensemble_calibration.py DATA_FOLDER [--members organic-s0 organic-s1 organic-s2 organic-s3]

Members are evaluated on the structures that none of them was trained on. On the validation part one number per target is
fitted, the scale α that makes the mean square of (error / (α spread)) one; everything printed is from the test part:

    error    of the mean of the members: of a structure's energy per atom, of one force component
    spread   standard deviation between members (n - 1) times α; of forces the root mean square over components of an atom

Per quarter of the test part, ordered by spread: mean predicted spread beside the error that was found, and the share of
errors within one and within two predicted standard deviations (normally distributed ones: 68 and 95 %).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ase_xai.training.config import load_config
from ase_xai.training.data import StructureSet
from ase_xai.training.evaluation import predicted
from ase_xai.training.loader import GraphLoader
from ase_xai.training.pipeline import load_structures, split_of
from ase_xai.weights import resolve

EXAMPLES = Path(__file__).parents[1] / "examples" / "training"
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Errors of the mean and spreads between members, one pair of arrays for each target; in eV/atom and eV/Å."""

    energy: tuple[Array, Array]  # (S,), (S,)
    forces: tuple[Array, Array]  # (A, 3), (A,)
    member_errors: Array  # (M, 2): mean absolute errors of energy per atom and of force components
    mean_errors: Array  # (2,) of the mean


def judged(reference: StructureSet, predictions: list[StructureSet]) -> Judged:
    """What the members say of these structures, beside the labels."""
    energies = np.array([p.energy for p in predictions]) / reference.n_atoms
    forces = np.array([p.forces for p in predictions])
    energy_errors, force_errors = energies - reference.energy / reference.n_atoms, forces - reference.forces
    each = np.stack([np.abs(energy_errors).mean(axis=1), np.abs(force_errors).mean(axis=(1, 2))], axis=1)
    mean = np.array([np.abs(energy_errors.mean(axis=0)).mean(), np.abs(force_errors.mean(axis=0)).mean()])
    force_spread = np.sqrt(np.square(forces.std(axis=0, ddof=1)).mean(axis=1))
    return Judged(
        energy=(energy_errors.mean(axis=0), energies.std(axis=0, ddof=1)),
        forces=(force_errors.mean(axis=0), force_spread),
        member_errors=each,
        mean_errors=mean,
    )


def per_component(errors: Array, spread: Array) -> tuple[Array, Array]:
    """Errors and spreads of the same shape, flat."""
    wide = spread if errors.ndim == 1 else np.repeat(spread[:, None], errors.shape[1], axis=1)
    return errors.ravel(), wide.ravel()


def fitted_scale(errors: Array, spread: Array) -> float:
    """α, so that errors divided by α spread have a mean square of one."""
    flat, wide = per_component(errors, spread)
    return float(np.sqrt(np.mean(np.square(flat / wide))))


def rank_correlation(errors: Array, spread: Array) -> float:
    """Spearman's, of the spread with the size of the error of each structure or atom."""
    size = np.abs(errors) if errors.ndim == 1 else np.linalg.norm(errors, axis=1)
    return float(spearmanr(size, spread).statistic)


def print_quarters(name: str, unit: str, errors: Array, spread: Array, scale: float) -> None:
    """One line per quarter of the structures or atoms, and one for all."""
    order = np.argsort(spread)
    quarters = {f"{name}, quarter {k + 1}": rows for k, rows in enumerate(np.array_split(order, 4))}
    for title, rows in {**quarters, f"{name}, all": order}.items():
        flat, wide = per_component(errors[rows], scale * spread[rows])
        within = [100 * float(np.mean(np.abs(flat) < k * wide)) for k in (1, 2)]
        rms = [1000 * float(np.sqrt(np.mean(np.square(values)))) for values in (wide, flat)]
        print(f"| {title} ({unit}) | {rms[0]:.1f} | {rms[1]:.1f} | {within[0]:.0f} % | {within[1]:.0f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--members", nargs="+", default=[f"organic-s{k}" for k in range(4)])
    arguments = parser.parse_args()
    config = load_config(EXAMPLES / "organic-s0.toml", data=arguments.data)
    structures = load_structures(config.data, lambda line: None)
    split = split_of(structures, config.split)
    members = [resolve(name) for name in arguments.members]
    digests = {m.card.training["data"]["digest"] for m in members} | {structures.digest()}
    if len(digests) > 1:
        raise SystemExit("members were trained on other data than these, so parts of the split mean nothing here.")
    loader = GraphLoader(structures, members[0].network.cutoff, keep_pairs=False)
    parts = {
        part: judged(structures.take(indices), [predicted(m.network, loader, indices) for m in members])
        for part, indices in (("validation", split.validation), ("test", split.test))
    }
    test = parts["test"]
    print("| | energy (meV/atom) | forces (meV/Å) |\n| --- | --- | --- |")
    for name, row in [*zip(arguments.members, test.member_errors, strict=True), ("mean of them", test.mean_errors)]:
        print(f"| {name} | {1000 * row[0]:.2f} | {1000 * row[1]:.1f} |")
    print("\n| by spread | predicted, rms | found, rms | within 1 σ | within 2 σ |\n| --- | --- | --- | --- | --- |")
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/Å")):
        scale = fitted_scale(*getattr(parts["validation"], name))
        print_quarters(name, unit, *getattr(test, name), scale)
        print(f"\n{name}: α = {scale:.2f}, Spearman of spread and error {rank_correlation(*getattr(test, name)):.2f}\n")


if __name__ == "__main__":
    main()
