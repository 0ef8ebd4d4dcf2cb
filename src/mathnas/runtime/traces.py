"""Traces: how many times as long parts take as on a quiet device, over time.

A trace says it for every part (stem, nodes, head), so that what parts cost relative to each other
changes too: a neighbour on the same memory slows down some nodes more than others. Everything is
piecewise constant and the same for the same seed. What heats up by its own load is not a trace but
`mathnas.runtime.thermal`; both are `Conditions`.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mathnas._records import write_text
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.space import Floats

TIME = "time"
_RESOLUTION = 0.1  # seconds a piece of what changes continuously
_MOST_BYTES = 64 * 2**20


class Conditions(ABC):
    """What slows parts down while a simulation runs.

    Attributes:
        name: for records.
        places: parts that it tells factors of: stem, m nodes, head.
    """

    name: str
    places: int

    @abstractmethod
    def begin(self) -> Conditions:
        """The same from time 0 on: what has gathered in a run before is forgotten."""

    @abstractmethod
    def factors(self, time: float) -> Floats:
        """How many times as long parts take, shape (m + 2,)."""

    def took(self, start: float, quiet_ms: Floats) -> Floats:
        """What the parts of a run that starts then take, shape (m + 2,), in ms.

        Args:
            quiet_ms: what they would take now on a quiet device.
        """
        taken: Floats = quiet_ms * self.factors(start)
        return taken

    @abstractmethod
    def ran(self, start: float, end: float) -> None:
        """A run took from `start` to `end`; runs are told in their order."""

    @property
    @abstractmethod
    def changes(self) -> tuple[float, ...]:
        """When conditions changed so far, ascending: a policy may need a while to settle."""


@dataclass(frozen=True)
class Trace(Conditions):
    """Factors that do not depend on what runs.

    Attributes:
        times: when a piece starts, in seconds, ascending from 0; shape (k,).
        values: the factors of each piece, positive; shape (k, m + 2). The last one holds on.
        name: for records.
        starts: when what a policy has to settle after began: each step, the start of each ramp.

    Raises:
        InvalidInputError: the shapes do not fit, times do not ascend from 0, or a factor is not
            positive and finite.
    """

    times: Floats
    values: Floats
    name: str = "trace"
    starts: tuple[float, ...] = ()
    places: int = field(init=False)

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=np.float64)
        values = np.ascontiguousarray(self.values, dtype=np.float64)
        if values.ndim != 2 or times.shape != values.shape[:1] or not len(times):
            raise InvalidInputError(
                "a trace has at least one piece, with factors of stem, nodes and head, but got "
                f"times of shape {times.shape} and factors of shape {values.shape}."
            )
        if times[0] != 0 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
            raise InvalidInputError(
                f"the pieces of a trace ascend from 0 s, but got times that start with "
                f"{times[:3].tolist()}."
            )
        if not (np.isfinite(values) & (values > 0)).all():
            worst = values[~(np.isfinite(values) & (values > 0))][0]
            raise InvalidInputError(
                f"a factor says how many times as long a part takes, above 0, but got {worst}."
            )
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "starts", tuple(sorted(map(float, self.starts))))
        object.__setattr__(self, "places", values.shape[1])

    def begin(self) -> Trace:
        return self

    def factors(self, time: float) -> Floats:
        own: Floats = self.values[max(0, bisect_right(self.times, time) - 1)]
        return own

    def ran(self, start: float, end: float) -> None:
        """Nothing gathers in a trace."""

    @property
    def changes(self) -> tuple[float, ...]:
        return self.starts

    def to_csv(self) -> str:
        """A line a piece: time, stem, each node, head."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        nodes = [f"node{node}" for node in range(self.places - 2)]
        writer.writerow([TIME, "stem", *nodes, "head"])
        for time, row in zip(self.times.tolist(), self.values.tolist(), strict=True):
            writer.writerow([repr(time), *map(repr, row)])
        return text.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the CSV file, whole or not at all."""
        write_text(Path(path), self.to_csv())


def constant_trace(nodes: int, factor: float = 1.0) -> Trace:
    """The same factor all the time."""
    return Trace(np.zeros(1), np.full((1, nodes + 2), factor), "constant")


def step_trace(
    nodes: int,
    steps: Sequence[tuple[float, float]],
    *,
    sensitivity: npt.ArrayLike | None = None,
) -> Trace:
    """A load that starts and stops.

    Args:
        nodes: m.
        steps: (time in seconds, factor from then on).
        sensitivity: of stem, nodes and head, at least 0, shape (m + 2,): a part whose sensitivity
            is s takes 1 + s (factor - 1) times as long; 1 where none is given.

    Raises:
        InvalidInputError: a time is negative or twice there, or a factor is not positive.
    """
    pieces = sorted(steps)
    if not pieces or pieces[0][0] > 0:
        pieces = [(0.0, 1.0), *pieces]
    times, factors = np.array(pieces, dtype=np.float64).T
    starts = [time for time, _ in steps if time > 0]
    return Trace(times, spread_factors(factors, nodes, sensitivity), "step", tuple(starts))


def ramp_trace(
    nodes: int,
    start: float,
    end: float,
    factor: float,
    *,
    back: tuple[float, float] | None = None,
    sensitivity: npt.ArrayLike | None = None,
) -> Trace:
    """A load that rises linearly between two times, and falls again in `back`.

    Only the two starts count as changes: while it rises a policy has to keep up.

    Raises:
        InvalidInputError: the times do not ascend, or a factor is not positive.
    """
    knots = [0.0, start, end, *(back or ())]
    if any(later <= earlier for earlier, later in itertools.pairwise(knots[1:])):
        raise InvalidInputError(f"a ramp starts before it ends, but got the times {knots[1:]}.")
    levels = [1.0, 1.0, factor, *((factor, 1.0) if back else ())]
    times = np.arange(0.0, knots[-1] + _RESOLUTION, _RESOLUTION)
    values = np.interp(times, knots, levels)
    starts = (start,) if back is None else (start, back[0])
    return Trace(times, spread_factors(values, nodes, sensitivity), "ramp", starts)


def burst_trace(
    nodes: int,
    seconds: float,
    *,
    every: float,
    length: float,
    factor: float,
    seed: int,
    sensitivity: npt.ArrayLike | None = None,
) -> Trace:
    """Neighbours that come at random and stay a random while, each with a load of its own.

    Args:
        seconds: how long the trace is.
        every: mean seconds from the end of one to the start of the next (exponential).
        length: mean seconds that one stays; half of it to one and a half times as long.
        factor: of the heaviest; each is between halfway up and that.

    Raises:
        InvalidInputError: a duration or the factor is not positive.
    """
    check_positive(seconds=seconds, every=every, length=length, factor=factor)
    rng = np.random.default_rng(seed)
    steps: list[tuple[float, float]] = []
    time = float(rng.exponential(every))
    while time < seconds:
        stay = float(length * rng.uniform(0.5, 1.5))
        height = 1 + (factor - 1) * float(rng.uniform(0.5, 1.0))
        steps += [(time, height), (time + stay, 1.0)]
        time += stay + float(rng.exponential(every))
    trace = step_trace(nodes, steps, sensitivity=sensitivity)
    return Trace(trace.times, trace.values, "bursts", trace.starts)


def diurnal_trace(
    nodes: int,
    seconds: float,
    *,
    period: float,
    factor: float,
    seed: int,
    jitter: float = 0.05,
    sensitivity: npt.ArrayLike | None = None,
) -> Trace:
    """A day in `period` seconds: the load rises and falls as a sine between 1 and `factor`, with
    jitter that wanders (a share of what is above 1). Nothing in it counts as a change.

    Raises:
        InvalidInputError: a duration or the factor is not positive, or the jitter negative.
    """
    check_positive(seconds=seconds, period=period, factor=factor)
    if jitter < 0:
        raise InvalidInputError(f"a jitter is at least 0, but got {jitter}.")
    times = np.arange(0.0, seconds, _RESOLUTION)
    steps = np.random.default_rng(seed).normal(size=len(times))
    wander = np.zeros(len(times))
    keep = math.exp(-_RESOLUTION)  # wanders back within a second
    for place in range(1, len(times)):
        wander[place] = keep * wander[place - 1] + math.sqrt(1 - keep**2) * steps[place]
    height = (1 - np.cos(2 * np.pi * times / period)) / 2
    values = 1 + (factor - 1) * height * np.exp(jitter * wander)
    return Trace(times, spread_factors(values, nodes, sensitivity), "diurnal")


def read_trace(path: str | Path, nodes: int, *, change: float = 1.2) -> Trace:
    """A recorded trace: a CSV file as `Trace.to_csv` writes it, or with the columns ``time`` and
    ``factor`` alone, of all parts alike.

    Args:
        nodes: m, which the columns have to fit.
        change: from one piece to the next, the ratio of mean factors from which on it counts as a
            change to settle after.

    Raises:
        FileFormatError: the file cannot be read, or a line is damaged; the message names it.
        InvalidInputError: the columns are those of another number of nodes.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FileFormatError(f"{path}: larger than {_MOST_BYTES} bytes, so not read.")
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{path} is not a CSV file of factors: {error}.") from error
    head = rows[0] if rows else []
    if head[:1] != [TIME] or len(head) < 2:
        raise FileFormatError(
            f"{path}: the first line names the columns, time and then factors, but got {head!r}."
        )
    if len(head) not in (2, nodes + 3):
        raise InvalidInputError(
            f"a trace of {nodes} nodes has a time and {nodes + 2} factors a line (stem, nodes, "
            f"head), or one factor, but {path} has {len(head) - 1} factors."
        )
    numbers = np.array(
        [_numbers(row, len(head), f"{path}, line {line}") for line, row in enumerate(rows[1:], 2)]
    ).reshape(-1, len(head))
    times, values = numbers[:, 0], numbers[:, 1:]
    if values.shape[1] == 1:
        values = np.repeat(values, nodes + 2, axis=1)
    try:
        found = Trace(times, values, path.stem)
    except InvalidInputError as error:
        raise FileFormatError(f"{path}: {error}") from error
    return _with_changes(found, change)


