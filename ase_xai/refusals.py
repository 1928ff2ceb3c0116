"""What no calculator of this package accepts or returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError

from ase_xai.graph import AtomGraph

MIN_DISTANCE = 0.1  # Å; closer atoms, or images, are a mistake in the input and not a configuration


def refuse_bad_geometry(atoms: Atoms) -> None:
    """Raise InputError for positions or a cell that no energy can be given for."""
    if not np.isfinite(atoms.positions).all():
        atom = int(np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))[0])
        raise InputError(f"position of atom {atom} is {atoms.positions[atom].tolist()} Å. Positions must be finite numbers.")
    if not np.isfinite(atoms.cell.array).all():
        raise InputError(f"the cell is {atoms.cell.array.tolist()} Å. Cell vectors must be finite numbers.")
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) and np.linalg.norm(periodic, -2) < MIN_DISTANCE:
        raise InputError(
            f"pbc is {atoms.pbc.tolist()}, but the periodic cell vectors {periodic.tolist()} Å are zero, shorter than "
            f"{MIN_DISTANCE} Å or linearly dependent. Set the cell, or atoms.pbc = False."
        )


def refuse_overlap(graph: AtomGraph) -> None:
    distances = torch.linalg.vector_norm(graph.unique_vectors, dim=1)
    if len(distances) and float(distances.min()) < MIN_DISTANCE:
        pair = int(distances.argmin())
        i, j, distance = int(graph.centers[pair]), int(graph.neighbors[pair]), float(distances[pair])
        raise InputError(
            f"atoms {i} and {j} are {distance:.3g} Å apart, less than {MIN_DISTANCE} Å. Look for duplicates or wrong units."
        )


def refuse_infinite(results: dict[str, Any]) -> None:
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise InputError(
                f"the network gives {name} that are not finite. The geometry is far outside its training data; look for "
                "atoms that almost overlap."
            )
