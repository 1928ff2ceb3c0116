"""Flow of energy and charge between groups, as figures and as data of a run's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ase_xai.report import colors
from ase_xai.report.charts import KIND_COLORS
from ase_xai.report.colors import Floats, number
from ase_xai.report.page import scale_data
from ase_xai.report.run_data import Members, packed
from ase_xai.report.run_extras import look_of
from ase_xai.report.sheets import chart, style
from ase_xai.report.training import INK, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ase_xai.trajectory.bond_flow import ChargeFlow, GroupTransfer
    from ase_xai.trajectory.flow import EnergyFlowResult
    from ase_xai.trajectory.run import Run

WIDTH = 7.2  # inches
MAX_PAIRS = 8  # curves that can be told apart


def flow_data(run: Run, kept: NDArray[np.int64], flow: EnergyFlowResult | None) -> dict[str, Any] | None:
    """The matrix of cumulative work at each frame drawn: the last one known then."""
    if flow is None:
        return None
    row = _rows(run, kept, flow.times)
    work = np.where((row >= 0)[:, None, None], flow.work[np.maximum(row, 0)], np.nan)
    scale = colors.scale_of(np.asarray(flow.work).ravel(), "eV", signed=True)
    return {
        "labels": list(flow.labels),
        "units": "eV",
        "work": packed(work.ravel()),
        "scale": scale_data(scale),
        "note": (
            f"Rows sum to the change of a group's energy, up to {100 * flow.closure:.2g} % of the largest change; "
            f"the split depends on how the network divides its energy (gauge: {flow.gauge}). {scale.words}"
        ),
    }


def charge_flow_data(run: Run, kept: NDArray[np.int64], flow: ChargeFlow | None, groups: Members) -> dict[str, Any] | None:
    """Charge that has passed each bond at each frame drawn (the last one known then), and which bonds join which groups."""
    if flow is None or not len(flow.bonds):
        return None
    between, row = flow.between(groups), _rows(run, kept, flow.frames)
    member = {atom: place for place, atoms in enumerate(groups.values()) for atom in atoms}
    pairs = []
    for place, k in enumerate(largest_pairs(between)):
        g, h = (int(end) for end in between.pairs[k])
        signs = [[e, 1 if member[int(i)] == g else -1] for e, (i, j) in enumerate(flow.bonds)
                 if {member[int(i)], member[int(j)]} == {g, h}]  # fmt: skip
        pairs.append({"name": between.names[k], "signs": signs, **look_of(place, KIND_COLORS)})
    return {
        "bonds": flow.bonds.tolist(),
        "passed": packed(flow.transferred[row]),
        "gap": packed(np.abs(between.residual).max(axis=1)[row]),
        "pairs": pairs,
        "note": " ".join([*transfer_words(between), "Bonds of chosen atoms are drawn besides."]),
    }


def largest_pairs(between: GroupTransfer) -> list[int]:
    """Places of the pairs of groups between which most charge has passed, in the order of the pairs."""
    sizes = np.abs(between.passed).max(axis=0, initial=0.0)
    return sorted(np.argsort(-sizes, kind="stable")[:MAX_PAIRS].tolist())


def transfer_words(between: GroupTransfer) -> list[str]:
    """What the curves of charge between groups are, and how well they account for the change of the groups' charges."""
    largest, n_pairs = float(np.abs(between.changes).max(initial=0.0)), len(between.pairs)
    drawn = f"; the {MAX_PAIRS} largest of {n_pairs} pairs of groups" if n_pairs > MAX_PAIRS else ""
    rings = "Groups are joined in rings, where this is the smallest flow (least Σf²) that makes the charges change so."
    return [
        f"Net charge that has passed along bonds since the start, from the first to the second group{drawn}; latent charges "
        f"(gauge: {between.gauge}).",
        "Charge conservation alone fixes it." if between.unique else rings,
        f"Closure: what came to a group, or left it, along no bond is {number(between.closure, 2)} e at most; the charge of "
        f"a group changes by {number(largest, 2)} e at most.",
    ]


def _rows(run: Run, kept: NDArray[np.int64], times: Floats) -> NDArray[np.int64]:
    """The last of `times` at or before each frame drawn; -1 where there is none."""
    return np.searchsorted(times, np.asarray(run.times)[kept] * (1 + 1e-12), side="right") - 1


def flow_matrix(flow: EnergyFlowResult, frame: int = -1) -> Figure:
    """The work that the motion of each group (columns) has done on the energy of each group (rows) up to a frame.

    Args:
        flow: see `trajectory.energy_flow`.
        frame: which one.
    """
    work, n = flow.work[frame], len(flow.labels)
    scale = colors.scale_of(np.asarray(flow.work).ravel(), flow.units, signed=True)
    lines = [
        f"From {number(flow.times[0])} to {number(flow.times[frame], 6)} {flow.time_unit}; gauge: {flow.gauge}.",
        scale.words,
        f"Rows sum to the change of a group's energy, up to {100 * flow.closure:.2g} % of the largest change.",
    ]
    figure, axes = chart(max(3.6, 2.4 + 0.7 * n), max(2.2, 1.2 + 0.5 * n), lines)
    fills = scale.colors(work)
    axes.imshow(fills, aspect="auto")
    for g, h in np.ndindex(n, n):
        axes.text(h, g, f"{work[g, h]:.2f}".replace("-", "−"), ha="center", va="center", fontsize=SMALL,
                  color=colors.ink_on(fills[g, h]))  # fmt: skip
    style(axes, "work by the motion of", f"energy of ({flow.units})")
    axes.grid(visible=False)
    axes.set_xticks(range(n), flow.labels)
    axes.set_yticks(range(n), [f"{label}  Σ {number(work[g].sum(), 2)}" for g, label in enumerate(flow.labels)])
    return figure


def charge_transfer(between: GroupTransfer) -> Figure:
    """The charge that has passed between groups along bonds, over time; below it what no bond has brought.

    Args:
        between: of `trajectory.charge_flow(run).between(groups)`.

    Raises:
        ValueError: groups that no bond joins.
    """
    if not len(between.pairs):
        raise ValueError(f"no bond joins two of the groups {', '.join(between.labels)}. Choose groups inside of molecules.")
    unit = "step" if between.time_unit == "step" else f"time ({between.time_unit})"
    figure, axes = chart(WIDTH, 2.0, transfer_words(between), nrows=2, sharex=True, height_ratios=(2, 1))
    for place, k in enumerate(largest_pairs(between)):
        look = look_of(place, KIND_COLORS)
        dashes = (0, tuple(look["dash"])) if look["dash"] else "-"
        axes[0].plot(between.times, between.passed[:, k], color=look["color"], linestyle=dashes, linewidth=0.9,
                     label=between.names[k])  # fmt: skip
    axes[0].legend(fontsize=SMALL, frameon=False, labelcolor=INK, ncols=2)
    axes[1].plot(between.times, np.abs(between.residual).max(axis=1), color=INK, linewidth=0.9)
    axes[1].set_ylim(bottom=0.0)
    axes[1].yaxis.get_offset_text().set_fontsize(SMALL)
    style(axes[0], "", f"charge passed ({between.units})")
    style(axes[1], unit, f"closure ({between.units})")
    return figure
