"""`search`: from a table, an objective and limits to an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import IDENTITY, Direction
from mathnas.search.answer import Answer, Conflict, Infeasible, LimitUse, percentage
from mathnas.search.chain import ChainSolver, is_chain
from mathnas.search.compiled import KernelSolver, kernel_is_available
from mathnas.search.confidence import ConfidentSolver, check_confidence, value_at
from mathnas.search.enumeration import MOST_NETWORKS, EnumerationSolver
from mathnas.search.highs import HighsSolver
from mathnas.search.limits import Limit, Limits, read_limits
from mathnas.search.program import Program
from mathnas.search.rules import Rule
from mathnas.search.solver import (
    Clock,
    Solution,
    Solver,
    Status,
    check_time_limit,
    countdown,
)
from mathnas.search.vectorised import VectorisedSolver
from mathnas.search.verification import verify as compare
from mathnas.space import Network
from mathnas.table import BlockTable

_ENUMERATED_BY_DEFAULT = 200_000
_SOLVERS: dict[str, type[Solver]] = {
    "enumeration": EnumerationSolver,
    "kernel": KernelSolver,
    "numpy": VectorisedSolver,
    "chain": ChainSolver,
    "highs": HighsSolver,
}


def search(
    table: BlockTable,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    confidence: float | None = None,
    rules: Sequence[Rule] = (),
    solver: str | Solver = "auto",
    time_limit: float | None = None,
    verify: bool = False,
) -> Answer | Infeasible:
    """The best predicted network under limits (Eq. 6 of the paper), with proof.

    Args:
        table: predictions.
        maximize, minimize: the metric to optimise; by default the one metric of the table of which
            more is better.
        limits: see `read_limits`.
        confidence: the probability, from 0.5 to below 1, with which one measurement of the network
            is to meet each limit, by itself; by default limits are on predictions. Limited metrics
            need a fit that says how far measurements may be off (``method="regression"``), but for
            those that the space declares. See `mathnas.search.confidence`.
        rules: on combinations of blocks; see `mathnas.search.rules`.
        solver: ``auto``, ``enumeration`` (up to two million networks), ``kernel`` (compiled),
            ``numpy``, ``chain`` (where only neighbours interact), ``highs`` (needs the extra
            ``highs``), or a `Solver`; see `solver_for`.
        time_limit: seconds; where it comes first, the answer's status is FEASIBLE with a gap, or
            nothing was found (`Infeasible` with status UNKNOWN). With a confidence that may also be
            in spaces of more than 200,000 networks.
        verify: whether to solve a second time with another solver, which has `time_limit` for
            itself; the answer's `verified_by` names it.

    Returns:
        An `Answer`, or an `Infeasible` (false in a condition) that says why.

    Raises:
        InvalidInputError: a metric, limit or solver is unknown, or the program is not one for the
            solver that was named, or the confidence is not in [0.5, 1), or it is not known how far
            measurements of a limited metric may be off.
        MissingExtraError: the solver that was named, or that is needed, is not installed.
        VerificationError: two solvers contradict each other.

    Example:
        >>> import mathnas as mn
        >>> blocks = (mn.Block("small", macs=1), mn.Block("large", macs=3))
        >>> space = mn.SearchSpace([mn.BlockNode("a", blocks), mn.BlockNode("b", blocks)])
        >>> table = mn.BlockTable(space, (0, 0), {})
        >>> mn.search(table, maximize="macs", limits={"macs": 4}).value
        4.0
    """
    check_time_limit(time_limit)
    program = program_for(table, maximize, minimize, limits, rules)
    chosen = confident(solver_for(program, solver), program, confidence)
    left = countdown(time_limit)
    solution = chosen.solve(program, time_limit=time_limit)
    verified_by = _verified(program, solution, time_limit, confidence) if verify else None
    if not solution.networks:
        return replace(infeasible_of(program, solution, chosen, left), verified_by=verified_by)
    answer = answer_of(program, solution.networks[0], solution, chosen, left)
    return replace(answer, verified_by=verified_by)


def confident(solver: Solver, program: Program, confidence: float | None) -> Solver:
    """The solver where limits are on predictions, else one of them whose limits hold with the
    confidence.

    Raises:
        InvalidInputError: see `check_confidence`.
    """
    check_confidence(confidence, program.table, program.limits)
    return solver if confidence is None else ConfidentSolver(solver, confidence)


def _confidence_of(solver: Solver) -> float | None:
    return solver.confidence if isinstance(solver, ConfidentSolver) else None


def _verified(
    program: Program, solution: Solution, time_limit: float | None, confidence: float | None
) -> str | None:
    """The solver that confirms a solution, or None where the time was too short for that."""
    name, confirmed = compare(program, solution, time_limit, confidence)
    return name if confirmed else None


def program_for(
    table: BlockTable,
    maximize: str | None,
    minimize: str | None,
    limits: Limits,
    rules: Sequence[Rule],
) -> Program:
    """The program of a search; see `search` for the arguments and errors."""
    objective, upwards = objective_of(table, maximize, minimize)
    return Program(table, objective, upwards, read_limits(limits, table), rules)


def solver_for(program: Program, solver: str | Solver) -> Solver:
    """The solver that a name stands for.

    ``auto`` is the compiled solver where it is installed, else enumeration up to 200,000 networks,
    else numpy. Where neighbouring nodes interact, it is enumeration up to 200,000 networks, else
    the solver for chains; where others do, enumeration up to two million networks, else HiGHS.

    Raises:
        InvalidInputError: the name is unknown, or the space is too large to enumerate.
        MissingExtraError: the solver is not installed.
    """
    if not isinstance(solver, str):
        return solver
    if solver == "auto":
        return _automatic(program)
    if solver not in _SOLVERS:
        known = ", ".join(["auto", *_SOLVERS])
        raise InvalidInputError(f"a solver is one of {known}, but got {solver!r}.")
    if solver == "enumeration" and program.num_choices > MOST_NETWORKS:
        raise InvalidInputError(
            f"enumeration is for up to {MOST_NETWORKS} networks, but {program.space!r} has more "
            "(with what depth rules exclude): use solver='auto'."
        )
    return _SOLVERS[solver]()


def _automatic(program: Program) -> Solver:
    networks = program.num_choices
    if program.layout.merged:
        return EnumerationSolver()
    if program.has_pairs:
        chain = is_chain(program) and program.power in (0.0, 1.0)
        if networks <= (_ENUMERATED_BY_DEFAULT if chain else MOST_NETWORKS):
            return EnumerationSolver()
        return ChainSolver() if chain else HighsSolver()
    if kernel_is_available():
        return KernelSolver()
    return EnumerationSolver() if networks <= _ENUMERATED_BY_DEFAULT else VectorisedSolver()


def objective_of(table: BlockTable, maximize: str | None, minimize: str | None) -> tuple[str, bool]:
    """The metric to optimise and whether more of it is wanted; see `search`."""
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


def answer_of(
    program: Program,
    network: Network,
    solution: Solution,
    solver: Solver,
    left: Clock | None,
    *,
    rank: int = 1,
    least_changes: int = 0,
) -> Answer:
    """The answer that a network of a solution is.

    Args:
        left: the time for settling which limits bind; None leaves that open.
        rank: 1 for the best network, 2 for the second best, ...
        least_changes: in how many nodes it has to differ from all that are ranked before it, where
            the program has rules for that.
    """
    table = program.table
    value = table.exact(network, program.objective.name)
    column = table.column(program.objective.name)
    bound = value
    if solution.status is not Status.OPTIMAL:
        response = column.base + (-solution.bound if program.maximize else solution.bound)
        bound = response
        if math.isfinite(response):
            bound = float(column.metric.scale.inverse(np.array([response]))[0])
        # the reported value is rounded once more than the bound
        bound = max(bound, value) if program.maximize else min(bound, value)
    confidence = _confidence_of(solver)
    uses = tuple(
        LimitUse(
            limit,
            table.exact(network, limit.metric.name),
            None if left is None else _binds(program, limit, network, solver, left, solution),
            None if confidence is None else value_at(table, network, limit, confidence),
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
        _guarantee(program, solution, abs(bound - value), rank, least_changes, confidence),
        uses,
        solution.seconds,
        solution.solver,
        rank=rank,
        confidence=confidence,
        cut_off=solution.work.get("cut_off", 0),
    )


def least_gain(program: Program, response: float) -> float:
    """A smaller difference of responses is within the guarantee of a solve, or rounding."""
    return 1e-9 * program.span + 4 * math.ulp(response)


def _binds(
    program: Program,
    limit: Limit,
    network: Network,
    solver: Solver,
    left: Clock,
    solution: Solution,
) -> bool | None:
    """Whether the optimum is better without the limit: another solve.

    One better network settles it, and is often found long before the best one is proven: so the
    first try is short.
    """
    relaxed, name = program.without(limit), program.objective.name
    value = program.table.response(network, name)
    for most in (max(0.1, 2 * solution.seconds), math.inf):
        rest = left()
        most = most if rest is None else min(most, rest)
        free = solver.solve(relaxed, time_limit=most if math.isfinite(most) else None)
        for better in free.networks[:1]:
            gain = program.table.response(better, name) - value
            if (gain if program.maximize else -gain) > least_gain(program, value):
                return True
        if free.status is Status.OPTIMAL:
            return False
    return None


def _guarantee(
    program: Program,
    solution: Solution,
    gap: float,
    rank: int,
    least_changes: int,
    confidence: float | None,
) -> str:
    count = program.space.num_networks
    networks = f"{count:,}" if count < 10**9 else f"10^{len(str(count)) - 1} or more"
    better = "higher" if program.maximize else "lower"
    apart = rank - 1 if least_changes else 0  # rules, one for each answer before
    kept = ["limits"] * bool(program.limits) + ["rules"] * bool(len(program.rules) > apart)
    conditions = [f"meets the {' and '.join(kept)}"] * bool(kept)
    cut_off = solution.work.get("cut_off", 0)
    if confidence is not None and program.limits:
        conditions[0] += f" (each limit with a probability of {percentage(confidence)})"
    checked = f"; {cut_off:,} predicted within them were checked and do not hold so" * bool(cut_off)
    if apart:
        conditions.append(f"differs in {least_changes} or more nodes from each one before")
    under = f" that {' and '.join(conditions)}" if conditions else ""
    name, seconds = program.objective.name, f"{1000 * solution.seconds:.2f} ms, {solution.solver}"
    if solution.status is Status.OPTIMAL:
        before = rank - 1 - apart
        scale = "" if program.objective.scale == IDENTITY else " on its response scale"
        none = f"none{under} has" if not before else f"only {before}{under} may have"
        return (
            f"optimal: of {networks} networks, {none} a {better} predicted {name}, "
            f"within 1e-9 of its range{scale}{checked} ({seconds})"
        )
    known = math.isfinite(gap)
    most = f"up to {program.objective.format(gap)} {better}" if known else f"{better} without bound"
    why = "" if cut_off else " in the time"
    return (
        f"not proven optimal{why}: a network{under} could be predicted {most}{checked} ({seconds})"
    )


def infeasible_of(program: Program, solution: Solution, solver: Solver, left: Clock) -> Infeasible:
    """Why there is no network: the rules, the limits that cannot hold alone, else each limit under
    the others."""
    conflicts: list[Conflict | None] = []
    proven = solution.status is Status.INFEASIBLE
    rules_conflict = proven and _rules_exclude_all(program, solver, left)
    if proven and not rules_conflict:
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
        rules=program.rules,
        rules_conflict=rules_conflict,
        confidence=_confidence_of(solver),
        cut_off=solution.work.get("cut_off", 0),
    )


def _rules_exclude_all(program: Program, solver: Solver, left: Clock) -> bool:
    """Whether it is proven that no network keeps the rules, whatever the limits."""
    if not program.rules:
        return False
    alone = program.with_limits(())
    return solver.solve(alone, time_limit=left()).status is Status.INFEASIBLE


def _excludes_all(program: Program, limit: Limit, solver: Solver, left: Clock) -> bool:
    """Whether it is proven that no network meets this limit, even alone."""
    alone = program.with_limits((limit,))
    return solver.solve(alone, time_limit=left()).status is Status.INFEASIBLE


def _conflict(
    program: Program, limit: Limit, others: tuple[Limit, ...], solver: Solver, left: Clock
) -> Conflict | None:
    """How close the limited metric can come to its limit under other limits; None where the time
    limit came before that was proven."""
    name = limit.metric.name
    extreme = program.optimizing(name, limit.sense == ">=", others)
    solution = solver.solve(extreme, time_limit=left())
    confidence = _confidence_of(solver)
    if solution.status is Status.OPTIMAL:
        network, within = solution.networks[0], None
        if confidence is not None:
            within = value_at(program.table, network, limit, confidence)
        best = program.table.exact(network, name)
        return Conflict(limit, others, best, confidence, within)
    return (
        Conflict(limit, others, None, confidence) if solution.status is Status.INFEASIBLE else None
    )
