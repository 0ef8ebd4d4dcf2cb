"""Once-for-All MobileNetV3: 5 stages of 2 to 4 inverted residual layers (Cai et al., ICLR 2020)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
DEPTHS = (2, 3, 4)
ABSENT = "absent"
_LAYERS = max(DEPTHS)  # a stage

StageCandidate: TypeAlias = "str | tuple[int, Sequence[int], Sequence[int]]"

PUBLISHED_CANDIDATES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cpu": (
        ("d2 k33 e43", "d2 k33 e36", "d3 k333 e363", "d3 k333 e466", "d4 k3335 e3663"),
        ("d3 k533 e633", "d3 k533 e646", "d4 k7335 e6443", "d4 k5555 e6463", "d4 k7577 e6666"),
        ("d3 k553 e333", "d3 k555 e633", "d4 k5755 e4334", "d4 k5775 e6633", "d4 k7777 e6664"),
        ("d3 k333 e343", "d3 k355 e643", "d4 k3553 e4444", "d4 k5553 e6446", "d4 k7557 e6666"),
        ("d2 k33 e63", "d3 k333 e444", "d3 k335 e644", "d3 k335 e666", "d4 k5357 e6664"),
    ),
    "gpu": (
        ("d2 k77 e36", "d3 k777 e366", "d3 k553 e666", "d4 k7577 e6666", "d4 k5535 e6666"),
        ("d2 k77 e63", "d3 k777 e633", "d3 k757 e666", "d4 k7577 e6633", "d4 k7577 e6666"),
        ("d2 k77 e33", "d3 k777 e333", "d3 k777 e666", "d4 k5577 e6633", "d4 k7777 e6664"),
        ("d2 k77 e33", "d3 k777 e333", "d3 k755 e666", "d4 k5577 e6633", "d4 k7557 e6666"),
        ("d2 k73 e66", "d3 k735 e666", "d3 k335 e666", "d4 k7355 e6666", "d4 k5357 e6664"),
    ),
}
"""The five candidates of each stage that MathNAS published: one set for CPUs (Raspberry Pi, TX2),
one for the TX2's GPU; made for width 1.2 at 224 pixels. How they were picked was not published."""


@dataclass(frozen=True, slots=True)
class _Stage:
    channels: int  # at width 1.0
    stride: int
    squeeze: bool
    swish: bool


_STEM, _FIRST = 16, 16
_STAGES = (
    _Stage(24, 2, squeeze=False, swish=False),
    _Stage(40, 2, squeeze=True, swish=False),
    _Stage(80, 2, squeeze=False, swish=True),
    _Stage(112, 1, squeeze=True, swish=True),
    _Stage(160, 2, squeeze=True, swish=True),
)
_EXPAND, _MIX = 960, 1280


@dataclass(frozen=True, slots=True)
class Layer:
    """One of the 20 layers, whichever block it takes.

    Attributes:
        channels, out: of its input and its output.
        stride: of its depthwise convolution.
        side: of its input, in pixels.
        squeeze: whether it has a squeeze-and-excite gate.
        swish: whether its activations are hard swishes instead of rectifiers.
    """

    channels: int
    out: int
    stride: int
    side: int
    squeeze: bool
    swish: bool


