"""How well a network does what the original did, without labels, and how well with them.

Every score is a mean over samples. Label-free ones compare outputs with the original's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction, Metric, metric_named


class SampleScore(ABC):
    """A number a sample: inherit from it for one of your own.

    Attributes:
        metric: its mean over the samples.
        labelled: whether it needs labels.
    """

    metric: Metric
    labelled: bool = False

    @abstractmethod
    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        """One number a sample, shape (samples,).

        Args:
            found: outputs of a network, shape (samples, ...).
            original: those of the original for the same samples.
            labels: shape (samples, ...), where they are given.
        """


class CosineDistance(SampleScore):
    """1 - cosine between a network's and the original's outputs, each less its mean (``drift``)."""

    metric = Metric("drift", "", Direction.MINIMIZE, additive=False)

    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        rows = [_rows(one) for one in (found, original)]
        one, other = (row - row.mean(1, keepdim=True) for row in rows)
        return 1 - functional.cosine_similarity(one, other, dim=1)


class Divergence(SampleScore):
    """Kullback-Leibler divergence of class probabilities from the original's, in nats
    (``divergence``)."""

    metric = Metric("divergence", "nats", Direction.MINIMIZE, additive=False)

    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        expected, own = (functional.log_softmax(one.double(), -1) for one in (original, found))
        return _mean_of_positions((expected.exp() * (expected - own)).sum(-1))


class Accuracy(SampleScore):
    """Percent of samples whose class has the largest output (``accuracy``)."""

    metric = metric_named("accuracy")
    labelled = True

    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        right = found.argmax(-1) == _given(labels)
        return _mean_of_positions(100.0 * right.double())


class Loss(SampleScore):
    """Cross entropy with the labels, in nats (``loss``)."""

    metric = metric_named("loss")
    labelled = True

    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        expected = _given(labels)
        logs = functional.log_softmax(found.double(), -1)
        return _mean_of_positions(-logs.gather(-1, expected.unsqueeze(-1)).squeeze(-1))


class UserScore(SampleScore):
    """A score from a function.

    Args:
        metric: declared with `mathnas.Metric`, or a name that `mathnas.metric_named` knows.
        function: takes (found, original, labels) and gives a number a sample, shape (samples,).
        labelled: whether it needs labels.
    """

    def __init__(
        self,
        metric: Metric | str,
        function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        *,
        labelled: bool = False,
    ) -> None:
        self.metric = metric_named(metric) if isinstance(metric, str) else metric
        self.labelled = labelled
        self._function = function

    def each(self, found: Tensor, original: Tensor, labels: Tensor | None) -> Tensor:
        return self._function(found, original, labels)


def _rows(outputs: Tensor) -> Tensor:
    return outputs.double().flatten(1)


def _mean_of_positions(values: Tensor) -> Tensor:
    """Of a number a position, shape (samples, ...), one a sample."""
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise InvalidInputError("this score compares with labels, but there are none.")
    return torch.as_tensor(labels)
