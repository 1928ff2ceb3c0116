"""Liquid water in dynamics: do the molecules stay intact, and is g_OO(r) that of the training data and of experiment?

    python benchmarks/water_rdf.py FOLDER [--weights water] [--ps 50] [--temperature 300] [--data water_rpbe-d3_n2p2.npz]

64 molecules in a periodic cube at 0.997 g/cm³, from a lattice with random orientations: relaxed, melted for 3 ps at 400 K,
then run at constant temperature (stochastic velocity rescaling, 0.5 fs), one frame every 20 fs in FOLDER. The same command
goes on with a run that was cut off. The first 5 ps, or half of a run shorter than 10 ps, are left out.

    g_OO(r) = V/N² · (ordered pairs of oxygens in a shell) / (volume of the shell),   r < L/2

Errors are standard errors of the mean over 10 blocks in time. FOLDER gets g_OO as .csv and .png. Beside the run stand

--data    the structures of the training data that are like it (`comparable`). These data cover phase space and hold ice and
          compressed water; neither temperatures nor where a structure comes from stand in the file, so their average is a
          picture of what was learned from, not RPBE-D3 water at 300 K, and a difference is no error of the network.
--other   the same of other data, e.g. water_pbe0ts_deepmd.npz, another functional.

and the first maximum by x-ray diffraction. Nuclei are classical in the run and quantum in experiment.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import read
from ase.optimize import FIRE
from matplotlib.figure import Figure

from ase_xai import load
from ase_xai.runs import MDSettings, run_md

DENSITY, PER_EDGE = 0.997, 4  # g/cm³; molecules along an edge of the cube
GRAM_PER_CM3 = units.mol * 1e-24  # in u/Å³
FRAME_STEPS, TIMESTEP = 40, 0.5  # fs
MELT_PS, MELT_TEMPERATURE = 3.0, 400.0  # K
LEFT_OUT_PS, N_BLOCKS = 5.0, 10
BOND = 1.3  # Å, O-H
EDGES = np.linspace(2.0, 6.0, 81)  # Å, of the bins
CENTERS = 0.5 * (EDGES[1:] + EDGES[:-1])
PEAK = (2.80, 0.01, 2.57, 0.05)
"""Position in Å and its error, height and its error of the first maximum of g_OO of ambient water by x-ray diffraction:
Skinner et al., J. Chem. Phys. 138, 074506 (2013), abstract."""


@dataclass(frozen=True, eq=False)
class PairDistribution:
    """g_OO in bins between `EDGES`: (B, K) blocks, whose mean counts, and the number density of oxygen in 1/Å³."""

    blocks: np.ndarray
    density: float

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.blocks.mean(axis=0))

    def features(self) -> dict[str, tuple[float, float]]:
        """Value and standard error of positions (Å) and heights of the first maximum and minimum, and of neighbors."""
        whole = _features(self.mean, self.density)
        parts = np.array([list(_features(block, self.density).values()) for block in self.blocks])
        return dict(zip(whole, zip(whole.values(), standard_error(parts), strict=True), strict=True))


def standard_error(blocks: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis; NaN for a single block."""
    n = len(blocks)
    return np.asarray(blocks.std(axis=0, ddof=1) / np.sqrt(n)) if n > 1 else np.full(blocks.shape[1:], np.nan)


def blocked_error(series: np.ndarray) -> float:
    return float(standard_error(np.array([part.mean() for part in np.array_split(series, min(N_BLOCKS, len(series)))])))


def _features(g: np.ndarray, density: float) -> dict[str, float]:
    first = _extremum(g, (2.5, 3.2), 0.11)
    second = _extremum(-g, (first[0] + 0.3, 4.2), 0.26)
    shells = 4 / 3 * np.pi * np.diff(np.minimum(EDGES, second[0]) ** 3)
    names = ("r of maximum (Å)", "maximum", "r of minimum (Å)", "minimum", "neighbors")
    return dict(zip(names, (*first, second[0], -second[1], density * float(g @ shells)), strict=True))


