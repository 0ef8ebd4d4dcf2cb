"""SuperViT's whole program to proven optimality: 195 blocks, two limits, four resolutions, exact
MACs.

    python benchmarks/supervit_solver.py [--instances 100] [--highs 2]

Tables are drawn at random in five kinds, from likely ones (accuracy with diminishing returns in
MACs, latency and energy nearly proportional to MACs) to awkward ones (ties, nearly proportional
columns, limits against each other), and limits anywhere between the lowest and highest use, each by
itself. Every program is solved anew on one thread, in three forms:

1. one resolution, two additive limits;
2. all four resolutions, each a space with a table of its own: four solves, the best answer;
3. one resolution, an additive limit and one on the exact MACs, which are no sum over blocks: a
   stage's width is the next one's input.

Some are solved by HiGHS beside it. Needs the extras `highs`, `dev`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.search import HighsSolver, KernelSolver, Limit, Program, Solver, Status, solver_for
from mathnas.space import Floats
from mathnas.spaces import SuperViT
from mathnas.spaces.supervit import RESOLUTIONS

SEED = 20261202
KINDS = ("likely", "any", "ties", "correlated", "opposed")
METRICS = ("latency_ms", "energy_mj")
_SECONDS = 20.0  # no solve may take longer


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
    if kind == "correlated":
        scale = 10.0 ** -rng.integers(1, 5)
        return {
            "accuracy": size * (1 + scale * noise[0]),
            "latency_ms": size,
            "energy_mj": size * (1 + scale * noise[1]),
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


def solved(
    one: Sequence[Program], times: int, other: Solver | None = None
) -> tuple[float, list[float]]:
    """Median milliseconds of solving programs one after another, just prepared, and their values;
    all must be proven. By default by the solver that a search takes."""
    solver = solver_for(one[0], "auto") if other is None else other
    spent, values = [], []
    for _ in range(times):
        fresh = [program.with_limits(program.limits) for program in one]
        if isinstance(solver, KernelSolver):
            for program in fresh:
                solver.prepare(program)
        start = time.perf_counter()
        found = [solver.solve(program, time_limit=_SECONDS) for program in fresh]
        spent.append(1e3 * (time.perf_counter() - start))
        assert all(s.status in (Status.OPTIMAL, Status.INFEASIBLE) for s in found)
        values = [
            program.table.exact(network, "accuracy")
            for program, solution in zip(one, found, strict=True)
            for network in solution.networks
        ]
        assert all(
            program.holds(network)
            for program, solution in zip(one, found, strict=True)
            for network in solution.networks
        )
    return float(np.median(spent)), values


def report(
    title: str, most: float, count: int, times: int, make: Callable[[str, int], list[Program]]
) -> None:
    print(f"\n## {title}: asked at most {most:g} ms")
    print("ms of the solver, median / p90 / p99 / max; all proven")
    every: list[float] = []
    for kind in KINDS:
        found, nothing = [], 0
        for seed in range(count):
            spent, values = solved(make(kind, seed), times)
            found.append(spent)
            nothing += not values
        _say(kind, found, most, f", {nothing} infeasible")
        every += found
    _say("all", every, most)


def _say(name: str, found: Sequence[float], most: float, rest: str = "") -> None:
    values = [*np.quantile(found, [0.5, 0.9, 0.99]), max(found)]
    text = " / ".join(f"{value:7.3f}" for value in values)
    within = sum(value <= most for value in found)
    print(f"  {name:12} {text}   {within} of {len(found)} within{rest}", flush=True)


def beside(title: str, count: int, make: Callable[[str, int], list[Program]]) -> None:
    """HiGHS on the same programs."""
    ours, theirs, differ = [], [], 0
    for kind in KINDS:
        for seed in range(count):
            one = make(kind, seed)
            mine, best = solved(one, 1)
            spent, other = solved(one, 1, HighsSolver())
            ours.append(mine)
            theirs.append(spent)
            differ += len(best) != len(other) or not np.allclose(best, other, rtol=1e-6)
    ratio = float(np.median(theirs)) / float(np.median(ours))
    print(
        f"{title}: HiGHS {np.median(theirs):.1f} ms, x{ratio:.0f} of ours, in the median over "
        f"{len(ours)} programs; answers that differ: {differ}",
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
        f"{options.times} times"
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
