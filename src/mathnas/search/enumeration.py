"""Exact solution of small programs: all networks at once, by outer sums."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from mathnas.metrics import Floats
from mathnas.search.program import PairTerm, Program
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
        objective = outer_sums(program, program.costs, 0.0, program.pairs)
        if program.power:
            macs = outer_sums(program, program.macs, program.fixed_macs)
            objective /= macs if program.power == 1 else macs**program.power
        rows = program.rows
        near = np.zeros(len(objective), dtype=bool)
        for weights, pairs, bound, tolerance in zip(
            rows.weights, rows.pairs, rows.bounds, rows.tolerance, strict=True
        ):
            used = outer_sums(program, weights, 0.0, pairs)
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


def outer_sums(
    program: Program, values: Floats, start: float, pairs: Sequence[PairTerm] = ()
) -> Floats:
    """Sums of candidate values and pair terms over every choice; the last program node varies
    fastest."""
    sizes = np.diff(program.offsets).tolist()
    total = np.full(1, start)
    for node, own in enumerate(np.split(values, program.offsets[1:-1])):
        total = np.add.outer(total, own).ravel()
        for pair in pairs:
            if pair.second == node:  # add where both nodes are axes of a view
                view = total.reshape(
                    -1, sizes[pair.first], math.prod(sizes[pair.first + 1 : node]), sizes[node]
                )
                view += pair.values[:, None, :]
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
