"""Which vibrations absorb, and which atoms make them?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.response import response_graph
from ase_xai.networks.response import hessian

KM_PER_MOL = 42.255
"""Infrared intensity in km/mol per (D/Å)²/amu, as in ASE. Source: Porezag, Pederson, Phys. Rev. B 54, 7830 (1996)."""

STATIONARY = 0.05  # eV/Å; with larger forces the modes of rotation mix with the vibrations


@dataclass(frozen=True)
class HarmonicInfrared:
    """Infrared intensities of the harmonic modes, (3N,) in (D/Å)²/amu; times `KM_PER_MOL` in km/mol.

        H e_k = ω_k² e_k,   H = M^(-1/2) ∂²E/∂r∂r M^(-1/2);     I_k = |∂μ/∂Q_k|²,   ∂μ/∂Q_k = Σ_i Z*_i e_ik/√M_i

    Hessian and Born charges are exact derivatives, without finite displacements. All 3N modes are kept, translations and
    rotations included, in the order of rising ω²; labels give the frequencies in cm⁻¹, "123.4i" for imaginary ones, and so
    does `settings["frequencies_cm-1"]`, imaginary ones as negative numbers. Relax the atoms first. The members of an
    ensemble have different modes, so there is no mean of their explanations: explain with one member at a time.

    Args:
        by_atom: (3N, N) instead, the share of each atom, (∂μ/∂Q_k)·(Z*_i e_ik/√M_i). Shares sum to the intensity; one is
            negative where the atom's dipole change opposes the whole.

    Raises:
        ValueError: a periodic system, or a network without charges.

    Source: Wilson, Decius, Cross, Molecular Vibrations (1955); Gastegger, Behler, Marquetand, doi 10.1039/c7sc02267k.
    """

    by_atom: bool = False

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = response_graph(calculator, atoms)
        force = float(calculator.predict(graph).forces.norm(dim=1).max())
        wavenumbers, modes = harmonic_modes(hessian(calculator.network, graph).cpu().numpy(), atoms.get_masses())
        tensors = calculator.dipole_response(graph).total.cpu().numpy() / units.Debye  # D/Å
        parts = np.einsum("iab,kib->kia", tensors, modes)  # (3N, N, 3)
        whole = parts.sum(axis=1)
        shares = np.einsum("kia,ka->ki", parts, whole)
        intensities = (whole**2).sum(axis=1)
        moved = (f"The largest force is {force:.3g} eV/Å: this is no stationary point. Relax the atoms first.",)
        return answer(
            calculator,
            atoms,
            self,
            target="infrared intensity",
            level="feature",
            values=shares if self.by_atom else intensities,
            units="(D/Å)²/amu",
            labels=tuple(f"{abs(w):.1f}{'i' if w < 0 else ''} cm-1" for w in wavenumbers),
            gauge="invariant",
            residual=float(np.abs(shares.sum(axis=1) - intensities).max()) if self.by_atom else None,
            settings={"by_atom": self.by_atom, "frequencies_cm-1": wavenumbers.tolist()},
            notes=(f"Times {KM_PER_MOL} in km/mol.", *(moved if force > STATIONARY else ())),
        )


def harmonic_modes(
    second_derivatives: NDArray[np.float64], masses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wavenumbers (3N,) in cm⁻¹, negative where imaginary, and displacements e_ik/√M_i (3N, N, 3) in amu^(-1/2), by mode.

    Args:
        second_derivatives: (3N, 3N) eV/Å².
        masses: (N,) amu.
    """
    root = np.repeat(masses, 3) ** -0.5
    squares, vectors = np.linalg.eigh(root[:, None] * second_derivatives * root)
    energies = np.sign(squares) * np.sqrt(np.abs(squares)) * units._hbar * 1e10 / np.sqrt(units._e * units._amu)  # eV
    return energies / units.invcm, (root[:, None] * vectors).T.reshape(len(squares), -1, 3)
