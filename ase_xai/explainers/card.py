"""Report cards: what was checked, what came out, what was allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

import numpy as np

from ase_xai.explainers.explanation import Explanation

VERDICTS = ("pass", "fail", "info")
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
"""Per atom, in the units of the values."""


@dataclass(frozen=True)
class Row:
    """One check.

    Args:
        name: what was checked.
        value: what came out; None where there is no number.
        tolerance: largest value that passes; None where nothing is decided.
        verdict: "pass", "fail" or "info".
        seconds: it took.
        units: of value and tolerance.
        note: what the number means, or why there is none.
    """

    name: str
    value: float | None
    tolerance: float | None
    verdict: str
    seconds: float = 0.0
    units: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}.")
        if self.verdict == "pass" and self.value is not None and not np.isfinite(self.value):
            raise ValueError(f"{self.name!r} cannot pass with {self.value}: it is not a finite number.")

    @classmethod
    def judged(cls, value: float, tolerance: float, units: str = "", note: str = "", *, name: str = "") -> Row:
        """A row that passes up to a tolerance; NaN fails."""
        return cls(name, value, tolerance, "pass" if value <= tolerance else "fail", units=units, note=note)

    @classmethod
    def told(cls, value: float | None = None, units: str = "", note: str = "", *, name: str = "") -> Row:
        """A row that informs and decides nothing."""
        return cls(name, value, None, "info", units=units, note=note)

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            "" if self.value is None else f"{self.value:.3g}",
            "" if self.tolerance is None else f"{self.tolerance:.1g}",
            self.units,
            self.verdict,
            f"{self.seconds:.2f}",
            self.note,
        )


HEADS = ("check", "value", "allowed", "unit", "verdict", "s", "note")
RIGHT = (1, 2, 5)  # columns of numbers


@dataclass(frozen=True)
class ReportCard:
    """Rows of checks about one system and one model; printed as one table.

    Args:
        title: what was checked.
        rows: in order.
        notes: sentences that belong below the table.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether no row failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict == "fail")

    def __getitem__(self, name: str) -> Row:
        """The row of this name.

        Raises:
            KeyError: no such row; the names are listed.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"there is no row {name!r}; there are {', '.join(repr(row.name) for row in self.rows)}.")

    def __str__(self) -> str:
        table = [HEADS, *(row.cells for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADS))]

        def line(cells: tuple[str, ...]) -> str:
            padded = [c.rjust(w) if k in RIGHT else c.ljust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))]
            return "  ".join(padded).rstrip()

        rule = "  ".join("-" * width for width in widths[:-1])
        return "\n".join([self.title, line(HEADS), rule, *map(line, table[1:]), self.summary, *self.notes])

    @property
    def summary(self) -> str:
        """How many rows have each verdict, and how long all took."""
        counts = ", ".join(f"{sum(row.verdict == verdict for row in self.rows)} {verdict}" for verdict in VERDICTS)
        return f"{counts}; {sum(row.seconds for row in self.rows):.1f} s"

    def to_markdown(self) -> str:
        """The table in Markdown."""

        def line(cells: tuple[str, ...]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

        rule = "| " + " | ".join("---:" if column in RIGHT else "---" for column in range(len(HEADS))) + " |"
        notes = [f"\n{note}" for note in (self.summary, *self.notes)]
        return "\n".join([f"**{self.title}**\n", line(HEADS), rule, *(line(row.cells) for row in self.rows), *notes])

    def _repr_html_(self) -> str:
        colors = {"pass": "#1a7f37", "fail": "#cf222e", "info": "#57606a"}
        heads = "".join(f"<th>{escape(head)}</th>" for head in HEADS)
        body = []
        for row in self.rows:
            cells = [f"<td>{escape(cell)}</td>" for cell in row.cells]
            cells[4] = f'<td style="color:{colors[row.verdict]}">{row.verdict}</td>'
            body.append(f"<tr>{''.join(cells)}</tr>")
        notes = "".join(f"<p>{escape(note)}</p>" for note in (self.summary, *self.notes))
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        return f"<div><b>{escape(self.title)}</b>{table}{notes}</div>"


def check_record(explanation: Explanation, dtype: str = "float32") -> ReportCard:
    """What can be checked of one explanation alone, without its network; see `Explanation.check`.

    Args:
        explanation: any.
        dtype: precision of the network it came from, which the record does not hold.
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"dtype must be one of {', '.join(TOLERANCES)}, got {dtype!r}.")
    e, tolerance = explanation, TOLERANCES[dtype]
    trusted = e.values if e.mask is None else e.values[e.mask]
    rows = [Row.judged(float((~np.isfinite(trusted)).sum()), 0.0, name="values that are not finite")]
    rows += [_residual(e, tolerance, dtype), _uncertainty(e), _rows_named_once(e), _spread_over_residual(e)]
    if e.mask is not None:
        rows.append(Row.told(float((~e.mask).sum()), name="rows that are not trusted"))
    notes = (
        "Not checked, since they need the network: whether the values are its answer, symmetry, locality, size consistency, "
        "sensitivity, and whether they hold in another gauge or for another seed. Use report_card for these.",
    )
    formula = e.atoms.get_chemical_formula()
    return ReportCard(f"{e.method}: {e.target} of {formula} by {e.level}, {e.gauge} in gauge", tuple(rows), notes)


def remainder_is_declared(e: Explanation) -> bool:
    """Whether the residual may be large: a bias part, an integration error, or orders that were left out."""
    return e.gauge == "parametrization" or e.level in ("pair", "tuple")


def _residual(e: Explanation, tolerance: float, dtype: str) -> Row:
    if e.residual is None:
        return Row.told(note="completeness is not claimed", name="residual per atom")
    if remainder_is_declared(e):
        share = abs(e.residual) / max(float(np.abs(e.values).sum()), 1e-300)
        return Row.told(e.residual, e.units, f"declared remainder, {share:.2g} of the sum of sizes", name="residual")
    size = abs(e.residual) / max(len(e.numbers), 1)
    return Row.judged(size, tolerance, e.units, f"as for a {dtype} network", name="residual per atom")


def _uncertainty(e: Explanation) -> Row:
    if e.uncertainty is None:
        return Row.told(note="none: no ensemble, and no statistics in the weights", name="uncertainty")
    bad = ~np.isfinite(e.uncertainty) | (e.uncertainty < 0)
    return Row.judged(float(bad.sum()), 0.0, name="uncertainties that are negative or not finite")


def _rows_named_once(e: Explanation) -> Row:
    """Rows that name an atom that does not exist, or the same pair, tuple or label as another row."""
    if e.index is None:
        return Row.judged(float(len(e.labels) - len(set(e.labels))), 0.0, name="labels used twice")
    beyond = int(((e.index < -1) | (e.index >= len(e.numbers))).any(axis=1).sum())
    repeated = len(e.index) - len(np.unique(e.index, axis=0))
    return Row.judged(float(beyond + repeated), 0.0, name="rows with unknown or repeated atoms")


def _spread_over_residual(e: Explanation) -> Row:
    """Attributions whose rounding exceeds their differences must not be read."""
    name = "residual over spread of the values"
    finite = e.values[np.isfinite(e.values)]
    spread = float(finite.std()) if finite.size else 0.0
    if e.residual is None or spread == 0.0 or remainder_is_declared(e):
        return Row.told(note="no residual, a declared remainder, or no differences", name=name)
    return Row.judged(abs(e.residual) / spread, 1e-2, "1", "differences below the residual mean nothing", name=name)
