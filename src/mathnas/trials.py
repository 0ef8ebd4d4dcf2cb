"""Trials: a search by evaluations, whatever its method, on one account of what was spent.

A method (`mathnas.refine`, or one of `mathnas.baselines`) proposes networks; `Trials` measures them
into a study, counts, and tells the best measured network that meets the limits. All state is the
study's, so that a run that was stopped goes on.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Literal, TypeVar

import numpy as np

from mathnas._progress import Show, Silent, progress_bar
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.metrics import Metric
from mathnas.runner import evaluate
from mathnas.search import Limit, Rule, read_limits
from mathnas.search.limits import Limits
from mathnas.space import Network, network_text
from mathnas.study import Failure, Study
from mathnas.table import BlockEffects, BlockTable

Reason = Literal["budget", "unlikely", "exhausted", "unsolved"]
_TRIES = 2  # a network that failed so often is left out
_FEW = 3  # networks that fail one after the other, and nothing else: it is the evaluator
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes:
        evaluated: evaluations that the study holds after it.
        proposed: what was evaluated; but for the start, best predicted first.
        failed: those of them whose evaluation failed.
        best: the best measured network that meets the limits so far; None where there is none.
        value: its measured value.
        seconds: what the round took, of which `thinking` were spent on what to evaluate.
        thinking: see `seconds`.
    """

    evaluated: int
    proposed: tuple[Network, ...]
    failed: tuple[Network, ...]
    best: Network | None
    value: float | None
    seconds: float = 0.0
    thinking: float = 0.0

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "evaluated": self.evaluated,
            "proposed": [list(network) for network in self.proposed],
            "failed": [list(network) for network in self.failed],
            "best": None if self.best is None else list(self.best),
            "value": self.value,
            "seconds": self.seconds,
            "thinking": self.thinking,
        }


@dataclass(frozen=True)
class Outcome:
    """What a search by evaluations came to; false where no measured network meets the limits.

    Attributes:
        network: the best measured network whose measured values meet the limits; None where none
            does.
        values: what was measured of it, and what the space declares, by metric.
        rounds: what was done by this call, the start first; empty where nothing was left to do.
        reason: why it ended: ``budget``, ``unlikely`` (nothing better is likely) or ``exhausted``
            (every network that may meet the limits, as far as the method tells, was evaluated or
            failed), or ``unsolved`` (no further network was found in the time of a solve, 10 s).
        evaluated: evaluations that the study holds.
        metrics: of `values`.
    """

    network: Network | None
    values: dict[str, float]
    rounds: tuple[Round, ...]
    reason: Reason
    evaluated: int
    metrics: Mapping[str, Metric]

    def __bool__(self) -> bool:
        return self.network is not None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "network": None if self.network is None else list(self.network),
            "values": self.values,
            "reason": self.reason,
            "evaluated": self.evaluated,
            "rounds": [done.to_dict() for done in self.rounds],
        }

    def __str__(self) -> str:
        if self.network is None:
            head = "no measured network meets the limits: give a larger budget, or loosen a limit"
        else:
            shown = ", ".join(
                f"{name} {self.metrics[name].format(value)}" for name, value in self.values.items()
            )
            head = f"best measured network [{network_text(self.network)}]: {shown}"
        ending = {
            "budget": "the budget is spent",
            "unlikely": "nothing better is likely",
            "exhausted": "every network that may meet the limits was evaluated",
            "unsolved": "no further network was found in the time of a solve",
        }[self.reason]
        failed = len({network for done in self.rounds for network in done.failed})
        note = f", {failed} failed" * bool(failed)
        return f"{head}\n{self.evaluated} evaluations{note}; {ending}."


def _until_measured(method: Callable[[Trials], _T]) -> Callable[[Trials], _T]:
    """Keep what a method read from the study until something is measured again."""

    @wraps(method)
    def kept(self: Trials) -> _T:
        if method.__name__ not in self._read:
            self._read[method.__name__] = method(self)
        return self._read[method.__name__]  # type: ignore[return-value]

    return kept


