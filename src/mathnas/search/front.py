"""Pareto fronts between two metrics, exact: every point is proven by its own solves.

The epsilon-constraint method: the best y; then the best y among networks with strictly better x,
and so on, until no network is left. A point that the next one equals in y was dominated, and is
dropped. Strictness is exact: the limit on x is the next number below the last point's.
"""

from __future__ import annotations

import csv
import html
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mathnas._progress import Progress, progress_bar
from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction, Metric
from mathnas.search._search import infeasible_of, least_gain, solver_for
from mathnas.search.answer import Infeasible
from mathnas.search.limits import Limit, Limits, Sense, read_limits
from mathnas.search.program import Program
from mathnas.search.rules import Rule
from mathnas.search.solver import Solver, Status, check_time_limit
from mathnas.space import Network
from mathnas.table import BlockTable

_PLOT_WIDTH, _PLOT_HEIGHT = 60, 16


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A network that no other one beats in both metrics.

    Attributes:
        network: block indices.
        x, y: its predicted values.
    """

    network: Network
    x: float
    y: float


@dataclass(frozen=True)
class Front:
    """Points from the best x to the best y.

    Attributes:
        x, y: the metrics.
        points: ordered from the best x.
        limits, rules: what all points meet besides.
        complete: whether these are all points of the front; otherwise they are some of them, each
            proven (`max_points`, or the time limit).
        seconds: wall time.
        solver: which solver proved the points.
    """

    x: Metric
    y: Metric
    points: tuple[FrontPoint, ...]
    limits: tuple[Limit, ...]
    rules: tuple[Rule, ...]
    complete: bool
    seconds: float
    solver: str

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[FrontPoint]:
        return iter(self.points)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "x": self.x.name,
            "y": self.y.name,
            "complete": self.complete,
            "points": [
                {"network": list(p.network), self.x.name: p.x, self.y.name: p.y}
                for p in self.points
            ],
            "limits": [limit.to_dict() for limit in self.limits],
            "rules": [str(rule) for rule in self.rules],
            "seconds": self.seconds,
            "solver": self.solver,
        }

    def to_csv(self) -> str:
        """A line a point: network, x, y."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["network", self.x.name, self.y.name])
        for point in self.points:
            writer.writerow([",".join(map(str, point.network)), repr(point.x), repr(point.y)])
        return text.getvalue()

    def __str__(self) -> str:
        return "\n".join([self._headline(), *self._plot()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(n)}</th>" for n in ("network", self.x.name, self.y.name))
        rows = "".join(
            f"<tr><td>{','.join(map(str, p.network))}</td><td>{self.x.format(p.x)}</td>"
            f"<td>{self.y.format(p.y)}</td></tr>"
            for p in self.points
        )
        return f"<p><b>{html.escape(self._headline())}</b></p><table><tr>{head}</tr>{rows}</table>"

    def _headline(self) -> str:
        kind = "all" if self.complete else "some"
        return (
            f"Pareto front of {self.y.name} against {self.x.name}: {len(self)} points ({kind} of "
            f"them, each proven; {1000 * self.seconds:.0f} ms, {self.solver})"
        )

    def _plot(self) -> list[str]:
        """The front as text: y upwards, x to the right."""
        if not self.points:
            return ["  no point was proven in the time: give more time (time_limit)."]
        xs, ys = np.array([p.x for p in self.points]), np.array([p.y for p in self.points])
        canvas = [[" "] * _PLOT_WIDTH for _ in range(_PLOT_HEIGHT)]
        for column, row in zip(_cells(xs, _PLOT_WIDTH), _cells(ys, _PLOT_HEIGHT), strict=True):
            canvas[_PLOT_HEIGHT - 1 - row][column] = "o"
        labels = {
            0: self.y.format(float(ys.max())),
            _PLOT_HEIGHT - 1: self.y.format(float(ys.min())),
        }
        width = max(map(len, labels.values()))
        lines = [
            f"{labels.get(row, ''):>{width}} |{''.join(cells).rstrip()}"
            for row, cells in enumerate(canvas)
        ]
        low, high = self.x.format(float(xs.min())), self.x.format(float(xs.max()))
        room = max(1, _PLOT_WIDTH - len(low) - len(high))
        axis = " " * width + " +" + "-" * _PLOT_WIDTH
        return [*lines, axis, " " * (width + 2) + low + " " * room + high]


def pareto_front(
    table: BlockTable,
    x: str,
    y: str,
    *,
    limits: Limits = None,
    rules: Sequence[Rule] = (),
    max_points: int | None = None,
    solver: str | Solver = "auto",
    time_limit: float | None = None,
    on_point: Callable[[FrontPoint], None] | None = None,
    progress: bool | None = False,
) -> Front | Infeasible:
    """All networks that no other one beats in both metrics, of those that meet the limits.

    Which direction is better is each metric's own. Of networks with equal values, one is given;
    values are told apart to 1e-9 of a metric's range, the guarantee of a solve.

    Args:
        x, y: metric names.
        limits, rules, solver: as in `search`.
        max_points: at most so many points, exact points of the front, spread evenly over x.
        time_limit: seconds for the whole front; `complete` is False where it ends the work.
        on_point: called with each point as soon as it is proven, from the best y on.
        progress: show a bar on standard error; None shows it on a terminal.

    Returns:
        A `Front`, or an `Infeasible` (false in a condition) that says why no network is feasible.

    Raises:
        InvalidInputError: a metric is unknown, x is y, max_points is below 2, or a metric has to be
            limited that cannot be: x, and with `max_points` y, must not divide by MACs to a power
            between 0 and 1.
    """
    start = time.perf_counter()
    check_time_limit(time_limit)
    walk = _Walk(table, x, y, read_limits(limits, table), tuple(rules), solver, time_limit)
    if max_points is not None and max_points < 2:
        raise InvalidInputError(f"a front has at least 2 points to spread, but got {max_points}.")
    with progress_bar(f"front of {y}", 100, progress) as bar:
        found = walk.all_points(bar) if max_points is None else walk.spread_points(max_points, bar)
        points = []
        for point in found:
            points.append(point)
            if on_point is not None:
                on_point(point)
    if not points and not walk.stopped:
        return walk.infeasible()
    points.sort(key=lambda point: walk.x_sign * point.x)
    return Front(
        walk.x,
        walk.y,
        tuple(points),
        walk.limits,
        tuple(rules),
        max_points is None and not walk.stopped,
        time.perf_counter() - start,
        walk.solver.name,
    )


class _Walk:
    """The solves of one front. Signs turn "better" into "less"."""

    def __init__(
        self,
        table: BlockTable,
        x: str,
        y: str,
        limits: tuple[Limit, ...],
        rules: tuple[Rule, ...],
        solver: str | Solver,
        time_limit: float | None,
    ) -> None:
        if x == y:
            raise InvalidInputError(f"a front is between two metrics, but both are {x!r}.")
        self.table = table
        self.x, self.y = table.column(x).metric, table.column(y).metric
        self.limits = limits
        self.x_sign = 1.0 if self.x.direction is Direction.MINIMIZE else -1.0
        self.y_sign = 1.0 if self.y.direction is Direction.MINIMIZE else -1.0
        self.stopped = False
        self._deadline = math.inf if time_limit is None else time.monotonic() + time_limit
        self._best_x = Program(table, x, self.x_sign < 0, limits, rules)
        best_y = Program(table, y, self.y_sign < 0, limits, rules)
        self.solver = solver_for(best_y, solver)
        self._best_y = best_y
        # the moving limits stand last
        sense: Sense = "<=" if self.x_sign > 0 else ">="
        self._y_under_x = best_y.with_limits([*limits, Limit(self.x, sense, 0.0)])
        sense = "<=" if self.y_sign > 0 else ">="
        self._x_under_y = self._best_x.with_limits([*limits, Limit(self.y, sense, 0.0)])

    def all_points(self, bar: Progress) -> Iterator[FrontPoint]:
        """From the best y to the best x; a point is given once it is known what follows it."""
        end = self._solve(self._best_x)
        point = self._solve(self._best_y)
        if point is None or end is None:
            return
        first, done = point, 0
        while True:
            limit = math.nextafter(point.x, -self.x_sign * math.inf)
            following = self._solve(self._y_under_x.moved(len(self.limits), limit))
            better = None if following is None else self._dominating(point, following)
            if self.stopped:
                return
            if better is None:
                yield point
            if following is None:
                return
            point = better or following
            share = (first.x - point.x) / (first.x - end.x) if first.x != end.x else 1.0
            bar.advance(int(100 * share) - done, self._note(point))
            done = int(100 * share)

    def _dominating(self, point: FrontPoint, following: FrontPoint) -> FrontPoint | None:
        """A point with a better x whose y is no worse, given the best y at a better x."""
        y, limitable = self.y.name, self._best_y.power in (0.0, 1.0)
        response = self.table.response(point.network, y)
        loss = self.y_sign * (self.table.response(following.network, y) - response)
        if loss > least_gain(self._best_y, response) or (loss > 0 and not limitable):
            return None
        if loss <= 0:
            return following
        # a solve does not tell such y apart, exact sums do
        best = self._solve(self._x_under_y.moved(len(self.limits), point.y))
        return best if best is not None and self.x_sign * (best.x - point.x) < 0 else None

    def spread_points(self, count: int, bar: Progress) -> Iterator[FrontPoint]:
        """Points at evenly spread limits on x, each moved to the best x at its y."""
        first, last = self._solve(self._best_x), self._solve(self._best_y)
        if first is None or last is None:
            return
        last = self._solve(self._x_under_y.moved(len(self.limits), last.y))
        if last is None:
            return
        given: set[tuple[float, float]] = set()
        # from the best y on, as the whole front
        for step, limit in enumerate(np.linspace(last.x, first.x, count).tolist(), start=1):
            point = self._solve(self._y_under_x.moved(len(self.limits), limit))
            if point is not None:
                point = self._solve(self._x_under_y.moved(len(self.limits), point.y))
            if self.stopped:
                return
            if point is not None and (point.x, point.y) not in given:
                given.add((point.x, point.y))
                yield point
            bar.advance(100 * step // count - 100 * (step - 1) // count)

    def infeasible(self) -> Infeasible:
        """Why no network meets the limits."""

        def left() -> float | None:
            rest = self._deadline - time.monotonic()
            return None if math.isinf(rest) else max(1e-3, rest)

        solution = self.solver.solve(self._best_y, time_limit=left())
        return infeasible_of(self._best_y, solution, self.solver, left)

    def _solve(self, program: Program) -> FrontPoint | None:
        """The optimum, or None where there is none; `stopped` is set where it is not proven."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.stopped = True
            return None
        solution = self.solver.solve(program, time_limit=None if math.isinf(left) else left)
        if solution.status in (Status.FEASIBLE, Status.UNKNOWN):
            self.stopped = True
            return None
        if not solution.networks:
            return None
        network = solution.networks[0]
        return FrontPoint(
            network,
            self.table.exact(network, self.x.name),
            self.table.exact(network, self.y.name),
        )

    def _note(self, point: FrontPoint) -> str:
        return f"{self.x.format(point.x)}, {self.y.format(point.y)}"


def _cells(values: np.ndarray, count: int) -> list[int]:
    """Values to 0 .. count - 1."""
    span = float(np.ptp(values)) or 1.0
    cells: list[int] = np.rint((values - values.min()) / span * (count - 1)).astype(int).tolist()
    return cells
