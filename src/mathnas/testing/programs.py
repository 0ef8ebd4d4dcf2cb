"""Random programs of many kinds, and their solution by looking at every network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mathnas.metrics import Floats, metric_named
from mathnas.search.limits import Limit
from mathnas.search.program import Program
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable, Form

Kind = Literal["smooth", "rounded", "tied", "identical", "staged"]
_NAMES = ("accuracy", "latency_ms", "energy_mj", "memory_mb")


def random_program(
    sizes: Sequence[int],
    seed: int,
    *,
    kind: Kind = "smooth",
    form: Form = Form.LINEAR,
    maximize: bool = True,
    senses: Sequence[Literal["<=", ">="]] = ("<=",),
    tightness: float = 0.4,
) -> Program:
    """A program over random effects: optimise accuracy under limits on other metrics.

    Args:
        sizes: blocks of each node.
        kind: ``smooth`` effects; ``rounded`` to two digits; ``tied``: few different values;
            ``identical``: the same in every node; ``staged``: smooth, all nodes but the first
            (and those with a single block) in one depth rule.
        form: of the objective.
        senses: one limit each, on latency, energy and memory.
        tightness: where the limits lie between the lowest (0) and highest (1) value. Below 0 a
            limit of sense ``<=`` cannot be met.
    """
    rng = np.random.default_rng([seed, len(sizes)])
    effects = {name: _effects(sizes, kind, rng) for name in _NAMES}
    space = _space(sizes, kind, rng)
    starts = space.offsets[:-1]
    columns = {}
    for name, values in effects.items():
        own = values - np.repeat(values[starts], sizes)
        nothing = np.zeros(len(own))
        columns[name] = BlockEffects(
            metric_named(name),
            float(rng.integers(100)),
            own,
            nothing,
            nothing + 1,
            form if name == "accuracy" else Form.LINEAR,
        )
    table = BlockTable(space, (0,) * len(sizes), columns)
    limits = [
        _limit(table, name, sense, tightness)
        for name, sense in zip(_NAMES[1:], senses, strict=False)
    ]
    return Program(table, "accuracy", maximize, limits)


def best_by_brute_force(program: Program) -> list[tuple[float, Network]]:
    """Every feasible network with its exact objective, the best first.

    Uses `BlockTable.exact` alone: for programs of a few thousand networks.
    """
    name = program.objective.name
    found = [
        (program.table.exact(network, name), network)
        for network in program.space.enumerate()
        if all(
            limit.holds(program.table.exact(network, limit.metric.name)) for limit in program.limits
        )
    ]
    return sorted(found, reverse=program.maximize)


def _effects(sizes: Sequence[int], kind: Kind, rng: np.random.Generator) -> Floats:
    count = sum(sizes)
    if kind == "rounded":
        return np.round(rng.normal(size=count), 2)
    if kind == "tied":
        return rng.integers(0, 3, count) / 10
    if kind == "identical":
        profile = np.round(rng.normal(size=max(sizes)), 2)
        return np.concatenate([profile[:size] for size in sizes])
    return rng.normal(size=count)


def _space(sizes: Sequence[int], kind: Kind, rng: np.random.Generator) -> SearchSpace:
    macs = iter(np.round(np.abs(_effects(sizes, kind, rng)), 3).tolist())
    optional = tuple(i for i, size in enumerate(sizes) if i > 0 and size > 1)
    staged = optional if kind == "staged" else ()
    return SearchSpace(
        [
            BlockNode(f"node{i}", tuple(Block(f"b{j}", macs=next(macs)) for j in range(size)))
            for i, size in enumerate(sizes)
        ],
        name=f"random {kind}",
        fixed_macs=2.0,
        depth_rules=[DepthRule(staged, (0,) * len(staged))] if staged else [],
    )


def _limit(table: BlockTable, name: str, sense: Literal["<=", ">="], tightness: float) -> Limit:
    column = table.column(name)
    starts = table.space.offsets[:-1]
    low = column.base + float(np.minimum.reduceat(column.effects, starts).sum())
    high = column.base + float(np.maximum.reduceat(column.effects, starts).sum())
    share = tightness if sense == "<=" else 1 - tightness
    return Limit(column.metric, sense, low + share * (high - low))
