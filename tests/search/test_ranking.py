"""`k_best`: the best answers in order, and answers that differ from one another."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from solver_cases import HIGHS, OUR_SOLVERS, brute_force, large_case, random_case, table_of

import mathnas as mn
from mathnas.search import (
    EnumerationSolver,
    Program,
    Solution,
    Solver,
    at_most_changes,
    highs_is_available,
)
from mathnas.search.rules import fix
from mathnas.space import Network

ALL_SOLVERS = [*OUR_SOLVERS, HIGHS]


def ranked(
    program: Program,
    count: int,
    *,
    diverse: int = 0,
    solver: str | Solver = "auto",
    time_limit: float | None = None,
) -> mn.Ranking | mn.Infeasible:
    """`k_best` of what a program says."""
    name = program.objective.name
    return mn.k_best(
        program.table,
        count,
        maximize=name if program.maximize else None,
        minimize=None if program.maximize else name,
        limits=program.limits,
        rules=program.rules,
        diverse=diverse,
        solver=solver,
        time_limit=time_limit,
    )


def near(program: Program, values: Sequence[float]) -> float:
    """1e-9 of the objective's range, as the guarantee says, and the rounding of values."""
    return 1e-9 * program.span + 1e-14 * max(map(abs, values), default=0.0)


def ladder() -> mn.BlockTable:
    """Three nodes worth 0 or 1, 0 or 2, 0 or 4: accuracies 0 to 7 %, each as slow as accurate."""
    nodes = [
        mn.BlockNode(name, (mn.Block("off"), mn.Block("on"))) for name in ("one", "two", "four")
    ]
    worth = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 4.0])
    return table_of(mn.SearchSpace(nodes), (0, 0, 0), {"accuracy": worth, "latency_ms": worth}, 0.0)


def changes(one: Network, other: Network) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


# ---- the best of all -----------------------------------------------------------------------------


def test_the_best_come_first() -> None:
    best = mn.k_best(ladder(), 3, maximize="accuracy")
    assert isinstance(best, mn.Ranking)
    assert [answer.value for answer in best] == [7.0, 6.0, 5.0]
    assert [answer.network for answer in best] == [(1, 1, 1), (0, 1, 1), (1, 0, 1)]
    assert [answer.blocks["one"] for answer in best] == ["on", "off", "on"]


@pytest.mark.parametrize("solver", OUR_SOLVERS)
@pytest.mark.parametrize("count", [1, 2, 5, 40, 10_000])
def test_the_best_are_those_of_a_brute_force(solver: str, count: int) -> None:
    for seed in range(40):
        program = random_case(seed)
        expected = brute_force(program)[:count]
        answers = ranked(program, count, solver=solver)
        if not expected:
            assert isinstance(answers, mn.Infeasible), seed
            assert answers.status is mn.Status.INFEASIBLE
            continue
        assert isinstance(answers, mn.Ranking), seed
        check(program, answers, [value for value, _ in expected], seed)


@pytest.mark.skipif(not highs_is_available(), reason="no highspy")
@pytest.mark.parametrize("count", [1, 4])
def test_the_best_by_highs_are_those_of_a_brute_force(count: int) -> None:
    for seed in range(40):
        program = random_case(seed)
        expected = [value for value, _ in brute_force(program)[:count]]
        if program.power not in (0.0, 1.0) or not expected:
            continue
        answers = ranked(program, count, solver="highs")
        assert isinstance(answers, mn.Ranking), seed
        check(program, answers, expected, seed)


def check(program: Program, answers: mn.Ranking, expected: Sequence[float], label: object) -> None:
    """Distinct feasible networks with the expected values, in order."""
    values = [answer.value for answer in answers]
    assert len(values) == len(expected), label
    np.testing.assert_allclose(
        values, expected, rtol=0, atol=near(program, expected), err_msg=str(label)
    )
    assert len({answer.network for answer in answers}) == len(answers), label
    assert all(program.holds(answer.network) for answer in answers), label
    assert {answer.status for answer in answers} == {mn.Status.OPTIMAL}, label
    assert {answer.gap for answer in answers} == {0.0}, label
    for answer in answers:
        assert answer.value == program.table.exact(answer.network, program.objective.name), label


@pytest.mark.parametrize("solver", OUR_SOLVERS)
def test_networks_of_equal_value_are_all_given(solver: str) -> None:
    """Four nodes with the same blocks: 4 networks with one block on, 6 with two, 4 with three."""
    nodes = [mn.BlockNode(f"n{i}", (mn.Block("off"), mn.Block("on"))) for i in range(4)]
    values = {"accuracy": np.array([0.0, 1.0] * 4)}
    table = table_of(mn.SearchSpace(nodes), (0,) * 4, values, 0.0)
    best = mn.k_best(table, 100, maximize="accuracy", solver=solver)
    assert isinstance(best, mn.Ranking)
    assert [answer.value for answer in best] == [4.0] + [3.0] * 4 + [2.0] * 6 + [1.0] * 4 + [0.0]
    assert len({answer.network for answer in best}) == 16


