"""One convention for the colors of explanations, shared by figures and pages, and the words that stand beside them.

Energies: blue is stabilizing. Charges: red is negative. Everything else that has a sign: purple is negative. Sizes without a
sign (uncertainties, rigidities): from dark to light on a logarithmic scale. What should not be trusted is gray and hatched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap, Normalize

Floats = NDArray[np.float64]
Several = Explanation | Sequence[Explanation] | Mapping[str, Explanation]

SIGNED = {"eV": "RdBu_r", "e": "RdBu"}
OTHER_SIGNED, UNSIGNED = "PuOr_r", "cividis"
ENDS = 0.1, 0.9  # part of a color map that is used: shading in 3-D would darken the rest to black
N_COLORS = 256
PERCENTILE = 98.0
ROUNDING = 1e-9  # relative; equal values do not count as beyond their own percentile
UNTRUSTED = "#BDBDBD"
HATCH = "////"
SHOWN = ("values", "uncertainty")


@dataclass(frozen=True)
class Scale:
    """How numbers become colors, the same in every picture that shares it.

    Args:
        colormap: matplotlib's name.
        low, high: numbers that get the first and the last color, in `units`; those beyond get these colors too.
        logarithmic: whether colors follow the logarithm.
        units: of the numbers.
        n_values, n_beyond: how many numbers the limits were taken from, and how many of them lie beyond the limits.
    """

    colormap: str
    low: float
    high: float
    logarithmic: bool
    units: str
    n_values: int
    n_beyond: int

    @property
    def table(self) -> NDArray[np.uint8]:
        """(256, 3) colors from `low` to `high`, red, green and blue from 0 to 255."""
        from matplotlib import colormaps

        return np.rint(255 * colormaps[self.colormap](np.linspace(*ENDS, N_COLORS))[:, :3]).astype(np.uint8)

    @property
    def map(self) -> ListedColormap:
        from matplotlib.colors import ListedColormap

        return ListedColormap(self.table / 255.0)

    @property
    def norm(self) -> Normalize:
        from matplotlib.colors import LogNorm, Normalize

        return (LogNorm if self.logarithmic else Normalize)(self.low, self.high, clip=True)

    def colors(self, values: ArrayLike, mask: NDArray[np.bool_] | None = None) -> Floats:
        """(..., 3) red, green and blue from 0 to 1 of `values`; gray where `mask` is False or the number is not finite."""
        numbers = np.asarray(values, dtype=np.float64)
        trusted = np.isfinite(numbers) if mask is None else np.isfinite(numbers) & mask
        known = np.where(trusted, numbers, self.high)
        position = np.asarray(self.norm(np.maximum(known, self.low)))
        found = self.table[np.clip((N_COLORS * position).astype(np.int64), 0, N_COLORS - 1)] / 255.0
        return np.where(trusted[..., None], found, [int(UNTRUSTED[i : i + 2], 16) / 255 for i in (1, 3, 5)])

    @property
    def words(self) -> str:
        """The limits and where they come from."""
        if not self.n_values:
            return "No value is to be trusted, so none has a color."
        beyond = f", {self.n_beyond} beyond" if self.n_beyond else ""
        if self.logarithmic:
            share = f"{100 - PERCENTILE:.0f}nd to {PERCENTILE:.0f}th percentile of {self.n_values:,} values{beyond}"
            return f"Colors {number(self.low)} to {with_units(self.high, self.units)}, logarithmic: {share}."
        share = f"{PERCENTILE:.0f}th percentile of |value| over {self.n_values:,} values{beyond}"
        return f"Colors ±{with_units(self.high, self.units)}: {share}."


def shared_scale(explanations: Several, show: str = "values") -> Scale:
    """One scale for all numbers of all `explanations`: limits at the 98th percentile of their size.

    Args:
        explanations: of the same quantity; what they do not trust is left out.
        show: "values" or "uncertainty".
    """
    records = together(explanations)
    numbers = np.concatenate([shown_numbers(record, show)[trusted_rows(record)].ravel() for record in records])
    return scale_of(numbers, records[0].units, signed=show == "values" and not _has_no_sign(records[0], numbers))


def scale_of(numbers: Floats, units: str, *, signed: bool) -> Scale:
    """The scale of some numbers: symmetric about zero, or logarithmic for sizes without a sign."""
    numbers = numbers[np.isfinite(numbers)]
    if not signed:
        positive = numbers[numbers > 0]
        low, high = np.percentile(positive, [100 - PERCENTILE, PERCENTILE]) if positive.size else (0.1, 1.0)
        low, high = (low, high) if high > 1.01 * low else (low / 1.1, low * 1.1)
        n_beyond = int(np.count_nonzero((numbers < low * (1 - ROUNDING)) | (numbers > high * (1 + ROUNDING))))
        return Scale(UNSIGNED, float(low), float(high), True, units, numbers.size, n_beyond)
    limit = float(np.percentile(np.abs(numbers), PERCENTILE)) if numbers.size else 1.0
    limit = limit or float(np.abs(numbers).max(initial=0.0)) or 1.0
    n_beyond = int(np.count_nonzero(np.abs(numbers) > limit * (1 + ROUNDING)))
    return Scale(SIGNED.get(units, OTHER_SIGNED), -limit, limit, False, units, numbers.size, n_beyond)


def _has_no_sign(explanation: Explanation, numbers: Floats) -> bool:
    """Whether numbers are sizes, such as rigidities: by their name, or because none of no signed quantity is negative."""
    by_name = explanation.target.startswith(("uncertainty", "rigidity"))
    return by_name or (explanation.units not in SIGNED and bool((numbers >= 0).all() and (numbers > 0).any()))


def named(explanations: Several) -> dict[str, Explanation]:
    """Explanations by the name that is printed above each: the one given, else the formula of the atoms."""
    if isinstance(explanations, Mapping):
        return dict(explanations)
    records = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    names = [formula(record) for record in records]
    places = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    titles = [f"{n} ({place})" if names.count(n) > 1 else n for n, place in zip(names, places, strict=True)]
    return dict(zip(titles, records, strict=True))


def together(explanations: Several, *levels: str) -> list[Explanation]:
    """The explanations as a list, after checking that they may be drawn, and in one picture.

    Args:
        levels: what their level must be; none allows all.

    Raises:
        ValueError: none at all, another level, quantities that differ, or gauge-dependent energies without a reference.
    """
    records = list(named(explanations).values())
    if not records:
        raise ValueError("there is no explanation to draw: the list is empty. Give at least one.")
    first = records[0]
    for record in records:
        if levels and record.level not in levels:
            raise ValueError(
                f"this figure draws level {' or '.join(map(repr, levels))}, got {record.level!r} of {record.method}. Choose "
                "the figure that is made for it, or another explainer."
            )
        for name in ("target", "level", "units", "reference", "gauge"):
            mine, theirs = getattr(first, name), getattr(record, name)
            if mine != theirs:
                raise ValueError(
                    f"explanations with {name} {mine!r} and {theirs!r} have no common scale. Draw them apart, or make them "
                    "the same way."
                )
        refuse_bare(record)
    return records


def refuse_bare(explanation: Explanation) -> None:
    """Raise ValueError for gauge-dependent energies from which nothing was subtracted."""
    e = explanation
    if e.units == "eV" and e.gauge == "dependent" and e.reference == "none":
        known = ", ".join(f"{name!r}" for name in e.baselines)
        how = f"explanation.relative({next(iter(e.baselines), 'composition')!r})"
        here = f"one of {known}" if known else "these weights bring none, so another explanation"
        raise ValueError(
            f"{e.target} of {e.method} has reference 'none', and absolute values of gauge {e.gauge!r} show the network's "
            f"arbitrary choices, not the atoms. Subtract a reference first ({here}), e.g. {how} or explanation - other."
        )


def scalars(explanation: Explanation) -> Explanation:
    """The explanation itself, after checking that each row has one number, which a color can show."""
    if explanation.values.ndim != 1:
        raise ValueError(
            f"{explanation.target} has values of shape {explanation.values.shape}; a color shows one number a row. Reduce "
            "them first, e.g. dataclasses.replace(explanation, values=numpy.linalg.norm(explanation.values, axis=1), ...)."
        )
    return explanation


def shown_numbers(explanation: Explanation, show: str) -> Floats:
    """What is drawn: the values or their uncertainty."""
    if show not in SHOWN:
        raise ValueError(f"show must be one of {', '.join(SHOWN)}, got {show!r}.")
    if show == "values":
        return explanation.values
    if explanation.uncertainty is None:
        raise ValueError(
            f"{explanation.method} by {explanation.model or 'this model'} has no uncertainty to draw. Explain with an "
            "Ensemble, or with weights that have training statistics."
        )
    return explanation.uncertainty


def trusted_rows(explanation: Explanation) -> NDArray[np.bool_]:
    """One truth per row: whether its value is drawn in color."""
    return np.ones(len(explanation.values), dtype=bool) if explanation.mask is None else explanation.mask


def quantity(explanation: Explanation, show: str = "values") -> str:
    """Name and unit for axes and color bars, e.g. "latent energy − composition (eV)"."""
    e = explanation
    name = f"latent {e.target}" if e.gauge == "dependent" else e.target
    if show == "uncertainty":
        return f"uncertainty of {name}, 1σ ({shown_units(e.units)})"
    if e.reference.startswith("another explanation"):
        return f"difference in {name} ({shown_units(e.units)})"
    minus = "" if e.reference == "none" else f" − {e.reference.replace('_', ' ')}"
    return f"{name}{minus} ({shown_units(e.units)})"


def legend(explanations: Several, *further: str) -> list[str]:
    """Sentences for below a figure: method, reference, gauge, model, residual, uncertainty; then `further` ones."""
    records = list(named(explanations).values())
    first = records[0]
    methods = ", ".join(dict.fromkeys(record.method for record in records))
    about = f"{methods} by {first.level}; reference: {first.reference}; gauge: {first.gauge}."
    models = "; ".join(dict.fromkeys(f"{record.model} ({short_id(record)})" for record in records if record.model))
    residuals = [record.residual for record in records if record.residual is not None]
    spreads = [r.uncertainty[trusted_rows(r)].ravel() for r in records if r.uncertainty is not None]
    claimed = f"Residual {with_units(max(residuals, key=abs), first.units)}." if residuals else ""
    closing = claimed or "Completeness is not claimed."
    known = np.concatenate([spread[np.isfinite(spread)] for spread in spreads]) if spreads else np.zeros(0)
    if known.size:
        closing += f" Uncertainty 1σ: median {number(np.median(known))}, largest {with_units(known.max(), first.units)}."
    else:
        closing += " Uncertainty known only where values are not to be trusted." if spreads else " Uncertainty unknown."
    n_values = sum(len(record.values) for record in records)
    n_masked = sum(int(np.count_nonzero(~trusted_rows(record))) for record in records)
    gray = [f"Gray, not to be trusted: {n_masked:,} of {n_values:,} values."] if n_masked else []
    return [about, f"Model: {models or 'not stated'}.", closing, *further, *gray]


def trusted_spread(explanation: Explanation) -> str:
    """ ", 1σ 0.07 eV": the median uncertainty of trusted values, for a title; nothing where there is none."""
    e = explanation
    known = np.zeros(0) if e.uncertainty is None else e.uncertainty[trusted_rows(e)]
    known = known[np.isfinite(known)]
    return f", 1σ {with_units(float(np.median(known)), e.units, 2)}" if known.size else ""


def short_id(explanation: Explanation) -> str:
    """The first digits of the SHA-256 of the weights, of each model."""
    return "+".join(part[:12] for part in explanation.model_id.split("+"))


def formula(explanation: Explanation) -> str:
    """The formula of the atoms, with subscripts as matplotlib writes them."""
    return re.sub(r"(\d+)", r"$_{\1}$", explanation.atoms.get_chemical_formula())


def shown_units(units: str) -> str:
    return "dimensionless" if units == "1" else units


def number(value: float, digits: int = 3) -> str:
    """A number with a true minus sign."""
    return f"{float(value):.{digits}g}".replace("-", "−")


def with_units(value: float, units: str, digits: int = 3) -> str:
    """A number with its unit, if it has one."""
    return number(value, digits) if units == "1" else f"{number(value, digits)} {units}"


def atom_names(explanation: Explanation) -> list[str]:
    """ "C0", "H1" ..."""
    return [f"{chemical_symbols[z]}{i}" for i, z in enumerate(explanation.numbers)]


def ink_on(color: ArrayLike) -> str:
    """Black or white, whichever reads better on a color (relative luminance of WCAG 2)."""
    rgb = np.asarray(color, dtype=np.float64)[:3]
    linear: Any = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "#FFFFFF" if float(linear @ [0.2126, 0.7152, 0.0722]) < 0.25 else "#222222"
