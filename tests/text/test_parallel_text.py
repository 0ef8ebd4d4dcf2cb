"""Parallel text: from files, by name, in parts; and files that do not fit."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_cases import write_lines, write_pairs

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.text import corpus
from mathnas.text.corpus import ParallelText, has_part, open_parallel, read_parallel

SENTENCES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1), st.booleans())
def test_every_pair_of_two_files_is_read_but_empty_ones(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], zipped: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = ("a.en.gz", "a.de.gz") if zipped else ("a.en", "a.de")
    paths = [
        write_lines(folder / name, [pair[side] for pair in pairs])
        for side, name in enumerate(names)
    ]
    # a mark at the start of a file is none of its text
    stripped = [
        tuple((text.removeprefix("\ufeff") if i == 0 else text).strip() for text in pair)
        for i, pair in enumerate(pairs)
    ]
    kept = [pair for pair in stripped if all(pair)]
    if not kept:
        with pytest.raises(FileFormatError, match="hold no pair"):
            read_parallel(*paths)
        return
    text = read_parallel(*paths)
    assert list(zip(text.source, text.target, strict=True)) == kept
    assert text.dropped == len(pairs) - len(kept)
    assert text.languages == ("en", "de")


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("one\u2028more\x0c\r\ntwo".encode())
    (tmp_path / "b").write_bytes(b"eins\nzwei\n")
    text = read_parallel(tmp_path / "a", tmp_path / "b")
    assert text.source == ("one\u2028more", "two")
    assert text.languages == ("source", "target")


def test_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    short = write_lines(tmp_path / "a.en", ["one", ""])
    long = write_lines(tmp_path / "a.de", ["eins", "zwei", "drei"])
    message = r"have 2 and 3 lines: .*a\.en ends before line 3"
    with pytest.raises(FileFormatError, match=message):
        read_parallel(short, long)
    with pytest.raises(FileFormatError, match=r"3 and 2 lines: .*a\.en ends before line 3"):
        read_parallel(long, short)


def test_what_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "a.en", ["one", "two"])
    for name, content in (("a.de", b"eins\nzw\xffei\n"), ("b.de.gz", gzip.compress(b"\n\xff"))):
        bad = tmp_path / name
        bad.write_bytes(content)
        with pytest.raises(FileFormatError, match=rf"{name}, line 2: text is UTF-8, but byte"):
            read_parallel(good, bad)


def test_damaged_and_missing_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_lines(tmp_path / "a.en", ["one"])
    whole = gzip.compress(b"eins\n" * 1_000)
    for content in (b"no gzip", whole[:-12], whole[:20] + b"\0\1" + whole[22:]):
        (tmp_path / "a.de.gz").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.de\.gz"):
            read_parallel(good, tmp_path / "a.de.gz")
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileFormatError, match="cannot be read"):
            read_parallel(good, path)
    monkeypatch.setattr("mathnas.text._lines._LONGEST", 100)
    long = write_lines(tmp_path / "long.de.gz", ["eins", "z" * 101])
    with pytest.raises(FileFormatError, match=r"long\.de\.gz, line 2: a line has at most 100"):
        read_parallel(write_lines(tmp_path / "b.en", ["one", "two"]), long)
    monkeypatch.setattr("mathnas.text._lines._MOST", 50)
    many = write_lines(tmp_path / "many", ["drei"] * 20)
    with pytest.raises(FileFormatError, match=r"line 11: .* a file 50"):
        read_parallel(many, many)


# ---- parts ---------------------------------------------------------------------------------------


@given(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_pairs_are_trained_on_or_held_out(sizes: tuple[int, int]) -> None:
    total, count = sizes
    text = ParallelText(
        tuple(f"s{i}" for i in range(total)), tuple(f"t{i}" for i in range(total)), ("en", "de")
    )
    rest, kept = text.holdout(count, seed=3)
    assert len(kept) == count
    assert sorted(rest.source + kept.source) == sorted(text.source)
    for part in (rest, kept):
        assert [s[1:] for s in part.source] == [t[1:] for t in part.target]
        assert list(part.source) == [s for s in text.source if s in part.source]
        assert part.languages == ("en", "de")
    assert text.holdout(count, seed=3)[1].source == kept.source


@pytest.mark.parametrize("count", [0, 2, 3])
def test_both_parts_have_pairs(count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"1 to 1 can be held out, but got {count}"):
        ParallelText(("a", "b"), ("c", "d")).holdout(count)


def test_sentences_without_translations_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 sentences and 2 translations"):
        ParallelText(("a",), ("c", "d"))
    with pytest.raises(InvalidInputError, match="0 sentences"):
        ParallelText((), ())


# ---- by name -------------------------------------------------------------------------------------


def test_own_files_are_named_in_pairs(tmp_path: Path) -> None:
    train = write_pairs(tmp_path, "train", [("one", "eins"), ("two", "zwei")])
    valid = write_pairs(tmp_path, "valid", [("three", "drei")])
    test = write_pairs(tmp_path, "test", [("four", "vier")])
    name = f"text:{train},{valid},{test}"
    assert open_parallel(name).source == ("one", "two")
    assert open_parallel(name, "valid").target == ("drei",)
    assert open_parallel(name, "test").target == ("vier",)
    assert [has_part(f"text:{train}", part) for part in ("train", "valid", "test")] == [
        *(True, False, False)
    ]
    assert has_part(f"text:{train},{valid}", "valid")
    assert not has_part(f"text:{train},{valid}", "test")
    with pytest.raises(InvalidInputError, match="a valid part is the pair of files number 2"):
        open_parallel(f"text:{train}", "valid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text:", "parallel text is multi30k"),
        ("text:a", "named in pairs"),
        ("text:a,b,c", "named in pairs"),
        ("text:a,", "named in pairs"),
        ("text:a,b,c,d,e,f,g,h", "named in pairs"),
        ("multi30k:en-fr", "multi30k:en-de, multi30k:de-en .*but got 'multi30k:en-fr'"),
        ("letters", "but got 'letters'"),
    ],
)
def test_wrong_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        open_parallel(text)
    with pytest.raises(InvalidInputError, match="train, valid, test, but got 'val'"):
        open_parallel("multi30k", "val")  # type: ignore[arg-type]


def test_multi30k_comes_from_the_registry(require: Callable[..., Path]) -> None:
    require("multi30k", "train.en.gz")
    sizes = {"train": 29_000, "valid": 1_014, "test": 1_000}
    for split in corpus._SPLITS:
        text = open_parallel("multi30k", split)
        assert len(text) + text.dropped == sizes[split]
        assert has_part("multi30k", split)
    assert text.languages == ("en", "de")
    back = open_parallel("multi30k:de-en", "test")
    assert (back.source, back.target) == (text.target, text.source)
    assert back.languages == ("de", "en")
    assert open_parallel("multi30k:en-de", "test") == text
