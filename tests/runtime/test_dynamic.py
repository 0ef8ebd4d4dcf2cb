"""A network is switched between two batches, and only where it differs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from resident_cases import Ticking, WrittenParts, one_image, plain_space, written

from mathnas import DepthRule, InvalidInputError, SearchSpace
from mathnas.runtime.calibration import FEWEST_TIMES, covering
from mathnas.runtime.dynamic import DynamicNetwork
from mathnas.runtime.observation import Observation
from mathnas.space import Block, BlockNode
from mathnas.spaces import MobileNetV3


def test_what_runs_is_the_network_that_was_switched_to() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space()), (0, 0, 0, 0))
    assert dynamic.network == (0, 0, 0, 0)
    switch = dynamic.switch(["b0", "b2", "b0", "b1"])
    assert (switch.network, switch.changed) == ((0, 2, 0, 1), (1, 3))
    assert switch.seconds >= 0
    assert dynamic.network == (0, 2, 0, 1)
    run = dynamic.run(one_image())
    assert np.array_equal(run.outputs, written((0, 2, 0, 1)))
    assert run.observation.network == (0, 2, 0, 1)


def test_only_blocks_that_differ_are_looked_up() -> None:
    parts = WrittenParts(plain_space())
    dynamic = DynamicNetwork(parts, (0, 0, 0, 0))
    parts.asked.clear()
    dynamic.switch((0, 2, 0, 0))
    # the node after the changed one too: its statistics may be those for the block before
    assert parts.asked == [(1, 2, 0), (2, 0, 2)]
    parts.asked.clear()
    assert dynamic.switch((0, 2, 0, 0)).changed == ()
    assert parts.asked == []


def test_statistics_of_pairs_follow_the_block_before() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(), pairs=True), (0, 0, 0, 0))
    dynamic.switch((0, 2, 0, 0))
    assert dynamic.run(one_image()).outputs[0].tolist() == pytest.approx([1, 3.1, 1.3, 1.1])


def test_random_switches_give_what_a_new_network_gives() -> None:
    space = plain_space(nodes=5, blocks=4)
    dynamic = DynamicNetwork(WrittenParts(space, pairs=True), (0,) * 5)
    for network in space.sample(200, seed=1):
        dynamic.switch(network)
        fresh = DynamicNetwork(WrittenParts(space, pairs=True), network)
        assert np.array_equal(dynamic.run(one_image()).outputs, fresh.run(one_image()).outputs)


@pytest.mark.parametrize("wrong", [(0, 0, 0), (0, 0, 0, 3), (0, 0, 0, "b7"), (0, 0, 0, -1)])
def test_what_is_no_network_of_the_space_is_refused_and_the_old_one_serves(
    wrong: tuple[int | str, ...],
) -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space()), (1, 1, 1, 1))
    with pytest.raises(InvalidInputError):
        dynamic.switch(wrong)
    with pytest.raises(InvalidInputError):
        DynamicNetwork(WrittenParts(plain_space()), wrong)
    assert np.array_equal(dynamic.run(one_image()).outputs, written((1, 1, 1, 1)))


def test_an_observation_tells_every_part() -> None:
    clock = Ticking()
    parts = WrittenParts(plain_space(), clock=clock, idle=frozenset({(1, 0)}))
    dynamic = DynamicNetwork(parts, (0, 0, 2, 0), clock=clock)
    first, second = (dynamic.run(one_image()).observation for _ in range(2))
    for found in (first, second):
        # the stem, four nodes of which the second computes nothing, the head
        assert found.parts_ms == pytest.approx([0, 1, 0, 9, 4, 0])
        assert found.latency_ms == pytest.approx(14)
    assert (first.time, second.time) == pytest.approx((0.014, 0.028))


def test_times_of_parts_add_up_by_a_real_clock() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(), pause=0.001), (0, 0, 0, 0))
    found = dynamic.run(one_image()).observation
    assert min(found.parts_ms[1:-1]) >= 1
    assert sum(found.parts_ms) == pytest.approx(found.latency_ms)


def test_how_many_networks_and_how_much_memory() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space()), (0, 0, 0, 0))
    assert dynamic.num_networks == 3**4
    assert dynamic.memory_bytes == 12


def test_an_engine_that_fails_leaves_the_network_as_it_is() -> None:
    parts = WrittenParts(plain_space())
    dynamic = DynamicNetwork(parts, (0, 0, 0, 0))
    with pytest.raises(TypeError):
        dynamic.run(None)  # type: ignore[arg-type]
    assert np.array_equal(dynamic.run(one_image()).outputs, written((0, 0, 0, 0)))


# ---- calibration ---------------------------------------------------------------------------------


def test_calibration_times_every_block_without_switching() -> None:
    space, clock = plain_space(nodes=3, blocks=2), Ticking()
    idle = frozenset({(1, 0)})
    parts = WrittenParts(space, clock=clock, idle=idle)
    dynamic = DynamicNetwork(parts, (0, 1, 0), clock=clock)
    times = dynamic.calibrate(one_image(), seconds=0.01, progress=False)
    assert times.blocks == pytest.approx([1, 2, 0, 4, 3, 6])
    assert (times.stem, times.head) == (0, 0)
    assert times.latency((1, 0, 1)) == pytest.approx(8)
    assert dynamic.network == (0, 1, 0)


def test_calibration_takes_as_long_as_it_was_given() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(), pause=0.0005), (0, 0, 0, 0))
    start = time.perf_counter()
    dynamic.calibrate(one_image(), seconds=0.2)
    assert time.perf_counter() - start >= 0.2


def test_every_block_is_timed_often_enough_however_short_it_is() -> None:
    space = plain_space(nodes=2, blocks=3)
    seen: list[Observation] = []

    class Watched(DynamicNetwork):
        def _run(self, chain, images):  # type: ignore[no-untyped-def]
            run = super()._run(chain, images)
            seen.append(run.observation)
            return run

    Watched(WrittenParts(space), (0, 0)).calibrate(one_image(), seconds=1e-9)
    for node in range(2):
        for block in range(3):
            assert sum(o.network[node] == block for o in seen) > FEWEST_TIMES


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_calibration_takes_time(seconds: float) -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space()), (0, 0, 0, 0))
    with pytest.raises(InvalidInputError, match="more than 0 seconds"):
        dynamic.calibrate(one_image(), seconds=seconds)


def optional_nodes() -> SearchSpace:
    """Two ordinary nodes of 4 and 1 blocks, and a stage of optional nodes with 3, 2 and 4."""
    sizes = (4, 3, 2, 4, 1)
    nodes = [
        BlockNode(f"n{i}", tuple(Block(f"b{j}") for j in range(size)))
        for i, size in enumerate(sizes)
    ]
    return SearchSpace(nodes, depth_rules=[DepthRule((1, 2, 3), (0, 1, 2))])


@pytest.mark.parametrize("space", [plain_space(), optional_nodes(), MobileNetV3()])
def test_few_networks_hold_every_block(space: SearchSpace) -> None:
    for seed in range(5):
        networks = covering(space, np.random.default_rng(seed))
        assert all(space.check(network) == network for network in networks)
        assert len(networks) <= max(space.sizes)
        for node, size in enumerate(space.sizes):
            assert {network[node] for network in networks} == set(range(size))
