"""Time to a proven optimum: our solvers beside HiGHS, scipy, Gurobi and the paper's substitution.

    python benchmarks/solver.py [--instances 16] [--seconds 10]

Every instance is solved by every solver in turn, in one process, on one thread. The paper solves
the same fractional program with Gurobi and reports 0.4 to 12 s on devices, with a limit of 10 s.
Needs the extras `highs` and `dev`; Gurobi is used where gurobipy can be imported (its pip licence
allows 2,000 variables).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highspy
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

import mathnas as mn
from _machine import header
from mathnas.search import Program, VectorisedSolver, pareto_front
from mathnas.search.compiled import KernelSolver
from mathnas.search.highs import HighsSolver
from speed import SEED, instance

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "search"))

from solver_cases import large_case  # after the path that it is found on

SPACES = {
    "NAS-Bench-201, 6x5": [5] * 6,
    "MobileNetV3, 5x5": [5] * 5,
    "20x9": [9] * 20,
    "SuperViT, 195": [2, 8, 36, 24, 24, 63, 24, 12, 2],
    "SuperTransformer, 258": [6] * 6 + [37] * 6,
    "48x20": [20] * 48,
    "96x50": [50] * 96,
}
_SLOW = 2_000  # more variables than this: ours and HiGHS only


@dataclass(frozen=True)
class Timing:
    """Seconds, and the normal-form objective of the network found; NaN where there is none."""

    seconds: float
    objective: float


Method = Callable[[Program, float], Timing]


def ours(solver: Any, *, prepared: bool = False) -> Method:
    """A solver of ours, from the table on, or from a program that it has prepared."""

    def solve(given: Program, seconds: float) -> Timing:
        if prepared:
            program = _copy(given)
            solver.prepare(program)
        start = time.perf_counter()
        if not prepared:
            program = _copy(given)
        solution = solver.solve(program, time_limit=seconds)
        spent = time.perf_counter() - start
        if not solution.networks or solution.status != "optimal":
            return Timing(spent, math.nan)
        return Timing(spent, _objective(program, solution.networks[0]))

    return solve


def _copy(program: Program) -> Program:
    """The same program made again, so that nothing is known of it from an earlier solve."""
    return Program(program.table, program.objective.name, program.maximize, program.limits)


def dinkelbach(minimise: Callable[[Program, np.ndarray, float], np.ndarray | None]) -> Method:
    """Dinkelbach's iteration around a linear 0-1 solver: min A - u F, u = A / F, until it stops."""

    def solve(program: Program, seconds: float) -> Timing:
        start = time.perf_counter()
        ratio = 0.0
        best = math.inf
        while True:
            left = seconds - (time.perf_counter() - start)
            costs = program.costs - ratio * program.macs if program.power else program.costs
            x = minimise(program, costs, left)
            if x is None:
                return Timing(time.perf_counter() - start, math.nan)
            macs = program.fixed_macs + float(program.macs @ x) if program.power else 1.0
            value = float(program.costs @ x) / macs
            if not program.power or value >= best - 1e-9 * max(1.0, abs(best)):
                return Timing(time.perf_counter() - start, min(best, value))
            best = ratio = value

    return solve


def scipy_milp(program: Program, costs: np.ndarray, seconds: float) -> np.ndarray | None:
    rows = program.rows
    count = len(costs)
    choose = _choice_rows(program)
    constraints = [LinearConstraint(choose, 1, 1)]
    if len(rows.bounds):
        constraints.append(LinearConstraint(rows.weights, -np.inf, rows.bounds))
    result = milp(
        costs,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": max(seconds, 1e-3), "mip_rel_gap": 0.0},
    )
    return np.round(result.x) if result.status == 0 else None


