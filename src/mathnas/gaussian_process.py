"""A Gaussian process on features of networks: where blocks do not add up, features may tell more.

The response of a network with features x (standardised) is a constant, plus a function with the
prior covariance

    k(x, x') = (1 + |x - x'|^2 / (2 alpha l^2 d))^-alpha + w x x' / d

over d features (rational quadratic and linear), plus noise. Length l, mixture alpha, linear share
w, the noise and the response scale are chosen by the evidence, as those of block effects are
(Rasmussen and Williams, 2006, chapters 2, 4 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mathnas._records import Record
from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats, Metric
from mathnas.responses import (
    NEGLIGIBLE,
    NOISES,
    Response,
    constant_column,
    evidences,
    grouped,
    responses_of,
    whitened,
)
from mathnas.scales import ResponseScale

_LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 8.0, 16.0)
_MIXTURES = (0.25, 0.5, 1.0, 4.0, 1000.0)
_LINEAR = (0.0, 0.1, 1.0, 10.0)
_START = (4, 2, 1)  # places in the three, where the search for the most evidence begins
_MOST_CHOOSING = 400  # networks that choose the kernel; all are fitted
_FREEDOM, _REWEIGHTED = 4.0, 2  # of Student's t for noise with outliers; times weights are found
_LEAST = 3
_CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Kernel:
    """A prior covariance; see the module."""

    length: float
    mixture: float
    linear: float

    def covariance(self, one: Floats, other: Floats) -> Floats:
        """Of standardised features of shapes (a, d) and (b, d): shape (a, b)."""
        width = one.shape[1]
        product = one @ other.T
        squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * product
        scaled = np.maximum(squares, 0.0) / (2 * self.mixture * self.length**2 * width)
        found: Floats = (1 + scaled) ** -self.mixture + self.linear / width * product
        return found

    def variance(self, features: Floats) -> Floats:
        """The diagonal of ``covariance(features, features)``, shape (a,)."""
        found: Floats = 1 + self.linear / features.shape[1] * (features**2).sum(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """What is known of responses after some were measured.

    Attributes:
        features: shape (n, d): of the measured networks.
        responses: shape (n,): measured, on the response scale.
        kernel: the prior covariance, relative to the amplitude's square.
        noise_share: variance of the noise of weight 1, on the same scale.
        weights: shape (n,): the standard deviations of the measurements' noise, relative.
        noise_at: the value at which the noise has weight 1, where it is proportional to the value.

    Raises:
        InvalidInputError: the shapes do not fit, or a number is not finite or not positive.
    """

    features: Floats
    responses: Floats
    kernel: Kernel
    noise_share: float
    weights: Floats
    noise_at: float | None = None

    def __post_init__(self) -> None:
        count = len(self.responses)
        if self.features.ndim != 2 or not self.features.shape[1] or count < _LEAST:
            raise InvalidInputError(
                f"a Gaussian process needs features of at least {_LEAST} networks, of shape "
                f"(networks, features), but got {self.features.shape}."
            )
        if self.features.shape[0] != count or self.weights.shape != (count,):
            raise InvalidInputError(
                f"each of {count} responses has its features and its weight, but got the shapes "
                f"{self.features.shape} and {self.weights.shape}."
            )
        if not (np.isfinite(self.features).all() and np.isfinite(self.responses).all()):
            raise InvalidInputError("features and responses are finite, but these are not.")
        positive = [self.kernel.length, self.kernel.mixture, self.noise_share, *self.weights]
        positive += [] if self.noise_at is None else [self.noise_at]
        if not all(0 < value < math.inf for value in positive) or not (
            0 <= self.kernel.linear < math.inf
        ):
            raise InvalidInputError(
                "lengths, mixtures, noise and weights are positive and finite, and the linear "
                f"share is at least 0, but got {self.kernel}, noise_share={self.noise_share}."
            )

    # ---- prediction -------------------------------------------------------------------------

    def predict(self, features: Floats) -> Floats:
        """Expected responses of networks with features of shape (k, d)."""
        found = np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            part = self._standardised(features[start : start + _CHUNK])
            covariance = self.kernel.covariance(part, self._points)
            found[start : start + _CHUNK] = self._constant + covariance @ self._solved
        return found

    def deviations(self, features: Floats) -> Floats:
        """Standard deviations of these, without the noise of a measurement; shape (k,)."""
        found = np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            part = self._standardised(features[start : start + _CHUNK])
            inside, missing = self._explained(part)
            variance = self.kernel.variance(part) - (inside**2).sum(axis=0)
            variance += missing**2 * self._constant_variance
            found[start : start + _CHUNK] = self.amplitude * np.sqrt(np.maximum(variance, 0.0))
        return found

    def sample(self, features: Floats, count: int, rng: np.random.Generator) -> Floats:
        """Joint draws of the responses of networks with features of shape (k, d): (count, k)."""
        part = self._standardised(features)
        inside, missing = self._explained(part)
        covariance = self.kernel.covariance(part, part) - inside.T @ inside
        covariance += self._constant_variance * np.outer(missing, missing)
        strength, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(strength, 0.0))
        draws = rng.standard_normal((count, len(features))) @ root.T
        found: Floats = self.predict(features) + self.amplitude * draws
        return found

    def noises(self, values: Floats) -> Floats:
        """Standard deviations of one measurement of networks with these predicted values."""
        if self.noise_at is None:
            return np.full(len(values), self.noise)
        found: Floats = self.noise * np.abs(values) / self.noise_at
        return found

    @property
    def noise(self) -> float:
        """Standard deviation of one measurement around the model, at weight 1."""
        return self.amplitude * math.sqrt(self.noise_share)

    @cached_property
    def left_out(self) -> Floats:
        """Each measured network's expected response as the others predict it; shape (n,)."""
        inverse = self._inverse @ self._inverse.T
        column = inverse.sum(axis=1)
        # the flat prior of the constant belongs to the precision that is left when it is left out
        precision = np.diag(inverse) - column**2 * self._constant_variance
        found: Floats = self.responses - self._solved / np.maximum(precision, 1e-300)
        return found

    # ---- solved once ------------------------------------------------------------------------

    @cached_property
    def amplitude(self) -> float:
        """Standard deviation of the prior, at its most likely."""
        rest = self.responses - self._constant
        return math.sqrt(max(float(rest @ self._solved), 1e-300) / (len(rest) - 1))

    @cached_property
    def _standard(self) -> tuple[Floats, Floats]:
        spread = self.features.std(axis=0)
        return self.features.mean(axis=0), np.where(spread > 0, spread, 1.0)

    def _standardised(self, features: Floats) -> Floats:
        if features.ndim != 2 or features.shape[1] != self.features.shape[1]:
            raise InvalidInputError(
                f"features have the shape (networks, {self.features.shape[1]}), but got "
                f"{features.shape}."
            )
        centre, spread = self._standard
        found: Floats = (features - centre) / spread
        return found

    @cached_property
    def _points(self) -> Floats:
        return self._standardised(self.features)

    @cached_property
    def _inverse(self) -> Floats:
        """R with R R^T the inverse of the measurements' prior covariance."""
        covariance = self.kernel.covariance(self._points, self._points)
        covariance[np.diag_indices_from(covariance)] += self.noise_share * self.weights**2
        try:
            root = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError as error:
            raise InvalidInputError(
                f"the covariance of {len(covariance)} measurements is singular with a noise of "
                f"{self.noise_share:g}: fit again, with more noise where features are equal."
            ) from error
        found: Floats = np.linalg.solve(root, np.eye(len(root))).T
        return found

    @cached_property
    def _constant_variance(self) -> float:
        return 1 / float((self._inverse.sum(axis=0) ** 2).sum())

    @cached_property
    def _constant(self) -> float:
        """The constant of the responses: its generalised least squares estimate."""
        ones = self._inverse.sum(axis=0)
        return float(ones @ (self._inverse.T @ self.responses)) * self._constant_variance

    @cached_property
    def _solved(self) -> Floats:
        found: Floats = self._inverse @ (self._inverse.T @ (self.responses - self._constant))
        return found

    def _explained(self, part: Floats) -> tuple[Floats, Floats]:
        """Covariance with the measurements in independent coordinates, shape (n, k), and how much
        of the constant the measurements leave open, shape (k,)."""
        inside = self._inverse.T @ self.kernel.covariance(self._points, part)
        return inside, 1 - self._inverse.sum(axis=0) @ inside

    # ---- files ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """For JSON; what is solved is solved again when it is read."""
        return {
            "features": self.features.tolist(),
            "responses": self.responses.tolist(),
            "length": self.kernel.length,
            "mixture": self.kernel.mixture,
            "linear": self.kernel.linear,
            "noise_share": self.noise_share,
            "weights": self.weights.tolist(),
            **({} if self.noise_at is None else {"noise_at": self.noise_at}),
        }

    @classmethod
    def from_record(cls, record: Record) -> GaussianProcess:
        """Read what `to_dict` wrote.

        Raises:
            FileFormatError: the record is not that.
            InvalidInputError: see the class.
        """
        rows = record.rows("features")
        return cls(
            np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows and rows[0] else 0),
            np.array(record.numbers("responses"), dtype=np.float64),
            Kernel(*(record.get(name, float) for name in ("length", "mixture", "linear"))),
            record.get("noise_share", float),
            np.array(record.numbers("weights"), dtype=np.float64),
            record.get("noise_at", float) if "noise_at" in record else None,
        )


