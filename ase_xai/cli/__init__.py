"""The command line: `ase-xai relax | md | models | check | train | evaluate`."""

from __future__ import annotations

from ase_xai.cli import atoms, models, training  # their commands register themselves
from ase_xai.cli.base import app
from ase_xai.cli.models import force_error

__all__ = ["app", "atoms", "force_error", "models", "training"]
