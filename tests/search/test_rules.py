"""Rules mean what their words say, and a search under them is the brute force."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from solver_cases import random_case, table_of

import mathnas as mn
from mathnas.search import (
    Program,
    Rule,
    at_least_changes,
    at_most_changes,
    exclude,
    fix,
    forbid,
    highs_is_available,
    kernel_is_available,
    require,
)
from mathnas.space import Network

Words = Callable[[Network], bool]

SOLVERS = [
    pytest.param("kernel", marks=pytest.mark.skipif(not kernel_is_available(), reason="no kernel")),
    "numpy",
    pytest.param("highs", marks=pytest.mark.skipif(not highs_is_available(), reason="no highspy")),
]


def small_space(*, depth: bool = False) -> mn.SearchSpace:
    """Three nodes; with `depth`, body and tail may be left out, the tail before the body."""
    blocks = {"stem": "plain wide", "body": "none small large", "tail": "none small large"}
    return mn.SearchSpace(
        [
            mn.BlockNode(node, tuple(mn.Block(name, macs=1.0 + i) for i, name in enumerate(own)))
            for node, own in ((node, names.split()) for node, names in blocks.items())
        ],
        name="small",
        fixed_macs=1.0,
        depth_rules=[mn.DepthRule((1, 2), (0, 0))] if depth else [],
    )


def small_table(space: mn.SearchSpace) -> mn.BlockTable:
    """Heavier blocks are more accurate and slower."""
    gain = np.array([0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 4.0, 5.0])
    cost = np.array([0.0, 2.0, 0.0, 1.0, 4.0, 0.0, 1.0, 3.0])
    return table_of(space, (0, 0, 0), {"accuracy": gain, "latency_ms": cost}, 0.0)


def keeping(space: mn.SearchSpace, rule: Rule) -> list[tuple[str, ...]]:
    """Block names of all networks that keep a rule."""
    return [space.block_names(network) for network in space.enumerate() if rule.holds(network)]


# ---- one rule after the other --------------------------------------------------------------------


def test_forbid_keeps_blocks_from_standing_together() -> None:
    space = small_space()
    rule = forbid(space, {"stem": "wide", "body": "large"})
    assert keeping(space, rule) == [
        names
        for names in map(space.block_names, space.enumerate())
        if not (names[0] == "wide" and names[1] == "large")
    ]
    assert str(rule) == "not together: stem=wide, body=large"


def test_forbid_of_a_single_block_excludes_it() -> None:
    space = small_space()
    assert keeping(space, forbid(space, {1: 2})) == keeping(space, exclude(space, {1: 2}))


def test_require_asks_for_all_consequences_where_all_conditions_are_met() -> None:
    space = small_space()
    rule = require(space, when={"stem": "wide"}, then={"body": "large", "tail": "small"})
    wide = [names for names in keeping(space, rule) if names[0] == "wide"]
    assert wide == [("wide", "large", "small")]
    assert len(keeping(space, rule)) == 9 + 1
    both = require(space, when={"stem": "wide", "body": "large"}, then={"tail": "small"})
    assert len(keeping(space, both)) == 18 - 2
    assert str(both) == "where stem=wide, body=large, then tail=small"


def test_fix_gives_nodes_their_blocks() -> None:
    space = small_space()
    rule = fix(space, {"stem": "wide", "tail": "small"})
    assert {(names[0], names[2]) for names in keeping(space, rule)} == {("wide", "small")}
    assert len(keeping(space, rule)) == 3
    assert str(rule) == "fixed: stem=wide, tail=small"


def test_exclude_takes_one_block_or_a_list_of_them() -> None:
    space = small_space()
    rule = exclude(space, {"stem": "wide", "body": ["none", 1]})
    assert {names[:2] for names in keeping(space, rule)} == {("plain", "large")}
    assert "stem" in str(rule)
    assert "body" in str(rule)


@pytest.mark.parametrize("count", range(5))
def test_changes_are_counted_in_nodes(count: int) -> None:
    space, given = small_space(), ("wide", "small", "none")
    changes = {
        names: sum(a != b for a, b in zip(names, given, strict=True))
        for names in map(space.block_names, space.enumerate())
    }
    most, least = at_most_changes(space, given, count), at_least_changes(space, given, count)
    assert keeping(space, most) == [names for names, n in changes.items() if n <= count]
    assert keeping(space, least) == [names for names, n in changes.items() if n >= count]
    assert str(most) == f"at most {count} nodes differ from [1,1,0]"
    assert str(least) == f"at least {count} nodes differ from [1,1,0]"


# ---- random rules against their words ------------------------------------------------------------


def random_rule(space: mn.SearchSpace, rng: np.random.Generator) -> tuple[Rule, Words]:
    """A rule of any kind, and the same in words."""
    order = rng.permutation(space.num_nodes).tolist()
    cut = int(rng.integers(1, len(order) + 1))
    blocks = {node: int(rng.integers(space.sizes[node])) for node in order}
    some = {node: blocks[node] for node in order[:cut]}
    rest = {node: blocks[node] for node in order[cut:]}
    networks = list(space.enumerate())
    given = networks[int(rng.integers(len(networks)))]
    count = int(rng.integers(space.num_nodes + 1))
    kind = int(rng.integers(6))
    if kind == 0:
        return forbid(space, _named(space, some)), lambda n: not _all(n, some)
    if kind == 1 and rest:
        rule = require(space, _named(space, some), _named(space, rest))
        return rule, lambda n: not _all(n, some) or _all(n, rest)
    if kind == 2:
        few = dict(list(some.items())[:2])
        return fix(space, _named(space, few)), lambda n: _all(n, few)
    if kind == 3:
        return at_most_changes(space, given, count), lambda n: _changes(n, given) <= count
    if kind == 4:
        return at_least_changes(space, given, count), lambda n: _changes(n, given) >= count
    gone = {
        node: rng.permutation(space.sizes[node])[: max(1, space.sizes[node] - 1)].tolist()
        for node in order[:2]
    }
    return exclude(space, gone), lambda n: not any(n[node] in gone[node] for node in gone)


def _named(space: mn.SearchSpace, blocks: dict[int, int]) -> dict[int | str, int | str]:
    """Every second node, and every third block, by name."""
    named: dict[int | str, int | str] = {}
    for node, block in blocks.items():
        own = space.nodes[node]
        named[own.name if node % 2 else node] = block if node % 3 else own.blocks[block].name
    return named


def _all(network: Network, blocks: dict[int, int]) -> bool:
    return all(network[node] == block for node, block in blocks.items())


def _changes(network: Network, given: Network) -> int:
    return sum(a != b for a, b in zip(network, given, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_holds_is_the_rule_in_words(seed: int) -> None:
    space = random_case(seed).space
    rng = np.random.default_rng(seed)
    for _ in range(4):
        rule, words = random_rule(space, rng)
        for network in space.enumerate():
            assert rule.holds(network) == words(network), f"{rule}: {network}"


class Case:
    """A random program with rules, and which networks are feasible by the rules' words."""

    def __init__(self, seed: int, *, with_limits: bool) -> None:
        program = random_case(seed)
        rng = np.random.default_rng([seed, 5])
        self.table, self.objective = program.table, program.objective.name
        self.upwards, self.power = program.maximize, program.power
        self.limits = program.limits if with_limits else ()
        drawn = [random_rule(program.space, rng) for _ in range(int(rng.integers(1, 4)))]
        self.rules = [rule for rule, _ in drawn]
        kept = [n for n in program.space.enumerate() if all(words(n) for _, words in drawn)]
        values: list[float] = []
        for network in kept:
            if all(
                limit.holds(self.table.exact(network, limit.metric.name)) for limit in self.limits
            ):
                values.append(self.table.exact(network, self.objective))
        self.best = (max if self.upwards else min)(values, default=None)
        self.words = [words for _, words in drawn]
        self.near = 1e-9 * program.span + 1e-14 * max(map(abs, values), default=0.0)

    def search(self, solver: str) -> mn.Answer | mn.Infeasible:
        return mn.search(
            self.table,
            maximize=self.objective if self.upwards else None,
            minimize=None if self.upwards else self.objective,
            limits=self.limits,
            rules=self.rules,
            solver=solver,
        )


