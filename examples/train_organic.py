"""Train the `organic` networks on GFN2-xTB data and write a weight file with its model card.

    python examples/train_organic.py schnet DATA_FOLDER RUN_FOLDER --steps 90000

DATA_FOLDER holds gfn2_organic_hcno.npz and gfn2_organic_fscl.npz, which are not part of this repository;
`StructureSet.from_npz` describes their layout, the model cards of the shipped weights hold their SHA-256. Interrupt it at
will: the same command goes on from the last checkpoint. Use OMP_NUM_THREADS=1 for networks of this size; more threads do not
pay below about 200 atoms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ase_xai.networks import AtomisticNetwork, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.training import GraphLoader, StructureSet, Trainer, TrainingSettings
from ase_xai.training.trainer import evaluate
from ase_xai.weights.format import ModelCard, save_weights

FILES = ("gfn2_organic_hcno.npz", "gfn2_organic_fscl.npz")
KINDS = ("cold", "thermal", "torsion", "dimer", "relaxation")
FRACTIONS = (0.02, 0.05)  # of the molecules, for validation and test
SPLIT_SEED = 20261125


def build(architecture: str, elements: list[int], seed: int) -> AtomisticNetwork:
    torch.manual_seed(seed)
    if architecture == "schnet":
        return SchNetNetwork(elements, cutoff=5.0, n_features=64, n_interactions=3, n_radial=50)
    return BehlerParrinelloNetwork(elements, cutoff=5.0, zetas=(1, 2, 3))


def main() -> None:
    arguments = parsed_arguments()
    structures = StructureSet.from_npz([arguments.data / name for name in FILES])
    train, validation, test = structures.split(FRACTIONS, SPLIT_SEED)
    print(f"{len(train)} training, {len(validation)} validation, {len(test)} test structures")
    network = build(arguments.architecture, structures.elements, arguments.seed)
    loader = GraphLoader(structures, network.cutoff)
    network.energy.references = structures.fit_references(train)
    if isinstance(network, BehlerParrinelloNetwork):
        sample = np.random.default_rng(0).choice(train, 2000, replace=False)
        network.standardize_on([loader.batch(part)[0] for part in np.array_split(sample, 40)])
    network.to(arguments.device)

    settings = TrainingSettings(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        cooldown=arguments.cooldown,
        seed=arguments.seed,
    )
    Trainer(network, loader, train, validation, settings, arguments.run).run()
    training = {
        "files": {name: hashlib.sha256((arguments.data / name).read_bytes()).hexdigest() for name in FILES},
        "structures": {"training": len(train), "validation": len(validation), "test": len(test)},
        "split": f"by molecule of origin, seed {SPLIT_SEED}",
        "settings": asdict(settings),
    }
    card = described(network, training, {"test": errors_by_kind(network, loader, test)})
    print(json.dumps(card.errors, indent=2))
    save_weights(arguments.run / "weights.safetensors", network, card)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=("schnet", "behler-parrinello"))
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=87_500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--cooldown", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def described(network: AtomisticNetwork, training: dict[str, Any], errors: dict[str, Any]) -> ModelCard:
    return ModelCard.describe(
        network,
        reference_kind="least squares of the total energy on composition, training set; not free atoms",
        closed_shell=True,
        level_of_theory="GFN2-xTB (tblite 0.8.0), neutral singlets",
        training=training,
        errors=errors,
        license="CC0-1.0",
        notes="Preview. Organic molecules and their dimers, 3 to 29 atoms, near and away from equilibrium (60 to 1200 K). "
        "Not for ions, radicals, bond dissociation or condensed phases.",
    )


def errors_by_kind(network: AtomisticNetwork, loader: GraphLoader, indices: np.ndarray) -> dict[str, dict[str, float]]:
    """Errors over all structures at `indices` and over each kind of structure among them."""
    kinds = loader.structures.kind[indices]
    table = {"all": evaluate(network, loader, indices)}
    for number, name in enumerate(KINDS):
        if (kinds == number).any():
            table[name] = evaluate(network, loader, indices[kinds == number])
    return table


if __name__ == "__main__":
    main()
