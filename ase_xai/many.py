"""Many frames at once: several in one call of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from numpy.typing import NDArray

from ase_xai.calculator_base import AtomisticCalculator, dipole_origin_point
from ase_xai.calculators import NetworkCalculator
from ase_xai.graph import AtomGraph, stress_volume
from ase_xai.neighbors import find_pairs
from ase_xai.networks.base import Prediction, Sums, add_up
from ase_xai.refusals import refuse_infinite, refuse_overlap

BATCH_SIZE = 30_000  # atoms and pairs in one call of a network


@dataclass(frozen=True, eq=False)
class _Frame:
    """Atoms that passed the checks, with their total charge in e and the number they have in messages."""

    atoms: Atoms
    charge: float
    number: int


def evaluate_many(
    calculator: AtomisticCalculator, frames: Iterable[Atoms], *, forces: bool = True, first: int = 0
) -> list[dict[str, Any]]:
    """The results of each frame as `calculate` gives them for this frame alone, by ASE's names, in order.

    Frames may differ in everything. Neither `results` nor the neighbor list of the calculator is touched, and only single
    calls of a network keep other threads waiting. An ensemble gives the mean over its members.

    Args:
        calculator: of this package.
        frames: atoms.
        forces: False leaves out forces and stress.
        first: number of the first frame in messages.

    Raises:
        ValueError: one `Atoms` instead of several, or something else than atoms.
        InputError: a frame that the calculator would refuse, with its number.
    """
    if isinstance(frames, Atoms):
        raise ValueError(f"frames must be a list of atoms, got one Atoms object, {frames.symbols}. Write [atoms].")
    checked = [_checked(calculator, atoms, first + k) for k, atoms in enumerate(frames)]
    by_member = [list(_by_network(member, checked, forces)) for member in calculator.members]
    return [_defined(calculator, frame, _mean(results)) for frame, *results in zip(checked, *by_member, strict=True)]


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Errors that say which frame they are about."""
    try:
        yield
    except (InputError, ValueError) as error:
        raise InputError(f"frame {number} cannot be evaluated: {error}") from error


def _checked(calculator: AtomisticCalculator, atoms: Atoms, number: int) -> _Frame:
    if not isinstance(atoms, Atoms):
        raise ValueError(f"frame {number} is {type(atoms).__name__}, not Atoms. Give a list of atoms.")
    with _named(number):
        calculator.check_atoms(atoms)
    return _Frame(atoms, calculator.charge_of(atoms), number)


def _by_network(member: NetworkCalculator, frames: Sequence[_Frame], forces: bool) -> Iterator[dict[str, Any]]:
    for graph in _batches(member, frames):
        sums: Sums = member.predict(graph) if forces else add_up(graph, member.output(graph))
        yield from _separated(sums, graph)


def _batches(member: NetworkCalculator, frames: Sequence[_Frame]) -> Iterator[AtomGraph]:
    """Graphs of as many frames as are evaluated together."""
    graphs: list[AtomGraph] = []
    size = 0
    for frame in frames:
        graph = _graph(member, frame)
        cost = len(graph.numbers) + len(graph.centers)
        if graphs and size + cost > BATCH_SIZE:
            yield _on_device(AtomGraph.batch(graphs), member.device)
            graphs, size = [], 0
        graphs.append(graph)
        size += cost
    if graphs:
        yield _on_device(AtomGraph.batch(graphs), member.device)


def _graph(member: NetworkCalculator, frame: _Frame) -> AtomGraph:
    """Pairs at the bare cutoff: a list with a skin would serve this frame only."""
    atoms, cutoff = frame.atoms, member.network.cutoff
    with _named(frame.number):
        pairs = find_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, member.neighbor_list.backend)
        graph = AtomGraph.from_pairs(atoms, pairs, total_charge=frame.charge)
        refuse_overlap(graph)
    return graph


def _on_device(graph: AtomGraph, device: torch.device) -> AtomGraph:
    tensors = {name: value.to(device) for name, value in vars(graph).items() if isinstance(value, torch.Tensor)}
    return replace(graph, **tensors)  # type: ignore[arg-type]


def _separated(sums: Sums, graph: AtomGraph) -> Iterator[dict[str, Any]]:
    """Results of each system of a batch, dipole about the coordinate origin, in arrays of their own."""

    def array(tensor: torch.Tensor | None) -> NDArray[np.float64] | None:
        return None if tensor is None else np.array(tensor.cpu().numpy(), dtype=np.float64)

    per_atom = {"energies": array(sums.energies), "charges": array(sums.charges)}
    per_system = {"energy": array(sums.energy), "dipole": array(sums.dipole)}
    if isinstance(sums, Prediction):
        per_atom["forces"], per_system["stress"] = array(sums.forces), array(sums.stress)
    ends = np.cumsum(torch.bincount(graph.system, minlength=graph.n_systems).cpu().numpy())
    for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        own = {name: values[start:end].copy() for name, values in per_atom.items() if values is not None}
        yield own | {name: values[k].copy() for name, values in per_system.items() if values is not None}


def _mean(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over members of what all of them have."""
    if len(results) == 1:
        return results[0]
    shared = [name for name in results[0] if all(name in other for other in results)]
    return {name: np.mean([other[name] for other in results], axis=0) for name in shared}


def _defined(calculator: AtomisticCalculator, frame: _Frame, results: dict[str, Any]) -> dict[str, Any]:
    """Results as the calculator gives them: the dipole about its origin, and nothing that is not defined."""
    energy = float(results["energy"])
    found = {**results, "energy": energy, "free_energy": energy}
    if "dipole" in found and not calculator.has_dipole(frame.atoms, frame.charge):
        del found["dipole"]
    elif "dipole" in found:
        found["dipole"] = found["dipole"] - frame.charge * dipole_origin_point(calculator.dipole_origin, frame.atoms)
    if np.isnan(stress_volume(frame.atoms)):
        found.pop("stress", None)
    with _named(frame.number):
        refuse_infinite(found)
    return found
