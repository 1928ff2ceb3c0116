"""Kernels for a CPU: the same functions as in the networks' own files, in loops compiled by Numba (extra `fast`)."""

from __future__ import annotations

import importlib.util


def available() -> bool:
    """Whether compiled kernels can be used: Numba is installed."""
    return importlib.util.find_spec("numba") is not None
