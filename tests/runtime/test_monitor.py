"""The monitor: what every network takes now, from the runs of those that served."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from resident_cases import plain_space
from runtime_cases import networks, run_of, world

from mathnas.errors import InvalidInputError
from mathnas.runtime.monitor import Monitor
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.window import Window


def watch(
    monitor: Monitor,
    times: PartTimes,
    loads: list[float],
    *,
    network: tuple[int, ...] = (1, 1, 1),
    noise: float = 0.02,
    begin: float = 0.0,
    whole: bool = False,
) -> list[Window]:
    """Runs every 10 ms; the windows that they made."""
    rng, windows = np.random.default_rng(3), []
    for k, load in enumerate(loads):
        run = run_of(times, network, begin + 0.01 * k, load, noise, rng, whole=whole)
        window = monitor.observe(run)
        if window is not None:
            windows.append(window)
    return windows


def test_a_window_holds_medians_of_its_runs() -> None:
    table, times = world()
    monitor = Monitor(table, times, runs=5, seconds=0.02)
    network = (0, 1, 2)
    runs = [run_of(times, network, 0.01 * k, load) for k, load in enumerate((1, 3, 2, 100, 1.5))]
    assert [monitor.observe(run) for run in runs[:4]] == [None] * 4
    window = monitor.observe(runs[4])
    assert window is not None
    assert (window.network, window.time, window.runs) == (network, 0.04, 5)
    assert window.latency_ms == runs[2].latency_ms
    assert window.parts_ms == runs[2].parts_ms
    assert window.latencies_ms == tuple(run.latency_ms for run in runs)


def test_a_window_of_quick_runs_lasts_long_enough() -> None:
    table, times = world()
    monitor = Monitor(table, times, runs=5, seconds=0.02)
    counts = [
        monitor.observe(run_of(times, (0, 0, 0), 0.001 * k)) is not None for k in range(1, 65)
    ]
    assert counts.index(True) == 20


def test_a_preempted_run_in_a_window_moves_nothing() -> None:
    table, times = world()
    calm, disturbed = (Monitor(table, times) for _ in range(2))
    watch(calm, times, [1.0] * 20, noise=0.0)
    watch(disturbed, times, [50.0 if k % 5 == 2 else 1.0 for k in range(20)], noise=0.0)
    np.testing.assert_allclose(disturbed.times.flat, calm.times.flat, rtol=1e-3)


def test_the_table_of_now_adds_up_to_what_is_expected() -> None:
    table, times = world(seed=2)
    monitor = Monitor(table, times)
    watch(monitor, times, [1.7] * 100)
    now = monitor.table()
    for network in networks(table.space):
        expected, _ = monitor.latency(network)
        assert now.exact(network, "latency_ms") == pytest.approx(expected, rel=1e-12)
        assert expected == pytest.approx(monitor.times.latency(network) * monitor.beside)
        assert now.exact(network, "accuracy") == table.exact(network, "accuracy")


@pytest.mark.parametrize("caution", [0.5, 2.0])
def test_a_limit_met_with_caution_is_met_with_deviations_to_spare(caution: float) -> None:
    table, times = world(seed=2)
    monitor = Monitor(table, times)
    watch(monitor, times, [1.2] * 50)
    now = monitor.table(caution)
    for network in networks(table.space):
        mean, deviation = monitor.latency(network)
        assert now.exact(network, "latency_ms") >= mean + caution * deviation - 1e-9


def test_what_a_run_takes_beside_its_parts_is_learned() -> None:
    table, times = world()
    monitor = Monitor(table, times)
    for k in range(100):
        run = run_of(times, (1, 1, 1), 0.01 * k)
        monitor.observe(replace(run, latency_ms=1.25 * run.latency_ms))
    assert monitor.beside == pytest.approx(1.25)
    np.testing.assert_allclose(monitor.times.flat, times.flat, rtol=0.01)


def test_waiting_that_falls_into_one_part_or_the_other_counts_with_the_whole() -> None:
    """As where a core is shared: no part's median tells of it, but every run takes longer."""
    table, times = world()
    monitor = Monitor(table, times)
    rng = np.random.default_rng(0)
    quiet = times.parts((1, 1, 1))
    for k in range(400):
        parts = quiet * np.exp(0.02 * rng.normal(size=5))
        parts[rng.integers(5)] += 6.0 if k >= 200 else 0.0
        run = Observation((1, 1, 1), 0.02 * k, float(parts.sum()), tuple(parts.tolist()))
        monitor.observe(run)
        if k >= 220:
            assert monitor.latency((1, 1, 1))[0] == pytest.approx(quiet.sum() + 6.0, rel=0.05)
    assert monitor.counts.changes == 1


