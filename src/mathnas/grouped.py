"""Coarser spaces: nodes that are groups of another space's nodes, blocks that are their candidates.

The paper's block nodes are stages of several layers, each with a few candidates, of the thousands
of configurations that its layers have. Costs, and effects that were estimated for the layers, are
sums over a group, so that nothing has to be measured again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mathnas._records import Record
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.posterior import Posterior
from mathnas.space import (
    Block,
    BlockNode,
    Floats,
    Indices,
    Network,
    PairCosts,
    SearchSpace,
    network_text,
)
from mathnas.table import BlockEffects, BlockTable, Form, PairEffects

GROUPED = "grouped"
MOST_CANDIDATES = 100_000
_MOST_ENTRIES = 4_000_000  # of the pairs of two groups
_MOST_NUMBERS = 50_000_000  # of a posterior

Groups = Mapping[str, Sequence["int | str"]]
Candidates = Mapping[str, Sequence[Sequence["int | str"]]]


class GroupedSpace(SearchSpace):
    """A space whose nodes are groups of consecutive nodes of a finer one.

    A block is a candidate: a valid choice for all nodes of its group. Its MACs and parameters are
    the sums of its blocks' and of the costs of pairs inside its group (unknown where one is); costs
    of pairs across two groups become those of pairs of candidates; what is fixed stays fixed.
    Features are those of the expanded network; canonical forms and other forms are not carried
    over, because a form of a network need not consist of candidates.

    Args:
        fine: the finer space.
        groups: for each new node, by name and in the order of the network, the fine nodes (indices
            or names). Together they are all fine nodes; nodes of a depth rule share a group.
        candidates: for each group, by name, its candidates: blocks (indices or names), one for each
            of its nodes. A group that is left out has all its valid configurations, at most
            100,000, in the order of `SearchSpace.networks_at`.
        name: of the space.
        reference: a network of candidates (indices or names); by default as in `SearchSpace`.

    Attributes:
        fine: the finer space.
        partition: for each group the indices of its fine nodes.
        candidates: for each group its candidates, block indices of shape (n, nodes of the group).

    Raises:
        InvalidInputError: the groups are no partition into consecutive nodes, a depth rule spans
            several, or candidates are no configurations of their group, twice there, or too many.

    Example:
        >>> import mathnas as mn
        >>> blocks = (mn.Block("k3", macs=1), mn.Block("k5", macs=3))
        >>> fine = mn.SearchSpace([mn.BlockNode(f"layer{i}", blocks) for i in range(3)])
        >>> coarse = mn.GroupedSpace(
        ...     fine,
        ...     {"early": ["layer0", "layer1"], "late": ["layer2"]},
        ...     {"early": [("k3", "k3"), ("k5", "k5")]},
        ... )
        >>> coarse.expand(["k5+k5", "k3"]), coarse.contract((0, 0, 1))
        ((1, 1, 0), (0, 1))
        >>> coarse.macs([(1, 0)]).tolist()
        [7.0]
    """

    def __init__(
        self,
        fine: SearchSpace,
        groups: Groups,
        candidates: Candidates | None = None,
        *,
        name: str | None = None,
        reference: Sequence[int | str] | None = None,
    ) -> None:
        given = candidates or {}
        for group in given:
            if group not in groups:
                raise InvalidInputError(
                    f"candidates are given for groups, {', '.join(groups)}, but got {group!r}."
                )
        self.fine = fine
        self.partition = check_partition(fine, groups)
        self.candidates: tuple[Indices, ...] = tuple(
            _checked(fine, group, nodes, given[group])
            if group in given
            else all_configurations(fine, group, nodes)
            for group, nodes in zip(groups, self.partition, strict=True)
        )
        title = name or f"{fine.name} in {len(groups)} groups"
        super().__init__(
            [
                BlockNode(group, _blocks(fine, nodes, rows))
                for group, nodes, rows in zip(groups, self.partition, self.candidates, strict=True)
            ],
            name=title,
            fixed_macs=fine.fixed_macs,
            fixed_params=fine.fixed_params,
            pair_costs=_pair_costs(fine, self.partition, self.candidates),
            reference=reference,
        )
        self._explicit = frozenset(given)
        self.family = {
            "name": GROUPED,
            "title": title,
            "space": fine.to_dict(),
            "groups": [
                self._group_record(node.name, nodes, rows)
                for node, nodes, rows in zip(
                    self.nodes, self.partition, self.candidates, strict=True
                )
            ],
        }
        if self._given_reference is not None:
            self.family["reference"] = list(self.block_names(self._given_reference))

    def _group_record(self, group: str, nodes: Sequence[int], rows: Indices) -> dict[str, object]:
        own = [self.fine.nodes[node] for node in nodes]
        record: dict[str, object] = {"name": group, "nodes": [node.name for node in own]}
        if group in self._explicit:
            record["candidates"] = [
                [node.blocks[block].name for node, block in zip(own, row, strict=True)]
                for row in rows.tolist()
            ]
        return record

    @classmethod
    def from_family(
        cls,
        family: Mapping[str, object],
        where: str,
        read_space: Callable[[Mapping[str, object]], SearchSpace],
    ) -> GroupedSpace:
        """The space of a ``family`` record.

        Args:
            read_space: makes the finer space of its declaration.

        Raises:
            FileFormatError, InvalidInputError: the record is not that of a grouped space.
        """
        record = Record(family, where)
        record.only("name", "title", "space", "groups", "reference")
        groups, candidates = {}, {}
        for spot, entry in record.items("groups"):
            item = Record(entry, spot)
            item.only("name", "nodes", "candidates")
            name = item.get("name", str)
            if name in groups:
                raise FileFormatError(f"{spot}: the group {name!r} stands twice.")
            groups[name] = item.get("nodes", list)
            if "candidates" in item:
                candidates[name] = item.get("candidates", list)
        return cls(
            read_space(record.get("space", dict)),
            groups,
            candidates,
            name=record.get("title", str),
            reference=record.get("reference", list) if "reference" in record else None,
        )

    # ---- networks ---------------------------------------------------------------------------

    def expand(self, network: Sequence[int | str]) -> Network:
        """The fine network of a network of candidates (indices or names).

        Raises:
            InvalidInputError: it does not belong to this space.
        """
        return tuple(self.expand_many([self.check(network)])[0].tolist())

    def expand_many(self, networks: npt.ArrayLike) -> Indices:
        """As `expand`, for networks of shape (k, groups): shape (k, fine nodes)."""
        chosen = self.check_many(networks)
        fine = np.empty((len(chosen), self.fine.num_nodes), dtype=np.intp)
        for place, (nodes, rows) in enumerate(zip(self.partition, self.candidates, strict=True)):
            fine[:, nodes] = rows[chosen[:, place]]
        return fine

    def contract(self, network: Sequence[int | str]) -> Network:
        """The network of candidates that a fine network is.

        Raises:
            InvalidInputError: it does not belong to the fine space, or what it has in a group is
                none of its candidates.
        """
        return tuple(self.contract_many([self.fine.check(network)])[0].tolist())

    def contract_many(self, networks: npt.ArrayLike) -> Indices:
        """As `contract`, for fine networks of shape (k, fine nodes): shape (k, groups)."""
        fine = self.fine.check_many(networks)
        found = np.empty((len(fine), self.num_nodes), dtype=np.intp)
        for place, (nodes, known) in enumerate(zip(self.partition, self._known, strict=True)):
            rows = list(map(tuple, fine[:, nodes].tolist()))
            try:
                found[:, place] = [known[row] for row in rows]
            except KeyError:
                row = next(row for row in rows if row not in known)
                raise InvalidInputError(
                    f"group {self.nodes[place].name!r} has {self.sizes[place]} candidates, but "
                    f"{self.fine.configuration_name(nodes, row)!r} ({network_text(row)}) is none "
                    "of them: add it, or take a network of candidates."
                ) from None
        return found

    @cached_property
    def _known(self) -> tuple[dict[tuple[int, ...], int], ...]:
        """For each group its candidates' places."""
        return tuple(
            {tuple(row): place for place, row in enumerate(rows.tolist())}
            for rows in self.candidates
        )

    def holds(self, network: Sequence[int | str]) -> bool:
        """Whether a fine network consists of candidates.

        Raises:
            InvalidInputError: it does not belong to the fine space.
        """
        fine = self.fine.check(network)
        return all(
            tuple(fine[node] for node in nodes) in known
            for nodes, known in zip(self.partition, self._known, strict=True)
        )

    @property
    def has_features(self) -> bool:
        """Whether the fine space tells features of networks."""
        return self.fine.has_features

    def features(self, networks: Indices) -> Floats:
        """Features of the expanded networks, shape (k, d)."""
        return self.fine.features(self.expand_many(networks))

    # ---- tables -----------------------------------------------------------------------------

    def table(
        self,
        fine: BlockTable,
        *,
        metrics: Sequence[str] | None = None,
        uncertainty: bool = True,
    ) -> BlockTable:
        """The table of this space that a table of the fine space makes: every network has the
        prediction of its expansion.

        A candidate's effect is the sum of its blocks' effects and of the pairs inside its group;
        pairs across two groups become pairs of candidates. A posterior is a linear map of effects
        and is carried over as exactly; so is a process on features. `spread` is the root of summed
        squares where that gives the fine table's, else unknown; `contexts` are those of the
        candidate's rarest block.

        The reference is the fine table's where it consists of candidates; otherwise it is this
        space's own, with the predicted value as its base. (Effects in a form that divides by MACs
        cannot be moved so: they stay relative to the fine reference.)

        Args:
            fine: a table of the fine space.
            metrics: which to take; by default all.
            uncertainty: whether to take posteriors. They have a row for each candidate, which is
                large where candidates are all configurations.

        Raises:
            InvalidInputError: the table is of another space, a metric is unknown or depends on a
                form of fine networks, or pairs or posteriors would be too large.
        """
        if fine.space != self.fine:
            raise InvalidInputError(
                f"a table of {self.name} comes from one of {self.fine.name}, but got one of "
                f"{fine.space.name}."
            )
        same = self.holds(fine.reference)
        reference = self.contract(fine.reference) if same else self.reference
        names = list(fine.columns) if metrics is None else list(metrics)
        columns = {
            name: self._column(fine, fine.column(name), reference, same, uncertainty)
            for name in names
        }
        provenance = {"from": f"a table of {self.fine.name}", "fine": fine.provenance}
        return BlockTable(self, reference, columns, provenance)

    def _column(
        self,
        table: BlockTable,
        column: BlockEffects,
        reference: Network,
        same: bool,
        uncertainty: bool,
    ) -> BlockEffects:
        if column.process is not None:
            return self._process_column(table, column, reference)
        if not column.additive:
            raise InvalidInputError(
                f"effects on {column.metric.name} belong to blocks of networks in the form "
                f"{column.network_form}, which are not those of candidates: leave the metric out "
                "(metrics=), or fit it to networks as they are written."
            )
        mixing = _Mixing(self, column)
        effects = mixing.summed(column.effects) + mixing.summed_pairs()
        pairs = mixing.crossing()
        base = column.base
        if column.form is Form.LINEAR:
            own = effects[self.offsets[:-1] + np.array(reference)]
            effects = effects - np.repeat(own, self.sizes)
            base = math.fsum([base, *own.tolist()])
        spread = np.full(self.num_blocks, np.nan)
        if same and not column.pairs:
            rows = np.repeat(self.fine.offsets[:-1] + np.array(table.reference), self.fine.sizes)
            others = np.arange(self.fine.num_blocks) != rows
            spread = np.sqrt(mixing.summed(np.where(others, column.spread, 0.0) ** 2))
        posterior = column.posterior if uncertainty else None
        if posterior is not None:
            posterior = mixing.posterior(posterior)
        return BlockEffects(
            column.metric,
            base,
            effects,
            spread,
            mixing.fewest(column.contexts),
            column.form,
            column.conditions,
            column.power or 1.0,
            pairs,
            posterior,
        )

    def _process_column(
        self, table: BlockTable, column: BlockEffects, reference: Network
    ) -> BlockEffects:
        """A process predicts from features; effects only tell what single switches change."""
        switched = np.tile(np.array(reference), (self.num_blocks, 1))
        places = np.repeat(np.arange(self.num_nodes), self.sizes)
        inside = np.arange(self.num_blocks) - self.offsets[places]
        switched[np.arange(self.num_blocks), places] = inside
        name = column.metric.name
        at_reference = table.response(self.expand(reference), name)
        return BlockEffects(
            column.metric,
            at_reference,
            table.responses(self.expand_many(switched), name) - at_reference,
            np.full(self.num_blocks, np.nan),
            np.full(self.num_blocks, np.nan),
            conditions=column.conditions,
            process=column.process,
        )


