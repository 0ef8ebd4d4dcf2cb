"""Imports of what is not installed with mathnas itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mathnas.errors import MissingExtraError


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Around imports: a package that is missing becomes an error that says what brings it.

    Raises:
        MissingExtraError: an import inside failed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs {error.name or error}: pip install 'mathnas[{extra}]'."
        ) from error
