"""Timing in turns: what is estimated, and how it withstands disturbance."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from mathnas import InvalidInputError
from mathnas.devices.timing import Timing, TimingSettings, quartile_spread, time_in_turns

QUICK = TimingSettings(rounds=6, slice_ms=2.0, warmup_ms=20.0)


def busy(milliseconds: float) -> Callable[[], None]:
    def run() -> None:
        end = time.perf_counter() + milliseconds / 1000
        while time.perf_counter() < end:
            pass

    return run


class Clock:
    """Stands in for the machine: a call takes what its schedule says, and time stands otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.calls: list[str] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_ns / 1e9)
        self.busy_ns = 0
        monkeypatch.setattr(time, "process_time_ns", lambda: self.busy_ns)

    def call(self, name: str, milliseconds: Callable[[int], float]) -> Callable[[], None]:
        count = 0

        def run() -> None:
            nonlocal count
            self.calls.append(name)
            self.now_ns += round(milliseconds(count) * 1e6)
            self.busy_ns += round(min(1.0, milliseconds(count)) * 1e6)  # more is somebody else's
            count += 1

        return run


def test_a_busy_call_takes_its_time() -> None:
    short, long = time_in_turns([busy(0.1), busy(0.3)], QUICK)
    assert 0.1 <= short.value < 0.15
    assert 0.3 <= long.value < 0.4


def test_the_spread_that_quartiles_imply_is_the_deviation_and_ignores_a_disturbed_tail() -> None:
    values = np.random.default_rng(0).normal(7.0, 2.0, 100_000)
    assert quartile_spread(values) == pytest.approx(2.0, rel=0.02)
    values[values > np.quantile(values, 0.8)] *= 50
    assert quartile_spread(values) == pytest.approx(2.0, rel=0.02)
    assert quartile_spread(np.full(3, 1.5)) == 0


def test_calls_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    settings = TimingSettings(rounds=3, slice_ms=5.0)
    time_in_turns([clock.call("a", lambda _: 1.0), clock.call("b", lambda _: 0.5)], settings)
    timed = "".join(clock.calls)[-3 * 15 :]
    rounds = [timed[start : start + 15] for start in range(0, 45, 15)]
    assert set(rounds) <= {"a" * 5 + "b" * 10, "b" * 10 + "a" * 5}


