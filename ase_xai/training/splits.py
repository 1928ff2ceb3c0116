"""Who is trained on, who decides when to stop, who is asked at the end; kept in a file beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ase_xai.files import write_atomically
from ase_xai.training.data import StructureSet

PARTS = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a `StructureSet`: three parts without common members.

    Args:
        training, validation, test: indices, ascending.
        seed: of the permutation they came from.
        digest: of the structures they refer to.

    Raises:
        ValueError: parts have common members.
    """

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    digest: str

    def __post_init__(self) -> None:
        together = np.concatenate([self.training, self.validation, self.test])
        if len(np.unique(together)) < len(together):
            raise ValueError("parts of a split have common members. Each structure belongs to one part at most.")

    def part(self, name: str) -> NDArray[np.int64]:
        """Indices of "training", "validation" or "test"."""
        if name not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {name!r}.")
        return getattr(self, name)  # type: ignore[no-any-return]

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(self.part(name)) for name in PARTS}

    def save(self, path: str | Path) -> None:
        """Write a JSON file with all indices."""
        about = {"seed": self.seed, "digest": self.digest, **{name: self.part(name).tolist() for name in PARTS}}
        write_atomically(Path(path), json.dumps(about).encode())

    @classmethod
    def load(cls, path: str | Path, structures: StructureSet) -> Split:
        """Read a split of `structures`.

        Raises:
            ValueError: not a split, or one of other structures.
        """
        try:
            about = json.loads(Path(path).read_text())
            indices = {name: np.array(about[name], dtype=np.int64) for name in PARTS}
            split = cls(**indices, seed=int(about["seed"]), digest=str(about["digest"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a split: {error!r}. `ase-xai train` writes split.json.") from error
        members = np.concatenate([split.part(name) for name in PARTS])
        if ((members < 0) | (members >= len(structures))).any() or split.digest != structures.digest():
            raise ValueError(
                f"{path} belongs to other structures than these. Give the files it was made for, in their order."
            )
        return split


def split_by_group(
    structures: StructureSet, *, validation: float, test: float, training: float | None = None, seed: int
) -> Split:
    """Split so that structures of one group stay together: no molecule is on two sides.

    Groups are shuffled; the first go to the test part, the next to validation, the next to training.

    Args:
        structures: what to split.
        validation, test, training: numbers below 1 are fractions of the groups, others numbers of groups. Training takes all
            that is left unless it is given.
        seed: of the permutation.

    Raises:
        ValueError: parts are negative, empty or larger than the data.
    """
    groups = np.random.default_rng(seed).permutation(np.unique(structures.groups))
    wanted = {"test": test, "validation": validation} | ({} if training is None else {"training": training})
    parts: dict[str, NDArray[np.int64]] = {}
    start = 0
    for name, amount in wanted.items():
        count = round(amount * len(groups)) if amount < 1 else round(amount)
        if amount < 0 or start + count > len(groups):
            raise ValueError(
                f"{name} = {amount} of {len(groups)} groups does not fit beside {', '.join(parts) or 'nothing'}."
            )
        parts[name] = groups[start : start + count]
        start += count
    parts.setdefault("training", groups[start:])
    indices = {name: np.flatnonzero(np.isin(structures.groups, parts[name])) for name in PARTS}
    if not len(indices["training"]) or not len(indices["validation"]):
        raise ValueError(
            f"the split leaves {len(indices['training'])} training and {len(indices['validation'])} validation structures "
            f"of {len(structures)}. Both are needed; change the fractions."
        )
    return Split(**indices, seed=seed, digest=structures.digest())
