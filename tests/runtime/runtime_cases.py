"""What the tests of dynamic networks share: small tables, and runs under a load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from resident_cases import plain_space

from mathnas.metrics import metric_named
from mathnas.runtime.controller import Controller
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy
from mathnas.space import Floats, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable

Load = Callable[[float], "float | Floats"]


def world(
    nodes: int = 3, blocks: int = 3, seed: int = 0, *, skips: bool = False
) -> tuple[BlockTable, PartTimes]:
    """A random table with accuracy, latency and energy, and the part times it is made of.

    Args:
        skips: whether the first block of every node computes nothing.
    """
    rng = np.random.default_rng(seed)
    space = plain_space(nodes, blocks)
    cost = np.sort(rng.uniform(0.5, 3.0, (nodes, blocks)), axis=1)
    if skips:
        cost[:, 0] = 0.0
    gain = cost * rng.uniform(0.3, 1.0, (nodes, 1)) + 0.1 * rng.normal(size=cost.shape)
    energy = 5 * cost * rng.uniform(0.8, 1.2, cost.shape)
    nothing = np.zeros(space.num_blocks)
    columns = {
        name: BlockEffects(
            metric_named(name),
            base + float(values[:, 0].sum()) * (name != "accuracy"),
            (values - values[:, :1]).ravel(),
            nothing,
            nothing + 1,
        )
        for name, base, values in (
            ("accuracy", 80.0, gain),
            ("latency_ms", 1.0, cost),
            ("energy_mj", 2.0, energy),
        )
    }
    return BlockTable(space, (0,) * nodes, columns), PartTimes(space, 0.6, cost.ravel(), 0.4)


def networks(space: SearchSpace) -> list[Network]:
    return [tuple(network) for network in space.all_networks().tolist()]


def run_of(
    times: PartTimes,
    network: Network,
    time: float,
    load: float | Floats = 1.0,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    *,
    whole: bool = False,
) -> Observation:
    """A run whose parts take what they did before, times the load (of all, or one number a part)
    and lognormal noise."""
    parts = times.parts(network) * load
    if rng is not None:
        parts = parts * np.exp(noise * rng.normal(size=len(parts)))
    return Observation(network, time, float(parts.sum()), () if whole else tuple(parts.tolist()))


def serve(
    policy: Policy,
    times: PartTimes,
    load: Load,
    seconds: float,
    *,
    noise: float = 0.02,
    seed: int = 1,
    begin: float = 0.0,
    pause_s: float = 0.001,
    network: Network | None = None,
    whole: bool = False,
) -> Iterator[tuple[Observation, Decision | None]]:
    """Runs one after the other, each with what was decided after it; starts the policy unless a
    network is given."""
    rng = np.random.default_rng(seed)
    serving = policy.start(begin).network if network is None else network
    clock = begin
    while clock < begin + seconds:
        run = run_of(times, serving, clock, load(clock - begin), noise, rng, whole=whole)
        clock += run.latency_ms / 1000 + pause_s
        run = Observation(run.network, clock, run.latency_ms, run.parts_ms)
        decision = policy.observe(run)
        yield run, decision
        if decision is not None:
            serving = decision.network


def best(
    table: BlockTable, latencies: Callable[[Network], float], limit_ms: float, floor: float = 0.0
) -> float | None:
    """By brute force, the best accuracy of the networks within the limit; None where none is."""
    found = [
        table.exact(network, "accuracy")
        for network in networks(table.space)
        if latencies(network) <= limit_ms and table.exact(network, "accuracy") >= floor
    ]
    return max(found, default=None)


def serving(controller: Controller) -> Network:
    assert controller.network is not None
    return controller.network
