"""Rows to and from ``.csv`` and ``.parquet`` files."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mathnas._files import replacing
from mathnas._records import write_text
from mathnas.errors import FileFormatError, InvalidInputError, MissingExtraError

Columns = Mapping[str, type]


def write_rows(path: Path, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows of str, int, float or None.

    Raises:
        InvalidInputError: the file name has another ending than ``.csv`` or ``.parquet``.
        MissingExtraError: parquet without pyarrow.
        FileFormatError: the file cannot be written; one that was there stays whole.
    """
    if _is_csv(path):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        # repr gives the shortest text that reads back as the same number
        writer.writerows([repr(v) if isinstance(v, float) else v for v in row] for row in rows)
        write_text(path, text.getvalue())
        return
    arrow, parquet = _pyarrow()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    arrays = [
        arrow.array([row[i] for row in rows], type=kinds[kind])
        for i, kind in enumerate(columns.values())
    ]
    with replacing(path, arrow.ArrowException) as temporary:
        parquet.write_table(arrow.Table.from_arrays(arrays, names=list(columns)), temporary)


def read_rows(
    path: Path, columns: Columns, optional: Collection[str] = ()
) -> list[Mapping[str, Any]]:
    """Read what `write_rows` wrote; in CSV every value is text, and None is the empty text.

    Args:
        optional: columns that a file may lack.

    Raises:
        InvalidInputError: the file name has another ending than ``.csv`` or ``.parquet``.
        MissingExtraError: parquet without pyarrow.
        FileFormatError: the file cannot be read or lacks a column.
    """
    if _is_csv(path):
        try:
            # spreadsheets put a byte order mark in front
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                found = list(reader.fieldnames or [])
                rows: list[Mapping[str, Any]] = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(f"{path} cannot be read as CSV: {error}.") from error
    else:
        arrow, parquet = _pyarrow()
        try:
            # not read_table: that takes columns from folders named like key=value
            with parquet.ParquetFile(path) as file:
                table = file.read()
            found = table.column_names
            rows = table.to_pylist()
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise FileFormatError(f"{path} cannot be read as parquet: {error}.") from error
    missing = [name for name in columns if name not in found and name not in optional]
    if missing:
        raise FileFormatError(f"{path} needs the column {missing[0]!r}, but has {found}.")
    return rows


def _is_csv(path: Path) -> bool:
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidInputError(
            f"evaluations are exchanged as .csv or .parquet, but got {path.name!r}."
        )
    return path.suffix == ".csv"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            "parquet files need pyarrow: pip install 'mathnas[parquet]', or use .csv."
        ) from error
    return pyarrow, pyarrow.parquet
