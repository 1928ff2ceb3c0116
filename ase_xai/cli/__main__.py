from __future__ import annotations

from ase_xai.cli import app

app()
