"""The machine in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mathnas.device import Device
from mathnas.devices.host import this_device


def tree(root: Path, **files: str) -> Path:
    """A root folder with these files, `__` standing for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_processor_model_of_a_pc(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Fast CPU 9000\n"
    device = this_device(root=tree(tmp_path, proc__cpuinfo=cpuinfo))
    assert device.cpu == "Fast CPU 9000"
    assert device.name == f"Fast CPU 9000, {device.cores} cores"


def test_the_model_of_a_board(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nBogoMIPS\t: 108.00\nModel\t: Small Board 5\n",
        **{"proc__device-tree__model": "Small Board 5 Rev 1.0\0"},
    )
    device = this_device(root=root)
    assert (device.cpu, device.board) == ("Small Board 5", "Small Board 5 Rev 1.0")


def test_memory_governor_and_frequency(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__cpu"
    files = {
        "proc__meminfo": "MemTotal:        8000000 kB\nMemFree:  1 kB\n",
        f"{cpu}0__cpufreq__scaling_governor": "ondemand\n",
        f"{cpu}0__cpufreq__cpuinfo_max_freq": "1800000\n",
        f"{cpu}10__cpufreq__scaling_governor": "ondemand\n",
        f"{cpu}10__cpufreq__cpuinfo_max_freq": "2400000\n",
        "sys__devices__system__cpu__cpufreq__boost": "1\n",
    }
    device = this_device(root=tree(tmp_path, **files))
    assert (device.memory_mb, device.governor, device.max_mhz) == (8192.0, "ondemand", 2400.0)
    (tmp_path / f"{cpu}10__cpufreq__scaling_governor".replace("__", "/")).write_text("powersave")
    assert this_device(root=tmp_path).governor == "ondemand, powersave"


def test_without_files_nothing_is_made_up(tmp_path: Path) -> None:
    device = this_device(root=tmp_path)
    assert device.cpu
    known = (device.memory_mb, device.board, device.governor, device.max_mhz)
    assert known == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "\n", "fast\n", "0\n"])
def test_a_frequency_that_is_no_number_is_not_known(tmp_path: Path, text: str) -> None:
    files = {"sys__devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq": text}
    assert this_device(root=tree(tmp_path, **files)).max_mhz is None
    assert this_device(root=tree(tmp_path, proc__meminfo=f"MemTotal: {text}")).memory_mb is None


def test_a_name_may_be_given(tmp_path: Path) -> None:
    device = this_device("the box in the cellar", root=tmp_path)
    assert device.name == "the box in the cellar"
    assert Device.from_dict(device.to_dict()) == device


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_cores_are_those_that_may_be_used() -> None:
    assert this_device().cores == len(os.sched_getaffinity(0))
