"""NAS-Bench-201: names, numbers, costs and which cells are the same."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathnas.errors import InvalidInputError
from mathnas.spaces import NASBench201
from mathnas.spaces.nasbench201 import (
    OPERATIONS,
    alive_edges,
    cells_in_benchmark_order,
    edges_reaching_output,
    expression,
    has_path,
    parse_arch,
)

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


def test_blocks_stand_in_the_canonical_order() -> None:
    space = NASBench201()
    assert space.block_names((0, 1, 2, 3, 4, 0)) == (*OPERATIONS, "none")
    assert [node.name for node in space.nodes] == [
        *("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")
    ]
