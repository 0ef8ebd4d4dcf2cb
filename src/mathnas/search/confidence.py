"""Limits that hold with a probability, for one measurement of the network that is answered.

How far a measurement may be off depends on the network: a convex function of its blocks, so the
limits are not linear. But no network is off by less than the noise of a measurement alone. Limits
tightened by that much are linear and exclude no network that holds, so whatever meets them is
listed, best first, and each is checked with its own deviation: the first that holds is the best of
all that do, because every better one was checked and cut off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.metrics import IDENTITY, Floats
from mathnas.posterior import Posterior
from mathnas.search.enumeration import EnumerationSolver
from mathnas.search.limits import Limit
from mathnas.search.program import RELATIVE_TOLERANCE, Program
from mathnas.search.solver import Solution, Solver, Status, countdown
from mathnas.space import Indices, Network
from mathnas.table import BlockTable

_ALL_LISTED = 200_000  # of spaces up to this size every network is checked, if need be
_MOST_LISTED = 512  # networks that are checked in larger ones
_MOST_EXCLUDED = 64  # the same for HiGHS, which excludes one network a solve
_GROWTH = 8  # of the lists
_WIDER = (1.0, 1.5, 1.5**2, 1.5**3, 1.5**4)  # of the margin, where a list held nothing
_NARROWER = (0.75, 0.5, 0.25)  # of it, where that leaves nothing
_CHUNK = 512
_SAFE = 1e-6  # a share of a margin that rounding does not reach


def check_confidence(confidence: float | None, table: BlockTable, limits: Sequence[Limit]) -> None:
    """
    Raises:
        InvalidInputError: the confidence is not in [0.5, 1), or a limit is on a metric whose fit
            does not say how far measurements may be off.
    """
    if confidence is None:
        return
    if not 0.5 <= confidence < 1:
        raise InvalidInputError(
            f"a confidence is a probability of at least 0.5 and below 1, but got {confidence}: 0.5 "
            "limits predictions themselves, 0.95 is usual."
        )
    for limit in limits:
        name = limit.metric.name
        if not is_exact(table, name) and table.column(name).uncertainty is None:
            raise InvalidInputError(
                "a limit with a confidence needs to know how far measurements may be off, but the "
                f"effects on {name} were fitted without uncertainty: fit them with "
                "method='regression', or leave out the confidence."
            )


def is_exact(table: BlockTable, metric: str) -> bool:
    """Whether predictions of a metric are not estimates, such as MACs that the space declares."""
    column = table.column(metric)
    return column.uncertainty is None and not column.spread.any()  # NaN counts as not 0


def value_at(table: BlockTable, network: Network, limit: Limit, confidence: float) -> float:
    """The value that one measurement of a network stays within, on the limit's side.

    Args:
        confidence: with which probability; the effects' posterior and the noise of the measurement
            together are taken as normal on the metric's response scale.

    Returns:
        In the metric's unit. A limit holds with the confidence if it holds for this.

    Raises:
        InvalidInputError: the metric is not exact, and its fit gives no uncertainty.
    """
    name = limit.metric.name
    if is_exact(table, name):
        return table.exact(network, name)
    scale = table.column(name).metric.scale
    response = table.response(network, name)
    values = scale.inverse(np.array([response]))
    margin = float(_margins(table, name, np.array([network]), values, confidence)[0])
    away = response + margin if limit.sense == "<=" else response - margin
    return float(scale.inverse(np.array([away]))[0])


class ConfidentSolver:
    """Solves programs whose limits hold with a confidence, each by itself, by another solver.

    Its solutions are about such programs: ``OPTIMAL`` and ``INFEASIBLE`` are proofs. In spaces of
    more than 200,000 networks the best 512 that meet the tightened limits are checked (64 where
    HiGHS lists them); if none of them holds, a solution is ``FEASIBLE``, found with a wider margin,
    or ``UNKNOWN``. `Solution.work` has ``cut_off``, how many were checked and do not hold.

    Args:
        solver: of the linear programs.
        confidence: the probability with which each limit holds for one measurement.
    """

    def __init__(self, solver: Solver, confidence: float) -> None:
        self.solver, self.confidence = solver, confidence

    @property
    def name(self) -> str:
        return self.solver.name

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`; the limits of the program are to hold with the confidence."""
        if all(is_exact(program.table, limit.metric.name) for limit in program.limits):
            return self.solver.solve(program, count=count, time_limit=time_limit)
        return _Solve(self, program, count, time_limit).run()


