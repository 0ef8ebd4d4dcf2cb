"""What `explain` says of limits and blocks is what a brute force finds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from solver_cases import OUR_SOLVERS, random_case, table_of

import mathnas as mn
from mathnas.search import (
    Alternative,
    Limit,
    LimitPrice,
    Program,
    Rule,
    highs_is_available,
)
from mathnas.search.rules import at_most_changes, exclude, fix
from mathnas.space import Network


def ladder() -> mn.BlockTable:
    """Three nodes worth 0 or 1, 0 or 2, 0 or 4 % accuracy; latency is twice that, from 1 ms on."""
    nodes = [
        mn.BlockNode(name, (mn.Block("off"), mn.Block("on"))) for name in ("one", "two", "four")
    ]
    worth = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 4.0])
    values = {"accuracy": worth, "latency_ms": 2 * worth}
    return table_of(mn.SearchSpace(nodes), (0, 0, 0), values, 0.0)


class Brute:
    """Every network of a program that keeps the rules, with its values."""

    def __init__(self, program: Program, rules: Sequence[Rule]) -> None:
        self.program, self.upwards = program, program.maximize
        self.near = 1e-9 * program.span
        table, metrics = program.table, [limit.metric.name for limit in program.limits]
        self.values: dict[Network, dict[str, float]] = {
            network: {
                name: table.exact(network, name) for name in {*metrics, program.objective.name}
            }
            for network in program.space.enumerate()
            if all(rule.holds(network) for rule in rules)
        }

    def objectives(self, limits: Sequence[Limit], node: int = 0, block: int = -1) -> list[float]:
        """Objectives of those that meet limits (and hold a block), the best first."""
        name = self.program.objective.name
        return sorted(
            (
                own[name]
                for network, own in self.values.items()
                if all(limit.holds(own[limit.metric.name]) for limit in limits)
                and (block < 0 or network[node] == block)
            ),
            reverse=self.upwards,
        )

    def next_value(self, place: int, best: float) -> float | None:
        """The closest value of a limit at which there is something better than `best`."""
        limit = self.program.limits[place]
        others = [other for other in self.program.limits if other is not limit]
        used = [
            own[limit.metric.name]
            for own in self.values.values()
            if all(other.holds(own[other.metric.name]) for other in others)
            and self.gain(own[self.program.objective.name], best) > self.near
        ]
        return (min if limit.sense == "<=" else max)(used, default=None)

    def gain(self, value: float, best: float) -> float:
        return value - best if self.upwards else best - value

    def close(self, value: float | None, expected: float | None) -> bool:
        if value is None or expected is None:
            return value is expected
        return abs(value - expected) <= self.near + 1e-14 * abs(expected)


def explained(
    program: Program, rules: Sequence[Rule] = (), solver: str = "auto"
) -> mn.Explanation | mn.Infeasible:
    """`explain` of what a program says."""
    name = program.objective.name
    return mn.explain(
        program.table,
        maximize=name if program.maximize else None,
        minimize=None if program.maximize else name,
        limits=program.limits,
        rules=rules,
        solver=solver,
    )


def drawn_rules(space: mn.SearchSpace, seed: int) -> list[Rule]:
    """None, or one that leaves most networks."""
    networks = list(space.enumerate())
    if seed % 3 == 0:
        return [at_most_changes(space, networks[seed % len(networks)], space.num_nodes - 1)]
    if seed % 3 == 1:
        return [exclude(space, {space.num_nodes - 1: space.sizes[-1] - 1})]
    return []


# ---- against brute force -------------------------------------------------------------------------


def check(program: Program, rules: Sequence[Rule], why: mn.Explanation, label: object) -> None:
    brute = Brute(program, rules)
    best = brute.objectives(program.limits)[0]
    assert brute.close(why.answer.value, best), label
    assert [price.limit for price in why.prices] == list(program.limits), label
    for place, price in enumerate(why.prices):
        check_price(brute, place, price, why.answer, label)
    blocks = [(node, block) for node in program.space.nodes for block in node.blocks]
    assert [(other.node, other.block) for other in why.alternatives] == [
        (node.name, block.name) for node, block in blocks
    ]
    for other in why.alternatives:
        check_alternative(brute, other, why.answer, label)


def check_price(
    brute: Brute, place: int, price: LimitPrice, answer: mn.Answer, label: object
) -> None:
    limits, limit = list(brute.program.limits), price.limit
    assert price.used == answer.limits[place].used, label
    expected = brute.next_value(place, answer.value)
    if expected is None or price.next_value is None:
        assert (price.next_value, price.next_objective) == (expected, None), label
        return
    used = [own[limit.metric.name] for own in brute.values.values()]
    near = 1e-9 * (max(used) - min(used)) + 1e-14 * abs(expected)
    assert price.next_value == pytest.approx(expected, rel=0, abs=near), label
    assert not limit.holds(price.next_value), label
    limits[place] = Limit(limit.metric, limit.sense, price.next_value)
    assert brute.close(price.next_objective, brute.objectives(limits)[0]), label


def check_alternative(brute: Brute, other: Alternative, answer: mn.Answer, label: object) -> None:
    space = brute.program.space
    node = space.node_index(other.node)
    block = space.nodes[node].index(other.block)
    assert other.chosen == (answer.network[node] == block), label
    values = brute.objectives(brute.program.limits, node, block)
    if not values:
        assert (other.network, other.objective, other.loss) == (None, None, None), label
        return
    assert other.network is not None, label
    assert other.loss is not None, label
    assert other.network[node] == block, label
    assert other.network in brute.values, label
    own = brute.values[other.network]
    assert all(limit.holds(own[limit.metric.name]) for limit in brute.program.limits), label
    assert brute.close(other.objective, values[0]), label
    assert other.loss >= 0, label
    assert brute.close(other.loss, -brute.gain(values[0], answer.value)) or other.loss <= brute.near


@pytest.mark.parametrize("solver", OUR_SOLVERS)
def test_prices_and_alternatives_are_the_brute_force(solver: str) -> None:
    priced = free = impossible = 0
    for seed in range(60):
        program = random_case(seed)
        if program.power == 0.3:
            continue
        rules = drawn_rules(program.space, seed)
        why = explained(program, rules, solver)
        if not Brute(program, rules).objectives(program.limits):
            assert isinstance(why, mn.Infeasible), seed
            continue
        assert isinstance(why, mn.Explanation), seed
        check(program, rules, why, seed)
        priced += sum(price.next_value is not None for price in why.prices)
        free += sum(price.next_value is None for price in why.prices)
        impossible += sum(other.loss is None for other in why.alternatives)
    assert min(priced, free, impossible) > 3


@pytest.mark.skipif(not highs_is_available(), reason="no highspy")
def test_prices_and_alternatives_by_highs_are_the_brute_force() -> None:
    for seed in range(12):
        program = random_case(seed)
        if program.power == 0.3:
            continue
        why = explained(program, solver="highs")
        if isinstance(why, mn.Explanation):
            check(program, (), why, seed)


def test_an_objective_with_an_empirical_exponent_is_explained_too() -> None:
    for seed in range(30):
        program = random_case(seed)
        if program.power != 0.3:
            continue
        found = mn.search(
            program.table,
            maximize="accuracy" if program.maximize else None,
            minimize=None if program.maximize else "accuracy",
            limits=program.limits,
            solver="numpy",
        )
        if isinstance(found, mn.Answer):
            why = explained(program, solver="numpy")
            assert isinstance(why, mn.Explanation)
            check(program, (), why, seed)


# ---- by hand -------------------------------------------------------------------------------------


def test_the_price_of_a_limit_is_its_next_step() -> None:
    why = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 6})
    assert isinstance(why, mn.Explanation)
    assert why.answer.value == 2.0  # at 5 ms; 3 % need 7 ms
    (price,) = why.prices
    assert (price.used, price.next_value, price.next_objective) == (5.0, 7.0, 3.0)


def test_a_limit_that_does_not_bind_has_no_price() -> None:
    why = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 100})
    assert isinstance(why, mn.Explanation)
    (price,) = why.prices
    assert (price.next_value, price.next_objective) == (None, None)
    assert "latency_ms <= 100 ms: nothing, however far it is loosened" in str(why)


def test_where_all_networks_are_equally_good_no_limit_has_a_price() -> None:
    space = mn.SearchSpace([mn.BlockNode("only", (mn.Block("a"), mn.Block("b")))])
    values = {"accuracy": np.array([3.0, 3.0]), "latency_ms": np.array([0.0, 1.0])}
    why = mn.explain(table_of(space, (0,), values, 0.0), limits={"latency_ms": 5})
    assert isinstance(why, mn.Explanation)
    assert [use.binds for use in why.answer.limits] == [False]
    assert [price.next_value for price in why.prices] == [None]


def test_of_two_limits_that_bind_together_neither_has_a_price() -> None:
    table = ladder()
    limits = [Limit(table.metrics["latency_ms"], "<=", value) for value in (6.0, 6.5)]
    why = mn.explain(table, maximize="accuracy", limits=limits)
    assert isinstance(why, mn.Explanation)
    assert [price.next_value for price in why.prices] == [None, None]


def test_a_lower_bound_is_relaxed_downwards() -> None:
    why = mn.explain(ladder(), minimize="latency_ms", limits={"accuracy": ">=2.5"})
    assert isinstance(why, mn.Explanation)
    (price,) = why.prices
    assert (price.used, price.next_value, price.next_objective) == (3.0, 2.0, 5.0)


def test_a_block_costs_what_the_best_network_with_it_lacks() -> None:
    why = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 7})
    assert isinstance(why, mn.Explanation)
    assert why.answer.network == (1, 1, 0)  # 3 % in 7 ms
    assert {(a.node, a.block): (a.chosen, a.loss) for a in why.alternatives} == {
        ("one", "off"): (False, 1.0),
        ("one", "on"): (True, 0.0),
        ("two", "off"): (False, 2.0),
        ("two", "on"): (True, 0.0),
        ("four", "off"): (True, 0.0),
        ("four", "on"): (False, None),  # 9 ms
    }


def test_a_rule_makes_blocks_impossible() -> None:
    table = ladder()
    why = mn.explain(table, maximize="accuracy", rules=[fix(table.space, {"two": "off"})])
    assert isinstance(why, mn.Explanation)
    losses = {(other.node, other.block): other.loss for other in why.alternatives}
    assert losses["two", "on"] is None
    assert losses["four", "off"] == 4.0


def test_an_optional_node_is_explained_with_the_nodes_that_it_needs() -> None:
    names = ("none", "some")
    nodes = [mn.BlockNode(f"n{i}", tuple(map(mn.Block, names))) for i in range(3)]
    space = mn.SearchSpace(nodes, depth_rules=[mn.DepthRule((0, 1, 2), (0, 0, 0))])
    values = {"accuracy": np.array([0.0, -1.0] * 3)}
    why = mn.explain(table_of(space, (0, 0, 0), values, 0.0))
    assert isinstance(why, mn.Explanation)
    assert why.answer.blocks == {"n0": "none", "n1": "none", "n2": "none"}
    assert [a.loss for a in why.alternatives if not a.chosen] == [1.0, 2.0, 3.0]
    assert why.alternatives[-1].network == (1, 1, 1)


def test_only_the_blocks_of_some_nodes_are_compared_where_that_is_asked_for() -> None:
    why = mn.explain(ladder(), maximize="accuracy", nodes=["four", 0])
    assert isinstance(why, mn.Explanation)
    assert [other.node for other in why.alternatives] == ["four", "four", "one", "one"]
    none = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 6}, nodes=[])
    assert isinstance(none, mn.Explanation)
    assert none.alternatives == ()
    assert len(none.prices) == 1


# ---- no answer -----------------------------------------------------------------------------------


def test_where_nothing_meets_the_limits_the_nearest_values_are_the_brute_force() -> None:
    seen = 0
    for seed in range(300):
        program = random_case(seed)
        if program.power == 0.3 or not program.limits:
            continue
        brute = Brute(program, ())
        if brute.objectives(program.limits):
            continue
        nothing = explained(program)
        assert isinstance(nothing, mn.Infeasible), seed
        check_conflicts(brute, nothing, seed)
        seen += 1
    assert seen > 10


def check_conflicts(brute: Brute, nothing: mn.Infeasible, label: object) -> None:
    """The limits that cannot hold alone, else each under the others, with the nearest value."""
    assert nothing.status is mn.Status.INFEASIBLE, label
    alone = [limit for limit in nothing.limits if not brute.objectives([limit])]
    named = [conflict.limit for conflict in nothing.conflicts]
    assert named == (alone or list(nothing.limits)), label
    for conflict in nothing.conflicts:
        limit, name = conflict.limit, conflict.limit.metric.name
        others = [] if alone else [other for other in nothing.limits if other != limit]
        assert list(conflict.others) == others, label
        used = [
            own[name]
            for own in brute.values.values()
            if all(other.holds(own[other.metric.name]) for other in others)
        ]
        nearest = (min if limit.sense == "<=" else max)(used, default=None)
        if nearest is None or conflict.best is None:
            assert conflict.best is nearest, label
            continue
        span = max(own[name] for own in brute.values.values()) - min(used)
        assert conflict.best == pytest.approx(nearest, rel=1e-14, abs=2e-9 * abs(span)), label


# ---- how it is shown -----------------------------------------------------------------------------


def test_an_explanation_is_json() -> None:
    why = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 7})
    assert isinstance(why, mn.Explanation)
    record = json.loads(json.dumps(why.to_dict()))
    assert record["answer"] == why.answer.to_dict()
    assert record["prices"] == [
        {
            "metric": "latency_ms",
            "sense": "<=",
            "value": 7.0,
            "used": 7.0,
            "next_value": 9.0,
            "next_objective": 4.0,
        }
    ]
    assert len(record["alternatives"]) == 6
    assert record["alternatives"][0] == {
        "node": "one",
        "block": "off",
        "chosen": False,
        "network": [0, 1, 0],
        "objective": 2.0,
        "loss": 1.0,
    }
    assert record["alternatives"][-1]["network"] is None


def test_an_explanation_prints_the_answer_and_every_price_and_block() -> None:
    why = mn.explain(ladder(), maximize="accuracy", limits={"latency_ms": 7, "accuracy": ">=1"})
    assert isinstance(why, mn.Explanation)
    text = str(why)
    assert text.startswith(str(why.answer))
    assert "latency_ms <= 7 ms: at 9 ms (2 ms more), accuracy 4.00 % (1 better)" in text
    assert "accuracy >= 1.00 %: nothing, however far it is loosened" in text
    assert "one: off -1, [on]" in text
    assert "two: off -2, [on]" in text
    assert "four: [off], on impossible" in text


def test_no_prices_are_announced_where_there_are_no_limits() -> None:
    text = str(mn.explain(ladder(), maximize="accuracy"))
    assert not re.search(r"what more of a limit buys\n\n", text)


# ---- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_explained_is_refused() -> None:
    table = ladder()
    with pytest.raises(mn.InvalidInputError, match="no node 'fuor': did you mean 'four'"):
        mn.explain(table, maximize="accuracy", nodes=["fuor"])
    with pytest.raises(mn.InvalidInputError, match="go from 0 to 2, but got 3"):
        mn.explain(table, maximize="accuracy", nodes=[3])
    with pytest.raises(mn.InvalidInputError, match="no metric 'beauty'"):
        mn.explain(table, maximize="beauty")
    with pytest.raises(mn.InvalidInputError, match="a solver is one of auto"):
        mn.explain(table, maximize="accuracy", solver="gurobi")
