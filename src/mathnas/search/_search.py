"""`search`: from a table, an objective and limits to an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction
from mathnas.search.answer import Answer, Conflict, Infeasible, LimitUse
from mathnas.search.enumeration import MOST_NETWORKS, EnumerationSolver
from mathnas.search.limits import Limit, Limits, read_limits
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Solver, Status
from mathnas.search.vectorised import VectorisedSolver
from mathnas.table import BlockTable

_ENUMERATED_BY_DEFAULT = 200_000
_Clock = Callable[[], "float | None"]  # the seconds that are left; None for as long as it takes
_SOLVERS: dict[str, type[Solver]] = {
    "enumeration": EnumerationSolver,
    "numpy": VectorisedSolver,
}


def search(
    table: BlockTable,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    solver: str | Solver = "auto",
    time_limit: float | None = None,
) -> Answer | Infeasible:
    """The best predicted network under limits (Eq. 6 of the paper), with proof.

    Args:
        table: predictions.
        maximize, minimize: the metric to optimise; by default the one metric of the table of which
            more is better.
        limits: see `read_limits`.
        solver: ``auto``, ``enumeration`` (up to two million networks), ``numpy``, or a `Solver`.
        time_limit: seconds; where it comes first, the answer's status is FEASIBLE with a gap, or
            nothing was found (`Infeasible` with status UNKNOWN).

    Returns:
        An `Answer`, or an `Infeasible` (false in a condition) that says why.

    Raises:
        InvalidInputError: a metric, limit or solver is unknown, or a space is too large for the
            solver that was named.

    Example:
        >>> import mathnas as mn
        >>> blocks = (mn.Block("small", macs=1), mn.Block("large", macs=3))
        >>> space = mn.SearchSpace([mn.BlockNode("a", blocks), mn.BlockNode("b", blocks)])
        >>> table = mn.BlockTable(space, (0, 0), {})
        >>> mn.search(table, maximize="macs", limits={"macs": 4}).network
        (0, 1)
    """
    objective, upwards = _objective(table, maximize, minimize)
    if time_limit is not None and not time_limit > 0:
        raise InvalidInputError(f"a time limit is positive seconds, but got {time_limit}.")
    program = Program(table, objective, upwards, read_limits(limits, table))
    chosen = solver_for(program, solver)
    start = time.perf_counter()

    def left() -> float | None:
        if time_limit is None:
            return None
        return max(1e-3, time_limit - (time.perf_counter() - start))

    solution = chosen.solve(program, time_limit=time_limit)
    if not solution.networks:
        return _infeasible(program, solution, chosen, left)
    return _answer(program, solution, chosen, left)


def solver_for(program: Program, solver: str | Solver) -> Solver:
    """The solver that a name stands for; ``auto`` enumerates small spaces.

    Raises:
        InvalidInputError: the name is unknown, or the space is too large to enumerate.
    """
    if not isinstance(solver, str):
        return solver
    if solver == "auto":
        small = program.space.num_networks <= _ENUMERATED_BY_DEFAULT
        return EnumerationSolver() if small else VectorisedSolver()
    if solver not in _SOLVERS:
        known = ", ".join(["auto", *_SOLVERS])
        raise InvalidInputError(f"a solver is one of {known}, but got {solver!r}.")
    if solver == "enumeration" and program.space.num_networks > MOST_NETWORKS:
        raise InvalidInputError(
            f"enumeration is for up to {MOST_NETWORKS} networks, but {program.space!r} has more: "
            "use solver='numpy'."
        )
    return _SOLVERS[solver]()


def _objective(table: BlockTable, maximize: str | None, minimize: str | None) -> tuple[str, bool]:
    if maximize is not None and minimize is not None:
        raise InvalidInputError(
            f"one metric is optimised, but got maximize={maximize!r} and minimize={minimize!r}: "
            "turn one of them into a limit."
        )
    if minimize is not None:
        return minimize, False
    if maximize is not None:
        return maximize, True
    good = [name for name, m in table.metrics.items() if m.direction is Direction.MAXIMIZE]
    if len(good) != 1:
        raise InvalidInputError(
            f"say which metric to optimise with maximize= or minimize=: the table has "
            f"{', '.join(table.columns)}."
        )
    return good[0], True


def _answer(program: Program, solution: Solution, solver: Solver, left: _Clock) -> Answer:
    table, network = program.table, solution.networks[0]
    value = table.exact(network, program.objective.name)
    column = table.column(program.objective.name)
    bound = value
    if solution.status is not Status.OPTIMAL:
        bound = column.base + (-solution.bound if program.maximize else solution.bound)
        # the reported value is rounded once more than the bound
        bound = max(bound, value) if program.maximize else min(bound, value)
    uses = tuple(
        LimitUse(
            limit,
            table.exact(network, limit.metric.name),
            _binds(program, limit, value, solver, left, solution.seconds),
        )
        for limit in program.limits
    )
    return Answer(
        network,
        table.space.blocks_by_node(network),
        {name: table.prediction(network, name) for name in table.columns},
        program.objective,
        program.maximize,
        solution.status,
        bound,
        abs(bound - value),
        _guarantee(program, solution, abs(bound - value)),
        uses,
        solution.seconds,
        solution.solver,
    )


def _binds(
    program: Program, limit: Limit, value: float, solver: Solver, left: _Clock, seconds: float
) -> bool | None:
    """Whether the optimum is better without the limit: another solve.

    One better network settles it, and is often found long before the best one is proven: so the
    first try is short.
    """
    relaxed = program.without(limit)
    # less than this is within the guarantee of a solve, or the rounding of a value
    least = 1e-9 * program.span + 4 * math.ulp(value)
    for most in (max(0.1, 2 * seconds), math.inf):
        rest = left()
        most = most if rest is None else min(most, rest)
        solution = solver.solve(relaxed, time_limit=most if math.isfinite(most) else None)
        for network in solution.networks[:1]:
            other = program.table.exact(network, program.objective.name)
            if (other - value if program.maximize else value - other) > least:
                return True
        if solution.status is Status.OPTIMAL:
            return False
    return None


def _guarantee(program: Program, solution: Solution, gap: float) -> str:
    count = program.space.num_networks
    networks = f"{count:,}" if count < 10**9 else f"10^{len(str(count)) - 1} or more"
    better = "higher" if program.maximize else "lower"
    under = " that meets the limits" if program.limits else ""
    name, seconds = program.objective.name, f"{1000 * solution.seconds:.2f} ms, {solution.solver}"
    if solution.status is Status.OPTIMAL:
        return (
            f"optimal: of {networks} networks, none{under} has a {better} predicted {name}, "
            f"within 1e-9 of its range ({seconds})"
        )
    known = math.isfinite(gap)
    most = f"up to {program.objective.format(gap)} {better}" if known else f"{better} without bound"
    return f"not proven optimal in the time: a network{under} could be predicted {most} ({seconds})"


def _infeasible(program: Program, solution: Solution, solver: Solver, left: _Clock) -> Infeasible:
    """Why there is no network: the limits that cannot hold alone, else each under the others."""
    conflicts: list[Conflict | None] = []
    if solution.status is Status.INFEASIBLE:
        limits = program.limits
        conflicts = [
            _conflict(program, limit, (), solver, left)
            for limit in limits
            if _excludes_all(program, limit, solver, left)
        ] or [
            _conflict(program, limit, tuple(o for o in limits if o is not limit), solver, left)
            for limit in limits
        ]
    return Infeasible(
        solution.status,
        program.limits,
        tuple(conflict for conflict in conflicts if conflict is not None),
        solution.seconds,
        solution.solver,
    )


def _excludes_all(program: Program, limit: Limit, solver: Solver, left: _Clock) -> bool:
    """Whether it is proven that no network meets this limit, even alone."""
    alone = Program(program.table, program.objective.name, program.maximize, (limit,))
    return solver.solve(alone, time_limit=left()).status is Status.INFEASIBLE


def _conflict(
    program: Program, limit: Limit, others: tuple[Limit, ...], solver: Solver, left: _Clock
) -> Conflict | None:
    """How close the limited metric can come to its limit under other limits; None where the time
    limit came before that was proven."""
    name = limit.metric.name
    extreme = Program(program.table, name, limit.sense == ">=", others)
    solution = solver.solve(extreme, time_limit=left())
    if solution.status is Status.OPTIMAL:
        return Conflict(limit, others, program.table.exact(solution.networks[0], name))
    return Conflict(limit, others, None) if solution.status is Status.INFEASIBLE else None