# ---- fitting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessChoice:
    """What the evidence chose.

    Attributes:
        process: fitted to all networks.
        response: the measurements on the chosen scale.
        evidence: log marginal likelihood of the measurements, with the noise's prior.
    """

    process: GaussianProcess
    response: Response
    evidence: float


def fit_process(
    features: Floats, values: Floats, responses: Sequence[Response]
) -> ProcessChoice | None:
    """The kernel, noise and response with the most evidence; None where no feature varies.

    The kernel is found by going up from one of medium length, a step at a time; from more than 400
    networks by every so many of them.

    Args:
        features: shape (n, d).
        values: shape (n,), as measured.
    """
    if not (np.ptp(features, axis=0) > 0).any():
        return None
    rows = np.arange(len(values))
    if len(rows) > _MOST_CHOOSING:
        rows = np.linspace(0, len(rows) - 1, _MOST_CHOOSING).astype(np.intp)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    points = (features - centre) / np.where(spread > 0, spread, 1.0)
    groups = grouped([_part(response, rows) for response in responses])
    tried: dict[tuple[int, ...], tuple[float, int, Response]] = {}

    def evidence(place: tuple[int, ...]) -> float:
        if place not in tried:
            tried[place] = _best_noise(points[rows], _kernel(place), groups)
        return tried[place][0]

    best = tuple(_START)
    while True:
        around = [
            (*best[:axis], best[axis] + step, *best[axis + 1 :])
            for axis, grid in enumerate((_LENGTHS, _MIXTURES, _LINEAR))
            for step in (-1, 1)
            if 0 <= best[axis] + step < len(grid)
        ]
        found = max(around, key=evidence)
        if evidence(found) <= evidence(best):
            break
        best = found
    reached, noise, part = tried[best]
    response = next(own for own in responses if _same(own, part))
    if len(rows) < len(values):
        reached = _evidence_at(points, _kernel(best), noise, response)
    process = GaussianProcess(
        features,
        response.centre + response.unit * response.values,
        _kernel(best),
        float(NOISES[noise]),
        response.weights,
        float(np.exp(np.log(values).mean())) if response.relative else None,
    )
    return ProcessChoice(process, response, reached)


