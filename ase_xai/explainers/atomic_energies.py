"""Which atoms store the energy?"""

from __future__ import annotations

from dataclasses import dataclass

from ase import Atoms

from ase_xai.explainers.base import Explainable, answer
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.rigidity import energy_uncertainty
from ase_xai.networks.base import add_up


@dataclass(frozen=True)
class AtomicEnergies:
    """Latent atomic energies E_i with Σ_i E_i = E, in eV.

    The network chose this split of the energy itself: for any antisymmetric χ_ij the change E_i → E_i + Σ_j χ_ij would leave
    energy and forces as they are. Compare differences, look at several networks, and at the uncertainty.

    Args:
        reference: "none" for the raw values; else one of the explanation's `baselines`, subtracted at once: "element_mean"
            (mean over the training data, best for pictures), "composition" or "free_atom".

    Source: Schütt et al., arXiv:1806.10349; the references of section 3 are this project's choice.
    """

    reference: str = "none"

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        graph = calculator.checked_graph(atoms)
        sums = add_up(graph, calculator.output(graph))
        values = sums.energies.cpu().numpy()
        raw = answer(
            calculator,
            atoms,
            self,
            target="energy",
            level="atom",
            values=values,
            units="eV",
            gauge="dependent",
            residual=float(sums.energy[0]) - float(values.sum()),
            uncertainty=energy_uncertainty(calculator, graph, sums.output),
            baselines=calculator.baselines(atoms),
            notes=(
                calculator.card.reference_kind,
                "Latent: the network chose this split; many others give the same forces.",
            ),
        )
        return raw if self.reference == "none" else raw.relative(self.reference)