class Trials:
    """What one call of a method wants, and its account; all measurements are the study's.

    Args:
        study: where measurements are kept.
        evaluator: measures the objective, and whatever is limited and not declared by the space.
        maximize, minimize: the metric to optimise; one of them.
        limits, rules: as in `mathnas.search`. Limits hold for measured values, and relative ones
            refer to what is measured of the study's reference, which a method evaluates for that.
        budget: evaluations that the study holds in the end (of the objective and of what is
            limited, under the evaluator's conditions), those that it holds already included.
        seed, workers, progress: as in `mathnas.evaluate`; with progress there is a line a round.
        on_round: called after each round.

    Attributes:
        space: the study's.
        reference: the study's reference network.
        objective: the metric to optimise.
        upwards: whether more of it is wanted.
        metrics: what the evaluator measures, by name.
        measured: names of the objective and of the limited metrics that are measured.
        conditions: the evaluator's.
        relative: whether a limit refers to the reference's measured values.
        rounds: what was done by this call.

    Raises:
        InvalidInputError: an argument cannot be right, or a limit is on what is neither measured
            nor declared; nothing is evaluated then.
    """

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        *,
        maximize: str | None = None,
        minimize: str | None = None,
        limits: Limits = None,
        rules: Sequence[Rule] = (),
        budget: int = 50,
        seed: int = 0,
        workers: int = 1,
        progress: Show = False,
        on_round: Callable[[Round], None] | None = None,
    ) -> None:
        if (maximize is None) == (minimize is None):
            raise InvalidInputError(
                "say which metric to optimise: maximize= or minimize=, one of them."
            )
        self.study, self.evaluator, self.rules = study, evaluator, tuple(rules)
        self.space, self.reference = study.space, study.reference
        self.budget, self.seed, self.workers, self.progress = budget, seed, workers, progress
        self.rounds: list[Round] = []
        self._read: dict[str, object] = {}
        self._failing = 0
        self._on_round = on_round
        self.upwards = maximize is not None
        self.conditions = {str(key): str(value) for key, value in evaluator.conditions.items()}
        self.metrics = {metric.name: metric for metric in evaluator.metrics}
        name = maximize or minimize or ""
        if name not in self.metrics:
            raise InvalidInputError(
                f"a refinement measures what it optimises, but the evaluator measures "
                f"{', '.join(self.metrics)}, not {name!r}."
            )
        self.objective = self.metrics[name]
        self._declared = BlockTable(self.space, self.reference, {})
        self._given = limits
        alone = _one_by_one(limits)
        limited = _limited(alone)
        for other in limited:
            if other not in self.metrics and other not in self._declared.metrics:
                raise InvalidInputError(
                    "limits of a refinement hold for what is measured or declared, but the "
                    f"evaluator measures {', '.join(self.metrics)}, the space declares "
                    f"{', '.join(self._declared.metrics) or 'nothing'}, and a limit is on "
                    f"{other!r}."
                )
        self.measured = list(dict.fromkeys([name, *(m for m in limited if m in self.metrics)]))
        self._check_conditions()
        # whatever is wrong with a limit shows here, before anything is evaluated
        read = [[read_limits(one, self._at(base)) for one in alone] for base in (1.0, 2.0)]
        self.relative = read[0] != read[1]
        if not self.relative:
            read_limits(limits, self._at(1.0))

    def _check_conditions(self) -> None:
        """The conditions of the evaluator must tell its measurements from others."""
        own = self.conditions
        for name in self.measured:
            others = [c for c in self.study.conditions(name) if own.items() < c.items()]
            if others:
                raise InvalidInputError(
                    f"the study holds {name} under {others[0]}, which contains all conditions of "
                    f"the evaluator, {own}: give the evaluator conditions that tell them apart."
                )

    def _at(self, base: float | Mapping[str, float]) -> BlockTable:
        """A table in which the reference's values of measured metrics are `base`."""
        zeros = np.zeros(self.space.num_blocks)
        columns = {
            name: BlockEffects(
                metric,
                base[name] if isinstance(base, Mapping) else base,
                zeros,
                zeros,
                zeros,
            )
            for name, metric in self.metrics.items()
            if not isinstance(base, Mapping) or name in base
        }
        return BlockTable(self.space, self.reference, columns)

    @_until_measured
    def limits(self) -> tuple[Limit, ...]:
        """The limits; those that are relative refer to what was measured of the reference."""
        values: float | dict[str, float] = 1.0
        if self.relative:
            values = {name: self.values(name)[self.reference] for name in self.measured}
        return read_limits(self._given, self._at(values))

    # ---- what the study holds ----------------------------------------------------------------

    @_until_measured
    def counts(self) -> Counter[Network]:
        """How often each network was measured for all that is needed."""
        return self.study.counts(self.measured, self.conditions)

    @property
    def spent(self) -> int:
        """Evaluations that count towards the budget."""
        return self.counts().total()

    @property
    def left(self) -> int:
        """Evaluations that the budget leaves, at least 0."""
        return max(0, self.budget - self.spent)

    @_until_measured
    def held(self) -> list[Network]:
        """The networks of which all that is needed was measured, in the order of measurement."""
        if not self.counts():
            return []
        values = [self.values(name) for name in self.measured]
        return [network for network in values[0] if all(network in other for other in values[1:])]

    def values(self, metric: str) -> dict[Network, float]:
        """Measured values under the evaluator's conditions, means over repeats."""
        if (found := self._read.get(f"values of {metric}")) is None:
            data = self.study.measurements(metric, self.conditions)
            networks = map(tuple, data.networks.tolist())
            found = dict(zip(networks, data.values.tolist(), strict=True))
            self._read[f"values of {metric}"] = found
        return found  # type: ignore[return-value]

    def known(self, network: Network, metric: str) -> float:
        """The value of a measured network: measured, or declared by the space."""
        if metric in self.metrics:
            return self.values(metric)[network]
        return self._declared.exact(network, metric)

    @_until_measured
    def given_up(self) -> set[Network]:
        """Networks that failed too often."""
        counts = Counter(failure.network for failure in self._failures())
        return {network for network, count in counts.items() if count >= _TRIES}

    def _failures(self) -> list[Failure]:
        return [f for f in self.study.failures() if (f.conditions or {}) == self.conditions]

    @_until_measured
    def feasible(self) -> list[Network]:
        """The measured networks that keep rules and limits, by measured and declared values."""
        held = self.held()
        if not held or (self.relative and self.reference not in held):
            return []
        found = [network for network in held if self.allows(network)]
        for limit in self.limits():
            if limit.metric.name in self.metrics:
                known = self.values(limit.metric.name)
                found = [network for network in found if limit.holds(known[network])]
        return found

    def allows(self, network: Network) -> bool:
        """Whether a network keeps what is known before it is measured: rules, and limits on what
        the space declares."""
        if not all(rule.holds(network) for rule in self.rules):
            return False
        if self.relative and self.reference not in self.counts():
            return True
        return all(
            limit.holds(self._declared.exact(network, limit.metric.name))
            for limit in self.limits()
            if limit.metric.name not in self.metrics
        )

    def best(self) -> tuple[Network | None, float | None]:
        """The best measured network whose measured values meet the limits."""
        feasible = self.feasible()
        if not feasible:
            return None, None
        values = self.values(self.objective.name)
        # the first of equals, so that nothing changes with what is evaluated later
        best = (max if self.upwards else min)(feasible, key=values.__getitem__)
        return best, values[best]

    # ---- rounds ------------------------------------------------------------------------------

    def measure(self, networks: Sequence[Network], *, thinking: float = 0.0) -> Round:
        """Evaluate what the study lacks of these; the round is told and kept.

        Args:
            networks: one that stands k times is to have been measured k times then.
            thinking: seconds that it took to choose the networks.

        Raises:
            EvaluationError: all evaluations of a round failed, with those before at least three of
                networks that had not failed before; what was measured stays in the study.
        """
        before = {failure.network for failure in self._failures()}
        try:
            report = evaluate(
                self.study,
                networks,
                self.evaluator,
                seed=self.seed,
                workers=self.workers,
                progress=self.progress,
            )
        finally:
            self._read.clear()
        failed = tuple(failure.network for failure in report.failures)
        new = set(failed) - before
        whole = bool(failed) and len(set(failed)) == len(set(networks))
        # a method that evaluates one network at a time must get past one that fails
        self._failing = self._failing + len(new) if whole else 0
        if whole and new and self._failing >= _FEW:
            raise EvaluationError(
                f"all {len(failed)} evaluations of a round failed, [{network_text(failed[0])}] "
                f"with {report.failures[0].error.splitlines()[0]}. The tracebacks are in "
                f"Study.failures() of {self.study.path}, which keeps all that was measured; the "
                "same call goes on from there."
            )
        seconds = thinking + report.seconds
        done = Round(
            self.spent, tuple(dict.fromkeys(networks)), failed, *self.best(), seconds, thinking
        )
        self.rounds.append(done)
        self._say(done)
        if self._on_round is not None:
            self._on_round(done)
        return done

    def outcome(self, reason: Reason) -> Outcome:
        """What it came to."""
        best, _ = self.best()
        values: dict[str, float] = {}
        metrics = {**self._declared.metrics, **self.metrics}
        if best is not None:
            for name in metrics:
                if name not in self.metrics:
                    values[name] = self._declared.exact(best, name)
                elif best in (known := self._known(name)):
                    values[name] = known[best]
        return Outcome(best, values, tuple(self.rounds), reason, self.spent, metrics)

    def _known(self, metric: str) -> dict[Network, float]:
        """As `values`; none where the metric was never measured under these conditions."""
        return self.values(metric) if self.study.counts([metric], self.conditions) else {}

    def _say(self, done: Round) -> None:
        """A line of progress; who makes the display shows rounds, too."""
        if callable(self.progress) or isinstance(progress_bar("", 0, self.progress), Silent):
            return
        best = "no network meets the limits yet"
        if done.best is not None and done.value is not None:
            value = self.objective.format(done.value)
            best = f"best {self.objective.name} {value} [{network_text(done.best)}]"
        failed = f", {len(done.failed)} failed" * bool(done.failed)
        print(
            f"round {len(self.rounds)}: {done.evaluated} of {self.budget} evaluations{failed}, "
            f"{best}",
            file=sys.stderr,
            flush=True,
        )


def _one_by_one(limits: Limits) -> list[Limits]:
    """Each limit alone: two may contradict each other only for some values of the reference."""
    if isinstance(limits, Mapping):
        found: list[Limits] = []
        for name, value in limits.items():
            several = (
                value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            )
            found += [{name: item} for item in several]
        return found
    if isinstance(limits, str):
        raise InvalidInputError(
            f"limits are a mapping or a list, but got the text {limits!r}: put it in a list."
        )
    return [[item] for item in limits or ()]


def _limited(limits: Sequence[Limits]) -> list[str]:
    """The names of limited metrics, as far as they can be read."""
    names: list[str] = []
    for one in limits:
        for item in one or ():
            text = item.metric.name if isinstance(item, Limit) else str(item)
            names += re.findall(r"^\s*(\w+)", text)
    return names
