"""What a solver is, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mathnas.search.program import Program
from mathnas.space import Network


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
