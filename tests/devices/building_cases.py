"""A device that is simulated: latency is a known function of the network, with a clock of its own.

Every run of a network moves the clock on, so that drift, spikes and budgets are those of simulated
seconds, and a test of ten minutes takes none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mathnas import Block, BlockNode, Network, SearchSpace
from mathnas.devices.host import Device
from mathnas.devices.relative import RelativeLatencyEvaluator
from mathnas.devices.timing import TimingSettings

BOX = Device("box", "a processor", 2, "an operating system")
QUICK = TimingSettings(rounds=20, slice_ms=2.0, warmup_ms=5.0)

Costs = Callable[[Network], float]


@dataclass
class SimulatedDevice:
    """An engine whose models are their own latency in milliseconds.

    Attributes:
        noise: relative standard deviation of one run.
        drift: by how much a run is slower after an hour of simulated time, relative.
        spikes: share of the runs that take ten times as long.
        busy: from when to when (simulated seconds) everything takes 1.6 times as long.
    """

    noise: float = 0.0
    drift: float = 0.0
    spikes: float = 0.0
    busy: tuple[float, float] = (0.0, 0.0)
    seed: int = 0
    now: float = 0.0
    prepared: int = 0
    rng: np.random.Generator = field(init=False)

    name, version, threads, precision, batch = "simulated", "1", 1, "fp32", 1

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def prepare(self, model: float) -> Run:
        self.prepared += 1
        self.now += 0.05  # loading takes a while
        return Run(self, model)

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now

    def run_ms(self, model: float) -> float:
        slow = 1.6 if self.busy[0] <= self.now < self.busy[1] else 1.0
        slow *= 1 + self.drift * self.now / 3600
        slow *= 10.0 if self.rng.random() < self.spikes else 1.0
        taken = model * slow * math.exp(self.noise * float(self.rng.standard_normal()))
        self.now += taken / 1000
        return taken


@dataclass
class Run:
    """A prepared network, timed by the simulated clock."""

    device: SimulatedDevice
    model: float
    taken: float = 0.0

    def __call__(self) -> None:
        self.taken = self.device.run_ms(self.model)

    def last_ms(self) -> float:
        return self.taken


def chain_space(nodes: int = 5, blocks: int = 4) -> SearchSpace:
    """Nodes of equal blocks, the first of which computes least."""
    return SearchSpace(
        [
            BlockNode(
                f"node{i}",
                tuple(Block(f"b{j}", macs=1e6 * (j + 1), params=10.0 * j) for j in range(blocks)),
            )
            for i in range(nodes)
        ],
        name="chain",
        fixed_macs=1e6,
        fixed_params=100.0,
    )


def part_ms(node: int, block: int) -> float:
    """What a block adds in the additive device."""
    return 0.02 + 0.03 * block + 0.01 * (node % 3) * block


def additive_ms(network: Network) -> float:
    return 0.3 + sum(part_ms(node, block) for node, block in enumerate(network))


def interacting_ms(network: Network) -> float:
    """Two nodes that are both large or both small cost more than when they differ."""
    alike = ((network[0] >= 2) == (network[1] >= 2)) + ((network[2] >= 2) == (network[3] >= 2))
    return additive_ms(network) + 0.2 * alike


def curved_ms(network: Network) -> float:
    """Factors instead of summands."""
    return math.exp(2.5 * additive_ms(network) - 2.5)


def latency_of(
    device: SimulatedDevice, costs: Costs, space: SearchSpace, *, accept_noise: bool = False
) -> RelativeLatencyEvaluator[float]:
    evaluator = RelativeLatencyEvaluator(
        costs,
        device,
        space.reference,
        device=BOX,
        timing=QUICK,
        accept_noise=accept_noise,
        root=Path("no-tree"),  # the noise of the machine that simulates does not count
    )
    evaluator.exclusive = False  # nothing else runs on a simulated device
    return evaluator
