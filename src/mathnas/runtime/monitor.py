"""The monitor: from what runs take to what every network would take now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import IDENTITY, Metric, metric_named
from mathnas.runtime.change import ChangeDetector
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.part_model import PartModel, Prior
from mathnas.runtime.window import Window, window_of
from mathnas.space import Network
from mathnas.table import BlockEffects, BlockTable

TAIL_RUNS = 1000
"""Of the last runs that tell how far single runs are above what is expected, by default."""
_TIMER_MS = 0.002  # what reading a clock and handing a value on may add to a part
_FARTHEST = 1000.0  # times that are so many times off were not taken by the network
_LONGEST_STEP_S = 3600.0
_FEWEST_RUNS = 3  # of a window that a switch ends
_NOISE_RATE = 0.05
_LEAST_NOISE, _MOST_NOISE = 0.005, 0.5
_FIRST_NOISE = 0.03
_CARRIED = 0.2  # of the runs that tell the tail: what those before the load rose count as
_CARRIED_DOWN = 25  # runs: what those before it fell count as
_SETTLING_RUNS = 50  # until what was expected of a run is held for right


@dataclass
class _Serving:
    """The network of the last run, so that the next one is checked in microseconds.

    Attributes:
        computing: for each part, whether it computes something.
        expected_ms: of a run; None where the model has changed since.
    """

    network: Network
    computing: Sequence[bool]
    expected_ms: float | None = None

    def possible(self, parts_ms: Sequence[float], latency_ms: float) -> bool:
        """Whether parts may have taken these times, in a run that took so long."""
        if len(parts_ms) != len(self.computing):
            return False
        total = 0.0
        for part, computes in zip(parts_ms, self.computing, strict=True):
            if not (math.isfinite(part) and (part > 0 if computes else part >= 0)):
                return False
            total += part if computes else 0.0
        return 1 / _FARTHEST < latency_ms / total < _FARTHEST


@dataclass
class Counts:
    """What the monitor has seen.

    Attributes:
        runs: taken in.
        windows: of them.
        changes: of the load that were detected.
        dropped: runs whose latency, time or network cannot be.
        wholes: runs whose parts' times cannot be, of which the latency alone counts.
        jumps: of the clock, backwards.
        unused: runs of windows that a switch ended too early.
    """

    runs: int = 0
    windows: int = 0
    changes: int = 0
    dropped: int = 0
    wholes: int = 0
    jumps: int = 0
    unused: int = 0


class Monitor:
    """Estimates what every part takes now, from the runs of the networks that serve.

    Runs are taken in by windows of `runs` or more that last `seconds` or more. A window is compared
    with what was expected of it (change detection), then updates `model`; blocks that did not run
    are updated through what they have in common with those that did.

    Args:
        table: predictions of every network; `table` replaces its latency.
        times: of every part, as measured when the device was quiet.
        latency: the metric of the table that is what runs take, in ms.
        prior: how far times move.
        runs, seconds: what makes a window full.
        tail_runs: how many of the last runs tell how far single runs are above what is expected.

    Attributes:
        model: the parts' times.
        counts: what was seen, and dropped.
        elapsed: seconds that have passed, by the loop's clock without its jumps backwards.

    Raises:
        InvalidInputError: the times are of another space, or a number is not positive.
    """

    def __init__(
        self,
        table: BlockTable,
        times: PartTimes,
        latency: str = "latency_ms",
        *,
        prior: Prior | None = None,
        runs: int = 5,
        seconds: float = 0.02,
        tail_runs: int = TAIL_RUNS,
    ) -> None:
        if times.space != table.space:
            raise InvalidInputError(
                f"times and table are of one space, but got times of {times.space.name} and a "
                f"table of {table.space.name}: measure the parts of the package that is served."
            )
        for name, value in (("runs", runs), ("tail_runs", tail_runs), ("seconds", seconds)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name} is positive, but got {value}.")
        self.offline, self.latency_metric = table, _latency_metric(table, latency)
        self.model = PartModel(times, prior or Prior())
        self.counts = Counts()
        self.elapsed = 0.0
        self._full = (runs, seconds)
        self._detector = ChangeDetector()
        self._pending: list[Observation] = []
        self._begun = 0.0  # of the pending window, in elapsed seconds
        self._updated = 0.0
        self._clock: float | None = None
        self._serving: _Serving | None = None
        self._noise = self._part_noise = _FIRST_NOISE
        self._beside = 0.0  # log of latency over the sum of the parts
        self._beside_windows = 0
        self._calm_windows = round(1 / _NOISE_RATE)  # since the last change
        self._tail_runs = tail_runs
        self._ratios = deque(_expected_ratios(self._carried), maxlen=tail_runs)
        self._latest: deque[tuple[Network, float]] = deque()

    # ---- what is known ----------------------------------------------------------------------

    @property
    def times(self) -> PartTimes:
        """What every part takes now."""
        flat = self.model.flat
        return PartTimes(self.offline.space, float(flat[0]), flat[1:-1], float(flat[-1]))

    @property
    def beside(self) -> float:
        """Latency over the sum of the parts: what a run takes beside them, as a factor."""
        return math.exp(self._beside)

    def latency(self, network: Network) -> tuple[float, float]:
        """What a run of a network is expected to take now, in ms, and the standard deviation of
        this expectation (not of a single run)."""
        mean, deviation = self.model.latency(network)
        return self.beside * mean, self.beside * deviation

    def tail(self, rate: float) -> float:
        """Latency over what is expected of its network, that a share `rate` of the last runs was
        above: of the latest ones by what is known now, of those before by what was known soon after
        them. Those before the last change of the load count as few."""
        ratios = [*self._ratios, *self._ratios_of(self._latest)][-self._tail_runs :]
        place = min(len(ratios) - 1, math.ceil((1 - rate) * len(ratios)))
        return float(np.partition(np.array(ratios), place)[place])

    def table(self, caution: float = 0.0) -> BlockTable:
        """The table with the latency of now: a sum over parts.

        Args:
            caution: how many standard deviations are added to each part's time. As the deviation
                of a sum is at most the sum of the deviations, a network that meets a limit in this
                table meets it with so many deviations to spare, at least.
        """
        flat = self.beside * self.model.flat
        if caution:
            flat = flat * (1 + caution * self.model.deviations)
        space = self.offline.space
        blocks = flat[1:-1]
        reference = blocks[space.offsets[:-1] + np.array(self.offline.reference)]
        column = BlockEffects(
            self.latency_metric,
            float(flat[0] + reference.sum() + flat[-1]),
            blocks - np.repeat(reference, space.sizes),
            blocks * self.model.deviations[1:-1],
            np.ones(space.num_blocks),
        )
        columns = {**self.offline.columns, self.latency_metric.name: column}
        return BlockTable(space, self.offline.reference, columns, self.offline.provenance)

    # ---- what happens -----------------------------------------------------------------------

    def observe(self, run: Observation, suspect: int = 0) -> Window | None:
        """Take a run in; the window where it made one full, None otherwise.

        Args:
            suspect: so many of the last runs, this one among them, may tell of a change. Where they
                do, they are a window, and those before them another one.
        """
        checked = self._checked(run)
        if checked is None:
            self.counts.dropped += 1
            return None
        self._tick(checked.time)
        if self._pending and self._pending[0].network != checked.network:
            self._abandon()
        if not self._pending:
            self._begun = self.elapsed
        self._pending.append(checked)
        self.counts.runs += 1
        changed = self._close_changed(suspect) if suspect else None
        if changed is not None:
            return changed
        runs, seconds = self._full
        full = len(self._pending) >= runs and self.elapsed - self._begun >= seconds
        if not (full or len(self._pending) >= 16 * runs):
            return None
        return self.close()

    def close(self) -> Window | None:
        """Take what is there as a window now; None where no run is."""
        if not self._pending:
            return None
        pending, self._pending = self._pending, []
        self._pass()
        return self._take(window_of(pending))

    def _close_changed(self, last: int) -> Window | None:
        """The last runs as a window where they tell of a change, after those before them, where
        these are enough for a median. None where they do not: they stay pending, as runs that were
        picked for being late would otherwise count as if any had been.
        """
        before, late = self._pending[:-last], window_of(self._pending[-last:])
        if not self._detector.would_alarm(self._error(late, *self.latency(late.network))):
            return None
        self._pending = []
        self._pass()
        if len(before) >= _FEWEST_RUNS:
            self._take(window_of(before))
        else:
            self.counts.unused += len(before)
        return self._take(late)

    def _pass(self) -> None:
        self.model.wait(self.elapsed - self._updated)
        self._updated = self.elapsed

    def _error(self, window: Window, expected: float, deviation: float) -> float:
        """How far a window is off what was expected, in standard deviations."""
        variance = (deviation / expected) ** 2 + window.noise * self._noise**2
        return math.log(window.latency_ms / expected) / math.sqrt(variance)

    def _take(self, window: Window) -> Window:
        """Learn from a window; the same with the change that it told of."""
        self.counts.windows += 1
        expected, deviation = self.latency(window.network)
        change = self._detector.observe(self._error(window, expected, deviation))
        if change:
            self._settle(len(self._latest))
            self._change(self._carried if change > 0 else min(_CARRIED_DOWN, self._carried))
        else:  # what changes within a window is not noise
            self._calm_windows += 1
            rate = max(_NOISE_RATE, 1 / (1 + self._calm_windows))
            self._noise = _learned(self._noise, window.spread, rate)
            self._part_noise = _learned(self._part_noise, window.part_spread, rate)
        self._update(window)
        self._latest.extend((window.network, latency) for latency in window.latencies_ms)
        self._settle(len(self._latest) - _SETTLING_RUNS)
        if self._serving is not None:
            self._serving.expected_ms = None
        return replace(window, change=change)

    def _settle(self, count: int) -> None:
        """Keep the ratios of the first of the latest runs as they are now."""
        settled = [self._latest.popleft() for _ in range(count)]
        self._ratios.extend(self._ratios_of(settled))

    def _ratios_of(self, runs: Iterable[tuple[Network, float]]) -> list[float]:
        """Latency over what is expected of the network now."""
        expected = cache(lambda network: self.latency(network)[0])
        return [latency / expected(network) for network, latency in runs]

    def _change(self, carried: int) -> None:
        """What was learned of the load before counts for little from now on, its tail as so many
        runs."""
        self.counts.changes += 1
        self.model.change()
        self._calm_windows = 0
        if len(self._ratios) > carried:
            shares = (np.arange(carried) + 0.5) / carried
            kept = np.quantile(np.array(self._ratios), shares)
            self._ratios = deque(kept.tolist(), maxlen=self._tail_runs)

    @property
    def _carried(self) -> int:
        """As how many runs all those before the load rose count in the tail."""
        return math.ceil(_CARRIED * self._tail_runs)

    def _checked(self, run: Observation) -> Observation | None:
        """The run, without its parts where these cannot be; None where it cannot be itself."""
        if not (math.isfinite(run.time) and math.isfinite(run.latency_ms) and run.latency_ms > 0):
            return None
        if self._serving is None or run.network != self._serving.network:
            try:
                network = self.offline.space.check(run.network)
            except InvalidInputError:
                return None
            computing = self.model.times.parts(network) > 0
            self._serving = _Serving(network, computing.tolist())
        serving = self._serving
        if serving.expected_ms is None:
            serving.expected_ms, _ = self.latency(serving.network)
        if not 1 / _FARTHEST < run.latency_ms / serving.expected_ms < _FARTHEST:
            return None
        if not run.parts_ms or serving.possible(run.parts_ms, run.latency_ms):
            return run
        self.counts.wholes += 1
        return replace(run, parts_ms=())

    def _tick(self, time: float) -> None:
        step = 0.0 if self._clock is None else time - self._clock
        self.counts.jumps += step < 0
        self.elapsed += min(max(step, 0.0), _LONGEST_STEP_S)
        self._clock = time

    def _abandon(self) -> None:
        """Another network serves: what is pending counts where it is enough for a median."""
        if len(self._pending) >= _FEWEST_RUNS:
            self.close()
        else:
            self.counts.unused += len(self._pending)
            self._pending = []

    def _update(self, window: Window) -> None:
        """How long runs take is learned from whole runs, by which deadlines go; parts tell how that
        is divided. A run that waits for the core does so in some part: the medians of parts know
        little of it, and may be anything between their quiet times and the whole run's."""
        # how far windows were off lately says more of a median's noise than the runs' spread
        noise = window.noise * self._detector.scale**2
        parts = np.array(window.parts_ms)
        if len(parts):
            computing = self.model.times.parts(window.network) > 0
            self._learn_beside(math.log(window.latency_ms / float(parts[computing].sum())))
            timer = _TIMER_MS / np.where(computing, parts, 1.0)
            variances = noise * (self._part_noise**2 + timer**2)
            self.model.observe(window.network, parts, variances, shares=True)
        total = window.latency_ms / self.beside  # last: shares keep the sum to first order only
        self.model.observe_whole(window.network, total, noise * self._noise**2)

    def _learn_beside(self, beside: float) -> None:
        """The running mean; what is expected of runs does not move by it."""
        self._beside_windows += 1
        step = max(_NOISE_RATE, 1 / self._beside_windows) * (beside - self._beside)
        self._beside += step
        if self._beside_windows > 1:
            self.model.shift(-step)


def _latency_metric(table: BlockTable, name: str) -> Metric:
    """The metric as a plain sum in ms."""
    metric = table.columns[name].metric if name in table.columns else metric_named(name)
    if metric.unit != "ms":
        raise InvalidInputError(
            f"what runs take is told in ms, but {name} is in {metric.unit or 'no unit'}: name a "
            "metric such as latency_ms."
        )
    return replace(metric, scale=IDENTITY, additive=True)


def _learned(noise: float, spread: float | None, rate: float) -> float:
    """A relative noise after a window with that spread; one window does not move it far."""
    if spread is None:
        return noise
    spread = min(spread, _MOST_NOISE, 3 * noise)
    return max(_LEAST_NOISE, math.sqrt(noise**2 + rate * (spread**2 - noise**2)))


def _expected_ratios(count: int) -> list[float]:
    """Ratios to begin with, until runs replace them: lognormal."""
    normal = NormalDist(0.0, _FIRST_NOISE)
    return [math.exp(normal.inv_cdf((rank + 0.5) / count)) for rank in range(count)]
