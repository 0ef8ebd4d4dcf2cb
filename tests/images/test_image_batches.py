"""Batches: the same for the same seed, epoch and step, however they come about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

import torch
from images_cases import encoded, random_source, write_parquet
from torch import Tensor

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.images.known import CIFAR10, IMAGENET, open_images
from mathnas.images.loader import ImageBatches, calibration_batches, evaluation_tensors
from mathnas.images.parquet import ParquetImages
from mathnas.images.preprocessing import Preprocessing
from mathnas.images.sources import TensorImages

SMALL = CIFAR10.at(8)
# hands pixels on: no change but the scale
PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, resolution=2, padding=0, mirror=False)
Batch = tuple[Tensor, Tensor]


def numbered(count: int) -> TensorImages:
    """Images whose pixels tell which they are, and labels too."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return TensorImages(images, torch.arange(count))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for (x, y), (u, v) in zip(first, second, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_every_image_once_an_epoch_in_a_new_order() -> None:
    batches = ImageBatches(numbered(23), 5, PLAIN, seed=3)
    assert batches.steps_per_epoch == 4
    orders = []
    for epoch in range(3):
        found = list(batches.epoch(epoch))
        assert [x.shape for x, _ in found] == [(5, 3, 2, 2)] * 4
        for x, y in found:
            assert torch.equal(x[:, 0, 0, 0].round().long(), y)
        orders.append(torch.cat([y for _, y in found]).tolist())
        assert len(set(orders[-1])) == 20
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # the three that are skipped change
    assert len({frozenset(range(23)) - frozenset(order) for order in orders}) > 1


def test_a_batch_is_a_function_of_seed_epoch_and_step() -> None:
    source = random_source(40)
    batches = ImageBatches(source, 8, SMALL, seed=3)
    whole = list(batches.epoch(2))
    assert_same(list(batches.epoch(2)), whole)
    assert_same(list(ImageBatches(source, 8, SMALL, seed=3).epoch(2, start=3)), whole[3:])
    assert list(batches.epoch(2, start=5)) == []
    for other in (batches.epoch(1), ImageBatches(source, 8, SMALL, seed=4).epoch(2)):
        assert not torch.equal(next(other)[0], whole[0][0])


def test_augmentation_is_new_every_step_and_epoch() -> None:
    images = random_source(1).tensors()[0].expand(8, -1, -1, -1)
    batches = ImageBatches(TensorImages(images, torch.zeros(8, dtype=torch.int64)), 4, SMALL)
    found = [x for epoch in range(2) for x, _ in batches.epoch(epoch)]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_skipped_steps_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = Preprocessing.augment_with

    def counted(self: Preprocessing, images: Tensor, draws: Tensor) -> Tensor:
        calls.append(len(images))
        return original(self, images, draws)

    monkeypatch.setattr(Preprocessing, "augment_with", counted)
    batches = ImageBatches(random_source(40), 8, SMALL)
    epoch = batches.epoch(0, start=3)
    assert calls == []
    next(epoch)
    assert calls == [8]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("preprocessing", [SMALL, IMAGENET.at(8)])
def test_ranks_share_the_batches_of_one(
    world: int, train: bool, preprocessing: Preprocessing
) -> None:
    source = random_source(50)
    alone = list(ImageBatches(source, 12, preprocessing, seed=1, train=train).epoch(4))
    shares = [
        list(
            ImageBatches(
                source, 12, preprocessing, seed=1, train=train, rank=rank, world=world
            ).epoch(4)
        )
        for rank in range(world)
    ]
    if train:
        assert all(len(x) == 12 // world for share in shares for x, _ in share)
    joined = [
        (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, alone)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers: int, tmp_path: Path) -> None:
    files = [encoded(6 + seed % 3, 8, seed) for seed in range(20)]
    path = write_parquet(tmp_path / "a.parquet", files, [0, 1] * 10, group=3)
    for source in (random_source(20), ParquetImages([path], cache_bytes=1_500)):
        alone = list(ImageBatches(source, 4, IMAGENET.at(8)).epoch(1, start=1))
        ahead = ImageBatches(source, 4, IMAGENET.at(8), workers=workers)
        assert_same(list(ahead.epoch(1, start=1)), alone)


def test_workers_stop_with_the_loop_and_stay_a_few_batches_ahead() -> None:
    made: list[int] = []

    class Watched(TensorImages):
        size = None

        def image(self, index: int) -> Tensor:
            made.append(index)
            return super().image(index)

    source = random_source(400)
    watched = Watched(*source.tensors())
    watched.size = None
    batches = ImageBatches(watched, 4, SMALL, workers=2)
    epoch = batches.epoch(0)
    for _ in range(3):
        next(epoch)
    time.sleep(0.05)
    assert len(made) <= 4 * (3 + 2 + 1)
    epoch.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("images") for thread in threading.enumerate())


