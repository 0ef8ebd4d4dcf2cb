"""`SearchSpace` keeps the contract that mathnas ships for spaces."""

from __future__ import annotations

import numpy as np
import pytest
from core_cases import Floats, space_of

from mathnas import Block, BlockNode, DepthRule, Network, SearchSpace
from mathnas.space import Indices
from mathnas.testing import SpaceContract


def sorted_blocks(network: Network) -> Network:
    """Two parallel branches compute the same whichever block stands first."""
    return tuple(sorted(network))


def sorted_rows(networks: Indices) -> Indices:
    found: Indices = np.sort(networks, axis=1)
    return found


def bands(networks: Indices) -> Indices:
    """The last node matters only where the first takes its last block."""
    found: Indices = networks.copy()
    found[networks[:, 0] != 2, -1] = 0
    return found


def counts(networks: Indices) -> Floats:
    """How often the first block is chosen, and the mean block."""
    found: Floats = np.column_stack([(networks == 0).sum(axis=1), networks.mean(axis=1)])
    return found


SPACES = {
    "one block": space_of([1]),
    "uneven": space_of([3, 1, 4, 2], [*range(1, 11)], fixed_macs=5),
    "without MACs": space_of([3, 3, 3]),
    "staged": space_of(
        [2, 3, 3, 3, 2],
        [1, 2, 0, 3, 4, 0, 3, 4, 0, 3, 4, 1, 2],
        rules=[DepthRule((1, 2, 3), (0, 0, 0))],
        reference=(0, 1, 2, 1, 0),
    ),
    "huge": space_of([9] * 40, [*range(360)]),
    "symmetric": SearchSpace(
        [BlockNode(name, (Block("conv"), Block("pool"))) for name in ("left", "right")],
        canonical=sorted_blocks,
    ),
    "forms and features": SearchSpace(
        [BlockNode(f"n{i}", tuple(map(Block, "abc"))) for i in range(4)],
        forms={"bands": bands, "sorted": sorted_rows},
        features=counts,
    ),
}


class TestSearchSpace(SpaceContract):
    @pytest.fixture(params=SPACES, ids=str)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return SPACES[request.param]
