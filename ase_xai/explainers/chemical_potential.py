"""Where would an atom of some element be welcome?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from ase import Atoms
from torch import Tensor

from ase_xai.explainers.base import Explainable
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.probe_rigidity import Rigidity
from ase_xai.explainers.probes import ProbeExplainer
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.networks.probing import Listener

QUANTITIES = ("energy", "charge")
MANY = 1000


@dataclass(frozen=True, eq=False)
class LocalChemicalPotential(ProbeExplainer):
    """Local chemical potential Ω_A(r): the network's own term of a probe atom A at r that the molecule does not notice,

        Ω_A(r) = s·f(x_probe^T) + m + E0[A],   x_probe⁰ = a[A]
        x_probe^{t+1} = x_probe^t + block_t( Σ_j x_j^t ∘ W^t(|r - r_j|) )

    in eV, minus its value beyond the cutoff. The probe receives from every atom (and periodic image) and never sends, so the
    energies, features and charges of the molecule are those without it. The same construction serves every network.
    With quantity "charge": the charge in e that the probe takes, its unconstrained readout plus the shift that charge
    conservation gives to the molecule's atoms, minus the same of a lone probe (the shift cancels in this difference).

    Ω depends on how the network splits the energy between atoms; its gauge-invariant sibling is `InsertionEnergy`. An atom
    without a bonded partner is unlike most training data: look at the mask.

    Args:
        probe, points, surface, grid, plane, scale, reference, closest, limit, chunk: see `ProbeExplainer`.
        quantity: "energy" or "charge".
        tabulated: interpolate SchNet's filters from tables of the distance, many times faster and exact to about 1e-7 eV in
            float64, in float32 to its rounding. None does so for more than 1000 points, below which making the tables takes
            longer than it saves. Other networks are always evaluated exactly.

    Raises:
        ValueError: unknown element, places or quantity; charges of a network without them.

    Source: Schütt et al., arXiv:1806.10349; Schütt et al., Nat. Commun. 8, 13890 (2017). Mask and reference are this
    project's choice.
    """

    quantity: str = "energy"
    tabulated: bool | None = None

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {', '.join(QUANTITIES)}, got {self.quantity!r}.")
        site = self.site(calculator, atoms)
        tabulated = len(site.points) > MANY if self.tabulated is None else self.tabulated
        listener = Listener(calculator.network, site.surroundings, site.number, tabulated=tabulated)
        isolated = listener.isolated()
        if self.quantity == "charge" and isolated.charges is None:
            why = "it conserves charge by other than one common shift" if calculator.network.has_charges else "it has none"
            raise ValueError(f"{calculator.model} has no charges that a probe could show: {why}. Use other weights.")
        rigidity = Rigidity.of(
            calculator,
            site.surroundings.graph,
            site.number,
            listener.molecule,
            isolated,
            readout=self.quantity,
            relative=self.reference == "isolated",
        )

        def ask(points: Tensor) -> Tensor:
            output = listener(points)
            columns = [self._values(output).cpu()]
            if rigidity is not None:
                inputs = getattr(output, f"{self.quantity}_inputs")
                columns += [rigidity.leverage(inputs), rigidity.variance(inputs)]
            return torch.stack(columns, dim=1)

        table = site.evaluate(self.chunk or listener.chunk, ask)
        energy = self.quantity == "energy"
        return site.explanation(
            calculator,
            atoms,
            replace(self, tabulated=listener.tables is not None),
            dict(zip(("value", "leverage", "variance"), table.T, strict=False)),
            rigidity,
            isolated=float(self._values(isolated)[0]),
            target=f"local chemical potential of {site.symbol}" if energy else f"probe charge of {site.symbol}",
            units="eV" if energy else "e",
            gauge="dependent",
            notes=self._notes(listener),
        )

    def _values(self, output: AtomwiseOutput) -> Tensor:
        if self.quantity == "energy":
            return output.energies.double() + output.references
        assert output.charges is not None
        return output.charges.double()

    def _notes(self, listener: Listener) -> tuple[str, ...]:
        if self.quantity == "charge":
            return (f"Charges of the molecule are shifted by {listener.shift:+.6f} e, and the probe's with them.",)
        return ("Depends on how the network splits the energy; show InsertionEnergy beside it, which does not.",)
