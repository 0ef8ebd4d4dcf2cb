"""Modular search spaces: block nodes, their alternative blocks, and networks.

A *network* is a tuple of block indices, one a node. Arrays of networks have shape ``(k, m)``.
Per-block quantities are flat arrays of length ``num_blocks``: the blocks of node i are the slice
``offsets[i]:offsets[i + 1]``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas._records import Record, check_header, is_number, read_json, write_json
from mathnas.errors import FileFormatError, InvalidInputError

Network: TypeAlias = tuple[int, ...]
Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

AS_WRITTEN = "as-written"  # the form of a network that is the network itself
SPACE_FORMAT = "mathnas-space"
SPACE_VERSION = 1
_MOST_ENUMERATED = 20_000_000
_CHUNK = 4096
_PAIR_COSTS = ("macs", "params")


@dataclass(frozen=True, slots=True)
class Block:
    """One alternative of a block node.

    Attributes:
        name: unique within its node.
        macs: multiply-accumulates that it adds to a network, where known.
        params: parameters that it adds to a network, where known.
    """

    name: str
    macs: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInputError("a block's name must not be empty: name it.")
        for field, value in (("macs", self.macs), ("params", self.params)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(
                    f"{field} must be finite and at least 0, but block {self.name!r} has {value}: "
                    "leave it out where it is unknown."
                )
            if value is not None:
                object.__setattr__(self, field, float(value))


@dataclass(frozen=True, slots=True)
class BlockNode:
    """A place in the network that takes one of its blocks."""

    name: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.name:
            raise InvalidInputError("a node's name must not be empty: name it.")
        if not self.blocks:
            raise InvalidInputError(f"a node needs at least one block, but {self.name!r} has none.")
        _check_unique([block.name for block in self.blocks], f"blocks of node {self.name!r}")

    def index(self, block: str) -> int:
        """The index of the block with this name; raises `InvalidInputError` where there is none."""
        names = [candidate.name for candidate in self.blocks]
        if block not in names:
            raise InvalidInputError(
                f"node {self.name!r} has no block {block!r}{_suggest(block, names)}"
            )
        return names.index(block)


@dataclass(frozen=True, slots=True)
class DepthRule:
    """Nodes that end a stage: where one is absent, all later ones of the rule are absent too.

    Attributes:
        nodes: node indices in their order in the network.
        absent: for each of them, the index of the block that stands for "no layer here".
    """

    nodes: tuple[int, ...]
    absent: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PairCosts:
    """What two nodes cost together, beyond what their blocks cost each by itself.

    A block whose input another node chooses has such costs: the wider its input, the more MACs.

    Attributes:
        first, second: node indices, ``first < second``, in no depth rule.
        macs, params: shape (blocks of `first`, blocks of `second`), finite; the chosen blocks'
            entry is added to the sums over blocks, and may be negative. None where there is none.

    Raises:
        InvalidInputError: the nodes are not in order, or the costs are not a finite matrix.
    """

    first: int
    second: int
    macs: Floats | None = None
    params: Floats | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.second:
            raise InvalidInputError(
                "a pair names its nodes in their order in the network, first < second, but got "
                f"first={self.first}, second={self.second}: swap them and transpose the costs."
            )
        for field in _PAIR_COSTS:
            given = getattr(self, field)
            if given is None:
                continue
            costs = np.ascontiguousarray(given, dtype=np.float64)
            if costs.ndim != 2 or not np.isfinite(costs).all():
                raise InvalidInputError(
                    f"the {field} of a pair are a matrix of finite numbers (blocks of the first "
                    f"node x blocks of the second), but nodes {self.first} and {self.second} got "
                    f"an array of shape {costs.shape}, or numbers that are not finite."
                )
            object.__setattr__(self, field, costs)


class SearchSpace:
    """m block nodes with n_i alternative blocks each.

    Args:
        nodes: the block nodes.
        name: printed, and stored with studies and tables.
        fixed_macs, fixed_params: cost of what every network has (stem, head), where known.
        reference: a network that relative limits and predictions may start from; by default the
            average-FLOPs network where MACs are known, otherwise the first blocks.
        depth_rules: optional nodes (see `DepthRule`); rules must not share nodes.
        pair_costs: MACs and parameters that are no sums over blocks (see `PairCosts`), at most one
            entry for each two nodes.
        canonical: maps a network to the representative of those that compute the same function.
        forms: further forms of a network, by name: what a metric may depend on instead of the
            network as it is written. Each maps networks of shape (k, m) to valid networks of the
            same shape.
        features: what else tells networks apart, for models in which blocks do not add up: maps
            networks of shape (k, m) to finite numbers of shape (k, d).
        family: how `mathnas.spaces` builds this space again (name and arguments); JSON values.

    Raises:
        InvalidInputError: names are not unique, or the reference, a rule or the costs of a pair do
            not fit the nodes.
    """

    def __init__(
        self,
        nodes: Sequence[BlockNode],
        *,
        name: str = "space",
        fixed_macs: float | None = None,
        fixed_params: float | None = None,
        reference: Sequence[int | str] | None = None,
        depth_rules: Sequence[DepthRule] = (),
        pair_costs: Sequence[PairCosts] = (),
        canonical: Callable[[Network], Network] | None = None,
        forms: Mapping[str, Callable[[Indices], Indices]] | None = None,
        features: Callable[[Indices], Floats] | None = None,
        family: Mapping[str, object] | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.name = name
        if not self.nodes:
            raise InvalidInputError("a search space needs at least one node, but got none.")
        _check_unique([node.name for node in self.nodes], "nodes")
        # the same rules for what is fixed as for a block
        fixed = Block("fixed part", fixed_macs, fixed_params)
        self.fixed_macs = fixed.macs
        self.fixed_params = fixed.params
        self.depth_rules = tuple(depth_rules)
        self.family = dict(family) if family is not None else None
        self._canonical = canonical
        self._forms = dict(forms or {})
        if AS_WRITTEN in self._forms:
            raise InvalidInputError(
                f"the form {AS_WRITTEN!r} is the network itself: give the other form another name."
            )
        self._features = features
        self.sizes: tuple[int, ...] = tuple(len(node.blocks) for node in self.nodes)
        self.offsets: Indices = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.intp)
        self._check_rules()
        self.pair_costs = tuple(pair_costs)
        self._check_pair_costs()
        self._given_reference = None if reference is None else self.check(reference)

    # ---- size -------------------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @property
    def num_blocks(self) -> int:
        """Sum of n_i."""
        return int(self.offsets[-1])

    @cached_property
    def num_networks(self) -> int:
        """How many distinct valid networks there are, exactly."""
        return math.prod(group.count for group in self.groups)

    def __repr__(self) -> str:
        return (
            f"SearchSpace({self.name!r}: {self.num_nodes} nodes, {self.num_blocks} blocks, "
            f"{_count(self.num_networks)} networks)"
        )

    # ---- networks ---------------------------------------------------------------------------

    def check(self, network: Sequence[int | str]) -> Network:
        """`network` as a tuple of block indices; blocks may be given by index or by name.

        Raises:
            InvalidInputError: wrong length, index out of range, unknown block, or a broken depth
                rule.
        """
        if isinstance(network, str) or not isinstance(network, (Sequence, np.ndarray)):
            raise InvalidInputError(
                f"a network is a tuple of block indices or names, but got {network!r}: "
                "parse() reads a text, check_many() takes several networks."
            )
        if len(network) != self.num_nodes:
            raise InvalidInputError(
                f"a network of {self.name} has one block for each of its {self.num_nodes} nodes, "
                f"but got {len(network)}: {_shown(network)}."
            )
        chosen = []
        for node, block in zip(self.nodes, network, strict=True):
            if isinstance(block, str):
                chosen.append(node.index(block))
                continue
            if isinstance(block, bool) or not isinstance(block, (int, np.integer)):
                raise InvalidInputError(
                    f"a network holds block indices or names, but node {node.name!r} got {block!r}."
                )
            if not 0 <= block < len(node.blocks):
                raise InvalidInputError(
                    f"node {node.name!r} has blocks 0 to {len(node.blocks) - 1}, but got {block}."
                )
            chosen.append(int(block))
        for rule in self.depth_rules:
            members = zip(rule.nodes, rule.absent, strict=True)
            gone = [chosen[node] == absent for node, absent in members]
            if gone != sorted(gone):
                first = self.nodes[rule.nodes[gone.index(True)]].name
                raise InvalidInputError(
                    f"where an optional node is absent all later ones of its stage are, but "
                    f"{first!r} is absent and a later one is not: {_shown(chosen)}."
                )
        return tuple(chosen)

    def check_many(self, networks: npt.ArrayLike | Sequence[Sequence[int]]) -> Indices:
        """An array of networks, shape (k, m), after the checks of `check`."""
        return self.check_array(networks).astype(np.intp, copy=False)

    def check_array(
        self, networks: npt.ArrayLike | Sequence[Sequence[int]]
    ) -> npt.NDArray[np.integer]:
        """As `check_many`, but an array of integers is returned as it is, whatever their width."""
        try:
            array = np.asarray(networks)
        except ValueError:  # rows of different lengths: `check` says which
            array = np.empty((1, 0), dtype=object)
        if array.ndim != 2 or array.shape[1] != self.num_nodes or array.dtype.kind not in "iu":
            if array.size == 0 or (array.ndim == 2 and array.dtype.kind in "OU"):
                rows = [self.check(row) for row in networks]  # type: ignore[union-attr,arg-type]
                return np.array(rows, dtype=np.intp).reshape(-1, self.num_nodes)
            hint = ": write a single network as [network]" if array.ndim == 1 else ""
            raise InvalidInputError(
                f"networks of {self.name} are integers of shape (k, {self.num_nodes}), "
                f"but got {array.dtype} of shape {array.shape}{hint}."
            )
        largest = np.array(self.sizes) - 1
        fewest = int(largest.min())
        for start in range(0, len(array), _CHUNK):  # a chunk stays in the cache
            part = array[start : start + _CHUNK]
            # the largest index of all is cheap, and enough where nodes have equally many blocks
            outside = part.min() < 0 or (
                part.max() > fewest and bool((part.max(axis=0) > largest).any())
            )
            if outside or self._broken_rules(part).any():
                bad = ((part < 0) | (part > largest)).any(axis=1) | self._broken_rules(part)
                self.check([int(block) for block in part[int(np.argmax(bad))]])
        return array

    def node_index(self, node: int | str) -> int:
        """The index of a node given by index or name; raises `InvalidInputError` for others."""
        names = [own.name for own in self.nodes]
        if isinstance(node, str):
            if node not in names:
                raise InvalidInputError(f"{self.name} has no node {node!r}{_suggest(node, names)}")
            return names.index(node)
        if not 0 <= node < self.num_nodes:
            raise InvalidInputError(
                f"nodes of {self.name} go from 0 to {self.num_nodes - 1}, but got {node}."
            )
        return int(node)

    def place_of(self, flat: int) -> tuple[int, int]:
        """The node and block indices of a flat block number, 0 to num_blocks - 1."""
        node = int(np.searchsorted(self.offsets, flat, side="right")) - 1
        return node, flat - int(self.offsets[node])

    def parse(self, text: str) -> Network:
        """A network written as ``3,0,2`` or as block names separated by commas."""
        parts = [part.strip() for part in text.split(",")]
        return self.check([int(part) if _is_integer(part) else part for part in parts])

    def block_names(self, network: Sequence[int]) -> tuple[str, ...]:
        return tuple(
            node.blocks[block].name for node, block in zip(self.nodes, network, strict=True)
        )

    def blocks_by_node(self, network: Sequence[int]) -> dict[str, str]:
        """Block names by node name."""
        names = (node.name for node in self.nodes)
        return dict(zip(names, self.block_names(network), strict=True))

    @property
    def partitions(self) -> Mapping[str, Mapping[str, Sequence[int]]]:
        """Usual groups of consecutive nodes for coarser spaces, by the partition's name."""
        return {}

    def configuration_name(self, nodes: Sequence[int], blocks: Sequence[int]) -> str:
        """What a choice for some of the nodes is called, as one block of a coarser space."""
        return "+".join(
            self.nodes[node].blocks[block].name for node, block in zip(nodes, blocks, strict=True)
        )

    def canonical(self, network: Network) -> Network:
        """The representative of the networks that compute the same function as `network`."""
        return self._canonical(network) if self._canonical is not None else network

    @property
    def forms(self) -> tuple[str, ...]:
        """The names of a network's forms, ``as-written`` first."""
        return (AS_WRITTEN, *self._forms)

    def formed(self, networks: Indices, form: str) -> Indices:
        """Networks of shape (k, m) in a form; same shape.

        Raises:
            InvalidInputError: the space has no such form.
        """
        if form == AS_WRITTEN:
            return networks
        if form not in self._forms:
            raise InvalidInputError(
                f"{self.name} has the forms {', '.join(self.forms)}, but got {form!r}: a table or "
                "space that was read from a file gets the forms of its family by "
                "mathnas.spaces.restore."
            )
        return self._forms[form](networks.astype(np.intp, copy=False))

    @property
    def has_features(self) -> bool:
        """Whether the space tells features of networks."""
        return self._features is not None

    def features(self, networks: Indices) -> Floats:
        """Features of networks of shape (k, m): shape (k, d).

        Raises:
            InvalidInputError: the space has none.
        """
        if self._features is None:
            raise InvalidInputError(
                f"{self.name} tells no features of networks: declare the space with features=, or "
                "get those of its family by mathnas.spaces.restore."
            )
        return self._features(networks.astype(np.intp, copy=False))

    def with_block(self, network: Network, node: int, block: int) -> Network:
        """`network` with one node switched; a depth rule makes the later nodes absent too.

        Raises:
            InvalidInputError: the switch needs an earlier optional node that is absent.
        """
        switched = list(network)
        switched[node] = block
        for rule in self.depth_rules:
            if node in rule.nodes and block == rule.absent[rule.nodes.index(node)]:
                start = rule.nodes.index(node)
                for later, absent in zip(rule.nodes[start:], rule.absent[start:], strict=True):
                    switched[later] = absent
        return self.check(switched)

    @cached_property
    def reference(self) -> Network:
        """The declared reference; else the average-FLOPs network; else the first blocks."""
        if self._given_reference is not None:
            return self._given_reference
        return self.average_macs_network() if self.block_macs is not None else (0,) * self.num_nodes

    def average_macs_network(self) -> Network:
        """Algorithm 1, stage 1: per node the block with MACs closest to the node's mean.

        Ties go to the lowest index. Where that leaves a gap in a stage of optional nodes, the stage
        takes the depth with the smallest sum of these distances instead.

        Raises:
            InvalidInputError: MACs are not known for every block.
        """
        macs = self.require_macs("the average-FLOPs network")
        # math.fsum: equal blocks must tie exactly, whatever the order of summation
        distances = [
            np.abs(own - math.fsum(own) / len(own)) for own in np.split(macs, self.offsets[1:-1])
        ]
        chosen = [int(np.argmin(own)) for own in distances]
        for rule in self.depth_rules:
            members = zip(rule.nodes, rule.absent, strict=True)
            gone = [chosen[node] == absent for node, absent in members]
            if gone != sorted(gone):
                closest = _closest_depth(rule, [distances[node] for node in rule.nodes])
                for node, block in zip(rule.nodes, closest, strict=True):
                    chosen[node] = block
        return self.check(chosen)

    # ---- enumeration and sampling -----------------------------------------------------------

    def networks_at(self, indices: npt.ArrayLike) -> Indices:
        """The networks with these numbers (0 to num_networks - 1), shape (k, m).

        Without depth rules the order is lexicographic: the last node varies fastest.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if self.num_networks > np.iinfo(np.int64).max:
            raise InvalidInputError(
                f"networks are numbered only up to 2^63, but {self.name} has "
                f"{_count(self.num_networks)}: use sample() instead."
            )
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.num_networks):
            raise InvalidInputError(
                f"network numbers of {self.name} go from 0 to {self.num_networks - 1}, "
                f"but got {numbers.min()} to {numbers.max()}."
            )
        networks = np.empty((len(numbers), self.num_nodes), dtype=np.intp)
        for group in reversed(self.groups):
            numbers, choice = np.divmod(numbers, group.count)
            networks[:, group.nodes] = group.configurations[choice]
        return networks

    def all_networks(self) -> Indices:
        """Every network, shape (num_networks, m); refused for more than 20 million."""
        if self.num_networks > _MOST_ENUMERATED:
            raise InvalidInputError(
                f"at most {_MOST_ENUMERATED} networks are enumerated at once, but {self.name} has "
                f"{_count(self.num_networks)}: iterate with enumerate(), or use sample()."
            )
        return self.networks_at(np.arange(self.num_networks))

    def enumerate(self) -> Iterator[Network]:
        """Every network in the order of `networks_at`, made as it is asked for."""
        for start in range(0, self.num_networks, 4096):
            stop = min(start + 4096, self.num_networks)
            yield from map(tuple, self.networks_at(np.arange(start, stop)).tolist())

    def sample(
        self, count: int, *, seed: int | np.random.Generator = 0, distinct: bool = True
    ) -> list[Network]:
        """Random networks, uniform over the valid ones.

        Raises:
            InvalidInputError: more distinct networks are asked for than there are.
        """
        if count < 0 or (distinct and count > self.num_networks):
            raise InvalidInputError(
                f"{self.name} has {self.num_networks} distinct networks, but {count} were asked "
                "for: ask for fewer, or set distinct=False."
            )
        rng = np.random.default_rng(seed)
        if distinct and self.num_networks <= max(4 * count, 1_000_000):
            numbers = rng.choice(self.num_networks, count, replace=False)
            return [tuple(row) for row in self.networks_at(numbers).tolist()]
        if not distinct:
            return [tuple(row) for row in self._draw(count, rng).tolist()]
        found: dict[Network, None] = {}
        while len(found) < count:
            for row in self._draw(count - len(found), rng).tolist():
                found.setdefault(tuple(row))
        return list(found)

    def _draw(self, count: int, rng: np.random.Generator) -> Indices:
        networks = np.empty((count, self.num_nodes), dtype=np.intp)
        for group in self.groups:
            group.draw(networks, rng)
        return networks

    # ---- MACs and parameters ----------------------------------------------------------------

    @cached_property
    def block_macs(self) -> Floats | None:
        """MACs of every block, flat; None where one is unknown."""
        return self._costs([block.macs for node in self.nodes for block in node.blocks])

    @cached_property
    def block_params(self) -> Floats | None:
        """Parameters of every block, flat; None where one is unknown."""
        return self._costs([block.params for node in self.nodes for block in node.blocks])

    def require_macs(self, purpose: str) -> Floats:
        """Block MACs, or `InvalidInputError` naming the first node that lacks them."""
        if self.block_macs is not None:
            return self.block_macs
        node, block = next(
            (node, block) for node in self.nodes for block in node.blocks if block.macs is None
        )
        raise InvalidInputError(
            f"{purpose} needs the MACs of every block, but block {block.name!r} of node "
            f"{node.name!r} has none: give them, or name another context network."
        )

    def macs(self, networks: npt.ArrayLike) -> Floats:
        """MACs of networks of shape (k, m), fixed part included where it is known."""
        chosen = self.check_many(networks)
        total = self.additive_macs(chosen)
        for pair in self.pair_costs:
            if pair.macs is not None:
                total += pair.macs[chosen[:, pair.first], chosen[:, pair.second]]
        return total

    def additive_macs(self, networks: npt.ArrayLike) -> Floats:
        """As `macs`, but without what pairs of nodes cost: the F(N) that forms of effects divide
        by, since programs need it as a sum over blocks."""
        macs = self.require_macs("counting MACs")
        rows = self.check_many(networks) + self.offsets[:-1]
        return np.asarray(macs[rows].sum(axis=1) + (self.fixed_macs or 0.0))

    def params(self, networks: npt.ArrayLike) -> Floats:
        """Parameters of networks of shape (k, m), fixed part included where it is known.

        Raises:
            InvalidInputError: those of a block are unknown.
        """
        if self.block_params is None:
            raise InvalidInputError(
                f"counting parameters needs those of every block, but {self.name} does not say how "
                "many parameters its blocks have: declare them (params=)."
            )
        chosen = self.check_many(networks)
        rows = chosen + self.offsets[:-1]
        total = np.asarray(self.block_params[rows].sum(axis=1) + (self.fixed_params or 0.0))
        for pair in self.pair_costs:
            if pair.params is not None:
                total += pair.params[chosen[:, pair.first], chosen[:, pair.second]]
        return total

    def mean_macs(self) -> float:
        """Mean MACs over all valid networks."""
        pairs = [float(pair.macs.mean()) for pair in self.pair_costs if pair.macs is not None]
        return math.fsum([self.fixed_macs or 0.0, *(g.mean(self) for g in self.groups), *pairs])

    def mean_macs_with_block(self) -> Floats:
        """For every block, the mean MACs of the valid networks that hold it (Eq. 4), flat."""
        macs = self.require_macs("mean MACs")
        total = self.mean_macs()
        means = np.empty(len(macs))
        for group in self.groups:
            group.fill_means(self, total - group.mean(self), means)
        for pair in self.pair_costs:
            if pair.macs is not None:
                for node, axis in ((pair.first, 1), (pair.second, 0)):
                    own = slice(self.offsets[node], self.offsets[node + 1])
                    means[own] += pair.macs.mean(axis=axis) - pair.macs.mean()
        return means

    # ---- files ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """The JSON form; see ``docs/spaces.md``."""
        record: dict[str, object] = {
            "format": SPACE_FORMAT,
            "version": SPACE_VERSION,
            "name": self.name,
            "nodes": [
                {"name": node.name, "blocks": [_block_record(block) for block in node.blocks]}
                for node in self.nodes
            ],
        }
        for key, value in (("fixed_macs", self.fixed_macs), ("fixed_params", self.fixed_params)):
            if value is not None:
                record[key] = value
        if self._given_reference is not None:
            record["reference"] = list(self.block_names(self._given_reference))
        if self.depth_rules:
            record["depth_rules"] = [
                [
                    {"node": self.nodes[node].name, "absent": self.nodes[node].blocks[absent].name}
                    for node, absent in zip(rule.nodes, rule.absent, strict=True)
                ]
                for rule in self.depth_rules
            ]
        if self.pair_costs:
            record["pair_costs"] = [self._pair_record(pair) for pair in self.pair_costs]
        if self.family is not None:
            record["family"] = self.family
        return record

    @staticmethod
    def from_dict(value: object, where: str = "space") -> SearchSpace:
        """The space that `to_dict` describes; without its `canonical`, which is code.

        `mathnas.spaces.restore` also brings the canonical form of the spaces that it knows.
        """
        return _from_record(check_header(value, SPACE_FORMAT, SPACE_VERSION, where))

    @staticmethod
    def load(path: str | Path) -> SearchSpace:
        """Read a space from its JSON file.

        Raises:
            FileFormatError: the file is missing, damaged, foreign or newer.
            InvalidInputError: what it declares is not a space.
        """
        return _from_record(read_json(Path(path), SPACE_FORMAT, SPACE_VERSION))

    def save(self, path: str | Path) -> None:
        """Write the space as JSON, whole or not at all."""
        write_json(Path(path), self.to_dict())

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the declaration: equal for spaces that mean the same by a network."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    # ---- inside -----------------------------------------------------------------------------

    @cached_property
    def groups(self) -> tuple[NodeGroup, ...]:
        """Nodes that are chosen independently of one another: one node, or one depth rule's."""
        ruled = {rule.nodes[0]: rule for rule in self.depth_rules}
        members = {node for rule in self.depth_rules for node in rule.nodes}
        groups = []
        for node in range(self.num_nodes):
            if node in ruled:
                rule = ruled[node]
                sizes = tuple(self.sizes[i] for i in rule.nodes)
                groups.append(NodeGroup(rule.nodes, sizes, rule.absent))
            elif node not in members:
                groups.append(NodeGroup((node,), (self.sizes[node],), None))
        return tuple(groups)

    def _check_rules(self) -> None:
        seen: set[int] = set()
        for rule in self.depth_rules:
            if len(rule.nodes) != len(rule.absent) or not rule.nodes:
                raise InvalidInputError(
                    f"a depth rule names one absent block for each of its nodes, but got {rule}."
                )
            if list(rule.nodes) != sorted(set(rule.nodes)) or seen & set(rule.nodes):
                raise InvalidInputError(
                    f"the nodes of depth rules are in network order and in one rule each, "
                    f"but got {rule}."
                )
            for node, absent in zip(rule.nodes, rule.absent, strict=True):
                if not (0 <= node < self.num_nodes and 0 <= absent < self.sizes[node]):
                    raise InvalidInputError(f"a depth rule names nodes and blocks, but got {rule}.")
                if self.sizes[node] == 1:
                    raise InvalidInputError(
                        f"a node of a depth rule has a block besides the absent one, but "
                        f"{self.nodes[node].name!r} has only the absent one: leave the node out."
                    )
            seen |= set(rule.nodes)

    def _check_pair_costs(self) -> None:
        ruled = {node for rule in self.depth_rules for node in rule.nodes}
        seen: set[tuple[int, int]] = set()
        for pair in self.pair_costs:
            nodes = (pair.first, pair.second)
            if pair.second >= self.num_nodes or ruled.intersection(nodes):
                raise InvalidInputError(
                    f"costs of a pair are about two of the {self.num_nodes} nodes that belong to "
                    f"no depth rule, but got nodes {pair.first} and {pair.second}."
                )
            sizes = (self.sizes[pair.first], self.sizes[pair.second])
            for field in _PAIR_COSTS:
                costs = getattr(pair, field)
                if costs is not None and costs.shape != sizes:
                    raise InvalidInputError(
                        f"the {field} of nodes {pair.first} and {pair.second} have the shape "
                        f"{sizes}, one entry for each two blocks, but got {costs.shape}."
                    )
            if nodes in seen:
                raise InvalidInputError(
                    f"two nodes have one entry of costs, but nodes {pair.first} and {pair.second} "
                    "have several: add them up."
                )
            seen.add(nodes)

    def _pair_record(self, pair: PairCosts) -> dict[str, object]:
        known = {field: getattr(pair, field) for field in _PAIR_COSTS}
        return {
            "first": self.nodes[pair.first].name,
            "second": self.nodes[pair.second].name,
            **{field: costs.tolist() for field, costs in known.items() if costs is not None},
        }

    def _broken_rules(self, networks: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        broken = np.zeros(len(networks), dtype=bool)
        for rule in self.depth_rules:
            gone = networks[:, rule.nodes] == np.array(rule.absent)
            broken |= (gone[:, :-1] & ~gone[:, 1:]).any(axis=1)
        return broken

    def _costs(self, values: Sequence[float | None]) -> Floats | None:
        if any(value is None for value in values):
            return None
        return np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class NodeGroup:
    """Nodes whose blocks are chosen together: a single node, or the nodes of a depth rule.

    A configuration is one valid choice for all of them.
    """

    nodes: tuple[int, ...]
    sizes: tuple[int, ...]
    absent: tuple[int, ...] | None

    @cached_property
    def count(self) -> int:
        """How many configurations there are."""
        return self.sizes[0] if self.absent is None else sum(self._of_depth)

    @cached_property
    def _of_depth(self) -> list[int]:
        """For depth 0, 1, ...: the configurations in which exactly that many nodes are present."""
        counts = [1]
        for size in self.sizes:
            counts.append(counts[-1] * (size - 1))
        return counts

    @cached_property
    def configurations(self) -> Indices:
        """Every configuration, shape (count, len(nodes))."""
        if self.count > _MOST_ENUMERATED:
            raise InvalidInputError(
                f"a depth rule over {len(self.nodes)} nodes has {_count(self.count)} "
                f"configurations; at most {_MOST_ENUMERATED} are listed."
            )
        if self.absent is None:
            return np.arange(self.sizes[0])[:, None]
        parts = []
        for depth in range(len(self.nodes) + 1):
            present = [
                [block for block in range(size) if block != absent]
                for size, absent in zip(self.sizes[:depth], self.absent[:depth], strict=True)
            ]
            grid = np.array(
                np.meshgrid(*present, *[[a] for a in self.absent[depth:]], indexing="ij"),
                dtype=np.intp,
            )
            parts.append(grid.reshape(len(self.nodes), -1).T)
        return np.concatenate(parts)

    def draw(self, networks: Indices, rng: np.random.Generator) -> None:
        """Fill this group's columns with uniformly drawn configurations."""
        count = len(networks)
        for node, size in zip(self.nodes, self.sizes, strict=True):
            networks[:, node] = rng.integers(size, size=count)
        if self.absent is None:
            return
        weights = np.array([float(number) for number in self._of_depth])
        depth = rng.choice(len(weights), size=count, p=weights / weights.sum())
        for place, (node, size, absent) in enumerate(
            zip(self.nodes, self.sizes, self.absent, strict=True)
        ):
            # a present block, uniform over all but the absent one
            block = rng.integers(max(size - 1, 1), size=count)
            block += block >= absent
            networks[:, node] = np.where(depth > place, block, absent)

    def mean(self, space: SearchSpace) -> float:
        """Mean MACs of the group over its configurations, without what pairs cost."""
        shares, present, absent = self._statistics(space)
        return float(np.dot(shares, present) + np.dot(1 - shares, absent))

    def fill_means(self, space: SearchSpace, rest: float, means: Floats) -> None:
        """Write, for each block of the group, mean network MACs given that block.

        `rest` is the mean MACs of everything outside the group.
        """
        macs = space.require_macs("mean MACs")
        shares, present, absent = self._statistics(space)
        for place, node in enumerate(self.nodes):
            start = space.offsets[node]
            for block in range(self.sizes[place]):
                gone = self.absent is not None and block == self.absent[place]
                # later (earlier) nodes, given that this one is present (absent)
                if gone:
                    outside = 1 - shares[place]
                    before = (shares[:place] - shares[place]) / outside if outside else shares[:0]
                    others = np.dot(before, present[:place]) + np.dot(1 - before, absent[:place])
                    others += absent[place + 1 :].sum()
                else:
                    after = shares[place + 1 :] / shares[place]
                    others = present[:place].sum() + np.dot(after, present[place + 1 :])
                    others += np.dot(1 - after, absent[place + 1 :])
                means[start + block] = rest + others + macs[start + block]

    def _statistics(self, space: SearchSpace) -> tuple[Floats, Floats, Floats]:
        """Per node: the share of configurations in which it is present, and its mean MACs when
        present and when absent."""
        macs = space.require_macs("mean MACs")
        shares, present, gone = [], [], []
        for place, node in enumerate(self.nodes):
            blocks = macs[space.offsets[node] : space.offsets[node + 1]]
            if self.absent is None:
                shares.append(1.0)
                present.append(math.fsum(blocks) / len(blocks))
                gone.append(0.0)
                continue
            absent = self.absent[place]
            shares.append(sum(self._of_depth[place + 1 :]) / self.count)
            rest = [float(cost) for block, cost in enumerate(blocks) if block != absent]
            present.append(math.fsum(rest) / max(len(rest), 1))
            gone.append(float(blocks[absent]))
        return np.array(shares), np.array(present), np.array(gone)


def _from_record(record: Record) -> SearchSpace:
    record.only(
        *("format", "version", "name", "nodes", "fixed_macs", "fixed_params"),
        *("reference", "depth_rules", "pair_costs", "family"),
    )
    nodes = []
    for where, entry in record.items("nodes"):
        node = Record(entry, where)
        node.only("name", "blocks")
        blocks = tuple(_read_block(item, spot) for spot, item in node.items("blocks"))
        nodes.append(BlockNode(node.get("name", str), blocks))
    index = {node.name: i for i, node in enumerate(nodes)}
    rules = []
    for where, entry in record.items("depth_rules") if "depth_rules" in record else []:
        members = [Record(item, where) for item in (entry if isinstance(entry, list) else [])]
        names = [member.get("node", str) for member in members]
        for name in names:
            if name not in index:
                raise InvalidInputError(f"{where}: there is no node {name!r}.")
        rules.append(
            DepthRule(
                tuple(index[name] for name in names),
                tuple(
                    nodes[index[name]].index(member.get("absent", str))
                    for name, member in zip(names, members, strict=True)
                ),
            )
        )
    return SearchSpace(
        nodes,
        name=record.get("name", str),
        fixed_macs=record.number("fixed_macs"),
        fixed_params=record.number("fixed_params"),
        reference=record.get("reference", list) if "reference" in record else None,
        depth_rules=rules,
        pair_costs=[
            _read_pair(item, where, index)
            for where, item in (record.items("pair_costs") if "pair_costs" in record else [])
        ],
        family=record.get("family", dict) if "family" in record else None,
    )


def network_text(network: Sequence[object]) -> str:
    """A network as it is written in files, messages and on the command line: ``3,0,2``."""
    return ",".join(map(str, network))


def _block_record(block: Block) -> object:
    if block.macs is None and block.params is None:
        return block.name
    costs = {"macs": block.macs, "params": block.params}
    return {"name": block.name, **{key: value for key, value in costs.items() if value is not None}}


def _read_block(value: object, where: str) -> Block:
    if isinstance(value, str):
        return Block(value)
    record = Record(value, where)
    record.only("name", "macs", "params")
    return Block(record.get("name", str), record.number("macs"), record.number("params"))


def _read_pair(value: object, where: str, index: Mapping[str, int]) -> PairCosts:
    record = Record(value, where)
    record.only("first", "second", *_PAIR_COSTS)
    for key in ("first", "second"):
        if record.get(key, str) not in index:
            raise InvalidInputError(f"{where}: there is no node {record.get(key, str)!r}.")
    costs: dict[str, Floats] = {}
    for field in _PAIR_COSTS:
        if field not in record:
            continue
        rows = record.get(field, list)
        listed = all(isinstance(row, list) and all(map(is_number, row)) for row in rows)
        if not listed or len({len(row) for row in rows}) != 1:
            raise FileFormatError(f"{where}.{field} is a matrix: lists of numbers, equally long.")
        costs[field] = np.array(rows, dtype=np.float64)
    first, second = (index[record.get(key, str)] for key in ("first", "second"))
    return PairCosts(first, second, costs.get("macs"), costs.get("params"))


def _check_unique(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidInputError(f"the names of {what} are unique, but {name!r} stands twice.")
        seen.add(name)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f": it has {listed}."


def _closest_depth(rule: DepthRule, distances: Sequence[Floats]) -> list[int]:
    """Blocks for the nodes of a rule, without a gap, with the smallest sum of distances."""
    present, sums = [], []
    for own, absent in zip(distances, rule.absent, strict=True):
        others = own.copy()
        others[absent] = np.inf
        present.append(int(np.argmin(others)))
    for depth in range(len(distances) + 1):
        blocks = [*present[:depth], *rule.absent[depth:]]
        sums.append(math.fsum(own[block] for own, block in zip(distances, blocks, strict=True)))
    depth = int(np.argmin(sums))
    return [*present[:depth], *rule.absent[depth:]]


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", text) is not None


def _count(number: int) -> str:
    if number < 10**9:
        return f"{number:,}"
    return f"{float(number):.4g}" if number < 10**300 else f"about 10^{len(str(number)) - 1}"


def _shown(network: Sequence[object]) -> str:
    text = network_text(network)
    return text if len(text) <= 80 else text[:77] + "..."
