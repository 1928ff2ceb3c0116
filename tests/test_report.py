"""Figures of a training show every number with its unit, agree with independent arithmetic, and touch nothing global."""

from __future__ import annotations

import io
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_xai.report import learning_curve, parity

ROOT = Path(__file__).parents[1]
METRICS = {
    "step": [100.0, 200.0, 300.0],
    "learning_rate": [1e-3, 5e-4, 0.0],
    "loss": [3.0, 2.0, 1.5],
    "energy_mae_eV_per_atom": [0.05, 0.02, 0.03],
    "forces_mae_eV_per_A": [0.9, 0.3, 0.2],
    "dipole_length_mae_eA": [0.3, 0.2, 0.1],
}


def rendered(figure: Figure) -> bytes:
    """A PNG; drawing is where degenerate limits and wrong scales fail."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def panel(figure: Figure, label: str) -> Axes:
    (found,) = (axes for axes in figure.axes if label in axes.get_ylabel())
    return found


def curve(axes: Axes) -> tuple[list[float], list[float]]:
    (line,) = axes.get_lines()
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def numbers(figure: Figure) -> dict[str, str]:
    """What the text in the parity panel says, by name."""
    (text,) = figure.axes[0].texts
    return dict(line.split(" = ") for line in text.get_text().split("\n"))


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("energy_mae_eV_per_atom", "energy MAE (meV/atom)"),
        ("energy_mae_meV", "energy MAE (meV)"),
        ("forces_mae_eV_per_A", "forces MAE (meV/Å)"),
        ("forces_rmse_eV_per_A", "forces RMSE (meV/Å)"),
        ("stress_mae_eV_per_A3", "stress MAE (meV/Å³)"),
        ("dipole_length_mae_eA", "dipole length MAE (e·Å)"),
        ("dipole_mae_D", "dipole MAE (D)"),
        ("charges_mae_e", "charges MAE (e)"),
        ("energy_mae_kcal_per_mol", "energy MAE (kcal/mol)"),
    ],
)
def test_an_error_column_becomes_a_label_with_its_unit(column: str, label: str) -> None:
    columns = {name: METRICS[name] for name in ("step", "learning_rate", "loss")}
    assert panel(learning_curve({**columns, column: [3.0, 2.0, 1.0]}), "E (").get_ylabel() == label


def test_errors_are_drawn_in_the_unit_of_their_label_over_optimizer_steps() -> None:
    figure = learning_curve(METRICS)
    for label, expected in (
        ("energy MAE (meV", [50, 20, 30]),
        ("forces MAE (meV", [900, 300, 200]),
        ("(e·Å)", [0.3, 0.2, 0.1]),
    ):
        axes = panel(figure, label)
        x, y = curve(axes)
        assert x == METRICS["step"]
        assert y == pytest.approx(expected)
        assert axes.get_yscale() == "log"
    assert panel(figure, "energy").get_title(loc="right") == "lowest 20, last 30 meV/atom"
    lowest = [axes.get_xlabel() for axes in (panel(figure, "dipole"), panel(figure, "training loss"))]
    assert lowest == ["optimizer step"] * 2


def test_the_learning_rate_stands_behind_the_loss_on_its_own_axis() -> None:
    figure = learning_curve(METRICS)
    loss, rate = panel(figure, "training loss"), panel(figure, "learning rate")
    assert curve(loss) == (METRICS["step"], METRICS["loss"])
    power = re.search(r"10\^\{(-?\d+)\}", rate.get_ylabel())
    assert power is not None
    assert [y * 10.0 ** int(power[1]) for y in curve(rate)[1]] == pytest.approx(METRICS["learning_rate"])
    assert loss.get_zorder() > rate.get_zorder()
    assert rate.get_ylim()[0] == 0


def test_every_axis_has_a_label_and_a_unit() -> None:
    x = np.linspace(0, 1, 2500)
    curves, pairs = learning_curve(METRICS), parity(x, x**2, quantity="energy", unit="eV")
    assert curves.dpi == pairs.dpi == 150
    assert all(re.fullmatch(r".+ \(.+\)", axes.get_ylabel()) for axes in curves.axes)
    assert [axes.get_xlabel() for axes in curves.axes[:4]] == ["", "", "optimizer step", "optimizer step"]
    assert [axes.get_xlabel() for axes in pairs.axes] == ["reference energy (eV)", "predicted − reference energy (eV)"]
    assert [axes.get_ylabel() for axes in pairs.axes] == ["predicted energy (eV)", "count of pairs"]
    (bar,) = pairs.axes[0].child_axes
    assert bar.get_ylabel() == "pairs per hexagon"


@pytest.mark.parametrize("n_rows", [1, 2, 70])
def test_constant_columns_and_single_rows_are_drawn(n_rows: int) -> None:
    figure = learning_curve({name: [values[0]] * n_rows for name, values in METRICS.items()})
    rendered(figure)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ((value, *_),) = (curve(axes)[1],)
        assert low < value < high
    visible = [tick for tick in panel(figure, "energy").get_yticks() if 40 < tick < 60]
    assert len(visible) >= 2, "a reader needs two ticks to read a value"


@pytest.mark.parametrize(("low", "high"), [(7.0, 25.0), (140.0, 240.0), (0.99, 1.01), (1e-5, 1e3), (0.05, 1.0)])
def test_any_range_gets_between_two_and_ten_ticks(low: float, high: float) -> None:
    axes = panel(learning_curve({**METRICS, "dipole_length_mae_eA": [high, low, low]}), "dipole")
    bottom, top = axes.get_ylim()
    assert bottom < low <= high < top
    assert 2 <= sum(bottom <= tick <= top for tick in axes.get_yticks()) <= 10


def test_numbers_without_a_place_on_a_logarithmic_axis_are_left_out() -> None:
    nan = math.nan
    figure = learning_curve({**METRICS, "loss": [nan, 2.0, 1.0], "energy_mae_eV_per_atom": [0.0] * 3})
    rendered(figure)
    assert [text.get_text() for text in panel(figure, "energy").texts] == ["no positive value"]
    assert curve(panel(figure, "training loss"))[1][1:] == [2.0, 1.0]
    rendered(learning_curve({**METRICS, "loss": [nan] * 3, "learning_rate": [nan] * 3}))
    rendered(learning_curve({**METRICS, "loss": [1.0, -1.0, 0.0], "learning_rate": [0.0] * 3}))


@pytest.mark.parametrize("n_errors", range(8))
def test_there_is_one_panel_per_error_and_one_for_the_loss(n_errors: int) -> None:
    columns = {name: METRICS[name] for name in ("step", "learning_rate", "loss")}
    errors = {f"part{i}_mae_eV": [2.0, 1.0, 0.5] for i in range(n_errors)}
    figure = learning_curve({**columns, **errors, "seconds": [1.0, 2.0, 3.0]})
    rendered(figure)
    assert len(figure.axes) == n_errors + 2  # the learning rate has an axis of its own


def test_incomplete_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="columns lack learning_rate, loss; they hold step"):
        learning_curve({"step": [1.0]})
    with pytest.raises(ValueError, match="no row of metrics"):
        learning_curve({name: [] for name in METRICS})
    with pytest.raises(ValueError, match="differ in length"):
        learning_curve({**METRICS, "loss": [1.0]})


@pytest.mark.parametrize("n", [7, 5000])
def test_the_numbers_in_the_panel_equal_independent_arithmetic(n: int) -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=n)
    predicted = reference + rng.normal(0.02, 0.1, size=n)
    errors = [p - r for r, p in zip(reference.tolist(), predicted.tolist(), strict=True)]
    found = numbers(parity(reference, predicted, quantity="force component", unit="eV/Å"))
    assert found == {
        "n": f"{n:,}",
        "MAE": f"{math.fsum(map(abs, errors)) / n:.4g} eV/Å",
        "RMSE": f"{math.sqrt(statistics.fmean(e * e for e in errors)):.4g} eV/Å",
        "max |error|": f"{max(max(errors), -min(errors)):.4g} eV/Å",
    }


def test_parity_is_a_square_about_its_diagonal_that_shows_every_point() -> None:
    figure = parity([[0.0, 1.0], [2.0, 3.0]], [[0.5, 1.0], [-4.0, 3.0]], quantity="charge", unit="e", title="water")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reference charge (e)", "predicted charge (e)")
    assert figure.get_suptitle() == "water"
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < -4 and axes.get_xlim()[1] > 3
    rendered(figure)
    box = axes.get_window_extent()
    assert box.width == pytest.approx(box.height, rel=1e-6)
    x, y = curve(axes)
    assert x == y == list(axes.get_xlim())
    (points,) = axes.collections
    assert points.get_offsets().tolist() == [[0.0, 0.5], [1.0, 1.0], [2.0, -4.0], [3.0, 3.0]]


@pytest.mark.parametrize(("n", "colored"), [(2000, False), (2001, True)])
def test_many_points_become_hexagons_that_hold_all_of_them(n: int, colored: bool) -> None:
    x = np.linspace(-1.0, 1.0, n)
    (points,) = parity(x, x**3, quantity="energy", unit="eV").axes[0].collections
    counts = points.get_array()
    assert (counts is not None) is colored
    if counts is not None:
        assert counts.sum() == n
        assert points.norm.vmin == 1 and points.norm.vmax == counts.max()


def test_residuals_are_counted_about_zero_and_far_ones_are_mentioned() -> None:
    error = np.concatenate([np.linspace(-0.1, 0.3, 999), [50.0]])
    residuals = parity(np.zeros(1000), error, quantity="energy", unit="eV").axes[1]
    bars = residuals.patches
    assert sum(bar.get_height() for bar in bars) == 999
    positive = sum(bar.get_height() for bar in bars if bar.get_x() > 0)
    negative = sum(bar.get_height() for bar in bars if bar.get_x() + bar.get_width() < 0)
    assert positive > 2 * negative, "predicted − reference: predictions that are too high stand at the right"
    assert len(bars) % 2 == 1
    middle = bars[len(bars) // 2]
    assert middle.get_x() + middle.get_width() / 2 == pytest.approx(0, abs=1e-12)
    mean, outside = residuals.get_title(loc="right").split("; ")
    assert mean == f"mean error {math.fsum(error) / 1000:.3g} eV"
    assert outside.startswith("1 beyond ±")
    assert residuals.get_xlabel() == "predicted − reference energy (eV)"


def test_pairs_with_nan_are_dropped_and_said() -> None:
    nan = math.nan
    figure = parity([1.0, nan, 3.0, 4.0], [1.5, 2.0, nan, 4.0], quantity="energy", unit="eV")
    assert numbers(figure) | {"RMSE": ""} == {
        "n": "2 (2 with NaN dropped)",
        "MAE": "0.25 eV",
        "RMSE": "",
        "max |error|": "0.5 eV",
    }


@pytest.mark.parametrize("value", [0.0, 5.0, -11000.0])
@pytest.mark.parametrize("n", [1, 3, 3000])
def test_constant_values_and_single_pairs_are_drawn(value: float, n: int) -> None:
    figure = parity([value] * n, [value] * n, quantity="energy", unit="eV")
    rendered(figure)
    low, high = figure.axes[0].get_xlim()
    assert low < value < high
    assert numbers(figure)["MAE"] == "0 eV"


def test_input_without_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair of energy to draw: the input is empty"):
        parity([], [], quantity="energy", unit="eV")
    with pytest.raises(ValueError, match="all 2 pairs hold a NaN"):
        parity([1.0, math.nan], [math.nan, 2.0], quantity="energy", unit="eV")
    with pytest.raises(ValueError, match=r"reference \(2,\), predicted \(1,\)"):
        parity([1.0, 2.0], [1.0], quantity="energy", unit="eV")
    with pytest.raises(ValueError, match="infinite"):
        parity([1.0], [math.inf], quantity="energy", unit="eV")


def test_equal_input_gives_equal_pixels() -> None:
    assert rendered(learning_curve(METRICS)) == rendered(learning_curve(METRICS))


NOTHING_GLOBAL = """
import io, sys
import ase_xai.report
assert "matplotlib" not in sys.modules, "matplotlib is slow to import and belongs into the functions"
import matplotlib
def settings():  # asking for the backend would load pyplot
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
figure = ase_xai.report.learning_curve({"step": [1], "learning_rate": [0.1], "loss": [1.0], "energy_mae_eV": [0.1]})
figure.savefig(io.BytesIO(), format="png")
ase_xai.report.parity(range(3000), range(3000), quantity="energy", unit="eV").savefig(io.BytesIO(), format="png")
loaded = {"matplotlib.pyplot", "torch"} & set(sys.modules)
assert not loaded, loaded
assert settings() == before
"""


def test_neither_pyplot_nor_torch_is_loaded_and_no_setting_changes() -> None:
    run = subprocess.run([sys.executable, "-c", NOTHING_GLOBAL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
