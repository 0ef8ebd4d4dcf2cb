"""Regularised (ageing) evolution: Real et al., AAAI 2019, arXiv:1802.01548, Algorithm 1."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from mathnas.baselines._driver import Proposals, Score, Wanted, drive
from mathnas.baselines._permitted import draw, neighbours
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.space import Network
from mathnas.study import Study
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack


def evolution(
    study: Study,
    evaluator: Evaluator,
    *,
    population: int = 20,
    sample: int = 5,
    **wanted: Unpack[Wanted],
) -> Outcome:
    """Regularised evolution: the best of a random sample of the population has one node switched,
    the child joins the population, and the oldest leaves it.

    The paper's population and sample are 100 and 25, for 20,000 evaluations; the defaults here are
    for dozens. Ours are the rest: children are networks that were not asked for before and keep
    rules and limits on what the space declares; a network that misses a measured limit is worse
    than any that meets all, and the worse the further it is off (summed relative violation). Where
    a parent has no such child left, a random network takes its place. Children are evaluated one
    at a time, so that workers share the first population alone.

    Args:
        population: networks that are alive; the first ones are random.
        sample: how many of them, drawn without replacement, compete to be the parent.
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError: as `mathnas.refine`, or not 1 <= sample <= population.
        EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    if not 1 <= sample <= population:
        raise InvalidInputError(
            "a parent is the best of a sample of the population, 1 <= sample <= population, but "
            f"got sample={sample}, population={population}."
        )
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials, population, sample))


def _proposals(trials: Trials, population: int, sample: int) -> Proposals:
    rng = np.random.default_rng(trials.seed)
    first = draw(trials, population, rng)
    asked = set(first)
    scores = yield first
    alive: deque[tuple[Network, Score]] = deque(
        ((network, scores[network]) for network in first), maxlen=population
    )
    while alive:
        places = rng.choice(len(alive), min(sample, len(alive)), replace=False)
        parent, _ = min((alive[place] for place in places), key=lambda member: member[1])
        child = _child(trials, parent, asked, rng)
        if child is None:
            return
        asked.add(child)
        scores = yield [child]
        alive.append((child, scores[child]))  # the oldest leaves on the other side


def _child(
    trials: Trials, parent: Network, asked: set[Network], rng: np.random.Generator
) -> Network | None:
    """The parent with one node switched, first the node drawn and then its block."""
    new = [[n for n in own if n not in asked] for own in neighbours(trials, parent)]
    nodes = [own for own in new if own]
    if nodes:
        own = nodes[rng.integers(len(nodes))]
        return own[rng.integers(len(own))]
    return next(iter(draw(trials, 1, rng, asked)), None)
