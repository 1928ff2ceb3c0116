"""`ase-xai report`: a recorded run as a page for the browser, and as figures for a paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ase_xai.cli.base import Overwrite, app


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run, as `md --record`, `annotate` or Recorder write it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".html; by default named after FILE, in this folder.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures as PNG and PDF; by default none.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help='JSON file {"name": [atoms, ...], ...}; by default those of FILE, or its elements.')
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page of a run that works offline: structure, curves, events, flows, infrared by group."""
    from ase_xai.report.run_analyses import analyze, write_run_figures
    from ase_xai.report.run_page import write_run_page
    from ase_xai.trajectory.run import open_run

    output = output or Path(f"{file.stem}.html")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists. Choose another --output, or --overwrite.")
    run = open_run(file)
    chosen = None if groups is None else read_groups(groups)
    analyses = analyze(run, chosen)
    for name, reason in analyses.missing.items():
        typer.echo(f"without {name.replace('_', ' ')}: {reason}")
    typer.echo(f"wrote {write_run_page(run, output, groups=chosen, analyses=analyses)}")
    if figures is not None:
        for path in write_run_figures(run, figures, groups=chosen, analyses=analyses):
            typer.echo(f"wrote {path}")


def read_groups(path: Path) -> dict[str, list[int]]:
    """Atoms by the name of their group, from a JSON file.

    Raises:
        ValueError: not readable as such.
    """
    example = '{"OH": [0, 5], "rest": [1, 2, 3, 4]}'
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read groups from {path}: {error}. Example: {example}.") from error
    if not isinstance(found, dict) or not all(isinstance(atoms, list) for atoms in found.values()):
        raise ValueError(f"{path} holds no groups, which are lists of atoms by name. Example: {example}.")
    return {str(name): [int(atom) for atom in atoms] for name, atoms in found.items()}
