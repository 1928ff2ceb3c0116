"""The command line: `ase-xai relax | md | annotate | explain | report | models | check | train | evaluate`."""

from __future__ import annotations

from ase_xai.cli import atoms, explaining, models, recording, reporting, training  # their commands register themselves
from ase_xai.cli.base import app
from ase_xai.cli.models import force_error

__all__ = ["app", "atoms", "explaining", "force_error", "models", "recording", "reporting", "training"]
