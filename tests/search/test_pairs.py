"""Pairwise effects: prediction, files, checks, the program that they become, enumeration."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_programs import check, feasible, paired

import mathnas as mn
from mathnas.errors import FileFormatError, InvalidInputError
from mathnas.search import (
    ChainSolver,
    EnumerationSolver,
    KernelSolver,
    Limit,
    Program,
    Solver,
    VectorisedSolver,
    highs_is_available,
    kernel_is_available,
    solver_for,
)
from mathnas.search.rules import at_most_changes, forbid
from mathnas.testing import random_program
from mathnas.testing.programs import Kind

_FORMS = (mn.Form.LINEAR, mn.Form.SPACE_MEAN)


def by_hand(table: mn.BlockTable, network: mn.Network, name: str) -> float:
    """A prediction, written out."""
    column = table.columns[name]
    space = table.space
    total = sum(column.effects[space.offsets[i] + j] for i, j in enumerate(network))
    for pair in column.pairs:
        total += pair.effects[network[pair.first], network[pair.second]]
    macs = 1.0
    if column.power:
        blocks = [space.nodes[i].blocks[j].macs or 0.0 for i, j in enumerate(network)]
        macs = (space.fixed_macs or 0.0) + sum(blocks)
    return float(column.base + total / macs**column.power)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_a_prediction_is_the_sum_of_blocks_and_pairs(form: mn.Form, dtype: type) -> None:
    table = paired((3, 4, 1, 5), 0, form=form).table
    networks = table.space.all_networks()
    for name in ("accuracy", "latency_ms", "energy_mj"):
        expected = [by_hand(table, tuple(network), name) for network in networks.tolist()]
        np.testing.assert_allclose(table.predict(networks.astype(dtype), name), expected)
        np.testing.assert_allclose(
            [table.exact(tuple(network), name) for network in networks.tolist()], expected
        )


def test_large_nodes_are_predicted_from_bytes() -> None:
    """The place in a matrix does not fit a byte, though a block's index does."""
    table = paired((200, 200), 1, senses=()).table
    networks = np.array([[199, 198], [7, 150]])
    np.testing.assert_array_equal(
        table.predict(networks.astype(np.uint8), "accuracy"), table.predict(networks, "accuracy")
    )


def test_the_reference_shows_its_value_and_the_spread_is_unknown() -> None:
    table = paired((2, 3), 3, shape="chain").table
    value = table.exact(table.reference, "accuracy")
    assert value != table.column("accuracy").base
    assert f"reference {table.metrics['accuracy'].format(value)}" in str(table)
    assert "node0 with node1" in str(table)
    assert table.prediction(table.reference, "accuracy").spread is None
    assert table.prediction(table.reference, "energy_mj").spread == 0


def test_a_file_keeps_pairs() -> None:
    table = paired((3, 4, 2), 5).table
    record = json.loads(json.dumps(table.to_dict()))
    again = mn.BlockTable.from_dict(record)
    assert again.to_dict() == table.to_dict()
    networks = table.space.all_networks()
    for name in table.columns:
        np.testing.assert_array_equal(again.predict(networks, name), table.predict(networks, name))
    plain = random_program((3, 4), 0).table.to_dict()
    assert "pairs" not in json.dumps(plain)


def test_a_damaged_file_is_one_clear_error() -> None:
    table = paired((3, 4), 5, shape="chain").table
    for change, error, message in (
        ({"first": "nobody"}, InvalidInputError, "no node 'nobody'"),
        ({"effects": [[1, 2], [3]]}, FileFormatError, "one list of numbers"),
        ({"effects": [["x"] * 4] * 3}, FileFormatError, "one list of numbers"),
        ({"effects": [[10**400] * 4] * 3}, FileFormatError, "one list of numbers"),
        ({"effects": [[1.0] * 4]}, InvalidInputError, r"have the shape \(3, 4\)"),
        ({"first": "node1", "second": "node0"}, InvalidInputError, "first < second"),
    ):
        record = json.loads(json.dumps(table.to_dict()))
        entry = next(m for m in record["metrics"] if m["name"] == "accuracy")
        entry["pairs"][0].update(change)
        with pytest.raises(error, match=message):
            mn.BlockTable.from_dict(record)


