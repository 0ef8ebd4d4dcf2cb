"""The networks that keep what is known before measuring: rules, and limits on what is declared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.metrics import Direction, Metric
from mathnas.search import Limit, Program, solver_for
from mathnas.space import Indices, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable
from mathnas.trials import Trials

_LISTED = 100_000  # up to here all networks are gone through
_DRAWN, _BATCHES = 256, 40  # beyond: that many draws before a solver looks for what is left
_SECONDS = 10.0  # of such a solve

Within: TypeAlias = "Callable[[Indices], npt.NDArray[np.bool_]]"


def draw(
    trials: Trials,
    count: int,
    rng: np.random.Generator,
    without: Collection[Network] = (),
    within: Within | None = None,
) -> list[Network]:
    """Random permitted networks apart from some, uniform; fewer where there are no more.

    In spaces of more than 100,000 networks of which few are permitted (about one in 1,000),
    the last ones are those that a solver finds for random costs, which are not uniform.

    Args:
        within: which of k networks keep what a method asks for besides; the solver does not know
            of it, so that in such spaces fewer may be found than there are.
    """
    found: dict[Network, None] = {}
    for network in _candidates(trials.space, rng, within):
        if len(found) == count:
            break
        if network not in without and network not in found and trials.allows(network):
            found[network] = None
    while len(found) < count and trials.space.num_networks > _LISTED:
        last = _solved(trials, rng, {*without, *found})
        if last is None or not (within is None or within(np.array([last]))[0]):
            break
        found[last] = None
    return list(found)


def neighbours(trials: Trials, network: Network) -> list[list[Network]]:
    """For each node, the permitted networks that one switch of it makes; where an optional node
    becomes absent, the later ones of its stage do, too."""
    found: list[list[Network]] = []
    for node, size in enumerate(trials.space.sizes):
        switched = []
        for block in range(size):
            if block == network[node]:
                continue
            try:
                other = trials.space.with_block(network, node, block)
            except InvalidInputError:  # an earlier node of its stage is absent
                continue
            if trials.allows(other):
                switched.append(other)
        found.append(switched)
    return found


def declared_limits(trials: Trials) -> list[Limit]:
    """The limits that hold or not before anything is measured."""
    return [limit for limit in trials.limits() if limit.metric.name not in trials.metrics]


def _candidates(
    space: SearchSpace, rng: np.random.Generator, within: Within | None
) -> Iterator[Network]:
    for rows in _batches(space, rng):
        yield from map(tuple, (rows if within is None else rows[within(rows)]).tolist())


def _batches(space: SearchSpace, rng: np.random.Generator) -> Iterator[Indices]:
    if space.num_networks <= _LISTED:
        numbers = rng.permutation(space.num_networks)
        for start in range(0, len(numbers), _DRAWN):
            yield space.networks_at(numbers[start : start + _DRAWN])
        return
    for _ in range(_BATCHES):
        yield np.array(space.sample(_DRAWN, seed=rng, distinct=False))


def _solved(
    trials: Trials, rng: np.random.Generator, without: Collection[Network]
) -> Network | None:
    """A permitted network that is cheapest for random costs; None where there is no other."""
    space = trials.space
    costs, nothing = rng.random(space.num_blocks), np.zeros(space.num_blocks)
    costs[space.offsets[:-1] + np.array(trials.reference)] = 0.0
    metric = Metric("cost", "", Direction.MINIMIZE, additive=True)
    table = BlockTable(
        space, trials.reference, {"cost": BlockEffects(metric, 0.0, costs, nothing, nothing)}
    )
    program = Program(table, "cost", False, declared_limits(trials), trials.rules)
    count = len(without) + 1
    found = solver_for(program, "auto").solve(program, count=count, time_limit=_SECONDS)
    return next((network for network in found.networks if network not in without), None)
