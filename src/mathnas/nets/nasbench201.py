"""The networks of NAS-Bench-201 (Dong and Yang, ICLR 2020): one cell alone, and all over shared
weights.

Stem; three stages of equal cells, with a residual block of stride 2 between stages; batch norm,
ReLU, global mean, linear. Tensors are named and shaped as in the authors' networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mathnas.errors import InvalidInputError
from mathnas.nets.linear import new_linear, reset_linear
from mathnas.nets.norm import SharedBatchNorm2d
from mathnas.nets.supernet import Supernet
from mathnas.space import Network
from mathnas.spaces.nasbench201 import (
    AVG_POOL,
    CONV_1X1,
    CONV_3X3,
    EDGES,
    NONE,
    OPERATIONS,
    SKIP,
    STAGES,
    NASBench201,
    edges_reaching_output,
)

# makes the normalisation of a number of channels
_Norm = Callable[[int], nn.BatchNorm2d]
_SHRINK = 2 ** (STAGES - 1)


class Zero(nn.Module):
    """The operation ``none``."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros like x, whatever x holds."""
        return torch.zeros_like(x)


class ReluConvNorm(nn.Module):
    """ReLU, convolution, batch normalisation.

    Args:
        channels, out: widths.
        kernel: odd; the padding keeps a stride-1 output as large as the input.
        norm: makes the normalisation. The convolution has a bias where that has no shift.
        stride: of the convolution.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, norm: _Norm, *, stride: int = 1
    ) -> None:
        super().__init__()
        normalisation = norm(out)
        conv = _conv(channels, out, kernel, stride=stride, bias=not normalisation.affine)
        self.op = nn.Sequential(nn.ReLU(), conv, normalisation)

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        return cast(Tensor, self.op(x))


class Residual(nn.Module):
    """The block between two stages: half the side, twice the channels."""

    def __init__(self, channels: int, out: int, norm: _Norm) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(channels, out, 3, norm, stride=2)
        self.conv_b = ReluConvNorm(out, out, 3, norm)
        self.downsample = nn.Sequential(nn.AvgPool2d(2), _conv(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width) with even sides."""
        return cast(Tensor, self.conv_b(self.conv_a(x)) + self.downsample(x))


class Cell(nn.Module):
    """A cell with one operation an edge, every one of which is executed."""

    def __init__(self, cell: Network, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _operation(operation, channels, nn.BatchNorm2d) for operation in cell
        )

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (batch, channels, height, width)."""
        return _cell_output(x, list(self.layers))


class ElasticCell(nn.Module):
    """A cell with all five operations on every edge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                _edge_name(edge): nn.ModuleList(
                    _operation(operation, channels, _shared_without_scale)
                    for operation in range(len(OPERATIONS))
                )
                for edge in range(len(EDGES))
            }
        )

    def forward(self, x: Tensor, cell: Network) -> Tensor:
        """Run one cell on x of shape (batch, channels, height, width)."""
        edges = cast("list[nn.ModuleList]", list(self.edges.values()))
        return _cell_output(x, [edge[block] for edge, block in zip(edges, cell, strict=True)])


