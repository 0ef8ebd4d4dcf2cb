"""Grouped spaces: partitions, candidates, and tables that need no new measurements."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import column_of, space_of
from hypothesis import given
from hypothesis import strategies as st

import mathnas as mn
from mathnas import (
    BlockEffects,
    BlockTable,
    DepthRule,
    Form,
    GroupedSpace,
    InvalidInputError,
    MathNASWarning,
    PairEffects,
    SearchSpace,
    metric_named,
)
from mathnas.gaussian_process import GaussianProcess, Kernel
from mathnas.posterior import Posterior
from mathnas.space import Floats, Indices
from mathnas.spaces import NASBench201, restore
from mathnas.testing import SpaceContract

# n1 and n2 are optional (block 0 is absent), n3 and n4 are not
FINE = space_of(
    [2, 3, 2, 3, 2],
    [1, 2, 0, 3, 5, 0, 4, 6, 7, 9, 8, 11],
    fixed_macs=10,
    rules=[DepthRule((1, 2), (0, 0))],
)
GROUPS: Mapping[str, Sequence[int | str]] = {"stage": ["n0", "n1", "n2"], "tail": [3, 4]}
FEW: Mapping[str, Sequence[Sequence[int | str]]] = {
    "stage": [(0, 0, 0), (1, 2, 0), (1, 2, 1)],
    "tail": [("b2", "b1"), ("b0", "b0")],
}
SPACES = {
    "all": GroupedSpace(FINE, GROUPS),
    "few": GroupedSpace(FINE, GROUPS, FEW, reference=["b1+b2+b0", 1]),
    "one of both": GroupedSpace(FINE, GROUPS, {"tail": FEW["tail"]}),
    "one node each": GroupedSpace(space_of([2, 3]), {"a": [0], "b": [1]}),
    "of a family": GroupedSpace(NASBench201(), {"to 1 and 2": [0, 1, 2], "to 3": [3, 4, 5]}),
    "twice": GroupedSpace(
        GroupedSpace(FINE, {"a": [0, 1, 2], "b": [3], "c": [4]}), {"x": [0, 1, 2]}
    ),
}


class TestGroupedSpace(SpaceContract):
    @pytest.fixture(params=SPACES, ids=str)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return SPACES[request.param]


# ---- candidates ----------------------------------------------------------------------------------


def test_blocks_are_candidates_and_networks_expand() -> None:
    space = SPACES["few"]
    assert [node.name for node in space.nodes] == ["stage", "tail"]
    assert space.block_names((1, 0)) == ("b1+b2+b0", "b2+b1")
    assert space.partition == ((0, 1, 2), (3, 4))
    assert space.expand((1, 0)) == space.expand(["b1+b2+b0", "b2+b1"]) == (1, 2, 0, 2, 1)
    assert space.contract(("b1", "b2", "b0", "b2", "b1")) == (1, 0)
    assert space.holds((1, 2, 0, 2, 1))
    assert not space.holds((0, 2, 0, 2, 1))


@pytest.mark.parametrize("name", SPACES)
def test_expansions_contract_again_and_cost_the_same(name: str) -> None:
    space = SPACES[name]
    networks = np.array(space.sample(min(200, space.num_networks), seed=1))
    fine = space.expand_many(networks)
    assert space.fine.check_many(fine).shape == (len(networks), space.fine.num_nodes)
    assert (space.contract_many(fine) == networks).all()
    assert [space.expand(network) for network in networks.tolist()] == [*map(tuple, fine.tolist())]
    if space.fine.block_macs is not None:
        assert space.macs(networks) == pytest.approx(space.fine.macs(fine), rel=1e-14)
    else:
        assert space.block_macs is None


def test_all_candidates_are_every_valid_network_in_order() -> None:
    space = SPACES["all"]
    assert space.num_networks == FINE.num_networks == 2 * (1 + 2 + 2 * 1) * 3 * 2
    assert (space.expand_many(space.all_networks()) == FINE.all_networks()).all()


def test_features_are_those_of_the_expansion() -> None:
    space = SPACES["of a family"]
    networks = np.array(space.sample(5))
    assert (space.features(networks) == space.fine.features(space.expand_many(networks))).all()
    with pytest.raises(InvalidInputError, match="tells no features"):
        SPACES["few"].features(np.array([[0, 0]]))


def test_what_is_no_candidate_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"'stage' has 3 candidates, but 'b0\+b1\+b0'"):
        SPACES["few"].contract((0, 1, 0, 0, 0))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 1, 2], "b": [4, 3]}, "where 'n3' comes next the groups have 'n4'"),
        ({"a": [0, 1, 2], "b": [3]}, "where 'n4' comes next the groups have 'the end'"),
        ({"a": [0, 1, 2], "b": [2, 3, 4]}, "where 'n3' comes next the groups have 'n2'"),
        ({"a": [0, 1, 2, 3, 4], "b": [0]}, "where 'no further node' comes next"),
        ({"a": [0, 1], "b": [2, 3, 4]}, "'n1' is in 'a' and its rule goes on in 'b'"),
        ({"a": [0, 1, 2], "b": []}, "at least one, but 'b' has"),
        ({"a": [0, 1, 2], "b": "n3"}, "'b' has 'n3'"),
        ({"a": [0, 1, 2], "b": [3, 4.0]}, "by index or name, but 'b' has 4.0"),
        ({"a": [0, 1, 2], "b": [3, "n9"]}, "no node 'n9'"),
        ([[0, 1, 2], [3, 4]], "mapping of names to nodes, but got list"),
    ],
)
def test_what_is_no_partition_is_refused(groups: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GroupedSpace(FINE, groups)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"tail": [(0, 0), ("b0", "b0")]}, "'b0\\+b0' stands twice"),
        ({"tail": [(0, 0, 0)]}, "each of the 2 nodes of its group, but 'tail' has"),
        ({"tail": [(0, 2)]}, r"candidate \(0, 2\) of group 'tail': node 'n4' has blocks 0 to 1"),
        ({"stage": [(0, 0, 1)]}, "'n1' is absent and a later one is not"),
        ({"tail": []}, "1 to 100000 candidates, but 'tail' has 0"),
        ({"tail": "b0"}, "candidates of a group are a list"),
        ({"tails": [(0, 0)]}, "stage, tail, but got 'tails'"),
    ],
)
def test_what_is_no_candidate_list_is_refused(candidates: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GroupedSpace(FINE, GROUPS, candidates)


def test_too_many_configurations_ask_for_candidates() -> None:
    fine = space_of([10] * 6)
    with pytest.raises(InvalidInputError, match="'all' has 1000000: give its candidates"):
        GroupedSpace(fine, {"all": range(6)})
    assert GroupedSpace(fine, {"all": range(6)}, {"all": [[0] * 6]}).num_networks == 1


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_files_bring_the_groups_back(name: str, tmp_path: Path) -> None:
    space = SPACES[name]
    space.save(tmp_path / "space.json")
    restored = mn.spaces.named(str(tmp_path / "space.json"))
    assert isinstance(restored, GroupedSpace)
    assert restored == space
    assert type(restored.fine) is type(space.fine)
    assert restored.reference == space.reference
    network = space.sample(1)[0]
    assert restored.expand(network) == space.expand(network)


@pytest.mark.parametrize(
    "change",
    [
        {"groups": []},
        {"groups": [{"name": "stage", "nodes": ["n0"]}]},
        {"groups": [{"name": "a", "nodes": ["n0", "n1", "n2", "n3", "n4"]}] * 2},
        {"space": {"format": "another"}},
        {"colour": "red"},
    ],
)
def test_a_damaged_record_is_used_as_declared(change: dict[str, object]) -> None:
    declaration = json.loads(json.dumps(SPACES["few"].to_dict()))
    declaration["family"].update(change)
    with pytest.warns(MathNASWarning, match="used as declared"):
        restored = restore(declaration)
    assert type(restored) is SearchSpace


# ---- tables --------------------------------------------------------------------------------------


def fine_table(
    form: Form = Form.LINEAR,
    pairs: Sequence[tuple[int, int]] = (),
    *,
    posterior: bool = False,
    reference: Sequence[int] = (1, 2, 0, 2, 1),
    seed: int = 0,
) -> BlockTable:
    rng = np.random.default_rng(seed)
    count = FINE.num_blocks
    terms = tuple(
        PairEffects(a, b, rng.normal(size=(FINE.sizes[a], FINE.sizes[b]))) for a, b in pairs
    )
    entries = count + sum(term.effects.size for term in terms)
    effects = rng.normal(size=count)
    effects[FINE.offsets[:-1] + np.array(reference)] = 0
    uncertain = Posterior(rng.normal(size=(entries, 4)), rng.normal(size=4), 0.2, 0.3, 70.0)
    column = BlockEffects(
        metric_named("accuracy"),
        70.0,
        effects,
        rng.random(count),
        rng.integers(1, 5, count).astype(float),
        form,
        pairs=terms,
        posterior=uncertain if posterior else None,
    )
    return BlockTable(FINE, reference, {"accuracy": column, "latency_ms": latency(rng)})


def latency(rng: np.random.Generator) -> BlockEffects:
    scale = mn.LogScale(low=1.0, high=30.0)
    made = column_of("latency_ms", rng.random(FINE.num_blocks), base=0.1)
    return replace(made, metric=replace(made.metric, scale=scale))


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("reference", [(1, 2, 0, 2, 1), (0, 1, 1, 1, 0)], ids=["kept", "other"])
@pytest.mark.parametrize("pairs", [(), ((0, 1), (1, 2)), ((0, 2), (1, 3), (2, 3), (3, 4))], ids=str)
@pytest.mark.parametrize("name", ["all", "few"])
def test_every_network_has_the_prediction_of_its_expansion(
    name: str, pairs: Sequence[tuple[int, int]], reference: Sequence[int], form: Form
) -> None:
    fine = fine_table(form, pairs, posterior=form is Form.LINEAR, reference=reference)
    space = SPACES[name]
    table = space.table(fine)
    networks = space.all_networks()
    expanded = space.expand_many(networks)
    assert set(table.columns) == {"macs", "accuracy", "latency_ms"}
    for metric in table.columns:
        assert table.predict(networks, metric) == pytest.approx(
            fine.predict(expanded, metric), rel=1e-12
        )
    if form is Form.LINEAR:
        assert table.deviation(networks, "accuracy") == pytest.approx(
            fine.deviation(expanded, "accuracy"), rel=1e-12
        )
        own = table.columns["accuracy"].effects[space.offsets[:-1] + np.array(table.reference)]
        assert (own == 0).all()
    if space.holds(reference):
        assert space.expand(table.reference) == tuple(reference)
    else:
        assert table.reference == space.reference


def test_spreads_are_those_of_the_fine_table_where_they_add_up() -> None:
    fine, space = fine_table(), SPACES["few"]
    table = space.table(fine)
    for network in space.enumerate():
        expected = fine.prediction(space.expand(network), "accuracy").spread
        assert table.prediction(network, "accuracy").spread == pytest.approx(expected)
    contexts = fine.columns["accuracy"].contexts[FINE.offsets[:-1] + np.array([1, 2, 1, 0, 0])]
    assert table.columns["accuracy"].contexts[2] == contexts[:3].min()
    elsewhere = space.table(fine_table(reference=(0, 1, 1, 1, 0)))
    assert np.isnan(elsewhere.columns["accuracy"].spread).all()


def test_searches_agree_with_the_fine_table() -> None:
    fine = fine_table(pairs=[(0, 2), (1, 3)])
    limits = ["latency_ms=-10%", "macs=35"]
    expected = mn.search(fine, maximize="accuracy", limits=limits)
    space = SPACES["all"]
    found = mn.search(space.table(fine), maximize="accuracy", limits=limits)
    assert isinstance(expected, mn.Answer)
    assert isinstance(found, mn.Answer)
    assert space.expand(found.network) == expected.network
    assert found.value == pytest.approx(expected.value)


@given(st.integers(0, 2**32 - 1))
def test_any_partition_keeps_predictions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cuts = sorted({0, 5, *rng.choice([3, 4], size=int(rng.integers(3)), replace=True).tolist()})
    groups = {f"g{a}": range(a, b) for a, b in itertools.pairwise(cuts)}
    space = GroupedSpace(FINE, groups)
    some = [(a, b) for a in range(5) for b in range(a + 1, 5) if rng.random() < 0.4]
    fine = fine_table(pairs=some, posterior=True, seed=seed)
    table = space.table(fine)
    networks = space.all_networks()
    expanded = space.expand_many(networks)
    assert table.predict(networks, "accuracy") == pytest.approx(fine.predict(expanded, "accuracy"))
    assert table.deviation(networks, "accuracy") == pytest.approx(
        fine.deviation(expanded, "accuracy")
    )


def totals(networks: Indices) -> Floats:
    found: Floats = networks.sum(axis=1, keepdims=True).astype(float)
    return found


def alive(networks: Indices) -> Indices:
    return networks


def test_processes_predict_from_the_features_of_the_expansion() -> None:
    fine_space = SearchSpace(FINE.nodes, depth_rules=FINE.depth_rules, features=totals)
    measured = np.array(fine_space.sample(20, seed=0))
    process = GaussianProcess(
        totals(measured), np.sin(totals(measured)[:, 0]), Kernel(1.0, 1.0, 0.1), 0.01, np.ones(20)
    )
    made = replace(column_of("accuracy", np.zeros(FINE.num_blocks)), process=process)
    fine = BlockTable(fine_space, (0,) * 5, {"accuracy": made})
    space = GroupedSpace(fine_space, GROUPS, FEW)
    table = space.table(fine)
    networks = space.all_networks()
    expanded = space.expand_many(networks)
    assert table.predict(networks, "accuracy") == pytest.approx(fine.predict(expanded, "accuracy"))
    assert table.deviation(networks, "accuracy") == pytest.approx(
        fine.deviation(expanded, "accuracy")
    )
    column, reference = table.columns["accuracy"], table.reference
    switched = (*reference[:1], 1 - reference[1])
    change = table.exact(switched, "accuracy") - table.exact(reference, "accuracy")
    assert column.effects[space.offsets[1] + switched[1]] == pytest.approx(change)


def test_effects_of_other_forms_are_refused_but_other_metrics_stay() -> None:
    fine_space = SearchSpace(FINE.nodes, depth_rules=FINE.depth_rules, forms={"alive": alive})
    made = column_of("accuracy", np.zeros(FINE.num_blocks))
    columns = {
        "accuracy": replace(made, network_form="alive"),
        "latency_ms": column_of("latency_ms", np.ones(FINE.num_blocks)),
    }
    fine = BlockTable(fine_space, (0,) * 5, columns)
    space = GroupedSpace(fine_space, GROUPS, FEW)
    with pytest.raises(
        InvalidInputError, match="accuracy belong to blocks of networks in the form"
    ):
        space.table(fine)
    assert set(space.table(fine, metrics=["latency_ms"]).columns) == {"macs", "latency_ms"}


def test_what_would_be_too_large_is_refused() -> None:
    fine_space = space_of([50] * 4)
    groups = {"a": [0, 1], "b": [2, 3]}
    space = GroupedSpace(fine_space, groups)
    made = column_of("accuracy", np.zeros(200))
    paired = replace(made, pairs=(PairEffects(1, 2, np.zeros((50, 50))),))
    with pytest.raises(InvalidInputError, match="a and b have 2500 x 2500 of them for accuracy"):
        space.table(BlockTable(fine_space, (0,) * 4, {"accuracy": paired}))
    wide = replace(made, posterior=Posterior(np.ones((200, 20_000)), np.ones(20_000), 0.0, 1.0))
    fine = BlockTable(fine_space, (0,) * 4, {"accuracy": wide})
    with pytest.raises(InvalidInputError, match="5000 x 20000 numbers"):
        space.table(fine)
    assert space.table(fine, uncertainty=False).columns["accuracy"].posterior is None


def test_tables_of_other_spaces_are_refused() -> None:
    other = space_of([2, 2])
    with pytest.raises(InvalidInputError, match="comes from one of"):
        SPACES["few"].table(BlockTable(other, (0, 0), {}))
