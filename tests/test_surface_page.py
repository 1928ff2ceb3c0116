"""Pages of explanations hold the numbers and colors of the record, ask no network for anything, and work in a browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from ase.build import molecule as ase_molecule
from matplotlib.image import imread
from test_explanation_figures import SPREAD, explained, sphere

from ase_xai.explainers.explanation import Explanation
from ase_xai.report import page as page_module
from ase_xai.report import write_page

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "ase_xai" / "report" / "assets"
SHA256 = {"3Dmol-min.js": "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"}
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; worker-src blob:"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader",
         "--ignore-gpu-blocklist", "--window-size=1280,900", "--virtual-time-budget=8000",
         "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path; the page's data are tested without one"
)


class Page(HTMLParser):
    """What a browser would find in a page: tags with their attributes, and the text of elements that have an id."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag not in ("meta", "img", "input"):
            self._open.append((tag, found.get("id")))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.scripts[-1] += data
        for _, name in self._open:
            if name:
                self.text[name] = self.text.get(name, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.text["data"])


def written(record: Explanation, folder: Path) -> tuple[Path, Page]:
    path = folder / "page.html"
    write_page(record, path)
    return path, Page(path.read_text(encoding="utf-8"))


PAGES: dict[str, Callable[[], Explanation]] = {
    "atoms": lambda: explained(**SPREAD, mask=np.arange(9) != 4),
    "charges": lambda: explained(target="charge", units="e", reference="none"),
    "crystal": lambda: explained("H2O", cell=np.diag([4.0, 5.0, 6.0]), pbc=[True] * 3),
    "surface": lambda: sphere("O", mask=np.arange(266) % 9 > 0, uncertainty=np.linspace(0.1, 0.9, 266)),
    "points": lambda: sphere("N", level="points", faces=None),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Page]]:
    """Every page, written once."""
    return {name: written(make(), tmp_path_factory.mktemp(name)) for name, make in PAGES.items()}


# --- without a browser ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_the_record(name: str, pages: dict[str, tuple[Path, Page]]) -> None:
    record = PAGES[name]()
    path, page = pages[name]
    data = page.data
    assert path.stat().st_size < 2e6
    assert data["symbols"] == list(record.atoms.symbols) and data["level"] == record.level
    assert np.abs(np.array(data["positions"]) - record.positions).max() <= 5.1e-5
    assert np.abs(np.array(data["fields"][0]["values"]) - record.values).max() < 1e-6 * np.abs(record.values).max()
    assert len(data["fields"]) == (1 if record.uncertainty is None else 2)
    if record.uncertainty is not None:
        assert data["fields"][1]["logarithmic"]
        assert data["fields"][1]["values"] == pytest.approx(record.uncertainty, rel=1e-6)
    mask = np.ones(len(record.values), dtype=bool) if record.mask is None else record.mask
    assert data["fields"][0]["trusted"] == mask.tolist()
    limit = np.percentile(np.abs(record.values[mask]), 98)
    assert (data["fields"][0]["low"], data["fields"][0]["high"]) == pytest.approx((-limit, limit))
    if record.points is not None:
        assert np.abs(np.array(data["points"]) - record.points).max() <= 5.1e-4
    assert data["faces"] == (None if record.faces is None else record.faces.tolist())
    assert len(data["cell"]) == (12 if name == "crystal" else 0)
    lengths = sorted(round(float(np.linalg.norm(np.subtract(*edge))), 6) for edge in data["cell"])
    assert lengths == ([4.0] * 4 + [5.0] * 4 + [6.0] * 4 if name == "crystal" else [])


@pytest.mark.parametrize(("name", "colormap"), [("atoms", "RdBu_r"), ("charges", "RdBu"), ("surface", "RdBu_r")])
def test_colors_are_those_of_matplotlib(name: str, colormap: str, pages: dict[str, tuple[Path, Page]]) -> None:
    page = pages[name][1]
    table = np.frombuffer(base64.b64decode(page.data["fields"][0]["table"]), dtype=np.uint8).reshape(256, 3)
    for row in (0, 1, 100, 128, 255):
        expected = matplotlib.colormaps[colormap](0.1 + 0.8 * row / 255)[:3]
        assert np.abs(table[row] / 255 - expected).max() <= 0.51 / 255


