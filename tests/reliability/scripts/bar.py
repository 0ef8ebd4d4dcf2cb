"""Evaluate with a bar, printing to standard output meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, space_of

from mathnas import Evaluator, Measurement, Network, Study, evaluate, metric_named


class Talks(Evaluator):
    metrics = (metric_named("latency_ms"),)

    def evaluate(self, network: Network, seed: int) -> Mapping[str, Measurement | float]:
        time.sleep(0.1)
        print("measured", flush=True)
        if sum(network) >= 3:
            raise RuntimeError("[/red] is no markup")
        return {"latency_ms": float(sum(network))}


if __name__ == "__main__":
    with Study("a.study", space_of()) as study:
        evaluate(study, all_of(space_of(), 20), Talks(), workers=int(sys.argv[1]))
