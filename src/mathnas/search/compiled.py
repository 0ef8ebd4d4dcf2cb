"""The compiled solver: branch and bound in C++, without the GIL.

The method and its guarantee are those of `mathnas.search.vectorised`; ``kernel/search.cpp`` tells
it. Where the package was installed without a compiler there is no kernel, and
`kernel_is_available` says so.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from mathnas.errors import MissingExtraError
from mathnas.search._structure import Structure, structure_of
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Status, refuse_pairs

if TYPE_CHECKING:
    from mathnas.search import _kernel

_PROVEN = 0


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("mathnas.search._kernel")
    except ImportError:
        return None


@dataclass
class _Prepared:
    """A program as the kernel holds it, made once for each program.

    `rows` counts its rows: the limits and the rules, without those that stages stand for.
    `multipliers` are where the last solve's bound ended: a good start for the next one, whose
    limits have moved a little. Any start is valid, so threads may overwrite each other's.
    """

    program: _kernel.Program
    structure: Structure
    rows: int
    multipliers: list[float] = field(default_factory=list)


_module = _load()
_prepared_programs: WeakKeyDictionary[Program, _Prepared] = WeakKeyDictionary()


def kernel_is_available() -> bool:
    """Whether the package was installed with its compiled solver."""
    return _module is not None


class KernelSolver:
    """Branch and bound in C++; several threads may solve at the same time.

    Raises:
        MissingExtraError: the package was installed without the kernel.
    """

    name = "kernel"

    def __init__(self) -> None:
        if _module is None:
            raise MissingExtraError(
                "the compiled solver is not installed: install mathnas from source where there is "
                "a C++17 compiler (CONTRIBUTING tells how), or use solver='numpy'."
            )

    def prepare(self, program: Program) -> None:
        """Make ahead of the first solve what is kept of a program from solve to solve.

        Raises:
            InvalidInputError: the program has pairwise terms.
        """
        refuse_pairs(program, self.name)
        _prepared(program.origin)

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`; Ctrl-C interrupts it.

        Raises:
            InvalidInputError: the program has pairwise terms.
        """
        refuse_pairs(program, self.name)
        start = time.perf_counter()

        def holds(choice: Sequence[int]) -> bool:
            return program.holds(program.network(choice))

        kept = _prepared(program.origin)
        # the last rows say what stages say to the kernel
        bounds, surely = (b[: kept.rows] for b in kept.structure.bounds(program))
        state, choices, bound, multipliers, boxes, leaves = kept.program.solve(
            count,
            math.inf if time_limit is None else time_limit,
            bounds,
            surely,
            kept.multipliers,
            holds,
        )
        kept.multipliers = multipliers
        networks = [program.network(choice) for choice in choices]
        if state == _PROVEN:
            status = Status.OPTIMAL if networks else Status.INFEASIBLE
        else:
            status = Status.FEASIBLE if networks else Status.UNKNOWN
        return Solution(
            status,
            networks,
            max(bound, program.lowest) if state != _PROVEN else bound,
            time.perf_counter() - start,
            self.name,
            {"boxes": boxes, "leaves": leaves},
        )


def _prepared(program: Program) -> _Prepared:
    found = _prepared_programs.get(program)
    if found is None:
        assert _module is not None
        structure = structure_of(program)
        rows = len(program.limits) + len(program.rules)
        found = _Prepared(
            _module.Program(
                program.offsets.astype(np.int64, copy=False),
                program.costs,
                program.macs,
                program.rows.weights[:rows],
                structure.twins.astype(np.int64, copy=False),
                program.layout.stages,
                structure.cost_step,
                program.fixed_macs,
                program.power,
            ),
            structure,
            rows,
        )
        _prepared_programs[program] = found
    return found
