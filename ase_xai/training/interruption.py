"""Ctrl-C between two steps, never inside one."""

from __future__ import annotations

from types import FrameType

from ase_xai.signals import SignalReceiver


class Interruption(SignalReceiver):
    """Within this context Ctrl-C and SIGTERM are noted, for whoever asks `received`; a second one acts at once.

    Args:
        enabled: False leaves signals alone: of several processes none may stop while others wait for it.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.received, self.enabled = False, enabled

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint is older than the last step")
        self.received = True
