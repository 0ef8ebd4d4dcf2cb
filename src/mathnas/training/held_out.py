"""What networks of a supernet are evaluated on while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.metrics import Metric, metric_named
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.scores import LabelledImages, score
from mathnas.nets.supernet import Supernet
from mathnas.space import Network

_ACCURACY = metric_named("accuracy")


class HeldOut(Protocol):
    """Data that are never trained on, and how well a network does on them."""

    @property
    def metric(self) -> Metric:
        """What is measured: ``accuracy`` in percent, ``loss`` in nats."""
        ...

    def score(self, supernet: Supernet, network: Network) -> float:
        """How well a network does, in the metric's unit.

        It is called without gradients, with the supernet in evaluation mode on the device that it
        is trained on, and leaves the supernet as it is.
        """
        ...


@dataclass(frozen=True)
class HeldOutImages:
    """Accuracy of extracted networks, their batch norms recalibrated first.

    Attributes:
        images: what accuracy is measured on.
        calibration: batches of training images for the statistics of the batch norms.

    Raises:
        InvalidInputError: there are no calibration batches.
    """

    images: LabelledImages
    calibration: Sequence[Tensor]

    def __post_init__(self) -> None:
        if not self.calibration:
            raise InvalidInputError(
                "an evaluation needs batches for the batch-norm statistics, but there are held-out "
                "images and no calibration: give both, or neither."
            )

    @property
    def metric(self) -> Metric:
        return _ACCURACY

    def score(self, supernet: Supernet, network: Network) -> float:
        device = next(supernet.parameters()).device
        static = supernet.extract(network)
        recalibrate(static, (batch.to(device) for batch in self.calibration))
        return score(static, self.images).accuracy
