"""What a supernet's inputs look like."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.nets.supernet import Supernet
from mathnas.space import SearchSpace
from mathnas.spaces.mobilenetv3 import MobileNetV3


@runtime_checkable
class GivesExamples(Protocol):
    """A supernet whose inputs are no images."""

    def example_inputs(self, batch: int) -> Tensor:
        """Inputs as its runs take them, the same each time."""
        ...


def input_shape(supernet: Supernet, resolution: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of an input.

    Args:
        resolution: height and width; by default those that the space counts MACs at.

    Raises:
        InvalidInputError: the resolution is not positive, or the supernet does not say.
    """
    if resolution is not None and resolution < 1:
        raise InvalidInputError(f"a resolution is at least 1 pixel, but got {resolution}.")
    side = resolution or supernet.resolution
    if side is None:
        raise InvalidInputError(
            f"a {type(supernet).__name__} does not say how large its images are: give a resolution."
        )
    return (supernet.input_channels, side, side)


def space_at(space: SearchSpace, resolution: int | None) -> SearchSpace:
    """The space with MACs counted for inputs of another size, where it can count them."""
    if resolution is None or not isinstance(space, MobileNetV3):
        return space
    return MobileNetV3(space.width, resolution, space.classes, space.stem_stride)


def example_inputs(supernet: Supernet, batch: int, resolution: int | None = None) -> Tensor:
    """Random inputs, the same each time: images of shape (batch, channels, height, width), or what
    the supernet has in their place."""
    if batch < 1:
        raise InvalidInputError(f"a batch is at least 1, but got {batch}.")
    if isinstance(supernet, GivesExamples):
        return supernet.example_inputs(batch)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, *input_shape(supernet, resolution), generator=generator)
