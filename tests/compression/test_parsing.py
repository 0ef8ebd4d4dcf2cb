"""Alternatives as a line of text, and one after another."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Impossible, Scaled, batches, chained, pictures
from torch import nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import Call, InapplicableError, RecordedNode
from mathnas.compression.chained import ChainedAlternative
from mathnas.compression.parsing import read_alternatives
from mathnas.compression.quantised import QuantisedAlternative, quantised_bits, weight_bytes
from mathnas.compression.supernet import from_module
from mathnas.compression.width import WidthAlternative


def test_a_bare_number_is_of_the_kind_before_it() -> None:
    found = read_alternatives("skip,width:0.75,0.5, int8,kernel:3,heads:0.5,0.25,rank:0.4")
    names = ["skip", "width:0.75", "width:0.5", "int8", "kernel:3", "heads:0.5", "heads:0.25"]
    assert [one.name for one in found] == [*names, "rank:0.4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "but got ''"),
        ("0.5", "but got '0.5'"),
        ("width", "but got 'width'"),
        ("width:wide", "but got 'width:wide'"),
        ("skip:1", "but got 'skip:1'"),
        ("slim:0.5", "skip, int4, int8, heads:SHARE, kernel:SIZE, rank:SHARE, width:SHARE"),
        ("width:1.5", "above 0 and below 1, but got 1.5"),
        ("kernel:2.5", "whole number, but got 2.5"),
        ("kernel:4", "odd and at least 1"),
        ("width:nan", "but got nan"),
        ("skip,skip", "skip is in 'skip,skip' twice"),
        ("width:0.5,0.50", "width:0.5 is in"),
    ],
)
def test_what_is_no_alternative_is_told(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_alternatives(text)


def test_a_plus_joins_steps() -> None:
    found = read_alternatives("width:0.5+int8, width:0.5 + int4,rank:0.5,skip,0.25")
    assert [one.name for one in found] == [
        *("width:0.5+int8", "width:0.5+int4", "rank:0.5", "skip", "rank:0.25")
    ]
    for text, message in (
        ("width:0.5+int8,0.5", "but got '0.5'"),
        ("skip+", r"but got 'skip\+'"),
        ("int8+width:0.5", r"int8\+width:0.5: put int8 last"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            read_alternatives(text)


@torch.no_grad()
def test_steps_are_applied_one_after_another() -> None:
    (both,) = read_alternatives("width:0.5+int8")
    net = from_module(chained(), batches(), [both])
    made = net.node_blocks(1)[1]
    node_of = from_module(chained(), batches(), [WidthAlternative(0.5)]).node_blocks(1)[1]
    expand, narrow = made.get_parameter("expand.weight"), node_of.get_parameter("expand.weight")
    assert expand.shape == narrow.shape == (4, 4, 1, 1)
    assert 0 < (expand - narrow).abs().max() < 0.02 * narrow.abs().max()
    assert quantised_bits(made.get_submodule("project")) is not None
    assert weight_bytes(made) < weight_bytes(node_of)
    assert net.extract((1, 1, 1))(pictures()).shape == (12, 5)


def test_a_later_step_sees_what_the_earlier_one_gives() -> None:
    x = torch.randn(3, 4)
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        node = RecordedNode("node", layer, [Call((x,), {}, layer(x))])
    seen: list[RecordedNode] = []

    class Looking(Scaled):
        def build(self, node: RecordedNode) -> nn.Module:
            seen.append(node)
            return super().build(node)

    made = ChainedAlternative([Scaled(2), Looking(3)]).build(node)
    torch.testing.assert_close(seen[0].calls[0].output, 2 * layer(x))
    torch.testing.assert_close(made(x), 6 * layer(x))
    with pytest.raises(InapplicableError, match="nothing that could be"):
        ChainedAlternative([Scaled(2), Impossible()]).build(node)


def test_a_chain_has_two_steps_and_rounds_last() -> None:
    with pytest.raises(InvalidInputError, match="at least two alternatives, all different"):
        ChainedAlternative([Scaled(2)])
    with pytest.raises(InvalidInputError, match="all different"):
        ChainedAlternative([Scaled(2), Scaled(2)])
    with pytest.raises(InvalidInputError, match="put int4 last"):
        ChainedAlternative([QuantisedAlternative(4), Scaled(2)])
