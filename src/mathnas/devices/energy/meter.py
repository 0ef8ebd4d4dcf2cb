"""What an energy meter is.

The life of a meter: it is made where its sensor is (making it reads the sensor once, so that what
is absent or forbidden is known at once), an `EnergyLog` reads it again and again, and differences
of the log become joules. A meter keeps no totals and subtracts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mathnas.errors import MeterError


class MeterKind(str, Enum):
    """What a reading is: joules since some time, or watts now."""

    COUNTER = "counter"
    POWER = "sampled power"


@dataclass(frozen=True, slots=True)
class Channel:
    """One of the sensors that a meter sums.

    Attributes:
        name: of the sensor, rail or zone.
        wraps_j: where a counter starts again from zero, in joules; None where it does not.
    """

    name: str
    wraps_j: float | None = None


class Meter(Protocol):
    """A sensor of energy or power.

    Attributes:
        name: what `meter_named` takes, for example ``rapl`` or ``hwmon:ina226:power1``.
        kind: counter or sampled power.
        covers: what draws the energy, in words (processor package, board rail, whole device).
        channels: the sensors whose sum it is; they must not overlap.
        interval_s: how often the sensor has something new.
        resolution: the smallest step, in joules (counter) or watts (power).
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> MeterKind: ...

    @property
    def covers(self) -> str: ...

    @property
    def channels(self) -> Sequence[Channel]: ...

    @property
    def interval_s(self) -> float: ...

    @property
    def resolution(self) -> float: ...

    def read(self) -> Sequence[float]:
        """One value a channel: joules of a counter, watts otherwise.

        Raises:
            MeterAbsentError: the sensor is not there any more.
            MeterPermissionError: it may not be read any more.
            MeterError: it says what cannot be, or the meter does not apply now.
        """
        ...


def joules_between(
    meter: Meter, before: Sequence[float], after: Sequence[float], seconds: float
) -> float:
    """Joules between two readings of a counter that started again at most once between them.

    Raises:
        MeterError: a counter went backwards that never starts again, or it started again where
            nothing can have used that much (it was reset, as by a sleep of the machine).
    """
    total = 0.0
    for channel, first, last in zip(meter.channels, before, after, strict=True):
        change = last - first
        if change < 0:
            if channel.wraps_j is None:
                raise MeterError(
                    f"{meter.name}: an energy counter only rises, but {channel.name} went from "
                    f"{first:.6g} to {last:.6g} J: it was reset. Measure again."
                )
            change += channel.wraps_j
        # a counter that is read between two of its updates may hold an interval more
        if change > MOST_WATTS * (seconds + meter.interval_s):
            raise MeterError(
                f"{meter.name}: {channel.name} went from {first:.6g} to {last:.6g} J within "
                f"{seconds:.3g} s, and no machine draws {change / (seconds + meter.interval_s):.3g}"
                " W: the counter was reset. Measure again."
            )
        total += change
    return total


# of one channel: more is a counter that was reset, and counters are polled so often that at this
# power none starts again twice
MOST_WATTS = 5000.0
