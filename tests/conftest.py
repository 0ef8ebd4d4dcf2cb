"""Shared by all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mathnas.errors import MissingDataError


@pytest.fixture(scope="session")
def require() -> Callable[..., Path]:
    """``require(name, file=None)``: the path of a public data file, or the test is skipped.

    A damaged file is an error, not a reason to skip.
    """
    from mathnas.datasets import fetch

    def path_or_skip(name: str, file: str | None = None) -> Path:
        try:
            return fetch(name, file)
        except MissingDataError:
            pytest.skip(f"needs the public data set {name}: set MATHNAS_DATA")

    return path_or_skip
