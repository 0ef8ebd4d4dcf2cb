"""Solve, evaluate, refit: from a table to an answer that was measured.

A table is fitted to all that a study holds, the best networks that were not evaluated yet are found
exactly, evaluated, and the table is fitted again, until the budget is spent or nothing better is
likely. What is answered is a network that was measured, and limits hold for what was measured.

All state between rounds is the study's, so that a run that was stopped goes on.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from mathnas._progress import Silent, progress_bar
from mathnas.designs import balanced_sampling
from mathnas.errors import EvaluationError, InvalidInputError, MathNASWarning
from mathnas.evaluation import Evaluator
from mathnas.fitting import fit
from mathnas.metrics import Direction, Metric
from mathnas.runner import evaluate
from mathnas.sampling import single_sampling
from mathnas.search import Limit, Program, Rule, Status, read_limits, solver_for
from mathnas.search.limits import Limits
from mathnas.space import Network, SearchSpace, network_text
from mathnas.study import Study
from mathnas.table import BlockEffects, BlockTable

Start = Literal["single", "balanced"]
Reason = Literal["budget", "unlikely", "exhausted", "unsolved"]
_LEAST = 3  # networks that a regression needs
_PATIENCE = 2  # rounds without improvement before the odds are looked at
_SMALL_ODDS = 0.01  # of an improvement, by each network that could be evaluated next
_LOOSER = (0.0, 0.5, 1.0, 2.0)  # limits, in deviations, where no network is predicted to meet them
_SAMPLED = 64  # networks, for a usual deviation
_SECONDS = 10.0  # of a solve: early tables may be so alike in all nodes that proofs take for ever
_TRIES = 2  # a network that failed so often is left out


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes:
        evaluated: networks that the study holds after it.
        proposed: what was evaluated; but for the start, best predicted first.
        failed: those of them whose evaluation failed.
        best: the best measured network that meets the limits so far; None where there is none.
        value: its measured value.
    """

    evaluated: int
    proposed: tuple[Network, ...]
    failed: tuple[Network, ...]
    best: Network | None
    value: float | None


