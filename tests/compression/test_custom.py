"""A user's own modules in the places of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from compression_cases import Pair, batches, chained, odd, odd_batches, pictures
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import Call, InapplicableError, RecordedNode
from mathnas.compression.custom import FactoryAlternative
from mathnas.compression.supernet import from_module


class Giving(nn.Module):
    """Gives what a function makes of its first input."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, **others: object) -> Any:
        return self.function(x)


@torch.no_grad()
def test_a_module_of_ones_own_takes_the_place_of_a_node() -> None:
    model = chained()
    seen: list[str] = []

    def doubled(node: RecordedNode) -> nn.Module:
        seen.append(node.name)
        return Giving(lambda x: 2 * x)

    net = from_module(model, batches(), [FactoryAlternative("double", doubled)])
    assert seen == ["blocks.0", "blocks.1", "blocks.2"]
    x = 8 * model.stem(pictures())
    expected = model.head(x.mean((2, 3)))
    torch.testing.assert_close(net.extract(("double",) * 3)(pictures()), expected)


@torch.no_grad()
def test_it_is_a_copy_in_evaluation_mode() -> None:
    own = Pair(6).train()
    model = odd()
    net = from_module(model, odd_batches(), [FactoryAlternative("mine", lambda node: own)])
    made = net.node_blocks(0)[1]
    assert not made.training
    assert own.training
    assert made.get_parameter("up.weight") is not own.up.weight


Wrong = tuple[Callable[[Tensor], Any], str]
WRONG: list[Wrong] = [
    (lambda x: (x,), "gives a tuple of 1 where its output is a tuple of 2"),
    (lambda x: x, "gives a Tensor where its output is a tuple of 2"),
    (lambda x: (x[:, 1:], x[:, :1]), r"gives shape \(2, 4, 6\) where its output\[0\] is \(2, 5, 6"),
    (lambda x: (x, x[:, :1].double()), r"float64 where its output\[1\] is torch.float32"),
    (lambda x: (x, None), r"gives a NoneType where its output\[1\] is a tensor"),
    (lambda x: (x.add_(1), x[:, :1]), "changes its input in place"),
    (lambda x: x @ x, "raised RuntimeError"),
]


@pytest.mark.parametrize(("function", "why"), WRONG)
def test_what_gives_something_else_is_refused(function: Callable[[Tensor], Any], why: str) -> None:
    x = torch.randn(2, 5, 6)
    with torch.no_grad():
        node = RecordedNode("node", Pair(6), [Call((x,), {"scale": 2.0}, Pair(6)(x))])
    with pytest.raises(InapplicableError, match=f"'mine' in the place of node, a Pair, .*{why}"):
        FactoryAlternative("mine", lambda node: Giving(function)).build(node)


def test_mappings_have_the_same_names() -> None:
    x = torch.randn(2, 3)
    node = RecordedNode("node", nn.Identity(), [Call((x,), {}, {"a": x, "b": (x, 3)})])
    right = FactoryAlternative("r", lambda node: Giving(lambda x: {"a": x, "b": (x, 4)}))
    assert right.build(node)(x)["b"][1] == 4
    wrong = FactoryAlternative("w", lambda node: Giving(lambda x: {"a": x}))
    with pytest.raises(InapplicableError, match=r"gives \['a'\] where .* mapping of \['a', 'b'\]"):
        wrong.build(node)
    kind = FactoryAlternative("k", lambda node: Giving(lambda x: {"a": x, "b": (x, "4")}))
    with pytest.raises(InapplicableError, match=r"gives a str where its output\['b'\]\[1\] is a"):
        kind.build(node)


def test_what_makes_no_module_is_an_error_of_the_program() -> None:
    node = RecordedNode("node", nn.Identity(), [Call((torch.ones(1),), {}, torch.ones(1))])
    with pytest.raises(InvalidInputError, match="but 'mine' gave a int for node"):
        FactoryAlternative("mine", lambda node: 3).build(node)  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidInputError, match="write lambda node: module"):
        FactoryAlternative("mine", nn.ReLU())
    for name in ("", "two words", "a,b", "a+b"):
        with pytest.raises(InvalidInputError, match="one word"):
            FactoryAlternative(name, lambda node: nn.Identity())
