"""Shared cores: what runs take there, and whether the controller keeps deadlines on them."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_cases import networks, world

from mathnas.errors import InvalidInputError
from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import Goal
from mathnas.runtime.policies import FixedPolicy, Offline
from mathnas.runtime.sharing import SharedCore
from mathnas.runtime.simulation import World, simulate

QUIET = np.array([1.0, 2.0, 0.0, 3.0, 1.0])


def test_alone_on_the_core_parts_take_what_they_take() -> None:
    core = SharedCore(3, 10.0, [(2.0, 1), (4.0, 0)])
    for start in (0.0, 1.9, 5.0, 9.999, 50.0):
        np.testing.assert_allclose(core.took(start, QUIET), QUIET, atol=1e-9)
    assert core.changes == (2.0, 4.0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_in_the_mean_each_neighbour_costs_as_much_as_the_run(count: int) -> None:
    core = SharedCore(3, 100.0, [(0.0, count)], seed=1)
    time, taken = 0.0, []
    while time < 90.0:
        taken.append(float(core.took(time, QUIET).sum()))
        time += taken[-1] / 1e3
    assert np.mean(taken) == pytest.approx((1 + count) * QUIET.sum(), rel=0.05)


def test_a_run_waits_for_whole_turns_and_in_few_of_its_parts() -> None:
    core = SharedCore(3, 100.0, [(0.0, 1)], slice_ms=4.0, spread=0.0)
    starts = np.random.default_rng(0).uniform(0.0, 90.0, 500)
    waited = np.array([core.took(start, QUIET) - QUIET for start in starts])
    own_turn = starts % 0.008 < 0.004
    turns = waited[own_turn].sum(axis=1) / 4.0
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)
    assert set(np.round(turns)) == {1.0, 2.0}
    assert ((waited > 1e-6).sum(axis=1) <= 3).all()


def test_turns_are_the_same_for_every_policy_and_differ_by_seed() -> None:
    cores = [SharedCore(3, 10.0, [(0.0, 1)], seed=seed) for seed in (0, 0, 1)]
    first, again, other = (core.begin().took(3.0, QUIET) for core in cores)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"seconds": 0.0}, "seconds is positive"),
        ({"slice_ms": -1.0}, "slice_ms is positive"),
        ({"spread": -0.1}, "a spread is finite and at least 0"),
        ({"neighbours": [(0.0, -1)]}, "neighbours are counted from 0 on"),
        ({"neighbours": [(np.nan, 1)]}, "neighbours are counted from 0 on"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, object], rule: str) -> None:
    given: dict[str, object] = {"seconds": 1.0, "neighbours": [(0.0, 1)], **changed}
    with pytest.raises(InvalidInputError, match=rule):
        SharedCore(3, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_controller_keeps_a_deadline_on_a_shared_core(seed: int) -> None:
    """The smallest network has 15 % to spare where two others take turns with it."""
    table, times = world(nodes=5, blocks=4, seed=seed)
    smallest = min(networks(table.space), key=times.latency)
    busy = World(times, SharedCore(5, 20.0, [(0.0, 2)], seed=9), 20.0, 100.0, outliers=0.0)
    alone = simulate(FixedPolicy(Offline(table, times), smallest), busy)
    deadline = 1.15 * float(np.quantile(alone.latencies_ms, 0.98))

    phases = [(8.0, 1), (20.0, 0), (28.0, 2), (44.0, 0)]
    core = SharedCore(5, 52.0, phases, seed=seed)
    controller = Controller(table, times, Goal(deadline_ms=deadline))
    served = simulate(controller, World(times, core, 52.0, deadline, outliers=0.0, seed=seed))
    accuracy = served.expected(table, "accuracy")
    assert served.misses() <= 0.02
    for start, end in ((8.0, 20.0), (28.0, 44.0)):
        own = (served.times >= start + 1.0) & (served.times < end)
        assert served.missed[own].mean() <= 0.03
        assert accuracy[own].mean() > table.exact(smallest, "accuracy")
    assert controller.monitor.counts.changes <= 12, "turns are no changes of the load"