class _Solve:
    """One solve: growing lists of a relaxation, then wider margins."""

    def __init__(
        self, owner: ConfidentSolver, program: Program, count: int, time_limit: float | None
    ) -> None:
        self.start, self.left = time.perf_counter(), countdown(time_limit)
        self.program, self.count, self.time_limit = program, count, time_limit
        self.solver, self.confidence = owner.solver, owner.confidence
        networks = program.num_choices
        own = _MOST_EXCLUDED if self.solver.name == "highs" else _MOST_LISTED
        self.listed_by_solver = max(own, count)
        self.most = networks if networks <= _ALL_LISTED else self.listed_by_solver
        self.last_solver = self.solver.name

    def run(self) -> Solution:
        limits = [self._tightened(limit) for limit in self.program.limits]
        relaxed = self.program.with_limits(limits)
        size, bound = min(self.count, self.most), -math.inf
        while True:
            solution = self._list(relaxed, size)
            listed = list(solution.networks)
            found, checked = self._holding(listed)
            bound = max(bound, solution.bound)
            cut_off = checked - len(found)
            if len(found) == self.count:
                return self._solution(solution.status, found, bound, cut_off)
            if solution.status not in (Status.OPTIMAL, Status.INFEASIBLE):  # no more time
                status = Status.FEASIBLE if found else Status.UNKNOWN
                return self._solution(status, found, bound, cut_off)
            if len(listed) < size or size >= self.program.space.num_networks:
                status = Status.OPTIMAL if found else Status.INFEASIBLE
                return self._solution(status, found, bound, cut_off)
            # whatever else holds is listed later
            bound = max(bound, self._objective(found[0] if found else listed[-1]))
            if size >= self.most or self._is_late():
                break
            size = min(_GROWTH * size, self.most)
        if not self._is_late():
            found += self._widened(relaxed, listed, found)
        status = Status.FEASIBLE if found else Status.UNKNOWN
        return self._solution(status, found, bound, cut_off)

    def _widened(
        self, relaxed: Program, failed: Sequence[Network], found: Sequence[Network]
    ) -> list[Network]:
        """Further networks that hold, by constant margins like those of networks that did not."""
        margins = [self._median_margin(limit, failed) for limit in self.program.limits]
        sizes = list(_WIDER)
        more: list[Network] = []
        while sizes and len(found) + len(more) < self.count and not self._is_late():
            share = sizes.pop(0)
            limits = [
                tight if margin is None else _moved(self.program.table, limit, share * margin)
                for limit, tight, margin in zip(
                    self.program.limits, relaxed.limits, margins, strict=True
                )
            ]
            solution = self._list(self.program.with_limits(limits), self.listed_by_solver)
            holding, _ = self._holding(solution.networks)
            known = {*found, *more}
            more += [network for network in holding if network not in known]
            if not solution.networks and share >= 1:  # nor will there be any with wider ones
                sizes = list(_NARROWER) if share == 1 else []
        return more[: self.count - len(found)]

    def _list(self, program: Program, size: int) -> Solution:
        # a long list of a small space is quicker to make from all of its networks
        solver = self.solver if size <= self.listed_by_solver else EnumerationSolver()
        self.last_solver = solver.name
        return solver.solve(program, count=size, time_limit=self.left())

    def _is_late(self) -> bool:
        seconds = time.perf_counter() - self.start
        return self.time_limit is not None and seconds >= self.time_limit

    def _holding(self, networks: Sequence[Network]) -> tuple[list[Network], int]:
        """The first `count` of networks that hold, and how many were looked at for that."""
        found: list[Network] = []
        table = self.program.table
        for start in range(0, len(networks), _CHUNK):
            part = networks[start : start + _CHUNK]
            for place in np.flatnonzero(self._may_hold(np.array(part))).tolist():
                if all(
                    limit.holds(value_at(table, part[place], limit, self.confidence))
                    for limit in self.program.limits
                ):
                    found.append(part[place])
                    if len(found) == self.count:
                        return found, start + place + 1
        return found, len(networks)

    def _may_hold(self, networks: Indices) -> npt.NDArray[np.bool_]:
        """False where a network clearly does not hold, whatever the rounding: all at once."""
        table = self.program.table
        may = np.ones(len(networks), dtype=bool)
        for limit in self.program.limits:
            name = limit.metric.name
            if is_exact(table, name):
                continue
            scale = table.column(name).metric.scale
            values = table.predict(networks, name)
            margins = _margins(table, name, networks, values, self.confidence)
            responses, target = scale.forward(values), scale.forward(np.array([limit.value]))
            room = target - responses if limit.sense == "<=" else responses - target
            rounding = 1e-12 * (np.abs(responses) + np.abs(target))
            rounding += 1e-12 * (scale.derivative(values) * np.abs(values))
            may &= (1 - _SAFE) * margins <= room + rounding
        return may

    def _median_margin(self, limit: Limit, networks: Sequence[Network]) -> float | None:
        """On the response scale; None where a metric is exact."""
        table, name = self.program.table, limit.metric.name
        if is_exact(table, name):
            return None
        rows = np.array(networks)
        values = table.predict(rows, name)
        return float(np.median(_margins(table, name, rows, values, self.confidence)))

    def _tightened(self, limit: Limit) -> Limit:
        """A limit on the prediction that every network meets which holds with the confidence."""
        table = self.program.table
        if is_exact(table, limit.metric.name):
            return limit
        column, z = table.column(limit.metric.name), _quantile(self.confidence)
        uncertainty = column.uncertainty
        assert uncertainty is not None  # `check_confidence`
        if uncertainty.noise_at is None:
            # the part of the effects' variance that all networks have counts too
            common = uncertainty.constant if isinstance(uncertainty, Posterior) else 0.0
            least = z * math.sqrt(uncertainty.noise**2 + common)
            return _moved(table, limit, (1 - _SAFE) * least)
        if column.metric.scale != IDENTITY:
            return limit  # a relaxation all the same
        share = (1 - _SAFE) * z * uncertainty.noise / uncertainty.noise_at
        # |v| grows towards the limit or away from it
        factor = 1 + share if (limit.value >= 0) == (limit.sense == "<=") else 1 - share
        return limit if factor <= 0 else _safe(limit, limit.value / factor)

    def _objective(self, network: Network) -> float:
        """A bound on what is listed after a network, in normal form."""
        program = self.program
        name = program.objective.name
        value = program.table.response(network, name) - program.table.column(name).base
        return (-value if program.maximize else value) - RELATIVE_TOLERANCE * program.span

    def _solution(
        self, status: Status, found: list[Network], bound: float, cut_off: int
    ) -> Solution:
        seconds = time.perf_counter() - self.start
        return Solution(status, found, bound, seconds, self.last_solver, {"cut_off": cut_off})


