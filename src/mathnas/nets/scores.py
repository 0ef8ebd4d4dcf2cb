"""How a network does on labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mathnas.errors import InvalidInputError


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: shape (k, channels, height, width).
        labels: class indices, shape (k,).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) > 0:
            raise InvalidInputError(
                f"there is one label an image and at least one image, but got {len(self.images)} "
                f"images and {len(self.labels)} labels."
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Score:
    """What came of the images that were seen so far.

    Attributes:
        images: how many.
        right: how many of them got their class.
        nats: sum of their cross entropies.
    """

    images: int = 0
    right: int = 0
    nats: float = 0.0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in more images: logits of shape (k, classes), class indices of shape (k,)."""
        self.images += len(labels)
        self.right += int((logits.argmax(1) == labels).sum())
        self.nats += float(functional.cross_entropy(logits, labels, reduction="sum"))

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.right / self.images

    @property
    def loss(self) -> float:
        """Mean cross entropy, in nats."""
        return self.nats / self.images


def score(module: nn.Module, held_out: LabelledImages, images_at_once: int = 250) -> Score:
    """How a static network does on images, with its own statistics and where it is.

    Raises:
        InvalidInputError: the labels are of more classes than the network has.
    """
    device = next((tensor.device for tensor in module.parameters()), held_out.images.device)
    found = Score()
    with torch.inference_mode():
        for images, labels in zip(
            torch.split(held_out.images, images_at_once),
            torch.split(held_out.labels, images_at_once),
            strict=True,
        ):
            logits = module(images.to(device))
            if int(labels.max()) >= logits.shape[1]:
                raise InvalidInputError(
                    f"a network is tested on images of its own classes, but it has "
                    f"{logits.shape[1]} outputs, and the labels reach {int(labels.max())}."
                )
            found.add(logits, labels.to(device))
    return found
