"""SuperViT: counts, costs against those of the reference implementation, configurations."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mathnas as mn
from mathnas import BlockTable, GroupedSpace, InvalidInputError
from mathnas.space import SearchSpace
from mathnas.spaces import SuperViT, named, partitioned
from mathnas.spaces.supervit import PUBLISHED, RESOLUTIONS, STAGES, Configuration
from mathnas.testing import SpaceContract

SMALL_IMAGES = (1, 1, 2, 2, 2, 1, 1, 2)

# million MACs of the smallest and of the largest network, as the reference counts them
EXTREMES = {
    192: ("189.78904", "723.1332"),
    224: ("276.160784", "1040.9795"),
    256: ("369.065984", "1398.7000"),
    288: ("502.247168", "1881.7085"),
}
# million MACs; million parameters, of what is active and as published
NETWORKS = {
    "T1": ("199.672", "8.54628", "8.964"),
    "T2": ("325.569", "8.782556", "9.255"),
    "T3": ("670.875", "13.191216", "13.613"),
    "T4": ("1101.444", "13.692512", "14.375"),
    "T5": ("1475.976", "14.655324", "14.855"),
}


@cache
def at(resolution: int) -> SuperViT:
    return SuperViT(resolution)


def smallest_and_largest(space: SearchSpace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (0,) * space.num_nodes, tuple(size - 1 for size in space.sizes)


def millions(number: float, text: str) -> bool:
    """Whether a number is what a text in millions says, to its digits."""
    digits = len(text.partition(".")[2])
    return f"{number / 1e6:.{digits}f}" == text


class TestSuperViT(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return at(192)


class TestSuperViTByDimensions(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SuperViT(partition="dimensions")


class TestSmallImages(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SuperViT(32, 10, SMALL_IMAGES)


class TestHalfAsWide(SpaceContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return SuperViT(32, 10, SMALL_IMAGES, width=0.5)


# ---- counts --------------------------------------------------------------------------------------


def test_nodes_are_those_of_the_paper() -> None:
    space = at(224)
    assert space.sizes == (2, 8, 36, 24, 24, 63, 24, 12, 2)
    assert space.num_blocks == 195
    assert space.num_networks == 12_039_487_488
    assert space.num_networks * len(RESOLUTIONS) == 48_157_949_952


def test_dimensions_make_the_same_networks() -> None:
    space = SuperViT(partition="dimensions")
    assert (space.num_nodes, space.num_blocks) == (22, 68)
    assert space.num_networks == at(224).num_networks
    coarse = partitioned(space, "stages")
    assert coarse.sizes == at(224).sizes
    names = [[block.name for block in node.blocks] for node in coarse.nodes]
    assert names == [[block.name for block in node.blocks] for node in at(224).nodes]


def test_both_partitions_have_one_reference() -> None:
    fine = SuperViT(192, partition="dimensions")
    assert fine.to_config(fine.reference) == at(192).to_config(at(192).reference)
    assert at(192).reference == at(192).average_macs_network()


def test_blocks_have_the_codes_of_mathnas() -> None:
    nodes = at(224).nodes
    for width, depth, kernel, expand in ((0, 0, 0, 0), (1, 2, 0, 1), (1, 0, 1, 2)):
        name = f"w{24 + 8 * width}_d{3 + depth}_k{3 + 2 * kernel}_e{4 + expand}"
        assert nodes[2].index(name) == 18 * width + 6 * depth + 3 * kernel + expand
    assert nodes[1].index("w24_d1_k5") == 4 + 1
    assert nodes[5].index("w128_d9_e5") == 21 * 2 + 3 * 6 + 1
    assert nodes[6].index("w176_d8") == 6 * 2 + 5
    assert nodes[7].index("w216_d4") == 4 + 1
    assert nodes[8].index("w1984") == 1


# ---- costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_macs_of_the_smallest_and_the_largest_network(resolution: int) -> None:
    space = at(resolution)
    for network, text in zip(smallest_and_largest(space), EXTREMES[resolution], strict=True):
        assert millions(space.costs(network).macs, text)
        assert space.macs([network])[0] == space.costs(network).macs


def test_parameters_of_the_smallest_and_the_largest_network() -> None:
    smallest, largest = map(at(192).costs, smallest_and_largest(at(192)))
    assert (smallest.sliced_params, largest.sliced_params) == (8_220_472, 16_537_412)
    assert millions(smallest.published_params, "8.7912")
    assert millions(largest.published_params, "16.5374")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    config = PUBLISHED[name]
    costs = at(config["resolution"]).costs(at(config["resolution"]).from_config(**config))
    macs, sliced, published = NETWORKS[name]
    assert millions(costs.macs, macs)
    assert millions(costs.sliced_params, sliced)
    assert millions(costs.published_params, published)


def test_shortcuts_between_equal_widths_are_no_parameters_of_a_network() -> None:
    """mb1: 16 to 16; mb2: two of 24 to 24; mb3: two of 32 to 32."""
    costs = at(192).costs((0,) * 9)
    assert costs.sliced_params - costs.params == 16 * 16 + 2 * 24 * 24 + 2 * 32 * 32


@pytest.mark.parametrize(
    "space", [SuperViT(192), SuperViT(288), SuperViT(32, 10, SMALL_IMAGES)], ids=lambda s: s.name
)
def test_macs_and_parameters_are_exact_for_every_network(space: SuperViT) -> None:
    """Blocks and pairs of neighbours add up to what is counted layer by layer."""
    networks = space.sample(300, seed=0)
    counted = [space.costs(network) for network in networks]
    assert space.macs(networks).tolist() == [costs.macs for costs in counted]
    assert space.params(networks).tolist() == [costs.params for costs in counted]
    table = BlockTable(space, space.reference, {})
    assert [table.exact(network, "macs") for network in networks] == space.macs(networks).tolist()


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_macs_are_nearly_a_sum_over_blocks(resolution: int) -> None:
    """The best sum over blocks is off by 0.5 % on average, and by at most 1.5 % for the published
    networks, the smallest and the largest, and for 95 of 100 random ones."""
    space = at(resolution)
    exact = BlockTable(space, space.reference, {}).column("macs")
    means = space.mean_macs_with_block() - space.mean_macs()
    additive = replace(exact, base=space.mean_macs(), effects=means, pairs=())
    table = BlockTable(space, space.reference, {"macs": additive})

    def error(networks: list[tuple[int, ...]]) -> np.ndarray:
        return np.abs(table.predict(networks, "macs") / space.macs(networks) - 1)

    published = [
        space.from_config(**{**config, "resolution": resolution})  # type: ignore[arg-type]
        for config in PUBLISHED.values()
    ]
    assert error([*smallest_and_largest(space), *published]).max() <= 0.015
    random = error(space.sample(5000, seed=0))
    assert random.mean() <= 0.005
    assert np.quantile(random, 0.95) <= 0.015
    assert random.max() <= 0.025


def test_a_sum_of_maxima_is_no_maximum() -> None:
    """Single switches in the smallest network leave out what wide neighbours cost together."""
    space = at(192)
    smallest, largest = smallest_and_largest(space)
    column = BlockTable(space, smallest, {}).column("macs")
    most = column.base + np.maximum.reduceat(column.effects, space.offsets[:-1]).sum()
    assert millions(most, "712.4")
    assert millions(space.macs([largest])[0], "723.1")


def test_a_limit_on_macs_holds_for_the_exact_number() -> None:
    """Gains follow the size of blocks, so that the limit binds."""
    space = at(192)
    gains = np.sqrt(space.mean_macs_with_block() / 1e6)
    column = mn.BlockEffects(
        mn.metric_named("accuracy"),
        70.0,
        gains - np.repeat(gains[space.offsets[:-1] + np.array(space.reference)], space.sizes),
        np.zeros(space.num_blocks),
        np.ones(space.num_blocks),
    )
    table = BlockTable(space, space.reference, {"accuracy": column})
    for most in (300e6, 400e6, 500e6):
        answer = mn.search(table, maximize="accuracy", limits={"macs": most})
        assert isinstance(answer, mn.Answer)
        assert answer.status is mn.Status.OPTIMAL
        assert 0.99 * most <= space.costs(answer.network).macs <= most
        found = table.exact(answer.network, "accuracy")
        sample = np.array(space.sample(20_000, seed=1))
        feasible = sample[space.macs(sample) <= most]
        assert found >= table.predict(feasible, "accuracy").max()


# ---- configurations ------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_configurations_round_trip(seed: int) -> None:
    space, fine = at(192), SuperViT(192, partition="dimensions")
    (network,) = space.sample(1, seed=seed, distinct=False)
    config = space.to_config(network)
    assert config["resolution"] == 192
    assert space.from_config(**config) == network
    same = fine.from_config(**config)
    assert fine.to_config(same) == config
    assert fine.costs(same) == space.costs(network)


def test_dimensions_declare_no_macs() -> None:
    space = SuperViT(partition="dimensions")
    assert space.block_macs is None
    with pytest.raises(InvalidInputError, match="MACs of every block"):
        space.macs([space.reference])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 224}, "at 192 pixels, but the configuration is of one at 224"),
        ({"width": [16] * 8}, "9 widths and 7 depths, kernel sizes and expansions, but got 8, 7"),
        (
            {"width": [20, 16, 24, 32, 64, 112, 176, 208, 1792]},
            "the width of the first convolution is in",
        ),
        ({"width": [16, 16, 24, 32, 64, 112, 176, 208, 1800]}, "the width of the head is in"),
        (
            {"width": [16, 16, 24, 32, 64, 112, 177, 208, 1792]},
            r"the width of mb6 is in \(160, 168",
        ),
        ({"depth": [1, 3, 3, 7, 3, 3, 3]}, r"the depth of mb4 is in \(3, 4, 5, 6\), but got 7"),
        ({"kernel_size": [3, 7, 3, 3, 3, 3, 3]}, "the kernel size of mb2 is in"),
        ({"expand_ratio": [1, 4, 4, 6, 4, 6, 4]}, r"the expansion of mb7 is in \(6,\), but got 4"),
    ],
)
def test_wrong_configurations(change: dict[str, object], message: str) -> None:
    config: Configuration = {**PUBLISHED["T1"], **change}  # type: ignore[typeddict-item]
    with pytest.raises(InvalidInputError, match=message):
        at(192).from_config(**config)


# ---- arguments -----------------------------------------------------------------------------------


def test_names_say_what_differs_from_the_published_space() -> None:
    assert at(192).name == "supervit:resolution=192,classes=1000"
    small = SuperViT(32, 10, SMALL_IMAGES, "dimensions")
    assert small.name == (
        "supervit:resolution=32,classes=10,strides=1+1+2+2+2+1+1+2,partition=dimensions"
    )
    assert named(small.name) == small


def test_half_of_all_widths_keep_heads_and_choices() -> None:
    whole, half = SuperViT(32, 10, SMALL_IMAGES), SuperViT(32, 10, SMALL_IMAGES, width=0.5)
    assert half.sizes == whole.sizes
    assert half.block_names((0,) * 9)[:3] == ("w8", "w8_d1_k3", "w12_d3_k3_e4")
    assert named(half.name) == half
    _, stages, _ = half.choices((0,) * 9)
    _, originals, _ = whole.choices((0,) * 9)
    for stage, original in zip(stages, originals, strict=True):
        assert stage.width // half.head_dim == original.width // whole.head_dim
    macs = half.macs([(0,) * 9])[0] / whole.macs([(0,) * 9])[0]
    assert 0.25 < macs < 0.3


def test_small_images_keep_the_structure() -> None:
    space = SuperViT(32, 10, SMALL_IMAGES)
    assert space.sides == (32, 32, 16, 8, 4, 4, 4, 2)
    assert space.window == 4
    assert space.sizes == at(224).sizes
    assert space.block_names((0,) * 9) == at(224).block_names((0,) * 9)
    macs = space.macs(list(smallest_and_largest(space)))
    assert 40e6 < macs[0] < macs[1] < 170e6


def test_public_weights_know_positions_of_every_published_resolution() -> None:
    assert [at(resolution).window for resolution in RESOLUTIONS] == [18] * 4
    assert SuperViT(320).window == 20
    assert [SuperViT(r).sides[-1] for r in RESOLUTIONS] == [3, 4, 4, 5]
    assert all(SuperViT(r).sides[-1] == math.ceil(r / 64) for r in RESOLUTIONS)


def test_a_coarser_space_keeps_the_costs() -> None:
    space = at(192)
    rows = [[0, 5, 17], [3, 12]]
    coarse = GroupedSpace(
        space,
        {node.name: [node.name] for node in space.nodes},
        {STAGES[place].name: [[block] for block in own] for place, own in enumerate(rows, 1)},
    )
    networks = coarse.sample(50, seed=0)
    assert coarse.macs(networks).tolist() == space.macs(coarse.expand_many(networks)).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 16}, "32 to 4096 pixels"),
        ({"classes": 0}, "at least 1 class"),
        ({"strides": (2, 1, 2)}, "stride of 1 or 2 each"),
        ({"strides": (2, 1, 2, 2, 2, 3, 1, 2)}, "stride of 1 or 2 each"),
        ({"partition": "layers"}, "stages or dimensions"),
        ({"width": 0.7}, "one of 1.0, 0.5, 0.25, but got 0.7"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SuperViT(**arguments)  # type: ignore[arg-type]
