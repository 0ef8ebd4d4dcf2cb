"""What makes a program easier than it looks: nodes that are interchangeable, and tables whose
numbers are multiples of a step (rounded to a digit), so that sums are too.

Both solvers use it. A step of the objective means that a better network is better by at least the
step; a step of a limit moves the limit down to the last sum that meets it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mathnas.metrics import Floats
from mathnas.search.program import Program
from mathnas.space import Indices

_FINEST_STEP = 1e-6  # steps are looked for among the multiples of this
_ROUNDING = 1e-10  # how far a value may be from a multiple, in steps
_MOST_STEPS = 1e9  # of a value; beyond, steps are not worth finding


@dataclass(frozen=True)
class Structure:
    """What solvers exploit.

    Attributes:
        twins: shape (program nodes,): interchangeable nodes share a number.
        cost_step: any two choices differ in ``sum(a)`` by a multiple of this; 0 where no step was
            found.
        row_steps: shape (K,): the same for each row's sum, in units of the scaled row.
    """

    twins: Indices
    cost_step: float
    row_steps: Floats

    def bounds(self, program: Program) -> tuple[Floats, Floats]:
        """For each row: above the first value a limit is broken, up to the second it is met.

        What lies between is decided by `Program.holds`.
        """
        rows = program.rows
        most = rows.bounds + rows.tolerance
        for k, step in enumerate(self.row_steps.tolist()):
            # rounding must not decide which multiple comes last
            if rows.tolerance[k] < 1e-3 * step:
                last = math.floor(float(most[k]) / step + 1e-6) * step
                most[k] = min(float(most[k]), last + max(float(rows.tolerance[k]), 1e-6 * step))
        return most, rows.bounds - rows.tolerance


def structure_of(program: Program) -> Structure:
    """The structure of a program; depends on its limits' metrics, not on their values."""
    rows = program.rows
    steps = _steps(program, np.vstack([program.costs, rows.weights * rows.spans[:, None]]))
    return Structure(
        _twins(program), 0.0 if program.power else float(steps[0]), steps[1:] / rows.spans
    )


def _steps(program: Program, values: Floats) -> Floats:
    """For each row, the largest step of which all differences within nodes are multiples; 0 where
    none is."""
    first = values[:, program.offsets[:-1]]
    differences = values - np.repeat(first, np.diff(program.offsets), axis=1)
    counts = differences / _FINEST_STEP
    whole = np.rint(counts)
    gridded = (np.abs(counts - whole).max(axis=1) <= 1e-3) & (
        np.abs(counts).max(axis=1) < _MOST_STEPS
    )
    steps = np.zeros(len(values))
    for row in np.flatnonzero(gridded).tolist():
        common = int(np.gcd.reduce(whole[row].astype(np.int64)))
        # counts are at most 1e9 and the decimals that users write are multiples of 10^-6 at most,
        # so dividing by an integer gives the step to the last bit
        step = common / round(1 / _FINEST_STEP)
        if common and np.abs(differences[row] / step - np.rint(differences[row] / step)).max() <= (
            _ROUNDING
        ):
            steps[row] = step
    return steps


def _twins(program: Program) -> Indices:
    """Numbers of nodes that are the same in all that a program is about.

    Limits compare exact sums of the table's own numbers, so it is these that must be equal, not
    only the scaled rows that were made of them.
    """
    starts = program.offsets[:-1]
    sums = np.add.reduceat(program.costs, starts)
    numbers: Indices = np.arange(program.num_nodes)
    if len(np.unique(sums)) == len(sums):  # equal nodes have equal sums: most tables end here
        return numbers
    space = program.space
    exact = [program.table.column(limit.metric.name).effects for limit in program.limits]
    if space.block_macs is not None:
        exact.append(space.block_macs)
    by_block = np.array(exact).reshape(len(exact), space.num_blocks)
    by_candidate = np.vstack([program.costs, program.macs, program.rows.weights])
    known: dict[tuple[bytes, ...], int] = {}
    for node, (nodes, configurations) in enumerate(program.layout.groups):
        own = by_candidate[:, program.offsets[node] : program.offsets[node + 1]]
        blocks = [by_block[:, space.offsets[i] : space.offsets[i + 1]] for i in nodes]
        key = (
            own.tobytes(),
            configurations.tobytes(),
            *(block.tobytes() for block in blocks),
        )
        numbers[node] = known.setdefault(key, node)
    return numbers
