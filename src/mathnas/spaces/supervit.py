"""NASViT's supernet, MathNAS's "SuperViT": convolutions, then transformer blocks (Gong et al., ICLR
2022)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.space import Block, BlockNode, Network, PairCosts, SearchSpace
from mathnas.spaces.mobilenetv3 import round_channels

RESOLUTIONS = (192, 224, 256, 288)
FIRST_WIDTHS = (16, 24)
HEAD_WIDTHS = (1792, 1984)
HEAD_EXPANSION = 6
HEAD_DIM = 8  # channels of an attention head
SHARES = (1.0, 0.5, 0.25)  # of all published widths; heads keep their number
VALUE_RATIO = 4  # channels of the values by those of the block
WINDOW = 18  # side of the largest map that attends, 288 / 16
STRIDES = (2, 1, 2, 2, 2, 2, 1, 2)  # of the first convolution and of the stages
PARTITIONS = ("stages", "dimensions")


@dataclass(frozen=True, slots=True)
class StageChoice:
    """What a stage is.

    Attributes:
        width: channels of its output.
        depth: blocks.
        kernel: of the depthwise convolutions of its inverted residuals.
        expansion: middle channels of those per input channel.
    """

    width: int
    depth: int
    kernel: int
    expansion: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the seven stages: what it may be, and what it always is.

    Attributes:
        name: as of its node.
        widths, depths, kernels, expansions: what its choices combine.
        squeeze: whether its inverted residuals have a squeeze-and-excite gate.
        transformer: whether its blocks after the first are transformer blocks; otherwise all are
            inverted residuals.
        expands: whether its inverted residuals have an expansion of their own; without one their
            middle is their input.
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    expansions: tuple[int, ...] = (6,)
    squeeze: bool = False
    transformer: bool = True
    expands: bool = True

    @property
    def choices(self) -> tuple[StageChoice, ...]:
        """All of them; their order is that of MathNAS's codes."""
        return tuple(
            itertools.starmap(
                StageChoice,
                itertools.product(self.widths, self.depths, self.kernels, self.expansions),
            )
        )

    @property
    def dimensions(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """What can be chosen, by name: the blocks of each dimension, with their values."""
        values = {
            "width": self.widths,
            "depth": self.depths,
            "kernel": self.kernels,
            "expand": self.expansions,
        }
        return {
            name: tuple((f"{name[0]}{value}", value) for value in own)
            for name, own in values.items()
            if len(own) > 1
        }

    def narrowed(self, share: float) -> Stage:
        """With this share of all its widths."""
        return replace(self, widths=_narrowed(self.widths, share))

    def block_name(self, choice: StageChoice) -> str:
        """A choice by what varies in the stage, as ``w24_d3_k3_e4``."""
        values = (choice.width, choice.depth, choice.kernel, choice.expansion)
        varies = (self.widths, self.depths, self.kernels, self.expansions)
        return "_".join(
            f"{letter}{value}"
            for letter, value, own in zip("wdke", values, varies, strict=True)
            if len(own) > 1
        )


STAGES = (
    Stage("mb1", (16, 24), (1, 2), (3, 5), (1,), transformer=False, expands=False),
    Stage("mb2", (24, 32), (3, 4, 5), (3, 5), (4, 5, 6), transformer=False),
    Stage("mb3", (32, 40), (3, 4, 5, 6), (3,), (4, 5, 6), squeeze=True, transformer=False),
    Stage("mb4", (64, 72), (3, 4, 5, 6), (3,), (4, 5, 6)),
    Stage("mb5", (112, 120, 128), tuple(range(3, 10)), (3,), (4, 5, 6), squeeze=True),
    Stage("mb6", (160, 168, 176, 184), tuple(range(3, 9)), squeeze=True),
    Stage("mb7", (208, 216, 224), (3, 4, 5, 6), squeeze=True),
)


class Configuration(TypedDict):
    """A network by its dimensions.

    Keys: ``resolution`` in pixels; ``width`` of the first convolution, the seven stages and the
    head; ``depth``, ``kernel_size`` and ``expand_ratio`` of the seven stages.
    """

    resolution: int
    width: list[int]
    depth: list[int]
    kernel_size: list[int]
    expand_ratio: list[int]


def _published(
    resolution: int, width: list[int], depth: list[int], expand: list[int], kernels: list[int]
) -> Configuration:
    return {
        "resolution": resolution,
        "width": width,
        "depth": depth,
        "kernel_size": [*kernels, 3, 3, 3, 3, 3],
        "expand_ratio": expand,
    }


PUBLISHED: Mapping[str, Configuration] = {
    "T1": _published(
        192,
        [16, 16, 24, 32, 64, 112, 176, 208, 1792],
        [1, 3, 3, 3, 3, 3, 3],
        [1, 4, 4, 6, 4, 6, 6],
        [3, 3],
    ),
    "T2": _published(
        224,
        [16, 16, 24, 40, 64, 112, 176, 208, 1792],
        [1, 3, 4, 3, 4, 3, 3],
        [1, 4, 4, 5, 4, 6, 6],
        [5, 3],
    ),
    "T3": _published(
        256,
        [24, 16, 24, 40, 64, 120, 184, 216, 1792],
        [1, 3, 4, 3, 6, 6, 6],
        [1, 5, 4, 5, 4, 6, 6],
        [5, 3],
    ),
    "T4": _published(
        288,
        [16, 16, 24, 32, 72, 120, 176, 216, 1792],
        [1, 3, 6, 4, 8, 8, 5],
        [1, 5, 4, 5, 5, 6, 6],
        [5, 3],
    ),
    "T5": _published(
        288,
        [24, 24, 24, 40, 72, 128, 184, 216, 1792],
        [2, 4, 6, 6, 8, 8, 5],
        [1, 5, 5, 4, 6, 6, 6],
        [3, 3],
    ),
}
"""The five networks that MathNAS published (MathNAS-T1 to T5)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs, by formula.

    Attributes:
        macs: multiply-accumulates of convolutions, linear layers and the two products of every
            attention, without biases.
        params: parameters of the extracted network, whose scales of residuals and biases of
            positions are constants.
        sliced_params: with the convolutions of shortcuts between equal widths, which the supernet
            has and no network runs.
        published_params: as publications count them: with those, and with transformer blocks at the
            widest of their stage, because they were not cut out.
    """

    macs: int
    params: int
    sliced_params: int
    published_params: int

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.macs + other.macs,
            self.params + other.params,
            self.sliced_params + other.sliced_params,
            self.published_params + other.published_params,
        )


