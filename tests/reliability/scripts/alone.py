"""Measure alone on this machine, and note when."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, space_of

from mathnas import FunctionEvaluator, Network, Study, evaluate

NAP = float(sys.argv[2])


def measure(network: Network) -> float:
    begin = time.monotonic()
    with Path("spans").open("a") as log:
        time.sleep(NAP)
        log.write(f"{begin!r} {time.monotonic()!r}\n")
    return 1.0


if __name__ == "__main__":
    with Study(sys.argv[1], space_of()) as study:
        evaluator = FunctionEvaluator(measure, ["latency_ms"], exclusive=True)
        count = 10 if NAP < 1 else 1
        evaluate(study, all_of(space_of(), count), evaluator)
