"""A few runs of one network, told by their medians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mathnas.runtime.observation import Observation
from mathnas.space import Floats, Network

_NORMAL = 1.4826  # of a normal distribution, its deviation over the median absolute deviation


@dataclass(frozen=True)
class Window:
    """What some runs took, one after the other, through one network.

    Medians, so that a run that was preempted does not count more than another.

    Attributes:
        network: that ran.
        time: when the last run ended, in seconds of the loop's clock.
        latencies_ms: of each run.
        latency_ms: their median.
        spread: of the latencies, one relative standard deviation, from their median absolute
            deviation; None of fewer than three runs.
        parts_ms: the median of each part, of the runs that told them; empty where most did not.
        part_spread: of the parts, one relative standard deviation, as the root mean square over
            parts; one run that waited in one part counts here, as such runs do in a part's median
            when they are many. None like `spread`.
        change: +1 where it told that the load had risen, -1 fallen, 0 otherwise.
    """

    network: Network
    time: float
    latencies_ms: tuple[float, ...]
    latency_ms: float
    spread: float | None
    parts_ms: tuple[float, ...] = ()
    part_spread: float | None = None
    change: int = 0

    @property
    def runs(self) -> int:
        return len(self.latencies_ms)

    @property
    def noise(self) -> float:
        """The variance of a median of so many runs, in variances of one run."""
        return 1 / self.runs if self.runs < 3 else math.pi / 2 / self.runs


def window_of(runs: list[Observation]) -> Window:
    """The window that runs of one network make; at least one."""
    latencies = np.array([run.latency_ms for run in runs])
    told = [run.parts_ms for run in runs if run.parts_ms]
    parts: Floats = np.array(told)
    most = 2 * len(told) > len(runs)
    return Window(
        runs[-1].network,
        runs[-1].time,
        tuple(latencies.tolist()),
        float(_medians(latencies)),
        _spread(latencies),
        tuple(_medians(parts).tolist()) if most else (),
        _part_spread(parts) if most else None,
    )


def _spread(values: Floats) -> float | None:
    """The relative spread of a few values, by their median absolute deviation."""
    count = len(values)
    if count < 3:
        return None
    logs = np.log(values)
    off = float(_medians(np.abs(logs - _medians(logs))))
    # the median absolute deviation of few values is too small
    return _NORMAL * off * count / (count - 0.8)


def _part_spread(parts: Floats) -> float | None:
    """The root mean square of columns' relative spreads; columns with zeros do not count."""
    columns = parts[:, (parts > 0).all(axis=0)]
    if len(parts) < 3 or not columns.size:
        return None
    return math.sqrt(float(np.log(columns).var(axis=0, ddof=1).mean()))


def _medians(values: Floats) -> Floats:
    """Along the first axis; for a few values faster than numpy's."""
    ordered = np.sort(values, axis=0)
    middle: Floats = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    return middle
