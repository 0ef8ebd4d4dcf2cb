"""Attention heads that are taken out: found by trying, whatever makes queries, keys and values."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch
from test_width import FeedForward, Layer, lively, recorded, tokens
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import InapplicableError
from mathnas.compression.heads import HeadsAlternative
from mathnas.compression.supernet import local_error


class Attention(nn.Module):
    """Queries, keys and values from layers of their own; keys may be shared by several heads."""

    def __init__(self, heads: int = 4, shared: int = 1) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = heads, heads // shared, 2
        self.q, self.o = nn.Linear(8, 2 * heads), nn.Linear(2 * heads, 8)
        self.k, self.v = (nn.Linear(8, 2 * heads // shared) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        sizes = (self.num_key_value_heads, self.head_dim)
        k, v = (own(x).unflatten(-1, sizes).transpose(1, 2) for own in (self.k, self.v))
        repeats = self.num_heads // self.num_key_value_heads
        k, v = (own.repeat_interleave(repeats, 1) for own in (k, v))
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        found: Tensor = x + self.o(y.transpose(1, 2).flatten(2))
        return found


class Fused(nn.Module):
    """One layer for all three, one after another as in vision transformers, or head by head."""

    def __init__(self, by_head: bool = False) -> None:
        super().__init__()
        self.heads, self.by_head = 4, by_head
        self.qkv, self.o = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.heads, 3, 2) if self.by_head else (3, self.heads, 2)
        split = self.qkv(x).unflatten(-1, shape)
        q, k, v = (one.transpose(1, 2) for one in split.unbind(-2 if self.by_head else -3))
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        found: Tensor = x + self.o(y.transpose(1, 2).flatten(2))
        return found


@pytest.mark.parametrize(
    ("make", "layer", "rows"),
    [
        (Attention, "q", 4),
        (lambda: Attention(8, 2), "q", 8),
        (lambda: Attention(8, 2), "v", 4),
        (Fused, "qkv", 12),
        (lambda: Fused(by_head=True), "qkv", 12),
    ],
)
@torch.no_grad()
def test_half_of_the_heads_go(make: Callable[[], nn.Module], layer: str, rows: int) -> None:
    node = recorded(lively(make()), tokens())
    before = copy.deepcopy(node.module.state_dict())
    made = HeadsAlternative(0.5).build(node)
    assert made.get_parameter(f"{layer}.weight").shape == (rows, 8)
    assert 0 < local_error(node.calls, made) < 1
    assert all(torch.equal(before[name], own) for name, own in node.module.state_dict().items())


@torch.no_grad()
def test_a_head_that_is_there_twice_can_go() -> None:
    module = Attention()
    lively(module)
    for layer in (module.q, module.k, module.v):
        layer.weight[4:], layer.bias[4:] = layer.weight[:4], layer.bias[:4]
    node = recorded(module, tokens())
    assert local_error(node.calls, HeadsAlternative(0.5).build(node)) < 1e-4


@torch.no_grad()
def test_in_a_transformer_layer_the_attention_is_narrowed() -> None:
    class Counted(Layer):
        """Reshapes by what it has."""

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                own(x).unflatten(-1, (-1, 4)).transpose(1, 2) for own in (self.q, self.k, self.v)
            )
            y = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
            found: Tensor = self.feed(x + self.o(y.transpose(1, 2).flatten(2)))
            return found

    made = HeadsAlternative(0.5).build(recorded(lively(Counted()), tokens()))
    assert made.get_parameter("v.weight").shape == (4, 8)
    assert made.get_parameter("feed.up.weight").shape == (32, 8)
    with pytest.raises(InapplicableError, match="does not run when it is narrower"):
        HeadsAlternative(0.5).build(recorded(lively(Layer()), tokens()))


def test_what_has_no_heads_is_refused() -> None:
    with pytest.raises(InapplicableError, match="node, a FeedForward, has none"):
        HeadsAlternative(0.5).build(recorded(lively(FeedForward()), tokens()))
    whole = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with pytest.raises(InapplicableError, match="TransformerEncoderLayer, has none"):
        HeadsAlternative(0.5).build(recorded(whole, tokens()))
    with pytest.raises(InvalidInputError, match="above 0 and below 1"):
        HeadsAlternative(0)
