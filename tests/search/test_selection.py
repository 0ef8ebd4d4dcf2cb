"""Choosing candidates: against brute force on small spaces, with honest bounds on large ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mathnas as mn
from mathnas import BlockEffects, BlockTable, GroupedSpace, InvalidInputError, PairEffects
from mathnas._progress import Silent
from mathnas.search import Selection, Storage, _coverage, choose_candidates
from mathnas.search._coverage import Problem, improved, proven, undominated
from mathnas.space import SearchSpace
from mathnas.spaces import MobileNetV3

GROUPS = {"first": [0, 1], "second": [2], "third": [3, 4]}


def table_of(seed: int, *, digits: int = 12, scale: mn.ResponseScale | None = None) -> BlockTable:
    """Five nodes of which two are optional; accuracy with pairs inside groups, latency, energy."""
    rng = np.random.default_rng(seed)
    sizes = (2, 2, 4, 2, 3)
    nodes = [
        mn.BlockNode(f"n{i}", tuple(mn.Block(f"b{j}") for j in range(s)))
        for i, s in enumerate(sizes)
    ]
    space = SearchSpace(nodes, depth_rules=[mn.DepthRule((3, 4), (0, 0))])
    total = space.num_blocks
    columns = {}
    for name, base in (("accuracy", 70.0), ("latency_ms", 5.0)):
        effects = rng.random(total).round(digits)
        columns[name] = BlockEffects(
            mn.metric_named(name), base, effects, np.zeros(total), np.ones(total)
        )
    pairs = (PairEffects(0, 1, rng.normal(size=(2, 2))), PairEffects(3, 4, rng.normal(size=(2, 3))))
    accuracy = replace(columns["accuracy"], pairs=pairs)
    if scale is not None:
        accuracy = replace(accuracy, metric=replace(accuracy.metric, scale=scale), base=0.2)
    return BlockTable(space, (0,) * 5, {**columns, "accuracy": accuracy})


def best_by_brute_force(
    table: BlockTable,
    count: int,
    budgets: Sequence[float],
    weights: Sequence[float],
    *,
    sign: float = 1.0,
) -> float:
    """The best weighted mean over all selections, each looked at with all of its networks."""
    whole = GroupedSpace(table.space, GROUPS)
    networks = whole.all_networks()
    fine = whole.expand_many(networks)
    values = sign * table.predict(fine, "accuracy")
    costs = table.predict(fine, "latency_ms")
    fits = [np.where(costs <= budget + 1e-9, values, -np.inf) for budget in budgets]
    shape = whole.sizes
    worth = np.array([own.reshape(shape) for own in fits])
    best = -np.inf
    subsets = [list(itertools.combinations(range(n), min(count, n))) for n in shape]
    for a, b, c in itertools.product(*subsets):
        part = worth[:, list(a)][:, :, list(b)][:, :, :, list(c)]
        best = max(best, float(np.dot(weights, part.max(axis=(1, 2, 3)))))
    return sign * best


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_small_selections_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = mn.LogScale(low=20.0, high=90.0) if rng.random() < 0.4 else None
    table = table_of(seed, digits=int(rng.choice([1, 12])), scale=scale)
    count, number = int(rng.integers(1, 3)), int(rng.integers(2, 6))
    weights = rng.random(number) + 0.1
    upwards = bool(rng.random() < 0.7)
    found = choose_candidates(
        table,
        GROUPS,
        count,
        limit="latency_ms",
        budgets=number,
        weights=weights.tolist(),
        maximize="accuracy" if upwards else None,
        minimize=None if upwards else "accuracy",
        effort=2,
    )
    budgets = [point.limit.value for point in found.points]
    expected = best_by_brute_force(
        table, count, budgets, weights / weights.sum(), sign=1.0 if upwards else -1.0
    )
    assert found.proven
    assert found.value == pytest.approx(expected, abs=1e-7)
    check(found, table, count)


def check(found: Selection, table: BlockTable, count: int) -> None:
    """What a selection says about its budgets is what searches in its space and in all say."""
    space = found.space
    assert all(1 <= size <= count for size in space.sizes)
    own = space.table(table, uncertainty=False)
    metric = found.objective.name
    goal = {"maximize" if found.maximize else "minimize": metric}
    for point in found.points:
        assert point.used == pytest.approx(table.exact(space.expand(point.network), "latency_ms"))
        assert point.value == pytest.approx(table.exact(space.expand(point.network), metric))
        slightly = replace(point.limit, value=point.limit.value + 1e-9)
        best = mn.search(
            own, maximize=goal.get("maximize"), minimize=goal.get("minimize"), limits=[slightly]
        )
        every = mn.search(
            table, maximize=goal.get("maximize"), minimize=goal.get("minimize"), limits=[slightly]
        )
        assert isinstance(best, mn.Answer)
        assert isinstance(every, mn.Answer)
        assert point.value == pytest.approx(best.value, abs=1e-7)
        assert point.best == pytest.approx(every.value, abs=1e-7)
        assert table.exact(point.best_network, metric) == pytest.approx(point.best)
    assert found.value == pytest.approx(math.fsum(p.weight * p.value for p in found.points))


def test_everything_is_kept_where_there_is_room() -> None:
    table = table_of(3)
    found = choose_candidates(table, GROUPS, 100, limit="latency_ms", maximize="accuracy")
    assert found.proven
    assert found.loss == pytest.approx(0, abs=1e-12)
    assert found.candidates == (4, 4, 1 + 1 * 1 + 1 * 2)
    assert all(
        k <= u <= c
        for k, u, c in zip(found.space.sizes, found.undominated, found.candidates, strict=True)
    )


class Told(Silent):
    """A display that keeps what it was told."""

    shown: ClassVar[list[Told]] = []

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.shown.append(self)

    def advance(self, steps: int, note: str = "") -> None:
        self.done += steps


@pytest.mark.parametrize("time_limit", [None, 1e-9])
def test_progress_is_complete_however_early_the_search_ends(time_limit: float | None) -> None:
    Told.shown.clear()
    choose_candidates(
        table_of(11),
        GROUPS,
        1,
        limit="latency_ms",
        maximize="accuracy",
        time_limit=time_limit,
        progress=Told,
    )
    (bar,) = Told.shown
    assert bar.title == "choosing candidates"
    assert bar.done == bar.total > 0


def test_little_effort_and_little_time_give_less_proof() -> None:
    table = table_of(11)
    arguments: dict[str, Any] = {"limit": "latency_ms", "maximize": "accuracy", "budgets": 12}
    quick = choose_candidates(table, GROUPS, 1, effort=0, **arguments)
    short = choose_candidates(table, GROUPS, 1, time_limit=1e-9, **arguments)
    long = choose_candidates(table, GROUPS, 1, effort=5, **arguments)
    assert long.proven
    assert quick.value <= long.value <= quick.bound
    assert short.value <= long.value <= short.bound


def test_counts_differ_by_group_and_more_are_no_worse() -> None:
    table = table_of(5)
    one = choose_candidates(table, GROUPS, 1, limit="latency_ms", maximize="accuracy", budgets=6)
    some = choose_candidates(
        table,
        GROUPS,
        {"first": 1, "second": 3, "third": 1},
        limit="latency_ms",
        maximize="accuracy",
        budgets=6,
    )
    assert one.space.sizes == (1, 1, 1)
    assert some.space.sizes[0] == some.space.sizes[2] == 1
    assert some.value >= one.value


def test_candidates_may_come_from_a_grouped_space() -> None:
    table = table_of(6)
    few = GroupedSpace(table.space, GROUPS, {"first": [(0, 0), (1, 1)]})
    found = choose_candidates(table, few, 2, limit="latency_ms", maximize="accuracy")
    names = {block.name for block in few.nodes[0].blocks}
    assert {block.name for block in found.space.nodes[0].blocks} <= names
    assert found.candidates[0] == 2


def test_budgets_of_costs_of_which_more_is_better() -> None:
    table = table_of(7)
    found = choose_candidates(table, GROUPS, 2, limit="accuracy", minimize="latency_ms", budgets=5)
    assert [point.limit.sense for point in found.points] == [">="] * 5
    assert all(point.limit.holds(point.used) for point in found.points)
    assert found.bound <= found.value
    assert all(point.best <= point.value for point in found.points)


def test_equal_candidates_are_told_apart_by_their_order() -> None:
    values, costs = np.array([1.0, 2.0, 2.0, 1.5, 3.0]), np.array([1.0, 2.0, 2.0, 2.0, 1.5])
    assert undominated(values, costs).tolist() == [0, 4]
    assert undominated(np.zeros(3), np.zeros(3)).tolist() == [0]


def test_long_fronts_are_thinned_to_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = [np.sort(rng.random(12)) for _ in range(4)]
    costs = [np.concatenate([[0.0], np.sort(rng.random(11))]) for _ in range(4)]
    budgets = np.linspace(0, sum(own[-1] for own in costs), 8)
    problem = Problem(values, costs, (3,) * 4, budgets + 1e-9, np.full(8, 1 / 8), lambda s: s)
    kept, value = improved(problem, rounds=50, seed=0)
    _, _, bound = proven(problem, kept, value, boxes=50)
    monkeypatch.setattr(_coverage, "_MOST_POINTS", 20)
    coarse, low = improved(problem, rounds=50, seed=0)
    _, _, high = proven(problem, coarse, low, boxes=50)
    assert low <= value <= bound <= high


def test_a_large_selection_beats_the_published_one_and_says_how_good_it_is() -> None:
    space = MobileNetV3(1.2)
    rng = np.random.default_rng(0)
    macs = space.block_macs
    assert macs is not None
    gain = 0.1 * np.sqrt(macs / 1e6) * rng.uniform(0.5, 1.5, space.num_blocks)
    column = BlockEffects(
        mn.metric_named("accuracy"), 70.0, gain, np.zeros(len(gain)), np.ones(len(gain))
    )
    table = BlockTable(space, space.reference, {"accuracy": column})
    stages = space.stages()
    found = choose_candidates(table, stages, 5, limit="macs", maximize="accuracy", effort=0.1)
    assert found.candidates == (7371,) * 5
    assert found.space.sizes == (5,) * 5
    assert found.value <= found.bound <= found.best + 1e-9
    assert found.gap < 0.02 * (found.points[-1].best - found.points[0].best)
    published = space.stages("cpu").table(table)
    for point in found.points[::8]:
        other = mn.search(published, maximize="accuracy", limits=[point.limit])
        assert not isinstance(other, mn.Answer) or other.value <= point.best + 1e-9
    again = choose_candidates(table, stages, 5, limit="macs", maximize="accuracy", effort=0.1)
    assert again.space == found.space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least 1 candidate, but 'first' got 0"),
        ({"count": {"first": 2}}, "all groups, first, second, third, but got first"),
        ({"limit": "accuracy"}, "both are 'accuracy'"),
        ({"limit": "energy_mj"}, "no metric 'energy_mj'"),
        ({"budgets": 0}, "at least 1 budget, but got 0"),
        ({"budgets": []}, "the list is empty"),
        ({"budgets": "6ms"}, "a list of values, but got '6ms'"),
        ({"budgets": [5.0]}, "latency_ms <= 5 ms by none: the lowest"),
        ({"budgets": [">=6"]}, "on its bad side, <=, but got latency_ms >= 6"),
        ({"weights": [1.0]}, "one for each of 4 budgets"),
        ({"weights": [1.0, 1.0, 0.0, 1.0]}, "weights are positive"),
        ({"effort": -1.0}, "at least 0, but got -1"),
        ({"time_limit": 0.0}, "positive seconds"),
        ({"groups": {"all": [0, 1, 2]}}, "where 'n3' comes next"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {
        "groups": GROUPS,
        "count": 2,
        "limit": "latency_ms",
        "maximize": "accuracy",
        "budgets": 4,
    }
    with pytest.raises(InvalidInputError, match=message):
        choose_candidates(table_of(0), **{**usual, **arguments})


def test_what_is_no_sum_over_groups_is_refused() -> None:
    table = table_of(0)
    accuracy = table.columns["accuracy"]
    across = replace(accuracy, pairs=(PairEffects(1, 2, np.ones((2, 4))),))
    paired = BlockTable(table.space, table.reference, table.columns | {"accuracy": across})
    with pytest.raises(InvalidInputError, match="'first' and 'second' interact in accuracy"):
        choose_candidates(paired, GROUPS, 2, limit="latency_ms", maximize="accuracy")
    costly = SearchSpace(
        [mn.BlockNode(f"n{i}", (mn.Block("a", 1.0), mn.Block("b", 2.0))) for i in range(5)]
    )
    made = BlockEffects(
        mn.metric_named("accuracy"),
        70.0,
        np.ones(10),
        np.zeros(10),
        np.ones(10),
        mn.Form.SPACE_MEAN,
    )
    divided = BlockTable(costly, (0,) * 5, {"accuracy": made})
    with pytest.raises(InvalidInputError, match="but accuracy divides by MACs"):
        choose_candidates(divided, GROUPS, 2, limit="macs", maximize="accuracy")


def test_the_text_and_the_record_tell_all_budgets() -> None:
    found = choose_candidates(
        table_of(1), GROUPS, 2, limit="latency_ms", maximize="accuracy", budgets=3
    )
    text, record = str(found), found.to_dict()
    assert "mean predicted accuracy over 3 budgets" in text
    assert text.count("latency_ms <=") == 3
    assert ("optimal: no other selection" in text) == found.proven == record["proven"]
    assert isinstance(record["budgets"], list)
    assert record["budgets"][0]["value"] == found.points[0].value


# ---- a limit on memory ---------------------------------------------------------------------------


def storage_of(rng: np.random.Generator, space: SearchSpace) -> Storage:
    """Blocks of own sizes that share pieces, some of them across nodes."""
    sizes = {f"piece{i}": float(rng.integers(1, 20)) for i in range(8)}
    pieces = [
        {name: size for name, size in sizes.items() if rng.random() < 0.3}
        for _ in range(space.num_blocks)
    ]
    return Storage(5.0, rng.integers(0, 10, space.num_blocks).astype(float), pieces)


def taken(storage: Storage, space: SearchSpace, rows: Sequence[Sequence[tuple[int, int]]]) -> float:
    """What candidates take together, each given as its blocks (node, block)."""
    blocks = [space.offsets[node] + block for candidate in rows for node, block in candidate]
    names = {name for block in blocks for name in storage.pieces[block]}
    own = sum(float(storage.own[block]) for block in blocks)
    return storage.fixed + own + sum(storage.sizes[name] for name in names)


def best_that_fits(
    table: BlockTable, count: int, budgets: Sequence[float], storage: Storage, memory: float
) -> float:
    """As `best_by_brute_force`, over selections of any size up to `count` that fit."""
    whole = GroupedSpace(table.space, GROUPS)
    fine = whole.expand_many(whole.all_networks())
    costs = table.predict(fine, "latency_ms")
    values = table.predict(fine, "accuracy")
    worth = np.array(
        [np.where(costs <= b + 1e-9, values, -np.inf).reshape(whole.sizes) for b in budgets]
    )
    blocks = [
        [list(zip(nodes, row, strict=True)) for row in rows.tolist()]
        for nodes, rows in zip(whole.partition, whole.candidates, strict=True)
    ]
    subsets = [
        [part for k in range(1, count + 1) for part in itertools.combinations(range(n), k)]
        for n in whole.sizes
    ]
    best = -np.inf
    for a, b, c in itertools.product(*subsets):
        rows = [blocks[g][j] for g, part in enumerate((a, b, c)) for j in part]
        if taken(storage, table.space, rows) <= memory:
            part = worth[:, list(a)][:, :, list(b)][:, :, :, list(c)]
            best = max(best, float(part.max(axis=(1, 2, 3)).mean()))
    return best


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_selections_that_fit_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = table_of(seed, digits=int(rng.choice([1, 12])))
    storage = storage_of(rng, table.space)
    count = int(rng.integers(1, 3))
    whole = GroupedSpace(table.space, GROUPS)
    everything, least = storage.size(whole), storage.size(cheapest_of(whole, table))
    memory = float(rng.uniform(least, max(least, 0.8 * everything)))
    costs = np.sort(table.predict(whole.expand_many(whole.all_networks()), "latency_ms"))
    budgets = [float(cost) + 1e-9 for cost in (costs[0], *rng.choice(costs, 3))]
    found = choose_candidates(
        table,
        GROUPS,
        count,
        limit="latency_ms",
        maximize="accuracy",
        budgets=[f"<={budget!r}" for budget in budgets],
        storage=storage,
        memory=memory,
        effort=20,
    )
    best = best_that_fits(table, count, budgets, storage, memory)
    assert found.size == storage.size(found.space) <= memory
    assert found.proven
    assert found.value == pytest.approx(best, abs=1e-9)


def cheapest_of(whole: GroupedSpace, table: BlockTable) -> GroupedSpace:
    """The best of the cheapest candidates of each group, alone."""
    grouped = whole.table(table, uncertainty=False)
    cost, value = (np.split(grouped.columns[name].effects, whole.offsets[1:-1]) for name in NAMES)
    rows = {
        node.name: [whole.candidates[i][np.lexsort((-value[i], cost[i]))[0]].tolist()]
        for i, node in enumerate(whole.nodes)
    }
    return GroupedSpace(whole.fine, GROUPS, rows)


NAMES = ("latency_ms", "accuracy")


def test_bounds_hold_while_nothing_is_proven() -> None:
    """With little effort the bound is honest: no selection that fits is better."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        table = table_of(seed)
        storage = storage_of(rng, table.space)
        whole = GroupedSpace(table.space, GROUPS)
        memory = 1.15 * storage.size(cheapest_of(whole, table))
        found = choose_candidates(
            table,
            GROUPS,
            2,
            limit="latency_ms",
            maximize="accuracy",
            budgets=4,
            storage=storage,
            memory=memory,
            effort=0.01,
        )
        budgets = [point.limit.value for point in found.points]
        best = best_that_fits(table, 2, budgets, storage, memory)
        assert found.value <= best + 1e-9 <= found.bound + 2e-9