def test_the_order_of_turns_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = [clock.call(name, lambda _: 1.0) for name in "abcd"]
    time_in_turns(calls, TimingSettings(rounds=12, slice_ms=5.0))
    timed = clock.calls[-12 * 20 :: 5]
    rounds = [tuple(timed[start : start + 4]) for start in range(0, 48, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 6


def test_what_comes_again_and_again_does_not_meet_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 20 ms, which is a round, the machine is slow for 5 ms, which is a slice."""
    clock = Clock(monkeypatch)

    def now_and_then(_: int) -> float:
        return 2.0 if clock.now_ns % 20_000_000 < 5_000_000 else 1.0

    calls = [clock.call(name, now_and_then) for name in "abcd"]
    for found in time_in_turns(calls, TimingSettings(rounds=20, slice_ms=5.0)):
        assert found.value == pytest.approx(1.0)


def test_interruptions_inside_a_slice_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    call = clock.call("a", lambda count: 50.0 if count % 4 == 0 else 1.0)
    (found,) = time_in_turns([call], TimingSettings(rounds=5, slice_ms=8.0))
    assert found.value == pytest.approx(1.0)
    assert found.spread == pytest.approx(0.0)


def test_slow_periods_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slowly(count: int) -> float:
        return 1.0 if clock.now_ns < 100e6 else 1.6

    (found,) = time_in_turns([clock.call("a", slowly)], TimingSettings(rounds=20, slice_ms=5.0))
    assert found.value == pytest.approx(1.0)


def test_the_quantile_is_over_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # two runs to warm up with, then ten slices of five runs: 1 ms, 1.1 ms, ..., 1.9 ms
    warmup = 1 + 5 + 5

    def rising(count: int) -> float:
        return 1.0 if count < warmup else 1.0 + ((count - warmup) // 5) / 10

    settings = TimingSettings(rounds=10, slice_ms=5.0, quantile=0.5)
    (found,) = time_in_turns([clock.call("a", rising)], settings)
    assert found.value == pytest.approx(1.45)
    assert found.spread == pytest.approx(0.45 / 1.349)
    assert found.repeats == 50


def test_warming_up_lasts_until_times_are_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # a just-in-time compiler that is done after 40 runs
    call = clock.call("a", lambda count: max(1.0, 5.0 - count / 10))
    (found,) = time_in_turns([call], TimingSettings(rounds=4, slice_ms=5.0, warmup_ms=1000))
    assert found.value == pytest.approx(1.0, rel=0.2)


def test_warming_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    call = clock.call("a", lambda count: 1.0 + count)  # never stable
    settings = TimingSettings(rounds=1, slice_ms=1.0, warmup_ms=50)
    time_in_turns([call], settings)
    assert len(clock.calls) < 50


def test_processor_time_stands_beside_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # every second run is interrupted for 3 ms
    call = clock.call("a", lambda count: 4.0 if count % 2 else 1.0)
    (found,) = time_in_turns([call], TimingSettings(rounds=4, slice_ms=6.0))
    assert found.cpu_ms == pytest.approx(1.0)
    assert found.minimum == pytest.approx(1.0)
    assert found.idle == pytest.approx(1.5 / 2.5, abs=0.05)
    assert found.wall.mean() == pytest.approx(2.5, abs=0.2)


def test_a_machine_that_slows_down_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def hotter(_: int) -> float:
        return 0.5 if clock.now_ns < 100e6 else 0.6

    calls = [clock.call(name, hotter) for name in "ab"]
    for found in time_in_turns(calls, TimingSettings(rounds=20, slice_ms=5.0)):
        assert found.drift == pytest.approx(0.2)
    (steady,) = time_in_turns([clock.call("c", hotter)], TimingSettings(rounds=20, slice_ms=5.0))
    assert steady.drift == pytest.approx(0.0)


def test_further_statistics_become_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    call = clock.call("a", lambda count: 0.5 + count % 5 / 10)
    (found,) = time_in_turns([call], TimingSettings(rounds=4, slice_ms=3.5))
    assert found.measurement("min").value == pytest.approx(0.5)
    assert found.measurement("median").value == pytest.approx(0.7)
    kept = found.measurement(notes={"load": "1"})
    assert (kept.value, kept.repeats, kept.notes) == (found.value, found.repeats, {"load": "1"})
    with pytest.raises(
        InvalidInputError, match="median, min, trimmed, cpu, each once, but got 'mode'"
    ):
        found.measurement("mode")


class Metronome:
    """Says itself how long it took: 7 ms, whatever the machine's clock says."""

    def __call__(self) -> None: ...

    def last_ms(self) -> float:
        return 7.0


def test_a_trimmed_mean_leaves_the_fastest_and_the_slowest_tenth_out() -> None:
    slices = np.array([9.0, *np.arange(1.0, 19.0), 0.0])
    found = Timing(slices, slices, slices, 0.0, 5, 0.1)
    kept = np.sort(slices)[2:-2]
    assert found.trimmed == pytest.approx(kept.mean())
    assert found.measurement("trimmed").value == found.trimmed


def test_what_has_a_clock_of_its_own_is_timed_by_it() -> None:
    (found,) = time_in_turns([Metronome()], QUICK)
    assert (found.value, found.spread) == (7.0, 0.0)


def test_garbage_is_not_collected_while_timing() -> None:
    seen: list[bool] = []

    def run() -> None:
        seen.append(gc.isenabled())
        busy(0.05)()

    time_in_turns([run], QUICK)
    assert not any(seen[-6 * 5 :])
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_error() -> None:
    calls = 0

    def fails() -> None:
        nonlocal calls
        calls += 1
        busy(0.1)()
        if not gc.isenabled():
            raise RuntimeError("the engine broke")

    with pytest.raises(RuntimeError, match="the engine broke"):
        time_in_turns([fails], QUICK)
    assert gc.isenabled()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1 round"):
        TimingSettings(rounds=0)
    with pytest.raises(InvalidInputError, match="longer than 0 ms"):
        TimingSettings(slice_ms=0)
    with pytest.raises(InvalidInputError, match=r"a quantile lies in \[0, 1\], but got 1.5"):
        TimingSettings(quantile=1.5)
