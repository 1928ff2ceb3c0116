"""What has the network learned about an atom in its molecule?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.embeddings import principal_components
from ase_xai.explainers.explanation import Explanation


@dataclass(frozen=True)
class AtomicFeatures:
    """Learned features x_i of every atom, (N, F), dimensionless: what the readouts of energy and charge are made from.

    Compare them with `feature_map` over many molecules, and with `separability` against chemical classes.

    Source: El-Samman et al., doi 10.1039/d3dd00200d, for what such features hold.
    """

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = calculator.checked_graph(atoms)
        features = calculator.output(graph).features.double().cpu().numpy()
        return answer(
            calculator,
            atoms,
            self,
            target="atomic features",
            level="atom",
            values=features,
            units="1",
            gauge="parametrization",
            notes=("Coordinates are the network's own: only distances between atoms, seen by one network, mean something.",),
        )


def feature_map(explanations: Sequence[Explanation], n_components: int = 2) -> list[Explanation]:
    """The same explanations with the features projected on the principal components of all their atoms together.

    The share of the variance in each component stands in `settings["explained_variance"]`.

    Raises:
        ValueError: not features of one model.
    """
    rows = _together(explanations)
    scores, shares = principal_components(rows)
    kept = scores[:, :n_components]
    ends = np.cumsum([len(e.numbers) for e in explanations])[:-1]
    about = {"explained_variance": shares[:n_components].tolist(), "n_components": n_components}
    return [
        replace(e, values=part, target="principal components of atomic features", settings={**e.settings, **about})
        for e, part in zip(explanations, np.split(kept, ends), strict=True)
    ]


@dataclass(frozen=True)
class Separability:
    """How well a linear classifier tells classes of atoms apart by their features.

    Args:
        accuracy: share of left-out atoms put into the right class, each class counted equally.
        chance: the same with classes shuffled among the atoms, mean and standard deviation.
        classes: names, in order of `confusion`.
        confusion: (C, C) share of atoms of class (row) put into class (column).
    """

    accuracy: float
    chance: tuple[float, float]
    classes: tuple[str, ...]
    confusion: NDArray[np.float64]


def separability(
    explanations: Sequence[Explanation],
    classes: Sequence[Sequence[str | None]],
    *,
    ridge: float = 1e-3,
    n_folds: int = 5,
    n_shuffles: int = 20,
    seed: int = 0,
) -> Separability:
    """Linear discriminant analysis of atomic features, tested on molecules that were left out.

    Args:
        explanations: of `AtomicFeatures`, one model, at least `n_folds` molecules.
        classes: for each molecule the class of each atom, e.g. its functional group; None leaves an atom out.
        ridge: share of the mean variance added to the within-class covariance, so that it can be inverted.
        n_folds: molecules are split into so many parts, each left out once.
        n_shuffles: of the classes, for chance.
        seed: of parts and shuffles.

    Raises:
        ValueError: features of several models, class lists that do not fit, fewer than two classes.
    """
    rows = _together(explanations)
    if [len(names) for names in classes] != [len(e.numbers) for e in explanations]:
        raise ValueError("there must be one class (or None) for each atom of each molecule.")
    flat = [name for names in classes for name in names]
    kept = np.array([name is not None for name in flat])
    names, labels = np.unique([name for name in flat if name is not None], return_inverse=True)
    if len(names) < 2 or len(explanations) < n_folds:
        raise ValueError(
            f"got {len(names)} classes in {len(explanations)} molecules; at least 2 and {n_folds} molecules are needed."
        )
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(explanations)) % n_folds
    folds = np.repeat(fold, [len(e.numbers) for e in explanations])[kept]
    confusion = _confusion(rows[kept], labels, folds, ridge)
    shuffled = [np.diag(_confusion(rows[kept], rng.permutation(labels), folds, ridge)).mean() for _ in range(n_shuffles)]
    chance = (float(np.mean(shuffled)), float(np.std(shuffled)))
    return Separability(float(np.diag(confusion).mean()), chance, tuple(names), confusion)


def _confusion(
    rows: NDArray[np.float64], labels: NDArray[np.int64], folds: NDArray[np.int64], ridge: float
) -> NDArray[np.float64]:
    n_classes = int(labels.max()) + 1
    counts = np.zeros((n_classes, n_classes))
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        means = np.stack([rows[inside & (labels == c)].mean(axis=0) if (inside & (labels == c)).any() else
                          np.full(rows.shape[1], np.inf) for c in range(n_classes)])  # fmt: skip
        scatter = rows[inside] - means[labels[inside]]
        covariance = scatter.T @ scatter / max(1, len(scatter) - n_classes)
        covariance += ridge * covariance.diagonal().mean() * np.eye(len(covariance))
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        known = np.isfinite(means).all(axis=1)
        distances = np.full((outside.sum(), n_classes), np.inf)
        difference = (rows[outside][:, None] - means[known][None]) @ whitening.T
        distances[:, known] = (difference**2).sum(axis=2)
        np.add.at(counts, (labels[outside], distances.argmin(axis=1)), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _together(explanations: Sequence[Explanation]) -> NDArray[np.float64]:
    if not explanations:
        raise ValueError("there are no explanations. Give those of AtomicFeatures for several molecules.")
    models = {e.model_id for e in explanations}
    if len(models) > 1 or any(e.method != "AtomicFeatures" for e in explanations):
        raise ValueError(f"features must come from AtomicFeatures and one model, got {len(models)} models.")
    return np.concatenate([e.values for e in explanations])
