"""Which networks are trained: the extremes, and random ones among a phase's blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.nets.supernet import Supernet
from mathnas.space import DepthRule, Network, SearchSpace


@runtime_checkable
class DrawsNetworks(Protocol):
    """A supernet that draws its training networks in its own way, instead of slot by slot."""

    def draw(self, rng: np.random.Generator) -> Network:
        """A random network; everything random comes from `rng`."""
        ...


@runtime_checkable
class KnowsExtremes(Protocol):
    """A supernet whose extreme networks are not those with the fewest and the most MACs."""

    def extremes(self) -> tuple[Network, Network]:
        """The smallest and the largest network."""
        ...


def extremes_of(supernet: Supernet) -> tuple[Network, Network]:
    """The smallest and the largest network: the supernet's own, else by MACs.

    Raises:
        InvalidInputError: MACs are not known for every block.
    """
    if isinstance(supernet, KnowsExtremes):
        smallest, largest = supernet.extremes()
        return supernet.space.check(smallest), supernet.space.check(largest)
    return extreme_networks(supernet.space)


def extreme_networks(space: SearchSpace) -> tuple[Network, Network]:
    """The networks with the fewest and with the most MACs; ties go to the lowest index.

    MACs are sums over blocks here, also where a space declares costs of pairs besides: a supernet
    of such a space says its extremes itself.

    Raises:
        InvalidInputError: MACs are not known for every block.
    """
    macs = space.require_macs("finding the smallest and the largest network")
    smallest, largest = [0] * space.num_nodes, [0] * space.num_nodes
    for group in space.groups:
        nodes = list(group.nodes)
        totals = macs[group.configurations + space.offsets[nodes]].sum(axis=1)
        for network, row in ((smallest, np.argmin(totals)), (largest, np.argmax(totals))):
            for node, block in zip(nodes, group.configurations[row].tolist(), strict=True):
                network[node] = block
    return space.check(smallest), space.check(largest)


class AllowedNetworks:
    """The networks that hold only allowed blocks, and how one is drawn.

    A depth rule's depth is uniform among the allowed depths, then every present node's block is
    uniform among its allowed blocks (as in once-for-all; not uniform over networks).

    Args:
        space: the networks.
        patterns: of node names, each with the patterns of its blocks; see `Phase.blocks`.

    Raises:
        InvalidInputError: a pattern matches nothing, or a node or depth rule is left with nothing.
    """

    def __init__(self, space: SearchSpace, patterns: Mapping[str, Sequence[str]]) -> None:
        self.space = space
        self.blocks = _allowed_blocks(space, patterns)
        ruled = {node for rule in space.depth_rules for node in rule.nodes}
        self._free = [node for node in range(space.num_nodes) if node not in ruled]
        self._depths = [(rule, self._allowed_depths(rule)) for rule in space.depth_rules]

    def draw(self, rng: np.random.Generator) -> Network:
        """A random network."""
        network = [0] * self.space.num_nodes
        for node in self._free:
            network[node] = _one(self.blocks[node], rng)
        for rule, depths in self._depths:
            depth = _one(depths, rng)
            for place, (node, absent) in enumerate(zip(rule.nodes, rule.absent, strict=True)):
                network[node] = _one(self._present(node, absent), rng) if place < depth else absent
        return tuple(network)

    def _present(self, node: int, absent: int) -> list[int]:
        return [block for block in self.blocks[node] if block != absent]

    def _allowed_depths(self, rule: DepthRule) -> list[int]:
        members = list(zip(rule.nodes, rule.absent, strict=True))
        depths = [
            depth
            for depth in range(len(members) + 1)
            if all(self._present(node, absent) for node, absent in members[:depth])
            and all(absent in self.blocks[node] for node, absent in members[depth:])
        ]
        if not depths:
            names = ", ".join(self.space.nodes[node].name for node in rule.nodes)
            raise InvalidInputError(
                f"an optional node may be absent only where all later ones of its stage may be, "
                f"but the allowed blocks of {names} leave no depth: allow blocks that do."
            )
        return depths


def _one(choices: Sequence[int], rng: np.random.Generator) -> int:
    return choices[int(rng.integers(len(choices)))]


def _allowed_blocks(
    space: SearchSpace, patterns: Mapping[str, Sequence[str]]
) -> tuple[tuple[int, ...], ...]:
    """For every node the indices of its allowed blocks."""
    allowed = []
    used: set[tuple[str, str]] = set()
    for node in space.nodes:
        matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(node.name, pattern)]
        names = [block.name for block in node.blocks]
        found = set(range(len(names)))
        if matching:
            found = set()
            for pattern in patterns[matching[-1]]:
                hits = {i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)}
                used |= {(matching[-1], pattern)} if hits else set()
                found |= hits
        if not found:
            raise InvalidInputError(
                f"every node keeps at least one block, but {list(patterns[matching[-1]])} matches "
                f"none of node {node.name!r}, which has {', '.join(names)}."
            )
        allowed.append(tuple(sorted(found)))
    for pattern, own in patterns.items():
        if not any(fnmatch.fnmatchcase(node.name, pattern) for node in space.nodes):
            raise InvalidInputError(
                f"a pattern of blocks names nodes of {space.name}, but {pattern!r} matches none of "
                f"{', '.join(node.name for node in space.nodes)}."
            )
        for text in own:
            if (pattern, text) not in used and not _overruled(space, patterns, pattern):
                raise InvalidInputError(
                    f"a pattern of blocks matches some block, but {text!r} matches none of the "
                    f"nodes {pattern!r}: take it out, or correct it."
                )
    return tuple(allowed)


def _overruled(space: SearchSpace, patterns: Mapping[str, Sequence[str]], pattern: str) -> bool:
    """Whether later patterns hold for some nodes of this one, which may be those it was for."""
    later = list(patterns)[list(patterns).index(pattern) + 1 :]
    return any(
        fnmatch.fnmatchcase(node.name, pattern)
        and any(fnmatch.fnmatchcase(node.name, other) for other in later)
        for node in space.nodes
    )
