"""Figures of explanations: colors, lengths and sums agree with independent arithmetic, and every number has its legend."""

from __future__ import annotations

import io
import itertools
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from ase.build import molecule as ase_molecule
from explained import NETWORKS, write_weights
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from matplotlib.text import Text

from ase_xai import load
from ase_xai.explainers.atomic_energies import AtomicEnergies
from ase_xai.explainers.card import ReportCard, Row
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.insertion import InsertionEnergy
from ase_xai.report import (
    by_element,
    card_table,
    colors,
    decay,
    embedding,
    gallery,
    molecule,
    periodic_table,
    probe_planes,
    probe_surfaces,
    waterfall,
)
from ase_xai.report.elements import place_drawn
from ase_xai.report.molecules import bonds_of
from ase_xai.report.surfaces import rasterize

ROOT = Path(__file__).parents[1]
GRAY = to_rgb("#BDBDBD")


def explained(name: str = "CH3CH2OH", seed: int = 0, **about: Any) -> Explanation:
    """Atomic energies of a molecule, drawn at random."""
    atoms, rng = ase_molecule(name), np.random.default_rng(seed)
    facts = {
        "target": "energy", "level": "atom", "values": rng.normal(0, 0.4, len(atoms)), "units": "eV", "gauge": "dependent",
        "reference": "composition", "residual": -2.5e-9, "method": "AtomicEnergies", "model": "invented [none]",
        "model_id": "0123456789abcdef" * 4, "numbers": atoms.numbers, "positions": atoms.positions,
        "cell": atoms.cell.array, "pbc": atoms.pbc,
    }  # fmt: skip
    return Explanation(**{**facts, **about})


def sphere(probe: str = "H", n: int = 12, seed: int = 0, **about: Any) -> Explanation:
    """Probe values on a sphere of radius 2 Å around water: triangles between circles of latitude, seen from outside."""
    polar, turn = np.linspace(0, np.pi, n + 1)[1:-1], 2 * np.pi * np.arange(2 * n) / (2 * n)
    rings = [[np.sin(p) * np.cos(t), np.sin(p) * np.sin(t), np.cos(p)] for p in polar for t in turn]
    points = 2.0 * np.array([[0, 0, 1.0], *rings, [0, 0, -1.0]])
    last, m = len(points) - 1, 2 * n
    faces = [[0, 1 + k, 1 + (k + 1) % m] for k in range(m)]
    for ring in range(n - 2):
        for k in range(m):
            a, b = 1 + ring * m + k, 1 + ring * m + (k + 1) % m
            faces += [[a, a + m, b + m], [a, b + m, b]]
    faces += [[last, 1 + (n - 2) * m + (k + 1) % m, 1 + (n - 2) * m + k] for k in range(m)]
    facts = {
        "target": f"local chemical potential of {probe}", "level": "surface", "points": points, "faces": faces,
        "values": np.random.default_rng(seed).normal(0, 1, len(points)), "method": "LocalChemicalPotential",
        "reference": "isolated atom", "residual": None,
    }  # fmt: skip
    return explained("H2O", **{**facts, **about})


def flat(n: int = 9, **about: Any) -> Explanation:
    """Values x + 10 y in a plane 1 Å above water."""
    x, y = np.meshgrid(np.linspace(-2, 2, n), np.linspace(-1.5, 1.5, n - 2), indexing="ij")
    points = np.column_stack([x.ravel(), y.ravel(), np.ones(x.size)])
    facts = {"level": "grid", "grid_shape": (n, n - 2, 1), "points": points, "values": x.ravel() + 10 * y.ravel()}
    return explained("H2O", **{**facts, **about})


def terms(order: int = 3, **about: Any) -> Explanation:
    """Terms of one, two and three atoms of ethanol, and one row for all higher orders."""
    index = [
        [*chosen, *[-1] * (order - size)]
        for size in range(1, order + 1)
        for chosen in itertools.combinations(range(9), size)
    ]
    index.append([-1] * order)
    values = np.random.default_rng(1).normal(0, 0.3, len(index))
    facts = {"level": "tuple", "index": index, "values": values, "gauge": "invariant", "residual": 0.731}
    return explained(**{**facts, "reference": "references of the elements", "method": "ManyBodyExpansion", **about})


