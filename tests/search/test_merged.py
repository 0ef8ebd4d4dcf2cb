"""Programs about columns that are not additive: forms of networks, Gaussian processes.

All networks are then candidates of one node. Judged by brute force over `BlockTable.exact`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from solver_cases import ALL_SOLVERS, METRICS, brute_force, is_feasible, table_of

import mathnas as mn
from mathnas.gaussian_process import GaussianProcess, Kernel
from mathnas.metrics import Floats
from mathnas.scales import LogitScale
from mathnas.search import (
    EnumerationSolver,
    Limit,
    Program,
    Solution,
    Status,
)
from mathnas.search._search import solver_for
from mathnas.search.explain import explain
from mathnas.search.rules import Rule, at_most_changes, exclude, forbid, require
from mathnas.space import Block, BlockNode, DepthRule, Indices, SearchSpace


def cut(networks: Indices) -> Indices:
    """Nodes behind one with block 0 take block 0."""
    return np.asarray(networks * (np.cumprod(networks != 0, axis=1) > 0))


def features(networks: Indices) -> Floats:
    own = cut(networks)
    return np.column_stack([(own != 0).sum(axis=1), own.sum(axis=1), networks[:, 0]]).astype(float)


def random_case(seed: int) -> Program:
    """Forms and processes in the objective, in limits or in both; rules, depth rules, pairs."""
    rng = np.random.default_rng(seed)
    sizes = [int(rng.integers(2, 5)) for _ in range(int(rng.integers(2, 5)))]
    optional = tuple(range(1, len(sizes))) if rng.random() < 0.4 else ()
    macs = iter(rng.random(sum(sizes)).tolist())
    space = SearchSpace(
        [
            BlockNode(f"n{i}", tuple(Block(f"b{j}", macs=next(macs)) for j in range(size)))
            for i, size in enumerate(sizes)
        ],
        fixed_macs=1.0,
        depth_rules=[DepthRule(optional, (0,) * len(optional))] if optional else [],
        forms={"cut": cut},
        features=features,
    )
    digits = int(rng.choice([1, 12]))
    power = float(rng.choice([0.0, 1.0]))
    values = {name: rng.normal(size=space.num_blocks).round(digits) for name in METRICS}
    table = table_of(space, (0,) * len(sizes), values, power)
    # the first of these columns is never additive
    special = ["accuracy", "latency_ms"] if rng.random() < 0.5 else ["latency_ms", "accuracy"]
    columns = dict(table.columns)
    for place, name in enumerate(special):
        kind = rng.choice(["form", "process"] if not place else ["form", "process", "additive"])
        plain = replace(columns[name], form=mn.Form.LINEAR)
        if kind == "form":
            pairs: tuple[mn.PairEffects, ...] = ()
            if rng.random() < 0.3:
                entries = rng.normal(size=(sizes[0], sizes[1])).round(2)
                pairs = (mn.PairEffects(0, 1, entries),)
            columns[name] = replace(plain, network_form="cut", pairs=pairs)
        elif kind == "process":
            columns[name] = replace(plain, process=process_of(space, rng))
            if rng.random() < 0.5:
                scale = LogitScale(-30.0, 30.0, -20.0, 20.0)
                metric = replace(columns[name].metric, scale=scale)
                columns[name] = replace(columns[name], metric=metric)
    table = mn.BlockTable(space, table.reference, columns)
    networks = list(space.enumerate())
    names = [special[0]] if special[0] != "accuracy" or rng.random() < 0.5 else []
    names += [str(name) for name in rng.permutation(METRICS[2:])[: int(rng.integers(3))]]
    limits = [limit_of(table, name, rng) for name in names]
    rules = [rule_of(space, rng) for _ in range(int(rng.integers(3)))]
    assert len(networks) <= 300
    return Program(table, "accuracy", bool(rng.random() < 0.5), limits, rules)


def process_of(space: SearchSpace, rng: np.random.Generator) -> GaussianProcess:
    measured = space.all_networks()
    measured = measured[rng.permutation(len(measured))[: max(3, len(measured) // 2)]]
    return GaussianProcess(
        features(measured),
        rng.normal(size=len(measured)),
        Kernel(0.7, 1.0, float(rng.choice([0.0, 1.0]))),
        float(rng.choice([1e-6, 0.1])),
        np.ones(len(measured)),
    )


def limit_of(table: mn.BlockTable, name: str, rng: np.random.Generator) -> Limit:
    """A limit that a network meets to the last bit, misses by one, or meets with room."""
    used = sorted(table.exact(network, name) for network in table.space.enumerate())
    value = used[int(rng.integers(len(used)))]
    how = rng.random()
    if how < 0.3:
        value = math.nextafter(value, float(rng.choice([-math.inf, math.inf])))
    elif how < 0.5:
        value += 0.1
    sense: Literal["<=", ">="] = "<=" if rng.random() < 0.6 else ">="
    return Limit(table.column(name).metric, sense, value)


def rule_of(space: SearchSpace, rng: np.random.Generator) -> Rule:
    one, two = rng.permutation(space.num_nodes)[:2].tolist()
    first, second = (int(rng.integers(space.sizes[node])) for node in (one, two))
    kind = int(rng.integers(4))
    if kind == 0:
        return forbid(space, {one: first, two: second})
    if kind == 1:
        return require(space, {one: first}, {two: second})
    if kind == 2:
        return exclude(space, {one: first})
    return at_most_changes(space, next(iter(space.enumerate())), int(rng.integers(1, 4)))


CASES = range(60)


def test_the_cases_are_of_all_kinds() -> None:
    programs = [random_case(seed) for seed in CASES]
    assert all(program.layout.merged for program in programs)
    feasible = [bool(brute_force(program)) for program in programs]
    assert sum(feasible) > 30
    assert not all(feasible)
    assert sum(bool(program.space.depth_rules) for program in programs) > 10
    assert sum(bool(program.power) for program in programs) > 3
    columns = [column for program in programs for column in program.table.columns.values()]
    assert sum(column.process is not None for column in columns) > 20
    assert sum(column.network_form == "cut" for column in columns) > 20
    assert sum(bool(column.pairs) for column in columns) > 3


def check(program: Program, found: Solution, count: int, label: object) -> None:
    """That these are the `count` best, in order, on the objective's response scale."""
    name = program.objective.name
    expected = brute_force(program)[:count]
    assert found.status is (Status.OPTIMAL if expected else Status.INFEASIBLE), label
    assert len(set(found.networks)) == len(found.networks) == len(expected), label
    assert all(is_feasible(program, network) for network in found.networks), label
    responses = [program.table.response(network, name) for network in found.networks]
    best = [program.table.response(network, name) for _, network in expected]
    near = 1e-9 * program.span + 1e-12
    np.testing.assert_allclose(responses, best, rtol=0, atol=near, err_msg=str(label))
    if best:
        bound = best[0] - program.table.column(name).base
        assert found.bound <= (-bound if program.maximize else bound) + near, label


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_the_best_ones_are_those_of_a_brute_force(solver: str) -> None:
    for seed in CASES:
        program = random_case(seed)
        for count in (1, 5, 1000):
            found = solver_for(program, solver).solve(program, count=count)
            check(program, found, count, (seed, count))


