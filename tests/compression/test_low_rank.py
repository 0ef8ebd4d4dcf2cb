"""Layers that become two thinner ones."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from test_width import recorded
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import InapplicableError
from mathnas.compression.low_rank import LowRankAlternative
from mathnas.compression.supernet import local_error
from mathnas.nets.counting import counted_macs


class Two(nn.Module):
    def __init__(self, conv: bool, bias: bool = True) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv2d(24, 32, 1, bias=bias) if conv else nn.Linear(24, 32, bias)
        self.second: nn.Module = nn.Conv2d(32, 24, 1) if conv else nn.Linear(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(torch.relu(self.first(x)))
        return found


def inputs(conv: bool, directions: int = 24) -> Tensor:
    """That vary in so many directions, around a mean that is not zero."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 50, directions, generator=generator)
    x = x @ torch.randn(directions, 24, generator=generator) + 2.0
    return x.transpose(1, 2).reshape(6, 24, 5, 10) if conv else x


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_work_falls_to_the_share(conv: bool, bias: bool) -> None:
    torch.manual_seed(0)
    x = inputs(conv)
    node = recorded(Two(conv, bias).eval(), x)
    made = LowRankAlternative(0.5).build(node)
    assert counted_macs(made, x) <= 0.5 * counted_macs(node.module, x)
    lost = [local_error(node.calls, LowRankAlternative(s).build(node)) for s in (0.9, 0.5, 0.2)]
    assert lost == sorted(lost)


@pytest.mark.parametrize("conv", [True, False])
@torch.no_grad()
def test_inputs_of_few_directions_need_no_more_rank(conv: bool) -> None:
    """Weights have full rank; what comes in has not, so that nothing but damping is lost. Of the
    weights alone, the same rank loses much."""
    torch.manual_seed(0)
    module = Two(conv)
    node = recorded(module.eval(), inputs(conv, directions=4))
    only = nn.Sequential(module.first)
    alone = recorded(only.eval(), inputs(conv, directions=4))
    made = LowRankAlternative(0.5).build(alone)
    assert local_error(alone.calls, made) < 1e-3
    weight = module.first.get_parameter("weight").flatten(1)
    left, values, right = torch.linalg.svd(weight)
    rank = made[0][0].weight.shape[0]  # type: ignore[index]
    cut = (left[:, :rank] * values[:rank]) @ right[:rank]
    module.first.get_parameter("weight").copy_(
        cut.reshape(module.first.get_parameter("weight").shape)
    )
    assert local_error(alone.calls, only) > 10 * local_error(alone.calls, made)
    assert node.name == "node"


def test_what_is_too_small_is_refused() -> None:
    node = recorded(nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(6, 9, 8))
    with pytest.raises(InapplicableError, match="at least 16 inputs and outputs"):
        LowRankAlternative(0.5).build(node)
    with pytest.raises(InvalidInputError, match="above 0 and below 1"):
        LowRankAlternative(2.0)


@torch.no_grad()
def test_layers_whose_weights_are_taken_are_left() -> None:
    """The fast path of torch's own transformer layers takes the weights of all its layers."""
    torch.manual_seed(0)

    class Curious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.second(self.first(x)) * self.second.weight.mean()
            return found

    x = torch.randn(6, 9, 16)
    made = LowRankAlternative(0.5).build(recorded(Curious().eval(), x))
    assert {name for name, _ in made.named_parameters()} == {
        *("first.0.weight", "first.1.weight", "first.1.bias", "second.weight", "second.bias")
    }
    fast = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    with pytest.raises(InapplicableError, match=r"around linear\d in node asks more of it \(Attr"):
        LowRankAlternative(0.5).build(recorded(fast, x))
