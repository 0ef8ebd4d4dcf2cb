"""Reading columns of CSV files, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from mathnas.errors import FileFormatError

Columns = dict[str, Sequence[str]]


def read_columns(path: Path) -> Columns:
    """The columns of a CSV file with a header, as text.

    Raises:
        FileFormatError: the file cannot be read, is empty, or its rows have different lengths.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        return dict(zip(header, zip(*rows, strict=True), strict=True))
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise FileFormatError(f"{path} cannot be read as CSV: {error}.") from error


def numbers(path: Path, columns: Columns, name: str) -> list[float]:
    """A column as numbers.

    Raises:
        FileFormatError: the column is missing or holds something else.
    """
    try:
        return list(map(float, columns[name]))
    except KeyError:
        raise FileFormatError(
            f"{path} has no column {name!r}; it has {', '.join(columns)}."
        ) from None
    except ValueError as error:
        raise FileFormatError(f"{path}, column {name!r}: {error}.") from error
