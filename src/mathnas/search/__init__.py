"""Search: the 0-1 program, its solvers, and what they answer."""

from mathnas.search._search import search, solver_for
from mathnas.search.answer import Answer, Conflict, Infeasible, LimitUse
from mathnas.search.enumeration import EnumerationSolver
from mathnas.search.limits import Limit, read_limits
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Solver, Status
from mathnas.search.vectorised import VectorisedSolver

__all__ = [
    "Answer",
    "Conflict",
    "EnumerationSolver",
    "Infeasible",
    "Limit",
    "LimitUse",
    "Program",
    "Solution",
    "Solver",
    "Status",
    "VectorisedSolver",
    "read_limits",
    "search",
    "solver_for",
]
