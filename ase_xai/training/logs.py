"""What a run writes down as it goes: metrics.csv, and TensorBoard's files where TensorBoard is installed."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_xai.files import write_atomically


class RunLog:
    """One row per validation.

    Args:
        folder: of the run; rows go to metrics.csv there.
        step: of the last validation that counts; later rows, of validations that will be made again, are cut.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.csv"
        self._forget_after(step)
        self._board = _summary_writer(folder, step)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; it has the same columns each time, `step` being the first."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, int(row["step"]))
            self._board.flush()

    def columns(self) -> dict[str, list[float]]:
        """All rows so far, by column."""
        if not self.path.exists():
            return {}
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}

    def _forget_after(self, step: int) -> None:
        if self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
            kept = [line for line in whole[1:] if int(line.split(",", 1)[0]) <= step]
            write_atomically(self.path, "".join(whole[:1] + kept).encode())


def _summary_writer(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