class _Mixing:
    """What a column's quantities of blocks and pairs are for candidates."""

    def __init__(self, space: GroupedSpace, column: BlockEffects) -> None:
        self.space, self.column = space, column
        self.group_of = {
            node: group for group, nodes in enumerate(space.partition) for node in nodes
        }

    def summed(self, values: Floats) -> Floats:
        """A quantity of blocks, shape (fine blocks, ...), summed over each candidate's."""
        return np.concatenate([values[rows].sum(axis=1) for rows in self._rows()])

    def fewest(self, values: Floats) -> Floats:
        """The least of each candidate's blocks."""
        return np.concatenate([values[rows].min(axis=1) for rows in self._rows()])

    def _rows(self) -> list[Indices]:
        """For each group its candidates' blocks, numbered flat."""
        space = self.space
        return [
            space.fine.offsets[list(nodes)] + rows
            for nodes, rows in zip(space.partition, space.candidates, strict=True)
        ]

    def summed_pairs(self) -> Floats:
        """What pairs inside a group add to each candidate."""
        total = np.zeros(self.space.num_blocks)
        for pair in self.column.pairs:
            group, one, other = self._inside(pair)
            if group is not None:
                total[self._part(group)] += pair.effects[one, other]
        return total

    def crossing(self) -> tuple[PairEffects, ...]:
        """Pairs across two groups, as pairs of candidates."""
        found: dict[tuple[int, int], Floats] = {}
        for pair in self.column.pairs:
            key, (one, other) = self._across(pair)
            if key[0] == key[1]:
                continue
            if len(one) * len(other) > _MOST_ENTRIES:
                names = [self.space.nodes[group].name for group in key]
                raise InvalidInputError(
                    f"two groups that interact have at most {_MOST_ENTRIES} pairs of candidates, "
                    f"but {names[0]} and {names[1]} have {len(one)} x {len(other)} of them for "
                    f"{self.column.metric.name}: give fewer candidates, or leave the metric out "
                    "(metrics=)."
                )
            effects = pair.effects[np.ix_(one, other)]
            found[key] = found[key] + effects if key in found else effects
        return tuple(PairEffects(*key, effects) for key, effects in found.items())

    def posterior(self, old: Posterior) -> Posterior:
        """The posterior of candidates' effects and of the entries of `crossing`."""
        space, rank = self.space, old.factor.shape[1]
        crossing: dict[tuple[int, int], Floats] = {}
        entries = space.num_blocks + sum(
            len(space.candidates[a]) * len(space.candidates[b])
            for a, b in {self._across(pair)[0] for pair in self.column.pairs}
            if a != b
        )
        if entries * rank > _MOST_NUMBERS:
            raise InvalidInputError(
                f"what is known of the errors of {self.column.metric.name} would take {entries} x "
                f"{rank} numbers, more than {_MOST_NUMBERS}: give fewer candidates, or leave it "
                "out (uncertainty=False)."
            )
        factor = self.summed(old.factor[: space.fine.num_blocks])
        start = space.fine.num_blocks
        for pair in self.column.pairs:
            part = old.factor[start : start + pair.effects.size]
            part = part.reshape(*pair.effects.shape, rank)
            start += pair.effects.size
            group, one, other = self._inside(pair)
            if group is not None:
                factor[self._part(group)] += part[one, other]
                continue
            key, (one, other) = self._across(pair)
            rows = part[np.ix_(one, other)].reshape(-1, rank)
            crossing[key] = crossing[key] + rows if key in crossing else rows
        return Posterior(
            np.concatenate([factor, *crossing.values()]),
            old.centre,
            old.constant,
            old.noise,
            old.noise_at,
        )

    def _part(self, group: int) -> slice:
        return slice(*self.space.offsets[group : group + 2].tolist())

    def _across(self, pair: PairEffects) -> tuple[tuple[int, int], tuple[Indices, Indices]]:
        """The groups of a pair's nodes, and the blocks that their candidates have there."""
        places = []
        for node in (pair.first, pair.second):
            group = self.group_of[node]
            inside = self.space.partition[group].index(node)
            places.append((group, self.space.candidates[group][:, inside]))
        (first, one), (second, other) = places
        return (first, second), (one, other)

    def _inside(self, pair: PairEffects) -> tuple[int | None, Indices, Indices]:
        """The group that both nodes of a pair are in, or None, and the candidates' blocks."""
        (first, second), (one, other) = self._across(pair)
        return (first if first == second else None), one, other


