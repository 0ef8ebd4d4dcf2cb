"""Does the demo's found network beat random networks under the same latency limit?

    python benchmarks/demo.py                        five seeds, about six minutes on two cores
    python benchmarks/demo.py --tabular              the same on the measurements on file

For every seed (of training and of the random networks) it prints the found network's percentile
in measured accuracy among 20 random networks that are predicted to meet the limit, and predicted
beside measured values. Nothing is chosen by the outcome: the seeds are 0 to 4, and the settings
were chosen on others.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from _machine import header
from mathnas.demo.flow import DemoResult, run_tabular_demo, run_trained_demo

_HEAD = (
    "seed  percentile  accuracy, %: predicted  measured  random mean  random best"
    "  latency, ms: limit  predicted  measured  seconds"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--tabular", action="store_true", help="the measurements on file")
    chosen = parser.parse_args()
    run = run_tabular_demo if chosen.tabular else run_trained_demo
    results = []
    print(header(f"0 to {chosen.seeds - 1}"))
    print(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.seeds):
            start = time.perf_counter()
            quiet = Console(file=io.StringIO())
            result = run(Path(folder) / str(seed), seed=seed, console=quiet)
            results.append(result)
            print(_line(seed, result, time.perf_counter() - start), flush=True)
    _summary(results)


def _line(seed: int, result: DemoResult, seconds: float) -> str:
    predicted = result.answer.predictions
    accuracies = [rival.accuracy for rival in result.rivals]
    return (
        f"{seed:4}  {result.percentile:10.1f}  {predicted['accuracy'].value:22.2f}"
        f"  {result.found.accuracy:8.2f}  {np.mean(accuracies):11.2f}  {max(accuracies):11.2f}"
        f"  {result.limit_ms:18.4f}  {predicted['latency_ms'].value:9.4f}"
        f"  {result.found.latency_ms:8.4f}  {seconds:7.1f}"
    )


def _summary(results: list[DemoResult]) -> None:
    percentiles = [result.percentile for result in results]
    gains = [
        result.found.accuracy - np.mean([rival.accuracy for rival in result.rivals])
        for result in results
    ]
    off = [
        abs(result.found.latency_ms / result.answer.predictions["latency_ms"].value - 1)
        for result in results
    ]
    over = sum(result.found.latency_ms > result.limit_ms for result in results)
    print(
        f"mean percentile {np.mean(percentiles):.1f} (lowest {min(percentiles):.1f}), "
        f"{np.mean(gains):+.2f} points against the random mean; latency off by "
        f"{100 * np.mean(off):.1f} % on average; measured above the limit in {over} of "
        f"{len(results)}."
    )


if __name__ == "__main__":
    main()
