"""Which few candidates of each group serve a range of budgets best: local search and proof.

A *selection* keeps at most n_g candidates of each group g. At a budget B its value is that of the
best network of kept candidates whose cost is at most B; what is maximised is the weighted mean of
these values. Values and costs of networks are sums over groups, and the metric's unit is an
increasing function of the sum, so:

- A candidate that another one of its group beats or equals in value and cost is never needed.
- With the other groups fixed, all that they can do is a Pareto front of (cost, value). What a
  candidate j of group g is worth at each budget, together with that front, is a matrix M[j, b]; the
  best choice for the group alone is to cover the budgets: ``max sum_b w_b max_{j in S} M[j, b]``.

*Local search* solves these coverings by exchanges, group after group, until none helps, and begins
again from disturbed selections. *Proof* is by branch and bound on keeping and dropping candidates.
A box leaves some candidates of each group. Its bound is the least of coverings of one group in
which the other groups keep all that is left, each bounded by the dual of its linear relaxation (as
for p-median problems): ``sum_b u_b`` and the n largest ``sum_b max(0, w_b M[j, b] - u_b)``, any u.

Where memory is limited too, candidates take what they have for themselves and *pieces* that any of
them share. A candidate is then never needed only where another one needs no more of either. In the
search, exchanges and additions must fit. In the proof, a piece counts with its size over the number
of kept candidates that may share it, which is never more than a selection takes; a price on memory
turns the limit into a part of the dual.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mathnas._progress import Progress, Silent
from mathnas.metrics import Floats
from mathnas.space import Indices

_MOST_POINTS = 4_000  # of a front; longer ones are thinned
_DUAL_STEPS = 25
_PRICES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)  # quantiles of what candidates are worth for their size
_GAIN = 1e-12  # of the range: a smaller improvement is rounding

Kept = tuple[tuple[int, ...], ...]
Front = tuple[Floats, Floats]
"""Costs, ascending, and values, strictly ascending."""


def undominated(values: Floats, costs: Floats) -> Indices:
    """Candidates that no other one beats or equals, by ascending cost; of equal ones the first."""
    order = np.lexsort((np.arange(len(values)), -values, costs))
    best = np.concatenate([[-np.inf], np.maximum.accumulate(values[order])[:-1]])
    found: Indices = order[values[order] > best]
    return found


@dataclass(frozen=True)
class Memory:
    """How much candidates may take together.

    Attributes:
        limit: of their sum.
        own: for each group what each candidate takes for itself.
        uses: for each group which pieces its candidates use, shape (candidates, pieces).
        sizes: of the pieces, each of which is there once.
    """

    limit: float
    own: Sequence[Floats]
    uses: Sequence[npt.NDArray[np.bool_]]
    sizes: Floats

    def size(self, kept: Kept) -> float:
        """What a selection takes."""
        own = [self.own[group][list(places)] for group, places in enumerate(kept)]
        return math.fsum([*np.concatenate(own).tolist(), *self.sizes[self.present(kept)].tolist()])

    def present(self, kept: Kept) -> npt.NDArray[np.bool_]:
        """Which pieces a selection uses."""
        found = np.zeros(len(self.sizes), dtype=bool)
        for uses, places in zip(self.uses, kept, strict=True):
            found |= uses[list(places)].any(axis=0)
        return found

    def fits(self, kept: Kept) -> bool:
        return self.size(kept) <= self.limit

    def fitting(self, kept: Kept, group: int) -> npt.NDArray[np.bool_]:
        """Which candidates of a group fit beside a selection."""
        missing = self.sizes * ~self.present(kept)
        sums = self.size(kept) + self.own[group] + self.uses[group] @ missing
        # rounding must not refuse what fits; `fits` decides
        found: npt.NDArray[np.bool_] = sums <= self.limit * (1 + 1e-12)
        return found

    def least(self, left: Kept, counts: Sequence[int]) -> list[Floats]:
        """For each group what each candidate takes at least, so that a selection of `left` takes no
        less than their sum."""
        users = [
            uses[list(places)].any(axis=0) * min(len(places), count)
            for uses, places, count in zip(self.uses, left, counts, strict=True)
        ]
        shares = self.sizes / np.maximum(1, np.sum(users, axis=0))
        return [own + uses @ shares for own, uses in zip(self.own, self.uses, strict=True)]


@dataclass(frozen=True)
class Problem:
    """A selection to make, of candidates that do not dominate one another.

    Attributes:
        values: for each group its candidates' values; more is better.
        costs: for each group their costs, ascending from 0.
        counts: how many candidates each group keeps at most.
        budgets: shape (B,); networks of the cheapest candidates meet them all.
        weights: shape (B,), positive, with sum 1.
        unit: increasing: sums of values to what is averaged.
        memory: a limit on what kept candidates take; the cheapest ones meet it.
    """

    values: Sequence[Floats]
    costs: Sequence[Floats]
    counts: Sequence[int]
    budgets: Floats
    weights: Floats
    unit: Callable[[Floats], Floats]
    memory: Memory | None = None

    @property
    def groups(self) -> range:
        return range(len(self.values))

    @cached_property
    def span(self) -> float:
        """The width of the interval in which values of selections lie."""
        ends = [math.fsum(float(pick(own)) for own in self.values) for pick in (np.min, np.max)]
        low, high = self.unit(np.array(ends)).tolist()
        return float(high - low)

    @property
    def everything(self) -> Kept:
        return tuple(tuple(range(len(own))) for own in self.values)

    def fronts_without(self, kept: Kept, *, above: bool) -> list[Front]:
        """For each group what the kept candidates of the others can do.

        Args:
            above: where fronts get too long, whether they are thinned to a front that is nowhere
                below the true one, or nowhere above it.
        """
        before: list[Front] = [(np.zeros(1), np.zeros(1))]
        for group in self.groups[:-1]:
            before.append(self._joined(before[-1], group, kept[group], above))
        found = []
        after: Front = (np.zeros(1), np.zeros(1))
        for group in reversed(self.groups):
            found.append(self._product(before[group], after, above))
            after = self._joined(after, group, kept[group], above)
        return found[::-1]

    def front_without(self, kept: Kept, group: int) -> Front:
        """As `fronts_without`, nowhere above the true one, for one group."""
        front: Front = (np.zeros(1), np.zeros(1))
        for other in self.groups:
            if other != group:
                front = self._joined(front, other, kept[other], False)
        return front

    def worth(self, front: Front, group: int) -> Floats:
        """M[j, b]: what each candidate of a group is worth at each budget, with a front of the
        others; -inf where it does not fit."""
        costs, values = front
        if not len(costs):
            return np.full((len(self.costs[group]), len(self.budgets)), -np.inf)
        last = np.searchsorted(costs, self.budgets - self.costs[group][:, None], side="right") - 1
        sums = values[np.maximum(last, 0)] + self.values[group][:, None]
        return np.where(last >= 0, self.unit(sums), -np.inf)

    def value(self, kept: Kept) -> float:
        """The mean over budgets; -inf where no network meets one of them."""
        own = self.worth(self.front_without(kept, 0), 0)[list(kept[0])]
        return float(self.weights @ own.max(axis=0))

    def _joined(self, front: Front, group: int, kept: Sequence[int], above: bool) -> Front:
        own = np.array(kept, dtype=np.intp)
        if self.memory is not None:  # some are there for their size alone
            own = own[undominated(self.values[group][own], self.costs[group][own])]
        return self._product(front, (self.costs[group][own], self.values[group][own]), above)

    def _product(self, one: Front, other: Front, above: bool) -> Front:
        costs = (one[0][:, None] + other[0]).ravel()
        fits = costs <= self.budgets.max()
        costs, values = costs[fits], (one[1][:, None] + other[1]).ravel()[fits]
        order = np.argsort(costs)
        costs, values = costs[order], values[order]
        # of equal costs the last that is kept is the best: that is the one that is looked up
        kept = np.ones(len(costs), dtype=bool)
        kept[1:] = values[1:] > np.maximum.accumulate(values)[:-1]
        return _thinned((costs[kept], values[kept]), above)


def _thinned(front: Front, above: bool) -> Front:
    """A front of at most so many points: above the true one, or some of its points."""
    costs, values = front
    if len(costs) <= _MOST_POINTS:
        return front
    cuts = np.linspace(0, len(costs), _MOST_POINTS + 1).astype(int)
    # each run of points becomes one with its least cost and, to be above, its largest value
    return costs[cuts[:-1]], values[cuts[1:] - 1 if above else cuts[:-1]]


# ---- local search --------------------------------------------------------------------------------


def improved(
    problem: Problem,
    *,
    rounds: int,
    seed: int,
    until: float = math.inf,
    progress: Progress | None = None,
) -> tuple[Kept, float]:
    """A good selection and its value.

    Args:
        rounds: how often the search begins again from a disturbed selection.
        until: the end, by `time.monotonic`.
        progress: is told of every round, and of those that are not needed at the end.
    """
    bar = progress or Silent()
    rng = np.random.default_rng(seed)
    kept, value = _descended(problem, _start(problem))
    most = problem.value(problem.everything)
    for done in range(rounds):
        if value >= most - _GAIN * problem.span or time.monotonic() > until:
            bar.advance(rounds - done)
            break
        other, found = _descended(problem, _disturbed(problem, kept, rng))
        if found > value:
            kept, value = other, found
        bar.advance(1)
    return _needed(problem, kept, value), value


def _start(problem: Problem) -> Kept:
    """Each group by itself, with everything in the others; the cheapest are always there, so that
    every budget is met. Where memory is limited, these alone."""
    if problem.memory is not None:
        return tuple((0,) for _ in problem.groups)
    fronts = problem.fronts_without(problem.everything, above=False)
    found = []
    for group, front in enumerate(fronts):
        worth = problem.worth(front, group)
        size = min(problem.counts[group], len(worth))
        evenly = np.unique(np.linspace(0, len(worth) - 1, size).round().astype(int))
        start = _with(problem.everything, group, evenly.tolist())
        own = _exchanged(problem, worth, start, group)[0]
        found.append(own if 0 in own else (0, *own[1:]))
    return tuple(found)


def _descended(problem: Problem, kept: Kept) -> tuple[Kept, float]:
    """Exchanges in one group after the other until none helps."""
    value, unchanged, group = -math.inf, 0, 0
    while unchanged < len(problem.groups):
        worth = problem.worth(problem.front_without(kept, group), group)
        own, value = _exchanged(problem, worth, kept, group)
        unchanged = 1 if own != kept[group] else unchanged + 1
        kept = _with(kept, group, own)
        group = (group + 1) % len(problem.groups)
    return kept, value


def _exchanged(
    problem: Problem, worth: Floats, kept: Kept, group: int
) -> tuple[tuple[int, ...], float]:
    """A covering by candidates of a group that no exchange of one improves, and its value.

    It begins with those that are kept. Where memory is limited, what is exchanged, or added where
    there are fewer than allowed, fits beside the other groups'.
    """
    chosen = list(kept[group])
    value = float(problem.weights @ worth[chosen].max(axis=0))
    while True:
        best, move = value + _GAIN * problem.span, None
        # with a limit on memory one more may be free
        places = len(chosen) + (problem.memory is not None and len(chosen) < problem.counts[group])
        for place in range(places):
            others = chosen[:place] + chosen[place + 1 :]
            rest = worth[others]
            alone = rest.max(axis=0) if len(rest) else np.full(worth.shape[1], -np.inf)
            values = np.maximum(worth, alone) @ problem.weights
            if problem.memory is not None:
                fits = problem.memory.fitting(_with(kept, group, others), group)
                values = np.where(fits, values, -np.inf)
            candidate = int(values.argmax())
            if values[candidate] > best:
                best, move = float(values[candidate]), (place, candidate)
        if move is None:
            return tuple(chosen), value
        chosen[move[0] : move[0] + 1] = [move[1]]
        value = float(problem.weights @ worth[chosen].max(axis=0))


def _with(kept: Kept, group: int, own: Sequence[int]) -> Kept:
    """The selection with these candidates of a group."""
    return (*kept[:group], tuple(own), *kept[group + 1 :])


def _disturbed(problem: Problem, kept: Kept, rng: np.random.Generator) -> Kept:
    """Some candidates of two groups exchanged at random (dropped where memory is limited), never
    the cheapest."""
    found = list(kept)
    if problem.memory is not None:
        for group in rng.permutation(len(kept))[: int(rng.integers(1, len(kept) + 1))].tolist():
            dear = [other for other in kept[group] if other != 0]
            gone = rng.permutation(dear)[: int(rng.integers(1, 3))].tolist()
            found[group] = tuple(other for other in kept[group] if other not in gone)
        return tuple(found)
    for group in rng.permutation(len(kept))[:2].tolist():
        own = [0, *(other for other in kept[group] if other != 0)][: problem.counts[group]]
        free = [other for other in range(len(problem.values[group])) if other not in own]
        places = rng.permutation(np.arange(1, len(own)))[: int(rng.integers(1, 3))].tolist()
        for place, other in zip(places, rng.permutation(free).tolist(), strict=False):
            own[place] = int(other)
        found[group] = tuple(own)
    return tuple(found)


def _needed(problem: Problem, kept: Kept, value: float) -> Kept:
    """The selection without candidates that no budget needs, the dearest dropped first; sorted."""
    for group in problem.groups:
        own = tuple(sorted(set(kept[group])))
        for other in reversed(own):
            fewer = _with(kept, group, [candidate for candidate in own if candidate != other])
            if fewer[group] and problem.value(fewer) >= value - _GAIN * problem.span:
                own = fewer[group]
        kept = _with(kept, group, own)
    return kept


# ---- proof ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """Selections of candidates that are `left`, with all that are `fixed`."""

    left: Kept
    fixed: Kept


def proven(
    problem: Problem,
    kept: Kept,
    value: float,
    *,
    boxes: int,
    until: float = math.inf,
    progress: Progress | None = None,
) -> tuple[Kept, float, float]:
    """A selection that is no worse than the given one, its value, and a bound on that of any.

    Args:
        boxes: how many boxes are bounded at most.
        until: the end, by `time.monotonic`.
        progress: is told of every box, and of those that are not needed at the end.
    """
    bar = progress or Silent()
    near = 1e-9 * problem.span
    ticket = itertools.count()
    heap: list[tuple[float, int, _Box, tuple[int, int]]] = []

    def look_at(box: _Box) -> None:
        nonlocal kept, value
        if not all(box.left):
            return  # a group keeps something
        if _decided(problem, box):
            found = problem.value(box.left)
            if found > value:
                kept, value = box.left, found
            return
        bound, split = _bound(problem, box)
        if bound > value + near:
            heapq.heappush(heap, (-bound, next(ticket), box, split))

    look_at(_Box(problem.everything, ((),) * len(problem.groups)))
    while heap and -heap[0][0] > value + near and boxes > 0 and time.monotonic() <= until:
        _, _, box, split = heapq.heappop(heap)
        for half in _halves(problem, box, *split):
            look_at(half)
            boxes -= 1
            bar.advance(1)
    bar.advance(max(0, boxes))
    bound = max([value, *(-entry[0] for entry in heap[:1])])
    return kept, value, value if bound <= value + near else bound


def _decided(problem: Problem, box: _Box) -> bool:
    """Whether the box is one selection: nothing has to be dropped."""
    few = all(len(left) <= count for left, count in zip(box.left, problem.counts, strict=True))
    return few and (problem.memory is None or problem.memory.fits(box.left))


def _halves(problem: Problem, box: _Box, group: int, candidate: int) -> list[_Box]:
    """The box with a candidate kept, and with it dropped."""
    fixed = tuple(sorted((*box.fixed[group], candidate)))
    full = len(fixed) == problem.counts[group]
    rest = tuple(other for other in box.left[group] if other != candidate)
    return [
        _Box(_with(box.left, group, fixed) if full else box.left, _with(box.fixed, group, fixed)),
        _Box(_with(box.left, group, rest), box.fixed),
    ]


def _bound(problem: Problem, box: _Box) -> tuple[float, tuple[int, int]]:
    """No selection of the box is worth more; and the group and candidate to split it at."""
    bounds: list[tuple[float, tuple[int, int]]] = []
    prices = _prices(problem, box)
    if prices is None:
        return -math.inf, (0, 0)  # too large in any case
    for group, front in enumerate(problem.fronts_without(box.left, above=True)):
        left = list(box.left[group])
        fixed = [left.index(candidate) for candidate in box.fixed[group]]
        few = len(left) <= problem.counts[group]
        if few and (problem.memory is None or len(fixed) == len(left)):
            continue
        worth = problem.worth(front, group)[left]
        more = min(problem.counts[group], len(left)) - len(fixed)
        bound = _covering_bound(problem, worth, fixed, more, prices[group])
        # split at the candidate that serves the most
        serves = np.bincount(worth.argmax(axis=0), problem.weights, len(left))
        serves[fixed] = -1.0
        bounds.append((bound, (group, left[int(serves.argmax())])))
    return min(bounds, default=(-math.inf, (0, 0)))


def _prices(problem: Problem, box: _Box) -> Sequence[_Price | None] | None:
    """What each group's candidates take at least, and what the group may take; None where no
    selection of the box fits."""
    memory = problem.memory
    if memory is None:
        return [None] * len(problem.groups)
    if not memory.fits(box.fixed):
        return None
    sizes = [
        size[list(left)]
        for size, left in zip(memory.least(box.left, problem.counts), box.left, strict=True)
    ]
    needed = []
    for size, left, fixed in zip(sizes, box.left, box.fixed, strict=True):
        own = size[[left.index(candidate) for candidate in fixed]]
        needed.append(float(own.sum()) if len(fixed) else float(size.min()))
    total = math.fsum(needed)
    if total > memory.limit * (1 + 1e-9):
        return None
    return [
        _Price(size, memory.limit * (1 + 1e-9) - (total - own))
        for size, own in zip(sizes, needed, strict=True)
    ]


@dataclass(frozen=True)
class _Price:
    """What the candidates that are left of a group take at least, and together at most."""

    sizes: Floats
    room: float


def _covering_bound(
    problem: Problem, worth: Floats, fixed: list[int], more: int, price: _Price | None
) -> float:
    """No covering by the fixed candidates and so many more, which fit, is worth more."""
    fits = np.isfinite(worth)
    if not fits.any(axis=0).all():
        return -math.inf  # a budget that nothing meets
    low = float(worth[fits].min())
    # what does not fit is worth no less than this
    gains = problem.weights * np.where(fits, worth - low, 0.0)
    free = np.setdiff1d(np.arange(len(gains)), fixed)
    least = gains[fixed].max(axis=0) if fixed else np.zeros(gains.shape[1])

    def dual(level: Floats) -> tuple[float, Indices]:
        sums = np.maximum(0.0, gains - level).sum(axis=1)
        if price is not None:
            return _priced(level, sums, fixed, free, more, price)
        top = free[np.argsort(-sums[free], kind="stable")[:more]]
        chosen = np.concatenate([np.array(fixed, dtype=np.intp), top])
        return float(level.sum() + sums[chosen].sum()), chosen

    level = gains.max(axis=0)
    best, chosen = dual(level)
    size = 0.5
    for _ in range(_DUAL_STEPS):
        slope = 1.0 - (gains[chosen] > level).sum(axis=0)
        length = float(slope @ slope)
        reached = float(gains[chosen].max(axis=0).sum())
        if not length or best - reached <= _GAIN:
            break
        moved = np.maximum(least, level - size * (best - reached) / length * slope)
        total, others = dual(moved)
        if total < best:
            best, level, chosen = total, moved, others
        else:
            size *= 0.6
    return low + best


def _priced(
    level: Floats, sums: Floats, fixed: list[int], free: Indices, more: int, price: _Price
) -> tuple[float, Indices]:
    """The dual where what is chosen must fit: no less than the best choice of at most so many,
    each worth its sum, within the room, at the best of some prices of memory."""
    base = float(level.sum() + sums[fixed].sum())
    room = price.room - float(price.sizes[fixed].sum())
    own, sizes = sums[free], price.sizes[free]
    # where a price changes the order, one candidate comes up against another or against nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(sizes > 0, own / sizes, 0.0)
    best, chosen = math.inf, np.zeros(0, dtype=np.intp)
    for rate in (0.0, *np.quantile(ratios, _PRICES).tolist()) if len(free) else (0.0,):
        worth = own - rate * sizes
        top = np.argsort(-worth, kind="stable")[:more]
        total = base + rate * max(room, 0.0) + float(np.maximum(0.0, worth[top]).sum())
        if total < best:
            best, chosen = total, free[top]
    return best, np.concatenate([np.array(fixed, dtype=np.intp), chosen])
