"""SuperViT's whole program to proven optimality: 195 blocks, two limits, four resolutions, exact
MACs.

    python benchmarks/supervit_solver.py [--instances 100] [--highs 2]

Tables are drawn at random in kinds, from likely ones (accuracy with diminishing returns in MACs,
latency and energy nearly proportional to MACs) to awkward ones (ties, limits against each other,
and columns that are proportional within 10, 1, 0.1 and 0.01 %), and limits anywhere between the
lowest and highest use, each by itself. Every program is solved anew on one thread, in three forms:

1. one resolution, two additive limits;
2. all four resolutions, each a space with a table of its own: four solves, the best answer;
3. one resolution, an additive limit and one on the exact MACs, which are no sum over blocks: a
   stage's width is the next one's input.

Two times are told of each: of the solver from a prepared program on, and of the whole `mn.search`,
which reads the limits, makes the program, and solves again without each limit to tell which bind.
What takes long is timed once. Some programs are solved by HiGHS beside it, for at most 20 seconds.
Needs the extras `highs`, `dev`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.search import (
    HighsSolver,
    KernelSolver,
    Limit,
    Program,
    Solution,
    Solver,
    Status,
    solver_for,
)
from mathnas.space import Floats
from mathnas.spaces import SuperViT
from mathnas.spaces.supervit import RESOLUTIONS

SEED = 20261202
NOISE = {"within 10 %": 0.1, "within 1 %": 0.01, "within 0.1 %": 1e-3, "within 0.01 %": 1e-4}
KINDS = ("likely", "any", "ties", "opposed", *NOISE)
METRICS = ("latency_ms", "energy_mj")
_SECONDS = 20.0  # no solve may take longer
_LONG_MS = 100.0  # not timed again


@cache
def at(resolution: int) -> SuperViT:
    return SuperViT(resolution)


# ---- tables --------------------------------------------------------------------------------------


def columns(space: SuperViT, kind: str, rng: np.random.Generator) -> dict[str, Floats]:
    """A value for each block: accuracy, then the two metrics that are limited."""
    count = space.num_blocks
    macs = np.array([block.macs or 0.0 for node in space.nodes for block in node.blocks]) / 1e6
    noise = rng.standard_normal((3, count))
    size = rng.lognormal(0, 0.6, count)
    likely = {
        "accuracy": 0.35 * np.log1p(macs) + 0.05 * noise[0],
        "latency_ms": 0.1 * macs * np.exp(0.1 * noise[1]) + 0.05,
        "energy_mj": 1.1 * macs * np.exp(0.2 * noise[2]) + 0.5,
    }
    if kind == "likely":
        return likely
    if kind == "ties":
        return {"accuracy": likely["accuracy"].round(1)} | {
            name: likely[name].round(0) for name in METRICS
        }
    if kind == "any":
        worth = np.log1p(size) + 0.3 * rng.lognormal(0, 0.6, count)
        return {"accuracy": worth, "latency_ms": size, "energy_mj": size * np.exp(0.5 * noise[0])}
    if kind in NOISE:
        return {
            "accuracy": size * (1 + NOISE[kind] * noise[0]),
            "latency_ms": size,
            "energy_mj": size * (1 + NOISE[kind] * noise[1]),
        }
    assert kind == "opposed"
    return {
        "accuracy": likely["accuracy"] + 0.02 * size,
        "latency_ms": size,
        "energy_mj": 3.0 / (1.0 + size) + 0.2 * np.abs(noise[0]),
    }


def table_of(space: SuperViT, kind: str, seed: int) -> mn.BlockTable:
    rng = np.random.default_rng([SEED, seed, KINDS.index(kind), space.resolution])
    own = space.offsets[:-1] + np.array(space.reference)
    nothing = np.zeros(space.num_blocks)
    effects = {
        name: mn.BlockEffects(
            mn.metric_named(name),
            float(value[own].sum()),
            value - np.repeat(value[own], space.sizes),
            nothing,
            nothing,
        )
        for name, value in columns(space, kind, rng).items()
    }
    return mn.BlockTable(space, space.reference, effects)


def limit_on(table: mn.BlockTable, name: str, share: float) -> Limit:
    """Between the lowest and the highest use of a metric."""
    if name == "macs":
        space = table.space
        low, high = (float(space.macs([n])[0]) for n in extremes(space))
    else:
        column = table.column(name)
        low, high = (
            column.base + float(pick.reduceat(column.effects, table.space.offsets[:-1]).sum())
            for pick in (np.minimum, np.maximum)
        )
    return Limit(mn.metric_named(name), "<=", low + share * (high - low))


def extremes(space: mn.SearchSpace) -> Sequence[mn.Network]:
    return (0,) * space.num_nodes, tuple(size - 1 for size in space.sizes)


def programs(
    kind: str, seed: int, resolutions: Sequence[int], names: Sequence[str]
) -> list[Program]:
    """One for each resolution; their limits are numbers of the first."""
    rng = np.random.default_rng([SEED, seed, KINDS.index(kind)])
    shares = rng.uniform(0.05, 0.95, len(names)).tolist()
    tables = [table_of(at(resolution), kind, seed) for resolution in resolutions]
    limits = [limit_on(tables[0], name, share) for name, share in zip(names, shares, strict=True)]
    return [Program(table, "accuracy", True, limits) for table in tables]


# ---- timings -------------------------------------------------------------------------------------


def timed(call: Callable[[], float], times: int) -> float:
    """The median of a call's milliseconds."""
    spent = [call()]
    while len(spent) < times and spent[0] < _LONG_MS:
        spent.append(call())
    return float(np.median(spent))


