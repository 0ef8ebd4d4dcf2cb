"""Exact solution by HiGHS, an open mixed-integer solver: for pairs, and as a second opinion.

Program nodes become rows ``sum_j x_ij = 1`` over binaries, limits and rules become rows, and two
nodes that interact share variables y >= 0 for the pairs of their candidates, tied to the binaries
by ``sum_l y_jl = x_j`` and ``sum_j y_jl = x_l``: the tightest linear form of products. A fractional
objective A / F is solved by Dinkelbach's iteration: with u the lowest ratio known, minimise
A - u F, until nothing is below 0.

What HiGHS says is not taken on trust. It works to tolerances (1e-9 here), so every network is
checked in exact arithmetic, and one that breaks a limit is excluded and the program solved again.
"Infeasible" must be said twice, the second time without presolve, in which a bug is known
(ERGO-Code/HiGHS#3296); so is a program on which presolve fails. Where HiGHS does not come to a
proof, the answer says so.
"""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import dataclass
from threading import Event, Thread
from types import ModuleType
from typing import Any

import numpy as np

from mathnas.errors import MissingExtraError
from mathnas.metrics import Floats
from mathnas.search.program import RELATIVE_TOLERANCE, PairTerm, Program
from mathnas.search.solver import Solution, Status, refuse_powers
from mathnas.space import Indices

# HiGHS's tolerances are absolute. The objective lies between 0 and this, so that they are far below
# the guarantee. Rows stay between 0 and 1: HiGHS lets a variable be off by the tolerance, which a
# larger coefficient would turn into a violation that is larger than the tolerance; it then drops
# the network, and wrongly all that it would have found beside it.
_SCALE = 1e3
_TOLERANCE = 1e-9
_MOST_VIOLATIONS = 200
_POLL_SECONDS = 0.1
_MOST_SECONDS_TO_STOP = 10.0


def highs_is_available() -> bool:
    """Whether the optional dependency is installed."""
    return importlib.util.find_spec("highspy") is not None


