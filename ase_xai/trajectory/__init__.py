"""Explanations along a run: recorded in one H5MD file, read lazily, analyzed. Names are loaded at first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Autocorrelation": "reducers",
    "Extremes": "reducers",
    "Field": "run",
    "Histogram": "reducers",
    "Moments": "reducers",
    "Recorder": "recorder",
    "Recording": "recording",
    "RecordingError": "store",
    "Run": "run",
    "annotate": "annotation",
    "barrier": "differences",
    "charge_flow": "bond_flow",
    "connected_fragments": "groups",
    "energy_flow": "flow",
    "find_events": "events",
    "group_means": "means",
    "group_series": "groups",
    "infrared": "spectra",
    "open_run": "run",
    "path_difference": "differences",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ase_xai.trajectory' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"ase_xai.trajectory.{_HOME[name]}"), name)
