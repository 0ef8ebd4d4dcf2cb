"""`verify=True`: a second solver confirms the answer, or the search is refused."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
from paired_programs import feasible, paired

import mathnas as mn
from mathnas.errors import MissingExtraError, VerificationError
from mathnas.search import (
    ChainSolver,
    EnumerationSolver,
    HighsSolver,
    Limit,
    Program,
    Solution,
    Status,
    VectorisedSolver,
    highs_is_available,
    kernel_is_available,
)
from mathnas.testing import random_program

_verification = importlib.import_module("mathnas.search.verification")


class Lying:
    """A solver whose answers are changed before they are given."""

    name = "lying"

    def __init__(self, **changes: object) -> None:
        self.changes = changes

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        honest = EnumerationSolver().solve(program, count=count, time_limit=time_limit)
        return replace(honest, solver=self.name, **self.changes)  # type: ignore[arg-type]


def search(program: Program, **options: object) -> mn.Answer | mn.Infeasible:
    return mn.search(
        program.table,
        maximize="accuracy",
        limits=list(program.limits),
        verify=True,
        **options,  # type: ignore[arg-type]
    )


def test_the_answer_says_who_verified_it() -> None:
    for program in (random_program((4, 4, 4), 0), paired((4, 4, 4), 0, shape="chain")):
        answer = search(program, solver="highs" if highs_is_available() else "auto")
        assert isinstance(answer, mn.Answer)
        assert answer.verified_by is not None
        assert answer.verified_by != answer.solver
        assert answer.to_dict()["verified_by"] == answer.verified_by
        assert f"verified: {answer.verified_by}" in str(answer)
        unverified = mn.search(program.table, maximize="accuracy", limits=list(program.limits))
        assert unverified.verified_by is None
        assert "verified" not in str(unverified)


def test_an_infeasible_program_is_verified_too() -> None:
    program = random_program((3, 3, 3), 0, tightness=-0.1)
    nothing = search(program)
    assert isinstance(nothing, mn.Infeasible)
    assert nothing.verified_by is not None
    assert f"verified: {nothing.verified_by}" in str(nothing)
    assert nothing.to_dict()["verified_by"] == nothing.verified_by


def test_a_wrong_answer_is_refused() -> None:
    program = random_program((3, 4, 3), 1)
    ranking = feasible(program)
    with pytest.raises(VerificationError, match=r"lying proved .* optimal, but enumeration found"):
        search(program, solver=Lying(networks=[ranking[1][1]]))
    with pytest.raises(VerificationError, match="lying proved that no network meets the limits"):
        search(program, solver=Lying(status=Status.INFEASIBLE, networks=[]))


def test_a_network_that_breaks_a_limit_is_refused() -> None:
    """It is better than the proven optimum of the other solver."""
    program = random_program((3, 4, 3), 1)
    best = feasible(program.with_limits([]))[0][1]
    metric = program.limits[0].metric
    used = program.table.exact(best, metric.name)
    program = program.with_limits([Limit(metric, "<=", math.nextafter(used, -math.inf))])
    with pytest.raises(VerificationError, match="enumeration proved"):
        search(program, solver=Lying(networks=[best]))
    nothing = random_program((3, 3, 3), 0, tightness=-0.1)
    with pytest.raises(VerificationError, match="enumeration proved that no network"):
        search(nothing, solver=Lying(status=Status.OPTIMAL, networks=[(0, 0, 0)]))


def test_what_came_to_its_time_limit_is_compared_as_far_as_it_got() -> None:
    program = random_program((3, 4, 3), 1)
    ranking = feasible(program)
    answer = search(program, solver=Lying(status=Status.FEASIBLE, bound=-math.inf))
    assert isinstance(answer, mn.Answer)
    assert answer.verified_by is None
    worse = search(program, solver=Lying(status=Status.FEASIBLE, networks=[ranking[2][1]]))
    assert isinstance(worse, mn.Answer)
    assert worse.verified_by is None


def test_large_programs_are_verified_by_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    program = random_program((9,) * 12, 2, senses=("<=", "<="))
    numpy = VectorisedSolver().solve(program)
    chain = paired((6,) * 12, 2, shape="chain")
    solved = ChainSolver().solve(chain)
    if highs_is_available():
        assert _verification.verify(program, numpy) == ("highs", True)
        assert _verification.verify(chain, solved) == ("highs", True)
        assert _verification.verify(chain, HighsSolver().solve(chain)) == ("chain", True)
    monkeypatch.setattr(_verification, "highs_is_available", lambda: False)
    if kernel_is_available():
        assert _verification.verify(program, numpy) == ("kernel", True)
    assert _verification.verify(program, replace(numpy, solver="kernel")) == ("numpy", True)
    with pytest.raises(MissingExtraError, match=r"pip install 'mathnas\[highs\]'"):
        _verification.verify(chain, solved)