def test_rules_and_limits_hold_for_every_answer() -> None:
    table = ladder()
    best = mn.k_best(
        table,
        10,
        maximize="accuracy",
        limits={"latency_ms": "<=6"},  # the base is 1 ms: at most 5 % accuracy
        rules=[fix(table.space, {"four": "on"}), at_most_changes(table.space, (1, 1, 1), 2)],
    )
    assert isinstance(best, mn.Ranking)
    assert [answer.value for answer in best] == [5.0, 4.0]


# ---- what the answers say ------------------------------------------------------------------------


def test_a_guarantee_counts_those_that_may_be_better() -> None:
    best = mn.k_best(ladder(), 3, maximize="accuracy", limits={"latency_ms": 100})
    assert isinstance(best, mn.Ranking)
    first, second, third = (answer.guarantee for answer in best)
    assert first.startswith("optimal: of 8 networks, none that meets the limits has a higher")
    assert "only 1 that meets the limits may have a higher predicted accuracy" in second
    assert "only 2 that meets the limits may have a higher predicted accuracy" in third


def test_which_limits_bind_is_settled_for_the_first() -> None:
    best = mn.k_best(ladder(), 2, maximize="accuracy", limits={"latency_ms": 5})
    assert isinstance(best, mn.Ranking)
    assert [use.binds for answer in best for use in answer.limits] == [True, None]
    assert [use.used for answer in best for use in answer.limits] == [5.0, 4.0]


# ---- answers that differ -------------------------------------------------------------------------


def test_diverse_answers_differ_from_each_earlier_one() -> None:
    apart = mn.k_best(ladder(), 4, maximize="accuracy", diverse=2)
    assert isinstance(apart, mn.Ranking)
    assert [answer.network for answer in apart] == [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]


@pytest.mark.parametrize("solver", ALL_SOLVERS)
@pytest.mark.parametrize("count", [3, 12])
def test_each_diverse_answer_is_the_best_that_differs(solver: str, count: int) -> None:
    for seed in range(30):
        program = random_case(seed)
        if solver == "highs" and program.power not in (0.0, 1.0):
            continue
        feasible = brute_force(program)
        apart = 1 + seed % program.space.num_nodes
        answers = ranked(program, count, diverse=apart, solver=solver)
        if not feasible:
            assert isinstance(answers, mn.Infeasible), seed
            continue
        assert isinstance(answers, mn.Ranking), seed
        check_diverse(program, answers, apart, count, seed)


def check_diverse(
    program: Program, answers: mn.Ranking, apart: int, count: int, label: object
) -> None:
    """Step by step: the best of those that differ from all earlier answers; none is left out."""
    left = brute_force(program)
    tolerance = near(program, [value for value, _ in left])
    for answer in answers:
        best, _ = left[0]
        assert answer.value == pytest.approx(best, rel=0, abs=tolerance), label
        assert answer.network in {network for _, network in left}, label
        assert answer.status is mn.Status.OPTIMAL, label
        left = [pair for pair in left if changes(pair[1], answer.network) >= apart]
    assert len(answers) == count or not left, label


def test_answers_that_differ_in_one_node_are_the_best_of_all() -> None:
    for seed in range(20):
        program = random_case(seed)
        best, apart = ranked(program, 6), ranked(program, 6, diverse=1)
        if isinstance(best, mn.Ranking):
            assert isinstance(apart, mn.Ranking)
            check(program, apart, [answer.value for answer in best], seed)


def test_a_later_diverse_answer_does_not_claim_to_be_the_best_of_all() -> None:
    """The first answer meets the limits and has a higher accuracy than the second."""
    apart = mn.k_best(ladder(), 2, maximize="accuracy", diverse=2)
    assert isinstance(apart, mn.Ranking)
    assert apart[0].value > apart[1].value
    assert "none that meets the limits has a higher" not in apart[1].guarantee
    assert "none has a higher" not in apart[1].guarantee


# ---- time ----------------------------------------------------------------------------------------


class Hurried:
    """Solves by enumeration; after some solves there is no time left to prove or find anything."""

    name = "hurried"

    def __init__(self, solves: int, *, finds: bool = False) -> None:
        self.left = solves
        self.finds = finds

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        self.left -= 1
        solution = EnumerationSolver().solve(program, count=count)
        if self.left >= 0:
            return solution
        if not (self.finds and solution.networks):
            return Solution(mn.Status.UNKNOWN, [], -math.inf, 0.1, self.name)
        worst = EnumerationSolver().solve(program, count=1000).networks[-1]
        return Solution(mn.Status.FEASIBLE, [worst], program.lowest, 0.1, self.name)


def test_without_time_nothing_is_claimed() -> None:
    nothing = mn.k_best(ladder(), 3, maximize="accuracy", solver=Hurried(0), time_limit=1)
    assert isinstance(nothing, mn.Infeasible)
    assert nothing.status is mn.Status.UNKNOWN


