"""Pages of runs hold the numbers of the run, ask no network for anything, and work in a browser: one click moves all."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as ase_molecule
from matplotlib.image import imread
from test_explanation_figures import sphere
from test_surface_page import ASSETS, CHROMIUM, NO_WEBGL, POLICY, Page
from told import COMPOSITION, ELEMENT_MEAN, Told, told_run
from typer.testing import CliRunner

from ase_xai.cli import app
from ase_xai.explainers.card import ReportCard, Row
from ase_xai.report import Analyses, analyze, run_analyses, write_run_page
from ase_xai.report import run_page as run_page_module
from ase_xai.report.run_data import held, kept_frames, packed
from ase_xai.report.run_extras import told, with_error
from ase_xai.trajectory.bond_flow import charge_flow
from ase_xai.trajectory.event_table import Event, Events
from ase_xai.trajectory.flow import EnergyFlowResult, integrate_flow
from ase_xai.trajectory.run import Run
from ase_xai.trajectory.spectra import infrared_spectrum

SHA256 = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
REFERENCE = Path(__file__).with_name("run_page.png")
FLAGS = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--ignore-gpu-blocklist",
]
HOW = (
    "the page's data are tested without one"
    if CHROMIUM is None
    else "playwright, which drives the browser, is not installed"
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason=f"no chromium on the path, or no playwright: {HOW}",
)
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>&amp; @DATA@"
GROUPS = {"methyl": (1, 6, 7, 8), "methylene": (0, 4, 5), "hydroxyl": (2, 3)}


def happened(run: Run) -> Events:
    steps = run.steps
    found = (
        Event(int(steps[10]), float(run.times[10]), "proton transfer", (3, 2, 0), {"distance (Å)": 1.25}),
        Event(int(steps[40]), float(run.times[40]), "change of charges", (1,), {"before (e)": -0.1, "after (e)": 0.2}),
        Event(int(steps[40]), float(run.times[40]), "something new", (), {}),
    )
    return Events(found, run.time_unit, {"hold": 20.0})


def flowed(run: Run) -> EnergyFlowResult:
    rng = np.random.default_rng(1)
    names = {name: tuple(atoms) for name, atoms in (run.groups or GROUPS).items()}
    rates = 0.01 * rng.normal(size=(run.n_frames, len(names), run.n_atoms))
    rows = {name: (place,) for place, name in enumerate(names)}
    return integrate_flow(rates, run.times, run["energies"][...], rows, names)


def absorbed(run: Run) -> Any:
    rates = np.random.default_rng(2).normal(size=(512, 3, 3))
    return infrared_spectrum(rates, 0.5, 300.0, labels=tuple(run.groups), n_segments=4)


CARD = ReportCard(
    "Checks of ethanol", (Row("completeness", 1e-12, 1e-10, "pass", 0.1, "eV"), Row("symmetry", 1e-3, 1e-10, "fail"))
)


def everything(run: Run) -> dict[str, Any]:
    probe = {5: sphere("H"), 20: sphere("H", seed=3)}
    analyses = Analyses(happened(run), flowed(run), charge_flow(run), absorbed(run))
    return {"analyses": analyses, "probe": probe, "card": CARD}


@pytest.fixture(scope="module")
def run() -> Run:
    return told_run(n_frames=60, size_every=7, groups=GROUPS)


@pytest.fixture(scope="module")
def full(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A page with all it can have."""
    return written(run, tmp_path_factory.mktemp("full"), **everything(run))


def written(run: Run, folder: Path, **extras: Any) -> tuple[Path, Page]:
    path = write_run_page(run, folder / "run.html", **extras)
    return path, Page(path.read_text(encoding="utf-8"))


def unpacked(part: dict[str, Any], columns: int) -> np.ndarray:
    """What the page's program makes of packed numbers."""
    levels = np.frombuffer(base64.b64decode(part["data"]), dtype="<i2").reshape(-1, columns)
    values = levels * part["scale"] + np.array(part["offset"])
    return np.where(levels == -32768, np.nan, values)


# --- without a browser ------------------------------------------------------------------------------------------------


def test_packed_numbers_come_back_within_half_a_level() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 5)) * [1, 3, 1e-6, 0, 2] + [0, -13000, 5, 7, 0]
    values[4, 1] = np.nan
    part = packed(values)
    back, widest = unpacked(part, 5), np.nanmax(np.ptp(values[5:], axis=0))
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert (
        np.nanmax(np.abs(back - values)) <= 0.51 * np.nanmax(np.nanmax(values, axis=0) - np.nanmin(values, axis=0)) / 65534
    )
    assert widest > 0 and len(base64.b64decode(part["data"])) == 2 * values.size


def test_frames_are_thinned_evenly_and_those_of_events_stay() -> None:
    assert kept_frames(7, 10, [3]).tolist() == list(range(7))
    kept = kept_frames(10_000, 101, [17, 4321, 4321])
    assert {0, 9999, 17, 4321} <= set(kept.tolist()) and len(kept) <= 101 + 1
    assert np.diff(np.setdiff1d(kept, [17, 4321])).max() <= 10_000 / 97
    assert len(kept_frames(10_000, 100, range(10_000))) <= 100, "events alone must not fill the page"


