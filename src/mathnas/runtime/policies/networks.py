"""The few whole networks that policies of other papers keep and switch between."""

from __future__ import annotations

import math

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.runtime.policies.fixed import largest_network
from mathnas.runtime.policies.offline import LATENCY, Offline
from mathnas.search import Front, pareto_front
from mathnas.space import Network

_MOST_TRIED = 16  # times as many points as networks are wanted


def front_networks(offline: Offline, count: int = 7) -> list[Network]:
    """Networks of the Pareto front of quality against latency, the fastest first: as many as asked
    for, where the front has them. They are spread evenly over latency; where gaps of the front
    leave too few, evenly over more of its points.

    Raises:
        InvalidInputError: the count is below 2.
    """
    points = count
    while True:
        front = pareto_front(offline.table, LATENCY, offline.quality_metric, max_points=points)
        assert isinstance(front, Front)  # without limits there is one
        if len(front) >= count or points >= _MOST_TRIED * count:
            break
        points *= 2
    places = np.unique(np.rint(np.linspace(0, len(front) - 1, count)).astype(int))
    return [front.points[place].network for place in places.tolist()]


def width_networks(offline: Offline, count: int) -> list[Network]:
    """Networks of one "width": the same rank, by MACs, of every node's blocks, the smallest first.

    Slimmable networks have one width throughout: 4 of them, or 27 where they are universally
    slimmable. Between two ranks the first nodes are already at the higher one. Where there are
    fewer ranks than widths, equal networks are kept once.

    Raises:
        InvalidInputError: the count is below 2, the space declares no MACs, or such a network is
            not one of the space (depth rules).
    """
    _check_count(count)
    space = offline.space
    macs = space.require_macs("ordering blocks by width")
    orders = [
        np.argsort(macs[start:stop], kind="stable").tolist()
        for start, stop in zip(space.offsets[:-1], space.offsets[1:], strict=True)
    ]
    found: dict[Network, None] = {}
    for share in np.linspace(0.0, 1.0, count).tolist():
        network = []
        for node, order in enumerate(orders):
            rank = share * (len(order) - 1)
            # a tiny allowance, so that whole ranks are not missed by rounding
            low = math.floor(rank + 1e-9)
            raised = rank - low > (node + 0.5) / len(orders)
            network.append(order[low + raised])
        found[space.check(network)] = None
    return list(found)


def slimmed_networks(offline: Offline, count: int = 4) -> list[Network]:
    """Greedy slimming, as AutoSlim does it: from the largest network, the node goes one rank down
    (by offline time) that loses the least predicted quality for each ms saved, until none can; of
    these, `count` spread evenly over latency, the fastest first.

    Raises:
        InvalidInputError: the count is below 2, or such a network is not one of the space.
    """
    _check_count(count)
    space = offline.space
    path = [largest_network(offline)]
    while True:
        steps = [
            space.check((*path[-1][:node], block, *path[-1][node + 1 :]))
            for node in range(space.num_nodes)
            if (block := _below(offline, node, path[-1][node])) is not None
        ]
        if not steps:
            break
        path.append(min(steps, key=lambda network: _price(offline, path[-1], network)))
    latencies = np.array([offline.latency(network) for network in path])
    wanted = np.linspace(latencies.min(), latencies.max(), count)
    kept = {path[int(np.argmin(np.abs(latencies - target)))]: None for target in wanted.tolist()}
    return list(kept)


def _below(offline: Offline, node: int, block: int) -> int | None:
    """The next faster block of a node; None for the fastest."""
    order = offline.ranks(node)
    rank = order.index(block)
    return order[rank - 1] if rank else None


def _price(offline: Offline, before: Network, after: Network) -> float:
    """Quality lost for each ms saved; what saves nothing comes last."""
    lost = offline.quality(before) - offline.quality(after)
    saved = offline.latency(before) - offline.latency(after)
    return lost / saved if saved > 0 else math.inf


def _check_count(count: int) -> None:
    if count < 2:
        raise InvalidInputError(f"there are at least 2 networks to switch between, got {count}.")
