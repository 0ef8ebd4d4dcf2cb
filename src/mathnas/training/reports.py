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
from mathnas.metrics import Metric
from mathnas.training.recipes import ROLES

EXTREMES = ("smallest", "largest")  # the networks that are evaluated


@dataclass(frozen=True)
class TrainingProgress:
    """How training goes, told at every log interval and after every evaluation.

    Attributes:
        step: steps done, of all phases.
        total: steps in all.
        epoch: epochs done, with the fraction of the current one.
        phase: its name.
        learning_rate: of the last step.
        samples_per_second: of all processes, since the last report, if each has as many as this
            one.
        losses: mean loss since the last report, by the networks' roles, in nats.
        batch_accuracy: of the step's first network on its last batch, percent.
        samples: what they are; see `TrainingData.samples`.
        metric: of the scores; None without held-out data.
        scores: on held-out data, of ``smallest`` and ``largest``, in the metric's unit; empty where
            none were evaluated.
    """

    step: int
    total: int
    epoch: float
    phase: str
    learning_rate: float
    samples_per_second: float
    losses: Mapping[str, float]
    batch_accuracy: float
    samples: str = "images"
    metric: Metric | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """The row of ``log.csv``."""
        values: dict[str, object] = {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "phase": self.phase,
            "learning_rate": self.learning_rate,
            _speed_column(self.samples): round(self.samples_per_second, 2),
            "batch_accuracy": round(self.batch_accuracy, 2),
            **{f"loss_{role}": loss for role, loss in self.losses.items()},
        }
        if self.metric is not None:
            for name, value in self.scores.items():
                values[_score_column(self.metric, name)] = value
        return values

    def __str__(self) -> str:
        losses = "/".join(f"{loss:.3g}" for loss in self.losses.values())
        text = (
            f"{self.samples_per_second:.3g} {self.samples}/s, loss {losses}, "
            f"rate {self.learning_rate:.1g}"
        )
        if self.metric is None or not self.scores:
            return text
        found = "-".join(f"{value:.3g}" for value in self.scores.values())
        return f"{text}, {found} {self.metric.unit}"


def log_columns(samples: str = "images", metric: Metric | None = None) -> tuple[str, ...]:
    """The columns of a ``log.csv``; see `TrainingProgress`."""
    return (
        *("step", "epoch", "phase", "learning_rate", _speed_column(samples)),
        *(f"loss_{role}" for role in ROLES),
        "batch_accuracy",
        *(() if metric is None else (_score_column(metric, name) for name in EXTREMES)),
    )


def _speed_column(samples: str) -> str:
    return f"{samples}_per_second"


def _score_column(metric: Metric, name: str) -> str:
    # loss_smallest is what the smallest network had while it was trained
    return "held_out_" * (metric.name == "loss") + f"{metric.name}_{name}"


class TrainingLog:
    """``log.csv`` in a folder, one row a report.

    Args:
        folder: where it is.
        columns: see `log_columns`.
        step: where training goes on; rows of later steps, which will come again, are taken out.
        tensorboard: write events for TensorBoard into ``tensorboard/`` too.

    Raises:
        FileFormatError: the file cannot be written, or is not a log.
        MissingExtraError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: Path, columns: Sequence[str], step: int = 0, *, tensorboard: bool = False
    ) -> None:
        self.path = folder / "log.csv"
        self.columns = columns
        self._events = _event_writer(folder / "tensorboard", step) if tensorboard else None
        write_text(self.path, _text([columns, *_rows_until(self.path, columns, step)]))

    def add(self, progress: TrainingProgress) -> None:
        """Append a row."""
        row = progress.row()
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_text([[row.get(name, "") for name in self.columns]]))
        except OSError as error:
            raise FileFormatError(f"{self.path} cannot be written: {error}.") from error
        if self._events is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._events.add_scalar(name, value, progress.step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _rows_until(path: Path, columns: Sequence[str], step: int) -> list[list[str]]:
    if not path.exists():
        return []
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise FileFormatError(f"{path} cannot be read as a log: {error}.") from error
    if rows and rows[0] != list(columns):
        raise FileFormatError(
            f"{path} is not the log of this training: its columns are {rows[0]}, and not "
            f"{list(columns)}. Move it away."
        )
    # the last row may have been cut where the process was killed
    whole = [row for row in rows[1:] if len(row) == len(columns)]
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
