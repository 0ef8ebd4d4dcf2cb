"""A second opinion: the same program solved again by another solver."""

from __future__ import annotations

import math

from mathnas.errors import MissingExtraError, VerificationError
from mathnas.search.chain import ChainSolver, is_chain
from mathnas.search.compiled import KernelSolver, kernel_is_available
from mathnas.search.confidence import ConfidentSolver
from mathnas.search.enumeration import MOST_NETWORKS, EnumerationSolver
from mathnas.search.highs import HighsSolver, highs_is_available
from mathnas.search.program import RELATIVE_TOLERANCE, Program
from mathnas.search.solver import Solution, Solver, Status
from mathnas.search.vectorised import VectorisedSolver
from mathnas.space import Network

_PROVEN = (Status.OPTIMAL, Status.INFEASIBLE)


def verify(
    program: Program,
    solution: Solution,
    time_limit: float | None = None,
    confidence: float | None = None,
) -> tuple[str, bool]:
    """Solve a program again, independently, and compare.

    Args:
        confidence: with which the program's limits are to hold for one measurement; None where they
            are on predictions. Which networks hold is told in the same way both times.

    Returns:
        The other solver's name, and whether it confirms the solution: False where one of the two
        came to its time limit, so that only what both have proven could be compared.

    Raises:
        VerificationError: the two contradict each other.
        MissingExtraError: no other solver for this program is installed.
    """
    other = _another_solver(program, solution.solver)
    if confidence is not None:
        other = ConfidentSolver(other, confidence)
    second = other.solve(program, time_limit=time_limit)
    for one, two in ((solution, second), (second, solution)):
        _compare(program, one, two)
    return other.name, solution.status in _PROVEN and second.status in _PROVEN


def _another_solver(program: Program, first: str) -> Solver:
    """As different a method as there is: looking at every network, HiGHS, then our own ones."""
    if first != EnumerationSolver.name and program.num_choices <= MOST_NETWORKS:
        return EnumerationSolver()
    # a node of whole networks is one large column set: HiGHS takes minutes, our own ones do not
    if program.power in (0.0, 1.0) and not program.layout.merged:
        if first != HighsSolver.name and highs_is_available():
            return HighsSolver()
        if first != ChainSolver.name and program.has_pairs and is_chain(program):
            return ChainSolver()
    if not program.has_pairs:
        if first != VectorisedSolver.name:
            return VectorisedSolver()
        if kernel_is_available():
            return KernelSolver()
    raise MissingExtraError(
        f"to verify an answer of {first!r}, a second solver is needed for this program: "
        "pip install 'mathnas[highs]'."
    )


def _compare(program: Program, one: Solution, two: Solution) -> None:
    """Whether what `one` has proven leaves room for what `two` has found."""
    if not two.networks or one.status not in _PROVEN:
        return
    value = _response(program, two.networks[0])
    if one.status is Status.INFEASIBLE:
        raise VerificationError(
            f"{one.solver} proved that no network meets the limits, but {two.solver} found "
            f"{two.networks[0]}, which does: please report this program as a bug of one of them."
        )
    best = _response(program, one.networks[0])
    near = RELATIVE_TOLERANCE * program.span + 8 * math.ulp(max(abs(best), abs(value)))
    if (value - best if program.maximize else best - value) > near:
        raise VerificationError(
            f"{one.solver} proved {one.networks[0]} optimal, but {two.solver} found the better "
            f"{two.networks[0]} ({value!r} against {best!r} on the scale of effects): please "
            "report this program as a bug of one of them."
        )


def _response(program: Program, network: Network) -> float:
    return program.table.response(network, program.objective.name)
