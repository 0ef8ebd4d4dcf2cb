"""scikit-learn's handwritten digits, made harder.

The 1,797 images are nearly solved by any network. So that networks differ, every image is turned,
scaled, shifted and covered with noise: training images anew each time, calibration and held-out
images once, the same for everybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from mathnas.nets.scores import LabelledImages

_SPLIT_SEED = 2023
_TRAINING_IMAGES = 797
_CALIBRATION_BATCH = 199
_COPIES = 2


@dataclass(frozen=True)
class DigitImages:
    """The split, always the same.

    Attributes:
        training: 797 images as they are.
        calibration: four batches of distorted training images.
        held_out: the other 1,000 images, each distorted in two ways.
    """

    training: LabelledImages
    calibration: tuple[Tensor, ...]
    held_out: LabelledImages


def load_images() -> DigitImages:
    """Images of shape (k, 1, 8, 8) with values around 0 to 1, and their digits."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    order = torch.randperm(len(labels), generator=generator)
    train, rest = order[:_TRAINING_IMAGES], order[_TRAINING_IMAGES:]
    calibration = distort(images[train], generator)
    held_out = [distort(images[rest], generator) for _ in range(_COPIES)]
    return DigitImages(
        LabelledImages(images[train], labels[train]),
        tuple(
            calibration[start : start + _CALIBRATION_BATCH]
            for start in range(0, _TRAINING_IMAGES - _CALIBRATION_BATCH + 1, _CALIBRATION_BATCH)
        ),
        LabelledImages(torch.cat(held_out), labels[rest].repeat(_COPIES)),
    )


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 20 degrees, scale by up to 15 %, shift by up to a pixel, add noise of 0.1."""

    def uniform(limit: float) -> Tensor:
        return limit * (2 * torch.rand(len(images), generator=generator) - 1)

    angle, zoom = uniform(math.radians(20)), 1 + uniform(0.15)
    pixel = 2 / images.shape[-1]  # the grid goes from -1 to 1
    across, down = uniform(pixel), uniform(pixel)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    maps = torch.stack([cosine, -sine, across, sine, cosine, down], 1).reshape(-1, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return moved + 0.1 * torch.randn(images.shape, generator=generator)
