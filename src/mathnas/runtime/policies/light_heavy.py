"""The paper's rule: a light move of one block, a heavy one by an exact solve."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator

from mathnas.errors import InvalidInputError
from mathnas.metrics import metric_named
from mathnas.runtime.observation import Observation
from mathnas.runtime.policies.fixed import smallest_network
from mathnas.runtime.policies.offline import LATENCY, Offline, check_deadline, usable
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.search import Limit, Program, solver_for
from mathnas.space import Network


class LightHeavyPolicy(Policy):
    """MathNAS's dynamic rule, as its code has it.

    Every 20 runs the window's mean is compared with a band; after that the window is cleared.
    Outside the band the whole offline table is multiplied by measured / offline latency of the
    present network. Light: the network with one block one place down (where the mean is above the
    band) or up (below it) that is predicted within the limit and best. Heavy, only where light
    finds nothing: the exact solve. There is neither hysteresis nor a wait.

    It departs from that code where the code is defective: qualities are the table's, not a formula
    with a wrong scale; places are by time, so that down is faster; where nothing meets the limit,
    the fastest network serves, and the reason says so; switching keeps no corrupted state. The
    first runs after a start are ignored there because of a warm-up that serving does not have.

    Args:
        offline: what is known.
        deadline_ms: the band's upper end.
        low: its lower end, as a share of the deadline.
        window: runs.

    Raises:
        InvalidInputError: a number is outside its range.
    """

    def __init__(
        self,
        offline: Offline,
        deadline_ms: float,
        name: str = "light/heavy",
        *,
        low: float = 0.8,
        window: int = 20,
    ) -> None:
        if not 0 <= low < 1 or window < 1:
            raise InvalidInputError(
                f"a band starts at a share of the deadline in [0, 1), and a window has at least 1 "
                f"run, but got low={low}, window={window}."
            )
        self.name = name
        self.deadline_ms = check_deadline(deadline_ms)
        self._offline, self._low, self._window = offline, low * self.deadline_ms, window
        limit = Limit(metric_named(LATENCY), "<=", self.deadline_ms)
        self._program = Program(offline.table, offline.quality_metric, True, [limit])
        self._solver = solver_for(self._program, "auto")
        self._ranks = [offline.ranks(node) for node in range(offline.space.num_nodes)]
        self._smallest = smallest_network(offline)
        self._network = self._smallest
        self._seen: list[float] = []

    def start(self, time: float) -> Decision:
        started = clock.perf_counter()
        found = self._heavy(1.0)
        reason = Reason.UNREACHABLE if found is None else Reason.START
        network = self._smallest if found is None else found
        self._seen.clear()
        self._network = network
        return self._offline.decision(
            time,
            reason,
            network,
            None,
            limit_ms=self.deadline_ms,
            started=started,
            proven=found is not None,
        )

    def observe(self, observation: Observation) -> Decision | None:
        if not usable(observation) or observation.network != self._network:
            return None
        self._seen.append(observation.latency_ms)
        if len(self._seen) < self._window:
            return None
        mean = sum(self._seen) / len(self._seen)
        self._seen.clear()
        if self._low <= mean <= self.deadline_ms:
            return None
        started = clock.perf_counter()
        offline, slow = self._offline, mean > self.deadline_ms
        factor = mean / offline.latency(self._network)
        reason, proven = (Reason.TOO_SLOW if slow else Reason.ROOM), False
        network = self._light(factor, mean, slow)
        if network is None:
            network = self._heavy(factor)
            proven = network is not None
        if network is None:
            network, reason = self._smallest, Reason.UNREACHABLE
        if network == self._network:
            return None
        before, self._network = self._network, network
        return offline.decision(
            observation.time,
            reason,
            network,
            before,
            factor=factor,
            limit_ms=self.deadline_ms,
            started=started,
            proven=proven,
        )

    def _light(self, factor: float, measured: float, slow: bool) -> Network | None:
        """The best network with one block one place down or up that fits, if there is one."""
        offline = self._offline
        now = offline.latency(self._network)
        fitting = [
            network
            for network in self._neighbours(-1 if slow else 1)
            if measured + factor * (offline.latency(network) - now) <= self.deadline_ms
        ]
        return max(fitting, key=offline.quality, default=None)

    def _neighbours(self, step: int) -> Iterator[Network]:
        for node, order in enumerate(self._ranks):
            place = order.index(self._network[node]) + step
            if 0 <= place < len(order):
                switched = (*self._network[:node], order[place], *self._network[node + 1 :])
                try:
                    yield self._offline.space.check(switched)
                except InvalidInputError:
                    continue  # a depth rule excludes it

    def _heavy(self, factor: float) -> Network | None:
        """The best network where everything takes `factor` times as long; None where none fits."""
        program = self._program.moved(0, self.deadline_ms / factor)
        networks = self._solver.solve(program).networks
        return networks[0] if networks else None