def test_molecules_are_held_in_place_without_being_mirrored() -> None:
    rng, first = np.random.default_rng(3), ase_molecule("CH3CH2OH").positions
    frames = [first]
    for _ in range(20):
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.linalg.det(q)
        frames.append(first @ q + rng.normal(size=3))
    frames.append(first * [-1, 1, 1])
    hold = held(np.array(frames), np.ones(9))
    for k, frame in enumerate(frames[:-1]):
        assert np.abs(hold(frame, k) - first).max() < 1e-12
    assert np.linalg.det(hold.turns) == pytest.approx(np.ones(22)), "a mirror image is turned, not mirrored back"
    assert np.abs(hold(frames[-1], 21) - first).max() > 0.1


def test_a_page_holds_the_run(run: Run, full: tuple[Path, Page]) -> None:
    data, n = full[1].data, run.n_atoms
    assert data["times"] == pytest.approx(run.times) and data["total"] == 60 and data["kept"] is None
    shown, given = unpacked(data["positions"], 3 * n).reshape(-1, n, 3), run.positions[...]
    for k in (0, 13, 59):  # positions are turned, distances stay
        for a, b in ((0, 1), (2, 3), (7, 8)):
            assert np.linalg.norm(shown[k, a] - shown[k, b]) == pytest.approx(
                np.linalg.norm(given[k, a] - given[k, b]), abs=1e-3
            )
    by_name = {field["id"]: field for field in data["fields"]}
    assert list(by_name) == ["energies", "charges", "size"]
    for name, tolerance in (("energies", 1e-4), ("charges", 1e-4)):
        assert np.abs(unpacked(by_name[name]["data"], n) - run[name][...]).max() < tolerance
        assert by_name[name]["means"] == pytest.approx(run[name][...].mean(axis=0), abs=1e-5)
    assert by_name["size"]["at"] == list(range(0, 60, 7)), (
        "a field with its own stride says at which frames it begins to hold"
    )
    assert np.abs(unpacked(by_name["size"]["data"], n) - run["size"][...]).max() < 1e-3


def test_colors_have_one_scale_for_the_whole_run(run: Run, full: tuple[Path, Page]) -> None:
    """Energies relative to the mean of their element: the composition reference, taken while recording, comes back."""
    views = {view["name"]: view for view in full[1].data["views"]}
    view = views["latent energy − element mean (eV)"]
    shift = np.array([ELEMENT_MEAN[z] - COMPOSITION[z] for z in run.numbers])
    assert view["minus"] == pytest.approx(shift)
    limit = np.percentile(np.abs(run["energies"][...] - shift), 98)
    assert (view["low"], view["high"]) == pytest.approx((-limit, limit), rel=1e-6)
    of_charges = views["latent charge (e)"]
    assert of_charges["high"] == pytest.approx(np.percentile(np.abs(run["charges"][...]), 98), rel=1e-6)
    changes = views["latent energy − mean over the run (eV)"]
    swing = np.abs(run["energies"][...] - run["energies"][...].mean(axis=0))
    assert changes["high"] == pytest.approx(np.percentile(swing, 98), rel=1e-5)
    assert views["rigidity of energy (dimensionless)"]["logarithmic"]
    for name, colormap in (("latent energy − element mean (eV)", "RdBu_r"), ("latent charge (e)", "RdBu")):
        table = np.frombuffer(base64.b64decode(views[name]["table"]), dtype=np.uint8).reshape(256, 3)
        expected = [matplotlib.colormaps[colormap](at)[:3] for at in (0.1, 0.9)]
        assert np.abs(table[[0, 255]] / 255 - expected).max() <= 0.51 / 255
        assert "98th percentile" in views[name]["words"] and "gauge: dependent" in views[name]["words"]


def test_energies_without_a_reference_are_shown_as_changes_only(tmp_path: Path) -> None:
    class Foreign(Told):
        members: Any = ()  # a calculator of another program, which knows no references

    _, page = written(told_run(n_frames=30, calculator=Foreign()), tmp_path)
    names = [view["name"] for view in page.data["views"] if view["units"] == "eV"]
    assert names == ["latent energy − mean over the run (eV)"]


def test_events_flow_and_card_are_in_the_page(run: Run, full: tuple[Path, Page]) -> None:
    data = full[1].data
    rows = data["events"]["rows"]
    assert [row["frame"] for row in rows] == [10, 40, 40] and rows[0]["atoms"] == [3, 2, 0]
    assert "distance 1.25 Å" in rows[0]["text"] and len({kind["glyph"] for kind in data["events"]["kinds"]}) == 3
    work = unpacked(data["flow"]["work"], 1).reshape(60, 3, 3)
    assert np.abs(work - flowed(run).work).max() < 1e-4
    assert [row["verdict"] for row in data["card"]["rows"]] == ["pass", "fail"]
    total, own, cross = (
        data["spectrum"]["plots"][0]["series"][0],
        data["spectrum"]["plots"][0]["series"][1:],
        data["spectrum"]["plots"][1],
    )
    summed = sum(unpacked(one["data"], 1) for one in (*own, cross["series"][0]))
    assert np.abs(summed - unpacked(total["data"], 1)).max() < 1e-3 * np.abs(summed).max(), (
        "groups and cross terms make the total"
    )
    assert data["spectrum"]["plots"][0]["band"] is not None
    assert [probe["frame"] for probe in data["probes"]] == [5, 20]


