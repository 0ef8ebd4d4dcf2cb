"""A bench whose numbers are made up, so that the right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mathnas import Block, BlockNode, Network, SearchSpace
from mathnas.demo.bench import Delivery
from mathnas.evaluation import FunctionEvaluator

SPACE = SearchSpace(
    [
        BlockNode(f"n{node}", tuple(Block(f"b{j}", macs=10 * j + node) for j in range(3)))
        for node in range(4)
    ],
    name="made up",
)


def accuracy(network: Network) -> float:
    """Additive: later nodes gain more."""
    return 60.0 + sum((1 + node) * block for node, block in enumerate(network))


def latency(network: Network) -> float:
    """Every block costs the same wherever it stands."""
    return 1.0 + 0.5 * sum(network)


class MadeUpBench:
    """Counts what it is asked to measure."""

    title = "made up"
    space = SPACE
    provenance = {"made": "up"}  # noqa: RUF012  # read only

    def __init__(self) -> None:
        self.asked: list[tuple[str, Network]] = []
        self.accuracy = FunctionEvaluator(self._accuracy, ["accuracy"])
        self.latency = FunctionEvaluator(self._latency, ["latency_ms"], exclusive=True)

    def _accuracy(self, network: Network) -> float:
        self.asked.append(("accuracy", network))
        return accuracy(network)

    def _latency(self, network: Network) -> float:
        self.asked.append(("latency_ms", network))
        return latency(network)

    def deliver(self, network: Network, folder: Path) -> Delivery:
        (folder / "delivered.txt").write_text(str(network), encoding="utf-8")
        measured = {"accuracy": accuracy(network), "latency_ms": latency(network)}
        return Delivery("delivered as text", ("delivered.txt",), measured)


def best_under(limit_ms: float) -> float:
    """The highest accuracy of all networks within a limit."""
    networks = map(tuple, SPACE.all_networks().tolist())
    return max(accuracy(network) for network in networks if latency(network) <= limit_ms)


def median_latency() -> float:
    return float(np.median([latency(tuple(row)) for row in SPACE.all_networks().tolist()]))
