"""Reports: figures that show what a training came to."""

from __future__ import annotations

from ase_xai.report.training import learning_curve, parity

__all__ = ["learning_curve", "parity"]
