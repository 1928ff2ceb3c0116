"""The command line: `ase-xai relax | md | models | check`.

Everything slow to import is imported inside the commands, so that `ase-xai --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperGroup

from ase_xai import __version__

if TYPE_CHECKING:
    from ase import Atoms

    from ase_xai.contract import Check
    from ase_xai.runs import RunSummary
    from ase_xai.weights import ShippedWeights

MAX_ROWS = 20
FAILED, REFUSED, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Commands whose expected errors are one line on stderr and an exit code; unexpected ones keep their traceback.

    1: the run exploded or did not converge, or a check failed; 2: it cannot be done as asked; 130: interrupted.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            typer.echo(str(stop) or "interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from stop
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            typer.echo(f"error: {one_line(error)}", err=True)
            raise typer.Exit(code) from error


app = typer.Typer(
    cls=Commands,
    help="Neural-network potentials that a chemist can question.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Structure file of any format that ASE reads.")]
Weights = Annotated[str, typer.Option(help="Name of shipped weights (ase-xai models), or path of a weight file.")]
Output = Annotated[Path | None, typer.Option(help=".traj or .extxyz; by default named after FILE, in this folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a CUDA device if there is one.")]
Precision = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of the network.")]
Charge = Annotated[float | None, typer.Option(help="Total charge, e.")]
Index = Annotated[int, typer.Option(help="Which frame of FILE to take, counted from 0, or from -1 backwards.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Progress = Annotated[bool | None, typer.Option(help="Show a bar on stderr; by default on a terminal only.")]


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
    overwrite: Overwrite = False,
    progress: Progress = None,
) -> None:
    """Relax a structure and write each step."""
    from ase_xai import runs

    output = output or Path(f"{file.stem}.relax.traj")
    refuse_own_input(file, output)
    atoms = with_calculator(read_structure(file, index), weights, device, dtype, charge)
    summary = runs.relax(
        atoms, output, fmax=fmax, steps=steps, optimizer=optimizer, cell=cell, overwrite=overwrite, progress=progress
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
    summary = runs.run_md(atoms, output, settings, restart=restart, overwrite=overwrite, progress=progress)
    print_result(atoms, summary, f"{summary.step * timestep:g} fs of dynamics")


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False) -> None:
    """List the shipped weights."""
    from ase_xai.weights import shipped

    records = shipped()
    if as_json:
        typer.echo(json.dumps([model_record(record) for record in records], indent=2, ensure_ascii=False))
    elif records:
        header = ("name", "architecture", "elements", "level of theory", "force error", "size", "SHA-256")
        print_columns([header, *(model_row(record) for record in records)])
    else:
        typer.echo("no weights are shipped with this version.")


@app.command()
def check(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Name of shipped weights, or path of a weight file.")],
) -> None:
    """Test a network for the physics it must obey, and print each figure."""
    import torch

    from ase_xai.contract import check_network
    from ase_xai.weights import resolve

    torch.set_num_threads(1)  # small systems; this process is ours
    loaded = resolve(weights)
    typer.echo(f"{weights}: {loaded.card.architecture}, SHA-256 {loaded.sha256}")
    checks = check_network(loaded.network, report=print_check)
    failed = [result.name for result in checks if not result.passed]
    typer.echo(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(FAILED)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        typer.echo(f"ase-xai {__version__}")
        raise typer.Exit


def exit_code(error: Exception) -> int | None:
    """Exit code of an expected error, None for one that is a bug."""
    from ase.calculators.calculator import CalculatorError, PropertyNotImplementedError

    from ase_xai.runs import RunExploded

    if isinstance(error, RunExploded):
        return FAILED
    return REFUSED if isinstance(error, (ValueError, OSError, CalculatorError, PropertyNotImplementedError)) else None


def one_line(error: Exception) -> str:
    known = isinstance(error, OSError) and error.filename and error.strerror
    return f"{error.filename}: {error.strerror}" if known else " ".join(str(error).split())  # type: ignore[attr-defined]


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


def print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_check(result: Check) -> None:
    verdict = "pass" if result.passed else "FAIL"
    figures = f"{result.value:10.2e}  (at most {result.tolerance:.0e}) {result.units}"
    typer.echo(f"{verdict}  {result.name:<46} {figures}  {result.seconds:.1f} s")
    sys.stdout.flush()


def model_record(record: ShippedWeights) -> dict[str, Any]:
    from dataclasses import asdict

    return {"name": record.name, "sha256": record.sha256, "n_bytes": record.n_bytes, "card": asdict(record.card)}


def model_row(record: ShippedWeights) -> tuple[str, ...]:
    from ase.data import chemical_symbols

    card = record.card
    elements = " ".join(chemical_symbols[z] for z in card.settings.get("elements", []))
    error = force_error(card.errors)
    figure = "unknown" if error is None else f"{error:.3f} eV/Å"
    size = f"{record.n_bytes / 1e6:.1f} MB"
    return record.name, card.architecture, elements, card.level_of_theory, figure, size, record.sha256[:12]


def force_error(errors: dict[str, Any]) -> float | None:
    """The first mean absolute force error (eV/Å) of a model card's nested errors."""
    for name, value in errors.items():
        found = force_error(value) if isinstance(value, dict) else value if name == "forces_mae_eV_per_A" else None
        if found is not None:
            return float(found)
    return None


if __name__ == "__main__":
    app()
