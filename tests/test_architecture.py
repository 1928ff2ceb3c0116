"""Rules that keep the package in one piece: who imports whom, what is never called, how large things grow.

Every rule looks at one source file and returns its violations as "file:line: what is wrong". The rules themselves are tested
on small files that break them.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ase_xai

ROOT = Path(__file__).parents[1]
MAX_LINES = 310
MAX_BODY_LINES = 50
MAX_PUBLIC_NAMES = 25

NEIGHBOR_BACK_ENDS = ("nvalchemiops", "pyg_lib", "torch_cluster")
OPTIONAL = {
    *NEIGHBOR_BACK_ENDS, "chemiscope", "dask", "lightning_fabric", "matplotlib", "numba", "nvalchemi", "pandas", "rdkit",
    "tblite", "triton", "xarray",
}  # fmt: skip

# Who may import whom, beside the standard library and the own room. The longest matching room decides; a name allows
# everything below it. CONTRIBUTING.md says the same in words.
MAY_IMPORT = {
    "ase_xai.neighbors": ("numpy", "torch", "ase", "vesin", *NEIGHBOR_BACK_ENDS),
    "ase_xai.graph": ("numpy", "torch", "ase", "ase_xai.neighbors"),
    "ase_xai.skin": ("numpy", "torch", "ase", "ase_xai.graph", "ase_xai.neighbors"),
    "ase_xai.networks": ("torch", "ase_xai.graph"),
    "ase_xai.networks.compiled": ("numpy", "torch", "llvmlite", "numba", "ase_xai.graph", "ase_xai.networks"),
    "ase_xai.networks.inference": ("numpy", "torch", "numba", "triton", "ase_xai.graph", "ase_xai.networks"),
    "ase_xai.refusals": ("numpy", "torch", "ase", "ase_xai.graph"),
    "ase_xai.calculator_base": (
        "numpy", "torch", "ase", "ase_xai.graph", "ase_xai.explainers", "ase_xai.many", "ase_xai.refusals",
    ),
    "ase_xai.calculators": (
        "numpy", "torch", "ase",
        "ase_xai.calculator_base", "ase_xai.graph", "ase_xai.neighbors", "ase_xai.networks", "ase_xai.refusals",
        "ase_xai.skin",
        "ase_xai.weights",
    ),
    "ase_xai.many": (
        "numpy", "torch", "ase",
        "ase_xai.calculator_base", "ase_xai.calculators", "ase_xai.graph", "ase_xai.neighbors", "ase_xai.networks",
        "ase_xai.refusals",
    ),
    "ase_xai.skins": ("numpy", "torch", "ase", "ase_xai.graph", "ase_xai.neighbors", "ase_xai.refusals"),
    "ase_xai.torchsim": (
        "torch", "ase", "torch_sim",
        "ase_xai.calculator_base", "ase_xai.calculators", "ase_xai.neighbors", "ase_xai.networks.base", "ase_xai.skins",
    ),
    "ase_xai.ensemble": ("numpy", "ase", "ase_xai.calculator_base", "ase_xai.calculators"),
    "ase_xai.periodic_table": (),
    "ase_xai.statistics": ("torch",),
    "ase_xai.files": ("torch", "safetensors"),
    "ase_xai.signals": (),
    "ase_xai.runs": ("numpy", "ase", "tqdm", "ase_xai.files", "ase_xai.signals", "ase_xai.trajectory"),
    "ase_xai.weights": ("numpy", "torch", "ase", "safetensors", "ase_xai.graph", "ase_xai.networks"),
    "ase_xai.weights.format": (
        "torch", "ase.data", "safetensors", "ase_xai.files", "ase_xai.networks", "ase_xai.statistics",
    ),
    "ase_xai.probe": ("numpy", "torch", "ase", "ase_xai.graph", "ase_xai.networks"),
    "ase_xai.contract": (
        "numpy", "torch", "ase", "scipy",
        "ase_xai.graph", "ase_xai.networks", "ase_xai.probe", "ase_xai.weights.format",
    ),
    "ase_xai.explainers": (
        "numpy", "torch", "ase",
        "ase_xai.graph", "ase_xai.networks.base", "ase_xai.networks.layers", "ase_xai.networks.probing",
        "ase_xai.networks.rates", "ase_xai.networks.response",
        "ase_xai.periodic_table", "ase_xai.statistics", "ase_xai.weights.format",
    ),
    "ase_xai.explainers.explanation": (
        "numpy", "ase", "pandas", "xarray",
        "ase_xai.explainers.card", "ase_xai.explainers.storage", "ase_xai.explainers.views",
    ),
    "ase_xai.explainers.card": ("numpy", "ase_xai.explainers.explanation"),
    "ase_xai.explainers.storage": ("numpy", "h5py", "ase_xai.files", "ase_xai.explainers.explanation"),
    "ase_xai.explainers.views": ("numpy", "ase.data", "pandas", "xarray", "ase_xai.explainers.explanation"),
    "ase_xai.trajectory": (
        "numpy", "ase", "h5py", "chemiscope", "dask", "pandas", "rdkit", "xarray",
        "ase_xai.calculators", "ase_xai.explainers.base", "ase_xai.explainers.explanation", "ase_xai.explainers.fragments",
        "ase_xai.files",
    ),
    "ase_xai.trajectory.plan": ("numpy", "ase", "ase_xai"),  # the version
    "ase_xai.trajectory.run": (
        "numpy", "ase", "h5py", "pandas", "xarray", "ase_xai.explainers.explanation", "ase_xai.report", "ase_xai.trajectory",
    ),
    "ase_xai.trajectory.evaluation": ("ase", "ase_xai.explainers", "ase_xai.many", "ase_xai.trajectory"),
    "ase_xai.report": (
        "numpy", "ase", "matplotlib", "ase_xai.explainers.explanation", "ase_xai.periodic_table", "ase_xai.trajectory",
    ),
    "ase_xai.training": (
        "numpy", "torch", "ase", "h5py", "safetensors", "tqdm", "lightning_fabric", "tomli",
        "ase_xai.files", "ase_xai.graph", "ase_xai.neighbors", "ase_xai.networks", "ase_xai.signals", "ase_xai.statistics",
    ),
    "ase_xai.training.assessment": (
        "numpy", "torch", "ase",
        "ase_xai.files", "ase_xai.graph", "ase_xai.networks", "ase_xai.report", "ase_xai.training",
    ),
    "ase_xai.training.comparison": ("numpy", "ase_xai.files", "ase_xai.training", "ase_xai.weights"),
    "ase_xai.training.pipeline": ("numpy", "torch", "ase.data", "ase_xai"),
}  # fmt: skip
NEVER_IMPORT = {"ase_xai.explainers": ("ase.calculators",)}
COMMAND_LINE = "ase_xai.cli"

PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {
    "torch.load": "executes pickled code; use ase_xai.weights.format",
    "torch.save": "writes pickles; use ase_xai.weights.format",
    "eval": "executes text",
    "exec": "executes text",
}


@dataclass(frozen=True)
class Import:
    """One imported name: where it stands, and whether it is run when the file is loaded."""

    line: int
    target: str
    at_load: bool


@dataclass(frozen=True)
class Source:
    """One file of the package; `name` is its path from the root of the checkout."""

    name: str
    text: str

    @property
    def module(self) -> str:
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def package(self) -> str:
        return self.module if self.name.endswith("__init__.py") else self.module.rpartition(".")[0]

    def imports(self) -> Iterator[Import]:
        yield from self._imports(self.tree, at_load=True)

    def _imports(self, node: ast.AST, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.expr)):
                yield from (Import(child.lineno, target, at_load) for target in self._targets(child))
            if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                for statement in child.body:
                    yield from self._imports(ast.Module([statement], []), at_load=False)
                for statement in child.orelse:
                    yield from self._imports(ast.Module([statement], []), at_load)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(child, at_load and not inside)

    def _targets(self, node: ast.AST) -> Iterator[str]:
        """Full dotted names that a node imports; `from a import b` gives a.b if that is a module of ours, else a."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = self.package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                longer = f"{origin}.{alias.name}"
                yield longer if is_module(longer) or not origin.startswith("ase_xai") else origin
        elif isinstance(node, ast.Call) and called(node) in ("importlib.import_module", "import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


def is_below(target: str, parents: tuple[str, ...]) -> bool:
    return any(target == parent or target.startswith(f"{parent}.") for parent in parents)


def called(node: ast.Call) -> str:
    """The called name as written, with numpy's usual abbreviation spelled out."""
    name = ast.unparse(node.func)
    return f"numpy.{name[3:]}" if name.startswith("np.") else name


def room_of(module: str) -> str | None:
    rooms = [room for room in MAY_IMPORT if is_below(module, (room,))]
    return max(rooms, key=len, default=None)


def allowed(source: Source) -> tuple[str, ...] | None:
    """What a file may import beside the standard library; None if no rule covers it."""
    if source.module == "ase_xai":
        return ("ase_xai",)
    room = room_of(source.module)
    return None if room is None else (room, *MAY_IMPORT[room])


def room_imports(source: Source) -> Iterator[str]:
    if source.module == COMMAND_LINE or source.module.startswith(f"{COMMAND_LINE}."):
        return
    may = allowed(source)
    if may is None:
        yield f"{source.name}:1: no import rule covers this file; add its room to MAY_IMPORT and to CONTRIBUTING.md"
        return
    for found in source.imports():
        standard = found.target.split(".")[0] in sys.stdlib_module_names
        if is_below(found.target, (COMMAND_LINE,)):
            yield f"{source.name}:{found.line}: nothing imports the command line"
        elif is_below(found.target, NEVER_IMPORT.get(room_of(source.module) or "", ())):
            yield f"{source.name}:{found.line}: {room_of(source.module)} never imports {found.target}"
        elif not standard and not is_below(found.target, may):
            yield f"{source.name}:{found.line}: may not import {found.target}; allowed: {', '.join(may)}"


COMPILED = ("ase_xai/networks/compiled/meeting.py", "ase_xai/networks/inference/convolution_triton.py")
"""Files that are nothing without a compiler, and imported only where it is known to be there."""


def optional_imports(source: Source) -> Iterator[str]:
    for found in source.imports():
        if source.name not in COMPILED and found.at_load and found.target.split(".")[0] in OPTIONAL:
            yield f"{source.name}:{found.line}: {found.target} is optional or slow; import it in the function using it"


def unsafe_calls(source: Source) -> Iterator[str]:
    for found in source.imports():
        if found.target.split(".")[0] in PICKLERS:
            yield f"{source.name}:{found.line}: {found.target} unpickles, which executes what a file says"
        if found.target in ("torch.load", "torch.save", "numpy.load"):
            yield f"{source.name}:{found.line}: {found.target} must be called by its full name, so that this test sees it"
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        if called(node) in FORBIDDEN_CALLS:
            yield f"{source.name}:{node.lineno}: {called(node)} {FORBIDDEN_CALLS[called(node)]}"
        safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
        if called(node) == "numpy.load" and not safe:
            yield f"{source.name}:{node.lineno}: np.load needs allow_pickle=False"


def bare_excepts(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{source.name}:{node.lineno}: except without a class also catches KeyboardInterrupt; name the exception"


def long_files(source: Source) -> Iterator[str]:
    n_lines = len(source.text.splitlines())
    if n_lines > MAX_LINES:
        yield f"{source.name}:{n_lines}: {n_lines} lines, at most {MAX_LINES}; look for the second idea in this file"


def long_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documented = ast.get_docstring(node) is not None
            body = node.body[1:] if documented and len(node.body) > 1 else node.body
            n_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if n_lines > MAX_BODY_LINES:
                yield f"{source.name}:{node.lineno}: {node.name} has {n_lines} body lines, at most {MAX_BODY_LINES}"


Rule = Callable[[Source], Iterator[str]]
RULES: tuple[Rule, ...] = (room_imports, optional_imports, unsafe_calls, bare_excepts, long_files, long_functions)


def package_sources() -> list[Source]:
    paths = sorted((ROOT / "ase_xai").rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule: Rule) -> None:
    sources = package_sources()
    assert sources, "no source file found, so nothing was checked"
    violations = [violation for source in sources for violation in rule(source)]
    assert not violations, "\n".join([f"{rule.__name__}:", *violations])


BROKEN = [
    (room_imports, "networks/new.py", "import ase", "ase_xai/networks/new.py:1: may not import ase;"),
    (room_imports, "networks/new.py", "from ..weights import format", "may not import ase_xai.weights.format"),
    (room_imports, "graph.py", "from ase_xai import networks", "may not import ase_xai.networks"),
    (room_imports, "graph.py", "from ase_xai import load", "may not import ase_xai;"),
    (room_imports, "explainers/new.py", "from ase_xai.networks import schnet", "may not import ase_xai.networks.schnet"),
    (room_imports, "explainers/new.py", "from ase.calculators.lj import LennardJones", "never imports ase.calculators"),
    (room_imports, "report/new.py", "def f():\n    import torch", "ase_xai/report/new.py:2: may not import torch"),
    (room_imports, "weights/format.py", "from ase import Atoms", "may not import ase.Atoms"),
    (room_imports, "__init__.py", "from ase_xai.cli import app", "nothing imports the command line"),
    (room_imports, "calculators.py", "import importlib\nimportlib.import_module('ase_xai.cli')", "py:2: nothing imports"),
    (room_imports, "helpers.py", "", "no import rule covers this file"),
    (optional_imports, "report/new.py", "try:\n    import rdkit\nexcept ImportError:\n    pass", "py:2: rdkit is optional"),
    (optional_imports, "neighbors.py", "class A:\n    from torch_cluster import radius", "torch_cluster.radius is optional"),
    (unsafe_calls, "graph.py", "import pickle", "pickle unpickles"),
    (unsafe_calls, "graph.py", "import torch\ntorch.load('x', weights_only=True)", "py:2: torch.load executes"),
    (unsafe_calls, "graph.py", "from torch import save as keep", "torch.save must be called by its full name"),
    (unsafe_calls, "graph.py", "np.load('x.npz')", "np.load needs allow_pickle=False"),
    (unsafe_calls, "graph.py", "np.load('x.npz', allow_pickle=True)", "np.load needs allow_pickle=False"),
    (unsafe_calls, "graph.py", "eval('1')", "eval executes text"),
    (bare_excepts, "graph.py", "try:\n    f()\nexcept:\n    pass", "py:3: except without a class"),
    (long_files, "graph.py", "x = 1\n" * (MAX_LINES + 1), f"{MAX_LINES + 1} lines, at most {MAX_LINES}"),
    (long_functions, "graph.py", "def f():\n    'Doc.'\n" + "    x = 1\n" * (MAX_BODY_LINES + 1), "f has 51 body lines"),
]


@pytest.mark.parametrize(("rule", "path", "text", "message"), BROKEN)
def test_rule_finds_what_breaks_it(rule: Rule, path: str, text: str, message: str) -> None:
    violations = list(rule(Source(f"ase_xai/{path}", text)))
    assert len(violations) == 1
    assert message in violations[0]


KEPT = [
    (
        "networks/new.py",
        "import math\nfrom torch import nn\nfrom ase_xai.networks.base import predict\nfrom .layers import dense",
    ),
    ("neighbors.py", "def f():\n    import torch_cluster"),
    ("report/new.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
    ("training/new.py", "from ase_xai.files import write_atomically\nnp.load('x', allow_pickle=False)\nnetwork.eval()"),
    ("cli.py", "import typer\nfrom ase_xai import load\nfrom ase_xai.training import Trainer"),
]


@pytest.mark.parametrize(("path", "text"), KEPT)
def test_rules_let_good_code_pass(path: str, text: str) -> None:
    assert not [violation for rule in RULES for violation in rule(Source(f"ase_xai/{path}", text))]


def test_public_surface_is_small_and_importable() -> None:
    names = ase_xai.__all__
    assert len(names) <= MAX_PUBLIC_NAMES, f"ase_xai.__all__ has {len(names)} names, at most {MAX_PUBLIC_NAMES}"
    assert len(set(names)) == len(names), "ase_xai.__all__ names something twice"
    missing = [name for name in names if not hasattr(ase_xai, name)]
    assert not missing, f"ase_xai.__all__ promises what cannot be imported: {missing}"


GLOBAL_STATE = """
import json, os, random, sys
import numpy, torch
from ase.calculators.calculator import Calculator

def state():
    return {
        "torch default dtype": str(torch.get_default_dtype()),
        "torch threads": torch.get_num_threads(),
        "torch gradients on": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": repr(numpy.random.get_state()),
        "numpy error handling": numpy.geterr(),
        "python random state": repr(random.getstate()),
        "environment": dict(os.environ),
        "ASE's Calculator.implemented_properties": list(Calculator.implemented_properties),
    }

states = [state()]
before = set(sys.modules)
import ase_xai
states.append(state())
loaded = sorted(set(sys.modules) - before)
for name in ase_xai.__all__:
    getattr(ase_xai, name)
states.append(state())
print(json.dumps({"states": states, "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def fresh_import() -> dict:
    """Global state before and after `import ase_xai` and after use of every public name, in a new interpreter."""
    run = subprocess.run([sys.executable, "-c", GLOBAL_STATE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("stage", [1, 2], ids=["import", "every public name"])
def test_import_touches_nothing_global(fresh_import: dict, stage: int) -> None:
    before, after = fresh_import["states"][0], fresh_import["states"][stage]
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, f"changed: {changed}"


@pytest.mark.parametrize("package", ["h5py", "matplotlib", "typer"])
def test_import_does_not_load(fresh_import: dict, package: str) -> None:
    assert package not in fresh_import["loaded"], f"`import ase_xai` loads {package}; import it where it is used"
