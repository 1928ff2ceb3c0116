"""A run's page inside a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

VIEW_BYTES = 2_300_000
"""Of a page in a notebook: Jupyter drops output beyond 3 MB within 3 s (`iopub_data_rate_limit`), escapes included."""


@dataclass(frozen=True, eq=False, repr=False)
class RunView:
    """What `Run.view` returns: the last line of a cell shows it, in JupyterLab, VS Code and what nbconvert makes.

    The page lives in a frame of its own that may run its scripts and nothing else: it reaches neither the notebook nor a
    network.

    Args:
        page: HTML text.
        height: of the frame, pixels.
        title: what the frame shows.
    """

    page: str
    height: int
    title: str

    def __post_init__(self) -> None:
        if isinstance(self.height, bool) or not isinstance(self.height, int) or self.height < 100:
            raise ValueError(f"height is a whole number of pixels, 100 or more, got {self.height!r}. 720 is usual.")

    def _repr_html_(self) -> str:
        about = f'title="{escape(self.title)}" width="100%" height="{self.height}" style="border: 0; background: #fff"'
        return f'<iframe sandbox="allow-scripts" {about} srcdoc="{escape(self.page)}"></iframe>'

    def __repr__(self) -> str:
        size = len(self.page.encode()) / 1e6
        return f"RunView({self.title}, {size:.1f} MB; notebooks show it, and run.report('run.html') writes it as a file)"
