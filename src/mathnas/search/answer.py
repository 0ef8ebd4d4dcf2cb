"""What a search answers: a proven network, or why there is none."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass

from mathnas.metrics import Metric
from mathnas.search.limits import Limit
from mathnas.search.rules import Rule
from mathnas.search.solver import Status
from mathnas.space import Network, network_text
from mathnas.table import Prediction


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit and what the answer uses of it.

    Attributes:
        limit: as given.
        used: the answer's predicted value, in the metric's unit.
        binds: whether the optimum would be better without this limit; None where the time limit
            came before that was settled.
    """

    limit: Limit
    used: float
    binds: bool | None

    @property
    def slack(self) -> float:
        """How far the answer is inside the limit, in the metric's unit."""
        return self.limit.slack(self.used)


@dataclass(frozen=True)
class Answer:
    """A network that meets every limit, and what is proven about it.

    Attributes:
        network: block indices.
        blocks: block names by node name.
        predictions: every metric of the table.
        objective: the optimised metric.
        maximize: whether more of it was wanted.
        status: OPTIMAL, or FEASIBLE where the time limit came first.
        bound: no network that meets the limits, but for those ranked before, is predicted better
            than this, in the objective's unit.
        gap: distance of `bound` from the answer's value, in the objective's unit; 0 when optimal.
        guarantee: what is proven, in words.
        limits: the limits and which of them bind.
        seconds: time of the solve.
        solver: which solver gave it.
        verified_by: the solver that came to the same optimum; None where none was asked, or where
            the time limit came before both had proven theirs.
        rank: 1 for the best network; above, its place among several (see `k_best`).
    """

    network: Network
    blocks: Mapping[str, str]
    predictions: Mapping[str, Prediction]
    objective: Metric
    maximize: bool
    status: Status
    bound: float
    gap: float
    guarantee: str
    limits: tuple[LimitUse, ...]
    seconds: float
    solver: str
    verified_by: str | None = None
    rank: int = 1

    def __bool__(self) -> bool:
        return True

    @property
    def value(self) -> float:
        """The objective's predicted value."""
        return self.predictions[self.objective.name].value

    def to_dict(self) -> dict[str, object]:
        """For JSON; a bound and gap that are not known are None."""
        return {
            "status": self.status.value,
            "rank": self.rank,
            "network": list(self.network),
            "blocks": dict(self.blocks),
            "objective": self.objective.name,
            "direction": "maximize" if self.maximize else "minimize",
            "predictions": {name: p.to_dict() for name, p in self.predictions.items()},
            "bound": _number(self.bound),
            "gap": _number(self.gap),
            "guarantee": self.guarantee,
            "limits": [
                {
                    **use.limit.to_dict(),
                    "used": use.used,
                    "slack": use.slack,
                    "binds": use.binds,
                }
                for use in self.limits
            ],
            "seconds": self.seconds,
            "solver": self.solver,
            "verified_by": self.verified_by,
        }

    def __str__(self) -> str:
        width = max(map(len, [*self.blocks, *self.predictions]))
        lines = [f"{self._headline()}  [{network_text(self.network)}]"]
        lines += [f"  {name:{width}}  {self.predictions[name]}" for name in self.predictions]
        lines += [f"  limit {use.limit}: {_use_text(use)}" for use in self.limits]
        lines += [f"  {node:{width}}  {block}" for node, block in self.blocks.items()]
        lines.append(f"  {self.guarantee}")
        if self.verified_by is not None:
            lines.append(f"  verified: {self.verified_by} comes to the same optimum")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def table(rows: list[tuple[str, str]]) -> str:
            cells = "".join(
                f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows
            )
            return f"<table>{cells}</table>"

        return (
            f"<p><b>{html.escape(self._headline())}</b></p>"
            + table([(name, str(p)) for name, p in self.predictions.items()])
            + table([(f"limit {use.limit}", _use_text(use)) for use in self.limits])
            + table(list(self.blocks.items()))
            + f"<p>{html.escape(self.guarantee)}</p>"
        )

    def _headline(self) -> str:
        verb = "highest" if self.maximize else "lowest"
        kind = f"proven {verb}" if self.status is Status.OPTIMAL else f"{verb} found so far"
        first, rest = ("", "") if self.rank == 1 else (f"no. {self.rank}: ", " among the rest")
        value = self.objective.format(self.value)
        return f"{first}{kind} predicted {self.objective.name}{rest}: {value}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A limit that cannot be met.

    Attributes:
        limit: as given.
        others: the limits together with which it cannot hold; empty where it cannot hold alone.
        best: the value of its metric that comes closest under `others`, in the metric's unit;
            None where these exclude every network by themselves.
    """

    limit: Limit
    others: tuple[Limit, ...]
    best: float | None

    def __str__(self) -> str:
        metric = self.limit.metric
        together = f" together with {' and '.join(map(str, self.others))}" * bool(self.others)
        if self.best is None:
            return f"{self.limit} cannot hold{together}: these exclude every network themselves."
        extreme = "lowest" if self.limit.sense == "<=" else "highest"
        limit, best = metric.format(self.limit.value), metric.format(self.best)
        if limit == best:  # rounding must not hide the difference
            limit, best = (
                f"{value!r} {metric.unit}".rstrip() for value in (self.limit.value, self.best)
            )
        return (
            f"{metric.name} {self.limit.sense} {limit} cannot hold{together}: "
            f"the {extreme} possible {metric.name} is {best}."
        )


@dataclass(frozen=True)
class Infeasible:
    """No network meets the limits, or none was found in the time.

    Attributes:
        status: INFEASIBLE (proven) or UNKNOWN (the time limit came first).
        limits: as given.
        rules: as given.
        rules_conflict: whether it is proven that no network keeps the rules, whatever the limits.
        conflicts: why there is none, one entry for each limit that cannot be met; fewer, or none,
            where the time limit came before that was settled, or where the rules are to blame.
        seconds: time of the solve.
        solver: which solver proved it.
        verified_by: the solver that proved the same; None where none was asked, or where the time
            limit came first.
    """

    status: Status
    limits: tuple[Limit, ...]
    conflicts: tuple[Conflict, ...]
    seconds: float
    solver: str
    verified_by: str | None = None
    rules: tuple[Rule, ...] = ()
    rules_conflict: bool = False

    def __bool__(self) -> bool:
        return False

    @property
    def reasons(self) -> tuple[str, ...]:
        """The conflicts as sentences, or what to do where nothing is proven."""
        if self.status is Status.UNKNOWN:
            return ("give more time (time_limit), or loosen a limit.",)
        if self.rules_conflict:
            return (f"no network keeps the rules, whatever the limits: {self._rules()}.",)
        if not self.conflicts:
            return ("give more time (time_limit) to find out which limits are to blame.",)
        return tuple(map(str, self.conflicts))

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "status": self.status.value,
            "limits": [limit.to_dict() for limit in self.limits],
            "conflicts": [
                {
                    **conflict.limit.to_dict(),
                    "together_with": [other.to_dict() for other in conflict.others],
                    "best_possible": conflict.best,
                }
                for conflict in self.conflicts
            ],
            "rules": [str(rule) for rule in self.rules],
            "rules_conflict": self.rules_conflict,
            "reasons": list(self.reasons),
            "seconds": self.seconds,
            "solver": self.solver,
            "verified_by": self.verified_by,
        }

    def __str__(self) -> str:
        lines = [self._headline(), *(f"  {reason}" for reason in self.reasons)]
        if self.rules and not self.rules_conflict:
            lines.append(f"  all this under the rules: {self._rules()}.")
        if self.verified_by is not None:
            lines.append(f"  verified: {self.verified_by} proves the same")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return f"<p><b>{html.escape(self._headline())}</b></p><ul>{items}</ul>"

    def _rules(self) -> str:
        return "; ".join(map(str, self.rules))

    def _headline(self) -> str:
        if self.status is Status.UNKNOWN:
            return "no network was found in the time, and none is excluded:"
        return "no network meets the limits (proven):"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _use_text(use: LimitUse) -> str:
    metric = use.limit.metric
    state = {True: "binds", False: "does not bind", None: "not settled whether it binds"}
    left = f"{metric.format(use.slack)} left"
    return f"uses {metric.format(use.used)}, {left}, {state[use.binds]}"
