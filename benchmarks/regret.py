"""Regret against evaluations: every method on NAS-Bench-201 and NAS-Bench-Macro.

    MATHNAS_DATA=... python benchmarks/regret.py --store regret.jsonl [--methods random evolution]
        [--seeds 10] [--figure regret.png]

NAS-Bench-201: two accuracies, each under limits on two latencies (Raspberry Pi 5 with LiteRT, FPGA)
that are measured with it. NAS-Bench-Macro: accuracy (mean of three trainings) under limits on MACs,
which the space declares. Limits are the 25, 50 and 100 % quantiles over all networks.

Regret after b evaluations: accuracy of the best network within the limit, minus that of the best
one among the first b that the run evaluated, in points. Where none of them is within the limit, the
answer counts as an average network within it ("blind"). One run with the largest budget serves all
smaller ones; but for `ofa-finder`, which divides its budget and is run with each.

With --store, runs are kept in a file, one a line, and not made again; --again makes those of the
methods that are named again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.baselines import METHODS
from mathnas.datasets import nasbench201, nasbench_macro

BUDGETS = (25, 50, 75, 100)
SHARES = (0.25, 0.5, 1.0)
NEAR = (0.1, 0.3)  # points
AT = 50  # evaluations, for the share of cases that are near
ACCURACIES = ("accuracy_cifar100", "accuracy_imagenet16_120")
LATENCIES = ("latency_ms_pi5_litert_cifar100", "latency_ms_fpga")


@dataclass(frozen=True)
class Way:
    """A method as it is run: under which name of `METHODS`, with which options.

    Attributes:
        seeded: whether another seed changes what it evaluates.
        divides: whether what it does first depends on the budget.
    """

    method: str
    options: tuple[tuple[str, Any], ...] = ()
    seeded: bool = True
    divides: bool = False


WAYS: dict[str, Way] = {
    "random": Way("random"),
    "evolution": Way("evolution"),
    "local": Way("local"),
    "nsga2": Way("nsga2"),
    "ofa-finder": Way("ofa-finder", divides=True),
    "best-blocks": Way("best-blocks", seeded=False),
    "single": Way("single", seeded=False),
    "mathnas-single": Way("mathnas", (("start", "single"),), seeded=False),
    "mathnas-balanced": Way("mathnas", (("start", "balanced"),)),
}


@dataclass(frozen=True)
class Case:
    """A search: what is maximised, what is limited, and at which quantile."""

    data: str
    objective: str
    limited: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.data}/{self.objective}/{self.limited}/{self.share:g}"


CASES = [
    *(
        Case("nasbench201", accuracy, latency, share)
        for accuracy in ACCURACIES
        for latency in LATENCIES
        for share in SHARES
    ),
    *(Case("nasbench_macro", "accuracy", "macs", share) for share in SHARES),
]


@dataclass(frozen=True)
class World:
    """A case with its truth, by network."""

    table: mn.TabularEvaluator
    accuracy: Mapping[mn.Network, float]
    used: Mapping[mn.Network, float]
    limit: float

    def within(self) -> list[float]:
        """The accuracies of all networks within the limit."""
        return [self.accuracy[n] for n, used in self.used.items() if used <= self.limit]


@lru_cache(maxsize=4)
def world_of(case: Case) -> World:
    if case.data == "nasbench201":
        table: mn.TabularEvaluator = nasbench201(
            case.objective.removeprefix("accuracy_").replace("16_", "16-"),
            [case.objective, case.limited],
        )
        used = column(table, case.limited)
    else:
        whole = nasbench_macro()
        rows = {n: {"accuracy": value} for n, value in column(whole, "accuracy").items()}
        table = mn.TabularEvaluator(whole.space, rows, ["accuracy"], conditions=whole.conditions)
        used = dict(zip(rows, table.space.macs(list(rows)).tolist(), strict=True))
    limit = float(np.quantile(list(used.values()), case.share))
    return World(table, column(table, case.objective), used, limit)


@cache
def summary_of(case: Case) -> tuple[float, float]:
    """The best and the average accuracy within the limit."""
    within = world_of(case).within()
    return max(within), float(np.mean(within))


def column(table: mn.TabularEvaluator, metric: str) -> dict[mn.Network, float]:
    values = {network: table.evaluate(network)[metric] for network in table.networks}
    return {n: v.value if isinstance(v, mn.Measurement) else float(v) for n, v in values.items()}


# ---- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One call of a method."""

    way: str
    case: Case
    seed: int
    budget: int

    @property
    def key(self) -> str:
        return f"{self.way} {self.case.name} {self.seed} {self.budget}"


def runs_of(ways: Iterable[str], seeds: int) -> list[Run]:
    return [
        Run(way, case, seed, budget)
        for way in ways
        for case in CASES
        for seed in range(seeds if WAYS[way].seeded else 1)
        for budget in (BUDGETS if WAYS[way].divides else BUDGETS[-1:])
    ]


