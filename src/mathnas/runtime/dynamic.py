"""Dynamic networks: a network of resident blocks runs, and another takes over between two batches.

What runs is one immutable chain of parts. A run takes the chain once, when it starts; a switch
makes another chain and puts it in the first one's place in a single assignment. So a run is of the
network before a switch or of the one after it, whichever threads run and switch, and no run waits
for a switch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas._progress import Show
from mathnas.runtime.calibration import calibrated
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.runtime.resident import Images, Part, ResidentParts
from mathnas.space import Network, SearchSpace


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one batch gave.

    Attributes:
        outputs: logits of shape (batch, classes).
        observation: which network ran, and how long its parts took.
    """

    outputs: npt.NDArray[np.float32]
    observation: Observation


@dataclass(frozen=True, slots=True)
class Switch:
    """What a switch did.

    Attributes:
        network: that serves from now on.
        changed: nodes whose blocks are others than before; empty where the network served already.
        seconds: that it took, waiting for another switch included.
    """

    network: Network
    changed: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """A network ready to run.

    Attributes:
        parts: of its nodes; None where nothing is computed.
        steps: what runs one after another, each with its place among the m + 2 parts.
    """

    network: Network
    parts: tuple[Part | None, ...]
    steps: tuple[tuple[int, Part], ...]


class DynamicNetwork:
    """The resident networks of a package, of which one serves.

    Any number of threads may `run`, `switch` and `calibrate` at the same time.

    Args:
        parts: every block that may serve, loaded.
        network: that serves first (indices or names).
        clock: that runs and parts are timed by, in seconds; it does not jump.

    Attributes:
        parts: as given.
        space: the networks that can serve.

    Raises:
        InvalidInputError: the network does not belong to the space.
    """

    def __init__(
        self,
        parts: ResidentParts,
        network: Sequence[int | str],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.parts = parts
        self.space: SearchSpace = parts.space
        self._clock = clock
        self._switching = threading.Lock()  # of switches; runs never take it
        self._chain = self._chained(self.space.check(network))

    @property
    def network(self) -> Network:
        """That serves now."""
        return self._chain.network

    @property
    def num_networks(self) -> int:
        """How many networks can serve."""
        return self.space.num_networks

    @property
    def memory_bytes(self) -> int:
        """Of all resident weights, shared ones counted once."""
        return self.parts.bytes

    def run(self, images: Images) -> Run:
        """One batch through the network that serves when the run starts.

        Args:
            images: shape (batch, channels, height, width).

        Raises:
            InvalidInputError: the images do not fit.
        """
        return self._run(self._chain, images)

    def switch(self, network: Sequence[int | str]) -> Switch:
        """Let another network serve, from the next batch on.

        Only nodes whose blocks differ get other parts; and where statistics belong to pairs of
        blocks, the nodes after these.

        Args:
            network: indices or names.

        Raises:
            InvalidInputError: it does not belong to the space; what served serves on.
        """
        start = time.perf_counter()
        chosen = self.space.check(network)
        with self._switching:
            before = self._chain
            changed = tuple(
                node
                for node, (old, new) in enumerate(zip(before.network, chosen, strict=True))
                if old != new
            )
            if changed:
                self._chain = self._chained(chosen, before)
        return Switch(chosen, changed, time.perf_counter() - start)

    def calibrate(
        self, images: Images, *, seconds: float = 1.0, progress: Show = None
    ) -> PartTimes:
        """How long every resident part takes for such a batch, each in its place in a network.

        Runs networks that together hold every block, in turns, beside the one that serves and
        without switching it.

        Args:
            images: a batch as it will be served.
            seconds: how long it may take, about; every block is timed at least five times.
            progress: as in `mathnas.evaluate`.

        Raises:
            InvalidInputError: the images do not fit, or `seconds` is not positive and
                finite.
        """
        chains: dict[Network, _Chain] = {}

        def run(network: Network) -> Observation:
            if network not in chains:
                chains[network] = self._chained(network)
            return self._run(chains[network], images).observation

        return calibrated(self.space, run, seconds=seconds, progress=progress)

    def _chained(self, network: Network, before: _Chain | None = None) -> _Chain:
        """The chain of a network, with the parts of another one where they are the same."""
        parts: list[Part | None] = []
        previous: int | None = None
        for node, block in enumerate(network):
            if (
                before is not None
                and before.network[max(node - 1, 0) : node + 1]
                == (network[max(node - 1, 0) : node + 1])
            ):
                parts.append(before.parts[node])
            else:
                parts.append(self.parts.block(node, block, previous))
            previous = block
        steps = [(0, self.parts.stem)]
        steps += [(place, part) for place, part in enumerate(parts, start=1) if part is not None]
        steps.append((len(parts) + 1, self.parts.head))
        return _Chain(network, tuple(parts), tuple(steps))

    def _run(self, chain: _Chain, images: Images) -> Run:
        times = [0.0] * (len(chain.network) + 2)
        clock = self._clock
        start = last = clock()
        value: Any = self.parts.load(images)
        for place, part in chain.steps:
            value = part(value)
            now = clock()
            times[place] = 1000 * (now - last)
            last = now
        outputs = self.parts.unload(value)
        end = clock()
        times[-1] += 1000 * (end - last)
        observation = Observation(chain.network, end, 1000 * (end - start), tuple(times))
        return Run(outputs, observation)
