"""A calculator of this package as a model of TorchSim, which moves many systems at once (extra `torchsim`).

    import torch_sim as ts
    from ase_xai.torchsim import TorchSimModel

    final = ts.optimize(list_of_atoms, TorchSimModel("organic"), optimizer=ts.optimizers.fire)

Source: TorchSim, https://github.com/TorchSim/torch-sim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from torch import Tensor

from ase_xai.calculator_base import AtomisticCalculator
from ase_xai.calculators import load
from ase_xai.neighbors import Pairs, find_pairs
from ase_xai.networks.base import Prediction
from ase_xai.skins import ManySkins, Systems

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ImportError as error:
    raise ImportError(
        f"ase_xai.torchsim needs torch-sim-atomistic 0.3 or later ({error}). With Python 3.11 or newer: "
        "pip install 'ase_xai[torchsim]'."
    ) from error

FROM_VOIGT = ((0, 5, 4), (5, 1, 3), (4, 3, 2))  # xx yy zz yz xz xy to rows and columns


class TorchSimModel(ModelInterface):
    """Energies, forces, stress, atomic energies and latent charges of all systems of a TorchSim state, from one call.

    `forward` gives, in eV, Å and e: "energy" (B,), "forces" (N, 3), "stress" (B, 3, 3) with ASE's sign, positive where a
    cell would contract, NaN for open systems; "energies" (N,) that sum to the energies; "charges" (N,) if all networks have
    them. Of an ensemble, the mean over its members.

    The state is kept in float64, whatever the precision of the network: total energies would lose meV in float32. Pairs are
    looked for anew only in systems whose atoms or cell have moved too far, on the CPU; all else happens on the device.
    Every system has the total charge of the calculator, 0 if it has none. TorchSim knows systems that are periodic in all
    directions or in none: it reads slabs as open systems.

    Args:
        calculator: of this package, or name or path of weights.
        skin: Å; pairs out to cutoff + skin are kept for the next steps.
        memory_scales_with: what TorchSim's autobatcher counts; "n_atoms_x_density" suits periodic systems of different
            densities and fails for open ones, which have no volume.
        settings: passed on to `load` with a name or path: `device`, `dtype` ...

    Raises:
        ValueError: settings for a calculator that is there already, members on different devices, skin negative.
    """

    def __init__(
        self,
        calculator: AtomisticCalculator | str | Path,
        *,
        skin: float = 1.0,
        memory_scales_with: Literal["n_atoms", "n_atoms_x_density"] = "n_atoms",
        **settings: Any,
    ) -> None:
        super().__init__()
        if settings and isinstance(calculator, AtomisticCalculator):
            raise ValueError(f"settings {sorted(settings)} would not reach a calculator that is built. Set them there.")
        self.calculator = calculator if isinstance(calculator, AtomisticCalculator) else load(calculator, **settings)
        devices = {member.device for member in self.calculator.members}
        if len(devices) > 1:
            raise ValueError(f"members are on different devices, {sorted(map(str, devices))}. Build them on one.")
        self._device, self._dtype = devices.pop(), torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = memory_scales_with
        cutoff = max(member.network.cutoff for member in self.calculator.members)
        self._skins = ManySkins(self._checked_pairs, cutoff, skin)

    def forward(self, state: SimState | dict[str, Any]) -> dict[str, Tensor]:
        """Results of all systems of `state`, in its precision.

        Raises:
            ValueError: state on another device.
            InputError: systems that the calculator would refuse, with the number of the first of them.
        """
        if not isinstance(state, SimState):
            state = SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        if state.device.type != self.device.type:
            raise ValueError(f"the state is on {state.device}, the network on {self.device}. Use state.to(model.device).")
        with torch.inference_mode(False), torch.no_grad():
            systems = _systems(state)
            pairs = self._skins.update(systems)
            predictions = []
            for member in self.calculator.members:
                graph = systems.graph(pairs, member.network.cutoff, self.calculator.total_charge or 0.0)
                predictions.append(member.predict(graph))
            results = _results(predictions)
            _refuse_infinite(results, systems)
            return {name: value.to(state.dtype) for name, value in results.items()}

    def _checked_pairs(self, atoms: Atoms, reach: float) -> Pairs:
        self.calculator.check_atoms(atoms)
        return find_pairs(
            atoms.positions, atoms.cell.array, atoms.pbc, reach, self.calculator.members[0].neighbor_list.backend
        )


def _systems(state: SimState) -> Systems:
    """The systems of a state in our terms: a copy in float64, cell vectors as rows."""

    def copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.detach().to(dtype, copy=True)

    return Systems(
        numbers=copied(state.atomic_numbers, torch.int64),
        positions=copied(state.positions, torch.float64),
        cells=copied(state.row_vector_cell, torch.float64).contiguous(),
        system=copied(state.system_idx, torch.int64),
        pbc=tuple(torch.as_tensor(state.pbc).cpu().expand(3).tolist()),
    )


def _results(predictions: list[Prediction]) -> dict[str, Tensor]:
    """Means over the members, by TorchSim's names."""

    def mean(tensors: list[Tensor]) -> Tensor:
        return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0)

    stress = mean([p.stress for p in predictions])
    results = {
        "energy": mean([p.energy for p in predictions]),
        "forces": mean([p.forces for p in predictions]),
        "stress": stress[:, torch.tensor(FROM_VOIGT, device=stress.device)],
        "energies": mean([p.energies for p in predictions]),
    }
    charges = [p.charges for p in predictions if p.charges is not None]
    return results | ({"charges": mean(charges)} if len(charges) == len(predictions) else {})


def _refuse_infinite(results: dict[str, Tensor], systems: Systems) -> None:
    bad = ~torch.isfinite(results["energy"])
    bad.index_put_((systems.system[~torch.isfinite(results["forces"]).all(dim=1)],), bad.new_ones(()))
    if bool(bad.any()):
        raise InputError(
            f"system {int(bad.nonzero()[0])} cannot be evaluated: the network gives an energy or forces that are not "
            "finite. The geometry is far outside its training data; take smaller steps."
        )
