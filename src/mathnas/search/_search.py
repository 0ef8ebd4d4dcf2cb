"""`search`: from a table, an objective and limits to an answer."""

from __future__ import annotations

import time

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
        return _infeasible(program, solution, chosen, left())
    return _answer(program, solution, chosen, left())


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


def _answer(
    program: Program, solution: Solution, solver: Solver, time_limit: float | None
) -> Answer:
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
            _binds(program, limit, value, solver, time_limit),
        )
        for limit in program.limits
    )
    return Answer(
        network,
        dict(
            zip(
                (node.name for node in table.space.nodes),
                table.space.block_names(network),
                strict=True,
            )
        ),
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
    program: Program, limit: Limit, value: float, solver: Solver, time_limit: float | None
) -> bool | None:
    """Whether the optimum is better without the limit: one more solve."""
    relaxed = program.without(limit)
    solution = solver.solve(relaxed, time_limit=time_limit)
    if not solution.networks:
        return None
    other = program.table.exact(solution.networks[0], program.objective.name)
    gain = other - value if program.maximize else value - other
    if gain > 1e-9 * max(1.0, abs(value)):
        return True
    return False if solution.status is Status.OPTIMAL else None


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
    return (
        f"not proven optimal in the time: a network{under} could be predicted up to "
        f"{program.objective.format(gap)} {better} ({seconds})"
    )


def _infeasible(
    program: Program, solution: Solution, solver: Solver, time_limit: float | None
) -> Infeasible:
    """Why there is no network: the limits that cannot hold alone, else each under the others."""
    conflicts: list[Conflict] = []
    if solution.status is Status.INFEASIBLE:
        alone = [_conflict(program, limit, (), solver, time_limit) for limit in program.limits]
        conflicts = [
            conflict
            for conflict in alone
            if conflict.best is None or not conflict.limit.holds(conflict.best)
        ]
        if not conflicts:
            for limit in program.limits:
                others = tuple(other for other in program.limits if other is not limit)
                conflicts.append(_conflict(program, limit, others, solver, time_limit))
    return Infeasible(
        solution.status, program.limits, tuple(conflicts), solution.seconds, solution.solver
    )


def _conflict(
    program: Program,
    limit: Limit,
    others: tuple[Limit, ...],
    solver: Solver,
    time_limit: float | None,
) -> Conflict:
    """How close the limited metric can come to its limit under other limits."""
    name = limit.metric.name
    extreme = Program(program.table, name, limit.sense == ">=", others)
    solution = solver.solve(extreme, time_limit=time_limit)
    best = program.table.exact(solution.networks[0], name) if solution.networks else None
    return Conflict(limit, others, best)
