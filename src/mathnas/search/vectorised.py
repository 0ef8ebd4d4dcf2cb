"""Exact solution of programs of any size with numpy: bound, fix, enumerate what is left, branch.

The program is ``min A(x) / F(x)^p`` with one candidate a node and ``W x <= b``. With u the lowest
ratio known, a better choice has ``A - u F^p < 0``, which is linear in x for p = 0 and 1, and is
bounded by a linear function for 0 < p < 1. (This is Dinkelbach's step; it happens inside the bound,
where u falls whenever a better choice is met.)

1. *Tighten*: a candidate that breaks a limit even with the lightest candidates elsewhere cannot be
   feasible; where the bound alone does not settle the search, also for a weighted sum of limits.
2. *Bound*: relax the limits with multipliers mu >= 0. Each node then takes its cheapest candidate;
   deflected Polyak subgradient steps improve mu. A bound of 0 or more proves u.
3. *Fix*: a candidate whose reduced cost lifts the bound to 0 cannot be in a better choice.
4. *Enumerate*: what is left is listed node by node, cut by reduced cost and by weight; a list that
   grows too long is given up.
5. *Branch* on a node whose candidates are nearly tied and differ much in weight; for 0 < p < 1 on F
   where the linear function is poor.

Twin nodes (equal candidates) are interchangeable: where one answer is asked for, only one of the
choices that differ in which twin takes which candidate is looked at. In tables that are rounded to
a step, a better choice is better by a step.

Guarantee: no feasible network is better by more than 1e-9 of the objective's span. Feasibility of
what is returned is exact: sums close to a limit are decided by `Program.holds`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from mathnas.metrics import Floats
from mathnas.search._structure import structure_of
from mathnas.search._vectorised_bound import Bound, Relaxation
from mathnas.search._vectorised_box import Box, Mask, Terms
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Status, refuse_pairs
from mathnas.space import Indices, Network

_ROOT_STEPS = 60
_NODE_STEPS = 15
_ROUNDS = 5
_LONGEST_LIST = 60_000
_MOST_CHILDREN = 32  # candidates beyond share one last child
_TIGHT = -0.05  # a weighted sum of limits with less room than this is worth tightening


class VectorisedSolver:
    """Branch and bound in numpy; see the module's text."""

    name = "numpy"

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`.

        Raises:
            InvalidInputError: the program has pairwise terms.
        """
        refuse_pairs(program, self.name)
        return _Search(program, count, time_limit).run()


class _TimeUpError(Exception):
    """The time limit has come."""


class _Search:
    """One solve."""

    def __init__(self, program: Program, count: int, time_limit: float | None) -> None:
        self.start = time.perf_counter()
        self.deadline = math.inf if time_limit is None else self.start + time_limit
        self.program = program
        self.count = count
        structure = structure_of(program)
        self.twins = structure.twins
        self.has_twins = count == 1 and len(np.unique(self.twins)) < len(self.twins)
        self.terms = Terms(program, structure)
        self.relaxation = Relaxation(self.terms, self._offer, self._tick)
        self.node_of = np.repeat(np.arange(program.num_nodes), np.diff(program.offsets))
        self.found: dict[Network, tuple[float, Indices]] = {}
        self.rejected: set[Network] = set()
        self.ratio: float = self.terms.worst
        self.share: Floats | None = None  # of each limit in the sum that excludes most
        self.counts = {"boxes": 0, "listed": 0}

    def run(self) -> Solution:
        program, unit = self.program, self.terms.unit
        box = Box.whole(program, self.terms, program.lowest / unit)
        stack = [box]
        status = Status.OPTIMAL
        try:
            while stack:
                box = stack.pop()
                if box.bound < self.ratio - (0.0 if program.power else self.terms.cut):
                    self._tick()
                    stack.extend(reversed(self._explore(box)))
        except _TimeUpError:
            stack.append(box)
            status = Status.FEASIBLE if self.found else Status.UNKNOWN
        ordered = sorted(self.found.items(), key=lambda item: item[1][0])
        bound = ordered[0][1][0] if ordered else math.inf
        if status is Status.OPTIMAL:
            status = Status.OPTIMAL if ordered else Status.INFEASIBLE
        else:
            bound = min([bound, *(left.bound for left in stack)])
        return Solution(
            status,
            [network for network, _ in ordered],
            bound * unit,
            time.perf_counter() - self.start,
            VectorisedSolver.name,
            self.counts,
        )

    # ---- what is known ----------------------------------------------------------------------

    def _tick(self) -> None:
        if time.perf_counter() > self.deadline:
            raise _TimeUpError

    def _offer(self, choice: Indices) -> float:
        """Take a choice if it is better than the `count` best known, and feasible; the ratio to
        beat."""
        terms = self.terms
        sums = terms.values.take(choice, axis=1).sum(axis=1)
        ratio = float(sums[0]) / (terms.fixed_macs + float(sums[1])) ** terms.power
        used = sums[2 : 2 + terms.limits]
        if ratio >= self.ratio or (used > terms.bounds[: terms.limits]).any():
            return self.ratio
        network = self.program.network(choice)
        if network in self.found or network in self.rejected:
            return self.ratio
        if (used > terms.surely[: terms.limits]).any() and not self.program.holds(network):
            self.rejected.add(network)
            return self.ratio
        self.found[network] = (ratio, choice)
        if len(self.found) > self.count:
            self.found.pop(max(self.found, key=lambda known: self.found[known][0]))
        if len(self.found) == self.count:
            self.ratio = min(self.ratio, max(known for known, _ in self.found.values()))
        return self.ratio

    # ---- one box ----------------------------------------------------------------------------

    def _explore(self, box: Box) -> list[Box]:
        """Settle a box, or return the boxes that it falls into, the most promising first."""
        self.counts["boxes"] += 1
        if self.share is not None and not self._tighten_together(box, 12):
            return []
        for turn in range(_ROUNDS):
            if not box.tighten():
                return []
            if not len(box.nodes):
                self._offer(box.choice)
                return []
            before = self.ratio
            self.relaxation.improve(box, before, _NODE_STEPS if box.depth else _ROOT_STEPS)
            bound = self.relaxation.bound(box, self.ratio)
            if not box.depth and not turn:
                self._warm_start(box.completed(bound.picked))
                bound = self.relaxation.bound(box, self.ratio)
            if bound.value >= -self.terms.cut:
                return []
            box.bound = max(box.bound, self._as_ratio(box, bound.value))
            kept = (bound.reduced + bound.value < -self.terms.cut) & box.real
            share = np.count_nonzero(kept) / np.count_nonzero(box.real)
            if share < 1 and not box.keep(kept):
                return []
            if share > 0.85 and self.ratio == before:
                break
        return self._split(box)

    def _split(self, box: Box) -> list[Box]:
        """List a box that bounds do not settle, or else split it."""
        bound = self._settled(box)
        if bound is None or self._list(box, bound):
            return []
        if not box.depth and len(self.terms.bounds) > 1 and self.share is None:
            # the search is a hard one: see whether the limits together leave little room
            self.share = np.full(len(self.terms.bounds), 1.0 / len(self.terms.bounds))
            if not self._tighten_together(box, 200):
                return []
            bound = self._settled(box)
            if bound is None or self._list(box, bound):
                return []
        return self._split_macs(box, bound) or self._branch(box, bound)

    def _settled(self, box: Box) -> Bound | None:
        """The bound of a box after tightening; None where that settles it."""
        if not box.tighten():
            return None
        if not len(box.nodes):
            self._offer(box.choice)
            return None
        bound = self.relaxation.bound(box, self.ratio)
        if bound.value >= -self.terms.cut:
            return None
        box.bound = max(box.bound, self._as_ratio(box, bound.value))
        return bound

    def _tighten_together(self, box: Box, steps: int) -> bool:
        """Tighten by a weighted sum of the limits; forget about it where they leave much room."""
        if not box.tighten():
            return False
        if self.share is None or not len(box.nodes):
            return True
        found = box.tighten_together(self.share, steps)
        if found is None:
            return False
        if not box.depth:
            excess, share = found
            self.share = share if excess > _TIGHT else None
        return True

    def _as_ratio(self, box: Box, value: float) -> float:
        """A negative bound on A - u F^p, as a bound on A / F^p."""
        return self.ratio + value / self._least_power(box)

    def _least_power(self, box: Box) -> float:
        low, _ = box.macs_range(self.terms)
        return float(low**self.terms.power)

    # ---- listing ----------------------------------------------------------------------------

    def _list(self, box: Box, bound: Bound) -> bool:
        """List the choices of a box that may be better; False where there are too many.

        A choice is better only if its reduced costs sum to less than minus the bound. A first pass
        with a small part of that slack often finds a better choice, which cuts the next pass.
        """
        spread = np.ptp(box.terms[2:], axis=2).max(axis=0, initial=0.0)
        order = np.lexsort((self.twins[box.nodes], -spread))
        least, before = self._least_power(box), self.ratio
        twins = self.twins if self.has_twins else None
        layers = _Layers(box, order, bound.reduced, self.program.offsets, twins)
        for share in (0.1, 0.4, 1.0):
            # better than u of now means more below u of then
            slack = min(share * -bound.value, -bound.value - (before - self.ratio) * least)
            listed = layers.choices(slack - self.terms.cut)
            self._tick()
            if listed is None:
                return False
            self.counts["listed"] += len(listed)
            self._offer_best(box, order, listed)
            if slack >= -bound.value - (before - self.ratio) * least:
                return True
        return True

    def _offer_best(self, box: Box, order: Indices, listed: Indices) -> None:
        costs = box.sums[0] + self.terms.values[0][listed].sum(axis=1)
        macs = box.sums[1] + self.terms.values[1][listed].sum(axis=1)
        ratios = costs / macs**self.terms.power
        better = np.flatnonzero(ratios < self.ratio)
        for index in better[np.argsort(ratios[better], kind="stable")]:
            if ratios[index] >= self.ratio:
                break
            choice = box.choice.copy()
            choice[box.nodes[order]] = listed[index]
            self._offer(choice)

    # ---- branching --------------------------------------------------------------------------

    def _split_macs(self, box: Box, bound: Bound) -> list[Box]:
        """Halves of the interval of F, where the secant's error is much of what is missing."""
        terms = self.terms
        if not terms.curved or self.ratio >= 0:
            return []
        low, high = box.macs_range(terms)
        if high - low <= 4e-9 * terms.span:
            return []
        if self.relaxation.secant_error(self.ratio, low, high) <= 0.25 * -bound.value:
            return []
        middle = (low + high) / 2
        place = (middle - terms.fixed_macs) / terms.span
        lower, upper = box.child(), box.child()
        # with the tolerance of a row, so that rounding leaves no gap between them
        lower.bounds, upper.bounds = box.bounds.copy(), box.bounds.copy()
        lower.bounds[-2] = place + 1e-9
        upper.bounds[-1] = -place + 1e-9
        return [lower, upper] if self.relaxation.splits_below(middle) else [upper, lower]

    def _branch(self, box: Box, bound: Bound) -> list[Box]:
        """One box for each candidate of the node that decides most; the last one has the rest."""
        reduced = np.where(box.real, bound.reduced, np.inf)
        second = np.partition(reduced, 1, axis=1)[:, 1]
        span = np.ptp(box.terms[2:], axis=2).max(axis=0, initial=0.0)
        chosen = int((span / (second / -bound.value + 0.05)).argmax())
        order = np.argsort(reduced[chosen], kind="stable")[: np.count_nonzero(box.real[chosen])]
        mask = box.real.copy()
        children = []
        for rank, place in enumerate(order.tolist()):
            rest = rank + 1 == _MOST_CHILDREN and rank + 1 < len(order)
            mask[chosen] = False
            mask[chosen, order[rank:] if rest else place] = True
            child = box.child()
            child.bound = max(
                box.bound, self._as_ratio(box, bound.value + float(reduced[chosen, place]))
            )
            if not child.keep(mask):
                break  # twins have no candidate left, nor have they in later children
            children.append(child)
            if rest:
                break
            self._exclude_in_twins(box, chosen, place, mask)
        return children

    def _exclude_in_twins(self, box: Box, chosen: int, place: int, mask: Mask) -> None:
        """After the child that gives a node this candidate no later child needs it in a twin: the
        same choice with the two nodes exchanged was in that child."""
        if not self.has_twins:
            return
        twins = np.flatnonzero(self.twins[box.nodes] == self.twins[box.nodes[chosen]])
        inside = box.ids - self.program.offsets[box.nodes][:, None]
        others = twins[twins != chosen]
        mask[others] &= inside[others] != inside[chosen, place]

    # ---- a first choice ---------------------------------------------------------------------

    def _warm_start(self, relaxed: Indices) -> None:
        """Local search from the relaxed choice and, where that finds nothing, from the extremes."""
        self._local_search(relaxed)
        if self.found:
            return
        offsets = self.program.offsets
        limits = self.terms.values[2 : 2 + self.terms.limits]
        for values in (limits.sum(axis=0), self.terms.values[0]):
            nodes = np.split(values, offsets[1:-1])
            self._local_search(np.array([int(own.argmin()) for own in nodes]) + offsets[:-1])

    def _local_search(self, choice: Indices) -> None:
        """Switch one node at a time: first towards the limits, then downhill inside them."""
        values = self.terms.values[: 2 + self.terms.limits]
        most = self.terms.bounds[: self.terms.limits, None]
        power, fixed = self.terms.power, self.terms.fixed_macs
        for _ in range(min(3 * len(choice) + 10, int(30 + 2e6 / values.size))):
            self._tick()
            own = values.take(choice, axis=1)
            now = own.sum(axis=1)
            now[1] += fixed
            change = values - own.take(self.node_of, axis=1)
            after = now[:, None] + change
            violation = np.maximum(0.0, after[2:] - most).sum(axis=0)
            here = float(np.maximum(0.0, now[2:] - most[:, 0]).sum())
            if here > 0:
                rise = np.maximum(1e-9, change[0])
                gain = np.where(violation < here - 1e-12, (here - violation) / rise, -1.0)
                best = int(gain.argmax())
                if gain[best] < 0:
                    return
            else:
                ratios = after[0] / after[1] ** power if power else after[0]
                ratios = np.where(violation == 0, ratios, np.inf)
                best = int(ratios.argmin())
                if not ratios[best] < float(now[0]) / float(now[1]) ** power - 1e-12:
                    break
            choice = choice.copy()
            choice[self.node_of[best]] = best
        self._offer(choice)


class _Layers:
    """Listing of a box's choices, one node after the other.

    Args:
        order: of the open nodes.
        starts: the first candidate of each node of the program.
        twins: numbers of interchangeable nodes; None to list every choice.
    """

    def __init__(
        self, box: Box, order: Indices, reduced: Floats, starts: Indices, twins: Indices | None
    ) -> None:
        firsts = starts[box.nodes[order]].tolist()
        weights = box.terms[2:]
        lightest = weights.min(axis=2)[:, order]
        # what the nodes that follow use at least
        ahead = np.cumsum(lightest[:, ::-1], axis=1)[:, ::-1] - lightest
        self._caps = box.bounds[:, None] + 1e-11 - ahead
        self._base = np.concatenate([[0.0], box.sums[2:]])
        self._ids: list[Indices] = []
        self._own: list[Floats] = []
        for node in order.tolist():
            count = np.count_nonzero(box.real[node])
            self._ids.append(box.ids[node, :count])
            self._own.append(np.vstack([reduced[None, node, :count], weights[:, node, :count]]))
        self._ordered = [False] * len(order)
        if twins is not None:
            places = [own - first for own, first in zip(self._ids, firsts, strict=True)]
            self._ordered = self._ordered_twins(places, twins[box.nodes[order]].tolist())

    def _ordered_twins(self, places: Sequence[Indices], twins: Sequence[int]) -> list[bool]:
        """For each node, whether it is a twin of the node before it with the same candidates left:
        then its candidate need not stand before that node's."""
        return [
            at > 0 and twins[at - 1] == twins[at] and np.array_equal(places[at - 1], places[at])
            for at in range(len(places))
        ]

    def choices(self, slack: float) -> Indices | None:
        """All choices within the slack and the limits, shape (k, nodes); None if there are many."""
        states: Floats = self._base[:, None]
        steps: list[tuple[Indices, Indices]] = []
        for at, (ids, own) in enumerate(zip(self._ids, self._own, strict=True)):
            if states.shape[1] * len(ids) > 4 * _LONGEST_LIST:
                return None
            total = states[:, :, None] + own[:, None, :]
            fits = total[0] <= slack
            for k, cap in enumerate(self._caps[:, at].tolist(), start=1):
                fits &= total[k] <= cap
            if self._ordered[at]:
                fits &= np.arange(len(ids)) >= steps[-1][1][:, None]
            flat = fits.ravel().nonzero()[0]
            if len(flat) > _LONGEST_LIST:
                return None
            parent, child = np.divmod(flat, len(ids))
            states = total.reshape(len(total), -1).take(flat, axis=1)
            steps.append((parent, child))
        listed = np.empty((states.shape[1], len(steps)), dtype=np.intp)
        at_state = np.arange(states.shape[1])
        for node in range(len(steps) - 1, -1, -1):
            parent, child = steps[node]
            listed[:, node] = self._ids[node][child[at_state]]
            at_state = parent[at_state]
        return listed