def elements(**about: Any) -> Explanation:
    facts = {
        "target": "element embedding", "level": "element", "labels": ("H", "C", "N", "O", "Fe"), "units": "1",
        "values": np.random.default_rng(2).normal(0, 3, (5, 4)), "gauge": "parametrization", "reference": "none",
        "settings": {"explained_variance": [0.4, 0.3, 0.2, 0.1]}, "method": "ElementEmbeddings", "residual": None,
        "notes": ("distance within groups / between: 1.06, p = 0.784",),
    }  # fmt: skip
    return explained(**{**facts, **about})


def card() -> ReportCard:
    rows = (
        Row("completeness", 3e-12, 1e-10, "pass", 0.02, "eV", "sum of the values against the energy"),
        Row("symmetry", 2.5, 1e-10, "fail", 1.25, "eV"),
        Row("seed agreement", None, None, "info", note="one model only " * 20),
    )
    return ReportCard("Checks of ethanol", rows)


SPREAD = {"uncertainty": np.linspace(0.01, 0.2, 9)}
GROUPS = {"ethyl": [0, 1, 4, 5, 6, 7, 8], "hydroxyl": [2, 3]}
FIGURES: dict[str, Callable[[], Figure]] = {
    "molecule": lambda: molecule(explained()),
    "molecule with spread": lambda: molecule(explained(**SPREAD)),
    "small molecule": lambda: molecule(explained("H2O")),
    "charges": lambda: molecule(explained("C6H6", units="e", target="charge", reference="none")),
    "gallery": lambda: gallery(
        [explained(name, seed) for seed, name in enumerate(("CH4", "C6H6", "CH3CH2OH", "H2O", "CH4"))]
    ),
    "gallery with spread": lambda: gallery({"one": explained(**SPREAD), "two": explained(seed=1, **SPREAD)}),
    "by element": lambda: by_element([explained(seed=seed) for seed in range(6)]),
    "surfaces": lambda: probe_surfaces([sphere("H"), sphere("C", seed=1, mask=np.arange(266) > 40)]),
    "points": lambda: probe_surfaces(sphere(level="points", faces=None, mask=np.arange(266) % 5 > 0), both_sides=False),
    "planes": lambda: probe_planes([flat(), flat(mask=np.arange(63) % 7 > 2)]),
    "decay": lambda: decay(terms()),
    "waterfall": lambda: waterfall(explained(**SPREAD)),
    "waterfall of groups": lambda: waterfall(explained(seed=1, **SPREAD).by(GROUPS) - explained(**SPREAD).by(GROUPS)),
    "embedding": lambda: embedding(elements()),
    "periodic table": lambda: periodic_table(elements(), column=2),
    "distances": lambda: periodic_table(elements(), distance_to="C"),
    "card": lambda: card_table(card()),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    """Every figure, laid out for a raster canvas."""
    found = {name: draw() for name, draw in FIGURES.items()}
    for figure in found.values():
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
    return found


def rendered(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def words(figure: Figure) -> str:
    """Everything written in a figure, with line breaks as spaces."""
    return re.sub(r"\s+", " ", " ".join(text.get_text() for text in figure.findobj(Text)))


def circles(axes: Axes) -> list[Circle]:
    """Atoms in the order they were drawn, which is that of the molecule."""
    return [patch for patch in axes.patches if isinstance(patch, Circle)]


# --- colors -----------------------------------------------------------------------------------------------------------


def test_limits_are_the_98th_percentile_of_all_trusted_sizes() -> None:
    first, second = explained(seed=1), explained("C6H6", seed=2, mask=np.arange(12) > 3)
    sizes = sorted([abs(v) for v in first.values] + [abs(v) for v in second.values[4:]])
    place = 0.98 * (len(sizes) - 1)
    low = int(place)
    limit = sizes[low] + (place - low) * (sizes[low + 1] - sizes[low])
    scale = colors.shared_scale([first, second])
    assert (scale.low, scale.high) == (pytest.approx(-limit, rel=1e-12), pytest.approx(limit, rel=1e-12))
    assert scale.n_values == 17 and scale.n_beyond == sum(size > limit for size in sizes) == 1
    assert f"±{limit:.3g} eV" in words(gallery([first, second]))


@pytest.mark.parametrize(
    ("units", "name", "negative_is"), [("eV", "RdBu_r", "blue"), ("e", "RdBu", "red"), ("eV/Å", "PuOr_r", "purple")]
)
def test_signs_have_their_colors(units: str, name: str, negative_is: str) -> None:
    scale = colors.shared_scale(explained(units=units, target="x"))
    red, green, blue = scale.colors([2 * scale.low])[0]
    assert {"blue": blue > green > red, "red": red > max(green, blue), "purple": min(red, blue) > green}[negative_is]
    assert scale.colors([0.0])[0].min() > 0.93, "zero is not near white"
    for value, part in ((scale.low, 0.1), (scale.high, 0.9), (10 * scale.high, 0.9), (0.5 * scale.high, 0.7)):
        expected = matplotlib.colormaps[name](part)[:3]
        assert np.abs(scale.colors([value])[0] - expected).max() < 0.02, (value, part)
    assert np.allclose(scale.colors([0.0, np.nan, 1.0], np.array([False, True, False])), GRAY)


def test_sizes_are_colored_by_their_logarithm() -> None:
    record = explained(uncertainty=np.geomspace(1e-3, 1e-1, 9))
    scale = colors.shared_scale(record, "uncertainty")
    assert scale.logarithmic and scale.low == pytest.approx(np.percentile(record.uncertainty, 2))
    middle = np.sqrt(scale.low * scale.high)
    assert np.abs(scale.colors([middle])[0] - matplotlib.colormaps["cividis"](0.5)[:3]).max() < 0.02
    light = scale.colors(np.geomspace(scale.low, scale.high, 20)).sum(axis=1)
    assert (np.diff(light) > 0).all(), "a larger uncertainty is not lighter"
    assert colors.shared_scale(explained(units="1", target="rigidity of energy", values=np.full(9, 2.0))).logarithmic


@pytest.mark.parametrize("values", [np.zeros(9), np.full(9, 1e-300), np.full(9, -3.0)])
def test_degenerate_values_are_drawn(values: np.ndarray) -> None:
    for figure in (molecule(explained(values=values)), by_element(explained(values=values))):
        assert rendered(figure)


# --- refusals ---------------------------------------------------------------------------------------------------------

BARE = {"reference": "none"}
REFUSED: dict[str, Callable[[], object]] = {
    "molecule": lambda: molecule(explained(**BARE)),
    "gallery": lambda: gallery([explained(), explained(**BARE)]),
    "by_element": lambda: by_element([explained(**BARE)]),
    "probe_surfaces": lambda: probe_surfaces(sphere(**BARE)),
    "probe_planes": lambda: probe_planes(flat(**BARE)),
    "decay": lambda: decay(terms(gauge="dependent", **BARE)),
    "waterfall": lambda: waterfall(explained(**BARE).by(GROUPS)),
    "periodic_table": lambda: periodic_table(elements(units="eV", gauge="dependent", values=np.ones(5))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_gauge_dependent_energies_need_a_reference(name: str) -> None:
    with pytest.raises(ValueError, match=r"'(none|composition)'") as error:
        REFUSED[name]()
    if name != "gallery":
        assert "relative('composition')" in str(error.value) and "arbitrary" in str(error.value)


@pytest.mark.parametrize("network", ["schnet", "bp"])
def test_a_real_explanation_is_drawn_once_a_reference_is_subtracted(network: str, tmp_path: Path) -> None:
    calculator = load(write_weights(tmp_path / "weights", NETWORKS[network]()), dtype="float64")
    raw = AtomicEnergies()(calculator, ase_molecule("CH3CH2OH"))
    with pytest.raises(ValueError, match="relative") as error:
        molecule(raw)
    reference = next(iter(raw.baselines))
    assert repr(reference) in str(error.value)
    relative = raw.relative(reference)
    figure = molecule(relative)
    scale = colors.shared_scale(relative)
    for circle, value in zip(circles(figure.axes[0]), relative.values, strict=True):
        share = (np.clip(value / scale.high, -1, 1) + 1) / 2
        assert (
            np.abs(np.array(circle.get_facecolor()[:3]) - matplotlib.colormaps["RdBu_r"](0.1 + 0.8 * share)[:3]).max() < 0.02
        )
    assert relative.model in words(figure).replace("- ", "-") and relative.uncertainty is not None
    assert len(figure.axes) == 5, "values, uncertainties, a color bar for each, and the length bar"


MIXED = {
    "units": {"units": "e"}, "target": {"target": "charge"}, "reference": {"reference": "free_atom"},
    "gauge": {"gauge": "invariant"},
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_what_has_no_common_scale_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"with {name} .* have no common scale"):
        gallery([explained(), explained(**MIXED[name])])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: gallery([]), "list is empty"),
        (lambda: molecule(sphere()), "draws level 'atom', got 'surface'"),
        (lambda: probe_surfaces(explained()), "draws level 'surface' or 'points', got 'atom'"),
        (lambda: probe_surfaces([sphere("H"), sphere("C", reference="other")]), "no common scale"),
        (lambda: molecule(explained(values=np.zeros((9, 3)))), "shape .9, 3.; a color shows one number"),
        (lambda: probe_surfaces(sphere(), show="uncertainty"), "no uncertainty to draw. Explain with an Ensemble"),
        (lambda: probe_surfaces(sphere(), show="spread"), "show must be one of values, uncertainty"),
        (lambda: probe_planes(flat(grid_shape=(3, 3, 7))), "one point along one step, got shape .3, 3, 7."),
        (lambda: decay(terms(order=1)), "none of 2"),
        (lambda: embedding(elements(settings={})), "0 shares of the variance"),
        (lambda: embedding(elements(), components=(0, 4)), r"ElementEmbeddings\(n_components=5\)"),
        (lambda: periodic_table(elements(), column=4), "column must be from 0 to 3"),
        (lambda: periodic_table(elements(), distance_to="Xe"), "no element 'Xe'.*H C N O Fe"),
        (lambda: card_table(ReportCard("empty", ())), "has no rows"),
    ],
)
def test_errors_say_what_to_do(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


# --- what every figure has --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "card"])
def test_legends_say_quantity_reference_gauge_model_and_spread(drawn: dict[str, Figure], name: str) -> None:
    text = words(drawn[name])
    record = {"embedding": elements(), "periodic table": elements(), "distances": elements(), "decay": terms()}.get(name)
    unit = "dimensionless" if record is not None and record.units == "1" else "(e)" if name == "charges" else "eV"
    reference = "none" if name == "charges" or (record is not None and record.units == "1") else "reference: "
    for expected in (unit, reference, "gauge: ", "invented [none] (0123456789ab)", "ncertainty"):
        assert expected in text, f"{expected!r} is not in {text!r}"
    if name not in ("embedding", "decay"):
        assert re.search(r"98th percentile (of \|value\| over|of) \d+ values", text), text
    if "spread" in name or "waterfall" in name:
        assert re.search(r"Uncertainty 1σ: median [\d.]+, largest [\d.]+ eV", text), text


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure_and_none_runs_into_the_legend(drawn: dict[str, Figure], name: str) -> None:
    figure = drawn[name]
    width, height = figure.bbox.width, figure.bbox.height
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [(f"panel {number}", axes.get_tightbbox(renderer)) for number, axes in enumerate(figure.axes) if axes.axison]
    for axes in figure.axes:
        boxes += [
            (text.get_text(), text.get_window_extent(renderer)) for text in (*axes.texts, axes.title) if text.get_text()
        ]
    (legend,) = figure.texts
    below = legend.get_window_extent(renderer)
    assert boxes
    for text, box in [*boxes, ("legend", below)]:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text!r} is at {box}, the figure is {width} x {height}"
        assert text == "legend" or box.y0 >= below.y1 - 1, f"{text!r} runs into the legend"


NOTHING_GLOBAL = """
import io, sys
import ase_xai.report as report
assert not {"matplotlib", "torch"} & set(sys.modules), "slow to import"
import matplotlib
from ase_xai.explainers.explanation import Explanation
def settings():  # asking for the backend would load pyplot
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
atoms = [6, 8], [[0, 0, 0], [0, 0, 1.2]], [[0] * 3] * 3, [False] * 3
explanation = Explanation("charge", "atom", [0.1, -0.1], "e", "x", *atoms)
for figure in (report.molecule(explanation), report.by_element(explanation), report.waterfall(explanation)):
    figure.savefig(io.BytesIO(), format="png")
loaded = {"matplotlib.pyplot", "torch"} & set(sys.modules)
assert not loaded, loaded
assert settings() == before
"""


def test_figures_touch_nothing_global_and_load_neither_torch_nor_pyplot() -> None:
    run = subprocess.run([sys.executable, "-c", NOTHING_GLOBAL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_same_explanation_gives_the_same_bytes() -> None:
    assert rendered(molecule(explained())) == rendered(molecule(explained()))


# --- molecules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "CH4", "H2O", "CO", "isobutane"])
def test_projection_keeps_distances_and_handedness(name: str) -> None:
    """Centers of the circles are x and y; the order of drawing holds z. Together they must be a rotation of the molecule."""
    record = explained(name)
    (axes, *_) = molecule(record).axes
    placed = np.array([[*c.get_center(), 1e3 * c.get_zorder()] for c in circles(axes)])
    apart = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    expected = np.linalg.norm(record.positions[:, None] - record.positions[None], axis=2)
    assert np.abs(apart - expected).max() < 1e-8
    if len(record.numbers) > 4:
        triple = [np.linalg.det(p[1:4] - p[0]) for p in (placed, record.positions)]
        assert triple[0] == pytest.approx(triple[1], abs=1e-6), "the molecule was mirrored"


def test_one_angstrom_is_equally_long_everywhere() -> None:
    figure = gallery({name: explained(name, k) for k, name in enumerate(("CH4", "C6H6", "CH3CH2OH", "H2O"))})
    rendered(figure)
    scales = [axes.transData.transform([[0, 0], [1, 0], [0, 1]]) for axes in figure.axes if circles(axes)]
    lengths = np.array([[np.linalg.norm(s[1] - s[0]), np.linalg.norm(s[2] - s[0])] for s in scales])
    assert len(lengths) == 4 and np.ptp(lengths) < 1e-6 * lengths.max()
    (bar,) = [axes for axes in figure.axes if any("Å" in text.get_text() for text in axes.texts)]
    stated = float(bar.texts[0].get_text().removesuffix(" Å"))
    ends = bar.transData.transform(np.column_stack(bar.lines[0].get_data()))
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(stated * lengths[0, 0], rel=1e-9)


def test_atoms_and_bonds_of_ethanol() -> None:
    record = explained(mask=np.arange(9) != 2)
    axes = molecule(record).axes[0]
    assert [text.get_text() for text in axes.texts] == [f"{s}$_{{{i}}}$" for i, s in enumerate(record.atoms.symbols)]
    assert len([p for p in axes.patches if isinstance(p, Polygon)]) == 8
    found = {tuple(pair) for pair in bonds_of(record.numbers, record.positions).tolist()}
    assert found == {(0, 1), (1, 2), (2, 3), (1, 4), (1, 5), (0, 6), (0, 7), (0, 8)}
    drawn = circles(axes)
    assert [c.get_hatch() for c in drawn] == [None, None, "////", *[None] * 6]
    assert drawn[2].get_facecolor()[:3] == pytest.approx(GRAY)
    assert all(c.get_facecolor()[:3] != pytest.approx(GRAY) for i, c in enumerate(drawn) if i != 2)


def test_a_gallery_has_one_scale() -> None:
    weak, strong = explained(values=np.full(9, 0.1)), explained("CH4", values=np.array([1.0, -1.0, 0.1, 1.0, 1.0]))
    figure = gallery({"weak": weak, "strong": strong})
    first, second = (circles(axes) for axes in figure.axes if circles(axes))
    assert first[0].get_facecolor() == second[2].get_facecolor() != circles(gallery(weak).axes[0])[0].get_facecolor()
    assert {"weak", "strong"} <= {axes.get_title() for axes in figure.axes}
    assert "weak, 1σ 0.1 eV" in {axes.get_title() for axes in gallery({"weak": replace(weak, **SPREAD)}).axes}
    same = [axes.get_title() for axes in gallery([explained("CH4"), explained("CH4", 1)]).axes]
    assert same[:2] == ["CH$_{4}$ (1)", "CH$_{4}$ (2)"]


def test_cells_are_drawn() -> None:
    record = explained("H2O", cell=np.diag([4.0, 5.0, 6.0]), pbc=[True] * 3)
    axes = molecule(record).axes[0]
    assert len(axes.lines) == 12 and not molecule(explained("H2O")).axes[0].lines
    ends = np.concatenate([np.column_stack(line.get_data()) for line in axes.lines])
    assert np.abs(ends).max() <= max(*axes.get_xlim(), *axes.get_ylim()), "the cell leaves its panel"


# --- surfaces ---------------------------------------------------------------------------------------------------------


def slow_rasterize(at: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Triangle seen in each pixel, one pixel and one triangle at a time."""
    shown = np.full((size[1], size[0]), -1)
    for y, x in itertools.product(range(size[1]), range(size[0])):
        best = -np.inf
        for number, corners in enumerate(faces):
            system = np.vstack([at[corners].T, np.ones(3)])
            if np.linalg.det(system) <= 0:
                continue
            share = np.linalg.solve(system, [x + 0.5, y + 0.5, 1.0])
            height = float(share @ depth[corners])
            if share.min() >= 0 and height > best:
                best, shown[y, x] = height, number
    return shown


def test_rasterizer_agrees_with_a_slow_one() -> None:
    rng = np.random.default_rng(0)
    at, depth = rng.uniform(-3, 23, (30, 2)), rng.normal(0, 1, 30)
    faces = rng.permuted(np.tile(np.arange(30), (14, 1)), axis=1)[:, :3]
    shown, weights = rasterize(at, depth, faces, (20, 16))
    assert np.array_equal(shown, slow_rasterize(at, depth, faces, (20, 16)))
    assert 40 < (shown >= 0).sum() < 320 and len(np.unique(shown)) > 4
    y, x = np.nonzero(shown >= 0)
    middle = (at[faces[shown[y, x]]] * weights[y, x][:, :, None]).sum(axis=1)
    assert np.abs(middle - np.column_stack([x, y]) - 0.5).max() < 1e-9, "weights do not reproduce the place of a pixel"


def picture(axes: Axes) -> tuple[np.ndarray, list[float]]:
    (image,) = axes.images
    return np.asarray(image.get_array()), list(image.get_extent())


def test_a_sphere_is_round_and_shows_its_near_side() -> None:
    """A sphere of two halves with values -1 and +1."""
    still = sphere(values=np.zeros(266))
    figure = probe_surfaces(still)
    shape, extent = picture(figure.axes[0])
    seen = shape[..., 3] > 0
    area = seen.mean() * (extent[1] - extent[0]) * (extent[3] - extent[2])
    assert area == pytest.approx(np.pi * 4.0, rel=0.03)
    for axis, across in ((0, True), (2, False)):  # water lies in the plane x = 0, which the reader faces
        halves = np.sign(still.points[:, axis] + 1e-9)
        sides = [picture(axes)[0] for axes in probe_surfaces(replace(still, values=halves)).axes[:2]]
        front, behind = (float((p[..., 0] - p[..., 2])[p[..., 3] > 0].mean()) for p in sides)
        if across:
            assert min(abs(front), abs(behind)) > 0.3 and front * behind < 0, "the far side shines through"
        else:
            assert max(abs(front), abs(behind)) < 0.15, "each view shows half of each sign"


def test_probes_share_a_scale_and_masks_are_gray() -> None:
    weak, strong = sphere("H", values=np.full(266, 0.5)), sphere("C", values=np.full(266, -2.0))
    figure = probe_surfaces([weak, strong], both_sides=False)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["H$_{2}$O, probe H", "H$_{2}$O, probe C"]
    scale = colors.Scale("RdBu_r", -2.0, 2.0, False, "eV", 1, 0)
    for axes, value in zip(figure.axes[:2], (0.5, -2.0), strict=True):
        pixels = picture(axes)[0]
        brightest = pixels[pixels[..., 3] > 0][:, :3].max(axis=0)  # facing the light, where the color is unshaded
        assert np.abs(brightest - scale.colors([value])[0]).max() < 0.02
    hidden = probe_surfaces(sphere(mask=np.zeros(266, dtype=bool), values=np.full(266, 9.0)), both_sides=False)
    pixels = picture(hidden.axes[0])[0]
    assert np.ptp(pixels[pixels[..., 3] > 0][:, :3], axis=1).max() < 1e-9, "an untrusted surface has a color"
    assert [c.hatches for c in hidden.axes[0].collections] == [["////"]]
    assert "not to be trusted: 266 of 266 values" in words(hidden) and "No value is to be trusted" in words(hidden)


def test_planes_put_values_in_their_places() -> None:
    """Values x + 10 y on a plane: a point's color must be that of the value at its place, in the plane's own frame."""
    record = flat()
    axes = probe_planes(record).axes[0]
    (mesh,) = axes.collections
    at = np.asarray(mesh.get_coordinates()).reshape(-1, 2)  # type: ignore[attr-defined]
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    assert np.abs(apart - np.linalg.norm(record.points[:, None] - record.points[None], axis=2)).max() < 1e-9
    fills = np.asarray(mesh.get_array()).reshape(-1, mesh.get_array().shape[-1])[:, :3]
    assert np.abs(fills - colors.shared_scale(record).colors(record.values)).max() < 1e-6
    symbols = [text.get_text() for text in axes.texts]
    assert symbols == ["O", "H", "H"]


# --- charts -----------------------------------------------------------------------------------------------------------


def test_values_by_element() -> None:
    records = [explained(seed=seed, uncertainty=np.full(9, 0.05)) for seed in range(3)]
    axes = by_element(records).axes[0]
    numbers, values = np.concatenate([r.numbers for r in records]), np.concatenate([r.values for r in records])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["H\nn = 18", "C\nn = 6", "O\nn = 3"]
    medians = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2 and line.get_linewidth() > 1.5]
    assert medians == pytest.approx([statistics.median(values[numbers == z].tolist()) for z in (1, 6, 8)])
    points = np.concatenate([c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)])
    assert sorted(points[:, 1]) == pytest.approx(sorted(values))
    assert np.array_equal(np.sort(np.rint(points[:, 0])), np.repeat([0, 1, 2], [18, 6, 3]))


def test_decay_of_pairs_and_sums_of_orders() -> None:
    cell = np.array([[5.0, 0, 0], [1.0, 6.0, 0], [0, 0.5, 7.0]])
    record = terms(cell=cell, pbc=[True, True, False])
    left, right = decay(record).axes
    pairs = [(row[:2], value) for row, value in zip(record.index, record.values, strict=True) if (row >= 0).sum() == 2]
    images = [np.array(n) @ cell for n in itertools.product((-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2), (0,))]
    expected = sorted(
        (round(min(np.linalg.norm(record.positions[j] + t - record.positions[i]) for t in images), 8), abs(value))
        for (i, j), value in pairs
    )
    points = np.concatenate(
        [c.get_offsets() for c in left.collections if isinstance(c.get_label(), str) and "-" in c.get_label()]
    )
    found = sorted((round(x, 8), y) for x, y in points.tolist())
    assert len(found) == 36 and np.abs(np.array(found) - np.array(expected)).max() < 1e-7
    sizes = [sum(1 for atom in row if atom >= 0) for row in record.index]
    by_order = {n: [v for v, size in zip(record.values, sizes, strict=True) if size == n] for n in (1, 2, 3, 0)}
    heights = [patch.get_height() for patch in right.patches if isinstance(patch, Rectangle)]
    assert [t.get_text() for t in right.get_xticklabels()] == ["1", "2", "3", "above 3", "residual"]
    assert heights[:4] == pytest.approx([sum(map(abs, values)) for values in by_order.values()])
    assert heights[5:9] == pytest.approx([sum(values) for values in by_order.values()])
    assert heights[9] == pytest.approx(0.731) and "0.731 eV" in words(right.figure)
    whole = sum(heights[:5])
    assert f"{heights[1] / whole:.0%}" in words(right.figure)


@pytest.mark.parametrize("largest", [14, 4])
def test_steps_of_a_waterfall_follow_each_other_to_the_total(largest: int) -> None:
    before, after = explained(seed=1, **SPREAD), explained(seed=2, **SPREAD)
    difference = after - before
    axes = waterfall(difference, largest=largest).axes[0]
    bars = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert len(bars) == (10 if largest == 14 else 6)
    assert bars[0][0] == bars[-1][0] == 0.0
    assert all(a[1] == pytest.approx(b[0]) for a, b in itertools.pairwise(bars[:-1]))
    assert bars[-1][1] == pytest.approx(sum(after.values) - sum(before.values)) and bars[-2][1] == pytest.approx(bars[-1][1])
    steps = [abs(b - a) for a, b in bars[: min(largest, 9)]]
    assert steps == sorted(steps, reverse=True) and steps[0] == pytest.approx(max(abs(difference.values)))
    titles = [t.get_text().split("  ")[0] for t in axes.get_yticklabels()]
    assert titles[-1] == "total" and (titles[-2] == "5 others") == (largest == 4)
    assert titles[0] == f"{difference.atoms.symbols[np.argmax(abs(difference.values))]}{np.argmax(abs(difference.values))}"
    assert axes.get_xlabel() == "difference in latent energy (eV)"


def test_both_shares_of_an_insertion_energy_can_be_drawn() -> None:
    parts = InsertionEnergy("H", surface="vdw", limit=None).parts(load("organic"), ase_molecule("H2O"))
    for share in (parts.probe, parts.molecule):
        assert f"reference: {share.reference};" in words(probe_surfaces(share)) and share.reference != "none"


def test_places_in_the_periodic_table() -> None:
    known = {1: (1, 1), 2: (18, 1), 3: (1, 2), 6: (14, 2), 17: (17, 3), 21: (3, 4), 26: (8, 4), 36: (18, 4), 56: (2, 6),
             71: (3, 6), 72: (4, 6), 80: (12, 6), 103: (3, 7), 118: (18, 7)}  # fmt: skip
    assert {z: place_drawn(z) for z in known} == known
    places = [place_drawn(z) for z in range(1, 119)]
    assert len(set(places)) == 118
    assert [place_drawn(z)[1] > 8 for z in range(1, 119)] == [57 <= z <= 70 or 89 <= z <= 102 for z in range(1, 119)]


def test_elements_are_colored_where_they_stand() -> None:
    record = elements()
    figure = periodic_table(record, distance_to="C")
    squares = {(round(p.get_x() + 0.46), round(p.get_y() + 0.46)): p for p in figure.axes[0].patches}
    distance = np.array([np.sqrt(((row - record.values[1]) ** 2).sum()) for row in record.values])
    scale = colors.scale_of(np.delete(distance, 1), "1", signed=False)
    for symbol, place, value in zip(record.labels, ((1, 1), (14, 2), (15, 2), (16, 2), (8, 4)), distance, strict=True):
        fill = np.array(squares[place].get_facecolor()[:3])
        assert np.allclose(fill, 1.0 if symbol == "C" else scale.colors([value])[0]), symbol
    assert sum(np.ptp(p.get_facecolor()[:3]) > 1e-6 for p in squares.values()) >= 3
    assert "percentile of 4 values" in words(figure), "the element itself, at distance 0, must not set the scale"
    offsets = np.concatenate([c.get_offsets() for c in embedding(record, components=(1, 2)).axes[0].collections])
    assert np.abs(np.sort(offsets, axis=0) - np.sort(record.values[:, 1:3], axis=0)).max() < 1e-12
    assert "component 2 (30% of variance)" in words(embedding(record, components=(1, 2)))
    assert "show 50% of the variance" in words(embedding(record, components=(1, 2)))


def test_a_report_card_shows_every_row() -> None:
    text = words(card_table(card()))
    for row in card().rows:
        assert row.name in text and row.verdict in text and row.note.strip() in text
    for expected in ("3e−12", "1e−10", "2.5", "1.25", "1 pass, 1 fail, 1 info; 1.3 s"):
        assert expected in text
