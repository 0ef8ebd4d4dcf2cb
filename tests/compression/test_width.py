"""Hidden channels that are taken out: found by trying, chosen by second order, fitted again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import Call, InapplicableError, RecordedNode
from mathnas.compression.narrowing import masked, narrowed
from mathnas.compression.probing import probed
from mathnas.compression.selection import damped, elimination_order
from mathnas.compression.supernet import local_error
from mathnas.compression.width import WidthAlternative


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate, projection; the gate written in two ways."""

    def __init__(self, width: int = 8, middle: int = 24, functional: bool = False) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, middle, 1, bias=False)
        self.norm = nn.BatchNorm2d(middle)
        self.depthwise = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.act = nn.PReLU(middle)
        self.reduce: nn.Module = nn.Linear(middle, 4) if functional else nn.Conv2d(middle, 4, 1)
        self.restore: nn.Module = nn.Linear(4, middle) if functional else nn.Conv2d(4, middle, 1)
        self.project = nn.Conv2d(middle, width, 1, bias=False)
        self.last = nn.BatchNorm2d(width)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.expand(x)))
        y = self.act(self.depthwise(y))
        pooled = y.mean((2, 3)) if self.functional else y.mean((2, 3), keepdim=True)
        gate = torch.sigmoid(self.restore(torch.relu(self.reduce(pooled))))
        y = y * (gate[..., None, None] if self.functional else gate)
        found: Tensor = self.last(self.project(y)) + x
        return found


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.first(x)))
        found: Tensor = x + self.third(torch.relu(self.norm2(self.second(y))))
        return found


class FeedForward(nn.Module):
    """As in BERT, or gated as in LLaMA."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.gate = nn.Linear(8, 32, bias=False) if gated else None
        self.down = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.up(self.norm(x)))
        if self.gate is not None:
            y = y * self.gate(self.norm(x))
        found: Tensor = x + self.down(y)
        return found


class Layer(nn.Module):
    """Attention, then a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.feed = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (own(x).unflatten(-1, (2, 4)).transpose(1, 2) for own in (self.q, self.k, self.v))
        y = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        found: Tensor = self.feed(x + self.o(y.transpose(1, 2).flatten(2)))
        return found


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics and weights of no new module."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_var is not None
            part.running_var.abs_().add_(0.5)
            with torch.no_grad():
                part.weight.abs_().add_(0.2)
    return module.eval()


