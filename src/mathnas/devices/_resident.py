"""The process whose peak memory is measured: see `mathnas.devices.memory`.

Reads a pickle (engine, model or None, runs) from standard input, and prints bytes.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path


def main() -> None:
    engine, model, runs = pickle.load(sys.stdin.buffer)
    _ = engine.version  # loads the engine's libraries, which are not the network's
    if model is not None:
        run = engine.prepare(model)
        for _ in range(runs):
            run()
    print(peak_bytes())


def peak_bytes() -> int:
    """Of this process: what the kernel says of it alone, where it does. (``ru_maxrss`` starts with
    the memory of the process that started this one.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
