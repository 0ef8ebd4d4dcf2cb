"""What machine this is, in words, for the provenance of measurements."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that runs networks.

    Attributes:
        name: stands in the conditions of what is measured on it.
        cpu: processor model.
        cores: logical processors that this process may use.
        system: operating system and architecture.
    """

    name: str
    cpu: str
    cores: int
    system: str

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def this_device(name: str | None = None, *, root: Path = Path("/")) -> Device:
    """The machine that this runs on.

    Args:
        name: by default the processor model and the number of cores.
        root: where ``proc`` is found (for tests).
    """
    cpu = _cpu_model(root)
    cores = _usable_cores()
    system = f"{platform.system()} {platform.machine()}".strip()
    return Device(name or f"{cpu}, {cores} cores", cpu, cores, system)


def _cpu_model(root: Path) -> str:
    """From the kernel where it tells (x86 ``model name``, boards ``Model``)."""
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = dict(_field(line) for line in text.splitlines() if ":" in line)
    return (
        fields.get("model name")
        or fields.get("Model")
        or platform.processor()
        or platform.machine()
        or "unknown processor"
    )


def _field(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
