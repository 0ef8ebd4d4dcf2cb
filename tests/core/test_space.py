"""Search spaces: counting, listing and sampling networks, MACs, depth rules, files, messages."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from core_cases import networks_of, space_of, spaces, usual
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mathnas import Block, BlockNode, DepthRule, InvalidInputError, SearchSpace
from mathnas.errors import FileFormatError


def staged(reference: Sequence[int] | None = (0, 1, 2, 1)) -> SearchSpace:
    """A first node, then a stage of three optional ones whose block 0 is "absent"."""
    macs = [5, 7, 0, 2, 4, 0, 3, 6, 0, 1, 9]
    return space_of(
        [2, 3, 3, 3],
        [float(cost) for cost in macs],
        fixed_macs=10.0,
        rules=[DepthRule((1, 2, 3), (0, 0, 0))],
        reference=reference,
    )


# ---- counting and listing ------------------------------------------------------------------------


@given(space=spaces())
@usual
def test_the_count_is_that_of_all_choices_that_keep_the_rules(space: SearchSpace) -> None:
    expected = networks_of(space)
    assert space.num_networks == len(expected)
    assert set(space.enumerate()) == set(expected)


@given(space=spaces())
@usual
def test_every_number_is_another_network(space: SearchSpace) -> None:
    listed = [tuple(row) for row in space.all_networks().tolist()]
    assert listed == list(space.enumerate())
    assert len(set(listed)) == space.num_networks
    numbers = np.random.default_rng(0).permutation(space.num_networks)
    assert [tuple(row) for row in space.networks_at(numbers).tolist()] == [
        listed[number] for number in numbers
    ]


@given(space=spaces(with_rules=False))
@usual
def test_without_rules_the_last_node_varies_fastest(space: SearchSpace) -> None:
    assert list(space.enumerate()) == list(itertools.product(*map(range, space.sizes)))


def test_counts_of_huge_spaces_are_exact() -> None:
    space = space_of([9] * 100)
    assert space.num_networks == 9**100
    assert "about 10^95" not in repr(space)
    assert "2.656e+95" in repr(space)
    assert "about 10^" in repr(space_of([10] * 400))


def test_numbers_outside_the_space_are_refused() -> None:
    space = space_of([2, 3])
    for wrong in ([6], [-1], [0, 7]):
        with pytest.raises(InvalidInputError, match="go from 0 to 5"):
            space.networks_at(wrong)
    with pytest.raises(InvalidInputError, match=r"use sample\(\)"):
        space_of([9] * 40).networks_at([0])
    with pytest.raises(InvalidInputError, match=r"iterate with enumerate\(\)"):
        space_of([9] * 10).all_networks()


# ---- sampling ------------------------------------------------------------------------------------


@given(space=spaces(), data=st.data())
@usual
def test_samples_are_distinct_valid_and_repeatable(space: SearchSpace, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, space.num_networks))
    sample = space.sample(count, seed=5)
    assert len(set(sample)) == len(sample) == count
    assert set(sample) <= set(networks_of(space))
    assert space.sample(count, seed=5) == sample


def test_more_distinct_networks_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(InvalidInputError, match="set distinct=False"):
        space_of([2, 2]).sample(5)
    assert len(space_of([2, 2]).sample(50, distinct=False)) == 50


@pytest.mark.parametrize("distinct", [True, False])
def test_every_network_is_as_likely_as_any_other(distinct: bool) -> None:
    space = staged()
    networks = networks_of(space)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(200):
        counts.update(space.sample(9, seed=seed, distinct=distinct))
    assert set(counts) <= set(networks)
    assert chisquare([counts[network] for network in networks]).pvalue > 0.001


def test_samples_of_huge_spaces_are_uniform_node_by_node() -> None:
    space = space_of([3, 5] * 20, rules=[DepthRule((1, 3, 5), (0, 0, 0))])
    rows = np.array(space.sample(5000, seed=0))
    assert len(np.unique(rows, axis=0)) == 5000
    depth = (rows[:, [1, 3, 5]] != 0).sum(axis=1)
    # a stage of depth d has 4^d configurations of 1 + 4 + 16 + 64
    expected = 5000 * np.array([1, 4, 16, 64]) / 85
    assert chisquare(np.bincount(depth, minlength=4), expected).pvalue > 0.001
    for node in (0, 2, 7, 39):
        counts = np.bincount(rows[:, node], minlength=space.sizes[node])
        assert chisquare(counts).pvalue > 0.001


# ---- MACs ----------------------------------------------------------------------------------------


@given(space=spaces())
@usual
def test_mean_macs_are_those_of_all_networks(space: SearchSpace) -> None:
    assert space.block_macs is not None
    networks = networks_of(space)
    totals = np.array(
        [
            math.fsum([space.fixed_macs or 0.0, *space.block_macs[space.offsets[:-1] + list(n)]])
            for n in networks
        ]
    )
    np.testing.assert_allclose(space.macs(networks), totals, rtol=1e-12)
    assert space.mean_macs() == pytest.approx(totals.mean(), rel=1e-12)
    means = space.mean_macs_with_block()
    rows = np.array(networks)
    for node, size in enumerate(space.sizes):
        for block in range(size):
            holding = totals[rows[:, node] == block]
            assert means[space.offsets[node] + block] == pytest.approx(holding.mean(), rel=1e-12)


def test_the_average_network_takes_the_block_closest_to_the_mean() -> None:
    #                        mean 4         mean 3, a tie    mean 2, equal blocks
    space = space_of([3, 2, 3], [1, 5, 6, 2, 4, 2, 2, 2])
    assert space.average_macs_network() == (1, 0, 0)
    assert space.reference == (1, 0, 0)


@given(space=spaces())
@usual
def test_the_average_network_keeps_the_rules(space: SearchSpace) -> None:
    network = space.average_macs_network()
    assert space.check(network) == network
    assert space.block_macs is not None
    free = set(range(space.num_nodes)) - {i for rule in space.depth_rules for i in rule.nodes}
    for node in free:
        own = space.block_macs[space.offsets[node] : space.offsets[node + 1]]
        distance = np.abs(own - math.fsum(own) / len(own))
        assert network[node] == int(np.argmin(distance))


def test_an_average_network_that_would_break_a_rule_takes_the_closest_depth() -> None:
    # node by node: absent (0 of 0 and 1), then 3 of 0, 3 and 4: a gap
    space = space_of([2, 3], [0, 1, 0, 3, 4], rules=[DepthRule((0, 1), (0, 0))])
    # distances: depth 0: 0.5 + 7/3, depth 1: 0.5 + 7/3, depth 2: 0.5 + 2/3
    assert space.average_macs_network() == (1, 1)


def test_missing_macs_are_named_where_they_are_needed() -> None:
    space = SearchSpace([BlockNode("a", (Block("x", macs=1), Block("y")))])
    assert space.block_macs is None
    assert space.reference == (0,)
    for use in (
        space.average_macs_network,
        space.mean_macs,
        space.mean_macs_with_block,
        lambda: space.macs([(0,)]),
    ):
        with pytest.raises(InvalidInputError, match="block 'y' of node 'a' has none"):
            use()


# ---- networks ------------------------------------------------------------------------------------


def test_blocks_are_given_by_index_or_by_name() -> None:
    space = staged()
    assert space.check([0, "b1", np.int32(2), 0]) == (0, 1, 2, 0)
    assert space.parse(" b1, 1,b2 , 0") == (1, 1, 2, 0)
    assert space.block_names((1, 1, 2, 0)) == ("b1", "b1", "b2", "b0")


def test_arrays_of_networks_are_checked_whatever_their_width() -> None:
    space = staged()
    for kind in (np.int8, np.uint16, np.int64):
        rows = space.check_many(np.array([[0, 1, 2, 1], [1, 0, 0, 0]], dtype=kind))
        assert rows.dtype == np.intp
        assert rows.tolist() == [[0, 1, 2, 1], [1, 0, 0, 0]]
    assert space.check_many([]).shape == (0, 4)
    assert space.check_many([("b0", "b1", "b2", "b1")]).tolist() == [[0, 1, 2, 1]]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ((0, 1, 2), "one block for each of its 4 nodes, but got 3: 0,1,2"),
        ((0, 1, 2, 3), "node 'n3' has blocks 0 to 2, but got 3"),
        ((-1, 1, 2, 1), "node 'n0' has blocks 0 to 1, but got -1"),
        ((0, 1, 2, 1.0), "indices or names, but node 'n3' got 1.0"),
        ((True, 1, 2, 1), "indices or names, but node 'n0' got True"),
        (("b7", 1, 2, 1), "node 'n0' has no block 'b7'"),
        ((0, 0, 2, 1), "'n1' is absent and a later one is not"),
    ],
)
def test_what_is_no_network_is_refused_with_the_reason(
    network: tuple[int | str, ...], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        staged().check(network)


def test_a_misspelt_block_gets_a_suggestion() -> None:
    node = BlockNode("stem", (Block("conv3x3"), Block("conv5x5"), Block("skip")))
    with pytest.raises(InvalidInputError, match=r"no block 'conv3': did you mean 'conv3x3'\?"):
        SearchSpace([node]).check(["conv3"])
    with pytest.raises(InvalidInputError, match="it has conv3x3, conv5x5, skip"):
        SearchSpace([node]).check(["banana"])


def test_one_wrong_network_among_many_is_named() -> None:
    right = (0, 1, 2, 1)
    for wrong, message in (
        ((0, 1, 2), "got 3: 0,1,2"),
        ((0, 1, 2, 3), "'n3' has blocks 0 to 2, but got 3"),
        ((0, 0, 2, 1), "'n1' is absent"),
        (("b0", "b9", "b1", "b1"), "'n1' has no block 'b9'"),
    ):
        for networks in ([right, wrong], [right] * 5000 + [wrong]):
            with pytest.raises(InvalidInputError, match=message):
                staged().check_many(networks)


def test_a_single_network_where_several_are_expected_gets_a_hint() -> None:
    with pytest.raises(InvalidInputError, match=r"write a single network as \[network\]"):
        staged().check_many((0, 1, 2, 1))


@pytest.mark.parametrize("wrong", [(0, 1, 2, 1), 5, [0, [1]], [[0, 1], [1]], [[0.5, 1, 2, 1]]])
def test_what_is_no_list_of_networks_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInputError):
        staged().check_many(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "0,1,2,\u00b2", "0,1,2,+-1", "0,1,2,x", "0;1;2;1"])
def test_a_text_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        staged().parse(text)


def test_switching_to_absent_takes_the_later_nodes_along() -> None:
    space = staged()
    assert space.with_block((1, 2, 1, 2), 2, 0) == (1, 2, 0, 0)
    assert space.with_block((1, 2, 1, 2), 3, 1) == (1, 2, 1, 1)
    assert space.with_block((1, 2, 0, 0), 2, 1) == (1, 2, 1, 0)
    with pytest.raises(InvalidInputError, match="'n2' is absent and a later one is not"):
        space.with_block((1, 2, 0, 0), 3, 1)


@given(space=spaces(), data=st.data())
@usual
def test_a_switched_network_is_valid_and_differs_only_where_it_must(
    space: SearchSpace, data: st.DataObject
) -> None:
    valid = networks_of(space)
    network = data.draw(st.sampled_from(valid))
    node = data.draw(st.integers(0, space.num_nodes - 1))
    block = data.draw(st.integers(0, space.sizes[node] - 1))
    direct = (*network[:node], block, *network[node + 1 :])
    try:
        switched = space.with_block(network, node, block)
    except InvalidInputError:
        assert direct not in valid
        return
    assert switched in valid
    assert switched[: node + 1] == direct[: node + 1]
    absent = any(
        node in rule.nodes and block == rule.absent[rule.nodes.index(node)]
        for rule in space.depth_rules
    )
    if not absent:
        assert switched == direct


# ---- declarations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Block(""), "name must not be empty"),
        (lambda: Block("x", macs=-1), "macs must be finite and at least 0, but block 'x' has -1"),
        (lambda: Block("x", params=math.inf), "params must be finite.*leave it out"),
        (lambda: BlockNode("a", ()), "at least one block, but 'a' has none"),
        (lambda: BlockNode("", (Block("x"),)), "node's name must not be empty"),
        (lambda: BlockNode("a", (Block("x"), Block("x"))), "'x' stands twice"),
        (lambda: SearchSpace([]), "at least one node"),
        (lambda: SearchSpace([BlockNode("a", (Block("x"),))] * 2), "'a' stands twice"),
        (lambda: space_of([2], fixed_macs=math.nan), "macs must be finite"),
        (lambda: space_of([2, 2], reference=(0, 2)), "blocks 0 to 1, but got 2"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_rule(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        declare()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([DepthRule((), ())], "one absent block for each of its nodes"),
        ([DepthRule((0, 1), (0,))], "one absent block for each of its nodes"),
        ([DepthRule((1, 0), (0, 0))], "in network order"),
        ([DepthRule((0, 1), (0, 0)), DepthRule((1, 2), (0, 0))], "in one rule each"),
        ([DepthRule((0, 5), (0, 0))], "names nodes and blocks"),
        ([DepthRule((0, 1), (0, 3))], "names nodes and blocks"),
        ([DepthRule((0, 3), (0, 0))], "'n3' has only the absent one"),
    ],
)
def test_a_depth_rule_that_does_not_fit_is_refused(rules: list[DepthRule], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        space_of([2, 2, 2, 1], rules=rules)


# ---- files ---------------------------------------------------------------------------------------


@given(space=spaces())
@usual
def test_json_brings_back_an_equal_space(space: SearchSpace) -> None:
    restored = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert restored == space
    assert hash(restored) == hash(space)
    assert restored.reference == space.reference
    assert restored.depth_rules == space.depth_rules


def test_a_file_brings_back_an_equal_space(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "space.json"
    staged().save(path)
    assert SearchSpace.load(path) == staged()
    assert SearchSpace.load(path) != space_of([2, 3, 3, 3])


def test_spaces_with_other_costs_are_other_spaces() -> None:
    assert space_of([2], [1, 2]) != space_of([2], [1, 3])
    assert space_of([2], [1, 2]) != space_of([2])
    assert space_of([2]) != "space"


def damaged(change: Callable[[dict[str, object]], object]) -> str:
    record = staged().to_dict()
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged or not JSON"),
        ("[1, 2", "damaged or not JSON"),
        ("[" * 100_000, "damaged or not JSON"),
        ("[]", "expected an object"),
        ("{}", "the field 'format' is missing"),
        ('{"format": "onnx"}', "expected the format 'mathnas-space', but got 'onnx'"),
        (damaged(lambda r: r.update(version=99)), "version 99.*upgrade mathnas"),
        (damaged(lambda r: r.update(version=True)), "expected int"),
        (damaged(lambda r: r.pop("nodes")), "'nodes' is missing"),
        (damaged(lambda r: r.update(nodes=[3])), r"nodes\[0\]: expected an object"),
        (damaged(lambda r: r.update(fixed_mac=3)), "unknown field 'fixed_mac'"),
        (damaged(lambda r: r.update(fixed_macs="3")), "fixed_macs: expected float"),
        (damaged(lambda r: r.update(fixed_macs=10**400)), "fixed_macs"),
    ],
)
def test_a_damaged_file_is_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        SearchSpace.load(path)


def test_a_file_that_is_not_there_or_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        SearchSpace.load(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match="cannot be written"):
        staged().save(tmp_path / "file" / "space.json")


def test_a_depth_rule_of_an_unknown_node_is_refused() -> None:
    record = json.loads(damaged(lambda r: r))
    record["depth_rules"][0][1]["node"] = "n9"
    with pytest.raises(InvalidInputError, match="there is no node 'n9'"):
        SearchSpace.from_dict(record)