def solve(one: Sequence[Program], solver: Solver) -> tuple[float, list[Solution]]:
    """Milliseconds of solving programs one after another, just prepared, and what was found."""
    fresh = [program.with_limits(program.limits) for program in one]
    if isinstance(solver, KernelSolver):
        for program in fresh:
            solver.prepare(program)
    start = time.perf_counter()
    found = [solver.solve(program, time_limit=_SECONDS) for program in fresh]
    return 1e3 * (time.perf_counter() - start), found


def is_proven(found: Sequence[Solution]) -> bool:
    return all(own.status in (Status.OPTIMAL, Status.INFEASIBLE) for own in found)


def values(one: Sequence[Program], found: Sequence[Solution]) -> list[float]:
    """Of the networks that were found, all of which must hold."""
    networks = [
        (program, network)
        for program, own in zip(one, found, strict=True)
        for network in own.networks
    ]
    assert all(program.holds(network) for program, network in networks)
    return [program.table.exact(network, "accuracy") for program, network in networks]


def solved(one: Sequence[Program], times: int) -> tuple[float, list[float]]:
    """Median milliseconds of the solver that a search takes, and the values; all are proven."""
    solver = solver_for(one[0], "auto")
    best: list[float] = []

    def call() -> float:
        spent, found = solve(one, solver)
        assert is_proven(found)
        best[:] = values(one, found)
        return spent

    return timed(call, times), best


def searched(one: Sequence[Program], times: int) -> float:
    """Median milliseconds of `mn.search` on programs' tables, one after another."""
    wanted = [
        (program.table, {limit.metric.name: limit.value for limit in program.limits})
        for program in one
    ]

    def call() -> float:
        start = time.perf_counter()
        for table, limits in wanted:
            mn.search(table, maximize="accuracy", limits=limits)
        return 1e3 * (time.perf_counter() - start)

    return timed(call, times)


def report(
    title: str, most: float, count: int, times: int, make: Callable[[str, int], list[Program]]
) -> None:
    print(f"\n## {title}: asked at most {most:g} ms")
    print("ms, median / p90 / p99 / max, and how many within; all proven")
    every: list[tuple[float, float]] = []
    for kind in KINDS:
        found, nothing = [], 0
        for seed in range(count):
            one = make(kind, seed)
            spent, best = solved(one, times)
            found.append((spent, searched(one, times)))
            nothing += not best
        _say(kind, found, most, f"   {nothing} infeasible" if nothing else "")
        every += found
    _say("all", every, most)


def _say(name: str, found: Sequence[tuple[float, float]], most: float, rest: str = "") -> None:
    texts = []
    for times in zip(*found, strict=True):
        shown = [*np.quantile(times, [0.5, 0.9, 0.99]), max(times)]
        within = sum(value <= most for value in times)
        texts.append(" / ".join(f"{value:.3f}" for value in shown) + f" ({within} of {len(found)})")
    print(f"  {name:13}  solver {texts[0]:47}  search {texts[1]}{rest}", flush=True)


def beside(title: str, count: int, make: Callable[[str, int], list[Program]]) -> None:
    """HiGHS on the same programs."""
    ours, theirs, differ, late = [], [], 0, 0
    for kind in KINDS:
        for seed in range(count):
            one = make(kind, seed)
            mine, best = solved(one, 1)
            spent, found = solve(one, HighsSolver())
            ours.append(mine)
            theirs.append(spent)
            if is_proven(found):
                other = values(one, found)
                differ += len(best) != len(other) or not np.allclose(best, other, rtol=1e-6)
            else:
                late += 1
    ratio = float(np.median(theirs)) / float(np.median(ours))
    print(
        f"{title}: HiGHS {np.median(theirs):.1f} ms, x{ratio:.0f} of ours, in the median over "
        f"{len(ours)} programs; {late} not proven in {_SECONDS:g} s; answers of the others that "
        f"differ: {differ}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--highs", type=int, default=2)
    options = parser.parse_args()
    print(header(SEED))
    print(
        f"{options.instances} programs of each kind, each solved anew, the median of "
        f"{options.times} times, once where it takes more than {_LONG_MS:g} ms"
    )

    def one(kind: str, seed: int) -> list[Program]:
        return programs(kind, seed, [RESOLUTIONS[seed % len(RESOLUTIONS)]], METRICS)

    def every(kind: str, seed: int) -> list[Program]:
        return programs(kind, seed, RESOLUTIONS, METRICS)

    def exact(kind: str, seed: int) -> list[Program]:
        resolution = RESOLUTIONS[seed % len(RESOLUTIONS)]
        return programs(kind, seed, [resolution], ["latency_ms", "macs"])

    forms = {
        "two additive limits": (0.5, one),
        "four resolutions, two additive limits": (2.0, every),
        "exact MACs and an additive limit": (50.0, exact),
    }
    for title, (most, make) in forms.items():
        report(title, most, options.instances, options.times, make)
    print()
    for title, (_, make) in forms.items():
        beside(title, options.highs, make)


if __name__ == "__main__":
    main()
