"""Nodes that are left out."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Pair, batches, chained, odd, odd_batches, pictures
from torch import Tensor, nn

from mathnas.compression.alternative import Call, InapplicableError, RecordedNode
from mathnas.compression.skip import SkipAlternative
from mathnas.compression.supernet import from_module


def recorded(module: nn.Module, *args: Tensor, **kwargs: Tensor) -> RecordedNode:
    with torch.no_grad():
        return RecordedNode("node", module, [Call(args, kwargs, module(*args, **kwargs))])


@torch.no_grad()
def test_a_network_without_its_blocks_is_stem_and_head() -> None:
    model = chained()
    net = from_module(model, batches(), [SkipAlternative()])
    x = model.stem(pictures())
    torch.testing.assert_close(net(pictures(), (1, 1, 1)), model.head(x.mean((2, 3))))
    assert [node.blocks[1].macs for node in net.space.nodes] == [0, 0, 0]
    assert [node.blocks[1].params for node in net.space.nodes] == [0, 0, 0]


def test_the_output_stays_in_its_tuple() -> None:
    class InTuple(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor]:  # type: ignore[override]
            return (super().forward(x),)

    x = torch.randn(2, 3)
    made = SkipAlternative().build(recorded(InTuple(3, 3), x))
    found = made(x)
    assert isinstance(found, tuple)
    assert found[0] is x


def test_a_node_that_changes_the_shape_cannot_be_left_out() -> None:
    with pytest.raises(InapplicableError, match=r"node takes \(2, 3\).*gives \(2, 4\)"):
        SkipAlternative().build(recorded(nn.Linear(3, 4), torch.randn(2, 3)))


def test_a_node_of_several_outputs_cannot_be_left_out() -> None:
    with pytest.raises(InapplicableError, match="gives one tensor, but node gives 2, in a tuple"):
        SkipAlternative().build(recorded(Pair(6), torch.randn(2, 5, 6)))
    net_refused = pytest.raises(Exception, match="none could be made")
    with net_refused:
        from_module(odd(), odd_batches(), [SkipAlternative()])
