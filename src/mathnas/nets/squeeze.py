"""Squeeze-and-excite (Hu et al., CVPR 2018) as in MobileNetV3: a gate for each channel.

Global mean, 1x1 convolution to a quarter of the channels, ReLU, 1x1 convolution back, hard sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.spaces.mobilenetv3 import round_channels


def squeezed(channels: int, divisor: int = 8) -> int:
    """The middle width of a gate over `channels` channels."""
    return round_channels(channels // 4, divisor)


class SqueezeExcite(nn.Module):
    """The gate of a fixed number of channels.

    Args:
        channels: of input and output.
        divisor: the middle width is a multiple of it.
    """

    def __init__(self, channels: int, divisor: int = 8) -> None:
        super().__init__()
        middle = squeezed(channels, divisor)
        self.divisor = divisor
        self.fc = nn.ModuleDict(
            {
                "reduce": nn.Conv2d(channels, middle, 1, device="meta"),
                "expand": nn.Conv2d(middle, channels, 1, device="meta"),
            }
        )
        self.fc.to_empty(device="cpu")  # no random numbers are drawn; `reset` or a copy fills it
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def reduce(self) -> nn.Conv2d:
        layer = self.fc["reduce"]
        assert isinstance(layer, nn.Conv2d)
        return layer

    @property
    def expand(self) -> nn.Conv2d:
        layer = self.fc["expand"]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def reset(self, generator: torch.Generator) -> None:
        """Draw He-normal weights (fan out) from `generator`; biases to zero."""
        with torch.no_grad():
            for layer in (self.reduce, self.expand):
                layer.weight.normal_(0.0, (2.0 / layer.out_channels) ** 0.5, generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # both have one

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        gate = functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * functional.hardsigmoid(self.expand(gate))


class ElasticSqueezeExcite(SqueezeExcite):
    """A gate whose first channels serve narrower inputs."""

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, width, height, width'), with at most `channels` channels."""
        return self.cut(x.shape[1])(x)

    def cut(self, width: int) -> Callable[[Tensor], Tensor]:
        """The gate over the first channels as a function of their inputs, for one run; see
        `ElasticConv2d.cut`."""
        reduce, expand = self._slices(width)
        return partial(_gated, reduce=reduce, expand=expand)

    def extract(self, width: int) -> SqueezeExcite:
        """The gate over the first channels, with its own memory."""
        static = SqueezeExcite(width, self.divisor)
        layers = (static.reduce, static.expand)
        for layer, (weight, bias) in zip(layers, self._slices(width), strict=True):
            layer.weight = nn.Parameter(weight.detach().clone())
            layer.bias = nn.Parameter(bias.detach().clone())
        return static

    def permute(self, channels: Tensor, middle: Tensor) -> None:
        """Reorder the channels and the middle channels in place; new i is old `channels[i]`."""
        with torch.no_grad():
            for layer, rows, columns in (
                (self.reduce, middle, channels),
                (self.expand, channels, middle),
            ):
                assert layer.bias is not None
                layer.weight.copy_(layer.weight[rows][:, columns])
                layer.bias.copy_(layer.bias[rows])

    def _slices(self, width: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Weight and bias of both layers over the first channels."""
        reduce, expand = self.reduce, self.expand
        assert reduce.bias is not None
        assert expand.bias is not None
        if width == expand.out_channels:
            return (reduce.weight, reduce.bias), (expand.weight, expand.bias)
        middle = squeezed(width, self.divisor)
        return (
            (reduce.weight[:middle, :width], reduce.bias[:middle]),
            (expand.weight[:width, :middle], expand.bias[:width]),
        )


def _gated(x: Tensor, reduce: tuple[Tensor, Tensor], expand: tuple[Tensor, Tensor]) -> Tensor:
    gate = functional.relu(functional.conv2d(x.mean((2, 3), keepdim=True), *reduce))
    return x * functional.hardsigmoid(functional.conv2d(gate, *expand))
