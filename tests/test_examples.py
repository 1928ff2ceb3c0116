"""The examples run, in short form, and say what they should."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, folder: Path, *arguments: str, **replaced: str) -> str:
    """Output of an example after textual replacements that make it short."""
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    for old, new in replaced.values():
        assert old in text, old
        text = text.replace(old, new)
    for helper in ("small_molecules.py",):
        (folder / helper).write_text((EXAMPLES / helper).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / script).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *arguments], cwd=folder, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_probe_maps_of_two_molecules(tmp_path: Path) -> None:
    out = run(
        "probe_maps.py",
        tmp_path,
        "maps",
        molecules=('("benzene", "toluene", "methane", "pyrazine", "propane")', '("benzene", "methane")'),
        probes=('("H", "C", "N", "O")', '("H",)'),
        surface=("LocalChemicalPotential(probe=probe)", "LocalChemicalPotential(probe=probe, surface=Surface(spacing=0.6))"),
        coarse=('LocalChemicalPotential(probe="H")', 'LocalChemicalPotential(probe="H", surface=Surface(spacing=0.6))'),
        insertion=('InsertionEnergy(probe="H")', 'InsertionEnergy(probe="H", surface=Surface(spacing=0.8))'),
        imported=(
            "from ase_xai.report import",
            "from ase_xai.explainers.surfaces import Surface\nfrom ase_xai.report import",
        ),
    )
    rows = [line for line in out.splitlines() if line.startswith("| H ")]
    assert len(rows) == 2 and "100%" in rows[1]  # methane: hydrogens all around, all points trusted
    for name in ("probe-H.png", "insertion-H.png", "benzene.html"):
        assert (tmp_path / "maps" / name).stat().st_size > 10_000


def test_the_gallery_compares_two_networks(tmp_path: Path) -> None:
    out = run(
        "gallery.py", tmp_path, "gallery", fewer=("for name in BUILDERS}", 'for name in ("methane", "ethanol", "furan")}')
    )
    rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines() if line.startswith("| H |")]
    assert [row[2] for row in rows] == ["14", "14"]
    assert float(rows[1][5]) > 0.8  # charges of hydrogen: both networks agree
    assert (tmp_path / "gallery" / "gallery-energies.png").stat().st_size > 10_000


def test_elements_cluster_by_group(tmp_path: Path) -> None:
    out = run("elements.py", tmp_path, "elements")
    (line,) = (line for line in out.splitlines() if line.startswith("distance within groups"))
    assert float(line.split("p = ")[1].split()[0]) < 0.01
    assert (tmp_path / "elements" / "embedding.png").stat().st_size > 10_000


def test_a_proton_moves_between_oxygens(tmp_path: Path) -> None:
    out = run("proton_transfer.py", tmp_path, "out", shorter=("= 2.5, 400.0, 0.5, 1", "= 0.15, 400.0, 0.5, 1"))
    assert "relaxed: proton 1.0" in out and "301 frames" in out
    closure = float(out.split("closure ")[1].split("%")[0])
    assert closure < 20.0
    assert (tmp_path / "out" / "events.csv").read_text().startswith("step,time (fs),kind")
    assert (tmp_path / "out" / "run.html").stat().st_size > 500_000


def test_infrared_of_ethanol_by_group(tmp_path: Path) -> None:
    out = run(
        "infrared_by_group.py",
        tmp_path,
        "out",
        shorter=("= 10.0, 300.0, 0.5, 4", "= 0.4, 300.0, 0.5, 4"),
        heated=(".run(2000)", ".run(200)"),
        segments=("SEGMENTS = 4", "SEGMENTS = 1"),
    )
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in out.splitlines() if line.startswith("| ")}
    assert 3400 < float(rows["O-H stretch"][1]) < 3950 and 2800 < float(rows["C-H stretches"][1]) < 3250
    assert float(rows["O-H stretch"][3].strip("%")) > 50  # the OH group makes its own band
    assert float(out.split("sum rule to ")[1].split()[0]) < 1e-10
    assert (tmp_path / "out" / "infrared.png").stat().st_size > 10_000


def test_a_relaxation_explained(tmp_path: Path) -> None:
    out = run("relaxation_explained.py", tmp_path, "out")
    totals = [float(line.split()[1]) for line in out.splitlines() if line.strip().startswith("total")]
    parts = [float(line.split()[-2]) for line in out.splitlines() if line.strip().startswith(("pulled", "other C", "H "))]
    assert sum(parts[:3]) == pytest.approx(totals[0], abs=2e-4) and sum(parts[3:]) == pytest.approx(totals[1], abs=2e-4)
    assert totals[0] < -1.0 and min(parts[:3]) == parts[0]  # the atoms that were pulled gain most
    assert (tmp_path / "out" / "waterfall.png").stat().st_size > 10_000


def test_liquid_water_by_hydrogen_bonds(tmp_path: Path) -> None:
    out = run(
        "liquid_water.py",
        tmp_path,
        "out",
        smaller=("PER_EDGE, SPACING = 4, 3.1", "PER_EDGE, SPACING = 3, 3.1"),
        shorter=("= 2000, 4000, 20, 0.5", "= 20, 180, 20, 0.5"),
    )
    assert "10 frames, 27 molecules" in out
    shares = [float(line.split("|")[2].strip(" %")) for line in out.splitlines() if line.startswith("| ") and "%" in line]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_molecules_relax_at_once_as_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("torch_sim", reason="extra `torchsim`")
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    out = run("relax_many.py", tmp_path, "3", "ethanol.xyz", faster=("FMAX, STEPS = 0.05", "FMAX, STEPS = 0.02"))
    assert "3 × C2H6O" in out and "one by one" in out
    assert float(out.split("at the same geometry:")[1].split()[0]) < 0.01  # meV, float32
    assert float(out.split("after both relaxations:")[1].split()[0]) < 1.0 and "for 0 molecules" in out


def test_any_trajectory_is_annotated(tmp_path: Path) -> None:
    out = run("annotate_any_run.py", tmp_path, shorter=("= 200, 4, 0.5", "= 20, 4, 0.5"))
    assert "21 frames of C2H4O2" in out and "N_eff" in out
    assert (tmp_path / "annotated-output" / "run.html").stat().st_size > 500_000


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_says_how_to_run_it(script: str) -> None:
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert f"python examples/{script}" in text or "other examples use" in text or "uses this" in text


@pytest.mark.parametrize("forces", [True, False])
def test_training_speed_trains_what_it_times(forces: bool) -> None:
    """One step of our networks on two molecules changes the weights and leaves finite ones."""
    script = runpy.run_path(str(EXAMPLES.parent / "benchmarks" / "training_speed.py"))
    water = molecule("H2O")
    columns = {
        "n_atoms": np.array([3, 3]),
        "Z": np.tile(water.numbers, 2),
        "R": np.concatenate([water.positions, 1.05 * water.positions]).astype(np.float32),
        "E_eV": np.array([1.0, 2.0]),
        "F_eV_A": np.zeros((6, 3), np.float32),
    }
    batch = script["Batch"](columns, np.array([0, 1]))
    network = script["SchNetNetwork"]([1, 8], n_features=8, n_interactions=1)
    before = network.energy_readout[0].weight.detach().clone()
    script["stepper"](network, script["ours"](network, forces), weights_only=True)(batch)
    assert not np.array_equal(network.energy_readout[0].weight.detach(), before)
    assert all(bool(parameter.isfinite().all()) for parameter in network.parameters())
