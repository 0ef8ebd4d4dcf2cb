"""Pareto fronts are those of a brute force over every network, point by point."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from solver_cases import KINDS, OUR_SOLVERS, large_case, random_case, table_of

import mathnas as mn
from mathnas.metrics import Direction
from mathnas.search import (
    EnumerationSolver,
    FrontPoint,
    Limit,
    Program,
    Rule,
    Solution,
    Solver,
    highs_is_available,
    kernel_is_available,
)
from mathnas.search.rules import at_most_changes, exclude, forbid
from mathnas.space import Network

METRICS = ("accuracy", "bleu", "latency_ms", "energy_mj")  # more, more, less, less is better
Values = tuple[float, float]


def front_of(*args: Any, **kwargs: Any) -> mn.Front:
    """A front that is expected to be there."""
    front = mn.pareto_front(*args, **kwargs)
    assert isinstance(front, mn.Front)
    return front


class Brute:
    """Every network that meets limits and rules, with its values."""

    def __init__(
        self,
        table: mn.BlockTable,
        x: str,
        y: str,
        limits: Sequence[Limit] = (),
        rules: Sequence[Rule] = (),
    ) -> None:
        self.x_sign, self.y_sign = (
            1.0 if table.metrics[name].direction is Direction.MINIMIZE else -1.0 for name in (x, y)
        )
        self.values: dict[Network, Values] = {
            network: (table.exact(network, x), table.exact(network, y))
            for network in table.space.enumerate()
            if all(limit.holds(table.exact(network, limit.metric.name)) for limit in limits)
            and all(rule.holds(network) for rule in rules)
        }

    def front(self) -> list[Values]:
        """Values that none beats in both, from the best x."""
        signed = sorted({(self.x_sign * x, self.y_sign * y) for x, y in self.values.values()})
        kept: list[Values] = []
        for x, y in signed:
            if not kept or y < kept[-1][1]:
                kept.append((x, y))
        return [(self.x_sign * x, self.y_sign * y) for x, y in kept]

    def check(self, front: mn.Front, label: object) -> None:
        """All points of the front, where values that differ by rounding alone count as equal."""
        points = [(point.x, point.y) for point in front]
        for point in front:
            assert self.values[point.network] == (point.x, point.y), label
        x_near, y_near = self._near(0), self._near(1)
        order = [(self.x_sign * x, self.y_sign * y) for x, y in points]
        assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(order)), label
        for x, y in order:
            for u, v in ((self.x_sign * a, self.y_sign * b) for a, b in self.front()):
                beaten = (u <= x and v < y - y_near) or (v <= y and u < x - x_near)
                assert not beaten, f"{label}: ({x}, {y}) is beaten by ({u}, {v})"
        for u, v in self.front():
            u, v = self.x_sign * u, self.y_sign * v
            assert any(x <= u + x_near and y <= v + y_near for x, y in order), f"{label}: {u}, {v}"

    def _near(self, place: int) -> float:
        values = [pair[place] for pair in self.values.values()]
        if not values:
            return 0.0
        return 2e-9 * (max(values) - min(values)) + 1e-14 * max(map(abs, values))


def table_for(seed: int, *, whole: bool, power: float = 0.0) -> mn.BlockTable:
    """Four metrics over the space of a random case.

    Args:
        whole: whole numbers, of which many are equal, so that sums are exact in any order.
    """
    space = random_case(seed).space
    rng = np.random.default_rng([seed, 3])
    kind = str(rng.choice(KINDS[:2]))
    values = {}
    for name in METRICS:
        drawn = rng.normal(0, 2, space.num_blocks)
        values[name] = drawn.round(1) if kind == "one digit" else drawn
        if whole:
            values[name] = rng.integers(0, 5, space.num_blocks).astype(np.float64)
    return table_of(space, next(iter(space.enumerate())), values, power)


def trade_off() -> mn.BlockTable:
    """Accuracy 0 to 7 %, latency 1 to 8 ms, one network for each."""
    nodes = [
        mn.BlockNode(name, (mn.Block("off"), mn.Block("on"))) for name in ("one", "two", "four")
    ]
    worth = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 4.0])
    values = {"accuracy": worth, "latency_ms": worth}
    return table_of(mn.SearchSpace(nodes), (0, 0, 0), values, 0.0)


def pairs_of(front: mn.Front) -> list[Values]:
    return [(point.x, point.y) for point in front]


# ---- the whole front -----------------------------------------------------------------------------


def test_a_front_goes_from_the_best_x_to_the_best_y() -> None:
    front = front_of(trade_off(), "latency_ms", "accuracy")
    assert front.complete
    assert len(front) == 8
    assert pairs_of(front) == [(1.0 + a, float(a)) for a in range(8)]
    assert front.points[0].network == (0, 0, 0)
    assert front.points[-1].network == (1, 1, 1)
    backwards = front_of(trade_off(), "accuracy", "latency_ms")
    assert pairs_of(backwards) == [(y, x) for x, y in reversed(pairs_of(front))]


@pytest.mark.parametrize("solver", OUR_SOLVERS)
@pytest.mark.parametrize(("x", "y"), list(itertools.permutations(METRICS, 2)))
def test_a_front_of_whole_numbers_is_the_brute_force(solver: str, x: str, y: str) -> None:
    for seed in range(12):
        table = table_for(seed, whole=True)
        front = front_of(table, x, y, solver=solver)
        assert pairs_of(front) == Brute(table, x, y).front(), seed
        assert front.complete
        assert (front.x, front.y) == (table.metrics[x], table.metrics[y])
        assert front.solver == solver


@pytest.mark.parametrize("solver", OUR_SOLVERS)
@pytest.mark.parametrize("power", [0.0, 1.0], ids=["linear", "fractional"])
def test_a_front_of_any_numbers_is_the_brute_force(solver: str, power: float) -> None:
    for seed in range(30):
        table = table_for(seed, whole=False, power=power)
        x, y = list(itertools.permutations(METRICS, 2))[seed % 12]
        front = front_of(table, x, y, solver=solver)
        Brute(table, x, y).check(front, seed)
        assert front.complete


@pytest.mark.skipif(not kernel_is_available(), reason="no kernel")
def test_sums_that_differ_by_rounding_alone_do_not_let_a_beaten_point_in() -> None:
    """Two networks of the same energy, 2.9 mJ less a rounding: one has the higher accuracy."""
    table = table_for(218, whole=False, power=1.0)
    limits, rules = conditions(table, 218)
    front = front_of(table, "accuracy", "energy_mj", limits=limits, rules=rules, solver="kernel")
    Brute(table, "accuracy", "energy_mj", limits, rules).check(front, "seed 218")


@pytest.mark.skipif(not highs_is_available(), reason="no highspy")
@pytest.mark.parametrize("power", [0.0, 1.0], ids=["linear", "fractional"])
def test_a_front_by_highs_is_the_brute_force(power: float) -> None:
    for seed in range(8):
        table = table_for(seed, whole=False, power=power)
        front = front_of(table, "latency_ms", "accuracy", solver="highs")
        Brute(table, "latency_ms", "accuracy").check(front, seed)


@pytest.mark.parametrize("solver", OUR_SOLVERS)
@pytest.mark.parametrize("whole", [True, False])
def test_limits_and_rules_hold_for_every_point(solver: str, whole: bool) -> None:
    empty = 0
    for seed in range(40):
        table = table_for(seed, whole=whole)
        limits, rules = conditions(table, seed)
        brute = Brute(table, "latency_ms", "accuracy", limits, rules)
        front = mn.pareto_front(
            table, "latency_ms", "accuracy", limits=limits, rules=rules, solver=solver
        )
        if isinstance(front, mn.Infeasible):
            assert not brute.values, seed
            empty += 1
            continue
        brute.check(front, seed)
        if whole:
            assert pairs_of(front) == brute.front(), seed
        assert front.complete
        assert (front.limits, front.rules) == (tuple(limits), tuple(rules))
    assert 0 < empty < 30


def conditions(table: mn.BlockTable, seed: int) -> tuple[list[Limit], list[Rule]]:
    """Limits, also on the two metrics of the front, and rules; some leave nothing."""
    rng = np.random.default_rng([seed, 8])
    networks = list(table.space.enumerate())
    limits = []
    for name in rng.permutation(np.array(METRICS))[: int(rng.integers(3))].tolist():
        used = sorted(table.exact(network, name) for network in networks)
        at = used[int(rng.integers(len(used)))]
        limits.append(Limit(table.metrics[name], "<=" if rng.random() < 0.5 else ">=", at))
    rules: list[Rule] = []
    if seed % 3 == 0:
        rules.append(at_most_changes(table.space, networks[-1], table.space.num_nodes - 1))
    if seed % 2 == 0:
        rules.append(exclude(table.space, {0: table.space.sizes[0] - 1}))
    if seed % 5 == 0:
        rules.append(forbid(table.space, {0: 0, table.space.num_nodes - 1: 0}))
    return limits, rules


def test_a_front_of_variable_depth_holds_valid_networks_only() -> None:
    names = ("none", "small", "large")
    nodes = [mn.BlockNode(f"n{i}", tuple(map(mn.Block, names))) for i in range(4)]
    space = mn.SearchSpace(nodes, depth_rules=[mn.DepthRule((1, 2, 3), (0, 0, 0))])
    rng = np.random.default_rng(4)
    values = {name: rng.integers(0, 9, 12).astype(np.float64) for name in METRICS}
    table = table_of(space, (0,) * 4, values, 0.0)
    for x, y in itertools.permutations(METRICS, 2):
        front = front_of(table, x, y)
        assert pairs_of(front) == Brute(table, x, y).front()
        assert all(space.check(point.network) == point.network for point in front)


def test_of_equal_networks_one_is_given() -> None:
    nodes = [mn.BlockNode(f"n{i}", tuple(map(mn.Block, "ab"))) for i in range(3)]
    values = {name: np.array([0.0, 1.0] * 3) for name in ("accuracy", "latency_ms")}
    table = table_of(mn.SearchSpace(nodes), (0,) * 3, values, 0.0)
    front = front_of(table, "latency_ms", "accuracy")
    assert pairs_of(front) == [(1.0, 0.0), (2.0, 1.0), (3.0, 2.0), (4.0, 3.0)]


def test_a_front_may_be_a_single_point() -> None:
    one = front_of(trade_off(), "latency_ms", "accuracy", limits={"accuracy": "<=0"})
    assert pairs_of(one) == [(1.0, 0.0)]
    assert one.complete


# ---- a part of it --------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 3, 5, 9, 100])
@pytest.mark.parametrize(
    ("x", "y"), [("latency_ms", "accuracy"), ("accuracy", "energy_mj"), ("bleu", "accuracy")]
)
def test_a_few_points_are_spread_over_the_whole_front(most: int, x: str, y: str) -> None:
    """At evenly spread limits on x, the point of the front that is the last one within each."""
    for seed in range(20):
        table = table_for(seed, whole=True)
        brute = Brute(table, x, y)
        whole = brute.front()
        few = front_of(table, x, y, max_points=most)
        limits = np.linspace(brute.x_sign * whole[0][0], brute.x_sign * whole[-1][0], most)
        within = [[p for p in whole if brute.x_sign * p[0] <= limit] for limit in limits.tolist()]
        expected = sorted({own[-1] for own in within}, key=lambda p: brute.x_sign * p[0])
        assert pairs_of(few) == expected, seed
        assert few.points[0].x == whole[0][0]
        assert few.points[-1].x == whole[-1][0]
        assert len(few) <= most
        assert set(pairs_of(few)) <= set(whole)


def test_a_few_points_meet_limits_and_rules_too() -> None:
    for seed in range(30):
        table = table_for(seed, whole=True)
        limits, rules = conditions(table, seed)
        whole = Brute(table, "latency_ms", "accuracy", limits, rules).front()
        few = mn.pareto_front(
            table, "latency_ms", "accuracy", limits=limits, rules=rules, max_points=3
        )
        assert bool(few) == bool(whole), seed
        if isinstance(few, mn.Front):
            assert set(pairs_of(few)) <= set(whole), seed
            assert (pairs_of(few)[0], pairs_of(few)[-1]) == (whole[0], whole[-1]), seed


def test_a_few_points_are_not_called_the_complete_front() -> None:
    few = front_of(trade_off(), "latency_ms", "accuracy", max_points=3)
    assert pairs_of(few) == [(1.0, 0.0), (4.0, 3.0), (8.0, 7.0)]
    assert not few.complete
    assert "3 points (some of them, each proven" in str(few)


# ---- time ----------------------------------------------------------------------------------------


class Hurried:
    """Solves by enumeration; after some solves the time is over."""

    name = "hurried"

    def __init__(self, solves: int, *, finds: bool = False) -> None:
        self.left = solves
        self.finds = finds

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        self.left -= 1
        found = EnumerationSolver().solve(program, count=1000)
        if self.left >= 0:
            return Solution(found.status, found.networks[:1], found.bound, 0.1, self.name)
        if self.finds and found.networks:
            # the worst of all: a network that meets the limits, and nothing else
            return Solution(mn.Status.FEASIBLE, found.networks[-1:], program.lowest, 0.1, self.name)
        return Solution(mn.Status.UNKNOWN, [], -math.inf, 0.1, self.name)


@pytest.mark.parametrize("finds", [False, True])
@pytest.mark.parametrize("solves", [0, 1, 2, 3, 5, 8])
def test_points_that_were_proven_in_time_are_points_of_the_front(solves: int, finds: bool) -> None:
    whole = pairs_of(front_of(trade_off(), "latency_ms", "accuracy"))
    hurried: Solver = Hurried(solves, finds=finds)
    cut = front_of(trade_off(), "latency_ms", "accuracy", solver=hurried, time_limit=9)
    assert not cut.complete
    assert set(pairs_of(cut)) <= set(whole)
    assert len(cut) < len(whole)
    assert "some of them" in str(cut)


def stopped_fronts(max_points: int | None) -> list[tuple[str, mn.Front, list[Values]]]:
    """Fronts with equal values, stopped after each possible number of solves, and the whole one."""
    found = []
    for seed in range(12):
        table = table_for(seed, whole=True)
        whole = Brute(table, "latency_ms", "accuracy").front()
        for solves in range(14):
            cut = front_of(
                table,
                "latency_ms",
                "accuracy",
                max_points=max_points,
                solver=Hurried(solves),
                time_limit=9,
            )
            found.append((f"seed {seed}, {solves} solves", cut, whole))
    return found


def test_a_stopped_front_with_equal_values_holds_real_points_only() -> None:
    for label, cut, whole in stopped_fronts(None):
        assert set(pairs_of(cut)) <= set(whole), label
        assert pairs_of(cut) == whole or not cut.complete, label


def test_a_stopped_spread_front_with_equal_values_holds_real_points_only() -> None:
    for label, cut, whole in stopped_fronts(4):
        assert set(pairs_of(cut)) <= set(whole), label
        assert not cut.complete, label


def test_a_point_that_another_one_beats_in_x_is_not_given_where_the_time_ends() -> None:
    """Both blocks are as accurate, the second is faster: it is the whole front."""
    space = mn.SearchSpace([mn.BlockNode("only", (mn.Block("slow"), mn.Block("fast")))])
    values = {"accuracy": np.array([3.0, 3.0]), "latency_ms": np.array([9.0, 1.0])}
    table = table_of(space, (0,), values, 0.0)
    for solves in range(5):
        cut = front_of(table, "latency_ms", "accuracy", solver=Hurried(solves), time_limit=9)
        assert {point.network for point in cut} <= {(1,)}, solves


def test_points_of_a_large_front_that_the_clock_cut_off_are_proven() -> None:
    table = large_case((8,) * 40, 2, digits=1, tight=0.5).table
    cut = front_of(table, "latency_ms", "accuracy", time_limit=0.3)
    assert cut.seconds < 2.0
    for point in cut.points[:: max(1, len(cut) // 8)]:
        at = Limit(table.metrics["latency_ms"], "<=", point.x)
        best = mn.search(table, maximize="accuracy", limits=[at])
        assert isinstance(best, mn.Answer)
        assert point.y == pytest.approx(best.value, abs=1e-6)


def test_no_time_at_all_gives_no_point() -> None:
    cut = front_of(trade_off(), "latency_ms", "accuracy", time_limit=1e-9)
    assert not cut.complete
    assert len(cut) == 0


def test_a_front_that_ran_out_of_time_does_not_say_that_nothing_meets_the_limits() -> None:
    cut = front_of(trade_off(), "latency_ms", "accuracy", time_limit=1e-9)
    assert not cut.complete
    assert "no network meets the limits" not in str(cut)


# ---- how it is shown -----------------------------------------------------------------------------


def test_a_front_as_json_holds_its_points_and_conditions() -> None:
    front = front_of(trade_off(), "latency_ms", "accuracy", limits={"accuracy": ">=5"})
    record = json.loads(json.dumps(front.to_dict()))
    assert record["points"] == [
        {"network": list(p.network), "latency_ms": p.x, "accuracy": p.y} for p in front
    ]
    assert len(record["points"]) == 3
    assert (record["x"], record["y"], record["complete"]) == ("latency_ms", "accuracy", True)
    assert record["limits"] == [{"metric": "accuracy", "sense": ">=", "value": 5.0}]
    assert record["solver"] == front.solver
    assert record["seconds"] == front.seconds > 0


def test_a_front_as_csv_gives_every_number_back() -> None:
    table = table_for(3, whole=False)
    front = front_of(table, "latency_ms", "accuracy")
    rows = list(csv.reader(front.to_csv().splitlines()))
    assert rows[0] == ["network", "latency_ms", "accuracy"]
    assert len(rows) == 1 + len(front)
    for (network, x, y), point in zip(rows[1:], front, strict=True):
        assert table.space.parse(network) == point.network
        assert (float(x), float(y)) == (point.x, point.y)


def test_a_front_prints_as_a_plot() -> None:
    front = front_of(trade_off(), "latency_ms", "accuracy")
    head, *plot = str(front).splitlines()
    assert head.startswith(
        "Pareto front of accuracy against latency_ms: 8 points (all of them, each proven;"
    )
    rows = [line.split("|", 1)[1] for line in plot if "|" in line]
    assert sum(row.count("o") for row in rows) == 8
    marks = [row.index("o") for row in rows if "o" in row]
    assert marks == sorted(marks, reverse=True)  # upwards is better, to the right is slower
    assert rows[-1][0] == "o"
    assert plot[0].startswith("7.00 % |")
    assert plot[-3].startswith("0.00 % |")
    assert plot[-1].split() == ["1", "ms", "8", "ms"]
    assert max(map(len, plot)) < 80


def test_where_nothing_is_feasible_the_reason_is_given() -> None:
    none = mn.pareto_front(trade_off(), "latency_ms", "accuracy", limits={"latency_ms": 0.5})
    assert isinstance(none, mn.Infeasible)
    assert none.status is mn.Status.INFEASIBLE
    assert [conflict.best for conflict in none.conflicts] == [1.0]
    assert "no network meets the limits" in str(none)


def test_points_come_as_soon_as_they_are_proven() -> None:
    seen: list[FrontPoint] = []
    front = front_of(trade_off(), "latency_ms", "accuracy", on_point=seen.append)
    assert seen == list(reversed(front.points))
    few: list[FrontPoint] = []
    spread = front_of(trade_off(), "latency_ms", "accuracy", max_points=3, on_point=few.append)
    assert few == list(reversed(spread.points))


def test_a_front_is_a_table_in_a_notebook() -> None:
    front = front_of(trade_off(), "latency_ms", "accuracy")
    page = front._repr_html_()
    assert page.count("<tr>") == 9
    assert "<td>1,1,1</td><td>8 ms</td><td>7.00 %</td>" in page


def test_a_bar_shows_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    mn.pareto_front(trade_off(), "latency_ms", "accuracy", progress=True)
    shown = capsys.readouterr()
    assert "front of accuracy" in shown.err
    assert not shown.out
    mn.pareto_front(trade_off(), "latency_ms", "accuracy")
    assert not capsys.readouterr().err


# ---- what is refused -----------------------------------------------------------------------------


def test_what_is_not_a_front_is_refused() -> None:
    table = trade_off()
    with pytest.raises(mn.InvalidInputError, match="between two metrics, but both are 'accuracy'"):
        mn.pareto_front(table, "accuracy", "accuracy")
    with pytest.raises(mn.InvalidInputError, match="no metric 'beauty'"):
        mn.pareto_front(table, "latency_ms", "beauty")
    with pytest.raises(mn.InvalidInputError, match="a solver is one of auto"):
        mn.pareto_front(table, "latency_ms", "accuracy", solver="gurobi")
    with pytest.raises(mn.InvalidInputError, match="no metric 'energy_mj'"):
        mn.pareto_front(table, "latency_ms", "accuracy", limits={"energy_mj": 3})
    for most in (1, 0, -3):
        with pytest.raises(mn.InvalidInputError, match=f"at least 2 points .* but got {most}"):
            mn.pareto_front(table, "latency_ms", "accuracy", max_points=most)


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_a_time_limit_that_is_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(mn.InvalidInputError, match="a time limit is positive"):
        mn.pareto_front(trade_off(), "latency_ms", "accuracy", time_limit=seconds)