def _quantile(confidence: float) -> float:
    """How many deviations a measurement stays within, on one side."""
    return NormalDist().inv_cdf(confidence)


def _margins(
    table: BlockTable, metric: str, networks: Indices, values: Floats, confidence: float
) -> Floats:
    """How far networks with these predicted values are to stay from a limit: shape (k,), at least
    0, on the response scale."""
    uncertainty = table.column(metric).uncertainty
    sd = table.response_deviation(networks, metric)
    assert uncertainty is not None  # there are deviations
    margins: Floats = _quantile(confidence) * np.sqrt(sd**2 + uncertainty.noises(values) ** 2)
    return margins


def _moved(table: BlockTable, limit: Limit, margin: float) -> Limit:
    """A limit moved inwards by a margin on the response scale, by a little less where rounding
    might make it more."""
    if not margin:
        return limit
    scale = table.column(limit.metric.name).metric.scale
    given = np.array([limit.value])
    response, slope = float(scale.forward(given)[0]), float(scale.derivative(given)[0])
    rounding = 16 * (math.ulp(response) + slope * math.ulp(limit.value))
    step = max(0.0, margin - rounding)
    target = response - step if limit.sense == "<=" else response + step
    return _safe(limit, float(scale.inverse(np.array([target]))[0]))


def _safe(limit: Limit, value: float) -> Limit:
    """A limit at another value, loosened by rounding, but not beyond the one given."""
    if limit.sense == "<=":
        return Limit(limit.metric, "<=", min(limit.value, value + 16 * math.ulp(value)))
    return Limit(limit.metric, ">=", max(limit.value, value - 16 * math.ulp(value)))
