"""Losses of one network on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mathnas.errors import InvalidInputError


@dataclass(slots=True)
class Batch:
    """What the losses of a step see.

    Attributes:
        inputs: what the supernet takes: images of shape (batch, ...), token ids, ...
        labels: class indices, shape (samples,): one an image, or one a token.
        teacher: logits of the teacher, shape (samples, classes), without gradient; None where there
            is none (yet).
    """

    inputs: Tensor
    labels: Tensor
    teacher: Tensor | None = None


class Loss(Protocol):
    """A network's logits, shape (samples, classes), to a scalar, in nats."""

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
        return functional.cross_entropy(logits, _teacher_of(batch).softmax(1))


@dataclass(frozen=True, slots=True)
class AlphaDivergenceLoss:
    """The larger of two divergences between the teacher's softmax p and the network's q (Wang et
    al., AlphaNet, ICML 2021), a sample at a time.

    KL(p, q) (alpha = 1) grows where p has mass that q lacks; half the chi-squared divergence of q
    from p (alpha = -1) where q has mass that p lacks, which KL hardly sees. A network thus neither
    under- nor overestimates how sure its teacher is.

    The value is the mean of the divergences, and the gradient is theirs; but for alpha = -1 both
    count a ratio q / p no more than `clip` times, so that no class of small p rules a step.

    Attributes:
        clip: the largest ratio q / p that counts.
    """

    clip: float = 5.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        log_p, log_q = _teacher_of(batch).log_softmax(1), logits.log_softmax(1)
        fixed = log_q.detach()
        p, q = log_p.exp(), fixed.exp()
        ratio = (fixed - log_p).exp().clamp(max=self.clip)
        covering = (p * (log_p - fixed)).sum(1)
        seeking = 0.5 * (q * (ratio - 1.0)).sum(1)
        # d q = q d log q, so a divergence's gradient is that of a weighted sum of log-probabilities
        weights = torch.where((seeking > covering).unsqueeze(1), q * (ratio - 0.5), -p)
        surrogate = (weights * log_q).sum(1)
        value = torch.maximum(seeking, covering) + (surrogate - surrogate.detach())
        return value.mean()


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


def _teacher_of(batch: Batch) -> Tensor:
    if batch.teacher is None:
        raise InvalidInputError(
            "a loss against a teacher needs one, but none has run on this batch: put a pass "
            "that teaches in front, or give the phase a teacher (distill > 0)."
        )
    return batch.teacher
