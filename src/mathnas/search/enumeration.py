"""Exact solution of small programs: all networks at once, by outer sums."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from mathnas.metrics import Floats
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Status
from mathnas.space import Network

MOST_NETWORKS = 2_000_000


class EnumerationSolver:
    """Looks at every network; for spaces of up to two million."""

    name = "enumeration"

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`; the time limit is not needed: this takes milliseconds."""
        start = time.perf_counter()
        objective = outer_sums(program, program.costs, 0.0)
        if program.power:
            objective /= outer_sums(program, program.macs, program.fixed_macs)
        rows = program.rows
        near = np.zeros(len(objective), dtype=bool)
        for weights, bound, tolerance in zip(
            rows.weights, rows.bounds, rows.tolerance, strict=True
        ):
            used = outer_sums(program, weights, 0.0)
            objective[used > bound + tolerance] = np.inf
            near |= np.abs(used - bound) <= tolerance
        found: list[Network] = []
        best = math.inf
        for index in _ascending(objective, count):
            network = _network(program, index)
            if not near[index] or program.holds(network):
                found.append(network)
                best = min(best, float(objective[index]))
                if len(found) == count:
                    break
        return Solution(
            Status.OPTIMAL if found else Status.INFEASIBLE,
            found,
            best,
            time.perf_counter() - start,
            self.name,
            {"networks": len(objective)},
        )


def outer_sums(program: Program, values: Floats, start: float) -> Floats:
    """Sums of candidate values over every choice; the last program node varies fastest."""
    total = np.full(1, start)
    for own in np.split(values, program.offsets[1:-1]):
        total = np.add.outer(total, own).ravel()
    return total


def _ascending(objective: Floats, count: int) -> Iterator[int]:
    """Indices of finite values, ascending, ties by index; sorted no further than is asked for."""
    finite = np.flatnonzero(np.isfinite(objective))
    values = objective[finite]
    size, done = count + 63, 0
    while done < len(values):
        part = np.arange(len(values))
        if size < len(values):
            # all that tie with the last one belong to the part, so that order does not depend on it
            part = np.flatnonzero(values <= np.partition(values, size - 1)[size - 1])
        order = part[np.argsort(values[part], kind="stable")]
        yield from finite[order[done:]].tolist()
        done, size = len(order), 4 * len(order)


def _network(program: Program, index: int) -> Network:
    sizes = np.diff(program.offsets).tolist()
    choice = np.array(np.unravel_index(index, sizes)) + program.offsets[:-1]
    return program.network(choice)
