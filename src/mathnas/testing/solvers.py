"""What every solver keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from mathnas.search.limits import Limit
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Solver, Status
from mathnas.table import Form
from mathnas.testing.programs import Kind, best_by_brute_force, random_program

_KINDS: tuple[Kind, ...] = ("smooth", "rounded", "tied", "identical", "staged")
_SIZES = ((4, 4, 4, 4), (7, 1, 3, 5), (2,) * 8)
_FORMS = (Form.LINEAR, Form.SPACE_MEAN)


class SolverContract:
    """Inherit and override the fixture `solver`.

    A solver answers programs exactly: what it calls optimal is, to 1e-9 of the objective's range;
    what it returns meets every limit as given; what it calls infeasible has no network.

    Attributes:
        most_networks: the largest program that it takes.
        grace_s: how far it may overrun a time limit: one step of its work, on a busy machine.

    Example::

        class TestMySolver(SolverContract):
            @pytest.fixture
            def solver(self) -> Solver:
                return MySolver()
    """

    most_networks: ClassVar[float] = math.inf
    grace_s: ClassVar[float] = 1.5

    @pytest.fixture
    def solver(self) -> Solver:
        """The solver under test."""
        raise NotImplementedError("override the fixture `solver` and return your solver.")

    def test_it_has_a_name(self, solver: Solver) -> None:
        assert solver.name
        solution = solver.solve(random_program((2, 2), 0))
        assert solution.solver == solver.name
        assert solution.seconds >= 0

    @pytest.mark.parametrize("maximize", [True, False], ids=["maximise", "minimise"])
    @pytest.mark.parametrize("form", _FORMS, ids=["linear", "fractional"])
    @pytest.mark.parametrize("kind", _KINDS)
    def test_the_optimum_is_that_of_a_brute_force(
        self, solver: Solver, kind: Kind, form: Form, maximize: bool
    ) -> None:
        for seed, sizes in enumerate(_SIZES):
            for senses in ((), ("<=",), ("<=", ">="), ("<=", "<=", "<=")):
                program = random_program(
                    sizes, seed, kind=kind, form=form, maximize=maximize, senses=senses
                )
                _check(program, solver.solve(program))

    @pytest.mark.parametrize("form", _FORMS, ids=["linear", "fractional"])
    @pytest.mark.parametrize("kind", _KINDS)
    @pytest.mark.parametrize("count", [2, 7, 100_000])
    def test_the_best_ones_come_in_order(
        self, solver: Solver, kind: Kind, form: Form, count: int
    ) -> None:
        for seed, sizes in enumerate(_SIZES):
            program = random_program(sizes, seed, kind=kind, form=form, senses=("<=", "<="))
            _check(program, solver.solve(program, count=count), count)

    @pytest.mark.parametrize("form", _FORMS, ids=["linear", "fractional"])
    def test_a_limit_on_the_objective_itself_is_met(self, solver: Solver, form: Form) -> None:
        for seed in range(5):
            free = random_program((4, 4, 4), seed, form=form, senses=())
            ranking = best_by_brute_force(free)
            for value, _ in ranking[:: len(ranking) // 5]:
                limit = Limit(free.objective, "<=", value)
                program = Program(free.table, free.objective.name, True, [limit])
                _check(program, solver.solve(program))

    @pytest.mark.parametrize("kind", _KINDS)
    def test_limits_at_the_edge_are_met_to_the_last_bit(self, solver: Solver, kind: Kind) -> None:
        """A limit equal to a use is met; one ulp less excludes that network."""
        checked = 0
        for seed, sizes in enumerate(_SIZES):
            program = random_program(sizes, seed, kind=kind, senses=("<=", "<="), tightness=0.6)
            for _ in range(3):
                ranking = best_by_brute_force(program)
                if not ranking:
                    break
                checked += 1
                _, network = ranking[0]
                used = program.table.exact(network, "latency_ms")
                for value in (used, math.nextafter(used, -math.inf), used - 1e-10 * abs(used)):
                    program = _with_latency(program, value)
                    _check(program, solver.solve(program))
        assert checked >= 3

    @pytest.mark.parametrize("kind", _KINDS)
    def test_what_is_infeasible_is_proven_so(self, solver: Solver, kind: Kind) -> None:
        for seed, sizes in enumerate(_SIZES):
            program = random_program(sizes, seed, kind=kind, senses=("<=", "<="), tightness=-0.01)
            solution = solver.solve(program)
            assert solution.status is Status.INFEASIBLE
            assert not solution.networks

    def test_limits_that_are_infeasible_only_together_are_proven_so(self, solver: Solver) -> None:
        checked = 0
        for seed in range(30):
            program = random_program((3, 3, 3), seed, senses=("<=", "<=", "<="), tightness=0.15)
            checked += not best_by_brute_force(program)
            _check(program, solver.solve(program))
        assert checked >= 5

    @pytest.mark.parametrize("seconds", [1e-6, 1e-3, 1e-2])
    @pytest.mark.parametrize("form", _FORMS, ids=["linear", "fractional"])
    def test_what_is_said_at_a_time_limit_is_true(
        self, solver: Solver, form: Form, seconds: float
    ) -> None:
        for kind in ("smooth", "identical"):
            program = random_program((6,) * 4, 5, kind=kind, form=form, senses=("<=", "<="))
            best, _ = best_by_brute_force(program)[0]
            solution = solver.solve(program, time_limit=seconds)
            _check_partial(program, solution)
            if solution.status is Status.OPTIMAL:
                _check(program, solution)
            column = program.table.column("accuracy")
            assert solution.bound <= -(best - column.base) + 1e-9

    @pytest.mark.parametrize("seconds", [0.1, 0.5])
    @pytest.mark.parametrize("form", _FORMS, ids=["linear", "fractional"])
    def test_a_time_limit_is_kept(self, solver: Solver, form: Form, seconds: float) -> None:
        sizes: tuple[int, ...] = (20,) * 48
        if math.prod(sizes) > self.most_networks:
            sizes = (10,) * int(math.log10(self.most_networks))
        for kind in ("tied", "identical"):
            program = random_program(sizes, 1, kind=kind, form=form, senses=("<=", "<=", ">="))
            start = time.perf_counter()
            solution = solver.solve(program, time_limit=seconds)
            assert time.perf_counter() - start < seconds + self.grace_s
            _check_partial(program, solution)


def _with_latency(program: Program, value: float) -> Program:
    """The program with another value of its first limit, which is on latency."""
    first, *rest = program.limits
    limits = [Limit(first.metric, first.sense, value), *rest]
    return Program(program.table, program.objective.name, program.maximize, limits)


def _check(program: Program, solution: Solution, count: int = 1) -> None:
    """A finished solve: the `count` best feasible networks, or proof that there is none."""
    expected = best_by_brute_force(program)[:count]
    assert len(solution.networks) == len(expected)
    if not expected:
        assert solution.status is Status.INFEASIBLE
        return
    assert solution.status is Status.OPTIMAL
    _check_partial(program, solution)
    name = program.objective.name
    values = [program.table.exact(network, name) for network in solution.networks]
    best = [value for value, _ in expected]
    near = 1e-9 * program.span + 8 * float(np.spacing(max(map(abs, best))))
    np.testing.assert_allclose(values, best, rtol=0, atol=near)


def _check_partial(program: Program, solution: Solution) -> None:
    """What holds of any solution: true statuses, distinct feasible networks, a bound below them."""
    found = list(solution.networks)
    assert (solution.status in (Status.OPTIMAL, Status.FEASIBLE)) == bool(found)
    assert len(set(found)) == len(found)
    for network in found:
        assert program.space.check(network) == network
        _check_limits(program, network)
    if found:
        column = program.table.column(program.objective.name)
        value = program.table.exact(found[0], program.objective.name) - column.base
        near = 1e-9 * program.span + 8 * float(np.spacing(abs(value) + abs(column.base)))
        assert solution.bound <= (-value if program.maximize else value) + near


def _check_limits(program: Program, network: Sequence[int]) -> None:
    for limit in program.limits:
        used = program.table.exact(tuple(network), limit.metric.name)
        assert limit.holds(used), f"{limit} is broken by {used!r}"
