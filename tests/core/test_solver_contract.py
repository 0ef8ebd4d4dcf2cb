"""The solvers of the core keep the contract that mathnas ships for solvers."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mathnas.search import EnumerationSolver, Program, Solution, Solver, Status, VectorisedSolver
from mathnas.search.enumeration import MOST_NETWORKS
from mathnas.table import Form
from mathnas.testing import SolverContract, best_by_brute_force, random_program


class TestEnumeration(SolverContract):
    most_networks = MOST_NETWORKS

    @pytest.fixture
    def solver(self) -> Solver:
        return EnumerationSolver()


class TestVectorised(SolverContract):
    @pytest.fixture
    def solver(self) -> Solver:
        return VectorisedSolver()


class Careless:
    """A solver that ignores limits, or stops at the first network that it sees."""

    name = "careless"

    def __init__(self, *, ignores_limits: bool = False, bound: float | None = None) -> None:
        self.ignores_limits = ignores_limits
        self.bound = bound

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        if self.ignores_limits:
            program = Program(program.table, program.objective.name, program.maximize)
        found = EnumerationSolver().solve(program, count=count)
        if self.bound is not None:
            return dataclasses.replace(found, status=Status.FEASIBLE, bound=self.bound)
        worst = EnumerationSolver().solve(program, count=10**6).networks[-count:]
        return found if self.ignores_limits else dataclasses.replace(found, networks=worst)


def test_the_contract_finds_a_broken_limit() -> None:
    with pytest.raises(AssertionError, match="is broken by"):
        SolverContract().test_the_optimum_is_that_of_a_brute_force(
            Careless(ignores_limits=True), "smooth", Form.LINEAR, True
        )


def test_the_contract_finds_an_answer_that_is_not_optimal() -> None:
    with pytest.raises(AssertionError):
        SolverContract().test_the_optimum_is_that_of_a_brute_force(
            Careless(), "smooth", Form.LINEAR, True
        )


def test_the_contract_finds_a_bound_that_is_none() -> None:
    with pytest.raises(AssertionError):
        SolverContract().test_what_is_said_at_a_time_limit_is_true(
            Careless(bound=math.inf), Form.LINEAR, 1e-3
        )


def test_the_brute_force_lists_feasible_networks_from_the_best() -> None:
    program = random_program((3, 3), 0, senses=("<=",), tightness=0.5)
    ranking = best_by_brute_force(program)
    assert 0 < len(ranking) < 9
    values = [value for value, _ in ranking]
    assert values == sorted(values, reverse=True)
    assert all(program.holds(network) for _, network in ranking)
