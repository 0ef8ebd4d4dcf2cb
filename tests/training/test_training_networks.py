"""Which networks are trained."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch")

from training_cases import Choosing

from mathnas import Block, BlockNode, DepthRule, InvalidInputError, Network, SearchSpace
from mathnas.spaces import MobileNetV3
from mathnas.training.config import Phase, TrainingConfig
from mathnas.training.networks import AllowedNetworks, extreme_networks, extremes_of
from mathnas.training.recipes import sandwich, uniform


def node(name: str, *macs: float) -> BlockNode:
    return BlockNode(name, tuple(Block(f"b{i}", macs=value) for i, value in enumerate(macs)))


def drawn(allowed: AllowedNetworks, count: int) -> Counter[Network]:
    rng = np.random.default_rng(0)
    return Counter(allowed.draw(rng) for _ in range(count))


def test_extremes_follow_macs_and_depth_rules() -> None:
    # the absent block of the rule is the last; a cheap block may stand after a dear one
    nodes = [node("a", 4, 7, 7), node("b", 5, 2, 0), node("c", 9, 3, 0)]
    space = SearchSpace(nodes, depth_rules=[DepthRule((1, 2), (2, 2))])
    assert extreme_networks(space) == ((0, 2, 2), (1, 0, 0))
    every = space.all_networks()
    assert space.macs([(0, 2, 2)])[0] == space.macs(every).min()
    assert space.macs([(1, 0, 0)])[0] == space.macs(every).max()


def test_extremes_need_macs() -> None:
    space = SearchSpace([BlockNode("a", (Block("x"), Block("y")))])
    with pytest.raises(InvalidInputError, match="largest network needs the MACs"):
        extreme_networks(space)


def test_depths_are_uniform_and_then_blocks() -> None:
    nodes = [node("a", 1, 2), node("b", 5, 2, 0), node("c", 9, 3, 0)]
    space = SearchSpace(nodes, depth_rules=[DepthRule((1, 2), (2, 2))])
    counts = drawn(AllowedNetworks(space, {}), 6000)
    assert len(counts) == space.num_networks == 2 * (1 + 2 + 4)
    for network, count in counts.items():
        depth = sum(block != 2 for block in network[1:])
        share = 1 / 2 * 1 / 3 * 1 / 2**depth
        assert count == pytest.approx(6000 * share, rel=0.2)


def test_phases_of_the_public_schedule_allow_what_they_should() -> None:
    space = MobileNetV3()
    rng = np.random.default_rng(0)

    def seen(patterns: dict[str, list[str]]) -> tuple[set[str], set[int]]:
        networks = [AllowedNetworks(space, patterns).draw(rng) for _ in range(300)]
        blocks = {name for network in networks for name in space.block_names(network)}
        return blocks, {depth for network in networks for depth in space.to_config(network)["d"]}

    six = {"k3_e6", "k5_e6", "k7_e6"}
    assert seen({"*": ["k?_e6"]}) == (six, {4})
    assert seen({"*": ["k?_e6"], "*.layer4": ["k?_e6", "absent"]}) == ({*six, "absent"}, {3, 4})
    patterns = {"*": ["k?_e6"], "*.layer[34]": ["k?_e6", "absent"]}
    assert seen(patterns) == ({*six, "absent"}, {2, 3, 4})
    blocks, depths = seen({"*": ["k?_e[46]", "absent"]})
    assert blocks == {*six, "k3_e4", "k5_e4", "k7_e4", "absent"}
    assert depths == {2, 3, 4}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"stage9*": ["*"]}, "'stage9\\*' matches none of stage1.layer1"),
        ({"*": ["k?_e6", "k9"]}, "'k9' matches none of the nodes"),
        ({"*": ["absent"]}, "matches none of node 'stage1.layer1', which has k3_e3"),
        ({"*": ["k*"], "*.layer3": ["absent"]}, "stage1.layer3, stage1.layer4 leave no depth"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(patterns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        AllowedNetworks(MobileNetV3(), patterns)


class Own(Choosing):
    """Draws and ranks its networks itself."""

    def draw(self, rng: np.random.Generator) -> Network:
        return (int(rng.integers(2)),)

    def extremes(self) -> tuple[Network, Network]:
        return (1,), (0,)


def test_a_supernet_may_draw_and_rank_its_own_networks() -> None:
    net, config = Own((5.0, 9.0, 1.0)), TrainingConfig()
    assert extremes_of(net) == ((1,), (0,))
    assert extremes_of(Choosing((5.0, 9.0, 1.0))) == ((2,), (1,))
    rng = np.random.default_rng(0)
    phase = Phase("all", 1, networks=50)
    assert {one.network for one in uniform(net, phase, config)(rng)} == {(0,), (1,)}
    passes = sandwich(net, phase, config)(rng)
    assert [one.network for one in passes[:2]] == [(0,), (1,)]
    # with blocks of its own a phase decides
    phase = Phase("one", 1, blocks={"only": ("b2",)}, networks=5)
    assert {one.network for one in uniform(net, phase, config)(rng)} == {(2,)}
