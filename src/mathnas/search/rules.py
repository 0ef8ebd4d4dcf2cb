"""Rules on combinations of blocks: rows with small integer coefficients over the same choices.

Every rule counts something in a network and bounds the count, so that a solver treats it as one
more limit and an answer is checked exactly, in integers.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.space import BlockNode, Network, SearchSpace, network_text

Name: TypeAlias = "str | int"
Named: TypeAlias = Mapping[Name, Name]


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule: ``sum(coefficients of the network's blocks) <= bound``.

    Attributes:
        space: what it is about.
        text: the rule in words.
        coefficients: flat, one a block, integers.
        bound: an integer.
    """

    space: SearchSpace
    text: str
    coefficients: npt.NDArray[np.int64]
    bound: int

    def holds(self, network: Network) -> bool:
        """Whether a network keeps the rule."""
        return (
            int(self.coefficients[self.space.offsets[:-1] + np.array(network)].sum()) <= self.bound
        )

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return (
            self._key() == other._key() and self.space == other.space
            if isinstance(other, Rule)
            else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[bytes, int]:
        return self.coefficients.tobytes(), self.bound


def forbid(space: SearchSpace, together: Named) -> Rule:
    """These blocks must not all be in one network.

    Args:
        together: block by node, each by name or index; a single entry excludes a block.

    Raises:
        InvalidInputError: a node or block is unknown, or none is named.
    """
    places = _places(space, together)
    text = f"not together: {_listed(space, together)}"
    return _rule(space, text, dict.fromkeys(places, 1), len(places) - 1)


def require(space: SearchSpace, when: Named, then: Named) -> Rule:
    """Where all blocks of `when` are in a network, all of `then` must be too.

    Raises:
        InvalidInputError: a node or block is unknown, none is named, or a node stands in both.
    """
    conditions, consequences = _places(space, when), _places(space, then)
    if {space.place_of(place)[0] for place in conditions} & {
        space.place_of(place)[0] for place in consequences
    }:
        raise InvalidInputError(
            f"a rule's condition and consequence are about different nodes, but got {when} and "
            f"{then}."
        )
    # sum(conditions) * c - sum(consequences) <= (|conditions| - 1) * c with c = |consequences|
    weight = len(consequences)
    coefficients = dict.fromkeys(conditions, weight)
    coefficients.update(dict.fromkeys(consequences, -1))
    text = f"where {_listed(space, when)}, then {_listed(space, then)}"
    return _rule(space, text, coefficients, (len(conditions) - 1) * weight)


def fix(space: SearchSpace, blocks: Named) -> Rule:
    """These nodes take these blocks.

    Raises:
        InvalidInputError: a node or block is unknown, or none is named.
    """
    places = _places(space, blocks)
    return _rule(space, f"fixed: {_listed(space, blocks)}", dict.fromkeys(places, -1), -len(places))


def exclude(
    space: SearchSpace, blocks: Mapping[str | int, str | int | Sequence[str | int]]
) -> Rule:
    """These blocks are in no answer; several blocks of a node may be given as a list.

    Raises:
        InvalidInputError: a node or block is unknown, or none is named.
    """
    places: list[int] = []
    for node, named in blocks.items():
        several = named if isinstance(named, Sequence) and not isinstance(named, str) else [named]
        places += [place for block in several for place in _places(space, {node: block})]
    if not places:
        raise InvalidInputError("a rule names at least one block, but got none.")
    text = ", ".join(_shown(space, place) for place in dict.fromkeys(places))
    return _rule(space, f"without {text}", dict.fromkeys(places, 1), 0)


def at_most_changes(space: SearchSpace, network: Sequence[int | str], count: int) -> Rule:
    """At most `count` nodes differ from `network`: what switching may cost on a device.

    Raises:
        InvalidInputError: the network does not belong to the space, or the count is negative.
    """
    places, shown = _checked(space, network, count)
    text = f"at most {count} nodes differ from [{shown}]"
    return _rule(space, text, dict.fromkeys(places, -1), count - space.num_nodes)


def at_least_changes(space: SearchSpace, network: Sequence[int | str], count: int) -> Rule:
    """At least `count` nodes differ from `network`.

    Raises:
        InvalidInputError: the network does not belong to the space, or the count is negative.
    """
    places, shown = _checked(space, network, count)
    text = f"at least {count} nodes differ from [{shown}]"
    return _rule(space, text, dict.fromkeys(places, 1), space.num_nodes - count)


def _checked(space: SearchSpace, network: Sequence[int | str], count: int) -> tuple[list[int], str]:
    """The flat block numbers of a network that changes are counted from, and how it is written."""
    if count < 0:
        raise InvalidInputError(f"a number of changes is at least 0, but got {count}.")
    chosen = space.check(network)
    places: list[int] = (space.offsets[:-1] + np.array(chosen)).tolist()
    return places, network_text(chosen)


def _rule(space: SearchSpace, text: str, coefficients: Mapping[int, int], bound: int) -> Rule:
    flat = np.zeros(space.num_blocks, dtype=np.int64)
    for place, value in coefficients.items():
        flat[place] = value
    return Rule(space, text, flat, bound)


def _places(space: SearchSpace, named: Named) -> list[int]:
    """Flat block numbers of blocks by node."""
    places: dict[int, int] = {}
    for node, block in named.items():
        number = space.node_index(node)
        if number in places:
            raise InvalidInputError(
                f"a rule names a node once, but {space.nodes[number].name!r} stands twice in "
                f"{dict(named)}."
            )
        places[number] = int(space.offsets[number]) + _block_index(space.nodes[number], block)
    if not places:
        raise InvalidInputError("a rule names at least one block, but got none.")
    return list(places.values())


def _block_index(node: BlockNode, block: Name) -> int:
    if isinstance(block, str):
        return node.index(block)
    try:
        index = operator.index(block)
    except TypeError as error:
        raise InvalidInputError(
            f"a block of node {node.name!r} is given by its name or index, but got {block!r}."
        ) from error
    if not 0 <= index < len(node.blocks):
        raise InvalidInputError(
            f"node {node.name!r} has blocks 0 to {len(node.blocks) - 1}, but got {index}."
        )
    return index


def _listed(space: SearchSpace, named: Named) -> str:
    return ", ".join(_shown(space, place) for place in _places(space, named))


def _shown(space: SearchSpace, place: int) -> str:
    number, block = space.place_of(place)
    node = space.nodes[number]
    return f"{node.name}={node.blocks[block].name}"
