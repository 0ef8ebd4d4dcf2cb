"""How long resident parts take in their places: the offline times that a monitor starts from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from mathnas._progress import Show, progress_bar
from mathnas.devices.timing import no_garbage_collection
from mathnas.errors import InvalidInputError
from mathnas.runtime.observation import Observation, PartTimes
from mathnas.space import Floats, Indices, Network, NodeGroup, SearchSpace

FEWEST_TIMES = 5  # of a block


def calibrated(
    space: SearchSpace,
    run: Callable[[Network], Observation],
    *,
    seconds: float,
    progress: Show = None,
) -> PartTimes:
    """The median time of every part, over rounds of few networks that together hold every block.

    Each round puts the blocks together differently and in another order: a block is met behind
    several others, and a slow moment does not meet the same block each time.

    Args:
        run: one batch through a network, with the times of its parts.
        seconds: how long it may take, about; every block is timed at least `FEWEST_TIMES` times.
        progress: as in `mathnas.evaluate`.

    Raises:
        InvalidInputError: `seconds` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise InvalidInputError(
            f"calibrating takes a finite time of more than 0 seconds, but got {seconds}: give it "
            "some."
        )
    rng = np.random.default_rng(0)
    for network in covering(space, rng):
        run(network)  # first runs allocate
    networks: list[Network] = []
    times: list[tuple[float, ...]] = []
    rounds = 0
    with progress_bar("calibrate", round(1000 * seconds), progress) as bar, no_garbage_collection():
        start = last = time.perf_counter()
        while rounds < FEWEST_TIMES or last - start < seconds:
            for network in covering(space, rng):
                times.append(run(network).parts_ms)
                networks.append(network)
            rounds += 1
            now = time.perf_counter()
            bar.advance(round(1000 * (now - last)), f"{rounds} rounds")
            last = now
    return _medians(space, np.array(networks), np.array(times))


def covering(space: SearchSpace, rng: np.random.Generator) -> list[Network]:
    """As few networks as can hold every block, put together at random.

    Of a node with n blocks each stands in one network, or in few more where other nodes have more;
    optional nodes are all absent in one of them, and all present in the others.
    """
    own = [_configurations(group, rng) for group in space.groups]
    networks = np.empty((max(map(len, own)), space.num_nodes), dtype=np.intp)
    for group, rows in zip(space.groups, own, strict=True):
        networks[:, group.nodes] = rows[rng.permutation(len(networks)) % len(rows)]
    return [tuple(row) for row in networks.tolist()]


def _configurations(group: NodeGroup, rng: np.random.Generator) -> Indices:
    """Choices for the nodes of a group that together hold every block, shape (k, nodes)."""
    if group.absent is None:
        return np.arange(group.sizes[0])[:, None]
    present = [
        rng.permutation([block for block in range(size) if block != absent])
        for size, absent in zip(group.sizes, group.absent, strict=True)
    ]
    most = max(map(len, present))
    columns = [np.resize(blocks, most) for blocks in present]
    return np.concatenate([np.stack(columns, axis=1), [group.absent]])


def _medians(space: SearchSpace, networks: Indices, times: Floats) -> PartTimes:
    """Of each part over runs of networks, shape (k, m), that took `times`, shape (k, m + 2)."""
    blocks = [
        float(np.median(times[networks[:, node] == block, node + 1]))
        for node, size in enumerate(space.sizes)
        for block in range(size)
    ]
    return PartTimes(space, float(np.median(times[:, 0])), blocks, float(np.median(times[:, -1])))
