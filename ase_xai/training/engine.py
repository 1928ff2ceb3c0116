"""One process or many: who computes what, and how gradients meet."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor


class Engine(Protocol):
    """What a trainer asks of its surroundings."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes."""


class SingleProcess:
    """All on one device.

    Args:
        device: e.g. "cpu" or "cuda".
    """

    rank, world_size = 0, 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def total(self, values: Tensor) -> Tensor:
        return values


class Distributed:
    """Several processes through Lightning Fabric (extra `train`): one per GPU, over one or several machines.

    Start the script under `torchrun --nproc-per-node N`, or let Fabric start the processes. Batches are divided among the
    processes, and sums of errors, their numbers and gradients added up over all, so N processes take the same steps as one
    with the same batches, to rounding.

    Args:
        accelerator: "cpu" or "cuda".
        devices: processes on this machine.
        num_nodes: machines.
    """

    def __init__(self, accelerator: str = "cuda", devices: int = 1, num_nodes: int = 1) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ImportError("several processes need Lightning: pip install 'ase_xai[train]'.") from error
        self._fabric: Any = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp")
        self._fabric.launch()

    @property
    def rank(self) -> int:
        return int(self._fabric.global_rank)

    @property
    def world_size(self) -> int:
        return int(self._fabric.world_size)

    @property
    def device(self) -> torch.device:
        return torch.device(self._fabric.device)

    def total(self, values: Tensor) -> Tensor:
        return self._fabric.all_reduce(values, reduce_op="sum")  # type: ignore[no-any-return]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory could not be had, on the CPU or on a GPU."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def share(engine: Engine, batch: NDArray[Any]) -> NDArray[Any]:
    """The part of a batch that this process computes; parts are as equal as can be."""
    return batch[engine.rank :: engine.world_size]
