"""What a result file starts with: machine, date, versions and command."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import numpy as np

import mathnas
from mathnas.devices.host import this_device


def header(seed: int | str) -> str:
    """Lines that say where and how a result was made."""
    return "\n".join(
        [
            f"command: python {' '.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}",
            f"date: {time.strftime('%Y-%m-%d', time.gmtime())}, seed: {seed}",
            f"machine: {this_device().name}, {platform.system()}",
            f"versions: mathnas {mathnas.__version__}, Python {platform.python_version()}, "
            f"numpy {np.__version__}",
        ]
    )
