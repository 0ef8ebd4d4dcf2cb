"""What a solver is, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mathnas.errors import InvalidInputError
from mathnas.search.program import Program
from mathnas.space import Network

Clock = Callable[[], "float | None"]  # the seconds that are left; None for as long as it takes


class Status(str, Enum):
    """What a solver has proven."""

    OPTIMAL = "optimal"
    """The best network; none better by more than the stated tolerance."""
    FEASIBLE = "feasible"
    """A network that meets all limits; the time limit came before the proof."""
    INFEASIBLE = "infeasible"
    """No network meets all limits."""
    UNKNOWN = "unknown"
    """The time limit came before any network was found or excluded."""


@dataclass(frozen=True)
class Solution:
    """A solver's result in the normal form of the program.

    Attributes:
        status: what is proven.
        networks: the best ones found, best first.
        bound: no feasible network has a smaller normal-form objective; -inf where unknown.
        seconds: wall time.
        solver: its name.
        work: counters (nodes of the search tree, ...), for curious people.
    """

    status: Status
    networks: Sequence[Network]
    bound: float
    seconds: float
    solver: str
    work: Mapping[str, int] = field(default_factory=dict)


class Solver(Protocol):
    """Solves programs to proven optimality, or says what it could prove in the time."""

    @property
    def name(self) -> str: ...

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """The `count` best networks that meet all limits exactly.

        Args:
            time_limit: seconds; None for as long as it takes.
        """
        ...


def countdown(seconds: float | None) -> Clock:
    """From now on, what is left of the time for several solves: never less than a millisecond."""
    start = time.perf_counter()
    return lambda: None if seconds is None else max(1e-3, seconds - (time.perf_counter() - start))


def check_time_limit(seconds: float | None) -> None:
    """
    Raises:
        InvalidInputError: the time limit is not a positive number.
    """
    if seconds is not None and not seconds > 0:
        raise InvalidInputError(f"a time limit is positive seconds, but got {seconds}.")


def refuse_pairs(program: Program, name: str) -> None:
    """For solvers that know sums over single nodes only.

    Raises:
        InvalidInputError: the program has pairwise terms.
    """
    if program.has_pairs:
        raise InvalidInputError(
            f"the solver {name!r} takes programs without pairwise effects, but nodes interact in "
            "this one: use solver='auto', or 'enumeration', 'chain' or 'highs'."
        )


def refuse_powers(program: Program, name: str) -> None:
    """For solvers whose objective is linear once a ratio to beat is given.

    Raises:
        InvalidInputError: the program's power is neither 0 nor 1.
    """
    if program.power not in (0.0, 1.0):
        raise InvalidInputError(
            f"the solver {name!r} takes objectives that are linear or divide by MACs themselves, "
            f"but {program.objective.name} divides by MACs to the power {program.power:g}: use "
            "solver='enumeration' for up to two million networks, solver='numpy' where no nodes "
            "interact, or fit the metric in another form."
        )
