"""What a run of a dynamic network took, and what its parts are expected to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Network, SearchSpace


@dataclass(frozen=True, slots=True)
class Observation:
    """One run: of one batch, through one network.

    Attributes:
        network: that ran.
        time: when it ended, in seconds of the loop's clock.
        latency_ms: from the batch's start to its end, wall clock.
        parts_ms: of the stem, of each node (0 where nothing is computed) and of the head: m + 2
            numbers; empty where only the whole was timed.
    """

    network: Network
    time: float
    latency_ms: float
    parts_ms: tuple[float, ...] = ()


class PartTimes:
    """How long every resident part takes, in ms.

    Args:
        space: whose blocks they are.
        stem, head: of the parts that every network has.
        blocks: flat, one a block of the space; 0 where nothing is computed.

    Raises:
        InvalidInputError: a time is negative or not finite, or their number is not the space's.
    """

    def __init__(
        self, space: SearchSpace, stem: float, blocks: Sequence[float] | Floats, head: float
    ) -> None:
        self.space = space
        self.stem = float(stem)
        self.blocks: Floats = np.asarray(blocks, dtype=float)
        self.head = float(head)
        if self.blocks.shape != (space.num_blocks,):
            raise InvalidInputError(
                f"{space.name} has {space.num_blocks} blocks, but got times of the shape "
                f"{self.blocks.shape}: give one a block, in the order of the nodes."
            )
        every = self.flat
        wrong = every[~(np.isfinite(every) & (every >= 0))]
        if wrong.size:
            raise InvalidInputError(f"times are finite and at least 0 ms, but got {wrong[0]}.")

    @property
    def flat(self) -> Floats:
        """Stem, every block, head: num_blocks + 2 numbers."""
        return np.concatenate([[self.stem], self.blocks, [self.head]])

    def places(self, network: Network) -> list[int]:
        """Where in `flat` the parts of a network stand: stem, one block a node, head."""
        offsets = self.space.offsets
        chosen = [1 + int(offsets[node]) + block for node, block in enumerate(network)]
        return [0, *chosen, 1 + self.space.num_blocks]

    def parts(self, network: Network) -> Floats:
        """The times of a network's parts, m + 2 numbers."""
        return self.flat[self.places(network)]

    def latency(self, network: Network) -> float:
        """The sum over a network's parts."""
        return float(self.parts(network).sum())
