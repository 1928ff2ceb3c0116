"""Events of constructed trajectories: found exactly where they were planted, and nowhere else."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from explained import write_weights
from systems import random_schnet, shaken_molecule

from ase_xai import NetworkCalculator, load
from ase_xai.explainers import ExtrapolationFlags, LocalRigidity
from ase_xai.trajectory import Run, annotate
from ase_xai.trajectory.changes import change_points
from ase_xai.trajectory.events import Event, Events, alarms, aligned, find_events, level_changes
from ase_xai.trajectory.passages import Frames, Watch, bond_events, nearest, proton_transfers

OH = covalent_radii[8] + covalent_radii[1]
HOLD = 20.0


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> NetworkCalculator:
    return load(write_weights(tmp_path_factory.mktemp("w") / "w", random_schnet(1)), dtype="float64")


def frames(numbers: list[int], positions: np.ndarray, interval: float = 1.0, **box: object) -> Frames:
    n = len(positions)
    return Frames(np.array(numbers), 5 * np.arange(n), interval * np.arange(n), positions, **box)


def shuttling(xi: np.ndarray, seed: int = 0) -> np.ndarray:
    """(L, 4, 3) O, H, O and a far O: r_DH - r_AH of the proton between the first two is xi, and everything turns."""
    n = len(xi)
    positions = np.zeros((n, 4, 3))
    positions[:, 2, 0] = 2.5
    positions[:, 1, 0] = 1.25 + 0.5 * xi
    positions[:, 3, 0] = 9.0
    rng = np.random.default_rng(seed)
    matrix = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    return np.einsum("lia,lba->lib", positions, matrix) + rng.normal(0, 5, (n, 1, 3))


# --- the state machine ------------------------------------------------------------------------------------------------


def slow_passages(series: np.ndarray, times: np.ndarray, low: float, high: float, hold: float, start: bool) -> list:
    """Passages of one signal, looked for from every frame anew."""
    found, state, k = [], start, 0
    while k < len(series):
        stay = k
        while stay < len(series) and (series[stay] < low if state else series[stay] > high):
            stay += 1
        lasting = [m for m in range(k, stay) if times[m] - times[k] >= hold]
        if lasting:
            state = not state
            found.append((k, state))
            k = lasting[0] + 1
        else:
            k = max(stay, k + 1)
    return found


@pytest.mark.parametrize("hold", [0.0, 3.0, 10.0])
def test_passages_are_those_of_a_slow_search(hold: float) -> None:
    rng = np.random.default_rng(0)
    series = np.cumsum(rng.normal(0, 0.3, (400, 6)), axis=0)
    times = np.cumsum(rng.uniform(0.5, 1.5, 400))
    watch, found = Watch(np.zeros(6, dtype=bool), -0.5, 0.5, hold), []
    for time, values in zip(times, series, strict=True):
        found += watch.update(float(time), values)
    for k in range(6):
        mine = [(start, state) for signal, start, state in found if signal == k]
        assert mine == slow_passages(series[:, k], times, -0.5, 0.5, hold, False)
    assert len(found) > 10


# --- bonds -----------------------------------------------------------------------------------------------------------


def stretching(distances: np.ndarray) -> np.ndarray:
    positions = np.zeros((len(distances), 2, 3))
    positions[:, 1] = distances[:, None] * np.array([0.6, 0.0, 0.8])
    return positions


def test_bonds_break_and_form_where_planted() -> None:
    distances = np.full(400, 1.0 * OH)
    distances[120:250] = 2.0 * OH  # broken at 120, formed again at 250
    distances[60:75] = 1.6 * OH  # 15 fs of excursion: too short
    distances[300:] = 1.3 * OH  # between the levels: nothing
    events = bond_events(frames([8, 1], stretching(distances)), hold=HOLD)
    assert [(e.kind, e.step, e.time, e.atoms) for e in events] == [
        ("bond broken", 600, 120.0, (0, 1)),
        ("bond formed", 1250, 250.0, (0, 1)),
    ]
    assert events[0].payload["distance (Å)"] == pytest.approx(2.0 * OH)


@pytest.mark.parametrize("level", [1.15, 1.45])
def test_jitter_around_a_level_is_no_event(level: float) -> None:
    rng = np.random.default_rng(1)
    distances = (level + rng.normal(0, 0.08, 2000)) * OH
    distances[0] = (0.9 if level < 1.3 else 1.0) * OH
    assert (np.diff(distances > level * OH) != 0).sum() > 500  # it crosses the level all the time
    assert bond_events(frames([8, 1], stretching(distances)), hold=HOLD) == []
    assert len(bond_events(frames([8, 1], stretching(distances)), hold=0.0)) < 20  # the two levels alone let few through


def test_bonds_reach_over_boundaries() -> None:
    """The same motion in a box, wrapped into it, and in a box so small that rounding is not enough."""
    rng = np.random.default_rng(2)
    distances = np.where(np.arange(200) < 100, 1.0, 1.9) * OH
    shifted = stretching(distances) + np.array([6.8, 0.2, 6.9])
    for cell in (np.diag([7.0, 7.0, 7.0]), np.array([[7.0, 0, 0], [3.4, 6.0, 0], [-3.4, 2.9, 6.5]])):
        cells = np.repeat(cell[None], 200, axis=0)
        wrapped = shifted - np.floor(shifted @ np.linalg.inv(cell)) @ cell
        assert np.abs(wrapped - shifted).max() > 1
        events = bond_events(frames([8, 1], wrapped, cells=cells, pbc=(True, True, True)), hold=HOLD)
        assert [(e.kind, e.time) for e in events] == [("bond broken", 100.0)]
    small = np.array([[3.0, 0, 0], [1.4, 2.8, 0], [0.5, -1.2, 3.1]])
    for pbc in ((True, True, True), (True, False, True)):
        vectors = rng.uniform(-8, 8, (200, 3))
        shifts = (np.array(list(np.ndindex(13, 13, 13))) - 6) * np.array(pbc) @ small
        slow = np.array([np.linalg.norm(v + shifts, axis=1).min() for v in vectors])
        np.testing.assert_allclose(np.linalg.norm(nearest(vectors, small, pbc, 5.0), axis=1), slow, atol=1e-10)
    with pytest.raises(ValueError, match="there are no cells"):
        frames([8, 1], shifted, pbc=(True, False, False))
    with pytest.raises(ValueError, match=r"positions must have shape \(200, 3, 3\)"):
        frames([8, 1, 1], shifted)
    with pytest.raises(ValueError, match="below broken"):
        bond_events(frames([8, 1], shifted), hold=0.0, formed=1.5)


# --- protons ---------------------------------------------------------------------------------------------------------


def test_proton_transfers_are_found_exactly_where_planted() -> None:
    """Planted moments, vibrations on top, and a trembling around the middle that is no transfer."""
    n, planted = 3000, [400, 900, 1700, 2100]
    side = np.where(np.searchsorted(planted, np.arange(n), side="right") % 2, 1.0, -1.0)
    xi = side * (0.5 + 0.2 * np.sin(0.7 * np.arange(n)))
    xi[2500:2800] = 0.15 * np.random.default_rng(3).normal(size=300).clip(-1, 1)  # a shared proton
    xi[1200:1215] *= -1  # 15 fs on the other side
    events = proton_transfers(frames([8, 1, 8, 8], shuttling(xi)), hold=HOLD)
    assert [e.time for e in events] == planted and [e.step for e in events] == [5 * k for k in planted]
    assert [e.atoms for e in events] == [(1, 0, 2), (1, 2, 0), (1, 0, 2), (1, 2, 0)]
    assert all(e.kind == "proton transfer" and e.payload["largest r_DH - r_AH within hold (Å)"] > 0.2 for e in events)


def test_a_noisy_crossing_is_dated_at_the_stay_that_lasts() -> None:
    xi = np.concatenate([np.full(50, -0.6), [0.1, -0.1, 0.3, -0.1], np.full(80, 0.6)])
    (event,) = proton_transfers(frames([8, 1, 8, 8], shuttling(xi)), hold=HOLD)
    assert event.time == 54.0
    assert proton_transfers(frames([8, 1, 8, 8], shuttling(xi[:70])), hold=HOLD) == []  # not yet certain at the end
    assert proton_transfers(frames([6, 1, 6, 6], shuttling(xi)), hold=HOLD) == []  # not between these elements
    assert len(proton_transfers(frames([6, 1, 6, 6], shuttling(xi)), hold=HOLD, between=("C",))) == 1


# --- changes of level ------------------------------------------------------------------------------------------------


def vibration(n: int, seed: int) -> np.ndarray:
    """A damped oscillation driven at random: correlated, and with a period."""
    noise, x = np.random.default_rng(seed).normal(size=n + 500), np.zeros(n + 500)
    for t in range(2, n + 500):
        x[t] = 1.8 * x[t - 1] - 0.92 * x[t - 2] + noise[t]
    return x[500:] / x[500:].std()


def test_planted_changes_are_found_and_dated() -> None:
    for seed in range(10):
        x = vibration(3000, seed)
        x[1400:2300] += 4.0
        x[2300:] += 1.0
        found = change_points(x)
        assert len(found) == 2
        assert abs(found[0].index - 1400) < 30 and abs(found[1].index - 2300) < 30
        assert found[0].after - found[0].before == pytest.approx(4.0, abs=0.6)
        assert found[1].after - found[1].before == pytest.approx(-3.0, abs=0.6)
    exact = np.where(np.arange(500) < 213, 0.0, 1.0)
    assert [c.index for c in change_points(exact)] == [213]


def test_no_change_is_found_where_none_is() -> None:
    found = [len(change_points(vibration(3000, seed))) for seed in range(100, 160)]
    assert sum(found) <= 3  # of 60 series
    assert change_points(np.ones(200)) == []
    with pytest.raises(ValueError, match="at least 80 samples is needed"):
        change_points(np.zeros(77))


def test_changes_of_atoms_are_events() -> None:
    x = np.stack([vibration(1500, 1), vibration(1500, 2)], axis=1)
    x[700:, 1] -= 5.0
    (event,) = level_changes(x, 2 * np.arange(1500), 0.5 * np.arange(1500), "change of charges", "e")
    assert event.kind == "change of charges" and event.atoms == (1,) and abs(event.time - 350) < 10
    assert event.step == 2 * round(event.time / 0.5)
    assert event.payload["before (e)"] - event.payload["after (e)"] == pytest.approx(5.0, abs=0.6)


# --- alarms ----------------------------------------------------------------------------------------------------------


def test_alarms_are_raised_and_lifted() -> None:
    inside = np.ones((50, 3), dtype=bool)
    inside[10:20, 1] = False
    inside[0, 2] = inside[30, 2] = False
    events = alarms(inside, np.arange(50), 2.0 * np.arange(50))
    assert [(e.time, e.atoms, e.kind) for e in Events(tuple(events))] == [
        (0.0, (2,), "outside training data"),
        (2.0, (2,), "inside training data again"),
        (20.0, (1,), "outside training data"),
        (40.0, (1,), "inside training data again"),
        (60.0, (2,), "outside training data"),
        (62.0, (2,), "inside training data again"),
    ]
    lasting = alarms(inside, np.arange(50), 2.0 * np.arange(50), hold=5.0)
    assert [(e.time, e.atoms) for e in lasting] == [(20.0, (1,)), (40.0, (1,))]


# --- runs, tables, averages around events ----------------------------------------------------------------------------


def recorded(calculator: NetworkCalculator, **settings: object) -> Run:
    """A run of 200 frames in which a proton is handed over at 80 fs."""
    xi = np.where(np.arange(200) < 80, -0.6, 0.6)
    images = [Atoms("OHOO", p) for p in shuttling(xi, seed=4)]
    return annotate(images, calculator, timestep=1.0, **settings)


def test_a_run_tells_its_events(calculator: NetworkCalculator) -> None:
    run = recorded(calculator, explainers={"flags": (ExtrapolationFlags(), 5)})
    events = find_events(run)
    (transfer,) = events.of("proton transfer")
    assert (transfer.time, transfer.atoms) == (80.0, (1, 0, 2))
    assert {(e.kind, e.time, e.atoms) for e in events.of("bond broken", "bond formed")} == {
        ("bond broken", 80.0, (0, 1)),
        ("bond formed", 80.0, (1, 2)),
    }
    changed = {e.atoms[0]: e.time for e in events.of("change of energies")}
    assert changed and all(time == pytest.approx(80.0, abs=1) for time in changed.values())
    assert events.settings["looked for"] == ["bonds", "protons", "energies", "charges", "validity"]
    outside = {e.atoms[0] for e in events.of("outside training data")}
    flags = np.asarray(run["flags"].extra("mask"))
    assert outside == set(np.flatnonzero((~flags).any(axis=0)).tolist())
    assert list(events) == sorted(events, key=lambda e: (e.time, e.step, e.kind, e.atoms))


def test_what_cannot_be_told_is_said(calculator: NetworkCalculator) -> None:
    run = annotate([shaken_molecule("H2O", k) for k in range(5)], calculator)
    events = find_events(run)
    assert events.time_unit == "step" and events.settings["hold"] == 0.0
    assert set(events.settings["not looked for"]) == {"energies", "charges", "validity"}
    assert "LocalRigidity" in events.settings["not looked for"]["validity"]
    with pytest.raises(ValueError, match="nothing that tells which atoms are unlike"):
        find_events(run, ["validity"])
    with pytest.raises(ValueError, match=r"kinds must be of bonds, .*, got 'weather'"):
        find_events(run, ["weather"])
    rigid = annotate([shaken_molecule("H2O", k) for k in range(5)], calculator, explainers={"lpr": LocalRigidity()})
    assert "validity" in find_events(rigid).settings["looked for"]


def test_tables_are_saved_and_read_again(tmp_path: Path) -> None:
    events = Events(
        (Event(7, 3.5, "bond broken", (2, 5), {"distance (Å)": 1.75}), Event(1, 0.5, "x", ())), "fs", {"hold": 20.0}
    )
    assert [e.step for e in events] == [1, 7] and events.kinds == ("x", "bond broken") and events[1].atoms == (2, 5)
    events.save(tmp_path / "events.json")
    again = Events.load(tmp_path / "events.json")
    assert again == events
    events.save(tmp_path / "events.csv")
    rows = list(csv.reader((tmp_path / "events.csv").open()))
    assert rows[0] == ["step", "time (fs)", "kind", "atoms", "payload"]
    assert rows[2] == ["7", "3.5", "bond broken", "2 5", '{"distance (\\u00c5)": 1.75}']
    with pytest.raises(ValueError, match=r"saved as .csv or .json, got 'events.txt'"):
        events.save(tmp_path / "events.txt")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as events"):
        Events.load(tmp_path / "bad.json")


def test_means_around_events_are_the_planted_answer() -> None:
    rng = np.random.default_rng(5)
    times = 2.0 * np.arange(3000)
    series = rng.normal(0, 0.1, 3000)
    events = [Event(k, 2.0 * k, "x", ()) for k in (5, *range(150, 2900, 150))]
    for event in events:
        series[event.step :][:100] += np.exp(-np.arange(100) / 30)[: len(series) - event.step]
    result = aligned(series, times, events, window=100.0)
    assert result.n == len(events) - 1 and len(result.lags) == 101  # the first is too near to the beginning
    expected = np.where(result.lags < 0, 0.0, np.exp(-result.lags / 60))
    assert np.mean(np.abs(result.mean - expected) < 2 * result.error) > 0.85
    assert result.error == pytest.approx(0.1 / np.sqrt(result.n), rel=0.6)
    with pytest.raises(ValueError, match="none of 1 events"):
        aligned(series, times, events[:1])
    with pytest.raises(ValueError, match="equal intervals"):
        aligned(series, times**2, events)
