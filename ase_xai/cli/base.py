"""What all commands share: the application, exit codes, options and tables.

Everything slow to import is imported inside the commands, so that `ase-xai --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ase_xai import __version__

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

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a CUDA device if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Progress = Annotated[bool | None, typer.Option(help="Show a bar on stderr; by default on a terminal only.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        typer.echo(f"ase-xai {__version__}")
        raise typer.Exit


def exit_code(error: Exception) -> int | None:
    """Exit code of an expected error, None for one that is a bug."""
    from ase.calculators.calculator import CalculatorError, PropertyNotImplementedError

    from ase_xai.runs import RunExploded

    if isinstance(error, (RunExploded, FloatingPointError)):
        return FAILED
    expected = (ValueError, OSError, MemoryError, CalculatorError, PropertyNotImplementedError)
    missing_extra = type(error) is ImportError  # a module that is not there at all is a ModuleNotFoundError
    return REFUSED if isinstance(error, expected) or missing_extra else None


def one_line(error: Exception) -> str:
    known = isinstance(error, OSError) and error.filename and error.strerror
    return f"{error.filename}: {error.strerror}" if known else " ".join(str(error).split())  # type: ignore[attr-defined]


def print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
