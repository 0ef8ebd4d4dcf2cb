"""Random search: the yardstick of every other method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mathnas.baselines._driver import Proposals, Wanted, drive
from mathnas.baselines._permitted import draw
from mathnas.evaluation import Evaluator
from mathnas.space import Network
from mathnas.study import Study
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ROUND = 10


def random_search(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """Measure distinct random networks, uniform over those that keep rules and limits on what the
    space declares; what turns out to miss a measured limit was measured all the same.

    Args:
        study, evaluator, wanted: as in `mathnas.refine`: ``maximize`` or ``minimize``, ``limits``,
            ``rules``, ``budget``, ``seed``, ``workers``, ``progress``, ``on_round``.

    Raises:
        InvalidInputError, EvaluationError, KeyboardInterrupt: as `mathnas.refine`.
    """
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials))


def _proposals(trials: Trials) -> Proposals:
    rng = np.random.default_rng(trials.seed)
    asked: set[Network] = set()
    while new := draw(trials, _ROUND, rng, asked):
        asked.update(new)
        yield new