@cache
def case(seed: int) -> Case:
    return Case(seed, with_limits=seed % 3 > 0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_search_under_rules_is_the_brute_force(solver: str) -> None:
    answers = 0
    for seed in range(200):
        given = case(seed)
        if solver == "highs" and given.power not in (0.0, 1.0):
            continue
        answer = given.search(solver)
        if given.best is None:
            assert isinstance(answer, mn.Infeasible), (seed, given.rules)
            assert answer.status is mn.Status.INFEASIBLE
            continue
        assert isinstance(answer, mn.Answer), (seed, given.rules)
        assert answer.status is mn.Status.OPTIMAL
        assert answer.value == pytest.approx(given.best, rel=0, abs=given.near), seed
        assert all(words(answer.network) for words in given.words), seed
        assert all(use.limit.holds(use.used) for use in answer.limits), seed
        answers += 1
    assert answers > 30


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_rule_tells_equal_nodes_apart(solver: str) -> None:
    """Where all nodes are alike, solvers exchange them freely: a rule on some of them must hold."""
    count, profile = 5, np.array([0.0, 1.0, 3.0])
    nodes = [mn.BlockNode(f"n{i}", tuple(map(mn.Block, "abc"))) for i in range(count)]
    space = mn.SearchSpace(nodes)
    values = {"accuracy": np.tile(profile, count), "latency_ms": np.tile(profile, count)}
    table = table_of(space, (0,) * count, values, 0.0)
    for node in range(count):
        rules = [fix(space, {node: "c"}), exclude(space, {(node + 1) % count: ["b", "c"]})]
        answer = mn.search(
            table, maximize="accuracy", limits={"latency_ms": 6.0}, rules=rules, solver=solver
        )
        assert isinstance(answer, mn.Answer)
        assert answer.network[node] == 2
        assert answer.network[(node + 1) % count] == 0
        assert answer.value == 5.0  # 3 + 1 + 1, or 3 + 1 + 1 + 0: the base of latency is 1 ms


# ---- with depth rules ----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_late_optional_node_brings_the_earlier_one(solver: str) -> None:
    space = small_space(depth=True)
    table = small_table(space)
    present = mn.search(
        table, minimize="latency_ms", rules=[exclude(space, {"tail": "none"})], solver=solver
    )
    assert isinstance(present, mn.Answer)
    assert present.blocks == {"stem": "plain", "body": "small", "tail": "small"}
    rules = [fix(space, {"tail": "small"}), fix(space, {"body": "none"})]
    assert not mn.search(table, minimize="latency_ms", rules=rules, solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_few_changes_keep_the_depth_rule(solver: str) -> None:
    space = small_space(depth=True)
    table = small_table(space)
    rules = [at_most_changes(space, ("plain", "none", "none"), 1)]
    answer = mn.search(table, maximize="accuracy", rules=rules, solver=solver)
    assert isinstance(answer, mn.Answer)
    assert answer.blocks == {"stem": "plain", "body": "large", "tail": "none"}


# ---- nothing is left -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_rules_that_contradict_each_other_leave_nothing(solver: str) -> None:
    space = small_space()
    for rules in (
        [fix(space, {"stem": "wide"}), exclude(space, {"stem": "wide"})],
        [exclude(space, {"body": ["none", "small", "large"]})],
        [at_least_changes(space, (0, 0, 0), 4)],
        [at_most_changes(space, (0, 0, 0), 1), at_most_changes(space, (1, 1, 1), 1)],
    ):
        nothing = mn.search(small_table(space), maximize="accuracy", rules=rules, solver=solver)
        assert isinstance(nothing, mn.Infeasible)
        assert nothing.status is mn.Status.INFEASIBLE


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_limit_is_compared_with_what_the_rules_allow(solver: str) -> None:
    space = small_space()
    rules = [fix(space, {"stem": "wide"})]
    nothing = mn.search(
        small_table(space),
        maximize="accuracy",
        limits={"latency_ms": 2.5},
        rules=rules,
        solver=solver,
    )
    assert isinstance(nothing, mn.Infeasible)
    assert [conflict.best for conflict in nothing.conflicts] == [3.0]


def test_where_rules_alone_exclude_everything_no_more_time_is_asked_for() -> None:
    space = small_space()
    rules = [exclude(space, {"stem": ["plain", "wide"]})]
    nothing = mn.search(small_table(space), maximize="accuracy", rules=rules)
    assert isinstance(nothing, mn.Infeasible)
    assert nothing.status is mn.Status.INFEASIBLE
    assert "more time" not in str(nothing)


def test_where_rules_alone_exclude_everything_no_limit_is_blamed() -> None:
    space = small_space()
    rules = [exclude(space, {"stem": ["plain", "wide"]})]
    nothing = mn.search(
        small_table(space), maximize="accuracy", limits={"latency_ms": 100}, rules=rules
    )
    assert isinstance(nothing, mn.Infeasible)
    assert "latency_ms <= 100 ms cannot hold:" not in str(nothing)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: forbid(s, {}), "at least one block, but got none"),
        (lambda s: fix(s, {}), "at least one block, but got none"),
        (lambda s: exclude(s, {}), "at least one block, but got none"),
        (lambda s: exclude(s, {"body": []}), "at least one block, but got none"),
        (lambda s: require(s, {}, {"stem": 0}), "at least one block, but got none"),
        (lambda s: require(s, {"stem": 0}, {}), "at least one block, but got none"),
        (lambda s: forbid(s, {"bodi": 0}), "no node 'bodi': did you mean 'body'"),
        (lambda s: fix(s, {3: 0}), "go from 0 to 2, but got 3"),
        (lambda s: fix(s, {-1: 0}), "go from 0 to 2, but got -1"),
        (lambda s: fix(s, {"body": "smal"}), "'body' has no block 'smal': did you mean 'small'"),
        (lambda s: exclude(s, {"body": ["small", 3]}), "'body' has blocks 0 to 2, but got 3"),
        (lambda s: forbid(s, {"body": -1}), "'body' has blocks 0 to 2, but got -1"),
        (lambda s: require(s, {"stem": 0}, {"stem": 1}), "about different nodes"),
        (lambda s: require(s, {"stem": 0, "body": 1}, {1: 1}), "about different nodes"),
        (lambda s: at_most_changes(s, (0, 0, 0), -1), "at least 0, but got -1"),
        (lambda s: at_least_changes(s, (0, 0, 0), -1), "at least 0, but got -1"),
        (lambda s: at_most_changes(s, (0, 0), 1), "one block for each of its 3 nodes"),
        (lambda s: at_least_changes(s, (0, 0, 7), 1), "'tail' has blocks 0 to 2, but got 7"),
    ],
)
def test_what_is_not_a_rule_is_refused(
    make: Callable[[mn.SearchSpace], Rule], message: str
) -> None:
    with pytest.raises(mn.InvalidInputError, match=message):
        make(small_space())


