"""Parallel text: sentences and their translations, from files or by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.text._lines import read_lines

Split: TypeAlias = Literal["train", "valid", "test"]

# kinds of text that `open_parallel` reads
KINDS = ("multi30k", "text")
_SPLITS: tuple[Split, ...] = get_args(Split)
_MULTI30K: dict[Split, str] = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
_DIRECTIONS = {"": ("en", "de"), "en-de": ("en", "de"), "de-en": ("de", "en")}


@dataclass(frozen=True)
class ParallelText:
    """Sentences, each with its translation.

    Attributes:
        source, target: one sentence each, as many of one as of the other and at least one.
        languages: of source and target, as they are named (``en``).
        dropped: pairs that were left out because a side was empty.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    languages: tuple[str, str] = ("source", "target")
    dropped: int = 0

    def __post_init__(self) -> None:
        if not len(self.source) == len(self.target) > 0:
            raise InvalidInputError(
                "every sentence has its translation, and there is at least one, but got "
                f"{len(self.source)} sentences and {len(self.target)} translations."
            )

    def __len__(self) -> int:
        return len(self.source)

    def lines(self) -> Iterable[str]:
        """All sentences, of both languages: what a joint vocabulary is learned from."""
        return chain(self.source, self.target)

    def part(self, positions: Iterable[int]) -> ParallelText:
        """The pairs at some positions, in their order."""
        chosen = list(positions)
        return ParallelText(
            tuple(self.source[i] for i in chosen),
            tuple(self.target[i] for i in chosen),
            self.languages,
        )

    def holdout(self, count: int, seed: int = 0) -> tuple[ParallelText, ParallelText]:
        """Two parts: the rest, and `count` random pairs held out; both in this order.

        Raises:
            InvalidInputError: nothing would be left in a part.
        """
        if not 1 <= count < len(self):
            raise InvalidInputError(
                f"of {len(self)} pairs, 1 to {len(self) - 1} can be held out, but got {count}."
            )
        held = np.zeros(len(self), bool)
        held[np.random.default_rng(seed).choice(len(self), count, replace=False)] = True
        rest, kept = np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()
        return self.part(rest), self.part(kept)


def read_parallel(
    source: str | Path, target: str | Path, *, languages: tuple[str, str] | None = None
) -> ParallelText:
    """Two UTF-8 files with one sentence a line; line n of one is the translation of the other's.

    Files that end with ``.gz`` are unpacked. Space around a sentence is left out, and so are pairs
    of which a side is empty.

    Args:
        languages: of source and target; by default the files' last suffixes (``train.en``,
            ``train.en.gz``) where these are two or three letters.

    Raises:
        FileFormatError: a file cannot be read, is damaged or not UTF-8 (with its line), the files
            have different numbers of lines, or no pair is left.
    """
    paths = Path(source), Path(target)
    found: tuple[list[str], list[str]] = [], []
    counts = [0, 0]
    for pair in zip_longest(*map(read_lines, paths)):
        for side, line in enumerate(pair):
            counts[side] += line is not None
        texts = [line.strip() for line in pair if line is not None]
        if len(texts) == 2 and all(texts):
            for own, text in zip(found, texts, strict=True):
                own.append(text)
    if counts[0] != counts[1]:
        shorter = paths[counts[0] > counts[1]]
        raise FileFormatError(
            f"every line of {paths[0]} has its translation in {paths[1]}, but they have "
            f"{counts[0]} and {counts[1]} lines: {shorter} ends before line {min(counts) + 1}."
        )
    if not found[0]:
        raise FileFormatError(f"{paths[0]} and {paths[1]} hold no pair of sentences.")
    named = _language(paths[0], "source"), _language(paths[1], "target")
    dropped = counts[0] - len(found[0])
    return ParallelText(tuple(found[0]), tuple(found[1]), languages or named, dropped)


def read_sentences(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, which may be ``.gz``; an empty line is an empty sentence.

    Raises:
        FileFormatError: the file cannot be read, or is no text; says where.
    """
    return list(read_lines(Path(path)))


def open_parallel(text: str, split: Split = "train") -> ParallelText:
    """Parallel text by name.

    Args:
        text: ``multi30k`` (Elliott et al., 2016), English to German, or ``multi30k:de-en``; or
            ``text:TRAIN.src,TRAIN.tgt``, with ``,VALID.src,VALID.tgt`` and then
            ``,TEST.src,TEST.tgt`` behind: files as `read_parallel` takes them.
        split: which part.

    Raises:
        InvalidInputError: there is no text of this name, or it has no such part.
        MissingDataError: a public file is not here and cannot be downloaded.
        FileFormatError: a file is damaged.
    """
    if split not in _SPLITS:
        raise InvalidInputError(f"text has the parts {', '.join(_SPLITS)}, but got {split!r}.")
    kind, _, rest = text.partition(":")
    if kind == "multi30k" and rest in _DIRECTIONS:
        return _multi30k(_DIRECTIONS[rest], split)
    if kind == "text" and rest:
        first, second = _files(rest, split)
        return read_parallel(first, second)
    raise InvalidInputError(
        "parallel text is multi30k, multi30k:en-de, multi30k:de-en or text:TRAIN.src,TRAIN.tgt, "
        f"but got {text!r}."
    )


def is_parallel(text: str) -> bool:
    """Whether a name of data is one for `open_parallel`."""
    return text.partition(":")[0] in KINDS


def has_part(text: str, split: Split) -> bool:
    """Whether what `open_parallel` reads as `text` has a part."""
    kind, _, rest = text.partition(":")
    return kind != "text" or rest.count(",") > 2 * _SPLITS.index(split)


def _multi30k(languages: tuple[str, str], split: Split) -> ParallelText:
    from mathnas import datasets  # brings pydantic

    source, target = (
        datasets.fetch("multi30k", f"{_MULTI30K[split]}.{language}.gz") for language in languages
    )
    return read_parallel(source, target, languages=languages)


def _files(rest: str, split: Split) -> Sequence[Path]:
    names = rest.split(",")
    if len(names) not in (2, 4, 6) or not all(names):
        raise InvalidInputError(
            "files of text are named in pairs with commas between, text:TRAIN.src,TRAIN.tgt and "
            f"then those to validate and to test with, but got {rest!r}."
        )
    first = 2 * _SPLITS.index(split)
    if first >= len(names):
        raise InvalidInputError(
            f"a {split} part is the pair of files number {first // 2 + 1}, but {rest!r} names "
            f"{len(names) // 2}: name it too."
        )
    return [Path(name).expanduser() for name in names[first : first + 2]]


def _language(path: Path, default: str) -> str:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    found = re.fullmatch(r"\.([a-z]{2,3})", suffix)
    return default if found is None else found[1]
