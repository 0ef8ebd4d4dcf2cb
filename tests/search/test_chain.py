"""The solver for chains keeps the contract, and is exact where neighbours interact."""

from __future__ import annotations

import math
import time
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from paired_programs import check, feasible, paired

import mathnas as mn
from mathnas.errors import InvalidInputError
from mathnas.search import ChainSolver, EnumerationSolver, Limit, Program, Solver, Status
from mathnas.search.chain import is_chain
from mathnas.search.rules import at_least_changes, forbid, require
from mathnas.testing import SolverContract
from mathnas.testing.programs import Kind

_FORMS = (mn.Form.LINEAR, mn.Form.SPACE_MEAN)


class TestContract(SolverContract):
    @pytest.fixture
    def solver(self) -> Solver:
        return ChainSolver()


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(get_args(Kind)),
    form=st.sampled_from(_FORMS),
    senses=st.lists(st.sampled_from(["<=", ">="]), max_size=3),
    maximize=st.booleans(),
    count=st.sampled_from([1, 3, 1000]),
    share=st.sampled_from([0.02, 0.2, 0.7]),
)
def test_chains_are_solved_exactly(  # type: ignore[no-untyped-def]
    sizes, seed, kind, form, senses, maximize, count, share
) -> None:
    program = paired(
        sizes,
        seed,
        shape="chain",
        kind=kind,
        form=form,
        senses=senses,
        maximize=maximize,
        share=share,
    )
    # a node with a single block may stand behind the depth rule that surrounds it
    assume(is_chain(program))
    check(program, ChainSolver().solve(program, count=count), count)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("kind", ["smooth", "tied"])
def test_it_agrees_with_enumeration_on_larger_chains(kind: Kind, form: mn.Form) -> None:
    for seed in range(4):
        program = paired(
            (6,) * 7, seed, shape="chain", kind=kind, form=form, senses=("<=", "<="), share=0.05
        )
        chain = ChainSolver().solve(program, count=3)
        listed = EnumerationSolver().solve(program, count=3)
        assert chain.status is listed.status is Status.OPTIMAL
        name = program.objective.name
        values = [
            [program.table.response(network, name) for network in solution.networks]
            for solution in (chain, listed)
        ]
        np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-9 * program.span)


@pytest.mark.parametrize("kind", ["smooth", "rounded", "tied"])
def test_a_limit_just_below_the_optimum_is_never_broken(kind: Kind) -> None:
    for seed in range(4):
        program = paired((3, 4, 3, 3), seed, shape="chain", kind=kind)
        used = program.table.exact(feasible(program)[0][1], "latency_ms")
        metric = program.limits[0].metric
        values = [used - relative * abs(used) for relative in (1e-6, 1e-8, 1e-10, 1e-12)]
        for value in (used, math.nextafter(used, -math.inf), *values):
            traps = program.with_limits([Limit(metric, "<=", value)])
            check(traps, ChainSolver().solve(traps))


def test_rules_are_kept() -> None:
    for seed in range(6):
        free = paired((3, 3, 3, 3), seed, shape="chain", share=0.5)
        best = feasible(free)[0][1]
        rules = [
            at_least_changes(free.space, best, 2),
            require(free.space, when={0: 1}, then={2: 2}),
            forbid(free.space, {1: 0, 3: 0}),
        ]
        program = free.with_rules(rules)
        check(program, ChainSolver().solve(program, count=4), count=4)


def test_limits_that_nothing_meets_are_proven_infeasible() -> None:
    for seed in range(8):
        program = paired(
            (4,) * 5, seed, shape="chain", senses=("<=", "<=", "<="), share=0.04, kind="rounded"
        )
        check(program, ChainSolver().solve(program))


def test_what_it_cannot_solve_is_refused() -> None:
    program = paired((2, 2, 2, 2), 0)
    with pytest.raises(InvalidInputError, match="each node interacts with its neighbours only"):
        ChainSolver().solve(program)
    table = paired((2, 2), 0, shape="chain", form=mn.Form.SPACE_MEAN).table
    columns = dict(table.columns)
    old = columns["accuracy"]
    columns["accuracy"] = mn.BlockEffects(
        old.metric, old.base, old.effects, old.spread, old.contexts, old.form, power=0.3
    )
    program = Program(mn.BlockTable(table.space, table.reference, columns), "accuracy", True)
    with pytest.raises(InvalidInputError, match=r"to the power 0\.3: use solver='enumeration'"):
        ChainSolver().solve(program)


@pytest.mark.parametrize("form", _FORMS)
def test_twenty_nodes_take_far_less_than_a_second(form: mn.Form) -> None:
    seconds = []
    for seed in range(5):
        program = paired((9,) * 20, seed, shape="chain", form=form, senses=("<=", "<="), share=0.05)
        start = time.perf_counter()
        solution = ChainSolver().solve(program, time_limit=20)
        seconds.append(time.perf_counter() - start)
        assert solution.status is Status.OPTIMAL
        assert program.holds(solution.networks[0])
    assert np.median(seconds) < 1


@pytest.mark.parametrize("kind", ["smooth", "tied"])
def test_a_time_limit_leaves_a_true_bound(kind: Kind) -> None:
    for seconds in (1e-6, 1e-3, 1e-2):
        program = paired((6,) * 6, 3, shape="chain", kind=kind, senses=("<=", "<="), share=0.1)
        best = EnumerationSolver().solve(program)
        solution = ChainSolver().solve(program, time_limit=seconds)
        assert solution.bound <= best.bound + 1e-9 * program.span
        assert all(program.holds(network) for network in solution.networks)
        assert (solution.status in (Status.OPTIMAL, Status.FEASIBLE)) == bool(solution.networks)
