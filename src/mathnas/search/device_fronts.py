"""Pareto fronts of several devices side by side, and what the networks of one cost on the others.

A front is exact on its own device. Whether one search could serve all devices shows in the excess:
how much more x a network has, on another device, than that device's own best network of at least
the same y.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mathnas._progress import Show, progress_bar
from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction
from mathnas.search.answer import Infeasible
from mathnas.search.front import Front, FrontPoint, pareto_front
from mathnas.search.limits import Limits
from mathnas.search.rules import Rule
from mathnas.search.solver import Solver
from mathnas.space import network_text
from mathnas.table import BlockTable

_SAME = 1e-9  # to which a solve tells values apart
_MOST_LISTED = 20  # points of a device


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A network on another device than the one whose front it is on.

    Attributes:
        x, y: its predicted values there.
        excess: how much worse x is there than that of the device's own best network with at least
            the same y, as a share of the latter; None where its front has no such network, or is
            not complete.
        feasible: whether it meets the limits there.
    """

    x: float
    y: float
    excess: float | None
    feasible: bool


@dataclass(frozen=True)
class DeviceFronts:
    """A front a device; false in a condition where a device has none.

    Attributes:
        tables: by device.
        fronts: by device, in the same order.
        x, y: names of the metrics.
    """

    tables: Mapping[str, BlockTable]
    fronts: Mapping[str, Front | Infeasible]
    x: str
    y: str

    def __bool__(self) -> bool:
        return all(isinstance(front, Front) and front.points for front in self.fronts.values())

    @cached_property
    def found(self) -> dict[str, Front]:
        """The devices that have a front."""
        return {name: one for name, one in self.fronts.items() if isinstance(one, Front)}

    def points(self) -> Iterator[tuple[str, FrontPoint]]:
        """Every point with its device."""
        for name, front in self.found.items():
            for point in front:
                yield name, point

    def elsewhere(self, point: FrontPoint) -> dict[str, Elsewhere]:
        """How a point's network does on each device that has a front, its own included."""
        return {name: self._on(name, front, point) for name, front in self.found.items()}

    def mean_excess(self, device: str, other: str) -> float | None:
        """Over the networks of a device's front, their mean excess on another device; None where
        none has one."""
        found = [self._on(other, self.found[other], p).excess for p in self.found[device]]
        known = [excess for excess in found if excess is not None]
        return float(np.mean(known)) if known else None

    def _on(self, name: str, front: Front, point: FrontPoint) -> Elsewhere:
        table = self.tables[name]
        x, y = table.exact(point.network, self.x), table.exact(point.network, self.y)
        feasible = all(
            limit.holds(table.exact(point.network, limit.metric.name)) for limit in front.limits
        )
        return Elsewhere(x, y, _excess(front, x, y) if feasible else None, feasible)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        devices: dict[str, object] = {}
        for name, front in self.fronts.items():
            record = front.to_dict()
            if isinstance(front, Front):
                x, y = self.x, self.y
                record["points"] = [
                    {
                        "network": list(point.network),
                        x: point.x,
                        y: point.y,
                        "elsewhere": {
                            other: {x: o.x, y: o.y, "excess": o.excess, "feasible": o.feasible}
                            for other, o in self.elsewhere(point).items()
                            if other != name
                        },
                    }
                    for point in front
                ]
                record["mean_excess"] = {
                    other: self.mean_excess(name, other) for other in self.found if other != name
                }
            devices[name] = record
        return {"devices": devices}

    def to_csv(self) -> str:
        """A line a point: device, network, x, y; then x and excess on each device."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        others = [c for name in self.found for c in (f"{self.x} on {name}", f"excess on {name}")]
        writer.writerow(["device", "network", self.x, self.y, *others])
        for device, point in self.points():
            found = self.elsewhere(point).values()
            cells = [c for o in found for c in (repr(o.x), "" if o.excess is None else o.excess)]
            network = ",".join(map(str, point.network))
            writer.writerow([device, network, repr(point.x), repr(point.y), *cells])
        return text.getvalue()

    def __str__(self) -> str:
        return "\n\n".join(self._shown(name) for name in self.fronts)

    def _shown(self, name: str) -> str:
        front = self.fronts[name]
        if not isinstance(front, Front) or not front.points:
            return f"{name}: {front}"
        others = [other for other in self.found if other != name]
        head = [self.x, self.y, *(f"on {other}" for other in others), "network"]
        rows = [head, *(self._row(front, point, others) for point in front.points[:_MOST_LISTED])]
        wide = [max(len(row[place]) for row in rows) for place in range(len(head) - 1)]
        lines = [
            "  " + "  ".join([*(f"{c:>{w}}" for c, w in zip(row, wide, strict=False)), row[-1]])
            for row in rows
        ]
        if len(front) > _MOST_LISTED:
            lines.append(f"  ... and {len(front) - _MOST_LISTED} more: --csv FILE or --json.")
        kind = "all" if front.complete else "some"
        lines.insert(0, f"{name}: {len(front)} points ({kind} of them, each proven)")
        for other in others:
            excess = self.mean_excess(name, other)
            if excess is not None:
                lines.append(
                    f"  on {other} these have {excess:+.1%} {self.x} on average against its own "
                    f"best of the same {self.y}"
                )
        return "\n".join(lines)

    def _row(self, front: Front, point: FrontPoint, others: Sequence[str]) -> list[str]:
        found = self.elsewhere(point)
        cells = [front.x.format(point.x), front.y.format(point.y)]
        for other in others:
            o = found[other]
            note = "" if o.excess is None else f" ({o.excess:+.1%})"
            cells.append(front.x.format(o.x) + (note if o.feasible else " (breaks a limit)"))
        return [*cells, f"[{network_text(point.network)}]"]


def device_fronts(
    tables: Mapping[str, BlockTable],
    x: str,
    y: str,
    *,
    limits: Limits = None,
    rules: Sequence[Rule] = (),
    max_points: int | None = None,
    solver: str | Solver = "auto",
    time_limit: float | None = None,
    progress: Show = False,
) -> DeviceFronts:
    """The Pareto front of each device, all of one space.

    Args:
        tables: by device; limits are read against each, so that relative ones refer to what the
            reference has there.
        x, y, limits, rules, max_points, solver: as in `pareto_front`.
        time_limit: seconds for each front.

    Raises:
        InvalidInputError: there is no table, the spaces differ, or as `pareto_front`.
    """
    if not tables or len({table.space.fingerprint for table in tables.values()}) != 1:
        raise InvalidInputError(
            "fronts stand side by side for tables of one space, but got "
            f"{', '.join({table.space.name: 0 for table in tables.values()}) or 'no table'}."
        )
    found: dict[str, Front | Infeasible] = {}
    with progress_bar(f"fronts of {y}", len(tables), progress) as bar:
        for name, table in tables.items():
            found[name] = pareto_front(
                table,
                x,
                y,
                limits=limits,
                rules=rules,
                max_points=max_points,
                solver=solver,
                time_limit=time_limit,
            )
            bar.advance(1, name)
    return DeviceFronts(dict(tables), found, x, y)


def _excess(front: Front, x: float, y: float) -> float | None:
    """How much worse x is than the front's best with at least this y, as a share."""
    if not front.complete:
        return None  # the best may be between the points that are there
    signs = (1.0 if m.direction is Direction.MINIMIZE else -1.0 for m in (front.x, front.y))
    x_sign, y_sign = signs
    enough = y_sign * y + _SAME * max(1.0, abs(y))
    best = min((x_sign * p.x for p in front if y_sign * p.y <= enough), default=None)
    if not best:
        return None
    return (x_sign * x - best) / abs(best)