def made(run: Run) -> dict[str, Any]:
    """A record: the regret after each number of evaluations (null: nothing within the limit)."""
    world, way = world_of(run.case), WAYS[run.way]
    limits = {run.case.limited: world.limit}
    begun = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mn.Study(Path(folder) / "regret.study", world.table.space) as study,
    ):
        found = METHODS[way.method](
            study,
            world.table,
            maximize=run.case.objective,
            limits=limits,
            budget=run.budget,
            seed=run.seed,
            **dict(way.options),
        )
        order = [fact.network for fact in study.evaluations(run.case.objective)]
    seconds = time.perf_counter() - begun
    best = max(world.within())
    reached, curve = -math.inf, []
    for network in order:
        if world.used[network] <= world.limit:
            reached = max(reached, world.accuracy[network])
        curve.append(None if reached == -math.inf else round(best - reached, 6))
    answered = found.values.get(run.case.objective)
    assert answered == (None if reached == -math.inf else reached)  # the truth was what it measured
    return {"key": run.key, "curve": curve, "reason": found.reason, "seconds": round(seconds, 3)}


def records_of(
    runs: Sequence[Run], store: Path | None, again: bool, workers: int
) -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    if store is not None and store.exists():
        lines = store.read_text("utf-8").splitlines()
        kept = {record["key"]: record for record in map(json.loads, lines)}
    wanted = [run for run in runs if again or run.key not in kept]
    begun = time.perf_counter()
    for done, record in enumerate(results(wanted, workers), start=1):
        kept[record["key"]] = record
        if store is not None:
            with store.open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file)
        if done % 100 == 0:
            spent = time.perf_counter() - begun
            print(f"  ... {done} of {len(wanted)} runs in {spent:.0f} s", flush=True)
    return kept


def results(runs: Sequence[Run], workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(made, runs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(made, runs, chunksize=10)


# ---- what they say -------------------------------------------------------------------------------


def curve_of(way: str, case: Case, seed: int, kept: Mapping[str, dict[str, Any]]) -> np.ndarray:
    """Regret after 1, 2, ... evaluations, NaN where nothing was within the limit; a method that
    divides its budget has values at `BUDGETS` alone."""
    curve = np.full(BUDGETS[-1], np.nan)
    for budget in BUDGETS if WAYS[way].divides else BUDGETS[-1:]:
        values = kept[Run(way, case, seed, budget).key]["curve"]
        found = np.array([np.nan if value is None else value for value in values])
        if WAYS[way].divides:
            curve[budget - 1] = found[-1]
        else:
            curve[: len(found)], curve[len(found) :] = found, found[-1]
    return curve


def curves_of(
    way: str, cases: Sequence[Case], seeds: int, kept: Mapping[str, dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Regrets of shape (cases and seeds, evaluations), with those without an answer at what an
    average network within the limit has; and which those are."""
    found, blind = [], []
    for case in cases:
        best, average = summary_of(case)
        for seed in range(seeds if WAYS[way].seeded else 1):
            curve = curve_of(way, case, seed, kept)
            blind.append(np.isnan(curve))
            found.append(np.where(blind[-1], best - average, curve))
    return np.array(found), np.array(blind)


def report(ways: Sequence[str], seeds: int, kept: Mapping[str, dict[str, Any]]) -> None:
    groups = {
        "NAS-Bench-201, 12 cases": [case for case in CASES if case.data == "nasbench201"],
        "NAS-Bench-Macro, 3 cases": [case for case in CASES if case.data == "nasbench_macro"],
    }
    for title, cases in groups.items():
        print(f"\n{title}: mean regret in points after that many evaluations, and at {AT}")
        print("the share of runs within so many points of the best, and of blind ones")
        budgets = "".join(f"{budget:8}" for budget in BUDGETS)
        near = "".join(f"{f'<= {points}':>9}" for points in NEAR)
        print(f"  {'method':18}{budgets}  {near}    blind   runs  seconds a run")
        for way in ways:
            curves, blind = curves_of(way, cases, seeds, kept)
            means = "".join(f"{curves[:, b - 1].mean():8.3f}" for b in BUDGETS)
            at = curves[:, AT - 1]
            shares = "".join(f"{np.mean(at <= points + 1e-9):9.0%}" for points in NEAR)
            seconds = np.mean(
                [kept[run.key]["seconds"] for run in runs_of([way], seeds) if run.case in cases]
            )
            print(
                f"  {way:18}{means}  {shares}{blind[:, AT - 1].mean():9.0%}{len(at):7}"
                f"{seconds:15.2f}"
            )


def draw(path: Path, ways: Sequence[str], seeds: int, kept: Mapping[str, dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for data, axis in zip(("nasbench201", "nasbench_macro"), axes, strict=True):
        cases = [case for case in CASES if case.data == data]
        for way in ways:
            curves, _ = curves_of(way, cases, seeds, kept)
            x = np.arange(1, BUDGETS[-1] + 1)
            style = "-"
            if WAYS[way].divides:
                x, style = np.array(BUDGETS), "o--"
            axis.plot(x, curves.mean(axis=0)[x - 1], style, label=way, markersize=4)
        name = {"nasbench201": "NAS-Bench-201", "nasbench_macro": "NAS-Bench-Macro"}[data]
        axis.set(title=name, xlabel="evaluations", ylabel="mean regret (points)")
        axis.set_yscale("symlog", linthresh=0.1)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    print(header(f"0 to {given.seeds - 1}"), flush=True)
    kept = records_of(runs_of(given.methods, given.seeds), given.store, given.again, given.workers)
    report(given.methods, given.seeds, kept)
    if given.figure is not None:
        draw(given.figure, given.methods, given.seeds, kept)


if __name__ == "__main__":
    main()
