"""Loops over pairs that every network needs."""

from __future__ import annotations

from typing import Any

from ase_xai.networks.compiled.loops import compiled


@compiled
def push_and_pull(first: Any, second: Any, gradients: Any, forces: Any) -> None:
    for p in range(len(first)):
        for axis in range(3):
            forces[first[p], axis] += gradients[p, axis]
            forces[second[p], axis] -= gradients[p, axis]
