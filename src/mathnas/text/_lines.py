"""Lines of text files, with bounds: files come from anywhere."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from mathnas.errors import FileFormatError

_LONGEST = 2**20  # bytes of a line
_MOST = 2**34  # bytes of a file, unpacked


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file without their ends, one at a time; ``.gz`` is unpacked.

    Lines end with a line feed, before which a carriage return is left out; no other character ends
    one.

    Raises:
        FileFormatError: the file cannot be read, is damaged, is not UTF-8 (with its line), or
            unpacks to too much.
    """
    try:
        with _opened(path) as file:
            yield from lines_of(file, str(path))
    except (EOFError, zlib.error) as error:
        raise FileFormatError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error


def lines_of(file: IO[bytes], where: str) -> Iterator[str]:
    """The lines of an open file, as `read_lines`.

    Args:
        where: it is, for errors.

    Raises:
        FileFormatError: a line is not UTF-8, or there is too much.
    """
    size = number = 0
    while raw := file.readline(_LONGEST + 1):
        number += 1
        size += len(raw)
        if len(raw) > _LONGEST or size > _MOST:
            raise FileFormatError(
                f"{where}, line {number}: a line has at most {_LONGEST} bytes, and a file "
                f"{_MOST}: is this text?"
            )
        yield _decoded(raw, where, number)


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _decoded(raw: bytes, where: str, number: int) -> str:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{where}, line {number}: text is UTF-8, but byte {error.start + 1} of the line is "
            "not: convert the file."
        ) from error
    return text.removesuffix("\n").removesuffix("\r")
