"""What does it cost to put an atom there?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.places import own_images
from ase_xai.explainers.probe_rigidity import Rigidity, head_of
from ase_xai.explainers.probes import ProbeExplainer, Site
from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput
from ase_xai.networks.probing import Listener, inserted, insertion_chunk, lone

RULES = ("Invariant up to one constant per element.", "The residual is that of its split into probe and molecule.")
UNDISTURBED = "molecule without the probe"
COLUMNS = ("value", "probe", "molecule", "leverage", "variance")


@dataclass(frozen=True, eq=False)
class InsertionParts:
    """An insertion energy and its two shares, which add up to it.

    Args:
        total: ΔE.
        probe: E_probe in the joint system, minus the reference.
        molecule: Σ_i [E_i with the probe - E_i without it], how the molecule answers.
    """

    total: Explanation
    probe: Explanation
    molecule: Explanation


@dataclass(frozen=True, eq=False)
class InsertionEnergy(ProbeExplainer):
    """Vertical insertion energy ΔE_A(r) = E(M + A at r) - E(M) - E(A), in eV: a fully coupled atom, all others fixed.

    Made of total energies, it does not depend on how the network splits them, up to one constant per element, which the
    reference carries: E(A) is the network's lone atom, which training on molecules does not fix (reference "none" leaves it
    in). It is exactly the sum of the probe's share and the molecule's response, which do depend on the split:

        ΔE_A = [E_probe - E(A)] + Σ_i [E_i with the probe - E_i without]

    Each point is an evaluation of N + 1 atoms, many in one batch; a surface given by name is therefore made on a coarser
    grid than that of `LocalChemicalPotential` (0.4 Å). To show both side by side, give both the same `Surface`. In a
    periodic system every cell gets an atom.

    Args:
        probe, points, surface, grid, plane, scale, reference, closest, limit, chunk: see `ProbeExplainer`.

    Raises:
        ValueError: unknown element or place.

    Source: this project; the vertical (unrelaxed) form of an adsorption energy.
    """

    own_spacing: ClassVar[float] = 0.4

    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        return self.parts(calculator, atoms).total

    def parts(self, calculator: Explainable, atoms: Atoms) -> InsertionParts:
        """The insertion energy with its exact split."""
        site, relative = self.site(calculator, atoms), self.reference == "isolated"
        network, graph = calculator.network, site.surroundings.graph
        listener = Listener(network, site.surroundings, site.number, tabulated=False)
        isolated = listener.isolated()
        before = listener.molecule.energies.double().sum()
        rigidity = Rigidity.of(calculator, graph, site.number, listener.molecule, isolated, relative=relative)
        alone = torch.zeros(0)
        if rigidity is not None and isolated.energy_inputs is not None:
            alone = _summed(network, lone(graph, site.number, graph.positions[:1]), isolated.energy_inputs)
        translations = torch.as_tensor(own_images(atoms, network.cutoff), device=graph.positions.device)

        def ask(points: Tensor) -> Tensor:
            joint = inserted(site.surroundings, site.number, points, translations)
            output = network(joint)
            energies = output.energies.double().view(len(points), -1)  # (p, N + 1), the probe last
            probe = energies[:, -1] + output.references[-1]
            response = energies[:, :-1].sum(dim=1) - before
            columns = [energies.sum(dim=1) - before + output.references[-1], probe, response]
            if rigidity is not None:
                columns += _looseness(calculator, joint, output, listener, rigidity, alone)
            return torch.stack([column.cpu() for column in columns], dim=1)

        size = self.chunk or insertion_chunk(site.surroundings, listener.molecule.features.shape[1])
        columns = dict(zip(COLUMNS, site.evaluate(size, ask).T, strict=False))
        return self._parts(calculator, atoms, site, columns, rigidity, float(isolated.energies[0] + isolated.references[0]))

    def _parts(
        self,
        calculator: Explainable,
        atoms: Atoms,
        site: Site,
        columns: dict[str, NDArray[np.float64]],
        rigidity: Rigidity | None,
        alone: float,
    ) -> InsertionParts:
        gaps = np.abs(columns["value"] - columns["probe"] - columns["molecule"])[~site.touching]
        total = site.explanation(
            calculator,
            atoms,
            self,
            columns,
            rigidity,
            isolated=alone,
            target=f"insertion energy of {site.symbol}",
            units="eV",
            gauge="invariant",
            residual=float(gaps.max()),
            notes=(*RULES, *_odd_electrons(calculator, site)),
        )
        constant = alone if self.reference == "isolated" else 0.0
        probe = np.where(site.touching, alone, columns["probe"]) - constant
        molecule = np.where(site.touching, 0.0, columns["molecule"])
        share = replace(total, gauge="dependent", residual=None, uncertainty=None)
        return InsertionParts(
            total,
            probe=replace(share, values=probe, target=f"probe's share of the {total.target}"),
            molecule=replace(
                share, values=molecule, target=f"molecule's share of the {total.target}", reference=UNDISTURBED
            ),
        )


def _odd_electrons(calculator: Explainable, site: Site) -> tuple[str, ...]:
    graph = site.surroundings.graph
    n_electrons = int(graph.numbers.sum()) + site.number - round(float(graph.total_charge[0]))
    if not (calculator.card.closed_shell and n_electrons % 2):
        return ()
    return (f"With {site.symbol} the system is a radical; the network was trained on closed shells only.",)


def _looseness(
    calculator: Explainable, joint: AtomGraph, output: AtomwiseOutput, listener: Listener, rigidity: Rigidity, alone: Tensor
) -> list[Tensor]:
    """Leverage of the probe in each joint system, and variance of the difference of summed energies: (p,) each."""
    head, graph = head_of(calculator, "energy"), listener.surroundings.graph
    assert head is not None and output.energy_inputs is not None and listener.molecule.energy_inputs is not None
    rows = _summed(calculator.network, joint, output.energy_inputs)
    rows = rows - _summed(calculator.network, graph, listener.molecule.energy_inputs)
    if rigidity.isolated is not None:
        rows = rows - alone
    probes = output.energy_inputs.view(joint.n_systems, -1, output.energy_inputs.shape[1])[:, -1]
    return [rigidity.leverage(probes), head.scale * head.leverages(rows.cpu())]


def _summed(network: AtomisticNetwork, graph: AtomGraph, inputs: Tensor) -> Tensor:
    """(B, D) last-layer inputs of each system added up, a 1 for the bias appended, in the block of each atom's element."""
    extended = torch.cat([inputs.double(), inputs.new_ones((len(inputs), 1)).double()], dim=1)
    n_blocks = len(network.elements) if network.element_readouts else 1
    block = network.element_index(graph.numbers) if network.element_readouts else torch.zeros_like(graph.numbers)
    sums = extended.new_zeros((graph.n_systems * n_blocks, extended.shape[1]))
    return sums.index_add(0, graph.system * n_blocks + block, extended).view(graph.n_systems, -1)
