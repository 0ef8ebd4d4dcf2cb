"""What a metric varies with: single nodes, pairs of nodes, or more of them at once.

Over the uniform distribution of networks every function of a network is, in one way, a constant
plus one function of each node, one of each two nodes, and so on, each of mean 0 over each of its
nodes; their variances add up to the whole (functional analysis of variance; Hoeffding 1948,
Sobol 1993). The functions of one node are the paper's block performances under full sampling, and
the rest is its term of interactions (Eq. 3), which an additive table cannot hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.metrics import Floats
from mathnas.space import SearchSpace
from mathnas.table import BlockTable

_MOST_PAIRS_SHOWN, _LEAST_SHOWN = 10, 0.0005


@dataclass(frozen=True)
class VarianceShares:
    """How the variance of a metric over all networks of a space splits; the shares sum to 1.

    Attributes:
        nodes: names of the m nodes, in their order in the network.
        variance: of the metric over the uniform distribution of networks, in its unit squared (on
            a response scale: in the response's); where it is 0, all shares are.
        main: shape (m,); the share of what each node adds by itself.
        pairs: shape (m, m); at [i, k] with i < k the share of what nodes i and k add together
            beyond that; 0 elsewhere.
        higher: the share of what three or more nodes add together.
    """

    nodes: tuple[str, ...]
    variance: float
    main: Floats
    pairs: Floats
    higher: float

    @property
    def additive(self) -> float:
        """The share of all main effects: R^2 of the best additive table on all networks."""
        return float(self.main.sum())

    @property
    def interaction(self) -> float:
        """The share of all pairs."""
        return float(self.pairs.sum())

    def ranked_nodes(self) -> list[tuple[str, float]]:
        """Nodes with the share of their main effect, the largest first."""
        order = np.argsort(-self.main, kind="stable")
        return [(self.nodes[node], float(self.main[node])) for node in order]

    def ranked_pairs(self) -> list[tuple[str, str, float]]:
        """Every two nodes with the share of their interaction, the largest first."""
        first, second = np.triu_indices(len(self.nodes), 1)
        shares = self.pairs[first, second]
        return [
            (self.nodes[first[place]], self.nodes[second[place]], float(shares[place]))
            for place in np.argsort(-shares, kind="stable")
        ]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "variance": self.variance,
            "additive": self.additive,
            "nodes": dict(self.ranked_nodes()),
            "interaction": self.interaction,
            "pairs": [
                {"first": first, "second": second, "share": share}
                for first, second, share in self.ranked_pairs()
            ],
            "higher": self.higher,
        }

    def __str__(self) -> str:
        """A table: nodes and pairs ranked, then the higher orders."""
        pairs = [
            (f"{one} with {other}", share)
            for one, other, share in self.ranked_pairs()
            if share >= _LEAST_SHOWN
        ]
        shown, hidden = pairs[:_MOST_PAIRS_SHOWN], pairs[_MOST_PAIRS_SHOWN:]
        width = max(len(name) for name in [*self.nodes, *(name for name, _ in shown), "x" * 30])
        lines = [
            f"variance {self.variance:.4g}",
            f"{'nodes by themselves':{width + 2}} {self.additive:7.1%}",
            *(f"  {name:{width}} {share:7.1%}" for name, share in self.ranked_nodes()),
            f"{'pairs of nodes':{width + 2}} {self.interaction:7.1%}",
            *(f"  {name:{width}} {share:7.1%}" for name, share in shown),
        ]
        if hidden:
            rest = sum(share for _, share in hidden)
            lines.append(f"  {f'{len(hidden)} more':{width}} {rest:7.1%}")
        lines.append(f"{'three nodes and more':{width + 2}} {self.higher:7.1%}")
        return "\n".join(lines)


def variance_shares(space: SearchSpace, values: npt.ArrayLike) -> VarianceShares:
    """The shares for values of all networks, exact.

    Args:
        values: shape (num_networks,), finite, in the order of `SearchSpace.all_networks`.

    Raises:
        InvalidInputError: the space has depth rules, or there is not one finite value for every
            network.
    """
    _refuse_rules(space)
    given = np.asarray(values, dtype=np.float64)
    if given.shape != (space.num_networks,):
        raise InvalidInputError(
            f"shares of the variance need one value for each of the {space.num_networks} networks "
            f"of {space.name}, but got an array of shape {given.shape}: evaluate all of them, or "
            "fit a table and use table_shares()."
        )
    bad = np.flatnonzero(~np.isfinite(given))
    if len(bad):
        raise InvalidInputError(
            f"shares of the variance need finite values, but that of network number {bad[0]} is "
            f"{given[bad[0]]} ({len(bad)} are not finite): evaluate these networks, or fit a table "
            "to the others and use table_shares()."
        )
    largest = float(np.abs(given).max())
    if np.ptp(given / (largest or 1.0)) == 0:
        return _shares(space, 0.0, {}, 0.0)
    # in units of the largest, so that squares do not overflow or vanish
    rest = (given / largest).reshape(space.sizes)
    rest = rest - rest.mean()
    variance = float(np.mean(rest**2))
    parts: dict[tuple[int, ...], float] = {}
    # each order is taken off before the next is found, so what is left is the higher orders' part
    for order in (1, 2):
        found = {nodes: _mean_over_others(rest, nodes) for nodes in _subsets(space, order)}
        for nodes, part in found.items():
            parts[nodes] = float(np.mean(part**2))
            rest -= part
    higher = float(np.mean(rest**2)) if space.num_nodes > 2 else 0.0
    return _shares(space, variance * largest**2, parts, higher)


def table_shares(table: BlockTable, metric: str) -> VarianceShares:
    """The shares of a fitted column, on the metric's response scale; in a space of any size.

    A column has effects of nodes and of pairs, so that nothing is of higher order. Where it is not
    additive (`BlockEffects.additive`), every network is predicted, and there may be. On a curved
    response scale these are shares of the response; `variance_shares` of `BlockTable.predict_all`
    gives those of the value.

    Raises:
        InvalidInputError: the table does not have the metric, its form divides by MACs, its space
            has depth rules, or it is not additive and there are more than twenty million networks.
    """
    space, column = table.space, table.column(metric)
    _refuse_rules(space)
    if column.power:
        raise InvalidInputError(
            f"shares of a column need effects that add up, but those on {metric} have the form "
            f"{column.form.value}: fit it with the linear form, or use variance_shares() of "
            "predict_all()."
        )
    if not column.additive:
        return variance_shares(space, table.all_responses(metric))
    largest = max(
        float(np.abs(part).max(initial=0.0))
        for part in (column.effects, *(pair.effects for pair in column.pairs))
    )
    unit = largest or 1.0
    single = [part / unit for part in np.split(column.effects, space.offsets[1:-1])]
    parts: dict[tuple[int, ...], float] = {}
    for pair in column.pairs:
        entries = pair.effects / unit
        entries = entries - entries.mean()
        # the means of a pair's rows and columns are what its nodes add by themselves
        rows, columns = entries.mean(axis=1), entries.mean(axis=0)
        single[pair.first] = single[pair.first] + rows
        single[pair.second] = single[pair.second] + columns
        rest = entries - rows[:, None] - columns[None]
        parts[pair.first, pair.second] = float(np.mean(rest**2))
    parts |= {(node,): float(np.var(part)) for node, part in enumerate(single)}
    return _shares(space, sum(parts.values()) * unit**2, parts, 0.0)


def _shares(
    space: SearchSpace, variance: float, parts: Mapping[tuple[int, ...], float], higher: float
) -> VarianceShares:
    """From the variances of the parts, by their nodes and in any unit; `variance` in the metric's.

    Shares are of the parts' sum, which differs from the whole by rounding alone.
    """
    count = space.num_nodes
    main, pairs = np.zeros(count), np.zeros((count, count))
    for nodes, part in parts.items():
        if len(nodes) == 1:
            main[nodes] = part
        else:
            pairs[nodes] = part
    whole = float(main.sum() + pairs.sum() + higher) or 1.0
    return VarianceShares(
        tuple(node.name for node in space.nodes),
        variance,
        main / whole,
        pairs / whole,
        higher / whole,
    )


def _mean_over_others(values: Floats, nodes: tuple[int, ...]) -> Floats:
    """The mean over all nodes but these, in a shape that broadcasts against `values`."""
    others = tuple(node for node in range(values.ndim) if node not in nodes)
    means: Floats = values.mean(axis=others, keepdims=True)
    return means


def _subsets(space: SearchSpace, order: int) -> Iterator[tuple[int, ...]]:
    return itertools.combinations(range(space.num_nodes), order)


def _refuse_rules(space: SearchSpace) -> None:
    if space.depth_rules:
        raise InvalidInputError(
            "shares of the variance need nodes that are chosen independently of one another, but "
            f"{space.name} has {len(space.depth_rules)} depth rules: declare a space of networks "
            "of one depth."
        )
