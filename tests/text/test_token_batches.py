"""Batches of sentence pairs: functions of seed, epoch and step."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mathnas.errors import InvalidInputError
from mathnas.text.batches import TokenBatches, packed
from mathnas.tokens import END, PAD

Ids = list[int]
Pairs = list[tuple[Ids, Ids]]
SENTENCES = st.lists(st.integers(3, 50), max_size=9).map(lambda ids: [*ids, END])
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=30)
WORLDS = st.integers(1, 4)


def batches_of(
    pairs: Pairs,
    max_tokens: int = 80,
    *,
    max_length: int = 10,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> TokenBatches:
    source, target = zip(*pairs, strict=True)
    return TokenBatches(
        source, target, max_tokens, max_length=max_length, seed=seed, rank=rank, world=world
    )


def unpacked(inputs: Tensor, labels: Tensor) -> Pairs:
    """The pairs of a batch, from its inputs and labels; every rule of the packing is checked."""
    assert inputs.dtype == labels.dtype == torch.int64
    count, _, length = inputs.shape
    assert int((inputs != PAD).sum(2).max()) == length
    rest = labels.tolist()
    found = []
    for source, before in inputs.tolist():
        sizes = [length - row.count(PAD) for row in (source, before)]
        assert source[sizes[0] :] == [PAD] * (length - sizes[0])
        assert before[sizes[1] :] == [PAD] * (length - sizes[1])
        after, rest = rest[: sizes[1]], rest[sizes[1] :]
        assert before[: sizes[1]] == [END, *after[:-1]]
        found.append((source[: sizes[0]], after))
    assert not rest
    assert len(found) == count
    return found


# ---- packing -------------------------------------------------------------------------------------


def test_a_batch_by_hand() -> None:
    inputs, labels = packed([[4, 5, 2], [6, 2]], [[7, 2], [8, 9, 4, 2]])
    assert inputs.tolist() == [[[4, 5, 2, 1], [2, 7, 1, 1]], [[6, 2, 1, 1], [2, 8, 9, 4]]]
    assert labels.tolist() == [7, 2, 8, 9, 4, 2]
    # what follows each position that is no padding
    assert int((inputs[:, 1] != PAD).sum()) == len(labels)


@given(PAIRS)
def test_pairs_come_back_from_a_batch(pairs: Pairs) -> None:
    source, target = zip(*pairs, strict=True)
    assert unpacked(*packed(source, target)) == pairs


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([], [], "at least one, but got 0 sentences"),
        ([[4, 2]], [], "1 sentences and 0 translations"),
        ([[4]], [[4, 2]], r"end with </s>.* but got \[4\]"),
        ([[4, 2]], [[]], r"but got \[\]"),
        ([[4, 2]], [[1, 2]], r"hold no <pad>, 1, but got \[1, 2\]"),
    ],
)
def test_what_is_no_sentence_is_refused(source: list[Ids], target: list[Ids], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        packed(source, target)


# ---- epochs --------------------------------------------------------------------------------------


@given(PAIRS, st.integers(10, 60), WORLDS, st.integers(0, 3))
def test_every_pair_once_an_epoch_over_all_processes(
    pairs: Pairs, spare: int, world: int, seed: int
) -> None:
    pairs = pairs * world  # one for each
    room = 20 * world + spare
    shares = [batches_of(pairs, room, seed=seed, rank=rank, world=world) for rank in range(world)]
    steps = shares[0].steps_per_epoch
    for number in range(2):
        epochs = [list(share.epoch(number)) for share in shares]
        assert {len(epoch) for epoch in epochs} == {steps}
        seen = [unpacked(*batch) for epoch in epochs for batch in epoch]
        assert all(seen), "no share is empty"
        assert sorted(pair for batch in seen for pair in batch) == sorted(pairs)
        for step in range(steps):
            sizes = [epoch[step][0].shape for epoch in epochs]
            together = sum(size[1] for size in sizes)
            assert together * max(size[2] for size in sizes) <= room
            assert max(size[1] for size in sizes) - min(size[1] for size in sizes) <= 1


@given(PAIRS, st.integers(10, 60))
def test_pairs_of_a_batch_are_of_about_one_length(pairs: Pairs, room: int) -> None:
    batches = batches_of(pairs, room)
    longest = [[max(map(len, pairs[i])) for i in group] for group in batches.groups]
    ordered = sorted(max(map(len, pair)) for pair in pairs)
    assert [length for group in longest for length in group] == ordered
    # a pair more would not have had room
    for group, following in pairwise(longest):
        assert (len(group) + 1) * following[0] > room


def test_processes_share_the_batches_of_one() -> None:
    pairs = [([4 + i, *[5] * (i % 6), END], [4 + i, END]) for i in range(40)]
    alone = list(batches_of(pairs, 60, seed=1).epoch(2))
    shares = [list(batches_of(pairs, 60, seed=1, rank=rank, world=3).epoch(2)) for rank in range(3)]
    assert len(alone) == len(shares[0]) > 3
    for step, batch in enumerate(alone):
        for rank in range(3):
            assert unpacked(*shares[rank][step]) == unpacked(*batch)[rank::3]


@given(PAIRS, st.integers(0, 3), st.integers(0, 3), st.data())
def test_a_batch_is_a_function_of_seed_epoch_and_step(
    pairs: Pairs, seed: int, number: int, data: st.DataObject
) -> None:
    first, second = (batches_of(pairs, 20, seed=seed) for _ in range(2))
    start = data.draw(st.integers(0, first.steps_per_epoch))
    list(first.epoch(number + 1))  # what was asked for before has no effect
    whole, rest = list(first.epoch(number)), list(second.epoch(number, start))
    assert len(rest) == first.steps_per_epoch - start
    for (inputs, labels), (again, same) in zip(whole[start:], rest, strict=True):
        assert torch.equal(inputs, again)
        assert torch.equal(labels, same)


def test_epochs_and_seeds_have_their_own_orders() -> None:
    pairs = [([4 + i, END], [4 + i, END]) for i in range(60)]

    def order(seed: int, number: int) -> list[Pairs]:
        return [unpacked(*batch) for batch in batches_of(pairs, 10, seed=seed).epoch(number)]

    assert order(0, 0) == order(0, 0)
    first, second, other = order(0, 0), order(0, 1), order(1, 0)
    assert first != second
    assert sorted(first) == sorted(second), "the same groups in another order"
    assert sorted(first) != sorted(other), "of equal lengths, the seed says which are together"


def test_long_sentences_are_cut_and_counted() -> None:
    pairs = [([4, 5, 6, 7, END], [8, END]), ([4, 5, END], [4, 5, 6, END])]
    batches = batches_of(pairs, 30, max_length=3)
    assert batches.cut == 2
    assert unpacked(*next(batches.epoch(0))) == [([4, 5, END], [8, END]), ([4, 5, END],) * 2]
    assert batches_of(pairs, 30).cut == 0


# ---- what does not fit ---------------------------------------------------------------------------

FOUR: Pairs = [([4, 5, END], [6, END])] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": 2}, "longest sentence, 3 tokens, so at least 3 tokens, but got 2"),
        (
            {"max_tokens": 11, "world": 2},
            "twice for each of 2 processes, so at least 12 tokens, but got 11",
        ),
        ({"world": 5}, "4 sentences, 4 translations and 5 processes"),
        ({"rank": 1}, "rank 1 of a world of 1"),
        ({"max_length": 1}, "max_length 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        batches_of(FOUR, **{"max_tokens": 80, **change})


def test_sentences_without_translations_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 sentences, 1 translations"):
        TokenBatches([[4, END]] * 2, [[4, END]], 80)


@pytest.mark.parametrize(("number", "start"), [(-1, 0), (0, -1), (0, 2)])
def test_epochs_and_steps_are_checked(number: int, start: int) -> None:
    with pytest.raises(InvalidInputError, match="have the steps 0 to 1"):
        batches_of(FOUR).epoch(number, start)