def observed_trace(
    observations: Sequence[Observation],
    times: PartTimes,
    *,
    piece: float = 0.5,
    change: float = 1.2,
) -> Trace:
    """What runs say of the load: for each piece of time the median ratio of measured to offline
    time of every part. A part that was not timed in a piece keeps what it had before.

    Args:
        observations: of a serving loop, or from its log; runs that timed no parts, or whose times
            cannot be true, are left out. The earliest one is at time 0 of the trace.
        times: offline, in ms.
        piece: seconds.
        change: as in `read_trace`.

    Raises:
        InvalidInputError: no run can be used, or the piece is not positive.
    """
    check_positive(piece=piece)
    places = times.space.num_nodes + 2
    runs = sorted((run for run in observations if _timed(run, places)), key=lambda run: run.time)
    if not runs:
        raise InvalidInputError(
            f"a trace is made of runs that timed their {places} parts, but got "
            f"{len(observations)} runs without: time parts, or give factors in a CSV file."
        )
    numbers = np.array([int((run.time - runs[0].time) // piece) for run in runs])
    offline = np.array([times.parts(times.space.check(run.network)) for run in runs])
    taken = np.array([run.parts_ms for run in runs])
    # a part that computes nothing says nothing of the load
    says = (offline > 0) & (taken > 0)
    ratios = np.divide(taken, offline, out=np.ones_like(taken), where=says)
    values, last = [], np.ones(places)
    for number in range(int(numbers.max()) + 1):
        own, told = ratios[numbers == number], says[numbers == number]
        last = np.array(
            [
                float(np.median(own[told[:, place], place])) if told[:, place].any() else before
                for place, before in enumerate(last.tolist())
            ]
        )
        values.append(last)
    starts = np.arange(len(values), dtype=np.float64) * piece
    return _with_changes(Trace(starts, np.array(values), "observed"), change)


def spread_factors(factors: Floats, nodes: int, sensitivity: npt.ArrayLike | None) -> Floats:
    """Factors of parts, shape (k, m + 2), where a part of sensitivity s takes
    1 + s (factor - 1) times as long.

    Raises:
        InvalidInputError: there is not one sensitivity a part, or one is negative or not finite.
    """
    if sensitivity is None:
        return np.repeat(np.asarray(factors)[:, None], nodes + 2, axis=1)
    own = np.asarray(sensitivity, dtype=np.float64)
    if own.shape != (nodes + 2,) or not (np.isfinite(own) & (own >= 0)).all():
        raise InvalidInputError(
            f"sensitivities are at least 0, one each of stem, {nodes} nodes and head, but got "
            f"{sensitivity!r}."
        )
    return 1 + np.outer(np.asarray(factors) - 1, own)


def check_positive(**values: float | None) -> None:
    """Of numbers by name; None, where one is not given, passes.

    Raises:
        InvalidInputError: one is not positive and finite.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidInputError(f"{name} is positive, but got {value}.")


def _with_changes(trace: Trace, ratio: float) -> Trace:
    """The trace with its jumps of mean factors by that ratio or more as what to settle after."""
    means = np.log(trace.values).mean(axis=1)
    starts = trace.times[1:][np.abs(np.diff(means)) >= math.log(ratio)]
    return replace(trace, starts=tuple(starts.tolist()))


def _timed(run: Observation, places: int) -> bool:
    """Whether a run tells true times of its parts."""
    return (
        len(run.parts_ms) == places
        and math.isfinite(run.time)
        and all(math.isfinite(part) and part >= 0 for part in run.parts_ms)
    )


def _numbers(row: Sequence[str], count: int, where: str) -> list[float]:
    try:
        found = [float(text) for text in row]
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}.") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise FileFormatError(f"{where}: expected {count} finite numbers, but got {row!r}.")
    return found