def check_partition(space: SearchSpace, groups: Groups) -> tuple[tuple[int, ...], ...]:
    """The node indices of each group.

    Raises:
        InvalidInputError: the groups are not a partition into consecutive nodes, in the order of
            the network, that keeps depth rules together.
    """
    if not isinstance(groups, Mapping):
        raise InvalidInputError(
            f"groups are a mapping of names to nodes, but got {type(groups).__name__}."
        )
    for name, members in groups.items():
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise InvalidInputError(
                f"a group lists its nodes, at least one, but {name!r} has {members!r}."
            )
    found = tuple(
        tuple(space.node_index(_node(name, node)) for node in members)
        for name, members in groups.items()
    )
    order = [node for nodes in found for node in nodes]
    if order != list(range(space.num_nodes)):
        wrong = next((place for place, node in enumerate(order) if node != place), len(order))
        expected = space.nodes[wrong].name if wrong < space.num_nodes else "no further node"
        got = space.nodes[order[wrong]].name if wrong < len(order) else "the end"
        raise InvalidInputError(
            f"groups are consecutive nodes and together all nodes of {space.name} in their order, "
            f"but where {expected!r} comes next the groups have {got!r}."
        )
    group_of = {node: name for name, nodes in zip(groups, found, strict=True) for node in nodes}
    for rule in space.depth_rules:
        names = list(dict.fromkeys(group_of[node] for node in rule.nodes))
        if len(names) > 1:
            raise InvalidInputError(
                f"optional nodes of one depth rule share a group, but "
                f"{space.nodes[rule.nodes[0]].name!r} is in {names[0]!r} and its rule goes on in "
                f"{names[1]!r}."
            )
    return found


