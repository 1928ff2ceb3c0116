"""Malonaldehyde's proton hops: when, what charge moves along, and which group pays for it.

    python examples/proton_transfer.py [FOLDER]

The enol form of malonaldehyde holds a proton between two oxygen atoms. Molecular dynamics with SchNet `organic` at 400 K,
each recorded frame with energy and charge of every atom and with the rates at which the motion of each group changes the
energy of each other. FOLDER (proton-transfer-output) gets run.h5, run.html to look at, and events.csv.

The nuclei are classical, and the level of theory of `organic` decides how high the barrier is: rates are those of the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS

from ase_xai import SchNet
from ase_xai.explainers import EnergyFlow
from ase_xai.report import Analyses, write_run_page
from ase_xai.trajectory import Recorder, Run, charge_flow, open_run
from ase_xai.trajectory.event_table import Event, Events
from ase_xai.trajectory.events import aligned, find_events
from ase_xai.trajectory.flow import energy_flow

PICOSECONDS, TEMPERATURE, TIMESTEP, INTERVAL = 2.5, 400.0, 0.5, 1  # ps, K, fs; steps between frames, few for the flow
SYMBOLS = "CCCOOHHHH"
POSITIONS = [[0.0, 0.7, 0], [1.2, 0.0, 0], [-1.2, 0.0, 0], [1.3, -1.2, 0], [-1.3, -1.3, 0], [0.0, 1.8, 0], [2.1, 0.6, 0],
             [-2.2, 0.6, 0], [-0.3, -1.6, 0]]  # fmt: skip
GROUPS = {"proton": [8], "oxygens": [3, 4], "carbons": [0, 1, 2], "other H": [5, 6, 7]}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("proton-transfer-output")
    folder.mkdir(exist_ok=True)
    atoms = Atoms(SYMBOLS, POSITIONS)
    atoms.calc = SchNet("organic")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    print(
        f"relaxed: proton {atoms.get_distance(4, 8):.2f} Å from one oxygen, {atoms.get_distance(3, 8):.2f} Å from the other"
    )

    rng = np.random.default_rng(1)
    thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=rng)
    dynamics = Langevin(
        atoms, TIMESTEP * units.fs, temperature_K=TEMPERATURE, friction=0.002 / units.fs, rng=rng, fixcm=False
    )
    with Recorder(
        atoms,
        folder / "run.h5",
        dynamics=dynamics,
        groups=GROUPS,
        explainers={"energy_flow": EnergyFlow(tuple(GROUPS.items()))},
        overwrite=True,
    ) as recorder:
        dynamics.attach(recorder, interval=INTERVAL)
        dynamics.run(round(PICOSECONDS * 1000 / TIMESTEP))

    run = open_run(folder / "run.h5")
    events = find_events(run, ["protons"])
    flow = energy_flow(run)
    print(f"{len(run)} frames, {len(events)} proton transfers held for at least {events.settings['hold']:g} fs")
    for event in events[:10]:
        hydrogen, donor, acceptor = event.atoms
        print(f"  {event.time:8.1f} fs  H{hydrogen} from O{donor} to O{acceptor}")
    tell_charges(run, events)
    print(f"energy flow, work in eV since the start (closure {flow.closure:.1%}; how groups share the energy is latent):")
    for label, row in zip(flow.labels, flow.work[-1], strict=True):
        print(f"  on {label:>8}: " + "  ".join(f"by {other} {w:+.2f}" for other, w in zip(flow.labels, row, strict=True)))
    bonds = charge_flow(run)
    print(f"charge flow along {len(bonds.bonds)} bonds, {'unique' if bonds.unique else 'least squares: there are rings'}")
    events.save(folder / "events.csv")
    between = bonds.between(GROUPS)
    for name, passed in zip(between.names, between.passed[-1], strict=True):
        print(f"  {name}: {passed:+.3f} e since the start")
    print(f"  along no bond: {between.closure:.1e} e")
    analyses = Analyses(events=events, flow=flow, charge_flow=bonds)
    print(f"page: {write_run_page(run, folder / 'run.html', analyses=analyses)}")


def tell_charges(run: Run, events: Events) -> None:
    """Charges of the oxygen that gives and of the one that takes the proton, before and after."""
    for role, place in (("donor", 1), ("acceptor", 2)):
        found = []
        for atom in {event.atoms[place] for event in events}:
            own = [event for event in events if event.atoms[place] == atom]
            found.append(change_around(run["charges"][:, atom], run.times, own))
        weights = np.array([n for *_, n in found], dtype=float)
        if not weights.sum():
            print("no transfer with 50 fs of the run before and after it: no mean over transfers")
            return
        before, after = (np.average([one[k] for one in found], weights=weights) for k in (0, 1))
        print(f"charge of the {role}: {before:+.3f} e before, {after:+.3f} e after, mean of {weights.sum():.0f} transfers")


def change_around(charge: np.ndarray, times: np.ndarray, events: list[Event]) -> tuple[float, float, int]:
    """Charge 50 to 25 fs before and 25 to 50 fs after the mean event, and the number of events."""
    try:
        mean = aligned(charge, times, events, window=50.0)
    except ValueError:  # all too near to an end of the run
        return 0.0, 0.0, 0
    early, late = mean.lags < -25, mean.lags > 25
    return float(mean.mean[early].mean()), float(mean.mean[late].mean()), mean.n


if __name__ == "__main__":
    main()