def _extremum(g: np.ndarray, between: tuple[float, float], width: float) -> tuple[float, float]:
    """Position and height of the largest g between two distances, from a parabola through the bins within `width`."""
    inside = np.abs(CENTERS - np.mean(between)) < np.ptp(between) / 2
    top = CENTERS[inside][np.argmax(g[inside])]
    near = np.abs(CENTERS - top) < width
    a, b, c = np.polyfit(CENTERS[near] - top, g[near], 2)
    shift = float(np.clip(-b / (2 * a), -width, width)) if a < 0 else 0.0
    return float(top + shift), float(a * shift**2 + b * shift + c)


def vectors_between(atoms: Atoms, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m, 3) Å from each position to each other, nearest images: exact up to half the smallest height of the cell."""
    fractions = (second[None] - first[:, None]) @ np.linalg.inv(atoms.cell.array)
    return np.asarray((fractions - np.rint(fractions)) @ atoms.cell.array)


def counted(atoms: Atoms) -> np.ndarray:
    """g_OO of one structure in the bins between `EDGES`, whose last must not exceed half the cell's smallest height."""
    oxygens = atoms.positions[atoms.numbers == 8]
    distances = np.linalg.norm(vectors_between(atoms, oxygens, oxygens), axis=2)
    pairs = np.histogram(distances, EDGES)[0]
    shells = 4 / 3 * np.pi * np.diff(EDGES**3)
    return np.asarray(atoms.get_volume() / len(oxygens) ** 2 * pairs / shells)


def pair_distribution(frames: Sequence[Atoms], n_blocks: int = N_BLOCKS) -> PairDistribution:
    """The average over frames; consecutive ones form a block."""
    each = np.array([counted(atoms) for atoms in frames])
    blocks = np.array([part.mean(axis=0) for part in np.array_split(each, min(n_blocks, len(each)))])
    density = np.mean([np.count_nonzero(atoms.numbers == 8) / atoms.get_volume() for atoms in frames])
    return PairDistribution(blocks, float(density))


def oxygen_hydrogen(atoms: Atoms) -> np.ndarray:
    """(n_O, n_H) distances in Å."""
    oxygen = atoms.numbers == 8
    vectors = vectors_between(atoms, atoms.positions[oxygen], atoms.positions[~oxygen])
    return np.asarray(np.linalg.norm(vectors, axis=2))


def intact(atoms: Atoms) -> bool:
    """Whether every oxygen has two hydrogens, and every hydrogen one oxygen, within `BOND`."""
    bonded = oxygen_hydrogen(atoms) < BOND
    return bool((bonded.sum(axis=1) == 2).all() and (bonded.sum(axis=0) == 1).all())


def bond_lengths(atoms: Atoms) -> np.ndarray:
    distances = oxygen_hydrogen(atoms)
    return np.asarray(distances[distances < BOND])


def tetrahedrality(atoms: Atoms) -> float:
    """Mean order parameter 1 - 3/8 Σ_pairs (cos θ + 1/3)² of the four nearest oxygens: 1 in ice Ih, 0 if random.

    Source: Errington and Debenedetti, Nature 409, 318 (2001).
    """
    oxygens = atoms.positions[atoms.numbers == 8]
    vectors = vectors_between(atoms, oxygens, oxygens)
    distances = np.linalg.norm(vectors, axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1:5]
    bonds = np.take_along_axis(vectors / np.maximum(distances, 1e-9)[..., None], nearest[..., None], axis=1)
    first, second = np.triu_indices(4, 1)
    cosines = (bonds[:, first] * bonds[:, second]).sum(axis=2)
    return float((1 - 3 / 8 * ((cosines + 1 / 3) ** 2).sum(axis=1)).mean())


def density_of(atoms: Atoms) -> float:
    """g/cm³."""
    return float(atoms.get_masses().sum() / atoms.get_volume() / GRAM_PER_CM3)