def _kernel(place: Sequence[int]) -> Kernel:
    return Kernel(_LENGTHS[place[0]], _MIXTURES[place[1]], _LINEAR[place[2]])


def _part(response: Response, rows: npt.NDArray[np.intp]) -> Response:
    """The response of some networks; the Jacobian's share of them only orders scales."""
    if len(rows) == len(response.values):
        return response
    share = len(rows) / len(response.values)
    return replace(
        response,
        values=response.values[rows],
        weights=response.weights[rows],
        jacobian=response.jacobian * share,
    )


def _same(one: Response, part: Response) -> bool:
    return one.scale == part.scale and one.relative == part.relative


def _best_noise(
    points: Floats, kernel: Kernel, groups: Sequence[Sequence[Response]]
) -> tuple[float, int, Response]:
    """The most evidence, and the noise's place in the grid and the response that have it."""
    covariance = kernel.covariance(points, points)
    best: tuple[float, int, Response] | None = None
    for group in groups:
        table = _table(covariance, group)
        noise, place = np.unravel_index(int(table.argmax()), table.shape)
        if best is None or table[noise, place] > best[0]:
            best = (float(table[noise, place]), int(noise), group[int(place)])
    assert best is not None
    return best


def _table(covariance: Floats, group: Sequence[Response]) -> Floats:
    """Evidence of shape (noises, responses)."""
    weights = group[0].weights
    column = constant_column(weights)
    scaled = covariance / np.outer(weights, weights)
    scaled = scaled - np.outer(column, column @ scaled)
    scaled = scaled - np.outer(scaled @ column, column)
    strength, vectors = np.linalg.eigh(scaled)
    values = whitened(np.column_stack([response.values for response in group]), weights)
    kept = strength > NEGLIGIBLE * max(float(strength.max()), 1e-300)
    inside = vectors[:, kept].T @ values
    outside = (values**2).sum(axis=0) - (inside**2).sum(axis=0)
    return evidences(strength[kept], inside, outside, group)


def _evidence_at(points: Floats, kernel: Kernel, noise: int, response: Response) -> float:
    return float(_table(kernel.covariance(points, points), [response])[noise, 0])


