"""Costs of pairs of nodes: counted, averaged, kept in files, carried to tables and searches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import mathnas as mn
from mathnas import BlockTable, FileFormatError, GroupedSpace, InvalidInputError, PairCosts
from mathnas.space import SearchSpace
from mathnas.testing import SpaceContract

SIZES = (3, 2, 4)
RNG = np.random.default_rng(5)
MACS = {
    (0, 1): RNG.integers(-9, 9, (3, 2)).astype(float),
    (1, 2): RNG.integers(-9, 9, (2, 4)).astype(float),
    (0, 2): RNG.integers(-9, 9, (3, 4)).astype(float),
}
PARAMS = {(1, 2): RNG.integers(-9, 9, (2, 4)).astype(float)}
ALONE = [RNG.integers(20, 50, size).tolist() for size in SIZES]


def interacting() -> SearchSpace:
    return SearchSpace(
        [
            mn.BlockNode(
                f"node{i}",
                tuple(mn.Block(f"b{j}", macs=cost, params=2 * cost) for j, cost in enumerate(own)),
            )
            for i, own in enumerate(ALONE)
        ],
        fixed_macs=7,
        fixed_params=3,
        pair_costs=[PairCosts(*key, macs=m, params=PARAMS.get(key)) for key, m in MACS.items()],
    )


def counted(network: Sequence[int]) -> tuple[int, int]:
    """MACs and parameters of a network, term by term."""
    alone = sum(own[block] for own, block in zip(ALONE, network, strict=True))
    macs, params = (
        sum(int(costs[network[a], network[b]]) for (a, b), costs in pairs.items())
        for pairs in (MACS, PARAMS)
    )
    return 7 + alone + macs, 3 + 2 * alone + params


NETWORKS = list(itertools.product(*map(range, SIZES)))


class TestInteractingSpace(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return interacting()


def test_costs_of_a_network_are_those_of_its_blocks_and_pairs() -> None:
    space = interacting()
    expected = np.array([counted(network) for network in NETWORKS])
    np.testing.assert_array_equal(space.macs(NETWORKS), expected[:, 0])
    np.testing.assert_array_equal(space.params(NETWORKS), expected[:, 1])
    alone = [7 + sum(own[j] for own, j in zip(ALONE, n, strict=True)) for n in NETWORKS]
    np.testing.assert_array_equal(space.additive_macs(NETWORKS), alone)


def test_means_count_pairs() -> None:
    space = interacting()
    rows, macs = np.array(NETWORKS), space.macs(NETWORKS)
    assert space.mean_macs() == pytest.approx(macs.mean())
    means = [macs[rows[:, i] == j].mean() for i, size in enumerate(SIZES) for j in range(size)]
    np.testing.assert_allclose(space.mean_macs_with_block(), means)


@pytest.mark.parametrize("reference", [(0, 0, 0), (2, 1, 3)])
def test_a_table_predicts_them_exactly(reference: tuple[int, ...]) -> None:
    """Effects are what a switch of one block changes in the reference; pairs are the rest."""
    space = interacting()
    table = BlockTable(space, reference, {})
    for place, metric in enumerate(("macs", "params")):
        expected = [float(counted(network)[place]) for network in NETWORKS]
        assert [table.exact(network, metric) for network in NETWORKS] == expected
        assert table.predict(NETWORKS, metric).tolist() == expected
        column = table.column(metric)
        for node, size in enumerate(SIZES):
            for block in range(size):
                switched = space.with_block(reference, node, block)
                change = counted(switched)[place] - counted(reference)[place]
                assert column.effects[space.offsets[node] + block] == change
        for pair in column.pairs:
            assert not pair.effects[reference[pair.first]].any()
            assert not pair.effects[:, reference[pair.second]].any()


def test_a_limit_holds_for_the_exact_number() -> None:
    space = interacting()
    rng = np.random.default_rng(0)
    blocks = space.num_blocks
    gains = mn.BlockEffects(
        mn.metric_named("accuracy"), 70.0, rng.random(blocks), np.zeros(blocks), np.ones(blocks)
    )
    table = BlockTable(space, (0, 0, 0), {"accuracy": gains})
    for most in range(80, 160, 7):
        fits = [n for n in NETWORKS if counted(n)[0] <= most]
        if not fits:
            continue
        best = max(table.exact(network, "accuracy") for network in fits)
        answer = mn.search(table, maximize="accuracy", limits={"macs": most})
        assert isinstance(answer, mn.Answer)
        assert table.exact(answer.network, "accuracy") == best
        assert counted(answer.network)[0] <= most


@pytest.mark.parametrize("form", ["linear", "inverse-macs-block-mean", "inverse-macs-corrected"])
def test_fitted_tables_predict_single_switches_in_every_form(form: str, tmp_path: Path) -> None:
    space = interacting()
    study = mn.Study(tmp_path / "pairs.study", space)
    evaluator = mn.FunctionEvaluator(
        lambda network: float(50 + sum(network)), ["accuracy"], noisy=False
    )
    mn.evaluate(study, mn.single_sampling(space, space.reference), evaluator)
    table = mn.fit(study, method="single", form=form)
    assert table.exact(space.reference, "accuracy") == 50 + sum(space.reference)


def test_a_coarser_space_has_the_same_costs() -> None:
    space = interacting()
    candidates = [(0, 0), (2, 1), (1, 0)]
    coarse = GroupedSpace(space, {"one": [0, 1], "two": [2]}, {"one": candidates})
    networks = list(coarse.enumerate())
    fine = coarse.expand_many(networks)
    np.testing.assert_array_equal(coarse.macs(networks), space.macs(fine))
    np.testing.assert_array_equal(coarse.params(networks), space.params(fine))
    table = coarse.table(BlockTable(space, (1, 0, 2), {}))
    np.testing.assert_allclose(table.predict(networks, "macs"), space.macs(fine))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (lambda: PairCosts(1, 1), "first < second"),
        (lambda: PairCosts(0, 1, macs=np.zeros(2)), "matrix of finite numbers"),
        (lambda: PairCosts(0, 1, macs=np.array([[np.nan]])), "matrix of finite numbers"),
    ],
)
def test_what_is_no_pair_is_refused(pair: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        pair()  # type: ignore[operator]


def test_pairs_that_do_not_fit_are_refused() -> None:
    nodes = [mn.BlockNode(name, (mn.Block("a"), mn.Block("b"))) for name in ("one", "two")]
    fitting = PairCosts(0, 1, macs=np.zeros((2, 2)))
    for pairs, rules, message in (
        ([PairCosts(0, 2)], [], "two of the 2 nodes"),
        ([PairCosts(0, 1, params=np.zeros((2, 3)))], [], r"shape \(2, 2\)"),
        ([fitting, fitting], [], "add them up"),
        ([fitting], [mn.DepthRule((1,), (0,))], "no depth rule"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            SearchSpace(nodes, pair_costs=pairs, depth_rules=rules)


@pytest.mark.parametrize(
    "change", [{"macs": [[1], [2, 3]]}, {"macs": [["x"]]}, {"macs": []}, {"colour": 1}]
)
def test_damaged_pairs_in_a_file_are_refused(change: dict[str, object]) -> None:
    record = json.loads(json.dumps(interacting().to_dict()))
    record["pair_costs"][0] |= change
    with pytest.raises(FileFormatError):
        SearchSpace.from_dict(record)
    record["pair_costs"][0] = {"first": "node0", "second": "nowhere"}
    with pytest.raises(InvalidInputError, match="no node 'nowhere'"):
        SearchSpace.from_dict(record)
