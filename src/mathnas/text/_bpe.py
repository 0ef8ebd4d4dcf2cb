"""Applying byte-pair encoding that was learned elsewhere (Sennrich et al., ACL 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mathnas._records import shown
from mathnas.errors import FileFormatError
from mathnas.text._lines import read_lines

Pair = tuple[str, str]

SEPARATOR = "@@"  # at the end of every part of a word but the last
_END = "</w>"  # marks the end of a word in the codes
_HEADER = "#version:"
VERSIONS = ("0.1", "0.2")
_CACHED = 2**18  # words


class BytePairs:
    """Merges of symbols, the first ones first.

    Args:
        merges: pairs of symbols; where one stands twice its first place holds.
        version: of subword-nmt's format. In ``0.1`` the end of a word is a symbol of its own, in
            ``0.2`` it belongs to the last letter.
    """

    def __init__(self, merges: Sequence[Pair], version: str = "0.2") -> None:
        self.merges = tuple(merges)
        self.version = version
        self._ranks: dict[Pair, int] = {}
        for rank, pair in enumerate(self.merges):
            self._ranks.setdefault(pair, rank)
        self._known: dict[str, tuple[str, ...]] = {}

    def split(self, word: str) -> tuple[str, ...]:
        """The parts of a word, all but the last with `SEPARATOR` behind."""
        found = self._known.get(word)
        if found is None:
            found = self._split(word)
            if len(self._known) < _CACHED:
                self._known[word] = found
        return found

    def _split(self, word: str) -> tuple[str, ...]:
        end = [word[-1], _END] if self.version == "0.1" else [word[-1] + _END]
        symbols = [*word[:-1], *end]
        while len(symbols) > 1:
            pairs = set(pairwise(symbols))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self.merges)))
            if best not in self._ranks:
                break
            symbols = _merged(symbols, best)
        if symbols[-1] == _END:
            symbols.pop()
        else:
            symbols[-1] = symbols[-1].removesuffix(_END)
        return (*(symbol + SEPARATOR for symbol in symbols[:-1]), symbols[-1])


def _merged(symbols: Sequence[str], pair: Pair) -> list[str]:
    """`symbols` with every occurrence of a pair joined, from the left."""
    found: list[str] = []
    at = 0
    while at < len(symbols):
        if tuple(symbols[at : at + 2]) == pair:
            found.append(pair[0] + pair[1])
            at += 2
        else:
            found.append(symbols[at])
            at += 1
    return found


def joined(parts: Sequence[str]) -> str:
    """Parts of words as text: the inverse of splitting at spaces and every word into its parts."""
    text = " ".join(parts) + " "
    return text.replace(f"{SEPARATOR} ", "").rstrip(" ")


def read_codes(path: Path) -> BytePairs:
    """A file of codes as subword-nmt writes them: ``#version: 0.2``, then a pair a line.

    Raises:
        FileFormatError: the file cannot be read, or a line is not a pair.
    """
    version, merges = "0.1", []
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 and line.startswith(_HEADER):
            version = line.removeprefix(_HEADER).strip()
            if version not in VERSIONS:
                raise FileFormatError(
                    f"{path}, line 1: BPE codes are of version {' or '.join(VERSIONS)}, but got "
                    f"{version!r}."
                )
            continue
        pair = line.strip(" ").split(" ")  # symbols may be other kinds of space
        if len(pair) != 2 or not all(pair):
            raise FileFormatError(
                f"{path}, line {number}: BPE codes have two symbols with a space between a line, "
                f"but got {shown(line)}."
            )
        merges.append((pair[0], pair[1]))
    return BytePairs(merges, version)
