"""Reports: figures of a training, of explanations and of runs, and pages that show an explanation or a run in a browser.

Figures are matplotlib `Figure` objects, made without pyplot: `figure.savefig(path)`.
"""

from __future__ import annotations

from ase_xai.report.charts import by_element, card_table, decay, waterfall
from ase_xai.report.elements import embedding, periodic_table
from ase_xai.report.molecules import gallery, molecule
from ase_xai.report.page import write_page
from ase_xai.report.run_analyses import Analyses, analyze, write_run_figures
from ase_xai.report.run_figures import carpet, event_curves, group_curves, infrared_by_group
from ase_xai.report.run_flows import charge_transfer, flow_matrix
from ase_xai.report.run_page import write_run_page
from ase_xai.report.surfaces import probe_planes, probe_surfaces
from ase_xai.report.training import learning_curve, parity

__all__ = [
    "Analyses",
    "analyze",
    "by_element",
    "card_table",
    "carpet",
    "charge_transfer",
    "decay",
    "embedding",
    "event_curves",
    "flow_matrix",
    "gallery",
    "group_curves",
    "infrared_by_group",
    "learning_curve",
    "molecule",
    "parity",
    "periodic_table",
    "probe_planes",
    "probe_surfaces",
    "waterfall",
    "write_page",
    "write_run_figures",
    "write_run_page",
]
