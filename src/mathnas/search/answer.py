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
        binds: whether the optimum would be better without this limit, the others kept as they
            are (with the confidence, if there is one); None where that was not settled, because the
            time limit came first or too many networks would have to be checked.
        at_confidence: the value that one measurement of the network stays within, on the limit's
            side, with the confidence that was asked for, in the metric's unit; None where none was.
    """

    limit: Limit
    used: float
    binds: bool | None
    at_confidence: float | None = None

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
        confidence: the probability with which one measurement of the network meets each limit, by
            itself; None where limits are on predictions.
        cut_off: how many networks were predicted within the limits (and a margin that all need),
            but did not hold with the confidence when they were checked.
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
    confidence: float | None = None
    cut_off: int = 0

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
                    "at_confidence": use.at_confidence,
                }
                for use in self.limits
            ],
            "confidence": self.confidence,
            "cut_off": self.cut_off,
            "seconds": self.seconds,
            "solver": self.solver,
            "verified_by": self.verified_by,
        }

    def __str__(self) -> str:
        width = max(map(len, [*self.blocks, *self.predictions]))
        lines = [f"{self._headline()}  [{network_text(self.network)}]"]
        lines += [f"  {name:{width}}  {self.predictions[name]}" for name in self.predictions]
        lines += [f"  limit {use.limit}: {self._use_text(use)}" for use in self.limits]
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
            + table([(f"limit {use.limit}", self._use_text(use)) for use in self.limits])
            + table(list(self.blocks.items()))
            + f"<p>{html.escape(self.guarantee)}</p>"
        )

    def _use_text(self, use: LimitUse) -> str:
        metric = use.limit.metric
        state = {True: "binds", False: "does not bind", None: "not settled whether it binds"}
        text = f"uses {metric.format(use.used)}, {metric.format(use.slack)} left"
        if use.at_confidence is not None and self.confidence is not None:
            side = "at most" if use.limit.sense == "<=" else "at least"
            within = metric.format(use.at_confidence)
            text += f", {side} {within} with {percentage(self.confidence)}"
        return f"{text}, {state[use.binds]}"

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
        confidence: the probability with which limits are to hold; None where they are on
            predictions.
        at_confidence: the value that one measurement of the network with the value `best` stays
            within, with that probability; None where `best` is.
    """

    limit: Limit
    others: tuple[Limit, ...]
    best: float | None
    confidence: float | None = None
    at_confidence: float | None = None

    def __str__(self) -> str:
        metric = self.limit.metric
        together = f" together with {' and '.join(map(str, self.others))}" * bool(self.others)
        if self.confidence is not None:
            together = f" with a probability of {percentage(self.confidence)}{together}"
        if self.best is None:
            return f"{self.limit} cannot hold{together}: these exclude every network themselves."
        extreme = "lowest" if self.limit.sense == "<=" else "highest"
        shown = [self.limit.value, self.best]
        if self.at_confidence is not None and self.at_confidence != self.best:
            shown.append(self.at_confidence)
        texts = [metric.format(value) for value in shown]
        if texts[0] == texts[-1]:  # rounding must not hide the difference
            texts = [f"{value!r} {metric.unit}".rstrip() for value in shown]
        cannot = f"{metric.name} {self.limit.sense} {texts[0]} cannot hold{together}"
        if len(texts) == 2:
            return f"{cannot}: the {extreme} possible {metric.name} is {texts[1]}."
        side = "at most" if self.limit.sense == "<=" else "at least"
        return (
            f"{cannot}: the {extreme} predicted {metric.name} is {texts[1]}, and a measurement of "
            f"it is {side} {texts[2]} with that probability."
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
        confidence: the probability with which each limit was to hold for one measurement; None
            where limits are on predictions.
        cut_off: how many networks were predicted within the limits (and a margin that all need),
            but did not hold with the confidence when they were checked.
    """

    status: Status
    limits: tuple[Limit, ...]
    conflicts: tuple[Conflict, ...]
    seconds: float
    solver: str
    verified_by: str | None = None
    rules: tuple[Rule, ...] = ()
    rules_conflict: bool = False
    confidence: float | None = None
    cut_off: int = 0

    def __bool__(self) -> bool:
        return False

    @property
    def reasons(self) -> tuple[str, ...]:
        """The conflicts as sentences, or what to do where nothing is proven."""
        if self.status is Status.UNKNOWN and self.confidence is not None and self.cut_off:
            return (
                f"{self.cut_off} networks that are predicted within the limits were checked, and "
                f"none holds with a probability of {percentage(self.confidence)}: loosen a limit, "
                "lower the confidence, or measure more networks.",
            )
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
                    "at_confidence": conflict.at_confidence,
                }
                for conflict in self.conflicts
            ],
            "rules": [str(rule) for rule in self.rules],
            "rules_conflict": self.rules_conflict,
            "confidence": self.confidence,
            "cut_off": self.cut_off,
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
        if self.confidence is None or self.rules_conflict or not self.limits:
            probably = ""
        else:
            probably = f" with a probability of {percentage(self.confidence)} each"
        if self.status is Status.UNKNOWN and self.cut_off:
            return f"no network was found that meets the limits{probably}; there may be one:"
        if self.status is Status.UNKNOWN:
            return "no network was found in the time, and none is excluded:"
        return f"no network meets the limits{probably} (proven):"


def percentage(confidence: float) -> str:
    """A probability as people write it: ``95 %``."""
    return f"{100 * confidence:.6g} %"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
