"""Neural-network potentials that a chemist can question, as ASE calculators."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AtomGraph": "graph",
    "AtomisticCalculator": "calculator_base",
    "BehlerParrinello": "calculators",
    "Ensemble": "ensemble",
    "Explanation": "explainers.explanation",
    "explain": "explainers.base",
    "NetworkCalculator": "calculators",
    "SchNet": "calculators",
    "WeightsError": "weights",
    "load": "calculators",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Public names are imported at first use, so that `import ase_xai` itself is quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'ase_xai' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"ase_xai.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
