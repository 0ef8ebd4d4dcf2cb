"""A device in a few lines of arithmetic: policies are tried without hardware.

The clock is virtual. A run's parts take what they take on a quiet device, as they truly do (the
offline times may be off), times the present factors of the conditions, times noise. The policy is
the very one that serves; it is asked after every run, and what it decides holds from the next.

Noise, outliers and true times are the same for every policy under one seed: run number k of two
policies meets the same luck, so that comparisons are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy, changed_nodes
from mathnas.runtime.served import Served
from mathnas.runtime.traces import Conditions, check_positive
from mathnas.space import Floats, Network

_AHEAD = 1024  # runs whose noise is drawn at a time


@dataclass(frozen=True)
class World:
    """A simulated device and its load.

    Attributes:
        times: of parts as they were measured offline, which policies know, in ms.
        conditions: what slows parts down.
        seconds: how long requests come.
        deadline_ms: of each.
        rate: requests a second, evenly; they wait while another one runs. None: the next one comes
            when the last is done.
        noise: of each part's time, the standard deviation of its logarithm.
        outliers: the share of runs that are interrupted (another process gets the core), each for
            one half to one and a half times `outlier_ms` in one of its parts.
        outlier_ms: by default twice the deadline.
        deviation: how far offline times are off the true ones, block by block, as the standard
            deviation of the logarithm of their ratio.
        switch_seconds: of a switch, during which nothing runs.
        timed_parts: whether the loop times parts, or runs as a whole only.
        seed: of everything that is random.

    Raises:
        InvalidInputError: a number is outside its range, or the conditions are those of another
            number of nodes.
    """

    times: PartTimes
    conditions: Conditions
    seconds: float
    deadline_ms: float
    rate: float | None = None
    noise: float = 0.03
    outliers: float = 0.002
    outlier_ms: float | None = None
    deviation: float = 0.0
    switch_seconds: float = 1e-4
    timed_parts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(
            seconds=self.seconds,
            deadline_ms=self.deadline_ms,
            rate=self.rate,
            outlier_ms=self.outlier_ms,
        )
        for name in ("noise", "deviation", "switch_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(f"{name} is finite and at least 0, but got {value}.")
        if not 0 <= self.outliers <= 1:
            raise InvalidInputError(
                f"outliers are a share of runs, from 0 to 1, but got {self.outliers}."
            )
        nodes = self.times.space.num_nodes
        if self.conditions.places != nodes + 2:
            raise InvalidInputError(
                f"conditions tell factors of stem, {nodes} nodes and head, but those of "
                f"{self.conditions.name} tell {self.conditions.places}."
            )

    def true_times(self) -> PartTimes:
        """What parts take on the quiet device."""
        flat = self.times.flat
        rng = np.random.default_rng([self.seed, 0])
        flat = flat * np.exp(self.deviation * rng.standard_normal(len(flat)))
        return PartTimes(self.times.space, flat[0], flat[1:-1], flat[-1])

    def luck(self) -> Iterator[tuple[Floats, float]]:
        """For each run in turn: noise factors of its parts, shape (m + 2,), and the ms for which it
        is interrupted (0 for most)."""
        rng = np.random.default_rng([self.seed, 1])
        places = self.times.space.num_nodes + 2
        longest = 2 * self.deadline_ms if self.outlier_ms is None else self.outlier_ms
        while True:
            noise = np.exp(self.noise * rng.standard_normal((_AHEAD, places)))
            hit = rng.random(_AHEAD) < self.outliers
            stops = np.where(hit, longest * rng.uniform(0.5, 1.5, _AHEAD), 0.0)
            yield from zip(noise, stops.tolist(), strict=True)


def simulate(policy: Policy, world: World) -> Served:
    """Let a policy serve in a simulated world.

    Args:
        policy: a new one, whose `start` was not called yet.

    Raises:
        InvalidInputError: the policy chose a network that is not one of the space.
    """
    conditions = world.conditions.begin()
    runs = _Runs(world)
    times: list[float] = []
    latencies: list[float] = []
    networks: list[Network] = []
    decisions = [policy.start(0.0)]
    network = world.times.space.check(decisions[0].network)
    free = 0.0
    while True:
        asked = free if world.rate is None else len(times) / world.rate
        if asked >= world.seconds:
            break
        start = max(asked, free)
        parts = runs.parts(network, conditions, start)
        latency = float(parts.sum())
        free = start + latency / 1e3
        conditions.ran(start, free)
        times.append(asked)
        latencies.append((free - asked) * 1e3)
        networks.append(network)
        seen = tuple(parts.tolist()) if world.timed_parts else ()
        decision = policy.observe(Observation(network, free, latency, seen))
        if decision is not None:
            network = _followed(decision, network, world)
            decisions.append(decision)
            free += world.switch_seconds * (decision.changed > 0)
    return Served(
        policy.name,
        world.deadline_ms,
        np.array(times),
        np.array(latencies),
        np.array(networks, dtype=np.intp).reshape(-1, world.times.space.num_nodes),
        tuple(decisions),
        conditions.changes,
    )


class _Runs:
    """What runs take, one after the other."""

    def __init__(self, world: World) -> None:
        self._times = world.true_times()
        self._luck = world.luck()
        self._parts: dict[Network, Floats] = {}

    def parts(self, network: Network, conditions: Conditions, start: float) -> Floats:
        """Of the next run, in ms; shape (m + 2,)."""
        own = self._parts.get(network)
        if own is None:
            own = self._parts[network] = self._times.parts(network)
        noise, stop = next(self._luck)
        parts = conditions.took(start, own * noise)
        if stop:
            parts[int(np.argmax(parts))] += stop
        return parts


def _followed(decision: Decision, before: Network, world: World) -> Network:
    network = before if decision.network == before else world.times.space.check(decision.network)
    changed = changed_nodes(before, network)
    if changed != decision.changed:
        raise InvalidInputError(
            f"a decision says how many nodes change, but one from {before} to {network} says "
            f"{decision.changed}, and {changed} do."
        )
    return network


def best_fixed(
    qualities: Sequence[float], served: Sequence[Served], *, most_misses: float = 0.02
) -> int:
    """Which of several fixed networks was the best in hindsight: its place.

    Of those whose settled misses are at most `most_misses`, the one of the highest quality; where
    there is none, the one with the fewest misses.

    Args:
        qualities, served: of each; what it served was recorded or simulated.

    Raises:
        InvalidInputError: there are none, or not as many of each.
    """
    if not qualities or len(qualities) != len(served):
        raise InvalidInputError(
            f"hindsight is on at least one network, with a quality and a record each, but got "
            f"{len(qualities)} and {len(served)}."
        )
    misses = [record.misses() for record in served]

    def rank(place: int) -> tuple[bool, float]:
        meets = misses[place] <= most_misses
        return (meets, qualities[place] if meets else -misses[place])

    return max(range(len(served)), key=rank)
