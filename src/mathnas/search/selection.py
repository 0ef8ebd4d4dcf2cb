"""Choosing a few candidates for each group of nodes: which ones serve a range of limits best.

The paper's nodes have five blocks each, of the thousands that a stage can be; how they were chosen
was not published. Here the choice is an optimisation of its own: at most n candidates a group, such
that the mean over budgets (limits on one cost) of what the best network of kept candidates is
predicted is highest. `mathnas.search._coverage` tells the method. What is kept may have to fit into
a memory, in which candidates share pieces (`Storage`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mathnas._progress import Show, progress_bar
from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace, Groups
from mathnas.metrics import Direction, Floats, Metric
from mathnas.search._coverage import Kept, Memory, Problem, improved, proven, undominated
from mathnas.search._search import objective_of, solver_for
from mathnas.search.limits import Limit, Sense, read_limits
from mathnas.search.program import Program
from mathnas.search.solver import Solver, check_time_limit
from mathnas.space import Indices, Network
from mathnas.table import BlockEffects, BlockTable

_ROUNDS, _BOXES = 400, 100  # of the search and of the proof, for an effort of 1
_TIGHT_ROUNDS = 40  # of the search under a limit on memory, which has far more candidates


@dataclass(frozen=True)
class Storage:
    """What keeping candidates takes, such as bytes of resident weights.

    A selection takes `fixed`, what each kept candidate's blocks take for themselves, and every
    piece that one of these blocks consists of, once however many use it.

    Attributes:
        fixed: whatever is kept.
        own: flat, one a block of the fine space: for each candidate that has the block.
        pieces: flat alike: the pieces of a block by name, with their sizes.

    Raises:
        InvalidInputError: a size is negative or not finite, a piece has two sizes, or own and
            pieces are not about the same number of blocks.
    """

    fixed: float
    own: Floats
    pieces: Sequence[Mapping[str, float]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", np.asarray(self.own, dtype=np.float64))
        if self.own.shape != (len(self.pieces),):
            raise InvalidInputError(
                f"own sizes and pieces are given for each block, but got an array of the shape "
                f"{self.own.shape} and {len(self.pieces)} entries."
            )
        every = [self.fixed, *self.own.tolist(), *self.sizes.values()]
        if not all(0 <= size < math.inf for size in every):
            raise InvalidInputError("sizes are finite and at least 0, but some are not.")

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Of all pieces, by name."""
        found: dict[str, float] = {}
        for pieces in self.pieces:
            for name, size in pieces.items():
                if found.setdefault(name, size) != size:
                    raise InvalidInputError(
                        f"a piece has one size, but {name!r} has {found[name]:g} and {size:g}."
                    )
        return found

    def size(self, space: GroupedSpace) -> float:
        """What the candidates of a space in groups take together."""
        memory = self.of(space, math.inf)
        return self.fixed + memory.size(tuple(tuple(range(size)) for size in space.sizes))

    def of(self, space: GroupedSpace, limit: float) -> Memory:
        """As candidates of groups are compared by it; `limit` is on all together.

        Raises:
            InvalidInputError: sizes are not of the fine space's blocks.
        """
        fine = space.fine
        if len(self.pieces) != fine.num_blocks:
            raise InvalidInputError(
                f"sizes are given for the {fine.num_blocks} blocks of {fine.name}, but got "
                f"{len(self.pieces)}."
            )
        place = {name: number for number, name in enumerate(self.sizes)}
        uses = np.zeros((fine.num_blocks, len(place)), dtype=bool)
        for block, pieces in enumerate(self.pieces):
            uses[block, [place[name] for name in pieces]] = True
        rows = [
            fine.offsets[list(nodes)] + own
            for nodes, own in zip(space.partition, space.candidates, strict=True)
        ]
        return Memory(
            limit - self.fixed,
            [self.own[own].sum(axis=1) for own in rows],
            [uses[own].any(axis=1) for own in rows],
            np.array(list(self.sizes.values()), dtype=np.float64),
        )


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """What a selection is worth at one budget.

    Attributes:
        limit: the budget.
        weight: its share of the mean.
        network: the best network of kept candidates, in the selection's space.
        value: its predicted value.
        used: its predicted cost.
        best: the predicted value of the best network of all candidates.
        best_network: that network, in the fine space.
    """

    limit: Limit
    weight: float
    network: Network
    value: float
    used: float
    best: float
    best_network: Network

    @property
    def loss(self) -> float:
        """How far the kept candidates stay behind all candidates, at least 0."""
        return abs(self.best - self.value)