@dataclass(frozen=True, slots=True)
class FixedWidths:
    """Channels of what every network has.

    Attributes:
        stem: of the first convolution.
        first: of the first block.
        expand: of the last convolution before pooling.
        mix: of the convolution after pooling, the classifier's input.
    """

    stem: int
    first: int
    expand: int
    mix: int


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
        stem_stride: stride of the first convolution; 1 is the variant for small images, which
            keeps twice the sides throughout.

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

    def __init__(
        self,
        width: float = 1.0,
        resolution: int = 224,
        classes: int = 1000,
        stem_stride: int = 2,
    ) -> None:
        if not (math.isfinite(width) and 0.1 <= width <= 10):
            raise InvalidInputError(
                f"a width multiplier lies in 0.1 to 10, but got {width}: "
                "public weights exist for 1.0 and 1.2."
            )
        if not 32 <= resolution <= 4096:
            raise InvalidInputError(f"the input is 32 to 4096 pixels a side, but got {resolution}.")
        if classes < 1:
            raise InvalidInputError(f"a classifier has at least 1 class, but got {classes}.")
        if stem_stride not in (1, 2):
            raise InvalidInputError(
                f"the first convolution has stride 1 (small images) or 2, but got {stem_stride}."
            )
        self.width, self.resolution, self.classes = float(width), int(resolution), int(classes)
        self.stem_stride = int(stem_stride)
        stem_side = self.resolution if self.stem_stride == 1 else _halved(self.resolution)
        self.layers = _layers(self.width, stem_side)
        self.widths = FixedWidths(
            *(round_channels(base * self.width) for base in (_STEM, _FIRST, _EXPAND, _MIX))
        )
        macs, params = _fixed_costs(self.widths, self.layers[-1], stem_side, self.classes)
        # named only where it is not the published one: files of that space stay as they are
        small = {"stem_stride": self.stem_stride} if self.stem_stride != 2 else {}
        super().__init__(
            [
                BlockNode(f"stage{place // _LAYERS + 1}.layer{place % _LAYERS + 1}", blocks)
                for place, blocks in enumerate(map(_blocks, range(len(self.layers)), self.layers))
            ],
            name=f"mobilenetv3:width={self.width:g},resolution={resolution},classes={classes}"
            + "".join(f",{key}={value}" for key, value in small.items()),
            fixed_macs=macs,
            fixed_params=params,
            depth_rules=[
                DepthRule(nodes, (_ABSENT_INDEX,) * len(nodes))
                for nodes in (
                    tuple(range(start + min(DEPTHS), start + _LAYERS))
                    for start in range(0, len(self.layers), _LAYERS)
                )
            ],
            family={
                "name": "mobilenetv3",
                "width": self.width,
                "resolution": self.resolution,
                "classes": self.classes,
                **small,
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
        chosen = [layer_choice(block) for block in self.check(network)]
        stages = [chosen[start : start + _LAYERS] for start in range(0, len(chosen), _LAYERS)]
        return {
            "ks": [choice[0] if choice else 0 for choice in chosen],
            "e": [choice[1] if choice else 0 for choice in chosen],
            "d": [sum(choice is not None for choice in stage) for stage in stages],
        }

    def configuration_name(self, nodes: Sequence[int], blocks: Sequence[int]) -> str:
        """Within a stage: depth, kernels and expansions of its layers, as ``d3 k353 e643``."""
        stages = {node // _LAYERS for node in nodes}
        if len(stages) > 1 or len(nodes) < _LAYERS:
            return super().configuration_name(nodes, blocks)
        chosen = [_CHOICES[block] for block in blocks if block != _ABSENT_INDEX]
        kernels, expansions = ("".join(map(str, own)) for own in zip(*chosen, strict=True))
        return f"d{len(chosen)} k{kernels} e{expansions}"

    @property
    def partitions(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """``stages``: the five stages."""
        stages = {
            f"stage{stage + 1}": range(stage * _LAYERS, (stage + 1) * _LAYERS)
            for stage in range(len(_STAGES))
        }
        return {"stages": stages}

    def stages(
        self,
        candidates: str | Sequence[Sequence[StageCandidate]] | None = None,
        *,
        reference: Sequence[int | str] | None = None,
    ) -> GroupedSpace:
        """The space whose nodes are the five stages (the paper's partition), with candidates.

        MACs and parameters stay exact: stage widths are fixed.

        Args:
            candidates: for each stage its candidates, as ``"d3 k353 e643"`` or as (depth, kernels,
                expansions), of which those beyond the depth are ignored; ``"cpu"`` or ``"gpu"``
                (see `PUBLISHED_CANDIDATES`); by default all 7,371 configurations of each stage.
            reference: a network of candidates; by default the average-FLOPs network.

        Raises:
            InvalidInputError: a candidate is none of a stage, or stands twice.

        Example:
            >>> stages = MobileNetV3(width=1.2).stages("cpu")
            >>> stages.block_names((2, 0, 0, 0, 4))[0]
            'd3 k333 e363'
            >>> f"{stages.macs([(0, 0, 0, 0, 0)])[0] / 1e6:.2f} M"
            '289.56 M'
        """
        groups = self.partitions["stages"]
        title = f"{self.name} in stages"
        if isinstance(candidates, str):
            if candidates not in PUBLISHED_CANDIDATES:
                raise InvalidInputError(
                    f"published candidates are {', '.join(PUBLISHED_CANDIDATES)}, but got "
                    f"{candidates!r}: list those of each stage instead."
                )
            title += f" with the published candidates for {candidates.upper()}s"
            candidates = PUBLISHED_CANDIDATES[candidates]
        if candidates is None:
            return GroupedSpace(self, groups, name=title, reference=reference)
        if len(candidates) != len(groups):
            raise InvalidInputError(
                f"candidates are listed for each of {len(groups)} stages, but got "
                f"{len(candidates)} lists."
            )
        chosen = {
            name: [_stage_blocks(candidate, name) for candidate in own]
            for name, own in zip(groups, candidates, strict=True)
        }
        return GroupedSpace(self, groups, chosen, name=title, reference=reference)


_CHOICES = tuple((kernel, expansion) for kernel in KERNELS for expansion in EXPANSIONS)
_ABSENT_INDEX = len(_CHOICES)
_CANDIDATE = re.compile(r"d(\d) k(\d+) e(\d+)")


def _stage_blocks(candidate: StageCandidate, stage: str) -> list[int]:
    """The blocks of a stage's layers that a candidate means."""
    if isinstance(candidate, str):
        match = _CANDIDATE.fullmatch(candidate)
        if match is None:
            raise InvalidInputError(
                f"a candidate is written as d3 k353 e643 (depth, kernels, expansions), but "
                f"{stage} has {candidate!r}."
            )
        depths, *rest = (tuple(map(int, text)) for text in match.groups())
        return _stage_blocks((depths[0], rest[0], rest[1]), stage)
    depth, kernels, expansions = candidate
    layers = list(zip(kernels, expansions, strict=False))[:depth]
    if depth not in DEPTHS or len(layers) < depth or not set(layers) <= set(_CHOICES):
        raise InvalidInputError(
            f"a candidate has a depth in {DEPTHS} and for each of its layers a kernel in {KERNELS} "
            f"and an expansion in {EXPANSIONS}, but {stage} has {candidate!r}."
        )
    return [*map(_CHOICES.index, layers), *[_ABSENT_INDEX] * (_LAYERS - depth)]


def layer_choice(block: int) -> tuple[int, int] | None:
    """The kernel and expansion of a layer's block, by its index; None where it is absent."""
    return None if block == _ABSENT_INDEX else _CHOICES[block]


def _layers(width: float, stem_side: int) -> tuple[Layer, ...]:
    """The 20 layers in order; an absent layer changes no shape."""
    layers = []
    channels, side = round_channels(_FIRST * width), stem_side
    for stage in _STAGES:
        out = round_channels(stage.channels * width)
        for place in range(_LAYERS):
            stride = stage.stride if place == 0 else 1
            layers.append(Layer(channels, out, stride, side, stage.squeeze, stage.swish))
            channels, side = out, _halved(side) if stride == 2 else side
    return tuple(layers)


def _blocks(place: int, layer: Layer) -> tuple[Block, ...]:
    blocks = [
        Block(f"k{kernel}_e{expansion}", *_layer_costs(layer, kernel, expansion))
        for kernel, expansion in _CHOICES
    ]
    if place % _LAYERS >= min(DEPTHS):
        blocks.append(Block(ABSENT, 0, 0))
    return tuple(blocks)


def _layer_costs(layer: Layer, kernel: int, expansion: int) -> tuple[int, int]:
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


def _fixed_costs(widths: FixedWidths, last: Layer, stem_side: int, classes: int) -> tuple[int, int]:
    """(MACs, parameters) of the stem, the first block and the head."""
    stem, first, expand, mix = widths.stem, widths.first, widths.expand, widths.mix
    early = 3 * 3**2 * stem + 3**2 * stem + stem * first  # first conv; depthwise and pointwise
    late = last.out * expand
    pooled = expand * mix + mix * classes  # after the global average pool
    macs = early * stem_side**2 + late * last.side**2 + pooled
    norms = 2 * (stem + stem + first + expand)
    return macs, early + late + pooled + norms + classes


def round_channels(value: float, divisor: int = 8) -> int:
    """`value` to the nearest multiple of `divisor` (halves up), at least one, never below 90 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _halved(side: int) -> int:
    """Side of the output of a padded convolution with stride 2."""
    return (side + 1) // 2
