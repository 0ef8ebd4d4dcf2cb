"""What every predictor that mathnas is compared with can do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Indices, SearchSpace


@runtime_checkable
class Predictor(Protocol):
    """Learns one quantity of networks from evaluations and predicts it for any other network.

    The constructor only stores settings and takes a `seed`; `fit` draws whatever is random from it,
    so that the same seed, networks and values give the same predictions on one machine. A second
    `fit` starts afresh.
    """

    def fit(self, networks: Indices, values: Floats) -> None:
        """Learn from evaluated networks.

        Args:
            networks: block indices, shape (k, m).
            values: what was measured of each, shape (k,); finite, in any unit.

        Raises:
            InvalidInputError: the shapes do not fit, a network is not of the space, a value is not
                finite, or there are too few networks.
        """

    def predict(self, networks: Indices) -> Floats:
        """What is expected of networks, shape (k,).

        In the unit of the values that were given to `fit`, unless the predictor says that it
        predicts an order only.

        Raises:
            InvalidInputError: a network is not of the space, or nothing was fitted yet.
        """


def checked_values(values: npt.ArrayLike, count: int, fewest: int) -> Floats:
    """`values` as an array of shape (count,), after the checks of `Predictor.fit`."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (count,):
        raise InvalidInputError(
            f"there is one value for each of {count} networks, but got values of shape "
            f"{array.shape}."
        )
    if count < fewest:
        raise InvalidInputError(
            f"this predictor learns from at least {fewest} networks, but got {count}: evaluate "
            "more."
        )
    if not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array)))
        raise InvalidInputError(
            f"values are finite, but value {bad} is {array[bad]}: leave that network out."
        )
    return array


def checked_evaluations(
    space: SearchSpace, networks: npt.ArrayLike, values: npt.ArrayLike, fewest: int
) -> tuple[Indices, Floats]:
    """Networks and their values after the checks of `Predictor.fit`."""
    known = space.check_many(networks)
    return known, checked_values(values, len(known), fewest)
