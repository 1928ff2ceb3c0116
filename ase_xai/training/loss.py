"""What training minimizes, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_xai.networks.base import Prediction
from ase_xai.training.data import Labels


@dataclass(frozen=True)
class LossWeights:
    """Weights of the error terms: energy per (eV/atom), forces per (eV/Å), dipole per (e·Å)."""

    energy: float = 8.0
    forces: float = 1.0
    dipole: float = 3.0


def loss(prediction: Prediction, labels: Labels, weights: LossWeights) -> Tensor:
    """w_E mean|ΔE|/N + w_F mean‖ΔF_i‖ + w_μ mean‖Δμ‖.

    First powers, not squares: off-equilibrium data have heavy tails, and a few strained structures must not rule the rest.
    The force term is the mean length of the error vector, which is invariant under rotation.
    """
    energy = ((prediction.energy - labels.energy).abs() / labels.n_atoms).mean()
    forces = torch.linalg.vector_norm(prediction.forces - labels.forces, dim=1).mean()
    if prediction.dipole is None:
        raise ValueError("this network has no charges, so it cannot learn dipoles. Give `atomwise` a charge readout.")
    dipole = torch.linalg.vector_norm(prediction.dipole - labels.dipole, dim=1).mean()
    return weights.energy * energy + weights.forces * forces + weights.dipole * dipole


@dataclass
class Metrics:
    """Sums of absolute errors over batches; `means()` gives the mean absolute errors in their units."""

    energy: float = 0.0
    forces: float = 0.0
    dipole: float = 0.0
    dipole_component: float = 0.0
    dipole_magnitude: float = 0.0
    n_structures: int = 0
    n_components: int = 0

    def add(self, prediction: Prediction, labels: Labels) -> None:
        assert prediction.dipole is not None
        self.energy += float(((prediction.energy - labels.energy).abs() / labels.n_atoms).sum())
        self.forces += float((prediction.forces - labels.forces).abs().sum())
        error = prediction.dipole - labels.dipole
        magnitudes = (torch.linalg.vector_norm(mu, dim=1) for mu in (error, prediction.dipole, labels.dipole))
        length, predicted, reference = magnitudes
        self.dipole += float(length.sum())
        self.dipole_component += float(error.abs().mean(dim=1).sum())
        self.dipole_magnitude += float((predicted - reference).abs().sum())
        self.n_structures += len(labels.energy)
        self.n_components += labels.forces.numel()

    def means(self) -> dict[str, float]:
        """Mean absolute errors: energy in eV/atom, force components in eV/Å, and three readings of the dipole error in e·Å.

        These are the length of the error vector, its components, and the error of the magnitude |μ|.
        """
        return {
            "energy_mae_eV_per_atom": self.energy / self.n_structures,
            "forces_mae_eV_per_A": self.forces / self.n_components,
            "dipole_mae_eA": self.dipole / self.n_structures,
            "dipole_component_mae_eA": self.dipole_component / self.n_structures,
            "dipole_magnitude_mae_eA": self.dipole_magnitude / self.n_structures,
        }
