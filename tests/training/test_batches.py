"""Endless batches of images in memory."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from mathnas import InvalidInputError
from mathnas.training.batches import shuffled_batches

IMAGES = torch.arange(10.0).reshape(10, 1, 1, 1)
LABELS = torch.arange(10)


def first(count: int, seed: int = 0, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return list(itertools.islice(shuffled_batches(IMAGES, LABELS, size, generator), count))


def test_an_epoch_holds_every_image_once_with_its_label() -> None:
    batches = first(4)
    for epoch in (batches[:2], batches[2:]):
        labels = torch.cat([labels for _, labels in epoch])
        assert sorted(labels.tolist()) == list(range(10))
    for images, labels in batches:
        assert torch.equal(images.flatten(), labels.float())


def test_every_epoch_has_its_own_order() -> None:
    labels = [labels.tolist() for _, labels in first(4)]
    assert labels[:2] != labels[2:]


def test_what_does_not_fill_a_batch_is_skipped() -> None:
    assert [len(labels) for _, labels in first(5, size=4)] == [4] * 5
    epoch = torch.cat([labels for _, labels in first(2, size=4)])
    assert len(set(epoch.tolist())) == 8


def test_the_generator_decides_the_order() -> None:
    def labels(seed: int) -> list[list[int]]:
        return [labels.tolist() for _, labels in first(4, seed)]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


def test_images_are_augmented_with_the_same_generator() -> None:
    generator = torch.Generator().manual_seed(0)

    def augment(images: Tensor, given: torch.Generator) -> Tensor:
        assert given is generator
        return images + 100

    images, labels = next(shuffled_batches(IMAGES, LABELS, 5, generator, augment))
    assert torch.equal(images.flatten(), labels + 100.0)


@pytest.mark.parametrize(("labels", "size"), [(10, 0), (10, 11), (9, 5)])
def test_sizes_that_do_not_fit_are_refused(labels: int, size: int) -> None:
    message = f"10 images, {labels} labels and batches of {size}"
    with pytest.raises(InvalidInputError, match=message):
        shuffled_batches(IMAGES, LABELS[:labels], size, torch.Generator())
