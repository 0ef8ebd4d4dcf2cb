"""Which networks to evaluate, so that block performances can be estimated from them.

The paper's three designs (Algorithm 1 and section 4): *single* sampling switches one block at a
time in the average-FLOPs network; *partial* sampling takes a random share of networks; *full*
sampling takes all. Cost is counted in distinct networks.

Two designed samples serve the same fits as a random one, from fewer networks: *balanced* samples
hold every block, and every two blocks of two nodes, about equally often; *D-optimal* samples
determine the additive model's effects best together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mathnas.errors import InvalidInputError
from mathnas.space import Indices, Network, SearchSpace

Form = Literal["paired", "unpaired"]
_MOST_SAMPLED = 5_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Networks to evaluate.

    Attributes:
        kind: ``single``, ``partial-paired``, ``partial-unpaired``, ``full``, ``random``,
            ``balanced`` or ``d-optimal``.
        networks: in the order of evaluation; a network that stands twice is to be measured twice.
        reference: the network that effects are taken against.
        share: the share of contexts or networks that was asked for (partial sampling).
        seed: of the random choice, where there is one.
    """

    kind: str
    networks: tuple[Network, ...]
    reference: Network
    share: float | None = None
    seed: int | None = None

    @property
    def cost(self) -> int:
        """Distinct networks."""
        return len(set(self.networks))

    def __len__(self) -> int:
        return len(self.networks)

    def __iter__(self) -> Iterator[Network]:
        return iter(self.networks)


def average_flops_network(space: SearchSpace) -> Network:
    """Algorithm 1, stage 1: per node the block whose MACs are closest to the node's mean.

    Raises:
        InvalidInputError: MACs are not known for every block.
    """
    return space.average_macs_network()


def single_sampling(
    space: SearchSpace,
    context: Sequence[int | str] | None = None,
    *,
    repeat_reference: bool = False,
) -> Sample:
    """Algorithm 1, stage 2: switch one block at a time in one context.

    Costs sum(n_i - 1) + 1 distinct networks. Where a switch makes an optional node absent, the
    context of that switch is the reference with the later nodes of the rule absent: it is in the
    sample anyway.

    Args:
        context: the network to switch in; by default the average-FLOPs network.
        repeat_reference: measure the reference once more with every node, to check noise and
            state leaking between evaluations.

    Raises:
        InvalidInputError: no context is given and MACs are unknown, or a switch is not possible in
            the context because an optional node is absent in it.
    """
    reference = space.average_macs_network() if context is None else space.check(context)
    for rule in space.depth_rules:
        for node, absent in zip(rule.nodes[:-1], rule.absent, strict=False):
            if reference[node] == absent:
                raise InvalidInputError(
                    f"single sampling switches every block in its context, but the optional node "
                    f"{space.nodes[node].name!r} is absent in "
                    f"{','.join(space.block_names(reference))}, so the later ones of its stage "
                    "cannot be switched: give a context in which they are present."
                )
    networks = [reference]
    for node, size in enumerate(space.sizes):
        if repeat_reference:
            networks.append(reference)
        networks += [
            space.with_block(reference, node, block)
            for block in range(size)
            if block != reference[node]
        ]
    return Sample("single", tuple(networks), reference)


def partial_sampling(
    space: SearchSpace,
    share: float,
    *,
    form: Form = "paired",
    seed: int = 0,
    reference: Sequence[int | str] | None = None,
) -> Sample:
    """A random share of the contexts of every switch, or of all networks.

    Args:
        share: in (0, 1].
        form: ``paired``: for every node, a share of its contexts, each with all blocks of the
            node, so that differences are taken inside one context (for an optional node: contexts
            in which the earlier ones of its stage are present). ``unpaired``: a share of all
            networks; effects are differences of block means.
        seed: of the choice.
        reference: what effects are taken against; by default the space's reference.

    Raises:
        InvalidInputError: the share is out of range, asks for more than 5 million networks, or is
            so small that a block is in none of them.
    """
    if not 0 < share <= 1:
        raise InvalidInputError(f"a share lies in (0, 1], but got {share}: 0.05 means 5 %.")
    base = space.reference if reference is None else space.check(reference)
    rng = np.random.default_rng(seed)
    if form == "paired":
        networks = _paired(space, share, rng, base)
    elif form == "unpaired":
        networks = space.sample(_share_of(space.num_networks, share), seed=rng)
        _check_all_blocks(space, networks, share)
    else:
        raise InvalidInputError(f"partial sampling is 'paired' or 'unpaired', but got {form!r}.")
    return Sample(f"partial-{form}", tuple(networks), base, share, seed)


