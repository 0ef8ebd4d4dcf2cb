"""Spaces that the tests of this folder share."""

from __future__ import annotations

import numpy as np

from mathnas.space import Block, BlockNode, DepthRule, Floats, SearchSpace


def small_space() -> SearchSpace:
    """Three nodes with 2, 3 and 2 blocks; the first and the last share the block ``a``."""
    return SearchSpace(
        [
            BlockNode("one", (Block("a"), Block("b"))),
            BlockNode("two", (Block("c"), Block("b"), Block("d"))),
            BlockNode("three", (Block("a"), Block("e"))),
        ],
        name="small",
    )


def optional_space() -> SearchSpace:
    """Two nodes, the second of which may be absent."""
    return SearchSpace(
        [
            BlockNode("one", (Block("a"), Block("b"))),
            BlockNode("two", (Block("a"), Block("absent"))),
        ],
        depth_rules=[DepthRule((1,), (1,))],
    )


def chain_space(nodes: int, blocks: int) -> SearchSpace:
    """Every node has the same blocks."""
    same = tuple(Block(f"block{number}") for number in range(blocks))
    return SearchSpace([BlockNode(f"node{number}", same) for number in range(nodes)])


def additive(space: SearchSpace, networks: Floats | np.ndarray, seed: int = 0) -> Floats:
    """Sums of random block effects, shape (k,)."""
    effects = np.random.default_rng(seed).normal(size=space.num_blocks)
    sums: Floats = effects[np.asarray(networks) + space.offsets[:-1]].sum(axis=1)
    return sums
