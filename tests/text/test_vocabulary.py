"""Vocabularies: sentences to ids and back, files, and files that are none."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("sentencepiece")

import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from text_cases import translated, write_lines

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.text._bpe import BytePairs
from mathnas.text._lines import read_lines
from mathnas.text.vocabulary import Vocabulary
from mathnas.tokens import END, PAD, START, UNKNOWN

LINES = [sentence for pair in translated(200) for sentence in pair]
LEARNED = Vocabulary.learn(LINES, 80)
LETTERS = sorted(set("".join(LINES)) - {" "})
WORDS = st.text(LETTERS, min_size=1, max_size=8)
MERGES = (("e", "r"), ("l", "o"), ("lo", "w</w>"), ("er", "</w>"), ("l", "ow"), ("n", "e"))


def dictionary(
    folder: Path, words: Sequence[str], merges: Sequence[tuple[str, str]] = ()
) -> Vocabulary:
    path = write_lines(folder / "dict.txt", [f"{word} {9 - i}" for i, word in enumerate(words)])
    if not merges:
        return Vocabulary.given(path)
    codes = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    return Vocabulary.given(path, write_lines(folder / "codes", codes))


# ---- learned -------------------------------------------------------------------------------------


@given(st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), max_size=4))
def test_sentences_come_back(sentences: list[str]) -> None:
    ids = LEARNED.encode(sentences)
    assert [LEARNED.decode(each) for each in ids] == sentences
    for each in ids:
        assert each[-1] == END
        assert not {START, PAD, END} & set(each[:-1])
        assert max(each) < LEARNED.size == 80


def test_decoding_stops_at_the_end_and_leaves_padding_out() -> None:
    (ids,) = LEARNED.encode(["the dog"])
    assert LEARNED.decode([END, *ids]) == ""
    assert LEARNED.decode([PAD, START, *ids, *ids, PAD]) == "the dog"
    assert LEARNED.decode([]) == ""


def test_what_is_not_in_the_lines_is_unknown_and_special_names_are_text() -> None:
    (ids,) = LEARNED.encode(["dog ☃"])
    assert UNKNOWN in ids
    for name in ("<pad>", "<s>", "</s>"):
        (ids,) = LEARNED.encode([f"the {name} dog"])
        assert not {START, PAD, END} & set(ids[:-1])


def test_the_same_lines_give_the_same_bytes(tmp_path: Path) -> None:
    again = Vocabulary.learn(iter(LINES), 80)
    assert again.fingerprint == LEARNED.fingerprint
    assert Vocabulary.learn(LINES, 79).fingerprint != LEARNED.fingerprint
    again.save(tmp_path / "a")
    LEARNED.save(tmp_path / "b")
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert hashlib.sha256(content).hexdigest() == LEARNED.fingerprint


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (4, "more ids than the 4 special ones, but got a size of 4"),
        (10, "10 ids .* characters and the special ids alone are 2., so ask for more"),
        (5_000, "5000 ids .* subwords for [0-9]+ at most, so ask for fewer"),
    ],
)
def test_sizes_that_the_lines_do_not_give_are_refused(size: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Vocabulary.learn(LINES, size)


def test_nothing_to_learn_from_is_refused() -> None:
    for lines in ([], ["", " "], ["x" * 2**17]):
        with pytest.raises(InvalidInputError, match="no sentences among them"):
            Vocabulary.learn(lines, 80)


def test_errors_of_what_gives_the_lines_come_through(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        Vocabulary.learn(read_lines(tmp_path / "nowhere"), 80)


# ---- given ---------------------------------------------------------------------------------------


def test_ids_are_those_of_fairseq(tmp_path: Path) -> None:
    words = dictionary(tmp_path, ["the", "hou@@", "se", "."])
    assert words.size == 8
    assert words.encode(["the hou@@ se .", "", "the <pad> </s> boat"]) == [
        [4, 5, 6, 7, END],
        [END],
        [4, UNKNOWN, UNKNOWN, UNKNOWN, END],
    ]
    assert words.decode([4, 5, 6, 7, END, 4]) == "the house ."
    assert words.decode([PAD, 4, 5]) == "the hou"
    assert words.decode([4, UNKNOWN]) == "the <unk>"


def test_codes_are_applied_to_every_word(tmp_path: Path) -> None:
    words = dictionary(tmp_path, ["low", "ne@@", "w"], MERGES)
    assert words.encode(["low new  low"]) == [[4, 5, 6, 4, END]]
    assert words.decode([4, 5, 6, 4, END]) == "low new low"
    # as subword-nmt splits them
    assert BytePairs(MERGES).split("lower") == ("lo@@", "w@@", "e@@", "r")
    assert BytePairs(MERGES, "0.1").split("lower") == ("lo@@", "w@@", "er")
    assert BytePairs(MERGES).split("newlow") == ("ne@@", "w@@", "low")
    assert BytePairs(MERGES).split("x") == ("x",)


def merged_slowly(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """Every merge in turn, wherever it can be done: the same as the first of all that can be."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    again = True
    while again:
        again = False
        for a, b in merges:
            where = [i for i in range(len(symbols) - 1) if symbols[i : i + 2] == [a, b]]
            if where:
                symbols[where[0] : where[0] + 2] = [a + b]
                again = True
                break
    return [symbol.removesuffix("</w>") for symbol in symbols]