def full_sampling(space: SearchSpace, reference: Sequence[int | str] | None = None) -> Sample:
    """Every network of the space (at most 5 million).

    Raises:
        InvalidInputError: the space is larger.
    """
    base = space.reference if reference is None else space.check(reference)
    _share_of(space.num_networks, 1.0)
    return Sample("full", tuple(map(tuple, space.all_networks().tolist())), base, 1.0)


def random_sampling(space: SearchSpace, count: int, *, seed: int = 0) -> Sample:
    """`count` distinct random networks, uniform over the space."""
    return Sample("random", tuple(space.sample(count, seed=seed)), space.reference, seed=seed)


def _paired(
    space: SearchSpace, share: float, rng: np.random.Generator, reference: Network
) -> list[Network]:
    """For every node a share of its contexts; each context with every block of the node."""
    found: dict[Network, None] = {}
    for node, size in enumerate(space.sizes):
        contexts = _contexts(space, node, share, rng, reference[node])
        _share_of(len(contexts) * size + len(found), 1.0)
        for row in contexts.tolist():
            for block in range(size):
                switched = space.with_block(tuple(row), node, block)
                # not in the row's context where an absent node took later ones along
                pair = (*switched[:node], reference[node], *switched[node + 1 :])
                found.setdefault(switched)
                found.setdefault(pair)
    return list(found)


def _contexts(
    space: SearchSpace, node: int, share: float, rng: np.random.Generator, own: int
) -> Indices:
    """A share of the networks that differ outside `node` and in which it can be switched from and
    to its block `own`."""
    if space.num_networks <= 1_000_000:
        rows = space.networks_at(rng.permutation(space.num_networks))
        rows = _distinct_outside(_switchable(space, node, rows, own), node)
        return rows[: _share_of(len(rows), share)]
    count = _share_of(math.ceil(space.num_networks / space.sizes[node]), share)
    rows = np.empty((0, space.num_nodes), dtype=np.intp)
    while len(rows) < count:
        drawn = np.array(space.sample(count - len(rows), seed=rng), dtype=np.intp)
        rows = np.concatenate([rows, _switchable(space, node, drawn, own)])
    return _distinct_outside(rows, node)


def _switchable(space: SearchSpace, node: int, rows: Indices, own: int) -> Indices:
    """The rows that let an optional node be absent or present: the earlier ones of its stage are
    present and, where it is absent in the reference, the later ones are absent."""
    for rule in space.depth_rules:
        if node in rule.nodes:
            place = rule.nodes.index(node)
            present = rows[:, rule.nodes[:place]] != np.array(rule.absent[:place], dtype=np.intp)
            rows = rows[present.all(axis=1)]
            if own == rule.absent[place]:
                rows[:, rule.nodes[place + 1 :]] = rule.absent[place + 1 :]
    return rows


def _distinct_outside(rows: Indices, node: int) -> Indices:
    """The first row of those that are equal but for `node`."""
    _, first = np.unique(np.delete(rows, node, axis=1), axis=0, return_index=True)
    return rows[np.sort(first)]


def _share_of(total: int, share: float) -> int:
    count = max(1, round(total * share))
    if count > _MOST_SAMPLED:
        raise InvalidInputError(
            f"at most {_MOST_SAMPLED} networks are sampled, but a share of {share:g} is {count}: "
            "use a smaller share, or single sampling."
        )
    return count


def _check_all_blocks(space: SearchSpace, networks: Sequence[Network], share: float) -> None:
    rows = np.array(networks, dtype=np.intp)
    for node, size in enumerate(space.sizes):
        missing = np.setdiff1d(np.arange(size), rows[:, node])
        if len(missing):
            name = space.nodes[node].blocks[missing[0]].name
            raise InvalidInputError(
                f"a share of {share:g} is {len(networks)} networks, and none holds block {name!r} "
                f"of node {space.nodes[node].name!r}: use a larger share or another seed, or the "
                "paired form."
            )
