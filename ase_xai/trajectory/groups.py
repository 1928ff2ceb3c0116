"""Partitions of the atoms: by indices, fragments, residues, SMARTS patterns, or what the network finds alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_xai.explainers.explanation import Explanation, checked_groups
from ase_xai.explainers.fragments import BONDED, connected, named
from ase_xai.explainers.fragments import bonds as bonds_of
from ase_xai.trajectory.run import Run

Groups = Mapping[str, Sequence[int]]
REST = "rest"


def partition(groups: Groups, n_atoms: int, *, rest: str | None = None) -> dict[str, tuple[int, ...]]:
    """`groups` after checking that they hold every atom once.

    Args:
        groups: indices by name; empty groups are dropped.
        n_atoms: N.
        rest: name of a group for atoms that no other one holds; None refuses such atoms.

    Raises:
        ValueError: groups that overlap, miss atoms or name atoms that do not exist.
    """
    kept = {name: tuple(int(i) for i in members) for name, members in groups.items() if len(members)}
    if rest is not None:
        held = {i for members in kept.values() for i in members}
        others = tuple(i for i in range(n_atoms) if i not in held)
        if others and rest in kept:
            raise ValueError(
                f"there is a group named {rest!r} already, and {len(others)} atoms in no group. Use another name."
            )
        kept |= {rest: others} if others else {}
    checked_groups(kept, n_atoms)
    return kept


def groups_of(run: Run, groups: Groups | None = None) -> dict[str, tuple[int, ...]]:
    """`groups`, or the ones recorded with the run, or else one group for each element."""
    if groups is None:
        groups = run.groups or by_element(run.numbers)
    return partition(groups, run.n_atoms)


def by_element(numbers: ArrayLike) -> dict[str, tuple[int, ...]]:
    """One group for each element, by its symbol."""
    symbols = Atoms(np.asarray(numbers)).symbols
    return {str(s): tuple(np.flatnonzero(np.array(list(symbols)) == s).tolist()) for s in dict.fromkeys(symbols)}


def connected_fragments(atoms: Atoms, *, scale: float = BONDED) -> dict[str, tuple[int, ...]]:
    """One group for each set of atoms connected by bonds, also across periodic boundaries: "H2O 1", "H2O 2" ...

    Args:
        atoms: one frame.
        scale: atoms closer than this times the sum of their covalent radii are bonded.
    """
    return connected(atoms, scale)


def residues(atoms: Atoms) -> dict[str, tuple[int, ...]]:
    """One group for each residue, "ALA 7", from the arrays that `ase.io.read` makes of a PDB file.

    Raises:
        ValueError: the atoms have no arrays `residuenames` and `residuenumbers`.
    """
    missing = [name for name in ("residuenames", "residuenumbers") if name not in atoms.arrays]
    if missing:
        raise ValueError(
            f"{atoms.get_chemical_formula()} has no array {missing[0]!r}, which names residues. Read the atoms from a PDB "
            "file, or give indices by name."
        )
    found: dict[str, list[int]] = {}
    for i, (name, number) in enumerate(zip(atoms.arrays["residuenames"], atoms.arrays["residuenumbers"], strict=True)):
        found.setdefault(f"{str(name).strip() or 'residue'} {int(number)}", []).append(i)
    return partition(found, len(atoms))


def smarts(
    atoms: Atoms,
    patterns: Mapping[str, str],
    *,
    charge: int = 0,
    hydrogens: bool = True,
    each: bool = False,
    rest: str = REST,
    scale: float = BONDED,
) -> dict[str, tuple[int, ...]]:
    """Groups of the atoms that match SMARTS patterns (extra `chem`); an atom goes to the first pattern that takes it.

    Args:
        atoms: one frame of open molecules.
        patterns: SMARTS by the name of the group, e.g. {"carboxyl": "C(=O)[OX2H1]"}.
        charge: total charge in e, which bond orders follow from.
        hydrogens: hydrogen atoms follow the matched atom they are bonded to.
        each: every match a group of its own, "carboxyl 1" ...; False joins them.
        rest: name of the group of atoms that nothing matches.
        scale: see `connected_fragments`.

    Raises:
        ValueError: a periodic system, a pattern that is no SMARTS, one that matches nothing, or atoms whose bond orders
            cannot be found.
        ImportError: RDKit is missing.

    Source: SMARTS by Daylight; bond orders from geometry: Kim, Kim, Bull. Korean Chem. Soc. 36, 1769 (2015), as in RDKit.
    """
    molecule = _molecule(atoms, charge, scale)
    index, _ = bonds_of(atoms, scale)
    taken: set[int] = set()
    names: list[str] = []
    members: list[NDArray[np.int64]] = []
    for name, pattern in patterns.items():
        matches = []
        for match in _matches(molecule, name, pattern):
            own = set(match) | (_hydrogens_on(match, index, atoms.numbers) if hydrogens else set())
            matches.append(sorted(own - taken))
            taken |= own
        together = [sorted(i for match in matches for i in match)]
        for found in matches if each else together:
            if found:
                names.append(name)
                members.append(np.array(found, dtype=np.int64))
    return partition(named(names, members), len(atoms), rest=rest)


def _molecule(atoms: Atoms, charge: int, scale: float) -> Any:
    """An RDKit molecule with bond orders."""
    try:
        from rdkit import Chem
        from rdkit.Chem import rdDetermineBonds
    except ImportError as error:
        raise ImportError("SMARTS patterns need RDKit: pip install 'ase-xai[chem]'.") from error
    if atoms.pbc.any():
        raise ValueError(
            f"SMARTS patterns need open molecules, and pbc is {atoms.pbc.tolist()}. Use connected_fragments, or set "
            "atoms.pbc = False where no bond crosses the boundary."
        )
    editable = Chem.RWMol()
    for z in atoms.numbers:
        editable.AddAtom(Chem.Atom(int(z)))
        editable.GetAtomWithIdx(editable.GetNumAtoms() - 1).SetNoImplicit(True)
    for i, j in bonds_of(atoms, scale)[0].tolist():
        editable.AddBond(i, j, Chem.BondType.SINGLE)
    conformer = Chem.Conformer(len(atoms))
    for i, place in enumerate(atoms.positions.tolist()):
        conformer.SetAtomPosition(i, place)
    editable.AddConformer(conformer)
    try:
        rdDetermineBonds.DetermineBondOrders(editable, charge=int(charge), embedChiral=False)
        Chem.SanitizeMol(editable)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"no bond orders fit {atoms.get_chemical_formula()} with charge {charge:+d} e ({str(error).strip()}). Give the "
            "right charge, a relaxed frame, or indices by name."
        ) from error
    return editable.GetMol()


def _matches(molecule: Any, name: str, pattern: str) -> list[tuple[int, ...]]:
    from rdkit import Chem

    query = Chem.MolFromSmarts(pattern)
    if query is None:
        raise ValueError(f"the pattern of {name!r} is no SMARTS: {pattern!r}.")
    found = [tuple(match) for match in molecule.GetSubstructMatches(query, maxMatches=1_000_000)]
    if not found:
        raise ValueError(f"the pattern of {name!r}, {pattern!r}, matches no atom. Leave it out, or correct it.")
    return found


def _hydrogens_on(match: Sequence[int], index: NDArray[np.int64], numbers: NDArray[np.int64]) -> set[int]:
    ends = np.concatenate([index, index[:, ::-1]])
    return set(ends[np.isin(ends[:, 0], list(match)) & (numbers[ends[:, 1]] == 1), 1].tolist())


def feature_clusters(
    features: Explanation | ArrayLike, n_clusters: int, *, numbers: ArrayLike | None = None
) -> dict[str, tuple[int, ...]]:
    """Groups of atoms whose learned features are alike: k-means, started from the atoms that are farthest apart.

    It starts from the atom nearest to the mean and adds, again and again, the atom farthest from all centers; nothing is
    drawn at random. Features of different elements differ by far, so clusters seldom mix elements before each has its own.

    Args:
        features: of `AtomicFeatures`, or (N, F).
        n_clusters: k.
        numbers: (N,) atomic numbers that name the clusters ("C2 1"); those of the explanation if it is one.

    Raises:
        ValueError: fewer distinct atoms than clusters, or another explanation.

    Source: Lloyd, IEEE Trans. Inf. Theory 28, 129 (1982); Gonzalez, Theor. Comput. Sci. 38, 293 (1985) (starting points).
    """
    if isinstance(features, Explanation):
        if features.method != "AtomicFeatures":
            raise ValueError(f"clusters are made from AtomicFeatures, got an explanation by {features.method}.")
        rows, numbers = features.values, features.numbers
    else:
        rows = np.asarray(features, dtype=np.float64)
    label = _k_means(rows, n_clusters)
    members = [np.flatnonzero(label == k) for k in range(n_clusters)]
    formulas = ["cluster"] * n_clusters
    if numbers is not None:
        formulas = [Atoms(np.asarray(numbers)[own]).get_chemical_formula() for own in members]
    return partition(named(formulas, members), len(rows))


def _k_means(rows: NDArray[np.float64], n_clusters: int) -> NDArray[np.int64]:
    """(N,) cluster of each row, numbered in the order of their first rows."""
    n_distinct = len(np.unique(rows, axis=0))
    if not 1 <= n_clusters <= n_distinct:
        raise ValueError(f"n_clusters must lie between 1 and {n_distinct}, the number of distinct atoms; got {n_clusters}.")
    first = int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin())
    centers = [rows[first]]
    while len(centers) < n_clusters:
        nearest = np.min([((rows - center) ** 2).sum(axis=1) for center in centers], axis=0)
        centers.append(rows[int(nearest.argmax())])
    label = np.full(len(rows), -1)
    while True:
        distances = np.stack([((rows - center) ** 2).sum(axis=1) for center in centers], axis=1)
        new = distances.argmin(axis=1)
        if np.array_equal(new, label):
            order = {int(k): place for place, k in enumerate(dict.fromkeys(label.tolist()))}
            return np.array([order[int(k)] for k in label])
        label = new
        centers = [rows[label == k].mean(axis=0) if (label == k).any() else centers[k] for k in range(n_clusters)]


@dataclass(frozen=True, eq=False)
class GroupSeries:
    """Sums over groups along a run.

    Args:
        name: of the field.
        units: of `values`.
        labels: of the groups.
        steps, times: (L,) of each row; times in `time_unit`.
        time_unit: "fs" or "step".
        values: (L, G, ...).
        reference: what was subtracted from each atom's value.
        gauge: see `Explanation`.
    """

    name: str
    units: str
    labels: tuple[str, ...]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    time_unit: str
    values: NDArray[np.float64]
    reference: str
    gauge: str

    @property
    def total(self) -> NDArray[np.float64]:
        """(L, ...) sum over all groups."""
        return np.asarray(self.values.sum(axis=1))


def summed(values: ArrayLike, groups: Groups) -> NDArray[np.float64]:
    """(L, G, ...) sums of (L, N, ...) over groups, in float64."""
    rows = np.asarray(values)
    return np.stack([rows[:, list(own)].sum(axis=1, dtype=np.float64) for own in groups.values()], axis=1)


def group_series(run: Run, name: str = "energies", groups: Groups | None = None, *, block: int = 4096) -> GroupSeries:
    """An atomic field of a run summed over groups, frame by frame: E_G(t), Q_G(t) ...

    Args:
        run: an open run.
        name: of an atomic field.
        groups: a partition of the atoms; None takes the recorded one, or else the elements.
        block: frames read at a time.

    Raises:
        ValueError: no such field, not atomic values, or no partition.
    """
    field, chosen = run[name], groups_of(run, groups)
    if field.level != "atom":
        raise ValueError(f"groups sum atomic values; {name} is of level {field.level!r}.")
    parts = [summed(field[k : k + block], chosen) for k in range(0, max(1, len(field)), block)]
    return GroupSeries(
        name, field.units, tuple(chosen), field.steps, field.times, run.time_unit, np.concatenate(parts), field.reference,
        field.gauge,
    )  # fmt: skip
