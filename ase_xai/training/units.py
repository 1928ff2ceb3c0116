"""Units by name, converted once: eV, Å, e."""

from __future__ import annotations

from ase import units as ase_units

# Values of one unit in ASE's units, CODATA as ASE has it.
ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": ase_units.Hartree,
    "mhartree": 1e-3 * ase_units.Hartree,
    "rydberg": ase_units.Rydberg,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
}
LENGTH = {"angstrom": 1.0, "bohr": ase_units.Bohr, "nm": 10.0, "pm": 0.01}
DIPOLE = {"e*angstrom": 1.0, "debye": ase_units.Debye, "e*bohr": ase_units.Bohr}
CHARGE = {"e": 1.0}
STRESS = {
    "eV/angstrom^3": 1.0,
    "hartree/bohr^3": ase_units.Hartree / ase_units.Bohr**3,
    "GPa": ase_units.GPa,
    "kbar": 0.1 * ase_units.GPa,
    "bar": 1e-4 * ase_units.GPa,
}

QUANTITIES = {
    "length": LENGTH,
    "energy": ENERGY,
    "stress": STRESS,
    "dipole": DIPOLE,
    "dipole_magnitude": DIPOLE,
    "charges": CHARGE,
}
ALIASES = {
    "Å": "angstrom",
    "A": "angstrom",
    "ang": "angstrom",
    "Ang": "angstrom",
    "Angstrom": "angstrom",
    "a0": "bohr",
    "Bohr": "bohr",
    "Ha": "hartree",
    "Eh": "hartree",
    "Hartree": "hartree",
    "mHa": "mhartree",
    "Ry": "rydberg",
    "Rydberg": "rydberg",
    "kcal": "kcal/mol",
    "kJ": "kJ/mol",
    "D": "debye",
    "Debye": "debye",
    "eA": "e*angstrom",
    "e*Å": "e*angstrom",
    "e·Å": "e*angstrom",
    "ea0": "e*bohr",
    "e*a0": "e*bohr",
    "eV/Å^3": "eV/angstrom^3",
    "eV_A3": "eV/angstrom^3",
}
DEFAULTS = {
    "length": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3",
    "dipole": "e*angstrom",
    "dipole_magnitude": "e*angstrom",
    "charges": "e",
}


PER_ATOM = ("/atom", "_atom")  # ends of a unit of energies that are to be multiplied with the number of atoms


def factor(quantity: str, unit: str) -> float:
    """What a value in `unit` is multiplied with to give ASE's unit of `quantity`; for energies per atom see `is_per_atom`.

    Args:
        quantity: "length", "energy", "forces", "stress", "dipole", "dipole_magnitude" or "charges".
        unit: e.g. "hartree", "kcal/mol", "eV/atom", "bohr", "hartree/bohr", "debye".

    Raises:
        ValueError: unknown unit or quantity; the message lists what is known.
    """
    if quantity == "forces":
        energy, separator, length = unit.rpartition("_" if "_" in unit else "/")
        if not separator or ALIASES.get(length, length) not in LENGTH:
            raise ValueError(
                f"unit of forces must be an energy ({', '.join(ENERGY)}) / a length ({', '.join(LENGTH)}), got {unit!r}."
            )
        return factor("energy", energy) / factor("length", length)
    if quantity == "energy":
        unit = unit.removesuffix(PER_ATOM[0]).removesuffix(PER_ATOM[1])
    if quantity not in QUANTITIES:
        raise ValueError(f"units are known for {', '.join([*QUANTITIES, 'forces'])}, not for {quantity!r}.")
    known = QUANTITIES[quantity]
    name = ALIASES.get(unit, unit)
    if name not in known:
        raise ValueError(f"unit of {quantity} must be one of {', '.join(known)}, got {unit!r}.")
    return known[name]


def is_per_atom(quantity: str, unit: str) -> bool:
    """Whether values in `unit` are energies divided by the number of atoms: "eV/atom", or "eV_atom" at the end of a name."""
    return quantity == "energy" and unit.endswith(PER_ATOM)


def unit_in(quantity: str, name: str) -> str | None:
    """The unit of `quantity` that `name` ends in after an underscore (E_Ha, F_eV_A, dipole_D), or None."""
    parts = name.split("_")
    for start in range(1, len(parts)):
        unit = "_".join(parts[start:])
        try:
            factor(quantity, unit)
        except ValueError:
            continue
        return unit
    return None
