"""The once-for-all MobileNetV3 supernet (Cai et al., ICLR 2020): 20 elastic inverted residuals.

Its tensors are named and shaped as in the public checkpoints, so that those load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mathnas.nets.dropout import checked_dropout
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.linear import copied_linear, new_linear, reset_linear
from mathnas.nets.mbconv import ConvNorm, ElasticMBConv, MBConv, MBConvChoice
from mathnas.nets.norm import SharedBatchNorm2d
from mathnas.nets.squeeze import SqueezeExcite
from mathnas.nets.supernet import ChainSupernet
from mathnas.spaces.mobilenetv3 import EXPANSIONS, KERNELS, Layer, MobileNetV3, layer_choice


class MobileNetV3Net(ChainSupernet):
    """First convolution and first block; 20 elastic layers, of which stages skip the last; head.

    Args:
        space: width, resolution, classes and stride of the first convolution. The resolution only
            sets what the space's MACs are counted at; images of other sides run too.
        dropout: before the classifier, while training.
        seed: of the weights.

    Raises:
        InvalidInputError: the dropout is not in [0, 1).
    """

    space: MobileNetV3

    def __init__(
        self, space: MobileNetV3 | None = None, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.space = space if space is not None else MobileNetV3()
        widths, last = self.space.widths, self.space.layers[-1].out
        self.first_conv = _conv(3, widths.stem, 3, self.space.stem_stride, nn.Hardswish())
        first = MBConv(
            None,
            _conv(widths.stem, widths.stem, 3, 1, nn.ReLU(), depthwise=True),
            _conv(widths.stem, widths.first, 1, 1, None),
            shortcut=widths.stem == widths.first,
        )
        # the public checkpoints name a block's layers `conv`
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": block}) for block in (first, *map(_elastic, self.space.layers))
        )
        self.final_expand_layer = _conv(last, widths.expand, 1, 1, nn.Hardswish())
        self.feature_mix_layer = ConvNorm(
            _plain(widths.expand, widths.mix, 1), None, nn.Hardswish()
        )
        self.dropout = nn.Dropout()
        self.set_dropout(dropout)
        self.classifier = nn.Sequential(
            OrderedDict(linear=new_linear(widths.mix, self.space.classes))
        )
        self._reset(torch.Generator().manual_seed(seed))

    def run_stem(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 3, side, side) to the first layer's input."""
        return cast(Tensor, self._first(self.first_conv(x)))

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        return self.cut_node(node, block)(x)

    def cut_node(self, node: int, block: int) -> Callable[[Tensor], Tensor]:
        choice = layer_choice(block)
        if choice is None:
            return nn.Identity()
        layer = self.layer(node)
        return partial(layer, form=layer.cut(MBConvChoice(*choice)))

    def run_head(self, x: Tensor) -> Tensor:
        x = self.final_expand_layer(x).mean((2, 3), keepdim=True)
        x = self.feature_mix_layer(x).flatten(1)
        return cast(Tensor, self.classifier(self.dropout(x)))

    def extract_stem(self) -> nn.Module:
        return nn.Sequential(self.first_conv.extract(), self._first.extract()).eval()

    def extract_block(self, node: int, block: int) -> nn.Module:
        choice = layer_choice(block)
        return nn.Identity() if choice is None else self.layer(node).extract(MBConvChoice(*choice))

    def extract_head(self) -> nn.Module:
        return nn.Sequential(
            self.final_expand_layer.extract(),
            nn.AdaptiveAvgPool2d(1),
            self.feature_mix_layer.extract(),
            nn.Flatten(),
            nn.Dropout(self.dropout.p),
            copied_linear(cast(nn.Linear, self.classifier.linear)),
        ).eval()

    def layer(self, node: int) -> ElasticMBConv:
        """The elastic layer of a node."""
        return cast(ElasticMBConv, cast(nn.ModuleDict, self.blocks[node + 1])["conv"])

    def sort_channels(self, trained: tuple[int, ...] = ()) -> None:
        """Put every layer's most important middle channels first: see
        `ElasticMBConv.sort_channels`. The largest network computes the same as before."""
        for node in range(self.space.num_nodes):
            self.layer(node).sort_channels(trained)

    def zero_residuals(self) -> None:
        """Let every layer with a shortcut add nothing at first: `ElasticMBConv.zero_residual`."""
        for node in range(self.space.num_nodes):
            self.layer(node).zero_residual()

    def set_dropout(self, dropout: float) -> None:
        """Drop other shares before the classifier.

        Raises:
            InvalidInputError: it is not in [0, 1).
        """
        self.dropout.p = checked_dropout(dropout)

    @property
    def _first(self) -> MBConv:
        return cast(MBConv, cast(nn.ModuleDict, self.blocks[0])["conv"])

    def _reset(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, (ElasticConv2d, SqueezeExcite)):
                module.reset(generator)
            elif isinstance(module, ConvNorm):
                fan_out = module.conv.weight.shape[0] * module.conv.weight[0, 0].numel()
                with torch.no_grad():
                    module.conv.weight.normal_(
                        0.0, (2.0 * module.conv.groups / fan_out) ** 0.5, generator=generator
                    )
        reset_linear(cast(nn.Linear, self.classifier.linear), generator)


def _elastic(layer: Layer) -> ElasticMBConv:
    return ElasticMBConv(
        layer.channels,
        layer.out,
        KERNELS,
        EXPANSIONS,
        stride=layer.stride,
        act=nn.Hardswish if layer.swish else nn.ReLU,
        squeeze=layer.squeeze,
        divisor=8,
    )


def _conv(
    channels: int,
    out: int,
    kernel: int,
    stride: int,
    act: nn.Module | None,
    *,
    depthwise: bool = False,
) -> ConvNorm:
    conv = _plain(channels, out, kernel, stride, groups=channels if depthwise else 1)
    return ConvNorm(conv, SharedBatchNorm2d(out), act)


def _plain(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(
        channels, out, kernel, stride, kernel // 2, groups=groups, bias=False, device="meta"
    )
    conv.weight = nn.Parameter(torch.zeros(conv.weight.shape))  # filled by `_reset`
    return conv
