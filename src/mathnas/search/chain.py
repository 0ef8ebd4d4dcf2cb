"""Exact solution of chains: programs in which a node interacts with its neighbours only.

A choice is then a path through layers of candidates, and everything that is summed - the objective,
each limit, each rule - is a length of it. Without limits the shortest path is found by dynamic
programming. With limits (a resource-constrained shortest path):

1. *Bound*: relax the limits with multipliers mu >= 0; the shortest path under A + mu (W x - b) is a
   lower bound, and subgradient steps improve mu. Feasible paths met on the way are kept.
2. *Label*: list the beginnings of paths, layer by layer. A beginning is dropped where the best end
   of it is above a threshold, where even its lightest end breaks a limit, or where another one with
   the same last candidate is no dearer and uses no more of any limit.
3. *Deepen*: the threshold starts just above the bound and rises until a path is found below it,
   which is then proven to be the best one. Long lists are worked off in parts, the best part first.

A fractional objective A / F is solved by Dinkelbach's iteration: with u the lowest ratio known,
minimise A - u F, which has no pairs of its own, until nothing is below 0.

Guarantee: as in `mathnas.search.vectorised`. Dominance compares sums that are rounded; where a path
turns out to break a limit by less than that, the search is done again without letting near-ties
dominate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats
from mathnas.search.program import RELATIVE_TOLERANCE, PairTerm, Program
from mathnas.search.solver import Solution, Status, refuse_powers
from mathnas.space import Indices

_EPSILON = 1e-12  # of the objective's range, a node
_STEPS = 150
_LARGEST_EXPANSION = 2_000_000  # numbers at once
_DOMINATORS = 48
_FEW_LABELS = 400  # too few to look for dominated ones
_NEAR_TIE = 1e-13


def is_chain(program: Program) -> bool:
    """Whether program nodes interact with their neighbours only."""
    terms = [*program.pairs, *(term for terms in program.rows.pairs for term in terms)]
    return all(term.second == term.first + 1 for term in terms)


class ChainSolver:
    """Labelled dynamic programming with Lagrangian bounds; see the module's text."""

    name = "chain"

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`.

        Raises:
            InvalidInputError: nodes that are not neighbours interact, or the objective divides by
                MACs to a power between 0 and 1.
        """
        if not is_chain(program):
            raise InvalidInputError(
                "the solver 'chain' is for programs in which each node interacts with its "
                "neighbours only, but others do in this one: use solver='auto', or 'highs'."
            )
        refuse_powers(program, self.name)
        return _Search(program, count, time_limit).run()


class _TimeUpError(Exception):
    """The time limit has come."""


class _Layers:
    """Quantities as lengths of paths.

    A flat quantity starts with the first node's candidates; then come the arcs from each node to
    the next, row by row, which carry the next node's own values.
    """

    def __init__(self, program: Program) -> None:
        self.sizes: list[int] = np.diff(program.offsets).tolist()
        self.offsets = program.offsets
        arcs = [self.sizes[0]]
        arcs += [a * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        self.starts: list[int] = np.cumsum([0, *arcs]).tolist()

    def flat(self, values: Floats, pairs: Sequence[PairTerm]) -> Floats:
        """A quantity of candidates and of neighbouring pairs."""
        own = np.split(values, self.offsets[1:-1])
        parts = [own[0]]
        parts += [np.tile(row, size) for row, size in zip(own[1:], self.sizes[:-1], strict=True)]
        lengths = np.concatenate(parts)
        for term in pairs:
            lengths[self.starts[term.second] : self.starts[term.second + 1]] += term.values.ravel()
        return lengths

    def arcs(self, lengths: Floats, node: int) -> Floats:
        """Shape (candidates of node - 1, candidates of node)."""
        part = lengths[self.starts[node] : self.starts[node + 1]]
        return part.reshape(self.sizes[node - 1], self.sizes[node])

    def ends(self, lengths: Floats) -> list[Floats]:
        """For each node, the shortest rest of a path after each of its candidates."""
        found = [np.zeros(self.sizes[-1])]
        for node in range(len(self.sizes) - 1, 0, -1):
            found.append((self.arcs(lengths, node) + found[-1]).min(axis=1))
        return found[::-1]

    def shortest(self, lengths: Floats, ends: list[Floats]) -> tuple[list[int], Indices]:
        """The shortest path as candidates within nodes, and as places of a flat quantity."""
        candidate = int((lengths[: self.sizes[0]] + ends[0]).argmin())
        path, places = [candidate], [candidate]
        for node in range(1, len(self.sizes)):
            start = self.starts[node] + candidate * self.sizes[node]
            row = lengths[start : start + self.sizes[node]]
            candidate = int((row + ends[node]).argmin())
            path.append(candidate)
            places.append(start + candidate)
        return path, np.array(places)

    def total(self, lengths: Floats, ends: list[Floats]) -> float:
        """The length of the shortest path."""
        return float((lengths[: self.sizes[0]] + ends[0]).min())


@dataclass
class _Labels:
    """Beginnings of paths up to one node.

    Attributes:
        paths: shape (L, node + 1), candidates within nodes.
        lengths: shape (M, L), the quantities so far.
    """

    paths: Indices
    lengths: Floats

    @property
    def node(self) -> int:
        return int(self.paths.shape[1]) - 1

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, places: Indices) -> _Labels:
        return _Labels(self.paths[places], self.lengths[:, places])


@dataclass
class _Task:
    """A linear problem: the paths with the smallest A - u F, scaled to [0, 1].

    Quantities are, in this order: the objective, each row, and the objective with priced rows.
    """

    ratio: float
    unit: float
    constant: float
    lengths: Floats  # shape (M, arcs)
    ends: list[Floats]  # for each node, shape (M, candidates)
    bound: float  # no feasible path is shorter
    price: float  # mu b

    def as_linear(self, value: float) -> float:
        """A scaled length as A - u F."""
        return self.constant + self.unit * value


class _Search:
    """One solve."""

    def __init__(self, program: Program, count: int, time_limit: float | None) -> None:
        self.program = program
        self.count = count
        self.start = time.perf_counter()
        self.deadline = math.inf if time_limit is None else self.start + time_limit
        self.layers = _Layers(program)
        rows = program.rows
        flats = [
            self.layers.flat(weights, pairs)
            for weights, pairs in zip(rows.weights, rows.pairs, strict=True)
        ]
        self.rows = np.array(flats).reshape(len(flats), self.layers.starts[-1])
        # prune with the tolerance, accept by exact arithmetic
        self.most = rows.bounds + rows.tolerance
        self.surely = rows.bounds - rows.tolerance
        self.rounding = rows.tolerance - RELATIVE_TOLERANCE + _NEAR_TIE
        self.multipliers = np.zeros(len(self.most))
        self.epsilon = _EPSILON * program.num_nodes
        self.pool: dict[tuple[int, ...], float] = {}  # feasible paths: normal-form objective
        self.refused: set[tuple[int, ...]] = set()
        self.bound = program.lowest
        self.counts = {"problems": 0, "passes": 0, "labels": 0}

    def run(self) -> Solution:
        status = Status.OPTIMAL
        try:
            self._fractional() if self.program.power else self._linear(0.0)
        except _TimeUpError:
            status = Status.FEASIBLE if self.pool else Status.UNKNOWN
        ordered = sorted(self.pool.items(), key=lambda item: item[1])[: self.count]
        best = ordered[0][1] if ordered else math.inf
        if status is Status.OPTIMAL:
            self.bound = best
            if not ordered:
                status = Status.INFEASIBLE
        starts = self.program.offsets[:-1]
        return Solution(
            status,
            [self.program.network(starts + np.array(path)) for path, _ in ordered],
            min(best, self.bound),
            time.perf_counter() - self.start,
            ChainSolver.name,
            self.counts,
        )

    def _fractional(self) -> None:
        """Dinkelbach's iteration, for the `count` best ratios."""
        ratio, best = self.program.lowest, math.inf
        while len(self._linear(ratio)) == self.count:
            # all paths below the ratio are among the shortest `count` of A - ratio F
            before, best = best, sorted(self.pool.values())[self.count - 1]
            if best >= before or best <= self.program.lowest:
                return
            ratio = best

    # ---- one linear problem -----------------------------------------------------------------

    def _linear(self, ratio: float) -> list[float]:
        """Put the `count` feasible paths with the smallest A - u F into the pool.

        Returns:
            Their scaled lengths; fewer than `count` where there are no more paths.
        """
        self.counts["problems"] += 1
        task = self._task(ratio)
        threshold, step = task.bound, 1e-3
        dominance = _NEAR_TIE if self.count == 1 else None
        while True:
            threshold = min(1.0, threshold + step) + self.epsilon
            found, near = self._below(task, threshold, dominance)
            if near and dominance is not None and dominance > 0:
                dominance = -1.0
                continue
            if len(found) == self.count or threshold > 1.0:
                return found
            self._raise_bound(task, threshold)
            step *= 2

    def _task(self, ratio: float) -> _Task:
        """A linear problem with good multipliers."""
        program, layers = self.program, self.layers
        costs = layers.flat(program.costs - ratio * program.macs, program.pairs)
        shortest = layers.total(costs, layers.ends(costs))
        longest = -layers.total(-costs, layers.ends(-costs))
        unit = longest - shortest or 1.0
        costs = costs / unit
        costs[: layers.sizes[0]] -= shortest / unit
        task = _Task(
            ratio,
            unit,
            shortest - (ratio * program.fixed_macs if program.power else 0.0),
            np.concatenate([costs[None], self.rows, costs[None]]),
            [],
            0.0,
            0.0,
        )
        self._price(task)
        task.lengths[-1] = costs + self.multipliers @ self.rows
        ends = [layers.ends(lengths) for lengths in task.lengths]
        task.ends = [np.array(own) for own in zip(*ends, strict=True)]
        task.price = float(self.multipliers @ self.most)
        self._raise_bound(task, layers.total(task.lengths[-1], ends[-1]) - task.price)
        return task

    def _price(self, task: _Task) -> None:
        """Improve the multipliers by subgradient steps towards a level above the best bound."""
        layers, costs = self.layers, task.lengths[0]
        multipliers, best, level, stale = self.multipliers, -math.inf, 0.05, 0
        for _ in range(_STEPS if len(self.most) else 0):
            self._check_time()
            priced = costs + multipliers @ self.rows
            ends = layers.ends(priced)
            value = layers.total(priced, ends) - float(multipliers @ self.most)
            path, places = layers.shortest(priced, ends)
            excess = self.rows[:, places].sum(axis=1) - self.most
            self._offer(path, excess + self.most)
            if value > best:
                stale = 0 if value > best + 0.1 * level else stale + 1
                level *= 1.5 if value > best + 0.5 * level else 1.0
                best, self.multipliers = value, multipliers
                self._raise_bound(task, best)
            else:
                stale += 1
            if stale >= 4:
                stale, level, multipliers = 0, 0.5 * level, self.multipliers
            gradient = np.where((multipliers <= 0) & (excess < 0), 0.0, excess)
            size = float(gradient @ gradient)
            if size < 1e-24 or level < 1e-6 or best > 1.0 + self.epsilon:
                return
            step = (best + level - value) / size
            multipliers = np.maximum(0.0, multipliers + step * gradient)

    def _raise_bound(self, task: _Task, bound: float) -> None:
        """No feasible path has a smaller scaled length."""
        task.bound = max(task.bound, bound)
        linear = task.as_linear(task.bound - self.epsilon)
        self.bound = max(self.bound, self.program.bound_from(linear, task.ratio))

    def _offer(self, path: Sequence[int], used: Floats) -> bool:
        """Keep a path if it is feasible."""
        key = tuple(path)
        if key in self.pool:
            return True
        if key in self.refused or (used > self.most).any():
            return False
        choice = self.program.offsets[:-1] + np.array(key)
        if (used > self.surely).any() and not self.program.holds(self.program.network(choice)):
            self.refused.add(key)
            return False
        self.pool[key] = self.program.value(choice)
        return True

    def _check_time(self) -> None:
        if time.perf_counter() > self.deadline:
            raise _TimeUpError

    # ---- labels -----------------------------------------------------------------------------

    def _below(
        self, task: _Task, threshold: float, dominance: float | None
    ) -> tuple[list[float], bool]:
        """The `count` shortest feasible paths up to a threshold.

        Args:
            dominance: by how much a label may use more than one that it dominates, in units of the
                rows; below 0, it must use less by what rounding may be; None for no dominance.

        Returns:
            Their scaled lengths, ascending, and whether a path shorter than the last of them was
            refused by exact arithmetic.
        """
        self.counts["passes"] += 1
        found: list[float] = []
        shortest_refused = math.inf
        size = self.layers.sizes[0]
        first = _Labels(np.arange(size)[:, None], task.lengths[:, :size])
        stack = [self._promising(task, first, threshold)]
        while stack:
            self._check_time()
            labels = stack.pop()
            if len(found) == self.count:  # only better ones are of interest now
                labels = self._promising(task, labels, found[-1] - self.epsilon)
            if labels.node == self.program.num_nodes - 1:
                for place in np.argsort(labels.lengths[0], kind="stable").tolist():
                    length = float(labels.lengths[0, place])
                    if length > threshold or (
                        len(found) == self.count and length >= found[-1] - self.epsilon
                    ):
                        break
                    if self._offer(labels.paths[place].tolist(), labels.lengths[1:-1, place]):
                        found = sorted([*found, length])[: self.count]
                    else:
                        shortest_refused = min(shortest_refused, length)
                continue
            most = found[-1] - self.epsilon if len(found) == self.count else threshold
            labels = self._extended(task, labels, most)
            if dominance is not None and len(labels) > _FEW_LABELS:
                labels = self._undominated(labels, dominance)
            stack.extend(self._parts(task, labels))
        last = found[-1] if len(found) == self.count else math.inf
        return found, shortest_refused < last

    def _limits(self, task: _Task, threshold: float) -> Floats:
        """The largest value of each quantity."""
        return np.concatenate([[threshold], self.most, [threshold + task.price + self.epsilon]])

    def _promising(self, task: _Task, labels: _Labels, threshold: float) -> _Labels:
        """Labels with an end within every limit."""
        ends = task.ends[labels.node][:, labels.paths[:, -1]]
        within = labels.lengths + ends <= self._limits(task, threshold)[:, None]
        return labels.take(np.flatnonzero(within.all(axis=0)))

    def _extended(self, task: _Task, labels: _Labels, threshold: float) -> _Labels:
        """Labels of the next node."""
        node = labels.node + 1
        limits = self._limits(task, threshold)
        last, ends = labels.paths[:, -1], task.ends[node]
        priced = self.layers.arcs(task.lengths[-1], node) + ends[-1]
        old, new = np.nonzero(labels.lengths[-1][:, None] + priced[last] <= limits[-1])
        self.counts["labels"] += len(old)
        place = self.layers.starts[node] + last[old] * self.layers.sizes[node] + new
        lengths = labels.lengths[:, old] + task.lengths[:, place]
        kept = (lengths + ends[:, new] <= limits[:, None]).all(axis=0)
        old, new = old[kept], new[kept]
        return _Labels(np.column_stack([labels.paths[old], new]), lengths[:, kept])

    def _undominated(self, labels: _Labels, dominance: float) -> _Labels:
        """Drop labels that one of the most promising with the same last candidate dominates."""
        last = labels.paths[:, -1]
        order = np.lexsort((labels.lengths[-1], last))
        allowed = np.full(len(self.most), dominance) if dominance > 0 else -self.rounding
        # rules count: their sums are equal or far apart
        allowed[len(self.program.limits) :] = _NEAR_TIE
        kept = []
        for group in np.split(order, np.flatnonzero(np.diff(last[order])) + 1):
            lengths = labels.lengths[:-1, group]
            few = lengths[:, :_DOMINATORS, None]
            beaten = few[0] <= lengths[0] + self.epsilon * 1e-1
            for row, slack in enumerate(allowed.tolist(), start=1):
                beaten &= few[row] <= lengths[row] + slack
            beaten &= np.arange(few.shape[1])[:, None] < np.arange(len(group))
            kept.append(group[~beaten.any(axis=0)])
        return labels.take(np.concatenate(kept))

    def _parts(self, task: _Task, labels: _Labels) -> list[_Labels]:
        """Labels in parts that can be extended at once, the most promising part last."""
        if not len(labels):
            return []
        node = labels.node
        following = self.layers.sizes[min(node + 1, self.program.num_nodes - 1)]
        most = max(1, _LARGEST_EXPANSION // following)
        if len(labels) <= most:
            return [labels]
        order = np.argsort(labels.lengths[-1] + task.ends[node][-1, labels.paths[:, -1]])
        cuts = range(most, len(labels), most)
        return [labels.take(part) for part in reversed(np.split(order, list(cuts)))]
