"""`ase-xai models | check`: what weights are there, and whether they obey physics."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_xai.cli.base import FAILED, app, print_columns

if TYPE_CHECKING:
    from ase_xai.contract import Check
    from ase_xai.weights import ShippedWeights


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
