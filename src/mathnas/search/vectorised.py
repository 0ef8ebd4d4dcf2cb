"""Exact solution of programs of any size with numpy: bound, fix, enumerate what is left, branch.

The program is ``min A(x) / F(x)^p`` with one candidate a node and ``W x <= b``. With u the lowest
ratio known, a better choice has ``A - u F^p < 0``, which is linear in x for p = 0 and 1. (This is
Dinkelbach's step; it happens inside the bound, where u falls whenever a better choice is met.)

1. *Bound*: relax the limits with multipliers mu >= 0. Each node then takes its cheapest candidate;
   deflected Polyak subgradient steps improve mu. A bound of 0 or more proves u.
2. *Fix*: a candidate whose reduced cost lifts the bound to 0 cannot be in a better choice; a
   candidate that breaks a limit even with the lightest candidates elsewhere cannot be feasible.
3. *Enumerate*: what is left is listed node by node, cut by reduced cost and by weight; a list that
   grows too long is given up.
4. *Branch* on a node whose candidates are nearly tied and differ much in weight.

Guarantee: no feasible network is better by more than 1e-9 of the objective's span. Feasibility of
what is returned is exact: sums close to a limit are decided by `Program.holds`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mathnas.metrics import Floats
from mathnas.search.program import Program
from mathnas.search.solver import Solution, Status
from mathnas.space import Indices, Network

_Mask = npt.NDArray[np.bool_]
_PRUNE = 1e-11
_ROOT_STEPS = 120
_NODE_STEPS = 15
_ROUNDS = 5
_LONGEST_LIST = 60_000


class VectorisedSolver:
    """Branch and bound in numpy; see the module's text."""

    name = "numpy"

    def solve(
        self, program: Program, *, count: int = 1, time_limit: float | None = None
    ) -> Solution:
        """See `Solver.solve`."""
        return _Search(program, count, time_limit).run()


class _TimeUpError(Exception):
    """The time limit has come."""


@dataclass
class _Box:
    """A part of the choices: candidates that are fixed, and the candidates of open nodes.

    `bound` is a lower bound on the ratio of every choice in it.
    """

    fixed: Indices
    open: list[Indices]
    multipliers: Floats
    bound: float
    depth: int

    def settle(self) -> None:
        """Move nodes with a single candidate to the fixed ones."""
        single = [candidates for candidates in self.open if len(candidates) == 1]
        if single:
            self.fixed = np.concatenate([self.fixed, *single])
            self.open = [candidates for candidates in self.open if len(candidates) > 1]


@dataclass
class _Grid:
    """The open nodes of a box as rectangles (nodes x most candidates), padded where `real` is
    False."""

    ids: Indices
    real: _Mask
    costs: Floats
    macs: Floats
    weights: Floats

    def keep(self, mask: _Mask) -> list[Indices]:
        return [ids[keep] for ids, keep in zip(self.ids, mask & self.real, strict=True)]


@dataclass
class _Bound:
    """The best Lagrangian bound of a box on A - u F^p, and what goes with it."""

    value: float
    reduced: Floats  # per grid cell; infinite where padded
    choice: Indices  # the choice that attains it


