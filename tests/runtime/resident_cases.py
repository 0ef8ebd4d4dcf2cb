"""Resident parts and supernets that the tests of this folder share."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas import Block, BlockNode, SearchSpace
from mathnas.runtime.dynamic import DynamicNetwork, Run
from mathnas.runtime.resident import Images, Part, ResidentParts
from mathnas.space import Network

Log = list[tuple[int, int, "int | None"]]


@dataclass
class Ticking:
    """A clock that stands still until something moves it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class WrittenParts(ResidentParts):
    """Blocks that write down that they ran: outputs are the network, one digit a node.

    Args:
        space: any.
        pairs: whether statistics belong to pairs, so that a part depends on the block before.
        pause: before each block, in seconds: gives other threads their chance.
        clock: that every block moves on by (node + 1) * (block + 1) ms.
        idle: blocks (node, block) that compute nothing; they leave a 0.

    Attributes:
        asked: every call of `block`.
    """

    engine = "written 1"

    def __init__(
        self,
        space: SearchSpace,
        *,
        pairs: bool = False,
        pause: float | None = None,
        clock: Ticking | None = None,
        idle: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.space = space
        self.asked: Log = []
        self.stem = lambda value: [value, []]
        self.head = lambda value: [value[0], [*value[1]]]
        self._pairs, self._pause, self._clock, self._idle = pairs, pause, clock, idle

    def block(self, node: int, block: int, previous: int | None) -> Part | None:
        self.asked.append((node, block, previous))
        if (node, block) in self._idle:
            return None
        note = (node, block, previous if self._pairs else None)

        def part(value: Any) -> Any:
            if self._pause is not None:
                time.sleep(self._pause)
            if self._clock is not None:
                self._clock.now += (node + 1) * (block + 1) / 1000
            return [value[0], [*value[1], note]]

        return part

    def load(self, images: Images) -> Any:
        return images

    def unload(self, value: Any) -> npt.NDArray[np.float32]:
        """Shape (batch, nodes): block + 1 of each node that ran; with pairs, plus a tenth for
        the block before."""
        images, notes = value
        row = np.zeros(self.space.num_nodes, dtype=np.float32)
        for node, block, previous in notes:
            row[node] = block + 1 + (0 if previous is None else (previous + 1) / 10)
        return np.repeat(row[None], len(images), axis=0)

    @property
    def bytes(self) -> int:
        return self.space.num_blocks


def written(network: Network) -> npt.NDArray[np.float32]:
    """What `WrittenParts` answer for one image where every block computes something."""
    return np.array([network], dtype=np.float32) + 1


def plain_space(nodes: int = 4, blocks: int = 3) -> SearchSpace:
    return SearchSpace(
        [
            BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=1.0 + j) for j in range(blocks)))
            for i in range(nodes)
        ]
    )


def one_image() -> Images:
    return np.zeros((1, 1, 2, 2), dtype=np.float32)


# ---- requests while the network is switched ------------------------------------------------------


@contextmanager
def interrupted_often() -> Iterator[None]:
    """Threads take turns every few microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@dataclass(frozen=True)
class Request:
    """What became of one request.

    Attributes:
        place: of its input.
        meanwhile: the networks that served from before it was sent until after it was answered,
            with those to which switches had begun.
    """

    place: int
    run: Run
    meanwhile: frozenset[Network]


def requests_under_switches(
    dynamic: DynamicNetwork, served: Sequence[Network], inputs: Sequence[Images], count: int
) -> list[Request]:
    """Two threads send requests while a third one switches from one network to the next, as fast as
    it can and at random moments."""
    begun, done = 0, 0
    over = threading.Event()
    found: list[Request] = []

    def switch() -> None:
        nonlocal begun, done
        rng = np.random.default_rng(0)
        while not over.is_set():
            begun += 1
            dynamic.switch(served[begun % len(served)])
            done += 1
            over.wait(float(rng.exponential(2e-5)))

    def send() -> None:
        for number in range(count // 2):
            before, place = done, number % len(inputs)
            run = dynamic.run(inputs[place])
            turns = range(before, begun + 1)
            found.append(Request(place, run, frozenset(served[i % len(served)] for i in turns)))

    dynamic.switch(served[0])
    senders = [threading.Thread(target=send) for _ in range(2)]
    switcher = threading.Thread(target=switch)
    for thread in (switcher, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    over.set()
    switcher.join()
    return found
