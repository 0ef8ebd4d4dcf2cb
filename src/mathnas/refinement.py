"""Solve, evaluate, refit: from a table to an answer that was measured.

A table is fitted to all that a study holds, the best networks that were not evaluated yet are found
exactly, evaluated, and the table is fitted again, until the budget is spent or nothing better is
likely. What is answered is a network that was measured, and limits hold for what was measured.

All state between rounds is the study's, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from mathnas.designs import balanced_sampling
from mathnas.errors import EvaluationError, InvalidInputError, MathNASWarning
from mathnas.evaluation import Evaluator
from mathnas.fitting import fit
from mathnas.metrics import Direction, Metric
from mathnas.sampling import single_sampling
from mathnas.search import Limit, Program, Rule, Status, solver_for
from mathnas.search.limits import Limits
from mathnas.space import Network, SearchSpace
from mathnas.study import Study
from mathnas.table import BlockEffects, BlockTable
from mathnas.trials import Outcome, Reason, Round, Trials

Start = Literal["single", "balanced"]
_LEAST = 3  # networks that a regression needs
_PATIENCE = 2  # rounds without improvement before the odds are looked at
_SMALL_ODDS = 0.01  # of an improvement, by each network that could be evaluated next
_LOOSER = (0.0, 0.5, 1.0, 2.0)  # limits, in deviations, where no network is predicted to meet them
_SAMPLED = 64  # networks, for a usual deviation
_SECONDS = 10.0  # of a solve: early tables may be so alike in all nodes that proofs take for ever


@dataclass(frozen=True)
class Refinement(Outcome):
    """What a refinement came to; false in a condition where no measured network meets the limits.

    Attributes:
        table: the last one, a regression on all evaluations.
    """

    table: BlockTable


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
        budget: evaluations that the study holds in the end (of the objective and what is limited,
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
    trials = Trials(
        study,
        evaluator,
        maximize=maximize,
        minimize=minimize,
        limits=limits,
        rules=rules,
        budget=budget,
        seed=seed,
        workers=workers,
        progress=progress,
        on_round=on_round,
    )
    loop = _Loop(trials)
    first = loop.start(start)
    missing = loop.missing(first)
    if missing:
        trials.measure(missing)
    loop.check_start()
    while trials.left:
        begun = time.perf_counter()
        proposed, odds, proven = loop.proposals(min(batch, trials.left))
        if not proposed:
            return loop.result("exhausted" if proven else "unsolved")
        if loop.stale(len(first)) >= _PATIENCE * batch and odds < _SMALL_ODDS:
            return loop.result("unlikely")
        trials.measure(proposed, thinking=time.perf_counter() - begun)
    return loop.result("budget")


class _Loop:
    """How the next networks are chosen."""

    def __init__(self, trials: Trials) -> None:
        self.trials, self.space = trials, trials.space

    def stale(self, start: int) -> int:
        """How many networks were evaluated after the start and the best one."""
        held, (best, _) = self.trials.held(), self.trials.best()
        return len(held) - max(start, 0 if best is None else held.index(best) + 1)

    # ---- rounds ---------------------------------------------------------------------------------

    def start(self, kind: Start) -> list[Network]:
        """The networks to begin with."""
        space = self.space
        sample = None
        try:
            sample = single_sampling(space, self.trials.reference)
            cost = sample.cost
        except InvalidInputError:  # an optional node is absent in the reference
            cost = space.num_blocks - space.num_nodes + 1
        count = min(cost, max(_LEAST, self.trials.budget // 2), space.num_networks)
        if kind == "balanced" or sample is None or cost > count:
            sample = balanced_sampling(space, count, seed=self.trials.seed)
        networks = _keeping(self.trials.rules, sample.networks)
        if len(networks) < _LEAST:
            raise InvalidInputError(
                f"a refinement needs at least {_LEAST} networks to learn from, but the space and "
                f"the rules leave {len(networks)}: evaluate them all, or leave out a rule."
            )
        if self.trials.relative:
            others = [network for network in networks if network != self.trials.reference]
            networks = [self.trials.reference, *others[: count - 1]]
        return networks

    def missing(self, start: Sequence[Network]) -> list[Network]:
        """What is to be evaluated of the start: fewer where the study holds others."""
        held = set(self.trials.held())
        skipped = held | self.trials.given_up()
        wanted = [network for network in start if network not in skipped]
        wanted = wanted[: max(0, len(start) - len(held))]
        if self.trials.relative and self.trials.reference not in {*held, *wanted}:
            wanted = [self.trials.reference, *wanted[1:]]
        return wanted

    def check_start(self) -> None:
        """Whether enough was measured to go on."""
        held = self.trials.held()
        if len(held) < _LEAST or (self.trials.relative and self.trials.reference not in held):
            needed = f"at least {_LEAST} measured networks"
            needed += ", the reference among them for relative limits" * self.trials.relative
            raise EvaluationError(
                f"a refinement needs {needed}, but {self.trials.study.path} holds {len(held)} and "
                "the others of the start failed: see Study.failures() for why, and evaluate others."
            )

    def table(self, metrics: Sequence[str]) -> BlockTable:
        """A regression on all that the study holds."""
        conditions = dict.fromkeys(metrics, self.trials.conditions)
        with warnings.catch_warnings():
            # blocks that no network holds yet are what the next rounds are for
            warnings.simplefilter("ignore", MathNASWarning)
            return fit(
                self.trials.study,
                metrics,
                method="regression",
                reference=self.trials.reference,
                conditions=conditions,
            )

    def proposals(self, count: int) -> tuple[list[Network], float, bool]:
        """The best predicted networks that were not evaluated, the largest of their odds to be
        better than the best measured one, and whether that there are no others is proven.

        Where none is left that is predicted to meet the limits, those that miss a measured one by
        no more than predictions may be off.
        """
        table, limits = self.table(self.trials.measured), self.trials.limits()
        known = {*self.trials.held(), *self.trials.given_up()}
        free = [limit for limit in limits if limit.metric.name in self.trials.measured]
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
            program = Program(
                table, self.trials.objective.name, self.trials.upwards, loosened, self.trials.rules
            )
            found, finished = _new(program, known, count)
            proven &= finished
            if found:
                break
        odds = max((self._odds(table, free, network) for network in found), default=0.0)
        return found, odds, proven

    def _odds(self, table: BlockTable, limits: Sequence[Limit], network: Network) -> float:
        """How likely a network meets the measured limits and is better than the best one so far."""
        _, best = self.trials.best()
        if best is None:
            return 1.0
        odds = _chance(table, network, self.trials.objective.name, best, self.trials.upwards)
        for limit in limits:
            odds *= _chance(table, network, limit.metric.name, limit.value, limit.sense == ">=")
        return odds

    def result(self, reason: Reason) -> Refinement:
        """The answer, with a table of all that the evaluator measures."""
        trials = self.trials
        counts = {n: len(trials.study.counts([n], trials.conditions)) for n in trials.metrics}
        table = self.table([name for name, count in counts.items() if count >= _LEAST])
        found = trials.outcome(reason)
        return Refinement(**{f.name: getattr(found, f.name) for f in fields(found)}, table=table)


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