def test_the_page_says_what_is_shown(tmp_path: Path) -> None:
    record = explained(**SPREAD, notes=("Latent: one of many splits.",))
    _, page = written(record, tmp_path)
    assert page.text["quantity"] == "latent energy − composition (eV)"
    for expected in ("reference: composition", "gauge: dependent", "invented [none] (0123456789ab)", "Residual −2.5e−09 eV",
                     "Uncertainty 1σ", "98th percentile", *record.notes):  # fmt: skip
        assert expected in page.text["facts"], expected
    with pytest.raises(ValueError, match="relative"):
        write_page(explained(reference="none"), tmp_path / "bare.html")
    assert not (tmp_path / "bare.html").exists()


def test_nothing_is_asked_of_a_network(pages: dict[str, tuple[Path, Page]]) -> None:
    for name, (_, page) in pages.items():
        policies = [about["content"] for tag, about in page.tags if about.get("http-equiv") == "Content-Security-Policy"]
        assert policies == [POLICY]
        assert page.tags.index(("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})) < next(
            place for place, (tag, _) in enumerate(page.tags) if tag in ("script", "style")
        ), "the policy must stand before what it governs"
        assert not [tag for tag, about in page.tags if tag in ("link", "iframe", "object", "base") or "href" in about], name
        sources = [about["src"] for _, about in page.tags if "src" in about]
        assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
        picture = imread(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
        assert min(picture.shape[:2]) > 250 and np.ptp(picture[..., :3]) > 0.5, "the printed figure is blank"


def test_text_of_a_record_cannot_become_code(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp; @DATA@"
    record = explained(model=evil, notes=(evil,), target=f"energy {evil}", method=evil)
    _, page = written(record, tmp_path)
    assert len(page.scripts) == 3 and not any("alert(2)" in code for code in page.scripts[1:])
    assert page.text["facts"].count(evil) >= 2, "the text itself must be readable"
    assert page.data["fields"][0]["name"].startswith(f"latent energy {evil}")
    assert not [about for _, about in page.tags if "onerror" in about]


def test_the_library_is_unmodified_and_brings_its_licenses(pages: dict[str, tuple[Path, Page]]) -> None:
    for name, digest in SHA256.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest
    page = pages["atoms"][1]
    assert page.scripts[1] == (ASSETS / "3Dmol-min.js").read_text(encoding="utf-8")
    for text in ((ASSETS / "3Dmol-LICENSE.txt").read_text(encoding="utf-8"), page.text["license"]):
        for part in (
            "University of Pittsburgh",
            "Redistributions in binary form",
            "GLmol",
            "three.js authors",
            "John Resig",
        ):
            assert part.lower() in text.lower(), part


def test_assets_are_named_in_the_recipe_of_wheel_and_sdist() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        targets = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]
    names = [path.relative_to(ROOT).as_posix() for path in ASSETS.iterdir()]
    assert {"3Dmol-min.js", "3Dmol-LICENSE.txt", "page.html", "page.js"} <= {Path(name).name for name in names}
    for target in ("wheel", "sdist"):
        left = [name for name in names if not any(fnmatch(name, pattern) for pattern in targets[target]["artifacts"])]
        assert not left, f"the {target} would lack {left}"


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds wheels, is not installed")
def test_assets_are_in_the_listing_of_the_wheel() -> None:
    from hatchling.builders.wheel import WheelBuilder

    listed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"ase_xai/report/assets/{path.name}" for path in ASSETS.iterdir()} <= listed


def test_large_meshes_and_other_levels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="draws level 'atom' or 'surface' or 'points', got 'group'"):
        write_page(explained().by({"all": range(9)}), tmp_path / "group.html")
    monkeypatch.setattr(page_module, "MAX_POINTS", 265)
    with pytest.raises(ValueError, match=r"266 points are more than the 265 .* Take a wider spacing"):
        write_page(sphere(), tmp_path / "large.html")


