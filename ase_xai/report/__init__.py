"""Reports: figures of a training, figures of explanations, and pages that show one explanation in a browser.

Figures are matplotlib `Figure` objects, made without pyplot: `figure.savefig(path)`.
"""

from __future__ import annotations

from ase_xai.report.charts import by_element, card_table, decay, waterfall
from ase_xai.report.elements import embedding, periodic_table
from ase_xai.report.molecules import gallery, molecule
from ase_xai.report.page import write_page
from ase_xai.report.surfaces import probe_planes, probe_surfaces
from ase_xai.report.training import learning_curve, parity

__all__ = [
    "by_element",
    "card_table",
    "decay",
    "embedding",
    "gallery",
    "learning_curve",
    "molecule",
    "parity",
    "periodic_table",
    "probe_planes",
    "probe_surfaces",
    "waterfall",
    "write_page",
]
