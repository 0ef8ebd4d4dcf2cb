"""Depth rules with too many configurations for candidates: rows of the program, or stages that the
kernel keeps by itself, with the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from solver_cases import ALL_SOLVERS, KERNEL, METRICS, OUR_SOLVERS, check, random_case, table_of

import mathnas as mn
from mathnas.search import Program, highs_is_available
from mathnas.search import program as programs
from mathnas.search._search import solver_for
from mathnas.search.explain import Explanation, explain
from mathnas.search.rules import fix
from mathnas.space import Block, BlockNode, DepthRule, SearchSpace
from mathnas.spaces import SuperTransformer
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


def stages_case(seed: int) -> Program:
    """One to three depth rules of two to four nodes, absent blocks anywhere, nodes between; tables
    with and without ties; two limits, from those that no network meets to those that all meet."""
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    rules = []
    for length in rng.integers(2, 4 if rng.random() < 0.7 else 5, int(rng.integers(1, 3))).tolist():
        sizes += rng.integers(1, 3, int(rng.integers(2))).tolist()
        start = len(sizes)
        sizes += rng.integers(2, 4, length).tolist()
        absent = tuple(int(rng.integers(size)) for size in sizes[start:])
        rules.append(DepthRule(tuple(range(start, len(sizes))), absent))
    gone = {(node, block) for r in rules for node, block in zip(r.nodes, r.absent, strict=True)}
    nodes = [
        BlockNode(
            f"n{i}",
            tuple(Block(f"b{j}", macs=0 if (i, j) in gone else rng.random()) for j in range(size)),
        )
        for i, size in enumerate(sizes)
    ]
    space = SearchSpace(nodes, fixed_macs=1.0, depth_rules=rules)
    values = {metric: rng.random(space.num_blocks) for metric in METRICS[:3]}
    if seed % 3 == 0:
        values = {metric: own.round(1) for metric, own in values.items()}
    if seed % 3 == 1:  # depth decides
        for node, block in gone:
            for metric, worth in zip(METRICS, (-1.0, -3.0, -2.0), strict=False):
                values[metric][space.offsets[node] + block] += worth
    if seed % 4 == 0:
        values["energy_mj"] = 1.0 - values["latency_ms"]
    table = table_of(space, space.reference, values, (0.0, 1.0, 0.3)[seed // 3 % 3])
    limits = []
    for metric in METRICS[1:3]:
        uses = np.sort(table.all_responses(metric))
        at = int(rng.integers(len(uses)))
        value = float(uses[at]) if rng.random() < 0.7 else float(uses[0]) - 0.01 + rng.random()
        limits.append(mn.Limit(table.metrics[metric], "<=", value))
    return Program(table, "accuracy", True, limits)


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("name", OUR_SOLVERS)
def test_any_depths_are_those_of_brute_force(name: str) -> None:
    seen: set[int | None] = set()
    for seed in range(400 if name == "kernel" else 120):
        program = stages_case(seed)
        count = 1 if seed % 2 else 1 + seed % 5
        solution = solver_for(program, name).solve(program, count=count)
        check(program, solution, count, seed)
        for network in solution.networks:
            assert program.space.check(network) == network
        depths = {
            sum(network[i] != b for i, b in zip(rule.nodes, rule.absent, strict=True))
            for network in solution.networks
            for rule in program.space.depth_rules
        }
        seen |= depths if solution.networks else {None}
    assert seen == {None, 0, 1, 2, 3, 4}


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize("name", OUR_SOLVERS)
def test_a_small_transformer_is_solved_as_by_brute_force(name: str) -> None:
    space = SuperTransformer(
        ffn=(1024, 2048), heads=(8,), attention=(-1, 1), encoder_layers=2, decoder_layers=4
    )
    assert space.num_networks == 2**2 * (4 + 4**2 + 4**3 + 4**4)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        values = {metric: rng.random(space.num_blocks) for metric in ("accuracy", "latency_ms")}
        for layer in range(3, 6):  # without a layer: less accurate, much faster
            values["accuracy"][space.offsets[layer + 1] - 1] = -1.0
            values["latency_ms"][space.offsets[layer + 1] - 1] = -5.0
        table = table_of(space, space.reference, values, float(seed % 2))
        uses = {metric: table.all_responses(metric) for metric in ("latency_ms", "macs")}
        limits = [
            mn.Limit(table.metrics[metric], "<=", float(np.quantile(own, rng.random())))
            for metric, own in uses.items()
        ]
        program = Program(table, "accuracy", True, limits)
        assert program.num_nodes == 6
        check(program, solver_for(program, name).solve(program), 1, seed)


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


@pytest.mark.parametrize("name", [KERNEL, "numpy"])
def test_columns_that_are_nearly_proportional_are_hard_but_proven(name: str) -> None:
    space = deep_space(11, 4)
    size = np.random.default_rng(7).lognormal(0, 0.6, space.num_blocks)
    size[space.offsets[1:-1] + 2] = 0.0  # what is absent
    looked_at = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        near = {metric: size * (1 + 1e-3 * rng.normal(size=len(size))) for metric in METRICS[:2]}
        table = table_of(space, space.reference, {**near, "energy_mj": size}, 0.0)
        accuracy, latency, energy = (table.all_responses(metric) for metric in METRICS[:3])
        uses = {"latency_ms": latency, "energy_mj": energy}
        share = rng.uniform(0.1, 0.9)  # the two limits are hardly the same
        limits = [
            mn.Limit(table.metrics[metric], "<=", float(np.quantile(own, share)))
            for metric, own in uses.items()
        ]
        program = Program(table, "accuracy", True, limits)
        solution = solver_for(program, name).solve(program, time_limit=60)
        assert solution.status is mn.Status.OPTIMAL
        (network,) = solution.networks
        assert space.check(network) == network
        assert program.holds(network)
        within = np.all([uses[limit.metric.name] <= limit.value for limit in limits], axis=0)
        best = table.exact(network, "accuracy")
        assert best == pytest.approx(accuracy[within].max(), abs=1e-9 * program.span)
        looked_at += solution.work.get("leaves", 0)
    assert name != "kernel" or looked_at > 1000


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
