"""Relax paracetamol, run 2 ps of molecular dynamics at 300 K, and look at both atom by atom.

    python examples/demo.py [STRUCTURE]

Any structure file that ASE reads, with the elements H C N O F S Cl and no charge, may take paracetamol's place. Trajectory
and figure go to `demo-output/`.
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
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import BFGS

from ase_xai import SchNet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUTPUT = Path("demo-output")
TIMESTEP = 0.5  # fs
STEPS = 4000
INTERVAL = 10
INK, FAINT = "#222222", "#9a9a9a"


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
    print("After 2 ps at 300 K")
    print_table(atoms)

    figure_path = OUTPUT / f"{source.stem}.png"
    draw(read(path, ":"), relaxed, relaxed_energies, figure_path)
    print(f"\nTrajectory with energies and charges of all atoms: {path}\nFigure: {figure_path}")


def run_md(atoms: Atoms, path: Path) -> None:
    """Langevin dynamics at 300 K from thermal momenta; every frame keeps what the network said."""
    rng = np.random.default_rng(1)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = Langevin(atoms, TIMESTEP * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng, fixcm=False)
    started, evaluations = time.perf_counter(), atoms.calc.n_evaluations
    with Trajectory(path, "w", atoms) as trajectory:
        dynamics.attach(trajectory, interval=INTERVAL)
        dynamics.run(STEPS)
    seconds = time.perf_counter() - started
    print(
        f"\n{STEPS * TIMESTEP / 1000:g} ps of Langevin dynamics: {seconds:.1f} s, {1000 * seconds / STEPS:.2f} ms per step, "
        f"{atoms.calc.n_evaluations - evaluations} evaluations for {STEPS} steps, "
        f"{atoms.calc.neighbor_list.n_builds} neighbor lists"
    )


def print_table(atoms: Atoms) -> None:
    """Energy and charge of every atom; energies without the reference energy of the element, which says nothing here."""
    energies, charges = interaction_energies(atoms), atoms.get_charges()
    forces = np.linalg.norm(atoms.get_forces(), axis=1)
    print(f"  {'atom':>6} {'E_i − E0 / eV':>14} {'q_i / e':>9} {'|F_i| / eV/Å':>13}")
    for i, symbol in enumerate(atoms.symbols):
        print(f"  {symbol + str(i):>6} {energies[i]:14.3f} {charges[i]:+9.3f} {forces[i]:13.3f}")
    dipole = np.linalg.norm(atoms.get_dipole_moment()) / units.Debye
    print(f"  {'sum':>6} {energies.sum():14.3f} {charges.sum():+9.3f}      dipole {dipole:.2f} D")


def interaction_energies(atoms: Atoms) -> np.ndarray:
    references = atoms.calc.card.references
    return atoms.get_potential_energies() - np.array([references[symbol] for symbol in atoms.symbols])


def draw(frames: list[Atoms], relaxed: Atoms, relaxed_energies: np.ndarray, path: Path) -> None:
    """Where the energy sits: molecule and carpet share one color scale, E_i(t) minus E_i of the relaxed molecule."""
    change = np.array([frame.get_potential_energies() for frame in frames]) - relaxed_energies
    charges = np.array([frame.get_charges() for frame in frames])
    times = np.arange(len(frames)) * INTERVAL * TIMESTEP / 1000
    limit = np.percentile(np.abs(change), 98)
    order = np.lexsort((np.arange(len(relaxed)), -relaxed.numbers))
    labels = [f"{relaxed.symbols[i]}{i}" for i in order]

    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.75))
    molecule, bars = left.subplots(2, 1, height_ratios=(1, 1.15))
    carpet, total = right.subplots(2, 1, sharex=True, height_ratios=(3, 1))

    scale = draw_molecule(molecule, relaxed, change.std(axis=0))
    left.colorbar(scale, ax=molecule, label="fluctuation of $E_i$, std (eV)", shrink=0.8)
    molecule.set_title("Who carries the thermal energy", loc="left", fontsize=11)

    rows = np.arange(len(relaxed))
    bars.barh(rows, charges.mean(axis=0)[order], xerr=charges.std(axis=0)[order], height=0.7, ecolor=FAINT,
              color=["#c2503f" if q < 0 else "#3f6fb5" for q in charges.mean(axis=0)[order]])  # fmt: skip
    bars.set_yticks(rows, labels, fontsize=8)
    bars.invert_yaxis()
    bars.axvline(0, color=INK, lw=0.8)
    bars.set_xlabel("latent charge $q_i$ (e): mean and std over the run")

    image = carpet.imshow(
        change[:, order].T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
        extent=(times[0], times[-1], len(relaxed) - 0.5, -0.5),
    )  # fmt: skip
    carpet.set_yticks(rows, labels, fontsize=8)
    for row in np.flatnonzero(np.diff(relaxed.numbers[order])):
        carpet.axhline(row + 0.5, color=INK, lw=0.8)
    right.colorbar(image, ax=carpet, label="$E_i(t) - E_i$(relaxed) (eV); blue: more stable", pad=0.01)
    carpet.set_title("Latent atomic energies along 2 ps at 300 K", loc="left", fontsize=11)

    total.plot(times, change.sum(axis=1), color=INK, lw=1)
    mean = (3 * len(relaxed) - 6) / 2 * units.kB * 300
    total.axhline(mean, color=FAINT, lw=1, ls="--")
    label = "(3N − 6)/2 kT: harmonic molecule at 300 K"
    total.text(0.99, 0.06, label, transform=total.transAxes, ha="right", color="#6a6a6a", fontsize=8)
    total.set(xlabel="time (ps)", ylabel="sum of all (eV)", xlim=(times[0], times[-1]))
    for axes in (bars, total):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{path.stem}, SchNet 'organic'. The network chose the split among atoms; only their sum was trained on.",
        fontsize=9, color="#6a6a6a", x=0.01, ha="left",
    )  # fmt: skip
    figure.savefig(path, dpi=150)


def draw_molecule(axes: plt.Axes, atoms: Atoms, values: np.ndarray) -> matplotlib.collections.PathCollection:
    """Ball and stick, seen along the axis of least extent, atoms colored by `values`."""
    centered = atoms.positions - atoms.positions.mean(axis=0)
    flat = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
    for i, j in zip(*neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15)), strict=True):
        if i < j:
            axes.plot(*flat[[i, j], :2].T, color=FAINT, lw=3, zorder=1, solid_capstyle="round")
    sizes = np.where(atoms.numbers == 1, 150, 380)
    points = axes.scatter(
        *flat[:, :2].T, s=sizes, c=values, cmap="viridis", vmin=0, edgecolors=INK, linewidths=0.8, zorder=2
    )
    for i, symbol in enumerate(atoms.symbols):
        dark = values[i] < 0.6 * values.max()
        size = 6 if symbol == "H" else 8
        axes.annotate(f"{symbol}{i}", flat[i, :2], ha="center", va="center", fontsize=size, color="w" if dark else INK)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.margins(0.1)
    return points


if __name__ == "__main__":
    main()