def gained(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(L, N) e that each atom has gained since the first frame, less its share of what all have (told charges are not kept),
    and (L,) that sum."""
    change = run["charges"][...].astype(np.float64) - run["charges"][0]
    return change - change.mean(axis=1, keepdims=True), change.sum(axis=1)


def test_charge_along_a_bond_is_what_the_atoms_behind_it_have_gained(run: Run, full: tuple[Path, Page]) -> None:
    """Cutting a bond of a tree leaves two sides, so that nothing else can have come to one of them."""
    part = full[1].data["chargeFlow"]
    bonds, (change, leak) = part["bonds"], gained(run)
    passed = unpacked(part["passed"], len(bonds))
    assert len(bonds) == 8 and passed.shape == (60, 8) and np.abs(leak).max() > 0.1
    for bond, behind in {(0, 1): [1, 2, 3, 4, 5], (1, 2): [2, 3], (2, 3): [3], (0, 6): [6], (1, 5): [5]}.items():
        assert np.abs(passed[:, bonds.index(list(bond))] - change[:, behind].sum(axis=1)).max() < 1e-4, bond
    assert [pair["name"] for pair in part["pairs"]] == ["methyl → methylene", "methyl → hydroxyl"]
    largest = max(len(atoms) for atoms in GROUPS.values()) / 9
    assert np.abs(unpacked(part["gap"], 1)[:, 0] - largest * np.abs(leak)).max() < 1e-4
    assert f"along no bond is {largest * np.abs(leak).max():.2g} e at most" in part["note"]
    assert "Charge conservation alone fixes it." in part["note"] and "gauge: dependent" in part["note"]


def test_of_long_runs_the_flow_along_bonds_is_that_of_some_frames(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has passed up to a frame does not depend on the frames between; those between show the one before."""
    monkeypatch.setattr(run_analyses, "FLOW_NUMBERS", run.n_atoms * run.n_frames // 5)
    flow, whole = analyze(run).charge_flow, charge_flow(run)
    assert np.array_equal(flow.frames, run.times[::5])
    np.testing.assert_allclose(flow.transferred, whole.transferred[::5], rtol=0, atol=1e-14)
    part = written(run, tmp_path, analyses=Analyses(charge_flow=flow))[1].data["chargeFlow"]
    shown = unpacked(part["passed"], 8)
    assert shown.shape == (60, 8) and np.abs(shown - np.repeat(whole.transferred[::5], 5, axis=0)).max() < 1e-4


def test_pages_without_bonds_or_charges_show_no_flow_along_bonds(tmp_path: Path) -> None:
    apart = told_run(Atoms("O2", [[0, 0, 0], [9, 0, 0]]), 5)
    _, page = written(apart, tmp_path, analyses=Analyses(charge_flow=charge_flow(apart)))
    assert page.data["chargeFlow"] is None
    found = analyze(told_run(n_frames=5, fields=("energies",)))
    assert found.charge_flow is None and "no field 'charges'" in found.missing["charge_flow"]


def masked_run(n_frames: int = 12) -> tuple[Run, np.ndarray]:
    """Three atoms, of which one is not to be trusted while it is on the right, and which these values are."""
    positions = np.repeat([[[-2.5, 0, 0], [0.0, 0.4, 0], [2.5, 0, 0]]], n_frames, axis=0)
    positions[:, 1, 0] = np.where(np.arange(n_frames) < n_frames // 2, 0.5, -0.5)
    charges = np.zeros((n_frames, 3))
    run = told_run(Atoms("C3", positions[0]), n_frames, positions=positions, charges=charges, size_every=1, doubted=(1,))
    doubted = np.zeros((n_frames, 3), dtype=bool)
    doubted[: n_frames // 2, 1] = True
    return run, doubted


def test_values_that_are_not_to_be_trusted_are_not_in_the_page(tmp_path: Path) -> None:
    run, doubted = masked_run()
    data = written(run, tmp_path)[1].data
    field, view = data["fields"][2], next(view for view in data["views"] if view["name"].startswith("rigidity"))
    shown = unpacked(field["data"], 3)
    assert np.array_equal(np.isnan(shown), doubted), "masked values, and no others, are unknown"
    assert np.abs(shown[~doubted] - run["size"][...][~doubted]).max() < 1e-4
    assert field["means"][1] == pytest.approx(run["size"][6:, 1].mean(), rel=1e-6), "the mean is that of the others"
    assert view["gaps"] and "Gray, not known or not to be trusted: 6 of 36 values." in view["words"]
    assert not any(other["gaps"] for other in data["views"] if other.get("gaps") is not None and other is not view)


def test_notebooks_show_the_page_in_a_frame_of_its_own(run: Run) -> None:
    formatters = pytest.importorskip("IPython.core.formatters", reason="no IPython")
    view = run.view(height=500)
    shown, _ = formatters.DisplayFormatter().format(view)
    frames = [about for tag, about in Page(shown["text/html"]).tags]
    assert len(frames) == 1 and frames[0]["sandbox"] == "allow-scripts" and frames[0]["height"] == "500"
    inside = Page(frames[0]["srcdoc"])
    assert inside.data["total"] == 60 and inside.data["events"]["given"] and inside.data["chargeFlow"] is not None
    assert [about["content"] for _, about in inside.tags if about.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    assert "60 frames of C2H6O" in shown["text/plain"]
    with pytest.raises(ValueError, match="whole number of pixels, 100 or more, got 20"):
        run.view(height=20)


def test_what_a_notebook_shows_stays_below_the_limit_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter's server drops output beyond 3 MB within 3 s; what is measured is the message, escapes included."""
    atoms = Atoms("CH" * 25, np.random.default_rng(0).uniform(0, 12, (50, 3)))
    view = told_run(atoms, 3000, size_every=10).view(analyses=Analyses())
    message = json.dumps({"text/html": view._repr_html_(), "text/plain": repr(view)})
    assert 1.5e6 < len(message.encode()) < 2.8e6
    data = Page(view.page).data
    assert 1000 < len(data["kept"]) < 3000 and data["total"] == 3000


def test_means_have_errors(full: tuple[Path, Page], run: Run) -> None:
    rows = {row["name"]: row for row in full[1].data["means"]}
    row = rows["latent charge: hydroxyl"]
    value = run["charges"][:, [2, 3]].sum(axis=1).mean()
    told_value, error = (float(part) for part in row["value"].replace("−", "-").replace(" (short)", "").split(" ± "))
    assert told_value == pytest.approx(value, abs=error) and error > 0 and float(row["effective"]) > 1
    assert (
        with_error(1.23456, 0.0123) == "1.235 ± 0.012"
        and with_error(-12.3, 4.0) == "−12.3 ± 4.0"
        and with_error(2.5, 0.0) == "2.5"
    )
    assert told({"before (eV)": 1.5, "held_for (fs)": 20.0}) == "before 1.5 eV, held for 20 fs"


def test_the_page_says_where_its_numbers_come_from(full: tuple[Path, Page], run: Run) -> None:
    about = full[1].text["about"]
    for part in (
        Told.model,
        Told.sha256,
        "reference: composition",
        "gauge: dependent",
        "9 of 60 frames",
        "all 60 frames",
        run.about.command,
    ):
        assert part in about, part


def test_sizes_stay_in_the_budget(tmp_path: Path) -> None:
    for n_frames, n_atoms, limit in ((2000, 50, 10e6), (1000, 20, 2e6)):
        atoms = Atoms("CH" * (n_atoms // 2), np.random.default_rng(0).uniform(0, 12, (n_atoms, 3)))
        path, page = written(told_run(atoms, n_frames, size_every=1), tmp_path)
        assert page.data["kept"] is None, "no frame may be lacking"
        assert path.stat().st_size < limit


def test_frames_beyond_the_budget_are_left_out_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setattr(run_page_module, "MAX_FRAMES", 21)
    _, page = written(run, tmp_path, analyses=Analyses(events=happened(run)), probe={23: sphere("H")})
    kept = page.data["kept"]
    assert {0, 59, 10, 40, 23} <= set(kept) and len(kept) <= 22
    assert [row["frame"] for row in page.data["events"]["rows"]] == [kept.index(10), kept.index(40), kept.index(40)]
    field = page.data["fields"][2]
    assert field["id"] == "size" and field["at"] == sorted(set(field["at"])) and field["at"][-1] < len(kept)
    for row, start in zip(unpacked(field["data"], run.n_atoms), field["at"], strict=True):  # the newest at each frame drawn
        newest = [k for k in range(0, 60, 7) if k <= kept[start]][-1]
        assert np.abs(row - run["size"][newest // 7]).max() < 1e-3
    assert f"{len(kept)} of 60 frames" in page.text["lede"] and f"{len(kept)} of 60 frames" in page.text["about"]


def test_nothing_is_asked_of_a_network(full: tuple[Path, Page]) -> None:
    page = full[1]
    assert [about["content"] for _, about in page.tags if about.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    assert not [tag for tag, about in page.tags if tag in ("link", "iframe", "object", "base") or "href" in about]
    sources = [about["src"] for _, about in page.tags if "src" in about]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")


def test_the_libraries_are_unmodified_and_bring_their_licenses(full: tuple[Path, Page]) -> None:
    for name, digest in SHA256.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest
    page = full[1]
    assert page.scripts[1] == (ASSETS / "3Dmol-min.js").read_text(encoding="utf-8")
    assert page.scripts[2] == (ASSETS / "uPlot.iife.min.js").read_text(encoding="utf-8")
    assert "Leon Sorokin" in page.text["license"] and "University of Pittsburgh" in page.text["license"]


def hostile() -> tuple[Run, dict[str, Any]]:
    groups = {EVIL: (0,)} | {f"atom {i}": (i,) for i in range(1, 9)}
    run = told_run(n_frames=30, groups=groups, calculator=Told(notes=EVIL, model=EVIL))
    events = Events((Event(3, 1.5, EVIL, (0,), {EVIL: 1.0}),))
    card = ReportCard(EVIL, (Row(EVIL, 1.0, 2.0, "pass", note=EVIL),), (EVIL,))
    return run, {"analyses": Analyses(events, flowed(run), charge_flow(run)), "card": card}


def test_text_of_a_run_cannot_become_code(tmp_path: Path) -> None:
    run, extras = hostile()
    _, page = written(run, tmp_path, **extras)
    assert len(page.scripts) == 4 and not [about for _, about in page.tags if "onerror" in about]
    assert page.data["groups"][0]["name"] == EVIL and EVIL in page.text["about"]


def test_what_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    with pytest.raises(ValueError, match="frame 99 cannot be shown: no such frame"):
        write_run_page(run, path, probe={99: sphere("H")})
    with pytest.raises(ValueError, match=r"groups must hold every atom once: twice \[\], missing \[8\]"):
        write_run_page(run, path, groups={"all": range(8)})
    with pytest.raises(ValueError, match="Record energies or charges"):
        write_run_page(told_run(n_frames=3, fields=("energy",)), path)
    assert not path.exists()


def test_short_and_timeless_runs_have_pages(tmp_path: Path) -> None:
    _, page = written(told_run(n_frames=1, dt=None), tmp_path)
    assert page.data["unit"] == "step" and page.data["means"] == [] and page.text["lede"].startswith("1 frame")
    crystal = ase_molecule("H2O", cell=[4.0, 5.0, 6.0], pbc=True)
    _, page = written(told_run(crystal, n_frames=4), tmp_path)
    assert (
        unpacked(page.data["cell"], 9)[0].reshape(3, 3) == pytest.approx(np.diag([4.0, 5.0, 6.0])) and page.data["cellFixed"]
    )
    shown = unpacked(page.data["positions"], 9).reshape(4, 3, 3)
    assert shown[0] == pytest.approx(crystal.positions, abs=0.2), "periodic frames are not turned"


def test_the_command_line_writes_page_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told_run(n_frames=40, groups=GROUPS, output="run.h5")
    (tmp_path / "groups.json").write_text(json.dumps({"OH": [2, 3], "rest": [0, 1, 4, 5, 6, 7, 8]}))
    command = ["report", "run.h5", "-o", "made.html", "--figures", "figures", "--groups", "groups.json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "without flow: run.h5 has no field 'energy_flow'" in done.output
    page = Page((tmp_path / "made.html").read_text(encoding="utf-8"))
    assert [group["name"] for group in page.data["groups"]] == ["OH", "rest"]
    assert {"carpet-energies.png", "carpet-energies.pdf", "groups-charges.png"} <= {
        p.name for p in (tmp_path / "figures").iterdir()
    }
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "--overwrite" in again.output
    (tmp_path / "groups.json").write_text("[1]")
    wrong = CliRunner().invoke(app, [*command, "--overwrite"])
    assert wrong.exit_code == 2 and "lists of atoms by name" in wrong.output


# --- in a browser -----------------------------------------------------------------------------------------------------


class Seen:
    """A page in Chromium without network, and everything it asked for or complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, height: int = 800, before: str = "") -> None:
        self.context = browser.new_context(offline=True, viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.add_init_script(
            "window.hacked = 0; addEventListener('securitypolicyviolation', e => console.error(e.blockedURI));"
        )
        if before:
            self.page.add_init_script(before)
        self.page.goto(path.as_uri())
        self.page.wait_for_function("() => window.ready === true", timeout=60_000)

    def __call__(self, code: str) -> Any:
        return self.page.evaluate(code)

    def text(self, name: str) -> str:
        return str(self.page.locator(f"#{name}").text_content())

    def slide(self, frame: int) -> None:
        self.page.evaluate(
            "k => { const s = document.getElementById('slider'); s.value = k; s.dispatchEvent(new Event('input')); }", frame
        )

    def screen(self, index: int) -> tuple[float, float]:
        """Pixels from the left and the top of the window to an atom."""
        code = "i => { const {x, y, z} = viewer.selectedAtoms({index: i})[0]; return viewer.modelToScreen({x, y, z}); }"
        at = self.page.evaluate(code, index)
        return at["x"], at["y"]

    def reset(self) -> None:
        """As just opened: on a screen, at the top, the first frame, all groups, no atoms chosen, no surface."""
        self.page.emulate_media(media="screen")
        self.page.mouse.move(0, 0)
        self("() => document.querySelectorAll('#chips [aria-pressed=false]').forEach(chip => chip.click())")
        self("() => xai.structure.probes.forEach(probe => { probe.shown = false; })")
        self("() => { xai.go(0); xai.choose([]); scrollTo(0, 0); }")

    def atoms(self) -> np.ndarray:
        return np.array(self("() => viewer.selectedAtoms({}).map(a => [a.x, a.y, a.z])"))

    def pixels(self, name: str) -> np.ndarray:
        return np.asarray(imread(io.BytesIO(self.page.locator(f"#{name}").screenshot()))[..., :3])

    def quiet(self) -> None:
        assert [url for url in self.requests if not url.startswith(("data:", "blob:"))] == self.requests[:1], self.requests
        assert self.requests[0].startswith("file:") and not self.complaints, self.complaints


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        running = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Seen]]:
    """Opens pages, and closes them after the test."""
    opened: list[Seen] = []

    def open_page(path: Path, **settings: Any) -> Seen:
        opened.append(Seen(browser, path, **settings))
        return opened[-1]

    yield open_page
    for seen in opened:
        seen.context.close()


@pytest.fixture(scope="module")
def opened(browser: Any, full: tuple[Path, Page]) -> Seen:
    return Seen(browser, full[0])


@pytest.fixture
def seen(opened: Seen) -> Seen:
    """The full page, opened once for several tests."""
    opened.reset()
    return opened


@pytest.fixture(scope="module")
def at_limits(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One atom at each end of the scale of energies, one between, which moves from the one to the other half-way."""
    atoms = Atoms("CCC", [[-2.5, 0, 0], [-1.1, 0.4, 0], [2.5, 0, 0]])
    positions = np.repeat(atoms.positions[None], 10, axis=0)
    positions[5:, 1, 0] = 1.1
    energies = np.repeat([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]], 5, axis=0)
    given = {"energies": energies, "positions": positions, "charges": np.zeros((10, 3))}
    run = told_run(atoms, 10, size_every=1, doubted=(1,), **given)
    seen = Seen(browser, written(run, tmp_path_factory.mktemp("limits"))[0])
    seen.page.uncheck("#names")
    return seen


@pytest.fixture(scope="module")
def evil(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A page whose every text tries to become code; it has more groups than are drawn at first."""
    run, extras = hostile()
    return Seen(browser, written(run, tmp_path_factory.mktemp("evil"), **extras)[0])


@needs_browser
def test_the_slider_moves_atoms_and_label(seen: Seen, run: Run) -> None:
    first = seen.atoms()
    seen.slide(31)
    moved, given = seen.atoms(), run.positions[31]
    assert np.abs(moved - first).max() > 0.01
    for a in range(9):
        for b in range(a):
            assert np.linalg.norm(moved[a] - moved[b]) == pytest.approx(np.linalg.norm(given[a] - given[b]), abs=2e-3)
    assert seen.text("where") == "15.5 fs · frame 32 of 60"
    seen.quiet()


@needs_browser
def test_keys_move_the_frame(seen: Seen) -> None:
    for key, frame in (("ArrowRight", 2), ("Shift+ArrowRight", 12), ("ArrowLeft", 11), ("End", 60), ("Home", 1)):
        seen.page.keyboard.press(key)
        assert f"frame {frame} of 60" in seen.text("where"), key
    seen.page.locator("#slider").focus()
    seen.page.keyboard.press("ArrowRight")
    assert "frame 2 of 60" in seen.text("where"), "the slider and the page must not both move"
    seen.page.select_option("#speed", "200")
    seen.page.locator("#slider").focus()
    seen.page.keyboard.press("Space")
    seen.page.wait_for_function(
        "() => document.getElementById('where').textContent.includes('frame 60 of 60')", timeout=20_000
    )
    assert seen.page.locator("#play").get_attribute("aria-label") == "play", "it stops at the end"


@needs_browser
def test_clicks_on_charts_and_tables_move_the_frame(seen: Seen) -> None:
    box = seen.page.locator("#panels .u-over").first.bounding_box()
    seen.page.mouse.click(box["x"] + box["width"] * 45 / 59, box["y"] + 20)
    assert "frame 46 of 60" in seen.text("where")
    carpet = seen.page.locator("#carpet-plot .u-over")
    carpet.scroll_into_view_if_needed()
    box = carpet.bounding_box()
    seen.page.mouse.click(
        box["x"] + box["width"] * 20 / 59, box["y"] + box["height"] * 1.5 / 9
    )  # the second row of the first group
    assert "frame 21 of 60" in seen.text("where") and "H6 ×" in seen.text("chips")
    seen.page.locator("#events-table tbody tr").first.click()
    assert "frame 11 of 60" in seen.text("where")
    assert [name in seen.text("chips") for name in ("H3 ×", "O2 ×", "C0 ×", "H6 ×")] == [True, True, True, False]
    assert "O2 (hydroxyl)" in seen.text("chosen")
    seen.quiet()


@needs_browser
def test_dragging_zooms_all_plots_and_a_double_click_shows_all_again(seen: Seen) -> None:
    ranges = "() => xai.charts.plots().map(plot => [plot.scales.x.min, plot.scales.x.max])"
    box = seen.page.locator("#panels .u-over").first.bounding_box()
    at = [box["x"] + box["width"] * k / 59 for k in (20, 40)]
    seen.page.mouse.move(at[0], box["y"] + 30)
    seen.page.mouse.down()
    seen.page.mouse.move(at[1], box["y"] + 30, steps=4)
    seen.page.mouse.up()
    for low, high in seen(ranges):
        assert (low, high) == pytest.approx((10.0, 20.0), abs=0.1)
    assert "frame 1 of 60" in seen.text("where"), "dragging is no click"
    seen("() => xai.choose([2])")
    assert all(low == pytest.approx(10.0, abs=0.1) for low, _ in seen(ranges)), "new curves keep the range"
    seen.page.mouse.dblclick(sum(at) / 2, box["y"] + 30)
    assert all((low, high) == (0.0, 29.5) for low, high in seen(ranges))


@needs_browser
def test_drawn_curves_are_those_of_the_run(seen: Seen, run: Run) -> None:
    drawn = seen("() => xai.charts.plots().map(plot => plot.data)")
    energies, charges = np.array(drawn[3][1:]), np.array(drawn[4][1:])
    for row, atoms in enumerate(GROUPS.values()):
        expected = run["energies"][:, list(atoms)].sum(axis=1)
        assert np.abs(energies[row] - (expected - expected.mean())).max() < 1e-3
        assert np.abs(charges[row] - run["charges"][:, list(atoms)].sum(axis=1)).max() < 1e-3
    temperature = 2 * np.asarray(run["kinetic_energy"]) / (3 * 9 * 8.617333e-5)
    assert np.abs(np.array(drawn[1][1]) - temperature).max() < 1e-4 * temperature.max()
    size = np.array(drawn[5][1], dtype=float)
    assert np.flatnonzero(np.isfinite(size)).tolist() == list(range(0, 60, 7))
    assert size[7] == pytest.approx(run["size"][1, list(GROUPS["methyl"])].mean(), abs=1e-3)


@needs_browser
def test_curves_of_charge_between_groups_close(seen: Seen, run: Run) -> None:
    """The two groups that hang on the third have gained what came along the bonds to it; with atoms, their own bonds."""
    change, leak = gained(run)
    drawn = np.array(seen("() => xai.charts.plots()[6].data")[1:])
    assert drawn.shape == (3, 60)
    for row, group in ((0, "methylene"), (1, "hydroxyl")):
        assert np.abs(drawn[row] - change[:, GROUPS[group]].sum(axis=1)).max() < 1e-3
    assert np.abs(drawn[2] - 4 / 9 * np.abs(leak)).max() < 1e-3
    seen("() => xai.choose([3])")
    drawn = np.array(seen("() => xai.charts.plots()[6].data")[1:])
    assert drawn.shape == (4, 60) and np.abs(drawn[3] + change[:, 3]).max() < 1e-3, (
        "from the atom to the one it is bonded to"
    )
    seen.slide(31)
    told_values = seen.page.locator("#charge-flow-plot .values").text_content()
    assert f"H3 → O2 {-change[31, 3]:.3f}".replace("-", "−") in told_values, told_values
    box = seen.page.locator("#charge-flow-plot .u-over")
    box.scroll_into_view_if_needed()
    at = box.bounding_box()
    seen.page.mouse.click(at["x"] + at["width"] * 20 / 59, at["y"] + 20)
    assert "frame 21 of 60" in seen.text("where")


@needs_browser
def test_a_click_on_an_atom_shows_its_curves(seen: Seen, run: Run) -> None:
    seen.slide(12)
    before = seen("() => xai.charts.plots().map(plot => plot.series.length)")
    seen.page.mouse.click(*seen.screen(2))
    seen.page.wait_for_function("() => document.getElementById('chips').textContent.includes('O2 ×')")
    after = seen("() => xai.charts.plots().map(plot => plot.series.length)")
    added = [a - b for a, b in zip(after, before, strict=True)]
    assert added == [0, 0, 0, 1, 1, 1, 2], "fields of atoms get a curve, and the flow one for each of the two bonds"
    energy = run["energies"][:, 2] - (ELEMENT_MEAN[8] - COMPOSITION[8])
    assert f"O2 (hydroxyl): energy {energy[12]:.2g}"[:-1].replace("-", "−") in seen.text("chosen")
    curve = np.array(seen("() => xai.charts.plots()[3].data.at(-1)"))
    assert np.abs(curve - (energy - energy.mean())).max() < 1e-3
    seen.page.get_by_text("O2 ×").click()
    assert "O2" not in seen.text("chips")
    seen.page.locator("#chips .chip").first.click()
    assert seen("() => xai.charts.plots()[3].series.length") == before[3] - 1, "a group can be hidden"


@needs_browser
def test_atoms_at_the_limits_are_red_and_blue(at_limits: Seen) -> None:
    """Half-way the two at the ends of the scale change places, and the bond too."""
    seen = at_limits
    seen.page.select_option("#quantity", index=0)
    for frame, colors, bonds in (
        (0, ("red", "white", "blue"), [[1], [0], []]),
        (9, ("blue", "white", "red"), [[], [2], [1]]),
    ):
        seen.slide(frame)
        assert seen("() => viewer.selectedAtoms({}).map(atom => atom.bonds)") == bonds
        pixels, box = seen.pixels("view"), seen.page.locator("#view").bounding_box()
        for atom, color in enumerate(colors):
            x, y = (round(at - start) for at, start in zip(seen.screen(atom), (box["x"], box["y"]), strict=True))
            found = pixels[y - 8 : y + 9, x - 8 : x + 9].reshape(-1, 3)
            assert np.ptp(pixels) > 0.5, "nothing is drawn"
            red_over_blue = np.median(found[:, 0] - found[:, 2])
            expected = {"red": red_over_blue > 0.25, "blue": red_over_blue < -0.25, "white": abs(red_over_blue) < 0.06}
            assert expected[color], f"frame {frame}: {color} expected, red − blue is {red_over_blue:.2f}"
    seen.page.select_option("#quantity", label="latent charge (e)")
    assert "reference: none" in seen.text("about-scale") and "gauge: dependent" in seen.text("about-scale")


@needs_browser
def test_atoms_without_a_trusted_value_are_gray_and_the_legend_says_so(at_limits: Seen) -> None:
    """The one between is to be trusted on the left only, in the first half of the run."""
    seen = at_limits
    seen.page.select_option("#quantity", index=0)
    assert "not known" not in seen.text("entries"), "energies are all known"
    seen.page.select_option("#quantity", label="rigidity of energy (dimensionless)")
    for frame, n_gray in ((2, 0), (8, 1)):
        seen.slide(frame)
        assert f"not known, or not to be trusted: {n_gray} of 3 atoms in this frame" in seen.text("entries")
        pixels, box = seen.pixels("view"), seen.page.locator("#view").bounding_box()
        x, y = (round(at - start) for at, start in zip(seen.screen(1), (box["x"], box["y"]), strict=True))
        found = np.median(pixels[y - 6 : y + 7, x - 6 : x + 7].reshape(-1, 3), axis=0)
        assert (np.ptp(found) < 0.02) == (n_gray == 1), f"frame {frame}: the atom has the color {found}"
    seen.quiet()


@needs_browser
def test_a_notebook_has_the_page_that_works(run: Run, tmp_path: Path, look: Callable[..., Seen]) -> None:
    """In its sandbox: no complaint, the slider moves atoms, and the notebook around it is out of reach."""
    path = tmp_path / "notebook.html"
    shell = "<!DOCTYPE html><title>secret</title><body>{}<script>window.ready = true</script></body>"
    path.write_text(shell.format(run.view()._repr_html_()), encoding="utf-8")
    seen = look(path)
    frame = seen.page.frames[1]
    frame.wait_for_function("() => window.ready === true", timeout=60_000)
    moved = frame.evaluate("""() => {
        const atoms = () => viewer.selectedAtoms({}).map(a => [a.x, a.y, a.z]), before = atoms();
        const slider = document.getElementById("slider");
        slider.value = 31;
        slider.dispatchEvent(new Event("input"));
        return [before, atoms(), document.getElementById("where").textContent];
    }""")
    shift = np.abs(np.array(moved[1]) - np.array(moved[0])).max()
    assert shift > 0.01 and moved[2] == "15.5 fs · frame 32 of 60"
    reach = "() => { try { return parent.document.title; } catch (error) { return error.name; } }"
    assert frame.evaluate(reach) == "SecurityError"
    seen.quiet()


@needs_browser
def test_of_many_groups_the_first_are_drawn_until_more_are_asked_for(evil: Seen) -> None:
    evil("() => xai.choose([])")
    counted = "() => xai.charts.plots()[4].series.length - 1"
    assert evil(counted) == 8
    evil.page.get_by_role("button", name="all 9 groups").click()
    assert evil(counted) == 9
    evil.page.get_by_role("button", name="no groups").click()
    assert evil(counted) == 0
    evil.page.get_by_role("button", name="atom 8 (1)").click()
    assert evil(counted) == 1
    evil.quiet()


@needs_browser
def test_surfaces_belong_to_their_frames(seen: Seen) -> None:
    bare = seen.pixels("view")
    seen.page.get_by_role("button", name="2.5 fs").click()
    assert "frame 6 of 60" in seen.text("where") and "Surface: latent local chemical potential of H" in seen.text(
        "about-scale"
    )
    covered = seen.pixels("view")
    assert (covered.min(axis=2) < 0.97).mean() > (bare.min(axis=2) < 0.97).mean() + 0.1
    seen.page.keyboard.press("ArrowRight")
    assert "Surface" not in seen.text("about-scale")


@needs_browser
def test_without_webgl_charts_work_and_the_page_says_why(full: tuple[Path, Page], look: Callable[..., Seen]) -> None:
    seen = look(full[0], before=NO_WEBGL)
    assert "WebGL" in seen.text("why") and "undefined" not in seen.text("why")
    assert seen.page.locator("#static img").is_visible() and not seen.page.locator("#frame").is_visible()
    box = seen.page.locator("#panels .u-over").first.bounding_box()
    seen.page.mouse.click(box["x"] + box["width"] * 30 / 59, box["y"] + 20)
    assert "frame 31 of 60" in seen.text("where")
    carpet = seen.pixels("carpet-plot")
    assert (np.ptp(carpet, axis=2) > 0.2).mean() > 0.05, "the carpet has no colors"


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(
    full: tuple[Path, Page], look: Callable[..., Seen], opened: Seen, width: int
) -> None:
    seen = opened if width == 1280 else look(full[0], width=width, height=800)
    assert seen("() => document.documentElement.scrollWidth") <= width
    for name in ("panels", "carpet-plot", "infrared-plots"):
        box = seen.page.locator(f"#{name} canvas").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 0.5 * min(width, 800), name
    unnamed = seen("""() => [...document.querySelectorAll("button, input, select, [role=img]")]
        .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label"))).map(e => e.outerHTML)""")
    assert unnamed == [], "everything that can be used must have a name"
    seen.quiet()


@needs_browser
def test_hostile_text_stays_text_in_the_browser(evil: Seen) -> None:
    seen = evil
    seen.page.locator("#events-table tbody tr").first.click()
    assert seen("() => window.hacked") == 0 and seen("() => document.images.length") == 1
    for name in ("chips", "events-table", "card-table", "flow-table", "chosen"):
        assert EVIL in seen.text(name), name
    seen.quiet()


@needs_browser
def test_a_large_page_opens_soon(tmp_path: Path, look: Callable[..., Seen], browser: Any) -> None:
    """2,000 frames of 50 atoms: its programs may run 3 s, software rendering included; the machine may be busy besides."""
    atoms = Atoms("CH" * 25, np.random.default_rng(0).uniform(0, 12, (50, 3)))
    seen = look(written(told_run(atoms, 2000, size_every=10), tmp_path)[0])
    session = seen.context.new_cdp_session(seen.page)
    session.send("Performance.enable")
    metrics = {row["name"]: row["value"] for row in session.send("Performance.getMetrics")["metrics"]}
    assert metrics["ScriptDuration"] < 3.0
    seen.page.keyboard.press("End")
    assert "frame 2,000 of 2,000" in seen.text("where")


@needs_browser
def test_paper_gets_the_structure_and_no_buttons(seen: Seen) -> None:
    pdf = seen.page.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    seen("() => dispatchEvent(new Event('beforeprint'))")
    picture = str(seen("() => document.getElementById('print-view').src"))
    printed = imread(io.BytesIO(base64.b64decode(picture.partition(",")[2])))[..., :3]
    assert (printed.min(axis=2) < 0.9).mean() > 0.02, "the printed structure is blank"
    seen("() => dispatchEvent(new Event('afterprint'))")
    assert seen("() => document.getElementById('print-view')") is None
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("#transport").is_visible() and seen.page.locator("#provenance").is_visible()


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """(50, 80, 3) means over squares of 16 pixels."""
    return np.asarray(picture[:800, :1280].reshape(50, 16, 80, 16, 3).mean(axis=(1, 3)))


@needs_browser
def test_it_looks_as_it_did(seen: Seen) -> None:
    """Loosely: squares of 16 pixels. To accept another look: delete tests/run_page.png, and run this test twice."""
    seen.slide(31)
    now = thumbnail(imread(io.BytesIO(seen.page.screenshot()))[..., :3])
    if not REFERENCE.exists():
        matplotlib.image.imsave(REFERENCE, now)
        pytest.fail(f"{REFERENCE} was missing and has been written; look at the page and run again")
    before = imread(REFERENCE)[..., :3]
    assert np.abs(now - before).mean() < 0.04, "the page looks different"
    assert np.corrcoef(now.ravel(), before.ravel())[0, 1] > 0.75
