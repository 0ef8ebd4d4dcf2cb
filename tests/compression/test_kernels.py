"""Kernels that are cut to their centres."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from test_width import FeedForward, InvertedResidual, lively, maps, recorded, tokens
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import InapplicableError
from mathnas.compression.kernels import KernelAlternative
from mathnas.compression.supernet import local_error


def wide(size: int = 5) -> InvertedResidual:
    module = InvertedResidual()
    module.depthwise = nn.Conv2d(24, 24, size, padding=size // 2, groups=24)
    lively(module)
    return module


@torch.no_grad()
def test_the_centre_stays_and_the_next_layer_is_fitted_again() -> None:
    node = recorded(wide(), maps(8))
    made = KernelAlternative(3).build(node)
    kernel = made.get_parameter("depthwise.weight")
    original = node.module.get_parameter("depthwise.weight")
    assert torch.equal(kernel, original[:, :, 1:4, 1:4])
    ringed = wide()
    ringed.depthwise.weight[:, :, [0, 4]] = 0
    ringed.depthwise.weight[:, :, :, [0, 4]] = 0
    assert local_error(node.calls, made) < local_error(node.calls, ringed)


@torch.no_grad()
def test_the_projection_makes_up_for_it_and_not_the_gate() -> None:
    node = recorded(wide(), maps(8))
    before, after = node.module.state_dict(), KernelAlternative(3).build(node).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"depthwise.weight", "project.weight"}


@torch.no_grad()
def test_a_ring_of_zeros_is_no_loss() -> None:
    module = wide()
    module.depthwise.weight[:, :, [0, 4]] = 0
    module.depthwise.weight[:, :, :, [0, 4]] = 0
    node = recorded(module, maps(8))
    assert local_error(node.calls, KernelAlternative(3).build(node)) < 1e-5


@torch.no_grad()
def test_layers_that_hold_their_padding_are_cut_with_it() -> None:
    class Padded(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(24, 24, 5, groups=24)
            self.pad = nn.ZeroPad2d((2, 2, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.pad(x))

    module = wide()
    module.depthwise = Padded()
    lively(module)
    made = KernelAlternative(3).build(recorded(module, maps(8)))
    assert made.get_submodule("depthwise.pad").padding == (1, 1, 1, 1)
    assert made(maps(8)).shape == maps(8).shape


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(InapplicableError, match="above 3 are, but node has none"):
        KernelAlternative(3).build(recorded(lively(FeedForward()), tokens()))

    class Fixed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.pad(x, (2, 2, 2, 2)))

    module = wide()
    module.depthwise = Fixed(24, 24, 5, groups=24)
    lively(module)
    with pytest.raises(InapplicableError, match=r"of depthwise in node cannot be cut to 3"):
        KernelAlternative(3).build(recorded(module, maps(8)))
    for size in (0, 2):
        with pytest.raises(InvalidInputError, match="odd and at least 1"):
            KernelAlternative(size)