# ---- features without a space ------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureRegression:
    """A model of a metric in features, for networks of which only features are known.

    Attributes:
        metric: with the response scale that was chosen.
        process: on that scale.
        evidence: log marginal likelihood of the measurements, with the noise's prior.
        left_out_error: mean absolute error of each network as the others predict it, in the
            metric's unit.
    """

    metric: Metric
    process: GaussianProcess
    evidence: float
    left_out_error: float

    def predict(self, features: npt.ArrayLike) -> Floats:
        """Predicted values of networks with features of shape (k, d): shape (k,)."""
        return self.metric.scale.inverse(self.process.predict(_matrix(features)))

    def interval(self, features: npt.ArrayLike, confidence: float = 0.9) -> tuple[Floats, Floats]:
        """Between which values a measurement lies with the given probability, two of shape (k,).

        Raises:
            InvalidInputError: the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise InvalidInputError(f"a confidence is between 0 and 1, but got {confidence}.")
        matrix, scale = _matrix(features), self.metric.scale
        responses = self.process.predict(matrix)
        noises = self.process.noises(scale.inverse(responses))
        count = -NormalDist().inv_cdf((1 - confidence) / 2)
        width = count * np.sqrt(self.process.deviations(matrix) ** 2 + noises**2)
        return scale.inverse(responses - width), scale.inverse(responses + width)

    def to_dict(self) -> dict[str, object]:
        """What the evidence chose, for JSON and for people."""
        return {
            "scale": str(self.metric.scale),
            "errors": "absolute" if self.process.noise_at is None else "relative",
            "length": self.process.kernel.length,
            "mixture": self.process.kernel.mixture,
            "linear": self.process.kernel.linear,
            "noise": float(f"{self.process.noise:.3g}"),
            "evidence": round(self.evidence, 2),
            "left_out_error": float(f"{self.left_out_error:.4g}"),
        }


def fit_features(
    features: npt.ArrayLike,
    values: npt.ArrayLike,
    metric: Metric,
    *,
    scale: ResponseScale | None = None,
) -> FeatureRegression:
    """Fit a metric to features of networks, where blocks are not known: averages over layers,
    counts, sizes.

    Such features never tell all, so that some networks are far off: the noise has Student's t
    distribution with four degrees of freedom, by weights that are found twice from what the other
    networks predict (Lange, Little and Taylor, 1989).

    Args:
        features: shape (n, d), in any units.
        values: shape (n,), in the metric's unit.
        metric: what was measured. Additive metrics (latency, energy) stay as they are, with errors
            that are absolute or relative to the value, whichever has more evidence; for others the
            evidence chooses the response scale.
        scale: the response scale, instead.

    Raises:
        InvalidInputError: fewer than three networks, shapes that do not fit, numbers that are not
            finite, or features that are the same for all networks.

    Example:
        >>> import numpy as np
        >>> from mathnas import fit_features, metric_named
        >>> depth = np.arange(1.0, 9.0)[:, None]
        >>> model = fit_features(depth, 2 + 3 * depth[:, 0], metric_named("latency_ms"))
        >>> model.predict([[4.5]]).round(1).tolist()
        [15.5]
    """
    matrix, column = _matrix(features), np.asarray(values, dtype=np.float64)
    if column.shape != matrix.shape[:1] or len(column) < _LEAST or not np.isfinite(column).all():
        raise InvalidInputError(
            f"a regression on features needs one finite value for each of at least {_LEAST} "
            f"networks, but got {len(matrix)} networks and values of shape {column.shape}."
        )
    responses, factors = responses_of(column, metric, scale), np.ones(len(column))
    chosen = fit_process(matrix, column, responses)
    for _ in range(_REWEIGHTED):
        if chosen is not None:
            factors = _outlying(chosen.process, chosen.response.weights / factors)
            weighted = [response.weighted(factors) for response in responses]
            chosen = fit_process(matrix, column, weighted)
    if chosen is None:
        raise InvalidInputError(
            "features tell networks apart, but these are the same for all: give others."
        )
    own = chosen.response.scale
    left_out = own.inverse(chosen.process.left_out)
    error = float(np.abs(left_out - column).mean())
    return FeatureRegression(replace(metric, scale=own), chosen.process, chosen.evidence, error)


def _outlying(process: GaussianProcess, weights: Floats) -> Floats:
    """By how much each network's noise is larger than the common one, given how far it is off what
    the others predict; weights are those that are known without that."""
    off = np.abs(process.responses - process.left_out) / weights
    usual = float(np.median(off)) / NormalDist().inv_cdf(0.75)
    if not usual:
        return np.ones(len(off))
    found: Floats = np.sqrt((_FREEDOM + (off / usual) ** 2) / (_FREEDOM + 1))
    return found


def _matrix(features: npt.ArrayLike) -> Floats:
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.shape[1] or not np.isfinite(matrix).all():
        raise InvalidInputError(
            "features are finite numbers of shape (networks, features), but got an array of shape "
            f"{matrix.shape}: write those of one network as [[...]]."
        )
    return matrix
