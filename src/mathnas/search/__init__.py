"""Search: the 0-1 program, its solvers, and what they answer."""

from mathnas.search._search import search, solver_for
from mathnas.search.answer import Answer, Conflict, Infeasible, LimitUse
from mathnas.search.chain import ChainSolver
from mathnas.search.compiled import KernelSolver, kernel_is_available
from mathnas.search.enumeration import EnumerationSolver
from mathnas.search.highs import HighsSolver, highs_is_available
from mathnas.search.limits import Limit, read_limits
from mathnas.search.program import Program
from mathnas.search.rules import (
    Rule,
    at_least_changes,
    at_most_changes,
    exclude,
    fix,
    forbid,
    require,
)
from mathnas.search.solver import Solution, Solver, Status, refuse_pairs
from mathnas.search.vectorised import VectorisedSolver

__all__ = [
    "Answer",
    "ChainSolver",
    "Conflict",
    "EnumerationSolver",
    "HighsSolver",
    "Infeasible",
    "KernelSolver",
    "Limit",
    "LimitUse",
    "Program",
    "Rule",
    "Solution",
    "Solver",
    "Status",
    "VectorisedSolver",
    "at_least_changes",
    "at_most_changes",
    "exclude",
    "fix",
    "forbid",
    "highs_is_available",
    "kernel_is_available",
    "read_limits",
    "refuse_pairs",
    "require",
    "search",
    "solver_for",
]
