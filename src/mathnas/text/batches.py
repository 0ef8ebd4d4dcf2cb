"""Batches of sentence pairs, as functions of seed, epoch and step."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.tokens import END, PAD

LONGEST = 256  # tokens of a sentence, by default

_Ids: TypeAlias = npt.NDArray[np.int32]
_Places: TypeAlias = npt.NDArray[np.int64]
_GROUPS, _ORDERS = 0, 1  # what is drawn


def packed(
    source_ids: Sequence[Sequence[int] | _Ids], target_ids: Sequence[Sequence[int] | _Ids]
) -> tuple[Tensor, Tensor]:
    """Sentence pairs as a network's inputs and its labels, for teacher forcing.

    Args:
        source_ids, target_ids: ids of each sentence, ``</s>`` at their ends.

    Returns:
        Inputs, int64 of shape (sentences, 2, length), ``<pad>`` behind each sentence: the source
        ids, and what the decoder is given, ``</s>`` and then the target ids but their last. Labels,
        int64 of shape (tokens,): the target ids one sentence after another, that is what follows at
        the positions of ``inputs[:, 1]`` without ``<pad>``, row by row.

    Raises:
        InvalidInputError: there are no pairs, a sentence has no translation, does not end with
            ``</s>``, or holds ``<pad>``.
    """
    if not len(source_ids) == len(target_ids) > 0:
        raise InvalidInputError(
            "every sentence has its translation, and there is at least one, but got "
            f"{len(source_ids)} sentences and {len(target_ids)} translations."
        )
    for ids in (*source_ids, *target_ids):
        if not len(ids) or ids[-1] != END or PAD in ids:
            raise InvalidInputError(
                f"ids of a sentence end with </s>, {END}, and hold no <pad>, {PAD}, but got "
                f"{list(ids)}."
            )
    length = max(map(len, (*source_ids, *target_ids)))
    inputs = np.full((len(source_ids), 2, length), PAD, np.int64)
    for row, (source, target) in enumerate(zip(source_ids, target_ids, strict=True)):
        inputs[row, 0, : len(source)] = source
        inputs[row, 1, 0] = END
        inputs[row, 1, 1 : len(target)] = target[:-1]
    labels = np.concatenate([np.asarray(ids, np.int64) for ids in target_ids])
    return torch.from_numpy(inputs), torch.from_numpy(labels)


class TokenBatches:
    """Batches of pairs of about the same length; every pair exactly once an epoch.

    A batch has at most `max_tokens` ids, padding counted: its pairs times the longest sentence
    among their sources and targets. Which pairs are together is a matter of the seed alone, so
    every epoch has as many steps; the order of the batches is new in every epoch. Of each batch
    rank r of w takes the pairs r, r + w, ... in the order of their lengths, so that the shares are
    about equal, and no share is empty.

    Args:
        source, target: ids of each sentence, ``</s>`` at their ends. They are kept as one array.
        max_tokens: ids of a batch of all ranks together, of sources and of targets each.
        max_length: ids of a sentence; of longer ones the first are kept, and ``</s>``.
        seed: of groups and orders.
        rank, world: which of how many processes this is.

    Attributes:
        steps_per_epoch: batches of an epoch.
        cut: sentences that were longer than `max_length`, of sources and targets together.
        groups: positions of the pairs of each batch of all ranks, by length.

    Raises:
        InvalidInputError: the numbers do not fit together, or a sentence has no translation.
    """

    def __init__(
        self,
        source: Iterable[Sequence[int]],
        target: Iterable[Sequence[int]],
        max_tokens: int,
        *,
        max_length: int = LONGEST,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise InvalidInputError(
                f"ranks are 0 to world - 1, but got rank {rank} of a world of {world}."
            )
        if max_length < 2 or seed < 0:
            raise InvalidInputError(
                "a sentence has room for a token and </s>, and seeds are not negative, but got "
                f"max_length {max_length} and seed {seed}."
            )
        self.seed, self.rank, self.world = seed, rank, world
        self._source, self._target = _Sentences(source, max_length), _Sentences(target, max_length)
        if not len(self._source) == len(self._target) >= world:
            raise InvalidInputError(
                "every sentence has its translation, and there is a pair for every process, but "
                f"got {len(self._source)} sentences, {len(self._target)} translations and {world} "
                "processes."
            )
        self.cut = self._source.cut + self._target.cut
        self.groups = self._grouped(max_tokens)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.groups)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `start` on, as `packed` gives them.

        Args:
            number: of the epoch, from 0.
            start: the first step, 0 to `steps_per_epoch`.

        Raises:
            InvalidInputError: there is no such epoch or step.
        """
        if number < 0 or not 0 <= start <= self.steps_per_epoch:
            raise InvalidInputError(
                f"epochs count from 0 and have the steps 0 to {self.steps_per_epoch}, but got "
                f"epoch {number} from step {start}."
            )
        order = self._generator(_ORDERS, number).permutation(self.steps_per_epoch)
        return (self._batch(self.groups[group]) for group in order[start:])

    def _batch(self, group: _Places) -> tuple[Tensor, Tensor]:
        own = group[self.rank :: self.world].tolist()
        return packed([self._source[i] for i in own], [self._target[i] for i in own])

    def _grouped(self, max_tokens: int) -> list[_Places]:
        sizes = np.stack([self._source.lengths, self._target.lengths])
        longest = sizes.max(0)
        # then the last batch, of fewer pairs than processes, can be filled up from the one before
        least = int(longest.max()) * (1 if self.world == 1 else 2 * self.world)
        if max_tokens < least:
            raise InvalidInputError(
                f"a batch has room for the longest sentence, {longest.max()} tokens"
                + f", twice for each of {self.world} processes" * (self.world > 1)
                + f", so at least {least} tokens, but got {max_tokens}: make it larger, or cut "
                "sentences shorter."
            )
        ties = self._generator(_GROUPS).permutation(len(longest))
        order = np.lexsort((ties, sizes[0], sizes[1], longest))
        firsts = [0]
        for place, length in enumerate(longest[order].tolist()):
            if (place - firsts[-1] + 1) * length > max_tokens:
                firsts.append(place)
        if len(firsts) > 1:
            firsts[-1] = min(firsts[-1], len(order) - self.world)
        return np.split(order, firsts[1:])

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((*purpose, self.seed))


class _Sentences:
    """The ids of many sentences in one array, cut to a length."""

    def __init__(self, sentences: Iterable[Sequence[int]], max_length: int) -> None:
        self.cut = 0
        flat, lengths = array("i"), array("q")
        for ids in sentences:
            if len(ids) > max_length:
                self.cut += 1
                ids = [*ids[: max_length - 1], END]
            flat.extend(ids)
            lengths.append(len(ids))
        self.lengths: _Places = np.array(lengths, np.int64)
        self._ends = np.cumsum(self.lengths)
        self._ids: _Ids = np.array(flat, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> _Ids:
        end = self._ends[index]
        return self._ids[end - self.lengths[index] : end]
