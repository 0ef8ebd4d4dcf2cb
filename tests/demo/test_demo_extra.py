"""What the demo says where torch is missing."""

from __future__ import annotations

import importlib.util
import io
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from rich.console import Console

from mathnas import MissingExtraError
from mathnas.demo.flow import run_trained_demo


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def found(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in ("torch", "onnx") else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(MissingExtraError, match=r"torch, onnx cannot be found.*\n.*mathnas\[demo"):
        run_trained_demo(tmp_path, console=Console(file=io.StringIO()))
    assert not list(tmp_path.iterdir())