def maps(channels: int) -> Tensor:
    return torch.randn(6, channels, 7, 7, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    return torch.randn(6, 9, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def recorded(module: nn.Module, x: Tensor) -> RecordedNode:
    return RecordedNode("node", module, [Call((part,), {}, module(part)) for part in x.split(3)])  # type: ignore[no-untyped-call]


CASES: list[tuple[Callable[[], nn.Module], Tensor, list[tuple[str, ...]]]] = [
    (InvertedResidual, maps(8), [("expand", "restore"), ("reduce",)]),
    (
        lambda: InvertedResidual(functional=True),
        maps(8),
        [("expand", "restore"), ("reduce",)],
    ),
    (Bottleneck, maps(16), [("first",), ("second",)]),
    (FeedForward, tokens(), [("up",)]),
    (lambda: FeedForward(gated=True), tokens(), [("up", "gate")]),
]


@pytest.mark.parametrize(("make", "x", "expected"), CASES)
def test_dimensions_are_found_with_all_their_producers(
    make: Callable[[], nn.Module], x: Tensor, expected: list[tuple[str, ...]]
) -> None:
    node = recorded(lively(make()), x)
    assert {hidden.producers for hidden in probed(node).hidden} == set(expected)


@pytest.mark.parametrize(("make", "x", "expected"), CASES)
@torch.no_grad()
def test_a_narrowed_node_is_the_node_that_does_not_read_the_other_channels(
    make: Callable[[], nn.Module], x: Tensor, expected: list[tuple[str, ...]]
) -> None:
    node = recorded(lively(make()), x)
    for hidden in probed(node).hidden:
        kept = torch.arange(0, hidden.channels, 2)
        found = narrowed(node.module, hidden, kept)(x)
        torch.testing.assert_close(found, masked(node.module, hidden, kept)(x))


@torch.no_grad()
def test_every_channel_that_is_there_twice_can_go() -> None:
    """Half of the channels are copies of the others: least squares gives them their weights, but
    for its damping."""
    module = FeedForward()
    lively(module)
    module.up.weight[16:], module.up.bias[16:] = module.up.weight[:16], module.up.bias[:16]
    node = recorded(module, tokens())
    made = WidthAlternative(0.5).build(node)
    assert made.get_parameter("up.weight").shape == (16, 8)
    assert local_error(node.calls, made) < 1e-4


@torch.no_grad()
def test_both_dimensions_of_a_bottleneck_are_narrowed() -> None:
    node = recorded(lively(Bottleneck()), maps(16))
    before = copy.deepcopy(node.module.state_dict())
    made = WidthAlternative(0.5).build(node)
    assert made.get_parameter("second.weight").shape == (4, 4, 3, 3)
    assert all(torch.equal(before[name], own) for name, own in node.module.state_dict().items())
    again = WidthAlternative(0.5).build(node)
    assert all(map(torch.equal, made.state_dict().values(), again.state_dict().values()))


@torch.no_grad()
def test_fitting_again_loses_less_than_cutting_alone() -> None:
    node = recorded(lively(InvertedResidual()), maps(8))
    hidden = next(one for one in probed(node).hidden if "expand" in one.producers)
    made = WidthAlternative(0.5).build(node)
    large = node.module.get_parameter("project.weight").abs().sum((0, 2, 3))
    kept = large.argsort(descending=True)[:12].sort().values
    by_size = narrowed(node.module, hidden, kept)
    assert made.get_parameter("project.weight").shape == (8, 12, 1, 1)
    assert local_error(node.calls, made) < 0.5 * local_error(node.calls, by_size)


@torch.no_grad()
def test_wider_is_nearer() -> None:
    node = recorded(lively(InvertedResidual()), maps(8))
    lost = [local_error(node.calls, WidthAlternative(s).build(node)) for s in (0.75, 0.5, 0.25)]
    assert lost == sorted(lost)


@torch.no_grad()
def test_in_a_transformer_layer_the_feed_forward_network_is_narrowed() -> None:
    node = recorded(lively(Layer()), tokens())
    made = WidthAlternative(0.5).build(node)
    assert made.get_parameter("feed.up.weight").shape == (16, 8)
    assert made.get_parameter("v.weight").shape == (8, 8)
    assert made(tokens()).shape == (6, 9, 8)


def test_a_node_without_a_dimension_of_its_own_is_refused_with_reasons() -> None:
    with pytest.raises(InapplicableError, match=r"node, a Linear, has none"):
        WidthAlternative(0.5).build(recorded(nn.Linear(8, 8).eval(), tokens()))
    mixed = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)).eval()
    with pytest.raises(InapplicableError, match=r"reach 1, a LayerNorm, whose numbers cannot"):
        WidthAlternative(0.5).build(recorded(mixed, tokens()))
    with pytest.raises(InvalidInputError, match="above 0 and below 1, but got 1"):
        WidthAlternative(1.0)


def test_channels_go_in_the_best_order_where_that_can_be_tried() -> None:
    """Against all subsets of six correlated channels: greedy choices lose little more."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(200, 3, generator=generator).double()
    x = torch.cat([base, base @ torch.randn(3, 3, generator=generator).double()], 1)
    x += 0.1 * torch.randn(200, 6, generator=generator).double()
    weights = torch.randn(6, 2, generator=generator).double()
    gram = damped(x.T @ x)

    def lost(kept: tuple[int, ...]) -> float:
        own = list(kept)
        fitted = torch.linalg.solve(gram[own][:, own], gram[own] @ weights)
        return float((x[:, own] @ fitted - x @ weights).square().sum())

    order = elimination_order(x.T @ x, weights)
    assert sorted(order) == list(range(6))
    for count in (5, 4, 3):
        best = min(map(lost, itertools.combinations(range(6), count)))
        assert lost(tuple(sorted(order[6 - count :]))) <= 2 * best + 1e-6


def test_groups_of_columns_go_together() -> None:
    """A channel with several taps is one choice, whose loss is that of all its columns."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(100, 6, generator=generator).double()
    weights = torch.tensor([[3.0], [0.1], [1.0], [1.0], [0.5], [0.2]]).double()
    assert elimination_order(x.T @ x, weights, group=2) == [2, 1, 0]


@pytest.mark.parametrize(("channels", "group"), [(12, 1), (8, 2)])
def test_every_channel_that_goes_is_the_one_that_costs_least_then(
    channels: int, group: int
) -> None:
    """Against fitting anew without each of those that are left, also after some are dropped."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(300, channels * group, generator=generator).double()
    x = x @ torch.randn(channels * group, channels * group, generator=generator).double()
    weights = torch.randn(channels * group, 3, generator=generator).double()
    gram, left = damped(x.T @ x), list(range(channels))

    def lost(without: int) -> float:
        own = [c * group + t for c in left if c != without for t in range(group)]
        fitted = torch.linalg.solve(gram[own][:, own], gram[own] @ weights)
        rest = weights.clone()
        rest[own] -= fitted
        return float((rest * (gram @ rest)).sum())

    for channel in elimination_order(x.T @ x, weights, group)[:-1]:
        assert channel == min(left, key=lost)
        left.remove(channel)
