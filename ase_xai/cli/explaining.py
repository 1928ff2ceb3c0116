"""`ase-xai explain`: ask a network about a structure."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_xai.cli.atoms import Charge, File, Index, Precision, Weights, read_structure, with_calculator
from ase_xai.cli.base import Device, Overwrite, app, print_columns

if TYPE_CHECKING:
    from ase_xai.explainers.explanation import Explanation

MAX_ROWS = 20


@app.command()
def explain(
    file: File,
    what: Annotated[list[str], typer.Option(help="A question, see --list; may be given several times.")] = [],  # noqa: B006
    setting: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="Setting of the questions, e.g. probe=H.")
    ] = [],  # noqa: B006
    weights: Weights = "organic",
    out: Annotated[Path | None, typer.Option(help="Folder for .json, .png and .extxyz; by default only a table.")] = None,
    device: Device = None,
    dtype: Precision = "float64",
    charge: Charge = None,
    index: Index = -1,
    overwrite: Overwrite = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the questions and their settings, and stop.")] = False,
) -> None:
    """Explain a structure: where energy and charge are, what a probe atom would feel, which atoms act together."""
    from ase_xai.explainers.base import explain as ask

    if list_all:
        print_columns([("question", "settings"), *((name, ", ".join(settings)) for name, settings in questions().items())])
        return
    stated = dict(parsed(text) for text in setting)
    explainers = [built(name, stated) for name in what or ["atomic-energies", "latent-charges"]]
    unused = set(stated) - {name for explainer in explainers for name in settings_of(type(explainer))}
    if unused:
        raise ValueError(
            f"none of these questions has a setting {', '.join(sorted(unused))}. `ase-xai explain --list` lists all."
        )
    atoms = with_calculator(read_structure(file, index), weights, device, dtype, charge)
    answers = [ask(atoms, explainer) for explainer in explainers]
    for answer in answers:
        print_answer(answer)
    if out is not None:
        for path in written(answers, out, file.stem, overwrite):
            typer.echo(f"wrote {path}")


def questions() -> dict[str, list[str]]:
    """Settings of every explainer by its name on the command line."""
    from ase_xai.explainers import EXPLAINERS, explainer_by_name

    return {hyphened(name): list(settings_of(explainer_by_name(name))) for name in EXPLAINERS}


def settings_of(explainer: type) -> dict[str, str]:
    """Setting and default as text, by name."""
    return {f.name: "required" if f.default is MISSING else str(f.default) for f in fields(explainer)}


def hyphened(name: str) -> str:
    """AtomicEnergies as atomic-energies."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def parsed(text: str) -> tuple[str, Any]:
    """Name and value of "name=value"; the value is JSON, or text where it is not."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set takes NAME=VALUE, got {text!r}. Example: --set probe=H.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def built(name: str, stated: dict[str, Any]) -> Any:
    """The explainer that a question names, with those of the settings that it has."""
    from ase_xai.explainers import EXPLAINERS, explainer_by_name

    by_name = {hyphened(title): title for title in EXPLAINERS}
    if name not in by_name:
        raise ValueError(f"there is no question {name!r}; there are {', '.join(by_name)}.")
    explainer = explainer_by_name(by_name[name])
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in stated.items()}
    return explainer(**{key: value for key, value in own.items() if key in settings_of(explainer)})


def print_answer(answer: Explanation) -> None:
    """The facts and the first rows."""
    from ase_xai.explainers.views import about, cell, columns, names

    typer.echo(f"{answer.method}: {answer.target} by {answer.level}")
    for key, text in about(answer).items():
        typer.echo(f"  {key}: {text}")
    data, rows = columns(answer), names(answer)
    table = [(answer.level, *data)]
    table += [(row, *(cell(values[k]) for values in data.values())) for k, row in enumerate(rows[:MAX_ROWS])]
    print_columns(table)
    if len(rows) > MAX_ROWS:
        typer.echo(f"... {len(rows) - MAX_ROWS} more rows")


def written(answers: list[Explanation], folder: Path, stem: str, overwrite: bool) -> list[Path]:
    """Paths of everything written: each answer as JSON and, where its level has a figure, as PNG; surfaces as a page for the
    browser and as PLY, grids as cube files; atomic scalars together in one extxyz file.
    """
    import io

    from ase.io import write

    from ase_xai.files import write_atomically

    paths = [folder / f"{stem}.{hyphened(answer.method)}.json" for answer in answers]
    structure = folder / f"{stem}.explained.extxyz"
    existing = [path for path in (*paths, structure) if path.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists. Choose another --out, or --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    atoms = answers[0].atoms
    for answer, path in zip(answers, paths, strict=True):
        answer.save(path)
        if answer.level == "atom" and answer.values.ndim <= 2:
            answer.attach(atoms, re.sub(r"\W+", "_", answer.target))
    buffer = io.StringIO()
    write(buffer, atoms, format="extxyz")
    write_atomically(structure, buffer.getvalue().encode())
    return [*paths, structure, *(path for answer, base in zip(answers, paths, strict=True) for path in drawn(answer, base))]


def drawn(answer: Explanation, base: Path) -> list[Path]:
    """Paths of the pictures of an answer, named after `base` without its ending."""
    from ase_xai import report
    from ase_xai.report.volumes import write_cube, write_mesh

    for reference in ("element_mean", "composition", "free_atom"):  # bare energies are not drawn
        if answer.target == "energy" and answer.reference == "none" and reference in answer.baselines:
            answer = answer.relative(reference)
    if answer.target == "energy" and answer.level == "atom" and answer.reference == "none":
        typer.echo(f"not drawn: {answer.method} without a reference, which these weights do not bring.")
        return []
    image, written = base.with_suffix(".png"), []
    one_number = answer.values.ndim == 1
    if answer.level == "atom" and one_number:
        report.molecule(answer).savefig(image, dpi=150)
        report.write_page(answer, base.with_suffix(".html"))
        written = [image, base.with_suffix(".html")]
    elif answer.level == "tuple" and one_number:
        report.decay(answer).savefig(image, dpi=150)
        written = [image]
    elif answer.level == "element" and answer.values.ndim == 2 and answer.values.shape[1] > 1:
        report.embedding(answer).savefig(image, dpi=150)
        written = [image]
    elif answer.level in ("surface", "points") and one_number:
        report.probe_surfaces(answer).savefig(image, dpi=150)
        written = [image]
        if answer.level == "surface":
            report.write_page(answer, base.with_suffix(".html"))
            write_mesh(answer, base.with_suffix(".ply"))
            written += [base.with_suffix(".html"), base.with_suffix(".ply")]
    elif answer.level == "grid" and one_number and answer.grid_shape is not None:
        if 1 in answer.grid_shape:
            report.probe_planes(answer).savefig(image, dpi=150)
            written = [image]
        else:
            write_cube(answer, base.with_suffix(".cube"))
            written = [base.with_suffix(".cube")]
    return written
