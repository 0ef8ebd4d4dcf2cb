"""Joules over time: integration of sampled power, counters that start again, and failures."""

from __future__ import annotations

import doctest
import importlib
import math
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from energy_cases import Board

from mathnas import InvalidInputError, MathNASWarning
from mathnas.costs import CostRecorder
from mathnas.devices.energy import Channel, EnergyLog, MeterKind
from mathnas.errors import MeterAbsentError, MeterError


class Trace:
    """A meter that follows functions of a clock which the test moves."""

    name = "trace"
    covers = "nothing"
    interval_s = 0.01
    resolution = 1e-6

    def __init__(
        self,
        kind: MeterKind,
        *values: Callable[[float], float],
        wraps: tuple[float | None, ...] | None = None,
    ) -> None:
        self.kind = kind
        self.now = 100.0  # a monotonic clock starts anywhere
        self._values = values
        limits = wraps or (None,) * len(values)
        self.channels = tuple(Channel(f"c{i}", wrap) for i, wrap in enumerate(limits))

    def read(self) -> tuple[float, ...]:
        return tuple(value(self.now - 100.0) for value in self._values)

    def log(self, times: Iterable[float]) -> EnergyLog:
        """A log that has read at these times, by hand."""
        log = EnergyLog(self, clock=lambda: self.now)
        for moment in times:
            self.now = 100.0 + moment
            log.mark()
        return log


# ---- sampled power -------------------------------------------------------------------------------


def bursts(seconds: float) -> float:
    """Watts: a slow wave, and 6 W more for 149 of every 397 ms."""
    return 4 + 1.5 * math.sin(2 * math.pi * seconds / 1.7) + 6 * (seconds % 0.397 < 0.149)


def integral_of_bursts(seconds: float) -> float:
    """In joules, by the antiderivatives of its parts."""
    wave = 1.5 * 1.7 / (2 * math.pi) * (1 - math.cos(2 * math.pi * seconds / 1.7))
    whole, rest = divmod(seconds, 0.397)
    return 4 * seconds + wave + 6 * (0.149 * whole + min(rest, 0.149))


def test_the_integral_of_the_trace_is_what_a_fine_sum_gives() -> None:
    grid = (np.arange(700_000) + 0.5) * 1e-5
    assert integral_of_bursts(7.0) == pytest.approx(
        sum(bursts(moment) for moment in grid.tolist()) * 1e-5, rel=1e-5
    )