def test_suspect_runs_that_tell_of_no_change_stay_with_the_others() -> None:
    table, times = world()
    noisy, calm = (Monitor(table, times) for _ in range(2))
    watch(noisy, times, [1.0] * 200, noise=0.3)
    watch(calm, times, [1.0] * 200, noise=0.02)
    changed = {}
    for name, monitor in (("noisy", noisy), ("calm", calm)):
        for k, load in enumerate((1.0, 1.0, 1.5)):
            assert monitor.observe(run_of(times, (1, 1, 1), 2.0 + 0.01 * k, load)) is None
        changed[name] = monitor.observe(run_of(times, (1, 1, 1), 2.03, 1.5), suspect=2)
    assert changed["noisy"] is None
    assert changed["calm"] is not None
    assert (changed["calm"].change, changed["calm"].runs) == (1, 2)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("load", [1.5, 4.0])
def test_a_jump_of_the_load_is_detected_and_learned_within_a_few_windows(
    whole: bool, load: float
) -> None:
    table, times = world()
    monitor = Monitor(table, times)
    watch(monitor, times, [1.0] * 200, whole=whole)
    assert monitor.counts.changes == 0
    windows = watch(monitor, times, [load] * 25, begin=2.0, whole=whole)
    assert 1 in [window.change for window in windows[:3]]
    assert monitor.latency((1, 1, 1))[0] == pytest.approx(load * times.latency((1, 1, 1)), rel=0.04)
    windows = watch(monitor, times, [1.0] * 25, begin=3.0, whole=whole)
    assert -1 in [window.change for window in windows[:3]]
    assert monitor.latency((1, 1, 1))[0] == pytest.approx(times.latency((1, 1, 1)), rel=0.04)


def test_a_slow_drift_is_followed_without_alarm() -> None:
    table, times = world()
    monitor = Monitor(table, times)
    loads = np.linspace(1.0, 2.0, 2000)
    watch(monitor, times, loads.tolist())
    assert monitor.counts.changes == 0
    assert monitor.latency((1, 1, 1))[0] == pytest.approx(2 * times.latency((1, 1, 1)), rel=0.05)


def test_the_share_of_runs_above_the_tail_is_about_what_was_asked_for() -> None:
    """Of each run, by what was known before it."""
    table, times = world()
    monitor = Monitor(table, times, tail_runs=1000)
    rng = np.random.default_rng(0)
    rates = (0.2, 0.1, 0.02)
    above = np.zeros(3)
    for k in range(4000):
        slow = 1.0 + 0.5 * float(rng.random() < 0.05)
        run = run_of(times, (1, 1, 1), 0.01 * k, slow, 0.02, rng)
        if k >= 1000:
            expected, _ = monitor.latency((1, 1, 1))
            above += [run.latency_ms > monitor.tail(rate) * expected for rate in rates]
        monitor.observe(run)
    np.testing.assert_allclose(above / 3000, rates, rtol=0.3)
    assert monitor.tail(0.1) < 1.1 < 1.4 < monitor.tail(0.02)


def test_the_tail_holds_where_every_second_run_is_interrupted() -> None:
    """Medians of windows jump between both kinds of runs: what was expected of a run when it came
    is often wrong, and known better soon after."""
    table, times = world()
    late = []
    for seed in range(4):
        monitor = Monitor(table, times, tail_runs=1000)
        rng = np.random.default_rng(seed)
        for k in range(5000):
            slow = 1.0 + 2.0 * float(rng.random() < 0.5)
            run = run_of(times, (1, 1, 1), 0.01 * k, slow, 0.02, rng)
            if k >= 1000:
                expected, _ = monitor.latency((1, 1, 1))
                late.append(run.latency_ms > monitor.tail(0.02) * expected)
            monitor.observe(run)
    assert np.mean(late) == pytest.approx(0.02, rel=0.3)


def test_the_tail_before_any_run_is_that_of_a_little_noise() -> None:
    table, times = world()
    monitor = Monitor(table, times, tail_runs=1000)
    assert monitor.tail(0.02) == pytest.approx(math.exp(0.03 * 2.0537), rel=0.01)
    assert monitor.tail(0.5) == pytest.approx(1.0, rel=0.01)


