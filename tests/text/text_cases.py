"""Sentences, files and a small supernet that the tests of this folder share."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NOUNS = (("dog", "hund"), ("cat", "kater"), ("house", "haus"), ("child", "kind"), ("ship", "kahn"))
VERBS = (("sees", "sieht"), ("paints", "malt"), ("finds", "findet"), ("calls", "ruft"))
COLOURS = (("red", "rote"), ("green", "grüne"), ("blue", "blaue"))


def translated(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Small sentences of two languages, word for word."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        noun, verb, other = (words[rng.integers(len(words))] for words in (NOUNS, VERBS, NOUNS))
        colours = [COLOURS[i] for i in rng.integers(len(COLOURS), size=rng.integers(4))]
        words = [("the", "das"), noun, verb, ("the", "das"), *colours, other, (".", ".")]
        found.append((" ".join(a for a, _ in words), " ".join(b for _, b in words)))
    return found


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A text file, packed where its name says so."""
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_pairs(folder: Path, name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Two files, as a command line names them: ``name.en,name.de``."""
    paths = [
        write_lines(folder / f"{name}.{language}", [pair[side] for pair in pairs])
        for side, language in enumerate(("en", "de"))
    ]
    return ",".join(map(str, paths))