def charnes_cooper(program: Program, seconds: float) -> Timing:
    """The paper's substitution on HiGHS: t = 1 / F, y = x t, with the products linearised.

    min sum a y  subject to  sum of a node's y = t, fixed t + sum f y = 1, W y <= b t,
    low x <= y <= high x, t - high (1 - x) <= y <= t - low (1 - x), x binary.
    """
    start = time.perf_counter()
    if not program.power:
        return Timing(math.nan, math.nan)
    starts, count, rows = program.offsets[:-1], len(program.costs), program.rows
    least = program.fixed_macs + np.minimum.reduceat(program.macs, starts).sum()
    most = program.fixed_macs + np.maximum.reduceat(program.macs, starts).sum()
    low, high = 1 / most, 1 / least
    unit = math.sqrt(low * high)  # scale t and y to about 1
    low, high = low / unit, high / unit
    model = highspy.Highs()  # type: ignore[no-untyped-call]
    model.setOptionValue("output_flag", False)
    model.setOptionValue("threads", 1)
    model.setOptionValue("time_limit", seconds)
    model.setOptionValue("mip_rel_gap", 0.0)
    infinity = highspy.kHighsInf
    for j in range(count):
        model.addVar(0.0, high)
        model.changeColCost(j, float(program.costs[j]))
    for _ in range(count):
        model.addVar(0.0, 1.0)
    model.addVar(low, high)
    t = 2 * count
    for j in range(count):
        model.changeColIntegrality(count + j, highspy.HighsVarType.kInteger)

    def row(lower: float, upper: float, index: list[int], value: list[float]) -> None:
        model.addRow(lower, upper, len(index), np.array(index), np.array(value, dtype=float))

    for begin, end in zip(starts, program.offsets[1:], strict=True):
        own = list(range(begin, end))
        row(0.0, 0.0, [*own, t], [1.0] * len(own) + [-1.0])
        row(1.0, 1.0, [count + j for j in own], [1.0] * len(own))
    every = list(range(count))
    mean = 1 / unit
    row(
        1.0,
        1.0,
        [*every, t],
        [*(program.macs / mean).tolist(), program.fixed_macs / mean],
    )
    for weights, bound in zip(rows.weights, rows.bounds, strict=True):
        row(-infinity, 0.0, [*every, t], [*weights.tolist(), -float(bound)])
    for j in range(count):
        row(-infinity, 0.0, [j, count + j], [1.0, -high])
        row(0.0, infinity, [j, count + j], [1.0, -low])
        row(-infinity, -low, [j, t, count + j], [1.0, -1.0, -low])
        row(-high, infinity, [j, t, count + j], [1.0, -1.0, -high])
    model.run()
    spent = time.perf_counter() - start
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return Timing(spent, math.nan)
    x = np.round(np.array(model.getSolution().col_value)[count : 2 * count])
    return Timing(
        spent,
        float(program.costs @ x) / (program.fixed_macs + float(program.macs @ x)),
    )


def gurobi() -> Callable[[Program, np.ndarray, float], np.ndarray | None] | None:
    try:
        import gurobipy
    except ImportError:
        return None
    quiet = gurobipy.Env(params={"OutputFlag": 0})

    def minimise(program: Program, costs: np.ndarray, seconds: float) -> np.ndarray | None:
        rows = program.rows
        with gurobipy.Model(env=quiet) as model:
            model.Params.Threads = 1
            model.Params.TimeLimit = max(seconds, 1e-3)
            model.Params.MIPGap = 0.0
            x = model.addMVar(len(costs), vtype="B")
            model.addConstr(_choice_rows(program) @ x == 1)
            if len(rows.bounds):
                model.addConstr(rows.weights @ x <= rows.bounds)
            model.setObjective(costs @ x)
            model.optimize()
            return np.round(x.X) if model.Status == gurobipy.GRB.OPTIMAL else None

    return minimise


def _choice_rows(program: Program) -> csr_matrix:
    count = len(program.costs)
    node = np.repeat(np.arange(program.num_nodes), np.diff(program.offsets))
    return csr_matrix((np.ones(count), (node, np.arange(count))))


def _objective(program: Program, network: mn.Network) -> float:
    choice = program.offsets[:-1] + np.array(network)
    macs = program.fixed_macs + float(program.macs[choice].sum()) if program.power else 1.0
    return float(program.costs[choice].sum()) / macs


def compare(count: int, seconds: float) -> None:
    methods: dict[str, Method] = {
        "kernel": ours(KernelSolver(), prepared=True),
        "kernel + program": ours(KernelSolver()),
        "numpy": ours(VectorisedSolver()),
        "HiGHS": ours(HighsSolver()),
        "scipy.milp": dinkelbach(scipy_milp),
        "Charnes-Cooper": charnes_cooper,
    }
    found = gurobi()
    if found is not None:
        methods["Gurobi"] = dinkelbach(found)
    print(
        f"\nmedian / worst ms of {count} instances, each the median of up to 5 solves (as many as"
    )
    print(
        "fit in 0.1 s); ratios of medians to the kernel's from a prepared program, and with making"
    )
    print(f"the program; unsolved in {seconds:g} s; answers that differ from the kernel's by 1e-6")
    for name, sizes in SPACES.items():
        for form, label in ((mn.Form.SPACE_MEAN, "fractional"), (mn.Form.LINEAR, "linear")):
            for limits in (1, 2):
                problem = f"{name}, {label}, {limits} limit{'s' * (limits > 1)}"
                print(f"\n{problem}", flush=True)
                _compare(problem, methods, sizes, form, limits, count, seconds)


