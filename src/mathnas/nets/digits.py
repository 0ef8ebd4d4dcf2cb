"""A small supernet for 8 x 8 grey images: six nodes of inverted residuals, 10,000 networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.linear import copied_linear, new_linear, reset_linear
from mathnas.nets.mbconv import ElasticMBConv, MBConvChoice
from mathnas.nets.norm import SharedBatchNorm2d
from mathnas.nets.supernet import ChainSupernet
from mathnas.space import Block, BlockNode, SearchSpace

FAMILY = "digits"  # of the space, in declarations


@dataclass(frozen=True, slots=True)
class DigitsNode:
    """One node.

    Attributes:
        channels: output channels.
        stride: 1 or 2.
        choices: its blocks; None is "no layer here" and needs stride 1 and equal widths.
    """

    channels: int
    stride: int
    choices: tuple[MBConvChoice | None, ...]


_K3_E1, _K5_E1 = MBConvChoice(3, 1), MBConvChoice(5, 1)
_K3_E3, _K3_E6, _K5_E6 = MBConvChoice(3, 3), MBConvChoice(3, 6), MBConvChoice(5, 6)
_SAME = (None, _K3_E1, _K3_E3, _K3_E6, _K5_E6)  # where input and output have the same shape
_CHANGE = (_K3_E1, _K5_E1, _K3_E3, _K5_E6)  # where they differ


@dataclass(frozen=True, slots=True)
class DigitsConfig:
    """Shape of the supernet.

    Attributes:
        side: of the images, in pixels.
        stem: channels of the stem's convolution.
        nodes: the nodes in order.
        head: channels of the head's 1x1 convolution.
        classes: outputs.
    """

    side: int = 8
    stem: int = 12
    nodes: tuple[DigitsNode, ...] = (
        DigitsNode(12, 1, _SAME),
        DigitsNode(16, 2, _CHANGE),
        DigitsNode(16, 1, _SAME),
        DigitsNode(24, 1, _CHANGE),
        DigitsNode(24, 1, _SAME),
        DigitsNode(24, 1, _SAME),
    )
    head: int = 48
    classes: int = 10

    def __post_init__(self) -> None:
        for number, (node, (channels, _)) in enumerate(
            zip(self.nodes, self.inputs(), strict=False)
        ):
            if None in node.choices and (node.stride, node.channels) != (1, channels):
                raise InvalidInputError(
                    f"a node may be skipped where its stride is 1 and its widths are equal, but "
                    f"node {number} has stride {node.stride} and goes from {channels} to "
                    f"{node.channels} channels: leave None out of its choices."
                )

    def to_family(self) -> dict[str, object]:
        """The ``family`` record of the space: this configuration as JSON values."""
        nodes = [
            {
                "channels": node.channels,
                "stride": node.stride,
                "choices": [
                    None if choice is None else [choice.kernel, choice.expansion]
                    for choice in node.choices
                ],
            }
            for node in self.nodes
        ]
        return {
            "name": FAMILY,
            "side": self.side,
            "stem": self.stem,
            "nodes": nodes,
            "head": self.head,
            "classes": self.classes,
        }

    @staticmethod
    def from_family(family: Mapping[str, object]) -> DigitsConfig:
        """The configuration of a ``family`` record.

        Raises:
            FileFormatError: the record lacks a field, or has one of another type.
        """
        record = Record(family, "family")
        nodes = []
        for where, entry in record.items("nodes"):
            node = Record(entry, where)
            choices = node.get("choices", list)
            if not all(c is None or [type(v) for v in _listed(c)] == [int, int] for c in choices):
                raise FileFormatError(
                    f"{where}.choices: expected null or [kernel, expansion], but got {choices}."
                )
            nodes.append(
                DigitsNode(
                    node.get("channels", int),
                    node.get("stride", int),
                    tuple(None if choice is None else MBConvChoice(*choice) for choice in choices),
                )
            )
        return DigitsConfig(
            record.get("side", int),
            record.get("stem", int),
            tuple(nodes),
            record.get("head", int),
            record.get("classes", int),
        )

    def inputs(self) -> list[tuple[int, int]]:
        """For every node, and then the head: channels and side of its input."""
        shapes = [(self.stem, self.side)]
        for node in self.nodes:
            shapes.append((node.channels, -(-shapes[-1][1] // node.stride)))
        return shapes


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def digits_space(config: DigitsConfig) -> SearchSpace:
    """The space of a `DigitsNet`, with exact MACs and parameters.

    MACs count convolutions and the classifier; parameters are those of the extracted network.
    """
    shapes = config.inputs()
    nodes = []
    for number, (node, (channels, side)) in enumerate(zip(config.nodes, shapes, strict=False)):
        blocks = [
            Block("skip", macs=0, params=0)
            if choice is None
            else Block(
                choice.name,
                macs=choice.macs(channels, node.channels, side, node.stride),
                params=choice.params(channels, node.channels),
            )
            for choice in node.choices
        ]
        nodes.append(BlockNode(f"node{number + 1}", tuple(blocks)))
    last, final = shapes[-1]
    stem_macs = 9 * config.stem * config.side**2
    head_macs = last * config.head * final**2 + config.head * config.classes
    stem_params = 9 * config.stem + 2 * config.stem
    head_params = last * config.head + 2 * config.head + (config.head + 1) * config.classes
    return SearchSpace(
        nodes,
        name="digits",
        fixed_macs=stem_macs + head_macs,
        fixed_params=stem_params + head_params,
        family=config.to_family(),
    )


class DigitsNet(ChainSupernet):
    """Stem, six elastic inverted residuals, head.

    Args:
        config: the shape.
        seed: of the weights.
    """

    input_channels = 1

    @property
    def resolution(self) -> int:
        """Side of the images."""
        return self.config.side

    def __init__(self, config: DigitsConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config or DigitsConfig()
        self.space = digits_space(self.config)
        self.stem = ElasticConv2d(1, self.config.stem, (3,))
        self.stem_norm = SharedBatchNorm2d(self.config.stem)
        widths = [channels for channels, _ in self.config.inputs()]
        self.nodes = nn.ModuleList(
            _elastic(width, node) for width, node in zip(widths, self.config.nodes, strict=False)
        )
        self.head = ElasticConv2d(widths[-1], self.config.head)
        self.head_norm = SharedBatchNorm2d(self.config.head)
        self.classifier = new_linear(self.config.head, self.config.classes)
        self._reset(torch.Generator().manual_seed(seed))

    def run_stem(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 1, side, side) to (batch, stem, side, side)."""
        return functional.relu(self.stem_norm(self.stem(x)))

    def run_node(self, node: int, block: int, x: Tensor) -> Tensor:
        return self.cut_node(node, block)(x)

    def cut_node(self, node: int, block: int) -> Callable[[Tensor], Tensor]:
        choice = self.config.nodes[node].choices[block]
        if choice is None:
            return nn.Identity()
        layer = cast(ElasticMBConv, self.nodes[node])
        return partial(layer, form=layer.cut(choice))

    def run_head(self, x: Tensor) -> Tensor:
        x = functional.relu(self.head_norm(self.head(x)))
        return cast(Tensor, self.classifier(x.mean((2, 3))))

    def extract_stem(self) -> nn.Module:
        return nn.Sequential(
            self.stem.extract(1),
            self.stem_norm.extract(self.config.stem),
            nn.ReLU(),
        ).eval()

    def extract_block(self, node: int, block: int) -> nn.Module:
        choice = self.config.nodes[node].choices[block]
        if choice is None:
            return nn.Identity()
        return cast(ElasticMBConv, self.nodes[node]).extract(choice)

    def extract_head(self) -> nn.Module:
        return nn.Sequential(
            self.head.extract(self.head.in_channels),
            self.head_norm.extract(self.config.head),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            copied_linear(self.classifier),
        ).eval()

    def _reset(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, ElasticConv2d):
                module.reset(generator)
        reset_linear(self.classifier, generator)


def _elastic(width: int, node: DigitsNode) -> ElasticMBConv:
    choices = [choice for choice in node.choices if choice is not None]
    return ElasticMBConv(
        width,
        node.channels,
        sorted({choice.kernel for choice in choices}),
        sorted({choice.expansion for choice in choices}),
        stride=node.stride,
    )
