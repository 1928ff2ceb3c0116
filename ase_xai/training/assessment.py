"""A network confronted with references: tables to print, figures, and the structures it gets most wrong.

Everything is computed with the plain kernels, in float32, on one CPU thread and in batches of a fixed size, so that the
digits printed here are the digits in a model card.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai.files import write_atomically
from ase_xai.networks import AtomisticNetwork
from ase_xai.report import parity
from ase_xai.training.data import PER_ATOM, StructureSet
from ase_xai.training.evaluation import error_tables, predicted, worst
from ase_xai.training.loader import GraphLoader

PER_DEBYE = 1.0 / units.Debye

# Name and unit of an error in a table of `errors`; how it is called, its unit and the factor to that one in print.
SHOWN = (
    ("energy", "eV", "energy", "meV", 1000.0),
    ("energy", "eV_per_atom", "energy per atom", "meV/atom", 1000.0),
    ("forces", "eV_per_A", "force component", "meV/Å", 1000.0),
    ("stress", "eV_per_A3", "stress component", "meV/Å³", 1000.0),
    ("dipole_component", "eA", "dipole component", "D", PER_DEBYE),
    ("dipole", "eA", "dipole error vector", "D", PER_DEBYE),
    ("dipole_magnitude", "eA", "dipole magnitude", "D", PER_DEBYE),
    ("charges", "e", "charge", "e", 1.0),
)
PLOTTED = {
    "energy": ("energy per atom", "eV/atom"),
    "forces": ("force component", "eV/Å"),
    "stress": ("stress component", "eV/Å³"),
    "dipole": ("dipole component", "e·Å"),
    "dipole_magnitude": ("dipole magnitude", "e·Å"),
    "charges": ("charge", "e"),
}


@dataclass(frozen=True, eq=False)
class Assessment:
    """References and predictions of the same structures.

    Args:
        indices: of the structures in the data.
        reference, prediction: structures with labels; see `predicted`.
        references: reference energies by atomic number, eV, which parity plots leave out.
    """

    indices: NDArray[np.int64]
    reference: StructureSet
    prediction: StructureSet
    references: Mapping[int, float]

    @property
    def tables(self) -> dict[str, dict[str, float]]:
        """Errors over all structures, by kind and by element; units in the keys."""
        return error_tables(self.reference, self.prediction)


def assess(network: AtomisticNetwork, loader: GraphLoader, indices: NDArray[np.int64], *, device: str = "cpu") -> Assessment:
    """Predict the structures at `indices`, by default on one CPU thread: model cards are made that way.

    Raises:
        ValueError: the data hold elements the network does not know, or there are no structures or labels.
    """
    if not loader.structures.targets:
        raise ValueError("the data have no labels to compare with. Name their columns.")
    before = network.device
    with _one_thread():
        prediction = predicted(network.to(device), loader, indices)
    network.to(before)
    return Assessment(indices, loader.structures.take(indices), prediction, network.energy.references)


def table_rows(tables: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Lines of a table to print: all errors of "all", then mean absolute errors of the other sets."""
    rows: list[tuple[str, ...]] = [("error of", "MAE", "RMSE", "unit")]
    for name, unit, title, shown, factor in SHOWN:
        values = [tables["all"].get(f"{name}_{measure}_{unit}") for measure in ("mae", "rmse")]
        if values[0] is not None:
            rows.append((title, *("" if v is None else f"{factor * v:.4g}" for v in values), shown))
    return rows


def part_rows(tables: Mapping[str, Mapping[str, float]], *, elements: bool) -> list[tuple[str, ...]]:
    """Mean absolute errors of kinds, or of elements, one a line; empty if there are none."""
    parts = {name: table for name, table in tables.items() if name != "all" and name.startswith("element ") == elements}
    columns = [entry for entry in SHOWN if any(f"{entry[0]}_mae_{entry[1]}" in table for table in parts.values())]
    if not columns:
        return []
    counted = "n_atoms" if elements else "n_structures"
    rows: list[tuple[str, ...]] = [("MAE of", counted[2:], *(f"{title} ({shown})" for _, _, title, shown, _ in columns))]
    for part, table in parts.items():
        found = [(table.get(f"{name}_mae_{unit}"), factor) for name, unit, _, _, factor in columns]
        cells = ("" if value is None else f"{factor * value:.4g}" for value, factor in found)
        rows.append((part.removeprefix("element "), f"{table[counted]:.0f}", *cells))
    return rows


def write_figures(assessment: Assessment, folder: Path, title: str) -> list[Path]:
    """parity_<target>.png of every target. Total energies are drawn per atom and beyond the reference energies."""
    paths = []
    for target in assessment.prediction.targets:
        pair = [_plotted(s, target, assessment.references) for s in (assessment.reference, assessment.prediction)]
        if not (np.isfinite(pair[0]) & np.isfinite(pair[1])).any():
            continue
        quantity, unit = PLOTTED[target]
        path = folder / f"parity_{target}.png"
        buffer = io.BytesIO()
        parity(*pair, quantity=quantity, unit=unit, title=title).savefig(buffer, format="png")
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths


def write_worst(assessment: Assessment, path: Path, n: int) -> None:
    """The n structures with the largest errors as extended XYZ, worst first, with reference and predicted values."""
    frames = [_frame(assessment, int(s)) for s in worst(assessment.reference, assessment.prediction, n)]
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    write_atomically(path, text.getvalue().encode())


def _plotted(structures: StructureSet, target: str, references: Mapping[int, float]) -> NDArray[np.float64]:
    values = np.asarray(getattr(structures, target), dtype=np.float64)
    if target != "energy":
        return values.ravel()
    offsets = np.array([references.get(z, 0.0) for z in structures.elements])
    base = structures.composition(np.arange(len(structures))) @ offsets
    return cast("NDArray[np.float64]", (values - base) / structures.n_atoms)


def _frame(assessment: Assessment, s: int) -> Atoms:
    reference = assessment.reference
    rows = slice(reference.offsets[s], reference.offsets[s + 1])
    atoms = Atoms(reference.numbers[rows], reference.positions[rows])
    if reference.cell is not None and reference.pbc is not None:
        atoms.set_cell(reference.cell[s])
        atoms.pbc = reference.pbc[s]
    atoms.info["structure"] = int(assessment.indices[s])
    for prefix, structures in (("reference", reference), ("predicted", assessment.prediction)):
        for target in assessment.prediction.targets:
            values: NDArray[Any] = getattr(structures, target)
            if target in PER_ATOM:
                atoms.set_array(f"{prefix}_{target}", np.array(values[rows], dtype=np.float64))
            else:
                atoms.info[f"{prefix}_{target}"] = np.asarray(values[s], dtype=np.float64)[()]
    return atoms


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
