"""Random programs for the solver tests, small enough to be judged by looking at every network.

Nothing here uses a solver, or the scaled rows of a program: networks are judged by the table's
exact predictions and by the rules alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from mathnas.metrics import Floats, metric_named
from mathnas.search import (
    Limit,
    Program,
    Solution,
    Status,
    highs_is_available,
    kernel_is_available,
)
from mathnas.search.rules import Rule, at_most_changes, exclude, fix, forbid, require
from mathnas.space import Block, BlockNode, DepthRule, Network, SearchSpace
from mathnas.table import BlockEffects, BlockTable, Form
from mathnas.testing.programs import random_program

METRICS = ("accuracy", "latency_ms", "energy_mj", "memory_mb", "params")
KINDS = ("smooth", "one digit", "few values", "identical", "some identical", "large numbers")
POWERS = (0.0, 0.3, 1.0)
_MOST_NETWORKS = 1500
HIGHS = pytest.param(
    "highs", marks=pytest.mark.skipif(not highs_is_available(), reason="no highspy")
)
KERNEL = pytest.param(
    "kernel", marks=pytest.mark.skipif(not kernel_is_available(), reason="no kernel")
)
OUR_SOLVERS = ["enumeration", KERNEL, "numpy"]
ALL_SOLVERS = ["auto", *OUR_SOLVERS, "chain", HIGHS]


def random_case(seed: int) -> Program:
    """A program of any kind: power, limits, senses, rules, depth rules, ties, twins."""
    rng = np.random.default_rng(seed)
    sizes = _sizes(rng)
    kind = str(rng.choice(KINDS))
    staged = len(sizes) > 2 and min(sizes[1:]) > 1 and rng.random() < 0.3
    space = _space(sizes, kind, rng, staged)
    power = float(rng.choice(POWERS))
    networks = list(space.enumerate())
    reference = networks[int(rng.integers(len(networks)))]
    table = table_of(space, reference, {m: _values(sizes, kind, rng) for m in METRICS}, power)
    rules = [_rule(space, rng) for _ in range(int(rng.integers(3)) if rng.random() < 0.4 else 0)]
    limits = []
    # one time in four the objective itself is limited too (not for 0 < p < 1: no such row)
    limited = list(METRICS[0 if rng.random() < 0.25 and power != 0.3 else 1 :])
    for metric in rng.permutation(limited)[: int(rng.integers(5))].tolist():
        used = sorted(table.exact(network, metric) for network in networks)
        value = used[int(rng.integers(len(used)))]  # what a network uses, to the last bit
        how = rng.random()
        if how < 0.3:
            value = round(value, 2)
        elif how < 0.4:
            value = float(np.nextafter(value, rng.choice([-np.inf, np.inf])))
        limits.append(Limit(table.column(metric).metric, str(rng.choice(["<=", ">="])), value))  # type: ignore[arg-type]
    return Program(table, "accuracy", bool(rng.random() < 0.5), limits, rules)


def table_of(
    space: SearchSpace, reference: Network, values: dict[str, Floats], power: float
) -> BlockTable:
    """A table of block values, made relative to a reference; accuracy has the given power of F."""
    own = space.offsets[:-1] + np.array(reference)
    nothing = np.zeros(space.num_blocks)
    columns = {
        name: BlockEffects(
            metric_named(name),
            float(i),
            flat - np.repeat(flat[own], space.sizes),
            nothing,
            nothing,
            Form.SPACE_MEAN if name == "accuracy" and power else Form.LINEAR,
            power=power or 1.0,
        )
        for i, (name, flat) in enumerate(values.items())
    }
    return BlockTable(space, reference, columns)


def large_case(
    sizes: Sequence[int],
    seed: int,
    power: float = 0.0,
    *,
    digits: int | None = None,
    tight: float,
    num_limits: int = 2,
) -> Program:
    """Too large to look at every network; limits between the lowest and highest use."""
    rng = np.random.default_rng(seed)
    space = SearchSpace(
        [
            BlockNode(
                f"n{i}", tuple(Block(f"b{j}", macs=float(m)) for j, m in enumerate(rng.random(n)))
            )
            for i, n in enumerate(sizes)
        ],
        fixed_macs=0.2 * len(sizes),
    )
    names = METRICS[: 1 + num_limits]
    values = {name: rng.lognormal(0, 0.6, space.num_blocks) for name in names}
    values["accuracy"] = np.log1p(values["latency_ms"]) + 0.3 * values["accuracy"]
    if digits is not None:
        values = {name: flat.round(digits) for name, flat in values.items()}
    table = table_of(space, (0,) * len(sizes), values, power)
    limits = []
    for name in names[1:]:
        column = table.column(name)
        low = column.base + np.minimum.reduceat(column.effects, space.offsets[:-1]).sum()
        high = column.base + np.maximum.reduceat(column.effects, space.offsets[:-1]).sum()
        limits.append(Limit(column.metric, "<=", float(low + tight * (high - low))))
    return Program(table, "accuracy", True, limits)


def hard_program(seed: int = 1) -> Program:
    """Out of reach: two metrics between limits that lie so close that hardly a network fits."""
    program = random_program((10,) * 40, seed, senses=())
    limits = []
    for name in ("latency_ms", "energy_mj"):
        metric = program.table.column(name).metric
        value = program.table.exact((0,) * 40, name)
        limits += [Limit(metric, "<=", value + 1.0), Limit(metric, ">=", value + 1.0 - 1e-7)]
    return program.with_limits(limits)


def identical_case(seed: int) -> tuple[Program, float]:
    """18 nodes with the same 6 blocks, two limits, and the best accuracy.

    6^18 networks, but only how many nodes take each block matters: 33,649 possibilities.
    """
    count, size = 18, 6
    rng = np.random.default_rng(seed)
    space = SearchSpace([BlockNode(f"n{i}", tuple(map(Block, "abcdef"))) for i in range(count)])
    values = {name: rng.random(size) for name in METRICS[:3]}
    values["accuracy"] = values["latency_ms"] + 0.2 * values["accuracy"]
    table = table_of(space, (0,) * count, {n: np.tile(v, count) for n, v in values.items()}, 0.0)
    takes = _compositions(count, size)
    feasible = np.ones(len(takes), dtype=bool)
    limits = []
    for name in METRICS[1:3]:
        column = table.column(name)
        uses = column.base + takes @ column.effects[:size]
        value = float(np.quantile(uses, 0.4)) + 1e-6
        limits.append(Limit(column.metric, "<=", value))
        feasible &= uses <= value
    accuracy = table.column("accuracy").base + takes @ table.column("accuracy").effects[:size]
    return Program(table, "accuracy", True, limits), float(accuracy[feasible].max())


def _compositions(total: int, parts: int) -> npt.NDArray[np.int64]:
    """All ways to write a total as a sum of so many parts, in order."""
    if parts == 1:
        return np.array([[total]], dtype=np.int64)
    return np.concatenate(
        [
            np.insert(_compositions(total - first, parts - 1), 0, first, axis=1)
            for first in range(total + 1)
        ]
    )


def brute_force(program: Program) -> list[tuple[float, Network]]:
    """Feasible networks and their objective, the best first."""
    name, table = program.objective.name, program.table
    found = [
        (table.exact(network, name), network)
        for network in program.space.enumerate()
        if is_feasible(program, network)
    ]
    return sorted(found, reverse=program.maximize)


def is_feasible(program: Program, network: Network) -> bool:
    """Whether the table's exact predictions meet the limits, and the network the rules."""
    uses = [(limit, program.table.exact(network, limit.metric.name)) for limit in program.limits]
    return all(
        use <= limit.value if limit.sense == "<=" else use >= limit.value for limit, use in uses
    ) and all(rule.holds(network) for rule in program.rules)


