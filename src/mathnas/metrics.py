"""What is measured of a network: name with unit, direction, additivity, response scale.

A metric's *name says its unit*: ``latency_ms``, ``energy_mj``, ``accuracy`` (percent). A qualifier
may follow, as in ``latency_ms_raspi4`` or ``accuracy_test``. `metric_named` reads the rest from
the name; a metric that the vocabulary does not know is declared with `Metric`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

from mathnas.errors import InvalidInputError
from mathnas.scales import IDENTITY as IDENTITY  # used from here as much as from there
from mathnas.scales import Floats as Floats
from mathnas.scales import IdentityScale as IdentityScale
from mathnas.scales import ResponseScale as ResponseScale
from mathnas.scales import scale_from_dict


class Direction(str, Enum):
    """Whether more or less of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured quantity.

    Attributes:
        name: lower case, with the unit inside it (``latency_ms``).
        unit: how values are printed (``ms``); empty for pure counts.
        direction: whether more or less is better.
        additive: whether a network's value is a fixed part plus one term a block (Eq. 5 of the
            paper: latency, energy, MACs, parameters, memory). Accuracy is not.
        scale: the response scale on which block effects are fitted.
    """

    name: str
    unit: str
    direction: Direction
    additive: bool
    scale: ResponseScale = IDENTITY

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InvalidInputError(
                "a metric's name has lower-case letters, digits and underscores and starts with a "
                f"letter, but got {self.name!r}: rename it, for example latency_ms."
            )
        object.__setattr__(self, "direction", Direction(self.direction))

    def check(self, value: float) -> float:
        """Return `value` as a float, or raise `InvalidInputError` when it is not finite."""
        number = float(value)
        if not math.isfinite(number):
            raise InvalidInputError(
                f"a measurement must be finite, but {self.name} = {number}: "
                "find out why the evaluation gave it, then evaluate the network again."
            )
        return number

    def format(self, value: float) -> str:
        """The value with its unit, to four significant digits."""
        text = _compact(value) if self.unit == "" else f"{value:.4g}"
        return f"{text} {self.unit}".rstrip() if self.unit != "%" else f"{value:.2f} %"

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "unit": self.unit,
            "direction": self.direction.value,
            "additive": self.additive,
            "scale": self.scale.to_dict(),
        }

    @classmethod
    def from_dict(cls, record: dict[str, object]) -> Metric:
        """Read what `to_dict` wrote; raises `InvalidInputError` where it is not that."""
        scale = scale_from_dict(record.get("scale"))
        try:
            return cls(
                name=str(record["name"]),
                unit=str(record["unit"]),
                direction=Direction(str(record["direction"])),
                additive=bool(record["additive"]),
                scale=scale,
            )
        except (KeyError, ValueError) as error:
            raise InvalidInputError(
                "a metric record needs name, unit, direction, additive and scale, but got "
                f"{record!r}."
            ) from error


def _compact(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


# Quantity -> (unit in the name -> (unit as printed, its power of ten in the dimension)).
# Limits such as "20ms" are converted inside one dimension.
_DIMENSIONS: dict[str, dict[str, tuple[str, int]]] = {
    "latency": {"ns": ("ns", -9), "us": ("us", -6), "ms": ("ms", -3), "s": ("s", 0)},
    "energy": {"uj": ("uJ", -6), "mj": ("mJ", -3), "j": ("J", 0), "kj": ("kJ", 3)},
    "memory": {"b": ("B", 0), "kb": ("kB", 3), "mb": ("MB", 6), "gb": ("GB", 9)},
    "macs": {"": ("", 0), "k": ("", 3), "m": ("", 6), "g": ("", 9)},
    "params": {"": ("", 0), "k": ("", 3), "m": ("", 6), "g": ("", 9)},
}
_PLAIN: dict[str, tuple[str, Direction]] = {
    "accuracy": ("%", Direction.MAXIMIZE),
    "bleu": ("BLEU", Direction.MAXIMIZE),
    "loss": ("nats", Direction.MINIMIZE),
}


def metric_named(name: str) -> Metric:
    """The metric that `name` describes.

    Raises:
        InvalidInputError: the name does not start with a known quantity and unit.
    """
    quantity, _, rest = name.partition("_")
    unit = rest.partition("_")[0]
    if quantity in _PLAIN:
        printed, direction = _PLAIN[quantity]
        return Metric(name, printed, direction, additive=False)
    if quantity in ("macs", "params"):
        return Metric(name, "", Direction.MINIMIZE, additive=True)
    if unit in _DIMENSIONS.get(quantity, {}):
        return Metric(name, _DIMENSIONS[quantity][unit][0], Direction.MINIMIZE, additive=True)
    raise InvalidInputError(
        "a metric's name starts with its quantity and unit (accuracy, loss, bleu, macs, params, "
        f"latency_ms, energy_mj, memory_mb, ...), but got {name!r}: rename it, or declare it with "
        "Metric(name, unit, direction, additive)."
    )


def convert(value: float, suffix: str, metric: Metric) -> float:
    """`value` given in the unit `suffix` ("ms", "M", "%"), in the metric's own unit.

    Raises:
        InvalidInputError: the unit does not belong to the metric's dimension.
    """
    if suffix == "":
        return value
    quantity, _, rest = metric.name.partition("_")
    units = _DIMENSIONS.get(quantity, {})
    own = rest.partition("_")[0] if rest.partition("_")[0] in units else ""
    if suffix.lower() in units and own in units:
        # whole powers of ten are exact, their reciprocals are not: 1500 us becomes 1.5 ms exactly
        power = units[suffix.lower()][1] - units[own][1]
        return value * 10.0**power if power >= 0 else value / 10.0**-power
    if suffix.lower() == metric.unit.lower():
        return value
    known = ", ".join(unit for unit in units if unit) or metric.unit or "no unit"
    raise InvalidInputError(
        f"a limit on {metric.name} takes {known}, but got the unit {suffix!r}: "
        f"write the number in one of these."
    )
