"""Networks as ASE calculators: Atoms in, ASE's own results out."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Sized
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError, all_changes
from ase.outputs import Properties
from numpy.typing import NDArray

from ase_xai.calculator_base import BORN_CHARGES, AtomisticCalculator, dipole_origin_point
from ase_xai.graph import AtomGraph
from ase_xai.networks import AtomwiseOutput, BehlerParrinelloNetwork, Prediction, SchNetNetwork
from ase_xai.networks.inference.engine import Engine
from ase_xai.networks.inference.team import SMALL, cpu_threads
from ase_xai.networks.response import DipoleResponse, dipole_response
from ase_xai.refusals import refuse_overlap
from ase_xai.skin import SkinList
from ase_xai.weights import LoadedWeights, WeightsError, resolve

DTYPES = {"float32": torch.float32, "float64": torch.float64}
CHARGED = ("charges", "dipole")


class NetworkCalculator(AtomisticCalculator):
    """One network as a calculator; `SchNet` and `BehlerParrinello` say which.

    Args:
        weights: name of shipped weights (`ase-xai models` lists them), path of a weight file, or weights already loaded;
            "organic" for SchNet and "organic-bp" for BehlerParrinello if left out.
        device: "cpu", "cuda", "cuda:1" ...; None takes a CUDA device if there is one.
        dtype: "float32" or "float64", the precision of the network; sums are always float64.
        threads: CPU threads of the evaluation. None uses 1 below 200 atoms, where more only wait for one another, and
            PyTorch's setting above. That setting is restored after each evaluation.
        skin: Å; the neighbor list holds pairs up to cutoff + skin and is rebuilt only when atoms have moved too far for it.
        neighbors: back end that finds pairs, see `ase_xai.neighbors.find_pairs`.
        kernels: "auto" takes the fastest way that is correct for network, precision and device, and falls back to PyTorch
            operations where Numba (extra `fast`) or, on a GPU, Triton is missing; `describe()` tells what is used. "exact"
            switches off the table that stands for SchNet's filter networks in float32, "tabulated" uses it in float64
            too, "reference" is PyTorch with automatic differentiation.
        total_charge, dipole_origin: see `AtomisticCalculator`.

    Raises:
        WeightsError: unknown name, unreadable, damaged or foreign file, or weights of another architecture.
    """

    architecture: ClassVar[str | None] = None
    default_weights: ClassVar[str] = "organic"

    def __init__(
        self,
        weights: str | Path | LoadedWeights | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        skin: float = 1.0,
        threads: int | None = None,
        neighbors: str = "auto",
        kernels: str = "auto",
        total_charge: float | None = None,
        dipole_origin: str | Sequence[float] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}.")
        weights = self.default_weights if weights is None else weights
        loaded = weights if isinstance(weights, LoadedWeights) else resolve(weights)
        card = loaded.card
        if self.architecture not in (None, card.architecture):
            raise WeightsError(
                f"{loaded.source} holds a {card.architecture} network, not {self.architecture}. Use ase_xai.load()."
            )
        super().__init__(
            elements=loaded.network.elements,
            total_charges=card.total_charges,
            closed_shell=card.closed_shell,
            total_charge=total_charge,
            dipole_origin=dipole_origin,
        )
        self._born_charges: NDArray[np.float64] | None = None
        if loaded.network.has_charges:
            self.implemented_properties.append(BORN_CHARGES)
        else:
            self.implemented_properties = [name for name in self.implemented_properties if name not in CHARGED]
        self.device = _checked_device(device)
        with torch.inference_mode(False):
            self.network = copy.deepcopy(loaded.network).to(device=self.device, dtype=DTYPES[dtype])
        self._engine = Engine(self.network, kernels)
        self.card, self.sha256, self.statistics = card, loaded.sha256, loaded.statistics
        self.threads = _checked_threads(threads)
        self.neighbor_list = SkinList(self.network.cutoff, skin, neighbors)
        self.parameters.update(
            weights=loaded.source,
            sha256=loaded.sha256,
            device=str(self.device),
            dtype=dtype,
            skin=float(skin),
            neighbors=neighbors,
            kernels=kernels,
        )
        if total_charge is not None:
            self.parameters.update(total_charge=float(total_charge))
        if self.dipole_origin is not None:
            self.parameters.update(dipole_origin=self.dipole_origin)

    @property
    def engine(self) -> Engine:
        if self._engine.network is not self.network:
            self._engine = Engine(self.network, self._engine.kernels)
        return self._engine

    def describe(self) -> str:
        """Network, device, precision, kernels and neighbor list in words, with the reasons for the choices."""
        settings = ", ".join(f"{name} {value}" for name, value in self.network.settings().items() if name != "elements")
        pairs = self.neighbor_list
        return (
            f"{self.model}: {self.card.architecture}, {settings}\n"
            f"{self.parameters['dtype']} on {self.device}: {self.engine.describe()}\n"
            f"neighbors: {pairs.cutoff:g} Å and a skin of {pairs.skin:g} Å, back end {pairs.backend}"
        )

    @property
    def members(self) -> Sequence[NetworkCalculator]:
        return (self,)

    @property
    def model(self) -> str:
        """Name of the weights and level of theory of their labels."""
        return f"{self.parameters['weights']} [{self.card.level_of_theory}]"

    def checked_graph(self, atoms: Atoms) -> AtomGraph:
        """The graph of `atoms` after the checks of an evaluation; it belongs to the caller and no result is touched.

        Raises:
            InputError: atoms that an evaluation would refuse.
        """
        self.check_atoms(atoms)
        with self._lock:
            return self.graph(atoms)

    def baselines(self, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
        """(N,) energies in eV that can be taken from the atomic ones: what the references of the weights are, by name
        ("composition" for a least-squares fit, else "free_atom"), and "element_mean" over the training atoms if known.
        """
        references = self.references(atoms)
        fitted = "least squares" in self.card.reference_kind
        found = {"composition" if fitted else "free_atom": references} if references.any() else {}
        if self.statistics is not None and self.statistics.energies is not None:
            means = self.statistics.energies.mean.numpy()[self.network.element_index(torch.tensor(atoms.numbers)).cpu()]
            found["element_mean"] = references + means
        return found

    def graph(self, atoms: Atoms) -> AtomGraph:
        """The graph the network sees, from the reused neighbor list."""
        try:
            pairs = self.neighbor_list.update(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        except ValueError as error:
            raise InputError(str(error)) from error
        charge, cutoff = self.charge_of(atoms), self.network.cutoff
        graph = AtomGraph.from_pairs(atoms, pairs, total_charge=charge, cutoff=cutoff, device=self.device)
        with cpu_threads(1):  # threads of PyTorch go on looking for work, in the way of those that evaluate the network
            refuse_overlap(graph)
        return graph

    def references(self, atoms: Atoms) -> NDArray[np.float64]:
        energies = self.network.energy.references
        return np.array([energies.get(int(z), 0.0) for z in atoms.numbers])

    def predict(self, graph: AtomGraph) -> Prediction:
        """What the network says of a graph, with its derivatives, by the calculator's kernels."""
        with self._lock, torch.inference_mode(False):
            return self.engine(graph, self._threads_for(graph.numbers))

    def output(self, graph: AtomGraph) -> AtomwiseOutput:
        """The same without derivatives."""
        with self._lock, torch.inference_mode(False):
            return self.engine.output(graph, self._threads_for(graph.numbers))

    def dipole_response(self, graph: AtomGraph) -> DipoleResponse:
        """Born charges of the atoms of a graph, see `ase_xai.networks.response.dipole_response`."""
        with self._lock, torch.inference_mode(False):
            flux = partial(self.engine.charge_flux, threads=self._threads_for(graph.numbers))
            return dipole_response(self.network, graph, flux)

    def _threads_for(self, atoms: Sized) -> int:
        return self.threads or (1 if len(atoms) < SMALL else torch.get_num_threads())

    def _evaluate_alone(self, atoms: Atoms, charge: float) -> dict[str, Any]:
        """`_evaluate` for an ensemble, while no other thread uses this member."""
        with self._lock:
            return self._evaluate(atoms, charge)

    def _evaluate(self, atoms: Atoms, charge: float) -> dict[str, Any]:
        results = _as_results(self.predict(self.graph(atoms)))
        if "dipole" in results:
            results["dipole"] -= charge * dipole_origin_point(self.dipole_origin, atoms)
        return results

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; Born charges, if asked for, are kept beside them, as ASE's extxyz writer fails on (N, 3, 3)."""
        with self._lock:
            self._born_charges = None
            super().calculate(atoms, properties, system_changes)
            if BORN_CHARGES in (properties or ()):
                assert self.atoms is not None
                self._born_charges = self.dipole_response(self.graph(self.atoms)).total.cpu().numpy()

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if name != BORN_CHARGES or name not in self.implemented_properties:
            return super().get_property(name, atoms, allow_calculation)
        with self._lock:
            now = self.atoms if atoms is None else atoms
            if self._born_charges is None or now is None or self.check_state(now):
                if not allow_calculation:
                    return None
                self.calculate(atoms, [name])
            return copy.copy(self._born_charges)

    def export_properties(self) -> Properties:
        return Properties({**self.results, **({} if self._born_charges is None else {BORN_CHARGES: self._born_charges})})


