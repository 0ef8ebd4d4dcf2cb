"""Thermal throttling: a device that its own load heats, and a governor that lowers the clock.

First order: the temperature goes towards the ambient one plus `heating` times the share of time
that something runs, with a time constant. Above `hot` the governor takes the next lower clock,
below `cool` the next higher one, and waits in between: a larger network heats more, and so may be
slower a minute later than a smaller one.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.runtime.traces import Conditions, spread_factors
from mathnas.space import Floats


class ThermalConditions(Conditions):
    """Temperature and clock of one device.

    Args:
        nodes: m.
        ambient: degrees Celsius, where the device starts.
        heating: degrees above the ambient temperature that it tends to while it always runs at the
            full clock; at a share c of it, c cubed of that (dynamic power is about that).
        seconds: the time constant.
        hot, cool: the governor's thresholds.
        clocks: what the governor chooses from, descending from 1.
        wait: seconds between two of its steps.
        sensitivity: of parts to the clock; see `spread_factors`.

    Raises:
        InvalidInputError: a number is outside its range.
    """

    name = "thermal"

    def __init__(
        self,
        nodes: int,
        *,
        ambient: float = 35.0,
        heating: float = 60.0,
        seconds: float = 12.0,
        hot: float = 70.0,
        cool: float = 60.0,
        clocks: Sequence[float] = (1.0, 0.8, 0.65, 0.5),
        wait: float = 3.0,
        sensitivity: npt.ArrayLike | None = None,
    ) -> None:
        given = (ambient, heating, seconds, hot, cool, wait)
        if not all(map(math.isfinite, given)) or heating < 0 or seconds <= 0 or wait < 0:
            raise InvalidInputError(
                "temperatures are finite, heating and wait at least 0 and the time constant "
                f"positive, but got heating={heating}, wait={wait}, seconds={seconds}."
            )
        if not cool < hot:
            raise InvalidInputError(
                f"cool < hot must hold, or the clock never rests, but got cool={cool}, hot={hot}."
            )
        levels = list(clocks)
        descending = all(b < a for a, b in itertools.pairwise(levels))
        if not levels or levels[0] != 1 or not descending or not levels[-1] > 0:
            raise InvalidInputError(
                f"clocks descend from 1 and stay above 0, but got {list(clocks)}."
            )
        self.places = nodes + 2
        self._ambient, self._heating, self._seconds = ambient, heating, seconds
        self._hot, self._cool, self._wait = hot, cool, wait
        self._clocks = levels
        self._factors = spread_factors(1 / np.array(levels), nodes, sensitivity)
        self._rest()

    def _rest(self) -> None:
        """As cold as at the start."""
        self.temperature = self._ambient
        self._time, self._level, self._stepped = 0.0, 0, 0.0
        self._changes: list[float] = []

    @property
    def clock(self) -> float:
        """The present share of the full clock."""
        return self._clocks[self._level]

    def begin(self) -> ThermalConditions:
        fresh = copy.copy(self)
        fresh._rest()
        return fresh

    def factors(self, time: float) -> Floats:
        self._pass(time, 0.0)
        self._govern(time)
        own: Floats = self._factors[self._level]
        return own

    def ran(self, start: float, end: float) -> None:
        self._pass(start, 0.0)
        self._pass(end, self._heating * self.clock**3)

    @property
    def changes(self) -> tuple[float, ...]:
        return tuple(self._changes)

    def _pass(self, time: float, heating: float) -> None:
        """Let time pass up to `time`; what is past already counts once."""
        left = time - self._time
        if left <= 0:
            return
        towards = self._ambient + heating
        share = math.exp(-left / self._seconds)
        self.temperature = towards + (self.temperature - towards) * share
        self._time = time

    def _govern(self, time: float) -> None:
        """One step of the clock where it is due; it falls on the next run's start."""
        step = 0
        if self.temperature > self._hot and self._level + 1 < len(self._clocks):
            step = 1
        elif self.temperature < self._cool and self._level > 0:
            step = -1
        if step and time - self._stepped >= self._wait:
            self._level += step
            self._stepped = time
            self._changes.append(time)
