"""Search: the 0-1 program, its solvers, and what they answer."""

from mathnas.search._search import search, solver_for
from mathnas.search.answer import Answer, Conflict, Infeasible, LimitUse
from mathnas.search.chain import ChainSolver
from mathnas.search.compiled import KernelSolver, kernel_is_available
from mathnas.search.confidence import ConfidentSolver
from mathnas.search.device_fronts import DeviceFronts, Elsewhere, device_fronts
from mathnas.search.enumeration import EnumerationSolver
from mathnas.search.explain import Alternative, Explanation, LimitPrice, explain
from mathnas.search.front import Front, FrontPoint, pareto_front
from mathnas.search.highs import HighsSolver, highs_is_available
from mathnas.search.limits import Limit, read_limits
from mathnas.search.program import Program
from mathnas.search.ranking import Ranking, k_best
from mathnas.search.rules import (
    Rule,
    at_least_changes,
    at_most_changes,
    exclude,
    fix,
    forbid,
    require,
)
from mathnas.search.selection import BudgetPoint, Selection, Storage, choose_candidates
from mathnas.search.solver import Solution, Solver, Status, refuse_pairs
from mathnas.search.vectorised import VectorisedSolver

__all__ = [
    "Alternative",
    "Answer",
    "BudgetPoint",
    "ChainSolver",
    "ConfidentSolver",
    "Conflict",
    "DeviceFronts",
    "Elsewhere",
    "EnumerationSolver",
    "Explanation",
    "Front",
    "FrontPoint",
    "HighsSolver",
    "Infeasible",
    "KernelSolver",
    "Limit",
    "LimitPrice",
    "LimitUse",
    "Program",
    "Ranking",
    "Rule",
    "Selection",
    "Solution",
    "Solver",
    "Status",
    "Storage",
    "VectorisedSolver",
    "at_least_changes",
    "at_most_changes",
    "choose_candidates",
    "device_fronts",
    "exclude",
    "explain",
    "fix",
    "forbid",
    "highs_is_available",
    "k_best",
    "kernel_is_available",
    "pareto_front",
    "read_limits",
    "refuse_pairs",
    "require",
    "search",
    "solver_for",
]
