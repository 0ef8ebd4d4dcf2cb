"""Once-for-all's evolutionary finder: Cai et al., ICLR 2020, ``EvolutionFinder`` of its repository.

It evolves *predictions*: any predictor of values, limits on predicted values, no evaluation. Its
settings are the repository's; what it lacks there is an end where nothing meets the limits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas.baselines._driver import Proposals, Wanted, drive
from mathnas.baselines._genome import Genome
from mathnas.baselines._permitted import draw
from mathnas.baselines.predictions import Predictions, keep, predicted_limits
from mathnas.errors import InvalidInputError, MathNASWarning
from mathnas.evaluation import Evaluator
from mathnas.metrics import Floats
from mathnas.search import Limit, Rule
from mathnas.search.limits import Limits
from mathnas.space import Indices, Network, network_text
from mathnas.study import Study
from mathnas.table import BlockTable
from mathnas.trials import Outcome, Trials
from mathnas.validation import fit_without

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LEAST = 3  # networks that a regression needs
_DRAWS = 100  # times that a first population or a generation is drawn anew, at most

Fit: TypeAlias = "Callable[[Sequence[Network], Mapping[str, Sequence[float]]], Predictions]"


@dataclass(frozen=True)
class Finding:
    """What the finder found; false where no network is predicted to meet the limits.

    Attributes:
        network: the one with the best prediction; None where none meets the limits.
        predictions: of its objective and limited metrics, by name.
        ranking: the best networks that were seen, best first, as many as were asked for.
        predicted: how many networks were predicted, those that missed the limits and those that
            came again included.
        generations: that were evolved.
    """

    network: Network | None
    predictions: dict[str, float] = field(default_factory=dict)
    ranking: tuple[Network, ...] = ()
    predicted: int = 0
    generations: int = 0

    def __bool__(self) -> bool:
        return self.network is not None

    def __str__(self) -> str:
        if self.network is None:
            return (
                f"none of {self.predicted} predicted networks meets the limits: loosen one, or let "
                "mathnas.search prove that there is none."
            )
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.predictions.items())
        return (
            f"best predicted network [{network_text(self.network)}]: {values}; "
            f"{self.predicted} networks predicted in {self.generations} generations."
        )


def ofa_finder(
    table: BlockTable | Predictions,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    rules: Sequence[Rule] = (),
    seed: int = 0,
    count: int = 1,
    population: int = 100,
    parent_ratio: float = 0.25,
    mutation_ratio: float = 0.5,
    generations: int = 500,
    mutation_probability: float = 0.1,
) -> Finding:
    """Evolve the network with the best prediction under limits on predictions.

    In each generation the best ``parent_ratio * population`` networks survive as parents;
    ``mutation_ratio * population`` children are mutants of one parent, in which each node's block
    and each stage's depth is drawn anew with the mutation probability, and the others take each
    node and each depth from one of two parents. Children that miss a limit or break a rule are
    drawn again. Ours is what happens where that does not succeed: after 100 times the generation
    goes on with fewer children, and where the first population stays empty, the finding is false.

    Args:
        table: a table, or any `Predictions`; the limits of what is no table are `Limit`s.
        maximize, minimize: the metric to optimise; one of them.
        limits, rules: as in `mathnas.search`.
        count: how many networks to rank; the repository gives the best one.
        population, parent_ratio, mutation_ratio, generations, mutation_probability: the defaults
            are the repository's (whose later version gives the image size, which is no node here, a
            probability of its own).

    Raises:
        InvalidInputError: an argument cannot be right, or a limit cannot be read.
    """
    name = maximize or minimize
    if name is None or (maximize is not None and minimize is not None):
        raise InvalidInputError(
            "say which metric to optimise: maximize= or minimize=, one of them."
        )
    parents, mutants = round(parent_ratio * population), round(mutation_ratio * population)
    if not (1 <= parents <= population and 0 <= mutants <= population and count >= 1):
        raise InvalidInputError(
            "a finder has at least 1 parent, ratios in [0, 1] and a count of at least 1, but got "
            f"population={population}, parent_ratio={parent_ratio}, "
            f"mutation_ratio={mutation_ratio}, count={count}."
        )
    if not 0 <= mutation_probability <= 1 or generations < 0:
        raise InvalidInputError(
            "a mutation probability is in [0, 1] and generations are at least 0, but got "
            f"{mutation_probability} and {generations}."
        )
    read = predicted_limits(limits, table)
    finder = _Finder(table, name, maximize is not None, read, rules, seed, count)
    genome, rng = finder.genome, finder.rng
    alive, losses = finder.feasible(partial(genome.drawn, rng=rng), population)
    for _ in range(generations if len(alive) else 0):
        best = np.argsort(losses, kind="stable")[:parents]
        elders = alive[best]
        mutated = partial(genome.mutants, elders, mutation_probability, rng=rng)
        crossed = partial(genome.crossed, elders, rng=rng)
        children = [
            finder.feasible(mutated, mutants),
            finder.feasible(crossed, population - mutants),
        ]
        alive = np.concatenate([elders, *(genes for genes, _ in children)])
        losses = np.concatenate([losses[best], *(own for _, own in children)])
    return finder.finding(generations if len(alive) else 0)


class _Finder:
    """Draws until rules and limits hold, predicts and remembers; losses are less for better."""

    def __init__(
        self,
        predictor: Predictions,
        metric: str,
        upwards: bool,
        limits: Sequence[Limit],
        rules: Sequence[Rule],
        seed: int,
        count: int,
    ) -> None:
        self.predictor, self.space = predictor, predictor.space
        self.genome = Genome(self.space)
        self.metric, self.upwards = metric, upwards
        self.limits, self.rules, self.count = limits, rules, count
        self.rng = np.random.default_rng(seed)
        self.predicted = 0
        self.seen: dict[Network, float] = {}  # the best ones and their losses

    def feasible(self, drawn: Callable[[int], Indices], size: int) -> tuple[Indices, Floats]:
        """As many drawn rows of genes whose networks meet rules and limits, and their losses."""
        found = [self.genome.drawn(0, self.rng)]
        missing = size
        for _ in range(_DRAWS):
            if missing <= 0:
                break
            genes = drawn(size)
            found.append(genes[self._meets(self.genome.networks(genes))][:missing])
            missing -= len(found[-1])
        genes = np.concatenate(found)
        rows = self.genome.networks(genes)
        losses = np.asarray(self.predictor.predict(rows, self.metric)) if len(rows) else np.empty(0)
        losses = -losses if self.upwards else losses
        self._remember(rows, losses)
        return genes, losses

    def _meets(self, rows: Indices) -> npt.NDArray[np.bool_]:
        kept = keep(self.limits, self.predictor, rows)
        flat = rows + self.space.offsets[:-1]
        for rule in self.rules:
            kept &= rule.coefficients[flat].sum(axis=1) <= rule.bound
        self.predicted += len(rows)
        return kept

    def _remember(self, rows: Indices, losses: Floats) -> None:
        worst = max(self.seen.values()) if len(self.seen) >= self.count else np.inf
        better = losses < worst
        for row, loss in zip(rows[better].tolist(), losses[better].tolist(), strict=True):
            self.seen.setdefault(tuple(row), loss)
        best = sorted(self.seen.items(), key=lambda item: item[1])
        self.seen = dict(best[: self.count])

    def finding(self, generations: int) -> Finding:
        """The best that was seen."""
        if not self.seen:
            return Finding(None, predicted=self.predicted)
        ranking = tuple(self.seen)
        names = dict.fromkeys([self.metric, *(limit.metric.name for limit in self.limits)])
        row = np.array(ranking[:1])
        predictions = {name: float(self.predictor.predict(row, name)[0]) for name in names}
        return Finding(ranking[0], predictions, ranking, self.predicted, generations)


def ofa_search(
    study: Study,
    evaluator: Evaluator,
    *,
    kept: float = 0.1,
    fit: Fit | None = None,
    **wanted: Unpack[Wanted],
) -> Outcome:
    """Measure random networks, fit a predictor to them once, let `ofa_finder` search with it, and
    measure what it ranks highest with what was kept of the budget.

    Args:
        kept: the share of the budget that is kept for the finder's networks, at least one.
        fit: makes a `Predictions` from networks and their values by metric (the objective and the
            limited metrics that are measured); by default a regression (`mathnas.fit`). What the
            space declares need not be predicted.
        study, evaluator, wanted: as in `mathnas.refine`; the same seed serves the finder.

    Raises:
        InvalidInputError: as `mathnas.refine`; or the budget leaves fewer than 3 networks to fit,
            or `kept` is not in (0, 1).
        EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    trials = Trials(study, evaluator, **wanted)
    sample = trials.budget - max(1, round(kept * trials.budget))
    if not 0 < kept < 1 or sample < _LEAST:
        raise InvalidInputError(
            f"the finder's predictor needs {_LEAST} networks or more and the finder at least 1, "
            f"with a share in (0, 1) kept for it, but got budget={trials.budget}, kept={kept}."
        )
    return drive(trials, _proposals(trials, sample, fit or _regression(trials)))


