"""One step of molecular dynamics, energy and forces through ASE with neighbor list, here and in other packages.

    python benchmarks/md_step.py [--peers FOLDER] [--threads 1] [--rounds 10] [--device cpu] [--replicas 256] [--profile]

SchNet with 128 features, 6 interactions, 50 Gaussians and 5 Å beside the same network in SchNetPack; a Behler-Parrinello
network with functions for each element and pair of elements beside TorchANI's network on its descriptors. Random weights,
float32, the same atoms, threads and process. In every round each program in turn takes some steps, as in a run, through the
same geometries, which differ by 0.01 Å per coordinate. Medians in ms. Peers that are not installed are left out; --peers
installs them, beside this package, into an environment of their own in FOLDER, and the benchmark runs there.
--device cuda measures on a GPU. --replicas is the number of copies of the smallest system that `calculate_many` takes at
once, whose time is given per copy.

--profile tells instead where the time of our own step goes, in percent, and what the arithmetic alone would take: operations
counted from the shapes over the rate of a matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.io import iread
from scipy.spatial.transform import Rotation

from ase_xai import load
from ase_xai.calculators import NetworkCalculator
from ase_xai.networks import AtomisticNetwork, BehlerParrinelloNetwork, SchNetNetwork
from ase_xai.weights import save_weights
from ase_xai.weights.format import ModelCard

HERE = Path(__file__).parent
CUTOFF, FEATURES, INTERACTIONS, GAUSSIANS = 5.0, 128, 6, 50
ELEMENTS = [1, 6, 7, 8, 9, 16, 17]


def water(n_atoms: int) -> Atoms:
    """A periodic box of molecules on a lattice, in random orientations, at the density of the liquid."""
    one = molecule("H2O")
    per_edge = round((n_atoms / 3) ** (1 / 3))
    corners = 3.1 * np.stack(np.meshgrid(*[np.arange(per_edge)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    turns = Rotation.random(len(corners), random_state=0).as_matrix()
    positions = [corner + (one.positions - one.positions[0]) @ turn for corner, turn in zip(corners, turns, strict=True)]
    return Atoms(list(one.numbers) * len(corners), np.concatenate(positions), cell=[3.1 * per_edge] * 3, pbc=True)


def systems() -> dict[str, Atoms]:
    aspirin = next(atoms for atoms in iread(HERE / "drug_like.xyz") if atoms.info["name"] == "aspirin")
    aspirin.info.clear()
    aspirin.calc = None
    return {"aspirin, 21 atoms": aspirin, "water, 192 atoms": water(192), "water, 1,536 atoms": water(1536)}


class Nothing(Calculator):
    """Zeros: what ASE itself takes."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms: Atoms | None = None, properties: object = None, system_changes: object = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


