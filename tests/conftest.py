"""What every test gets: one thread, and no network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Systems in tests are small, where more threads only cost time; and sums are reproducible."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Name look-ups and connections fail in the test process; sockets inside the machine (AF_UNIX) work."""
    connect = socket.socket.connect

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a test tried to use the network. Tests must run offline.")

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            refuse()
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        patch.setattr(socket.socket, "connect_ex", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield
