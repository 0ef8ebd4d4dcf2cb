"""Workers that do not end when they are asked to."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, space_of

from mathnas import Evaluator, Measurement, Network, Study, evaluate, metric_named


class Stubborn(Evaluator):
    metrics = (metric_named("latency_ms"),)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with Path("began").open("a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(600)
        return {"latency_ms": 1.0}


if __name__ == "__main__":
    with Study(sys.argv[1], space_of()) as study:
        try:
            evaluate(study, all_of(space_of(), 2), Stubborn(), workers=2)
        except KeyboardInterrupt:
            print("interrupted")
