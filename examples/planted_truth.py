"""Do networks find the energies and charges of atoms when these are known?

    python examples/planted_truth.py [FOLDER]

Networks are trained on sums only: on total energies and forces of potentials that are sums over atoms (Lennard-Jones, Morse,
effective medium theory), and on dipoles of known charges. What they say of single atoms is then compared with the truth,
which they never saw, with a network of random weights, and with one trained on shuffled sums. FOLDER (planted-truth-output)
gets data, weights and planted_truth.png.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols
from ase.io import write

from ase_xai import NetworkCalculator, load
from ase_xai.explainers import AtomicEnergies, LatentCharges
from ase_xai.explainers.gauge import Substituted
from ase_xai.explainers.randomization import randomized
from ase_xai.probe import random_cluster
from ase_xai.training.pipeline import train

CUTOFF = 5.5  # Å
N_TEST = 40
ELECTRONEGATIVITY = {"H": 2.2, "C": 2.55, "N": 3.04, "O": 3.44}
MOLECULES = ("H2O", "CH4", "NH3", "CH3OH", "CH3CH2OH", "CH3CH2NH2", "H2CO", "HCOOH", "CH3CN", "C2H4", "CH3CHO", "HCN")


@dataclass(frozen=True)
class Truth:
    """A rule that gives each atom a value, of which networks see sums only.

    Args:
        title: for the figure.
        target: "energy" or "charge".
        elements: of random clusters; of molecules for charges.
        atomic: atoms -> (values (N,) in eV or e, forces (N, 3) or None).
    """

    title: str
    target: str
    elements: tuple[str, ...]
    atomic: Callable[[Atoms], tuple[np.ndarray, np.ndarray | None]]


def by(make: Callable[[], Calculator]) -> Callable[[Atoms], tuple[np.ndarray, np.ndarray | None]]:
    """Energies of atoms and forces by a calculator of ASE."""

    def values(atoms: Atoms) -> tuple[np.ndarray, np.ndarray | None]:
        atoms = atoms.copy()
        atoms.calc = make()
        return atoms.get_potential_energies(), atoms.get_forces()

    return values


def bond_charges(atoms: Atoms) -> tuple[np.ndarray, np.ndarray | None]:
    """q_i = Σ_j 0.3·(χ_i - χ_j)·exp(-(r_ij/1.6 Å)⁴), negative on the more electronegative side; they sum to zero."""
    chi = np.array([ELECTRONEGATIVITY[symbol] for symbol in atoms.symbols])
    distances = atoms.get_all_distances()
    share = 0.3 * np.exp(-((distances / 1.6) ** 4)) * (1 - np.eye(len(atoms)))
    return -((chi[:, None] - chi[None]) * share).sum(axis=1), None


TRUTHS = {
    "lennard-jones": Truth(
        "Lennard-Jones, Ar", "energy", ("Ar",), by(lambda: LennardJones(sigma=2.0, epsilon=0.2, rc=CUTOFF, smooth=True))
    ),
    "morse": Truth(
        "Morse, Cu", "energy", ("Cu",), by(lambda: MorsePotential(epsilon=0.3, r0=2.7, rho0=4.0, rcut1=4.5, rcut2=CUTOFF))
    ),
    "emt": Truth("effective medium theory, Cu Ag Au", "energy", ("Cu", "Ag", "Au"), by(EMT)),
    "charges": Truth("charges along bonds, H C N O", "charge", ("H", "C", "N", "O"), bond_charges),
}


def systems(truth: Truth, n: int, rng: np.random.Generator) -> list[Atoms]:
    """Random clusters, or shaken molecules for charges."""
    if truth.target == "charge":
        frames = [molecule(str(rng.choice(MOLECULES))) for _ in range(n)]
        for atoms in frames:
            atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
            atoms.rotate(rng.uniform(0, 360), rng.normal(size=3))
        return frames
    elements = [atomic_numbers[symbol] for symbol in truth.elements]
    return [random_cluster(elements, int(rng.integers(2, 12)), rng) for _ in range(n)]


def labeled(truth: Truth, atoms: Atoms) -> Atoms:
    """`atoms` with what a network may see: energy and forces, or the dipole."""
    values, forces = truth.atomic(atoms)
    found = {"dipole": values @ atoms.positions} if forces is None else {"energy": float(values.sum()), "forces": forces}
    return with_labels(atoms, found)


def with_labels(atoms: Atoms, labels: dict[str, Any]) -> Atoms:
    seen = atoms.copy()
    seen.calc = SinglePointCalculator(seen, **labels)
    return seen


def shuffled(frames: list[Atoms], rng: np.random.Generator) -> list[Atoms]:
    """The same frames with the energy per atom, or the dipole, of another one; there is nothing left to learn from them."""
    others = [frames[k] for k in rng.permutation(len(frames))]
    found = []
    for atoms, other in zip(frames, others, strict=True):
        labels = other.calc.results
        if "dipole" in labels:
            found.append(with_labels(atoms, {"dipole": labels["dipole"]}))
        else:
            found.append(with_labels(atoms, {"energy": labels["energy"] / len(other) * len(atoms)}))
    return found


NETWORKS = {
    "behler-parrinello": "hidden = [32, 32]\nn_radial = 16",
    "schnet": "n_features = 32\nn_interactions = 2\nn_radial = 24",
}
CONFIG = """
[data]
files = ["{name}.extxyz"]
[split]
validation = 0.1
test = 0.0
[network]
architecture = "{architecture}"
cutoff = {cutoff}
charges = {charges}
{arguments}
[training]
steps = {steps}
batch_size = 16
learning_rate = 3e-3
warmup = 50
ema_decay = 0.99
loss = {{ {loss} }}
"""


def fitted(
    name: str, architecture: str, folder: Path, *, n_structures: int = 400, steps: int = 1200, shuffle: bool = False
) -> NetworkCalculator:
    """A network trained on sums of a planted truth, in float64; `shuffle`: on those of other structures."""
    truth, rng = TRUTHS[name], np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    frames = [labeled(truth, atoms) for atoms in systems(truth, n_structures, rng)]
    stem = f"{name}-shuffled" if shuffle else name
    write(folder / f"{stem}.extxyz", shuffled(frames, rng) if shuffle else frames)
    config = folder / f"{stem}-{architecture}.toml"
    charged = truth.target == "charge"
    config.write_text(
        CONFIG.format(
            name=stem,
            architecture=architecture,
            cutoff=CUTOFF,
            charges="true" if charged else "false",
            arguments=NETWORKS[architecture],
            steps=steps,
            loss="dipole = 1.0" if charged else "energy = 4.0" if shuffle else "energy = 4.0, forces = 1.0",
        )
    )
    weights = train(config, folder / f"{stem}-{architecture}", progress=False, report=lambda line: None)
    return load(weights, dtype="float64")


@dataclass(frozen=True, eq=False)
class Recovery:
    """What a network says of the atoms of systems it was not trained on, beside the truth.

    Args:
        numbers: (n,) atomic numbers.
        planted, recovered, null: (n,) true values, those of the network, and those of the network with random weights.
    """

    numbers: np.ndarray
    planted: np.ndarray
    recovered: np.ndarray
    null: np.ndarray

    def within(self, values: np.ndarray) -> np.ndarray:
        """Values minus the mean of their element: elements have a gauge of their own."""
        means = {z: values[self.numbers == z].mean() for z in np.unique(self.numbers)}
        return values - np.array([means[z] for z in self.numbers])

    def correlation(self, values: np.ndarray) -> dict[str, float]:
        """Pearson correlation with the truth for each element."""
        found = {}
        for z in np.unique(self.numbers):
            of_element = self.numbers == z
            found[chemical_symbols[z]] = float(np.corrcoef(self.planted[of_element], values[of_element])[0, 1])
        return found

    @property
    def leftover(self) -> float:
        """What the network splits otherwise: root mean square difference over that of the truth, element means removed."""
        planted = self.within(self.planted)
        difference = self.within(self.recovered) - planted
        return float(np.sqrt((difference**2).mean() / (planted**2).mean()))


def recovery(name: str, calculator: NetworkCalculator, n: int = N_TEST, seed: int = 1) -> Recovery:
    """Compare a network with the truth it was trained on the sums of."""
    truth = TRUTHS[name]
    explainer = LatentCharges() if truth.target == "charge" else AtomicEnergies()
    blind = Substituted(calculator, randomized(calculator.network, None, seed))
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for atoms in systems(truth, n, np.random.default_rng(seed)):
        parts = (atoms.numbers, truth.atomic(atoms)[0], explainer(calculator, atoms).values, explainer(blind, atoms).values)
        for column, part in zip(columns, parts, strict=True):
            column.append(part)
    return Recovery(*(np.concatenate(column) for column in columns))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("planted-truth-output")
    found: dict[tuple[str, str], Recovery] = {}
    columns = ("r", "r (shuffled)", "r (random)", "left over", "s")
    print(f"{'truth':>14} {'network':>18} {'element':>8} " + " ".join(f"{title:>12}" for title in columns))
    for name in TRUTHS:
        for architecture in NETWORKS:
            started = time.perf_counter()
            found[name, architecture] = one = recovery(name, fitted(name, architecture, folder))
            misled = recovery(name, fitted(name, architecture, folder, shuffle=True))
            null, blind = misled.correlation(misled.recovered), one.correlation(one.null)
            seconds = time.perf_counter() - started
            for element, r in one.correlation(one.recovered).items():
                numbers = f"{r:12.3f} {null[element]:12.3f} {blind[element]:12.3f} {one.leftover:12.3f} {seconds:12.1f}"
                print(f"{name:>14} {architecture:>18} {element:>8} {numbers}")
    draw(found, folder / "planted_truth.png")
    print(f"\nFigure: {folder / 'planted_truth.png'}")


def draw(found: dict[tuple[str, str], Recovery], path: Path) -> None:
    """Planted against recovered values of atoms, element means removed, one panel for each truth and network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(NETWORKS), len(TRUTHS), figsize=(3.4 * len(TRUTHS), 7), layout="constrained", squeeze=False
    )
    for row, architecture in enumerate(NETWORKS):
        for column, (name, truth) in enumerate(TRUTHS.items()):
            axes, one = panels[row, column], found[name, architecture]
            planted, recovered = one.within(one.planted), one.within(one.recovered)
            for z in np.unique(one.numbers):
                of_element = one.numbers == z
                axes.plot(planted[of_element], recovered[of_element], ".", ms=4, label=chemical_symbols[z])
            limit = 1.05 * max(np.abs(planted).max(), np.abs(recovered).max())
            axes.plot([-limit, limit], [-limit, limit], color="#9a9a9a", lw=1, zorder=0)
            units = "eV" if truth.target == "energy" else "e"
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel=f"planted ({units})")
            axes.set_title(f"{truth.title}\n{architecture}, left over {one.leftover:.2f}", fontsize=9, loc="left")
            axes.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.1)
            axes.locator_params(nbins=5)
            axes.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axes.set_ylabel(f"recovered ({units})")
    figure.suptitle("Values of single atoms that networks found from sums alone, minus the mean of the element", fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