@given(
    st.lists(st.tuples(*[st.sampled_from(["a", "b", "ab", "a</w>", "b</w>", "aa", "ba"])] * 2)),
    st.text("ab", min_size=1, max_size=10),
)
def test_pairs_are_merged_in_the_order_of_the_codes(
    merges: list[tuple[str, str]], word: str
) -> None:
    parts = BytePairs(merges).split(word)
    assert [part.removesuffix("@@") for part in parts] == merged_slowly(word, merges)
    assert all(part.endswith("@@") for part in parts[:-1])


@settings(max_examples=50)
@given(st.lists(WORDS, unique=True, max_size=6), st.booleans())
def test_a_given_vocabulary_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], split: bool
) -> None:
    folder = tmp_path_factory.mktemp("given")
    given_ = dictionary(folder, words, MERGES if split else ())
    given_.save(folder / "kept")
    again = Vocabulary.load(folder / "kept")
    assert again.fingerprint == given_.fingerprint
    assert again.fingerprint == hashlib.sha256((folder / "kept").read_bytes()).hexdigest()
    assert again.size == len(words) + 4
    assert again.encode(LINES[:20]) == given_.encode(LINES[:20])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["the 3", "house"], "line 2: a dictionary has a subword, a space and its count"),
        (["the three"], "line 1: a dictionary has"),
        (["the 3", "the 3"], "line 2: a subword stands once"),
        (["<pad> 3"], "line 1: a subword stands once"),
        ([" 3"], "line 1: a subword is a text without spaces, but got ''"),
        (["the house 3"], "line 1: a subword is a text without spaces"),
    ],
)
def test_dictionaries_with_a_wrong_line_are_refused(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError, match=message):
        Vocabulary.given(write_lines(tmp_path / "dict.txt", lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["#version: 0.3"], "line 1: BPE codes are of version 0.1 or 0.2, but got '0.3'"),
        (["#version: 0.2", "a b", "a b c"], "line 3: BPE codes have two symbols"),
        (["a"], "line 1: BPE codes have two symbols"),
    ],
)
def test_codes_with_a_wrong_line_are_refused(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    words = write_lines(tmp_path / "dict.txt", ["a 1"])
    with pytest.raises(FileFormatError, match=message):
        Vocabulary.given(words, write_lines(tmp_path / "codes", lines))


# ---- files ---------------------------------------------------------------------------------------


def test_a_learned_vocabulary_comes_back_from_its_file(tmp_path: Path) -> None:
    LEARNED.save(tmp_path / "vocabulary.model")
    again = Vocabulary.load(tmp_path / "vocabulary.model")
    assert again.encode(LINES) == LEARNED.encode(LINES)
    assert (again.size, again.fingerprint) == (80, LEARNED.fingerprint)


def test_vocabularies_go_to_other_processes(tmp_path: Path) -> None:
    for vocabulary in (LEARNED, dictionary(tmp_path, ["the", "dog"], MERGES)):
        again = pickle.loads(pickle.dumps(vocabulary))
        assert again.fingerprint == vocabulary.fingerprint
        assert again.encode(LINES[:5]) == vocabulary.encode(LINES[:5])


@pytest.mark.parametrize("ids", [[-1], [80], [5, 1_000]])
def test_ids_of_another_vocabulary_are_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidInputError, match=r"ids of this vocabulary are 0 to 79"):
        LEARNED.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_rubbish_is_no_vocabulary(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish.model"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"rubbish\.model"):
        Vocabulary.load(path)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2_000), st.integers(0, 255), st.booleans())
def test_a_damaged_model_is_refused_or_a_vocabulary(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.model"
    LEARNED.save(path)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content = content[:place] if cut else content[:place] + bytes([byte]) + content[place + 1 :]
    path.write_bytes(content)
    with suppress(FileFormatError):
        found = Vocabulary.load(path)
        assert all(ids[-1] == END for ids in found.encode(LINES[:2]))
        assert found.fingerprint == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mathnas-table"}, "expected the format"),
        ({"version": 2}, "version 2"),
        ({"words": "the"}, r"words: expected list"),
        ({"words": ["a", "a"]}, r"words\[1\]: a subword stands once"),
        ({"words": ["a b"]}, r"words\[0\]: a subword is a text without spaces"),
        ({"words": [3]}, r"words\[0\]: a subword is a text"),
        ({"words": ["\ud800"]}, "damaged or not JSON"),
        ({"codes": {"version": "0.2", "merges": [["a"]]}}, r"merges\[0\]: a merge is two symbols"),
        ({"codes": {"version": "0.3", "merges": []}}, "version 0.1 or 0.2"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_wrong_records_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    record = {"format": "mathnas-vocabulary", "version": 1, "words": ["a", "b"], **change}
    path = tmp_path / "words.vocabulary"
    path.write_text(json.dumps(record))
    with pytest.raises(FileFormatError, match=message):
        Vocabulary.load(path)


def test_a_model_with_other_special_ids_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=40, minloglevel=2
    )
    path = tmp_path / "other.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(FileFormatError, match="this model of sentencepiece has 1, -1, 2, 0"):
        Vocabulary.load(path)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    for read in (Vocabulary.load, Vocabulary.given):
        with pytest.raises(FileFormatError, match="cannot be read"):
            read(tmp_path / "nowhere")
        with pytest.raises(FileFormatError, match="cannot be read"):
            read(tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(FileFormatError, match="at most 67108864 is read"):
        Vocabulary.load(tmp_path / "large")
