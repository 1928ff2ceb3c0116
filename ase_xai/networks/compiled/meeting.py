"""A meeting point for threads in compiled code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ase_xai.networks.compiled.loops import compiled

WORD = ir.IntType(64)


def _reading(context: Any, address: Any) -> Any:
    """The integer at an address, as the latest writer left it, and everything that was written before it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], WORD.as_pointer()), "acquire", 8)

    return types.int64(types.intp), generate


def _writing(context: Any, address: Any, value: Any) -> Any:
    """Leave an integer at an address, after everything that was written before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], builder.inttoptr(arguments[0], WORD.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


_read: Any = intrinsic(_reading)
_write: Any = intrinsic(_writing)


@compiled
def meet(arrivals: Any, rank: Any, turn: Any, patience: Any) -> bool:
    """Say that `rank` has come to its meeting number `turn`, and look `patience` times whether all others have too.

    Args:
        arrivals: (size, 8) int64, the number of the last meeting that each member came to in its first column.
    """
    size, row = arrivals.shape[0], arrivals.strides[0]
    _write(arrivals.ctypes.data + rank * row, turn)
    for _ in range(patience):
        come = 0
        for other in range(size):
            if _read(arrivals.ctypes.data + other * row) >= turn:
                come += 1
        if come == size:
            return True
    return False
