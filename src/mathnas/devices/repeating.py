"""Measuring again what was disturbed, and refusing what stays so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from mathnas.devices.noise import Flag, NoiseError, NoiseRule
from mathnas.space import Network, network_text


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


def measured_quietly(
    networks: Sequence[Network],
    measure: Callable[[Sequence[int]], Sequence[FoundT]],
    rule: NoiseRule,
    *,
    metric: str,
    accept_noise: bool,
) -> Iterator[tuple[int, FoundT, int]]:
    """As `until_quiet`, for networks; what stays noisy is refused, unless noise is accepted.

    Args:
        metric: what is measured, in a word that ``--evaluator`` knows: ``latency``, ``energy``.

    Raises:
        NoiseError: some stayed noisy, after all others have come.
    """
    refused: list[tuple[int, FoundT]] = []
    for place, found, attempts in until_quiet(len(networks), measure, rule):
        if found.flags and not accept_noise:
            refused.append((place, found))
        else:
            yield place, found, attempts
    if not refused:
        return
    place, found = refused[0]
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    raise NoiseError(
        f"a measured {metric} is kept where nothing disturbed it, but that of "
        f"{network_text(networks[place])}{more} stayed noisy in {rule.attempts} attempts "
        f"({'; '.join(map(str, found.flags))}): stop other programs, use fewer threads or measure "
        "longer, and run this again, which repeats only what is missing, or accept noise "
        f"(accept_noise=True, --accept-noise, --evaluator {metric},accept_noise=true)."
    )
