"""The 0-1 program of a search (Eq. 6): what is optimised, under which limits, over which choices.

A program is in normal form: minimise ``sum(a) / F^p`` over one candidate a node, subject to
``W x <= b``; here ``F = fixed + sum(f)`` and p is 0 (linear), 1 (the paper's fractional form) or
between (an empirical exponent). Maximising turns the sign of ``a``; a ``>=`` limit turns the sign
of its row; a limit on a fractional metric, ``base + A / F >= v``, becomes the linear row
``(v - base) F - A <= 0``; a rule is a row of small integers. Nodes of a depth rule are merged into
one node whose candidates are the valid configurations, up to 100,000. Beyond, they stay nodes, and
a row for each two neighbours says that the later one is absent where the earlier one is; a choice
that meets the rows is a network. (The compiled solver takes the rule as such instead of its rows.)

Where a table has pairwise effects, A is the sum of the candidates' values and of one entry of each
`PairTerm`, in the objective and in the rows alike. What two nodes of one depth rule add together
belongs to their configurations, so it is part of the candidates' values.

Where a column is not additive (it depends on a form of networks, or is a Gaussian process), all
nodes are merged into one whose candidates are the networks of the space, up to two million.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import IDENTITY, Floats, Metric
from mathnas.search.limits import Limit
from mathnas.search.rules import Rule, require
from mathnas.space import Indices, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable, PairEffects

_MOST_CANDIDATES = 100_000
_MOST_MERGED = 2_000_000
_MOST_ENTRIES = 4_000_000
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class PairTerm:
    """What the candidates of two program nodes add together.

    Attributes:
        first, second: program nodes, ``first < second``.
        values: shape (candidates of `first`, candidates of `second`).
    """

    first: int
    second: int
    values: Floats


class Layout:
    """The candidates of a space's programs: blocks, or configurations of a depth rule's nodes.

    Args:
        merged: whether the candidates are whole networks.

    Attributes:
        groups: for each program node the nodes of the space that it stands for, and its
            candidates' blocks there, of shape (candidates, nodes).
        offsets: candidates of program node i are ``offsets[i]:offsets[i + 1]``.
        sizes: candidates of each program node.
        plain: whether candidates are the blocks themselves, in their order.
        rules: what candidates do not say by themselves: depth rules with too many configurations.
        stages: the same as candidates (flat): for each such rule the absent ones of its nodes,
            which are consecutive program nodes. Where one is taken, so are the later ones.
    """

    def __init__(self, space: SearchSpace, *, merged: bool = False) -> None:
        self.space, self.merged = space, merged
        self.groups: list[tuple[tuple[int, ...], Indices]]
        self.rules: tuple[Rule, ...] = ()
        absent: list[tuple[int, Sequence[int]]] = []  # by the program node that each rule starts at
        self.plain = not merged
        if merged:
            self.groups = [(tuple(range(space.num_nodes)), space.all_networks())]
        else:
            self.groups = []
            for group in space.groups:
                if group.absent is None or group.count <= _MOST_CANDIDATES:
                    self.groups.append((group.nodes, group.configurations))
                    self.plain = self.plain and group.absent is None
                    continue
                absent.append((len(self.groups), group.absent))
                sizes = zip(group.nodes, group.sizes, strict=True)
                self.groups += [((node,), np.arange(size)[:, None]) for node, size in sizes]
                self.rules += _depth_rows(space, group.nodes, group.absent)
        self.sizes: Indices = np.array([len(found) for _, found in self.groups], dtype=np.intp)
        self.offsets: Indices = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.intp)
        self.starts: Indices = self.offsets[:-1]
        self.stages = [
            (self.starts[first : first + len(blocks)] + blocks).tolist() for first, blocks in absent
        ]

    def candidates(self, blocks: Floats) -> Floats:
        """A per-block quantity summed over the blocks of each candidate."""
        if self.plain:
            return blocks
        return np.concatenate(
            [
                blocks[self.space.offsets[list(nodes)] + configurations].sum(axis=1)
                for nodes, configurations in self.groups
            ]
        )

    def pairs(self, effects: Sequence[PairEffects]) -> tuple[Floats, tuple[PairTerm, ...]]:
        """Pairwise effects of blocks as those of candidates: what they add to each candidate by
        itself (flat), and a term for each two program nodes.

        Raises:
            InvalidInputError: two nodes have more than four million pairs of candidates.
        """
        alone = np.zeros(int(self.offsets[-1]))
        terms: dict[tuple[int, int], Floats] = {}
        for pair in effects:
            first, one = self._place(pair.first)
            second, other = self._place(pair.second)
            if first == second:
                alone[self.offsets[first] : self.offsets[first + 1]] += pair.effects[one, other]
                continue
            if len(one) * len(other) > _MOST_ENTRIES:
                raise InvalidInputError(
                    f"two nodes that interact have at most {_MOST_ENTRIES} pairs of candidates, "
                    f"but nodes {pair.first} and {pair.second} have {len(one)} x {len(other)}: "
                    "leave the pair out, or declare fewer optional nodes a depth rule."
                )
            values = pair.effects[np.ix_(one, other)]
            key = (first, second)
            if first > second:
                key, values = (second, first), np.ascontiguousarray(values.T)
            terms[key] = terms[key] + values if key in terms else values
        return alone, tuple(PairTerm(*key, values) for key, values in sorted(terms.items()))

    def _place(self, node: int) -> tuple[int, Indices]:
        """The program node of a node of the space, and the block that each candidate has there."""
        return next(
            (place, configurations[:, nodes.index(node)])
            for place, (nodes, configurations) in enumerate(self.groups)
            if node in nodes
        )

    def network(self, choice: Sequence[int] | Indices) -> Network:
        """The network of a choice: candidate numbers (flat), one a program node."""
        inside = np.asarray(choice) - self.starts
        if self.plain:
            return tuple(inside.tolist())
        blocks = np.empty(self.space.num_nodes, dtype=np.intp)
        for (nodes, configurations), candidate in zip(self.groups, inside, strict=True):
            blocks[list(nodes)] = configurations[candidate]
        return tuple(blocks.tolist())


def _depth_rows(
    space: SearchSpace, nodes: Sequence[int], absent: Sequence[int]
) -> tuple[Rule, ...]:
    """Where a node of a depth rule is absent, the next one is."""
    places = zip(nodes, absent, strict=True)
    return tuple(
        require(space, {node: gone}, {later: also})
        for (node, gone), (later, also) in itertools.pairwise(places)
    )


@lru_cache(maxsize=16)
def layout_of(space: SearchSpace, merged: bool = False) -> Layout:
    """The layout of a space, kept: a device solves again and again over the same one."""
    return Layout(space, merged=merged)


def _layout_for(table: BlockTable, metrics: Sequence[str]) -> Layout:
    """The layout of a program about these metrics."""
    columns = [table.column(name) for name in metrics]
    whole = next((column for column in columns if not column.additive), None)
    if whole is not None and table.space.num_networks > _MOST_MERGED:
        what = (
            f"depends on networks in the form {whole.network_form}"
            if whole.process is None
            else "is a Gaussian process on features of networks"
        )
        raise InvalidInputError(
            f"the model of {whole.metric.name} {what}, so that blocks do not add up and every "
            f"network has to be looked at: at most {_MOST_MERGED}, but {table.space!r} has more. "
            "Fit it with a space that declares neither forms nor features."
        )
    return layout_of(table.space, whole is not None)


@dataclass(frozen=True)
class ScaledRows:
    """Limits with each row shifted and scaled so that its sums lie in [0, 1].

    Attributes:
        weights: shape (K, candidates), at least 0, with a 0 in each node.
        pairs: for each row its pair terms, at least 0, with a 0 in each; none in most rows.
        bounds: shape (K,).
        tolerance: shape (K,): sums within this distance of the bound are decided by exact
            arithmetic, not by these numbers.
        spans: shape (K,): what each row was divided by, in the row's unit.
    """

    weights: Floats
    bounds: Floats
    tolerance: Floats
    spans: Floats
    pairs: tuple[tuple[PairTerm, ...], ...]


class _Row(NamedTuple):
    """One limit or rule: ``sum(weights) + sum(pairs) <= bound``.

    `magnitude` is the size of the numbers whose differences these are: their rounding.
    """

    weights: Floats
    bound: float
    magnitude: float
    pairs: tuple[PairTerm, ...] = ()


class Program:
    """A search in normal form.

    Args:
        table: predictions.
        objective: the metric to optimise.
        maximize: whether more of it is wanted.
        limits: bounds on predicted metrics.
        rules: on combinations of blocks.

    Attributes:
        offsets: candidates of program node i are ``offsets[i]:offsets[i + 1]``.
        costs: a, flat over candidates.
        pairs: what two program nodes add to ``sum(a)``, one term for each two that interact.
        macs: f, flat over candidates (zeros where p = 0).
        fixed_macs: the fixed part of F (1 where p = 0).
        power: p.

    Raises:
        InvalidInputError: the objective is unknown, or a model is not additive and there are more
            than two million networks.
    """

    def __init__(
        self,
        table: BlockTable,
        objective: str,
        maximize: bool,
        limits: Sequence[Limit] = (),
        rules: Sequence[Rule] = (),
    ) -> None:
        self.origin = self  # the program whose rows this one shares; see `moved`
        self.table = table
        self.space = table.space
        self.maximize = maximize
        self.limits = tuple(limits)
        self.rules = tuple(rules)
        self.layout = _layout_for(table, [objective, *(limit.metric.name for limit in limits)])
        self.offsets = self.layout.offsets
        column = table.column(objective)
        self.objective: Metric = column.metric
        self.power = column.power
        costs, terms = self._values(column)
        self.costs = -costs if maximize else costs
        self.macs = np.zeros(len(self.costs))
        self.fixed_macs = 1.0
        for rule in self.rules:
            if rule.space is not self.space and rule.space != self.space:
                raise InvalidInputError(
                    f"a rule is about the space of the table, {self.space.name}, but {rule} is "
                    f"about {rule.space.name}."
                )
        if self.power:
            self.macs = self.layout.candidates(self.space.require_macs(f"optimising {objective}"))
            self.fixed_macs = self.space.fixed_macs or 0.0
        self.pairs = tuple(replace(t, values=-t.values) for t in terms) if maximize else terms

    def _values(self, column: BlockEffects) -> tuple[Floats, tuple[PairTerm, ...]]:
        """What candidates, and pairs of them, add to a column's base."""
        if not column.additive:
            return self.table.all_responses(column.metric.name) - column.base, ()
        values = self.layout.candidates(column.effects)
        if not column.pairs:
            return values, ()
        alone, terms = self.layout.pairs(column.pairs)
        return values + alone, terms

    @property
    def num_nodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_choices(self) -> int:
        """How many choices of a candidate a node there are: the networks, and what is no network
        by the layout's rules."""
        return math.prod(self.layout.sizes.tolist())

    @cached_property
    def has_pairs(self) -> bool:
        """Whether two program nodes interact, in the objective or in a limit."""
        # rows are made for programs that have pairs somewhere: preparing the others stays cheap
        columns = (self.table.column(limit.metric.name) for limit in self.limits)
        return bool(self.pairs) or (any(c.pairs for c in columns) and any(self.rows.pairs))

    def value(self, choice: Sequence[int] | Indices) -> float:
        """The normal-form objective ``sum(a) / F^p`` of a choice, its sums correctly rounded."""
        flat = np.asarray(choice)
        inside = (flat - self.layout.starts).tolist()
        entries = [float(t.values[inside[t.first], inside[t.second]]) for t in self.pairs]
        total = math.fsum([*self.costs[flat].tolist(), *entries])
        if not self.power:
            return total
        return float(total / math.fsum([self.fixed_macs, *self.macs[flat]]) ** self.power)

    def bound_from(self, linear: float, ratio: float) -> float:
        """The lower bound on ``sum(a) / F^p`` that one on ``sum(a) - ratio * F`` gives, for p = 0
        (where F does not count) and p = 1."""
        if not self.power or not math.isfinite(linear):
            return linear
        pick = np.minimum if linear < 0 else np.maximum
        macs = self.fixed_macs + float(pick.reduceat(self.macs, self.layout.starts).sum())
        return ratio + linear / macs

    @cached_property
    def lowest(self) -> float:
        """No choice has a smaller ``sum(a) / F^p``, whatever the limits."""
        return self._extreme(np.minimum)

    @cached_property
    def span(self) -> float:
        """Width of an interval that holds ``sum(a) / F^p`` of every choice."""
        return self._extreme(np.maximum) - self.lowest

    def _extreme(self, pick: np.ufunc) -> float:
        starts = self.layout.starts
        entries = (pick.reduce(term.values, axis=None) for term in self.pairs)
        cost = math.fsum([*pick.reduceat(self.costs, starts), *entries])
        if not self.power:
            return cost
        # a negative cost is lowest over little MACs, a positive one highest
        small = (cost < 0) == (pick is np.minimum)
        macs = (np.minimum if small else np.maximum).reduceat(self.macs, starts)
        return float(cost / math.fsum([self.fixed_macs, *macs]) ** self.power)

    @cached_property
    def rows(self) -> ScaledRows:
        """Limits, then rules and the layout's rules, as scaled rows."""
        found = [self._row(limit) for limit in self.limits]
        # halves: a sum of integers is never close to such a bound, so rounding cannot matter
        found += [
            _Row(self.layout.candidates(rule.coefficients.astype(np.float64)), rule.bound + 0.5, 1)
            for rule in (*self.rules, *self.layout.rules)
        ]
        if not found:
            nothing = np.zeros(0)
            return ScaledRows(np.zeros((0, len(self.costs))), nothing, nothing, nothing, ())
        raw = np.array([row.weights for row in found])
        bounds = np.array([row.bound for row in found])
        magnitudes = np.array([row.magnitude for row in found])
        starts = self.layout.starts
        lowest = np.minimum.reduceat(raw, starts, axis=1)
        highest = np.maximum.reduceat(raw, starts, axis=1)
        spans = (highest - lowest).sum(axis=1)
        additions = self.num_nodes
        paired = any(row.pairs for row in found)
        if paired:
            least = np.array([sum(float(t.values.min()) for t in row.pairs) for row in found])
            most = np.array([sum(float(t.values.max()) for t in row.pairs) for row in found])
            bounds = bounds - least
            spans = spans + (most - least)
            additions += max(len(row.pairs) for row in found)
        spans = np.where(spans > 0, spans, np.maximum(magnitudes, 1.0))
        pairs: tuple[tuple[PairTerm, ...], ...] = ((),) * len(found)
        if paired:
            pairs = tuple(
                tuple(replace(t, values=(t.values - t.values.min()) / span) for t in row.pairs)
                for row, span in zip(found, spans, strict=True)
            )
        weights = raw - np.repeat(lowest, self.layout.sizes, axis=1)
        weights /= spans[:, None]
        # rounding of the sums that were subtracted, in units of the row
        rounding = 1e-15 * additions * (magnitudes + np.abs(highest).sum(axis=1)) / spans
        return ScaledRows(
            weights,
            (bounds - lowest.sum(axis=1)) / spans,
            RELATIVE_TOLERANCE + rounding,
            spans,
            pairs,
        )

    def network(self, choice: Sequence[int] | Indices) -> Network:
        """The network of a choice: candidate numbers (flat), one a program node."""
        return self.layout.network(choice)

    def holds(self, network: Network) -> bool:
        """Whether a network meets every limit and rule, in exact arithmetic
        (`BlockTable.exact`)."""
        return all(
            limit.holds(self.table.exact(network, limit.metric.name)) for limit in self.limits
        ) and all(rule.holds(network) for rule in (*self.rules, *self.layout.rules))

    def without(self, limit: Limit) -> Program:
        """The program with one limit left out."""
        return self.with_limits([other for other in self.limits if other is not limit])

    def moved(self, place: int, value: float) -> Program:
        """The program with the limit at this place moved to another value.

        Nearly free where the limited metric is linear: rows are shared, only a bound changes.
        """
        old = self.limits[place]
        limits = list(self.limits)
        limits[place] = Limit(old.metric, old.sense, value)
        column = self.table.column(old.metric.name)
        if column.power:  # such a row depends on its limit
            return self.with_limits(limits)
        program = copy.copy(self)
        program.limits = tuple(limits)
        scale = column.metric.scale.forward
        step = float(scale(np.array([value]))[0] - scale(np.array([old.value]))[0])
        rows = self.rows
        bounds = rows.bounds.copy()
        bounds[place] += (step if old.sense == "<=" else -step) / rows.spans[place]
        program.rows = replace(rows, bounds=bounds)
        return program

    def with_limits(self, limits: Sequence[Limit]) -> Program:
        """The program with other limits."""
        return Program(self.table, self.objective.name, self.maximize, limits, self.rules)

    def with_rules(self, rules: Sequence[Rule]) -> Program:
        """The program with further rules."""
        return Program(
            self.table,
            self.objective.name,
            self.maximize,
            self.limits,
            (*self.rules, *rules),
        )

    def optimizing(self, objective: str, maximize: bool, limits: Sequence[Limit]) -> Program:
        """A program over the same choices and rules with another objective and other limits."""
        return Program(self.table, objective, maximize, limits, self.rules)

    def _row(self, limit: Limit) -> _Row:
        column = self.table.column(limit.metric.name)
        value = float(column.metric.scale.forward(np.array([limit.value]))[0])
        room = value - column.base
        weights, terms = self._values(column)
        bound = room
        if column.power == 0:
            magnitude = abs(value) + abs(column.base)
        elif column.power == 1:
            macs = self.space.require_macs(f"the limit {limit}")
            weights = weights - self.layout.candidates(room * macs)
            bound = room * (self.space.fixed_macs or 0.0)
            magnitude = (abs(value) + abs(column.base)) * float(macs.max()) + abs(bound)
        else:
            raise InvalidInputError(
                f"a limit needs a form that is linear or divides by MACs themselves, but "
                f"{limit.metric.name} divides by MACs to the power {column.power:g}: optimise it, "
                "or fit it in another form."
            )
        if limit.sense == ">=":
            weights, bound = -weights, -bound
            terms = tuple(replace(t, values=-t.values) for t in terms)
        if column.metric.scale != IDENTITY:
            # what rounding the limit's value is worth on the response scale
            slope = float(column.metric.scale.derivative(np.array([limit.value]))[0])
            magnitude += slope * abs(limit.value)
        sizes = [float(np.abs(pair.effects).max()) for pair in column.pairs]
        return _Row(weights, bound, magnitude + math.fsum(sizes), terms)

    def __str__(self) -> str:
        verb = "maximise" if self.maximize else "minimise"
        form = {0.0: "linear", 1.0: "fractional"}.get(self.power, f"power {self.power:g}")
        nodes = f"{self.num_nodes} nodes, {len(self.costs)} candidates"
        lines = [f"{verb} {self.objective.name} ({form}) over {nodes}"]
        return "\n".join([*lines, *(f"  subject to {row}" for row in (*self.limits, *self.rules))])
