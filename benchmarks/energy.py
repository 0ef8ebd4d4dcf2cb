"""How exactly energy is measured, on sensors whose energy is known.

    python benchmarks/energy.py

*Trace*: a power that is known in closed form (a slow wave and bursts) is read at the given times
and integrated by `EnergyLog`; the typical (root mean square) and the largest error over 100 starts.
*Counters*: hours at constant power on counters that start again; the error of the sum. Both run on
a made-up clock.

*Windows*: `energy_in_turns` in real time on a board that is made up: 3 W idle; runs of 3 ms draw
12 W more in their first millisecond and 4 W in the rest. Sensors see the board as real ones do:
counters that are renewed at intervals, converters that average over an interval, and converters
that look at one moment. Values are medians of five windows; errors are relative to the energy that
the board spent above idle, run by run. Calls sleep, so the processor is free; flags
tell what other programs did to the windows meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from _machine import header
from mathnas.devices.energy import Channel, EnergyLog, MeterKind
from mathnas.devices.energy.windows import EnergySettings, energy_in_turns

SEED = 20261125
IDLE_W, BURST_W, STEADY_W = 3.0, 12.0, 4.0
BURST_S, RUN_S = 0.001, 0.003


# ---- on a made-up clock --------------------------------------------------------------------------


@dataclass
class Virtual:
    """A meter on a clock that the benchmark moves."""

    kind: MeterKind
    value: Callable[[float], float]
    channels: Sequence[Channel] = (Channel("one"),)
    now: float = 0.0
    name: str = "virtual"
    covers: str = "nothing"
    interval_s: float = 0.001
    resolution: float = 1e-6

    def read(self) -> tuple[float, ...]:
        return (self.value(self.now),)

    def joules_at(self, times: Sequence[float]) -> float:
        log = EnergyLog(self, clock=lambda: self.now)
        for self.now in times:
            joules = log.mark().joules
        return joules


def bursts(seconds: float) -> float:
    return 4 + 1.5 * math.sin(2 * math.pi * seconds / 1.7) + 6 * (seconds % 0.397 < 0.149)


def energy_of_bursts(seconds: float) -> float:
    wave = 1.5 * 1.7 / (2 * math.pi) * (1 - math.cos(2 * math.pi * seconds / 1.7))
    whole, rest = divmod(seconds, 0.397)
    return 4 * seconds + wave + 6 * (0.149 * whole + min(rest, 0.149))


def errors_of(gaps: Callable[[np.random.Generator], np.ndarray]) -> str:
    errors = []
    for seed in range(100):
        rng = np.random.default_rng([SEED, seed])
        times = rng.uniform(0, 2) + np.concatenate([[0.0], np.cumsum(gaps(rng))])
        found = Virtual(MeterKind.POWER, bursts).joules_at(times.tolist())
        true = energy_of_bursts(float(times[-1])) - energy_of_bursts(float(times[0]))
        errors.append(abs(found / true - 1))
    return f"{math.sqrt(np.mean(np.square(errors))):8.3%}  {max(errors):8.3%}"


def irregular(rng: np.random.Generator) -> np.ndarray:
    """1 to 25 ms, and 60 ms once in a hundred times."""
    gaps = rng.uniform(0.001, 0.025, 770)
    gaps[rng.random(770) < 0.01] = 0.06
    return gaps


def traces() -> None:
    print("trace of 10 s                                   typical   largest")
    for milliseconds in (2, 10, 20):
        count = 10_000 // milliseconds
        errors = errors_of(lambda _, n=count, g=milliseconds: np.full(n, g / 1000))  # type: ignore[misc]
        print(f"read every {milliseconds:2d} ms                               {errors}")
    print(f"read at irregular times (1 to 25 ms, some 60)  {errors_of(irregular)}")


def counters() -> None:
    print("\ncounter                          hours  watts  starts again     error")
    for wraps_j, watts, hours in ((65_536.0, 300.0, 24), (262_143.3, 1000.0, 24)):
        meter = Virtual(
            MeterKind.COUNTER,
            lambda t, w=watts, limit=wraps_j: (w * t) % limit,  # type: ignore[misc]
            (Channel("package", wraps_j),),
        )
        period = EnergyLog(meter)._period_s
        times = np.arange(0, hours * 3600 + period / 2, period)
        true = watts * float(times[-1])
        error = meter.joules_at(times.tolist()) / true - 1
        print(
            f"{wraps_j / 1000:5.0f} kJ, read every {period:4.1f} s      {hours:5d}  {watts:5.0f}"
            f"  {int(true / wraps_j):12d}  {error:8.1e}"
        )


# ---- in real time --------------------------------------------------------------------------------


@dataclass
class Board:
    """Knows its power at any time, by the runs that it has seen.

    Attributes:
        look: what its sensor makes of the board: "counter", "average" or "moment".
    """

    look: str
    interval_s: float
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    name: str = "board"
    covers: str = "a board"
    resolution: float = 1e-6
    channels: Sequence[Channel] = (Channel("rail"),)

    @property
    def kind(self) -> MeterKind:
        return MeterKind.COUNTER if self.look == "counter" else MeterKind.POWER

    def run(self) -> None:
        self.starts.append(time.perf_counter())
        end = self.starts[-1] + RUN_S
        time.sleep(RUN_S)
        self.ends.append(max(end, time.perf_counter()))

    def read(self) -> tuple[float, ...]:
        # a sensor shows what it knew when it was last renewed
        now = time.perf_counter() // self.interval_s * self.interval_s
        if self.look == "counter":
            return (self.joules(now),)
        if self.look == "average":
            return ((self.joules(now) - self.joules(now - self.interval_s)) / self.interval_s,)
        return (self.watts(now),)

    def watts(self, moment: float) -> float:
        index = int(np.searchsorted(self.starts, moment, side="right")) - 1
        if index < 0 or (index < len(self.ends) and moment >= self.ends[index]):
            return IDLE_W
        return IDLE_W + (BURST_W if moment - self.starts[index] < BURST_S else STEADY_W)

    def joules(self, moment: float) -> float:
        """Since the clock began; only recent runs are summed one by one."""
        self._forget()
        total = IDLE_W * moment + self._spent
        for start, end in zip(self.starts, [*self.ends, math.inf], strict=False):
            total += spent(start, min(end, moment)) if moment > start else 0.0
        return total

    _spent: float = 0.0

    def _forget(self) -> None:
        """Sum up runs that no sensor looks back to."""
        while len(self.ends) > 200:
            self._spent += spent(self.starts.pop(0), self.ends.pop(0))


def spent(start: float, end: float) -> float:
    """Joules of a run above idle."""
    seconds = end - start
    return BURST_W * min(seconds, BURST_S) + STEADY_W * max(0.0, seconds - BURST_S)


def windows() -> None:
    print(f"\nwindows: runs of {RUN_S * 1000:.0f} ms, {BURST_W:g} W then {STEADY_W:g} W above")
    print("sensor                       window_s      mJ   spread   true    error  flags")
    settings = EnergySettings()
    for look, interval_s in (
        *(("counter", 0.001), ("counter", 0.1)),
        *(("average", 0.02), ("average", 0.1)),
        *(("moment", 0.02), ("moment", 0.1)),
    ):
        board = Board(look, interval_s)
        (found,) = energy_in_turns([board.run], board, settings)
        true = 1000 * spent(0.0, float(found.notes["run_ms"]) / 1000)
        error = found.value / true - 1
        print(
            f"{look:8s} every {interval_s * 1000:4.0f} ms        {found.notes['window_s']:>8s}"
            f"  {found.value:6.2f}   {found.spread:6.2f}  {true:5.2f}  {error:+7.2%}"
            f"  {', '.join(flag.rule for flag in found.flags) or 'none'}"
        )


def main() -> None:
    print(header(SEED))
    traces()
    counters()
    windows()


if __name__ == "__main__":
    main()
