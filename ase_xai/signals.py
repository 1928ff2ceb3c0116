"""Ctrl-C and SIGTERM, for the time of a run."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class SignalReceiver(ABC):
    """Within this context Ctrl-C and SIGTERM call `_receive`; ignored ones stay so. Afterwards all is as before."""

    enabled = True  # False leaves signals alone

    def __enter__(self) -> Self:
        self._previous: dict[int, Any] = {}
        if self.enabled and threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @abstractmethod
    def _receive(self, number: int, frame: FrameType | None) -> None:
        """What a signal does; called between any two instructions of the main thread."""