def _proposals(trials: Trials, sample: int, fit: Fit) -> Proposals:
    rng = np.random.default_rng(trials.seed)
    asked: set[Network] = set()
    while (missing := sample - len(trials.held())) > 0:
        # as many whatever is held, so that a run that goes on draws what it drew before
        drawn = draw(trials, sample, rng, asked)
        if not drawn:
            break
        asked.update(drawn)
        yield [network for network in drawn if network not in trials.counts()][:missing]
    # in the order of measurement, so that a run that goes on fits what it fitted before
    learnt = trials.held()[:sample]
    if len(learnt) < _LEAST:
        return
    values = {name: trials.values(name) for name in trials.measured}
    predictor = fit(learnt, {name: [own[n] for n in learnt] for name, own in values.items()})
    finding = ofa_finder(
        _WithDeclared(predictor, trials),
        limits=list(trials.limits()),
        rules=trials.rules,
        seed=trials.seed,
        count=trials.budget,
        maximize=trials.objective.name if trials.upwards else None,
        minimize=None if trials.upwards else trials.objective.name,
    )
    yield finding.ranking


def _regression(trials: Trials) -> Fit:
    def fit(networks: Sequence[Network], values: Mapping[str, Sequence[float]]) -> Predictions:
        left_out = set(trials.held()) - set(networks)
        conditions = dict.fromkeys(values, trials.conditions)
        with warnings.catch_warnings():
            # blocks that no network holds are what a small budget, or rules, leave out
            warnings.simplefilter("ignore", MathNASWarning)
            return fit_without(
                trials.study,
                left_out,
                list(values),
                method="regression",
                reference=trials.reference,
                conditions=conditions,
            )

    return fit


class _WithDeclared:
    """A predictor, and what the space declares."""

    def __init__(self, predictor: Predictions, trials: Trials) -> None:
        self.predictor, self.measured = predictor, trials.measured
        self.space = trials.space
        self._declared = BlockTable(trials.space, trials.reference, {})

    def predict(self, networks: npt.ArrayLike, metric: str) -> Floats:
        own = metric in self.measured
        return (self.predictor if own else self._declared).predict(networks, metric)
