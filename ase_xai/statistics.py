"""What a network said about its training data: means by element, and what a prediction's rigidity is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

PREFIX = "statistics."
RIDGES = [10.0**power for power in range(-13, -3)]  # relative to the mean diagonal of the Gram matrix
STABLE = 1e-6  # allowed deviation of gram · inverse from the identity


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """One readout, energy or charge, over the training data. Z counts elements, D inputs of the last layer (bias included).

    Args:
        mean, spread: (Z,) mean and standard deviation of the atomic values of each element, references left out; eV or e.
        gram: (D, D) XᵀX, X the summed last-layer inputs of the training structures, see `placed`.
        ridge: (1,) ς² that makes its inverse stable.
        scale: (1,) α² in eV² or (e·Å)²: mean over validation structures of residual² over leverage. α² times a leverage is
            the variance of the prediction whose inputs the leverage is of, in eV² or e² for one atom.
        leverage: (Z, 3) median, 99th percentile and maximum of f·C·fᵀ over training atoms of each element.
    """

    mean: Tensor
    spread: Tensor
    gram: Tensor
    ridge: Tensor
    scale: Tensor
    leverage: Tensor

    def __post_init__(self) -> None:
        n_elements, size = len(self.mean), len(self.gram)
        expected = {"mean": (n_elements,), "spread": (n_elements,), "leverage": (n_elements, 3)}
        expected |= {"gram": (size, size), "ridge": (1,), "scale": (1,)}
        for name, shape in expected.items():
            _require_numbers(name, getattr(self, name), shape)
        for name in ("spread", "leverage", "scale", "ridge"):
            if bool((getattr(self, name) < 0).any()):
                raise ValueError(f"statistics {name} must not be negative, got {float(getattr(self, name).min()):.3g}.")
        if bool((self.leverage.diff(dim=1) < 0).any()):
            raise ValueError("statistics leverage must rise from the median to the 99th percentile and the maximum.")
        diagonal = self.gram.diagonal()
        bound = torch.outer(diagonal, diagonal).clamp(min=0.0).sqrt()  # |x·y| ≤ |x|·|y|
        if bool((diagonal < 0).any() | (self.gram.abs() > bound * (1 + 1e-9) + 1e-300).any()):
            raise ValueError("statistics gram is not a Gram matrix: a scalar product exceeds the product of the lengths.")

    @cached_property
    def _factor(self) -> Tensor:
        matrix = self.gram + self.ridge * torch.eye(len(self.gram), dtype=self.gram.dtype)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            raise ValueError(
                f"statistics gram with ς² = {float(self.ridge[0]):.3g} is not positive definite. Make the statistics again, "
                "with the ς² that `stable_ridge` gives."
            )
        return factor

    def leverages(self, inputs: Tensor) -> Tensor:
        """(N,) f·C·fᵀ with C = (XᵀX + ς²)⁻¹ for inputs f (N, D) in float64; its inverse is the prediction rigidity."""
        if inputs.shape[1] != len(self.gram):
            raise ValueError(
                f"the last layer has {inputs.shape[1]} inputs, the training statistics are of {len(self.gram)}. They belong "
                "to another network; make them for this one."
            )
        half = torch.linalg.solve_triangular(self._factor, inputs.T, upper=False)
        return (half**2).sum(dim=0)


def _require_numbers(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape:
        raise ValueError(f"statistics {name} must have shape {shape}, got {tuple(values.shape)}.")
    if values.dtype != torch.float64 or not bool(torch.isfinite(values).all()):
        raise ValueError(f"statistics {name} must be finite numbers in float64, got {values.dtype}.")


def stable_ridge(gram: Tensor) -> Tensor:
    """(1,) the smallest of a few ς², relative to the mean diagonal, for which the inverse is one to 1e-6."""
    identity = torch.eye(len(gram), dtype=gram.dtype)
    for relative in RIDGES:
        ridge = relative * gram.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
        if not failed:
            deviation = (gram + ridge * identity) @ torch.cholesky_inverse(factor) - identity
            if float(deviation.abs().max()) < STABLE:
                return ridge.reshape(1)
    raise ValueError(f"the Gram matrix of the last layer's inputs has no stable inverse, even with ς² = {RIDGES[-1]:g}.")


@dataclass(frozen=True, eq=False)
class TrainingStatistics:
    """Both readouts over the training data, and the range of the atomic features.

    Args:
        n_atoms: (Z,) training atoms of each of the network's elements, in its order.
        n_structures: (1,) training structures.
        energies: of the energy readout; None if no energies were trained on.
        charges: of the charge readout, or None.
        feature_range: (Z, 2, F) smallest and largest standardized symmetry functions over the training atoms of each
            element; None for networks without fixed descriptors.
    """

    n_atoms: Tensor
    n_structures: Tensor
    energies: HeadStatistics | None
    charges: HeadStatistics | None
    feature_range: Tensor | None

    def __post_init__(self) -> None:
        _require_numbers("n_atoms", self.n_atoms, (len(self.n_atoms),))
        _require_numbers("n_structures", self.n_structures, (1,))
        if self.feature_range is not None:
            shape = (len(self.n_atoms), 2, self.feature_range.shape[-1])
            _require_numbers("feature_range", self.feature_range, shape)
            if bool((self.feature_range[:, 0] > self.feature_range[:, 1]).any()):
                raise ValueError("statistics feature_range must hold the smallest values before the largest.")

    def require_fit(self, n_elements: int) -> None:
        """Raise ValueError unless the statistics are of a network with `n_elements` elements."""
        heads = [len(head.mean) for head in (self.energies, self.charges) if head is not None]
        if {len(self.n_atoms), *heads} != {n_elements}:
            raise ValueError(f"its statistics are of {len(self.n_atoms)} elements, its network knows {n_elements}.")

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, as it stands in weight files."""
        found = {"n_atoms": self.n_atoms, "n_structures": self.n_structures}
        if self.feature_range is not None:
            found["feature_range"] = self.feature_range
        for head in ("energies", "charges"):
            record = getattr(self, head)
            if record is not None:
                found |= {f"{head}.{field.name}": getattr(record, field.name) for field in fields(record)}
                found[f"{head}.gram"] = _packed(record.gram)
        return {PREFIX + name: value.clone(memory_format=torch.contiguous_format) for name, value in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TrainingStatistics | None:
        """The statistics among the tensors of a weight file; None if there are none.

        Raises:
            ValueError: some are missing, unknown or of a wrong shape.
        """
        own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not own:
            return None
        heads = {}
        for head in ("energies", "charges"):
            names = {field.name: f"{head}.{field.name}" for field in fields(HeadStatistics)}
            if any(name in own for name in names.values()):
                taken = {field: _taken(own, name) for field, name in names.items()}
                heads[head] = HeadStatistics(**{**taken, "gram": _unpacked(taken["gram"])})
        statistics = cls(
            n_atoms=_taken(own, "n_atoms"),
            n_structures=_taken(own, "n_structures"),
            energies=heads.get("energies"),
            charges=heads.get("charges"),
            feature_range=own.pop("feature_range", None),
        )
        if own:
            raise ValueError(f"unknown statistics {sorted(own)}.")
        return statistics


def _taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"statistics {name} are missing.")
    return tensors.pop(name)


