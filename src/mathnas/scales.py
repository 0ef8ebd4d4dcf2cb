"""Response scales: increasing maps g such that block effects add up in g(value).

Accuracies crowd below a ceiling and losses above a floor: there a block that helps adds less the
better the network is already, and effects add up in, say, ``(105 - y)^-2`` rather than in y.

Every scale maps the whole real line onto the whole real line, strictly increasing, so that fits,
limits and predictions never leave its domain. A formula holds on an interval ``[low, high]`` around
the data; outside, its tangents continue it (values and slopes agree at the joints). What lies far
from the data, at 100 %, or beyond a pole of the formula keeps its order and is finite.

Curved scales are normalised to ``forward(low) = 0`` and ``forward(high) = 1`` to within rounding:
g is the formula less its value at `low`, over its rise from `low` to `high`. Such a shift and unit
change nothing for additive models, and keep responses around 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError

Floats: TypeAlias = npt.NDArray[np.float64]
ScaleRecord: TypeAlias = "str | dict[str, object]"
Crowds: TypeAlias = Literal["above", "below", "both"]

EXPONENTS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""The exponents q of the power scales that `scales_for` proposes."""
_DISTANCES = (0.05, 0.15, 0.4, 1.0, 3.0)  # of a limit from the data, in ranges of the data
_WIDTHS = (0.1, 0.2, 0.5, 1.0)  # of exponentials, in ranges of the data
_EXTENSION = 0.05  # of the interval beyond the data: in ranges, and on the way to a limit
_LEAST_FACTOR = 1.2  # between the smallest and largest value, for the logarithm to differ from y
_PERCENT = 100.0
_LEAST_PERCENT = 20.0  # below that, values less than 100 need not be percentages
# Slopes that differ more than this leave too few digits at the flat end to undo the map, and
# slopes beyond these sizes overflow for values and responses up to 1e12.
_MOST_CURVED = 1e12
_LEAST_SLOPE, _MOST_SLOPE = 1e-200, 1e200


class ResponseScale(Protocol):
    """An increasing map g: block effects add up in g(value), not necessarily in the value."""

    @property
    def name(self) -> str:
        """The kind of scale, as files call it."""

    def forward(self, values: Floats) -> Floats:
        """g of values in the metric's unit, in their shape."""

    def inverse(self, responses: Floats) -> Floats:
        """The values, in the metric's unit, whose g these are."""

    def derivative(self, values: Floats) -> Floats:
        """The slope g' > 0 at values, per the metric's unit."""

    def to_dict(self) -> ScaleRecord:
        """For JSON; `scale_from_dict` reads it."""


@dataclass(frozen=True, slots=True)
class IdentityScale:
    """Effects add up in the value itself (the paper's assumption)."""

    name: ClassVar[str] = "identity"

    def forward(self, values: Floats) -> Floats:
        return values

    def inverse(self, responses: Floats) -> Floats:
        return responses

    def derivative(self, values: Floats) -> Floats:
        return np.ones(np.shape(values))

    def to_dict(self) -> str:
        """A plain text, as files had it before there were other scales."""
        return self.name

    def __str__(self) -> str:
        return "y"


IDENTITY = IdentityScale()