class SchNet(NetworkCalculator):
    """SchNet as an ASE calculator.

    Arguments, results and errors stand in `NetworkCalculator` and `AtomisticCalculator`. Example:

        atoms.calc = SchNet("organic")
        atoms.get_potential_energies()  # latent atomic energies, eV; they sum to the total energy
        atoms.get_charges()  # latent partial charges, e; they sum to the total charge
    """

    architecture = SchNetNetwork.architecture


class BehlerParrinello(NetworkCalculator):
    """Behler-Parrinello network on weighted symmetry functions as an ASE calculator.

    Arguments, results and errors stand in `NetworkCalculator` and `AtomisticCalculator`. Example:

        atoms.calc = BehlerParrinello("organic-bp")
    """

    architecture = BehlerParrinelloNetwork.architecture
    default_weights = "organic-bp"


def load(weights: str | Path, **settings: Any) -> NetworkCalculator:
    """The calculator that fits a weight file: `SchNet`, `BehlerParrinello`, or `NetworkCalculator` for other networks.

    Args:
        weights: name of shipped weights or path of a weight file.
        settings: arguments of `NetworkCalculator`.
    """
    known = {calculator.architecture: calculator for calculator in (SchNet, BehlerParrinello)}
    loaded = resolve(weights)
    return known.get(loaded.card.architecture, NetworkCalculator)(loaded, **settings)


