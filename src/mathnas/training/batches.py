"""Endless batches from images in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from mathnas.errors import InvalidInputError

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


def shuffled_batches(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    generator: torch.Generator,
    augment: Augmentation | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of equal size, every image once an epoch in a new order, without end.

    Args:
        images, labels: the same number of each.
        batch_size: what is left of an epoch after the last full batch is skipped.
        generator: gives the orders, and is handed to `augment`.
        augment: changes a batch of images.

    Raises:
        InvalidInputError: the sizes do not fit together.
    """
    if not 1 <= batch_size <= len(images) == len(labels):
        raise InvalidInputError(
            f"a batch holds 1 image to all of them, and every image has a label, but got "
            f"{len(images)} images, {len(labels)} labels and batches of {batch_size}."
        )
    return _endless(images, labels, batch_size, generator, augment)


def _endless(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    generator: torch.Generator,
    augment: Augmentation | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            batch = images[chosen]
            yield (batch if augment is None else augment(batch, generator)), labels[chosen]
