"""NumPy's indexing of a dataset, reading no more than the rows and columns that are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW = 4096  # rows that are worth being read one by one


def read_rows(dataset: Any, shape: tuple[int, ...], key: Any) -> Any:
    """`array[key]` of the first `shape[0]` rows of an HDF5 dataset.

    The smallest box that holds what is asked for is read, or the single rows if they are few and far between; NumPy then
    applies the key to it.
    """
    keys = _expanded(key, len(shape))
    boxes, local = [], []
    for axis, (one, size) in enumerate(zip(keys, shape, strict=True)):
        box, inner = _box(one, size, axis)
        boxes.append(box)
        local.append(inner)
    return np.asarray(dataset[tuple(boxes)])[tuple(local)]


def _expanded(key: Any, n_axes: int) -> list[Any]:
    """One key per axis."""
    given = list(key) if isinstance(key, tuple) else [key]
    if any(one is None for one in given):
        raise IndexError("a field takes no new axes; index the array that it gives.")
    dots = [place for place, one in enumerate(given) if one is Ellipsis]
    if len(dots) > 1 or len(given) - len(dots) > n_axes:
        raise IndexError(f"too many indices for a field of {n_axes} axes: {key!r}.")
    place = dots[0] if dots else len(given)
    missing = [slice(None)] * (n_axes - len(given) + len(dots))
    return [*given[:place], *missing, *given[place + len(dots) :]]


def _box(key: Any, size: int, axis: int) -> tuple[Any, Any]:
    """What HDF5 is asked for along one axis, and the key into what it gives."""
    if isinstance(key, slice):
        kept = range(*key.indices(size))
        if not kept:
            return slice(0, 0), slice(None)
        rising = kept if kept.step > 0 else kept[::-1]
        return slice(rising[0], rising[-1] + 1, rising.step), slice(None, None, 1 if kept.step > 0 else -1)
    wanted = np.asarray(key)
    if wanted.dtype == bool:
        if wanted.shape != (size,):
            raise IndexError(f"a mask of axis {axis} needs shape ({size},), got {wanted.shape}.")
        wanted = np.flatnonzero(wanted)
    if not np.issubdtype(wanted.dtype, np.integer) and wanted.size:
        raise IndexError(f"a field is indexed by integers, slices, masks and lists of integers, got {key!r}.")
    wanted = wanted.astype(np.int64)
    if wanted.size and not (-size <= wanted.min() and wanted.max() < size):
        raise IndexError(f"index {key!r} is out of range for axis {axis} of size {size}.")
    return _box_of(np.where(wanted < 0, wanted + size, wanted), axis)


def _box_of(wanted: NDArray[np.int64], axis: int) -> tuple[Any, Any]:
    if wanted.size == 0:
        return slice(0, 0), wanted
    low, high = int(wanted.min()), int(wanted.max())
    rows = np.unique(wanted)
    if axis == 0 and len(rows) < min(FEW, (high - low + 1) / 4):
        return rows, np.searchsorted(rows, wanted) if wanted.ndim else int(np.searchsorted(rows, wanted))
    return slice(low, high + 1), wanted - low if wanted.ndim else int(wanted - low)
