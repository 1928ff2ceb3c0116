"""How far a network is from its references, target by target, element by element, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.networks.base import AtomisticNetwork, Sums, add_up, predict
from ase_xai.training.data import LABELS, StructureSet
from ase_xai.training.loader import GraphLoader
from ase_xai.training.settings import LossWeights

BATCH_ATOMS = 2000  # of one evaluation step, in order, so that the numbers do not depend on a setting

# The error that stands for a target where one number is wanted, and the weight's name.
MAIN_ERRORS = {
    "energy": "energy_mae_eV_per_atom",
    "forces": "forces_mae_eV_per_A",
    "stress": "stress_mae_eV_per_A3",
    "dipole": "dipole_mae_eA",
    "dipole_magnitude": "dipole_magnitude_mae_eA",
    "charges": "charges_mae_e",
}
ELECTRIC = ("dipole", "dipole_magnitude", "charges")
Outputs = Callable[[NDArray[np.int64]], Sums]


def predicted(
    network: AtomisticNetwork, loader: GraphLoader, indices: NDArray[np.int64], outputs: Outputs | None = None
) -> StructureSet:
    """The structures at `indices` with what the network predicts for every label the data have, in place of the labels.

    Args:
        network: evaluated with its plain, not its compiled, kernels.
        loader: of the data.
        indices: which structures.
        outputs: energies, charges and dipoles by another path, e.g. from kept descriptors.

    Raises:
        ValueError: the data hold elements the network does not know, or there are no structures.
        FloatingPointError: the network predicts NaN or infinity.
    """
    structures = loader.structures
    refuse_unknown_elements(network, structures)
    if not len(indices):
        raise ValueError("no structures to evaluate. Choose another part of the split.")
    targets = [name for name in structures.targets if network.has_charges or name not in ELECTRIC]
    collected: dict[str, list[NDArray[np.generic]]] = {name: [] for name in targets}
    derivatives = bool({"forces", "stress"} & set(targets))
    compiled, network.compiled = network.compiled, False
    try:
        for batch in _in_order(structures, indices):
            sums = _outputs(network, loader, batch, derivatives) if outputs is None or derivatives else outputs(batch)
            for name in targets:
                collected[name].append(_finite(name, _value(sums, name).detach().cpu().numpy()))
    finally:
        network.compiled = compiled
    labels = {name: np.concatenate(collected[name]) if name in collected else None for name in LABELS}
    return replace(structures.take(indices), **labels)  # type: ignore[arg-type]


def _finite(name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
    if name != "stress" and not np.isfinite(values).all():  # open systems have no stress
        raise FloatingPointError(
            f"the network predicts {name} that are not finite. Its weights are useless: train it again."
        )
    return values


def _outputs(network: AtomisticNetwork, loader: GraphLoader, batch: NDArray[np.int64], derivatives: bool) -> Sums:
    graph, _ = loader.batch(batch, network.device)
    if derivatives:
        return predict(network, graph)
    with torch.no_grad():
        return add_up(graph, network(graph))


def _value(sums: Sums, name: str) -> Tensor:
    if name == "dipole_magnitude" and sums.dipole is not None:
        return sums.dipole.norm(dim=1)
    return getattr(sums, name)  # type: ignore[no-any-return]


def refuse_unknown_elements(network: AtomisticNetwork, structures: StructureSet) -> None:
    """Raise ValueError if the data hold elements that the network does not know."""
    unknown = [chemical_symbols[z] for z in sorted(set(structures.elements) - set(network.elements))]
    if unknown:
        known = " ".join(chemical_symbols[z] for z in network.elements)
        raise ValueError(f"the data hold {', '.join(unknown)}, the network knows {known}. Leave such structures out.")


def _in_order(structures: StructureSet, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    block = np.cumsum(structures.n_atoms[indices]) // BATCH_ATOMS
    return np.split(indices, np.flatnonzero(np.diff(block)) + 1)


def errors(reference: StructureSet, prediction: StructureSet) -> dict[str, float]:
    """Mean absolute (mae) and root mean square (rmse) errors of every target, and `n_structures`.

    Forces, stress and dipoles are compared component by component; `dipole_mae_eA` is the mean length of the error vector,
    `dipole_magnitude_...` the error of |μ|.
    """
    table: dict[str, float] = {"n_structures": len(reference)}
    pairs = {name: (getattr(reference, name), getattr(prediction, name)) for name in LABELS}
    both = {name: (a.astype(float), b.astype(float)) for name, (a, b) in pairs.items() if a is not None and b is not None}
    if "energy" in both:
        difference = both["energy"][1] - both["energy"][0]
        table |= _mae_rmse("energy", difference, "eV") | _mae_rmse("energy", difference / reference.n_atoms, "eV_per_atom")
    for name, unit in (("forces", "eV_per_A"), ("stress", "eV_per_A3"), ("charges", "e")):
        if name in both:
            table |= _mae_rmse(name, both[name][1] - both[name][0], unit)
    if "dipole" in both:
        a, b = both["dipole"]
        table |= _mae_rmse("dipole_component", b - a, "eA")
        table |= {"dipole_mae_eA": _mean(np.linalg.norm(b - a, axis=1))}
        table |= _mae_rmse("dipole_magnitude", np.linalg.norm(b, axis=1) - np.linalg.norm(a, axis=1), "eA")
    if "dipole_magnitude" in both:
        table |= _mae_rmse("dipole_magnitude", both["dipole_magnitude"][1] - both["dipole_magnitude"][0], "eA")
    return {name: value for name, value in table.items() if np.isfinite(value)}


def _mae_rmse(name: str, difference: NDArray[np.float64], unit: str) -> dict[str, float]:
    return {f"{name}_mae_{unit}": _mean(np.abs(difference)), f"{name}_rmse_{unit}": float(np.sqrt(_mean(difference**2)))}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def error_tables(reference: StructureSet, prediction: StructureSet) -> dict[str, dict[str, float]]:
    """`errors` over all structures ("all"), over each kind, and of forces and charges over the atoms of each element."""
    tables = {"all": errors(reference, prediction)}
    for number, name in enumerate(reference.kind_names if len(reference.kind_names) > 1 else ()):
        members = np.flatnonzero(reference.kinds == number)
        if len(members):
            tables[name] = errors(reference.take(members), prediction.take(members))
    for z in reference.elements:
        atoms = reference.numbers == z
        table: dict[str, float] = {"n_atoms": int(atoms.sum())}
        for name, unit in (("forces", "eV_per_A"), ("charges", "e")):
            a, b = getattr(reference, name), getattr(prediction, name)
            if a is not None and b is not None:
                table |= _mae_rmse(name, (b - a)[atoms].astype(float), unit)
        tables[f"element {chemical_symbols[z]}"] = table
    return tables


def score(table: Mapping[str, float], weights: LossWeights) -> float:
    """One number to compare validations: the errors in the loss's own weights."""
    return sum(getattr(weights, name) * table.get(MAIN_ERRORS[name], 0.0) for name in weights.targets)


def worst(reference: StructureSet, prediction: StructureSet, n: int) -> NDArray[np.int64]:
    """Up to n structures with the largest mean force error, or energy error per atom where no forces are known."""
    if reference.forces is not None and prediction.forces is not None:
        lengths = np.linalg.norm(prediction.forces - reference.forces, axis=1)
        size = np.add.reduceat(lengths, reference.offsets[:-1]) / reference.n_atoms
    elif reference.energy is not None and prediction.energy is not None:
        size = np.abs(prediction.energy - reference.energy) / reference.n_atoms
    else:
        raise ValueError("worst structures are ranked by forces or energies, and the data have neither.")
    return np.argsort(-np.nan_to_num(size, nan=-1.0), kind="stable")[:n]
