"""Predictions of several metrics by name, as evolutions ask for them, and limits on these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mathnas.baselines.predictor import Predictor
from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats
from mathnas.search import Limit, read_limits
from mathnas.search.limits import Limits
from mathnas.space import Indices, SearchSpace
from mathnas.table import BlockTable


class Predictions(Protocol):
    """Predicts values of metrics; a `BlockTable` is one."""

    @property
    def space(self) -> SearchSpace:
        """The space of the networks."""
        ...

    def predict(self, networks: npt.ArrayLike, metric: str) -> Floats:
        """Values of networks of shape (k, m), shape (k,)."""
        ...


@dataclass(frozen=True)
class ByMetric:
    """`Predictions` of predictors that know one metric each.

    Attributes:
        space: of the networks.
        predictors: fitted ones, by the metric that each predicts.
    """

    space: SearchSpace
    predictors: Mapping[str, Predictor]

    def predict(self, networks: npt.ArrayLike, metric: str) -> Floats:
        """Values of networks, shape (k,).

        Raises:
            InvalidInputError: no predictor knows the metric, or a network is not of the space.
        """
        if metric not in self.predictors:
            raise InvalidInputError(
                f"there are predictors of {', '.join(self.predictors)}, but not of {metric!r}."
            )
        return self.predictors[metric].predict(self.space.check_many(networks))


def predicted_limits(limits: Limits, predictor: BlockTable | Predictions) -> tuple[Limit, ...]:
    """Limits on predicted values.

    Raises:
        InvalidInputError: a limit cannot be read, or is no `Limit` where the predictor is no table.
    """
    if isinstance(predictor, BlockTable):
        return read_limits(limits, predictor)
    given = list(limits or ())
    if isinstance(limits, Mapping) or not all(isinstance(item, Limit) for item in given):
        raise InvalidInputError(
            f"limits on what is no BlockTable are a list of mathnas.Limit, but got {limits!r}."
        )
    return tuple(item for item in given if isinstance(item, Limit))


def keep(
    limits: Sequence[Limit], predictor: BlockTable | Predictions, networks: Indices
) -> npt.NDArray[np.bool_]:
    """Which networks are predicted to meet all limits, shape (k,)."""
    kept = np.ones(len(networks), dtype=bool)
    for limit in limits:
        values = np.asarray(predictor.predict(networks, limit.metric.name))
        kept &= values <= limit.value if limit.sense == "<=" else values >= limit.value
    return kept
