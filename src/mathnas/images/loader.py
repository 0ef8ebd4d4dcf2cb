"""Batches of images: for training, for evaluation, and for batch-norm statistics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.images.preprocessing import Preprocessing
from mathnas.images.sources import ImageSource, balanced

_EVALUATION_CHUNK = 500


class ImageBatches:
    """Batches of a source, each a function of (seed, epoch, step) alone.

    So a training that is interrupted goes on with the same batches, to the bit, and several
    processes share the batches that one would have made: rank r of w takes the r-th of w equal
    parts of every batch, augmented with the same random numbers.

    Training batches hold `batch_size` images in an order that is new every epoch; what is left of
    an epoch after the last full batch is skipped. Without `train`, batches come in the source's
    order, not augmented, and the last is what is left; of it a rank may get fewer or no images.

    Args:
        source: where images come from. Those in memory as one tensor are augmented on its device,
            a batch at a time; others are read one by one.
        batch_size: images of a batch of all ranks together.
        preprocessing: makes inputs of images.
        seed: of orders and augmentation.
        train: shuffle, augment, and skip what is left.
        rank, world: which of how many processes this is.
        workers: threads that make batches ahead of time, one batch more than there are threads;
            0: each when it is asked for. The batches are the same.

    Attributes:
        steps_per_epoch: batches of an epoch.

    Raises:
        InvalidInputError: the numbers do not fit together.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        train: bool = True,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        if not 0 <= rank < world:
            raise InvalidInputError(
                f"ranks are 0 to world - 1, but got rank {rank} of a world of {world}."
            )
        if batch_size < 1 or batch_size % world:
            raise InvalidInputError(
                f"a batch is shared equally among {world} processes, but got batches of "
                f"{batch_size}: take a multiple of {world}."
            )
        if train and batch_size > len(source):
            raise InvalidInputError(
                f"a batch for training holds at most all {len(source)} images, but got batches of "
                f"{batch_size}."
            )
        if seed < 0 or workers < 0:
            raise InvalidInputError(
                f"seed and workers are not negative, but got {seed} and {workers}."
            )
        self.source = source
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.seed = seed
        self.train = train
        self.rank = rank
        self.world = world
        self.workers = workers
        full, rest = divmod(len(source), batch_size)
        self.steps_per_epoch = full if train else full + bool(rest)
        self._images = None if source.size is None else source.tensors()[0]

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `start` on, without computing those before.

        Args:
            number: of the epoch, from 0.
            start: the first step, 0 to `steps_per_epoch`.

        Returns:
            Inputs, float32 of shape (images, 3, resolution, resolution), and class indices.

        Raises:
            InvalidInputError: there is no such epoch or step.
            FileFormatError: an image cannot be read.
        """
        if number < 0 or not 0 <= start <= self.steps_per_epoch:
            raise InvalidInputError(
                f"epochs count from 0 and have the steps 0 to {self.steps_per_epoch}, but got "
                f"epoch {number} from step {start}."
            )
        steps = range(start, self.steps_per_epoch)
        order = self._order(number)
        if self.workers:
            return self._ahead(number, order, steps)
        return (self._batch(number, order, step) for step in steps)

    def _ahead(self, epoch: int, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        try:
            for step in steps:
                waiting.append(pool.submit(self._batch, epoch, order, step))
                if len(waiting) > self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _order(self, epoch: int) -> Tensor:
        if not self.train:
            return torch.arange(len(self.source))
        return _order(self.source, _generator(self.seed, epoch))

    def _batch(self, epoch: int, order: Tensor, step: int) -> tuple[Tensor, Tensor]:
        whole = order[step * self.batch_size : (step + 1) * self.batch_size]
        share = slice(
            self.rank * len(whole) // self.world, (self.rank + 1) * len(whole) // self.world
        )
        chosen = whole[share]
        images = _gathered(self.source, self._images, chosen)
        if self.train:
            draws = self.preprocessing.draws(len(whole), _generator(self.seed, epoch, step))
            inputs = self.preprocessing.augment_with(images, draws[share])
        else:
            inputs = self.preprocessing.test(images)
        return inputs, self.source.labels[chosen.to(self.source.labels.device)]


def evaluation_tensors(
    source: ImageSource, preprocessing: Preprocessing, count: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Inputs for evaluation and their labels, in the source's order.

    Args:
        count: how many images, the same share of every class up to one; None: all.
        seed: which ones.

    Raises:
        InvalidInputError: there are not as many images.
    """
    chosen = torch.arange(len(source))
    if count is not None:
        _check_count(source, count)
        chosen = balanced(source.labels, count, seed)
    images = None if source.size is None else source.tensors()[0]
    inputs = [
        preprocessing.test(_gathered(source, images, part))
        for part in torch.split(chosen, _EVALUATION_CHUNK)
    ]
    return torch.cat(inputs), source.labels[chosen.to(source.labels.device)]


def calibration_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    images: int = 2_000,
    batch: int = 200,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """Random training images for batch-norm statistics, augmented as for training.

    The numbers are those of Once-for-All (Cai et al., ICLR 2020).

    Args:
        source: training images.
        images: how many in all.
        batch: how many a tensor; the last has what is left.
        seed: which ones, and their augmentation.

    Raises:
        InvalidInputError: there are not as many images, or no batch size.
    """
    _check_count(source, images)
    if batch < 1:
        raise InvalidInputError(f"a batch holds at least 1 image, but got {batch}.")
    generator = _generator(seed)
    chosen = _order(source, generator)[:images]
    whole = None if source.size is None else source.tensors()[0]
    return tuple(
        preprocessing.augment(_gathered(source, whole, part), generator)
        for part in torch.split(chosen, batch)
    )


def _check_count(source: ImageSource, count: int) -> None:
    if not 1 <= count <= len(source):
        raise InvalidInputError(
            f"the source has {len(source)} images, so 1 to {len(source)} can be taken, but got "
            f"{count}."
        )


def _order(source: ImageSource, generator: torch.Generator) -> Tensor:
    """Every position once, in random order.

    What is read together is used together: whole groups in random order, and images in random
    order within as many groups as may be in use at a time.
    """
    groups = source.groups
    if groups is None:
        return torch.randperm(len(source), generator=generator)
    turns = torch.split(torch.randperm(len(groups), generator=generator), source.groups_at_once)
    parts = [torch.cat([groups[int(group)] for group in turn]) for turn in turns]
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in parts])


def _gathered(source: ImageSource, images: Tensor | None, chosen: Tensor) -> Tensor | list[Tensor]:
    """Images at positions: from `images`, all of the source's, or one by one."""
    if images is not None:
        return images[chosen.to(images.device)]
    return [source.image(index) for index in chosen.tolist()]


def _generator(*key: int) -> torch.Generator:
    """A generator for a key; those of different keys are independent."""
    high, low = np.random.SeedSequence(key).generate_state(2)
    # torch seeds are signed
    return torch.Generator().manual_seed((int(high) << 31) ^ int(low))
