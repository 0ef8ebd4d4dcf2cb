"""Solve, evaluate, refit: from a table to an answer that was measured.

A table is fitted to all that a study holds, the best networks that were not evaluated yet are found
exactly, evaluated, and the table is fitted again, until the budget is spent or nothing better is
likely. What is answered is a network that was measured, and limits hold for what was measured.

All state between rounds is the study's, so that a run that was stopped goes on.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from mathnas._progress import Show
from mathnas.acquisition import Choice, propose
from mathnas.designs import balanced_sampling
from mathnas.errors import EvaluationError, InvalidInputError, MathNASWarning
from mathnas.evaluation import Evaluator
from mathnas.fitting import fit
from mathnas.metrics import Direction, Metric
from mathnas.sampling import single_sampling
from mathnas.search import Program, Rule, solver_for
from mathnas.search.limits import Limits
from mathnas.space import Network, SearchSpace
from mathnas.study import Study
from mathnas.table import BlockEffects, BlockTable
from mathnas.trials import Outcome, Reason, Round, Trials

Start = Literal["single", "balanced"]
_LEAST = 3  # networks that a regression needs
_PATIENCE = 2  # rounds without improvement before the odds are looked at
_SMALL_ODDS = 0.01  # of an improvement, by each network that could be evaluated next
_LEADERS = 3  # that are measured again in a round
_REORDERED = 1.64  # deviations of a difference, within which noise may have turned an order
_ENOUGH = 3  # degrees of freedom of repeats, from which on they tell the noise


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
    choice: Choice = "promising",
    repeats: int = 3,
    seed: int = 0,
    workers: int = 1,
    progress: Show = False,
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
        choice: which of the promising networks; see `mathnas.acquisition.propose`.
        repeats: how often a leader is measured, where the evaluator is noisy and noise may have
            turned the order of the best networks: each time one evaluation, at the end, for which
            an eighth of the budget is kept at most. 1 measures none again.
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
    if repeats < 1:
        raise InvalidInputError(f"a network is measured at least once, but got repeats={repeats}.")
    if choice not in get_args(Choice):
        raise InvalidInputError(
            f"a choice is one of {', '.join(get_args(Choice))}, but got {choice!r}."
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
    kept = min(_LEADERS * (repeats - 1), budget // 8) if evaluator.noisy else 0
    reason = loop.explore(len(first), batch, choice, kept)
    while trials.left and (leaders := loop.leaders(repeats, trials.left)):
        times = trials.counts()
        trials.measure([network for network in leaders for _ in range(times[network] + 1)])
    if reason is None:
        reason = loop.explore(len(first), batch, choice, 0)
    return loop.result(reason or "budget")


class _Loop:
    """How the next networks are chosen."""

    def __init__(self, trials: Trials) -> None:
        self.trials, self.space = trials, trials.space

    def stale(self, start: int) -> int:
        """How many networks were evaluated after the start and the best one."""
        held, (best, _) = self.trials.held(), self.trials.best()
        return len(held) - max(start, 0 if best is None else held.index(best) + 1)

    # ---- rounds ---------------------------------------------------------------------------------

    def explore(self, start: int, batch: int, choice: Choice, kept: int) -> Reason | None:
        """Evaluate what is most promising until nothing is, or no more than `kept` evaluations are
        left: then None.

        Args:
            start: how many networks the start has.
        """
        trials = self.trials
        while trials.left > kept:
            begun = time.perf_counter()
            rng = np.random.default_rng([trials.seed, trials.spent])
            table = self.table(trials.measured)
            stale = self.stale(start)
            count = min(batch, trials.left - kept)
            proposal = propose(trials, table, count, choice, rng, stale=stale >= batch)
            if not proposal.networks:
                return "exhausted" if proposal.proven else "unsolved"
            if stale >= _PATIENCE * batch and proposal.odds < _SMALL_ODDS:
                return "unlikely"
            trials.measure(proposal.networks, thinking=time.perf_counter() - begun)
        return None

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
        # repeats of a few networks may have spent the budget
        wanted = wanted[: min(max(0, len(start) - len(held)), self.trials.left)]
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

    def leaders(self, repeats: int, count: int) -> list[Network]:
        """The best measured networks, where noise may have put them in the wrong order: those to
        measure once more, at most `count`."""
        trials = self.trials
        if repeats < 2 or not trials.evaluator.noisy:
            return []
        times, feasible = trials.counts(), trials.feasible()
        noise = self._noise()
        if not noise or len(feasible) < 2:
            return []
        values = trials.values(trials.objective.name)
        sign = 1 if trials.upwards else -1
        ranked = sorted(feasible, key=lambda network: -sign * values[network])
        best = ranked[0]
        near = [
            network
            for network in ranked
            if sign * (values[best] - values[network])
            <= _REORDERED * noise * math.sqrt(1 / times[best] + 1 / times[network])
        ]
        if len(near) < 2:
            return []
        failing = trials.given_up()
        unsure = [n for n in near if times[n] < repeats and n not in failing]
        unsure = unsure[: min(count, _LEADERS)]
        # a first repeat tells whether values vary at all
        return unsure[:1] if max(times.values()) == 1 else unsure

    def _noise(self) -> float:
        """Standard deviation of one evaluation of the objective: of repeats, where there are
        enough; else of the model."""
        trials, name = self.trials, self.trials.objective.name
        found: dict[Network, list[float]] = {}
        for fact in trials.study.evaluations(name, conditions=trials.conditions):
            found.setdefault(fact.network, []).append(fact.measurement.value)
        again = [values for values in found.values() if len(values) > 1]
        degrees = sum(len(values) - 1 for values in again)
        if degrees:
            pooled = math.sqrt(
                sum(len(values) * float(np.var(values)) for values in again) / degrees
            )
            if not pooled or degrees >= _ENOUGH:
                return pooled
        column = self.table([name]).column(name)
        best = np.array([(max if trials.upwards else min)(trials.values(name).values())])
        assert column.uncertainty is not None  # it is a regression
        slope = float(column.metric.scale.derivative(best)[0])
        return float(column.uncertainty.noises(best)[0]) / slope

    def result(self, reason: Reason) -> Refinement:
        """The answer, with a table of all that the evaluator measures."""
        trials = self.trials
        counts = {n: len(trials.study.counts([n], trials.conditions)) for n in trials.metrics}
        table = self.table([name for name, count in counts.items() if count >= _LEAST])
        found = trials.outcome(reason)
        return Refinement(**{f.name: getattr(found, f.name) for f in fields(found)}, table=table)


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
