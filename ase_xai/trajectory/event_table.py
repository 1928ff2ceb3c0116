"""A table of things that happened along a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Args:
        step: number of the step.
        time: in the time unit of the run.
        kind: "bond formed", "bond broken", "proton transfer", "change of energies", "outside training data" ...
        atoms: indices; of a proton transfer hydrogen, donor, acceptor.
        payload: numbers that describe it, with units in their names.
    """

    step: int
    time: float
    kind: str
    atoms: tuple[int, ...]
    payload: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Events(Sequence[Event]):
    """Events of a run in the order of time.

    Args:
        events: any order.
        time_unit: "fs" or "step".
        settings: thresholds they were found with.
    """

    events: tuple[Event, ...]
    time_unit: str = "fs"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.events, key=lambda event: (event.time, event.step, event.kind, event.atoms))
        object.__setattr__(self, "events", tuple(ordered))

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, key: Any) -> Any:
        return self.events[key]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that occurs."""
        return tuple(dict.fromkeys(event.kind for event in self.events))

    def of(self, *kinds: str) -> Events:
        """The events of some kinds."""
        return Events(tuple(event for event in self.events if event.kind in kinds), self.time_unit, self.settings)

    def save(self, path: str | Path) -> None:
        """Write a table: .csv (atoms separated by blanks, payload as JSON) or .json.

        Raises:
            ValueError: another ending.
        """
        from ase_xai.files import write_atomically

        path = Path(path)
        if path.suffix == ".json":
            about = {"time_unit": self.time_unit, "settings": dict(self.settings)}
            write_atomically(path, json.dumps({**about, "events": [asdict(event) for event in self.events]}).encode())
        elif path.suffix == ".csv":
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(["step", f"time ({self.time_unit})", "kind", "atoms", "payload"])
            for event in self.events:
                atoms = " ".join(map(str, event.atoms))
                writer.writerow([event.step, repr(event.time), event.kind, atoms, json.dumps(dict(event.payload))])
            write_atomically(path, table.getvalue().encode())
        else:
            raise ValueError(f"events are saved as .csv or .json, got {path.name!r}.")

    @classmethod
    def load(cls, path: str | Path) -> Events:
        """Read the .json that `save` wrote.

        Raises:
            ValueError: no such file of events.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            events = [Event(**{**event, "atoms": tuple(event["atoms"])}) for event in content["events"]]
            return cls(tuple(events), content["time_unit"], content["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} cannot be read as events: {error}. Events.save writes them as .json.") from error
