"""Policies: which network is to serve next, from what the last runs took."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from mathnas.runtime.observation import Observation
from mathnas.space import Network


class Reason(str, Enum):
    """Why a decision was made."""

    START = "start"  # the first network
    TOO_SLOW = "too slow"  # the deadline is, or will be, missed
    ROOM = "room"  # a better network fits
    ENERGY = "energy"  # the energy budget would not last
    CHANGE = "change"  # what blocks take has changed
    GOAL = "goal"  # the goal was set anew
    UNREACHABLE = "unreachable"  # no network meets the goal: the fastest serves


@dataclass(frozen=True, slots=True)
class Decision:
    """Which network serves from now on.

    Attributes:
        time: when, in seconds of the loop's clock.
        reason: why it was made.
        network: that serves next; it may be the one that serves.
        changed: nodes whose blocks differ from the network before.
        latency_ms: that is expected of it now, None where the policy does not predict.
        quality: what it is expected to reach (accuracy in percent), None alike.
        limit_ms: that it was to meet.
        seconds: that deciding took, by the wall clock.
        proven: whether it was proven to be the best of all executable networks.
    """

    time: float
    reason: Reason
    network: Network
    changed: int
    latency_ms: float | None = None
    quality: float | None = None
    limit_ms: float | None = None
    seconds: float = 0.0
    proven: bool = False


def changed_nodes(before: Network, after: Network) -> int:
    """How many nodes have other blocks in one network than in another one of the same space."""
    return sum(one != other for one, other in zip(before, after, strict=True))


class Policy(ABC):
    """Decides which network serves, one observation after the other.

    The life of a policy: `start` says which network serves first; after each run the loop (a real
    one or a simulated one) calls `observe`, and switches before the next run where a decision
    comes back. A policy reads no clock but the observations', so that a recorded run can be
    replayed.
    """

    name: str

    @abstractmethod
    def start(self, time: float) -> Decision:
        """The network that serves first."""

    @abstractmethod
    def observe(self, observation: Observation) -> Decision | None:
        """Take a run in; a decision where one was made, None otherwise."""
