"""The machine in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mathnas.devices.host import this_device


def with_cpuinfo(root: Path, text: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(text, encoding="utf-8")
    return root


def test_the_processor_model_of_a_pc(tmp_path: Path) -> None:
    root = with_cpuinfo(tmp_path, "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Fast CPU 9000\n")
    device = this_device(root=root)
    assert device.cpu == "Fast CPU 9000"
    assert device.name == f"Fast CPU 9000, {device.cores} cores"


def test_the_model_of_a_board(tmp_path: Path) -> None:
    root = with_cpuinfo(tmp_path, "processor\t: 0\nBogoMIPS\t: 108.00\nModel\t: Small Board 5\n")
    assert this_device(root=root).cpu == "Small Board 5"


def test_without_cpuinfo_something_is_said(tmp_path: Path) -> None:
    assert this_device(root=tmp_path).cpu


def test_a_name_may_be_given(tmp_path: Path) -> None:
    device = this_device("the box in the cellar", root=tmp_path)
    assert device.name == "the box in the cellar"
    assert device.to_dict()["name"] == "the box in the cellar"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_cores_are_those_that_may_be_used() -> None:
    assert this_device().cores == len(os.sched_getaffinity(0))
