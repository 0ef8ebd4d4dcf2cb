"""Measuring again what was disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from mathnas.devices.noise import Flag, NoiseRule


class Flagged(Protocol):
    """What was measured, and which rules of noise it breaks.

    Attributes:
        flags: none where it can be trusted.
        disorder: less is better among what has flags.
    """

    @property
    def flags(self) -> Sequence[Flag]: ...

    @property
    def disorder(self) -> float: ...


FoundT = TypeVar("FoundT", bound=Flagged)


def until_quiet(
    count: int, measure: Callable[[Sequence[int]], Sequence[FoundT]], rule: NoiseRule
) -> Iterator[tuple[int, FoundT, int]]:
    """Measure `count` things, and those again that have flags, as often as the rule says.

    Args:
        measure: measures the things with these numbers together.

    Yields:
        The number of a thing, what was found, and in which attempt: as soon as it has no flags;
        at the end the best attempt at each that always had some.
    """
    noisy: dict[int, FoundT] = {}
    left = list(range(count))
    for attempt in range(1, rule.attempts + 1):
        if attempt > 1:
            time.sleep(rule.pause_s)
        for number, found in zip(left, measure(left), strict=True):
            if not found.flags:
                noisy.pop(number, None)
                yield number, found, attempt
            elif number not in noisy or found.disorder < noisy[number].disorder:
                noisy[number] = found
        left = sorted(noisy)
        if not left:
            return
    for number in left:
        yield number, noisy[number], rule.attempts
