"""What a server does and has done."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mathnas.runtime.observation import Observation
from mathnas.runtime.policy import Decision, Reason
from mathnas.space import Network

_REMEMBERED = 256  # latest latencies
_COUNTS = (
    *("queue", "requests", "images", "runs", "misses", "switches", "changed", "refused"),
    *("failures", "faults"),
)


@dataclass(frozen=True, slots=True)
class Status:
    """What a server does and has done.

    Attributes:
        network: that serves.
        deadline_ms: of a run; None where there is none.
        reason: of the latest decision; `Reason.UNREACHABLE` where no network meets the deadline.
        latency_ms: median of the latest runs; None before the first.
        quality: expected of the network that serves, None where it is not known.
        mean_quality: expected over all images that were answered, alike.
        queue: requests that wait.
        requests, images, runs: answered.
        misses: runs that took longer than the deadline that held when they ended.
        switches: that changed the network; changed: nodes that they changed, in all.
        refused: requests that were not taken because the queue was full.
        failures: requests whose run failed.
        faults: failures of the policy or of a switch; the network was left as it was.
        last_fault: what the latest of them said.
        networks: images answered by each network, those used most first.
    """

    network: Network
    deadline_ms: float | None
    reason: Reason | None
    latency_ms: float | None
    quality: float | None
    mean_quality: float | None
    queue: int
    requests: int
    images: int
    runs: int
    misses: int
    switches: int
    changed: int
    refused: int
    failures: int
    faults: int
    last_fault: str | None
    networks: Mapping[Network, int]

    def to_dict(self) -> dict[str, object]:
        """For JSON; networks as lists."""
        return {
            "network": list(self.network),
            "deadline_ms": self.deadline_ms,
            "reason": None if self.reason is None else self.reason.value,
            "latency_ms": self.latency_ms,
            "quality": self.quality,
            "mean_quality": self.mean_quality,
            **{name: getattr(self, name) for name in _COUNTS},
            "last_fault": self.last_fault,
            "networks": [
                {"network": list(network), "images": n} for network, n in self.networks.items()
            ],
        }


class Tally:
    """Counts what happens, for a `Status`; whoever uses it from several threads locks it.

    Args:
        quality: what a network is expected to reach; by default what decisions say.
    """

    def __init__(self, quality: Callable[[Network], float] | None = None) -> None:
        self._quality_of = quality
        self._qualities: dict[Network, float | None] = {}
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._used: Counter[Network] = Counter()
        self._reason: Reason | None = None
        self._requests = self._runs = self._misses = 0
        self._switches = self._changed = 0
        self._last_fault: str | None = None
        self.refused = self.failures = self.faults = 0

    def answered(self, observation: Observation, requests: int, images: int, late: bool) -> None:
        """A run answered so many requests with so many images."""
        self._runs += 1
        self._requests += requests
        self._misses += late
        self._recent.append(observation.latency_ms)
        self._used[observation.network] += images

    def decided(self, decision: Decision) -> None:
        """A decision holds from now on."""
        self._reason = decision.reason
        if self._quality_of is None:
            self._qualities[decision.network] = decision.quality

    def switched(self, changed: int) -> None:
        """So many nodes got other blocks."""
        self._switches += changed > 0
        self._changed += changed

    def fault(self, error: BaseException) -> None:
        """Something beside the runs failed."""
        self.faults += 1
        self._last_fault = f"{type(error).__name__}: {error}"

    @property
    def latencies_ms(self) -> tuple[float, ...]:
        """Of the latest runs, the oldest first."""
        return tuple(self._recent)

    @property
    def latency_ms(self) -> float | None:
        """The median of the latest runs."""
        return statistics.median(self._recent) if self._recent else None

    def status(self, network: Network, deadline_ms: float | None, queue: int) -> Status:
        """All of it."""
        images = sum(self._used.values())
        qualities = {used: self._quality(used) for used in self._used}
        known = [
            (value, self._used[used]) for used, value in qualities.items() if value is not None
        ]
        mean = None
        if images and sum(count for _, count in known) == images:
            mean = sum(value * count for value, count in known) / images
        return Status(
            network=network,
            deadline_ms=deadline_ms,
            reason=self._reason,
            latency_ms=self.latency_ms,
            quality=self._quality(network),
            mean_quality=mean,
            queue=queue,
            requests=self._requests,
            images=images,
            runs=self._runs,
            misses=self._misses,
            switches=self._switches,
            changed=self._changed,
            refused=self.refused,
            failures=self.failures,
            faults=self.faults,
            last_fault=self._last_fault,
            networks=dict(self._used.most_common()),
        )

    def _quality(self, network: Network) -> float | None:
        if network not in self._qualities and self._quality_of is not None:
            self._qualities[network] = float(self._quality_of(network))
        return self._qualities.get(network)
