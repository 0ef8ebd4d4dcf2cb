"""Answers of `search` are those of a brute force over every network."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from core_cases import (
    BruteForce,
    column_of,
    consistent,
    limit_at,
    limit_lists,
    realistic_table,
    space_of,
    table_of,
    tables,
    thorough,
    usual,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from mathnas import (
    Answer,
    BlockTable,
    DepthRule,
    Form,
    Infeasible,
    InvalidInputError,
    Limit,
    Status,
    search,
)
from mathnas.search import EnumerationSolver, Program, Solution, kernel_is_available

SOLVERS = ["enumeration", "numpy", *(["kernel"] if kernel_is_available() else [])]


def check_answer(
    table: BlockTable,
    brute: BruteForce,
    metric: str,
    maximize: bool,
    limits: Sequence[Limit],
    answer: Answer | Infeasible,
) -> None:
    """Everything that an answer states, compared with the brute force."""
    best = brute.best(metric, maximize, limits)
    if best is None:
        assert isinstance(answer, Infeasible), f"{answer} where nothing is feasible"
        check_reasons(brute, answer)
        return
    assert isinstance(answer, Answer), f"{answer} where {best} is feasible"
    near = brute.tolerance(metric)
    assert answer.status is Status.OPTIMAL
    assert answer.value == pytest.approx(best, rel=0, abs=near)
    assert answer.gap == 0
    assert table.space.check(answer.network) == answer.network
    for use in answer.limits:
        assert use.used == table.exact(answer.network, use.limit.metric.name)
        assert use.limit.holds(use.used), f"{use.limit} is broken by {use.used!r}"
        without = brute.best(metric, maximize, [o for o in answer_limits(answer) if o != use.limit])
        assert without is not None
        gain = abs(without - best)
        if gain > 4 * near:
            assert use.binds is True
        elif gain < near / 4:
            assert use.binds is False


def answer_limits(answer: Answer | Infeasible) -> list[Limit]:
    if isinstance(answer, Answer):
        return [use.limit for use in answer.limits]
    return list(answer.limits)


def check_reasons(brute: BruteForce, answer: Infeasible) -> None:
    assert answer.status is Status.INFEASIBLE
    assert answer.conflicts
    alone = [limit for limit in answer.limits if not brute.feasible([limit]).any()]
    if alone:
        assert [conflict.limit for conflict in answer.conflicts] == alone
    for conflict in answer.conflicts:
        name, lowest = conflict.limit.metric.name, conflict.limit.sense == "<="
        assert set(conflict.others) == (set() if alone else set(answer.limits) - {conflict.limit})
        expected = brute.best(name, not lowest, conflict.others)
        if expected is None:
            assert conflict.best is None
            continue
        assert conflict.best is not None
        assert conflict.best == pytest.approx(expected, rel=0, abs=brute.tolerance(name))
        assert not conflict.limit.holds(conflict.best)


@pytest.mark.parametrize("solver", SOLVERS)
@given(data=st.data())
@thorough
def test_answers_equal_brute_force(solver: str, data: st.DataObject) -> None:
    table = data.draw(tables())
    brute = BruteForce(table)
    metric = data.draw(st.sampled_from(sorted(table.columns)))
    maximize = data.draw(st.booleans())
    limits = data.draw(limit_lists(brute, table.metrics))
    assume(consistent(limits))
    maximized, minimized = (metric, None) if maximize else (None, metric)
    answer = search(table, maximize=maximized, minimize=minimized, limits=limits, solver=solver)
    check_answer(table, brute, metric, maximize, limits, answer)


# ---- spaces of 10^5 to 10^6 networks -------------------------------------------------------------


def sums_over_all(table: BlockTable, values: np.ndarray, start: float) -> np.ndarray:
    """Sums of per-block values over every network of a space without rules, in their order."""
    total = np.full(1, start)
    for own in np.split(values, table.space.offsets[1:-1]):
        total = np.add.outer(total, own).ravel()
    return total


def values_of_all(table: BlockTable, metric: str) -> np.ndarray:
    column = table.column(metric)
    if column.form is Form.LINEAR:
        return sums_over_all(table, column.effects, column.base)
    assert table.space.block_macs is not None
    macs = sums_over_all(table, table.space.block_macs, table.space.fixed_macs or 0.0)
    return np.asarray(column.base + sums_over_all(table, column.effects, 0.0) / macs)


def feasible_of_all(table: BlockTable, limits: Sequence[Limit]) -> np.ndarray:
    """Which networks are feasible: floats where they are far from a limit, exact where near."""
    met = np.ones(table.space.num_networks, dtype=bool)
    for limit in limits:
        used = values_of_all(table, limit.metric.name)
        met &= (used <= limit.value) if limit.sense == "<=" else (used >= limit.value)
        for index in np.flatnonzero(np.abs(used - limit.value) < 1e-9 * np.abs(used).max()):
            network = tuple(table.space.networks_at([index])[0].tolist())
            met[index] = limit.holds(table.exact(network, limit.metric.name))
    return met


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("form", [Form.LINEAR, Form.SPACE_MEAN], ids=["linear", "fractional"])
@pytest.mark.parametrize(
    ("sizes", "digits"),
    [((4,) * 9, None), ((3, 5, 2, 8, 6, 4, 9, 4), 2), ((10,) * 6, 1), ((2,) * 19, 1)],
    ids=["9x4", "uneven", "6x10", "19x2"],
)
def test_answers_over_a_million_networks_equal_brute_force(
    solver: str, form: Form, sizes: tuple[int, ...], digits: int | None
) -> None:
    table = realistic_table(sizes, seed=len(sizes), digits=digits, form=form)
    assert 10**5 <= table.space.num_networks <= 10**6
    accuracy = values_of_all(table, "accuracy")
    middle = np.quantile(values_of_all(table, "latency_ms"), [0.001, 0.3])
    cases = [
        [limit_at(table, "latency_ms", 0.4), limit_at(table, "energy_mj", 0.3)],
        [Limit(table.metrics["latency_ms"], "<=", float(middle[0]))],
        [
            Limit(table.metrics["latency_ms"], ">=", float(middle[1])),
            limit_at(table, "energy_mj", 0.25),
        ],
    ]
    for limits in cases:
        answer = search(table, maximize="accuracy", limits=limits, solver=solver)
        met = feasible_of_all(table, limits)
        assert isinstance(answer, Answer) == bool(met.any())
        if isinstance(answer, Answer):
            assert answer.status is Status.OPTIMAL
            assert answer.value == pytest.approx(accuracy[met].max(), rel=1e-12)
            assert all(use.limit.holds(use.used) for use in answer.limits)


@pytest.mark.parametrize("solver", SOLVERS)
def test_identical_nodes_do_not_confuse_a_search(solver: str) -> None:
    space = space_of([4] * 8, [1.0, 2.0, 3.0, 5.0] * 8, fixed_macs=1.0)
    table = table_of(
        space, {"accuracy": [0.0, 0.31, 0.52, 0.6] * 8, "latency_ms": [0.0, 0.1, 0.2, 0.35] * 8}
    )
    accuracy = values_of_all(table, "accuracy")
    for value in (0.0, 0.7, 1.1, 2.75):
        limit = Limit(table.metrics["latency_ms"], "<=", value)
        answer = search(table, maximize="accuracy", limits=[limit], solver=solver)
        assert isinstance(answer, Answer)
        met = feasible_of_all(table, [limit])
        assert answer.value == pytest.approx(accuracy[met].max(), rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_stages_of_variable_depth_are_searched_whole(solver: str) -> None:
    rules = [DepthRule((1, 2, 3), (0, 0, 0)), DepthRule((5, 6), (2, 1))]
    rng = np.random.default_rng(3)
    space = space_of([3, 4, 4, 4, 2, 3, 3], rng.random(23).tolist(), fixed_macs=1.0, rules=rules)
    table = BlockTable(
        space,
        (0, 0, 0, 0, 0, 2, 1),
        {
            name: column_of(name, rng.integers(-50, 50, 23) / 10, base=50.0)
            for name in ("accuracy", "latency_ms")
        },
    )
    brute = BruteForce(table)
    for value in (40.0, 45.0, 50.0):
        limits = [Limit(table.metrics["latency_ms"], "<=", value)]
        answer = search(table, maximize="accuracy", limits=limits, solver=solver)
        check_answer(table, brute, "accuracy", True, limits, answer)


# ---- exactness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("exponent", range(6, 13))
def test_a_limit_a_hair_below_the_use_is_met_exactly(solver: str, exponent: int) -> None:
    table = realistic_table([6] * 6, seed=exponent, digits=2 if exponent % 2 else None)
    for share in (0.2, 0.5):
        limit = limit_at(table, "latency_ms", share)
        first = search(table, maximize="accuracy", limits=[limit], solver=solver)
        assert isinstance(first, Answer)
        used = first.limits[0].used
        tighter = Limit(limit.metric, "<=", used * (1 - 10.0**-exponent))
        second = search(table, maximize="accuracy", limits=[tighter], solver=solver)
        assert isinstance(second, Answer)
        assert second.network != first.network
        assert second.limits[0].used <= tighter.value
        assert second.value <= first.value


@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("exponent", range(6, 13))
def test_limits_are_met_exactly_in_spaces_too_large_to_list(solver: str, exponent: int) -> None:
    table = realistic_table([9] * 20, seed=exponent, form=Form.SPACE_MEAN)
    limits = [limit_at(table, "latency_ms", 0.3), limit_at(table, "energy_mj", 0.3)]
    for _ in range(3):
        answer = search(table, maximize="accuracy", limits=limits, solver=solver)
        assert isinstance(answer, Answer)
        assert answer.solver == solver
        for use in answer.limits:
            assert table.exact(answer.network, use.limit.metric.name) <= use.limit.value
        limits = [
            Limit(use.limit.metric, "<=", use.used * (1 - 10.0**-exponent)) for use in answer.limits
        ]


@pytest.mark.parametrize("solver", SOLVERS)
@given(table=tables(), data=st.data())
@usual
def test_the_lowest_use_is_possible_and_one_ulp_less_is_not(
    solver: str, table: BlockTable, data: st.DataObject
) -> None:
    brute = BruteForce(table)
    name = data.draw(st.sampled_from(["accuracy", "latency_ms", "energy_mj"]))
    lowest = float(brute.values[name].min())
    just = Limit(table.metrics[name], "<=", lowest)
    answer = search(table, minimize="macs", limits=[just], solver=solver)
    assert isinstance(answer, Answer)
    assert table.exact(answer.network, name) == lowest
    below = Limit(table.metrics[name], "<=", math.nextafter(lowest, -math.inf))
    nothing = search(table, minimize="macs", limits=[below], solver=solver)
    assert isinstance(nothing, Infeasible)
    assert [conflict.limit for conflict in nothing.conflicts] == [below]


@pytest.mark.parametrize("solver", SOLVERS)
def test_small_effects_on_a_huge_base_are_still_told_apart(solver: str) -> None:
    space = space_of([3] * 4, [1.0] * 12)
    effects = [0.0, 1e-3, 2e-3] * 4
    table = BlockTable(
        space,
        (0,) * 4,
        {
            "accuracy": column_of("accuracy", effects, base=1.0),
            "latency_ms": column_of("latency_ms", effects, base=1e9),
        },
    )
    brute = BruteForce(table)
    for value in np.unique(brute.values["latency_ms"]):
        limits = [Limit(table.metrics["latency_ms"], "<=", float(value))]
        answer = search(table, maximize="accuracy", limits=limits, solver=solver)
        check_answer(table, brute, "accuracy", True, limits, answer)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("solver", SOLVERS)
def test_answers_do_not_depend_on_the_unit_of_a_metric(solver: str, unit: float) -> None:
    space = space_of([3] * 5, [1.0] * 15)
    rng = np.random.default_rng(0)
    gain, cost = rng.random(15), rng.random(15)
    table = table_of(space, {"accuracy": gain * unit, "latency_ms": cost * unit}, base=unit)
    answer = search(
        table, maximize="accuracy", limits={"latency_ms": 3.0 * unit, "macs": 1e9}, solver=solver
    )
    plain = table_of(space, {"accuracy": gain, "latency_ms": cost}, base=1.0)
    same = search(plain, maximize="accuracy", limits={"latency_ms": 3.0}, solver=solver)
    assert isinstance(answer, Answer)
    assert isinstance(same, Answer)
    assert answer.network == same.network
    assert [use.binds for use in answer.limits] == [True, False]


# ---- no answer -----------------------------------------------------------------------------------


def test_limits_that_cannot_hold_together_are_compared_with_what_is_possible() -> None:
    space = space_of([2, 2])
    table = table_of(
        space, {"accuracy": [0, 3, 0, 2], "latency_ms": [0, 5, 0, 4], "energy_mj": [0, 1, 0, 1]}
    )
    nothing = search(table, limits={"accuracy": 5, "latency_ms": 8})
    assert not nothing
    assert isinstance(nothing, Infeasible)
    assert [(c.limit.metric.name, c.best) for c in nothing.conflicts] == [
        ("accuracy", 3.0),  # the most accurate network within 8 ms
        ("latency_ms", 9.0),  # the fastest network with 5 %
    ]
    assert "together with latency_ms <= 8 ms: the highest possible accuracy is 3.00 %" in str(
        nothing
    )


def test_a_limit_that_cannot_hold_alone_is_the_only_one_named() -> None:
    table = table_of(space_of([2, 2]), {"accuracy": [0, 3, 0, 2], "latency_ms": [1, 5, 1, 4]})
    nothing = search(table, limits={"accuracy": 1, "latency_ms": 1.5})
    assert isinstance(nothing, Infeasible)
    assert nothing.reasons == (
        "latency_ms <= 1.5 ms cannot hold: the lowest possible latency_ms is 2 ms.",
    )


def test_three_limits_of_which_two_exclude_everything_say_so() -> None:
    table = table_of(
        space_of([3]),
        {"accuracy": [0, 1, 2], "latency_ms": [0, 1, 2], "energy_mj": [0, 1, 1]},
    )
    nothing = search(table, limits={"accuracy": 2, "latency_ms": 1, "energy_mj": 1})
    assert isinstance(nothing, Infeasible)
    by_name = {conflict.limit.metric.name: conflict for conflict in nothing.conflicts}
    assert by_name["energy_mj"].best is None
    assert "these exclude every network themselves" in str(by_name["energy_mj"])
    assert by_name["accuracy"].best == 1


# ---- time limits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ties() -> BlockTable:
    """96 nodes of 30 blocks: takes 50 ms to prove in numpy."""
    return realistic_table([30] * 96, seed=1)


@pytest.fixture(scope="module")
def tight(ties: BlockTable) -> list[Limit]:
    return [limit_at(ties, name, 0.15) for name in ("latency_ms", "energy_mj")]


def test_a_time_limit_gives_a_network_with_a_true_bound(
    ties: BlockTable, tight: list[Limit]
) -> None:
    best = search(ties, maximize="accuracy", limits=tight)
    assert isinstance(best, Answer)
    assert best.status is Status.OPTIMAL
    assert [use.binds for use in best.limits] == [True, True]
    statuses = set()
    for seconds in (0.002, 0.005, 0.01, 0.03, 0.1, 0.3):  # of 50 ms, or more on a busy machine
        answer = search(ties, maximize="accuracy", limits=tight, time_limit=seconds, solver="numpy")
        if isinstance(answer, Infeasible):
            assert answer.status is Status.UNKNOWN
            continue
        statuses.add(answer.status)
        assert all(use.limit.holds(use.used) for use in answer.limits)
        assert answer.value <= best.value + 1e-9
        assert answer.bound >= best.value - 1e-9
        assert answer.gap == answer.bound - answer.value
        if answer.status is Status.FEASIBLE:
            assert "not proven" in answer.guarantee
    assert Status.FEASIBLE in statuses


@pytest.mark.parametrize("form", [Form.LINEAR, Form.SPACE_MEAN], ids=["linear", "fractional"])
@pytest.mark.parametrize("seed", [2, 6, 12])
def test_programs_that_take_long_stop_at_the_time_limit(form: Form, seed: int) -> None:
    table = realistic_table([20] * 48, seed, digits=1, form=form)
    limits = [limit_at(table, name, 0.15) for name in ("latency_ms", "energy_mj")]
    start = time.perf_counter()
    answer = search(table, maximize="accuracy", limits=limits, time_limit=0.5)
    assert time.perf_counter() - start < 2.0
    assert isinstance(answer, Answer)
    assert answer.status in (Status.FEASIBLE, Status.OPTIMAL)
    assert answer.bound >= answer.value
    assert all(use.limit.holds(use.used) for use in answer.limits)


class CountingSolver:
    """Passes on to another solver and notes the time that each solve was given."""

    name = "counting"

    def __init__(self, seconds: float, status: Status | None = None) -> None:
        self.given: list[float | None] = []
        self.seconds = seconds
        self.status = status

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        self.given.append(time_limit)
        time.sleep(self.seconds)
        found = EnumerationSolver().solve(program, count=count)
        later = self.status is not None and len(self.given) > 1
        return Solution(Status.UNKNOWN, [], -math.inf, 0.1, self.name) if later else found


def test_all_solves_of_a_search_share_one_time_limit() -> None:
    table = table_of(space_of([3, 3]), {"accuracy": [0, 1, 2] * 2, "latency_ms": [0, 1, 2] * 2})
    for limits in ({"latency_ms": 3, "accuracy": 1}, {"latency_ms": 1, "accuracy": 3}):
        solver = CountingSolver(seconds=0.02)
        search(table, limits=limits, solver=solver, time_limit=0.05)
        assert len(solver.given) >= 3
        left = [seconds for seconds in solver.given if seconds is not None]
        assert left == sorted(left, reverse=True)
        assert left[0] == 0.05
        assert left[-1] <= 0.02


def test_what_was_not_settled_in_time_is_not_claimed() -> None:
    table = table_of(space_of([3, 3]), {"accuracy": [0, 1, 2] * 2, "latency_ms": [0, 1, 2] * 2})
    answer = search(
        table, limits={"latency_ms": 2}, solver=CountingSolver(0.0, Status.UNKNOWN), time_limit=1
    )
    assert isinstance(answer, Answer)
    assert answer.limits[0].binds is None
    nothing = search(
        table,
        limits={"latency_ms": 1, "accuracy": 3},
        solver=CountingSolver(0.0, Status.UNKNOWN),
        time_limit=1,
    )
    assert isinstance(nothing, Infeasible)
    assert nothing.status is Status.INFEASIBLE
    assert nothing.conflicts == ()
    assert "more time" in str(nothing)


def test_nothing_found_in_the_time_is_not_called_infeasible() -> None:
    table = table_of(space_of([3]), {"accuracy": [0, 1, 2]})
    solver = CountingSolver(0.0, Status.UNKNOWN)
    solver.given.append(None)  # so that the first solve is already a late one
    nothing = search(table, solver=solver, time_limit=1)
    assert isinstance(nothing, Infeasible)
    assert not nothing
    assert nothing.status is Status.UNKNOWN
    assert str(nothing).startswith("no network was found in the time")


# ---- what a caller may write ---------------------------------------------------------------------


def test_the_one_metric_to_maximise_is_the_default_objective() -> None:
    table = table_of(space_of([3]), {"accuracy": [0, 2, 1], "latency_ms": [2, 1, 0]})
    answer = search(table)
    assert isinstance(answer, Answer)
    assert (answer.objective.name, answer.maximize, answer.network) == ("accuracy", True, (1,))


def test_any_metric_may_be_optimised_either_way() -> None:
    table = table_of(space_of([3]), {"accuracy": [0, 2, 1], "latency_ms": [2, 1, 0]})
    slowest, fastest = search(table, maximize="latency_ms"), search(table, minimize="latency_ms")
    assert isinstance(slowest, Answer)
    assert isinstance(fastest, Answer)
    assert (slowest.network, fastest.network) == ((0,), (2,))


def test_auto_takes_the_kernel_and_else_enumerates_small_spaces() -> None:
    small, large = realistic_table([5] * 4, 0), realistic_table([5] * 12, 0)
    compiled = kernel_is_available()
    for table, otherwise in ((small, "enumeration"), (large, "numpy")):
        expected = "kernel" if compiled else otherwise
        answer = search(table)
        assert isinstance(answer, Answer)
        assert answer.solver == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maximize": "accuracy", "minimize": "latency_ms"}, "turn one of them into a limit"),
        ({"maximize": "energy_mj"}, "no metric 'energy_mj'; it has accuracy, latency_ms"),
        ({"solver": "gurobi"}, "a solver is one of auto, enumeration, kernel, numpy"),
        ({"time_limit": 0}, "positive seconds"),
        ({"time_limit": math.nan}, "positive seconds"),
    ],
)
def test_a_wrong_argument_is_explained(arguments: dict[str, Any], message: str) -> None:
    table = table_of(space_of([2]), {"accuracy": [0, 1], "latency_ms": [0, 1]})
    with pytest.raises(InvalidInputError, match=message):
        search(table, **arguments)


def test_an_objective_is_asked_for_where_it_is_not_clear() -> None:
    table = table_of(space_of([2]), {"latency_ms": [0, 1], "energy_mj": [0, 1]})
    with pytest.raises(InvalidInputError, match="say which metric to optimise"):
        search(table)


def test_enumeration_of_a_large_space_is_refused_with_the_other_solver_named() -> None:
    table = realistic_table([9] * 20, 0)
    with pytest.raises(InvalidInputError, match="solver='auto'"):
        search(table, solver="enumeration")


def test_a_depth_rule_with_too_many_configurations_for_candidates_is_searched() -> None:
    space = space_of([11] * 6, rules=[DepthRule(tuple(range(6)), (0,) * 6)])
    values = np.array([[0.0, -1.0, *[-2.0] * 9]] * 4 + [[0.0, 3.0, *[2.0] * 9]] * 2).ravel()
    answer = search(table_of(space, {"accuracy": values}))
    assert isinstance(answer, Answer)
    # each of the first four costs 1, each of the last two gains 3, and there are none without those
    assert answer.network == (1, 1, 1, 1, 1, 1)


def test_a_program_prints_what_it_optimises() -> None:
    table = realistic_table([3] * 3, 0, form=Form.SPACE_MEAN)
    limit = Limit(table.metrics["latency_ms"], "<=", 20)
    program = Program(table, "accuracy", True, [limit])
    assert str(program) == (
        "maximise accuracy (fractional) over 3 nodes, 9 candidates\n"
        "  subject to latency_ms <= 20 ms"
    )