def comparable(atoms: Atoms) -> bool:
    """Whether a structure may stand beside the run.

    Intact molecules at 0.9 to 1.1 g/cm³; a tetrahedrality below 0.85, so no ice; a cell wide enough for all of `EDGES`; and
    O-H bonds whose standard deviation is 0.02 to 0.036 Å, near that of the run, so neither rigid molecules nor quantum
    nuclei nor strong displacements.
    """
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    if not 0.9 < density_of(atoms) < 1.1 or heights.min() / 2 < EDGES[-1]:
        return False
    return 0.02 < bond_lengths(atoms).std() < 0.036 and tetrahedrality(atoms) < 0.85 and intact(atoms)


def structures(path: Path) -> list[Atoms]:
    """Periodic structures of a file of training data."""
    with np.load(path, allow_pickle=False) as file:
        offsets = np.concatenate([[0], np.cumsum(file["n_atoms"].astype(int))])
        numbers, positions, cells = file["Z"], file["R"], file["cell"]
    return [
        Atoms(numbers[first:last], positions[first:last], cell=cell, pbc=True)
        for first, last, cell in zip(offsets[:-1], offsets[1:], cells, strict=True)
    ]


def lattice(seed: int = 1) -> Atoms:
    """`PER_EDGE`³ molecules on a cubic lattice, each turned at random until no atom is within 1.6 Å of another molecule."""
    rng = np.random.default_rng(seed)
    water = molecule("H2O")
    spacing = float(water.get_masses().sum() / (DENSITY * GRAM_PER_CM3)) ** (1 / 3)
    box = Atoms(cell=[PER_EDGE * spacing] * 3, pbc=True)
    for site in np.ndindex(PER_EDGE, PER_EDGE, PER_EDGE):
        while True:
            turned = water.copy()
            turned.rotate(360 * rng.random(), rng.normal(size=3))
            turned.translate(np.array(site) * spacing - turned.positions[0])
            distances = np.linalg.norm(vectors_between(box, turned.positions, box.positions), axis=2)
            if (distances > 1.6).all():
                break
        box += turned
    return box


def simulated(arguments: argparse.Namespace) -> list[Atoms]:
    """Frames of the run; made, or gone on with, if they are not all there."""
    name = f"{Path(arguments.weights).stem}-{arguments.temperature:.0f}K"
    start, melt, path = (arguments.folder / f"{name}{end}" for end in ("-start.xyz", "-melt.traj", ".traj"))
    calculator = load(arguments.weights)
    calculator.network.compiled = arguments.compiled
    if not start.exists():
        atoms = lattice()
        atoms.calc = calculator
        FIRE(atoms, logfile=None).run(fmax=0.1, steps=300)
        Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True).write(start)
    atoms = read(start)
    atoms.calc = calculator
    for output, ps, temperature in ((melt, arguments.melt, MELT_TEMPERATURE), (path, arguments.ps, arguments.temperature)):
        steps = round(1000 * ps / TIMESTEP)
        settings = MDSettings(temperature, steps, TIMESTEP, thermostat="bussi", interval=FRAME_STEPS, seed=1)
        run_md(atoms, output, settings, restart=output.exists())
    return list(read(path, ":"))