def _node(group: str, node: object) -> int | str:
    if isinstance(node, bool) or not isinstance(node, (int, str, np.integer)):
        raise InvalidInputError(
            f"a group lists nodes by index or name, but {group!r} has {node!r}."
        )
    return node if isinstance(node, str) else int(node)


def all_configurations(space: SearchSpace, name: str, nodes: Sequence[int]) -> Indices:
    """Every valid choice for the nodes of a group, shape (n, nodes), the last varying fastest.

    Raises:
        InvalidInputError: there are more than 100,000.
    """
    parts = [part for part in space.groups if part.nodes[0] in nodes]
    count = math.prod(part.count for part in parts)
    if count > MOST_CANDIDATES:
        raise InvalidInputError(
            f"a group takes all its configurations up to {MOST_CANDIDATES}, but {name!r} has "
            f"{count}: give its candidates, or make smaller groups."
        )
    numbers = np.arange(count)
    found = np.empty((count, len(nodes)), dtype=np.intp)
    for part in reversed(parts):
        numbers, choice = np.divmod(numbers, part.count)
        found[:, [node - nodes[0] for node in part.nodes]] = part.configurations[choice]
    return found


def _checked(
    space: SearchSpace,
    name: str,
    nodes: Sequence[int],
    candidates: Sequence[Sequence[int | str]],
) -> Indices:
    """Candidates of a group as block indices."""
    if isinstance(candidates, str) or not isinstance(candidates, (Sequence, np.ndarray)):
        raise InvalidInputError(
            f"candidates of a group are a list, but {name!r} has {candidates!r}."
        )
    if not 1 <= len(candidates) <= MOST_CANDIDATES:
        raise InvalidInputError(
            f"a group has 1 to {MOST_CANDIDATES} candidates, but {name!r} has {len(candidates)}."
        )
    # any valid network around a candidate shows whether the candidate is valid
    around = list(space.reference)
    rows = []
    for candidate in candidates:
        if isinstance(candidate, str) or len(candidate) != len(nodes):
            raise InvalidInputError(
                f"a candidate has one block for each of the {len(nodes)} nodes of its group, but "
                f"{name!r} has {candidate!r}."
            )
        network: list[int | str] = [*around]
        network[nodes[0] : nodes[-1] + 1] = list(candidate)
        try:
            chosen = space.check(network)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"candidate {candidate!r} of group {name!r}: {error}"
            ) from error
        rows.append([chosen[node] for node in nodes])
    return np.array(rows, dtype=np.intp)


