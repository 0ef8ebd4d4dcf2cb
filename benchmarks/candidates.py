"""Five candidates a stage of MobileNetV3: chosen, published, and all 7,371.

    python benchmarks/candidates.py [SECONDS]

Accuracy is what the effects of layers predict that were fitted to 1,297 public measurements (width
1.0, 224 pixels); budgets limit MACs. SECONDS are for HiGHS on the joint 0-1 program of the first
selection with 16 budgets, on one thread (0 leaves it out).
"""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import mathnas as mn
from _machine import header
from mathnas.datasets import ofa_mobilenetv3
from mathnas.search import Selection
from mathnas.search._coverage import Problem, improved, proven
from mathnas.spaces import MobileNetV3

COUNT = 5


def fitted() -> tuple[MobileNetV3, mn.BlockTable]:
    evaluator = ofa_mobilenetv3()
    space = evaluator.space
    assert isinstance(space, MobileNetV3)
    with (
        tempfile.TemporaryDirectory() as folder,
        mn.Study(Path(folder) / "public.study", space) as study,
    ):
        mn.evaluate(study, list(evaluator.networks), evaluator)
        return space, mn.fit(study, metrics=["accuracy"], method="regression")


def chosen(space: MobileNetV3, table: mn.BlockTable, budgets: int | list[float]) -> Selection:
    return mn.choose_candidates(
        table, space.stages(), COUNT, limit="macs", maximize="accuracy", budgets=budgets
    )


def summary(found: Selection) -> str:
    return (
        f"kept {found.value:.3f} %, bound {found.bound:.3f} %, all {found.best:.3f} %, "
        f"largest loss {max(point.loss for point in found.points):.3f}, {found.seconds:.1f} s"
    )


def joint(space: MobileNetV3, table: mn.BlockTable, found: Selection, seconds: float) -> str:
    """HiGHS on keeping (y) and using (x) candidates: one network a budget, x <= y, sum y <= 5.

    It adds up responses, on whose scale effects add up, not accuracies; so does what it is compared
    with here.
    """
    highspy = importlib.import_module("highspy")
    full = space.stages().table(table, metrics=["accuracy"], uncertainty=False)
    accuracy, macs = full.columns["accuracy"], full.columns["macs"]
    values, costs = [], []
    for start, stop in itertools.pairwise(full.space.offsets.tolist()):
        own, cost = accuracy.effects[start:stop], macs.effects[start:stop]
        order = np.lexsort((-own, cost))
        best = np.concatenate([[-np.inf], np.maximum.accumulate(own[order])[:-1]])
        front = order[own[order] > best]
        values.append(own[front] - own[front].min())
        costs.append(cost[front] - cost[front].min())
    span, room = sum(own.max() for own in values), sum(own.max() for own in costs)
    value, cost = np.concatenate(values) / span, np.concatenate(costs) / room
    least = found.points[0].limit.value
    budgets = [(point.limit.value - least) / room + 1e-9 for point in found.points]
    count, width = len(budgets), len(value)
    ends = np.cumsum([0, *map(len, values)])
    solver = highspy.Highs()
    for name, option in (("log_to_console", False), ("time_limit", seconds), ("threads", 1)):
        solver.setOptionValue(name, option)
    columns = (count + 1) * width
    solver.addVars(columns, np.zeros(columns), np.ones(columns))
    places = np.arange(columns, dtype=np.int32)
    objective = np.concatenate([np.zeros(width), *[-value / count] * count])
    solver.changeColsCost(columns, places, objective)
    kinds = np.full(columns, highspy.HighsVarType.kInteger)
    solver.changeColsIntegrality(columns, places, kinds)

    def row(low: float, high: float, indices: np.ndarray, entries: np.ndarray) -> None:
        solver.addRow(low, high, len(indices), indices.astype(np.int32), entries)

    for start, stop in itertools.pairwise(ends):
        row(-np.inf, COUNT, np.arange(start, stop), np.ones(stop - start))
        for place in range(1, count + 1):
            row(1, 1, place * width + np.arange(start, stop), np.ones(stop - start))
    for place, budget in enumerate(budgets, start=1):
        row(-np.inf, budget, place * width + np.arange(width), cost)
        for candidate in range(width):
            pair = np.array([candidate, place * width + candidate])
            row(-np.inf, 0, pair, np.array([-1.0, 1.0]))
    solver.run()
    info = solver.getInfo()
    kept = -np.array([info.objective_function_value, info.mip_dual_bound])
    problem = Problem(
        [own / span for own in values],
        [own / room for own in costs],
        (COUNT,) * len(values),
        np.array(budgets),
        np.full(count, 1 / count),
        lambda sums: sums,
    )
    start = time.perf_counter()
    own_kept, reached = improved(problem, rounds=400, seed=0)
    _, reached, bound = proven(problem, own_kept, reached, boxes=100)
    return (
        f"the mean response in units of its range, 16 budgets: kept {reached:.5f}, bound "
        f"{bound:.5f}, all {problem.value(problem.everything):.5f}, "
        f"{time.perf_counter() - start:.1f} s; "
        f"HiGHS on the joint program: kept {kept[0]:.5f}, bound {kept[1]:.5f}, {seconds:.0f} s"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 200.0
    print(header("0, of the restarts"))
    space, table = fitted()
    for budgets in (16, 32):
        found = chosen(space, table, budgets)
        if budgets == 16:
            first = found
        print(f"{budgets} budgets over the whole range: {summary(found)}")
    print(f"undominated, of 7,371 a stage: {', '.join(map(str, found.undominated))}")
    for name in ("cpu", "gpu"):
        published = space.stages(name)
        low, high = (float(published.macs([[place] * 5])[0]) for place in (0, 4))
        grid = np.linspace(low, high, 32).tolist()
        found = chosen(space, table, grid)
        own = published.table(table, uncertainty=False)
        answers = [mn.search(own, maximize="accuracy", limits={"macs": x}) for x in grid]
        mean = np.mean([answer.value for answer in answers if isinstance(answer, mn.Answer)])
        print(
            f"32 budgets, {low / 1e6:.0f} to {high / 1e6:.0f} M MACs: the published {name} set "
            f"{mean:.3f} %; {summary(found)}"
        )
    if seconds:
        print(joint(space, table, first, seconds))


if __name__ == "__main__":
    main()
