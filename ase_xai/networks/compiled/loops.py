"""Loops compiled for the CPU. Numba is optional; what needs it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """`loop` in machine code for the types it is called with, kept on disk between processes where a folder can be written.

    The compiler may reorder sums (`fastmath`): results agree with the written order to rounding, and are the same in every
    run on one machine.
    """
    try:
        import numba
    except ImportError as error:
        raise ImportError("compiled kernels need Numba: pip install 'ase_xai[fast]'.") from error

    try:
        return numba.njit(loop, cache=True, fastmath=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder for the cache can be written: compile anew in each process
        return numba.njit(loop, fastmath=True, nogil=True, error_model="numpy")
