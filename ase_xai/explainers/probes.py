"""What questions about probe atoms share: where to ask, what to subtract, which answers not to trust."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_xai.explainers.base import Explainable, answer, plain
from ase_xai.explainers.explanation import Explanation
from ase_xai.explainers.places import Grid, Images, Place, Placed, Plane, Points
from ase_xai.explainers.probe_rigidity import Rigidity
from ase_xai.explainers.surfaces import Surface
from ase_xai.networks.probing import Surroundings, chunks

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
        limit: with training statistics, points are masked where the leverage of the probe's last-layer inputs exceeds this
            multiple of the 99th percentile over training atoms of its element; None masks none. A probe without a bonded
            partner is unlike most training atoms: at 1, whole maps may be masked, and say so.
        chunk: points per evaluation; None takes what fits into 256 MB.
    """

    own_spacing: ClassVar[float] = 0.25
    """Å of the grid under a surface given by name."""

    probe: str | int = "H"
    points: ArrayLike | None = None
    surface: str | Surface | None = None
    grid: Grid | tuple[Any, float] | None = None
    plane: Plane | None = None
    scale: float = 1.0
    reference: str = "isolated"
    closest: float = 0.6
    limit: float | None = 1.0
    chunk: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("points", "surface", "grid", "plane") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a probe is put at one kind of place, got {' and '.join(given)}. Ask once for each.")
        if self.reference not in ("isolated", "none"):
            raise ValueError(f'reference must be "isolated" or "none", got {self.reference!r}.')
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be positive, got {self.chunk}. It is a number of points per evaluation.")
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit must be positive or None, got {self.limit}. It is a multiple of a usual leverage.")
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
        if isinstance(self.surface, Surface):
            return self.surface
        return Surface(self.surface or "vdw", self.scale, self.own_spacing)

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
        if rigidity is not None and explainer.limit is not None:
            loose = ~self.inside & ~(columns["leverage"] <= explainer.limit * rigidity.usual)
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
        if explainer.limit is None:
            return [*notes, "Not masked (limit=None): points unlike anything learned."]
        times = "" if explainer.limit == 1.0 else f"{explainer.limit:g} times "
        atoms = f"training atoms of {self.symbol}"
        why = f"leverage above {times}that of 99 % of the {atoms}" if rigidity.usual > 0 else f"there are no {atoms}"
        return [*notes, f"{loose.sum()} {of}: {why}."]


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
