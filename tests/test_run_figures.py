"""Figures of runs: every color, curve and number drawn is that of the run, and legends say what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_run_page import GROUPS, absorbed, everything, flowed, gained, happened, masked_run
from told import COMPOSITION, ELEMENT_MEAN, Told, told_run

from ase_xai.report import (
    analyze,
    carpet,
    charge_transfer,
    event_curves,
    flow_matrix,
    group_curves,
    infrared_by_group,
    run_analyses,
    run_figures,
    write_run_figures,
)
from ase_xai.trajectory.bond_flow import charge_flow
from ase_xai.trajectory.event_table import Events
from ase_xai.trajectory.means import mean
from ase_xai.trajectory.run import Run


@pytest.fixture(scope="module")
def run() -> Run:
    return told_run(n_frames=60, size_every=7, groups=GROUPS)


def words(figure: Figure) -> str:
    """Everything below, above and beside the panels."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [axes.get_title(loc="left"), axes.get_title(), axes.get_ylabel(), axes.get_xlabel()]
    return "\n".join(texts)


def painted(figure: Figure) -> np.ndarray:
    """(N, K, 3) colors of the carpet."""
    (mesh,) = [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]
    return np.asarray(mesh.get_array())[..., :3]


def test_the_carpet_has_the_colors_of_the_whole_run(run: Run) -> None:
    figure = carpet(run, events=happened(run))
    shift = np.array([ELEMENT_MEAN[z] - COMPOSITION[z] for z in run.numbers])
    values, order = run["energies"][...] - shift, [i for atoms in GROUPS.values() for i in atoms]
    limit, drawn = np.percentile(np.abs(values), 98), painted(figure)
    assert drawn.shape == (9, 60, 3)
    for row, atom in enumerate(order):
        red = drawn[row, :, 0] - drawn[row, :, 2]
        strong = np.abs(values[:, atom]) > 0.1 * limit
        assert (np.sign(red) == np.sign(values[:, atom]))[strong].all(), "blue is stabilizing, red is not"
        beyond = np.abs(values[:, atom]) > limit
        assert (np.abs(red[beyond]) > 0.5).all(), "what is beyond the limits has the colors of the ends"
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [f"{run.symbols[i]}{i}" for i in order]
    told = words(figure)
    for part in ("element mean", "gauge: dependent", "98th percentile", Told.model, "proton transfer", "time (fs)"):
        assert part in told, part


def test_signs_of_events_stand_at_their_atoms_and_times(run: Run) -> None:
    figure = carpet(run, "charges", events=happened(run))
    order = [i for atoms in GROUPS.values() for i in atoms]
    signs = {(text.get_position()[0], order[int(text.get_position()[1])], text.get_text()) for text in figure.axes[0].texts}
    assert signs == {(5.0, 3, "◆"), (5.0, 2, "◆"), (5.0, 0, "◆"), (20.0, 1, "○")}
    assert sorted({line.get_xdata()[0] for line in figure.axes[0].lines if line.get_xdata()[0] == line.get_xdata()[1]}) == [
        5.0,
        20.0,
    ]


def test_group_curves_are_sums_with_the_error_of_their_mean(run: Run) -> None:
    figure = group_curves(run, "charges", events=happened(run))
    assert len(figure.axes) == 3
    for axes, (name, atoms) in zip(figure.axes, GROUPS.items(), strict=True):
        expected = run["charges"][:, list(atoms)].sum(axis=1)
        (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 60]
        assert np.abs(curve.get_ydata() - expected).max() < 1e-6 and np.allclose(curve.get_xdata(), run.times)
        found, (band,) = mean(expected), axes.patches
        low, high = band.get_y(), band.get_y() + band.get_height()
        assert (low, high) == pytest.approx((found.value - found.error, found.value + found.error), abs=1e-6)
        assert axes.get_title(loc="left").startswith(f"{name} ({len(atoms)} atoms): ") and "N_eff" in axes.get_title(
            loc="left"
        )
    energies = group_curves(run, "energies")
    for axes in energies.axes:
        (curve,) = [line for line in axes.lines if len(line.get_xdata()) == 60]
        assert abs(float(np.mean(curve.get_ydata()))) < 1e-9, "energies have no zero of their own"
    assert "reference: mean over the run" in words(energies)


def test_what_does_not_add_up_is_averaged_over_groups(run: Run) -> None:
    figure = group_curves(run, "size")
    (curve,) = [line for line in figure.axes[2].lines if len(line.get_xdata()) == 9]
    assert curve.get_ydata() == pytest.approx(run["size"][:, [2, 3]].mean(axis=1), rel=1e-6)
    assert curve.get_xdata() == pytest.approx(run["size"].times)


def test_curves_of_events_are_those_of_their_atoms(run: Run) -> None:
    figure = event_curves(run, happened(run), "charges")
    axes = figure.axes[0]
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 60}
    assert set(drawn) == {"C0", "C1", "O2", "H3"}
    assert np.abs(drawn["O2"] - run["charges"][:, 2]).max() < 1e-6
    with pytest.raises(ValueError, match="no events, so there is nothing to mark"):
        event_curves(run, Events(()))


