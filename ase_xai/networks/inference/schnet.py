"""SchNet's energies, charges, forces and stress with the backward pass written out."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_xai.graph import AtomGraph
from ase_xai.networks.base import AtomwiseOutput, Prediction
from ase_xai.networks.inference.convolution import Convolution
from ase_xai.networks.inference.dense import linear
from ase_xai.networks.inference.filters import ExactFilters, Filters, FilterTable
from ase_xai.networks.inference.pairs import PairList
from ase_xai.networks.inference.team import Team
from ase_xai.networks.layers import LN2, softplus
from ase_xai.networks.schnet import SchNetNetwork


@dataclass(frozen=True, eq=False)
class _Layer:
    """One interaction with its constants put together, so that every dense layer is one operation.

    Features are kept without the biases that the layers add to them: x_i^t = x̃_i^t + β^t.

    Args:
        sender, sender_bias: y = x̃·sender + sender_bias.
        first, first_bias: a = m·first + first_bias.
        second: x̃ += softplus(a)·second; the -ln 2 of ssp and the bias are in β.
        sender_back, first_back, second_back: transposed, for the way back.
    """

    sender: Tensor
    sender_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    sender_back: Tensor
    first_back: Tensor
    second_back: Tensor


class _Buffers:
    """What one evaluation of N atoms writes to; kept for the next one of the same size."""

    def __init__(self, n_atoms: int, n_layers: int, n_features: int, n_read: int, team: Team, like: Tensor) -> None:
        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=like.dtype, device=like.device)

        self.key = (n_atoms, team.size)
        self.features, self.heard = empty(n_atoms, n_features), empty(n_atoms, n_features)
        self.sent = [empty(n_atoms, n_features) for _ in range(n_layers)]
        self.sums = empty(2, team.size, n_atoms, n_features)  # in turn, as some may still read the one before
        self.read = empty(n_atoms, n_read)
        self.shares = [_Share(self, team, rank) for rank in range(team.size)]


class _Share:
    """The rows of the buffers that belong to the atoms of one member, and what it needs beside them."""

    def __init__(self, buffers: _Buffers, team: Team, rank: int) -> None:
        self.atoms = team.share(len(buffers.features), rank)
        self.features, self.heard, self.read = (b[self.atoms] for b in (buffers.features, buffers.heard, buffers.read))
        self.sent = [sent[self.atoms] for sent in buffers.sent]
        self.opened = [torch.empty_like(self.features) for _ in self.sent]
        self.inner, self.gradient = torch.empty_like(self.features), torch.empty_like(self.features)
        self.read_opened = torch.empty_like(self.read)
        self.mine = [buffers.sums[turn, rank] for turn in range(2)]  # to add to
        self._parts = [buffers.sums[turn, :, self.atoms] for turn in range(2)]
        self._summed = torch.empty_like(self.features)

    def summed(self, turn: int) -> Tensor:
        """(n, F) what all members have added up for the own atoms."""
        parts = self._parts[turn]
        return parts[0] if len(parts) == 1 else torch.sum(parts, dim=0, out=self._summed)


class SchNetEvaluator:
    """`predict` for a `SchNetNetwork`: the same equations, first derivatives by hand.

    With a_i the inner values of an update and y^t = C^t(x^t) the convolution, the gradient G = ∂E/∂x goes back through

        ∂E/∂m = [(G·W₂ᵀ) ∘ σ(a)]·W₁ᵀ,       G ← G + C^t(∂E/∂m)·W_sᵀ,       ∂E/∂r_ij += Σ_f W'_f (y_j ∂E/∂m_i + y_i ∂E/∂m_j)_f

    Args:
        network: its weights are taken as they are now.
        filters: of this network.
        convolution: the implementation.
    """

    def __init__(self, network: SchNetNetwork, filters: Filters, convolution: type[Convolution]) -> None:
        self.network, self.filters, self.convolution = network, filters, convolution
        with torch.no_grad():
            self._layers, self._bias = _packed(network)
            self._first_sent = network.embedding.weight @ self._layers[0].sender  # (Z, F): nothing was heard yet
            readouts = [r for r in (network.energy_readout, network.charge_readout) if r is not None]
            self._read = torch.cat([linear(r, 0).weight for r in readouts]).t()  # (F, F/2 or F)
            self._read_bias = torch.cat([linear(r, 0).bias for r in readouts])
            width = network.n_features // 2
            self._seeds = [
                (linear(readout, -1).weight, linear(readout, 0).weight, slice(k * width, (k + 1) * width))
                for k, readout in enumerate(readouts)
            ]
            scaled = network.energy.scale * self._seeds[0][0]  # (1, F/2) ∂E/∂(hidden values of the readout)
            self._seeds[0] = scaled, *self._seeds[0][1:]
        self._buffers: _Buffers | None = None

    @classmethod
    def of(cls, network: SchNetNetwork, convolution: type[Convolution], *, tabulated: bool) -> SchNetEvaluator:
        """With exact or tabulated filters."""
        envelope, dtype = network.cutoff_function, network.dtype
        if not tabulated:
            return cls(network, ExactFilters(network, envelope, dtype), convolution)
        double = copy.deepcopy(network).to(device="cpu", dtype=torch.float64)
        return cls(network, FilterTable(double, envelope, dtype, network.device), convolution)

    def describe(self) -> str:
        return f"{self.convolution.title}, derivatives written out, {self.filters.describe()}"

    @torch.no_grad()
    def __call__(self, graph: AtomGraph, team: Team) -> Prediction:
        pairs = PairList.of(graph)
        slopes = torch.zeros_like(pairs.distances)
        output = self._evaluated(graph, pairs, team, (slopes, None))
        return pairs.prediction(graph, output, (slopes / pairs.distances)[:, None] * pairs.vectors)

    @torch.no_grad()
    def output(self, graph: AtomGraph, team: Team) -> AtomwiseOutput:
        return self._evaluated(graph, PairList.of(graph), team)

    @torch.no_grad()
    def charge_flux(self, graph: AtomGraph, weights: Tensor, team: Team) -> tuple[AtomwiseOutput, Tensor]:
        pairs = PairList.of(graph)
        slopes = pairs.distances.new_zeros((len(weights), len(pairs)))
        output = self._evaluated(graph, pairs, team, *zip(slopes, weights.to(self._bias.dtype), strict=True))
        gradients = (slopes / pairs.distances)[:, :, None] * pairs.vectors
        return output, torch.stack([-pairs.forces(gradient) for gradient in gradients])

    def _evaluated(
        self, graph: AtomGraph, pairs: PairList, team: Team, *derivatives: tuple[Tensor, Tensor | None]
    ) -> AtomwiseOutput:
        """What the atoms say; adds ∂/∂r of the energy, or of Σ_i w_i p_i over unconstrained charges, to slopes (P,).

        Args:
            derivatives: of each, slopes, and weights (N,) or None for the energy.
        """
        convolution = self.convolution(pairs, self.filters)
        buffers = self._buffers_for(len(graph.numbers), team)
        element = self.network.element_index(graph.numbers)

        def work(rank: int) -> None:
            with torch.no_grad():
                self._forward(rank, team, buffers, element, convolution)
                for slopes, weights in derivatives:
                    self._backward(rank, team, buffers, convolution, slopes, weights)

        team.run(work)
        return self._output(graph, buffers)

    def _forward(self, rank: int, team: Team, buffers: _Buffers, element: Tensor, convolution: Convolution) -> None:
        """One member's part: its atoms in the dense layers, its pairs in the convolutions."""
        own, part = buffers.shares[rank], team.share(len(convolution.pairs), rank)
        x, inner = own.features, own.inner
        torch.index_select(self.network.embedding.weight, 0, element[own.atoms], out=x)
        torch.index_select(self._first_sent, 0, element[own.atoms], out=own.sent[0])
        for t, layer in enumerate(self._layers):
            sums = own.mine[t % 2].zero_()
            if t:
                torch.addmm(layer.sender_bias, x, layer.sender, out=own.sent[t])
            team.wait(rank)
            convolution.forward(t, buffers.sent[t], sums, part)
            team.wait(rank)
            torch.addmm(layer.first_bias, own.summed(t % 2), layer.first, out=inner)
            torch.sigmoid(inner, out=own.opened[t])
            x.addmm_(softplus(inner, out=inner), layer.second)
        x += self._bias
        torch.addmm(self._read_bias, x, self._read, out=own.read)
        torch.sigmoid(own.read, out=own.read_opened)
        softplus(own.read, out=own.read).sub_(LN2)

    def _backward(
        self,
        rank: int,
        team: Team,
        buffers: _Buffers,
        convolution: Convolution,
        slopes: Tensor,
        weights: Tensor | None,
    ) -> None:
        """The way back, with the gradient of the energy or of a weighted sum of charges."""
        own, part = buffers.shares[rank], team.share(len(slopes), rank)
        seed, back, columns = self._seeds[0 if weights is None else 1]
        seeds = seed if weights is None else weights[own.atoms, None] * seed  # (1, F/2) or (n, F/2)
        gradient = torch.mm(own.read_opened[:, columns] * seeds, back, out=own.gradient)
        for t, layer in zip(reversed(range(len(self._layers))), reversed(self._layers), strict=True):
            turn = (t + 1) % 2  # the last sums that were read are those of layer T - 1
            sums = own.mine[turn].zero_()
            torch.mm(gradient, layer.second_back, out=own.inner)
            torch.mm(own.inner.mul_(own.opened[t]), layer.first_back, out=own.heard)
            team.wait(rank)
            convolution.backward(t, buffers.sent[t], buffers.heard, sums, slopes, part)
            team.wait(rank)
            if t:
                gradient.addmm_(own.summed(turn), layer.sender_back)

    def _output(self, graph: AtomGraph, buffers: _Buffers) -> AtomwiseOutput:
        network = self.network
        width = network.n_features // 2
        inputs = buffers.read.clone()
        energy_inputs, charge_inputs = inputs[:, :width], None
        charges = None
        if network.charge_readout is not None:
            charge_inputs = inputs[:, width:]
            charges = network.charge_readout[-1](charge_inputs)
        return network.atomwise(
            graph,
            network.energy_readout[-1](energy_inputs),
            charges,
            buffers.features.clone(),
            energy_inputs=energy_inputs,
            charge_inputs=charge_inputs,
        )

    def _buffers_for(self, n_atoms: int, team: Team) -> _Buffers:
        kept = self._buffers
        if kept is None or kept.key != (n_atoms, team.size):
            n_read = self._read.shape[1]
            kept = _Buffers(n_atoms, len(self._layers), self.network.n_features, n_read, team, self._bias)
            self._buffers = kept
        return kept


def _packed(network: SchNetNetwork) -> tuple[list[_Layer], Tensor]:
    """The interactions, and the sum β of all biases that they add to the features."""
    layers, bias = [], torch.zeros_like(network.embedding.weight[0])
    for interaction in network.layers:
        first, second = linear(interaction.update, 0), linear(interaction.update, 2)
        sender = interaction.sender.weight.t()
        layers.append(
            _Layer(
                sender=sender,
                sender_bias=bias @ sender,
                first=first.weight.t(),
                first_bias=first.bias,
                second=second.weight.t(),
                sender_back=interaction.sender.weight,
                first_back=first.weight,
                second_back=second.weight,
            )
        )
        bias = bias + second.bias - LN2 * second.weight.sum(dim=1)
    return layers, bias