def test_memory_that_is_not_needed_changes_nothing() -> None:
    table = table_of(3)
    storage = storage_of(np.random.default_rng(3), table.space)
    common: dict[str, Any] = {"limit": "latency_ms", "maximize": "accuracy", "budgets": 5}
    free = choose_candidates(table, GROUPS, 2, **common)
    held = choose_candidates(table, GROUPS, 2, **common, storage=storage, memory=1e9)
    assert held.space == free.space
    assert (held.value, held.bound) == (free.value, free.bound)
    assert held.to_dict()["size"] == storage.size(free.space)


def test_what_cannot_fit_is_said() -> None:
    table = table_of(4)
    storage = storage_of(np.random.default_rng(4), table.space)
    common: dict[str, Any] = {"limit": "latency_ms", "maximize": "accuracy"}
    with pytest.raises(InvalidInputError, match="network of least latency_ms is always kept"):
        choose_candidates(table, GROUPS, 2, **common, storage=storage, memory=1.0)
    with pytest.raises(InvalidInputError, match="unit of a storage"):
        choose_candidates(table, GROUPS, 2, **common, memory=1.0)
    short = Storage(0.0, np.zeros(2), [{}, {}])
    with pytest.raises(InvalidInputError, match="sizes are given for the 13 blocks"):
        choose_candidates(table, GROUPS, 2, **common, storage=short, memory=1.0)
    with pytest.raises(InvalidInputError, match="finite and at least 0"):
        Storage(0.0, np.array([-1.0]), [{}])
    with pytest.raises(InvalidInputError, match="a piece has one size"):
        Storage(0.0, np.zeros(2), [{"a": 1.0}, {"a": 2.0}])