def test_the_flow_matrix_says_the_work_and_how_well_it_closes(run: Run) -> None:
    flow = flowed(run)
    figure = flow_matrix(flow, frame=30)
    axes = figure.axes[0]
    numbers = np.array([float(text.get_text().replace("−", "-")) for text in axes.texts]).reshape(3, 3)
    assert np.abs(numbers - flow.work[30]).max() <= 0.00501
    assert [text.get_text() for text in axes.get_xticklabels()] == list(flow.labels)
    largest = np.unravel_index(np.abs(flow.work[30]).argmax(), (3, 3))
    red, _, blue = np.asarray(axes.images[0].get_array())[largest][:3]
    assert (red > blue) == (flow.work[30][largest] > 0)
    assert "gauge: dependent" in words(figure) and f"{100 * flow.closure:.2g} %" in words(figure)


def test_curves_of_charge_between_groups_are_what_groups_have_gained(run: Run) -> None:
    between = charge_flow(run).between(GROUPS)
    figure = charge_transfer(between)
    change, leak = gained(run)
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    for name in ("methylene", "hydroxyl"):
        assert np.abs(curves[f"methyl → {name}"] - change[:, GROUPS[name]].sum(axis=1)).max() < 1e-6
    (closure,) = figure.axes[1].lines
    assert np.abs(closure.get_ydata() - 4 / 9 * np.abs(leak)).max() < 1e-6
    said = " ".join(words(figure).split())
    for part in ("charge passed (e)", "closure (e)", "gauge: dependent", f"{between.closure:.2g} e at most"):
        assert part in said, part
    with pytest.raises(ValueError, match="no bond joins two of the groups all"):
        charge_transfer(charge_flow(run).between({"all": range(9)}))


def test_masked_values_are_gray_and_gaps(run: Run) -> None:
    masked, doubted = masked_run(24)
    figure = carpet(masked, "size", groups={"all": range(3)})
    gray = np.abs(painted(figure) - to_rgb("#BDBDBD")).max(axis=2) < 1e-6
    assert np.array_equal(gray, doubted.T) and "Gray, not known or not to be trusted: 12 of 72 values." in words(figure)
    curves = group_curves(masked, "size", groups={"left": [0], "middle": [1], "right": [2]})
    drawn = [next(line for line in axes.lines if len(line.get_xdata()) == 24).get_ydata() for axes in curves.axes]
    assert np.array_equal(np.isnan(np.array(drawn)), doubted.T) and "Gaps: a value in the group is not known" in words(
        curves
    )
    assert "Gaps" not in words(group_curves(run, "charges"))


def test_infrared_terms_make_the_total(run: Run) -> None:
    spectrum = absorbed(run)
    figure = infrared_by_group(spectrum)
    top, bottom = ({line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines} for axes in figure.axes)
    assert set(top) == {"total", *GROUPS} and "all cross terms" in bottom and len(bottom) == 4
    shown = spectrum.wavenumbers <= 4500
    summed = sum(top[name] for name in GROUPS) + bottom["all cross terms"]
    assert np.abs(summed - top["total"]).max() < 1e-12 * np.abs(top["total"]).max()
    pairs = sum(curve for name, curve in bottom.items() if name != "all cross terms")
    assert np.abs(pairs - bottom["all cross terms"]).max() < 1e-9 * np.abs(top["total"]).max()
    (band,) = figure.axes[0].collections
    upper = band.get_paths()[0].vertices[:, 1].max()
    assert upper == pytest.approx((spectrum.total + spectrum.error)[shown].max())
    low, high = figure.axes[0].get_xlim()
    assert low > high and spectrum.units in words(figure) and "resolution" in words(figure)


def test_long_runs_are_thinned_and_say_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_figures, "MAX_DRAWN", 20)
    figure = carpet(run, "charges")
    assert painted(figure).shape == (9, 20, 3) and "20 of 60 frames" in words(figure)


def test_missing_fields_are_named(run: Run) -> None:
    with pytest.raises(ValueError, match="no field 'spin' with one number for each atom; there are energies, charges, size"):
        carpet(run, "spin")


def test_all_figures_are_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(run_analyses, "group_curves", lambda *a, **k: drawn.append(a) or Figure())
    monkeypatch.setattr(run_analyses, "event_curves", lambda *a, **k: drawn.append(a) or Figure())
    paths = write_run_figures(run, tmp_path / "new", analyses=everything(run)["analyses"], formats=("png", "svg"))
    names = {path.name for path in paths}
    assert {
        "carpet-size.png",
        "groups-energies.svg",
        "events-charges.png",
        "energy-flow.svg",
        "infrared.png",
        "charge-flow.svg",
    } <= names
    assert all(path.stat().st_size > 500 for path in paths) and len(drawn) == 6


def test_analyses_say_what_they_lack() -> None:
    found = analyze(told_run(n_frames=40))
    assert found.events is not None and found.flow is None and found.spectrum is not None
    assert set(found.missing) == {"flow"} and "energy_flow" in found.missing["flow"]
    relaxed = analyze(told_run(n_frames=40, dt=None))
    assert "counts in 'step'" in relaxed.missing["spectrum"]


def test_numbers_that_are_not_known_are_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    charges = np.tile([0.1, -0.2, 0.3], (6, 1))
    run = told_run("H2O", 6, charges=charges)
    field = type(run["charges"]).__getitem__

    def holed(self: Any, key: Any) -> Any:
        values = np.array(field(self, key), dtype=np.float64)
        if self.name == "charges" and values.shape == (6, 3):
            values[2, 1] = np.nan
        return values

    monkeypatch.setattr(type(run["charges"]), "__getitem__", holed)
    drawn = painted(carpet(run, "charges", groups={"all": range(3)}))
    assert drawn[1, 2] == pytest.approx(to_rgb("#BDBDBD")) and drawn[1, 3] != pytest.approx(to_rgb("#BDBDBD"))