@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "isobutane"])
def test_the_first_view_is_that_of_the_figure(name: str, tmp_path: Path) -> None:
    """The quaternion in the page, applied as q v q*, must lay the molecule as flat as its principal axes allow."""
    record = explained(name)
    _, page = written(record, tmp_path)
    x, y, z, w = page.data["turn"]
    vector, centered = np.array([x, y, z]), record.positions - record.positions.mean(axis=0)
    turned = np.array([p + 2 * np.cross(vector, np.cross(vector, p) + w * p) for p in centered])
    assert np.linalg.norm([x, y, z, w]) == pytest.approx(1.0)
    figure_view = page_module.principal_view(record.numbers, record.positions)
    assert np.abs(turned - figure_view(record.positions)).max() < 1e-9


# --- in a browser -----------------------------------------------------------------------------------------------------

PROBE = """
const report = {errors: [], violations: 0};
addEventListener("error", event => report.errors.push(String(event.message)));
addEventListener("securitypolicyviolation", () => { report.violations += 1; });
addEventListener("load", () => {
  report.ready = window.ready === true;
  try { %s } catch (error) { report.errors.push(String(error)); }
  report.requests = performance.getEntriesByType("resource").map(e => e.name).filter(name => !/^(data|blob):/.test(name));
  report.notice = document.getElementById("why").textContent;
  report.shown = getComputedStyle(document.getElementById("static")).display;
  const out = document.createElement("pre");
  out.id = "report";
  out.hidden = true;
  out.textContent = JSON.stringify(report);
  document.body.append(out);
});
"""
NO_WEBGL = """
for (const kind of [HTMLCanvasElement, OffscreenCanvas]) {
  const original = kind.prototype.getContext;
  kind.prototype.getContext = function (name, ...rest) {
    return /webgl/.test(name) ? null : original.call(this, name, ...rest);
  };
}
"""


