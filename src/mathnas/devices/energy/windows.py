"""Joules of short calls: many runs in one window, less what the machine draws when it is idle.

As in `mathnas.devices.timing`, calls that are to be compared take turns: a window of each, then the
next round in another order. Idle windows stand before every round and after the last, so that a
drift of the idle power (a fan, a warm board) is subtracted where it happens. The meter is read in
the same way while idle, so that what reading costs is subtracted too; and so is the work of other
processes, as long as it stays the same. Where it does not, the measurement has a flag.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mathnas.devices.energy.log import EnergyLog, Mark
from mathnas.devices.energy.meter import Meter, MeterKind
from mathnas.devices.noise import Flag, NoiseRule, broken, flag_notes
from mathnas.devices.state import ROOT, MachineState, Usage
from mathnas.devices.timing import quartile_spread
from mathnas.errors import EvaluationError, InvalidInputError, MeterError
from mathnas.evaluation import Measurement

# runs between looks at the clock take about this long
_CHUNK_S = 0.002
_SETTLE_S = 0.05
_IDLE_MOVED = 0.2  # of what was found above the idle power


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
        usage: of the processors meanwhile.
        runs: of the call, and the seconds that one took.
    """

    watts: float
    samples: int
    usage: Usage
    runs: int = 0
    run_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Energy:
    """What was found of one call.

    Attributes:
        value: millijoules of a run above idle: the median over windows of
            (busy power - idle power) x time of a run.
        spread: the standard deviation over windows that their quartiles imply.
        windows: how many there were.
        flags: which rules of noise it breaks.
        notes: ``sensor``; ``idle_w`` (mean), ``idle_before_w``, ``idle_after_w``, ``busy_w``
            (median); ``window_s``; ``runs`` and ``samples`` (in all windows); ``run_ms``; and what
            the machine did.
    """

    value: float
    spread: float
    windows: int
    flags: Sequence[Flag]
    notes: Mapping[str, str]

    @property
    def disorder(self) -> float:
        return self.spread / self.value

    def measurement(self, attempts: int = 1) -> Measurement:
        """As a study keeps it."""
        notes = {"attempts": str(attempts), **flag_notes(self.flags), **self.notes}
        return Measurement(self.value, spread=self.spread, repeats=self.windows, notes=notes)


def energy_in_turns(
    calls: Sequence[Callable[[], object]],
    meter: Meter,
    settings: EnergySettings,
    *,
    rule: NoiseRule | None = None,
    threads: int = 1,
    root: Path = ROOT,
) -> list[Energy]:
    """Millijoules of one run of each call, above idle.

    Args:
        rule: what has flags; besides, an idle power that moved by more than a fifth of what was
            found above it, and others' work that was not the same as in the idle windows.
        threads: that a call uses.
        root: where ``proc`` and ``sys`` are found (for tests).

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
        idle.append(_idle(log, settings, root))
        for _ in range(settings.rounds):
            for index in rng.permutation(len(calls)).tolist():
                windows[index].append(_busy(log, settings, calls[index], chunks[index], root))
            idle.append(_idle(log, settings, root))
    machine = MachineState.read(root).notes()
    return [
        _energy(found, idle, meter, length, rule or NoiseRule(), threads, machine)
        for found in windows
    ]


def _warm_up(call: Callable[[], object]) -> int:
    """Run twice; returns how many runs fit between looks at the clock."""
    call()
    start = time.perf_counter()
    call()
    return max(1, round(_CHUNK_S / max(time.perf_counter() - start, 1e-7)))


def _idle(log: EnergyLog, settings: EnergySettings, root: Path) -> _Window:
    time.sleep(_settling_s(log.meter))
    before, start = Usage.now(root), log.mark()
    time.sleep(settings.length_s(log.meter))
    return _window(log, settings, start, before, root)


def _busy(
    log: EnergyLog, settings: EnergySettings, call: Callable[[], object], chunk: int, root: Path
) -> _Window:
    # what a sensor shows lags behind by an update or two
    _run_for(_settling_s(log.meter), call, chunk, log)
    before, start = Usage.now(root), log.mark()
    runs, seconds = _run_for(settings.length_s(log.meter), call, chunk, log)
    window = _window(log, settings, start, before, root)
    if window.watts == 0:
        raise MeterError(
            f"{log.meter.name} showed nothing but 0 for {seconds:.3g} s of work: its sensor is not "
            "connected (virtual machines show such counters)."
        )
    return replace(window, runs=runs, run_s=seconds / runs)


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


def _window(
    log: EnergyLog, settings: EnergySettings, start: Mark, before: Usage, root: Path
) -> _Window:
    end, usage = log.mark(), Usage.now(root).since(before)
    samples = end.samples - start.samples
    if log.meter.kind is MeterKind.POWER and samples < settings.readings / 2:
        raise MeterError(
            f"{log.meter.name} was read {samples} times in {end.time_s - start.time_s:.3g} s, but "
            f"power changes meanwhile: {settings.readings} were due. Take longer windows, or an "
            "engine that lets other threads run."
        )
    return _Window((end.joules - start.joules) / (end.time_s - start.time_s), samples, usage)


def _energy(
    windows: Sequence[_Window],
    idle: Sequence[_Window],
    meter: Meter,
    length_s: float,
    rule: NoiseRule,
    threads: int,
    machine: Mapping[str, str],
) -> Energy:
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
    spread = quartile_spread(energies)
    usage = _sum([window.usage for window in windows])
    limits = [
        Flag("spread", spread / value, rule.spread, "windows differ by"),
        Flag("idle", float(np.ptp(rest) / np.median(net)), _IDLE_MOVED, "the idle power moved by"),
    ]
    others, otherwise = usage.others, _sum([window.usage for window in idle]).others
    if others is not None and otherwise is not None:
        change = abs(others - otherwise) / threads
        limits.append(Flag("others", change, rule.crowding, "others' work changed by"))
    flags = [*rule.machine_flags(usage, threads), *broken(limits)]
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
        **machine,
        **usage.notes(),
    }
    return Energy(value, spread, len(windows), flags, notes)


def _sum(parts: Sequence[Usage]) -> Usage:
    """What was used in several windows."""

    def total(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    interrupted, throttled = total("interrupted"), total("throttled")
    return Usage(
        seconds=sum(part.seconds for part in parts),
        own=sum(part.own for part in parts),
        cores=parts[0].cores,
        busy=total("busy"),
        stolen=total("stolen"),
        waited=total("waited"),
        interrupted=None if interrupted is None else int(interrupted),
        throttled=None if throttled is None else int(throttled),
        machine_cores=parts[0].machine_cores,
        machine_busy=total("machine_busy"),
    )
