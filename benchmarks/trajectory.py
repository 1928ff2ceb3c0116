"""What recording costs and what reading gives: overhead of a step, rates beside ASE's formats, memory of a long run.

python benchmarks/trajectory.py [--frames 100000] [--atoms 100]

overhead     molecular dynamics of aspirin with the shipped weights, with and without a recorder at every step, in turns
rates        100-atom frames with energies, charges and forces, written and read in three formats
long run     so many frames recorded in a process of its own: its largest memory, the size of the file, one atom's series
annotation   the same frames explained one by one and in batches
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory, iread, read, write
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from ase_xai import load
from ase_xai.explainers import LocalRigidity
from ase_xai.trajectory import Autocorrelation, Moments, Recorder, annotate, open_run

HERE = Path(__file__).parent
TURNS, STEPS = 15, 100


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def aspirin() -> Atoms:
    atoms = next(atoms for atoms in iread(HERE / "drug_like.xyz") if atoms.info["name"] == "aspirin")
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    return atoms


def print_overhead(folder: Path) -> None:
    """Median over turns of the time with a recorder over the time without one, in the same turn."""
    groups = {"ring": range(6), "rest": range(6, 21)}
    cases = {
        "energies, charges, dipole, positions": {},
        "the same, forces, velocities, two groups": {
            "fields": ("energies", "charges", "dipole", "forces", "velocities"),
            "groups": groups,
        },
        "means and autocorrelation only, nothing per atom": {
            "fields": (),
            "reducers": [Moments("energies"), Autocorrelation("energies")],
            "positions": False,
        },
        "the first, rigidity at every 100th": {"explainers": {"lpr": (LocalRigidity(), 100)}},
    }
    print("| weights | recorded at every step | step (ms) | recorder (ms) | overhead |\n| --- | --- | --- | --- | --- |")
    for weights in ("organic", "organic-bp"):
        for k, (title, what) in enumerate(cases.items()):
            atoms = aspirin()
            atoms.calc = load(weights)
            dynamics, inside = VelocityVerlet(atoms, 0.5 * units.fs), [0.0]
            recorder = Recorder(atoms, folder / f"{weights}-{k}.h5", dynamics=dynamics, **what)

            def timed(recorder: Recorder = recorder, inside: list[float] = inside) -> None:
                inside[0] += seconds(recorder)

            dynamics.attach(timed)
            dynamics.run(STEPS)
            pairs = []
            for _ in range(TURNS):
                inside[0] = 0.0
                whole = seconds(lambda dynamics=dynamics: dynamics.run(STEPS))
                pairs.append(((whole - inside[0]) / STEPS, inside[0] / STEPS))
            recorder.close()
            step, own = np.median(pairs, axis=0)
            share = np.median([inner / outer for outer, inner in pairs])
            print(f"| {weights} | {title} | {1e3 * step:.2f} | {1e3 * own:.3f} | {100 * share:.1f} % |", flush=True)


class Noise(SinglePointCalculator):
    """Any numbers as results, at no cost."""

    implemented_properties = ["energy", "energies", "charges", "forces"]  # noqa: RUF012

    def __init__(self, n_atoms: int) -> None:
        self.rng = np.random.default_rng(0)
        atoms = Atoms(f"H{n_atoms}", self.rng.uniform(0, 10, (n_atoms, 3)))
        super().__init__(atoms)
        atoms.calc = self
        self.moving = atoms
        self.renew()

    def renew(self) -> None:
        """Another geometry with other results."""
        n_atoms = len(self.moving)
        self.moving.positions += self.rng.normal(0, 0.01, (n_atoms, 3))
        self.atoms = self.moving.copy()
        energies = self.rng.normal(-3, 1, n_atoms)
        forces, charges = self.rng.normal(0, 1, (n_atoms, 3)), self.rng.normal(0, 0.2, n_atoms)
        self.results = {"energy": float(energies.sum()), "energies": energies, "charges": charges, "forces": forces}


def print_rates(folder: Path, n_frames: int, n_atoms: int) -> None:
    fields = ("energies", "charges", "forces")
    noise = Noise(n_atoms)
    making = seconds(lambda: [noise.renew() for _ in range(n_frames)])

    def record() -> None:
        with Recorder(noise.moving, folder / "rates.h5", fields=fields) as recorder:
            for _ in range(n_frames):
                noise.renew()
                recorder()

    def as_trajectory() -> None:
        with Trajectory(folder / "rates.traj", "w", noise.moving) as trajectory:
            for _ in range(n_frames):
                noise.renew()
                trajectory.write()

    def as_extxyz() -> None:
        with (folder / "rates.extxyz").open("w") as file:
            for _ in range(n_frames):
                noise.renew()
                write(file, noise.moving, format="extxyz")

    run = folder / "rates.h5"
    readers = {
        ".h5": (lambda: open_run(run)["energies"][:, 5], lambda: [open_run(run)[n][500] for n in ("energies", "positions")]),
        ".traj": (
            lambda: [atoms.get_potential_energies()[5] for atoms in Trajectory(folder / "rates.traj")],
            lambda: read(folder / "rates.traj", index=500),
        ),
        ".extxyz": (
            lambda: [atoms.get_potential_energies()[5] for atoms in iread(folder / "rates.extxyz", index=":")],
            lambda: read(folder / "rates.extxyz", index=500),
        ),
    }
    print(f"\n{n_frames} frames x {n_atoms} atoms: positions, energies, charges, forces\n")
    print("| format | write (ms/frame) | MB | one atom's series (ms) | one frame (ms) |\n| --- | --- | --- | --- | --- |")
    for (suffix, (series, frame)), writing in zip(readers.items(), (record, as_trajectory, as_extxyz), strict=True):
        written = 1e3 * (seconds(writing) - making) / n_frames
        size = (folder / f"rates{suffix}").stat().st_size / 1e6
        print(
            f"| {suffix} | {written:.3f} | {size:.1f} | {1e3 * seconds(series):.1f} | {1e3 * seconds(frame):.2f} |",
            flush=True,
        )


LONG = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from trajectory import record_long
print(record_long(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""


def record_long(path: Path, n_frames: int, n_atoms: int) -> str:
    """Record, and say how much memory this process took at most and what one frame cost."""
    import resource

    noise, spent = Noise(n_atoms), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reducers = [Moments("energies"), Autocorrelation("energies")]
    with Recorder(noise.moving, path, fields=("energies", "charges"), reducers=reducers) as recorder:
        for _ in range(n_frames):
            noise.renew()
            spent += seconds(recorder)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        f"{after / 1e3:.0f} MB at most ({before / 1e3:.0f} MB before the first frame), {1e3 * spent / n_frames:.3f} ms/frame"
    )


def print_long(folder: Path, n_frames: int, n_atoms: int) -> None:
    path = folder / "long.h5"
    command = [sys.executable, "-c", LONG, str(HERE), str(path), str(n_frames), str(n_atoms)]
    print(f"\n{n_frames} frames x {n_atoms} atoms, statistics besides\n\nrecorded: ", end="")
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    run = open_run(path)
    reads = {
        "open": lambda: open_run(path),
        "one atom's energies": lambda: run["energies"][:, n_atoms // 2],
        "one atom's path": lambda: run.positions[:, n_atoms // 2],
        "one frame as atoms": lambda: run.atoms(n_frames // 2),
        "energies of 2000 frames": lambda: run["energies"][:: n_frames // 2000],
        "statistics": lambda: run.reducers,
    }
    print(f"file: {path.stat().st_size / 1e6:.0f} MB")
    for title, call in reads.items():
        print(f"{title}: {1e3 * np.median([seconds(call) for _ in range(7)]):.1f} ms", flush=True)


def print_annotation(n_frames: int) -> None:
    print("\n| weights | forces | one by one (ms/frame) | batched (ms/frame) |\n| --- | --- | --- | --- |")
    rng = np.random.default_rng(1)
    frames = [aspirin() for _ in range(n_frames)]
    for atoms in frames:
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
    for weights in ("organic", "organic-bp"):
        calculator = load(weights)
        for fields in (("energies", "charges"), ("energies", "charges", "forces")):

            def alone(fields: tuple[str, ...] = fields, calculator: Any = calculator) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    atoms = frames[0].copy()
                    atoms.calc = calculator
                    with Recorder(atoms, Path(folder) / "a.h5", fields=fields) as recorder:
                        for frame in frames:
                            atoms.positions = frame.positions
                            recorder()

            annotate(frames[:64], calculator, fields=fields)
            batched = [seconds(lambda f=fields, c=calculator: annotate(frames, c, fields=f)) for _ in range(3)]
            single = [seconds(alone) for _ in range(3)]
            times = " | ".join(f"{1e3 * np.median(t) / n_frames:.2f}" for t in (single, batched))
            print(f"| {weights} | {'yes' if 'forces' in fields else 'no'} | {times} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="of the long run")
    parser.add_argument("--atoms", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print_overhead(Path(folder))
        print_rates(Path(folder), 2000, arguments.atoms)
        print_annotation(256)
        print_long(Path(folder), arguments.frames, arguments.atoms)


if __name__ == "__main__":
    main()
