"""Networks as graphs with a global node, which graph networks read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.space import Floats, Indices, SearchSpace


@dataclass(frozen=True, slots=True)
class Graphs:
    """k graphs of n nodes with f features; node 0 is the global node.

    Attributes:
        features: what each node is, shape (k, n, f); mostly one-hot.
        adjacency: shape (k, n, n); entry (i, j) is 1 where node i links to node j, and on the
            diagonal. The global node links to all, and none to it.

    Raises:
        InvalidInputError: the shapes do not fit.
    """

    features: Floats
    adjacency: Floats

    def __post_init__(self) -> None:
        features, adjacency = self.features.shape, self.adjacency.shape
        if len(features) != 3 or adjacency != (*features[:2], features[1]):
            raise InvalidInputError(
                "features have shape (k, n, f) and adjacency has shape (k, n, n), but got "
                f"{features} and {adjacency}."
            )

    def __len__(self) -> int:
        return len(self.features)


@runtime_checkable
class HasGraphs(Protocol):
    """A space that knows how its networks are graphs."""

    def graphs(self, networks: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Features (k, n, f) and adjacency (k, n, n) of networks, as in `Graphs`."""


def graphs_of(space: SearchSpace, networks: npt.ArrayLike) -> Graphs:
    """The graphs of networks: the space's own where it has a method `graphs`, otherwise chains.

    Raises:
        InvalidInputError: a network is not of the space.
    """
    if isinstance(space, HasGraphs):
        return Graphs(*space.graphs(space.check_many(networks)))
    return chain_graphs(space, networks)


def chain_graphs(space: SearchSpace, networks: npt.ArrayLike) -> Graphs:
    """Networks as chains: input -> node 1 -> ... -> node m -> output, and the global node.

    The labels are the names of blocks (a name means the same in every node) in the order in which
    the space lists them, then input, output, global: n = m + 3 nodes with that many features.

    Raises:
        InvalidInputError: a network is not of the space.
    """
    chosen: Indices = space.check_many(networks)
    names = [block.name for node in space.nodes for block in node.blocks]
    label_of = {name: label for label, name in enumerate(dict.fromkeys(names))}
    labels = np.array([label_of[name] for name in names])
    count, inner = chosen.shape
    n, f = inner + 3, len(label_of) + 3
    features = np.zeros((count, n, f))
    features[:, 0, f - 1] = features[:, 1, f - 3] = features[:, n - 1, f - 2] = 1.0
    flat = labels[chosen + space.offsets[:-1]]
    features[np.arange(count)[:, None], np.arange(2, n - 1), flat] = 1.0
    links = np.eye(n) + np.eye(n, k=1)
    links[0] = 1.0
    return Graphs(features, np.broadcast_to(links, (count, n, n)))