@dataclass(frozen=True)
class Selection:
    """The kept candidates, and what is proven about them.

    Attributes:
        space: the groups with their kept candidates, by ascending cost.
        objective: what is predicted for networks.
        maximize: whether more of it is wanted.
        points: the budgets, in the order in which they were given.
        value: the weighted mean of the points' values.
        bound: no selection has a better mean than this.
        candidates: for each group how many candidates there were.
        undominated: for each group how many of them no other one beats or equals in both value and
            cost; only these can be needed, unless memory is limited.
        seconds: wall time.
        size: what the kept candidates take, where their storage was given; None otherwise.
    """

    space: GroupedSpace
    objective: Metric
    maximize: bool
    points: tuple[BudgetPoint, ...]
    value: float
    bound: float
    candidates: tuple[int, ...]
    undominated: tuple[int, ...]
    seconds: float
    size: float | None = None

    @property
    def gap(self) -> float:
        """How far the bound is from the value, in the objective's unit."""
        return abs(self.bound - self.value)

    @property
    def proven(self) -> bool:
        """Whether no selection is better (by more than 1e-9 of the objective's range)."""
        return self.bound == self.value

    @property
    def best(self) -> float:
        """The weighted mean of the best values that all candidates give."""
        return math.fsum(point.weight * point.best for point in self.points)

    @property
    def loss(self) -> float:
        """How far the mean stays behind that of all candidates."""
        return abs(self.best - self.value)

    def to_dict(self) -> dict[str, object]:
        """For JSON; without the space."""
        return {
            "objective": self.objective.name,
            "direction": "maximize" if self.maximize else "minimize",
            "value": self.value,
            "bound": self.bound,
            "gap": self.gap,
            "proven": self.proven,
            "best": self.best,
            "loss": self.loss,
            **({} if self.size is None else {"size": self.size}),
            "groups": [
                {
                    "name": node.name,
                    "candidates": count,
                    "undominated": front,
                    "kept": [block.name for block in node.blocks],
                }
                for node, count, front in zip(
                    self.space.nodes, self.candidates, self.undominated, strict=True
                )
            ],
            "budgets": [
                {
                    **point.limit.to_dict(),
                    "weight": point.weight,
                    "network": list(point.network),
                    "value": point.value,
                    "used": point.used,
                    "best": point.best,
                    "loss": point.loss,
                }
                for point in self.points
            ],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        unit = self.objective
        better = "higher" if self.maximize else "lower"
        lines = [
            f"{self.space.num_blocks} of {sum(self.candidates):,} candidates kept: mean predicted "
            f"{unit.name} over {len(self.points)} budgets {unit.format(self.value)}, "
            f"{unit.format(self.loss)} behind all candidates"
        ]
        lines += [
            f"  {node.name}: {', '.join(block.name for block in node.blocks)}"
            for node in self.space.nodes
        ]
        rows = [
            (
                str(point.limit),
                unit.format(point.value),
                unit.format(point.best),
                unit.format(point.loss),
            )
            for point in self.points
        ]
        rows.insert(0, ("budget", "kept", "all", "loss"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        most = (
            f"optimal: no other selection of so many has a {better} mean"
            if self.proven
            else f"not proven optimal: another selection may be up to {unit.format(self.gap)} "
            f"{better}"
        )
        return "\n".join([*lines, f"  {most} ({self.seconds:.1f} s)"])


def choose_candidates(
    table: BlockTable,
    groups: Groups | GroupedSpace,
    count: int | Mapping[str, int],
    *,
    limit: str,
    maximize: str | None = None,
    minimize: str | None = None,
    budgets: int | Sequence[float | int | str] = 32,
    weights: Sequence[float] | None = None,
    storage: Storage | None = None,
    memory: float | None = None,
    effort: float = 1.0,
    time_limit: float | None = None,
    seed: int = 0,
    progress: Show = False,
) -> Selection:
    """At most `count` candidates of each group, chosen so that the networks that they make are best
    over a range of budgets.

    Every configuration of a group is a candidate, and all are compared by the table's predictions.
    What is best is the weighted mean, over the budgets, of the predicted value of the best network
    of kept candidates; candidates that no budget needs are left out. The search is exact where
    `Selection.proven` says so, and otherwise states how far any selection may be better. Spaces of
    the size of five stages with thousands of configurations are not proven in reasonable time.

    One cost is limited. For several (two devices), choose for each and join the candidates.

    Args:
        table: of the fine space; both metrics linear sums over blocks, without pairs across groups.
        groups: the partition (see `GroupedSpace`), with all configurations as candidates, or a
            grouped space whose candidates are chosen from.
        count: how many candidates a group keeps at most, for all groups or by name.
        limit: the metric that budgets limit, on its bad side.
        maximize, minimize: what networks are compared by, as in `search`.
        budgets: values of the limit (as in `read_limits`), or how many, spread evenly from the cost
            of the cheapest network to that of the cheapest one with the best value.
        weights: of the budgets, positive; by default equal.
        storage: what keeping candidates takes.
        memory: the most that all may take, in the storage's unit. The networks of least cost must
            fit.
        effort: how long to search and to prove: 1 is up to 400 restarts and 100 boxes.
        time_limit: seconds for both; results then depend on the machine.
        seed: of the restarts.
        progress: whether to show it (see `mathnas._progress`).

    Raises:
        InvalidInputError: an argument is out of range, a metric is unknown or no sum over groups,
            no network meets a budget, or the cheapest network takes more than the memory.

    Example:
        >>> import mathnas as mn
        >>> blocks = tuple(mn.Block(f"b{j}", macs=1 + j, params=j**0.5) for j in range(3))
        >>> fine = mn.SearchSpace([mn.BlockNode(f"layer{i}", blocks) for i in range(4)])
        >>> table = mn.BlockTable(fine, (0,) * 4, {})
        >>> found = mn.choose_candidates(
        ...     table, {"early": [0, 1], "late": [2, 3]}, 2, limit="macs", maximize="params"
        ... )
        >>> found.proven, [block.name for block in found.space.nodes[0].blocks]
        (True, ['b0+b0', 'b1+b2'])
    """
    start = time.monotonic()
    check_time_limit(time_limit)
    until = math.inf if time_limit is None else start + time_limit
    if not 0 <= effort < math.inf:
        raise InvalidInputError(f"an effort is a number of at least 0, but got {effort}.")
    objective, upwards = objective_of(table, maximize, minimize)
    if objective == limit:
        raise InvalidInputError(
            f"networks are compared by one metric and limited in another, but both are {limit!r}."
        )
    if memory is not None and storage is None:
        raise InvalidInputError("memory is limited in the unit of a storage: give one.")
    whole = groups if isinstance(groups, GroupedSpace) else GroupedSpace(table.space, groups)
    terms = _Terms(whole, table, objective, upwards, limit)
    counts = _counts(whole, count)
    limits = _budgets(terms, table, budgets)
    shares = _shares(weights, len(limits))
    problem = terms.problem(counts, limits, shares)
    rounds = min(_ROUNDS, 5 * sum(map(len, terms.fronts)))  # few candidates are soon tried out
    work = _Work(int(effort * rounds), int(effort * _BOXES), seed, until, progress)
    kept, value, bound = work.solved(problem, "choosing candidates")
    chosen = terms
    if memory is not None and storage is not None:
        held = storage.of(whole, memory)
        if not held.fits(terms.places(kept)):
            # what fits is no better than what need not
            chosen = terms.with_smaller(held)
            own = chosen.memory(held)
            chosen.check_memory(own, storage.fixed, memory)
            tight = chosen.problem(counts, limits, shares, own)
            work = replace(work, rounds=int(effort * _TIGHT_ROUNDS))
            kept, value, highest = work.solved(tight, "choosing within the memory")
            bound = value if highest == value else min(bound, highest)
    found = _selection(terms, chosen, problem, kept, bound, limits, start)
    return found if storage is None else replace(found, size=storage.size(found.space))


@dataclass(frozen=True)
class _Work:
    """How long a problem is worked on: see `improved` and `proven`."""

    rounds: int
    boxes: int
    seed: int
    until: float
    progress: Show

    def solved(self, problem: Problem, title: str) -> tuple[Kept, float, float]:
        """A selection, its value, and a bound on that of any."""
        with progress_bar(title, self.rounds + self.boxes, self.progress) as bar:
            kept, value = improved(
                problem, rounds=self.rounds, seed=self.seed, until=self.until, progress=bar
            )
            return proven(problem, kept, value, boxes=self.boxes, until=self.until, progress=bar)


def _selection(
    terms: _Terms,
    chosen: _Terms,
    problem: Problem,
    kept: Kept,
    bound: float,
    limits: Sequence[Limit],
    start: float,
) -> Selection:
    """The selection with the networks of each budget, solved again in exact arithmetic.

    Args:
        terms: of all candidates that can be needed without a limit on memory.
        chosen: those that `kept` is about.
    """
    space, full_space = chosen.space_of(kept), terms.space_of(problem.everything)
    own = terms.program(chosen.table_of(space, kept))
    full = terms.program(terms.table_of(full_space, problem.everything))
    solver = solver_for(full, "auto")
    points = []
    for limit, share in zip(limits, problem.weights.tolist(), strict=True):
        network, value, used = terms.solved(own, solver, limit)
        best_network, best, _ = terms.solved(full, solver, limit)
        expanded = full_space.expand(best_network)
        points.append(BudgetPoint(limit, share, network, value, used, best, expanded))
    mean = math.fsum(point.weight * point.value for point in points)
    highest = terms.value_sign * bound
    near = abs(highest - mean) <= 1e-9 * problem.span
    return Selection(
        space,
        terms.objective,
        terms.upwards,
        tuple(points),
        mean,
        mean if near else highest,
        tuple(map(len, terms.whole.candidates)),
        tuple(map(len, terms.fronts)),
        time.monotonic() - start,
    )


class _Terms:
    """Candidates of groups by their value and cost, of which only the undominated are kept.

    Signs turn "better" into "more" for values and into "less" for costs; both are sums on the
    metrics' response scales.
    """

    def __init__(
        self, whole: GroupedSpace, table: BlockTable, objective: str, upwards: bool, limit: str
    ) -> None:
        for name in (objective, limit):
            _check_sum(whole, table.column(name))
        self.whole, self.upwards = whole, upwards
        grouped = whole.table(table, metrics=[objective, limit], uncertainty=False)
        self.value, self.cost = grouped.column(objective), grouped.column(limit)
        self.objective, self.limited = self.value.metric, self.cost.metric
        self.value_sign = 1.0 if upwards else -1.0
        self.cost_sign = 1.0 if self.limited.direction is Direction.MINIMIZE else -1.0
        self.sense: Sense = "<=" if self.cost_sign > 0 else ">="
        self.all_values = self._signed(self.value_sign, self.value)
        self.all_costs = self._signed(self.cost_sign, self.cost)
        self._take(
            [undominated(*both) for both in zip(self.all_values, self.all_costs, strict=True)]
        )

    def _take(self, fronts: Sequence[Indices]) -> None:
        """Compare these candidates of each group, by ascending cost."""
        self.fronts: tuple[Indices, ...] = tuple(fronts)
        self.values = [own[front] for own, front in zip(self.all_values, fronts, strict=True)]
        self.costs = [own[front] for own, front in zip(self.all_costs, fronts, strict=True)]

    def with_smaller(self, held: Memory) -> _Terms:
        """With all candidates but those that one of these here beats or equals in size too."""
        found = copy.copy(self)
        found._take([self._wider(group, held) for group in range(len(self.fronts))])
        return found

    def _wider(self, group: int, held: Memory) -> Indices:
        values, costs = self.all_values[group], self.all_costs[group]
        own, uses = held.own[group], held.uses[group]
        front = self.fronts[group]
        # a piece of the one that is missing in the other: as a product of matrices
        more = uses[front].astype(np.float32) @ (~uses).T.astype(np.float32) > 0
        beaten = (
            ~more
            & (values[front][:, None] >= values)
            & (costs[front][:, None] <= costs)
            & (own[front][:, None] <= own)
        ).any(axis=0)
        beaten[front] = False
        kept = np.flatnonzero(~beaten)
        order: Indices = kept[np.lexsort((kept, -values[kept], costs[kept]))]
        return order

    def memory(self, held: Memory) -> Memory:
        """Of the candidates that are compared."""
        return replace(
            held,
            own=[own[front] for own, front in zip(held.own, self.fronts, strict=True)],
            uses=[uses[front] for uses, front in zip(held.uses, self.fronts, strict=True)],
        )

    def places(self, kept: Kept) -> Kept:
        """A selection by places among all candidates."""
        return tuple(
            tuple(front[list(own)].tolist()) for front, own in zip(self.fronts, kept, strict=True)
        )

    def check_memory(self, own: Memory, fixed: float, limit: float) -> None:
        """Raise `InvalidInputError` where the cheapest network does not fit."""
        cheapest = ((0,),) * len(self.fronts)
        if not own.fits(cheapest):
            least = fixed + own.size(cheapest)
            raise InvalidInputError(
                f"the network of least {self.limited.name} is always kept, but it takes {least:g} "
                f"and memory is limited to {limit:g}: allow more."
            )

    def _signed(self, sign: float, column: BlockEffects) -> list[Floats]:
        return np.split(sign * column.effects, self.whole.offsets[1:-1])

    def problem(
        self,
        counts: Sequence[int],
        limits: Sequence[Limit],
        shares: Floats,
        memory: Memory | None = None,
    ) -> Problem:
        base, sign, scale = self.value.base, self.value_sign, self.value.metric.scale
        forward = self.limited.scale.forward(np.array([limit.value for limit in limits]))
        sizes = [float(np.abs(own).max()) for own in self.costs]
        # what rounding of sums may be: exact arithmetic decides for what is reported
        slack = 1e-12 * (abs(self.cost.base) + math.fsum(sizes))
        cheapest = [float(own[0]) for own in self.costs]
        rooms = self.cost_sign * (forward - self.cost.base) - math.fsum(cheapest)
        return Problem(
            self.values,
            [own - least for own, least in zip(self.costs, cheapest, strict=True)],
            counts,
            rooms + slack,
            shares,
            lambda sums: np.asarray(sign * scale.inverse(base + sign * sums)),
            memory,
        )

    def ends(self) -> tuple[float, float]:
        """The cost of the cheapest network and of the cheapest with the best value, exactly as
        programs count it."""
        everything = tuple(tuple(range(len(own))) for own in self.fronts)
        table = self.table_of(self.space_of(everything), everything)
        cheapest = (0,) * len(self.fronts)
        best = tuple(len(own) - 1 for own in self.fronts)
        name = self.limited.name
        return table.exact(cheapest, name), table.exact(best, name)

    def space_of(self, kept: Kept) -> GroupedSpace:
        """The groups with these candidates (places in the fronts)."""
        whole = self.whole
        rows = [
            candidates[front[list(own)]].tolist()
            for candidates, front, own in zip(whole.candidates, self.fronts, kept, strict=True)
        ]
        names = [node.name for node in whole.nodes]
        return GroupedSpace(
            whole.fine,
            dict(zip(names, whole.partition, strict=True)),
            dict(zip(names, rows, strict=True)),
        )

    def table_of(self, space: GroupedSpace, kept: Kept) -> BlockTable:
        """The table of these candidates with the very numbers of all: a network's sums are the
        same to the last bit, whichever are kept."""
        places = np.concatenate(
            [
                offset + front[list(own)]
                for offset, front, own in zip(
                    self.whole.offsets[:-1], self.fronts, kept, strict=True
                )
            ]
        )
        columns = {
            column.metric.name: replace(
                column,
                effects=column.effects[places],
                spread=column.spread[places],
                contexts=column.contexts[places],
            )
            for column in (self.value, self.cost)
        }
        return BlockTable(space, (0,) * space.num_nodes, columns)

    def program(self, table: BlockTable) -> Program:
        """The search of the best network under a budget; its limit is to be moved."""
        limit = Limit(self.limited, self.sense, 0.0)
        return Program(table, self.objective.name, self.upwards, [limit])

    def solved(
        self, program: Program, solver: Solver, limit: Limit
    ) -> tuple[Network, float, float]:
        """The best network under a budget, its value and its cost.

        Raises:
            InvalidInputError: no network meets the budget (or only within rounding).
        """
        exact = program.table.exact
        for network in solver.solve(program.moved(0, limit.value)).networks:
            return network, exact(network, self.objective.name), exact(network, self.limited.name)
        raise _too_low(limit, exact((0,) * program.space.num_nodes, self.limited.name))


def _too_low(limit: Limit, cheapest: float) -> InvalidInputError:
    extreme = "lowest" if limit.sense == "<=" else "highest"
    return InvalidInputError(
        f"every budget is met by some network, but {limit} by none: the {extreme} predicted "
        f"{limit.metric.name} is {limit.metric.format(cheapest)}."
    )


def _check_sum(whole: GroupedSpace, column: BlockEffects) -> None:
    """Raise `InvalidInputError` where a metric is no sum over groups."""
    name = column.metric.name
    if not column.additive or column.power:
        why = (
            "divides by MACs"
            if column.power
            else "depends on a form of networks or on features, so that blocks do not add up"
        )
        raise InvalidInputError(
            f"candidates are compared by sums over groups, but {name} {why}: fit it by regression "
            "on networks as they are written."
        )
    group_of = {node: group for group, nodes in enumerate(whole.partition) for node in nodes}
    for pair in column.pairs:
        first, second = group_of[pair.first], group_of[pair.second]
        if first != second:
            raise InvalidInputError(
                f"candidates are compared by sums over groups, but blocks of "
                f"{whole.nodes[first].name!r} and {whole.nodes[second].name!r} interact in {name}: "
                "put them into one group, or fit the metric without pairs."
            )


def _counts(whole: GroupedSpace, count: int | Mapping[str, int]) -> list[int]:
    names = [node.name for node in whole.nodes]
    by_name = count if isinstance(count, Mapping) else dict.fromkeys(names, count)
    if set(by_name) != set(names):
        raise InvalidInputError(
            f"counts are given for all groups, {', '.join(names)}, but got {', '.join(by_name)}."
        )
    for name, number in by_name.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
            raise InvalidInputError(
                f"a group keeps at least 1 candidate, but {name!r} got {number!r}."
            )
    return [int(by_name[name]) for name in names]


def _budgets(
    terms: _Terms, table: BlockTable, budgets: int | Sequence[float | int | str]
) -> list[Limit]:
    cheapest, best = terms.ends()
    if isinstance(budgets, (int, np.integer)) and not isinstance(budgets, bool):
        if budgets < 1:
            raise InvalidInputError(f"there is at least 1 budget, but got {budgets}.")
        values = np.linspace(cheapest, best, budgets).tolist() if budgets > 1 else [best]
        return [Limit(terms.limited, terms.sense, value) for value in values]
    if isinstance(budgets, str) or not isinstance(budgets, (Sequence, np.ndarray)):
        raise InvalidInputError(f"budgets are how many, or a list of values, but got {budgets!r}.")
    found = [
        limit for given in budgets for limit in read_limits({terms.limited.name: given}, table)
    ]
    for limit in found:
        if limit.sense != terms.sense:
            raise InvalidInputError(
                f"budgets bound {terms.limited.name} on its bad side, {terms.sense}, but got "
                f"{limit}."
            )
        if not limit.holds(cheapest):
            raise _too_low(limit, cheapest)
    if not found:
        raise InvalidInputError("there is at least 1 budget, but the list is empty.")
    return found


def _shares(weights: Sequence[float] | None, count: int) -> Floats:
    given = np.ones(count) if weights is None else np.array(weights, dtype=np.float64)
    if given.shape != (count,) or not (np.isfinite(given).all() and (given > 0).all()):
        raise InvalidInputError(
            f"weights are positive, one for each of {count} budgets, but got {weights!r}: leave "
            "out budgets that do not count."
        )
    shares: Floats = given / given.sum()
    return shares
