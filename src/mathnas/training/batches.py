"""Batches of training data, as functions of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.training.seeds import derived_seed

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


class Batches(Protocol):
    """Batches of an epoch, in an order of its own.

    What is given is a function of seed, epoch and step alone, so that training that was stopped
    goes on as if it had not been. Where several processes train, each is given its own share of
    every batch.

    Attributes:
        steps_per_epoch: batches of an epoch, the same for every process.
    """

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and class indices of an epoch's batches.

        There is a class index for every row of logits that the supernet gives: one an image, or one
        a token of a text, in one row of all.

        Args:
            number: of the epoch, from 0.
            start: the first step that is wanted; those before it are not computed.
        """
        ...


class TensorBatches:
    """Batches of equal size from tensors in memory; every image at most once an epoch.

    Args:
        images, labels: the same number of each.
        batch_size: of all processes together; what is left after the last full batch is skipped.
        seed: gives the orders and the augmentations.
        augment: changes a batch of images.
        rank, world: this process, and how many there are; each has an equal share of a batch.

    Raises:
        InvalidInputError: the sizes do not fit together.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augmentation | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 1 <= batch_size <= len(images) == len(labels):
            raise InvalidInputError(
                f"a batch holds 1 image to all of them, and every image has a label, but got "
                f"{len(images)} images, {len(labels)} labels and batches of {batch_size}."
            )
        if not 0 <= rank < world or batch_size % world:
            raise InvalidInputError(
                f"processes share a batch equally, but got batches of {batch_size} for process "
                f"{rank} of {world}: make the batch a multiple of the number of processes."
            )
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.rank, self.world = rank, world

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images) // self.batch_size

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self._generator(number))
        share = self.batch_size // self.world
        for step in range(start, self.steps_per_epoch):
            first = step * self.batch_size + self.rank * share
            chosen = order[first : first + share]
            images = self.images[chosen]
            if self.augment is not None:
                images = self.augment(images, self._generator(number, step, self.rank))
            yield images, self.labels[chosen]

    def _generator(self, *place: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed("batches", self.seed, *place))
