"""Relax paracetamol, run 2 ps of molecular dynamics at 300 K, and look at both atom by atom.

    python examples/demo.py [STRUCTURE]

Any neutral molecule of H, C, N, O, F, S and Cl in a file that ASE reads may take paracetamol's place. Trajectory, figure,
record of the run and a page of it for the browser go to `demo-output/`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from ase import Atoms, units
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import BFGS

from ase_xai import SchNet
from ase_xai.trajectory import Recorder, open_run

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUTPUT = Path("demo-output")
TEMPERATURE = 300  # K
TIMESTEP = 0.5  # fs
STEPS = 4000
INTERVAL = 10
PICOSECONDS = STEPS * TIMESTEP / 1000
INK, GRAY, FAINT = "#222222", "#6a6a6a", "#9a9a9a"


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("paracetamol.xyz")
    OUTPUT.mkdir(exist_ok=True)
    atoms = read(source)
    atoms.calc = SchNet("organic")

    print(f"{source.name}: {atoms.get_chemical_formula()}, SchNet 'organic', {atoms.calc.card.level_of_theory}\n")
    print("As read")
    print_table(atoms)

    started = time.perf_counter()
    relaxation = BFGS(atoms, logfile=None)
    relaxation.run(fmax=0.02, steps=500)
    print(f"\nRelaxed in {relaxation.nsteps} steps, {time.perf_counter() - started:.1f} s")
    print_table(atoms)
    relaxed = atoms.copy()
    relaxed_energies = atoms.get_potential_energies()

    path = OUTPUT / f"{source.stem}.traj"
    run_md(atoms, path)
    print(f"After {PICOSECONDS:g} ps at {TEMPERATURE:g} K")
    print_table(atoms)

    figure_path = OUTPUT / f"{source.stem}.png"
    draw(read(path, ":"), relaxed, relaxed_energies, figure_path)
    print(f"\nTrajectory with energies and charges of all atoms: {path}\nFigure: {figure_path}")
    run = open_run(path.with_suffix(".h5"))
    print(f"Page of the run, for any browser: {run.report(path.with_suffix('.html'))}")


def run_md(atoms: Atoms, path: Path) -> None:
    """Langevin dynamics from thermal momenta; every frame keeps what the network said."""
    rng = np.random.default_rng(1)
    thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms, TIMESTEP * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, rng=rng, fixcm=False
    )
    started, evaluations = time.perf_counter(), atoms.calc.n_evaluations
    with (
        Trajectory(path, "w", atoms) as trajectory,
        Recorder(atoms, path.with_suffix(".h5"), dynamics=dynamics, overwrite=True) as recorder,
    ):
        dynamics.attach(trajectory, interval=INTERVAL)
        dynamics.attach(recorder, interval=INTERVAL)
        dynamics.run(STEPS)
    seconds = time.perf_counter() - started
    print(
        f"\n{PICOSECONDS:g} ps of Langevin dynamics: {seconds:.1f} s, {1000 * seconds / STEPS:.2f} ms per step, "
        f"{atoms.calc.n_evaluations - evaluations} evaluations for {STEPS} steps, "
        f"{atoms.calc.neighbor_list.n_builds} neighbor lists"
    )


def print_table(atoms: Atoms) -> None:
    """Energy and charge of every atom; energies without the reference energy E0 of the element, which says nothing here."""
    energies, charges = atoms.get_potential_energies() - atoms.calc.references(atoms), atoms.get_charges()
    forces = np.linalg.norm(atoms.get_forces(), axis=1)
    print(f"  {'atom':>6} {'E_i − E0 / eV':>14} {'q_i / e':>9} {'|F_i| / eV/Å':>13}")
    for i, symbol in enumerate(atoms.symbols):
        print(f"  {symbol + str(i):>6} {energies[i]:14.3f} {charges[i]:+9.3f} {forces[i]:13.3f}")
    dipole = np.linalg.norm(atoms.get_dipole_moment()) / units.Debye
    print(f"  {'sum':>6} {energies.sum():14.3f} {charges.sum():+9.3f}      dipole {dipole:.2f} D")


def draw(frames: list[Atoms], relaxed: Atoms, relaxed_energies: np.ndarray, path: Path) -> None:
    """Where the energy sits: E_i(t) minus E_i of the relaxed molecule, as a mean per atom and as a carpet."""
    change = np.array([frame.get_potential_energies() for frame in frames]) - relaxed_energies
    charges = np.array([frame.get_charges() for frame in frames])
    times = np.arange(len(frames)) * INTERVAL * TIMESTEP / 1000
    order = np.lexsort((np.arange(len(relaxed)), -relaxed.numbers))

    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.75))
    molecule, bars = left.subplots(2, 1, height_ratios=(1, 1.15))
    carpet, total = right.subplots(2, 1, sharex=True, height_ratios=(3, 1))

    scale = draw_molecule(molecule, relaxed, change.mean(axis=0))
    left.colorbar(scale, ax=molecule, label="$E_i - E_i$(relaxed) (eV)", shrink=0.8)
    molecule.set_title("Mean excess energy by atom", loc="left", fontsize=11)
    draw_charges(bars, relaxed, charges, order)
    image = draw_carpet(carpet, relaxed, change, times, order)
    right.colorbar(image, ax=carpet, label="$E_i(t) - E_i$(relaxed) (eV); blue: more stable", pad=0.01)
    draw_total(total, change.sum(axis=1), times, (3 * len(relaxed) - 6) / 2 * units.kB * TEMPERATURE)
    for axes in (bars, total):
        axes.spines[["top", "right"]].set_visible(False)
    caption = (
        f"{path.stem}, SchNet 'organic'. Trained on total energies, forces and dipoles; the split among atoms is the "
        "network's own."
    )
    figure.suptitle(caption, fontsize=9, color=GRAY, x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def draw_molecule(axes: plt.Axes, atoms: Atoms, values: np.ndarray) -> matplotlib.collections.PathCollection:
    """Ball and stick, seen along the axis of least extent, atoms colored by `values`; hydrogens go unlabeled."""
    centered = atoms.positions - atoms.positions.mean(axis=0)
    flat = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
    for i, j in zip(*neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15)), strict=True):
        axes.plot(*flat[[i, j], :2].T, color=FAINT, lw=3, zorder=1, solid_capstyle="round")
    depth = np.argsort(flat[:, 2])
    limit = np.abs(values).max()
    points = axes.scatter(
        *flat[depth, :2].T, s=np.where(atoms.numbers == 1, 150, 380)[depth], c=values[depth], cmap="RdBu_r",
        vmin=-limit, vmax=limit, edgecolors=INK, linewidths=0.8, zorder=2,
    )  # fmt: skip
    for i, symbol in enumerate(atoms.symbols):
        if symbol != "H":
            color = "w" if abs(values[i]) > 0.7 * limit else INK
            axes.annotate(f"{symbol}{i}", flat[i, :2], ha="center", va="center", fontsize=8, color=color)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.1)
    return points


def draw_charges(axes: plt.Axes, atoms: Atoms, charges: np.ndarray, order: np.ndarray) -> None:
    rows = np.arange(len(order))
    mean, spread = charges.mean(axis=0)[order], charges.std(axis=0)[order]
    axes.barh(rows, mean, xerr=spread, height=0.7, color="#8aa1a8", ecolor=INK)
    axes.set_yticks(rows, [f"{atoms.symbols[i]}{i}" for i in order], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel("$q_i$ (e): mean and standard deviation over the run")
    axes.set_title("Latent charges", loc="left", fontsize=11)


def draw_carpet(
    axes: plt.Axes, atoms: Atoms, change: np.ndarray, times: np.ndarray, order: np.ndarray
) -> matplotlib.image.AxesImage:
    limit = np.percentile(np.abs(change), 98)
    image = axes.imshow(
        change[:, order].T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(times[0], times[-1], len(order) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(order)), [f"{atoms.symbols[i]}{i}" for i in order], fontsize=8)
    for row in np.flatnonzero(np.diff(atoms.numbers[order])):
        axes.axhline(row + 0.5, color=INK, lw=0.8)
    axes.set_title(f"Latent atomic energies along {PICOSECONDS:g} ps at {TEMPERATURE:g} K", loc="left", fontsize=11)
    return image


def draw_total(axes: plt.Axes, change: np.ndarray, times: np.ndarray, harmonic: float) -> None:
    axes.plot(times, change, color=INK, lw=1)
    axes.set(xlabel="time (ps)", ylabel="sum of all (eV)", xlim=(times[0], times[-1]), ylim=(0, 1.35 * change.max()))
    axes.axhline(harmonic, color=GRAY, lw=1, ls="--")
    label = f"(3N − 6)/2 kT = {harmonic:.2f} eV, a harmonic molecule at {TEMPERATURE:g} K"
    axes.annotate(label, (times[-1], 1.32 * change.max()), ha="right", va="top", color=GRAY, fontsize=8)


if __name__ == "__main__":
    main()