def _compare(
    problem: str,
    methods: dict[str, Method],
    sizes: list[int],
    form: mn.Form,
    limits: int,
    count: int,
    seconds: float,
) -> None:
    timings: dict[str, list[Timing]] = {}
    for seed in range(count):
        base = instance(sizes, 100 + seed, form, None)
        program = base.with_limits(base.limits[:limits])
        for name, method in methods.items():
            large = sum(sizes) > _SLOW
            if large and (
                name in ("scipy.milp", "Charnes-Cooper", "Gurobi") or seed >= max(1, count // 4)
            ):
                continue
            if name == "Charnes-Cooper" and (form is mn.Form.LINEAR or seed >= max(1, count // 4)):
                continue  # slow: a quarter of the instances tells enough
            timings.setdefault(name, []).append(_repeated(method, program, seconds))
    kernel, with_program = (
        [timing.seconds for timing in timings[name]] for name in ("kernel", "kernel + program")
    )
    truth = [timing.objective for timing in timings["kernel"]]
    for name, found in timings.items():
        times = np.array([timing.seconds for timing in found])
        values = np.array([timing.objective for timing in found])
        unsolved = int(np.isnan(values).sum())
        expected = np.array(truth[: len(values)])
        far = np.abs(values - expected) > 1e-6 * np.maximum(1.0, np.abs(expected))
        ratio, whole = (
            f"x{float(np.median(times)) / float(np.median(base[: len(times)])):.1f}"
            for base in (kernel, with_program)
        )
        print(
            f"  {name:16} {1e3 * np.median(times):9.3f} / {1e3 * times.max():9.2f}  "
            f"{ratio:9} {whole:9} unsolved {unsolved} of {len(times)}, differ {int(far.sum())}",
            flush=True,
        )


def _repeated(method: Method, program: Program, seconds: float) -> Timing:
    found: list[Timing] = []
    while len(found) < 5 and sum(timing.seconds for timing in found) < 0.1:
        with _quiet():
            found.append(method(program, seconds))
    return Timing(float(np.median([timing.seconds for timing in found])), found[-1].objective)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what other solvers print from C out of the results."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def fronts(count: int) -> None:
    print(f"\nwhole exact Pareto front accuracy-latency with the kernel, {count} tables each")
    for name in ("SuperViT, 195", "SuperTransformer, 258", "20x9"):
        for form, label in ((mn.Form.SPACE_MEAN, "fractional"), (mn.Form.LINEAR, "linear")):
            seconds, points = [], []
            for seed in range(count):
                program = instance(SPACES[name], 100 + seed, form, None)
                front = pareto_front(program.table, "latency_ms", "accuracy", solver=KernelSolver())
                assert isinstance(front, mn.Front)
                seconds.append(1e3 * front.seconds)
                points.append(len(front))
            print(
                f"  {name:22} {label:11} median {np.median(seconds):6.1f} ms, "
                f"worst {max(seconds):6.1f} ms, {min(points)}-{max(points)} points",
                flush=True,
            )


def weak_spot(seconds: float) -> None:
    """Very many near-optimal choices: proofs do not come, so what counts is the gap."""
    print(f"\n1,000 nodes x 10 blocks, four independent limits, {seconds:g} s: gap between network")
    print("and bound, as a share of the objective's range")
    for power, label in ((1.0, "fractional"), (0.0, "linear")):
        for tight in (0.15, 0.3):
            program = large_case((10,) * 1000, 1, power, tight=tight, num_limits=4)
            gaps = []
            for solver in (KernelSolver(), VectorisedSolver(), HighsSolver()):
                solution = solver.solve(program, time_limit=seconds)
                gap = math.nan
                if solution.networks:
                    value = program.value(program.offsets[:-1] + np.array(solution.networks[0]))
                    gap = (value - solution.bound) / program.span
                gaps.append(f"{solver.name} {gap:.1e}")
            print(f"  {label:11} limits at {tight:4.0%}: {', '.join(gaps)}", flush=True)


def preparation(count: int) -> None:
    print("\npreparing a program for the kernel from a table of SuperTransformer's 258 blocks, two")
    print(f"limits: {count} tables, the median of 50 times each")
    kernel, medians = KernelSolver(), []
    for seed in range(count):
        base = instance(SPACES["SuperTransformer, 258"], 100 + seed, mn.Form.SPACE_MEAN, None)
        seconds = []
        for _ in range(50):
            start = time.perf_counter()
            kernel.prepare(Program(base.table, "accuracy", True, base.limits))
            seconds.append(1e3 * (time.perf_counter() - start))
        medians.append(float(np.median(seconds)))
    print(f"  median {np.median(medians):.3f} ms, worst {max(medians):.3f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    print(header(SEED))
    preparation(chosen.instances)
    fronts(chosen.instances)
    compare(chosen.instances, chosen.seconds)
    weak_spot(chosen.seconds)
