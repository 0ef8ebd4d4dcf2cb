"""Eq. 2 of the paper: the best block of each node, chosen on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mathnas.baselines._driver import Proposals, Wanted, drive
from mathnas.baselines.single_sampling_search import best_predicted, sample_within, table_of
from mathnas.evaluation import Evaluator
from mathnas.sampling import Sample
from mathnas.study import Study
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack


def best_blocks(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """Single sampling, and then one network: each node's block with the best effect.

    As printed, Eq. 2 knows neither interactions nor limits that nodes share, so limits do not
    change which network that is; they decide whether it can be the answer, or else the best of the
    sample is. Nodes of a depth rule are one choice, and rules are kept. The rest of the budget is
    not used.

    Args:
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError, EvaluationError, KeyboardInterrupt: as `single_sampling_search`.
    """
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials, sample_within(trials)))


def _proposals(trials: Trials, sample: Sample) -> Proposals:
    yield sample.networks
    yield best_predicted(trials, table_of(trials, sample), 1, ())