def check(program: Program, solution: Solution, count: int, label: object = "") -> None:
    """That a finished solve gave the `count` best networks, or that there is none."""
    expected = brute_force(program)[:count]
    assert len(solution.networks) == len(expected), label
    assert solution.status is (Status.OPTIMAL if expected else Status.INFEASIBLE), label
    check_networks(program, solution, label)
    values = [program.table.exact(n, program.objective.name) for n in solution.networks]
    near = 1e-9 * program.span + 1e-14 * max((abs(value) for value, _ in expected), default=0.0)
    np.testing.assert_allclose(
        values, [v for v, _ in expected], rtol=0, atol=near, err_msg=str(label)
    )


def check_networks(program: Program, solution: Solution, label: object = "") -> None:
    """What holds of any solution: feasible, distinct, best first, and no better than the bound."""
    networks = list(solution.networks)
    assert len(set(networks)) == len(networks), label
    assert all(is_feasible(program, network) for network in networks), label
    column = program.table.column(program.objective.name)
    sign = -1.0 if program.maximize else 1.0
    values = [
        sign * (program.table.exact(network, program.objective.name) - column.base)
        for network in networks
    ]
    near = 1e-9 * program.span + 1e-14 * (abs(column.base) + max(map(abs, values), default=0.0))
    assert all(a <= b + near for a, b in itertools.pairwise(values)), label
    assert all(solution.bound <= value + near for value in values), label