class CellNetwork(nn.Module):
    """The static network of one cell, as the benchmark trained it.

    Its batch normalisations have scales and shifts and its convolutions no biases. Every operation
    is executed, also on edges that nothing reads, so that MACs are those of the space.

    Args:
        cell: a network of the space.
        space: data set and size.
        seed: of the weights.

    Raises:
        InvalidInputError: the cell does not belong to the space.
    """

    def __init__(
        self, cell: Sequence[int | str], space: NASBench201 | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.space = space if space is not None else NASBench201()
        self.cell = self.space.check(cell)
        widths = self.space.stage_channels
        self.stem = _stem(widths[0], nn.BatchNorm2d)
        self.cells = nn.ModuleList(
            Residual(channels, out, nn.BatchNorm2d) if channels != out else Cell(self.cell, out)
            for channels, out in _positions(self.space)
        )
        self.lastact = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.classifier = new_linear(widths[-1], self.space.classes)
        _reset(self, self.classifier, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (batch, 3, height, width) to logits of shape (batch, classes).

        Raises:
            InvalidInputError: x has another shape; sides are multiples of 4.
        """
        _check_images(x)
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        return cast(Tensor, self.classifier(self.lastact(x).mean((2, 3))))


class NASBench201Net(Supernet):
    """All cells over shared weights.

    Every edge of every cell holds the five operations. Their batch normalisations have no scales
    and shifts, and their convolutions have biases instead; stem and residual blocks are as in a
    `CellNetwork`. Tensors are named as in the authors' weight-sharing network, whose architecture
    parameters are kept (``arch_parameters``, shape (edges, operations)) but never used or trained.

    Edges from which nothing reaches the output are not computed: no result depends on them, since
    shared normalisations store nothing. Edges whose input is zero are: a convolution of zeros is
    its bias.

    Args:
        space: data set and size.
        seed: of the weights.
    """

    space: NASBench201

    def __init__(self, space: NASBench201 | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.space = space if space is not None else NASBench201()
        widths = self.space.stage_channels
        self._stem = _stem(widths[0], SharedBatchNorm2d)
        self._cells = nn.ModuleList(
            Residual(channels, out, SharedBatchNorm2d) if channels != out else ElasticCell(out)
            for channels, out in _positions(self.space)
        )
        self.lastact = nn.Sequential(_shared_without_scale(widths[-1]), nn.ReLU())
        self.classifier = new_linear(widths[-1], self.space.classes)
        self.arch_parameters = nn.Parameter(
            torch.zeros(len(EDGES), len(OPERATIONS)), requires_grad=False
        )
        _reset(self, self.classifier, seed)

    def forward(self, x: Tensor, network: Network) -> Tensor:
        """Run one cell on images of shape (batch, 3, height, width).

        Raises:
            InvalidInputError: the images have another shape (sides are multiples of 4), or the
                network does not belong to the space.
        """
        _check_images(x)
        cell = edges_reaching_output(self.space.check(network))
        x = self._stem(x)
        for part in self._cells:
            x = part(x, cell) if isinstance(part, ElasticCell) else part(x)
        return cast(Tensor, self.classifier(self.lastact(x).mean((2, 3))))

    def extract(self, network: Network) -> CellNetwork:
        """The network as the benchmark would train it alone, with its own memory.

        Its normalisations get scales of one and shifts of zero. A bias in front of a normalisation
        only moves the mean, so the stored means take it up.
        """
        static = CellNetwork(network, self.space)
        shared = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        own = static.state_dict()
        for name, tensor in own.items():
            source = _shared_name(name, static.cell)
            if source in shared:
                tensor.copy_(shared[source])
            else:  # a scale or a shift, which the shared normalisation does not have
                tensor.fill_(1.0 if name.endswith(".weight") else 0.0)
            bias = f"{source.removesuffix('2.running_mean')}1.bias"
            if source.endswith(".op.2.running_mean") and bias in shared:
                tensor.sub_(shared[bias])
        return static.to(self.classifier.weight.device).eval()

    def draw(self, rng: np.random.Generator) -> Network:
        """A random network to train: operations are uniform, and a node's are drawn again while
        all are ``none``."""
        cell: list[int] = []
        for node in range(1, EDGES[-1][1] + 1):
            incoming = np.full(node, NONE)
            while not (incoming != NONE).any():
                incoming = rng.integers(len(OPERATIONS), size=node)
            cell.extend(incoming.tolist())
        return tuple(cell)

    def extremes(self) -> tuple[Network, Network]:
        """All skips and all 3x3 convolutions: the smallest network that is not a constant, and the
        largest."""
        return (SKIP,) * len(EDGES), (CONV_3X3,) * len(EDGES)


def _positions(space: NASBench201) -> list[tuple[int, int]]:
    """Widths of input and output of all cells and residual blocks in order."""
    first, *others = space.stage_channels
    places = [(first, first)] * space.cells
    for before, width in zip(space.stage_channels, others, strict=False):
        places += [(before, width), *[(width, width)] * space.cells]
    return places


def _stem(channels: int, norm: _Norm) -> nn.Sequential:
    return nn.Sequential(_conv(3, channels, 3), norm(channels))


def _operation(operation: int, channels: int, norm: _Norm) -> nn.Module:
    if operation == NONE:
        return Zero()
    if operation == SKIP:
        return nn.Identity()
    if operation == AVG_POOL:
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    kernel = {CONV_1X1: 1, CONV_3X3: 3}[operation]
    return ReluConvNorm(channels, channels, kernel, norm)


def _cell_output(x: Tensor, operations: Sequence[nn.Module]) -> Tensor:
    """Every node is the sum of its incoming edges; the last one is the output."""
    values = [x]
    for node in range(1, EDGES[-1][1] + 1):
        terms = [
            operation(values[source])
            for (source, target), operation in zip(EDGES, operations, strict=True)
            if target == node
        ]
        values.append(sum(terms[1:], terms[0]))
    return values[-1]


def _edge_name(edge: int) -> str:
    source, target = EDGES[edge]
    return f"{target}<-{source}"


def _shared_name(name: str, cell: Network) -> str:
    """What a tensor of a `CellNetwork` is called in the weight-sharing network."""
    parts = name.split(".")
    if parts[0] in ("stem", "cells"):
        parts[0] = f"_{parts[0]}"
    if len(parts) > 3 and parts[2] == "layers":
        edge = int(parts[3])
        parts[2:4] = ["edges", _edge_name(edge), str(cell[edge])]
    return ".".join(parts)


def _shared_without_scale(channels: int) -> SharedBatchNorm2d:
    return SharedBatchNorm2d(channels, affine=False)


def _conv(
    channels: int, out: int, kernel: int, *, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=bias, device="meta")
    # no random numbers are drawn for weights that `_reset` or a copy fills
    conv.weight = nn.Parameter(torch.zeros(conv.weight.shape))
    if bias:
        conv.bias = nn.Parameter(torch.zeros(out))
    return conv


def _reset(network: nn.Module, classifier: nn.Linear, seed: int) -> None:
    """He-normal weights (fan out) and zero biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.weight[0, 0].numel()
            with torch.no_grad():
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
    reset_linear(classifier, generator)


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % _SHRINK or x.shape[3] % _SHRINK:
        raise InvalidInputError(
            f"images have the shape (batch, 3, height, width) with sides that are multiples of "
            f"{_SHRINK}, but got {tuple(x.shape)}: pad or resize them."
        )
