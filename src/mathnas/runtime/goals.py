"""What a dynamic network is to keep: a deadline, a floor of quality, a budget of energy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError


@dataclass(frozen=True, slots=True)
class EnergyBudget:
    """Energy that is to last for some time.

    What a run may take is what is left, divided by the runs that are to come: the seconds left over
    the mean time from one run to the next.

    Attributes:
        joules: at the start.
        seconds: that they are to last for, from the first observation on.
        metric: of the table, what a run takes, in mJ.

    Raises:
        InvalidInputError: a number is not positive and finite.
    """

    joules: float
    seconds: float
    metric: str = "energy_mj"

    def __post_init__(self) -> None:
        _positive("joules of a budget", self.joules)
        _positive("seconds of a budget", self.seconds)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the network that serves is to meet; the best quality within it is wanted.

    Attributes:
        deadline_ms: latency of a run; None where only energy counts.
        low_ms: with the deadline a band: better networks are looked for below it only. None looks
            for them always.
        miss_rate: share of runs that may be above the deadline.
        floor: least predicted quality, whatever the latency; in the quality's unit.
        hysteresis: gain of predicted quality that a switch to a better network has to bring.
        room: share of the deadline that a better network has to leave free, so that it is not left
            again at once.
        dwell_s: seconds after a switch in which no better network is looked for; a faster one is,
            always.
        period_s: seconds between two searches for a better network.
        max_changed: nodes that one switch may change; None for all.
        energy: a budget to keep as well, or alone.

    Raises:
        InvalidInputError: nothing is limited, or a number is out of its range.

    Example:
        >>> Goal(deadline_ms=20, miss_rate=0.02).deadline_ms
        20.0
    """

    deadline_ms: float | None = None
    low_ms: float | None = None
    miss_rate: float = 0.02
    floor: float | None = None
    hysteresis: float = 0.0
    room: float = 0.01
    dwell_s: float = 0.2
    period_s: float = 0.1
    max_changed: int | None = None
    energy: EnergyBudget | None = None

    def __post_init__(self) -> None:
        if self.deadline_ms is None and self.energy is None:
            raise InvalidInputError(
                "a goal has a deadline or an energy budget, but got neither: give deadline_ms."
            )
        if self.deadline_ms is not None:
            object.__setattr__(self, "deadline_ms", float(self.deadline_ms))
            _positive("deadline_ms", self.deadline_ms)
        if self.low_ms is not None:
            _positive("low_ms", self.low_ms)
            if self.deadline_ms is None or self.low_ms >= self.deadline_ms:
                raise InvalidInputError(
                    "a band has low_ms < deadline_ms, but got "
                    f"low_ms={self.low_ms:g}, deadline_ms={self.deadline_ms}."
                )
        if not 0 < self.miss_rate < 1:
            raise InvalidInputError(f"miss_rate is above 0 and below 1, but got {self.miss_rate}.")
        if not 0 <= self.room < 1:
            raise InvalidInputError(f"room is at least 0 and below 1, but got {self.room}.")
        for name in ("hysteresis", "dwell_s", "period_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(f"{name} is finite and at least 0, but got {value}.")
        if self.floor is not None and not math.isfinite(self.floor):
            raise InvalidInputError(f"a floor is finite, but got {self.floor}.")
        count = self.max_changed
        if count is not None and (isinstance(count, bool) or count != int(count) or count < 1):
            raise InvalidInputError(
                f"max_changed is a whole number from 1 on, but got {count}: None allows all nodes."
            )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        own: dict[str, object] = asdict(self)
        if self.energy is None:
            del own["energy"]
        return own

    @classmethod
    def from_record(cls, record: Record) -> Goal:
        """Read what `to_dict` wrote.

        Raises:
            FileFormatError: it is not that.
        """
        record.only(*cls.__slots__)
        budget = None
        try:
            if "energy" in record:
                own = record.record("energy")
                own.only(*EnergyBudget.__slots__)
                budget = EnergyBudget(
                    own.get("joules", float), own.get("seconds", float), own.get("metric", str)
                )
            return cls(
                record.number("deadline_ms"),
                record.number("low_ms"),
                record.get("miss_rate", float),
                record.number("floor"),
                record.get("hysteresis", float),
                record.get("room", float),
                record.get("dwell_s", float),
                record.get("period_s", float),
                record.get("max_changed", int) if "max_changed" in record else None,
                budget,
            )
        except InvalidInputError as error:
            raise FileFormatError(f"{record.where}: {error}") from error

    def __str__(self) -> str:
        parts = []
        if self.deadline_ms is not None:
            least = f"{self.low_ms:g} to " if self.low_ms is not None else ""
            parts.append(f"{least}{self.deadline_ms:g} ms, {100 * self.miss_rate:g} % misses")
        if self.energy is not None:
            parts.append(f"{self.energy.joules:g} J in {self.energy.seconds:g} s")
        if self.floor is not None:
            parts.append(f"quality {self.floor:g} or more")
        if self.max_changed is not None:
            parts.append(f"{self.max_changed} nodes a switch")
        return ", ".join(parts)


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInputError(f"{name} is positive and finite, but got {value}.")
