"""Which way a network is evaluated, and why."""

from __future__ import annotations

import importlib.util
import logging
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ase_xai.graph import AtomGraph
from ase_xai.networks import compiled
from ase_xai.networks.base import AtomisticNetwork, AtomwiseOutput, Prediction, Undrawn, predict
from ase_xai.networks.behler_parrinello import BehlerParrinelloNetwork
from ase_xai.networks.inference.team import Team, cpu_threads, team_of
from ase_xai.networks.response import charge_flux
from ase_xai.networks.schnet import SchNetNetwork

logger = logging.getLogger("ase_xai")

KERNELS = ("auto", "tabulated", "exact", "reference")


class Evaluator(Protocol):
    """`predict` for one network whose weights do not change meanwhile."""

    def __call__(self, graph: AtomGraph, team: Team) -> Prediction: ...

    def output(self, graph: AtomGraph, team: Team) -> AtomwiseOutput:
        """What the atoms say, without derivatives."""

    def charge_flux(self, graph: AtomGraph, weights: Tensor, team: Team) -> tuple[AtomwiseOutput, Tensor]:
        """See `ase_xai.networks.response.charge_flux`."""

    def describe(self) -> str:
        """One line for people."""


class Reference:
    """`predict` itself.

    Args:
        network: any.
        reason: why nothing faster is used.
    """

    def __init__(self, network: AtomisticNetwork, reason: str) -> None:
        self.network, self.reason = network, reason

    def __call__(self, graph: AtomGraph, team: Team) -> Prediction:
        return predict(self.network, graph)

    def output(self, graph: AtomGraph, team: Team) -> AtomwiseOutput:
        with torch.inference_mode(False), torch.no_grad():
            return self.network(graph)  # type: ignore[no-any-return]

    def charge_flux(self, graph: AtomGraph, weights: Tensor, team: Team) -> tuple[AtomwiseOutput, Tensor]:
        return charge_flux(self.network, graph, weights)

    def describe(self) -> str:
        return f"PyTorch with automatic differentiation ({self.reason})"


class Unavailable(Exception):
    """Why kernels cannot be used for a network."""


class Engine:
    """The fastest correct way to `predict` with a network, made at first use and again whenever its weights change.

    Args:
        network: any.
        kernels: "reference": `predict`. "exact": derivatives written out, the network's own functions. "tabulated": the same
            with SchNet's filters from a table. "auto": "tabulated" for SchNet in float32 and "exact" for everything else;
            the reference, with a line in the log, where the compiler for them is missing, and for networks without any.

    Raises:
        ValueError: unknown kernels, or some asked for by name that cannot be had.
    """

    def __init__(self, network: AtomisticNetwork, kernels: str = "auto") -> None:
        if kernels not in KERNELS:
            raise ValueError(f"kernels must be one of {list(KERNELS)}, got {kernels!r}.")
        self.network, self.kernels = network, kernels
        self._made: tuple[_Watch, Evaluator] | None = None
        if kernels in ("tabulated", "exact"):
            try:
                _maker(network, kernels)
            except Unavailable as reason:
                raise ValueError(f'kernels="{kernels}" cannot be had: {reason}. Use kernels="auto".') from reason

    def __call__(self, graph: AtomGraph, threads: int = 1) -> Prediction:
        """The prediction for `graph`, by `threads` CPU threads."""
        with self._ready(graph, threads) as (evaluator, team):
            return evaluator(graph, team)

    def output(self, graph: AtomGraph, threads: int = 1) -> AtomwiseOutput:
        """What the atoms of `graph` say, without derivatives and not differentiable."""
        with self._ready(graph, threads) as (evaluator, team):
            return evaluator.output(graph, team)

    def charge_flux(self, graph: AtomGraph, weights: Tensor, threads: int = 1) -> tuple[AtomwiseOutput, Tensor]:
        """See `ase_xai.networks.response.charge_flux`."""
        with self._ready(graph, threads) as (evaluator, team):
            return evaluator.charge_flux(graph, weights, team)

    @contextmanager
    def _ready(self, graph: AtomGraph, threads: int) -> Iterator[tuple[Evaluator, Team]]:
        evaluator, kind = self.evaluator, self.network.device.type
        if not graph.mirrored:
            evaluator = Reference(self.network, "pairs of this graph come in no order")
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            if kind != "cpu" or threads == torch.get_num_threads() == 1:
                yield evaluator, Team()
            elif isinstance(evaluator, Reference):
                with cpu_threads(threads):
                    yield evaluator, Team()
            else:
                with team_of(threads) as team:
                    yield evaluator, team

    @property
    def evaluator(self) -> Evaluator:
        """What is used, for the weights as they are now."""
        if self._made is None or self._made[0].changed():
            self._made = _Watch(self.network), self._make()
        return self._made[1]

    def describe(self) -> str:
        """One line: what is used, and why."""
        return self.evaluator.describe()

    def _make(self) -> Evaluator:
        if self.kernels == "reference":
            return Reference(self.network, "as asked for")
        try:
            return _maker(self.network, self.kernels)()
        except Unavailable as reason:
            return Reference(self.network, str(reason))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}


