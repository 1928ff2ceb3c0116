"""Active learning of a potential: dynamics finds what networks do not know, GFN2-xTB labels it, training goes on with it.

    python examples/active_learning.py STRUCTURES FOLDER [--start 1000 --steps 1500 --molecules 10 --ps 2 --rounds 1 ...]

STRUCTURES holds molecules with GFN2-xTB energies and forces, as `label_gfn2.py` makes them; both need the extra `tblite`. A
few small SchNets learn from `--start` of them. Then, `--rounds` times:

1. Langevin dynamics with the first network, of molecules whose formulas it was not trained on, each until it fails (see
   `until_failure.py`).
2. Of the frames before failures, those where the networks' forces disagree most are labeled, at least `--gap` fs apart.
3. Each network is trained further from its weights, on old and new structures; the dynamics start again.

Half of the molecules are `explored`: their frames are trained on. Those of the `unseen` half are only tested on, and tell
what is gained beyond the molecules at hand. The table gives failures per ns of the first network's dynamics with their 95 %
Poisson interval, and its mean errors of forces on the frames labeled in the first round. The row `control` is the network of
round 0 trained on for as many steps, but without new structures; `--reference` adds what GFN2-xTB itself does. Everything is
in FOLDER; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read as read_frames
from label_gfn2 import Geometry, label, labeled, save
from scipy.sparse.csgraph import connected_components
from until_failure import INTERVAL, MAX_FORCE, Molecules, Outcomes, bond_ratios, dynamics, per_ns

from ase_xai import Ensemble, load
from ase_xai.files import write_atomically
from ase_xai.runs import MDSettings
from ase_xai.training import GraphLoader, StructureSet, pipeline, read
from ase_xai.training.evaluation import errors, predicted

PARTS = ("explored", "unseen")
COLUMNS = ("n_atoms", "Z", "R", "E_eV", "F_eV_A", "source")  # source: number of the formula
CONFIG = """
[data]
files = {files}
group = "source"
[split]
validation = 0.1
test = 0
[network]
architecture = "schnet"
n_features = 64
n_interactions = 3
charges = false
{start}
[training]
steps = {steps}
batch_size = 16
learning_rate = {rate}
warmup = 100
cooldown = 0.7
seed = {seed}
loss = {{energy = 8, forces = 1}}
[model]
level_of_theory = "GFN2-xTB"
closed_shell = true
"""


def prepared(structures: StructureSet, path: Path, asked: argparse.Namespace) -> Molecules:
    """Write the structures to start from; molecules for dynamics, of formulas that none of those structures has."""
    formula = np.unique(structures.composition(np.arange(len(structures))), axis=0, return_inverse=True)[1].ravel()
    order = np.random.default_rng(asked.seed).permutation(formula.max() + 1)
    n_formulas = 1 + int(np.searchsorted(np.cumsum(np.bincount(formula)[order]), asked.start))
    rows = np.flatnonzero(np.isin(formula, order[:n_formulas]))
    chosen = structures.take(rows)
    values = (chosen.n_atoms, chosen.numbers, chosen.positions, chosen.energy, chosen.forces, formula[rows])
    save(path, dict(zip(COLUMNS, values, strict=True)))
    found: Molecules = {}
    for number in order[n_formulas:].tolist():
        those = structures.take(np.flatnonzero(formula == number))
        forces = np.maximum.reduceat(np.linalg.norm(those.forces, axis=1), those.offsets[:-1])
        calmest = those.take(np.array([forces.argmin()]))
        pieces, _ = connected_components(bond_ratios(calmest.numbers, calmest.positions) < 1.3)
        if len(found) < 2 * asked.molecules and pieces == 1 and set(calmest.elements) <= set(chosen.elements):
            found[number] = Atoms(calmest.numbers, calmest.positions)
    return found


def trained(folder: Path, files: Sequence[Path], start: Path | None, steps: int, seed: int) -> Path:
    """A weight file, trained from random weights, or on from `start` at half the learning rate."""
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(
        files=[str(path.resolve()) for path in files],
        start="" if start is None else f'start = "{start.resolve()}"',
        steps=steps,
        rate=1e-3 if start is None else 5e-4,
        seed=seed,
    )
    write_atomically(folder / "run.toml", text.encode())
    return pipeline.train(folder / "run.toml", folder, progress=False, report=lambda line: None)


def uncertain(folder: Path, outcomes: Outcomes, members: Sequence[Path], n: int, gap: float) -> list[Geometry]:
    """The n frames before failures with the largest spread of a force; those of one molecule are `gap` fs apart."""
    ensemble, found, begin = Ensemble([load(path) for path in members]), [], 0.0
    for path in sorted(folder.glob("*.traj")):
        for frame in read_frames(path, ":"):
            frame.calc, tags, time = ensemble, frame.get_tags(), begin + frame.info["time_fs"]
            frame.get_forces()
            spread = np.linalg.norm(ensemble.spread["forces"], axis=1)
            for number in set(tags.tolist()) & set(outcomes):
                if time < outcomes[number].fs:
                    found.append((spread[tags == number].max(), number, time, frame[tags == number]))
        begin = time
    picked: list[tuple[float, int, float, Atoms]] = []
    for entry in sorted(found, key=lambda entry: -entry[0]):
        if len(picked) < n and all(entry[1] != other[1] or abs(entry[2] - other[2]) >= gap for other in picked):
            picked.append(entry)
    return [(number, frame.numbers, frame.positions) for _, number, _, frame in picked]


def forces_error(weights: Path, test: Path) -> float:
    """Mean length of the error of a force, meV/Å."""
    structures, network = read(test), load(weights).network
    prediction = predicted(network, GraphLoader(structures, network.cutoff), np.arange(len(structures)))
    return 1000 * errors(structures, prediction)["forces_mae_eV_per_A"]


def checked(path: Path) -> StructureSet:
    """The structures, if their labels are of the kind that new ones will have."""
    structures = read(path)
    if structures.energy is None or structures.forces is None or structures.pbc is not None:
        raise SystemExit(f"{path} must hold molecules with energies and forces, see label_gfn2.py.")
    first = structures.take(np.array([0]))
    own = label(first.numbers, first.positions)
    if own is None or not np.allclose(own["F_eV_A"], first.forces, atol=0.02):
        raise SystemExit(
            f"{path}: forces of the first structure are not those of GFN2-xTB. Label it anew with label_gfn2.py."
        )
    return structures


def explore(asked: argparse.Namespace) -> None:
    """Print the table, a row for each potential as soon as it is done."""
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    molecules = prepared(checked(asked.structures), folder / "start.npz", asked)
    steps = INTERVAL * round(2000 * asked.ps / INTERVAL)
    settings = MDSettings(asked.temperature, steps, timestep=0.5, interval=INTERVAL, seed=asked.seed)
    tests = [folder / "round-0" / f"{part}.npz" for part in PARTS]
    print(f"| | {' | '.join(f'{part}: failures, per ns' for part in PARTS)} | {' | '.join(f'{p}, meV/Å' for p in PARTS)} |")

    def parts(outcomes: Outcomes) -> list[Outcomes]:
        return [{number: outcomes[number] for number in list(molecules)[k::2]} for k in range(2)]

    def show(name: str, outcomes: Outcomes, weights: Path | None) -> None:
        forces = ["" if weights is None else f"{forces_error(weights, test):.0f}" for test in tests]
        print(f"| {' | '.join([name, *map(per_ns, parts(outcomes)), *forces])} |", flush=True)

    files, members = [folder / "start.npz"], [None] * asked.members
    for number in range(asked.rounds + 1):
        here = folder / f"round-{number}"
        members = [
            trained(here / f"member-{k}", files, start, asked.steps, asked.members * asked.seed + k)
            for k, start in enumerate(members)
        ]
        outcomes = dynamics(here / "dynamics", molecules, load(members[0]), settings)
        for part, those in zip(PARTS, parts(outcomes), strict=True):
            if number < asked.rounds and not (here / f"{part}.npz").exists():
                columns = labeled(uncertain(here / "dynamics", those, members, asked.label, asked.gap), MAX_FORCE)
                save(here / f"{part}.npz", {name: columns[name] for name in COLUMNS})
        show(f"round {number}", outcomes, members[0])
        files = [*files, here / "explored.npz"]
    start = folder / "round-0" / "member-0" / pipeline.WEIGHTS
    control = trained(folder / "control", files[:1], start, asked.rounds * asked.steps, asked.members * asked.seed)
    show("control", dynamics(folder / "control" / "dynamics", molecules, load(control), settings), control)
    if asked.reference:
        from tblite.ase import TBLite

        gfn2, alone = TBLite(method="GFN2-xTB", verbosity=0), folder / "gfn2"
        runs = [dynamics(alone / str(n), {n: molecules[n]}, gfn2, settings) for n in molecules]
        show("GFN2-xTB", {n: outcome for run in runs for n, outcome in run.items()}, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=int, default=1000, help="structures to start from; the last formula is completed")
    parser.add_argument("--members", type=int, default=3, help="networks, at least 2")
    parser.add_argument("--steps", type=int, default=1500, help="of training, in each round")
    parser.add_argument("--molecules", type=int, default=10, help="in dynamics, explored and unseen each")
    parser.add_argument("--ps", type=float, default=2.0, help="of dynamics, for each molecule")
    parser.add_argument("--temperature", type=float, default=600.0, help="K")
    parser.add_argument("--label", type=int, default=100, help="frames, of explored and unseen molecules each")
    parser.add_argument("--gap", type=float, default=40.0, help="fs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", action="store_true", help="run the dynamics with GFN2-xTB, too")
    try:
        explore(parser.parse_args())
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on") from None


if __name__ == "__main__":
    main()
