"""The 0-1 program of a search (Eq. 6): what is optimised, under which limits, over which choices.

A program is in normal form: minimise ``sum(a) / F^p`` over one candidate a node, subject to
``W x <= b``; here ``F = fixed + sum(f)`` and p is 0 (linear) or 1 (fractional). Maximising turns
the sign of ``a``; a ``>=`` limit turns the sign of its row; a limit on a fractional metric,
``base + A / F >= v``, becomes the linear row ``(v - base) F - A <= 0``. Nodes of a depth rule are
merged into one node whose candidates are the valid configurations, so every choice is a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats, Metric
from mathnas.search.limits import Limit
from mathnas.space import Indices, Network
from mathnas.table import BlockTable

_MOST_CANDIDATES = 100_000
_RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ScaledRows:
    """Limits with each row shifted and scaled so that its sums lie in [0, 1].

    Attributes:
        weights: shape (K, candidates), at least 0, with a 0 in each node.
        bounds: shape (K,).
        tolerance: shape (K,): sums within this distance of the bound are decided by exact
            arithmetic, not by these numbers.
    """

    weights: Floats
    bounds: Floats
    tolerance: Floats


class Program:
    """A search in normal form.

    Args:
        table: predictions.
        objective: the metric to optimise.
        maximize: whether more of it is wanted.
        limits: bounds on predicted metrics.

    Attributes:
        offsets: candidates of program node i are ``offsets[i]:offsets[i + 1]``.
        costs: a, flat over candidates.
        macs: f, flat over candidates (zeros where p = 0).
        fixed_macs: the fixed part of F (1 where p = 0).
        power: p.

    Raises:
        InvalidInputError: the objective is unknown, or a depth rule has more than 100,000
            configurations.
    """

    def __init__(
        self, table: BlockTable, objective: str, maximize: bool, limits: Sequence[Limit] = ()
    ) -> None:
        self.table = table
        self.space = table.space
        self.maximize = maximize
        self.limits = tuple(limits)
        column = table.column(objective)
        self.objective: Metric = column.metric
        self.power = column.power
        for group in self.space.groups:
            if group.count > _MOST_CANDIDATES:
                raise InvalidInputError(
                    f"the nodes of a depth rule are searched together, at most {_MOST_CANDIDATES} "
                    f"configurations, but one has {group.count}: declare fewer optional nodes a "
                    "rule, or fewer blocks."
                )
        sizes = [group.count for group in self.space.groups]
        self.offsets: Indices = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
        self.costs = self._candidates(-column.effects if maximize else column.effects)
        self.macs = np.zeros(len(self.costs))
        self.fixed_macs = 1.0
        if self.power:
            self.macs = self._candidates(self.space.require_macs(f"optimising {objective}"))
            self.fixed_macs = self.space.fixed_macs or 0.0

    @property
    def num_nodes(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lowest(self) -> float:
        """No choice has a smaller ``sum(a) / F^p``, whatever the limits."""
        return self._extreme(np.minimum)

    @cached_property
    def span(self) -> float:
        """Width of an interval that holds ``sum(a) / F^p`` of every choice."""
        return self._extreme(np.maximum) - self.lowest

    def _extreme(self, pick: np.ufunc) -> float:
        starts = self.offsets[:-1]
        cost = math.fsum(pick.reduceat(self.costs, starts))
        if not self.power:
            return cost
        # a negative cost is lowest over little MACs, a positive one highest
        small = (cost < 0) == (pick is np.minimum)
        macs = (np.minimum if small else np.maximum).reduceat(self.macs, starts)
        return cost / math.fsum([self.fixed_macs, *macs])

    @cached_property
    def rows(self) -> ScaledRows:
        """The limits as scaled rows."""
        weights = np.zeros((len(self.limits), len(self.costs)))
        bounds = np.zeros(len(self.limits))
        tolerance = np.zeros(len(self.limits))
        for k, limit in enumerate(self.limits):
            row, bound, magnitude = self._row(limit)
            lowest = np.minimum.reduceat(row, self.offsets[:-1])
            highest = np.maximum.reduceat(row, self.offsets[:-1])
            span = float((highest - lowest).sum()) or max(magnitude, 1.0)
            weights[k] = (row - np.repeat(lowest, np.diff(self.offsets))) / span
            bounds[k] = (bound - lowest.sum()) / span
            # rounding of the sums that were subtracted, in units of the row
            rounding = 1e-15 * self.num_nodes * (magnitude + np.abs(highest).sum()) / span
            tolerance[k] = _RELATIVE_TOLERANCE + rounding
        return ScaledRows(weights, bounds, tolerance)

    def network(self, choice: Sequence[int] | Indices) -> Network:
        """The network of a choice: candidate numbers (flat), one a program node."""
        blocks = np.empty(self.space.num_nodes, dtype=np.intp)
        for group, start, candidate in zip(
            self.space.groups, self.offsets, np.asarray(choice), strict=False
        ):
            blocks[list(group.nodes)] = group.configurations[candidate - start]
        return tuple(blocks.tolist())

    def holds(self, network: Network) -> bool:
        """Whether a network meets every limit, in exact arithmetic (`BlockTable.exact`)."""
        return all(
            limit.holds(self.table.exact(network, limit.metric.name)) for limit in self.limits
        )

    def without(self, limit: Limit) -> Program:
        """The program with one limit left out."""
        rest = [other for other in self.limits if other is not limit]
        return Program(self.table, self.objective.name, self.maximize, rest)

    def _row(self, limit: Limit) -> tuple[Floats, float, float]:
        """Row, bound and the size of what was subtracted to get the bound."""
        column = self.table.column(limit.metric.name)
        scale = column.metric.scale
        value = float(scale.forward(np.array([limit.value]))[0])
        room = value - column.base
        if column.power == 0:
            row, bound = column.effects, room
            magnitude = abs(value) + abs(column.base)
        else:
            macs = self.space.require_macs(f"the limit {limit}")
            row = column.effects - room * macs
            bound = room * (self.space.fixed_macs or 0.0)
            magnitude = (abs(value) + abs(column.base)) * float(macs.max()) + abs(bound)
        sign = 1.0 if limit.sense == "<=" else -1.0
        return self._candidates(sign * row), sign * bound, magnitude

    def _candidates(self, blocks: Floats) -> Floats:
        """A per-block quantity summed over the blocks of each candidate."""
        return np.concatenate(
            [
                blocks[self.space.offsets[list(group.nodes)] + group.configurations].sum(axis=1)
                for group in self.space.groups
            ]
        )

    def __str__(self) -> str:
        verb = "maximise" if self.maximize else "minimise"
        form = "fractional" if self.power else "linear"
        nodes = f"{self.num_nodes} nodes, {len(self.costs)} candidates"
        lines = [f"{verb} {self.objective.name} ({form}) over {nodes}"]
        return "\n".join([*lines, *(f"  subject to {limit}" for limit in self.limits)])
