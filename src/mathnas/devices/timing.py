"""Timing short calls on machines that do other things too.

Calls that are to be compared are timed in turns: a short slice of each, then the next round in
another order. What slows the machine for a second then slows all of them, and what comes again and
again does not meet the same one each time. The estimate uses two robust steps: the median inside a
slice removes single interruptions, a low quantile over the slices removes slow periods.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.evaluation import Measurement
from mathnas.metrics import Floats

_FEWEST_RUNS = 5
_STABLE = 0.05


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """How to time.

    Attributes:
        rounds: slices of every call, each round in another order.
        slice_ms: how long a slice lasts, about; at least five runs fit in whatever it says.
        quantile: over the medians of the slices; 0.5 is the median, less discards slow periods.
        warmup_ms: longest warm-up of one call; it ends earlier when two slices agree to 5 %.
    """

    rounds: int = 30
    slice_ms: float = 3.0
    quantile: float = 0.1
    warmup_ms: float = 100.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.slice_ms > 0 or self.warmup_ms < 0:
            raise InvalidInputError(
                f"timing takes at least 1 round of slices longer than 0 ms, but got {self}."
            )
        if not 0 <= self.quantile <= 1:
            raise InvalidInputError(f"a quantile lies in [0, 1], but got {self.quantile}.")

    def __str__(self) -> str:
        return (
            f"{self.quantile:g} quantile of {self.rounds} medians of {self.slice_ms:g} ms of runs"
        )


def time_in_turns(
    calls: Sequence[Callable[[], object]], settings: TimingSettings
) -> list[Measurement]:
    """Milliseconds of one run of each call.

    Returns:
        For each call the quantile over its slices' median run times; `spread` is the standard
        deviation over slices that their quartiles imply (interquartile range / 1.349); `repeats`
        counts the timed runs.
    """
    runs = [_warm_up(call, settings) for call in calls]
    medians = np.empty((len(calls), settings.rounds))
    rng = np.random.default_rng(0)
    with _no_garbage_collection():
        for turn in range(settings.rounds):
            for index in rng.permutation(len(calls)).tolist():
                medians[index, turn] = _slice(calls[index], runs[index])
    return [
        _measurement(found, count, settings) for found, count in zip(medians, runs, strict=True)
    ]


def _warm_up(call: Callable[[], object], settings: TimingSettings) -> int:
    """Run until times are stable; returns how many runs make a slice."""
    end = time.perf_counter() + settings.warmup_ms / 1000
    call()
    last = _slice(call, _FEWEST_RUNS)
    while True:
        count = max(_FEWEST_RUNS, math.ceil(settings.slice_ms / max(last, 1e-6)))
        now = _slice(call, count)
        if abs(now - last) <= _STABLE * last or time.perf_counter() >= end:
            return max(_FEWEST_RUNS, math.ceil(settings.slice_ms / max(now, 1e-6)))
        last = now


def _slice(call: Callable[[], object], count: int) -> float:
    """The median time of `count` runs, in milliseconds."""
    clock = time.perf_counter_ns
    times = np.empty(count)
    for run in range(count):
        start = clock()
        call()
        times[run] = clock() - start
    return float(np.median(times)) / 1e6


def _measurement(medians: Floats, count: int, settings: TimingSettings) -> Measurement:
    low, high = np.quantile(medians, [0.25, 0.75])
    return Measurement(
        float(np.quantile(medians, settings.quantile)),
        spread=float(high - low) / 1.349,
        repeats=count * len(medians),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
