"""Joules of short calls: many runs in one window, less what the machine draws when it is idle.

As in `mathnas.devices.timing`, calls that are to be compared take turns: a window of each, then the
next round in another order. Idle windows stand before every round and after the last, so that a
drift of the idle power (a fan, a warm board) is subtracted where it happens. The meter is read in
the same way while idle, so that what reading costs is subtracted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.devices.energy.log import EnergyLog, Mark
from mathnas.devices.energy.meter import Meter, MeterKind
from mathnas.errors import EvaluationError, InvalidInputError, MeterError
from mathnas.evaluation import Measurement

# runs between looks at the clock take about this long
_CHUNK_S = 0.002
_SETTLE_S = 0.05


@dataclass(frozen=True, slots=True)
class EnergySettings:
    """How to measure energy.

    Attributes:
        rounds: windows of every call, each round in another order.
        window_s: how long a window lasts at least.
        readings: updates of the sensor that a window lasts at least, so slow sensors have longer
            windows. A counter that is read between two updates is off by up to one of them.
    """

    rounds: int = 5
    window_s: float = 1.0
    readings: int = 30

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.window_s < float("inf") or self.readings < 2:
            raise InvalidInputError(
                "energy takes at least 1 round of windows longer than 0 s with 2 readings, but "
                f"got {self}."
            )

    def length_s(self, meter: Meter) -> float:
        """How long a window with this meter lasts."""
        return max(self.window_s, self.readings * meter.interval_s)


@dataclass(frozen=True, slots=True)
class _Window:
    """What was measured in one window.

    Attributes:
        watts: mean power.
        samples: readings of the meter.
        runs: of the call, and the seconds that one took.
    """

    watts: float
    samples: int
    runs: int = 0
    run_s: float = 0.0


def energy_in_turns(
    calls: Sequence[Callable[[], object]], meter: Meter, settings: EnergySettings
) -> list[Measurement]:
    """Millijoules of one run of each call, above idle.

    Returns:
        For each call the median over its windows of (busy power - idle power) x time of a run;
        `spread` is the standard deviation over windows that their quartiles imply (interquartile
        range / 1.349); `repeats` counts the windows. Notes: ``idle_w`` (mean), ``idle_before_w``,
        ``idle_after_w``, ``busy_w`` (median), ``window_s``, ``runs`` and ``samples`` (in all
        windows), ``run_ms``, ``sensor``; and ``flags`` where the idle power moved by more than a
        fifth of what was found above it.

    Raises:
        MeterError: the meter fails while it measures, gives too few readings or nothing but 0.
        EvaluationError: a call is not seen above the idle power.
    """
    length = settings.length_s(meter)
    idle: list[_Window] = []
    windows: list[list[_Window]] = [[] for _ in calls]
    rng = np.random.default_rng(0)
    with EnergyLog(meter) as log:
        chunks = [_warm_up(call) for call in calls]
        idle.append(_idle(log, settings))
        for _ in range(settings.rounds):
            for index in rng.permutation(len(calls)).tolist():
                windows[index].append(_busy(log, settings, calls[index], chunks[index]))
            idle.append(_idle(log, settings))
    return [_measurement(found, idle, meter, length) for found in windows]


def _warm_up(call: Callable[[], object]) -> int:
    """Run twice; returns how many runs fit between looks at the clock."""
    call()
    start = time.perf_counter()
    call()
    return max(1, round(_CHUNK_S / max(time.perf_counter() - start, 1e-7)))


def _idle(log: EnergyLog, settings: EnergySettings) -> _Window:
    time.sleep(_settling_s(log.meter))
    start = log.mark()
    time.sleep(settings.length_s(log.meter))
    return _window(log, settings, start)


def _busy(
    log: EnergyLog, settings: EnergySettings, call: Callable[[], object], chunk: int
) -> _Window:
    # what a sensor shows lags behind by an update or two
    _run_for(_settling_s(log.meter), call, chunk, log)
    start = log.mark()
    runs, seconds = _run_for(settings.length_s(log.meter), call, chunk, log)
    window = _window(log, settings, start)
    if window.watts == 0:
        raise MeterError(
            f"{log.meter.name} showed nothing but 0 for {seconds:.3g} s of work: its sensor is not "
            "connected (virtual machines show such counters)."
        )
    return _Window(window.watts, window.samples, runs, seconds / runs)


def _settling_s(meter: Meter) -> float:
    return max(_SETTLE_S, 2 * meter.interval_s)


def _run_for(
    seconds: float, call: Callable[[], object], chunk: int, log: EnergyLog
) -> tuple[int, float]:
    """Run again and again; returns how often, and how long it took."""
    runs = 0
    start = time.perf_counter()
    while True:
        for _ in range(chunk):
            call()
        runs += chunk
        taken = time.perf_counter() - start
        if taken >= seconds or log.failed:  # the next mark raises
            return runs, taken


def _window(log: EnergyLog, settings: EnergySettings, start: Mark) -> _Window:
    end = log.mark()
    samples = end.samples - start.samples
    if log.meter.kind is MeterKind.POWER and samples < settings.readings / 2:
        raise MeterError(
            f"{log.meter.name} was read {samples} times in {end.time_s - start.time_s:.3g} s, but "
            f"power changes meanwhile: {settings.readings} were due. Take longer windows, or an "
            "engine that lets other threads run."
        )
    return _Window((end.joules - start.joules) / (end.time_s - start.time_s), samples)


def _measurement(
    windows: Sequence[_Window], idle: Sequence[_Window], meter: Meter, length_s: float
) -> Measurement:
    rest = np.array([window.watts for window in idle])
    busy = np.array([window.watts for window in windows])
    run_s = np.array([window.run_s for window in windows])
    net = busy - (rest[:-1] + rest[1:]) / 2
    energies = net * run_s * 1000
    value = float(np.median(energies))
    if value <= 0:
        raise EvaluationError(
            f"{meter.name} sees the network not above the idle power: {np.median(busy):.4g} W "
            f"busy, {rest.mean():.4g} W idle. Take a larger batch, more threads, longer windows or "
            "a meter that is closer to the processor, and let nothing else run."
        )
    low, high = np.quantile(energies, [0.25, 0.75])
    notes = {
        "sensor": f"{meter.name}, {meter.kind.value}, {meter.covers}",
        "idle_w": f"{rest.mean():.6g}",
        "idle_before_w": f"{rest[0]:.6g}",
        "idle_after_w": f"{rest[-1]:.6g}",
        "busy_w": f"{np.median(busy):.6g}",
        "window_s": f"{length_s:g}",
        "samples": str(sum(window.samples for window in windows)),
        "runs": str(sum(window.runs for window in windows)),
        "run_ms": f"{np.median(run_s) * 1000:.6g}",
    }
    moved = float(np.ptp(rest))
    if moved > float(np.median(net)) / 5:
        notes["flags"] = f"the idle power moved by {moved:.3g} W"
    return Measurement(value, spread=float(high - low) / 1.349, repeats=len(windows), notes=notes)
