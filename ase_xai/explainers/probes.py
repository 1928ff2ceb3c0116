"""What questions about probe atoms share: where to ask, what to subtract, which answers not to trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer, plain
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.places import Grid, Images, Place, Placed, Plane, Points
from ase_xai.explainers.surfaces import Surface
from ase_xai.networks.base import AtomwiseOutput
from ase_xai.networks.probing import Surroundings, chunks
from ase_xai.statistics import HeadStatistics, placed

TOUCHING = 0.1
"""Å; a point closer to an atom is on it: calculators refuse such atoms, and directions lose their meaning."""
ISOLATED = "isolated atom of the network"


@dataclass(frozen=True, eq=False)
class ProbeExplainer(ABC):
    """Asks about a probe atom at points around the atoms; of points, surface, grid and plane give at most one.

    Args:
        probe: element, as symbol or atomic number.
        points: (P, 3) Å.
        surface: "vdw" (taken if no place is given), "schnet", "dtnn", or a `Surface`.
        grid: a `Grid`, or (spacing in Å or shape of three numbers, margin in Å).
        plane: a `Plane`.
        scale: of the surface "vdw" given by name.
        reference: "isolated" subtracts what the network says of a lone probe, "none" nothing.
        closest: points closer to an atom than this fraction of the sum of covalent radii are inside it and masked. No bond
            of a molecule at rest is shorter than 0.75 of that sum.
        chunk: points per evaluation; None takes what fits into 256 MB.
    """

    probe: str | int = "H"
    points: ArrayLike | None = None
    surface: str | Surface | None = None
    grid: Grid | tuple[Any, float] | None = None
    plane: Plane | None = None
    scale: float = 1.0
    reference: str = "isolated"
    closest: float = 0.6
    chunk: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("points", "surface", "grid", "plane") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a probe is put at one kind of place, got {' and '.join(given)}. Ask once for each.")
        if self.reference not in ("isolated", "none"):
            raise ValueError(f'reference must be "isolated" or "none", got {self.reference!r}.')
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be positive, got {self.chunk}. It is a number of points per evaluation.")
        if not 0.0 <= self.closest < 1.0:
            raise ValueError(f"closest must be from 0 to 1, got {self.closest}. At 1 atoms are as close as in a bond.")
        if self.scale != 1.0 and (isinstance(self.surface, Surface) or (given and given != ["surface"])):
            raise ValueError(f"scale belongs to a surface given by name, got scale={self.scale} and {' '.join(given)}.")

    @abstractmethod
    def __call__(self, calculator: Explainable, atoms: Atoms) -> Explanation:
        """The answer at every point."""

    @property
    def place(self) -> Place:
        """Where is asked."""
        if self.points is not None:
            return Points(self.points)
        if self.plane is not None:
            return self.plane
        if isinstance(self.grid, Grid):
            return self.grid
        if self.grid is not None:
            size, margin = self.grid
            return Grid(margin=margin, **({"spacing": size} if np.isscalar(size) else {"shape": tuple(size)}))
        return self.surface if isinstance(self.surface, Surface) else Surface(self.surface or "vdw", self.scale)

    def site(self, calculator: Explainable, atoms: Atoms) -> Site:
        """Everything about atoms, points and probe that an evaluation needs."""
        graph, number = calculator.checked_graph(atoms), known_element(calculator, self.probe)
        where, cutoff = self.place.around(atoms), calculator.network.cutoff
        images = Images.near(atoms, where.points, cutoff)

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.as_tensor(array, device=graph.positions.device)

        surroundings = Surroundings(graph, tensor(images.index), tensor(images.positions), cutoff)
        points = tensor(where.points.copy())
        radii = covalent_radii[number] + tensor(covalent_radii[atoms.numbers])
        touching = (surroundings.closest(points, torch.ones_like(radii)) < TOUCHING).cpu().numpy()
        inside = touching | (surroundings.closest(points, radii) < self.closest).cpu().numpy()
        return Site(number, where, surroundings, points, touching, inside)


@dataclass(frozen=True, eq=False)
class Site:
    """A probe element at points around a system.

    Args:
        number: atomic number of the probe.
        placed: the points as they were placed.
        surroundings: what can be heard there.
        points: (P, 3) Å, on the network's device.
        touching: (P,) on an atom: not evaluated.
        inside: (P,) inside an atom: evaluated, unless touching, and masked.
    """

    number: int
    placed: Placed
    surroundings: Surroundings
    points: Tensor
    touching: NDArray[np.bool_]
    inside: NDArray[np.bool_]

    @property
    def symbol(self) -> str:
        return str(chemical_symbols[self.number])

    @torch.no_grad()
    def evaluate(self, size: int, ask: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """(P, C) columns of `ask` (p, 3) -> (p, C) at every point, a chunk at a time; NaN at points on an atom."""
        rows = torch.as_tensor(np.flatnonzero(~self.touching), device=self.points.device)
        parts = [ask(self.points[rows[part]]).double().cpu() for part in chunks(len(rows), size)]
        if not parts:
            raise ValueError(f"all {len(self.touching)} points are on atoms (closer than {TOUCHING} Å). Move them.")
        columns = np.full((len(self.points), parts[0].shape[1]), np.nan)
        columns[rows.cpu().numpy()] = torch.cat(parts).numpy()
        return columns

    def explanation(
        self,
        calculator: Explainable,
        atoms: Atoms,
        explainer: ProbeExplainer,
        columns: Mapping[str, NDArray[np.float64]],
        rigidity: Rigidity | None,
        *,
        isolated: float,
        notes: tuple[str, ...],
        **about: Any,
    ) -> Explanation:
        """An `Explanation` of `columns["value"]`, masked by overlap and, with statistics, by `columns["leverage"]`."""
        loose = np.zeros(len(self.points), dtype=bool)
        if rigidity is not None:
            loose = ~self.inside & ~(columns["leverage"] <= rigidity.limit)
        relative = explainer.reference == "isolated"
        values = np.where(self.touching, isolated, columns["value"]) - (isolated if relative else 0.0)
        settings = {"probe": self.symbol, "place": described(explainer.place), "isolated_atom": isolated}
        units = about["units"]
        verb = "is subtracted" if relative else "is not subtracted"
        value_note = f"A lone probe has {isolated:+.6f} {units}, which {verb}: training on molecules does not fix it."
        return answer(
            calculator,
            atoms,
            explainer,
            level=self.placed.level,
            values=values,
            points=self.placed.points,
            faces=self.placed.faces,
            grid_shape=self.placed.grid_shape,
            mask=~self.inside & ~loose,
            uncertainty=None if rigidity is None else np.sqrt(columns["variance"]),
            reference=ISOLATED if relative else "none",
            settings={**settings, **stated(explainer)},
            notes=(value_note, *self._masked(explainer, loose, rigidity), *notes),
            **about,
        )

    def _masked(self, explainer: ProbeExplainer, loose: NDArray[np.bool_], rigidity: Rigidity | None) -> list[str]:
        of = f"of {len(self.points)} points masked"
        notes = [f"{self.inside.sum()} {of}: closer to an atom than {explainer.closest:g} of the sum of covalent radii."]
        if self.touching.any():
            notes.append(
                f"{self.touching.sum()} of them are on an atom and not evaluated: they show the lone probe's value."
            )
        if rigidity is None:
            return [*notes, "The weights have no statistics of this readout: points unlike anything learned are not masked."]
        than = f"looser than 99 % of the training atoms of {self.symbol} (leverage)"
        return [
            *notes,
            f"{loose.sum()} {of}: {than if rigidity.limit > 0 else f'there are no training atoms of {self.symbol}'}.",
        ]


@dataclass(frozen=True, eq=False)
class Rigidity:
    """How firmly the training data hold the readout of one element: leverage and variance of last-layer inputs.

    Args:
        factor: (d + 1, d + 1) R with |R·(f, 1)|² = f·C·fᵀ for inputs f of this element.
        isolated: (d,) inputs of a lone probe, or None if its value is not subtracted.
        limit: 99th percentile of the leverage over training atoms of the element.
        scale: α².
    """

    factor: Tensor
    isolated: Tensor | None
    limit: float
    scale: float

    @classmethod
    def of(
        cls,
        calculator: Explainable,
        site: Site,
        molecule: AtomwiseOutput,
        isolated: AtomwiseOutput,
        *,
        readout: str = "energy",
        relative: bool,
    ) -> Rigidity | None:
        """For readout "energy" or "charge"; None where weights or network do not tell.

        A charge is held by f - f̄, the mean taken over the molecule, whose conservation shift the probe shares.
        """
        network, statistics = calculator.network, head_of(calculator, readout)
        alone, others = getattr(isolated, f"{readout}_inputs"), getattr(molecule, f"{readout}_inputs")
        if statistics is None or alone is None or others is None:
            return None
        graph, identity = site.surroundings.graph, torch.eye(len(statistics.gram), dtype=torch.float64)
        elements = network.element_index(torch.cat([graph.numbers, graph.numbers.new_tensor([site.number])])).cpu()
        size = alone.shape[1] + 1
        start = int(elements[-1]) * size if network.element_readouts else 0
        basis = identity[:, start : start + size].clone()
        if readout == "charge":
            rows = placed(others.cpu(), elements[:-1], len(network.elements), by_element=network.element_readouts)
            basis[:, -1] -= rows.mean(dim=0)
        lower = torch.linalg.cholesky(statistics.gram + statistics.ridge * identity)
        return cls(
            factor=torch.linalg.qr(torch.linalg.solve_triangular(lower, basis, upper=False)).R,
            isolated=alone[0].double().cpu() if relative else None,
            limit=float(statistics.leverage[elements[-1], 1]),
            scale=float(statistics.scale),
        )

    def leverage(self, inputs: Tensor) -> Tensor:
        """(P,) f·C·fᵀ of inputs (P, d)."""
        return self._quadratic(inputs.double().cpu(), 1.0)

    def variance(self, inputs: Tensor) -> Tensor:
        """(P,) σ² of what is shown: the readout, or its difference from the lone probe's."""
        rows = inputs.double().cpu()
        return self.scale * (
            self._quadratic(rows, 1.0) if self.isolated is None else self._quadratic(rows - self.isolated, 0.0)
        )

    def _quadratic(self, inputs: Tensor, constant: float) -> Tensor:
        extended = torch.cat([inputs, inputs.new_full((len(inputs), 1), constant)], dim=1)
        return ((extended @ self.factor.T) ** 2).sum(dim=1)


