"""Traces: what they say over time, files of them, and what heats up by its own load."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.thermal import ThermalConditions
from mathnas.runtime.traces import (
    Trace,
    burst_trace,
    constant_trace,
    diurnal_trace,
    observed_trace,
    ramp_trace,
    read_trace,
    step_trace,
)

NODES = 3
LATE = [0.0, 0.5, 1.0, 2.0, 0.0]  # the last node suffers twice, stem and head not at all


def test_a_step_holds_from_its_time_on_and_is_a_change() -> None:
    trace = step_trace(NODES, [(2.0, 1.5), (5.0, 1.0)])
    assert [trace.factors(t)[0] for t in (0.0, 1.999, 2.0, 4.999, 5.0, 1e9)] == [
        *(1.0, 1.0, 1.5, 1.5, 1.0, 1.0)
    ]
    assert trace.changes == (2.0, 5.0)
    assert trace.begin().factors(3.0).shape == (NODES + 2,)


def test_sensitivities_change_what_parts_cost_relative_to_each_other() -> None:
    trace = step_trace(NODES, [(1.0, 1.8)], sensitivity=LATE)
    np.testing.assert_allclose(trace.factors(0.5), 1.0)
    np.testing.assert_allclose(trace.factors(1.5), [1.0, 1.4, 1.8, 2.6, 1.0])


def test_a_ramp_rises_to_its_factor_and_falls_again() -> None:
    trace = ramp_trace(NODES, 10, 20, 2.0, back=(30, 40))
    at = [float(trace.factors(t)[1]) for t in (0, 9.9, 15, 20, 29, 35, 45)]
    np.testing.assert_allclose(at, [1, 1, 1.5, 2, 2, 1.5, 1], atol=0.011)
    assert trace.changes == (10, 30)


def test_bursts_are_the_same_for_a_seed_and_as_high_and_long_as_asked() -> None:
    options = {"every": 4.0, "length": 2.0, "factor": 3.0}
    one, same, other = (burst_trace(NODES, 200, seed=s, **options) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.values, same.values)
    assert one.times.tolist() == same.times.tolist() != other.times.tolist()
    starts, ends = one.times[1::2], one.times[2::2]
    lengths = ends - starts[: len(ends)]
    heights = one.values[1::2, 0]
    assert lengths.min() >= 1
    assert lengths.max() <= 3
    assert heights.min() >= 2
    assert heights.max() <= 3
    assert one.changes == tuple(one.times[1:].tolist())


def test_a_day_stays_between_quiet_and_its_factor() -> None:
    trace = diurnal_trace(NODES, 60, period=30, factor=2.0, seed=0, jitter=0.0)
    np.testing.assert_allclose(trace.factors(0.0), 1.0)
    np.testing.assert_allclose(trace.factors(15.0), 2.0, atol=1e-3)
    assert trace.values.min() >= 1
    assert trace.changes == ()
    shaken = diurnal_trace(NODES, 60, period=30, factor=2.0, seed=0, jitter=0.1)
    assert shaken.values.min() >= 1
    assert not np.array_equal(shaken.values, trace.values)


def test_a_saved_trace_is_read_again(tmp_path: Path) -> None:
    trace = step_trace(NODES, [(2.0, 1.5), (5.0, 1.1), (6.0, 1.0)], sensitivity=LATE)
    trace.save(tmp_path / "trace.csv")
    found = read_trace(tmp_path / "trace.csv", NODES)
    np.testing.assert_array_equal(found.times, trace.times)
    np.testing.assert_array_equal(found.values, trace.values)
    assert found.name == "trace"
    assert found.changes == (2.0, 5.0)  # from 1.1 to 1.0 is less than the change of 20 %


def test_one_factor_of_all_parts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    path.write_text("time,factor\n0,1\n1.5,2\n")
    trace = read_trace(path, NODES)
    assert trace.factors(2.0).tolist() == [2.0] * (NODES + 2)
    assert trace.changes == (1.5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line names the columns"),
        ("seconds,factor\n0,1\n", "the first line names the columns"),
        ("time,factor\n0,1\n1,high\n", "line 3"),
        ("time,factor\n0,1\n1\n", "line 3: expected 2 finite numbers"),
        ("time,factor\n0,1\n1,nan\n", "line 3: expected 2 finite numbers"),
        ("time,factor\n0,1\n1,0\n", "above 0, but got 0.0"),
        ("time,factor\n0,1\n2,1\n1,1\n", "ascend from 0"),
        ("time,factor\n1,1\n", "ascend from 0"),
        ("time,factor\n", "at least one piece"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "load.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_trace(path, NODES)


def test_files_of_other_nodes_and_missing_files(tmp_path: Path) -> None:
    step_trace(NODES + 1, [(1.0, 2.0)]).save(tmp_path / "other.csv")
    with pytest.raises(InvalidInputError, match="a trace of 3 nodes"):
        read_trace(tmp_path / "other.csv", NODES)
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_trace(tmp_path / "none.csv", NODES)
    (tmp_path / "bytes.csv").write_bytes(b"time,factor\n\xff\xfe\n")
    with pytest.raises(FileFormatError, match="is not a CSV file"):
        read_trace(tmp_path / "bytes.csv", NODES)


def test_numbers_that_make_no_trace_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="above 0, but got -1"):
        constant_trace(NODES, -1.0)
    with pytest.raises(InvalidInputError, match="ascend"):
        step_trace(NODES, [(1.0, 2.0), (1.0, 3.0)])
    with pytest.raises(InvalidInputError, match="starts before it ends"):
        ramp_trace(NODES, 5, 5, 2.0)
    with pytest.raises(InvalidInputError, match="every is positive"):
        burst_trace(NODES, 10, every=0, length=1, factor=2, seed=0)
    with pytest.raises(InvalidInputError, match="a jitter is at least 0"):
        diurnal_trace(NODES, 10, period=5, factor=2, seed=0, jitter=-1)
    for wrong in ([1.0] * NODES, [1.0, 1.0, -1.0, 1.0, 1.0]):
        with pytest.raises(InvalidInputError, match="sensitivities are at least 0"):
            step_trace(NODES, [(1.0, 2.0)], sensitivity=wrong)
    with pytest.raises(InvalidInputError, match="at least one piece"):
        Trace(np.zeros(2), np.ones((3, NODES + 2)))


def test_a_trace_of_what_was_observed_gives_the_load_back() -> None:
    """Served under a load, then recorded: the factors that were put in come out."""
    space = mn.SearchSpace(
        [mn.BlockNode(f"n{i}", (mn.Block("skip"), mn.Block("conv"))) for i in range(NODES)]
    )
    times = PartTimes(space, 1.0, [0.0, 3.0, 0.0, 2.0, 0.0, 4.0], 1.0)
    load = step_trace(NODES, [(2.0, 1.5), (4.0, 1.0)], sensitivity=LATE)
    runs = []
    for place, time in enumerate(np.arange(0.05, 6.0, 0.1).tolist()):
        network = (1, 1, place % 2)  # the last node computes in every second run
        parts = times.parts(network) * load.factors(time)
        runs.append(Observation(network, time, float(parts.sum()), tuple(parts.tolist())))
    found = observed_trace(runs, times, piece=0.5)
    for time in (0.1, 1.4, 2.2, 3.4, 4.4, 5.8):
        np.testing.assert_allclose(found.factors(time), load.factors(time))
    assert found.changes == (2.0, 4.0)
    rubbish = [
        Observation((1, 1, 1), 3.0, 9.0),
        Observation((1, 1, 1), math.nan, 9.0, (1.0,) * 5),
        Observation((1, 1, 1), 3.0, 9.0, (1.0, math.nan, 1.0, 1.0, 1.0)),
        Observation((1, 1, 1), 3.0, 9.0, (1.0, -1.0, 1.0, 1.0, 1.0)),
    ]
    again = observed_trace([*rubbish, *runs], times, piece=0.5)
    np.testing.assert_array_equal(again.values, found.values)
    with pytest.raises(InvalidInputError, match="got 4 runs without"):
        observed_trace(rubbish, times)


# ---- heat ----------------------------------------------------------------------------------------


def run(heat: ThermalConditions, until: float, share: float, step: float = 0.01) -> list[float]:
    """Runs that take a share of the time; the clock after each."""
    clocks, time = [], 0.0
    while time < until:
        heat.factors(time)
        heat.ran(time, time + share * step)
        clocks.append(heat.clock)
        time += step
    return clocks


def test_the_temperature_follows_the_first_order_equation() -> None:
    heat = ThermalConditions(NODES, ambient=30, heating=20, seconds=5, hot=90, cool=80)
    run(heat, 4.0, share=1.0)
    assert heat.temperature == pytest.approx(50 - 20 * math.exp(-4 / 5), abs=0.1)
    run_half = ThermalConditions(NODES, ambient=30, heating=20, seconds=5, hot=90, cool=80)
    run(run_half, 60.0, share=0.5)
    assert run_half.temperature == pytest.approx(40, abs=0.1)


def test_a_heavy_load_lowers_the_clock_and_a_light_one_does_not() -> None:
    heavy, light = (ThermalConditions(NODES, heating=60.0) for _ in range(2))
    assert min(run(heavy, 60, share=1.0)) < 1
    assert min(run(light, 60, share=0.4)) == 1
    assert light.changes == ()
    assert all(b - a >= 3.0 for a, b in zip(heavy.changes, heavy.changes[1:], strict=False))
    assert heavy.factors(60.0)[0] == pytest.approx(1 / heavy.clock)


def test_the_clock_comes_back_when_the_load_goes() -> None:
    heat = ThermalConditions(NODES, heating=60.0)
    run(heat, 40, share=1.0)
    assert heat.clock < 1
    for time in np.arange(41.0, 120.0, 1.0):
        heat.factors(float(time))
    assert heat.clock == 1
    assert heat.temperature == pytest.approx(35.0, abs=0.5)


def test_beginning_forgets_the_heat() -> None:
    heat = ThermalConditions(NODES, heating=60.0)
    run(heat, 60, share=1.0)
    fresh = heat.begin()
    assert (fresh.clock, fresh.temperature, fresh.changes) == (1.0, 35.0, ())
    assert heat.changes
    first = run(fresh, 30, share=1.0)
    assert first == run(heat.begin(), 30, share=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0.0}, "time constant positive"),
        ({"heating": -1.0}, "heating and wait at least 0"),
        ({"ambient": math.nan}, "temperatures are finite"),
        ({"cool": 70.0, "hot": 70.0}, "cool < hot must hold"),
        ({"clocks": (0.9, 0.5)}, "descend from 1"),
        ({"clocks": (1.0, 1.0)}, "descend from 1"),
        ({"clocks": (1.0, 0.0)}, "descend from 1"),
        ({"clocks": ()}, "descend from 1"),
    ],
)
def test_heat_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ThermalConditions(NODES, **options)  # type: ignore[arg-type]
