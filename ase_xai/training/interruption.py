"""Ctrl-C between two steps, never inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Within this context Ctrl-C and SIGTERM are noted, for whoever asks `received`; a second one acts at once.

    Args:
        enabled: False leaves signals alone: of several processes none may stop while others wait for it.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.received, self.enabled = False, enabled
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if self.enabled and threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint is older than the last step")
        self.received = True