@dataclass(frozen=True)
class Refinement:
    """What a refinement came to; false in a condition where no measured network meets the limits.

    Attributes:
        network: the best measured network whose measured values meet the limits; None where none
            does.
        values: what was measured of it, and what the space declares, by metric.
        table: the last one, a regression on all evaluations.
        rounds: what was done by this call, the start first; empty where nothing was left to do.
        reason: why it ended: ``budget``, ``unlikely`` (nothing better is likely) or ``exhausted``
            (every network that may meet the limits, as far as predictions tell, was evaluated or
            failed), or ``unsolved`` (no further network was found in the time of a solve, 10 s).
        evaluated: networks that the study holds.
    """

    network: Network | None
    values: dict[str, float]
    table: BlockTable
    rounds: tuple[Round, ...]
    reason: Reason
    evaluated: int

    def __bool__(self) -> bool:
        return self.network is not None

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "network": None if self.network is None else list(self.network),
            "values": self.values,
            "reason": self.reason,
            "evaluated": self.evaluated,
            "rounds": [
                {
                    "evaluated": done.evaluated,
                    "proposed": [list(network) for network in done.proposed],
                    "failed": [list(network) for network in done.failed],
                    "best": None if done.best is None else list(done.best),
                    "value": done.value,
                }
                for done in self.rounds
            ],
        }

    def __str__(self) -> str:
        if self.network is None:
            head = "no measured network meets the limits: give a larger budget, or loosen a limit"
        else:
            shown = ", ".join(
                f"{name} {self.table.metrics[name].format(value)}"
                for name, value in self.values.items()
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
        return f"{head}\n{self.evaluated} networks evaluated{note}; {ending}."


def refine(
    study: Study,
    evaluator: Evaluator,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    rules: Sequence[Rule] = (),
    budget: int = 50,
    batch: int = 3,
    start: Start = "single",
    seed: int = 0,
    workers: int = 1,
    progress: bool | None = False,
    on_round: Callable[[Round], None] | None = None,
) -> Refinement:
    """Evaluate the most promising networks until the answer holds.

    Args:
        evaluator: measures the objective, and whatever is limited and not declared by the space.
        maximize, minimize: the metric to optimise; one of them.
        limits, rules: as in `search`. Limits hold for measured values, and relative ones refer to
            what is measured of the study's reference, which is evaluated for that.
        budget: networks that the study holds in the end (with the objective and what is limited,
            under the evaluator's conditions), those that it holds already included: the same call
            goes on where it was stopped.
        batch: networks a round.
        start: what to evaluate first, where the study holds less: single sampling in the study's
            reference, or as many balanced networks; up to half of the budget, and balanced where
            single sampling costs more than that. Networks that break a rule are replaced by the
            nearest ones that do not.
        seed, workers, progress: as in `evaluate`; with progress there is a line a round, too.
        on_round: called after each round.

    Raises:
        InvalidInputError: an argument cannot be right, a limit is on what is neither measured nor
            declared, or the rules leave fewer than three networks; nothing is evaluated then.
        EvaluationError: all evaluations of a round failed; what was measured stays in the study.
        KeyboardInterrupt: after Ctrl-C; what was measured stays in the study.
    """
    if budget < _LEAST or batch < 1:
        raise InvalidInputError(
            f"a refinement has a budget of at least {_LEAST} networks and at least 1 a round, but "
            f"got budget={budget}, batch={batch}."
        )
    if start not in ("single", "balanced"):
        raise InvalidInputError(f"a start is single or balanced, but got {start!r}.")
    if (maximize is None) == (minimize is None):
        raise InvalidInputError(
            "say which metric to optimise: maximize= or minimize=, one of them."
        )
    loop = _Loop(study, evaluator, maximize, minimize, limits, tuple(rules))
    first = loop.start(start, budget, seed)
    rounds: list[Round] = []

    def measure(networks: Sequence[Network]) -> None:
        rounds.append(loop.measure(networks, seed, workers, progress))
        _say(rounds[-1], len(rounds), budget, loop.objective, progress)
        if on_round is not None:
            on_round(rounds[-1])

    missing = loop.missing(first)
    if missing:
        measure(missing)
    loop.check_start()
    while (count := len(loop.held())) < budget:
        proposed, odds, proven = loop.proposals(min(batch, budget - count))
        if not proposed:
            return loop.result(rounds, "exhausted" if proven else "unsolved")
        if loop.stale(len(first)) >= _PATIENCE * batch and odds < _SMALL_ODDS:
            return loop.result(rounds, "unlikely")
        measure(proposed)
    return loop.result(rounds, "budget")


class _Loop:
    """What one call wants; all measurements are the study's."""

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        maximize: str | None,
        minimize: str | None,
        limits: Limits,
        rules: tuple[Rule, ...],
    ) -> None:
        self.study, self.evaluator, self.rules = study, evaluator, rules
        self.upwards = maximize is not None
        self.reference = study.reference
        self.conditions = {str(key): str(value) for key, value in evaluator.conditions.items()}
        self.metrics = {metric.name: metric for metric in evaluator.metrics}
        name = maximize or minimize or ""
        if name not in self.metrics:
            raise InvalidInputError(
                f"a refinement measures what it optimises, but the evaluator measures "
                f"{', '.join(self.metrics)}, not {name!r}."
            )
        self.objective = self.metrics[name]
        declared = BlockTable(study.space, self.reference, {}).metrics
        self.given = limits
        alone = _one_by_one(limits)
        limited = _limited(alone)
        for other in limited:
            if other not in self.metrics and other not in declared:
                raise InvalidInputError(
                    "limits of a refinement hold for what is measured or declared, but the "
                    f"evaluator measures {', '.join(self.metrics)}, the space declares "
                    f"{', '.join(declared) or 'nothing'}, and a limit is on {other!r}."
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
        zeros = np.zeros(self.study.space.num_blocks)
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
        return BlockTable(self.study.space, self.reference, columns)

    def limits(self) -> tuple[Limit, ...]:
        """The limits; those that are relative refer to what was measured of the reference."""
        values: float | dict[str, float] = 1.0
        if self.relative:
            values = {name: self._values(name)[self.reference] for name in self.measured}
        return read_limits(self.given, self._at(values))

    # ---- what the study holds -------------------------------------------------------------------

    def held(self) -> list[Network]:
        """The networks of which all that is needed was measured, in the order of measurement."""
        if not self.study.counts(self.measured, self.conditions):
            return []
        values = [self._values(name) for name in self.measured]
        return [network for network in values[0] if all(network in other for other in values[1:])]

    def _values(self, metric: str) -> dict[Network, float]:
        """Measured values under the evaluator's conditions."""
        data = self.study.measurements(metric, self.conditions)
        return dict(zip(map(tuple, data.networks.tolist()), data.values.tolist(), strict=True))

    def given_up(self) -> set[Network]:
        """Networks that failed too often."""
        failures = [f for f in self.study.failures() if (f.conditions or {}) == self.conditions]
        counts = Counter(failure.network for failure in failures)
        return {network for network, count in counts.items() if count >= _TRIES}

    def best(self) -> tuple[Network | None, float | None]:
        """The best measured network whose measured values meet the limits."""
        held = self.held()
        if not held or (self.relative and self.reference not in held):
            return None, None
        feasible = [network for network in held if all(rule.holds(network) for rule in self.rules)]
        declared = BlockTable(self.study.space, self.reference, {})
        for limit in self.limits():
            name = limit.metric.name
            if name in self.metrics:
                known = self._values(name)
                feasible = [network for network in feasible if limit.holds(known[network])]
            else:
                feasible = [n for n in feasible if limit.holds(declared.exact(n, name))]
        if not feasible:
            return None, None
        values = self._values(self.objective.name)
        # the first of equals, so that nothing changes with what is evaluated later
        best = (max if self.upwards else min)(feasible, key=values.__getitem__)
        return best, values[best]

    def stale(self, start: int) -> int:
        """How many networks were evaluated after the start and the best one."""
        held, (best, _) = self.held(), self.best()
        return len(held) - max(start, 0 if best is None else held.index(best) + 1)

    # ---- rounds ---------------------------------------------------------------------------------

    def start(self, kind: Start, budget: int, seed: int) -> list[Network]:
        """The networks to begin with."""
        space = self.study.space
        sample = None
        try:
            sample = single_sampling(space, self.reference)
            cost = sample.cost
        except InvalidInputError:  # an optional node is absent in the reference
            cost = space.num_blocks - space.num_nodes + 1
        count = min(cost, max(_LEAST, budget // 2), space.num_networks)
        if kind == "balanced" or sample is None or cost > count:
            sample = balanced_sampling(space, count, seed=seed)
        networks = _keeping(self.rules, sample.networks)
        if len(networks) < _LEAST:
            raise InvalidInputError(
                f"a refinement needs at least {_LEAST} networks to learn from, but the space and "
                f"the rules leave {len(networks)}: evaluate them all, or leave out a rule."
            )
        if self.relative:
            others = [network for network in networks if network != self.reference]
            networks = [self.reference, *others[: count - 1]]
        return networks

    def missing(self, start: Sequence[Network]) -> list[Network]:
        """What is to be evaluated of the start: fewer where the study holds others."""
        held = set(self.held())
        skipped = held | self.given_up()
        wanted = [network for network in start if network not in skipped]
        wanted = wanted[: max(0, len(start) - len(held))]
        if self.relative and self.reference not in {*held, *wanted}:
            wanted = [self.reference, *wanted[1:]]
        return wanted

    def check_start(self) -> None:
        """Whether enough was measured to go on."""
        held = self.held()
        if len(held) < _LEAST or (self.relative and self.reference not in held):
            needed = f"at least {_LEAST} measured networks"
            needed += ", the reference among them for relative limits" * self.relative
            raise EvaluationError(
                f"a refinement needs {needed}, but {self.study.path} holds {len(held)} and the "
                "others of the start failed: see Study.failures() for why, and evaluate others."
            )

    def measure(
        self, networks: Sequence[Network], seed: int, workers: int, progress: bool | None
    ) -> Round:
        """Evaluate networks."""
        report = evaluate(
            self.study, networks, self.evaluator, seed=seed, workers=workers, progress=progress
        )
        failed = tuple(failure.network for failure in report.failures)
        if len(failed) == len(networks):
            raise EvaluationError(
                f"all {len(failed)} evaluations of a round failed, [{network_text(failed[0])}] "
                f"with {report.failures[0].error.splitlines()[0]}. The tracebacks are in "
                f"Study.failures() of {self.study.path}, which keeps all that was measured; the "
                "same call goes on from there."
            )
        return Round(len(self.held()), tuple(networks), failed, *self.best())

    def table(self, metrics: Sequence[str]) -> BlockTable:
        """A regression on all that the study holds."""
        conditions = dict.fromkeys(metrics, self.conditions)
        with warnings.catch_warnings():
            # blocks that no network holds yet are what the next rounds are for
            warnings.simplefilter("ignore", MathNASWarning)
            return fit(
                self.study,
                metrics,
                method="regression",
                reference=self.reference,
                conditions=conditions,
            )

    def proposals(self, count: int) -> tuple[list[Network], float, bool]:
        """The best predicted networks that were not evaluated, the largest of their odds to be
        better than the best measured one, and whether that there are no others is proven.

        Where none is left that is predicted to meet the limits, those that miss a measured one by
        no more than predictions may be off.
        """
        table, limits = self.table(self.measured), self.limits()
        known = {*self.held(), *self.given_up()}
        free = [limit for limit in limits if limit.metric.name in self.measured]
        sample = table.space.sample(_SAMPLED, seed=0, distinct=False)
        width = {
            limit: float(np.median(table.deviation(sample, limit.metric.name))) for limit in free
        }
        found: list[Network] = []
        proven = True
        for looser in _LOOSER if free else _LOOSER[:1]:
            sign = {"<=": looser, ">=": -looser}
            loosened = [
                replace(limit, value=limit.value + sign[limit.sense] * width.get(limit, 0.0))
                for limit in limits
            ]
            program = Program(table, self.objective.name, self.upwards, loosened, self.rules)
            found, finished = _new(program, known, count)
            proven &= finished
            if found:
                break
        odds = max((self._odds(table, free, network) for network in found), default=0.0)
        return found, odds, proven

    def _odds(self, table: BlockTable, limits: Sequence[Limit], network: Network) -> float:
        """How likely a network meets the measured limits and is better than the best one so far."""
        _, best = self.best()
        if best is None:
            return 1.0
        odds = _chance(table, network, self.objective.name, best, self.upwards)
        for limit in limits:
            odds *= _chance(table, network, limit.metric.name, limit.value, limit.sense == ">=")
        return odds

    def result(self, rounds: Sequence[Round], reason: Reason) -> Refinement:
        """The answer, with a table of all that the evaluator measures."""
        counts = {name: len(self.study.counts([name], self.conditions)) for name in self.metrics}
        table = self.table([name for name, count in counts.items() if count >= _LEAST])
        best, _ = self.best()
        values: dict[str, float] = {}
        if best is not None:
            for name in table.columns:
                known = self._values(name) if name in self.metrics else {}
                if name not in self.metrics or best in known:
                    values[name] = known.get(best, table.exact(best, name))
        return Refinement(best, values, table, tuple(rounds), reason, len(self.held()))


def _new(program: Program, known: Collection[Network], count: int) -> tuple[list[Network], bool]:
    """The best `count` networks that are not known, fewer where there are no more; and whether that
    is proven, or they are what was found in the time."""
    solver, asked = solver_for(program, "auto"), count
    while True:
        solution = solver.solve(program, count=asked, time_limit=_SECONDS)
        proven = solution.status in (Status.OPTIMAL, Status.INFEASIBLE)
        found = [network for network in solution.networks if network not in known]
        # more than are known hold enough new ones in any case
        last = len(solution.networks) < asked if proven else asked >= len(known) + count
        if len(found) >= count or last or (found and not proven):
            return found[:count], proven
        asked = min(2 * asked + count, len(known) + count)


def _chance(table: BlockTable, network: Network, metric: str, value: float, upwards: bool) -> float:
    """How likely a network's value of a metric is beyond another one."""
    column = table.column(metric)
    gain = table.response(network, metric) - float(
        column.metric.scale.forward(np.array([value]))[0]
    )
    gain = gain if upwards else -gain
    deviation = float(table.response_deviation([network], metric)[0])
    return NormalDist().cdf(gain / deviation) if deviation > 0 else float(gain >= 0)


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


def _keeping(rules: Sequence[Rule], networks: Sequence[Network]) -> list[Network]:
    """Networks that keep the rules: these, or the nearest ones that are not among them yet."""
    found = dict.fromkeys(n for n in networks if all(rule.holds(n) for rule in rules))
    for network in networks:
        if network in found or all(rule.holds(network) for rule in rules):
            continue
        program = _nearness(rules[0].space, network, rules)
        near = solver_for(program, "auto").solve(program, count=len(found) + 1).networks
        found |= dict.fromkeys([other for other in near if other not in found][:1])
    return list(found)


def _nearness(space: SearchSpace, network: Network, rules: Sequence[Rule]) -> Program:
    """The program of the networks that differ in as few nodes as possible."""
    effects = np.ones(space.num_blocks)
    effects[space.offsets[:-1] + np.array(network)] = 0.0
    metric = Metric("changes", "", Direction.MINIMIZE, additive=True)
    column = BlockEffects(metric, 0.0, effects, 0 * effects, 0 * effects)
    return Program(BlockTable(space, network, {"changes": column}), "changes", False, (), rules)


def _say(done: Round, number: int, budget: int, metric: Metric, progress: bool | None) -> None:
    """A line of progress."""
    if isinstance(progress_bar("", 0, progress), Silent):
        return
    best = "no network meets the limits yet"
    if done.best is not None and done.value is not None:
        best = f"best {metric.name} {metric.format(done.value)} [{network_text(done.best)}]"
    failed = f", {len(done.failed)} failed" * bool(done.failed)
    text = f"round {number}: {done.evaluated} of {budget} networks evaluated{failed}, {best}"
    print(text, file=sys.stderr, flush=True)
