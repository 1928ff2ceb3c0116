"""What terms of single atoms, pairs and triples say in short: curves, elements, shares of each order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import find_mic
from numpy.typing import NDArray

from ase_xai.explainers.explanation import Explanation


@dataclass(frozen=True, eq=False)
class Terms:
    """All terms of n atoms, e.g. to draw them against distance.

    Args:
        index: (K, n) atoms.
        numbers: (K, n) atomic numbers.
        distances: (K, n(n-1)/2) Å between every two of the atoms in the order 01, 02, 12, ..., to the nearest image.
        values: (K,) in units of the explanation.
    """

    index: NDArray[np.int64]
    numbers: NDArray[np.int64]
    distances: NDArray[np.float64]
    values: NDArray[np.float64]


def terms_of(explanation: Explanation, order: int = 2) -> Terms:
    """The terms of exactly `order` atoms.

    Raises:
        ValueError: an explanation without terms of this order.
    """
    index = _index(explanation)
    rows = (index >= 0).sum(axis=1) == order
    if order < 1 or not rows.any():
        known = sorted(set((index >= 0).sum(axis=1).tolist()) - {0})
        raise ValueError(f"{explanation.method} gave terms of {known} atoms, none of {order}. Ask it for a higher order.")
    atoms = index[rows, :order]
    between = [explanation.positions[atoms[:, b]] - explanation.positions[atoms[:, a]] for a, b in _pairs(order)]
    distances = [find_mic(vectors, explanation.cell, explanation.pbc)[1] for vectors in between]
    return Terms(
        index=atoms,
        numbers=explanation.numbers[atoms],
        distances=np.stack(distances, axis=1) if distances else np.zeros((len(atoms), 0)),
        values=explanation.values[rows],
    )


@dataclass(frozen=True, eq=False)
class Strengths:
    """Terms of one order by the elements of their atoms.

    Args:
        labels: "C-H", "O-O" ..., lighter elements first.
        counts: number of terms.
        sums: of their values, in units of the explanation.
        absolute: sum of their absolute values; divided by the counts it is the strength of a typical term.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    absolute: NDArray[np.float64]


def element_strengths(explanation: Explanation, order: int = 2) -> Strengths:
    """Strengths of the terms of `order` atoms for each combination of elements."""
    terms = terms_of(explanation, order)
    kinds, kind = np.unique(np.sort(terms.numbers, axis=1), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    return Strengths(
        labels=tuple("-".join(chemical_symbols[z] for z in row) for row in kinds),
        counts=np.bincount(kind, minlength=len(kinds)),
        sums=np.array([terms.values[kind == k].sum() for k in range(len(kinds))]),
        absolute=np.array([np.abs(terms.values[kind == k]).sum() for k in range(len(kinds))]),
    )


@dataclass(frozen=True, eq=False)
class Shares:
    """How many-body a prediction is.

    Args:
        orders: (n,) 1, 2, ... atoms.
        counts: (n,) terms of each order.
        sums: (n,) their sum, in units of the explanation.
        absolute: (n,) the sum of their absolute values.
        shares: (n,) `absolute` over `everything`.
        rest, rest_share: sum of the higher orders that were not resolved, and its absolute value over `everything`. Terms in
            it may cancel, so that the share is a lower bound.
        residual, residual_share: what no term says (bias part of a relevance, truncated orders of an expansion), likewise.
        everything: Σ absolute + |rest| + |residual|.
    """

    orders: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    absolute: NDArray[np.float64]
    shares: NDArray[np.float64]
    rest: float
    rest_share: float
    residual: float
    residual_share: float
    everything: float


def order_shares(explanation: Explanation) -> Shares:
    """Sums and shares of each order, of the rest, and of the residual."""
    sizes = (_index(explanation) >= 0).sum(axis=1)
    orders = np.arange(1, sizes.max(initial=0) + 1)
    sums = np.array([explanation.values[sizes == n].sum() for n in orders])
    absolute = np.array([np.abs(explanation.values[sizes == n]).sum() for n in orders])
    rest, residual = float(explanation.values[sizes == 0].sum()), float(explanation.residual or 0.0)
    everything = float(absolute.sum()) + abs(rest) + abs(residual)
    scale = 1.0 / everything if everything > 0 else 0.0
    return Shares(
        orders=orders,
        counts=np.array([(sizes == n).sum() for n in orders]),
        sums=sums,
        absolute=absolute,
        shares=scale * absolute,
        rest=rest,
        rest_share=scale * abs(rest),
        residual=residual,
        residual_share=scale * abs(residual),
        everything=everything,
    )


def _index(explanation: Explanation) -> NDArray[np.int64]:
    if explanation.level != "tuple" or explanation.index is None:
        raise ValueError(
            f"{explanation.method} explains by {explanation.level}, not by tuples of atoms. Use NBodyRelevance or "
            "ManyBodyExpansion."
        )
    return explanation.index


def _pairs(order: int) -> list[tuple[int, int]]:
    return [(a, b) for b in range(order) for a in range(b)]
