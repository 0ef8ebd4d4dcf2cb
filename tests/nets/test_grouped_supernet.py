"""A view of a supernet in groups of nodes computes what the supernet computes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import TINY, images, lived_in, memory
from torch import nn

from mathnas import GroupedSpace, InvalidInputError
from mathnas.nets.evaluators import AccuracyEvaluator
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.nets.scores import LabelledImages
from mathnas.spaces import MobileNetV3


def grouped() -> GroupedSupernet:
    """The first two nodes as one, with three candidates; of the last, both blocks."""
    fine = lived_in(TINY)
    groups = {"early": [0, 1], "late": [2]}
    space = GroupedSpace(fine.space, groups, {"early": [(2, 1), (0, 0), (1, 1)]})
    return GroupedSupernet(fine, space)


def test_every_network_computes_what_its_expansion_computes() -> None:
    supernet = grouped()
    x = images(5)
    with torch.no_grad():
        for network in supernet.space.enumerate():
            expected = supernet.fine(x, supernet.space.expand(network))
            assert torch.equal(supernet(x, network), expected)
            torch.testing.assert_close(supernet.extract(network)(x), expected)


def test_absent_blocks_leave_nothing_in_a_candidate() -> None:
    supernet = grouped()
    assert len(list(supernet.extract_block(0, 0).children())) == 2
    # the first node's block 0 computes nothing, so the candidate is the second node's block
    assert not isinstance(supernet.extract_block(0, 1), nn.Sequential)
    assert isinstance(supernet.extract_block(1, 0), nn.Identity)


def test_an_extracted_network_shares_no_memory_and_the_view_all() -> None:
    supernet = grouped()
    assert not memory(supernet) & memory(supernet.extract((0, 1)))
    assert memory(supernet) == memory(supernet.fine)


def test_accuracies_are_those_of_the_expansions_under_the_same_conditions() -> None:
    supernet = grouped()
    held_out = LabelledImages(images(40, seed=1), torch.arange(40) % 10)
    coarse, fine = (
        AccuracyEvaluator(net, [images(20, seed=2)], held_out, with_loss=True, images_at_once=20)
        for net in (supernet, supernet.fine)
    )
    assert coarse.conditions == fine.conditions
    networks = list(supernet.space.enumerate())
    expanded = [supernet.space.expand(network) for network in networks]
    assert coarse.evaluate_batch(networks) == fine.evaluate_batch(expanded)


def test_mobilenetv3_in_stages() -> None:
    space = MobileNetV3(width=0.35, resolution=32, classes=10, stem_stride=1)
    supernet = GroupedSupernet(MobileNetV3Net(space).eval(), space.stages("cpu"))
    network = (0, 1, 2, 3, 4)
    static = supernet.extract(network)
    layers = [len(list(node.children())) for node in static.nodes]
    assert layers == [2, 3, 4, 4, 4]  # depths of the published candidates
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(static(x), supernet(x, network))


def test_groups_of_another_space_are_refused() -> None:
    other = MobileNetV3(width=0.5).stages("cpu")
    with pytest.raises(InvalidInputError, match="the groups are those of the supernet's space"):
        GroupedSupernet(lived_in(TINY), other)