class SuperViT(SearchSpace):
    """The 12,039,487,488 sub-networks of NASViT's supernet at one resolution.

    Nine nodes in MathNAS's partition: ``first`` (width of the first convolution), the stages
    ``mb1`` to ``mb7``, whose blocks combine a width, a depth, a kernel and an expansion, as
    ``w24_d3_k3_e4``, and ``head`` (width of the last hidden layer). Block indices are MathNAS's
    codes. A stage's width is the next one's input, so MACs and parameters are sums over blocks and
    over pairs of neighbours (`mathnas.PairCosts`), and exact.

    With ``partition="dimensions"`` each dimension is a node of its own: 22 nodes with 68 blocks for
    the same networks, with the same reference. Depth, width and expansion multiply in what a stage
    costs, so that is no sum over blocks or pairs: the space declares no MACs then, and `costs`
    counts them.

    The resolution multiplies what every node costs, for pairs as for blocks, and latencies alike:
    as a node it would interact with all others. So a resolution is a space, with a table of its
    own, and a search over resolutions is one search in each.

    Args:
        resolution: side of the square input image in pixels; the supernet was trained at 192, 224,
            256 and 288.
        classes: outputs of the classifier.
        strides: of the first convolution and of the seven stages, 1 or 2. Small images take fewer
            of 2: ``(1, 1, 2, 2, 2, 1, 1, 2)`` leaves CIFAR's 32 pixels sides of 32, 32, 16, 8, 4,
            4, 4 and 2.
        partition: ``stages`` or ``dimensions``.
        width: share of all published widths, 1, 0.5 or 0.25: networks that a laptop can train. The
            attention has as many heads, which are as much narrower.

    Attributes:
        first_widths, head_widths: what the first and the last node choose from.
        stages: the seven between them.
        head_dim: channels of an attention head.
        sides: of the outputs of the first convolution and of the stages, in pixels.
        window: side of the largest map whose positions attention tells apart.

    Raises:
        InvalidInputError: an argument is out of range.

    Example:
        >>> from mathnas.spaces import SuperViT
        >>> space = SuperViT(resolution=192)
        >>> smallest = (0,) * 9
        >>> f"{space.macs([smallest])[0] / 1e6:.3f} M MACs"
        '189.789 M MACs'
        >>> space.block_names(smallest)[:3]
        ('w16', 'w16_d1_k3', 'w24_d3_k3_e4')
        >>> space.to_config(smallest)["depth"]
        [1, 3, 3, 3, 3, 3, 3]
    """

    def __init__(
        self,
        resolution: int = 224,
        classes: int = 1000,
        strides: Sequence[int] = STRIDES,
        partition: str = "stages",
        width: float = 1.0,
    ) -> None:
        if not 32 <= resolution <= 4096:
            raise InvalidInputError(f"the input is 32 to 4096 pixels a side, but got {resolution}.")
        if classes < 1:
            raise InvalidInputError(f"a classifier has at least 1 class, but got {classes}.")
        if len(strides) != len(STRIDES) or not set(strides) <= {1, 2}:
            raise InvalidInputError(
                f"the first convolution and the {len(STAGES)} stages have a stride of 1 or 2 each, "
                f"as {STRIDES}, but got {tuple(strides)}."
            )
        if partition not in PARTITIONS:
            raise InvalidInputError(
                f"the nodes are {' or '.join(PARTITIONS)}, but got partition={partition!r}."
            )
        if width not in SHARES:
            raise InvalidInputError(
                f"the share of all widths is one of {', '.join(map(str, SHARES))}, but got {width}."
            )
        self.width = float(width)
        self.first_widths = _narrowed(FIRST_WIDTHS, width)
        self.head_widths = _narrowed(HEAD_WIDTHS, width)
        self.stages = tuple(stage.narrowed(width) for stage in STAGES)
        self.head_dim = int(HEAD_DIM * width)
        self.resolution, self.classes = int(resolution), int(classes)
        self.strides = tuple(map(int, strides))
        self.partition = partition
        self.sides = tuple(self._halved_sides())
        attending = self.sides[1 + next(i for i, own in enumerate(STAGES) if own.transformer)]
        # public weights know the positions of 288 pixels, whatever the resolution
        self.window = max(WINDOW, attending) if self.strides == STRIDES else attending
        # named only where they are not the published ones
        other: dict[str, str | float] = {}
        if self.strides != STRIDES:
            other["strides"] = "+".join(map(str, self.strides))
        if partition != PARTITIONS[0]:
            other["partition"] = partition
        if width != 1:
            other["width"] = self.width
        by_stage = partition == PARTITIONS[0]
        super().__init__(
            self._stage_nodes() if by_stage else list(self._dimension_nodes()),
            name=f"supervit:resolution={self.resolution},classes={self.classes}"
            + "".join(f",{key}={value}" for key, value in other.items()),
            fixed_macs=0 if by_stage else None,
            fixed_params=0 if by_stage else None,
            pair_costs=self._pairs() if by_stage else (),
            reference=None if by_stage else self._average_dimensions(),
            family={
                "name": "supervit",
                "resolution": self.resolution,
                "classes": self.classes,
                **other,
            },
        )

    # ---- configurations ---------------------------------------------------------------------

    def from_config(
        self,
        width: Sequence[int],
        depth: Sequence[int],
        kernel_size: Sequence[int],
        expand_ratio: Sequence[int],
        resolution: int | None = None,
    ) -> Network:
        """The network of a configuration; see `Configuration`.

        Args:
            resolution: where it is given, it must be the space's.

        Raises:
            InvalidInputError: a length or a value is not of the space.
        """
        if resolution not in (None, self.resolution):
            raise InvalidInputError(
                f"this space is of networks at {self.resolution} pixels, but the configuration is "
                f"of one at {resolution}: make a space of that resolution."
            )
        lengths = (len(width), len(depth), len(kernel_size), len(expand_ratio))
        count = len(self.stages)
        if lengths != (count + 2, count, count, count):
            raise InvalidInputError(
                f"a configuration has {count + 2} widths and {count} depths, kernel sizes and "
                f"expansions, but got {lengths[0]}, {lengths[1]}, {lengths[2]} and {lengths[3]}."
            )
        _check_value("the first convolution", "width", width[0], self.first_widths)
        _check_value("the head", "width", width[-1], self.head_widths)
        chosen = []
        stages = zip(self.stages, width[1:-1], depth, kernel_size, expand_ratio, strict=True)
        for stage, *values in stages:
            choice = StageChoice(*values)
            _check_value(stage.name, "width", choice.width, stage.widths)
            _check_value(stage.name, "depth", choice.depth, stage.depths)
            _check_value(stage.name, "kernel size", choice.kernel, stage.kernels)
            _check_value(stage.name, "expansion", choice.expansion, stage.expansions)
            chosen.append(choice)
        first, head = self.first_widths.index(width[0]), self.head_widths.index(width[-1])
        if self.partition == "stages":
            pairs = zip(self.stages, chosen, strict=True)
            return (first, *(stage.choices.index(own) for stage, own in pairs), head)
        return self.check(self._dimension_names(width[0], chosen, width[-1]))

    def to_config(self, network: Sequence[int | str]) -> Configuration:
        """The configuration of a network."""
        first, stages, head = self.choices(network)
        return {
            "resolution": self.resolution,
            "width": [first, *(own.width for own in stages), head],
            "depth": [own.depth for own in stages],
            "kernel_size": [own.kernel for own in stages],
            "expand_ratio": [own.expansion for own in stages],
        }

    def choices(self, network: Sequence[int | str]) -> tuple[int, tuple[StageChoice, ...], int]:
        """What a network is: width of the first convolution, the stages, width of the head.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        chosen = self.check(network)
        first, head = self.first_widths[chosen[0]], self.head_widths[chosen[-1]]
        if self.partition == "stages":
            pairs = zip(self.stages, chosen[1:-1], strict=True)
            return first, tuple(stage.choices[block] for stage, block in pairs), head
        places = iter(chosen[1:-1])
        stages = []
        for stage in self.stages:
            values = {name: own[next(places)][1] for name, own in stage.dimensions.items()}
            stages.append(
                StageChoice(
                    values.get("width", stage.widths[0]),
                    values.get("depth", stage.depths[0]),
                    values.get("kernel", stage.kernels[0]),
                    values.get("expand", stage.expansions[0]),
                )
            )
        return first, tuple(stages), head

    def configuration_name(self, nodes: Sequence[int], blocks: Sequence[int]) -> str:
        """Of a stage's dimensions: as its block in the partition of stages, ``w24_d3_k3_e4``."""
        if self.partition == "stages":
            return super().configuration_name(nodes, blocks)
        pairs = zip(nodes, blocks, strict=True)
        return "_".join(self.nodes[node].blocks[block].name for node, block in pairs)

    @property
    def partitions(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """``stages``, where nodes are dimensions: the nine nodes of MathNAS's partition."""
        if self.partition == "stages":
            return {}
        groups: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            groups.setdefault(node.name.partition(".")[0], []).append(place)
        return {"stages": groups}

    # ---- costs ------------------------------------------------------------------------------

    def costs(self, network: Sequence[int | str]) -> Costs:
        """MACs and parameters of a network by formula, exact in every partition.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        first, stages, head = self.choices(network)
        total = self._first_costs(first)
        width = first
        for place, choice in enumerate(stages):
            total += self._stage_costs(place, width, choice)
            width = choice.width
        return total + self._head_costs(width, head)

    # ---- inside -----------------------------------------------------------------------------

    def _halved_sides(self) -> Iterator[int]:
        side = self.resolution
        for stride in self.strides:
            side = halved(side) if stride == 2 else side
            yield side

    def _first_costs(self, width: int) -> Costs:
        weights = 3 * 3**2 * width
        return _costs(weights * self.sides[0] ** 2, weights + 2 * width)

    def _stage_costs(self, place: int, channels: int, choice: StageChoice) -> Costs:
        """Of a stage whose input has so many channels."""
        stage, side = self.stages[place], self.sides[place]
        stride = self.strides[place + 1]
        total = _mbconv_costs(stage, channels, choice, stride, side)
        rest, side = choice.depth - 1, self.sides[place + 1]
        if stage.transformer:
            macs, params = self._transformer_costs(choice.width, side)
            widest = self._transformer_costs(max(stage.widths), side)[1]
            return total + Costs(rest * macs, rest * params, rest * params, rest * widest)
        one = _mbconv_costs(stage, choice.width, choice, 1, side)
        return total + Costs(
            rest * one.macs,
            rest * one.params,
            rest * one.sliced_params,
            rest * one.published_params,
        )

    def _head_costs(self, channels: int, width: int) -> Costs:
        middle = HEAD_EXPANSION * channels
        pooled = middle * width + width * self.classes
        macs = channels * middle * self.sides[-1] ** 2 + pooled
        return _costs(macs, channels * middle + 2 * middle + pooled + self.classes)

    def _between(self, node: int, channels: int, block: int) -> Costs:
        """Of a node's block whose input has so many channels, where there is an input."""
        if node == 0:
            return self._first_costs(self.first_widths[block])
        if node > len(self.stages):
            return self._head_costs(channels, self.head_widths[block])
        return self._stage_costs(node - 1, channels, self.stages[node - 1].choices[block])

    def _stage_nodes(self) -> list[BlockNode]:
        """Blocks cost what a switch to them changes in a network of usual blocks."""
        blocks_of = self._stage_blocks()
        nodes = []
        for place, (name, blocks) in enumerate(blocks_of):
            before = 0 if place == 0 else self._width_of(place - 1, self._usual(place - 1))
            own = []
            for block, label in enumerate(blocks):
                cost = self._between(place, before, block)
                macs, params = cost.macs, cost.params
                if place + 1 < len(blocks_of):
                    later = self._usual(place + 1)
                    read = self._between(place + 1, self._width_of(place, block), later)
                    usual = self._between(
                        place + 1, self._width_of(place, self._usual(place)), later
                    )
                    macs += read.macs - usual.macs
                    params += read.params - usual.params
                own.append(Block(label, macs, params))
            nodes.append(BlockNode(name, tuple(own)))
        return nodes

    def _average_dimensions(self) -> list[str]:
        """The average-FLOPs network of the stages, in dimensions."""
        stages = SuperViT(self.resolution, self.classes, self.strides, width=self.width)
        return self._dimension_names(*stages.choices(stages.reference))

    def _pairs(self) -> list[PairCosts]:
        """What two neighbours cost beyond their blocks' costs, which are those beside the usual
        block of the other."""
        found = []
        counts = [len(blocks) for _, blocks in self._stage_blocks()]
        for place, sizes in enumerate(itertools.pairwise(counts)):
            matrix = np.empty((2, *sizes))
            by_width: dict[int, list[Costs]] = {}
            for one in range(sizes[0]):
                width = self._width_of(place, one)
                if width not in by_width:
                    by_width[width] = [
                        self._between(place + 1, width, other) for other in range(sizes[1])
                    ]
                matrix[0, one] = [cost.macs for cost in by_width[width]]
                matrix[1, one] = [cost.params for cost in by_width[width]]
            row, column = self._usual(place), self._usual(place + 1)
            rest = (
                matrix
                - matrix[:, row, None, :]
                - matrix[:, :, column, None]
                + matrix[:, row, column, None, None]
            )
            found.append(PairCosts(place, place + 1, rest[0], rest[1]))
        return found

    def _stage_blocks(self) -> list[tuple[str, tuple[str, ...]]]:
        """The nine nodes, each with its blocks."""
        return [
            ("first", tuple(f"w{width}" for width in self.first_widths)),
            *(
                (own.name, tuple(own.block_name(choice) for choice in own.choices))
                for own in self.stages
            ),
            ("head", tuple(f"w{width}" for width in self.head_widths)),
        ]

    def _usual(self, node: int) -> int:
        """The block of the least width and the middle depth, kernel and expansion: beside it no
        block costs less than nothing."""
        if not 0 < node <= len(self.stages):
            return 0
        stage = self.stages[node - 1]
        others = (stage.depths, stage.kernels, stage.expansions)
        middle = (own[len(own) // 2] for own in others)
        return stage.choices.index(StageChoice(stage.widths[0], *middle))

    def _width_of(self, node: int, block: int) -> int:
        """Channels of a node's output."""
        if node == 0:
            return self.first_widths[block]
        return self.stages[node - 1].choices[block].width

    def _dimension_nodes(self) -> Iterator[BlockNode]:
        yield BlockNode("first.width", tuple(Block(f"w{width}") for width in self.first_widths))
        for stage in self.stages:
            for name, own in stage.dimensions.items():
                yield BlockNode(f"{stage.name}.{name}", tuple(Block(label) for label, _ in own))
        yield BlockNode("head.width", tuple(Block(f"w{width}") for width in self.head_widths))

    def _dimension_names(self, first: int, stages: Sequence[StageChoice], head: int) -> list[str]:
        """The blocks of a network whose nodes are dimensions."""
        pairs = zip(self.stages, stages, strict=True)
        names = [name for stage, own in pairs for name in stage.block_name(own).split("_")]
        return [f"w{first}", *names, f"w{head}"]

    def _transformer_costs(self, width: int, side: int) -> tuple[int, int]:
        """(MACs, parameters) of a transformer block over a map of side x side."""
        tokens, heads, values = side**2, width // self.head_dim, VALUE_RATIO * width
        # queries, keys, values, output, two networks of two layers; scores and weighted values; the
        # convolution of the values; heads mixed before and after the softmax
        linear = (2 + 2 * VALUE_RATIO + 4) * width**2
        macs = (
            tokens * (linear + (1 + VALUE_RATIO) * tokens * width + 3**2 * values)
            + 2 * heads**2 * tokens**2
        )
        biases = 2 * width + values + width + 4 * width
        params = linear + biases + 3**2 * values + 2 * (heads**2 + heads) + 3 * 2 * width
        return macs, params


def _narrowed(widths: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(int(width * share) for width in widths)


def _check_value(where: str, what: str, value: int, known: tuple[int, ...]) -> None:
    if value not in known:
        raise InvalidInputError(f"the {what} of {where} is in {known}, but got {value}.")


def _costs(macs: int, params: int) -> Costs:
    return Costs(macs, params, params, params)


def middle_channels(stage: Stage, channels: int, expansion: int) -> int:
    """Middle channels of a stage's inverted residual that reads so many channels."""
    return round_channels(round(channels * expansion)) if stage.expands else channels


def _mbconv_costs(
    stage: Stage, channels: int, choice: StageChoice, stride: int, side: int
) -> Costs:
    """Of an inverted residual: expansion, depthwise convolution, gate, projection, shortcut."""
    middle = middle_channels(stage, channels, choice.expansion)
    side_out = halved(side) if stride == 2 else side
    out = choice.width
    expand = channels * middle if stage.expands else 0
    depthwise, project = middle * choice.kernel**2, middle * out
    shortcut = channels * out if channels != out else 0
    macs = expand * side**2 + (depthwise + project + shortcut) * side_out**2
    norms = 2 * ((middle if stage.expands else 0) + middle + out)
    params = expand + depthwise + project + shortcut + norms
    if stage.squeeze:
        reduced = round_channels(middle // 4)
        macs += 2 * middle * reduced
        params += 2 * middle * reduced + reduced + middle
    idle = channels * out - shortcut
    return Costs(macs, params, params + idle, params + idle)


def halved(side: int) -> int:
    """Side of the output of a padded convolution with stride 2."""
    return (side + 1) // 2
