"""Explainers: one question to a network per file. Names are loaded at first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPLAINERS: dict[str, str | type] = {
    "ElementEmbeddings": "embeddings",
    "AtomicEnergies": "atomic_energies",
    "AtomicFeatures": "features",
    "LatentCharges": "latent_charges",
    "LocalChemicalPotential": "chemical_potential",
    "InsertionEnergy": "insertion",
    "LocalRigidity": "rigidity",
    "PredictionUncertainty": "rigidity",
    "ExtrapolationFlags": "extrapolation",
    "BornCharges": "response",
    "HarmonicInfrared": "infrared",
    "EnergyFlow": "energy_flow",
    "DipoleRate": "dipole_rate",
    "HeatFlux": "heat_flux",
    "PairForces": "pair_forces",
    "IntegratedGradients": "integrated_gradients",
    "AlchemicalDerivatives": "alchemy",
    "NBodyRelevance": "relevance",
    "ManyBodyExpansion": "many_body",
    "ShapleyValues": "many_body",
}
"""Every explainer by its class name: the file it stands in, or the class itself for one of your own."""

_HOME = {**EXPLAINERS, "Explainable": "base", "Explainer": "base", "Explanation": "explanation", "explain": "base"}
_HOME |= {"ReportCard": "card", "report_card": "faithfulness"}

__all__ = ["EXPLAINERS", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ase_xai.explainers' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"ase_xai.explainers.{_HOME[name]}"), name)


def explainer_by_name(name: str) -> Any:
    """The class of an explainer.

    Raises:
        ValueError: no such explainer.
    """
    if name not in EXPLAINERS:
        raise ValueError(f"there is no explainer {name!r}; there are {', '.join(EXPLAINERS)}.")
    home = EXPLAINERS[name]
    return __getattr__(name) if isinstance(home, str) else home