def test_changes_are_counted_from_a_network_that_keeps_the_depth_rule() -> None:
    with pytest.raises(mn.InvalidInputError, match="'body' is absent and a later one is not"):
        at_most_changes(small_space(depth=True), ("plain", "none", "small"), 1)


def test_a_rule_about_another_space_is_refused_everywhere() -> None:
    table = small_table(small_space())
    other = mn.SearchSpace([mn.BlockNode("only", (mn.Block("a"), mn.Block("b")))], name="other")
    rules = [fix(other, {"only": "a"})]
    calls: Sequence[Callable[[], object]] = (
        lambda: mn.search(table, maximize="accuracy", rules=rules),
        lambda: mn.k_best(table, 2, maximize="accuracy", rules=rules),
        lambda: mn.pareto_front(table, "latency_ms", "accuracy", rules=rules),
        lambda: mn.explain(table, maximize="accuracy", rules=rules),
    )
    for call in calls:
        with pytest.raises(mn.InvalidInputError, match="only=a is about other"):
            call()


def test_a_rule_about_an_equal_space_is_taken() -> None:
    rule = fix(small_space(), {"stem": "wide"})
    answer = mn.search(small_table(small_space()), maximize="accuracy", rules=[rule])
    assert isinstance(answer, mn.Answer)
    assert answer.blocks["stem"] == "wide"


