"""Which group of ethanol absorbs where?

    python examples/infrared_by_group.py [FOLDER]

Molecular dynamics with SchNet `organic` at 300 K; at each recorded frame the rate at which the motion of every atom changes
the dipole. Their Fourier transform is the infrared spectrum, and its terms say which group makes a band and which groups
work against each other. FOLDER (infrared-output) gets run.h5, infrared.png and run.html.

Beside the bands stand those that gas-phase alcohols show. The nuclei are classical and the labels of `organic` are GFN2-xTB:
stretches of hydrogen lie too high for the first reason, and the second decides the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from ase_xai import SchNet
from ase_xai.explainers import DipoleRate
from ase_xai.report import Analyses, infrared_by_group, write_run_page
from ase_xai.trajectory import Recorder, open_run
from ase_xai.trajectory.spectra import Spectrum, infrared

PICOSECONDS, TEMPERATURE, TIMESTEP, INTERVAL = 10.0, 300.0, 0.5, 4  # ps, K, fs, steps between frames
SEGMENTS = 4
GROUPS = {"OH": [2, 3], "CH2": [1, 4, 5], "CH3": [0, 6, 7, 8]}
REGIONS = {
    "O-H stretch": (3400, 4000, "near 3600 (1)"),
    "C-H stretches": (2700, 3300, "near 3000 (1)"),
    "C-O and C-C": (800, 1150, "870 to 1100 (2), C-O near 1000 (1)"),
}
SOURCES = (
    "(1) alcohols in the gas phase, infraredanalysisinc.com/a5.htm; (2) ethanol, Ehbrecht and Huisken, J. Phys. Chem. A "
    "101, 7768 (1997)"
)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("infrared-output")
    folder.mkdir(exist_ok=True)
    atoms = molecule("CH3CH2OH")
    atoms.calc = SchNet("organic")
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    rng = np.random.default_rng(1)
    thermalize_momenta(atoms, temperature_K=TEMPERATURE, rng=rng)
    Langevin(atoms, TIMESTEP * units.fs, temperature_K=TEMPERATURE, friction=0.02 / units.fs, rng=rng, fixcm=False).run(2000)

    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)  # a thermostat would broaden the bands
    with Recorder(
        atoms,
        folder / "run.h5",
        dynamics=dynamics,
        groups=GROUPS,
        fields=("energies", "charges", "dipole", "kinetic_energy"),
        explainers={"dipole_rate": DipoleRate()},
        overwrite=True,
    ) as recorder:
        dynamics.attach(recorder, interval=INTERVAL)
        dynamics.run(round(PICOSECONDS * 1000 / TIMESTEP))

    run = open_run(folder / "run.h5")
    spectrum = infrared(run, n_segments=SEGMENTS, temperature=TEMPERATURE, max_wavenumber=4500)
    print(f"{len(run)} frames; resolution {spectrum.resolution:.0f} cm-1; sum rule to {spectrum.residual:.0e}")
    tell(spectrum)
    infrared_by_group(spectrum).savefig(folder / "infrared.png", dpi=150)
    print(f"page: {write_run_page(run, folder / 'run.html', analyses=Analyses(spectrum=spectrum))}")


def tell(spectrum: Spectrum) -> None:
    """Highest point and intensity of each region, and the share of each group and of the cross terms."""
    step = spectrum.wavenumbers[1] - spectrum.wavenumbers[0]
    print(f"\n| region | highest at (cm-1) | km/mol | {' | '.join(spectrum.labels)} | cross terms | gas phase (cm-1) |")
    print("| --- " * (5 + len(spectrum.labels)) + "|")
    for name, (low, high, published) in REGIONS.items():
        inside = (spectrum.wavenumbers >= low) & (spectrum.wavenumbers < high)
        peak = spectrum.wavenumbers[inside][spectrum.total[inside].argmax()]
        parts = spectrum.terms[:, :, inside].sum(axis=2) * step
        own, whole = np.diagonal(parts), parts.sum()
        shares = " | ".join(f"{share:.0%}" for share in [*(own / whole), 1 - own.sum() / whole])
        print(f"| {name} | {peak:.0f} | {whole:.1f} | {shares} | {published} |")
    print(f"\n{SOURCES}")


if __name__ == "__main__":
    main()
