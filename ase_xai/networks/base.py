"""What every network is, and the one place where energies are differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ase_xai.graph import AtomGraph
from ase_xai.networks.heads import AtomicEnergy, conserve_charge

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, eq=False)
class AtomwiseOutput:
    """What a network says atom by atom, before anything is summed.

    Args:
        energies: (N,) latent interaction energies in eV, reference energies of the elements not included.
        references: (N,) float64 energies E0[Z] in eV that belong to the element alone.
        charges: (N,) latent partial charges in e that sum to each system's total charge; None without a charge head.
        features: (N, F) learned atomic features, dimensionless.
        unconstrained: (N,) charges in e before the total charge was imposed on them, or None.
        energy_inputs: (N, D) what the last, linear layer of the energy readout gets: energies = s·(w·inputs + b) + m, with
            one w and b for each element if the network has `element_readouts`. None if a network does not tell.
        charge_inputs: the same for unconstrained charges.
    """

    energies: Tensor
    references: Tensor
    charges: Tensor | None
    features: Tensor
    unconstrained: Tensor | None = None
    energy_inputs: Tensor | None = None
    charge_inputs: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sums:
    """Energies and moments of a batch of B systems, in float64.

    Args:
        energy: (B,) eV, the sum of `energies`.
        energies: (N,) eV, references included.
        charges: (N,) e, or None.
        dipole: (B, 3) e·Å about the coordinate origin, or None. For a charged or periodic system it depends on the origin or
            on the choice of periodic images; the calculators refuse it there.
        output: the atom-wise output the sums are made of.
    """

    energy: Tensor
    energies: Tensor
    charges: Tensor | None
    dipole: Tensor | None
    output: AtomwiseOutput


@dataclass(frozen=True, eq=False)
class Prediction(Sums):
    """Sums and their derivatives.

    Args:
        forces: (N, 3) eV/Å.
        stress: (B, 6) eV/Å^3, Voigt order xx yy zz yz xz xy; NaN for systems without a volume.
        pair_gradients: (E, 3) g_ij = ∂E/∂D_ij in eV/Å. On a mirrored graph it stands on the first half of the pairs.
    """

    forces: Tensor
    stress: Tensor
    pair_gradients: Tensor


Linearized = Callable[[AtomGraph, Tensor], Tensor]
"""A network with its activations frozen at one graph as y = z·(ssp(z)/z) and its biases left out: linear in the embeddings
(SchNet) or in the symmetry functions (Behler-Parrinello). Called with a graph of some of that graph's atoms and pairs, in
any arrangement, and the index (n,) that each of its atoms has in the original, it gives what these atoms say to each
other: (n,) energies in eV, scale included, shift, biases and references not."""


class Undrawn(TorchFunctionMode):
    """Within it tensors are not filled with random numbers: for skeletons on the meta device, which hold none.

    PyTorch would load its Python operators for that, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else arguments["tensor"]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **arguments)


