"""Refinement on NAS-Bench-Macro: regret of the recommended network after few evaluations.

    MATHNAS_DATA=... python benchmarks/refinement.py [--seeds 10]

Limits are the 25, 50 and 100 % quantiles of MACs. Regret: best true accuracy under the limit minus
that of the recommended network, in points; the truth is the mean of three trainings. First the
evaluator is that mean, then a single training, whose noise the recommendation has to survive.
Beside it: the best of as many random feasible networks (mean over seeds).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.datasets import nasbench_macro
from mathnas.evaluation import TabularEvaluator
from mathnas.refinement import refine

BUDGETS = (20, 30, 50)


def accuracies(table: TabularEvaluator) -> np.ndarray:
    found = []
    for network in table.networks:
        value = table.evaluate(network)["accuracy"]
        found.append(float(getattr(value, "value", value)))  # type: ignore[arg-type]
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print(header(f"0 to {seeds - 1}"))
    table = nasbench_macro()
    space, truth = table.space, accuracies(table)
    place = {network: row for row, network in enumerate(table.networks)}
    macs = space.macs(np.array(table.networks))
    evaluators: dict[str, tuple[TabularEvaluator, ...]] = {
        "mean of three trainings": (table,),
        "one training": tuple(nasbench_macro(t) for t in (0, 1, 2)),
    }
    starts: tuple[Literal["single", "balanced"], ...] = ("single", "balanced")
    for what, tables in evaluators.items():
        print(f"\nevaluator: {what}; regret in points at {BUDGETS} evaluations")
        print("  method               MACs limit   regret                 seconds")
        for share in (0.25, 0.5, 1.0):
            most = float(np.quantile(macs, share))
            feasible = macs <= most
            best = float(truth[feasible].max())
            for start in starts:
                regrets, begun = [], time.perf_counter()
                for budget in BUDGETS:
                    own = [
                        best - truth[place[recommended(one, most, budget, start)]] for one in tables
                    ]
                    regrets.append(float(np.mean(own)))
                seconds = (time.perf_counter() - begun) / len(tables)
                report(f"refine, {start}", share, regrets, seconds)
            regrets = []
            for budget in BUDGETS:
                own = []
                for seed in range(seeds):
                    measured = accuracies(tables[seed % len(tables)])
                    rng = np.random.default_rng(seed)
                    drawn = rng.choice(np.flatnonzero(feasible), budget, replace=False)
                    own.append(best - truth[drawn[measured[drawn].argmax()]])
                regrets.append(float(np.mean(own)))
            report("random", share, regrets, None)


def recommended(
    table: TabularEvaluator, most: float, budget: int, start: Literal["single", "balanced"]
) -> mn.Network:
    with tempfile.TemporaryDirectory() as folder:
        with mn.Study(Path(folder) / "refine.study", table.space) as study:
            found = refine(
                study,
                table,
                maximize="accuracy",
                limits={"macs": most},
                budget=budget,
                start=start,
            )
        assert found.network is not None
        return found.network


def report(method: str, share: float, regrets: list[float], seconds: float | None) -> None:
    shown = "  ".join(f"{regret:6.3f}" for regret in regrets)
    time_ = "" if seconds is None else f"{seconds:10.1f}"
    print(f"  {method:20} {share:9.0%}   {shown} {time_}", flush=True)


if __name__ == "__main__":
    main()