@pytest.mark.parametrize("interval_s", [0.002, 0.01, 0.02])
def test_a_trace_that_is_read_regularly_integrates_to_a_percent(interval_s: float) -> None:
    times = np.arange(0, 7.0 + interval_s / 2, interval_s).tolist()
    log = Trace(MeterKind.POWER, bursts).log(times)
    assert log.joules() == pytest.approx(integral_of_bursts(times[-1]), rel=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_a_trace_that_is_read_irregularly_integrates_to_a_percent(seed: int) -> None:
    """Readings 1 to 25 ms apart, and now and then none for 60 ms."""
    rng = np.random.default_rng(seed)
    gaps = rng.uniform(0.001, 0.025, 1000)
    gaps[rng.random(1000) < 0.01] = 0.06
    times = np.cumsum(gaps).tolist()
    log = Trace(MeterKind.POWER, lambda t: bursts(t - times[0])).log(times)
    assert log.joules() == pytest.approx(integral_of_bursts(times[-1] - times[0]), rel=0.01)


def test_power_that_rises_evenly_is_exact_however_it_is_read() -> None:
    log = Trace(MeterKind.POWER, lambda t: 2 * t, lambda t: 1.0).log([0, 0.1, 0.15, 2.0, 3.0])
    assert log.joules() == pytest.approx(3.0**2 + 3.0)
    assert log.longest_gap_s == pytest.approx(1.85), "from 0.15 to 2 s"
    assert log.mark().samples == 7  # and one reading each for the two lines above


# ---- counters ------------------------------------------------------------------------------------


def test_counters_that_start_again_at_different_times() -> None:
    trace = Trace(
        MeterKind.COUNTER,
        lambda t: (90 + 30 * t) % 100,
        lambda t: (3 + 7 * t) % 50,
        lambda t: 11 * t,
        wraps=(100, 50, None),
    )
    assert trace.log(np.arange(0, 60.1, 2.5).tolist()).joules() == pytest.approx(60 * (30 + 7 + 11))


def test_a_counter_that_goes_backwards_without_an_end_was_reset() -> None:
    trace = Trace(MeterKind.COUNTER, lambda t: 5 * t if t < 2 else 0.5)
    with pytest.raises(MeterError, match=r"only rises, but c0 went from 5 to 0\.5 J: it was reset"):
        trace.log([0, 1, 2])


def test_a_counter_that_is_reset_does_not_count_as_one_that_starts_again() -> None:
    """After a sleep of the machine a counter of 262 kJ begins at 0: 262 kJ were not used."""
    trace = Trace(MeterKind.COUNTER, lambda t: 900 + 50 * t if t < 2 else 0.0, wraps=(262_143,))
    log = trace.log([0, 1])
    trace.now = 102.0
    with pytest.raises(MeterError, match=r"no machine draws 2\.59e\+05 W: the counter was reset"):
        log.mark()
    with pytest.raises(MeterError, match=r"\(50 J had been counted\)"):
        log.joules()


def test_a_counter_that_is_read_between_two_updates_is_not_taken_for_reset() -> None:
    trace = Trace(MeterKind.COUNTER, lambda t: 7.0 * (t > 0.5))
    assert trace.log([0.5, 0.5 + 1e-9]).joules() == 7.0


@pytest.mark.parametrize(
    ("wraps", "least_polls"), [((65_536.0,), 4), ((262_143.0, 65_536.0), 4), ((None,), 1)]
)
def test_counters_are_polled_before_they_start_again_twice(
    wraps: tuple[float | None, ...], least_polls: int
) -> None:
    trace = Trace(MeterKind.COUNTER, *(lambda t: 0.0 for _ in wraps), wraps=wraps)
    shortest = min(wrap or 1e9 for wrap in wraps)
    period = EnergyLog(trace)._period_s
    assert least_polls * period * 5000 <= shortest, "5 kW"
    assert 1 <= period <= 10


def test_a_counter_that_starts_again_often_is_followed_in_the_background() -> None:
    start = time.monotonic()
    trace = Trace(MeterKind.COUNTER, lambda _: (5 * (time.monotonic() - start)) % 0.5, wraps=(0.5,))
    trace.interval_s = 0.002
    with EnergyLog(trace) as log:
        begin = time.monotonic()
        time.sleep(0.6)  # six times
        seconds = time.monotonic() - begin
    assert 5 * seconds <= log.joules() < 5 * seconds + 1.5


# ---- its life ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MeterKind)
def test_joules_can_be_read_while_a_run_goes_on(kind: MeterKind) -> None:
    log = EnergyLog(Board(kind, lambda _: 10.0))
    before = time.monotonic()
    log.start()
    after = time.monotonic()
    for _ in range(3):
        time.sleep(0.05)
        least = 10 * (time.monotonic() - after)
        found = log.joules()
        assert 0.99 * least <= found <= 1.01 * 10 * (time.monotonic() - before)
    log.stop()
    assert log.name == "board (a board)"
    total = log.joules()
    time.sleep(0.02)
    assert log.joules() == total, "nothing is added after the end"
    log.stop()
    assert log.joules() == total


def test_a_sensor_that_goes_away_is_an_error_from_then_on() -> None:
    board = Board(MeterKind.POWER, lambda _: 10.0)
    log = EnergyLog(board)
    log.start()
    time.sleep(0.05)
    board.gone = True
    time.sleep(0.05)
    assert log.failed, "the thread has seen it"
    board.gone = False  # what came back has a gap
    for _ in range(2):
        with pytest.raises(MeterAbsentError, match=r"unplugged\. \(0\.\d+ J had been counted\)"):
            log.joules()
    log.stop()
    with pytest.raises(MeterAbsentError):
        log.joules()


def test_the_thread_of_a_log_ends_when_its_meter_fails_between_two_readings() -> None:
    board = Board(MeterKind.COUNTER)  # polled every ten seconds
    log = EnergyLog(board)
    log.start()
    board.gone = True
    with pytest.raises(MeterAbsentError):
        log.mark()
    board.gone = False
    assert reading_threads(board, within_s=5.0) == 0
    with pytest.raises(MeterAbsentError):
        log.joules()
    log.stop()


def test_a_run_whose_meter_fails_ends_the_log() -> None:
    board = Board(MeterKind.COUNTER)
    with CostRecorder("search", meter=EnergyLog(board), interval=0.0) as recorder:
        board.gone = True
        with pytest.warns(MathNASWarning, match="the energy of this run is not known"):
            recorder.add(networks=1)
        assert reading_threads(board, within_s=5.0) == 0
    assert recorder.cost.joules is None


def reading_threads(meter: Board, within_s: float) -> int:
    """How many threads read a meter still, when the time is over or none does."""
    end = time.monotonic() + within_s
    while True:
        alive = sum(thread.name == f"meter {meter.name}" for thread in threading.enumerate())
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.01)


def test_a_sensor_that_is_not_there_at_the_start() -> None:
    board = Board()
    board.gone = True
    with pytest.raises(MeterAbsentError, match=r"^the board was unplugged\.$"):
        EnergyLog(board).start()


def test_a_sensor_that_goes_away_at_the_end_does_not_hide_what_the_run_did() -> None:
    board = Board(MeterKind.COUNTER)
    log = EnergyLog(board)

    def run() -> None:
        with log:
            board.gone = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    with pytest.raises(MeterAbsentError):
        log.joules()


def test_a_log_is_started_once_and_before_it_is_stopped() -> None:
    log = EnergyLog(Board())
    with pytest.raises(InvalidInputError, match="started before it is stopped"):
        log.stop()
    with log, pytest.raises(InvalidInputError, match="started once"):
        log.start()


@pytest.mark.parametrize("module", ["log", "evaluator"])
def test_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"mathnas.devices.energy.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
