"""Losses of one network on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from mathnas.errors import InvalidInputError


@dataclass(slots=True)
class Batch:
    """What the losses of a step see.

    Attributes:
        inputs: shape (batch, ...).
        labels: class indices, shape (batch,).
        teacher: logits of the teacher, shape (batch, classes), without gradient; None where there
            is none (yet).
    """

    inputs: Tensor
    labels: Tensor
    teacher: Tensor | None = None


class Loss(Protocol):
    """A network's logits, shape (batch, classes), to a scalar, in nats."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LabelLoss:
    """Cross entropy against the labels.

    Attributes:
        smoothing: share of the label that is spread over all classes.
    """

    smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)


@dataclass(frozen=True, slots=True)
class TeacherLoss:
    """Soft cross entropy against the teacher's softmax (Hinton et al., 2015), temperature 1."""

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        if batch.teacher is None:
            raise InvalidInputError(
                "a loss against a teacher needs one, but none has run on this batch: put a pass "
                "that teaches in front, or give the phase a teacher (distill > 0)."
            )
        return functional.cross_entropy(logits, batch.teacher.softmax(1))


@dataclass(frozen=True, slots=True)
class DistilledLoss:
    """Labels, and the teacher: Cai et al., once-for-all, ICLR 2020, section 3.3.

    Attributes:
        weight: of the soft cross entropy; the labels' has weight 1.
        smoothing: of the labels.
    """

    weight: float = 1.0
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        soft = TeacherLoss()(logits, batch)
        return self.weight * soft + LabelLoss(self.smoothing)(logits, batch)
