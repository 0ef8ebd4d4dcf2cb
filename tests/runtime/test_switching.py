"""No request is dropped or answered by a half-switched network while other threads switch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from resident_cases import (
    WrittenParts,
    interrupted_often,
    one_image,
    plain_space,
    requests_under_switches,
    written,
)

from mathnas.runtime.dynamic import DynamicNetwork, Run

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


pytestmark = pytest.mark.usefixtures("often_interrupted")


@pytest.fixture(name="often_interrupted")
def _often_interrupted() -> Iterator[None]:
    with interrupted_often():
        yield


def whole(run: Run) -> bool:
    return np.array_equal(run.outputs, written(run.observation.network))


def test_every_request_is_answered_by_one_network_that_served_meanwhile() -> None:
    dynamic = DynamicNetwork(WrittenParts(plain_space(nodes=5), pause=0.0), SERVED[0])
    found = requests_under_switches(dynamic, SERVED, [one_image()], REQUESTS)
    assert len(found) == REQUESTS
    assert all(whole(request.run) for request in found)
    assert all(request.run.observation.network in request.meanwhile for request in found)
    assert {request.run.observation.network for request in found} == set(SERVED)
    assert any(len(request.meanwhile) > 1 for request in found), "no switch fell into a request"


def test_this_test_would_notice_a_half_switched_network() -> None:
    dynamic = HalfSwitched(WrittenParts(plain_space(nodes=5), pause=0.0), SERVED[0])
    found = requests_under_switches(dynamic, SERVED, [one_image()], REQUESTS // 5)
    assert not all(whole(request.run) for request in found)


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