def saved(network: AtomisticNetwork, folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    save_weights(path, network, ModelCard.describe(network, reference_kind="none", level_of_theory="random weights"))
    return path


def our_networks() -> dict[str, AtomisticNetwork]:
    size = {"cutoff": CUTOFF, "n_features": FEATURES, "n_interactions": INTERACTIONS, "n_radial": GAUSSIANS}
    torch.manual_seed(0)
    resolved = {"n_radial": 16, "n_angular": 5, "zetas": (1, 2, 4), "resolve_elements": True}
    return {
        "SchNet": SchNetNetwork(ELEMENTS, **size),  # type: ignore[arg-type]
        "SchNet, energy and forces only": SchNetNetwork(ELEMENTS, **size, charges=False),  # type: ignore[arg-type]
        "Behler-Parrinello, 952 functions": BehlerParrinelloNetwork(ELEMENTS, CUTOFF, hidden=(160, 128), **resolved),
        "Behler-Parrinello, 32 functions": BehlerParrinelloNetwork(ELEMENTS, CUTOFF),
    }


def ours(threads: int, folder: Path, device: str = "cpu") -> dict[str, Calculator]:
    made: dict[str, Calculator] = {"nothing (ASE alone)": Nothing()}
    where = {"threads": threads, "device": device}
    for name, network in our_networks().items():
        made[f"ase_xai {name}"] = load(saved(network, folder, name.replace(" ", "-")), **where)
    reference = load(saved(our_networks()["SchNet"], folder, "reference"), kernels="reference", **where)
    return {**made, "ase_xai SchNet, plain PyTorch": reference}


def schnetpack(folder: Path, periodic: bool, device: str) -> dict[str, Calculator]:
    """SchNetPack's calculator with its fastest lists, kept between steps by its skin list."""
    import schnetpack as spk
    from schnetpack.interfaces import SpkCalculator

    radial = spk.nn.GaussianRBF(n_rbf=GAUSSIANS, cutoff=CUTOFF)
    representation = spk.representation.SchNet(FEATURES, INTERACTIONS, radial, spk.nn.CosineCutoff(CUTOFF))
    outputs = [spk.atomistic.Atomwise(n_in=FEATURES), spk.atomistic.Forces(energy_key="y", force_key="forces")]
    outputs[0].output_key = "y"
    outputs[0].model_outputs = ["y"]
    model = spk.model.NeuralNetworkPotential(representation, [spk.atomistic.PairwiseDistances()], outputs)
    model.collect_derivatives()
    path = folder / "schnetpack.pt"
    torch.save(model.eval(), path)
    bare = spk.transform.MatScipyNeighborList(CUTOFF) if periodic else spk.transform.ASENeighborList(CUTOFF)
    skin = spk.transform.SkinNeighborList(bare, cutoff_skin=1.0)
    calculator = SpkCalculator(
        str(path), skin, energy_key="y", force_key="forces", energy_unit="eV", position_unit="Ang", device=device
    )
    return {"SchNetPack SchNet": calculator}


def torchani(device: str) -> dict[str, Calculator]:
    """TorchANI's calculator, its own descriptors, with equal cutoffs and with its usual, shorter angular one."""
    from torchani.arch import simple_ani

    symbols = ["H", "C", "N", "O", "F", "S", "Cl"]
    made = {}
    for name, angular in (("cutoffs 5 and 4.99 Å", 4.99), ("cutoffs 5 and 3.5 Å", 3.5)):
        for lists in ("all_pairs", "cell_list"):
            model = simple_ani(
                symbols,
                "random weights",
                radial_cutoff=CUTOFF,
                angular_cutoff=angular,
                repulsion=False,
                neighborlist=lists,
                self_energies=dict.fromkeys(symbols, 0.0),
            )
            made[f"TorchANI, 1,008 functions, {name}, {lists}"] = model.to(device).ase()
    return made


def peers(folder: Path, periodic: bool, device: str = "cpu") -> dict[str, Calculator]:
    made = {}
    for name, make in (("schnetpack", partial(schnetpack, folder, periodic)), ("torchani", torchani)):
        try:
            made.update(make(device))
        except ImportError as error:
            print(f"{name} is left out: {error}", flush=True)
    return made


def timed(contestants: dict[str, Calculator], atoms: Atoms, rounds: int) -> dict[str, float]:
    """Medians in ms over blocks of steps, of each contestant in turn; a failing one is left out, with its reason."""
    rng = np.random.default_rng(0)
    block = max(1, 2100 // len(atoms))  # as many as a run takes before anything else needs the caches
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        path = [atoms.positions + rng.normal(0.0, 0.01, atoms.positions.shape) for _ in range(block)]
        for name in list(times):
            try:
                milliseconds = milliseconds_per_step(contestants[name], atoms.copy(), path)
            except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
                print(f"{name} fails on {atoms.get_chemical_formula()}: {error!r}", flush=True)
                times.pop(name)
                continue
            if number > 0:
                times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items()}


def milliseconds_per_step(calculator: Calculator, atoms: Atoms, path: list[np.ndarray]) -> float:
    atoms.calc = calculator
    started = time.perf_counter()
    for positions in path:
        atoms.positions = positions
        atoms.get_forces()
    return 1e3 * (time.perf_counter() - started) / len(path)


def print_steps(threads: int, rounds: int, device: str, replicas: int) -> None:
    print("| system | calculator | ms per step | SchNetPack's time / this |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, atoms in systems().items():
            large = len(atoms) > 1000
            contestants = {**ours(threads, folder, device), **peers(folder, bool(atoms.pbc.any()), device)}
            if large:
                contestants = {k: v for k, v in contestants.items() if "all_pairs" not in k}
            medians = timed(contestants, atoms.copy(), max(5, rounds // 2) if large else rounds)
            if not atoms.pbc.any():
                several = f"ase_xai SchNet, {replicas} copies at once, per copy"
                medians[several] = milliseconds_per_copy(contestants["ase_xai SchNet"], atoms, replicas)
            for contestant, median in medians.items():
                ratio = f"{medians['SchNetPack SchNet'] / median:.1f}" if "SchNetPack SchNet" in medians else ""
                print(f"| {title} | {contestant} | {median:.2f} | {ratio} |", flush=True)


def milliseconds_per_copy(calculator: Calculator, atoms: Atoms, replicas: int) -> float:
    """Of many displaced copies in one call, median of five."""
    rng, frames = np.random.default_rng(0), [atoms.copy() for _ in range(replicas)]
    times = []
    for _ in range(6):
        for frame in frames:
            frame.rattle(0.01, rng=rng)
        times.append(1e3 * seconds(lambda: calculator.calculate_many(frames)) / replicas)  # type: ignore[attr-defined]
    return statistics.median(times[1:])


# --- where our own time goes -------------------------------------------------------------------------------------------


@contextmanager
def watched(owner: object, name: str, times: dict[str, float], label: str) -> Iterator[None]:
    """Add up the time spent in a method."""
    original = getattr(owner, name)

    def wrapper(*arguments: object, **options: object) -> object:
        started = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            times[label] = times.get(label, 0.0) + time.perf_counter() - started

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)


def rates(threads: int) -> tuple[float, float]:
    """FLOP/s of a matrix product of the size of a dense layer, and bytes/s of a copy."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1536, FEATURES), torch.randn(FEATURES, FEATURES)
    big = torch.randn(8_000_000)
    product = statistics.median(seconds(lambda: torch.mm(a, b)) for _ in range(50))
    copy = statistics.median(seconds(lambda: big.clone()) for _ in range(10))
    return 2 * 1536 * FEATURES**2 / product, 2 * 4 * len(big) / copy


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def print_profile(rounds: int) -> None:
    from ase_xai.networks.inference.convolution_loops import CompiledConvolution
    from ase_xai.networks.inference.pairs import PairList
    from ase_xai.networks.inference.schnet import SchNetEvaluator

    flops, copies = rates(1)
    print(f"matrix product {flops / 1e9:.0f} GFLOP/s, copy {copies / 1e9:.1f} GB/s, one thread\n")
    parts = ["atoms to graph, list kept", "placing filters", "convolution", "its derivatives", "dense layers", "sums", "ASE"]
    print("| system | ms per step | " + " | ".join(f"{part} (%)" for part in parts) + " | floor (ms) |")
    print("| --- " * (len(parts) + 3) + "|")
    with tempfile.TemporaryDirectory() as folder:
        calculator = load(saved(our_networks()["SchNet"], Path(folder), "schnet"), threads=1)
        for title, atoms in systems().items():
            times, atoms.calc = dict[str, float](), calculator
            rng = np.random.default_rng(0)
            for _ in range(3):
                atoms.rattle(0.01, rng=rng)
                atoms.get_forces()
            total = 0.0
            with (
                watched(NetworkCalculator, "graph", times, "graph"),
                watched(CompiledConvolution, "placed", times, "placing"),
                watched(CompiledConvolution, "forward", times, "forward"),
                watched(CompiledConvolution, "backward", times, "backward"),
                watched(PairList, "prediction", times, "sums"),
                watched(SchNetEvaluator, "__call__", times, "all"),
            ):
                for _ in range(rounds):
                    atoms.rattle(0.01, rng=rng)
                    started = time.perf_counter()
                    atoms.get_forces()
                    total += time.perf_counter() - started
            inner = sum(times[k] for k in ("placing", "forward", "backward", "sums"))
            columns = [times[k] for k in ("graph", "placing", "forward", "backward")]
            columns += [times["all"] - inner, times["sums"], total - times["all"] - times["graph"]]
            n_pairs = calculator.checked_graph(atoms).n_unique
            operations = INTERACTIONS * FEATURES * (len(atoms) * 12 * FEATURES + n_pairs * (12 + 24))
            shares = " | ".join(f"{100 * value / total:.0f}" for value in columns)
            print(f"| {title} | {1e3 * total / rounds:.2f} | {shares} | {1e3 * operations / flops:.2f} |", flush=True)


def install(folder: Path) -> Path:
    """The interpreter of an environment with the peers and this package."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = [f"torch=={torch.__version__.split('+')[0]}", "schnetpack", "torchani", "matscipy", f"{HERE.parent}[fast]"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder for an environment with the peers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--replicas", type=int, default=256)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.peers:
        names = ("threads", "rounds", "device", "replicas")
        own = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
        raise SystemExit(subprocess.run([str(install(arguments.peers)), __file__, *own], check=False).returncode)
    warnings.filterwarnings("ignore", category=UserWarning, module="schnetpack|torchani|torch")
    torch.set_num_threads(arguments.threads)
    machine = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else machine
    print(f"{gpu}, torch {torch.__version__}, {arguments.threads} thread(s), float32\n")
    if arguments.profile:
        print_profile(arguments.rounds)
    else:
        print_steps(arguments.threads, arguments.rounds, arguments.device, arguments.replicas)


if __name__ == "__main__":
    main()
