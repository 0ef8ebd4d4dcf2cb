"""Where images come from: a base class, images in memory, and parts of other sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mathnas.errors import InvalidInputError


class ImageSource(ABC):
    """Images with their classes, in a fixed order.

    A subclass hands labels and classes on, and implements `image`; where all images have one size
    and are in memory it sets `size` and implements `tensors` too, which makes batches much faster.
    `image` may be called from several threads at once.

    Args:
        labels: class indices, shape (k,).
        classes: how many classes there are; labels are below.
        class_names: one a class, where they are known.

    Attributes:
        labels: int64, shape (k,).
        classes: how many classes there are.
        class_names: one a class, or None.
        size: (height, width) of every image where `tensors` works, otherwise None.
        groups: positions of images that are read together, a tensor each; None where one image
            is as cheap to read as any other. Batches are then drawn from few groups at a time.
        groups_at_once: how many of them may be in use at a time.

    Raises:
        InvalidInputError: there are no images, a label is not one of the classes, or the names are
            not as many as classes.
    """

    size: tuple[int, int] | None = None
    groups: Sequence[Tensor] | None = None
    groups_at_once: int = 1

    def __init__(
        self, labels: Tensor, classes: int, class_names: Sequence[str] | None = None
    ) -> None:
        if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
            raise InvalidInputError(
                "labels are class indices, one an image and at least one, but got "
                f"{labels.dtype} of shape {tuple(labels.shape)}."
            )
        wrong = torch.nonzero((labels < 0) | (labels >= classes)).flatten()
        if len(wrong):
            at = int(wrong[0])
            raise InvalidInputError(
                f"labels are 0 to {classes - 1}, the indices of {classes} classes, but image {at} "
                f"has the label {int(labels[at])}."
            )
        if class_names is not None and len(class_names) != classes:
            raise InvalidInputError(
                f"every class has a name, but got {len(class_names)} names for {classes} classes."
            )
        self.labels = labels.to(torch.int64)
        self.classes = classes
        self.class_names = None if class_names is None else tuple(class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """The class of an image."""
        return int(self.labels[index])

    @abstractmethod
    def image(self, index: int) -> Tensor:
        """Pixels, uint8, shape (3, height, width).

        Raises:
            FileFormatError: it cannot be read.
        """

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images, uint8 of shape (k, 3, height, width), and their labels.

        Raises:
            InvalidInputError: `size` is None: they have different sizes, or are not in memory.
        """
        raise InvalidInputError(
            f"{type(self).__name__} does not hold its {len(self)} images in memory as one tensor: "
            "ask for them one by one (`image`), or resize them all to one size."
        )


class TensorImages(ImageSource):
    """Images of one size in memory.

    Args:
        images: uint8, shape (k, 3, height, width).
        labels: class indices, shape (k,).
        classes: how many classes; by default one more than the largest label.
        class_names: one a class, where they are known.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InvalidInputError(
                "images in memory are uint8 of shape (k, 3, height, width), but got "
                f"{images.dtype} of shape {tuple(images.shape)}."
            )
        if len(images) != len(labels):
            raise InvalidInputError(
                f"there is one label an image, but got {len(images)} images and {len(labels)} "
                "labels."
            )
        if classes is None:
            classes = int(labels.max()) + 1 if len(labels) else 0
        super().__init__(labels, classes, class_names)
        self.size = (int(images.shape[2]), int(images.shape[3]))
        self._images = images

    def image(self, index: int) -> Tensor:
        return self._images[index]

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self._images, self.labels

    def to(self, device: torch.device | str) -> TensorImages:
        """The same images on a device, where batches are then made as well."""
        return TensorImages(
            self._images.to(device), self.labels.to(device), self.classes, self.class_names
        )


class Subset(ImageSource):
    """Some images of a source, in the order of `positions`.

    Raises:
        InvalidInputError: there is no image at a position.
    """

    def __init__(self, source: ImageSource, positions: Tensor) -> None:
        positions = positions.to("cpu", torch.int64)
        outside = (positions < 0) | (positions >= len(source))
        if bool(outside.any()):
            raise InvalidInputError(
                f"images have the positions 0 to {len(source) - 1}, but got "
                f"{int(positions[outside][0])}."
            )
        super().__init__(
            source.labels[positions.to(source.labels.device)], source.classes, source.class_names
        )
        self.source = source
        self.positions = positions
        self.size = source.size
        self.groups_at_once = source.groups_at_once
        if source.groups is not None:
            self.groups = _groups_within(source.groups, positions, len(source))

    def image(self, index: int) -> Tensor:
        return self.source.image(int(self.positions[index]))

    def tensors(self) -> tuple[Tensor, Tensor]:
        if self.size is None:
            return super().tensors()
        images, _ = self.source.tensors()
        return images[self.positions.to(images.device)], self.labels


def _groups_within(groups: Sequence[Tensor], positions: Tensor, count: int) -> list[Tensor]:
    """Which of `positions` are in each group, as indices into `positions`; empty ones left out."""
    group_of = torch.empty(count, dtype=torch.int64)
    for number, members in enumerate(groups):
        group_of[members] = number
    chosen = group_of[positions]
    order = torch.argsort(chosen, stable=True)
    _, counts = torch.unique_consecutive(chosen[order], return_counts=True)
    return list(torch.split(order, counts.tolist()))


def holdout(source: ImageSource, count: int, seed: int = 0) -> tuple[Subset, Subset]:
    """Two parts of a source: the rest, and `count` images held out; both in the source's order.

    Every class gives the same share of its images, up to one image.

    Raises:
        InvalidInputError: nothing would be left in a part.
    """
    if not 1 <= count < len(source):
        raise InvalidInputError(
            f"of {len(source)} images, 1 to {len(source) - 1} can be held out, but got {count}."
        )
    chosen = balanced(source.labels, count, seed)
    held = torch.zeros(len(source), dtype=torch.bool)
    held[chosen] = True
    return Subset(source, torch.nonzero(~held).flatten()), Subset(source, chosen)


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of `count` random images, ascending: the same share of every class, up to one."""
    labels = labels.cpu()
    generator = torch.Generator().manual_seed(seed)
    _, inverse, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    # largest remainders; ties go to classes at random
    quotas = count * sizes.to(torch.float64) / len(labels)
    shares = quotas.floor().to(torch.int64)
    missing = count - int(shares.sum())
    ties = torch.randperm(len(sizes), generator=generator)
    remainders = (quotas - shares)[ties].numpy()
    shares[ties[torch.from_numpy(np.argsort(-remainders, kind="stable")[:missing].copy())]] += 1
    order = torch.randperm(len(labels), generator=generator)
    # by class, each in random order; the rank within the class decides
    by_class = order[torch.argsort(inverse[order], stable=True)]
    starts = torch.cumsum(sizes, 0) - sizes
    ranks = torch.arange(len(labels)) - starts[inverse[by_class]]
    return by_class[ranks < shares[inverse[by_class]]].sort().values
