"""Once-for-All MobileNetV3: 5 stages of 2 to 4 inverted residual layers (Cai et al., ICLR 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
DEPTHS = (2, 3, 4)
ABSENT = "absent"
_LAYERS = max(DEPTHS)  # a stage


@dataclass(frozen=True, slots=True)
class _Stage:
    channels: int  # at width 1.0
    stride: int
    squeeze: bool


_STEM, _FIRST = 16, 16
_STAGES = (
    _Stage(24, 2, squeeze=False),
    _Stage(40, 2, squeeze=True),
    _Stage(80, 2, squeeze=False),
    _Stage(112, 1, squeeze=True),
    _Stage(160, 2, squeeze=True),
)
_EXPAND, _MIX = 960, 1280


class MobileNetV3(SearchSpace):
    """The 7371^5 sub-networks of the Once-for-All MobileNetV3 supernet at one resolution.

    Each of 20 layers has a kernel in {3, 5, 7} and an expansion in {3, 4, 6}: blocks ``k3_e3`` to
    ``k7_e6``. Layers 3 and 4 of a stage may be ``absent``, the last first. MACs count convolutions
    and the linear layer without its bias, squeeze-and-excite included; parameters are those of the
    extracted network. Stage widths are fixed, so both are exact sums over layers.

    Args:
        width: width multiplier; public weights exist for 1.0 and 1.2.
        resolution: side of the square input image in pixels.
        classes: outputs of the classifier.

    Raises:
        InvalidInputError: an argument is out of range.

    Example:
        >>> from mathnas.spaces import MobileNetV3
        >>> space = MobileNetV3(width=1.2, resolution=224)
        >>> smallest = space.from_config([3] * 20, [3] * 20, [2] * 5)
        >>> f"{space.macs([smallest])[0] / 1e6:.2f} M"
        '193.08 M'
        >>> space.to_config(smallest)["d"]
        [2, 2, 2, 2, 2]
    """

    def __init__(self, width: float = 1.0, resolution: int = 224, classes: int = 1000) -> None:
        if not (math.isfinite(width) and 0.1 <= width <= 10):
            raise InvalidInputError(
                f"a width multiplier lies in 0.1 to 10, but got {width}: "
                "public weights exist for 1.0 and 1.2."
            )
        if not 32 <= resolution <= 4096:
            raise InvalidInputError(f"the input is 32 to 4096 pixels a side, but got {resolution}.")
        if classes < 1:
            raise InvalidInputError(f"a classifier has at least 1 class, but got {classes}.")
        self.width, self.resolution, self.classes = float(width), int(resolution), int(classes)
        shapes = _layer_shapes(self.width, self.resolution)
        macs, params = _fixed_costs(self.width, self.resolution, self.classes)
        super().__init__(
            [
                BlockNode(f"stage{place // _LAYERS + 1}.layer{place % _LAYERS + 1}", blocks)
                for place, blocks in enumerate(map(_blocks, range(len(shapes)), shapes))
            ],
            name=f"mobilenetv3:width={self.width:g},resolution={resolution},classes={classes}",
            fixed_macs=macs,
            fixed_params=params,
            depth_rules=[
                DepthRule(nodes, (_ABSENT_INDEX,) * len(nodes))
                for nodes in (
                    tuple(range(start + min(DEPTHS), start + _LAYERS))
                    for start in range(0, len(shapes), _LAYERS)
                )
            ],
            family={
                "name": "mobilenetv3",
                "width": self.width,
                "resolution": self.resolution,
                "classes": self.classes,
            },
        )

    def from_config(self, ks: Sequence[int], e: Sequence[int], d: Sequence[int]) -> Network:
        """The network of a Once-for-All configuration.

        Args:
            ks, e: kernel and expansion of all 20 layers; those beyond a stage's depth are ignored,
                so they may be 0 (as in search logs) or anything else (as in latency files).
            d: depth of each of the 5 stages.

        Raises:
            InvalidInputError: a length or a value is not of the space.
        """
        if (len(ks), len(e), len(d)) != (self.num_nodes, self.num_nodes, len(_STAGES)):
            raise InvalidInputError(
                f"a configuration has {self.num_nodes} kernels (ks), {self.num_nodes} expansions "
                f"(e) and {len(_STAGES)} depths (d), but got {len(ks)}, {len(e)} and {len(d)}."
            )
        network = []
        for place, (kernel, expansion) in enumerate(zip(ks, e, strict=True)):
            stage, layer = divmod(place, _LAYERS)
            if d[stage] not in DEPTHS:
                raise InvalidInputError(
                    f"a stage has a depth in {DEPTHS}, but stage {stage + 1} got {d[stage]}."
                )
            if layer >= d[stage]:
                network.append(_ABSENT_INDEX)
                continue
            if kernel not in KERNELS or expansion not in EXPANSIONS:
                raise InvalidInputError(
                    f"a layer has a kernel in {KERNELS} and an expansion in {EXPANSIONS}, but "
                    f"layer {layer + 1} of stage {stage + 1} got {kernel} and {expansion}."
                )
            network.append(_CHOICES.index((kernel, expansion)))
        return tuple(network)

    def to_config(self, network: Sequence[int | str]) -> Mapping[str, list[int]]:
        """The Once-for-All configuration (``ks``, ``e``, ``d``) of a network.

        Absent layers get kernel and expansion 0.
        """
        chosen = [
            None if block == _ABSENT_INDEX else _CHOICES[block] for block in self.check(network)
        ]
        stages = [chosen[start : start + _LAYERS] for start in range(0, len(chosen), _LAYERS)]
        return {
            "ks": [choice[0] if choice else 0 for choice in chosen],
            "e": [choice[1] if choice else 0 for choice in chosen],
            "d": [sum(choice is not None for choice in stage) for stage in stages],
        }


_CHOICES = tuple((kernel, expansion) for kernel in KERNELS for expansion in EXPANSIONS)
_ABSENT_INDEX = len(_CHOICES)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a layer reads and writes; `side` is that of its input."""

    channels: int
    out: int
    stride: int
    side: int
    squeeze: bool


