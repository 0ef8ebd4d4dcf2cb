"""Power that somebody states: not measured, and never shown as if it were."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mathnas.errors import InvalidInputError

_TEXT = re.compile(r"(?P<number>[^a-zA-Z:]+)(?P<unit>m?W)(?::(?P<source>.+))?")


@dataclass(frozen=True, slots=True)
class StatedPower:
    """A constant power, from a datasheet or a guess; times a latency it is an estimate of energy.

    Attributes:
        watts: while a network runs.
        source: where the number comes from.
    """

    watts: float
    source: str = "typed in by the user"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.watts) and self.watts > 0):
            raise InvalidInputError(f"a stated power is positive watts, but got {self.watts}.")
        if not self.source.strip():
            raise InvalidInputError("a stated power says where it comes from, but got no source.")

    @property
    def label(self) -> str:
        """What stands in the conditions of every value that is made of it."""
        return f"stated power {self.watts:g} W x latency"

    @classmethod
    def parse(cls, text: str) -> StatedPower:
        """Read ``5W``, ``800mW`` or ``5W:datasheet``.

        Raises:
            InvalidInputError: it is none.
        """
        match = _TEXT.fullmatch(text.strip())
        try:
            number = float(match["number"]) if match else math.nan
        except ValueError:
            match = None
        if match is None:
            raise InvalidInputError(
                f"a stated power is written 5W, 800mW or 5W:SOURCE, but got {text!r}."
            )
        watts = number / 1000 if match["unit"] == "mW" else number
        return cls(watts, match["source"]) if match["source"] else cls(watts)
