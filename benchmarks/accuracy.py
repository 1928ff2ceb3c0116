"""The errors in the model cards of all shipped weights as one table, Markdown.

    python benchmarks/accuracy.py

The cards are written by `ase-xai train`; `ase-xai evaluate NAME FILES` computes the same numbers anew from weights and data.
"""

from __future__ import annotations

from ase.units import Debye

from ase_xai.weights import shipped

COLUMNS = (
    ("energy_mae_eV", "energy (meV)", 1e3, 1),
    ("energy_mae_eV_per_atom", "energy (meV/atom)", 1e3, 2),
    ("forces_mae_eV_per_A", "forces (meV/Å)", 1e3, 1),
    ("dipole_component_mae_eA", "dipole component (D)", 1 / Debye, 3),
    ("dipole_magnitude_mae_eA", "dipole magnitude (D)", 1 / Debye, 3),
    ("dipole_mae_eA", "dipole vector (D)", 1 / Debye, 3),
)


def main() -> None:
    print("| weights | test structures | " + " | ".join(title for _, title, _, _ in COLUMNS) + " |")
    print("| --- " * (2 + len(COLUMNS)) + "|")
    for record in shipped():
        for part, table in record.card.errors["test"].items():
            if part.startswith("element "):
                continue
            count = f"{part}, {table['n_structures']:.0f}" if "n_structures" in table else part
            cells = [f"{table[key] * factor:.{digits}f}" if key in table else "" for key, _, factor, digits in COLUMNS]
            print(f"| {record.name} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
