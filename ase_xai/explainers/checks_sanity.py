"""Checks of what an explanation means: sensitivity, removal, random weights, other seeds, the gauge, the training data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from ase_xai.explainers.base import Explainable, Explainer
from ase_xai.explainers.card import Row
from ase_xai.explainers.displacements import Displacements, thermal
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.gauge import CHANGED, Substituted, gauge_change, in_another_gauge
from ase_xai.explainers.randomization import cascade, randomized
from ase_xai.explainers.removal import deletion_curve, infidelity, sensitivity_n
from ase_xai.explainers.rigidity import LocalRigidity, PredictionUncertainty, usual_leverage
from ase_xai.explainers.subject import Subject, spearman, within_elements, without_references

Check = Callable[[], Row]
OUTSIDE = "outside the training distribution"
TEMPERATURE = 300.0  # K
N_DISPLACEMENTS = 32
N_SMALL = 10  # displacements for sensitivity
SMALL = 0.02  # Å
N_ORDERS = 50  # random orders of removal
N_SETS = 100  # random sets of atoms
MOST_DELETED = 30  # atoms; the cost grows with the square of their number
N_RANDOM = 5  # networks with random weights
SURVIVES = 0.7  # rank correlation with the answers of random networks above which an answer owes little to training
FEW = 12  # atoms; with less, ranks of random numbers correlate as strongly
ABOUT_TRAINING = ("rigidity", "uncertainty", "extrapolation")  # targets that the training data decide, not the weights


def sanity_checks(subject: Subject) -> Iterator[tuple[str, Check]]:
    """Name and function of every check for one network."""
    yield "energy and forces in another gauge", partial(gauge_is_unseen, subject)
    yield "infidelity of forces", partial(forces_infidelity, subject)
    for label, explanation in subject.answers.items():
        explainer = subject.explainers[label]
        yield f"{label}: gauge as declared", partial(gauge, subject, explainer, explanation)
        if not _atomic_scalars(explanation):
            continue
        if explanation.units == "eV":
            yield f"{label}: sensitivity-n", partial(sensitivity_to_sets, subject, explanation)
            yield f"{label}: deletion curve", partial(deletion, subject, explanation)
        if explanation.target.split()[0] not in ABOUT_TRAINING:
            yield f"{label}: random weights", partial(random_weights, subject, explainer, explanation)
        yield f"{label}: max-sensitivity", partial(max_sensitivity, subject, explainer, explanation)
    energies = [e for e in subject.answers.values() if _atomic_scalars(e) and e.target == "energy"]
    if len(energies) > 1:
        yield "agreement of explainers", partial(agreement, energies)
    yield "gauge count of the training set", partial(gauge_count, subject.calculator)
    for target in ("energy", "charge") if subject.calculator.network.has_charges else ("energy",):
        yield f"rigidity of {target}", partial(rigidity, subject, target)
    yield "uncertainty of the energy", partial(total_uncertainty, subject)


def ensemble_checks(subject: Subject, members: Sequence[Explainable]) -> Iterator[tuple[str, Check]]:
    """Checks that need several networks."""
    for label, explanation in subject.answers.items():
        if _atomic_scalars(explanation):
            yield f"{label}: agreement of members", partial(members_agree, subject, members, subject.explainers[label])


def _atomic_scalars(explanation: Explanation) -> bool:
    return explanation.level == "atom" and explanation.values.ndim == 1


def gauge_is_unseen(subject: Subject) -> Row:
    """Largest change of energy per atom and forces under χ."""
    other = Subject(in_another_gauge(subject.calculator), subject.atoms, {}, {}, subject.seed)
    one, two = subject.predict(subject.atoms), other.predict(subject.atoms)
    moved = float((one.energies - two.energies).abs().max())
    n = len(subject.atoms)
    change = max(float((one.energy - two.energy).abs().max()) / n, float((one.forces - two.forces).abs().max()))
    return Row.judged(change, subject.tolerance, "eV, eV/Å", f"while atomic energies move by up to {moved:.2g} eV")


def gauge(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """Relative change under χ; what is declared invariant must not change."""
    change = gauge_change(subject.calculator, subject.atoms, explainer)
    if explanation.gauge == "invariant":
        return Row.judged(
            change, CHANGED if subject.tolerance < CHANGED else 100 * subject.tolerance, "1", "declared invariant"
        )
    seen = "changes" if change > CHANGED else "does not change"
    return Row.told(change, "1", f"declared {explanation.gauge}; {seen} with the split of the energy")


def forces_infidelity(subject: Subject) -> Row:
    moves = thermal(subject.calculator, subject.atoms, N_DISPLACEMENTS, TEMPERATURE, subject.rng())
    value = infidelity(subject.calculator, subject.atoms, moves)
    return Row.told(value, "1", f"share of energy changes that forces do not explain; {moves.how}")


def sensitivity_to_sets(subject: Subject, explanation: Explanation) -> Row:
    size = max(1, len(subject.atoms) // 4)
    if len(subject.atoms) < 3:
        return Row.told(note="too few atoms")
    value = sensitivity_n(subject.calculator, subject.atoms, explanation, size, N_SETS, subject.seed)
    return Row.told(value, "1", f"correlation with the energy without {size} atoms; {OUTSIDE}")


def deletion(subject: Subject, explanation: Explanation) -> Row:
    if not 3 <= len(subject.atoms) <= MOST_DELETED:
        return Row.told(note=f"for 3 to {MOST_DELETED} atoms; `removal.deletion_curve` takes any number, and its time")
    curve = deletion_curve(subject.calculator, subject.atoms, explanation, N_ORDERS, subject.seed)
    low, high = np.quantile(curve.random_areas, [0.025, 0.975])
    note = f"standard deviations above random: area {curve.area:.2f}, random {low:.2f} to {high:.2f} eV; {OUTSIDE}"
    return Row.told(curve.advantage, "1", note)


def random_weights(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """Mean |rank correlation| with answers of fully random networks, element means removed; the note goes from the top down.

    Source: Adebayo et al., arXiv:1810.03292.
    """
    numbers = subject.atoms.numbers
    own = within_elements(without_references(explanation), numbers)
    if np.isnan(spearman(own, own)):
        return Row.told(note="too few atoms that differ within their elements")
    network = subject.calculator.network

    def correlation(other: Explanation) -> float:
        return abs(spearman(own, within_elements(without_references(other), numbers)))

    falling = [
        (name, correlation(explainer(Substituted(subject.calculator, twin), subject.atoms)))
        for name, twin in cascade(network, subject.seed)
    ]
    random = [
        correlation(explainer(Substituted(subject.calculator, randomized(network, None, subject.seed + k)), subject.atoms))
        for k in range(1, N_RANDOM + 1)
    ]
    note = "random from the top: " + ", ".join(f"{name} {value:.2f}" for name, value in falling)
    value = float(np.mean(random))
    if np.isnan(value):
        return Row.told(note=f"random networks see no differences; {note}")
    if len(own) < FEW:
        return Row.told(value, "1", f"of {len(own)} atoms, too few for a verdict; {note}")
    return Row.judged(value, SURVIVES, "1", note)


def max_sensitivity(subject: Subject, explainer: Explainer, explanation: Explanation) -> Row:
    """max |φ(x + d) - φ(x)|/|φ(x)| over small displacements d, as lengths of vectors.

    Source: Yeh et al., arXiv:1901.09392.
    """
    size = float(np.linalg.norm(without_references(explanation)))
    if size <= subject.tolerance * len(subject.atoms):
        return Row.told(note="all values are zero to rounding")
    shifts = subject.rng().uniform(-SMALL, SMALL, (N_SMALL, len(subject.atoms), 3))
    changes = [
        float(np.linalg.norm(explainer(subject.calculator, moved).values - explanation.values))
        for moved in Displacements(shifts, "").of(subject.atoms)
    ]
    return Row.told(max(changes) / size, "1", f"displacements up to {SMALL:g} Å along each axis")


def agreement(explanations: Sequence[Explanation]) -> Row:
    """Mean rank correlation between explanations of the energy by atoms, element means removed."""
    values = [within_elements(without_references(e), e.numbers) for e in explanations]
    found = [spearman(one, other) for one, other in combinations(values, 2)]
    names = ", ".join(e.method for e in explanations)
    return Row.told(float(np.mean(found)), "1", f"rank correlation over {len(values[0])} atoms of {names}")


def members_agree(subject: Subject, members: Sequence[Explainable], explainer: Explainer) -> Row:
    """Mean rank correlation between members, element means removed."""
    answers = [explainer(member, subject.atoms) for member in members]
    values = np.stack([without_references(answer) for answer in answers])
    within = [within_elements(value, subject.atoms.numbers) for value in values]
    found = [spearman(one, other) for one, other in combinations(within, 2)]
    spread = float(np.median(values.std(axis=0, ddof=1)))
    few = "" if len(members) > 2 else "; three or more would tell more"
    about = f"median spread of an atom {spread:.3g} {answers[0].units}{few}"
    note = f"rank correlation over {len(within[0])} atoms of {len(members)} members; {about}"
    return Row.told(float(np.mean(found)), "1", note)


def gauge_count(calculator: Explainable) -> Row:
    """Directions of element offsets that the compositions of the training set leave open, as the model card says."""
    text = calculator.card.reference_kind
    if re.search(r"Compositions determine one offset for each of the \d+ elements", text):
        return Row.told(0.0, "1", "every element's offset is determined")
    found = re.search(r"Compositions determine (\d+) of (\d+) element offsets", text)
    if found is None:
        return Row.told(note=f"the model card does not say: {text!r}")
    open_directions = int(found.group(2)) - int(found.group(1))
    return Row.told(float(open_directions), "1", "absolute levels of elements mean nothing: compare within an element only")


def rigidity(subject: Subject, target: str) -> Row:
    """Smallest rigidity relative to the median training atom of its element. Fails beyond the loosest training atom."""
    statistics = subject.calculator.statistics
    if statistics is None or (statistics.energies if target == "energy" else statistics.charges) is None:
        return Row.told(note="the weights have no training statistics of it")
    explanation = LocalRigidity(target)(subject.calculator, subject.atoms)
    usual = usual_leverage(subject.calculator, subject.calculator.checked_graph(subject.atoms), target).numpy()
    loosest = np.where(usual[:, 2] > 0, usual[:, 0] / np.where(usual[:, 2] > 0, usual[:, 2], 1.0), np.inf)
    beyond, unusual = (
        int((explanation.values < loosest).sum()),
        int((~explanation.mask).sum()) if explanation.mask is not None else 0,
    )
    note = f"least, 1 is usual; {unusual} atoms looser than 99 % of training atoms, {beyond} than all of a sample"
    return Row(
        name="",
        value=float(explanation.values.min()),
        tolerance=None,
        verdict="fail" if beyond else "pass",
        units="1",
        note=note,
    )


def total_uncertainty(subject: Subject) -> Row:
    statistics = subject.calculator.statistics
    if statistics is None or statistics.energies is None:
        return Row.told(note="the weights have no training statistics of it")
    return Row.told(
        float(PredictionUncertainty()(subject.calculator, subject.atoms).values[0]), "eV", "one standard deviation"
    )
