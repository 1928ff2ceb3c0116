"""The report card: may these explanations be believed?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ase import Atoms

from ase_xai.explainers.atomic_energies import AtomicEnergies
from ase_xai.explainers.base import Explainable, Explainer
from ase_xai.explainers.card import ReportCard, Row
from ase_xai.explainers.checks_identities import Check, identity_checks
from ase_xai.explainers.checks_sanity import ensemble_checks, sanity_checks
from ase_xai.explainers.latent_charges import LatentCharges
from ase_xai.explainers.removal import LEAVES
from ase_xai.explainers.subject import Subject, label_of

__all__ = ["ReportCard", "Row", "report_card"]


def report_card(calculator: Any, atoms: Atoms, explainers: Sequence[Explainer] | None = None, seed: int = 0) -> ReportCard:
    """Check explanations of `atoms`: identities that must hold to rounding, and what the rest is worth.

    Identities: completeness, total charge and dipole, forces from atomic energies, symmetry and equivalent atoms, locality,
    size consistency, continuity at the cutoff, forces against the energy along a path, and no change of what is declared
    invariant under another gauge. Information, mostly without a verdict: infidelity of forces under thermal displacements,
    sensitivity-n and deletion curves, random weights, sensitivity to small displacements, agreement of members and of
    explainers, the gauge count of the training set, rigidity and uncertainty. A check that raises is a failed row with the
    message. The network, its calculator and the atoms stay as they are.

    Identities say that the software does what it says. No row says that an explanation is chemically right.

    Args:
        calculator: of this package. Of an ensemble the first member is checked, and the agreement of all.
        atoms: what is explained.
        explainers: questions; by default atomic energies, and latent charges where the network has them.
        seed: of everything that is drawn.

    Raises:
        ValueError: no calculator of this package.
        InputError: atoms that the calculator refuses.

    Source: Yeh et al., arXiv:1901.09392 (infidelity, sensitivity); Adebayo et al., arXiv:1810.03292 (random weights); Ancona
    et al., arXiv:1711.06104 (sensitivity-n). Identities and their tolerances are this project's.
    """
    members: Sequence[Explainable] = getattr(calculator, "members", ())
    if not members:
        raise ValueError(
            f"report_card needs a calculator of ase_xai, got {type(calculator).__name__}. Give SchNet(...), "
            "BehlerParrinello(...) or Ensemble(...)."
        )
    first = members[0]
    first.checked_graph(atoms)
    if explainers is None:
        explainers = [AtomicEnergies(), *([LatentCharges()] if first.network.has_charges else [])]
    subject, failed = _asked(first, atoms.copy(), explainers, seed)
    checks = [*identity_checks(subject), *sanity_checks(subject)]
    checks += ensemble_checks(subject, members) if len(members) > 1 else []
    rows = [*failed, *(_run(name, check) for name, check in checks)]
    which = f", member 1 of {len(members)}" if len(members) > 1 else ""
    formula, precision = atoms.get_chemical_formula(), str(first.network.dtype).removeprefix("torch.")
    return ReportCard(f"Report card of {formula}: {first.model}{which}, {precision}", tuple(rows), NOTES)


NOTES = (
    "Identities hold for any network, trained or not. Rows without an allowed value inform. No row proves an explanation "
    "right.",
    LEAVES,
)


def _asked(calculator: Explainable, atoms: Atoms, explainers: Sequence[Explainer], seed: int) -> tuple[Subject, list[Row]]:
    """What the explainers answer, and a failed row for each that raises."""
    answers, asked, failed = {}, {}, []
    for explainer in explainers:
        label = label_of(explainer)
        while label in answers:
            label += " again"
        started = time.perf_counter()
        try:
            answers[label] = explainer(calculator, atoms)
            asked[label] = explainer
        except Exception as error:
            failed.append(replace(_broken(label, error), seconds=time.perf_counter() - started))
    return Subject(calculator, atoms, answers, asked, seed), failed


def _run(name: str, check: Check) -> Row:
    started = time.perf_counter()
    try:
        row = check()
    except Exception as error:
        row = _broken(name, error)
    return replace(row, name=name, seconds=time.perf_counter() - started)


def _broken(name: str, error: Exception) -> Row:
    return Row(name, None, None, "fail", note=f"{type(error).__name__}: {error}")
