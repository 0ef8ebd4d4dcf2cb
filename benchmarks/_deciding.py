"""How long a controller takes to decide: for benchmarks that switch, too."""

from __future__ import annotations

import time

import numpy as np

from mathnas.metrics import metric_named
from mathnas.runtime.controller import Controller
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.space import Block, BlockNode, Floats, SearchSpace
from mathnas.table import BlockEffects, BlockTable


def decision_seconds(
    table: BlockTable, times: PartTimes, *, decisions: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Wall-clock seconds of `Controller.observe` where a decision came back: the monitor's update
    of a full window, the program built anew and its exact solve; and of all other calls.

    The load goes up and down, so that decisions go both ways; nothing waits for a dwell time.
    """
    controller = _controller(table, times)
    rng, network, clock = np.random.default_rng(seed), controller.start(0.0).network, 0.0
    decided: list[float] = []
    others: list[float] = []
    while len(decided) < decisions and clock < 20.0 * decisions:
        parts = times.parts(network) * (1.3 + 0.3 * np.sin(2.5 * clock))
        parts = parts * np.exp(0.03 * rng.normal(size=len(parts)))
        clock += 0.02
        run = Observation(network, clock, float(parts.sum()), tuple(parts.tolist()))
        began = time.perf_counter()
        decision = controller.observe(run)
        seconds = time.perf_counter() - began
        (others if decision is None else decided).append(seconds)
        network = network if decision is None else decision.network
    return np.array(decided), np.array(others)


def random_parts(nodes: int, blocks: int, seed: int = 0) -> tuple[BlockTable, PartTimes]:
    """A table of random blocks, larger ones better, and the times of their parts."""
    rng = np.random.default_rng(seed)
    space = SearchSpace(
        [
            BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=1.0 + j) for j in range(blocks)))
            for i in range(nodes)
        ],
        name=f"{nodes} x {blocks}",
    )
    cost = np.sort(rng.uniform(0.5, 3.0, (nodes, blocks)), axis=1)
    gain = cost * rng.uniform(0.3, 1.0, (nodes, 1)) + 0.1 * rng.normal(size=cost.shape)
    nothing = np.zeros(space.num_blocks)
    columns = {
        name: BlockEffects(metric_named(name), base, (v - v[:, :1]).ravel(), nothing, nothing + 1)
        for name, base, v in (
            ("accuracy", 80.0, gain),
            ("latency_ms", 1.0 + float(cost[:, 0].sum()), cost),
        )
    }
    return BlockTable(space, (0,) * nodes, columns), PartTimes(space, 0.6, cost.ravel(), 0.4)


def _controller(table: BlockTable, times: PartTimes) -> Controller:
    starts = table.space.offsets[:-1]
    fixed = times.stem + times.head
    low = fixed + float(np.minimum.reduceat(times.blocks, starts).sum())
    high = fixed + float(np.maximum.reduceat(times.blocks, starts).sum())
    goal = Goal(deadline_ms=low + 0.6 * (high - low), dwell_s=0.0, period_s=0.0)
    return Controller(table, times, goal)
