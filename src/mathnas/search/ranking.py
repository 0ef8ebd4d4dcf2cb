"""The best answers, not just the best one; where asked, different enough from one another."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mathnas.errors import InvalidInputError
from mathnas.search._search import (
    answer_of,
    confident,
    infeasible_of,
    program_for,
    solver_for,
)
from mathnas.search.answer import Answer, Infeasible
from mathnas.search.limits import Limits
from mathnas.search.rules import Rule, at_least_changes
from mathnas.search.solver import Solver, Status, check_time_limit, countdown
from mathnas.table import BlockTable


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several answers, the best first.

    Attributes:
        answers: at least one.
        complete: whether these are as many as were asked for, or all that there are, each proven;
            False where the time limit came first or, with a confidence, too many networks would
            have to be checked.
    """

    answers: tuple[Answer, ...]
    complete: bool

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __getitem__(self, place: int) -> Answer:
        return self.answers[place]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "complete": self.complete,
            "answers": [answer.to_dict() for answer in self.answers],
        }

    def __str__(self) -> str:
        parts = [str(answer) for answer in self.answers]
        if not self.complete:
            probably = any(answer.confidence is not None for answer in self.answers)
            came = (
                "the time limit, or that of networks to check, came"
                if probably
                else ("the time limit came")
            )
            parts.append(f"{came} before all answers were proven.")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return "".join(answer._repr_html_() for answer in self.answers)


def k_best(
    table: BlockTable,
    count: int,
    *,
    maximize: str | None = None,
    minimize: str | None = None,
    limits: Limits = None,
    confidence: float | None = None,
    rules: Sequence[Rule] = (),
    diverse: int = 0,
    solver: str | Solver = "auto",
    time_limit: float | None = None,
) -> Ranking | Infeasible:
    """The `count` best networks, best first; fewer where there are fewer.

    Args:
        diverse: 0 gives the `count` best of all. d > 0 gives the best, then the best that differs
            from it in at least d nodes, then the best that differs from both, and so on: each step
            is proven.
        maximize, minimize, limits, confidence, rules, solver, time_limit: as in `search`.

    Returns:
        A `Ranking`, or the `Infeasible` of the search where there is not even one answer. Which
        limits bind is settled for the first.

    Raises:
        InvalidInputError: as in `search`, or `count` is below 1, or `diverse` is not in 0 to the
            number of nodes.
    """
    count, diverse = _whole("count", count), _whole("diverse", diverse)
    if count < 1:
        raise InvalidInputError(f"at least 1 answer is asked for, but got {count}.")
    if not 0 <= diverse <= table.space.num_nodes:
        raise InvalidInputError(
            f"answers differ in 0 to {table.space.num_nodes} nodes, but got diverse={diverse}."
        )
    check_time_limit(time_limit)
    left = countdown(time_limit)
    program = program_for(table, maximize, minimize, limits, rules)
    chosen = confident(solver_for(program, solver), program, confidence)
    solution = chosen.solve(program, count=1 if diverse else count, time_limit=left())
    if not solution.networks:
        return infeasible_of(program, solution, chosen, left)
    answers = [
        answer_of(program, network, solution, chosen, left if rank == 1 else None, rank=rank)
        for rank, network in enumerate(solution.networks, start=1)
    ]
    while diverse and solution.status is Status.OPTIMAL and len(answers) < count:
        apart = [at_least_changes(table.space, answer.network, diverse) for answer in answers]
        narrowed = program.with_rules(apart)
        solution = chosen.solve(narrowed, time_limit=left())
        answers += [
            answer_of(
                narrowed,
                network,
                solution,
                chosen,
                None,
                rank=len(answers) + 1,
                least_changes=diverse,
            )
            for network in solution.networks[:1]
        ]
    return Ranking(tuple(answers), solution.status in (Status.OPTIMAL, Status.INFEASIBLE))


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidInputError(f"{name} is a whole number, but got {value!r}.") from error