def head_of(calculator: Explainable, readout: str) -> HeadStatistics | None:
    """What the weight file says about the readout "energy" or "charge"; None if nothing."""
    statistics = calculator.statistics
    if statistics is None:
        return None
    return statistics.energies if readout == "energy" else statistics.charges


def known_element(calculator: Explainable, probe: str | int) -> int:
    """Atomic number of a probe.

    Raises:
        ValueError: no element, or one that the network does not know.
    """
    number = atomic_numbers.get(probe, 0) if isinstance(probe, str) else int(probe)
    known = calculator.network.elements
    if number not in known:
        names = ", ".join(chemical_symbols[z] for z in known)
        raise ValueError(f"the network does not know a probe {probe!r}; it knows {names}. Take one of these.")
    return number


def described(place: Place) -> dict[str, Any]:
    """Kind and settings of a place as JSON values; free points stand in the explanation itself."""
    settings = {} if isinstance(place, Points) else plain(asdict(place))  # type: ignore[call-overload]
    return {"kind": type(place).__name__, **settings}


def stated(explainer: ProbeExplainer) -> dict[str, Any]:
    """The settings of an explainer that say neither what the probe is nor where."""
    spoken_for = {"probe", "points", "surface", "grid", "plane", "scale"}
    return {f.name: getattr(explainer, f.name) for f in fields(explainer) if f.name not in spoken_for}
