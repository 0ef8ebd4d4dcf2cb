"""What a result file starts with: machine, date, versions and command."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

import mathnas


def header(seed: int | str) -> str:
    """Lines that say where and how a result was made."""
    return "\n".join(
        [
            f"command: python {' '.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}",
            f"date: {time.strftime('%Y-%m-%d', time.gmtime())}, seed: {seed}",
            f"machine: {_processor()}, {os.cpu_count()} cores, {platform.system()}",
            f"versions: mathnas {mathnas.__version__}, Python {platform.python_version()}, "
            f"numpy {np.__version__}",
        ]
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
