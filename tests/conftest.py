"""Shared by all tests."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mathnas.errors import MissingDataError

# A shell's background job ignores Ctrl-C, and so would all processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in an empty folder; returns exit code, stdout, stderr."""
    from mathnas.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
