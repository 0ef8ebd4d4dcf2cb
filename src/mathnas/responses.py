"""Measurements on a response scale, and how much evidence there is for a model of them.

The evidence of a model is the marginal likelihood of the measurements: the prior's amplitude at its
maximum, the constant with a flat prior, times the Jacobian of the scale, so that models and scales
are compared on the same measurements (Box and Cox 1964; MacKay 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mathnas.metrics import IDENTITY, Direction, Floats, Metric
from mathnas.scales import ResponseScale, scales_for

NOISES: Floats = np.logspace(-6, 2.5, 35)  # variance of the noise, relative to the prior's
NEGLIGIBLE = 1e-9
_ROUNDING = 1e-3  # of a log evidence
_USUAL_NOISE, _NOISE_WIDTH = 0.05, 2.5  # a weak log-normal prior: few data tell nothing of noise
NOISE_PRIOR: Floats = -0.5 * (np.log(NOISES / _USUAL_NOISE) / _NOISE_WIDTH) ** 2


@dataclass(frozen=True)
class Response:
    """Measurements on one scale.

    Attributes:
        scale: the response scale.
        values: shape (n,): standardised.
        centre, unit: of the standardisation.
        weights: shape (n,): how much larger than the common one each network's noise is, as a
            standard deviation.
        relative: whether the noise is proportional to the measured value.
        jacobian: log of the densities' ratio of measurements and standardised responses.
    """

    scale: ResponseScale
    values: Floats
    centre: float
    unit: float
    weights: Floats
    relative: bool
    jacobian: float

    def weighted(self, factors: Floats) -> Response:
        """The same with noise that is larger by these factors."""
        return replace(self, weights=self.weights * factors)


def responses_of(values: Floats, metric: Metric, scale: ResponseScale | None) -> list[Response]:
    """What the evidence chooses among for values of shape (n,): response scales (see
    `scales_for`), and for additive metrics, which stay as they are, errors that are absolute or
    proportional to the value."""
    ones = np.ones(len(values))
    if scale is not None:
        return [_response(values, scale, ones)]
    if metric.additive:
        found = [_response(values, IDENTITY, ones)]
        if (values > 0).all():
            found.append(_response(values, IDENTITY, values / float(np.exp(np.log(values).mean()))))
        return found
    crowds: Literal["below", "above"] = (
        "below" if metric.direction is Direction.MAXIMIZE else "above"
    )
    return [_response(values, own, ones) for own in scales_for(values, crowds=crowds)]


def _response(values: Floats, scale: ResponseScale, weights: Floats) -> Response:
    raw = scale.forward(values)
    centre, unit = float(raw.mean()), float(raw.std()) or 1.0
    jacobian = float(np.log(scale.derivative(values)).sum()) - len(values) * math.log(unit)
    relative = bool(np.ptp(weights) > 0)
    return Response(scale, (raw - centre) / unit, centre, unit, weights, relative, jacobian)


def grouped(responses: Sequence[Response]) -> list[list[Response]]:
    """Responses of the same weights together: one decomposition serves all of a group."""
    groups: dict[bytes, list[Response]] = {}
    for response in responses:
        groups.setdefault(response.weights.tobytes(), []).append(response)
    return list(groups.values())


def constant_column(weights: Floats) -> Floats:
    """The constant's column, divided by each network's noise, of length 1; shape (n,)."""
    column = 1.0 / weights
    found: Floats = column / np.linalg.norm(column)
    return found


def whitened(values: Floats, weights: Floats) -> Floats:
    """Rows of shape (n, k) divided by each network's noise, the constant projected out."""
    column = constant_column(weights)
    scaled = values / weights[:, None]
    found: Floats = scaled - np.outer(column, column @ scaled)
    return found


def evidences(
    strength: Floats, inside: Floats, outside: Floats, group: Sequence[Response]
) -> Floats:
    """Log marginal likelihoods of shape (noises, responses), the noise's prior included.

    Args:
        strength: shape (r,): eigenvalues of the prior covariance of the whitened values.
        inside: shape (r, responses): these along the eigenvectors.
        outside: shape (responses,): squared length of what is along no eigenvector.
        group: the responses, all of the same weights.
    """
    weights = group[0].weights
    own = len(weights) - 1  # degrees of freedom beside the constant
    outside = np.maximum(outside, 1e-12 * own)
    total = strength[None] + NOISES[:, None]
    misfit = (1 / total) @ inside**2 + outside[None] / NOISES[:, None]
    spread = np.log(total).sum(axis=1) + (own - len(strength)) * np.log(NOISES)
    scaling = np.array([response.jacobian - np.log(response.weights).sum() for response in group])
    constant = math.log(float((1 / weights**2).sum()))
    found: Floats = -0.5 * (own * np.log(misfit / own) + spread[:, None] + constant) + scaling
    return found + NOISE_PRIOR[:, None]


def most_evident(found: Sequence[float]) -> int:
    """The first place of the highest log evidence, but for rounding: what says the same in other
    words is not chosen by the last bits of this machine's arithmetic."""
    most = max(found) - _ROUNDING
    return next(place for place, evidence in enumerate(found) if evidence > most)