def test_what_is_not_a_pair_is_refused() -> None:
    table = paired((3, 4), 5, shape="chain").table
    with pytest.raises(InvalidInputError, match="first < second"):
        mn.PairEffects(1, 1, np.zeros((4, 4)))
    with pytest.raises(InvalidInputError, match="a matrix"):
        mn.PairEffects(0, 1, np.zeros(4))
    with pytest.raises(InvalidInputError, match="are finite"):
        mn.PairEffects(0, 1, np.full((3, 4), np.nan))
    pair = table.columns["accuracy"].pairs[0]
    for pairs, message in (
        ((mn.PairEffects(0, 2, np.zeros((3, 3))),), "go from 0 to 1"),
        ((mn.PairEffects(0, 1, np.zeros((4, 3))),), r"have the shape \(3, 4\)"),
        ((pair, pair), "have several"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            mn.BlockTable(
                table.space,
                table.reference,
                {"accuracy": replace(table.columns["accuracy"], pairs=pairs)},
            )


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("kind", ["smooth", "staged"])
@pytest.mark.parametrize("maximize", [True, False])
def test_the_normal_form_is_the_table(form: mn.Form, kind: Kind, maximize: bool) -> None:
    """For every choice: the objective, and the side of each limit on which it is."""
    program = paired(
        (2, 3, 2, 3), 2, kind=kind, form=form, maximize=maximize, senses=("<=", ">=", "<=")
    )
    assert program.has_pairs
    sign = -1 if maximize else 1
    base = program.table.column("accuracy").base
    nodes = [range(a, b) for a, b in itertools.pairwise(program.offsets)]
    rows = program.rows
    for choice in itertools.product(*nodes):
        network = program.network(choice)
        response = program.table.response(network, "accuracy")
        assert program.value(choice) == pytest.approx(sign * (response - base), abs=1e-12)
        assert program.lowest - 1e-12 <= program.value(choice)
        assert program.value(choice) <= program.lowest + program.span + 1e-12
        inside = np.array(choice) - program.offsets[:-1]
        for k, limit in enumerate(program.limits):
            entries = [t.values[inside[t.first], inside[t.second]] for t in rows.pairs[k]]
            used = rows.weights[k, list(choice)].sum() + sum(entries)
            assert -1e-12 <= used <= 1 + 1e-12
            room = (rows.bounds[k] - used) * rows.spans[k]
            slack = limit.slack(program.table.exact(network, limit.metric.name))
            assert room == pytest.approx(slack, abs=1e-9)


def test_a_limit_on_a_fractional_metric_with_pairs_is_a_row() -> None:
    for seed in range(6):
        free = paired((3, 4, 3), seed, form=mn.Form.SPACE_MEAN, senses=())
        values = sorted(value for value, _ in feasible(free))
        metric = free.objective
        for at, sense in ((values[7], "<="), (values[-7], ">=")):
            limit = Limit(metric, sense, at)  # type: ignore[arg-type]
            program = Program(free.table, "latency_ms", False, [limit])
            check(program, EnumerationSolver().solve(program))


def test_pairs_inside_a_depth_rule_belong_to_its_configurations() -> None:
    """All nodes but the first are one program node, so that at most one term is left."""
    program = paired((3, 3, 2, 3), 4, kind="staged")
    inside = [p for p in program.table.columns["accuracy"].pairs if p.first > 0]
    assert inside
    assert [(t.first, t.second) for t in program.pairs] == [(0, 1)]
    columns = dict(program.table.columns)
    columns["accuracy"] = replace(columns["accuracy"], pairs=tuple(inside))
    columns["latency_ms"] = replace(columns["latency_ms"], pairs=())
    table = mn.BlockTable(program.space, program.table.reference, columns)
    folded = Program(table, "accuracy", True, program.limits)
    assert not folded.has_pairs
    for solver in (EnumerationSolver(), VectorisedSolver()):
        check(folded, solver.solve(folded))


def test_nodes_of_interleaved_rules_come_in_the_order_of_program_nodes() -> None:
    rng = np.random.default_rng(0)
    names = ("none", "a", "b")
    space = mn.SearchSpace(
        [mn.BlockNode(f"n{i}", tuple(mn.Block(name) for name in names)) for i in range(4)],
        depth_rules=[mn.DepthRule((0, 3), (0, 0)), mn.DepthRule((1, 2), (0, 0))],
    )
    pairs = tuple(
        mn.PairEffects(i, j, rng.standard_normal((3, 3)))
        for i, j in itertools.combinations(range(4), 2)
    )
    nothing = np.zeros(12)
    effects = rng.standard_normal(12)
    effects[::3] = 0
    column = mn.BlockEffects(
        mn.metric_named("accuracy"), 50.0, effects, nothing, nothing, pairs=pairs
    )
    program = Program(mn.BlockTable(space, (0,) * 4, {"accuracy": column}), "accuracy", True)
    assert [(t.first, t.second) for t in program.pairs] == [(0, 1)]
    check(program, EnumerationSolver().solve(program, count=200), count=200)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(get_args(Kind)),
    form=st.sampled_from(_FORMS),
    senses=st.lists(st.sampled_from(["<=", ">="]), max_size=3),
    maximize=st.booleans(),
    count=st.sampled_from([1, 3, 1000]),
)
def test_enumeration_is_exact(sizes, seed, kind, form, senses, maximize, count) -> None:  # type: ignore[no-untyped-def]
    program = paired(sizes, seed, kind=kind, form=form, senses=senses, maximize=maximize, share=0.5)
    check(program, EnumerationSolver().solve(program, count=count), count)


def test_enumeration_keeps_rules_and_limits_to_the_last_bit() -> None:
    for seed in range(5):
        free = paired((3, 3, 3, 2), seed, kind="rounded", senses=())
        rules = [at_most_changes(free.space, (0,) * 4, 3), forbid(free.space, {0: 1, 1: 1})]
        program = Program(free.table, "accuracy", True, (), rules)
        best = feasible(program)[0][1]
        used = program.table.exact(best, "latency_ms")
        metric = program.table.metrics["latency_ms"]
        for value in (used, math.nextafter(used, -math.inf)):
            program = program.with_limits([Limit(metric, "<=", value)])
            check(program, EnumerationSolver().solve(program, count=5), count=5)


def test_solvers_of_single_nodes_refuse_pairs() -> None:
    solvers: list[Solver] = [VectorisedSolver()]
    if kernel_is_available():
        solvers.append(KernelSolver())
    for on in (("accuracy",), ("latency_ms",)):
        program = paired((3, 3), 0, shape="chain", on=on)
        for solver in solvers:
            with pytest.raises(InvalidInputError, match=f"'{solver.name}' takes programs without"):
                solver.solve(program)
        # pairs of a metric that plays no role do not matter
        other = Program(program.table, "energy_mj", False)
        assert not other.has_pairs
        check(other, VectorisedSolver().solve(other))


def test_auto_takes_a_solver_that_can() -> None:
    small = paired((3, 3), 0, shape="chain")
    assert isinstance(solver_for(small, "auto"), EnumerationSolver)
    assert isinstance(solver_for(paired((9,) * 20, 0, shape="chain"), "auto"), ChainSolver)
    if highs_is_available():
        assert solver_for(paired((9,) * 20, 0), "auto").name == "highs"
    plain = solver_for(random_program((3, 3), 0), "auto")
    assert plain.name == ("kernel" if kernel_is_available() else "enumeration")
    with pytest.raises(InvalidInputError, match=r"a solver is one of auto, .*chain, highs"):
        solver_for(small, "gurobi")


def test_the_search_answers_with_pairs() -> None:
    program = paired((4, 4, 4), 8)
    limit = program.limits[0]
    answer = mn.search(program.table, maximize="accuracy", limits=[limit])
    assert isinstance(answer, mn.Answer)
    assert answer.value == feasible(program)[0][0]