def _checked_threads(threads: object) -> int | None:
    if threads is None:
        return None
    if not isinstance(threads, Integral) or int(threads) < 1:
        raise ValueError(f"threads must be a positive integer or None, got {threads!r}. It is a number of CPU threads.")
    return int(threads)


def _checked_device(device: str | torch.device | None) -> torch.device:
    """`device`, by default CUDA if there is one."""
    cuda = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if cuda else "cpu"))
    except RuntimeError as error:
        raise ValueError(f'device must be "cpu", "cuda", "cuda:1" ..., got {device!r}.') from error
    if chosen.type == "cuda" and not cuda:
        raise ValueError(f'device {chosen} was asked for, but PyTorch finds no CUDA device here. Use device="cpu".')
    return chosen


def _as_results(prediction: Prediction) -> dict[str, Any]:
    """One system's prediction as ASE results: floats and float64 arrays of our own."""

    def array(tensor: torch.Tensor) -> NDArray[np.float64]:
        return np.array(tensor.cpu().numpy(), dtype=np.float64)

    energies = array(prediction.energies)
    energy = float(prediction.energy[0])
    results = {
        "energy": energy,
        "free_energy": energy,
        "energies": energies,
        "forces": array(prediction.forces),
        "stress": array(prediction.stress[0]),
    }
    if prediction.charges is not None and prediction.dipole is not None:
        results.update(charges=array(prediction.charges), dipole=array(prediction.dipole[0]))
    return results
