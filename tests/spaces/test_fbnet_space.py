"""FBNet: shape, and that average-FLOPs sampling is refused."""

from __future__ import annotations

import pytest

from mathnas.errors import InvalidInputError
from mathnas.sampling import single_sampling
from mathnas.spaces import FBNet


def test_shape_and_names() -> None:
    space = FBNet()
    assert (space.num_nodes, space.num_networks) == (22, 9**22)
    assert space.block_names((8,) * 22) == ("skip",) * 22
    assert [block.name for block in space.nodes[0].blocks][:3] == ["k3_e1", "k3_e1_g2", "k3_e3"]


def test_single_sampling_needs_a_context() -> None:
    space = FBNet()
    with pytest.raises(InvalidInputError, match="needs the MACs"):
        single_sampling(space)
    assert single_sampling(space, (0,) * 22).cost == 22 * 8 + 1