class _CurvedScale(ABC):
    """A formula on an interval, continued by its tangents.

    Formulas are written as their rise over the way from the interval's flat end (for monotone
    slopes): that keeps the digits there, which differences of large numbers would lose.
    """

    __slots__ = ()
    name: ClassVar[str]
    low: float
    high: float

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            read = _flag if each.name == "above" else _number
            object.__setattr__(self, each.name, read(f"{self.name}.{each.name}", value))
        if not self.low < self.high:
            raise InvalidInputError(
                f"the interval of a {self.name} scale has low < high, but got low={self.low:g}, "
                f"high={self.high:g}: give the range of the values."
            )
        self._check_formula()
        self._check_slopes()

    @property
    def _mirrored(self) -> bool:
        """Whether the flat end is the upper one, from which the way goes down."""
        return False

    @abstractmethod
    def _check_formula(self) -> None:
        """Raise `InvalidInputError` where a parameter does not go with the interval."""

    @abstractmethod
    def _rise(self, way: Floats) -> Floats:
        """The rise of the formula on the way from the flat end, 0 to ``high - low``."""

    @abstractmethod
    def _way(self, rise: Floats) -> Floats:
        """The inverse of `_rise`."""

    @abstractmethod
    def _slope(self, way: Floats) -> Floats:
        """The derivative of `_rise`."""

    def _ends(self) -> tuple[float, float, float]:
        """The rise over the interval, and the normalised slopes at its flat and its far end."""
        ends = np.array([0.0, self.high - self.low])
        rise = float(self._rise(ends)[1])
        slopes = self._slope(ends)
        return rise, float(slopes[0]) / rise, float(slopes[1]) / rise

    def _check_slopes(self) -> None:
        width = np.array([self.high - self.low])
        with np.errstate(all="ignore"):
            total = self._rise(width)
            usable = bool(np.isfinite(width + total).all() and (total > 0).all())
            if usable:
                usable = bool((abs(self._way(total) - width) <= 1e-6 * width).all())
            if usable:
                least, most = sorted(self._ends()[1:])
                usable = _LEAST_SLOPE < least <= most < min(_MOST_SLOPE, _MOST_CURVED * least)
        if not usable:
            raise InvalidInputError(
                f"the slopes of a scale are finite and differ by a factor of less than "
                f"{_MOST_CURVED:g}, but those of {self} do not from {self.low:g} to "
                f"{self.high:g}: narrow the interval, or take a scale that is less curved."
            )

    def forward(self, values: Floats) -> Floats:
        """g of values in the metric's unit, in their shape."""
        values = np.asarray(values, dtype=np.float64)
        rise, near, far = self._ends()
        way = self.high - values if self._mirrored else values - self.low
        width = self.high - self.low
        result = np.minimum(self._rise(np.clip(way, 0.0, width)) / rise, 1.0)
        result = result + near * np.minimum(way, 0.0) + far * np.maximum(way - width, 0.0)
        return np.asarray(1.0 - result if self._mirrored else result)

    def inverse(self, responses: Floats) -> Floats:
        """The values, in the metric's unit, whose g these are."""
        responses = np.asarray(responses, dtype=np.float64)
        rise, near, far = self._ends()
        share = 1.0 - responses if self._mirrored else responses
        way = np.minimum(self._way(np.clip(share, 0.0, 1.0) * rise), self.high - self.low)
        way = way + np.minimum(share, 0.0) / near + np.maximum(share - 1.0, 0.0) / far
        return np.asarray(self.high - way if self._mirrored else self.low + way)

    def derivative(self, values: Floats) -> Floats:
        """The slope g' > 0 at values, per the metric's unit; constant outside the interval."""
        values = np.asarray(values, dtype=np.float64)
        way = self.high - values if self._mirrored else values - self.low
        return self._slope(np.clip(way, 0.0, self.high - self.low)) / self._ends()[0]

    def to_dict(self) -> dict[str, object]:
        """For JSON; `scale_from_dict` reads it."""
        return {"kind": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class LogScale(_CurvedScale):
    """``log(y)``: blocks multiply a positive metric.

    Attributes:
        low, high: where the formula holds, in the metric's unit; ``0 < low < high``.

    Raises:
        InvalidInputError: the interval is not one of positive numbers.
    """

    low: float
    high: float
    name: ClassVar[str] = "log"

    def _check_formula(self) -> None:
        if not self.low > 0:
            raise InvalidInputError(
                f"a log scale is for positive values, but its interval starts at {self.low:g}: "
                "take low > 0, or another scale."
            )

    def _rise(self, way: Floats) -> Floats:
        return np.log1p(way / self.low)

    def _way(self, rise: Floats) -> Floats:
        return self.low * np.expm1(rise)

    def _slope(self, way: Floats) -> Floats:
        return 1.0 / (self.low + way)

    def __str__(self) -> str:
        return "log y"


@dataclass(frozen=True, slots=True)
class LogitScale(_CurvedScale):
    """``log((y - floor) / (ceiling - y))``: values crowd at both bounds.

    Attributes:
        floor, ceiling: the bounds of the formula, in the metric's unit.
        low, high: where the formula holds; ``floor < low < high < ceiling``.

    Raises:
        InvalidInputError: the interval does not lie between the bounds.
    """

    floor: float
    ceiling: float
    low: float
    high: float
    name: ClassVar[str] = "logit"

    def _check_formula(self) -> None:
        if not self.floor < self.low < self.high < self.ceiling:
            raise InvalidInputError(
                "a logit scale has floor < low < high < ceiling, but got "
                f"{self.floor:g}, {self.low:g}, {self.high:g}, {self.ceiling:g}: "
                "widen the bounds, or narrow the interval."
            )

    def _rise(self, way: Floats) -> Floats:
        return np.log1p(way / (self.low - self.floor)) - np.log1p(-way / (self.ceiling - self.low))

    def _way(self, rise: Floats) -> Floats:
        below, above = self.low - self.floor, self.ceiling - self.low
        return above * (below * np.expm1(rise)) / (above + below * np.exp(rise))

    def _slope(self, way: Floats) -> Floats:
        return 1.0 / (self.low - self.floor + way) + 1.0 / (self.ceiling - self.low - way)

    def __str__(self) -> str:
        return f"log({_less(self.floor)} / ({self.ceiling:.5g} - y))"


@dataclass(frozen=True, slots=True)
class PowerScale(_CurvedScale):
    """``(limit - y)^-exponent``: values crowd below a ceiling, as accuracies do; or its mirror
    image ``-(y - limit)^-exponent``, for values that crowd above a floor, as losses do.

    Attributes:
        limit: the ceiling or floor that the formula does not reach, in the metric's unit.
        exponent: q, 0.5 to 6.
        low, high: where the formula holds; both on one side of `limit`.
        above: whether values lie above `limit`.

    Raises:
        InvalidInputError: the exponent is out of range, or the interval reaches `limit`.
    """

    limit: float
    exponent: float
    low: float
    high: float
    above: bool = False
    name: ClassVar[str] = "power"

    @property
    def _mirrored(self) -> bool:
        return self.above

    @property
    def _room(self) -> float:
        """From the flat end to the limit."""
        return self.high - self.limit if self.above else self.limit - self.low

    def _check_formula(self) -> None:
        if not 0.5 <= self.exponent <= 6:
            raise InvalidInputError(
                f"the exponent of a power scale lies in [0.5, 6], but got {self.exponent:g}: "
                "take a log scale below that, an exponential one above."
            )
        if not (self.limit < self.low if self.above else self.limit > self.high):
            side = "below" if self.above else "above"
            raise InvalidInputError(
                f"the limit of a power scale lies {side} its interval from {self.low:g} to "
                f"{self.high:g}, but got {self.limit:g}: move it {side} them, or narrow the "
                "interval."
            )

    def _rise(self, way: Floats) -> Floats:
        return np.expm1(-self.exponent * np.log1p(-way / self._room))

    def _way(self, rise: Floats) -> Floats:
        return -self._room * np.expm1(-np.log1p(rise) / self.exponent)

    def _slope(self, way: Floats) -> Floats:
        room = self._room
        return self.exponent / room * np.exp(-(self.exponent + 1) * np.log1p(-way / room))

    def __str__(self) -> str:
        if self.above:
            return f"-{_less(self.limit)}^-{self.exponent:g}"
        return f"({self.limit:.5g} - y)^-{self.exponent:g}"


@dataclass(frozen=True, slots=True)
class ExponentialScale(_CurvedScale):
    """``exp(y / width)``, to which power scales tend as limit and exponent grow; or its mirror
    image ``-exp(-y / width)``, for values that crowd above a floor.

    Attributes:
        width: over which slopes change by a factor of e, in the metric's unit.
        low, high: where the formula holds.
        above: whether it is the mirror image.

    Raises:
        InvalidInputError: the width is not positive, or the interval is too wide for it.
    """

    width: float
    low: float
    high: float
    above: bool = False
    name: ClassVar[str] = "exponential"

    @property
    def _mirrored(self) -> bool:
        return self.above

    def _check_formula(self) -> None:
        if not self.width > 0:
            raise InvalidInputError(
                f"the width of an exponential scale is positive, but got {self.width:g}: "
                "for the mirror image say above=True."
            )

    def _rise(self, way: Floats) -> Floats:
        return np.expm1(way / self.width)

    def _way(self, rise: Floats) -> Floats:
        return self.width * np.log1p(rise)

    def _slope(self, way: Floats) -> Floats:
        return np.exp(way / self.width) / self.width

    def __str__(self) -> str:
        return f"-exp(-y / {self.width:.5g})" if self.above else f"exp(y / {self.width:.5g})"


_KINDS: dict[str, Callable[..., _CurvedScale]] = {
    kind.name: kind for kind in (LogScale, LogitScale, PowerScale, ExponentialScale)
}


def scale_from_dict(record: object) -> ResponseScale:
    """The scale that `ResponseScale.to_dict` wrote.

    Raises:
        InvalidInputError: the kind is unknown, a field is missing, unknown or not a number, or the
            fields do not make a scale.
    """
    values = dict(record) if isinstance(record, dict) else {"kind": record}
    kind = values.pop("kind", None)
    if kind == IDENTITY.name:
        _check_fields(kind, values, required=(), known=())
        return IDENTITY
    if not isinstance(kind, str) or kind not in _KINDS or not isinstance(record, dict):
        raise InvalidInputError(
            f"a response scale is {IDENTITY.name!r} or an object whose kind is one of "
            f"{', '.join(_KINDS)}, but got {record!r}: upgrade mathnas, or fit the table again."
        )
    known = [each.name for each in fields(_KINDS[kind])]  # type: ignore[arg-type]
    required = [name for name in known if name != "above"]
    _check_fields(kind, values, tuple(required), tuple(known))
    return _KINDS[kind](**values)


def _check_fields(
    kind: str, values: dict[str, object], required: tuple[str, ...], known: tuple[str, ...]
) -> None:
    wrong = [name for name in required if name not in values]
    wrong += [name for name in values if name not in known]
    if wrong:
        raise InvalidInputError(
            f"the record of a {kind} scale has the fields {', '.join(known) or 'kind alone'}, but "
            f"{wrong[0]!r} is {'missing' if wrong[0] in known else 'unknown'}: write it as to_dict "
            "does."
        )


def scales_for(values: npt.ArrayLike, *, crowds: Crowds = "below") -> tuple[ResponseScale, ...]:
    """The scales that a fit chooses among, from the data alone; the identity comes first.

    Args:
        values: shape (k,), measured values in the metric's unit.
        crowds: where good values crowd: ``below`` a ceiling (accuracies), ``above`` a floor
            (losses), or ``both`` for candidates of either kind. Power and exponential scales depend
            on it; the identity, logarithm and logit do not.

    Returns:
        No scale twice; the identity alone where values are (nearly) all the same.

    Raises:
        InvalidInputError: there are no values, one is not finite, or `crowds` is unknown.
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    if not len(data) or not np.isfinite(data).all():
        raise InvalidInputError(
            "response scales are chosen for one or more finite values, but got "
            f"{len(data)}, {int((~np.isfinite(data)).sum())} of them not finite: leave those out."
        )
    if crowds not in ("above", "below", "both"):
        raise InvalidInputError(f"values crowd 'above', 'below' or 'both', but got {crowds!r}.")
    least, most = float(data.min()), float(data.max())
    spread = most - least
    if not spread > 1e-9 * max(abs(least), abs(most)) or not math.isfinite(spread):
        return (IDENTITY,)
    found: list[ResponseScale] = [IDENTITY, *_symmetric(least, most)]
    if crowds != "above":
        found += _below(least, most)
    if crowds != "below":
        found += _above(least, most)
    return tuple(dict.fromkeys(found))


def _symmetric(least: float, most: float) -> Iterator[ResponseScale]:
    if least > 0 and most > _LEAST_FACTOR * least:
        yield from _possible(LogScale, *_interval(least, most, floor=0.0))
    margin = _DISTANCES[1] * (most - least)
    bounds = [(least - margin, most + margin)]
    if least > 0 and most < _PERCENT:
        bounds.append((0.0, _PERCENT))
    for floor, ceiling in bounds:
        yield from _possible(LogitScale, floor, ceiling, *_interval(least, most, floor, ceiling))


def _below(least: float, most: float) -> Iterator[ResponseScale]:
    limits = [most + distance * (most - least) for distance in _DISTANCES]
    if _LEAST_PERCENT < most < _PERCENT:
        limits.append(_PERCENT)
    for limit in limits:
        for exponent in EXPONENTS:
            interval = _interval(least, most, ceiling=limit)
            yield from _possible(PowerScale, limit, exponent, *interval)
    for width in _WIDTHS:
        yield from _possible(ExponentialScale, width * (most - least), *_interval(least, most))


def _above(least: float, most: float) -> Iterator[ResponseScale]:
    limits = [least - distance * (most - least) for distance in _DISTANCES]
    if least > 0:
        limits.append(0.0)  # the natural floor of losses and error rates
    for limit in limits:
        for exponent in EXPONENTS:
            interval = _interval(least, most, floor=limit)
            yield from _possible(PowerScale, limit, exponent, *interval, True)
    for width in _WIDTHS:
        interval = _interval(least, most)
        yield from _possible(ExponentialScale, width * (most - least), *interval, True)


def _interval(
    least: float, most: float, floor: float = -math.inf, ceiling: float = math.inf
) -> tuple[float, float]:
    """The data's range and some more, on the way to a limit but not to it."""
    spread = most - least
    return (
        least - _EXTENSION * min(spread, least - floor),
        most + _EXTENSION * min(spread, ceiling - most),
    )


def _possible(
    kind: Callable[..., _CurvedScale], *arguments: float | bool
) -> Iterator[ResponseScale]:
    """The scale, or nothing where floats do not serve for it (values of 1e-300, say)."""
    try:
        scale = kind(*arguments)
    except InvalidInputError:
        return
    yield scale


def _number(what: str, value: object) -> float:
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise InvalidInputError(
            f"{what} of a response scale is a finite number, but got {value!r}: give one."
        )
    return number


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(f"{what} of a response scale is true or false, but got {value!r}.")
    return bool(value)


def _less(limit: float) -> str:
    """``y - limit`` as one writes it."""
    if limit == 0:
        return "y"
    return f"(y - {limit:.5g})" if limit > 0 else f"(y + {-limit:.5g})"