class AtomisticNetwork(nn.Module, ABC):
    """A network that predicts energies and charges atom by atom from an `AtomGraph`.

    A subclass sets `architecture`, calls `super().__init__(elements, cutoff)` and writes `forward`, which ends in
    `return self.atomwise(...)`. Its settings must be JSON values and come back from `settings()`, so that
    `type(network)(**network.settings())` builds an equal skeleton for saved weights, also on
    PyTorch's meta device. A network without charges sets `has_charges = False`.

    `compiled = True` asks for compiled CPU kernels (extra `fast`) where the network has them: made for training, exact to
    rounding or to a stated interpolation error, without second derivatives with respect to positions.

    Args:
        elements: atomic numbers the network knows.
        cutoff: Å; pairs at or beyond it do not act.
    """

    architecture: ClassVar[str]
    element_readouts: ClassVar[bool] = False
    has_charges: bool = True
    energy: AtomicEnergy
    compiled: bool = False
    _element_index: Tensor

    def __init__(self, elements: Sequence[int], cutoff: float) -> None:
        super().__init__()
        elements = tuple(sorted(int(z) for z in elements))
        if not elements or len(set(elements)) != len(elements) or elements[0] < 1 or elements[-1] > 118:
            raise ValueError(f"elements must be distinct atomic numbers from 1 to 118, got {elements}.")
        if not cutoff > 0:
            raise ValueError(
                f"cutoff must be positive, got {cutoff} Å. A cutoff is a distance; these networks usually use 4 to 8 Å."
            )
        self.elements = elements
        self.cutoff = float(cutoff)
        self.energy = AtomicEnergy()
        index = [elements.index(z) if z in elements else -1 for z in range(119)]
        self.register_buffer("_element_index", torch.tensor(index), persistent=False)

    @abstractmethod
    def forward(self, graph: AtomGraph) -> AtomwiseOutput:
        """Atom-wise energies, charges and features of every system in `graph`."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The constructor's arguments as JSON values."""

    def element_vectors(self) -> Tensor:
        """(Z, F) learned vector of each element, in the order of `elements`; networks without embeddings refuse.

        Raises:
            NotImplementedError: this architecture has none.
        """
        raise NotImplementedError(
            f"{self.architecture} networks have no element embeddings: elements enter through fixed descriptors and "
            "networks of their own. Use SchNet weights."
        )

    def mixed(self, graph: AtomGraph, shares: Tensor) -> AtomwiseOutput:
        """What the network says if each atom is a mixture of elements; a row of zeros and a one is that element, exactly.

        Args:
            graph: its atomic numbers are ignored.
            shares: (N, Z) how much of each of the network's elements, in its order, every atom is; differentiable.

        Raises:
            NotImplementedError: this architecture has no path from one element to another.
        """
        raise NotImplementedError(
            f"{self.architecture} networks do not mix elements, which alchemical derivatives need. Use SchNet or "
            "Behler-Parrinello weights, or write `mixed` for this network."
        )

    def linearize(self, graph: AtomGraph) -> Linearized:
        """The network with its activations frozen at `graph`, see `Linearized`; networks without one refuse.

        Raises:
            NotImplementedError: this architecture has no linearized form.
        """
        raise NotImplementedError(
            f"{self.architecture} networks have no linearized form, which n-body relevance needs. Use SchNet or "
            "Behler-Parrinello weights, or the many-body expansion, which needs energies only."
        )

    def atomwise(
        self,
        graph: AtomGraph,
        energy_readout: Tensor,
        charge_readout: Tensor | None,
        features: Tensor,
        *,
        energy_inputs: Tensor | None = None,
        charge_inputs: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> AtomwiseOutput:
        """Scaled energies and conserved charges from bare network outputs.

        Args:
            graph: what was evaluated.
            energy_readout: (N, 1) outputs of order one.
            charge_readout: (N, 1) unconstrained charges, or None for a network without charges.
            features: (N, F).
            energy_inputs, charge_inputs: see `AtomwiseOutput`; without them there is no prediction rigidity.
            shares: (N, Z) of a mixture, see `mixed`; its reference energies are mixed alike.
        """
        own = self.energy.reference(self.element_numbers if shares is not None else graph.numbers)
        unconstrained = None if charge_readout is None else charge_readout[:, 0].double()
        return AtomwiseOutput(
            energies=self.energy(energy_readout[:, 0]),
            references=own if shares is None else shares.double() @ own,
            charges=None if unconstrained is None else conserve_charge(unconstrained, graph),
            features=features,
            unconstrained=unconstrained,
            energy_inputs=energy_inputs,
            charge_inputs=charge_inputs,
        )

    def element_index(self, numbers: Tensor) -> Tensor:
        """(N,) position of each atomic number in `elements`; the caller has checked that all are known."""
        return self._element_index[numbers]

    @property
    def element_numbers(self) -> Tensor:
        """(Z,) `elements` as a tensor on the network's device."""
        return torch.tensor(self.elements, device=self.device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def predict(network: AtomisticNetwork, graph: AtomGraph, *, create_graph: bool = False) -> Prediction:
    """Energy, forces, stress, charges and dipole of `graph` by one forward and one backward pass.

    With g_ij = ∂E/∂D_ij and D_ij = r_j + S·h - r_i

        F_i = Σ_(i,j) g_ij - Σ_(k,i) g_ki        σ = (1/V) Σ_(i,j) D_ij ⊗ g_ij

    Args:
        network: any atomistic network.
        graph: one system or a batch; pair vectors keep their dtype, the network computes in its own.
        create_graph: keep the result differentiable with respect to the weights, for training on forces.
    """
    with torch.enable_grad(), torch.autocast(graph.vectors.device.type, enabled=False):
        vectors = graph.vectors.detach().requires_grad_()
        sums = add_up(graph, network(graph.with_vectors(vectors)))
        gradients = _pair_gradients(sums.energy.sum(), vectors, create_graph)
        forces = gradients.new_zeros(graph.positions.shape)
        forces = forces.index_add(0, graph.centers, gradients).index_add(0, graph.neighbors, -gradients)
        prediction = Prediction(
            **vars(sums),
            forces=forces,
            stress=stress_of(graph, graph.centers, graph.vectors.detach(), gradients),
            pair_gradients=gradients,
        )
    return prediction if create_graph else _detached(prediction)


def add_up(graph: AtomGraph, output: AtomwiseOutput) -> Sums:
    """Energy, charges and dipole of each system of `graph` from what its atoms say; differentiable like `output`."""
    energies = output.energies.double() + output.references
    charges = None if output.charges is None else output.charges.double()
    return Sums(
        energy=graph.sum_systems(energies),
        energies=energies,
        charges=charges,
        dipole=None if charges is None else graph.sum_systems(charges[:, None] * graph.positions.double()),
        output=output,
    )


def _pair_gradients(energy: Tensor, vectors: Tensor, create_graph: bool) -> Tensor:
    if not energy.requires_grad:  # lone atoms: no pairs, nothing to differentiate
        return torch.zeros_like(vectors)
    (gradients,) = torch.autograd.grad(energy, vectors, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(vectors) if gradients is None else gradients


def stress_of(graph: AtomGraph, centers: Tensor, vectors: Tensor, gradients: Tensor) -> Tensor:
    """(B, 6) σ in eV/Å^3 from pairs with these centers (P,), vectors (P, 3) in Å and ∂E/∂D (P, 3) in eV/Å."""
    vectors = vectors.to(gradients.dtype)
    if graph.n_systems == 1:
        virial = (vectors.T @ gradients)[None]
    else:
        products = (vectors[:, :, None] * gradients[:, None, :]).flatten(1)
        summed = products.new_zeros((graph.n_systems, 9)).index_add(0, graph.system[centers], products)
        virial = summed.unflatten(1, (3, 3))
    symmetric = 0.5 * (virial + virial.mT)
    per_system = torch.stack([symmetric[:, a, b] for a, b in VOIGT], dim=1)
    has_volume = torch.isfinite(graph.volume)[:, None]
    volume = torch.where(has_volume, graph.volume[:, None], 1.0)  # a NaN here would reach the gradients of the other systems
    return torch.where(has_volume, per_system / volume, float("nan"))


def _detached(prediction: Prediction) -> Prediction:
    def detach(record: object) -> dict[str, object]:
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in vars(record).items()}

    output = AtomwiseOutput(**detach(prediction.output))  # type: ignore[arg-type]
    return Prediction(**{**detach(prediction), "output": output})  # type: ignore[arg-type]
