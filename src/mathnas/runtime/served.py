"""What a policy served: every run's latency and network, and how to score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.runtime.policy import Decision
from mathnas.space import Floats, Indices, Network
from mathnas.table import BlockTable

SETTLING = 1.0  # seconds after a change in which misses are not held against a policy


@dataclass(frozen=True)
class Served:
    """One policy's runs, simulated or real, in their order.

    Attributes:
        policy: its name.
        deadline_ms: that every run was to meet.
        times: when each run was asked for, in seconds; shape (k,).
        latencies_ms: from then to its end, waiting included; shape (k,).
        networks: that ran; shape (k, m).
        decisions: all that were made, the first network's included.
        changes: when conditions changed, ascending, in seconds.
    """

    policy: str
    deadline_ms: float
    times: Floats
    latencies_ms: Floats
    networks: Indices
    decisions: tuple[Decision, ...]
    changes: tuple[float, ...]

    @property
    def missed(self) -> npt.NDArray[np.bool_]:
        """Which runs took longer than the deadline."""
        return self.latencies_ms > self.deadline_ms

    def settled(self, seconds: float = SETTLING) -> npt.NDArray[np.bool_]:
        """Which runs were asked for at least so many seconds after the last change, or before
        the first."""
        changes = np.array(self.changes)
        last = np.searchsorted(changes, self.times, side="right") - 1
        since = np.full(len(self.times), np.inf)
        after = last >= 0
        since[after] = self.times[after] - changes[last[after]]
        return since >= seconds

    def misses(self, *, settled: bool = True, seconds: float = SETTLING) -> float:
        """The share of runs that missed the deadline, of those that are settled or of all; 0 where
        there are none."""
        missed = self.missed[self.settled(seconds)] if settled else self.missed
        return float(missed.mean()) if len(missed) else 0.0

    def expected(self, table: BlockTable, metric: str) -> Floats:
        """What a table predicts of each run's network, shape (k,)."""
        unique, place = np.unique(self.networks, axis=0, return_inverse=True)
        return table.predict(unique, metric)[place.ravel()]

    def known(self, values: Mapping[Network, float]) -> Floats:
        """What is known (measured) of each run's network, shape (k,).

        Raises:
            InvalidInputError: a network that ran has no value.
        """
        unique, place = np.unique(self.networks, axis=0, return_inverse=True)
        found = []
        for network in map(tuple, unique.tolist()):
            if network not in values:
                raise InvalidInputError(
                    f"values are given for every network that ran, but not for {network}."
                )
            found.append(values[network])
        return np.array(found)[place.ravel()]

    @property
    def switches(self) -> int:
        """How often the network changed after the first."""
        return sum(decision.changed > 0 for decision in self.decisions[1:])

    @property
    def changed_blocks(self) -> int:
        """Of all switches."""
        return sum(decision.changed for decision in self.decisions[1:])

    @property
    def deciding_seconds(self) -> Floats:
        """What each decision took, by the wall clock."""
        return np.array([decision.seconds for decision in self.decisions])