class HighsSolver:
    """Mixed-integer programs by HiGHS, on one thread; needs the extra ``highs``.

    Linear and fractional programs of any size, with pairwise terms between any nodes. Several best
    networks are found one after the other, so ask for few.

    Raises:
        MissingExtraError: highspy is not installed.
    """

    name = "highs"

    def __init__(self) -> None:
        try:
            self._highspy = importlib.import_module("highspy")
        except ImportError as error:
            raise MissingExtraError(
                "the solver 'highs' needs highspy: pip install 'mathnas[highs]'."
            ) from error

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`; Ctrl-C interrupts it (not with highspy 1.7).

        The status is also FEASIBLE, or UNKNOWN, where more than 200 networks broke a limit by less
        than HiGHS can tell, or where it failed.

        Raises:
            InvalidInputError: the objective divides by MACs to a power between 0 and 1.
        """
        refuse_powers(program, self.name)
        return _Search(self._highspy, program, count, time_limit).run()


@dataclass(frozen=True)
class _Optimum:
    """What one mixed-integer program came to.

    Attributes:
        choice: candidate numbers, one a program node; None where none was found.
        proven: whether it is the best one, or where it is None, whether there is none.
        bound: no choice that is not excluded has a smaller A - u F.
    """

    choice: Indices | None
    proven: bool
    bound: float


class _Model:
    """The matrix of a program: variables x (candidates), then y (pairs of candidates)."""

    def __init__(self, program: Program) -> None:
        self.program = program
        sizes = np.diff(program.offsets)
        self.num_x = len(program.costs)
        rows = program.rows
        self.first_y: dict[tuple[int, int], int] = {}
        self.num_columns = self.num_x
        for term in (*program.pairs, *(term for terms in rows.pairs for term in terms)):
            key = (term.first, term.second)
            if key not in self.first_y:
                self.first_y[key] = self.num_columns
                self.num_columns += int(sizes[term.first] * sizes[term.second])
        self.indices: list[Indices] = []
        self.values: list[Floats] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        for start, size in zip(program.offsets[:-1], sizes, strict=True):
            self._add(np.arange(start, start + size), np.ones(size), 1.0, 1.0)
        for (first, second), start in self.first_y.items():
            block = start + np.arange(sizes[first] * sizes[second]).reshape(sizes[first], -1)
            for node, lines in ((first, block), (second, block.T)):
                for candidate, line in enumerate(lines, start=int(program.offsets[node])):
                    values = np.concatenate([np.ones(len(line)), [-1.0]])
                    self._add(np.concatenate([line, [candidate]]), values, 0.0, 0.0)
        self.first_limit = len(self.indices)
        for weights, pairs in zip(rows.weights, rows.pairs, strict=True):
            values = self._spread(weights, pairs)
            (used,) = np.nonzero(values)
            self._add(used, values[used], -math.inf, math.inf)
        self.set_bounds(rows.tolerance)

    def set_bounds(self, margin: Floats) -> None:
        """Let limits be overrun by this much, in the units of `Program.rows`."""
        bounds = self.program.rows.bounds + margin
        self.upper[self.first_limit : self.first_limit + len(bounds)] = bounds.tolist()

    def exclude(self, choice: Indices) -> None:
        """Cut off one choice, and no other one."""
        self._add(choice, np.ones(len(choice)), -math.inf, len(choice) - 1.0)

    def objective(self, ratio: float) -> tuple[Floats, float, float]:
        """A - u F as (costs, unit, constant): its value is ``unit * (costs @ columns) + constant``,
        where the product lies between 0 and 1000."""
        program = self.program
        constant = -ratio * program.fixed_macs if program.power else 0.0
        costs = program.costs - ratio * program.macs
        lowest = np.minimum.reduceat(costs, program.offsets[:-1])
        highest = np.maximum.reduceat(costs, program.offsets[:-1])
        least = [float(term.values.min()) for term in program.pairs]
        most = [float(term.values.max()) for term in program.pairs]
        constant += math.fsum([*lowest, *least])
        unit = (math.fsum([*(highest - lowest), *most]) - math.fsum(least)) / _SCALE or 1.0
        shifted = [
            PairTerm(term.first, term.second, term.values - term.values.min())
            for term in program.pairs
        ]
        raised = self._spread(costs - np.repeat(lowest, np.diff(program.offsets)), shifted)
        return raised / unit, unit, constant

    def value(self, costs: Floats, choice: Indices) -> float:
        """The product of costs and columns for a choice."""
        inside = choice - self.program.offsets[:-1]
        entries = []
        for term in self.program.pairs:
            start = self.first_y[term.first, term.second]
            place = inside[term.first] * term.values.shape[1] + inside[term.second]
            entries.append(costs[start + place])
        return math.fsum([*costs[choice], *entries])

    def fill(self, highspy: ModuleType, costs: Floats) -> Any:
        """The model for HiGHS."""
        model = highspy.HighsLp()
        model.num_col_ = self.num_columns
        model.num_row_ = len(self.indices)
        model.col_cost_ = costs
        model.col_lower_ = np.zeros(self.num_columns)
        model.col_upper_ = np.ones(self.num_columns)
        kinds = highspy.HighsVarType
        model.integrality_ = [kinds.kInteger] * self.num_x + [kinds.kContinuous] * (
            self.num_columns - self.num_x
        )
        model.row_lower_ = np.array(self.lower)
        model.row_upper_ = np.array(self.upper)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lengths = [0, *map(len, self.indices)]
        model.a_matrix_.start_ = np.cumsum(lengths, dtype=np.int32)
        model.a_matrix_.index_ = np.concatenate(self.indices).astype(np.int32)
        model.a_matrix_.value_ = np.concatenate(self.values)
        return model

    def _add(self, indices: Indices, values: Floats, lower: float, upper: float) -> None:
        self.indices.append(indices)
        self.values.append(values)
        self.lower.append(lower)
        self.upper.append(upper)

    def _spread(self, values: Floats, pairs: tuple[PairTerm, ...] | list[PairTerm]) -> Floats:
        """Values of candidates and pair terms, over all columns."""
        spread = np.zeros(self.num_columns)
        spread[: self.num_x] = values
        for term in pairs:
            start = self.first_y[term.first, term.second]
            spread[start : start + term.values.size] = term.values.ravel()
        return spread


class _Search:
    """One solve."""

    def __init__(
        self, highspy: ModuleType, program: Program, count: int, time_limit: float | None
    ) -> None:
        self.highspy = highspy
        self.program = program
        self.count = count
        self.start = time.perf_counter()
        self.deadline = math.inf if time_limit is None else self.start + time_limit
        self.model = _Model(program)
        self.near = RELATIVE_TOLERANCE * program.span
        self.counts = {"programs": 0, "violations": 0, "branches": 0}

    def run(self) -> Solution:
        found: list[tuple[float, Indices]] = []
        status, least = Status.OPTIMAL, math.inf
        while len(found) < self.count:
            last = found[-1][0] if found else self.program.lowest
            choice, proven, bound = self._next(last)
            if choice is not None:
                value = self.program.value(choice)
                if value < last - self.near:  # what was said before is contradicted
                    proven, bound = False, self.program.lowest
                found.append((value, choice))
                self.model.exclude(choice)
            least = min(least, bound)
            if not proven:
                status = Status.FEASIBLE if found else Status.UNKNOWN
            if not proven or choice is None:
                break
        if status is Status.OPTIMAL and not found:
            status = Status.INFEASIBLE
        found.sort(key=lambda item: item[0])
        best = found[0][0] if found else math.inf
        return Solution(
            status,
            [self.program.network(choice) for _, choice in found],
            best if status is Status.OPTIMAL else max(self.program.lowest, min(best, least)),
            time.perf_counter() - self.start,
            HighsSolver.name,
            self.counts,
        )

    def _next(self, ratio: float) -> tuple[Indices | None, bool, float]:
        """The best choice that is not excluded, whether that is proven, and a bound on its value.

        `ratio` is a lower bound on its value, for a start.
        """
        program = self.program
        best: Indices | None = None
        while True:
            optimum = self._minimum(ratio if program.power else 0.0)
            bound = program.bound_from(optimum.bound, ratio)
            if best is not None and bound > program.value(best) + self.near:
                return best, False, program.lowest  # contradicted by what it found before
            better = optimum.choice is not None and (
                best is None or program.value(optimum.choice) < program.value(best)
            )
            if better:
                best = optimum.choice
            # Dinkelbach: a choice of ratio u reaches the minimum of A - u F, so none is lower
            if best is None or not better or not optimum.proven or not program.power:
                return best, optimum.proven, bound
            ratio = program.value(best)

    def _minimum(self, ratio: float) -> _Optimum:
        """The choice with the smallest A - u F that is not excluded and meets every limit."""
        optimum = self._solved(ratio)
        while optimum.choice is not None and not self._holds(optimum.choice):
            self.model.exclude(optimum.choice)
            self.counts["violations"] += 1
            if self.counts["violations"] > _MOST_VIOLATIONS:
                # very many are closer to a limit than HiGHS can tell: stay away from the limits,
                # and keep the bound that is proven
                self.model.set_bounds(-10 * self.program.rows.tolerance)
                inside = self._solved(ratio)
                return _Optimum(inside.choice, False, optimum.bound)
            optimum = self._solved(ratio)
        return optimum

    def _holds(self, choice: Indices) -> bool:
        return self.program.holds(self.program.network(choice))

    def _solved(self, ratio: float) -> _Optimum:
        """The same to HiGHS's tolerances; without presolve where that found nothing or failed."""
        optimum = self._answer(ratio, presolve=True)
        found_or_stopped = optimum.choice is not None or time.perf_counter() > self.deadline
        return optimum if found_or_stopped else self._answer(ratio, presolve=False)

    def _answer(self, ratio: float, *, presolve: bool) -> _Optimum:
        """What HiGHS answers."""
        left = self.deadline - time.perf_counter()
        if left <= 0:
            return _Optimum(None, False, -math.inf)
        costs, unit, constant = self.model.objective(ratio)
        solver = self._configured(left, presolve)
        solver.passModel(self.model.fill(self.highspy, costs))
        self._run(solver)
        self.counts["programs"] += 1
        statuses = self.highspy.HighsModelStatus
        status = solver.getModelStatus()
        if status in (statuses.kInfeasible, statuses.kUnboundedOrInfeasible):
            return _Optimum(None, True, math.inf)
        info = solver.getInfo()
        self.counts["branches"] += max(0, int(info.mip_node_count))
        dual = float(info.mip_dual_bound)
        bound = constant + unit * (dual - _TOLERANCE) if math.isfinite(dual) else -math.inf
        if info.primal_solution_status != 2:  # a feasible point
            return _Optimum(None, False, bound)
        columns = np.array(solver.getSolution().col_value[: self.model.num_x])
        nodes = np.split(columns, self.program.offsets[1:-1])
        choice = self.program.offsets[:-1] + np.array([int(own.argmax()) for own in nodes])
        # optimal means what it says: the bound has come to the value, within 1e-10 of the span
        near = self.model.value(costs, choice) - dual <= 1e-10 * _SCALE
        return _Optimum(choice, status == statuses.kOptimal and near, bound)

    def _configured(self, seconds: float, presolve: bool) -> Any:
        # a new one each time: its clock and its time limit go on from run to run
        solver = _silent(self.highspy)
        options: dict[str, object] = {
            "threads": 1,
            "parallel": "off",
            "presolve": "on" if presolve else "off",
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.0,
            "mip_feasibility_tolerance": _TOLERANCE,
            "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE,
            "small_matrix_value": 1e-12,
        }
        if math.isfinite(seconds):
            options["time_limit"] = seconds
        for name, value in options.items():
            solver.setOptionValue(name, value)
        return solver

    def _run(self, solver: Any) -> None:
        """Solve; Ctrl-C stops it where highspy can be told to stop."""

        def run() -> None:
            if solver.run() == self.highspy.HighsStatus.kError:
                # other users of HiGHS in this process may have fixed another number of threads
                solver.setOptionValue("threads", 0)
                solver.run()

        if not hasattr(solver, "HandleUserInterrupt"):
            run()
            return
        solver.HandleUserInterrupt = True
        done = Event()

        def run_aside() -> None:
            try:
                run()
            finally:
                done.set()

        # highspy's own startSolve serves one solve at a time in a whole process; an event, as an
        # interrupted join may leave the next one no thread to wait for
        try:
            Thread(target=run_aside, daemon=True).start()
            while not done.wait(_POLL_SECONDS):
                pass
        except BaseException:
            solver.cancelSolve()
            done.wait(_MOST_SECONDS_TO_STOP)
            raise


def _silent(highspy: ModuleType) -> Any:
    """A new `Highs` that prints nothing; its constructor enables callbacks, which prints a banner
    on standard output unless output is off by then."""

    class Silent(highspy.Highs):  # type: ignore[misc, name-defined]
        def enableCallbacks(self) -> None:
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    solver = Silent()
    solver.setOptionValue("output_flag", False)
    return solver
