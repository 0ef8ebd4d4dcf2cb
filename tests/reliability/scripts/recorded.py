"""Evaluates slowly while its cost is recorded, to be killed; says what it has done."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability_cases import all_of, space_of

from mathnas import FunctionEvaluator, Network, Study, evaluate


def slow(network: Network) -> float:
    end = time.process_time() + 0.03
    while time.process_time() < end:
        pass
    print("evaluated")
    return float(sum(network))


class Meter:
    """One joule a reading."""

    name = "clock"

    def start(self) -> None:
        self.read = 0

    def joules(self) -> float:
        self.read += 1
        return float(self.read)

    def stop(self) -> None:
        pass


def main() -> None:
    space = space_of()
    with (
        Study("recorded.study", space) as study,
        study.recording("estimation", meter=Meter(), grid_intensity=50.0) as recorder,
    ):
        recorder.interval = 0.1
        # one network at a time is written at once
        for network in all_of(space, int(sys.argv[1])):
            evaluate(study, [network], FunctionEvaluator(slow, ["latency_ms"]))


if __name__ == "__main__":
    main()
