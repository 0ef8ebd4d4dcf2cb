"""Solvers beside a brute force on small programs, and beside one another on large ones.

    python benchmarks/agreement.py [--cases 2000] [--highs 400] [--seed 20261124]

Small programs come from the tests' generator: p in {0, 0.3, 1}, 0 to 4 limits of both senses (many
exactly at, or one unit of the last place beside, what a network uses), 1 to 10 answers, ties,
identical nodes, rules, depth rules, both directions, negative optima. They are judged by the exact
predictions of every network.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.search import (
    EnumerationSolver,
    HighsSolver,
    KernelSolver,
    Program,
    Solver,
    Status,
    VectorisedSolver,
)
from speed import instance

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "search"))

from solver_cases import check, random_case  # after the path that it is found on

LARGE = {
    "20x9": [9] * 20,
    "SuperViT, 195": [2, 8, 36, 24, 24, 63, 24, 12, 2],
    "SuperTransformer, 258": [6] * 6 + [37] * 6,
    "48x20": [20] * 48,
}


def small(solver: Solver, seeds: range) -> None:
    """Fails on the first answer that differs from the brute force."""
    start, solved, several, infeasible = time.perf_counter(), 0, 0, 0
    for seed in seeds:
        program = random_case(seed)
        # HiGHS serves p = 0 and p = 1; each further answer is one more solve
        count = 1 if isinstance(solver, HighsSolver) else 1 + seed % 10
        if isinstance(solver, HighsSolver) and 0 < program.power < 1:
            continue
        solution = solver.solve(program, count=count)
        check(program, solution, count, f"{solver.name}, seed {seed}")
        solved += 1
        several += len(solution.networks) > 1
        infeasible += not solution.networks
    print(
        f"  {solver.name:12} {solved:6} programs, {several} with several answers, {infeasible} "
        f"infeasible: no disagreement ({time.perf_counter() - start:.0f} s)",
        flush=True,
    )


def large(count: int, seed: int) -> None:
    """Largest difference of proven optima, relative to the range of the objective."""
    solvers: list[Solver] = [KernelSolver(), VectorisedSolver(), HighsSolver()]
    for name, sizes in LARGE.items():
        for form in (mn.Form.LINEAR, mn.Form.SPACE_MEAN):
            worst, unproven = 0.0, dict.fromkeys((s.name for s in solvers), 0)
            for number in range(count):
                program: Program = instance(sizes, seed + number, form, None)
                found = []
                for solver in solvers:
                    solution = solver.solve(program, time_limit=20)
                    if solution.status is Status.OPTIMAL:
                        value = program.table.exact(solution.networks[0], program.objective.name)
                        found.append(value)
                    else:
                        unproven[solver.name] += 1
                worst = max(worst, float(np.ptp(found)) / program.span)
            late = ", ".join(f"{k} {v}" for k, v in unproven.items() if v) or "none"
            print(
                f"  {name:22} {form.value:28} {count} instances, proven optima differ by at most "
                f"{worst:.1e} of the range; not proven in 20 s: {late}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--highs", type=int, default=400)
    parser.add_argument("--large", type=int, default=8)
    parser.add_argument("--seed", type=int, default=20261124)
    chosen = parser.parse_args()
    print(header(chosen.seed))
    print("\nsmall programs against the brute force")
    for one in (KernelSolver(), VectorisedSolver(), EnumerationSolver()):
        small(one, range(chosen.seed, chosen.seed + chosen.cases))
    small(HighsSolver(), range(chosen.seed, chosen.seed + chosen.highs))
    print("\nlarge programs, two limits, kernel beside numpy beside HiGHS")
    large(chosen.large, chosen.seed)