def report(frames: list[Atoms], left_out: int) -> None:
    """What the run itself is like."""
    kept, whole = frames[left_out:], [intact(atoms) for atoms in frames]
    n = len(kept[0])
    temperature = np.array([2 * atoms.get_kinetic_energy() / units.kB / (3 * n - 3) for atoms in kept])  # no total momentum
    energy = np.array([1000 * atoms.get_potential_energy() / n for atoms in kept])
    some = kept[:: max(1, len(kept) // 100)]
    lengths = np.concatenate([bond_lengths(atoms) for atoms in some])
    print(f"{len(frames)} frames of {n} atoms, {density_of(frames[0]):.3f} g/cm³; the first {left_out} are left out below")
    print(f"molecules intact in {sum(whole)} frames, " + ("all" if all(whole) else f"but not in frame {whole.index(False)}"))
    print(f"temperature {temperature.mean():.1f} ± {blocked_error(temperature):.1f} K")
    early, late = (half.mean() for half in np.array_split(energy, 2))
    print(f"potential energy {energy.mean() / 1000:.5f} eV/atom ± {blocked_error(energy):.2f} meV/atom, ", end="")
    print(f"second half minus first {late - early:+.2f} meV/atom")
    print(f"O-H bonds {lengths.mean():.3f} Å, standard deviation {lengths.std():.3f} Å")
    print(f"tetrahedrality {np.mean([tetrahedrality(atoms) for atoms in some]):.2f}")


def table(rows: dict[str, PairDistribution]) -> str:
    """Features of the first shell, one line for each distribution."""
    features = {name: found.features() for name, found in rows.items()}
    titles = list(next(iter(features.values())))
    lines = ["| g_OO of | " + " | ".join(titles) + " |", "| --- " * (len(titles) + 1) + "|"]
    for name, values in features.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f} ± {error:.2f}" for value, error in values.values()) + " |")
    lines.append(f"| experiment (Skinner et al. 2013) | {PEAK[0]} ± {PEAK[1]} | {PEAK[2]} ± {PEAK[3]} |  |  |  |")
    return "\n".join(lines)


def figure_of(rows: dict[str, PairDistribution]) -> Figure:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color="#BBBBBB", linewidth=0.8)
    for (name, found), color in zip(rows.items(), ("#0072B2", "#D55E00", "#009E73"), strict=False):
        error = standard_error(found.blocks)
        axes.fill_between(CENTERS, found.mean - error, found.mean + error, color=color, alpha=0.25, linewidth=0)
        axes.plot(CENTERS, found.mean, color=color, label=name)
    x, x_error, y, y_error = PEAK
    label = "first maximum, x-ray diffraction (Skinner et al. 2013)"
    axes.errorbar(x, y, y_error, x_error, fmt="o", color="black", markersize=3, capsize=2, label=label)
    axes.set_xlabel("r (Å)")
    axes.set_ylabel("g_OO(r)")
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="water")
    parser.add_argument("--ps", type=float, default=50.0)
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--melt", type=float, default=MELT_PS, help="ps at 400 K before")
    parser.add_argument("--compiled", action="store_true", help="compiled kernels (extra `fast`)")
    parser.add_argument("--data", type=Path, help="training data, e.g. DATA_FOLDER/water_rpbe-d3_n2p2.npz")
    parser.add_argument("--other", type=Path, help="other liquid water, e.g. DATA_FOLDER/water_pbe0ts_deepmd.npz")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    frames = simulated(arguments)
    left_out = min(round(1000 * LEFT_OUT_PS / TIMESTEP / FRAME_STEPS), len(frames) // 2)
    name = Path(arguments.weights).stem
    print(f"{arguments.weights}: {arguments.ps:g} ps at {arguments.temperature:g} K")
    report(frames, left_out)
    rows = {f"{name}, {arguments.temperature:g} K": pair_distribution(frames[left_out:])}
    for path in filter(None, (arguments.data, arguments.other)):
        everything = structures(path)
        like = [atoms for atoms in everything if comparable(atoms)]
        rows[f"{path.stem}, {len(like)} of {len(everything)} structures"] = pair_distribution(like)
        densities, lengths = [density_of(atoms) for atoms in like], np.concatenate([bond_lengths(atoms) for atoms in like])
        print(f"{path.name}: {len(like)} of {len(everything)} structures are like it, {min(densities):.2f} to ", end="")
        print(f"{max(densities):.2f} g/cm³, standard deviation of O-H bonds {lengths.std():.3f} Å")
    print(table(rows))
    output = arguments.folder / f"{name}-{arguments.temperature:.0f}K-rdf"
    columns = [CENTERS, *(column for found in rows.values() for column in (found.mean, standard_error(found.blocks)))]
    heading = "r (A)," + ",".join(f'"{key}","standard error"' for key in rows)
    np.savetxt(output.with_suffix(".csv"), np.array(columns).T, "%.4f", ",", header=heading, comments="")
    figure_of(rows).savefig(output.with_suffix(".png"))


if __name__ == "__main__":
    main()