def test_answers_that_are_not_proven_say_so() -> None:
    some = mn.k_best(ladder(), 3, maximize="accuracy", solver=Hurried(0, finds=True), time_limit=1)
    assert isinstance(some, mn.Ranking)
    assert [answer.status for answer in some] == [mn.Status.FEASIBLE]
    assert some[0].value == 0.0
    assert some[0].bound >= 7.0
    assert some[0].gap == some[0].bound - some[0].value
    assert some[0].guarantee.startswith("not proven optimal in the time")


def test_a_diverse_answer_that_is_not_proven_is_the_last_and_says_so() -> None:
    some = mn.k_best(
        ladder(), 3, maximize="accuracy", diverse=2, solver=Hurried(1, finds=True), time_limit=1
    )
    assert isinstance(some, mn.Ranking)
    assert [answer.status for answer in some] == [mn.Status.OPTIMAL, mn.Status.FEASIBLE]
    assert some[1].bound >= 4.0 >= some[1].value
    assert some[1].guarantee.startswith("not proven optimal in the time")


def test_answers_that_the_time_cut_off_are_not_taken_for_all_there_are() -> None:
    """Four answers differ in two nodes each. Whoever gets fewer must be able to tell why."""
    whole = mn.k_best(ladder(), 4, maximize="accuracy", diverse=2)
    assert isinstance(whole, mn.Ranking)
    assert len(whole) == 4
    cut = mn.k_best(ladder(), 4, maximize="accuracy", diverse=2, solver=Hurried(2), time_limit=1)
    assert isinstance(cut, mn.Ranking)
    assert len(cut) == 2
    assert (whole.complete, cut.complete) == (True, False)
    assert str(cut).endswith("the time limit came before all answers were proven.")
    assert json.loads(json.dumps(cut.to_dict()))["complete"] is False


@pytest.mark.parametrize("diverse", [0, 4])
def test_a_time_limit_gives_true_statuses(diverse: int) -> None:
    program = large_case((8,) * 60, 2, digits=2, tight=0.1)
    best = mn.search(program.table, maximize="accuracy", limits=program.limits)
    assert isinstance(best, mn.Answer)
    assert best.status is mn.Status.OPTIMAL
    for seconds in (0.02, 0.05, 0.15):
        start = time.perf_counter()
        answers = ranked(program, 5, diverse=diverse, solver="numpy", time_limit=seconds)
        assert time.perf_counter() - start < seconds + 2.0
        if isinstance(answers, mn.Infeasible):
            assert answers.status is mn.Status.UNKNOWN
            continue
        first = answers[0]
        assert first.bound >= best.value - 1e-9
        assert first.value <= best.value + 1e-9
        if first.status is mn.Status.OPTIMAL:
            assert first.value == pytest.approx(best.value, abs=1e-6)
        for answer in answers:
            assert program.holds(answer.network)
            assert answer.status in (mn.Status.OPTIMAL, mn.Status.FEASIBLE)
            assert answer.gap == answer.bound - answer.value
            assert ("not proven" in answer.guarantee) == (answer.status is mn.Status.FEASIBLE)


# ---- nothing, or not asked for right -------------------------------------------------------------


@pytest.mark.parametrize("diverse", [0, 2])
def test_where_nothing_meets_the_limits_it_says_why(diverse: int) -> None:
    nothing = mn.k_best(
        ladder(), 3, maximize="accuracy", limits={"latency_ms": 0.5}, diverse=diverse
    )
    assert isinstance(nothing, mn.Infeasible)
    assert not nothing
    assert [conflict.best for conflict in nothing.conflicts] == [1.0]


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_answer_is_refused(count: int) -> None:
    with pytest.raises(mn.InvalidInputError, match=f"at least 1 answer .* but got {count}"):
        mn.k_best(ladder(), count, maximize="accuracy")


@pytest.mark.parametrize("diverse", [-1, 4])
def test_answers_cannot_differ_in_more_nodes_than_there_are(diverse: int) -> None:
    with pytest.raises(mn.InvalidInputError, match=f"0 to 3 nodes, but got diverse={diverse}"):
        mn.k_best(ladder(), 2, maximize="accuracy", diverse=diverse)


def test_a_metric_or_solver_that_does_not_exist_is_refused() -> None:
    with pytest.raises(mn.InvalidInputError, match="no metric 'beauty'"):
        mn.k_best(ladder(), 2, maximize="beauty")
    with pytest.raises(mn.InvalidInputError, match="a solver is one of auto"):
        mn.k_best(ladder(), 2, maximize="accuracy", solver="gurobi")
    with pytest.raises(mn.InvalidInputError, match="one metric is optimised"):
        mn.k_best(ladder(), 2, maximize="accuracy", minimize="latency_ms")


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_a_time_limit_that_is_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(mn.InvalidInputError, match="a time limit is positive"):
        mn.search(ladder(), maximize="accuracy", time_limit=seconds)
    with pytest.raises(mn.InvalidInputError, match="a time limit is positive"):
        mn.k_best(ladder(), 2, maximize="accuracy", time_limit=seconds)