def _maker(network: AtomisticNetwork, kernels: str) -> Callable[[], Evaluator]:
    """What makes the evaluator.

    Raises:
        Unavailable: there is none, with the reason.
    """
    make = {SchNetNetwork: _schnet, BehlerParrinelloNetwork: _behler_parrinello}.get(type(network))
    if make is None:
        raise Unavailable(f"no kernels are written for {type(network).__name__}")
    modules = list(network.modules())
    with Undrawn(), torch.device("meta"):
        plain = type(network)(**network.settings())  # type: ignore[arg-type]
    if [type(module) for module in modules] != [type(module) for module in plain.modules()]:
        raise Unavailable("parts of the network were replaced")
    if any(_has_hooks(module) for module in modules):
        raise Unavailable("modules of the network have hooks")
    return make(network, kernels)


def _schnet(network: Any, kernels: str) -> Callable[[], Evaluator]:
    from ase_xai.networks.inference.schnet import SchNetEvaluator

    convolution = _convolution(network.device)
    tabulated = kernels == "tabulated" or (kernels == "auto" and network.dtype == torch.float32)
    return lambda: SchNetEvaluator.of(network, convolution, tabulated=tabulated)


def _behler_parrinello(network: Any, kernels: str) -> Callable[[], Evaluator]:
    if kernels == "tabulated":
        raise Unavailable("symmetry functions have no filters to tabulate")
    if network.device.type != "cpu":
        raise Unavailable("symmetry functions have compiled kernels on a CPU only")
    _require_numba()
    from ase_xai.networks.inference.behler_parrinello import BehlerParrinelloEvaluator

    return lambda: BehlerParrinelloEvaluator(network)


def _convolution(device: torch.device) -> Any:
    """The implementation of the convolution for a device."""
    if device.type == "cpu":
        _require_numba()
        from ase_xai.networks.inference.convolution_loops import CompiledConvolution

        return CompiledConvolution
    if device.type != "cuda":
        raise Unavailable(f"there are no kernels for {device.type} devices")
    if importlib.util.find_spec("triton") is None:
        _log_once("Triton is not installed: SchNet runs on PyTorch operations alone, slower. Install it for GPU kernels.")
        raise Unavailable("Triton is not installed")
    from ase_xai.networks.inference.convolution_triton import TritonConvolution

    return TritonConvolution


def _require_numba() -> None:
    if not compiled.available():
        _log_once(
            "Numba is not installed: networks run on PyTorch operations alone, several times slower on a CPU. "
            "To change that: pip install 'ase_xai[fast]'."
        )
        raise Unavailable("Numba is not installed, pip install 'ase_xai[fast]'")


@cache
def _log_once(message: str) -> None:
    logger.warning(message)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


class _Watch:
    """Notices when weights, modules, scale or hooks of a network are no longer what they were.

    It is asked in every step, so that nobody evaluates weights of yesterday, and takes some microseconds.
    """

    def __init__(self, network: AtomisticNetwork) -> None:
        modules = list(network.modules())
        owners: list[Any] = [d for m in modules for d in (m._modules, m._parameters, m._buffers)]
        self._places = [owner for owner in owners for _ in owner]
        self._names = [name for owner in owners for name in owner]
        self._kept = self._now()
        self._tensors = [value for value in self._kept if isinstance(value, Tensor)]
        self._hooks = [h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self._energy = network.energy
        self._state = self._signature()

    def changed(self) -> bool:
        return not all(map(operator.is_, self._now(), self._kept)) or self._signature() != self._state

    def _now(self) -> list[Any]:
        return list(map(dict.get, self._places, self._names))

    def _signature(self) -> tuple[object, ...]:
        versions = list(map(_VERSION, self._tensors))
        addresses = list(map(Tensor.data_ptr, self._tensors))
        return versions, addresses, any(self._hooks), self._energy.scale, self._energy.shift


_VERSION = operator.attrgetter("_version")
