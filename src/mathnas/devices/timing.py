"""Timing short calls on machines that do other things too.

Calls that are to be compared are timed in turns: a short slice of each, then the next round in
another order. What slows the machine for a second then slows all of them, and what comes again and
again does not meet the same one each time. The estimate uses two robust steps: the median inside a
slice removes single interruptions, a low quantile over the slices removes slow periods.

A call whose time is known, or that is timed in every batch, is a reference: as one more call it is
timed again in every round, and its `Timing.drift` says whether the machine stayed the same.
Whether a measurement can be trusted is judged in `mathnas.devices.noise`.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class OwnClock(Protocol):
    """A call that is timed by the clock of what runs it, as a graphics card's events are."""

    def __call__(self) -> object: ...

    def last_ms(self) -> float:
        """How long the last run took, in milliseconds."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """How long one run of a call takes; all times in milliseconds.

    Attributes:
        slices: the median run of each slice, in the order of the rounds, shape (rounds,).
        wall, cpu: the mean run of each slice by the clock, and by what all threads of this process
            spent on processors, shape (rounds,). For one thread of arithmetic they are equal where
            nothing took the processor away.
        minimum: the fastest run.
        runs: in a slice.
        quantile: over `slices` that `value` is.
    """

    slices: Floats
    wall: Floats
    cpu: Floats
    minimum: float
    runs: int
    quantile: float

    @property
    def value(self) -> float:
        """The quantile over slices: the estimate."""
        return float(np.quantile(self.slices, self.quantile))

    @property
    def median(self) -> float:
        return float(np.median(self.slices))

    @property
    def trimmed(self) -> float:
        """The mean over slices, without the fastest and the slowest tenth of them."""
        cut = len(self.slices) // 10
        return float(np.sort(self.slices)[cut : len(self.slices) - cut].mean())

    @property
    def cpu_ms(self) -> float:
        """Processor time of one run: the same quantile over the slices' means."""
        return float(np.quantile(self.cpu, self.quantile))

    @property
    def spread(self) -> float:
        """The standard deviation over slices that their quartiles imply."""
        return quartile_spread(self.slices)

    @property
    def repeats(self) -> int:
        """How many runs were timed."""
        return self.runs * len(self.slices)

    @property
    def idle(self) -> float:
        """The share of the time in which this process was on no processor, at least 0."""
        return max(0.0, 1.0 - float(self.cpu.sum() / self.wall.sum()))

    @property
    def drift(self) -> float:
        """By how much the second half of the rounds was slower than the first, relative to it."""
        if len(self.slices) < 2:
            return 0.0
        first, second = np.array_split(self.slices, 2)
        return float(np.median(second) / np.median(first)) - 1.0

    def measurement(
        self, statistic: str | None = None, notes: Mapping[str, str] | None = None
    ) -> Measurement:
        """The value, or one of `STATISTICS`, with spread and repeats, for a study.

        Raises:
            InvalidInputError: the statistic is unknown.
        """
        if statistic is not None:
            check_statistics([statistic])
        value = self.value if statistic is None else STATISTICS[statistic](self)
        return Measurement(value, self.spread, self.repeats, notes=dict(notes or {}))


STATISTICS: Mapping[str, Callable[[Timing], float]] = {
    "median": lambda timing: timing.median,
    "min": lambda timing: timing.minimum,
    "trimmed": lambda timing: timing.trimmed,
    "cpu": lambda timing: timing.cpu_ms,
}


def check_statistics(names: Sequence[str]) -> None:
    """Check names of further statistics.

    Raises:
        InvalidInputError: a name is not in `STATISTICS`, or stands twice.
    """
    for name in names:
        if name not in STATISTICS or list(names).count(name) > 1:
            raise InvalidInputError(
                f"further statistics of a time are {', '.join(STATISTICS)}, each once, but got "
                f"{name!r}."
            )


def quartile_spread(values: Floats) -> float:
    """The standard deviation that the quartiles of values imply, were these normal: the
    interquartile range / 1.349. A quarter of them may be disturbed and change it little."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / 1.349


def time_in_turns(calls: Sequence[Callable[[], object]], settings: TimingSettings) -> list[Timing]:
    """Time the calls in turns; for each what its runs took."""
    runs = [warm_up(call, settings) for call in calls]
    slices = [_Slices() for _ in calls]
    rng = np.random.default_rng(0)
    with no_garbage_collection():
        for _ in range(settings.rounds):
            for index in rng.permutation(len(calls)).tolist():
                slices[index].add(calls[index], runs[index])
    return [
        found.timing(count, settings.quantile) for found, count in zip(slices, runs, strict=True)
    ]


@dataclass(slots=True)
class _Slices:
    """What was found in the slices of one call, in milliseconds."""

    medians: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    minimum: float = math.inf

    def add(self, call: Callable[[], object], count: int) -> None:
        busy, start = time.process_time_ns(), time.perf_counter_ns()
        times = run_times(call, count)
        elapsed = time.perf_counter_ns() - start
        self.cpu.append((time.process_time_ns() - busy) / count / 1e6)
        self.wall.append(elapsed / count / 1e6)
        self.medians.append(float(np.median(times)))
        self.minimum = min(self.minimum, float(times.min()))

    def timing(self, runs: int, quantile: float) -> Timing:
        return Timing(
            np.array(self.medians),
            np.array(self.wall),
            np.array(self.cpu),
            self.minimum,
            runs,
            quantile,
        )


def warm_up(call: Callable[[], object], settings: TimingSettings) -> int:
    """Run until times are stable; returns how many runs make a slice."""
    end = time.perf_counter() + settings.warmup_ms / 1000
    call()
    last = float(np.median(run_times(call, _FEWEST_RUNS)))
    while True:
        count = max(_FEWEST_RUNS, math.ceil(settings.slice_ms / max(last, 1e-6)))
        now = float(np.median(run_times(call, count)))
        if abs(now - last) <= _STABLE * last or time.perf_counter() >= end:
            return max(_FEWEST_RUNS, math.ceil(settings.slice_ms / max(now, 1e-6)))
        last = now


def run_times(call: Callable[[], object], count: int) -> Floats:
    """The times of `count` runs, in milliseconds."""
    times = np.empty(count)
    if isinstance(call, OwnClock):
        for run in range(count):
            call()
            times[run] = call.last_ms()
        return times
    clock = time.perf_counter_ns
    for run in range(count):
        start = clock()
        call()
        times[run] = clock() - start
    return times / 1e6


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
