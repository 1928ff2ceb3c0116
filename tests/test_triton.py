"""GPU kernels without a GPU: run by Triton's interpreter, and compiled for devices that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
COMPILE = """
import re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from ase_xai.networks.inference import convolution_triton

constants = {"F": 128, "BLOCK": 128, "CHUNK": 8}
integers = ("starts", "source", "neighbors", "knot")
for kernel in (convolution_triton._forward, convolution_triton._backward):
    for element in ("fp32", "fp64"):
        types = {name: "*i64" if name in integers else f"*{element}" for name in kernel.arg_names}
        types.update({"n_pairs": "i32"}, **dict.fromkeys(constants, "constexpr"))
        aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(types) if types[name].startswith("*")}
        made = compile(ASTSource(kernel, types, constants, aligned), target=GPUTarget("cuda", 90, 32))
        wide = "ld.global.v4.b32" if element == "fp32" else "ld.global.v2.b64"
        text = made.asm["ptx"]
        atomic = re.search(r"\\b(atom|red)\\.", text) is not None
        print(kernel.__name__, element, len(made.asm["cubin"]) > 0, text.count(wide), atomic)
"""


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """What another process prints; Triton's settings are read when it is imported."""
    usual = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**usual, "TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(HERE), **environment}
    done = subprocess.run([sys.executable, *arguments], cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CASES = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_cases.py")]


def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
    assert "passed" in run(CASES, tmp_path, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_kernels_on_a_device(tmp_path: Path) -> None:
    assert "passed" in run(CASES, tmp_path)


def test_kernels_compile(tmp_path: Path) -> None:
    """For a device of compute capability 9.0: rows of 16 bytes for each thread, and no atomic addition."""
    pytest.importorskip("triton", minversion="3.3")  # took other arguments before
    lines = [line.split() for line in run(["-c", COMPILE], tmp_path).splitlines()]
    assert len(lines) == 4
    for _, _, compiled, n_wide, atomic in lines:
        assert compiled == "True" and int(n_wide) >= 10 and atomic == "False"
