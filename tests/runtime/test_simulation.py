"""The simulator against hand computations."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import mathnas as mn
from mathnas.errors import InvalidInputError
from mathnas.metrics import metric_named
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.runtime.served import Served
from mathnas.runtime.simulation import World, best_fixed, simulate
from mathnas.runtime.thermal import ThermalConditions
from mathnas.runtime.traces import constant_trace, step_trace

SPACE = mn.SearchSpace(
    [mn.BlockNode(f"n{i}", (mn.Block("small"), mn.Block("large"))) for i in range(2)]
)
TIMES = PartTimes(SPACE, 1.0, [2.0, 4.0, 3.0, 6.0], 1.0)
SMALL, LARGE = (0, 0), (1, 1)  # 7 and 12 ms
QUIET = constant_trace(2)


class Scripted(Policy):
    """Serves SMALL; after run number k (from 1) whatever the script says."""

    name = "scripted"

    def __init__(self, script: Mapping[int, mn.Network] | None = None) -> None:
        self.script = dict(script or {})
        self.seen: list[Observation] = []
        self.network: mn.Network = SMALL

    def start(self, time: float) -> Decision:
        return Decision(time, Reason.START, SMALL, 0)

    def observe(self, observation: Observation) -> Decision | None:
        self.seen.append(observation)
        network = self.script.get(len(self.seen))
        if network is None:
            return None
        changed = sum(a != b for a, b in zip(self.network, network, strict=True))
        self.network = network
        return Decision(observation.time, Reason.ROOM, network, changed)


def exact(**options: object) -> World:
    """Without noise, outliers and errors of offline times."""
    given: dict[str, object] = {
        "conditions": QUIET,
        "seconds": 0.1,
        "deadline_ms": 10.0,
        "noise": 0.0,
        "outliers": 0.0,
        "switch_seconds": 0.0,
    }
    return World(TIMES, **{**given, **options})  # type: ignore[arg-type]


def test_a_closed_loop_runs_one_after_the_other() -> None:
    policy = Scripted()
    served = simulate(policy, exact(seconds=0.05))
    np.testing.assert_allclose(served.times, np.arange(8) * 7e-3)  # the last starts before 50 ms
    np.testing.assert_allclose(served.latencies_ms, 7.0)
    np.testing.assert_allclose([o.time for o in policy.seen], np.arange(1, 9) * 7e-3)
    assert policy.seen[0].parts_ms == (1.0, 2.0, 3.0, 1.0)
    assert served.switches == served.changed_blocks == 0


def test_requests_wait_while_another_one_runs() -> None:
    """Every 5 ms one that takes 7 ms: number k waits 2 k ms; policies see what runs take."""
    policy = Scripted()
    served = simulate(policy, exact(rate=200.0, seconds=0.025))
    np.testing.assert_allclose(served.times, np.arange(5) * 5e-3)
    np.testing.assert_allclose(served.latencies_ms, [7, 9, 11, 13, 15])
    np.testing.assert_allclose([o.latency_ms for o in policy.seen], 7.0)
    assert served.missed.tolist() == [False, False, True, True, True]
    assert served.misses(settled=False) == pytest.approx(0.6)


def test_where_there_is_room_nothing_waits() -> None:
    served = simulate(Scripted(), exact(rate=100.0))
    np.testing.assert_allclose(served.latencies_ms, 7.0)
    assert len(served.times) == 10


def test_a_switch_holds_from_the_next_run_and_takes_its_time() -> None:
    served = simulate(Scripted({2: LARGE, 4: (1, 0)}), exact(switch_seconds=0.5e-3, seconds=0.045))
    assert [tuple(n) for n in served.networks.tolist()] == [*(SMALL, SMALL, LARGE, LARGE, (1, 0))]
    np.testing.assert_allclose(served.times, [0, 7e-3, 14.5e-3, 26.5e-3, 39e-3])
    assert (served.switches, served.changed_blocks) == (2, 3)
    assert served.missed.tolist() == [False, False, True, True, False]


def test_factors_of_the_moment_a_run_starts_hold_for_it() -> None:
    trace = step_trace(2, [(0.010, 2.0)], sensitivity=[0.0, 1.0, 0.5, 0.0])
    policy = Scripted()
    served = simulate(policy, exact(conditions=trace, seconds=0.02))
    # at 7 ms it is quiet still; at 14 ms node 0 takes twice, node 1 1.5 times as long
    np.testing.assert_allclose(served.latencies_ms, [7, 7, 1 + 4 + 4.5 + 1])
    assert policy.seen[2].parts_ms == pytest.approx((1, 4, 4.5, 1))
    assert served.changes == (0.010,)


def test_runs_heat_what_heats_up() -> None:
    heat = ThermalConditions(2, heating=80.0, seconds=2.0, wait=0.5)
    always = simulate(Scripted(), exact(conditions=heat, seconds=20.0))
    seldom = simulate(Scripted(), exact(conditions=heat, seconds=20.0, rate=20.0))
    assert always.changes
    assert always.latencies_ms.max() >= 7 / 0.8 - 1e-9
    assert seldom.changes == ()
    again = simulate(Scripted(), exact(conditions=heat, seconds=20.0))
    np.testing.assert_array_equal(again.latencies_ms, always.latencies_ms)


def test_every_policy_meets_the_same_luck() -> None:
    options: dict[str, object] = {"noise": 0.1, "outliers": 0.05, "deviation": 0.2, "rate": 20.0}
    one = simulate(Scripted(), exact(**options, seconds=10.0, seed=3))
    other = simulate(Scripted({50: LARGE, 100: SMALL}), exact(**options, seconds=10.0, seed=3))
    same = (other.networks == np.array(SMALL)).all(axis=1) & (one.latencies_ms < 15)
    same[50:102] = False  # a long run of the large network may make one wait
    np.testing.assert_allclose(one.latencies_ms[same], other.latencies_ms[same])
    different = simulate(Scripted(), exact(**options, seconds=10.0, seed=4))
    assert not np.allclose(one.latencies_ms, different.latencies_ms)


def test_noise_deviation_and_outliers_are_as_large_as_asked() -> None:
    noisy = simulate(policy := Scripted(), exact(noise=0.1, seconds=20.0))
    parts = np.log([o.parts_ms for o in policy.seen])
    np.testing.assert_allclose(parts.std(axis=0), 0.1, rtol=0.1)
    assert abs(np.corrcoef(parts.T)[0, 1]) < 0.1
    assert noisy.latencies_ms.mean() == pytest.approx(7 * math.exp(0.005), rel=0.01)
    ratios = [exact(deviation=0.2, seed=seed).true_times().flat / TIMES.flat for seed in range(300)]
    assert np.log(ratios).std() == pytest.approx(0.2, rel=0.1)
    hit = simulate(Scripted(), exact(outliers=0.1, outlier_ms=50.0, rate=5.0, seconds=400.0))
    late = hit.latencies_ms > 7.001
    assert late.mean() == pytest.approx(0.1, rel=0.25)
    assert hit.latencies_ms[late].min() >= 7 + 25
    assert hit.latencies_ms[late].max() <= 7 + 75


def test_parts_need_not_be_timed() -> None:
    policy = Scripted()
    simulate(policy, exact(timed_parts=False))
    assert {o.parts_ms for o in policy.seen} == {()}


def test_what_a_policy_must_not_do() -> None:
    with pytest.raises(InvalidInputError, match="node"):
        simulate(Scripted({1: (0, 7)}), exact())

    class Wrong(Scripted):
        def observe(self, observation: Observation) -> Decision | None:
            return Decision(observation.time, Reason.ROOM, LARGE, 1)

    with pytest.raises(InvalidInputError, match="says 1, and 2 do"):
        simulate(Wrong(), exact())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0.0}, "seconds is positive"),
        ({"deadline_ms": math.nan}, "deadline_ms is positive"),
        ({"rate": -1.0}, "rate is positive"),
        ({"noise": -0.1}, "noise is finite and at least 0"),
        ({"deviation": math.inf}, "deviation is finite"),
        ({"outliers": 1.5}, "from 0 to 1"),
        ({"conditions": constant_trace(3)}, "stem, 2 nodes and head"),
    ],
)
def test_worlds_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        exact(**options)


# ---- scores --------------------------------------------------------------------------------------


def record(
    times: Sequence[float], latencies: Sequence[float], changes: Sequence[float] = ()
) -> Served:
    networks = np.zeros((len(times), 2), dtype=np.intp)
    return Served("p", 10.0, np.array(times), np.array(latencies), networks, (), tuple(changes))


def test_misses_right_after_a_change_are_not_held_against_a_policy() -> None:
    served = record([0.5, 1.0, 1.5, 2.0, 2.5], [11, 11, 11, 9, 10], changes=[1.0])
    assert served.settled().tolist() == [True, False, False, True, True]
    assert served.misses() == pytest.approx(1 / 3)
    assert served.misses(settled=False) == pytest.approx(3 / 5)
    assert served.misses(seconds=0.75) == pytest.approx(1 / 3)
    assert served.misses(seconds=0.25) == pytest.approx(2 / 4)
    assert record([], []).misses() == 0


def test_quality_is_that_of_the_networks_that_ran() -> None:
    nan = np.full(4, np.nan)
    effects = np.array([0.0, 2.0, 0.0, 3.0])
    accuracy = mn.BlockEffects(metric_named("accuracy"), 70.0, effects, nan, nan)
    table = mn.BlockTable(SPACE, (0, 0), {"accuracy": accuracy})
    served = simulate(Scripted({2: LARGE, 3: (0, 1)}), exact(seconds=0.035))
    np.testing.assert_allclose(served.expected(table, "accuracy"), [70, 70, 75, 73])
    known: dict[mn.Network, float] = {SMALL: 60.0, LARGE: 64.0, (0, 1): 61.0}
    np.testing.assert_allclose(served.known(known), [60, 60, 64, 61])
    with pytest.raises(InvalidInputError, match=r"but not for \(0, 1\)"):
        served.known({SMALL: 60.0, LARGE: 64.0})


def test_hindsight_takes_the_best_of_those_that_met_the_deadline() -> None:
    many = range(100)
    few_missed, half_missed, all_missed = (
        record([float(i) for i in many], [11.0 if i < n else 9.0 for i in many])
        for n in (2, 50, 100)
    )
    assert best_fixed([1, 2, 3], [few_missed, few_missed, half_missed]) == 1
    assert best_fixed([1, 2, 3], [half_missed, all_missed, all_missed]) == 0
    with pytest.raises(InvalidInputError, match="with a quality and a record each"):
        best_fixed([1, 2, 3], [few_missed])


def test_it_needs_numpy_alone() -> None:
    """It is also what runs on the device."""
    code = (
        "import sys, mathnas.runtime.simulation\n"
        "import mathnas.runtime.policies, mathnas.runtime.thermal\n"
        "print({'torch', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
