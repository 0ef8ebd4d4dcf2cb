"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "mathnas.devices.common",
    "mathnas.evaluation",
    "mathnas.search._search",
    "mathnas.spaces.families",
    "mathnas.spaces.fbnet",
    "mathnas.spaces.mobilenetv3",
    "mathnas.spaces.nasbench201",
    "mathnas.spaces.nasbench_macro",
    "mathnas.spaces.supertransformer",
    "mathnas.spaces.supervit",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
