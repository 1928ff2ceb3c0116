"""Several networks as one calculator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_xai.calculator_base import AtomisticCalculator
from ase_xai.calculators import CHARGED, NetworkCalculator, load


class Ensemble(AtomisticCalculator):
    """Mean of several networks, which may differ in seed or in architecture; `spread` tells how far they disagree.

        atoms.calc = Ensemble(["organic", "organic-bp"])
        atoms.get_forces()                  # mean
        atoms.calc.spread["energies"]       # (N,) standard deviation between members, eV

    Args:
        members: at least two calculators, weight names or paths. All must share one set of total charges and dipole origin.
        settings: passed on to `load` for members given by name or path.

    Energies of members trained on different levels of theory must not be averaged; this is refused.
    """

    def __init__(self, members: Sequence[NetworkCalculator | str | Path], **settings: Any) -> None:
        if isinstance(members, (str, Path)):
            raise ValueError(f"members must be a list of calculators, names or paths, got {members!r}. Give at least two.")
        if settings and any(isinstance(member, NetworkCalculator) for member in members):
            raise ValueError(f"settings {sorted(settings)} would not reach members that are calculators. Set them there.")
        calculators = [member if isinstance(member, NetworkCalculator) else load(member, **settings) for member in members]
        if len(calculators) < 2:
            raise ValueError(f"an ensemble needs at least 2 members, got {len(calculators)}. Use the one calculator itself.")
        if len({calculator.sha256 for calculator in calculators}) < len(calculators):
            raise ValueError("two members hold the same weights, so their spread means nothing. Give different ones.")
        levels = {calculator.card.level_of_theory for calculator in calculators}
        if len(levels) > 1:
            raise ValueError(f"members were trained on different levels, {sorted(levels)}. Combine like with like.")
        origins = {repr(calculator.dipole_origin) for calculator in calculators}
        charges = {calculator.total_charge for calculator in calculators}
        if len(origins) > 1 or len(charges) > 1:
            raise ValueError("members differ in dipole_origin or total_charge. Build them with the same ones.")
        super().__init__(
            elements=sorted(set.intersection(*(set(c.elements) for c in calculators))),
            total_charges=sorted(set.intersection(*(set(c.total_charges) for c in calculators))),
            closed_shell=any(c.card.closed_shell for c in calculators),
            total_charge=calculators[0].total_charge,
            dipole_origin=calculators[0].dipole_origin,
        )
        if not self.elements or not self.total_charges:
            raise ValueError("members have no element or no total charge in common, so no system suits all of them.")
        if not all(c.network.has_charges for c in calculators):
            self.implemented_properties = [name for name in self.implemented_properties if name not in CHARGED]
        self._members = calculators
        self._spread: dict[str, Any] = {}
        self.parameters.update(members=[calculator.todict() for calculator in calculators])

    @property
    def spread(self) -> dict[str, Any]:
        """Standard deviation between members (n - 1) of each result of the last evaluation, same shapes and units.

        ASE's files do not store it.
        """
        if not self.results:
            raise RuntimeError("there is no spread before the first evaluation. Ask the atoms for a result first.")
        return {name: copy.copy(self._spread[name]) for name in self.results}

    @property
    def members(self) -> Sequence[NetworkCalculator]:
        return tuple(self._members)

    def references(self, atoms: Atoms) -> NDArray[np.float64]:
        return np.mean([member.references(atoms) for member in self.members], axis=0)

    def _evaluate(self, atoms: Atoms, charge: float) -> dict[str, Any]:
        all_results = [member._evaluate_alone(atoms, charge) for member in self.members]
        mean: dict[str, Any] = {}
        for name in set.intersection(*(set(results) for results in all_results)):
            values = np.stack([results[name] for results in all_results])
            mean[name], self._spread[name] = values.mean(axis=0), values.std(axis=0, ddof=1)
        for name in ("energy", "free_energy"):
            mean[name], self._spread[name] = float(mean[name]), float(self._spread[name])
        return mean
