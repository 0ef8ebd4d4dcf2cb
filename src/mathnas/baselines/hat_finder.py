"""HAT's evolutionary search: Wang et al., ACL 2020, arXiv:2005.14187, and its repository.

Networks evolve by what they are evaluated to; a limit on costs holds for predictions, and networks
that are predicted to miss it are drawn again before they are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mathnas.baselines._driver import Proposals, Score, Wanted, drive
from mathnas.baselines._genome import genome_of
from mathnas.baselines._permitted import Within, draw
from mathnas.baselines.predictions import Predictions, keep, predicted_limits
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.search.limits import Limits
from mathnas.space import Indices, Network, network_text
from mathnas.study import Study
from mathnas.table import BlockTable
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack

_POPULATION, _ITERATIONS = 125, 30  # HAT's
_SMALLEST = 10  # population, by default
_DRAWS = 100  # times that a generation is drawn anew, at most


def hat_search(
    study: Study,
    evaluator: Evaluator,
    *,
    costs: BlockTable | Predictions | None = None,
    cost_limits: Limits = None,
    population: int | None = None,
    parent_ratio: float = 0.2,
    mutation_ratio: float = 0.4,
    mutation_probability: float = 0.3,
    **wanted: Unpack[Wanted],
) -> Outcome:
    """Evolve networks by their evaluations, under limits on predicted costs.

    The best ``parent_ratio * population`` networks survive as parents; ``mutation_ratio *
    population`` children are mutants of one parent, in which each gene is drawn anew with the
    mutation probability, and the rest of the population takes each gene from one of two parents.
    Of a `SuperTransformer` a gene is one choice of one layer (width, heads, attended layers), or
    how many decoder layers are present; elsewhere it is a node's block, or a stage's depth. Genes
    of absent layers are inherited.

    HAT evaluates populations of 125 for 30 iterations, by the loss on validation data: with the
    first one of these drawn at random, 3,025 different networks at most. Here the budget says how
    many are evaluated. Ours are the rest: children that were asked for before are drawn again, too,
    as are those that break a rule or a limit on what the space declares; where 100 draws bring too
    few the generation is smaller, and random where they bring none; a network that misses a
    measured limit is worse than any that meets all.

    Args:
        costs: predicts what `cost_limits` limit: a table, or any `Predictions` (`ByMetric` of
            predictors, such as HAT's of latency). Nothing of it is measured.
        cost_limits: as `limits`, on predicted values; of what is no table a list of `Limit`. Every
            network that is proposed is predicted to meet them. `limits` hold for measured and
            declared values as in every method.
        population: networks alive; by default HAT's 125 where the budget is at least 3,025, and
            less in proportion to a smaller budget, at least 10, so that there are generations.
        parent_ratio, mutation_ratio, mutation_probability: the defaults are HAT's, 25 parents and
            50 mutants of 125.
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError: as `mathnas.refine`; one of `costs` and `cost_limits` is given without
            the other; a ratio or the population is out of range; or the study holds a network that
            is predicted to miss a cost limit, which could become the answer.
        EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    trials = Trials(study, evaluator, **wanted)
    size = _population(trials.budget) if population is None else population
    parents, mutants = round(parent_ratio * size), round(mutation_ratio * size)
    if not (1 <= parents < size and 0 <= mutants <= size - parents):
        raise InvalidInputError(
            "a population has at least 1 parent and 1 child, and mutants are children, but got "
            f"population={size}, parent_ratio={parent_ratio}, mutation_ratio={mutation_ratio}."
        )
    if not 0 <= mutation_probability <= 1:
        raise InvalidInputError(
            f"a mutation probability is in [0, 1], but got {mutation_probability}."
        )
    within = _within(trials, costs, cost_limits)
    evolution = _Evolution(trials, within, size, parents, mutants, mutation_probability)
    return drive(trials, evolution.proposals())


def _population(budget: int) -> int:
    """HAT's for HAT's budget, and as many generations for less."""
    children = _POPULATION * 4 // 5
    evaluations = _POPULATION + (_ITERATIONS - 1) * children
    return max(_SMALLEST, min(_POPULATION, _POPULATION * budget // evaluations))


def _within(
    trials: Trials, costs: BlockTable | Predictions | None, limits: Limits
) -> Within | None:
    """Which networks are predicted to meet the cost limits; None where there are none."""
    if (costs is None) != (not limits):
        raise InvalidInputError(
            "what predicts costs and the limits on them are given together, costs= and "
            f"cost_limits=, but got {'no costs' if costs is None else 'no cost_limits'}."
        )
    if costs is None:
        return None
    if costs.space != trials.space:
        raise InvalidInputError(
            f"costs are predicted for networks of the study's space, {trials.space.name}, but got "
            f"a predictor for {costs.space.name}."
        )
    within = partial(keep, predicted_limits(limits, costs), costs)
    known = trials.space.check_many(
        [*trials.held(), *([trials.reference] if trials.relative else [])]
    )
    missed = known[~within(known)].tolist()
    if missed:
        raise InvalidInputError(
            f"every measured network is predicted to meet the cost limits, but "
            f"[{network_text(missed[0])}] is measured and is not: give the search a study of its "
            "own, and limits that are not relative where the reference is too costly."
        )
    return within


class _Evolution:
    """A population and how its children come about."""

    def __init__(
        self,
        trials: Trials,
        within: Within | None,
        population: int,
        parents: int,
        mutants: int,
        probability: float,
    ) -> None:
        self.trials, self.within = trials, within
        self.population, self.parents, self.mutants = population, parents, mutants
        self.probability = probability
        self.genome = genome_of(trials.space)
        self.rng = np.random.default_rng(trials.seed)
        self.asked: set[Network] = set()

    def proposals(self) -> Proposals:
        """Generations; the first is random."""
        alive: list[tuple[Score, Indices]] = []
        children = self.new(partial(self.genome.drawn, rng=self.rng), self.population)
        children |= self.strangers(self.population - len(children))
        while children:
            scores = yield list(children)
            alive += [(scores[network], genes) for network, genes in children.items()]
            # sorting is stable: of equals the older one stays
            alive = sorted(alive, key=lambda member: member[0])[: self.parents]
            elders = np.array([genes for _, genes in alive])
            mutant = partial(self.genome.mutants, elders, self.probability, rng=self.rng)
            crossed = partial(self.genome.crossed, elders, rng=self.rng)
            rest = self.population - self.parents - self.mutants
            children = self.new(mutant, self.mutants)
            children |= self.new(crossed, rest)
            children = children or self.strangers(self.population - self.parents)

    def new(self, drawn: Callable[[int], Indices], size: int) -> dict[Network, Indices]:
        """Drawn networks that were not asked for before and keep what is known, and their genes;
        fewer where they are rare."""
        found: dict[Network, Indices] = {}
        for _ in range(_DRAWS):
            if len(found) == size:
                break
            genes = drawn(size)
            rows = self.genome.networks(genes)
            if self.within is not None:
                kept = self.within(rows)
                genes, rows = genes[kept], rows[kept]
            for network, own in zip(map(tuple, rows.tolist()), genes, strict=True):
                if len(found) < size and network not in self.asked and self.trials.allows(network):
                    found.setdefault(network, own)
        self.asked.update(found)
        return found

    def strangers(self, size: int) -> dict[Network, Indices]:
        """Random networks, which are found where they are rare."""
        drawn = draw(self.trials, size, self.rng, self.asked, self.within)
        self.asked.update(drawn)
        rows = self.trials.space.check_many(drawn)
        return dict(zip(drawn, self.genome.of(rows, self.rng), strict=True))
