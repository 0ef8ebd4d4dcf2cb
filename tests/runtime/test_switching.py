"""No request is dropped or answered by a half-switched network while other threads switch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from resident_cases import WrittenParts, one_image, plain_space, written

from mathnas.runtime.dynamic import DynamicNetwork, Run
from mathnas.space import Network

REQUESTS = 3_000
# any two differ in every node, so that a mixture of two is none of them
SERVED = [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (1, 2, 0, 1, 2), (2, 0, 1, 2, 0)]


class HalfSwitched(DynamicNetwork):
    """What must not be: nodes are taken from whatever serves while the batch runs."""

    def _run(self, chain: Any, images: Any) -> Run:
        value = self.parts.stem(self.parts.load(images))
        for node in range(self.space.num_nodes):
            part = self._chain.parts[node]
            assert part is not None
            value = part(value)
        run = super()._run(chain, images)
        return Run(self.parts.unload(self.parts.head(value)), run.observation)


@pytest.fixture
def often_interrupted() -> Iterator[None]:
    """Threads take turns every few microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def answers_under_switches(dynamic: DynamicNetwork, requests: int) -> list[tuple[int, int, Run]]:
    """The runs of two threads while a third one switches as fast as it can, each with the number of
    switches that were done when it started, and that were begun when it ended."""
    begun, done = [0], [0]
    over = threading.Event()
    found: list[tuple[int, int, Run]] = []

    def switch() -> None:
        rng = np.random.default_rng(0)
        while not over.is_set():
            begun[0] += 1
            dynamic.switch(SERVED[begun[0] % len(SERVED)])
            done[0] += 1
            over.wait(float(rng.exponential(2e-5)))

    def request() -> None:
        for _ in range(requests // 2):
            before = done[0]
            run = dynamic.run(one_image())
            found.append((before, begun[0], run))

    switcher = threading.Thread(target=switch)
    callers = [threading.Thread(target=request) for _ in range(2)]
    switcher.start()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    over.set()
    switcher.join()
    return found


def whole(run: Run) -> bool:
    return np.array_equal(run.outputs, written(run.observation.network))


@pytest.mark.usefixtures("often_interrupted")
def test_every_request_is_answered_by_one_network_that_served_meanwhile() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(nodes=5), pause=0.0), SERVED[0])
    found = answers_under_switches(dynamic, REQUESTS)
    assert len(found) == REQUESTS
    assert all(whole(run) for _, _, run in found)
    for before, after, run in found:
        # begun switches may not be in effect yet, nor be noticed when they are
        meanwhile = {SERVED[count % len(SERVED)] for count in range(before, after + 1)}
        assert run.observation.network in meanwhile
    networks: set[Network] = {run.observation.network for _, _, run in found}
    assert networks == set(SERVED)
    assert any(after > before for before, after, _ in found), "no switch fell into a request"


@pytest.mark.usefixtures("often_interrupted")
def test_this_test_would_notice_a_half_switched_network() -> None:
    dynamic = HalfSwitched(WrittenParts(plain_space(nodes=5), pause=0.0), SERVED[0])
    found = answers_under_switches(dynamic, REQUESTS)
    assert not all(whole(run) for _, _, run in found)


@pytest.mark.usefixtures("often_interrupted")
def test_threads_that_switch_at_the_same_time_leave_one_of_their_networks() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(nodes=5)), SERVED[0])

    def switch(first: int) -> None:
        for count in range(500):
            dynamic.switch(SERVED[(first + count) % len(SERVED)])

    threads = [threading.Thread(target=switch, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dynamic.network in SERVED
    run = dynamic.run(one_image())
    assert run.observation.network == dynamic.network
    assert whole(run)