class _Search:
    """One solve."""

    def __init__(self, program: Program, count: int, time_limit: float | None) -> None:
        self.program = program
        self.power = program.power
        self.count = count
        self.start = time.perf_counter()
        self.deadline = math.inf if time_limit is None else self.start + time_limit
        # scale costs and MACs to about 1, so that one tolerance serves every table
        self.cost_unit = float(np.abs(program.costs).max()) or 1.0
        self.mac_unit = 1.0
        if self.power:
            starts = program.offsets[:-1]
            self.mac_unit = float(np.maximum.reduceat(program.macs, starts).sum())
            self.mac_unit = self.mac_unit + program.fixed_macs or 1.0
        self.costs = program.costs / self.cost_unit
        self.macs = program.macs / self.mac_unit
        self.fixed_macs = program.fixed_macs / self.mac_unit
        rows = program.rows
        self.weights = rows.weights
        # prune with the tolerance, accept by exact arithmetic
        self.bounds = rows.bounds + rows.tolerance
        self.surely = rows.bounds - rows.tolerance
        self.node_of = np.repeat(np.arange(program.num_nodes), np.diff(program.offsets))
        self.epsilon = _PRUNE * max(1, program.num_nodes)
        self.found: dict[Network, tuple[float, Indices]] = {}
        self.ratio = self._worst_ratio()
        self.counts = {"boxes": 0, "listed": 0}

    def run(self) -> Solution:
        program = self.program
        unit = self.cost_unit / self.mac_unit**self.power
        nodes = np.split(np.arange(len(self.costs)), program.offsets[1:-1])
        lowest = program.lowest / unit
        root = _Box(np.zeros(0, np.intp), nodes, np.zeros(len(self.bounds)), lowest, 0)
        stack = [root]
        box = root
        status = Status.OPTIMAL
        try:
            while stack:
                box = stack.pop()
                if box.bound < self.ratio:
                    stack.extend(reversed(self._explore(box)))
        except _TimeUpError:
            stack.append(box)
            status = Status.FEASIBLE if self.found else Status.UNKNOWN
        ordered = sorted(self.found.items(), key=lambda item: item[1][0])
        best = ordered[0][1][0] if ordered else math.inf
        if status is Status.OPTIMAL:
            bound = best
            if not ordered:
                status = Status.INFEASIBLE
        else:
            bound = min([best, *(left.bound for left in stack)])
        return Solution(
            status,
            [network for network, _ in ordered],
            bound * unit,
            time.perf_counter() - self.start,
            VectorisedSolver.name,
            self.counts,
        )

    # ---- what is known ----------------------------------------------------------------------

    def _worst_ratio(self) -> float:
        """A ratio clearly above that of every choice, so that none is pruned as not better."""
        starts = self.program.offsets[:-1]
        worst = float(np.maximum.reduceat(self.costs, starts).sum())
        low, high = (
            (self.fixed_macs + float(pick.reduceat(self.macs, starts).sum())) ** self.power
            for pick in (np.minimum, np.maximum)
        )
        return worst / (low if worst > 0 else high) + 1e-3 / low

    def _offer(self, choice: Indices) -> None:
        """Take a choice if it is better than the `count` best known, and feasible."""
        ordered = np.sort(choice)
        macs = self.fixed_macs + float(self.macs[ordered].sum())
        ratio = float(self.costs[ordered].sum()) / macs**self.power
        if ratio >= self.ratio:
            return
        used = self.weights[:, ordered].sum(axis=1)
        if (used > self.bounds).any():
            return
        network = self.program.network(ordered)
        if network in self.found:
            return
        if (used > self.surely).any() and not self.program.holds(network):
            return
        self.found[network] = (ratio, ordered)
        if len(self.found) > self.count:
            self.found.pop(max(self.found, key=lambda known: self.found[known][0]))
        if len(self.found) == self.count:
            self.ratio = min(self.ratio, max(known for known, _ in self.found.values()))

    def _linear(self) -> tuple[float, float]:
        """A - u F^p as (constant, factor of F), exact for p = 0 and 1."""
        return (0.0, -self.ratio) if self.power else (-self.ratio, 0.0)

    # ---- one box ----------------------------------------------------------------------------

    def _explore(self, box: _Box) -> list[_Box]:
        """Settle a box, or return the boxes that it falls into, the most promising first."""
        self.counts["boxes"] += 1
        bound: _Bound | None = None
        grid: _Grid | None = None
        for turn in range(_ROUNDS):
            if time.perf_counter() > self.deadline:
                raise _TimeUpError
            grid = self._tighten(box)
            if grid is None:
                return []
            before = self.ratio
            bound = self._bound(box, grid)
            if box.depth == 0 and turn == 0:
                self._warm_start(np.concatenate([box.fixed, bound.choice]))
                bound = self._reduced(box, grid)
            if bound.value >= -self.epsilon:
                return []
            box.bound = max(box.bound, self._as_ratio(box, grid, bound.value))
            kept = grid.real & (bound.reduced + bound.value <= self.epsilon)
            box.open = grid.keep(kept)
            if kept.sum() > 0.85 * grid.real.sum() and self.ratio == before:
                break
        assert bound is not None
        assert grid is not None
        reduced = [own[keep] for own, keep in zip(bound.reduced, kept, strict=True)]
        if self._list(box, reduced, bound.value, self._lowest_macs(box)):
            return []
        return self._branch(box, reduced, bound.value)

    def _tighten(self, box: _Box) -> _Grid | None:
        """Drop candidates that no feasible choice of the box has; None where it has none."""
        while True:
            box.settle()
            used = self.weights[:, box.fixed].sum(axis=1)
            if not box.open:
                self._offer(box.fixed)
                return None
            grid = self._grid(box)
            if not len(self.bounds):
                return grid
            weights = np.where(grid.real, grid.weights, np.inf)
            lightest = weights.min(axis=2)
            total = used + lightest.sum(axis=1)
            if (total > self.bounds).any():
                return None
            fits = weights - lightest[:, :, None] + total[:, None, None]
            mask = grid.real & (fits <= self.bounds[:, None, None]).all(axis=0)
            if mask.sum() == grid.real.sum():
                return grid
            if not mask.any(axis=1).all():
                return None
            box.open = grid.keep(mask)

    def _grid(self, box: _Box) -> _Grid:
        longest = max(map(len, box.open))
        ids = np.zeros((len(box.open), longest), dtype=np.intp)
        real = np.zeros(ids.shape, dtype=bool)
        for row, candidates in enumerate(box.open):
            ids[row, : len(candidates)] = candidates
            real[row, : len(candidates)] = True
        return _Grid(
            ids,
            real,
            np.where(real, self.costs[ids], np.inf),
            np.where(real, self.macs[ids], 0.0),
            np.where(real, self.weights[:, ids], 0.0),
        )

    def _bound(self, box: _Box, grid: _Grid) -> _Bound:
        """Improve the box's multipliers and the best ratio; the bound at the end of it."""
        rows = np.arange(len(grid.ids))
        flat = grid.weights.reshape(len(self.bounds), grid.ids.size)
        width = grid.ids.shape[1]
        base = self.weights[:, box.fixed].sum(axis=1) - self.bounds
        cost = float(self.costs[box.fixed].sum())
        macs = self.fixed_macs + float(self.macs[box.fixed].sum())
        multipliers, best_multipliers = box.multipliers, box.multipliers
        best, step, stale, ratio = -math.inf, 1.0, 0, math.nan
        direction = np.zeros(len(base))
        for _ in range(_ROOT_STEPS if box.depth == 0 else _NODE_STEPS):
            if ratio != self.ratio:  # a better choice was met: the bound is on another function
                ratio = self.ratio
                constant, factor = self._linear()
                costs = grid.costs + factor * grid.macs
                start = cost + constant + factor * macs
                best, step = -math.inf, max(step, 0.5)
            priced = costs + (multipliers @ flat).reshape(grid.ids.shape)
            picked = priced.argmin(axis=1)
            excess = base + flat[:, rows * width + picked].sum(axis=1)
            value = start + float(priced[rows, picked].sum()) + float(multipliers @ base)
            if (excess <= 0).all():
                self._offer(np.concatenate([box.fixed, grid.ids[rows, picked]]))
            if value > best:
                stale = stale if value <= best + 1e-3 * abs(best) else 0
                best, best_multipliers = value, multipliers
            else:
                stale += 1
                if stale >= 4:
                    step, stale, multipliers = 0.6 * step, 0, best_multipliers
                    direction = np.zeros(len(base))
            if ratio != self.ratio:
                continue
            if best >= -self.epsilon:
                break
            gradient = np.where((multipliers <= 0) & (excess < 0), 0.0, excess)
            direction = gradient + 0.4 * direction
            length = float(direction @ direction)
            if length < 1e-18 or step < 1e-2:
                break
            multipliers = np.maximum(
                0.0, multipliers + step * max(1e-9, -value) / length * direction
            )
        box.multipliers = best_multipliers
        return self._reduced(box, grid)

    def _reduced(self, box: _Box, grid: _Grid) -> _Bound:
        """Bound and reduced costs for the box's multipliers and the best ratio of now."""
        constant, factor = self._linear()
        flat = grid.weights.reshape(len(self.bounds), grid.ids.size)
        priced = grid.costs + factor * grid.macs
        priced = priced + (box.multipliers @ flat).reshape(grid.ids.shape)
        lowest = priced.min(axis=1)
        excess = self.weights[:, box.fixed].sum(axis=1) - self.bounds
        value = constant + float(self.costs[box.fixed].sum())
        value += factor * (self.fixed_macs + float(self.macs[box.fixed].sum()))
        value += float(lowest.sum()) + float(box.multipliers @ excess)
        choice = grid.ids[np.arange(len(grid.ids)), priced.argmin(axis=1)]
        return _Bound(value, priced - lowest[:, None], choice)

    def _lowest_macs(self, box: _Box) -> float:
        """The smallest F^p in a box."""
        if not self.power:
            return 1.0
        fixed = self.fixed_macs + float(self.macs[box.fixed].sum())
        return fixed + math.fsum(float(self.macs[candidates].min()) for candidates in box.open)

    def _as_ratio(self, box: _Box, grid: _Grid, value: float) -> float:
        """A bound on A - u F^p, as a bound on A / F^p."""
        lowest = self._lowest_macs(box)
        return self.ratio + value / lowest if lowest > 0 else -math.inf

    # ---- listing and branching --------------------------------------------------------------

    def _list(self, box: _Box, reduced: list[Floats], value: float, lowest_macs: float) -> bool:
        """List the choices of a box that may be better; False where there are too many.

        A choice is better only if its reduced costs sum to less than -`value`. A first pass with a
        small part of that slack often finds a better choice, which cuts the next pass.
        """
        spans = [float(np.ptp(self.weights[:, ids], axis=1).max(initial=0.0)) for ids in box.open]
        order = sorted(range(len(box.open)), key=lambda node: -spans[node])
        nodes = [box.open[node] for node in order]
        costs = [reduced[node] for node in order]
        used = self.weights[:, box.fixed].sum(axis=1)
        lightest = np.array([self.weights[:, ids].min(axis=1) for ids in nodes])
        ahead = np.cumsum(lightest[::-1], axis=0)[::-1]
        ahead = np.concatenate([ahead[1:], np.zeros((1, len(used)))])
        before = self.ratio
        for share in (0.1, 0.4, 1.0):
            # the slack shrinks with the ratio: better than u now means more below the old u
            slack = min(share * -value, -value - (before - self.ratio) * lowest_macs)
            choices = self._layers(nodes, costs, used, ahead, slack)
            if choices is None:
                return False
            self._offer_best(box.fixed, choices)
            if slack >= -value - (before - self.ratio) * lowest_macs - 1e-15:
                return True
        return True

    def _layers(
        self,
        nodes: list[Indices],
        reduced: list[Floats],
        used: Floats,
        ahead: Floats,
        slack: float,
    ) -> Indices | None:
        """All choices of `nodes` within the slack and the limits, shape (k, len(nodes))."""
        sums, weights = np.zeros(1), used[:, None]
        steps: list[tuple[Indices, Indices]] = []
        for node, (ids, costs) in enumerate(zip(nodes, reduced, strict=True)):
            if len(sums) * len(ids) > 4 * _LONGEST_LIST:
                return None
            total = sums[:, None] + costs
            fits = total <= slack + self.epsilon
            for k, bound in enumerate(self.bounds):
                fits &= weights[k][:, None] + (self.weights[k, ids] + ahead[node, k]) <= bound
            parent, child = np.nonzero(fits)
            self.counts["listed"] += len(parent)
            if len(parent) > _LONGEST_LIST:
                return None
            sums = total[parent, child]
            weights = weights[:, parent] + self.weights[:, ids[child]]
            steps.append((parent, ids[child]))
        choices = np.empty((len(sums), len(nodes)), dtype=np.intp)
        at = np.arange(len(sums))
        for node in range(len(nodes) - 1, -1, -1):
            parent, own = steps[node]
            choices[:, node] = own[at]
            at = parent[at]
        return choices

    def _offer_best(self, fixed: Indices, choices: Indices) -> None:
        cost = self.costs[fixed].sum() + self.costs[choices].sum(axis=1)
        macs = self.fixed_macs + self.macs[fixed].sum() + self.macs[choices].sum(axis=1)
        ratios = cost / macs**self.power
        for index in np.argsort(ratios, kind="stable"):
            if ratios[index] >= self.ratio:
                break
            self._offer(np.concatenate([fixed, choices[index]]))

    def _branch(self, box: _Box, reduced: list[Floats], value: float) -> list[_Box]:
        """One box for each candidate of the node that decides most."""

        def score(node: int) -> float:
            second = float(np.partition(reduced[node], 1)[1]) if len(reduced[node]) > 1 else 1e9
            span = float(np.ptp(self.weights[:, box.open[node]], axis=1).max(initial=0.0))
            span = span if len(self.bounds) else 1.0
            return span / (second / -value + 0.05) if len(reduced[node]) > 1 else -1.0

        node = max(range(len(box.open)), key=score)
        rest = box.open[:node] + box.open[node + 1 :]
        return [
            _Box(
                np.append(box.fixed, box.open[node][index]),
                list(rest),
                box.multipliers,
                box.bound,
                box.depth + 1,
            )
            for index in np.argsort(reduced[node], kind="stable")
        ]

    # ---- a first choice ---------------------------------------------------------------------

    def _warm_start(self, relaxed: Indices) -> None:
        """Local search from the relaxed choice and, where nothing is known, from the extremes."""
        starts = [np.sort(relaxed)]
        if not self.found:
            for values in (self.weights.sum(axis=0), self.costs):
                nodes = np.split(values, self.program.offsets[1:-1])
                picked = np.array([int(own.argmin()) for own in nodes])
                starts.append(picked + self.program.offsets[:-1])
        for choice in starts:
            self._local_search(choice)

    def _local_search(self, choice: Indices) -> None:
        """Switch one node at a time: first towards the limits, then downhill inside them."""
        steps = min(
            3 * len(choice) + 10, int(30 + 2e6 / (len(self.costs) * (1 + len(self.bounds))))
        )
        for _ in range(steps):
            old = choice[self.node_of]
            cost = self.costs[choice].sum() + self.costs - self.costs[old]
            macs = self.fixed_macs + self.macs[choice].sum() + self.macs - self.macs[old]
            excess = self.weights[:, choice].sum(axis=1) - self.bounds
            after = excess[:, None] + self.weights - self.weights[:, old]
            violation = np.maximum(0.0, after).sum(axis=0)
            now = float(np.maximum(0.0, excess).sum())
            if now > 0:
                rise = np.maximum(1e-9, self.costs - self.costs[old])
                gain = np.where(violation < now - 1e-12, (now - violation) / rise, -1.0)
                best = int(gain.argmax())
                if gain[best] < 0:
                    return
            else:
                ratios = np.where(violation == 0, cost / macs**self.power, np.inf)
                best = int(ratios.argmin())
                here = (
                    self.costs[choice].sum()
                    / (self.fixed_macs + self.macs[choice].sum()) ** self.power
                )
                if not ratios[best] < here - 1e-12:
                    break
            choice = choice.copy()
            choice[self.node_of[best]] = best
        self._offer(choice)