def normal_form(program: Program, best: float) -> float:
    """An objective value as a solver's bound states it."""
    value = best - program.table.column(program.objective.name).base
    return -value if program.maximize else value


def _sizes(rng: np.random.Generator) -> list[int]:
    sizes: list[int] = []
    while len(sizes) < int(rng.integers(1, 8)):
        size = int(rng.integers(1, 7))
        if np.prod([*sizes, size]) > _MOST_NETWORKS:
            break
        sizes.append(size)
    return sizes or [3]


def _values(sizes: Sequence[int], kind: str, rng: np.random.Generator) -> Floats:
    count = sum(sizes)
    if kind == "one digit":
        return np.round(rng.normal(0, 2, count), 1)
    if kind == "few values":
        return rng.integers(0, 3, count) / 3.0
    if kind == "large numbers":
        return 1e9 * rng.normal(size=count)
    if "identical" in kind:
        profile = rng.normal(size=max(sizes)).round(int(rng.integers(1, 12)))
        own = rng.normal(size=count)
        keep = kind == "some identical"
        parts, start = [], 0
        for i, size in enumerate(sizes):
            parts.append(own[start : start + size] if keep and i % 3 == 0 else profile[:size])
            start += size
        # raised by a node's own amount: the rows are equal, the numbers that are summed are not
        raised = rng.random(len(sizes)) * (rng.random() < 0.3)
        together: Floats = np.concatenate(parts) + np.repeat(raised, sizes)
        return together
    return rng.normal(size=count)


def _space(sizes: Sequence[int], kind: str, rng: np.random.Generator, staged: bool) -> SearchSpace:
    macs = iter(np.abs(_values(sizes, kind, rng)).tolist())
    optional = tuple(range(1, len(sizes))) if staged else ()
    return SearchSpace(
        [
            BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=next(macs)) for j in range(size)))
            for i, size in enumerate(sizes)
        ],
        name=kind,
        fixed_macs=float(rng.choice([0.01, 1.0, 30.0])) * (1e9 if kind == "large numbers" else 1),
        depth_rules=[DepthRule(optional, (0,) * len(optional))] if optional else [],
    )


def _rule(space: SearchSpace, rng: np.random.Generator) -> Rule:
    nodes = rng.permutation(space.num_nodes).tolist()
    block = {i: int(rng.integers(space.sizes[i])) for i in nodes}
    one, two = nodes[0], nodes[-1]
    kind = int(rng.integers(5))
    if kind == 0 or one == two:
        return exclude(space, {one: block[one]})
    if kind == 1:
        return forbid(space, {one: block[one], two: block[two]})
    if kind == 2:
        return require(space, {one: block[one]}, {two: block[two]})
    if kind == 3:
        return fix(space, {one: block[one]})
    network = next(iter(space.enumerate()))
    return at_most_changes(space, network, int(rng.integers(space.num_nodes + 1)))
