"""What machine this is, in words, for the provenance of measurements."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mathnas.device import Device as Device  # used from here as much as from there

_T = TypeVar("_T")


def this_device(name: str | None = None, *, root: Path = Path("/")) -> Device:
    """The machine that this runs on.

    Args:
        name: by default the processor model and the number of cores.
        root: where ``proc`` and ``sys`` are found (for tests).
    """
    cpu = _cpu_model(root)
    cores = _usable_cores()
    frequency = root / "sys/devices/system/cpu"
    return Device(
        name or f"{cpu}, {cores} cores",
        cpu,
        cores,
        f"{platform.system()} {platform.machine()}".strip(),
        _memory_mb(root),
        _text(root / "proc/device-tree/model"),
        _common(frequency, "scaling_governor", lambda found: ", ".join(sorted(set(found)))),
        _common(frequency, "cpuinfo_max_freq", lambda found: max(map(int, found)) / 1000 or None),
    )


def _cpu_model(root: Path) -> str:
    """From the kernel where it tells (x86 ``model name``, boards ``Model``)."""
    fields = dict(_field(line) for line in _lines(root / "proc/cpuinfo") if ":" in line)
    return (
        fields.get("model name")
        or fields.get("Model")
        or platform.processor()
        or platform.machine()
        or "unknown processor"
    )


def _memory_mb(root: Path) -> float | None:
    """Of the kernel's ``MemTotal``, which is in KiB; to whole MB."""
    fields = dict(_field(line) for line in _lines(root / "proc/meminfo") if ":" in line)
    words = fields.get("MemTotal", "").split()
    if not words or not words[0].isdecimal():
        return None
    return float(round(int(words[0]) * 1024 / 1e6)) or None


def _common(folder: Path, name: str, make: Callable[[list[str]], _T]) -> _T | None:
    """Something made of a file that every processor has in its ``cpufreq`` folder (kHz, or a
    word); None where none can be read."""
    found = [_text(path) for path in sorted(folder.glob(f"cpu[0-9]*/cpufreq/{name}"))]
    texts = [text for text in found if text]
    if not texts:
        return None
    try:
        return make(texts)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """The one line of a file; the firmware's texts end with a zero byte."""
    lines = _lines(path)
    return (lines[0].strip("\0 \t") or None) if lines else None


def _lines(path: Path) -> list[str]:
    """The lines of a file, none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _field(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
