"""A few whole networks, and moves along them by measured latency."""

from __future__ import annotations

import time as clock
from collections import deque
from collections.abc import Sequence

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.runtime.observation import Observation
from mathnas.runtime.policies.offline import Offline, check_deadline, usable
from mathnas.runtime.policy import Decision, Policy, Reason
from mathnas.space import Network

_ALARM = 3  # runs in a row that miss the deadline: the window is not waited for


class LadderPolicy(Policy):
    """Serves the best of a few networks that fits the deadline now.

    All networks are taken to be slower than offline by one factor: the `quantile` of measured /
    offline latency over a window of runs of the present network. A window later, or at three
    misses in a row, it moves to the network of the highest quality that is expected within the
    deadline; upwards only with a margin left. With seven networks from a Pareto front this is how
    a whole elastic network is switched, with widths how slimmable networks are.

    Args:
        offline: what is known.
        networks: to choose from.
        deadline_ms: of each run.
        name: for records.
        window: runs.
        quantile: of the ratios, so that few runs miss.
        margin: the share of the deadline that has to be left for a move upwards.

    Raises:
        InvalidInputError: there is no network, or a number is outside its range.
    """

    def __init__(
        self,
        offline: Offline,
        networks: Sequence[Network],
        deadline_ms: float,
        name: str = "ladder",
        *,
        window: int = 20,
        quantile: float = 0.95,
        margin: float = 0.05,
    ) -> None:
        if not networks:
            raise InvalidInputError("a ladder has at least one network, but got none.")
        if window < _ALARM or not 0 <= quantile <= 1 or not 0 <= margin < 1:
            raise InvalidInputError(
                f"a window has at least {_ALARM} runs, a quantile is in [0, 1] and a margin in "
                f"[0, 1), but got window={window}, quantile={quantile}, margin={margin}."
            )
        self.name = name
        self.deadline_ms = check_deadline(deadline_ms)
        self._offline = offline
        self._latency = {offline.space.check(n): offline.latency(n) for n in networks}
        # the best first; of equal ones the faster
        self._order = sorted(
            self._latency, key=lambda n: (-offline.quality(n), self._latency[n], n)
        )
        self._quantile, self._margin = quantile, margin
        self._ratios: deque[float] = deque(maxlen=window)
        self._missed = 0
        self._network = self._order[0]

    def start(self, time: float) -> Decision:
        started = clock.perf_counter()
        network, fits = self._fitting(1.0, self.deadline_ms)
        reason = Reason.START if fits else Reason.UNREACHABLE
        self._network = network
        return self._offline.decision(
            time, reason, network, None, limit_ms=self.deadline_ms, started=started
        )

    def observe(self, observation: Observation) -> Decision | None:
        if not usable(observation) or observation.network != self._network:
            return None
        self._ratios.append(observation.latency_ms / self._latency[self._network])
        self._missed = self._missed + 1 if observation.latency_ms > self.deadline_ms else 0
        if self._missed < _ALARM and len(self._ratios) < (self._ratios.maxlen or 0):
            return None
        started = clock.perf_counter()
        recent = list(self._ratios)[-_ALARM:] if self._missed >= _ALARM else list(self._ratios)
        factor = float(np.quantile(recent, self._quantile, method="lower"))
        self._ratios.clear()
        self._missed = 0
        network, fits = self._fitting(factor, self.deadline_ms)
        reason = Reason.TOO_SLOW if fits else Reason.UNREACHABLE
        if self._offline.quality(network) > self._offline.quality(self._network):
            network, _ = self._fitting(factor, (1 - self._margin) * self.deadline_ms)
            reason = Reason.ROOM
            if self._offline.quality(network) <= self._offline.quality(self._network):
                return None
        if network == self._network:
            return None
        before, self._network = self._network, network
        return self._offline.decision(
            observation.time,
            reason,
            network,
            before,
            factor=factor,
            limit_ms=self.deadline_ms,
            started=started,
        )

    def _fitting(self, factor: float, limit: float) -> tuple[Network, bool]:
        """The best network within the limit, or the fastest one and False."""
        for network in self._order:
            if factor * self._latency[network] <= limit:
                return network, True
        return min(self._latency, key=self._latency.__getitem__), False