def browse(path: Path, actions: str = "", before: str = "") -> tuple[dict[str, Any], np.ndarray]:
    """What the page reports of itself after `actions` in Chromium without network, and how it looks, (rows, columns, 3)."""
    assert CHROMIUM is not None
    text, shot = path.read_text(encoding="utf-8"), path.with_suffix(".png")
    probe = f"<script>{before}\n{PROBE % actions}</script>"
    path.write_text(text.replace("<title>", f"{probe}<title>", 1), encoding="utf-8")
    folder = f"--user-data-dir={path.parent / 'profile'}"
    command = [CHROMIUM, *FLAGS, folder, f"--screenshot={shot}", "--dump-dom", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'<pre id="report"[^>]*>(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, f"the page did not report: {run.stderr[-2000:]}"
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")), imread(shot)[..., :3]


SETTLE = """
  for (const box of ["names", "numbers"]) {
    const input = document.getElementById(box);
    input.checked = false;
    input.dispatchEvent(new Event("change"));
  }
  const frame = document.getElementById("view").getBoundingClientRect();
  report.frame = [frame.left, frame.top, frame.right, frame.bottom].map(Math.round);
"""
CLICK = """
  const canvas = document.querySelector("#view canvas");
  const clientX = (frame.left + frame.right) / 2, clientY = (frame.top + frame.bottom) / 2;
  for (const type of ["mousedown", "mouseup"])
    canvas.dispatchEvent(new MouseEvent(type, {clientX, clientY, bubbles: true, button: 0, buttons: 1}));
  report.chosen = document.getElementById("chosen").textContent;
  document.querySelectorAll("#rows tbody tr")[0].click();
  report.row = document.getElementById("chosen").textContent;
  report.swatches = [...document.querySelectorAll(".swatch")].map(s => s.style.backgroundColor);
"""


def far_apart(**about: Any) -> Explanation:
    """Values at both ends of the scale on two atoms, one of them in the middle, and a third that is not to be trusted."""
    positions = [[-2.5, 0, 0], [0, 0.0, 0], [2.5, 0, 0]]
    facts = {"numbers": [6, 6, 6], "positions": positions, "values": [1.0, -1.0, 0.5], "mask": [True, True, False]}
    return explained("H2O", **{**facts, **about})


def inside(pixels: np.ndarray, frame: list[int]) -> np.ndarray:
    """(n, 3) colors in the frame of the viewer that are not its white."""
    left, top, right, bottom = frame
    found = pixels[top + 2 : bottom - 2, left + 2 : right - 2].reshape(-1, 3)
    return found[found.min(axis=1) < 0.97]


@needs_browser
@pytest.mark.slow
def test_atoms_have_their_colors_and_answer_clicks(tmp_path: Path) -> None:
    path, _ = written(far_apart(), tmp_path)
    report, pixels = browse(path, SETTLE + CLICK)
    assert report["ready"] and not report["errors"] and not report["violations"] and not report["requests"], report
    assert report["shown"] == "none"
    seen = inside(pixels, report["frame"])
    red, blue, spread = seen[:, 0] - seen[:, 2] > 0.2, seen[:, 2] - seen[:, 0] > 0.2, np.ptp(seen, axis=1)
    areas = [int(found.sum()) for found in (red, blue, (spread < 0.02) & (seen.mean(axis=1) > 0.4))]
    assert min(areas) > 500, f"pixels that are red, blue and gray: {areas}"
    assert not (seen[:, 1] > np.maximum(seen[:, 0], seen[:, 2]) + 0.05).any(), "something is green"
    assert report["chosen"] == "C1: −1 eV" and report["row"] == "C0: 1 eV"
    assert report["swatches"][2] == "rgb(189, 189, 189)"
    ends = [[int(part) for part in re.findall(r"\d+", swatch)] for swatch in report["swatches"][:2]]
    expected = [np.rint(255 * np.array(matplotlib.colormaps["RdBu_r"](part)[:3])) for part in (0.9, 0.1)]
    assert np.abs(np.array(ends) - expected).max() <= 1


@needs_browser
@pytest.mark.slow
def test_a_surface_is_drawn_in_its_colors(tmp_path: Path) -> None:
    """The half of the sphere that the reader sees first is stabilizing, the other is not."""
    record = sphere("H", n=10, values=np.zeros(182))
    x, y, z, w = written(record, tmp_path)[1].data["turn"]
    vector = np.array([x, y, z])
    depth = (record.points + 2 * np.cross(vector, np.cross(vector, record.points) + w * record.points))[:, 2]
    path, _ = written(sphere("H", n=10, values=-np.sign(depth)), tmp_path)
    turn = 'document.getElementById("clear").click();'
    report, pixels = browse(path, SETTLE + turn)
    assert report["ready"] and not report["errors"] and not report["violations"] and not report["requests"], report
    seen = inside(pixels, report["frame"])
    assert len(seen) > 10_000
    blue, red = seen[:, 2] - seen[:, 0] > 0.1, seen[:, 0] - seen[:, 2] > 0.1
    assert blue.mean() > 0.8 and red.mean() < 0.05, f"the near side is not blue: {blue.mean():.0%}, red {red.mean():.0%}"


@needs_browser
@pytest.mark.slow
def test_without_webgl_the_page_shows_the_figure_and_says_why(tmp_path: Path) -> None:
    path, _ = written(far_apart(), tmp_path)
    report, pixels = browse(path, 'document.querySelectorAll("#rows tbody tr")[1].click();', before=NO_WEBGL)
    assert report["ready"] and "WebGL" in report["notice"] and "undefined" not in report["notice"], report
    assert report["shown"] == "block" and not report["requests"] and not report["violations"]
    strong = pixels[:, :900].reshape(-1, 3)
    assert (strong[:, 2] > strong[:, 0] + 0.3).sum() > 200 and (strong[:, 0] > strong[:, 2] + 0.3).sum() > 200


def test_atoms_of_molecules_are_named_as_elsewhere(tmp_path: Path) -> None:
    atoms = ase_molecule("CH3CH2OH")
    _, page = written(explained(), tmp_path)
    assert page.data["names"] == [f"{symbol}{number}" for number, symbol in enumerate(atoms.symbols)]
    assert sorted(map(tuple, page.data["bonds"])) == [(0, 1), (0, 6), (0, 7), (0, 8), (1, 2), (1, 4), (1, 5), (2, 3)]