_RUBBISH: dict[str, dict[str, Any]] = {
    "nan": {"latency_ms": math.nan},
    "infinite": {"latency_ms": math.inf},
    "negative": {"latency_ms": -1.0},
    "zero": {"latency_ms": 0.0},
    "absurd": {"latency_ms": 1e300},
    "no time": {"time": math.nan},
    "no network": {"network": (0, 0, 9)},
    "short network": {"network": (0,)},
}


@pytest.mark.parametrize("what", _RUBBISH)
def test_a_run_that_cannot_be_is_dropped_and_counted(what: str) -> None:
    table, times = world()
    clean, dirty = (Monitor(table, times) for _ in range(2))
    rng = np.random.default_rng(0)
    for k in range(40):
        run = run_of(times, (1, 1, 1), 0.01 * k, 1.3, 0.02, rng)
        clean.observe(run)
        assert dirty.observe(replace(run, **_RUBBISH[what])) is None
        dirty.observe(run)
    assert dirty.counts.dropped == 40
    np.testing.assert_array_equal(dirty.model.mean, clean.model.mean)
    np.testing.assert_array_equal(dirty.model.covariance, clean.model.covariance)


@pytest.mark.parametrize(
    "parts", [(math.nan,) * 5, (-1.0,) * 5, (0.0,) * 5, (1.0,) * 4, (1e9,) * 5]
)
def test_of_a_run_whose_parts_cannot_be_the_latency_counts(parts: tuple[float, ...]) -> None:
    table, times = world()
    dirty, whole = (Monitor(table, times) for _ in range(2))
    for k in range(40):
        run = run_of(times, (1, 1, 1), 0.01 * k, 1.3)
        dirty.observe(replace(run, parts_ms=parts))
        whole.observe(replace(run, parts_ms=()))
    assert dirty.counts.wholes == 40
    np.testing.assert_array_equal(dirty.model.mean, whole.model.mean)


def test_a_clock_that_jumps_back_is_counted_and_time_goes_on() -> None:
    table, times = world()
    monitor = Monitor(table, times)
    watch(monitor, times, [1.0] * 50, begin=1000.0)
    before = monitor.elapsed
    watch(monitor, times, [1.0] * 50, begin=10.0)
    assert monitor.counts.jumps == 1
    assert before == pytest.approx(0.49)
    assert monitor.elapsed == pytest.approx(0.98)


def test_runs_of_a_network_that_left_too_early_are_not_used() -> None:
    table, times = world()
    monitor = Monitor(table, times)
    for k, network in enumerate([(0, 0, 0)] * 2 + [(1, 1, 1)] * 3 + [(2, 2, 2)]):
        monitor.observe(run_of(times, network, 0.01 * k))
    assert monitor.counts.unused == 2
    assert monitor.counts.windows == 1, "three make a median"


def test_blocks_that_compute_nothing_stay_at_zero() -> None:
    table, times = world(skips=True)
    monitor = Monitor(table, times)
    for k in range(50):
        monitor.observe(run_of(times, (0, 1, 0), 0.01 * k, 2.0))
    now = monitor.times
    assert (now.blocks[times.blocks == 0] == 0).all()
    assert now.latency((0, 1, 0)) == pytest.approx(2 * times.latency((0, 1, 0)), rel=0.02)


def test_a_table_without_latency_gets_one() -> None:
    table, times = world()
    bare = type(table)(table.space, table.reference, {"accuracy": table.column("accuracy")})
    now = Monitor(bare, times).table()
    assert now.exact((2, 1, 0), "latency_ms") == pytest.approx(times.latency((2, 1, 0)))


def test_what_does_not_fit_is_refused() -> None:
    table, times = world()
    other = PartTimes(plain_space(2, 2), 1.0, [1.0] * 4, 1.0)
    with pytest.raises(InvalidInputError, match="times and table are of one space"):
        Monitor(table, other)
    with pytest.raises(InvalidInputError, match="told in ms, but energy_mj is in mJ"):
        Monitor(table, times, "energy_mj")
    with pytest.raises(InvalidInputError, match="runs is positive, but got 0"):
        Monitor(table, times, runs=0)


def test_closing_nothing_is_no_window() -> None:
    table, times = world()
    monitor = Monitor(table, times)
    assert monitor.close() is None
    monitor.observe(Observation((0, 0, 0), 0.0, times.latency((0, 0, 0))))
    window = monitor.close()
    assert window is not None
    assert (window.runs, window.spread, window.parts_ms) == (1, None, ())
