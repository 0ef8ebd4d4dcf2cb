"""Depth rules with too many configurations for candidates: rows instead, with the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from solver_cases import ALL_SOLVERS, METRICS, check, random_case, table_of

import mathnas as mn
from mathnas.search import Program, highs_is_available
from mathnas.search import program as programs
from mathnas.search._search import solver_for
from mathnas.search.explain import Explanation, explain
from mathnas.search.rules import fix
from mathnas.space import Block, BlockNode, DepthRule, SearchSpace
from mathnas.table import PairEffects


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No rule's configurations are candidates, so that small spaces are treated as large ones."""
    monkeypatch.setattr(programs, "_MOST_CANDIDATES", 1)
    programs.layout_of.cache_clear()
    yield
    programs.layout_of.cache_clear()


def deep_space(layers: int, blocks: int) -> SearchSpace:
    """A stem, then optional layers whose absent block stands in the middle."""
    rng = np.random.default_rng(layers)
    gone = blocks // 2
    nodes = [
        BlockNode(
            f"n{i}",
            tuple(Block(f"b{j}", macs=0 if i and j == gone else rng.random()) for j in range(size)),
        )
        for i, size in enumerate([3] + [blocks] * layers)
    ]
    rule = DepthRule(tuple(range(1, layers + 1)), (gone,) * layers)
    return SearchSpace(nodes, fixed_macs=1.0, depth_rules=[rule])


def staged_cases(first: int, count: int) -> Iterator[tuple[int, Program]]:
    """Random programs with depth rules, by their seeds."""
    found = 0
    for seed in range(first, first + 100 * count):
        program = random_case(seed)
        if program.space.depth_rules:
            yield seed, program
            found += 1
        if found == count:
            return


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("name", ALL_SOLVERS)
def test_answers_are_those_of_brute_force(name: str) -> None:
    seen = 0
    for seed, program in staged_cases(5000, 12 if name == "highs" else 60):
        assert program.num_nodes == program.space.num_nodes
        if program.power not in (0.0, 1.0) and name in ("chain", "highs"):
            continue
        for count in (1, 1 + seed % 7):
            check(program, solver_for(program, name).solve(program, count=count), count, seed)
        seen += 1
    assert seen >= 6


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("name", ["enumeration", "chain", "highs"])
def test_nodes_of_a_rule_may_interact(name: str) -> None:
    if name == "highs" and not highs_is_available():
        pytest.skip("no HiGHS")
    space = deep_space(3, 4)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values = {metric: rng.normal(size=space.num_blocks) for metric in METRICS[:2]}
        table = table_of(space, space.reference, values, 0.0)
        pairs = tuple(PairEffects(i, i + 1, rng.normal(size=(4, 4))) for i in (1, 2))
        columns = {**table.columns, "accuracy": replace(table.columns["accuracy"], pairs=pairs)}
        table = mn.BlockTable(space, space.reference, columns)
        middle = float(np.median(table.all_responses("latency_ms")))
        limit = mn.Limit(table.metrics["latency_ms"], "<=", middle)
        program = Program(table, "accuracy", True, [limit])
        assert program.has_pairs
        check(program, solver_for(program, name).solve(program, count=3), 3, seed)


def test_a_rule_with_more_than_100_000_configurations_is_searched() -> None:
    space = deep_space(11, 4)
    (rule,) = (group for group in space.groups if group.absent is not None)
    assert rule.count == sum(3**depth for depth in range(12)) > 100_000
    networks = space.all_networks()
    depths = (networks[:, 1:] != 2).sum(axis=1)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        values = {metric: rng.random(space.num_blocks) for metric in METRICS[:3]}
        table = table_of(space, space.reference, values, 0.0)
        accuracy, latency, energy = (table.all_responses(metric) for metric in METRICS[:3])
        limits = {
            "latency_ms": float(np.quantile(latency, 0.5)),
            "energy_mj": float(np.quantile(energy, 0.5)),
        }
        within = (latency <= limits["latency_ms"]) & (energy <= limits["energy_mj"])
        answer = mn.search(table, maximize="accuracy", limits=limits)
        assert isinstance(answer, mn.Answer)
        assert answer.status is mn.Status.OPTIMAL
        assert space.check(answer.network) == answer.network
        assert answer.value == pytest.approx(accuracy[within].max(), abs=1e-9)
        # with a rule of one's own beside: at most seven layers
        shallow = within & (depths <= 7)
        layers: dict[str | int, str | int] = {f"n{place}": "b2" for place in range(8, 12)}
        short = mn.search(table, maximize="accuracy", limits=limits, rules=[fix(space, layers)])
        assert isinstance(short, mn.Answer)
        assert short.value == pytest.approx(accuracy[shallow].max(), abs=1e-9)


@pytest.mark.usefixtures("few_candidates")
def test_explanations_keep_the_rule() -> None:
    space = deep_space(3, 3)
    rng = np.random.default_rng(0)
    values = {metric: rng.random(space.num_blocks) for metric in METRICS[:2]}
    table = table_of(space, space.reference, values, 0.0)
    limit = float(np.median(table.all_responses("latency_ms")))
    found = explain(table, maximize="accuracy", limits={"latency_ms": limit})
    assert isinstance(found, Explanation)
    networks = space.all_networks()
    within = table.all_responses("latency_ms") <= limit
    for other in found.alternatives:
        node = space.node_index(other.node)
        holding = networks[:, node] == space.nodes[node].index(other.block)
        best = table.all_responses("accuracy")[within & holding].max(initial=-np.inf)
        assert (other.network is None) == (best == -np.inf)
        if other.network is not None:
            assert space.check(other.network) == other.network
            assert other.objective == pytest.approx(best)


def test_enumeration_counts_what_the_rows_exclude() -> None:
    # 131,071 networks, but 3^16 choices of which the rows leave these
    nodes = [BlockNode(f"n{i}", tuple(map(Block, ("none", "k3", "k5")))) for i in range(16)]
    space = SearchSpace(nodes, depth_rules=[DepthRule(tuple(range(16)), (0,) * 16)])
    table = table_of(space, space.reference, {"accuracy": np.arange(48.0)}, 0.0)
    assert space.num_networks == 2**17 - 1
    with pytest.raises(mn.InvalidInputError, match="enumeration is for up to 2000000"):
        mn.search(table, solver="enumeration")
    answer = mn.search(table)
    assert isinstance(answer, mn.Answer)
    assert answer.network == (2,) * 16
