"""`ase-xai relax | md`: what is done with one structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from ase_xai.cli.base import FAILED, Device, Overwrite, Progress, app, one_line, print_columns

if TYPE_CHECKING:
    from ase import Atoms

    from ase_xai.runs import RunSummary

MAX_ROWS = 20

File = Annotated[Path, typer.Argument(metavar="FILE", help="Structure file of any format that ASE reads.")]
Weights = Annotated[str, typer.Option(help="Name of shipped weights (ase-xai models), or path of a weight file.")]
Output = Annotated[Path | None, typer.Option(help=".traj or .extxyz; by default named after FILE, in this folder.")]
Precision = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of the network.")]
Charge = Annotated[float | None, typer.Option(help="Total charge, e.")]
Record = Annotated[Path | None, typer.Option(help=".h5 file for energy and charge of every atom, and `ase-xai report`.")]
Index = Annotated[int, typer.Option(help="Which frame of FILE to take, counted from 0, or from -1 backwards.")]


@app.command()
def relax(
    file: File,
    weights: Weights = "organic",
    output: Output = None,
    fmax: Annotated[float, typer.Option(help="Largest force left, eV/Å.")] = 0.02,
    steps: Annotated[int, typer.Option(help="At most this many steps.")] = 500,
    optimizer: Annotated[Literal["BFGS", "FIRE", "LBFGS"], typer.Option(help="Of ASE.")] = "BFGS",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell as well.")] = False,
    device: Device = None,
    dtype: Precision = "float32",
    charge: Charge = None,
    index: Index = -1,
    record: Record = None,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> None:
    """Relax a structure and write each step."""
    from ase_xai import runs

    output = output or Path(f"{file.stem}.relax.traj")
    refuse_own_input(file, output)
    atoms = with_calculator(read_structure(file, index), weights, device, dtype, charge)
    summary = runs.relax(
        atoms,
        output,
        fmax=fmax,
        steps=steps,
        optimizer=optimizer,
        cell=cell,
        record=record,
        overwrite=overwrite,
        progress=progress,
    )
    print_result(atoms, summary, "relaxed" if summary.finished else f"not relaxed to {fmax} eV/Å")
    if not summary.finished:
        raise typer.Exit(FAILED)


@app.command()
def md(
    file: File,
    weights: Weights = "organic",
    output: Output = None,
    temperature: Annotated[float, typer.Option(help="K.")] = 300.0,
    steps: Annotated[int, typer.Option(help="Time steps in all; a restart may ask for more.")] = 1000,
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    thermostat: Annotated[Literal["langevin", "bussi", "none"], typer.Option(help="none is NVE.")] = "langevin",
    friction: Annotated[float, typer.Option(help="1/fs; the time constant of bussi is its inverse.")] = 0.01,
    interval: Annotated[int, typer.Option(help="Steps between frames.")] = 10,
    seed: Annotated[int, typer.Option(help="Of momenta and thermostat.")] = 0,
    keep_momenta: Annotated[bool, typer.Option("--keep-momenta", help="Start from the momenta in FILE.")] = False,
    device: Device = None,
    dtype: Precision = "float32",
    charge: Charge = None,
    index: Index = -1,
    record: Record = None,
    restart: Annotated[bool, typer.Option("--restart", help="Go on where an interrupted or killed run stopped.")] = False,
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> None:
    """Molecular dynamics; the output and the state for a restart survive interruptions."""
    from ase_xai import runs

    output = output or Path(f"{file.stem}.md.traj")
    refuse_own_input(file, output)
    if restart and overwrite:
        raise ValueError("--restart keeps the output and --overwrite replaces it. Give one of them.")
    settings = runs.MDSettings(temperature, steps, timestep, thermostat, friction, interval, seed, keep_momenta)
    atoms = with_calculator(read_structure(file, index), weights, device, dtype, charge)
    summary = runs.run_md(atoms, output, settings, record=record, restart=restart, overwrite=overwrite, progress=progress)
    print_result(atoms, summary, f"{summary.step * timestep:g} fs of dynamics")


def read_structure(file: Path, index: int) -> Atoms:
    """One frame of a structure file.

    Raises:
        ValueError: missing, empty or unreadable file, no such frame, or no atoms in it; names the file and the reason.
    """
    from ase.io import read

    if not file.exists():
        raise ValueError(f"cannot read {file}: there is no such file.")
    if file.is_file() and file.stat().st_size == 0:
        raise ValueError(f"cannot read {file}: it is empty (0 bytes).")
    try:
        atoms = cast("Atoms", read(file, index=index, do_not_split_by_at_sign=True))
    except StopIteration as error:
        raise ValueError(f"cannot read {file}: it has no frame {index}. Choose another --index.") from error
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        reason = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        raise ValueError(f"cannot read frame {index} of {file} ({reason}). Is it a complete structure file?") from error
    if not len(atoms):
        raise ValueError(f"cannot use {file}: frame {index} holds no atoms.")
    return atoms


def refuse_own_input(file: Path, output: Path) -> None:
    if output.exists() and file.exists() and output.samefile(file):
        raise ValueError(f"output {output} is the input file. Choose another --output.")


def with_calculator(atoms: Atoms, weights: str, device: str | None, dtype: str, charge: float | None) -> Atoms:
    """`atoms` with the calculator that the options ask for."""
    from ase_xai import load

    atoms.calc = load(weights, device=device, dtype=dtype, total_charge=charge)
    return atoms


def print_result(atoms: Atoms, summary: RunSummary, verdict: str) -> None:
    """Per-atom energies and charges of the last step, and what was written."""
    results = atoms.calc.results
    columns = {"energy (eV)": results.get("energies"), "charge (e)": results.get("charges")}
    known = {name: values for name, values in columns.items() if values is not None}
    rows = [("atom", "element", *known)]
    for i, symbol in enumerate(atoms.symbols[:MAX_ROWS]):
        rows.append((str(i), symbol, *(f"{values[i]:.4f}" for values in known.values())))
    print_columns(rows)
    if len(atoms) > MAX_ROWS:
        typer.echo(f"... {len(atoms) - MAX_ROWS} more atoms")
    typer.echo(f"{verdict} in {summary.step} steps, {summary.seconds:.1f} s")
    typer.echo(f"energy {summary.energy:.6f} eV, largest force {summary.max_force:.4f} eV/Å")
    typer.echo(f"wrote {summary.output}, {summary.frames} frame{'s' * (summary.frames != 1)}")
    if atoms.calc.card.notes:
        typer.echo(f"about {atoms.calc.parameters['weights']}: {atoms.calc.card.notes}")
