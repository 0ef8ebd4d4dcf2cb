"""Rounded weights as integers: what files hold of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mathnas.compression.quantised import quantised_bits
from mathnas.nets.agreement import ExportError

_OFF = 1e-3  # of a step


@dataclass(frozen=True, eq=False)
class Levels:
    """A weight on a symmetric grid for each output channel.

    Attributes:
        bits: 8 or 4.
        steps: integers of the weight's shape, (outputs, ...), in int8.
        scales: what a step is in each output channel, shape (outputs,).
    """

    bits: int
    steps: Tensor
    scales: Tensor

    @property
    def factors(self) -> Tensor:
        """The scales in a shape that multiplies steps, (outputs, 1, ...)."""
        return self.scales.reshape(-1, *[1] * (self.steps.ndim - 1))

    @property
    def values(self) -> Tensor:
        """The weight that the steps stand for."""
        return self.steps.to(self.scales.dtype) * self.factors

    @property
    def packed(self) -> Tensor:
        """The steps as bytes: those of 4 bits two in a byte, the first in the lower half."""
        flat = self.steps.reshape(-1)
        if self.bits == 8:
            return flat.view(torch.uint8)
        halves = (flat & 15).to(torch.uint8)
        if len(halves) % 2:
            halves = torch.cat([halves, halves.new_zeros(1)])
        return halves[::2] | halves[1::2] << 4


def levels_of(module: nn.Module) -> dict[str, Levels]:
    """The rounded weights of a network, by the names of their parameters.

    Raises:
        ExportError: a weight was changed after it was rounded.
    """
    found: dict[str, Levels] = {}
    for name, layer in module.named_modules():
        rounded = quantised_bits(layer)
        if rounded is None:
            continue
        bits, scales = rounded
        weight = layer.get_parameter("weight").detach()
        rows = weight.reshape(len(weight), -1).double() / scales.double()[:, None]
        steps = rows.round()
        if (rows - steps).abs().max() > _OFF or steps.abs().max() >= 2 ** (bits - 1):
            raise ExportError(
                f"rounded weights are on the grid that they were rounded to, but those of {name} "
                "are not any more: put weights in few bits when nothing else changes them."
            )
        own = f"{name}.weight" if name else "weight"
        found[own] = Levels(bits, steps.to(torch.int8).reshape(weight.shape), scales)
    return found
