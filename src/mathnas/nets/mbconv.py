"""The inverted residual block (MobileNetV2, Sandler et al., CVPR 2018), static and elastic.

1x1 expansion, BN, activation; depthwise k x k, BN, activation, squeeze-and-excite where asked for;
1x1 projection, BN; plus the input where stride and widths allow it. Parts are named as in the
public once-for-all checkpoints.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from mathnas.errors import InvalidInputError
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.norm import SharedBatchNorm2d
from mathnas.nets.squeeze import ElasticSqueezeExcite, SqueezeExcite, squeezed
from mathnas.spaces.mobilenetv3 import round_channels


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


# a form on the shared weights for one run: what is applied to the input, one after another
Cut: TypeAlias = tuple[Callable[[Tensor], Tensor], ...]


class ConvNorm(nn.Module):
    """A static convolution; then normalisation, activation and gate, each where it is given."""

    def __init__(
        self,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d | None = None,
        act: nn.Module | None = None,
        se: SqueezeExcite | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn
        self.act = act
        self.se = se

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        x = self.conv(x)
        for part in (self.bn, self.act, self.se):
            if part is not None:
                x = part(x)
        return x

    def extract(self) -> ConvNorm:
        """A copy of a supernet's static part with its own memory, for inference.

        Its normalisation, a `SharedBatchNorm2d` or none, becomes a plain one.
        """
        conv = nn.Conv2d(
            self.conv.in_channels,
            self.conv.out_channels,
            cast("tuple[int, int]", self.conv.kernel_size),
            cast("tuple[int, int]", self.conv.stride),
            cast("tuple[int, int]", self.conv.padding),
            groups=self.conv.groups,
            bias=False,
            device="meta",
        )
        conv.weight = nn.Parameter(self.conv.weight.detach().clone())
        shared = cast("SharedBatchNorm2d | None", self.bn)
        norm = None if shared is None else shared.extract(shared.num_features)
        return ConvNorm(conv, norm, copy.deepcopy(self.act)).eval()


class MBConv(nn.Module):
    """A static inverted residual.

    Args:
        inverted_bottleneck: the expansion; None where the block does not expand.
        depth_conv, point_linear: depthwise convolution and projection.
        shortcut: whether the input is added.
    """

    def __init__(
        self,
        inverted_bottleneck: ConvNorm | None,
        depth_conv: ConvNorm,
        point_linear: ConvNorm,
        *,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.inverted_bottleneck = inverted_bottleneck
        self.depth_conv = depth_conv
        self.point_linear = point_linear
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        y = x if self.inverted_bottleneck is None else self.inverted_bottleneck(x)
        z: Tensor = self.point_linear(self.depth_conv(y))
        return x + z if self.shortcut else z

    def extract(self) -> MBConv:
        """A copy with its own memory, for inference."""
        expand = self.inverted_bottleneck
        return MBConv(
            None if expand is None else expand.extract(),
            self.depth_conv.extract(),
            self.point_linear.extract(),
            shortcut=self.shortcut,
        ).eval()


class ElasticConvNorm(nn.Module):
    """An elastic convolution with batch normalisation, activation and gate."""

    def __init__(
        self,
        conv: ElasticConv2d,
        act: nn.Module | None = None,
        se: ElasticSqueezeExcite | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        # the public checkpoints name it twice
        self.bn = nn.Sequential(OrderedDict(bn=SharedBatchNorm2d(conv.out_channels)))
        self.act = act
        self.se = se

    @property
    def norm(self) -> SharedBatchNorm2d:
        return cast(SharedBatchNorm2d, self.bn.bn)

    def forward(
        self, x: Tensor, *, out_channels: int | None = None, kernel: int | None = None
    ) -> Tensor:
        """Run one form; see `ElasticConv2d.forward`."""
        for part in self.cut(x.shape[1], out_channels=out_channels, kernel=kernel):
            x = part(x)
        return x

    def cut(
        self, in_channels: int, *, out_channels: int | None = None, kernel: int | None = None
    ) -> Cut:
        """One form for one run; see `ElasticConv2d.cut`."""
        width = self.conv.width(in_channels, out_channels)
        conv = self.conv.cut(in_channels, out_channels=width, kernel=kernel)
        parts = [conv, self.norm.cut(width)]
        if self.act is not None:
            parts.append(self.act)
        if self.se is not None:
            parts.append(self.se.cut(width))
        return tuple(parts)

    def extract(
        self, in_channels: int, *, out_channels: int | None = None, kernel: int | None = None
    ) -> ConvNorm:
        """One form as a static part with its own memory."""
        conv = self.conv.extract(in_channels, out_channels=out_channels, kernel=kernel)
        width = conv.out_channels
        gate = None if self.se is None else self.se.extract(width)
        return ConvNorm(conv, self.norm.extract(width), copy.deepcopy(self.act), gate).eval()


class ElasticMBConv(nn.Module):
    """An inverted residual with several kernels and expansions over shared weights.

    Args:
        in_channels, out_channels: fixed widths of the block.
        kernels, expansions: what a `MBConvChoice` may name.
        stride: of the depthwise convolution.
        act: makes the activations.
        squeeze: whether a squeeze-and-excite gate follows the depthwise convolution.
        divisor: middle widths are rounded to multiples of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int],
        expansions: Sequence[int],
        *,
        stride: int = 1,
        act: Callable[[], nn.Module] = nn.ReLU,
        squeeze: bool = False,
        divisor: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.expansions = tuple(expansions)
        self.divisor = divisor
        self.shortcut = stride == 1 and in_channels == out_channels
        widest = self._width(max(expansions))
        self.inverted_bottleneck = ElasticConvNorm(ElasticConv2d(in_channels, widest), act())
        self.depth_conv = ElasticConvNorm(
            ElasticConv2d(widest, widest, kernels, stride=stride, depthwise=True),
            act(),
            ElasticSqueezeExcite(widest, 8) if squeeze else None,
        )
        self.point_linear = ElasticConvNorm(ElasticConv2d(widest, out_channels))

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights from `generator`."""
        for part in (self.inverted_bottleneck, self.depth_conv, self.point_linear):
            part.conv.reset(generator)
            if part.se is not None:
                part.se.reset(generator)

    def forward(self, x: Tensor, form: MBConvChoice | Cut) -> Tensor:
        """Run one form on x of shape (batch, in_channels, height, width).

        Args:
            form: a choice, or what `cut` made of it before other layers ran.

        Raises:
            InvalidInputError: the input has another width, or the block no such form.
        """
        if x.shape[1] != self.in_channels:
            raise InvalidInputError(
                f"this block has {self.in_channels} input channels, but got {x.shape[1]}."
            )
        y = x
        for part in self.cut(form) if isinstance(form, MBConvChoice) else form:
            y = part(y)
        return x + y if self.shortcut else y

    def cut(self, choice: MBConvChoice) -> Cut:
        """One form for one run: `block(x, block.cut(choice))` is `block(x, choice)`.

        See `ElasticConv2d.cut`. The block's own hooks are called, those of its elastic layers are
        not.

        Raises:
            InvalidInputError: the block has no such form.
        """
        middle = self.middle(choice)
        return (
            *self.inverted_bottleneck.cut(self.in_channels, out_channels=middle),
            *self.depth_conv.cut(middle, kernel=choice.kernel),
            *self.point_linear.cut(middle),
        )

    def extract(self, choice: MBConvChoice) -> MBConv:
        """One form as a static block with its own memory, for inference."""
        middle = self.middle(choice)
        return MBConv(
            self.inverted_bottleneck.extract(self.in_channels, out_channels=middle),
            self.depth_conv.extract(middle, kernel=choice.kernel),
            self.point_linear.extract(middle),
            shortcut=self.shortcut,
        ).eval()

    def middle(self, choice: MBConvChoice) -> int:
        """Middle channels of one form.

        Raises:
            InvalidInputError: the block has no such expansion.
        """
        if choice.expansion not in self.expansions:
            raise InvalidInputError(
                f"this block has the expansions {self.expansions}, but {choice.expansion} was "
                "asked for."
            )
        return self._width(choice.expansion)

    def zero_residual(self) -> None:
        """Add nothing to the shortcut, by a scale of 0 of the last normalisation (Goyal et al.,
        2017); nothing happens to a block without a shortcut."""
        if self.shortcut:
            nn.init.zeros_(self.point_linear.norm.weight)

    def sort_channels(self, trained: Sequence[int] = ()) -> None:
        """Put the most important middle channels first; the largest form computes the same.

        A channel's importance is the L1 norm of what the projection reads from it; the gate's
        middle channels are sorted alike, by what the gate's second layer reads (once-for-all,
        section 3.2).

        Args:
            trained: expansions that were trained already besides the largest: their first channels
                stay their first channels.
        """
        widths = sorted(self._width(expansion) for expansion in trained)
        gate = self.depth_conv.se
        order = _sorted_within(self.point_linear.conv.weight, widths)
        with torch.no_grad():
            _permute(self.inverted_bottleneck, order)
            _permute(self.depth_conv, order)
            self.point_linear.conv.weight.copy_(self.point_linear.conv.weight[:, order])
            if gate is not None:
                middles = [squeezed(width, gate.divisor) for width in widths]
                middle = _sorted_within(gate.expand.weight, middles)
                gate.permute(order, middle)

    def _width(self, expansion: int) -> int:
        return round_channels(round(self.in_channels * expansion), self.divisor)


def _sorted_within(weight: Tensor, widths: Sequence[int]) -> Tensor:
    """Input channels of `weight` by falling L1 norm, each within its bucket between the widths."""
    importance = weight.detach().abs().sum((0, 2, 3))
    edges = [0, *widths, len(importance)]
    parts = [
        start + torch.argsort(importance[start:stop], descending=True, stable=True)
        for start, stop in itertools.pairwise(edges)
    ]
    return torch.cat(parts)


def _permute(part: ElasticConvNorm, order: Tensor) -> None:
    """Reorder the output channels of a convolution and its normalisation in place."""
    norm = part.norm
    for tensor in (part.conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(tensor[order])