def _blocks(space: SearchSpace, nodes: tuple[int, ...], rows: Indices) -> tuple[Block, ...]:
    """Candidates as blocks with summed costs."""
    flat = space.offsets[list(nodes)] + rows
    costs = []
    for name, values in (("macs", space.block_macs), ("params", space.block_params)):
        if values is None:
            costs.append([None] * len(rows))
            continue
        total = values[flat].sum(axis=1)
        for pair in space.pair_costs:
            own = getattr(pair, name)
            if own is not None and pair.first in nodes and pair.second in nodes:
                total += own[rows[:, nodes.index(pair.first)], rows[:, nodes.index(pair.second)]]
        costs.append(total.tolist())
    return tuple(
        Block(space.configuration_name(nodes, row), macs, params)
        for row, macs, params in zip(rows.tolist(), *costs, strict=True)
    )


def _pair_costs(
    space: SearchSpace, partition: Sequence[tuple[int, ...]], candidates: Sequence[Indices]
) -> list[PairCosts]:
    """Costs of pairs across two groups, as those of pairs of candidates."""
    place = {node: group for group, nodes in enumerate(partition) for node in nodes}

    def blocks(node: int) -> Indices:
        """The block of a node that each candidate of its group has."""
        return candidates[place[node]][:, partition[place[node]].index(node)]

    found: dict[tuple[int, int], dict[str, Floats]] = {}
    for pair in space.pair_costs:
        key = (place[pair.first], place[pair.second])
        if key[0] == key[1]:
            continue
        one, other = blocks(pair.first), blocks(pair.second)
        if len(one) * len(other) > _MOST_ENTRIES:
            raise InvalidInputError(
                f"two groups that cost more together have at most {_MOST_ENTRIES} pairs of "
                f"candidates, but {len(one)} x {len(other)} are there: give fewer candidates."
            )
        own = found.setdefault(key, {})
        for name, costs in (("macs", pair.macs), ("params", pair.params)):
            if costs is not None:
                own[name] = own.get(name, 0.0) + costs[np.ix_(one, other)]
    return [
        PairCosts(*key, macs=costs.get("macs"), params=costs.get("params"))
        for key, costs in found.items()
    ]
