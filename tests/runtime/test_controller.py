"""The controller: the best network that keeps the goal now."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runtime_cases import best, networks, run_of, serve, serving, world

from mathnas.errors import InvalidInputError
from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import EnergyBudget, Goal
from mathnas.runtime.observation import PartTimes
from mathnas.runtime.policy import Policy, Reason
from mathnas.space import Network
from mathnas.table import BlockTable
from mathnas.testing import PolicyContract
from mathnas.testing.policies import policy_table, policy_times


class TestController(PolicyContract):
    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        goal = Goal(deadline_ms=self.deadline_ms)
        return lambda: Controller(policy_table(), policy_times(), goal)


# ---- decisions against brute force -------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_it_starts_with_the_best_network_within_the_deadline(seed: int, share: float) -> None:
    table, times = world(nodes=4, blocks=3, seed=seed)
    deadline = between(times, share)
    controller = Controller(table, times, Goal(deadline_ms=deadline), caution=0.0)
    limit = deadline / controller.monitor.tail(0.02)
    decision = controller.start(0.0)
    assert decision.reason is Reason.START
    assert decision.quality == best(table, times.latency, limit)
    assert decision.latency_ms == pytest.approx(times.latency(decision.network))
    assert decision.proven


@pytest.mark.parametrize("seed", range(4))
def test_every_decision_is_the_best_by_what_is_known_then(seed: int) -> None:
    table, times = world(nodes=4, blocks=3, seed=seed)
    goal = Goal(deadline_ms=between(times, 0.7), dwell_s=0.0, room=0.0)
    controller = Controller(table, times, goal)

    def load(t: float) -> float:
        return 1.4 + 0.4 * float(np.sin(4 * t))

    checked = 0
    for _, decision in serve(controller, times, load, 4.0):
        if decision is None or decision.reason not in (Reason.TOO_SLOW, Reason.ROOM):
            continue
        now = controller.monitor.table(controller.caution)
        limit = goal.deadline_ms / controller.monitor.tail(goal.miss_rate)  # type: ignore[operator]

        def latency(network: Network, now: BlockTable = now) -> float:
            return now.exact(network, "latency_ms")

        assert decision.quality == best(table, latency, limit)
        assert decision.proven
        checked += 1
    assert checked >= 5


def test_few_runs_are_late_and_the_quality_is_near_the_best_possible() -> None:
    table, times = world(nodes=5, blocks=4, seed=1)
    deadline = between(times, 0.7)
    controller = Controller(table, times, Goal(deadline_ms=deadline))

    def load(t: float) -> float:
        return 1.5 if 3.0 <= t < 6.0 else 1.0

    late, reached, possible = [], [], []
    limits = {load(t): best(table, times.latency, deadline / load(t) / 1.05) for t in (0.0, 4.0)}
    for run, _ in serve(controller, times, load, 9.0):
        if run.time % 3.0 > 1.0:  # settled
            late.append(run.latency_ms > deadline)
            reached.append(table.exact(run.network, "accuracy"))
            possible.append(limits[load(run.time)])
    assert np.mean(late) <= 0.02
    assert np.mean(reached) >= np.mean(possible) - 0.3  # type: ignore[arg-type]
    assert np.mean(reached) > table.exact((0,) * 5, "accuracy") + 1.0


@pytest.mark.parametrize("load", [1.3, 1.8])
def test_a_jump_is_answered_within_a_tenth_of_a_second(load: float) -> None:
    table, times = world(nodes=5, blocks=4, seed=2)
    deadline = between(times, 0.8)
    controller = Controller(table, times, Goal(deadline_ms=deadline))

    def jump(t: float) -> float:
        return load if t >= 2.0 else 1.0

    runs = [run for run, _ in serve(controller, times, jump, 4.0)]
    late = [run.time for run in runs if run.time > 2.0 and run.latency_ms > deadline]
    assert late
    assert np.quantile(late, 0.5) < 2.1
    assert sum(time > 2.2 for time in late) <= 0.03 * len(runs)


def test_a_load_on_one_node_moves_that_node() -> None:
    """Relative costs change: what is best is not what would be best under a global factor."""
    table, times = world(nodes=3, blocks=4, seed=5)
    deadline = between(times, 0.7)
    controller = Controller(table, times, Goal(deadline_ms=deadline))
    node = np.array([1.0, 1.0, 1.0, 2.5, 1.0])
    runs = [run for run, _ in serve(controller, times, lambda _: node, 3.0)]

    def now(network: Network) -> float:
        return float((times.parts(network) * node).sum())

    possible = best(table, now, deadline / 1.08)
    assert table.exact(runs[-1].network, "accuracy") >= possible - 0.2  # type: ignore[operator]
    assert np.mean([run.latency_ms > deadline for run in runs[200:]]) <= 0.02


# ---- what else a goal says ---------------------------------------------------------------------


def test_a_better_network_has_to_be_better_by_the_hysteresis() -> None:
    table, times = world(nodes=3, blocks=4, seed=0)
    steps = []

    def load(t: float) -> float:
        return max(1.0, 2.0 - 0.25 * t)

    for hysteresis in (0.0, 0.5):
        goal = Goal(between(times, 0.7), hysteresis=hysteresis, dwell_s=0.0, period_s=0.05)
        controller = Controller(table, times, goal)
        before, gains = None, []
        for _, decision in serve(controller, times, load, 6.0):
            if decision is not None and decision.reason is Reason.ROOM and before is not None:
                gains.append(decision.quality - before)  # type: ignore[operator]
            before = table.exact(serving(controller), "accuracy")
        assert gains
        assert min(gains) >= hysteresis
        steps.append(len(gains))
    assert steps[1] < steps[0]


def test_dwell_holds_upward_switches_only() -> None:
    table, times = world(nodes=4, blocks=4, seed=1)
    goal = Goal(between(times, 0.6), dwell_s=1.0, period_s=0.0)
    controller = Controller(table, times, goal)

    def load(t: float) -> float:
        return 1.5 if int(t / 0.7) % 2 else 1.0

    ups: list[float] = []
    downs: list[float] = []
    last, quality = 0.0, None
    for _, decision in serve(controller, times, load, 8.0):
        if decision is not None and decision.changed:
            up = quality is not None and decision.quality > quality  # type: ignore[operator]
            (ups if up else downs).append(decision.time - last)
            last = decision.time
        quality = table.exact(serving(controller), "accuracy")
    assert ups
    assert min(ups) >= 1.0 - 0.02
    assert min(downs) < 1.0


def test_a_band_looks_for_better_networks_below_it_only() -> None:
    table, times = world(nodes=4, blocks=4, seed=3)
    deadline = between(times, 0.8)
    low = 0.6 * deadline
    controller = Controller(table, times, Goal(deadline, low_ms=low, dwell_s=0.0, period_s=0.05))

    def load(t: float) -> float:
        return 1.6 - 0.1 * t if t < 8 else 0.8

    rises = []
    before = 0.0
    for _, decision in serve(controller, times, load, 10.0):
        if decision is not None and decision.reason is Reason.ROOM:
            rises.append(before)
        before = controller.monitor.latency(serving(controller))[0]
    assert rises
    assert max(rises) < 1.03 * low


@pytest.mark.parametrize("count", [1, 2])
def test_a_switch_changes_no_more_nodes_than_allowed(count: int) -> None:
    table, times = world(nodes=5, blocks=4, seed=2)
    goal = Goal(between(times, 0.8), max_changed=count, dwell_s=0.0, period_s=0.05)
    controller = Controller(table, times, goal)

    def load(t: float) -> float:
        return 1.8 if 2.0 <= t < 4.0 else 1.0

    made = [(run, d) for run, d in serve(controller, times, load, 6.0) if d is not None]
    assert max(decision.changed for _, decision in made) == count
    assert all(decision.reason is not Reason.UNREACHABLE for _, decision in made)
    assert controller.monitor.latency(serving(controller))[0] <= goal.deadline_ms  # type: ignore[operator]


def test_the_floor_is_kept_whatever_the_load() -> None:
    table, times = world(nodes=4, blocks=3, seed=1)
    floor = best(table, times.latency, between(times, 0.4))
    assert floor is not None
    goal = Goal(between(times, 0.7), floor=floor)
    controller = Controller(table, times, goal)

    def load(t: float) -> float:
        return 3.0 if t >= 1.0 else 1.0

    runs = [run for run, _ in serve(controller, times, load, 3.0)]
    assert min(table.exact(run.network, "accuracy") for run in runs) >= floor
    assert controller.unreachable
    fastest = min(
        (n for n in networks(table.space) if table.exact(n, "accuracy") >= floor),
        key=times.latency,
    )
    assert times.latency(runs[-1].network) == pytest.approx(times.latency(fastest), rel=0.1)


def test_a_floor_that_no_network_keeps_is_refused() -> None:
    table, times = world()
    with pytest.raises(InvalidInputError, match="lower the floor, or deploy better blocks"):
        Controller(table, times, Goal(10, floor=99))


def test_where_nothing_meets_the_deadline_the_fastest_serves_and_it_is_said() -> None:
    table, times = world(nodes=4, blocks=3, seed=0)
    controller = Controller(table, times, Goal(between(times, 0.3)))

    def load(t: float) -> float:
        return 5.0 if 1.0 <= t < 3.0 else 1.0

    reasons, before = [], 0.0
    fastest = min(networks(table.space), key=times.latency)
    for run, decision in serve(controller, times, load, 5.0):
        if decision is not None:
            reasons.append(decision.reason)
        if before < 3.0 <= run.time:
            assert controller.unreachable
            assert controller.network == fastest
        before = run.time
    assert reasons.count(Reason.UNREACHABLE) == 1, "said once"
    assert not controller.unreachable
    assert table.exact(serving(controller), "accuracy") > table.exact(fastest, "accuracy")


def test_a_deadline_below_the_fastest_is_said_at_the_start() -> None:
    table, times = world()
    decision = Controller(table, times, Goal(0.1)).start(0.0)
    assert decision.reason is Reason.UNREACHABLE
    assert decision.network == min(networks(table.space), key=times.latency)


def test_another_goal_that_nothing_meets_is_answered_too() -> None:
    table, times = world()
    controller = Controller(table, times, Goal(0.1))
    fastest = controller.start(0.0).network
    controller.set_goal(Goal(0.2))
    decision = controller.observe(run_of(times, fastest, 0.02))
    assert decision is not None
    assert (decision.reason, decision.network) == (Reason.UNREACHABLE, fastest)
    controller.set_goal(Goal(100 * times.latency(fastest)))
    decision = controller.observe(run_of(times, fastest, 0.04))
    assert decision is not None
    assert decision.reason is Reason.GOAL
    assert not controller.unreachable


# ---- energy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_an_energy_budget_lasts_and_is_used(share: float) -> None:
    """Requests come every 20 ms: the budget allows a mean energy a run."""
    table, times = world(nodes=4, blocks=4, seed=2)
    energies = table.predict(networks(table.space), "energy_mj")
    mean_mj = float(energies.min() + share * (energies.max() - energies.min()))
    seconds, pace = 10.0, 0.02
    budget = EnergyBudget(mean_mj / 1000 * seconds / pace, seconds)
    goal = Goal(energy=budget, dwell_s=0.1, period_s=0.1)
    controller = Controller(table, times, goal)
    network, spent = controller.start(0.0).network, 0.0
    for k in range(1, int(seconds / pace)):
        spent += table.exact(network, "energy_mj") / 1000
        decision = controller.observe(run_of(times, network, pace * k))
        network = network if decision is None else decision.network
    assert 0.95 * budget.joules <= spent <= 1.01 * budget.joules


def test_a_budget_that_cannot_last_is_said_and_the_least_energy_serves() -> None:
    table, times = world(nodes=3, blocks=3)
    goal = Goal(energy=EnergyBudget(0.001, 100.0), period_s=0.05)
    controller = Controller(table, times, goal)
    reasons = [d.reason for _, d in serve(controller, times, lambda _: 1.0, 2.0) if d is not None]
    assert reasons[-1] is Reason.UNREACHABLE
    least = min(networks(table.space), key=lambda n: table.exact(n, "energy_mj"))
    assert serving(controller) == least


def test_a_budget_needs_its_metric() -> None:
    table, times = world()
    with pytest.raises(InvalidInputError, match="the table has no metric 'energy_mj_gpu'"):
        Controller(table, times, Goal(energy=EnergyBudget(1, 1, "energy_mj_gpu")))


# ---- another goal while it serves --------------------------------------------------------------


def test_a_new_goal_is_followed_with_the_next_run() -> None:
    table, times = world(nodes=4, blocks=3)
    controller = Controller(table, times, Goal(between(times, 0.9)))
    for _ in serve(controller, times, lambda _: 1.0, 1.0):
        pass
    tighter = Goal(between(times, 0.2))
    controller.set_goal(tighter)
    decision = controller.observe(run_of(times, serving(controller), 1.1))
    assert decision is not None
    assert decision.reason is Reason.GOAL
    assert controller.goal == tighter
    assert decision.limit_ms == tighter.deadline_ms
    assert decision.latency_ms <= tighter.deadline_ms  # type: ignore[operator]


def test_a_goal_that_cannot_be_kept_is_refused_and_the_old_one_stays() -> None:
    table, times = world()
    goal = Goal(10)
    controller = Controller(table, times, goal)
    with pytest.raises(InvalidInputError, match="a floor is kept by at least one network"):
        controller.set_goal(Goal(10, floor=99))
    assert controller.goal is goal


def test_it_is_started_before_it_observes() -> None:
    table, times = world()
    with pytest.raises(InvalidInputError, match="call start"):
        Controller(table, times, Goal(10)).observe(run_of(times, (0, 0, 0), 0.0))


def test_the_quality_is_named_where_the_table_does_not_say_it() -> None:
    table, times = world()
    bare = BlockTable(table.space, table.reference, {"latency_ms": table.column("latency_ms")})
    with pytest.raises(InvalidInputError, match="say which metric is the quality"):
        Controller(bare, times, Goal(10))


def between(times: PartTimes, share: float) -> float:
    """A deadline between the fastest (0) and the slowest (1) network."""
    flat = times.blocks.reshape(times.space.num_nodes, -1)
    fixed = times.stem + times.head
    low, high = fixed + float(flat.min(1).sum()), fixed + float(flat.max(1).sum())
    return low + share * (high - low)
