"""Limits on metrics: ``20``, ``"20ms"``, ``"<=20ms"``, ``">=70"``, ``"-30%"``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction, Metric, convert
from mathnas.table import BlockTable

Sense: TypeAlias = Literal["<=", ">="]
LimitValue: TypeAlias = "float | int | str | Sequence[float | int | str]"
Limits: TypeAlias = "Mapping[str, LimitValue] | Sequence[str | Limit] | None"

_NUMBER = re.compile(
    r"\s*(?P<sense><=|>=|=)?\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"\s*(?P<unit>%|[A-Za-z]*)\s*"
)


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a predicted metric.

    Attributes:
        metric: what is bounded.
        sense: ``<=`` or ``>=``.
        value: in the metric's unit.
    """

    metric: Metric
    sense: Sense
    value: float

    def holds(self, value: float) -> bool:
        """Whether a predicted value meets the limit, exactly as given."""
        return value <= self.value if self.sense == "<=" else value >= self.value

    def slack(self, value: float) -> float:
        """How far a value is inside the limit, in the metric's unit; negative outside."""
        return self.value - value if self.sense == "<=" else value - self.value

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"metric": self.metric.name, "sense": self.sense, "value": self.value}

    def __str__(self) -> str:
        return f"{self.metric.name} {self.sense} {self.metric.format(self.value)}"


def read_limits(limits: Limits, table: BlockTable) -> tuple[Limit, ...]:
    """The limits that a caller wrote, checked against the table.

    A bare number or text without a sense bounds a metric on its bad side: at most for latency, at
    least for accuracy. A sign makes a percentage relative to the reference network's value:
    ``"-30%"`` is 0.7 times it. Otherwise ``%`` is the unit of accuracies.

    Args:
        limits: ``{"latency_ms": 20, "accuracy": ">=70"}`` (a list gives several limits on one
            metric), or texts such as ``"latency_ms<=20ms"`` or ``"latency_ms=-30%"``.

    Raises:
        InvalidInputError: a limit cannot be read, names a metric that the table lacks, has a unit
            of another dimension, or contradicts another one.
    """
    found = [
        item if isinstance(item, Limit) else _read(name, item, table)
        for name, item in _pairs(limits)
    ]
    for limit in found:
        table.column(limit.metric.name)
    _check_contradictions(found)
    return tuple(dict.fromkeys(found))


def _pairs(limits: Limits) -> Iterator[tuple[str, float | int | str | Limit]]:
    if limits is None:
        return
    if isinstance(limits, str):
        raise InvalidInputError(
            f"limits are a mapping or a list, but got the text {limits!r}: put it in a list."
        )
    if isinstance(limits, Mapping):
        for name, value in limits.items():
            if isinstance(value, Iterable) and not isinstance(value, str):
                yield from ((name, item) for item in value)
            else:
                yield name, value
        return
    for item in limits:
        if isinstance(item, Limit):
            yield item.metric.name, item
            continue
        match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*((?:<=|>=|=).*)", str(item))
        if match is None:
            raise InvalidInputError(
                "a limit is written as METRIC<=VALUE, METRIC>=VALUE or METRIC=VALUE, "
                f"for example latency_ms<=20ms, but got {item!r}."
            )
        yield match[1], match[2]


def _read(name: str, given: float | int | str, table: BlockTable) -> Limit:
    column = table.column(name)
    metric = column.metric
    natural: Sense = "<=" if metric.direction is Direction.MINIMIZE else ">="
    if isinstance(given, Real) and not isinstance(given, bool):  # numpy's numbers too
        return Limit(metric, natural, _finite(float(given), name, given))
    match = _NUMBER.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise InvalidInputError(
            f"a limit on {name} is a number with or without a unit, or a change such as -30%, but "
            f"got {given!r}."
        )
    number, unit = match["number"], match["unit"]
    sense: Sense = natural if match["sense"] in (None, "=") else match["sense"]  # type: ignore[assignment]
    value = _finite(float(number), name, given)
    if unit == "%" and number[0] in "+-":
        reference = table.exact(table.reference, name)
        return Limit(metric, sense, reference * (1 + value / 100))
    if unit == "%" and metric.unit != "%":
        raise InvalidInputError(
            f"a percentage of {name} is a change from the reference network and has a sign, but "
            f"got {given!r}: write -{number}% or +{number}%."
        )
    return Limit(metric, sense, _finite(convert(value, unit, metric), name, given))


def _finite(value: float, name: str, given: object) -> float:
    if not math.isfinite(value):
        raise InvalidInputError(f"a limit on {name} must be finite, but got {given!r}.")
    return value


def _check_contradictions(limits: Sequence[Limit]) -> None:
    for low in limits:
        for high in limits:
            same = low.metric.name == high.metric.name
            if same and low.sense == ">=" and high.sense == "<=" and low.value > high.value:
                raise InvalidInputError(f"the limits {low} and {high} contradict each other.")
