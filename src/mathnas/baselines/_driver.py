"""What all methods share: a method proposes networks, the driver measures them and tells scores.

A method is a generator of proposals that is decided by its seed and by the scores it is told. What
the study holds is told without being measured again, so that a run that was stopped repeats its
steps for nothing and goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

from mathnas._progress import Show
from mathnas.errors import EvaluationError
from mathnas.search import Limit, Rule
from mathnas.search.limits import Limits
from mathnas.space import Network, network_text
from mathnas.trials import Outcome, Round, Trials

_LEAST_VALUE, _MOST = 1e-12, 1e30


class Wanted(TypedDict, total=False):
    """What every method takes beside the study and the evaluator, as `mathnas.refine` does."""

    maximize: str | None
    minimize: str | None
    limits: Limits
    rules: Sequence[Rule]
    budget: int
    seed: int
    workers: int
    progress: Show
    on_round: Callable[[Round], None] | None


@dataclass(frozen=True, order=True, slots=True)
class Score:
    """How good a measured network is; less is better, and what is feasible is better than what is
    not (the first of Deb's rules, 2000: then by violation, then by loss).

    Attributes:
        violation: by how much limits are missed by measured and declared values, each relative to
            the limit's value, summed; infinite for a network that failed.
        loss: the objective; its negative where more is wanted.
    """

    violation: float
    loss: float


FAILED = Score(math.inf, math.inf)
Proposals: TypeAlias = Generator[Sequence[Network], Mapping[Network, Score], None]


def drive(trials: Trials, proposals: Proposals) -> Outcome:
    """Measure what a method proposes until it proposes nothing more or the budget is spent.

    A network that fails is told as `FAILED`, and tried once more by the next call alone.

    Raises:
        EvaluationError: as `Trials.measure`; or limits are relative and the reference failed.
    """
    failed: set[Network] = set()
    begun = time.perf_counter()

    def measure(networks: Sequence[Network]) -> None:
        skipped = trials.counts().keys() | trials.given_up() | failed
        new = [network for network in dict.fromkeys(networks) if network not in skipped]
        if new:
            thinking = time.perf_counter() - begun
            failed.update(trials.measure(new[: trials.left], thinking=thinking).failed)

    if trials.relative and trials.left:
        measure([trials.reference])
    if trials.relative and trials.left and trials.reference not in trials.counts():
        raise EvaluationError(
            f"relative limits refer to what is measured of the reference "
            f"[{network_text(trials.reference)}], but its evaluation failed: see "
            "Study.failures() for why, or give limits as values."
        )
    asked: Sequence[Network] | None = None
    while trials.left:
        begun = time.perf_counter()
        try:
            told = None if asked is None else {n: score_of(trials, n) for n in asked}
            asked = next(proposals) if told is None else proposals.send(told)
        except StopIteration:
            return trials.outcome("exhausted")
        measure(asked)
    return trials.outcome("budget")


def score_of(trials: Trials, network: Network) -> Score:
    """The score of a network by what was measured and declared."""
    if network not in trials.counts():
        return FAILED
    violation = sum(
        relative_violation(limit, trials.known(network, limit.metric.name))
        for limit in trials.limits()
    )
    value = trials.values(trials.objective.name)[network]
    return Score(violation, -value if trials.upwards else value)


def relative_violation(limit: Limit, value: float) -> float:
    """By how much a value misses a limit, relative to the limit's value; 0 where it does not."""
    slack = limit.slack(value)
    # a limit of 0 makes any violation enormous, which still orders networks
    return 0.0 if slack >= 0 else min(-slack / max(abs(limit.value), _LEAST_VALUE), _MOST)
