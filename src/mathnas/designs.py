"""Designed samples: networks that together determine the effects of all blocks well.

Inside this module a network is a row of *flat* blocks: offsets[i] + block for node i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.sampling import Sample
from mathnas.space import Floats, Indices, Network, SearchSpace

_RIDGE = 1e-3  # keeps the information matrix regular while there are fewer networks than effects
_DELAYED = 32  # rank-one updates that are kept aside before the inverse takes them in
_MOST_SWEEPS = 10


def balanced_sampling(
    space: SearchSpace,
    count: int,
    *,
    seed: int = 0,
    include: Iterable[Sequence[int | str]] = (),
) -> Sample:
    """`count` distinct networks that hold the blocks of each node equally often.

    The counts of a node's blocks differ by at most one, unless what is included is less even than
    that. Swaps between networks then even out how often two blocks of two nodes stand together, as
    an orthogonal array does exactly. In a stage of optional nodes equal counts would make its nodes
    absent together only; there the blocks and the pairs within the stage are evened out at once.

    Args:
        count: networks to evaluate, beside those in `include`.
        seed: of the starts and of the order of swaps.
        include: networks that are evaluated already; they count, but are not in the sample.

    Raises:
        InvalidInputError: `count` is below 1 or more than there are networks beside `include`, or a
            network of `include` is not in the space.
    """
    rng = np.random.default_rng(seed)
    rows, given = _start(space, count, include)
    found: list[tuple[float, tuple[Network, ...]]] = []
    for _ in range(min(max(10_000 // (count * space.num_nodes), 1), 10)):
        design = _Design(space, rows(rng), given)
        counts = _Counts(space, np.concatenate([given, design.rows]))
        while sum(design.climb(place, counts) for place in rng.permutation(count)):
            pass  # ends: each switch lowers a sum of squares of whole numbers
        _even_pairs(design, counts.pairs, rng)
        found.append((float(np.square(counts.pairs).sum()), design.networks()))
    _, networks = min(found, key=lambda item: item[0])
    return Sample("balanced", networks, space.reference, seed=seed)


def d_optimal_sampling(
    space: SearchSpace,
    count: int,
    *,
    seed: int = 0,
    include: Iterable[Sequence[int | str]] = (),
) -> Sample:
    """`count` distinct networks from which the effects of all blocks are determined best together.

    Maximises log det(X'X + 0.001 I), where X has a row for each network, those in `include` too: a
    one, and a one for every block that differs from the reference's. Starts from several random
    samples and switches single blocks while that helps (coordinate exchange: Meyer and Nachtsheim,
    Technometrics 37, 1995; the determinant's update is Fedorov's), and takes the best. Costs about
    count * num_blocks * num_nodes operations a sweep: some 20 s for 1,000 networks of 1,000 blocks.

    Args:
        count: networks to evaluate, beside those in `include`; fewer than the effects are allowed.
        seed: of the starts.
        include: networks that are evaluated already; they inform, but are not in the sample.

    Raises:
        InvalidInputError: `count` is below 1 or more than there are networks beside `include`, or a
            network of `include` is not in the space.
    """
    rng = np.random.default_rng(seed)
    rows, given = _start(space, count, include)
    found: list[tuple[float, tuple[Network, ...]]] = []
    for _ in range(min(max(50_000 // (count * space.num_blocks), 2), 10)):
        design = _Design(space, rows(rng), given)
        information = _Information(space, given)
        for _ in range(_MOST_SWEEPS):
            information.restart(design.rows)
            gain = sum(information.improve(design, place) for place in rng.permutation(count))
            if gain < 1e-4 * space.num_blocks:  # 0.01 % of an effect's precision
                break
        information.restart(design.rows)
        found.append((information.log_det, design.networks()))
    _, networks = max(found, key=lambda item: item[0])
    return Sample("d-optimal", networks, space.reference, seed=seed)


class _Start(Protocol):
    def __call__(self, rng: np.random.Generator) -> Indices: ...


class _Criterion(Protocol):
    """What switches are chosen by."""

    def gains(self, row: Indices) -> Floats:
        """For every block, what switching the row to it gains, shape (num_blocks,)."""

    def switch(self, row: Indices, node: int, old: int) -> None:
        """Take in that `row` has another block than `old` at a node now."""


def _start(
    space: SearchSpace, count: int, include: Iterable[Sequence[int | str]]
) -> tuple[_Start, Indices]:
    """A function that draws `count` distinct rows outside `include`, and the rows of `include`."""
    given = list(dict.fromkeys(space.check(network) for network in include))
    if count < 1:
        raise InvalidInputError(f"a design has at least 1 network, but got {count}: ask for more.")
    left = space.num_networks - len(given)
    if count > left:
        beside = f" beside the {len(given)} included" if given else ""
        raise InvalidInputError(
            f"{space.name} has {left} distinct networks{beside}, but {count} were asked for: ask "
            "for fewer."
        )
    there = set(given)

    def draw(rng: np.random.Generator) -> Indices:
        drawn = space.sample(count + len(given), seed=rng)
        kept = [network for network in drawn if network not in there][:count]
        return np.array(kept, dtype=np.intp) + space.offsets[:-1]

    rows = np.array(given, dtype=np.intp).reshape(-1, space.num_nodes) + space.offsets[:-1]
    return draw, rows


class _Design:
    """Rows that stay distinct, apart from the given ones, and valid while blocks are switched.

    Attributes:
        rows: shape (count, num_nodes), flat blocks.
        node_of: the node of every flat block.
    """

    def __init__(self, space: SearchSpace, rows: Indices, given: Indices) -> None:
        self.space = space
        self.rows = np.ascontiguousarray(rows)
        self.node_of = np.repeat(np.arange(space.num_nodes), space.sizes)
        self.taken = {row.tobytes() for row in (*given, *rows)}
        self.stages = [
            (np.array(rule.nodes), space.offsets[list(rule.nodes)] + np.array(rule.absent))
            for rule in space.depth_rules
        ]

    def networks(self) -> tuple[Network, ...]:
        return tuple(map(tuple, (self.rows - self.space.offsets[:-1]).tolist()))

    def climb(self, place: int, criterion: _Criterion) -> int:
        """Switch blocks of one row, the best switch first, while that gains; returns how many."""
        row, switches = self.rows[place], 0
        self.taken.remove(row.tobytes())
        while self._best_switch(row, criterion):
            switches += 1
        self.taken.add(row.tobytes())
        return switches

    def _best_switch(self, row: Indices, criterion: _Criterion) -> bool:
        gains = np.where(self._valid_switches(row), criterion.gains(row), -np.inf)
        while gains[best := int(np.argmax(gains))] > 1e-9:
            node = self.node_of[best]
            old, row[node] = row[node], best
            if row.tobytes() not in self.taken:
                criterion.switch(row, node, old)
                return True
            row[node] = old
            gains[best] = -np.inf
        return False

    def _valid_switches(self, row: Indices) -> npt.NDArray[np.bool_]:
        """The blocks that one node may switch to with the others as they are."""
        valid = np.ones(self.space.num_blocks, dtype=bool)
        valid[row] = False
        for nodes, absent in self.stages:
            depth = int((row[nodes] != absent).sum())
            valid[absent[: max(depth - 1, 0)]] = False
            for node in nodes[depth + 1 :]:
                valid[self.space.offsets[node] : self.space.offsets[node + 1]] = False
        return valid


class _Counts:
    """How often blocks, and pairs of blocks of two nodes, stand in rows; evens out the first.

    Attributes:
        blocks: shape (num_blocks,).
        pairs: shape (num_blocks, num_blocks), symmetric.
    """

    def __init__(self, space: SearchSpace, rows: Indices) -> None:
        self.node_of = np.repeat(np.arange(space.num_nodes), space.sizes)
        self.slices = [slice(*space.offsets[node : node + 2]) for node in range(space.num_nodes)]
        self.stages = [rule.nodes for rule in space.depth_rules]
        self.pairs = np.zeros((space.num_blocks, space.num_blocks))
        for start in range(0, len(rows), 4096):
            held = _one_hot(rows[start : start + 4096], space.num_blocks)
            self.pairs += held.T @ held
        self.blocks = self.pairs.diagonal().copy()

    def gains(self, row: Indices) -> Floats:
        """By how much half the sum of squared counts falls: of blocks, and in a stage of pairs."""
        gains: Floats = self.blocks[row][self.node_of] - self.blocks - 1
        for nodes in self.stages:
            for node in nodes:
                mates = row[[other for other in nodes if other != node]]
                own = self.pairs[row[node], mates].sum() - len(mates)
                blocks = self.slices[node]
                gains[blocks] += own - self.pairs[blocks][:, mates].sum(axis=1)
        return gains

    def switch(self, row: Indices, node: int, old: int) -> None:
        others = np.delete(row, node)
        for block, change in ((old, -1), (row[node], 1)):
            self.blocks[block] += change
            self.pairs[block, others] += change
            self.pairs[others, block] += change
            self.pairs[block, block] += change


class _Information:
    """The inverse of X'X + ridge of the additive model, kept up to date as rows change.

    It is embedded in one row and column a block and one for the mean, last; those of the
    reference's blocks are zero, so that a network's vector is the sum of the units of its blocks
    and the mean. Recent updates are kept aside as weighted outer products: taking each in at once
    would cost num_blocks squared.
    """

    def __init__(self, space: SearchSpace, given: Indices) -> None:
        self.size = space.num_blocks + 1
        self.given = given
        self.node_of = np.repeat(np.arange(space.num_nodes), space.sizes)
        self.slices = [slice(*space.offsets[node : node + 2]) for node in range(space.num_nodes)]
        self.free = np.setdiff1d(
            np.arange(self.size), space.offsets[:-1] + np.array(space.reference, dtype=np.intp)
        )
        self.vectors = np.empty((_DELAYED, self.size))
        self.weights = np.empty(_DELAYED)

    def restart(self, rows: Indices) -> None:
        """Invert anew: rounding errors of updates do not add up over sweeps."""
        rows = np.concatenate([self.given, rows])
        matrix = np.zeros((self.size, self.size))
        for start in range(0, len(rows), 4096):
            held = _one_hot(rows[start : start + 4096], self.size)
            held[:, -1] = 1
            matrix += held.T @ held
        own = matrix[np.ix_(self.free, self.free)] + _RIDGE * np.eye(len(self.free))
        self.log_det = float(np.linalg.slogdet(own)[1])
        self.inverse = np.zeros((self.size, self.size))
        self.inverse[np.ix_(self.free, self.free)] = np.linalg.inv(own)
        self.diagonal = self.inverse.diagonal().copy()
        self.kept = 0

    def improve(self, design: _Design, place: int) -> float:
        """Switch blocks of one row while that helps; returns by how much log det rises."""
        if self.kept > _DELAYED - 2:
            kept = self.vectors[: self.kept]
            self.inverse += kept.T @ (self.weights[: self.kept, None] * kept)
            self.kept = 0
        row = design.rows[place]
        # without the row; what a row x adds is then log(1 + x' inverse x)
        vector = self._column([*row, -1])
        share = min(self._of(vector, row), 1 - 1e-12)
        before = self.diagonal.copy()
        self._update(vector, 1 / (1 - share))
        self.vector = vector / (1 - share)
        old, blocks = row[self.node_of], np.arange(self.size - 1)
        kept = self.vectors[: self.kept]
        # einsum, here and below: BLAS would start threads for far too little work
        recent = np.einsum("k,kp,kp->p", self.weights[: self.kept], kept[:, old], kept[:, :-1])
        self.across = self.inverse[old, blocks] + recent
        if not design.climb(place, self):
            self.kept -= 1
            self.diagonal = before
            return 0.0
        added = self._of(self.vector, row)
        self._update(self.vector, -1 / (1 + added))
        return float(np.log1p(added) + np.log1p(-share))

    def gains(self, row: Indices) -> Floats:
        """By how much x' inverse x rises, from the quadratic form of x + e_new - e_old."""
        old = row[self.node_of]
        change = self.vector[:-1] - self.vector[old]
        rise: Floats = 2 * (change - self.across) + self.diagonal[:-1] + self.diagonal[old]
        return rise

    def switch(self, row: Indices, node: int, old: int) -> None:
        own = self._column([row[node]])
        self.vector += own - self._column([old])
        self.across[self.slices[node]] = own[self.slices[node]]

    def _of(self, vector: Floats, row: Indices) -> float:
        return float(vector[row].sum() + vector[-1])

    def _column(self, places: Sequence[int]) -> Floats:
        """The sum of some columns of the inverse, recent updates included."""
        kept = self.vectors[: self.kept]
        weights = self.weights[: self.kept] * kept[:, places].sum(axis=1)
        return np.asarray(self.inverse[places].sum(axis=0) + np.einsum("k,kp->p", weights, kept))

    def _update(self, vector: Floats, weight: float) -> None:
        self.vectors[self.kept] = vector
        self.weights[self.kept] = weight
        self.diagonal += weight * vector**2
        self.kept += 1


def _one_hot(rows: Indices, size: int) -> Floats:
    held = np.zeros((len(rows), size))
    np.put_along_axis(held, rows, 1, axis=1)
    return held


# swaps are looked for at most this often a sweep, each among this many other rows
_VISITS = 20_000
_PARTNERS = 128


def _even_pairs(design: _Design, pairs: Floats, rng: np.random.Generator) -> None:
    """Swap blocks of two rows while that lowers the sum of squared counts of pairs of blocks.

    A swap leaves the counts of single blocks as they are. Stages are swapped whole, and their nodes
    one by one between rows in which they are present.
    """
    staged = {node for nodes, _ in design.stages for node in nodes}
    units = [np.array([node]) for node in range(design.space.num_nodes) if node not in staged]
    units += [nodes for nodes, _ in design.stages]
    absent = {
        node: gone
        for nodes, absents in design.stages
        for node, gone in zip(nodes.tolist(), absents.tolist(), strict=True)
    }
    units += [np.array([node]) for node in absent if len(staged) > 1]
    rows = len(design.rows)
    visited = max(1, min(rows, _VISITS // len(units)))
    for _ in range(_MOST_SWEEPS):
        swaps = 0
        for number in rng.permutation(len(units)):
            swapping = _Swapping(design, pairs, units[number])
            gone = absent.get(int(units[number][0])) if len(units[number]) == 1 else None
            order = np.tile(rng.permutation(rows), 2)
            for start in range(visited):
                partners = order[start + 1 : start + min(rows, _PARTNERS + 1)]
                swaps += bool(len(partners)) and swapping.best_swap(order[start], partners, gone)
        if swaps <= visited * len(units) // 100:  # hardly any: more sweeps would not show
            break


class _Swapping:
    """Swaps of the blocks of one unit: a node, or all nodes of a stage.

    Attributes:
        together: shape (count, num_blocks of the unit's nodes): how often each block stands with
            the row's blocks of other nodes, summed over these.
    """

    def __init__(self, design: _Design, pairs: Floats, unit: Indices) -> None:
        self.design, self.pairs, self.unit = design, pairs, unit
        self.others = np.setdiff1d(np.arange(design.space.num_nodes), unit)
        offsets = design.space.offsets
        blocks = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in unit])
        self.column = np.zeros(design.space.num_blocks, dtype=np.intp)
        self.column[blocks] = np.arange(len(blocks))
        own = pairs[:, blocks]
        self.together = np.zeros((len(design.rows), len(blocks)))
        for node in self.others:
            self.together += own[design.rows[:, node]]

    def best_swap(self, place: int, partners: Indices, gone: int | None) -> bool:
        """Swap a row with the partner that helps most; False where none does."""
        rows, together, unit = self.design.rows, self.together, self.unit
        own, theirs = self.column[rows[place, unit]], self.column[rows[partners][:, unit]]
        same = (rows[partners] == rows[place]).sum(axis=1) - (theirs == own).sum(axis=1)
        change = (
            together[place][theirs]
            - together[place, own]
            + together[partners][:, own]
            - np.take_along_axis(together[partners], theirs, axis=1)
            + 2 * (len(self.others) - same)[:, None]
        )
        change = np.where(theirs != own, change, 0).sum(axis=1)
        if gone is not None:
            # an optional node that comes or goes would break the order of its stage
            apart = (rows[partners, unit[0]] == gone) | (rows[place, unit[0]] == gone)
            change[apart] = 0
        while change[best := int(np.argmin(change))] < -1e-9:
            if self._swap(place, int(partners[best])):
                return True
            change[best] = 0
        return False

    def _swap(self, place: int, partner: int) -> bool:
        rows, taken, unit = self.design.rows, self.design.taken, self.unit
        first, second = rows[place].copy(), rows[partner].copy()
        first[unit], second[unit] = rows[partner, unit], rows[place, unit]
        if first.tobytes() in taken or second.tobytes() in taken:
            return False
        taken -= {rows[place].tobytes(), rows[partner].tobytes()}
        taken |= {first.tobytes(), second.tobytes()}
        ours = rows[place, self.others]
        theirs = rows[partner, self.others]
        # how many of the two rows' blocks every row shares
        shared = (rows[:, self.others] == theirs).sum(1) - (rows[:, self.others] == ours).sum(1)
        for node in unit:
            old, new = rows[place, node], rows[partner, node]
            if old != new:
                for block, sign in ((old, 1), (new, -1)):
                    for others, change in ((theirs, sign), (ours, -sign)):
                        self.pairs[block, others] += change
                        self.pairs[others, block] += change
                    self.together[:, self.column[block]] += sign * shared
        rows[place], rows[partner] = first, second
        return True
