"""Weights in few bits: what they lose, and how many bytes they take."""

from __future__ import annotations

import copy
import math
from itertools import chain

import torch
from torch import Tensor, nn

from mathnas.compression.alternative import Alternative, InapplicableError, RecordedNode
from mathnas.errors import InvalidInputError

BITS = (4, 8)
# shares of the largest weight at which grids are tried to end
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BITS, _SCALES = "quantised_bits", "quantised_scales"


class QuantisedAlternative(Alternative):
    """The node with its layers' weights in few bits, symmetric, one scale an output channel.

    The scale of a channel is the one of a few clips whose weights are nearest in least squares. The
    module computes with the rounded weights in floating point, so that its outputs are those of the
    quantised network, and its speed is not: that is measured on the engine that runs integers.

    Args:
        bits: 8 or 4.

    Raises:
        InvalidInputError: other bits.
    """

    def __init__(self, bits: int) -> None:
        if bits not in BITS:
            raise InvalidInputError(f"weights take 8 or 4 bits, but got {bits}.")
        self.bits = bits
        self.name = f"int{bits}"

    def build(self, node: RecordedNode) -> nn.Module:
        made = copy.deepcopy(node.module)
        layers = [part for part in made.modules() if isinstance(part, _LAYERS)]
        if not layers:
            raise InapplicableError(
                "weights of linear layers and convolutions are quantised, but "
                f"{node.name} has none."
            )
        for layer in layers:
            weight, scales = rounded(layer.weight, self.bits)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            with_scales(layer, self.bits, scales)
        return made


def rounded(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Weights on a symmetric grid for each output channel, and the scales of the channels.

    Args:
        weight: shape (outputs, ...).

    Returns:
        Weights of the same shape and type, and the steps of their grids, shape (outputs,).
    """
    levels = 2 ** (bits - 1) - 1
    rows = weight.detach().reshape(len(weight), -1).double()
    largest = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    best = torch.full_like(largest, math.inf)
    scales = largest / levels
    for clip in _CLIPS:
        tried = clip * largest / levels
        lost = (_on_grid(rows, tried, levels) - rows).square().sum(1)
        better = lost < best
        best, scales = torch.where(better, lost, best), torch.where(better, tried, scales)
    # scales are stored in single precision, so rounding uses what is stored
    scales = scales.float()
    found = _on_grid(rows, scales.double(), levels).reshape(weight.shape)
    return found.to(weight.dtype), scales


def quantised_bits(layer: nn.Module) -> tuple[int, Tensor] | None:
    """Bits and scales of a layer whose weights are on a grid; None for others."""
    bits = getattr(layer, _BITS, None)
    return None if bits is None else (int(bits), getattr(layer, _SCALES))


def with_scales(layer: nn.Module, bits: int, scales: Tensor) -> None:
    """Say of a layer that its weights are on a grid, in place."""
    # plain attributes: no weights of the network
    setattr(layer, _BITS, bits)
    setattr(layer, _SCALES, scales)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, those of quantised weights at their width: two
    weights of 4 bits share a byte, and every output channel has a scale of 4 bytes."""
    total = sum(tensor.nbytes for tensor in chain(module.parameters(), module.buffers()))
    for layer in module.modules():
        found = quantised_bits(layer)
        if found is not None:
            bits, scales = found
            weight = layer.get_parameter("weight")
            total += math.ceil(weight.numel() * bits / 8) + scales.nbytes - weight.nbytes
    return total


def _on_grid(rows: Tensor, scales: Tensor, levels: int) -> Tensor:
    steps = (rows / scales[:, None]).round().clamp(-levels, levels)
    return steps * scales[:, None]