def _packed(symmetric: Tensor) -> Tensor:
    """(D(D + 1)/2,) lower triangle of a symmetric matrix, row by row."""
    rows, columns = torch.tril_indices(len(symmetric), len(symmetric))
    return symmetric[rows, columns]


def _unpacked(triangle: Tensor) -> Tensor:
    """(D, D) symmetric matrix from its lower triangle."""
    size = int((2 * len(triangle)) ** 0.5)
    if triangle.ndim != 1 or size * (size + 1) // 2 != len(triangle):
        raise ValueError(f"statistics gram must be a triangle of D(D + 1)/2 numbers, got shape {tuple(triangle.shape)}.")
    matrix = triangle.new_zeros((size, size))
    rows, columns = torch.tril_indices(size, size)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix


def placed(inputs: Tensor, element: Tensor, n_elements: int, *, by_element: bool) -> Tensor:
    """(N, D) last-layer inputs with a 1 for the bias, in the atom's own block where each element has its own readout.

    Args:
        inputs: (N, d) of any precision; the result is float64.
        element: (N,) index of each atom's element.
        n_elements: number of elements Z.
        by_element: D = Z·(d + 1) instead of d + 1.
    """
    extended = torch.cat([inputs.double(), inputs.new_ones((len(inputs), 1)).double()], dim=1)
    if not by_element:
        return extended
    blocks = torch.nn.functional.one_hot(element, n_elements).double()
    return (blocks[:, :, None] * extended[:, None, :]).flatten(1)


def centered(inputs: Tensor, system: Tensor, n_systems: int) -> Tensor:
    """f_i - f̄, the mean taken over each system: what uniform charge conservation leaves of the inputs of a charge."""
    counts = torch.bincount(system, minlength=n_systems).double()
    sums = inputs.new_zeros((n_systems, inputs.shape[1])).index_add(0, system, inputs)
    return inputs - (sums / counts[:, None])[system]
