"""The inverted residual block (MobileNetV2, Sandler et al., CVPR 2018), static and elastic.

1x1 expansion, BN, ReLU; depthwise k x k, BN, ReLU; 1x1 projection, BN; plus the input where stride
and widths allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import InvalidInputError
from mathnas.nets.elastic import ElasticBatchNorm2d, ElasticConv2d


@dataclass(frozen=True, slots=True)
class MBConvChoice:
    """One form of an elastic inverted residual.

    Attributes:
        kernel: depthwise kernel size.
        expansion: middle channels per input channel.
    """

    kernel: int
    expansion: int

    @property
    def name(self) -> str:
        return f"k{self.kernel}_e{self.expansion}"

    def macs(self, in_channels: int, out_channels: int, size: int, stride: int) -> int:
        """Multiply-accumulates of the convolutions on a `size` x `size` input."""
        middle = self.expansion * in_channels
        shrunk = -(-size // stride)
        expand = in_channels * middle * size * size
        return expand + middle * (self.kernel**2 + out_channels) * shrunk * shrunk

    def params(self, in_channels: int, out_channels: int) -> int:
        """Trainable parameters of the extracted block, batch normalisations included."""
        middle = self.expansion * in_channels
        convolutions = middle * (in_channels + self.kernel**2 + out_channels)
        return convolutions + 2 * (2 * middle + out_channels)


class MBConv(nn.Module):
    """A static inverted residual, made by `ElasticMBConv.extract`."""

    def __init__(
        self,
        expand: nn.Sequential,
        depthwise: nn.Sequential,
        project: nn.Sequential,
        *,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.expand = expand
        self.depthwise = depthwise
        self.project = project
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class ElasticMBConv(nn.Module):
    """An inverted residual with several kernels and expansions over shared weights.

    Args:
        in_channels, out_channels: fixed widths of the block.
        kernels, expansions: what a `MBConvChoice` may name.
        stride: of the depthwise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int],
        expansions: Sequence[int],
        *,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.expansions = tuple(expansions)
        self.shortcut = stride == 1 and in_channels == out_channels
        widest = max(expansions) * in_channels
        self.expand = ElasticConv2d(in_channels, widest)
        self.expand_norm = ElasticBatchNorm2d(widest)
        self.depthwise = ElasticConv2d(widest, widest, kernels, stride=stride, depthwise=True)
        self.depthwise_norm = ElasticBatchNorm2d(widest)
        self.project = ElasticConv2d(widest, out_channels)
        self.project_norm = ElasticBatchNorm2d(out_channels)

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights from `generator`."""
        for conv in (self.expand, self.depthwise, self.project):
            conv.reset(generator)

    def forward(self, x: Tensor, choice: MBConvChoice) -> Tensor:
        """Run one form on x of shape (batch, in_channels, height, width)."""
        middle = self._middle(choice)
        y = functional.relu(self.expand_norm(self.expand(x, out_channels=middle)))
        y = functional.relu(self.depthwise_norm(self.depthwise(y, kernel=choice.kernel)))
        z: Tensor = self.project_norm(self.project(y))
        return x + z if self.shortcut else z

    def extract(self, choice: MBConvChoice) -> MBConv:
        """One form as a static block with its own memory, for inference."""
        middle = self._middle(choice)
        block = MBConv(
            nn.Sequential(
                self.expand.extract(self.in_channels, out_channels=middle),
                self.expand_norm.extract(middle),
                nn.ReLU(),
            ),
            nn.Sequential(
                self.depthwise.extract(middle, kernel=choice.kernel),
                self.depthwise_norm.extract(middle),
                nn.ReLU(),
            ),
            nn.Sequential(
                self.project.extract(middle),
                self.project_norm.extract(self.project.out_channels),
            ),
            shortcut=self.shortcut,
        )
        return block.eval()

    def _middle(self, choice: MBConvChoice) -> int:
        if choice.expansion not in self.expansions:
            raise InvalidInputError(
                f"this block has the expansions {self.expansions}, but {choice.expansion} was "
                "asked for."
            )
        return choice.expansion * self.in_channels
