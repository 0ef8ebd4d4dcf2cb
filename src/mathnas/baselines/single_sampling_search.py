"""The paper's plain way (Algorithm 1 and Eq. 6): sample once, predict, evaluate what is best.

Nothing is fitted again, which is what `mathnas.refine` adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mathnas.baselines._driver import Proposals, Wanted, drive
from mathnas.errors import EvaluationError, InvalidInputError
from mathnas.evaluation import Evaluator
from mathnas.fitting import fit
from mathnas.sampling import Sample, single_sampling
from mathnas.search import Limit, Program, solver_for
from mathnas.space import Network
from mathnas.study import Study
from mathnas.table import BlockTable
from mathnas.trials import Outcome, Trials

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SECONDS = 10.0  # of a solve


def single_sampling_search(study: Study, evaluator: Evaluator, **wanted: Unpack[Wanted]) -> Outcome:
    """Single sampling in the study's reference network, effects from its differences, and then the
    best predicted networks under limits and rules, in the order of prediction, with what is left
    of the budget. The table stays as it is, whatever comes out.

    Rules and limits are for the search: the sample holds every block, also those that a rule
    excludes.

    Args:
        study, evaluator, wanted: as in `mathnas.refine`.

    Raises:
        InvalidInputError: as `mathnas.refine`; or the sample costs more than the budget, or an
            optional node is absent in the reference. Nothing is evaluated then.
        EvaluationError: as `mathnas.refine`; or a network of the sample failed.
        KeyboardInterrupt: as `mathnas.refine`.
    """
    trials = Trials(study, evaluator, **wanted)
    return drive(trials, _proposals(trials, sample_within(trials)))


def sample_within(trials: Trials) -> Sample:
    """Single sampling in the reference, whose cost must fit the budget.

    Raises:
        InvalidInputError: it does not.
    """
    sample = single_sampling(trials.space, trials.reference)
    if sample.cost > trials.budget:
        raise InvalidInputError(
            f"single sampling of {trials.space.name} costs {sample.cost} evaluations, one for each "
            f"block that can be switched and one for the reference, but the budget is "
            f"{trials.budget}: give a larger one, or choose another method."
        )
    return sample


def table_of(trials: Trials, sample: Sample) -> BlockTable:
    """Effects in the context of the sample alone, so that what is measured later changes nothing.

    Raises:
        EvaluationError: a network of the sample was not measured.
    """
    held = trials.counts()
    missing = [network for network in sample.networks if network not in held]
    if missing:
        raise EvaluationError(
            f"single sampling needs all of its {sample.cost} networks, but {len(missing)} failed: "
            f"see Study.failures() of {trials.study.path} for why. The same call tries them again "
            "once; mathnas.refine does without them."
        )
    conditions = dict.fromkeys(trials.measured, trials.conditions)
    return fit(
        trials.study,
        trials.measured,
        method="single",
        reference=sample.reference,
        conditions=conditions,
    )


def best_predicted(
    trials: Trials, table: BlockTable, count: int, limits: Sequence[Limit]
) -> list[Network]:
    """The best `count` networks by prediction under limits and the rules; in the time of a solve
    (10 s) maybe fewer."""
    program = Program(table, trials.objective.name, trials.upwards, limits, trials.rules)
    solver = solver_for(program, "auto")
    return list(solver.solve(program, count=count, time_limit=_SECONDS).networks)


def _proposals(trials: Trials, sample: Sample) -> Proposals:
    yield sample.networks
    table = table_of(trials, sample)
    # as many as could be needed, were all that the study holds among them
    yield best_predicted(trials, table, trials.budget + sample.cost, trials.limits())
