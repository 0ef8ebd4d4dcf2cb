"""When a measurement can be trusted: the one place that says so.

The kernel tells how long a process was ready to run and waited; that share is the surest sign that
a measurement was disturbed, and the others catch what it does not see. Programs on other cores make
nobody wait, but they fill the caches and use the memory that all cores share, which shows in no
counter of this process: that they ran is the only sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mathnas.devices.state import Usage
from mathnas.devices.timing import Timing
from mathnas.errors import InvalidInputError
from mathnas.evaluation import BatchError


class NoiseError(BatchError):
    """A measurement stayed disturbed, however often it was repeated."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A rule that a measurement breaks.

    Attributes:
        rule: the name of the threshold in `NoiseRule`.
        value, limit: what was found, and the most that is allowed.
        meaning: of the value, in words.
    """

    rule: str
    value: float
    limit: float
    meaning: str

    def __str__(self) -> str:
        if self.rule == "throttling":
            return f"{self.rule}: {self.meaning} {self.value:.0f} times"
        return f"{self.rule}: {self.meaning} {self.value:.1%} (at most {self.limit:.0%})"


@dataclass(frozen=True, slots=True)
class NoiseRule:
    """What is too noisy, and how often it is tried again. Shares are between 0 and 1.

    Attributes:
        waiting: of the time, in which threads were ready to run and waited for a core. Where the
            kernel does not tell, the time off the processor of a call on one thread.
        steal: of the cores' time, which other virtual machines took.
        crowding: of the cores that the engine uses, which others used too.
        neighbours: of the cores that the engine does not use, which others used
            (`benchmarks/noise.py` measures what they do).
        spread: of the slices' times, relative to the value.
        drift: of the value from the first half of the rounds to the second.
        reference: of the reference network's time since it was first measured.
        attempts: how often a noisy measurement is made at most.
        pause_s: seconds before each further attempt.

    Any growth of the throttle counters breaks the rule ``throttling``.

    Runs that wait in a share w of the time take 1 / (1 - w) of their undisturbed time on average,
    however long they are, and a low quantile over slices lies below that average: 5 % of waiting or
    steal change a value by at most about 5 %. The other thresholds are for what cannot be bounded
    like this, and lie above what scatters by chance.
    """

    waiting: float = 0.05
    steal: float = 0.05
    crowding: float = 0.25
    neighbours: float = 0.25
    spread: float = 0.15
    drift: float = 0.10
    reference: float = 0.05
    attempts: int = 3
    pause_s: float = 2.0

    def __post_init__(self) -> None:
        shares = (
            *(self.waiting, self.steal, self.crowding, self.neighbours),
            *(self.spread, self.drift, self.reference),
        )
        if not all(share > 0 for share in shares):
            raise InvalidInputError(f"thresholds of noise are positive, but got {self}.")
        if self.attempts < 1 or not 0 <= self.pause_s < math.inf:
            raise InvalidInputError(
                f"a measurement is made at least once, with pauses of at least 0 s, but got {self}."
            )

    def machine_flags(self, usage: Usage, threads: int) -> list[Flag]:
        """What the machine did meanwhile, to everything that was measured then."""
        found = []
        if usage.waited is not None:
            found.append(
                self._flag(
                    "waiting", usage.waited / usage.seconds, "share of time waited for a core"
                )
            )
        if usage.steal is not None:
            found.append(
                self._flag(
                    "steal", usage.steal, "share of the cores taken by other virtual machines"
                )
            )
        if usage.others is not None:
            shared = max(0.0, usage.others + threads - usage.cores) / threads
            found.append(self._flag("crowding", shared, "share of its cores used by others"))
        if usage.neighbours is not None and usage.machine_cores > threads:
            beside = min(1.0, usage.neighbours / (usage.machine_cores - threads))
            found.append(
                self._flag("neighbours", beside, "share of the other cores used by others")
            )
        if usage.throttled:
            heat = "the processor was slowed down"
            found.append(Flag("throttling", usage.throttled, 0.0, heat))
        return broken(found)

    def timing_flags(self, timing: Timing, *, must_be_busy: bool) -> list[Flag]:
        """What is wrong with the times of one call.

        Args:
            must_be_busy: judge the time off the processor, as of one thread of arithmetic.
        """
        found = [
            self._flag("spread", timing.spread / timing.value, "slices differ by"),
            self._flag("drift", abs(timing.drift), "halves of the rounds differ by"),
        ]
        if must_be_busy:
            found.append(self._flag("waiting", timing.idle, "share of time off the processor"))
        return broken(found)

    def reference_flags(self, now: Timing, first_ms: float | None) -> list[Flag]:
        """Whether the machine is still the one that the first measurement was made on."""
        if first_ms is None:
            return []
        change = abs(now.value / first_ms - 1.0)
        return broken([self._flag("reference", change, "the reference network's time changed by")])

    def _flag(self, rule: str, value: float, meaning: str) -> Flag:
        limit: float = getattr(self, rule)
        return Flag(rule, value, limit, meaning)


def broken(flags: Sequence[Flag]) -> list[Flag]:
    """Those whose limits are exceeded."""
    return [flag for flag in flags if flag.value > flag.limit]


def flag_notes(flags: Sequence[object]) -> dict[str, str]:
    """``flags``, for the notes of a measurement; nothing where there are none."""
    return {"flags": "; ".join(map(str, flags))} if flags else {}