def test_a_damaged_image_stops_the_training_that_meets_it(tmp_path: Path) -> None:
    files = [encoded(8, 8 + seed % 2, seed) for seed in range(12)]
    files[7] = files[7][:40]
    path = write_parquet(tmp_path / "a.parquet", files, [0, 1] * 6)
    for workers in (0, 2):
        batches = ImageBatches(ParquetImages([path]), 4, SMALL, workers=workers)
        with pytest.raises(FileFormatError, match=r"a\.parquet, row 7"):
            list(batches.epoch(0))


def test_groups_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(8, 8, seed) for seed in range(60)]
    path = write_parquet(tmp_path / "a.parquet", files, [i % 5 for i in range(60)], group=6)
    source = ParquetImages([path], cache_bytes=12_000)  # of about 2,400 bytes a group
    assert source.groups_at_once > 1
    reads: list[int] = []
    original = ParquetImages._read

    def counted(self: ParquetImages, group: object) -> list[bytes | None]:
        reads.append(1)
        return original(self, group)  # type: ignore[arg-type]

    monkeypatch.setattr(ParquetImages, "_read", counted)
    batches = ImageBatches(source, 6, SMALL)
    orders = [torch.cat([y for _, y in batches.epoch(epoch)]) for epoch in range(2)]
    assert len(reads) <= 20  # every group about once an epoch
    assert not torch.equal(*orders)
    for order in orders:
        assert torch.bincount(order).tolist() == [12] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batches of 0"),
        ({"batch_size": 9, "world": 2}, "take a multiple of 2"),
        ({"batch_size": 41}, "at most all 40 images"),
        ({"rank": 2, "world": 2}, "rank 2 of a world of 2"),
        ({"seed": -1}, "not negative, but got -1"),
        ({"workers": -1}, "not negative"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    options = {"batch_size": 8, **change}
    with pytest.raises(InvalidInputError, match=message):
        ImageBatches(random_source(40), options.pop("batch_size"), SMALL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "start"), [(-1, 0), (0, -1), (0, 6)])
def test_epochs_and_steps_are_checked(number: int, start: int) -> None:
    with pytest.raises(InvalidInputError, match="have the steps 0 to 5"):
        ImageBatches(random_source(40), 8, SMALL).epoch(number, start)


# ---- evaluation ----------------------------------------------------------------------------------


def test_batches_for_evaluation_are_all_images_in_order() -> None:
    source = numbered(23)
    batches = ImageBatches(source, 5, PLAIN, train=False)
    assert batches.steps_per_epoch == 5
    assert torch.cat([y for _, y in batches.epoch(0)]).tolist() == list(range(23))
    inputs, labels = evaluation_tensors(source, PLAIN)
    assert torch.equal(torch.cat([x for x, _ in batches.epoch(0)]), inputs)
    assert labels.tolist() == list(range(23))


def test_some_images_for_evaluation_are_balanced(tmp_path: Path) -> None:
    source = random_source(60)
    inputs, labels = evaluation_tensors(source, SMALL, 12, seed=1)
    assert torch.bincount(labels).tolist() == [4, 4, 4]
    everything = SMALL.test(source.tensors()[0])
    assert all(bool((everything == one).flatten(1).all(1).any()) for one in inputs)
    assert torch.equal(evaluation_tensors(source, SMALL, 12, seed=1)[0], inputs)
    assert not torch.equal(evaluation_tensors(source, SMALL, 12, seed=2)[0], inputs)
    with pytest.raises(InvalidInputError, match="1 to 60 can be taken, but got 61"):
        evaluation_tensors(source, SMALL, 61)


def test_calibration_takes_augmented_training_images() -> None:
    source = numbered(100)
    batches = calibration_batches(source, PLAIN, images=45, batch=20, seed=2)
    assert [len(x) for x in batches] == [20, 20, 5]
    assert len(set(torch.cat(batches)[:, 0, 0, 0].round().tolist())) == 45
    for first, second in zip(
        batches, calibration_batches(source, PLAIN, images=45, batch=20, seed=2), strict=True
    ):
        assert torch.equal(first, second)
    augmented = calibration_batches(random_source(20), SMALL, images=20, batch=20)[0]
    plain, _ = evaluation_tensors(random_source(20), SMALL)
    assert not torch.allclose(augmented.sort(0).values, plain.sort(0).values)
    with pytest.raises(InvalidInputError, match="1 to 100 can be taken"):
        calibration_batches(source, PLAIN)
    with pytest.raises(InvalidInputError, match="at least 1 image, but got 0"):
        calibration_batches(source, PLAIN, images=10, batch=0)


def test_cifar10_is_fast_enough_to_train_on(require: Callable[..., Path]) -> None:
    """Half of what one idle core does is far from what this asks for."""
    require("cifar10", "test.parquet")
    source = open_images("cifar10", "test")
    batches = ImageBatches(source, 250, CIFAR10)
    start = time.process_time()
    total = sum(len(x) for x, _ in batches.epoch(0))
    assert total == 10_000
    assert total / (time.process_time() - start) > 5_000
    inputs, labels = evaluation_tensors(source, CIFAR10)
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=0.03)
    assert torch.allclose(inputs.std((0, 2, 3)), torch.ones(3), atol=0.03)
    assert len(labels) == 10_000
