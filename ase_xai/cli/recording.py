"""`ase-xai annotate`: explanations of the frames of a trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ase_xai.cli.atoms import Charge, File, Precision, Weights, refuse_own_input
from ase_xai.cli.base import Device, Overwrite, app
from ase_xai.cli.explaining import built, parsed

Explain = Annotated[
    list[str],
    typer.Option(metavar="QUESTION[:N]", help="Also ask this question (ase-xai explain --list), of every N-th frame only."),
]
Fields = Annotated[str | None, typer.Option(help="Results to keep, with commas: energies,forces; by default the usual.")]


@app.command()
def annotate(
    file: File,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".h5 file; by default named after FILE.")] = None,
    weights: Weights = "organic",
    timestep: Annotated[float | None, typer.Option(help="fs between frames, if FILE does not say.")] = None,
    fields: Fields = None,
    explain: Explain = [],  # noqa: B006
    setting: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="Setting of the questions.")] = [],  # noqa: B006
    device: Device = None,
    dtype: Precision = "float32",
    charge: Charge = None,
    overwrite: Overwrite = False,
) -> None:
    """Explain every frame of a trajectory, whoever made it: energy and charge of each atom, in a file for `report`."""
    from ase_xai import load
    from ase_xai.trajectory import annotate as annotated

    output = output or Path(f"{file.stem}.h5")
    refuse_own_input(file, output)
    calculator = load(weights, device=device, dtype=dtype, total_charge=charge)
    what = recording_of(fields, explain, setting).given
    run = annotated(file, calculator, output, timestep=timestep, overwrite=overwrite, **what)
    typer.echo(f"{run.n_frames} frames of {run.n_atoms} atoms, {', '.join(run.fields)}")
    typer.echo(f"wrote {output}")


def recording_of(fields: str | None, questions: list[str], setting: list[str]) -> Any:
    """The `Recording` that the options ask for; None for the usual one.

    Raises:
        ValueError: no such field or question, a stride that is no number, or a setting that no question has.
    """
    from ase_xai.cli.explaining import settings_of
    from ase_xai.trajectory import Recording

    stated, explainers = dict(parsed(text) for text in setting), {}
    for text in questions:
        name, colon, every = text.partition(":")
        if colon and not every.isdigit():
            raise ValueError(f"--explain takes QUESTION or QUESTION:N with a number N of frames, got {text!r}.")
        explainers[name.replace("-", "_")] = (built(name, stated), int(every or 1))
    unused = set(stated) - {name for explainer, _ in explainers.values() for name in settings_of(type(explainer))}
    if unused:
        raise ValueError(f"none of these questions has a setting {', '.join(sorted(unused))}. See `ase-xai explain --list`.")
    names = None if fields is None else tuple(name.strip() for name in fields.split(",") if name.strip())
    return Recording(fields=names, explainers=explainers)