def test_auto_looks_at_every_network() -> None:
    assert isinstance(solver_for(random_case(0), "auto"), EnumerationSolver)


@pytest.mark.parametrize("solver", ["auto", "numpy"])
def test_answers_say_what_binds_and_are_verified(solver: str) -> None:
    for seed in CASES:
        program = random_case(seed)
        expected = brute_force(program)
        answer = mn.search(
            program.table,
            maximize="accuracy" if program.maximize else None,
            minimize=None if program.maximize else "accuracy",
            limits=list(program.limits),
            rules=program.rules,
            solver=solver,
            verify=True,
        )
        assert bool(answer) == bool(expected), seed
        assert answer.verified_by == ("numpy" if solver == "auto" else "enumeration")
        if not isinstance(answer, mn.Answer):
            continue
        assert answer.value == pytest.approx(expected[0][0], abs=1e-9 * program.span + 1e-12)
        for use in answer.limits:
            free = brute_force(program.without(use.limit))
            better = abs(free[0][0] - expected[0][0]) > 1e-8 * max(program.span, 1.0)
            assert use.binds == better, (seed, use)


@pytest.mark.parametrize("diverse", [0, 2])
def test_several_answers_are_proven(diverse: int) -> None:
    for seed in CASES[::4]:
        program = random_case(seed)
        ranking = mn.k_best(
            program.table,
            4,
            maximize="accuracy" if program.maximize else None,
            minimize=None if program.maximize else "accuracy",
            limits=list(program.limits),
            rules=program.rules,
            diverse=diverse,
        )
        left = brute_force(program)
        if not isinstance(ranking, mn.Ranking):
            assert not left
            continue
        for answer in ranking:
            assert answer.value == pytest.approx(left[0][0], abs=1e-9 * program.span + 1e-12), seed
            left = [item for item in left if differs(item[1], answer.network, max(diverse, 1))]
        assert len(ranking) == 4 or not left


def differs(one: mn.Network, other: mn.Network, nodes: int) -> bool:
    return sum(a != b for a, b in zip(one, other, strict=True)) >= nodes


