"""Transforms of images as functions of explicit parameters; `Preprocessing` draws them.

Images are tensors of shape (k, 3, height, width), uint8 or float with values from 0 to 255, and
parameters are one a image; both may be on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

# ITU-R BT.601, as pillow and torchvision turn colours into greys
_LUMA = (0.299, 0.587, 0.114)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std as float32, one mean and deviation a channel."""
    shift = 255 * torch.tensor(mean, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    scale = 255 * torch.tensor(std, dtype=torch.float32, device=images.device).view(-1, 1, 1)
    return (images.to(torch.float32) - shift).div_(scale)


def crop_padded(
    images: Tensor, padding: int, down: Tensor, across: Tensor, mirrored: Tensor
) -> Tensor:
    """Pad with black on all sides, cut the original size out, and mirror.

    Args:
        padding: pixels on each side.
        down, across: offset of the part within the padded image, 0 to 2 x padding, shape (k,).
        mirrored: whether the part is then mirrored left to right, shape (k,).
    """
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
    rows = rows + down[:, None]
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + across[:, None]
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    return (
        padded.reshape(count, channels, -1)
        .gather(2, places.view(count, 1, -1).expand(-1, channels, -1))
        .view(images.shape)
    )


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly, with an antialiasing filter where images shrink."""
    if tuple(images.shape[-2:]) == (height, width):
        return images
    # accelerators resize no integers
    bytewise = images.dtype == torch.uint8 and images.device.type != "cpu"
    resized = functional.interpolate(
        images.to(torch.float32) if bytewise else images,
        size=(height, width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return resized.round_().to(torch.uint8) if bytewise else resized


def centre_crop(images: Tensor, resolution: int, share: float) -> Tensor:
    """The middle: resize the shorter side to ceil(resolution / share), cut resolution x resolution.

    Args:
        resolution: height and width of the result.
        share: above 0, up to 1, which keeps the whole shorter side.
    """
    height, width = images.shape[-2:]
    shorter = math.ceil(resolution / share)
    least = min(height, width)
    images = resize(images, shorter * height // least, shorter * width // least)
    top, left = (round((side - resolution) / 2) for side in images.shape[-2:])
    return images[..., top : top + resolution, left : left + resolution]


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply by a factor an image, shape (k,); float, values stay within 0 to 255."""
    return (images.to(torch.float32) * factors.view(-1, 1, 1, 1)).clamp_(0, 255)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's greys: 0 is grey, 1 the image, more is gaudier; shape (k,).

    float; values stay within 0 to 255.
    """
    images = images.to(torch.float32)
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return torch.lerp(grey, images, factors.view(-1, 1, 1, 1)).clamp_(0, 255)


def cutout(images: Tensor, side: int, down: Tensor, across: Tensor) -> Tensor:
    """Set a square around (down, across) to 0, cut off at the edges (DeVries and Taylor, 2017).

    Args:
        side: of the square, pixels.
        down, across: its centre, pixels, shape (k,).
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down[:, None] + side // 2
    columns = torch.arange(width, device=images.device) - across[:, None] + side // 2
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[
        :, None, :
    ]
    return images.masked_fill(inside[:, None], 0)


def random_box(
    height: int,
    width: int,
    tries: Sequence[tuple[float, float]],
    place: tuple[float, float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Top, left, height, width of the part that a random resized crop keeps (Szegedy et al., 2015).

    Args:
        height, width: of the image.
        tries: numbers in [0, 1): an area and an aspect ratio (log-uniform) a try; the first part
            that fits into the image is taken, and the largest middle part within `ratio` where
            none does.
        place: numbers in [0, 1): where the part lies.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
    """
    low, high = map(math.log, ratio)
    for area, aspect in tries:
        pixels = (scale[0] + area * (scale[1] - scale[0])) * height * width
        proportion = math.exp(low + aspect * (high - low))
        across, down = round(math.sqrt(pixels * proportion)), round(math.sqrt(pixels / proportion))
        if 0 < across <= width and 0 < down <= height:
            top = int(place[0] * (height - down + 1))
            left = int(place[1] * (width - across + 1))
            return top, left, down, across
    proportion = min(max(width / height, ratio[0]), ratio[1])
    across = min(width, max(1, round(height * proportion)))
    down = min(height, max(1, round(width / proportion)))
    return (height - down) // 2, (width - across) // 2, down, across
