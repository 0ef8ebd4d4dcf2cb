"""Reading JSON records with checks, so that a damaged or foreign file gets one clear error.

Kept free of dependencies: spaces and tables are read on devices that have numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mathnas._files import replacing
from mathnas.errors import FileFormatError

_MAX_BYTES = 512 * 2**20
_T = TypeVar("_T")


class Record:
    """A JSON object together with where it stands, for error messages that point."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise FileFormatError(f"{where}: expected an object, but got {shown(value)}.")
        self.value: dict[str, Any] = dict(value)
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """The field `key`, which must be of type `kind`; `default` serves where it is absent."""
        value = self.value.get(key)
        if value is None:
            if default is not None:
                return default
            raise FileFormatError(f"{self.where}: the field {key!r} is missing.")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                value = float(value)
        if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
            raise FileFormatError(
                f"{self.where}.{key}: expected {kind.__name__}, but got {shown(value)}."
            )
        return value

    def number(self, key: str) -> float | None:
        """An optional number."""
        return self.get(key, float) if key in self else None

    def items(self, key: str) -> Sequence[tuple[str, Any]]:
        """The entries of a list, each with where it stands."""
        return [(f"{self.where}.{key}[{i}]", entry) for i, entry in enumerate(self.get(key, list))]

    def record(self, key: str) -> Record:
        return Record(self.get(key, dict), f"{self.where}.{key}")

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        return _finite(self.get(key, list), f"{self.where}.{key}")

    def rows(self, key: str) -> list[list[float]]:
        """A matrix: lists of finite numbers, all of one length."""
        where = f"{self.where}.{key}"
        rows = [_finite(row, where) for row in self.get(key, list)]
        if len(set(map(len, rows))) > 1:
            raise FileFormatError(f"{where}: expected lists of one length.")
        return rows

    def only(self, *keys: str) -> None:
        """Refuse fields that nobody reads: they are misspellings more often than extensions."""
        unknown = sorted(set(self.value) - set(keys))
        if unknown:
            raise FileFormatError(
                f"{self.where}: unknown field {unknown[0]!r}; known are {', '.join(keys)}."
            )


def _finite(values: object, where: str) -> list[float]:
    if not isinstance(values, list) or not all(map(is_number, values)):
        raise FileFormatError(f"{where}: expected lists of finite numbers.")
    return [float(value) for value in values]


def shown(value: object) -> str:
    """A value in an error message: its repr, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_json(path: Path, format_name: str, newest: int) -> Record:
    """Read a versioned JSON file of ours.

    Raises:
        FileFormatError: the file cannot be read, is not JSON, is another format, or is newer than
            this version of mathnas understands.
    """
    value = parsed_json(path, f"a {format_name} file")
    return check_header(value, format_name, newest, str(path))


def parsed_json(path: Path, kind: str, largest: int = _MAX_BYTES) -> object:
    """What a JSON file holds.

    Args:
        kind: what it should be, in words.
        largest: how many bytes it may have.

    Raises:
        FileFormatError: the file cannot be read, is not JSON, or is larger.
    """
    try:
        if path.stat().st_size > largest:
            raise FileFormatError(f"{path}: larger than {largest} bytes, so not read.")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path} is not {kind}: it is damaged or not JSON ({error})."
        ) from error


def check_header(value: object, format_name: str, newest: int, where: str) -> Record:
    """`value` as a record, after checking its ``format`` and ``version``."""
    record = Record(value, where)
    found = record.get("format", str)
    if found != format_name:
        raise FileFormatError(f"{where}: expected the format {format_name!r}, but got {found!r}.")
    version = record.get("version", int)
    if not 1 <= version <= newest:
        raise FileFormatError(
            f"{where}: {format_name} version {version} is not one this mathnas reads "
            f"(1 to {newest}): upgrade mathnas, or write the file again with this version."
        )
    return record


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all: a full disk or a crash leaves the old one.

    Raises:
        FileFormatError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; errors as `write_json`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_number(value: object) -> bool:
    """Whether a value from JSON stands for a finite float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