def _layer_shapes(width: float, resolution: int) -> list[_Layer]:
    """The 20 layers in order; an absent layer changes no shape."""
    layers = []
    channels, side = round_channels(_FIRST * width), _halved(resolution)
    for stage in _STAGES:
        out = round_channels(stage.channels * width)
        for place in range(_LAYERS):
            stride = stage.stride if place == 0 else 1
            layers.append(_Layer(channels, out, stride, side, stage.squeeze))
            channels, side = out, _halved(side) if stride == 2 else side
    return layers


def _blocks(place: int, layer: _Layer) -> tuple[Block, ...]:
    blocks = [
        Block(f"k{kernel}_e{expansion}", *_layer_costs(layer, kernel, expansion))
        for kernel, expansion in _CHOICES
    ]
    if place % _LAYERS >= min(DEPTHS):
        blocks.append(Block(ABSENT, 0, 0))
    return tuple(blocks)


def _layer_costs(layer: _Layer, kernel: int, expansion: int) -> tuple[int, int]:
    """(MACs, parameters) of an inverted residual layer."""
    middle = round_channels(round(layer.channels * expansion))
    side_out = _halved(layer.side) if layer.stride == 2 else layer.side
    expand, depthwise, project = layer.channels * middle, middle * kernel**2, middle * layer.out
    macs = expand * layer.side**2 + (depthwise + project) * side_out**2
    params = expand + depthwise + project + 2 * (middle + middle + layer.out)
    if layer.squeeze:
        reduced = round_channels(middle // 4)
        macs += 2 * middle * reduced
        params += 2 * middle * reduced + reduced + middle
    return macs, params


def _fixed_costs(width: float, resolution: int, classes: int) -> tuple[int, int]:
    """(MACs, parameters) of the stem, the first block and the head."""
    last = _layer_shapes(width, resolution)[-1]
    stem, first = round_channels(_STEM * width), round_channels(_FIRST * width)
    expand, mix = round_channels(_EXPAND * width), round_channels(_MIX * width)
    early = 3 * 3**2 * stem + 3**2 * stem + stem * first  # first conv; depthwise and pointwise
    late = last.out * expand
    pooled = expand * mix + mix * classes  # after the global average pool
    macs = early * _halved(resolution) ** 2 + late * last.side**2 + pooled
    norms = 2 * (stem + stem + first + expand)
    return macs, early + late + pooled + norms + classes


def round_channels(value: float, divisor: int = 8) -> int:
    """`value` to the nearest multiple of `divisor` (halves up), at least one, never below 90 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _halved(side: int) -> int:
    """Side of the output of a padded convolution with stride 2."""
    return (side + 1) // 2