# ---- at the edge ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: forbid(s, {"stem": 0, 0: 0}), lambda n: n[0] != 0),
        (lambda s: fix(s, {"stem": 0, 0: 0}), lambda n: n[0] == 0),
        (lambda s: exclude(s, {"stem": [0, 0], 0: "plain"}), lambda n: n[0] != 0),
        (lambda s: require(s, {"stem": 0, 0: 0}, {1: 1}), lambda n: n[0] != 0 or n[1] == 1),
        (lambda s: require(s, {1: 1}, {"stem": 0, 0: 0}), lambda n: n[1] != 1 or n[0] == 0),
    ],
    ids=["forbid", "fix", "exclude", "require-when", "require-then"],
)
def test_a_block_that_is_named_twice_counts_once_or_is_refused(
    make: Callable[[mn.SearchSpace], Rule], words: Words
) -> None:
    space = small_space()
    with contextlib.suppress(mn.InvalidInputError):
        rule = make(space)
        assert [n for n in space.enumerate() if rule.holds(n)] == [
            n for n in space.enumerate() if words(n)
        ]


def test_two_blocks_of_one_node_cannot_be_named_together() -> None:
    space = small_space()
    twice: dict[int | str, int | str] = {"stem": 0, 0: 1}
    for rule in (forbid, fix):
        with pytest.raises(mn.InvalidInputError, match="stands twice"):
            rule(space, twice)
    with pytest.raises(mn.InvalidInputError, match="names a node once"):
        require(space, {"body": 1}, twice)


