"""Batches of tensors in memory: functions of seed, epoch and step."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from mathnas import InvalidInputError
from mathnas.training.batches import TensorBatches

IMAGES = torch.arange(12.0).reshape(12, 1, 1, 1)
LABELS = torch.arange(12)


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + torch.rand(images.shape, generator=generator)


def labels_of(batches: TensorBatches, epoch: int, start: int = 0) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches.epoch(epoch, start)]


def test_an_epoch_holds_every_image_once_with_its_label() -> None:
    batches = TensorBatches(IMAGES, LABELS, 4)
    assert batches.steps_per_epoch == 3
    for number in range(2):
        assert sorted(label for batch in labels_of(batches, number) for label in batch) == list(
            range(12)
        )
    for images, labels in batches.epoch(0):
        assert torch.equal(images.flatten(), labels.float())


def test_every_epoch_and_seed_has_its_own_order() -> None:
    batches, other = TensorBatches(IMAGES, LABELS, 4), TensorBatches(IMAGES, LABELS, 4, seed=1)
    assert labels_of(batches, 0) == labels_of(batches, 0)
    assert labels_of(batches, 0) != labels_of(batches, 1)
    assert labels_of(batches, 0) != labels_of(other, 0)


def test_what_does_not_fill_a_batch_is_skipped() -> None:
    batches = TensorBatches(IMAGES, LABELS, 5)
    assert batches.steps_per_epoch == 2
    assert [len(labels) for labels in labels_of(batches, 0)] == [5, 5]


def test_starting_in_the_middle_gives_the_same_batches() -> None:
    batches = TensorBatches(IMAGES, LABELS, 4, augment=noisy)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, 1))
    assert len(rest) == 2
    for (images, labels), (again, same) in zip(whole[1:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    assert list(batches.epoch(3, 3)) == []


def test_augmentation_differs_between_epochs_steps_and_processes() -> None:
    same = torch.zeros(12, 1, 1, 1)
    seen = []
    for rank in range(2):
        batches = TensorBatches(same, LABELS, 4, augment=noisy, rank=rank, world=2)
        seen += [images for epoch in range(2) for images, _ in batches.epoch(epoch)]
    values = torch.cat(seen).flatten().tolist()
    assert len(set(values)) == len(values)


def test_processes_share_every_batch() -> None:
    whole = TensorBatches(IMAGES, LABELS, 6)
    shares = [TensorBatches(IMAGES, LABELS, 6, rank=rank, world=3) for rank in range(3)]
    assert [share.steps_per_epoch for share in shares] == [2, 2, 2]
    for step, labels in enumerate(labels_of(whole, 1)):
        parts = [labels_of(share, 1)[step] for share in shares]
        assert [label for part in parts for label in part] == labels


@pytest.mark.parametrize(("labels", "size"), [(12, 0), (12, 13), (11, 5)])
def test_sizes_that_do_not_fit_are_refused(labels: int, size: int) -> None:
    message = f"12 images, {labels} labels and batches of {size}"
    with pytest.raises(InvalidInputError, match=message):
        TensorBatches(IMAGES, LABELS[:labels], size)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="batches of 4 for process 0 of 3"):
        TensorBatches(IMAGES, LABELS, 4, world=3)
