"""The numpy solver beside a brute force that knows nothing of solvers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import (
    check,
    check_networks,
    hard_program,
    identical_case,
    large_case,
    normal_form,
    random_case,
    table_of,
)

from mathnas.search import Limit, Program, Status, VectorisedSolver
from mathnas.search._structure import structure_of
from mathnas.space import Block, BlockNode, SearchSpace
from mathnas.testing.programs import random_program

SOLVER = VectorisedSolver()


@pytest.mark.parametrize("part", range(8))
def test_seeded_programs_are_solved_as_by_brute_force(part: int) -> None:
    for seed in range(60 * part, 60 * part + 60):
        program = random_case(seed)
        for count in (1, 1 + seed % 10):
            check(program, SOLVER.solve(program, count=count), count, seed)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(10_000, 2**31), count=st.integers(1, 10))
def test_any_program_is_solved_as_by_brute_force(seed: int, count: int) -> None:
    program = random_case(seed)
    check(program, SOLVER.solve(program, count=count), count, seed)


def test_a_limit_equal_to_the_least_use_leaves_that_network() -> None:
    for seed in range(20):
        program = random_program((4, 4, 4), seed, senses=())
        uses = {n: program.table.exact(n, "latency_ms") for n in program.space.enumerate()}
        least = min(uses, key=lambda network: uses[network])
        metric = program.table.column("latency_ms").metric
        for value, networks in ((uses[least], [least]), (np.nextafter(uses[least], -9e9), [])):
            narrow = program.with_limits([Limit(metric, "<=", float(value))])
            assert list(SOLVER.solve(narrow).networks) == networks


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_time_limits_are_honest(power: float) -> None:
    program = large_case((12,) * 24, 3, power, tight=0.25)
    best = SOLVER.solve(program)
    assert best.status is Status.OPTIMAL
    value = normal_form(program, program.table.exact(best.networks[0], "accuracy"))
    for seconds in (0.0, 1e-4, 1e-3, 2e-3, 4e-3):
        solution = SOLVER.solve(program, time_limit=seconds)
        check_networks(program, solution, (power, seconds))
        assert solution.bound <= value + 1e-9 * program.span
        assert np.isfinite(solution.bound)
        expected = (Status.FEASIBLE, Status.OPTIMAL) if solution.networks else (Status.UNKNOWN,)
        assert solution.status in expected


def test_a_search_out_of_reach_ends_at_its_time_limit() -> None:
    program = hard_program()
    start = time.perf_counter()
    solution = SOLVER.solve(program, time_limit=0.3)
    assert time.perf_counter() - start < 1.5
    assert solution.status in (Status.UNKNOWN, Status.FEASIBLE)
    assert solution.bound >= program.lowest
    check_networks(program, solution)


def test_twins_are_found_where_all_numbers_are_equal_and_only_there() -> None:
    nodes = [BlockNode(f"n{i}", (Block("a", macs=1.0), Block("b", macs=2.0))) for i in range(4)]
    space = SearchSpace(nodes)
    accuracy = np.tile([0.0, 1.5], 4)
    # node 2 uses the same more than its lightest block, to the last bit but one
    latency = np.array([0.1, 0.4, 0.1, 0.4, 0.2, 0.5, 0.1, 0.4])
    table = table_of(space, (0,) * 4, {"accuracy": accuracy, "latency_ms": latency}, 0.0)
    limit = Limit(table.column("latency_ms").metric, "<=", 2.0)
    free = structure_of(Program(table, "accuracy", True))
    limited = structure_of(Program(table, "accuracy", True, [limit]))
    assert len(set(free.twins.tolist())) == 1
    one, two, three, four = limited.twins.tolist()
    assert one == two == four != three


@pytest.mark.parametrize("seed", range(4))
def test_identical_nodes_do_not_multiply_the_work(seed: int) -> None:
    program, best = identical_case(seed)
    solution = SOLVER.solve(program, time_limit=20)
    assert solution.status is Status.OPTIMAL
    check_networks(program, solution)
    assert program.table.exact(solution.networks[0], "accuracy") == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize("digits", [1, 2])
def test_steps_of_rounded_tables_are_found(digits: int) -> None:
    program = large_case((5,) * 6, 0, digits=digits, tight=0.4)
    structure = structure_of(program)
    step = 10.0**-digits
    assert structure.cost_step >= step * (1 - 1e-9)
    assert round(structure.cost_step / step, 9) % 1 == 0
    assert (structure.row_steps * program.rows.spans >= step * (1 - 1e-9)).all()
    assert structure_of(large_case((5,) * 6, 0, tight=0.4)).cost_step == 0


def test_a_rounded_table_of_many_ties_is_proven_quickly() -> None:
    for seed in range(4):
        program = large_case((20,) * 48, seed, digits=1, tight=0.4)
        solution = SOLVER.solve(program, time_limit=20)
        assert solution.status is Status.OPTIMAL
        check_networks(program, solution)


def test_a_step_does_not_hide_a_better_network() -> None:
    """The best network may be better than the next by one step alone."""
    space = SearchSpace(
        [BlockNode(f"n{i}", (Block("a"), Block("b"), Block("c"))) for i in range(5)]
    )
    rng = np.random.default_rng(1)
    for _ in range(30):
        values = {name: rng.integers(0, 4, 15) / 100 for name in ("accuracy", "latency_ms")}
        table = table_of(space, (0,) * 5, values, 0.0)
        limit = Limit(
            table.column("latency_ms").metric, "<=", 1.0 + float(rng.integers(-5, 5)) / 100
        )
        program = Program(table, "accuracy", True, [limit])
        for count in (1, 4):
            check(program, SOLVER.solve(program, count=count), count)
