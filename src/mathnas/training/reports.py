"""What is told while a supernet is trained: numbers, ``log.csv``, TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathnas._records import write_text
from mathnas.errors import FileFormatError, MissingExtraError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.scores import score
from mathnas.nets.supernet import Supernet
from mathnas.space import Network
from mathnas.training.data import TrainingData
from mathnas.training.recipes import ROLES

_COLUMNS = (
    *("step", "epoch", "phase", "learning_rate", "images_per_second"),
    *(f"loss_{role}" for role in ROLES),
    *("batch_accuracy", "accuracy_smallest", "accuracy_largest"),
)


@dataclass(frozen=True)
class TrainingProgress:
    """How training goes, told at every log interval and after every evaluation.

    Attributes:
        step: steps done, of all phases.
        total: steps in all.
        epoch: epochs done, with the fraction of the current one.
        phase: its name.
        learning_rate: of the last step.
        images_per_second: of all processes, since the last report.
        losses: mean loss since the last report, by the networks' roles, in nats.
        batch_accuracy: of the step's first network on its last batch, percent.
        accuracies: on held-out images, of ``smallest`` and ``largest``, percent; empty where none
            were evaluated.
    """

    step: int
    total: int
    epoch: float
    phase: str
    learning_rate: float
    images_per_second: float
    losses: Mapping[str, float]
    batch_accuracy: float
    accuracies: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """The row of ``log.csv``."""
        values: dict[str, object] = {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "phase": self.phase,
            "learning_rate": self.learning_rate,
            "images_per_second": round(self.images_per_second, 2),
            "batch_accuracy": round(self.batch_accuracy, 2),
            **{f"loss_{role}": loss for role, loss in self.losses.items()},
            **{f"accuracy_{name}": value for name, value in self.accuracies.items()},
        }
        return values

    def __str__(self) -> str:
        losses = "/".join(f"{loss:.3g}" for loss in self.losses.values())
        found = "-".join(f"{value:.1f}" for value in self.accuracies.values())
        return (
            f"{self.images_per_second:.3g} images/s, loss {losses}, rate {self.learning_rate:.1g}"
            + f", {found} %" * bool(found)
        )


def held_out_accuracies(
    supernet: Supernet, networks: Mapping[str, Network], data: TrainingData
) -> dict[str, float]:
    """Accuracy in percent of extracted, recalibrated networks on the held-out images."""
    if data.held_out is None:
        return {}
    device = next(supernet.parameters()).device
    found = {}
    for name, network in networks.items():
        static = supernet.extract(network)
        recalibrate(static, (batch.to(device) for batch in data.calibration))
        found[name] = score(static, data.held_out).accuracy
    return found


class TrainingLog:
    """``log.csv`` in a folder, one row a report.

    Args:
        folder: where it is.
        step: where training goes on; rows of later steps, which will come again, are taken out.
        tensorboard: write events for TensorBoard into ``tensorboard/`` too.

    Raises:
        FileFormatError: the file cannot be written, or is not a log.
        MissingExtraError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int = 0, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self._events = _event_writer(folder / "tensorboard", step) if tensorboard else None
        write_text(self.path, _text([_COLUMNS, *_rows_until(self.path, step)]))

    def add(self, progress: TrainingProgress) -> None:
        """Append a row."""
        row = progress.row()
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_text([[row.get(name, "") for name in _COLUMNS]]))
        except OSError as error:
            raise FileFormatError(f"{self.path} cannot be written: {error}.") from error
        if self._events is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._events.add_scalar(name, value, progress.step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    if not path.exists():
        return []
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise FileFormatError(f"{path} cannot be read as a log: {error}.") from error
    if rows and tuple(rows[0]) != _COLUMNS:
        raise FileFormatError(
            f"{path} is not the log of a training: its columns are {rows[0]}. Move it away."
        )
    # the last row may have been cut where the process was killed
    whole = [row for row in rows[1:] if len(row) == len(_COLUMNS)]
    return [row for row in whole if _number(row[0]) <= step]


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    return math.inf


def _text(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "events for TensorBoard need tensorboard: pip install tensorboard."
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
