"""Local search with restarts: White, Nolen and Savani, UAI 2021, arXiv:2005.02960."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mathnas.baselines._driver import Proposals, Wanted, drive
from mathnas.baselines._permitted import draw, neighbours
from mathnas.errors import InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.space import Network
from mathnas.study import Study
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack

Improvement = Literal["first", "best"]


def local_search(
    study: Study,
    evaluator: Evaluator,
    *,
    improvement: Improvement = "first",
    **wanted: Unpack[Wanted],
) -> Outcome:
    """Hill climbing over switches of one node, from random networks that were not asked for before.

    A step goes to a neighbour with a better score: feasible before infeasible, then by violation,
    then by the objective. Where there is none, the climb begins again somewhere else.

    Args:
        improvement: ``first`` goes through the neighbours in random order and steps to the first
            better one, which is the cheaper way for dozens of evaluations; ``best`` measures all
            and steps to the best, as the paper does.
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError: as `mathnas.refine`, or `improvement` is neither.
        EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    if improvement not in ("first", "best"):
        raise InvalidInputError(f"an improvement is first or best, but got {improvement!r}.")
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials, improvement))


def _proposals(trials: Trials, improvement: Improvement) -> Proposals:
    rng = np.random.default_rng(trials.seed)
    asked: set[Network] = set()
    while new := draw(trials, 1, rng, asked):
        here: Network | None = new[0]
        while here is not None:
            asked.add(here)
            score = (yield [here])[here]
            around = [network for own in neighbours(trials, here) for network in own]
            order = [around[place] for place in rng.permutation(len(around))]
            here = None
            for part in [order] if improvement == "best" else [[other] for other in order]:
                if not part:
                    break
                asked.update(part)
                scores = yield part
                best = min(part, key=scores.__getitem__)
                if scores[best] < score:
                    here = best
                    break
