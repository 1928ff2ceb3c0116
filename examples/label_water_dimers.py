"""Pairs of water molecules pressed together, with RPBE-D3 forces: what liquid water at rest does not show a network.

    pip install pyscf dftd3
    python examples/label_water_dimers.py OUTPUT.extxyz [--number 300 --seed 1]

Training data of a liquid hold no close contacts, and a network that has never seen one may let molecules fall into each
other. Each pair is made of two molecules with their bonds and angles shaken, in random orientations, moved together along a
random line until some contact between them is as short as wished, drawn from `SHORTEST` to `LONGEST` times the usual one.

Forces are those of RPBE/def2-TZVP with density fitting and D3 dispersion (zero damping). Energies are left out: totals of
another basis set have another zero. OUTPUT grows pair by pair, and the same command goes on behind the last one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, write
from tqdm import tqdm

USUAL = {("H", "H"): 2.0, ("H", "O"): 1.8, ("O", "O"): 2.7}  # Å, closest contacts of molecules in the liquid
SHORTEST, LONGEST = 0.45, 1.1
SHAKE = 0.04  # Å
MAX_FORCE = 30.0  # eV/Å


def pair(rng: np.random.Generator) -> Atoms:
    """Two water molecules in contact."""
    parts = []
    for _ in range(2):
        part = molecule("H2O")
        part.positions += rng.normal(0, SHAKE, (3, 3)) - part.get_center_of_mass()
        part.rotate(rng.uniform(0, 360), rng.normal(size=3))
        parts.append(part)
    line, wish = rng.normal(size=3), rng.uniform(SHORTEST, LONGEST)
    line /= np.linalg.norm(line)
    usual = np.array([[USUAL[tuple(sorted(pair))] for pair in zip([a] * 3, parts[1].symbols, strict=True)]
                      for a in parts[0].symbols])  # fmt: skip
    for distance in np.arange(6.0, 0.0, -0.01):
        vectors = parts[1].positions[None] + distance * line - parts[0].positions[:, None]
        if (np.linalg.norm(vectors, axis=2) / usual).min() <= wish:
            parts[1].positions += distance * line
            break
    return parts[0] + parts[1]


def forces(atoms: Atoms) -> np.ndarray | None:
    """(N, 3) eV/Å by RPBE-D3; None if the SCF does not converge."""
    from dftd3.interface import DispersionModel, ZeroDampingParam
    from pyscf import dft, gto

    cell = gto.M(atom=list(zip(atoms.symbols, atoms.positions, strict=True)), basis="def2-tzvp", verbose=0)
    field = dft.RKS(cell).density_fit()
    field.xc = "GGA_X_RPBE,GGA_C_PBE"
    field.kernel()
    if not field.converged:
        return None
    model = DispersionModel(atoms.numbers, atoms.positions / units.Bohr)
    gradient = (
        field.nuc_grad_method().kernel() + model.get_dispersion(ZeroDampingParam(method="rpbe"), grad=True)["gradient"]
    )
    return -gradient * units.Hartree / units.Bohr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    done = {atoms.info["number"] for atoms in iread(arguments.output, index=":")} if arguments.output.exists() else set()
    for number in tqdm(range(arguments.number)):
        if number in done:
            continue
        atoms = pair(np.random.default_rng([arguments.seed, number]))
        found = forces(atoms)
        if found is None or np.abs(found).max() > MAX_FORCE:
            tqdm.write(f"pair {number} is left out: " + ("no convergence" if found is None else "forces too large"))
            continue
        atoms.info["number"] = number
        atoms.calc = SinglePointCalculator(atoms, forces=found)
        write(arguments.output, atoms, append=True)


if __name__ == "__main__":
    main()
