"""Which elements does the network treat alike?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.periodic_table import place_in_table

FLOOR = 1e-12


@dataclass(frozen=True)
class ElementEmbeddings:
    """Principal components of the element vectors a[Z] of a SchNet; dimensionless.

    Elements without training atoms keep their random initial vectors and are left out where the weights have statistics.
    `settings` holds the share of the variance in each component, and three comparisons with chance, each with the p-value
    of random permutations of the elements: the mean distance within groups of the periodic table over that between groups
    (below 1 if groups cluster), and the Mantel correlation of all distances with those of (group, period) and of covalent
    radii. One projection is one network's view, and a few elements show no periodic table.

    Args:
        n_components: columns of the values; None keeps all, which reproduces every pairwise distance.
        n_permutations: of the null model.
        seed: of the permutations.

    Source: Schütt et al., arXiv:1806.10349; the comparison with chance is this project's.
    """

    n_components: int | None = 2
    n_permutations: int = 2000
    seed: int = 0

    def __call__(self, calculator: Explainable, atoms: Atoms | None = None) -> Explanation:
        numbers, vectors = trained_vectors(calculator)
        if len(numbers) < 3:
            symbols = " ".join(chemical_symbols[z] for z in numbers)
            raise ValueError(f"components need at least 3 elements, the weights were trained on {symbols}. Use others.")
        scores, shares = principal_components(vectors)
        kept = scores.shape[1] if self.n_components is None else min(self.n_components, scores.shape[1])
        chance = comparisons(numbers, distances_between(vectors), self.n_permutations, np.random.default_rng(self.seed))
        return answer(
            calculator,
            Atoms() if atoms is None else atoms,
            self,
            target="element embedding",
            level="element",
            values=scores[:, :kept],
            units="1",
            labels=tuple(chemical_symbols[z] for z in numbers),
            gauge="parametrization",
            seed=self.seed,
            settings={
                "n_components": kept,
                "n_permutations": self.n_permutations,
                "explained_variance": shares[:kept].tolist(),
                "comparisons": chance,
            },
            notes=tuple(f"{name}: {about['value']:.3g}, p = {about['p']:.3g}" for name, about in chance.items()),
        )


def trained_vectors(calculator: Explainable) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atomic numbers (Z,) that training data held, and their vectors (Z, F).

    Raises:
        ValueError: a network without embeddings.
    """
    try:
        vectors = calculator.network.element_vectors().detach().double().cpu().numpy()
    except NotImplementedError as error:
        raise ValueError(f"{calculator.model}: {error}") from error
    numbers = np.array(calculator.network.elements)
    if calculator.statistics is not None:
        seen = calculator.statistics.n_atoms.numpy() > 0
        numbers, vectors = numbers[seen], vectors[seen]
    return numbers, vectors


def cosine_similarity(calculator: Explainable) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Symbols (Z,) and the cosine (Z, Z) between element vectors, their common mean taken out."""
    numbers, vectors = trained_vectors(calculator)
    centered = vectors - vectors.mean(axis=0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), FLOOR)
    return tuple(chemical_symbols[z] for z in numbers), unit @ unit.T


def principal_components(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores (n, c) of rows (n, F) on their principal components, and each component's share of the variance (c,)."""
    centered = rows - rows.mean(axis=0)
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    sign = np.where(right[np.arange(len(right)), np.abs(right).argmax(axis=1)] < 0, -1.0, 1.0)  # the same on every machine
    variance = singular**2
    return left * singular * sign, variance / max(float(variance.sum()), FLOOR)


def distances_between(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) Euclidean distances."""
    return np.asarray(np.linalg.norm(rows[:, None] - rows[None], axis=2))


def comparisons(
    numbers: NDArray[np.int64], distances: NDArray[np.float64], n_permutations: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """How distances between elements compare with the periodic table, and with chance.

    Args:
        numbers: (Z,) atomic numbers.
        distances: (Z, Z).
        n_permutations: of the elements; p = (1 + as extreme or more) / (1 + n_permutations), one-sided.
        rng: draws them.
    """
    places = np.array([place_in_table(int(z)) for z in numbers])
    upper = np.triu_indices(len(numbers), 1)
    same = (places[upper[0], 0] == places[upper[1], 0]) & (places[upper[0], 0] > 0)
    by_place = distances_between(places.astype(float) * [1.0, 18.0 / 7.0])[upper]
    by_radius = np.abs(covalent_radii[numbers][:, None] - covalent_radii[numbers][None])[upper]

    def measures(order: NDArray[np.int64]) -> NDArray[np.float64]:
        found = distances[np.ix_(order, order)][upper]
        within = found[same].mean() / found[~same].mean() if same.any() and not same.all() else np.nan
        return np.array([within, np.corrcoef(found, by_place)[0, 1], np.corrcoef(found, by_radius)[0, 1]])

    observed = measures(np.arange(len(numbers)))
    null = np.array([measures(rng.permutation(len(numbers))) for _ in range(n_permutations)])
    extreme = np.stack([null[:, 0] <= observed[0], null[:, 1] >= observed[1], null[:, 2] >= observed[2]])
    p_values = (1 + extreme.sum(axis=1)) / (1 + n_permutations)
    titles = ("distance within groups / between", "Mantel r with place in the table", "Mantel r with covalent radius")
    return {
        title: {"value": float(value), "p": float(p)}
        for title, value, p in zip(titles, observed, p_values, strict=True)
        if np.isfinite(value)
    }


def order_within_groups(calculator: Explainable) -> dict[int, dict[str, object]]:
    """For each group with at least three elements: its symbols from light to heavy, and how far the first principal
    component of their vectors follows the period (|Spearman correlation|; 1 is full order, 3 random elements give 0.67 on
    average).
    """
    numbers, vectors = trained_vectors(calculator)
    places = np.array([place_in_table(int(z)) for z in numbers])
    found: dict[int, dict[str, object]] = {}
    for group in range(1, 19):
        members = np.flatnonzero(places[:, 0] == group)
        if len(members) >= 3:
            score = principal_components(vectors[members])[0][:, 0]
            ranks = np.argsort(np.argsort(score)).astype(float)
            correlation = np.corrcoef(ranks, np.arange(len(members)))[0, 1]
            symbols = [chemical_symbols[z] for z in numbers[members]]
            found[group] = {"elements": symbols, "order": abs(float(correlation))}
    return found
