"""What a policy knows before it serves: predicted quality, and times of parts on a quiet device."""

from __future__ import annotations

import math
import time as clock

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction, metric_named
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.policy import Decision, Reason, changed_nodes
from mathnas.space import Network
from mathnas.table import BlockEffects, BlockTable

LATENCY = "latency_ms"


class Offline:
    """Quality and offline latency of networks.

    Args:
        table: predicts `quality`.
        times: of parts, in ms.
        quality: the metric of which more is wanted.

    Raises:
        InvalidInputError: times and table are of two spaces, or less of the metric is better.
    """

    def __init__(self, table: BlockTable, times: PartTimes, quality: str = "accuracy") -> None:
        if table.space != times.space:
            raise InvalidInputError(
                f"times and table are of one space, but got times of {times.space.name} and a "
                f"table of {table.space.name}."
            )
        if table.column(quality).metric.direction is not Direction.MAXIMIZE:
            raise InvalidInputError(
                f"a quality is a metric of which more is better, but got {quality!r}."
            )
        self.space = table.space
        self.times = times
        self.quality_metric = quality
        self.table = _with_latency(table, times)

    def quality(self, network: Network) -> float:
        return self.table.exact(network, self.quality_metric)

    def latency(self, network: Network) -> float:
        """In ms, on the quiet device."""
        return self.times.latency(network)

    def ranks(self, node: int) -> list[int]:
        """A node's blocks from the fastest to the slowest."""
        start, stop = self.space.offsets[node : node + 2].tolist()
        order: list[int] = np.argsort(self.times.blocks[start:stop], kind="stable").tolist()
        return order

    def decision(
        self,
        time: float,
        reason: Reason,
        network: Network,
        before: Network | None,
        *,
        factor: float = 1.0,
        limit_ms: float | None = None,
        started: float | None = None,
        proven: bool = False,
    ) -> Decision:
        """A decision with what changes, what is expected and what deciding took.

        Args:
            before: the network that served until then; None for the first.
            factor: how many times as long as offline a run is expected to take.
            started: when deciding did, by `time.perf_counter`; None where nothing was decided.
        """
        seconds = 0.0 if started is None else clock.perf_counter() - started
        return Decision(
            time,
            reason,
            network,
            0 if before is None else changed_nodes(before, network),
            factor * self.latency(network),
            self.quality(network),
            limit_ms,
            seconds,
            proven,
        )


def usable(observation: Observation) -> bool:
    """Whether a latency can be true: damaged ones are not taken in."""
    return math.isfinite(observation.latency_ms) and observation.latency_ms > 0


def check_deadline(deadline_ms: float) -> float:
    """
    Raises:
        InvalidInputError: it is not a positive number.
    """
    if not (math.isfinite(deadline_ms) and deadline_ms > 0):
        raise InvalidInputError(f"a deadline is positive ms, but got {deadline_ms}.")
    return float(deadline_ms)


def _with_latency(table: BlockTable, times: PartTimes) -> BlockTable:
    """The table with the sums of parts as its latency."""
    space = table.space
    own = times.blocks[space.offsets[:-1] + np.array(table.reference)]
    unknown = np.full(space.num_blocks, np.nan)
    column = BlockEffects(
        metric_named(LATENCY),
        times.latency(table.reference),
        times.blocks - np.repeat(own, space.sizes),
        unknown,
        unknown,
    )
    columns = {**table.columns, LATENCY: column}
    return BlockTable(space, table.reference, columns, table.provenance)
