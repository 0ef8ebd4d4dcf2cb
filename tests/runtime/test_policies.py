"""The policies that others would use, on cases small enough to enumerate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

import mathnas as mn
from mathnas.errors import InvalidInputError
from mathnas.metrics import metric_named
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policies import (
    FixedPolicy,
    LadderPolicy,
    LightHeavyPolicy,
    Offline,
    front_networks,
    largest_network,
    slimmed_networks,
    smallest_network,
    width_networks,
)
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.testing.policies import PolicyContract, policy_table, policy_times

NODES, BLOCKS = 3, 4


def offline(seed: int = 0, nodes: int = NODES, blocks: int = BLOCKS) -> Offline:
    """Blocks that are slower and better in their order, by random amounts."""
    rng = np.random.default_rng(seed)
    space = mn.SearchSpace(
        [
            mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}", macs=1.0 + j) for j in range(blocks)))
            for i in range(nodes)
        ],
        fixed_macs=1.0,
    )
    times = np.concatenate([np.sort(rng.uniform(1, 5, blocks)) for _ in range(nodes)])
    gains = np.concatenate([np.sort(rng.uniform(0, 3, blocks)) for _ in range(nodes)])
    gains -= np.repeat(gains[::blocks], blocks)
    nan = np.full(nodes * blocks, np.nan)
    accuracy = mn.BlockEffects(metric_named("accuracy"), 70.0, gains, nan, nan)
    table = mn.BlockTable(space, (0,) * nodes, {"accuracy": accuracy})
    return Offline(table, PartTimes(space, 0.5, times, 0.5))


def best_within(known: Offline, limit: float) -> mn.Network:
    """By enumeration."""
    fitting = [n for n in known.space.enumerate() if known.latency(n) <= limit]
    return max(fitting, key=known.quality)


def feed(policy: Policy, network: mn.Network, latency: float, runs: int) -> list[Decision]:
    """The decisions after runs of one network that take all the same time."""
    seen = [Observation(network, float(i), latency) for i in range(runs)]
    return [d for d in map(policy.observe, seen) if d is not None]


# ---- which networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_table_that_is_searched_has_the_sums_of_parts(seed: int) -> None:
    known = offline(seed)
    for network in known.space.enumerate():
        predicted = known.table.exact(network, "latency_ms")
        assert predicted == pytest.approx(known.latency(network), rel=1e-12)


def test_extreme_networks() -> None:
    known = offline()
    every = list(known.space.enumerate())
    assert smallest_network(known) == min(every, key=known.latency)
    assert largest_network(known) == max(every, key=known.latency)


@pytest.mark.parametrize("seed", range(4))
def test_front_networks_are_undominated_and_span_the_front(seed: int) -> None:
    known = offline(seed)
    networks = front_networks(known, 5)
    every = list(known.space.enumerate())
    for network in networks:
        assert not any(
            known.latency(other) <= known.latency(network)
            and known.quality(other) > known.quality(network) + 1e-9
            for other in every
        )
    latencies = [known.latency(network) for network in networks]
    assert latencies == sorted(latencies)
    assert networks[0] == smallest_network(known)
    assert known.quality(networks[-1]) == pytest.approx(max(map(known.quality, every)))
    assert len(networks) == len(set(networks)) == 5


def test_a_front_with_gaps_gives_as_many_networks_as_it_has() -> None:
    """One block that is ten times as slow as the rest leaves most of the latencies empty."""
    known = offline()
    blocks = known.times.blocks.copy()
    blocks[BLOCKS - 1] += 100.0
    gapped = Offline(known.table, PartTimes(known.space, 0.5, blocks, 0.5))
    latencies = [gapped.latency(network) for network in front_networks(gapped, 7)]
    assert len(set(latencies)) == 7
    assert latencies == sorted(latencies)
    assert len(front_networks(gapped, 500)) <= 64


def test_widths_are_one_rank_in_every_node_and_between_two_ranks_the_first_nodes_are_ahead() -> (
    None
):
    known = offline()
    assert width_networks(known, 4) == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)]
    # 9 steps of a third of a rank: one node after the other
    nine = width_networks(known, 10)
    assert nine[:4] == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert len(nine) == 10
    assert len(width_networks(known, 27)) == 10  # there are no more
    assert width_networks(known, 2) == [(0, 0, 0), (3, 3, 3)]


def test_greedy_slimming_takes_the_cheapest_step_each_time() -> None:
    known = offline(seed=2)
    path = [largest_network(known)]
    while path[-1] != smallest_network(known):
        options = []
        for node, block in enumerate(path[-1]):
            if block:
                smaller = (*path[-1][:node], block - 1, *path[-1][node + 1 :])
                lost = known.quality(path[-1]) - known.quality(smaller)
                options.append((lost / (known.latency(path[-1]) - known.latency(smaller)), smaller))
        path.append(min(options)[1])
    assert len(path) == 1 + NODES * (BLOCKS - 1)
    assert slimmed_networks(known, 500) == path[::-1]
    four = slimmed_networks(known, 4)
    assert len(four) == 4
    assert (four[0], four[-1]) == (path[-1], path[0])
    assert set(four) <= set(path)


def test_counts_that_make_no_choice_are_refused() -> None:
    for make in (front_networks, width_networks, slimmed_networks):
        with pytest.raises(InvalidInputError, match="at least 2"):
            make(offline(), 1)


# ---- fixed and ladders ---------------------------------------------------------------------------


def test_a_fixed_network_stays() -> None:
    known = offline()
    policy = FixedPolicy(known, (1, 2, 3))
    first = policy.start(0.0)
    assert (first.network, first.changed, first.reason) == ((1, 2, 3), 0, Reason.START)
    assert first.latency_ms == known.latency((1, 2, 3))
    assert feed(policy, (1, 2, 3), 1e6, 100) == []
    with pytest.raises(InvalidInputError):
        FixedPolicy(known, (9, 0, 0))


def middle(known: Offline) -> float:
    """A deadline halfway between the smallest and the largest network."""
    return (known.latency(smallest_network(known)) + known.latency(largest_network(known))) / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.2, 1.6, 4.0])
def test_a_ladder_moves_to_the_best_of_its_networks_that_fits(seed: int, factor: float) -> None:
    known = offline(seed)
    networks, deadline = list(known.space.enumerate())[::7], middle(known)
    policy = LadderPolicy(known, networks, deadline, margin=0.0)
    start = policy.start(0.0).network
    feed(policy, start, factor * known.latency(start), 20)
    fitting = [n for n in networks if factor * known.latency(n) <= deadline]
    fastest = min(networks, key=known.latency)
    wanted = max(fitting, key=known.quality, default=fastest)
    found = policy._network
    assert known.quality(found) == pytest.approx(known.quality(wanted))
    if not fitting:
        assert found == fastest


def test_a_ladder_says_why() -> None:
    known = offline()
    deadline = middle(known)
    policy = LadderPolicy(known, front_networks(known), deadline)
    start = policy.start(0.0).network
    (slow,) = feed(policy, start, 1.3 * deadline, 3)  # three misses, before the window is full
    assert slow.reason is Reason.TOO_SLOW
    assert known.latency(slow.network) < known.latency(start)
    (hopeless,) = feed(policy, slow.network, 50 * deadline, 3)
    assert hopeless.reason is Reason.UNREACHABLE
    assert hopeless.network == smallest_network(known)
    (room,) = feed(policy, hopeless.network, known.latency(hopeless.network), 20)
    assert room.reason is Reason.ROOM
    assert known.quality(room.network) > known.quality(hopeless.network)


def test_a_deadline_that_nothing_meets_is_said_at_the_start() -> None:
    known = offline()
    deadline = 0.5 * known.latency(smallest_network(known))
    for policy in (
        LadderPolicy(known, front_networks(known), deadline),
        LightHeavyPolicy(known, deadline),
    ):
        first = policy.start(0.0)
        assert (first.reason, first.network) == (Reason.UNREACHABLE, smallest_network(known))


def test_a_ladder_waits_for_a_margin_before_it_goes_up() -> None:
    known = offline()
    first, second = front_networks(known, 5)[:2]
    barely = 1.01 * known.latency(second)
    for margin, moves in ((0.0, 1), (0.05, 0)):
        policy = LadderPolicy(known, [first, second], barely, margin=margin)
        assert policy.start(0.0).network == second
        feed(policy, second, 1.5 * barely, 3)
        assert policy._network == first
        assert len(feed(policy, first, known.latency(first), 20)) == moves


def test_one_outlier_moves_nothing() -> None:
    known = offline()
    deadline = middle(known)
    policy = LadderPolicy(known, front_networks(known), deadline)
    start = policy.start(0.0).network
    runs = [known.latency(start)] * 9 + [9 * deadline] + [known.latency(start)] * 30
    decisions = [policy.observe(Observation(start, float(i), ms)) for i, ms in enumerate(runs)]
    assert decisions == [None] * len(runs)


# ---- the paper's rule ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_light_move_is_the_best_single_step_that_fits(seed: int) -> None:
    known = offline(seed)
    deadline = middle(known)
    policy = LightHeavyPolicy(known, deadline)
    start = policy.start(0.0).network
    assert start == best_within(known, deadline)
    measured = 1.05 * deadline
    factor = measured / known.latency(start)
    steps = [
        (*start[:node], start[node] - 1, *start[node + 1 :]) for node in range(NODES) if start[node]
    ]
    fitting = [
        n
        for n in steps
        if measured + factor * (known.latency(n) - known.latency(start)) <= deadline
    ]
    assert feed(policy, start, measured, 19) == []
    decided = feed(policy, start, measured, 1)
    if fitting:
        assert [d.network for d in decided] == [max(fitting, key=known.quality)]
        assert decided[0].changed == 1
        assert not decided[0].proven
    else:
        assert decided[0].network == best_within(known, deadline / factor)
        assert decided[0].proven


@pytest.mark.parametrize("seed", range(6))
def test_a_heavy_move_is_the_exact_solution_for_the_rescaled_table(seed: int) -> None:
    known = offline(seed)
    smallest, largest = smallest_network(known), largest_network(known)
    deadline = known.latency(largest)
    policy = LightHeavyPolicy(known, deadline)
    start = policy.start(0.0).network
    factor = 0.97 * deadline / known.latency(smallest)  # only the smallest networks fit still
    (decision,) = feed(policy, start, factor * known.latency(start), 20)
    assert decision.reason is Reason.TOO_SLOW
    assert decision.proven
    assert decision.network == best_within(known, deadline / factor)
    assert decision.latency_ms == pytest.approx(factor * known.latency(decision.network))


def test_the_rule_goes_up_below_its_band_and_rests_inside() -> None:
    known = offline()
    deadline = middle(known)
    policy = LightHeavyPolicy(known, deadline, low=0.8)
    start = policy.start(0.0).network
    assert feed(policy, start, 0.9 * deadline, 100) == []
    (decision,) = feed(policy, start, 0.5 * deadline, 20)
    assert decision.reason is Reason.ROOM
    assert known.quality(decision.network) > known.quality(start)


def test_where_nothing_fits_the_rule_serves_the_fastest_and_recovers() -> None:
    known = offline()
    deadline = middle(known)
    policy = LightHeavyPolicy(known, deadline)
    start = policy.start(0.0).network
    (hopeless,) = feed(policy, start, 50 * deadline, 20)
    assert hopeless.reason is Reason.UNREACHABLE
    assert hopeless.network == smallest_network(known)
    assert feed(policy, hopeless.network, 50 * deadline, 20) == []
    rest = list(
        itertools.chain.from_iterable(
            feed(policy, policy._network, known.latency(policy._network), 20) for _ in range(20)
        )
    )
    assert rest[-1].network == policy._network
    assert 0.8 * deadline <= known.latency(policy._network) <= deadline


# ---- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1.0, 0.0])
def test_damaged_latencies_are_not_taken_in(rubbish: float) -> None:
    known = offline()
    deadline = middle(known)
    for policy in (
        LadderPolicy(known, front_networks(known), deadline),
        LightHeavyPolicy(known, deadline),
    ):
        start = policy.start(0.0).network
        assert feed(policy, start, rubbish, 100) == []
        assert feed(policy, start, 1.5 * deadline, 20)


def test_numbers_outside_their_range_are_refused() -> None:
    known = offline()
    networks = front_networks(known)
    for deadline in (0.0, math.nan):
        with pytest.raises(InvalidInputError, match="a deadline is positive ms"):
            LadderPolicy(known, networks, deadline)
        with pytest.raises(InvalidInputError, match="a deadline is positive ms"):
            LightHeavyPolicy(known, deadline)
    with pytest.raises(InvalidInputError, match="at least one network"):
        LadderPolicy(known, [], 10.0)
    with pytest.raises(InvalidInputError, match="at least 3 runs"):
        LadderPolicy(known, networks, 10.0, window=1)
    with pytest.raises(InvalidInputError, match=r"a share of the deadline in \[0, 1\)"):
        LightHeavyPolicy(known, 10.0, low=1.0)


def test_times_of_another_space_and_metrics_to_minimize_are_refused() -> None:
    known, other = offline(), offline(nodes=2)
    with pytest.raises(InvalidInputError, match="of one space"):
        Offline(known.table, other.times)
    with pytest.raises(InvalidInputError, match="more is better"):
        Offline(known.table, known.times, "macs")


# ---- what every policy keeps ---------------------------------------------------------------------


def contract_offline() -> Offline:
    return Offline(policy_table(), policy_times())


class TestFixedPolicy(PolicyContract):
    adapts = False

    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        known = contract_offline()
        return lambda: FixedPolicy(known, smallest_network(known))


class TestLadderPolicy(PolicyContract):
    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        known = contract_offline()
        networks = front_networks(known)
        return lambda: LadderPolicy(known, networks, self.deadline_ms)


class TestLightHeavyPolicy(PolicyContract):
    @pytest.fixture
    def policy(self) -> Callable[[], Policy]:
        known = contract_offline()
        return lambda: LightHeavyPolicy(known, self.deadline_ms)