@pytest.mark.parametrize("solver", ["auto", "numpy"])
@pytest.mark.parametrize("axes", [("latency_ms", "accuracy"), ("accuracy", "energy_mj")])
def test_fronts_are_those_of_a_brute_force(axes: tuple[str, str], solver: str) -> None:
    for seed in CASES[::3]:
        program = random_case(seed)
        x, y = axes
        front = mn.pareto_front(program.table, x, y, rules=program.rules, solver=solver)
        metrics = [program.table.metrics[name] for name in axes]
        signs = [1 if metric.direction is mn.Direction.MINIMIZE else -1 for metric in metrics]
        feasible = [n for n in program.space.enumerate() if all(r.holds(n) for r in program.rules)]
        values = [
            tuple(s * program.table.exact(n, name) for s, name in zip(signs, axes, strict=True))
            for n in feasible
        ]
        if not isinstance(front, mn.Front):
            assert not values
            continue
        assert front.complete
        best = sorted(v for v in set(values) if not any(dominates(o, v) for o in values))
        found = sorted((signs[0] * point.x, signs[1] * point.y) for point in front)
        # values that differ by rounding alone are one point
        one, other = (np.array(distinct(points)) for points in (found, best))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7, err_msg=str(seed))


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def distinct(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    kept: list[tuple[float, ...]] = []
    for point in points:
        if not kept or max(abs(a - b) for a, b in zip(point, kept[-1], strict=True)) > 1e-6:
            kept.append(point)
    return kept


def test_explanations_are_solved_for() -> None:
    checked = 0
    for seed in CASES[::3]:
        program = random_case(seed)
        expected = brute_force(program)
        found = explain(
            program.table,
            maximize="accuracy" if program.maximize else None,
            minimize=None if program.maximize else "accuracy",
            limits=list(program.limits),
            rules=program.rules,
        )
        assert bool(expected) == isinstance(found, mn.Explanation)
        if not isinstance(found, mn.Explanation):
            continue
        near = 1e-8 * max(program.span, 1.0)
        for other in found.alternatives:
            node = program.space.node_index(other.node)
            block = program.space.nodes[node].index(other.block)
            holding = [value for value, network in expected if network[node] == block]
            assert (other.objective is None) == (not holding), (seed, other)
            if other.objective is not None:
                assert other.objective == pytest.approx(holding[0], abs=near), (seed, other)
                checked += 1
        for price in found.prices:
            free = brute_force(program.without(price.limit))
            gains = [(v - expected[0][0]) * (1 if program.maximize else -1) for v, _ in free]
            better = [n for (_, n), gain in zip(free, gains, strict=True) if gain > near]
            assert (price.next_value is None) == (not better), (seed, price)
            if better and price.next_value is not None:
                uses = [program.table.exact(n, price.limit.metric.name) for n in better]
                closest = min(uses) if price.limit.sense == "<=" else max(uses)
                assert price.next_value == pytest.approx(closest, abs=1e-6), (seed, price)
    assert checked > 50


def test_reasons_are_given_where_no_network_is_feasible() -> None:
    program = next(p for p in map(random_case, itertools.count()) if not p.rules and p.limits)
    name = program.limits[0].metric.name
    values = [program.table.exact(n, name) for n in program.space.enumerate()]
    nothing = mn.search(program.table, maximize="accuracy", limits=[f"{name}<={min(values) - 1}"])
    assert isinstance(nothing, mn.Infeasible)
    assert nothing.conflicts[0].best == pytest.approx(min(values))


# ---- large spaces --------------------------------------------------------------------------------


def large(nodes: int) -> mn.BlockTable:
    space = SearchSpace(
        [BlockNode(f"n{i}", tuple(map(Block, "abcdef"))) for i in range(nodes)],
        forms={"cut": cut},
        features=features,
    )
    rng = np.random.default_rng(0)
    flat = {name: rng.normal(size=space.num_blocks) for name in METRICS}
    return table_of(space, (0,) * nodes, flat, 0.0)


def with_column(table: mn.BlockTable, name: str, **change: Any) -> mn.BlockTable:
    columns = {**table.columns, name: replace(table.column(name), **change)}
    return mn.BlockTable(table.space, table.reference, columns)


def test_more_than_two_million_networks_are_refused_with_the_reason() -> None:
    plain = large(9)
    rng = np.random.default_rng(1)
    measured = np.array(plain.space.sample(20))
    process = GaussianProcess(
        features(measured), rng.normal(size=20), Kernel(1, 1, 0), 0.1, np.ones(20)
    )
    for change, message in (
        ({"network_form": "cut"}, "latency_ms depends on networks in the form cut"),
        ({"process": process}, "latency_ms is a Gaussian process on features of networks"),
    ):
        table = with_column(plain, "latency_ms", **change)
        with pytest.raises(mn.InvalidInputError, match=message):
            mn.search(table, minimize="latency_ms")
        with pytest.raises(mn.InvalidInputError, match="at most 2000000"):
            mn.search(table, maximize="accuracy", limits={"latency_ms": 1})
        with pytest.raises(mn.InvalidInputError, match="neither forms nor features"):
            mn.pareto_front(table, "latency_ms", "accuracy")
        # what is additive is searched as ever, and one network is predicted
        assert mn.search(table, maximize="accuracy", limits={"energy_mj": 0})
        assert math.isfinite(table.exact((0,) * 9, "latency_ms"))


def test_a_million_networks_are_searched() -> None:
    table = with_column(large(7), "latency_ms", network_form="cut")  # 279,936
    answer = mn.search(table, minimize="latency_ms", limits={"accuracy": 0.5})
    assert isinstance(answer, mn.Answer)
    values = table.predict_all("latency_ms")[table.predict_all("accuracy") >= 0.5]
    assert answer.value == pytest.approx(values.min())
    verified = mn.search(table, minimize="latency_ms", limits={"accuracy": 0.5}, verify=True)
    assert verified.verified_by == "numpy"
