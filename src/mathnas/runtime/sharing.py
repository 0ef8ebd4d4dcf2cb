"""Cores that are shared: neighbours take every second or third turn.

What a neighbour on the same core costs is no factor. A run goes on undisturbed until its turn
ends, then waits for those of the others: a run of 10 ms beside one busy process waits two, three or
four times for 3 to 4 ms, by where in its turn it begins. In the mean that is a factor; but runs
differ by whole turns, those of small networks relatively more, and each wait falls into one part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.runtime.traces import Conditions, check_positive
from mathnas.space import Floats


class SharedCore(Conditions):
    """One core, turned over from process to process.

    The turns depend on time and seed alone, so that all policies meet the same ones.

    Args:
        nodes: m.
        seconds: how long the turns are drawn for; there are no neighbours after that.
        neighbours: (time in seconds, busy processes on the same core from then on).
        slice_ms: mean length of a turn.
        spread: of a turn's length, as the standard deviation of its logarithm.
        seed: of the turns.

    Raises:
        InvalidInputError: a number is outside its range.
    """

    name = "shared core"

    def __init__(
        self,
        nodes: int,
        seconds: float,
        neighbours: Sequence[tuple[float, int]],
        *,
        slice_ms: float = 3.5,
        spread: float = 0.2,
        seed: int = 0,
    ) -> None:
        check_positive(seconds=seconds, slice_ms=slice_ms)
        if not (math.isfinite(spread) and spread >= 0):
            raise InvalidInputError(f"a spread is finite and at least 0, but got {spread}.")
        phases = sorted(neighbours)
        if any(not math.isfinite(time) or time < 0 or count < 0 for time, count in phases):
            raise InvalidInputError(
                f"neighbours are counted from 0 on, from a time on, but got {phases}."
            )
        self.places = nodes + 2
        self._starts = tuple(time for time, _ in phases if time > 0)
        self._knots, self._own = _turns(
            [(0.0, 0), *phases, (seconds, 0)], slice_ms / 1e3, spread, seed
        )

    def begin(self) -> SharedCore:
        return self

    def factors(self, time: float) -> Floats:
        """One, of all parts: what neighbours cost depends on how long a run is."""
        return np.ones(self.places)

    def took(self, start: float, quiet_ms: Floats) -> Floats:
        had = np.interp(start, self._knots, self._own) + max(0.0, start - self._knots[-1])
        wanted = had + np.cumsum(quiet_ms) / 1e3
        ends = np.interp(wanted, self._own, self._knots) + np.maximum(0.0, wanted - self._own[-1])
        taken: Floats = 1e3 * np.diff(ends, prepend=start)
        return taken

    def ran(self, start: float, end: float) -> None:
        """Turns do not depend on what runs."""

    @property
    def changes(self) -> tuple[float, ...]:
        return self._starts


def _turns(
    phases: Sequence[tuple[float, int]], length: float, spread: float, seed: int
) -> tuple[Floats, Floats]:
    """The wall clock where turns end, and the core time that was ours up to then, in seconds."""
    rng = np.random.default_rng([seed, 2])
    clock, own = [0.0], [0.0]
    for (_, count), (end, _) in itertools.pairwise(phases):
        while clock[-1] < end:
            if not count:
                own.append(own[-1] + end - clock[-1])
                clock.append(end)
                continue
            turn, *others = length * np.exp(spread * rng.standard_normal(1 + count))
            clock += [clock[-1] + turn, clock[-1] + turn + sum(others)]
            own += [own[-1] + turn] * 2
    return np.array(clock), np.array(own)
