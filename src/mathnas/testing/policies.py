"""What every policy of a dynamic network keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from mathnas.metrics import metric_named
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.space import Block, BlockNode, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable

_GAINS = ((0.0, 1.1, 2.3), (0.0, 0.7, 1.6), (0.0, 0.4, 0.9), (0.0, 1.3, 1.9))
_TIMES = ((1.0, 1.8, 3.1), (1.0, 1.9, 2.3), (0.0, 0.9, 2.0), (1.0, 1.7, 3.0))
_STEM, _HEAD = 0.5, 0.3
_NAN, _INF = math.nan, math.inf


class PolicyContract:
    """Inherit and override the fixture `policy`.

    A policy is asked for the first network by `start` and takes one observation after the other.
    It is deterministic, reads no clock but that of the observations, answers networks of its space
    only, and what a broken timer says does it no harm.

    Attributes:
        deadline_ms: what the networks of `policy_table` are to keep; they take 3.8 to 11.2 ms.
        adapts: whether the policy goes to a faster network where the deadline is missed for long,
            and to a better one when there is room again.
        runs: after how many observations of a new load it has done so.

    Example::

        class TestMyPolicy(PolicyContract):
            @pytest.fixture
            def policy(self) -> Callable[[], Policy]:
                return lambda: MyPolicy(policy_table(), deadline_ms=self.deadline_ms)
    """

    deadline_ms: ClassVar[float] = 9.0
    adapts: ClassVar[bool] = True
    runs: ClassVar[int] = 300

    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        """Makes the policy under test, for `policy_table` and `policy_times`; each call anew."""
        raise NotImplementedError("override the fixture `policy` and return what makes yours.")

    def test_it_has_a_name(self, policy: Callable[[], Policy]) -> None:
        name = policy().name
        assert name
        assert name == name.strip()

    def test_it_starts_with_a_network_of_the_space(self, policy: Callable[[], Policy]) -> None:
        decision = policy().start(12.5)
        assert decision.reason in (Reason.START, Reason.UNREACHABLE)
        assert decision.changed == 0
        assert decision.time == 12.5
        check_decision(decision, decision.network)

    def test_every_decision_is_sound(self, policy: Callable[[], Policy]) -> None:
        made = drive(policy(), loads(400))
        check_decisions(made, made[0].network)

    def test_the_same_observations_make_the_same_decisions(
        self, policy: Callable[[], Policy]
    ) -> None:
        first, second = (drive(policy(), loads(400)) for _ in range(2))
        assert without_seconds(first) == without_seconds(second)

    def test_it_reads_no_clock_but_the_observations(
        self, policy: Callable[[], Policy], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read() -> float:
            raise AssertionError("a policy takes the time from its observations")

        expected = without_seconds(drive(policy(), loads(100)))
        under_test = policy()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", read)
            patch.setattr(time, "monotonic", read)
            found = drive(under_test, loads(100))
        assert without_seconds(found) == expected
        late = drive(policy(), loads(100), begin=1e6)
        assert [d.network for d in late] == [d.network for d in found]

    def test_it_keeps_what_is_within_reach(self, policy: Callable[[], Policy]) -> None:
        """Slower for a while, then quiet again."""
        if not self.adapts:
            pytest.skip("it does not adapt")
        times, under_test = policy_times(), policy()
        quiet, slow = [1.0] * self.runs, [1.8] * self.runs
        log: list[Observation] = []
        drive(under_test, [*quiet, *slow, *quiet], log=log)
        before, during, after = (log[(k + 1) * self.runs - 1].network for k in range(3))
        assert times.latency(before) <= self.deadline_ms
        assert 1.8 * times.latency(during) <= self.deadline_ms
        assert times.latency(after) <= self.deadline_ms
        qualities = [quality(network) for network in (before, during, after)]
        assert qualities[1] < min(qualities[0], qualities[2])

    def test_it_serves_on_where_nothing_meets_the_deadline_and_recovers(
        self, policy: Callable[[], Policy]
    ) -> None:
        if not self.adapts:
            pytest.skip("it does not adapt")
        log: list[Observation] = []
        drive(policy(), [1.0] * self.runs + [5.0] * self.runs + [1.0] * self.runs, log=log)
        worst, after = log[2 * self.runs - 1].network, log[-1].network
        times = policy_times()
        assert times.latency(worst) <= 1.3 * times.latency((0, 0, 0, 0)), "about the fastest"
        assert times.latency(after) <= self.deadline_ms
        assert quality(after) > quality(worst)

    def test_times_that_cannot_be_leave_no_trace(self, policy: Callable[[], Policy]) -> None:
        """A NaN, infinite, negative or zero latency is dropped."""
        clean = drive(policy(), loads(200))

        def broken(run: Observation) -> Iterator[Observation]:
            for value in (_NAN, _INF, -_INF, -1.0, 0.0):
                yield replace(run, latency_ms=value, parts_ms=())
                yield replace(run, latency_ms=value)

        made = drive(policy(), loads(200), before=broken)
        assert without_seconds(made) == without_seconds(clean)

    def test_it_survives_other_rubbish(self, policy: Callable[[], Policy]) -> None:
        def rubbish(run: Observation) -> Iterator[Observation]:
            yield replace(run, parts_ms=())
            yield replace(run, parts_ms=run.parts_ms[:-1])
            yield replace(run, parts_ms=(_NAN,) * len(run.parts_ms))
            yield replace(run, parts_ms=tuple(-part for part in run.parts_ms))
            yield replace(run, time=_NAN)
            yield replace(run, time=-_INF)
            yield replace(run, network=(9, 9, 9, 9))
            yield replace(run, network=())
            yield replace(run, latency_ms=1e300, parts_ms=(1e300,) * len(run.parts_ms))
            yield replace(run, latency_ms=1e-300, parts_ms=(1e-300,) * len(run.parts_ms))

        under_test = policy()
        made = drive(under_test, loads(100), before=rubbish)
        check_decisions(made, made[0].network)
        if self.adapts:
            log: list[Observation] = []
            last = made[-1].network
            drive(under_test, [1.0] * 2 * self.runs, log=log, serving=last, begin=1000.0)
            assert policy_times().latency(log[-1].network) <= self.deadline_ms, "it recovered"

    def test_a_clock_that_jumps_does_no_harm(self, policy: Callable[[], Policy]) -> None:
        for jump in (-3600.0, 3600.0):
            under_test = policy()
            log: list[Observation] = []
            made = drive(under_test, [1.0] * self.runs, log=log)
            after = drive(
                under_test,
                [1.8] * self.runs,
                log=log,
                serving=made[-1].network,
                begin=log[-1].time + jump,
            )
            check_decisions(after, made[-1].network)
            if self.adapts:
                assert 1.8 * policy_times().latency(log[-1].network) <= self.deadline_ms


def policy_space() -> SearchSpace:
    """Four nodes with three blocks each."""
    nodes = [
        BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=1.0 + i + 3 * j) for j in range(3)))
        for i in range(4)
    ]
    return SearchSpace(nodes, name="policies", fixed_macs=2.0)


def policy_table() -> BlockTable:
    """Accuracy and latency of the networks of `policy_space`."""
    space = policy_space()
    nothing = np.zeros(space.num_blocks)
    accuracy = np.concatenate([np.array(own) for own in _GAINS])
    fastest = sum(own[0] for own in _TIMES)
    latency = np.concatenate([np.array(own) - own[0] for own in _TIMES])
    columns = {
        name: BlockEffects(metric_named(name), base, effects, nothing, nothing + 1)
        for name, base, effects in (
            ("accuracy", 70.0, accuracy),
            ("latency_ms", _STEM + fastest + _HEAD, latency),
        )
    }
    return BlockTable(space, (0, 0, 0, 0), columns)


def policy_times() -> PartTimes:
    """The times that add up to the latencies of `policy_table`."""
    return PartTimes(policy_space(), _STEM, [time for own in _TIMES for time in own], _HEAD)


def quality(network: Network) -> float:
    """The accuracy of a network of `policy_space`."""
    return 70 + sum(own[block] for own, block in zip(_GAINS, network, strict=True))


def loads(count: int) -> list[float]:
    """A load that rises, falls and jumps: what the latencies are multiplied by."""
    places = np.arange(count)
    waves = 1.4 + 0.4 * np.sin(places / 25)
    jumps = np.where((places // 70) % 2 == 1, 1.3, 1.0)
    return [float(load) for load in waves * jumps]


def drive(
    policy: Policy,
    loads: Sequence[float],
    *,
    serving: Network | None = None,
    begin: float = 0.0,
    before: Callable[[Observation], Iterator[Observation]] | None = None,
    log: list[Observation] | None = None,
    noise: float = 0.02,
) -> list[Decision]:
    """Serve through a policy under loads, one run after the other.

    Args:
        loads: what the parts' times of each run are multiplied by.
        serving: the network that serves; by default `start` is asked.
        begin: when, by the loop's clock.
        before: observations that are put in before each run's own, at its time.
        log: the runs are appended to it.
        noise: lognormal, of each part; always the same draws.

    Returns:
        All decisions, the first one included where `start` was asked.
    """
    times, rng = policy_times(), np.random.default_rng(5)
    made: list[Decision] = []
    if serving is None:
        made.append(policy.start(begin))
        serving = made[0].network
    clock = begin
    for load in loads:
        parts = times.parts(serving) * load * np.exp(noise * rng.normal(size=6))
        latency = float(parts.sum()) * 1.01
        clock += latency / 1000 + 0.002
        run = Observation(serving, clock, latency, tuple(parts.tolist()))
        seen = [*(before(run) if before is not None else ()), run]
        if log is not None:
            log.append(run)
        for observation in seen:
            decision = policy.observe(observation)
            if decision is not None:
                made.append(decision)
                serving = decision.network
    return made


def check_decision(decision: Decision, serving: Network) -> None:
    """A decision is sound: its network is one of the space, and its numbers are numbers."""
    assert policy_space().check(decision.network) == decision.network
    assert all(type(block) is int for block in decision.network)
    differ = sum(own != other for own, other in zip(decision.network, serving, strict=True))
    assert decision.changed == differ
    assert isinstance(decision.reason, Reason)
    assert math.isfinite(decision.seconds)
    assert decision.seconds >= 0
    for number in (decision.latency_ms, decision.quality, decision.limit_ms):
        assert number is None or (math.isfinite(number) and number >= 0)


def check_decisions(decisions: Sequence[Decision], serving: Network) -> None:
    """Decisions, one after the other, are sound; `serving` is the network before the first."""
    for decision in decisions:
        check_decision(decision, serving)
        serving = decision.network


def without_seconds(decisions: Sequence[Decision]) -> list[Decision]:
    """Decisions but for how long they took, which no two runs have in common."""
    return [replace(decision, seconds=0.0) for decision in decisions]
