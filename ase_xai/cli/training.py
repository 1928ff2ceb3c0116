"""`ase-xai train | evaluate`: weights from labeled structures, and how good they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_xai.cli.base import Device, Progress, app, print_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

Config = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What to train, on what, and how; see the README.")]
Threads = Annotated[int, typer.Option(help="CPU threads; more than one seldom pays.", min=1)]
Pairs = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", show_default=False)]


@app.command()
def train(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default named after CONFIG.toml, here.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data files; by default that of CONFIG.toml.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in place of those in CONFIG.toml.", min=1)] = None,
    device: Device = None,
    threads: Threads = 1,
    progress: Progress = None,
) -> None:
    """Train weights; the same command goes on where an interrupted or killed run stopped."""
    import sys

    import torch

    from ase_xai.training import pipeline
    from ase_xai.weights import load_weights

    torch.set_num_threads(threads)
    folder = out or Path(config.stem)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    bar = sys.stderr.isatty() if progress is None else progress
    try:
        weights = pipeline.train(config, folder, data=data, device=chosen, steps=steps, progress=bar, report=typer.echo)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{stop}. The same command goes on from there.") from stop
    if weights.exists():  # only the first of several processes writes them
        card = load_weights(weights).card
        measured = next(iter(card.errors))
        typer.echo(f"errors on the {measured} structures:")
        print_tables(card.errors[measured])


@app.command()
def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Name of shipped weights, or path of a weight file.")],
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Files or folders of labeled structures.")],
    split: Annotated[Path | None, typer.Option(help="split.json of the training.")] = None,
    part: Annotated[str | None, typer.Option(help="training, validation, test or all; by default test if known.")] = None,
    columns: Pairs = None,
    units: Pairs = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, worst.extxyz and errors.json.")] = None,
    worst: Annotated[int, typer.Option(help="How many of the worst structures to write.", min=0)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="All errors in ASE's units, for programs.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; the numbers in model cards are from one CPU thread.")] = "cpu",
) -> None:
    """Errors of weights on labeled structures; columns and units as in training unless given (--columns energy=E_scf_Ha)."""
    from ase_xai.training import comparison

    request = comparison.Request(tuple(data), split, part, named(columns, "--columns"), named(units, "--units"))
    say = (lambda line: None) if as_json else typer.echo
    found = comparison.compare(weights, request, device=device, report=say)
    if out is not None:
        for path in comparison.write(found, out, worst):
            say(f"wrote {path}")
    if as_json:
        typer.echo(json.dumps(found.tables, indent=2, ensure_ascii=False))
    else:
        print_tables(found.tables)


def named(pairs: list[str] | None, option: str) -> dict[str, str]:
    """{"energy": "E_scf_Ha"} from "energy=E_scf_Ha".

    Raises:
        ValueError: no "=" in it.
    """
    for pair in pairs or []:
        if "=" not in pair:
            raise ValueError(f"{option} takes NAME=VALUE, got {pair!r}, e.g. {option} energy=...")
    return dict(pair.split("=", 1) for pair in pairs or [])


def print_tables(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Errors over all structures, by kind and by element."""
    from ase_xai.training.assessment import part_rows, table_rows

    for rows in (table_rows(tables), part_rows(tables, elements=False), part_rows(tables, elements=True)):
        if rows:
            print_columns(rows)
            typer.echo()