def test_a_block_may_be_a_number_of_numpy() -> None:
    space = small_space()
    node, block = np.int64(1), np.int64(2)
    expected = keeping(space, exclude(space, {1: 2}))
    assert keeping(space, forbid(space, {node: block})) == expected
    assert keeping(space, exclude(space, {node: [block]})) == expected
    assert keeping(space, exclude(space, {node: block})) == expected


def test_equal_rules_compare_as_equal() -> None:
    space = small_space()
    assert fix(space, {"stem": 0}) == fix(space, {0: "plain"})
    assert fix(space, {"stem": 0}) != fix(space, {"stem": 1})


def test_a_program_prints_its_rules() -> None:
    space = small_space()
    program = Program(small_table(space), "accuracy", True, (), [fix(space, {"stem": 0})])
    assert "subject to fixed: stem=plain" in str(program)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_node_with_one_block_may_be_fixed_or_excluded(solver: str) -> None:
    nodes = [mn.BlockNode("one", (mn.Block("a"),)), mn.BlockNode("two", tuple(map(mn.Block, "bc")))]
    space = mn.SearchSpace(nodes)
    table = table_of(space, (0, 0), {"accuracy": np.array([0.0, 0.0, 1.0])}, 0.0)
    kept = mn.search(table, rules=[fix(space, {"one": "a"})], solver=solver)
    assert isinstance(kept, mn.Answer)
    assert kept.network == (0, 1)
    assert not mn.search(table, rules=[exclude(space, {"one": "a"})], solver=solver)
