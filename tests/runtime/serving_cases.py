"""A dynamic network that computes what one can check, and policies for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mathnas import Block, BlockNode, SearchSpace
from mathnas.runtime.goals import Goal
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.runtime.resident import Images
from mathnas.space import Network

SHAPE = (1, 2, 2)


def space_of(nodes: int = 3, blocks: int = 4) -> SearchSpace:
    choices = tuple(Block(f"b{j}", macs=1e6 * j) for j in range(blocks))
    return SearchSpace([BlockNode(f"n{i}", choices) for i in range(nodes)], name="small")


def images_of(*values: float) -> Images:
    """One image a value, filled with it."""
    return np.stack([np.full(SHAPE, value, np.float32) for value in values])


def answers(images: Images, network: Network) -> npt.NDArray[np.float32]:
    """What a network answers: the image's value, and each node's block; a column a node and one."""
    values = images.reshape(len(images), -1)[:, :1]
    return np.hstack([values, np.tile(np.array(network, np.float32), (len(images), 1))])


@dataclass
class _Run:
    outputs: npt.NDArray[np.float32]
    observation: Observation


@dataclass
class _Switch:
    changed: tuple[int, ...]


class Sleeper:
    """A dynamic network whose parts sleep: a run reads its network once, at the beginning.

    Attributes:
        part_seconds: that every node sleeps.
        times: that runs are said to take, instead of those that they took.
        fails: raises for images that it is true of.
        open: a run waits until this is set.
        batches: how many images each run had.
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        part_seconds: float = 0.0,
        times: PartTimes | None = None,
    ) -> None:
        self.space = space or space_of()
        self.times = times
        self.network: Network = (0,) * self.space.num_nodes
        self.part_seconds = part_seconds
        self.fails: Callable[[Images], bool] = lambda images: False
        self.open = threading.Event()
        self.open.set()
        self.running = threading.Event()
        self.batches: list[int] = []

    def run(self, images: Images) -> _Run:
        network = self.network
        self.running.set()
        assert self.open.wait(30)
        began = time.perf_counter()
        self.batches.append(len(images))
        if self.fails(images):
            raise RuntimeError("the accelerator is on fire")
        chosen = []
        for block in network:
            if self.part_seconds:
                time.sleep(self.part_seconds)
            chosen.append(block)
        ended = time.perf_counter()
        seen = Observation(network, ended, 1000 * (ended - began))
        if self.times is not None:
            told = self.times.parts(network)
            seen = replace(seen, latency_ms=float(told.sum()), parts_ms=tuple(told.tolist()))
        return _Run(answers(images, tuple(chosen)), seen)

    def switch(self, network: Network) -> _Switch:
        before, self.network = self.network, self.space.check(network)
        pairs = enumerate(zip(before, self.network, strict=True))
        return _Switch(tuple(node for node, (old, new) in pairs if old != new))


@dataclass
class Scripted(Policy):
    """Goes through networks, one after every run; the last stays."""

    networks: list[Network]
    name: str = "scripted"
    goal: Goal = Goal(deadline_ms=50.0)  # noqa: RUF009  (frozen)
    seen: list[Observation] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def start(self, time: float) -> Decision:
        return self._decision(time, Reason.START)

    def observe(self, observation: Observation) -> Decision | None:
        self.seen.append(observation)
        return self._decision(observation.time, Reason.ROOM) if len(self.networks) > 1 else None

    def set_goal(self, goal: Goal) -> None:
        self.goal = goal
        self.goals.append(goal)

    def _decision(self, time: float, reason: Reason) -> Decision:
        if reason is not Reason.START:
            self.networks.pop(0)
        network = self.networks[0]
        return Decision(time, reason, network, 0, quality=float(sum(network)))
