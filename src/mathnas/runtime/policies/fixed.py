"""One network, whatever happens."""

from __future__ import annotations

from mathnas.runtime.observation import Observation
from mathnas.runtime.policies.offline import LATENCY, Offline
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.search import Answer, search
from mathnas.space import Network


class FixedPolicy(Policy):
    """Serves one network.

    Args:
        offline: what is known.
        network: that serves.
        name: for records.

    Raises:
        InvalidInputError: the network is not one of the space.
    """

    def __init__(self, offline: Offline, network: Network, name: str = "fixed") -> None:
        self.name = name
        self._offline, self._network = offline, offline.space.check(network)

    def start(self, time: float) -> Decision:
        return self._offline.decision(time, Reason.START, self._network, None)

    def observe(self, observation: Observation) -> Decision | None:
        return None


def smallest_network(offline: Offline) -> Network:
    """The fastest on a quiet device."""
    return _extreme(offline, -1)


def largest_network(offline: Offline) -> Network:
    """The slowest on a quiet device."""
    return _extreme(offline, 1)


def _extreme(offline: Offline, sign: int) -> Network:
    if sign < 0:
        answer = search(offline.table, minimize=LATENCY)
    else:
        answer = search(offline.table, maximize=LATENCY)
    assert isinstance(answer, Answer)  # without limits there is one
    return answer.network
