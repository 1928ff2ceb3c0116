"""What the README shows, runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from ase_xai import Explanation, explain, explainers, load
from ase_xai.cli import explaining
from ase_xai.contract import check_network
from ase_xai.networks import NETWORKS
from ase_xai.trajectory import Run, energy_flow
from ase_xai.weights import ModelCard, save_weights

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def networks_restored() -> Iterator[None]:
    before = dict(NETWORKS)
    yield
    NETWORKS.clear()
    NETWORKS.update(before)


def test_the_scripts_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in BLOCKS:
        missing = "torch_sim" in block and find_spec("torch_sim") is None  # extra `torchsim`
        if "NETWORKS" not in block and "EXPLAINERS" not in block and not missing:
            exec(block, scope)
    assert len(scope["frames"]) == 21 and np.std(scope["energies"], axis=0).min() > 0
    assert [r["energy"] for r in scope["results"]] == pytest.approx([sum(e) for e in scope["energies"]], abs=1e-4)
    change, answer = scope["change"], scope["answer"]
    assert answer.reference == "element_mean" and answer.uncertainty.min() > 0
    assert change.total == pytest.approx(energy_of(change) - energy_of(answer), abs=1e-8)
    assert (tmp_path / "ethanol.json").exists()
    assert len(scope["run"]) == 201 and closure_of(scope["run"]) < 0.2
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert '"flow":{' in page and '"events":{' in page, page[-3000:]


def closure_of(run: Run) -> float:
    """How far the work between groups misses the change of their energies."""
    return energy_flow(run).closure


def energy_of(explanation: Explanation) -> float:
    """Total energy of the explained atoms with "organic" in float64."""
    atoms = explanation.atoms
    atoms.calc = load("organic", dtype="float64")
    return float(atoms.get_potential_energy())


def test_a_new_question_takes_twenty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe,) = (block for block in BLOCKS if "EXPLAINERS" in block)
    code = [line for line in recipe.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(code) <= 20
    monkeypatch.setattr(explainers, "EXPLAINERS", dict(explainers.EXPLAINERS))
    exec(recipe, {"__name__": "recipe"})
    atoms = molecule("H2O")
    atoms.calc = load("organic", dtype="float64")
    with pytest.warns(UserWarning, match="radical"):  # what is left when a hydrogen atom is gone
        answer = explain(atoms, explainers.explainer_by_name("Deletion")())
    hydroxyl = atoms[[0, 1]]
    hydroxyl.calc = atoms.calc
    assert answer.values[2] == pytest.approx(atoms.get_potential_energy() - hydroxyl.get_potential_energy(), abs=1e-9)
    assert answer.values[1] == pytest.approx(answer.values[2], abs=1e-5)  # two equal hydrogen atoms
    assert "deletion" in explaining.questions()


def test_a_new_network_takes_twenty_lines(tmp_path: Path, networks_restored: None) -> None:
    (recipe,) = (block for block in BLOCKS if "NETWORKS" in block)
    code = [line for line in recipe.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(code) <= 20
    exec(recipe, {})
    torch.manual_seed(0)
    network = NETWORKS["radial"](elements=[1, 6, 8])
    failed = [check for check in check_network(network) if not check.passed]
    assert not failed
    save_weights(tmp_path / "mine", network, ModelCard.describe(network, reference_kind="none"))
    atoms = molecule("CH3CH2OH")
    atoms.calc = load(tmp_path / "mine")
    assert atoms.get_forces().shape == (9, 3) and atoms.get_charges().sum() == pytest.approx(0, abs=1e-12)


def test_the_demo_runs_on_any_molecule(tmp_path: Path) -> None:
    """The demo, on water and for 20 steps."""
    structure = tmp_path / "water.xyz"
    structure.write_text("3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n")
    script = (ROOT / "examples" / "demo.py").read_text(encoding="utf-8").replace("STEPS = 4000", "STEPS = 20")
    (tmp_path / "demo.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "demo.py", str(structure)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "20 evaluations for 20 steps" in done.stdout
    assert (tmp_path / "demo-output" / "water.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "demo-output" / "water.html").stat().st_size > 500_000


def test_nothing_is_left_to_fill_in_and_links_lead_somewhere() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "@@" not in text, name
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_the_training_of_the_readme_runs(tmp_path: Path) -> None:
    """The configuration shown, on a few molecules in the units it names, for a few steps."""
    from ase import units
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write
    from training_data import labeled

    from ase_xai.training.pipeline import train
    from ase_xai.weights import load_weights

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (config,) = (block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[training]" in block)
    structures, frames = labeled(tmp_path), []
    kcal = units.kcal / units.mol
    for s in range(len(structures)):
        rows = slice(structures.offsets[s], structures.offsets[s + 1])
        atoms = Atoms(structures.numbers[rows], structures.positions[rows])
        results = {"energy": structures.energy[s] / kcal, "forces": structures.forces[rows] / kcal}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    write(tmp_path / "molecules.extxyz", frames)
    (tmp_path / "run.toml").write_text(config)
    card = load_weights(train(tmp_path / "run.toml", tmp_path / "run", steps=3, progress=False)).card
    assert card.training["structures"] == {"training": 41, "validation": 2, "test": 5}
    assert card.references["O"] == pytest.approx(-80, abs=5)
