"""NAS-Bench-201: names, numbers, costs and which cells are the same."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathnas import BlockTable, Measurements, metric_named, quality
from mathnas.datasets import nasbench201
from mathnas.errors import InvalidInputError
from mathnas.regression import regress
from mathnas.space import Network, SearchSpace
from mathnas.spaces import NASBench201
from mathnas.spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    alive_edges,
    cells_in_benchmark_order,
    edges_reaching_output,
    expression,
    has_path,
    parse_arch,
)
from mathnas.testing import SpaceContract

cells = st.tuples(*[st.integers(0, 4)] * 6)

# facts about the benchmark file
INDEXED = {
    0: "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
    "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    1: "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    2: "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"
    "+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|",
    9: "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|",
    123: "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    1000: "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|skip_connect~1|nor_conv_3x3~2|",
    15624: "|nor_conv_1x1~0|+|none~0|nor_conv_1x1~1|+|none~0|nor_conv_1x1~1|nor_conv_1x1~2|",
}

# (MACs in M, parameters in M) for CIFAR-10, CIFAR-100, ImageNet16-120
COSTS = {
    (1, 0, 4, 1, 0, 4): ((7.78305, 0.073306), (7.7889, 0.079156), (1.9534, 0.080456)),
    (2,) * 6: ((31.37601, 0.241306), (31.38186, 0.247156), (7.85164, 0.248456)),
    (3,) * 6: ((220.11969, 1.531546), (220.12554, 1.537396), (55.03756, 1.538696)),
    (3, 3, 4, 1, 3, 1): ((113.95137, 0.802426), (113.95722, 0.808276), (28.49548, 0.809576)),
    (3, 3, 3, 1, 3, 3): ((184.73025, 1.288506), (184.7361, 1.294356), (46.1902, 1.295656)),
}


@pytest.mark.parametrize(("index", "arch"), INDEXED.items())
def test_benchmark_order(index: int, arch: str) -> None:
    space = NASBench201()
    cell = space.parse(arch)
    assert space.index(cell) == index
    assert space.at(index) == cell
    assert space.arch(cell) == arch


@pytest.mark.parametrize(
    ("place", "dataset"), list(enumerate(["cifar10", "CIFAR100", "ImageNet16-120"]))
)
def test_costs_equal_the_published_ones(place: int, dataset: str) -> None:
    space = NASBench201(dataset)
    for cell, costs in COSTS.items():
        macs, params = costs[place]
        assert space.macs([cell])[0] == pytest.approx(macs * 1e6, abs=0.5)
        blocks = [space.nodes[edge].blocks[op].params for edge, op in enumerate(cell)]
        assert space.fixed_params is not None
        total = space.fixed_params + sum(value for value in blocks if value is not None)
        assert total == pytest.approx(params * 1e6, abs=0.5)


def test_one_convolution_edge_on_cifar() -> None:
    blocks = NASBench201("cifar10").nodes[0].blocks
    assert (blocks[3].macs, blocks[3].params) == (35_389_440, 243_040)
    assert (blocks[2].macs, blocks[2].params) == (3_932_160, 28_000)


def test_mean_macs_and_average_network() -> None:
    space = NASBench201("cifar10")
    assert space.mean_macs() == pytest.approx(54.969e6, rel=1e-5)
    assert set(space.block_names(space.average_macs_network())) == {"nor_conv_1x1"}


def test_unknown_dataset_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"cifar10, cifar100, imagenet16-120.*'svhn'"):
        NASBench201("svhn")


@given(cells)
def test_arch_strings_round_trip(cell: tuple[int, ...]) -> None:
    space = NASBench201()
    assert space.parse(space.arch(cell)) == cell
    assert space.at(space.index(cell)) == cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|none~0|+|none~0|none~1|", "3 nodes joined by '+', but got 2"),
        ("none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "between bars"),
        ("|none~0|+|none~0|+|none~0|none~1|none~2|", "its 2 sources, but got 1"),
        ("|none~0|+|none~0|none~1|none~2|+|none~0|none~1|none~2|", "its 2 sources, but got 3"),
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv~0' in node 1"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "order 0 to 1"),
        ("|none~0 |+|none~0|none~1|+|none~0|none~1|none~2|", "'none~0 '"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~22|", "none~22"),
        ("||+|none~0|none~1|+|none~0|none~1|none~2|", "''"),
    ],
)
def test_malformed_arch_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        parse_arch(text)


@pytest.mark.parametrize("index", [-1, 15_625])
def test_index_out_of_range(index: int) -> None:
    with pytest.raises(InvalidInputError, match="0 to 15624"):
        NASBench201().at(index)


def test_parse_still_reads_numbers_and_names() -> None:
    space = NASBench201()
    assert space.parse("3,0,2,1,4,1") == (3, 0, 2, 1, 4, 1)
    assert space.parse(",".join(["none"] * 6)) == (0,) * 6


def test_numbers_of_canonical_cells() -> None:
    every = cells_in_benchmark_order()
    assert len(every) == len(set(every)) == 15_625
    alive = {alive_edges(cell) for cell in every}
    assert len(alive) == 9_445
    assert sum(map(has_path, every)) == 15_284
    assert sum(not any(alive_edges(cell)) for cell in every) == 341


def test_numbers_of_expression_classes() -> None:
    every = cells_in_benchmark_order()
    assert len({expression(cell, zeros=False) for cell in every}) == 12_751
    assert len({expression(cell) for cell in every}) == 6_466


def test_representative_has_the_lowest_index_of_its_class() -> None:
    space = NASBench201()
    lowest: dict[str, int] = {}
    for index, cell in enumerate(cells_in_benchmark_order()):
        lowest.setdefault(expression(cell), index)
        assert space.index(space.representative(cell)) == lowest[expression(cell)]


@pytest.mark.parametrize(
    ("cell", "reaching", "alive"),
    [
        # nothing enters node 1, so what leaves it is dead though it reaches the output
        ((0, 3, 3, 0, 3, 3), (0, 3, 3, 0, 3, 3), (0, 3, 0, 0, 0, 3)),
        # nothing leaves node 2
        ((3, 3, 3, 0, 1, 0), (3, 0, 0, 0, 1, 0), (3, 0, 0, 0, 1, 0)),
        # no path
        ((3, 3, 3, 0, 0, 0), (0,) * 6, (0,) * 6),
        ((0, 0, 2, 0, 2, 2), (0, 0, 2, 0, 2, 2), (0,) * 6),
    ],
)
def test_dead_edges(
    cell: tuple[int, ...], reaching: tuple[int, ...], alive: tuple[int, ...]
) -> None:
    assert edges_reaching_output(cell) == reaching
    assert alive_edges(cell) == alive
    assert NASBench201().canonical(cell) == alive


@given(cells)
def test_canonical_forms_are_stable_and_nested(cell: tuple[int, ...]) -> None:
    reaching, alive = edges_reaching_output(cell), alive_edges(cell)
    assert edges_reaching_output(reaching) == reaching
    assert alive_edges(alive) == alive == alive_edges(reaching)
    assert all(kept in (0, op) for kept, op in zip(reaching, cell, strict=True))
    assert has_path(alive) == has_path(cell)


def test_equal_expressions_collapse_skips_and_order() -> None:
    # node 1 = input by a skip; 0->2 and 1->2 may then be exchanged
    assert expression((1, 2, 3, 0, 0, 1)) == expression((1, 3, 2, 0, 0, 1))
    assert expression((1, 2, 3, 0, 0, 1)) != expression((1, 3, 3, 0, 0, 1))


def test_space_survives_pickling() -> None:
    space = NASBench201("cifar10")
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert copy.canonical((3, 3, 3, 0, 0, 0)) == (0,) * 6


# ---- forms and features --------------------------------------------------------------------------


class TestNASBench201(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return NASBench201("cifar10")


def paths_of(cell: Network) -> list[list[int]]:
    """The operations along each path from input to output, of edges that are not ``none``."""
    found: list[list[int]] = []

    def walk(node: int, operations: list[int]) -> None:
        if node == 3:
            found.append(operations)
        for (source, target), operation in zip(EDGES, cell, strict=True):
            if source == node and operation != 0:
                walk(target, [*operations, operation])

    walk(0, [])
    return found


def features_of(cell: Network) -> list[float]:
    """`path_features` of one cell, as its text tells them."""
    paths, alive = paths_of(cell), alive_edges(cell)
    convolutions = [sum(operation in (2, 3) for operation in path) for path in paths]
    poolings = [path.count(4) for path in paths]
    both = [one + other for one, other in zip(convolutions, poolings, strict=True)]
    unpooled = [own for own, pools in zip(convolutions, poolings, strict=True) if not pools]
    count = max(len(paths), 1)
    return [
        sum(operation in (2, 3) for operation in alive),
        alive.count(3),
        alive.count(4),
        convolutions.count(0),
        min(convolutions, default=4),
        sum(convolutions) / count,
        max(unpooled, default=0),
        sum(path.count(3) for path in paths) / count,
        sum(poolings) / count,
        min(both, default=4),
    ]


def every_cell() -> np.ndarray:
    return NASBench201().all_networks()


def executed_edges(cell: Network) -> Network:
    """What a runtime runs: a cell whose output does not depend on the input is a constant."""
    return edges_reaching_output(cell) if has_path(cell) else (0,) * 6


def test_forms_of_all_cells_are_those_of_each_cell() -> None:
    space, cells = NASBench201(), every_cell()
    assert space.forms == ("as-written", "executed", "alive", "measured", "measured-executed")
    each: dict[str, Callable[[Network], Network]] = {
        "as-written": lambda cell: cell,
        "executed": executed_edges,
        "alive": alive_edges,
        "measured": space.representative,
        "measured-executed": lambda cell: executed_edges(space.representative(cell)),
    }
    for form in space.forms:
        expected = [each[form](tuple(cell)) for cell in cells.tolist()]
        assert list(map(tuple, space.formed(cells, form).tolist())) == expected, form


def test_features_of_all_cells_are_those_of_their_paths() -> None:
    cells = every_cell()
    expected = [features_of(tuple(cell)) for cell in cells.tolist()]
    np.testing.assert_allclose(NASBench201().features(cells), expected, rtol=0, atol=1e-12)


def test_features_depend_on_the_alive_form_alone() -> None:
    space, cells = NASBench201(), every_cell()
    alive = space.formed(cells, "alive")
    np.testing.assert_array_equal(space.features(alive), space.features(cells))


def test_a_skip_is_its_source() -> None:
    """Cells that are the same graph after skips are followed have the same features."""
    one, other = (1, 2, 3, 0, 0, 1), (1, 3, 2, 0, 0, 1)
    assert expression(one) == expression(other)
    found = NASBench201().features(np.array([one, other]))
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("metric", ["accuracy_cifar100", "accuracy_imagenet16_120"])
def test_accuracies_are_ranked_from_a_hundred_cells(
    require: Callable[..., Path], metric: str
) -> None:
    """The mean of three samples ranks the 15,284 cells that have a path by 0.955 or more."""
    require("nasbench201")
    table = nasbench201(metrics=[metric])
    space, cells = table.space, every_cell()
    values = np.array([table.evaluate(tuple(cell))[metric] for cell in cells.tolist()])
    values = np.array([float(getattr(value, "value", value)) for value in values])
    connected = space.formed(cells, "alive").any(axis=1)
    assert connected.sum() == 15_284
    found = []
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(connected))[:100]
        data = Measurements(
            metric_named(metric), {}, cells[rows], values[rows], np.full(100, np.nan), np.ones(100)
        )
        regression = regress(space, data, space.reference)
        assert regression.process is not None
        column = regression.column(space, data)
        predicted = BlockTable(space, space.reference, {metric: column}).predict_all(metric)
        found.append(quality(predicted[connected], values[connected]).spearman or 0.0)
    assert np.mean(found) >= 0.955


def test_blocks_stand_in_the_canonical_order() -> None:
    space = NASBench201()
    assert space.block_names((0, 1, 2, 3, 4, 0)) == (*OPERATIONS, "none")
    assert [node.name for node in space.nodes] == [
        *("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")
    ]
