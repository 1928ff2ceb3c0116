"""Threads that walk through one evaluation together."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

SMALL = 200
"""Atoms; below, a second thread of PyTorch costs more than it gives, and a hundred times more on a busy machine."""
PROCESS = os.getpid()
PATIENCE = 20_000
"""Rounds of looking whether the others have come, some 50 µs, before the processor is offered to somebody else."""


class Team:
    """`size` threads that run the same function, each on its own share, and wait for one another where it says so."""

    size = 1

    def run(self, work: Callable[[int], None]) -> None:
        """Call work(rank) in every member; return when all are done. What one raises is raised here."""
        work(0)

    def wait(self, rank: int) -> None:
        """Return when every member has come here."""

    def share(self, n: int, rank: int) -> slice:
        """The part of n things that belongs to one member."""
        return slice(n * rank // self.size, n * (rank + 1) // self.size)


class ThreadTeam(Team):
    """A team of threads that stay alive between evaluations. Members wait by looking, as there is little to wait for: an
    evaluation has a dozen meeting points for each layer, and being woken up would take longer than the work between two.

    Args:
        size: number of threads, the calling one included; each needs a core.
    """

    def __init__(self, size: int) -> None:
        from ase_xai.networks.compiled.meeting import meet

        self._meet = meet
        self.size = size
        self.lock = threading.Lock()
        self.broken = False
        self._arrivals = np.zeros((size, 8), np.int64)  # a cache line each
        self._executor = ThreadPoolExecutor(size - 1, "ase_xai", initializer=torch.set_num_threads, initargs=(1,))

    def run(self, work: Callable[[int], None]) -> None:
        others = [self._executor.submit(self._member, work, rank) for rank in range(1, self.size)]
        errors = [self._member(work, 0), *(other.result() for other in others)]
        for error in errors:
            if error is not None and not isinstance(error, _Deserted):
                raise error

    def _member(self, work: Callable[[int], None], rank: int) -> BaseException | None:
        try:
            work(rank)
        except BaseException as error:  # whatever it is, nobody must wait for this member; `run` raises it
            self.broken = True
            return error
        return None

    def wait(self, rank: int) -> None:
        turn = self._arrivals[rank, 0] + 1
        while not self._meet(self._arrivals, rank, turn, PATIENCE):
            if self.broken:
                raise _Deserted
            time.sleep(0)

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False)


class _Deserted(Exception):
    """Another member has stopped."""


_teams: dict[int, ThreadTeam] = {}
_guard = threading.Lock()


@contextmanager
def team_of(size: int) -> Iterator[Team]:
    """A team of `size` threads for one evaluation, each of which uses one thread in PyTorch.

    It has one member if the threads of that team are busy with another evaluation, and in a forked process, which has not
    inherited them. PyTorch's number of threads is put back afterwards.
    """
    with cpu_threads(1):
        if size == 1 or os.getpid() != PROCESS:
            yield Team()
            return
        with _guard:
            team = _teams.get(size)
            if team is not None and team.broken:
                team.close()
            if team is None or team.broken:
                team = _teams[size] = ThreadTeam(size)
        if not team.lock.acquire(blocking=False):
            yield Team()
            return
        try:
            yield team
        finally:
            team.lock.release()


@contextmanager
def cpu_threads(n_threads: int | None) -> Iterator[None]:
    """Evaluate with this many CPU threads of PyTorch, then put its setting back; None leaves it alone.

    A forked process always takes one: it has not inherited the thread pool, and waiting for it would never end.
    """
    before = torch.get_num_threads()
    n_threads = n_threads if os.getpid() == PROCESS else 1
    if n_threads is None or n_threads == before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
