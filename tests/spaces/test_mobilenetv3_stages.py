"""Once-for-All MobileNetV3 in stages: published candidates, their costs, and files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mathnas.errors import InvalidInputError
from mathnas.grouped import GroupedSpace
from mathnas.spaces import MobileNetV3, restore
from mathnas.spaces.mobilenetv3 import PUBLISHED_CANDIDATES

WIDE = MobileNetV3(1.2)
CPU, GPU = WIDE.stages("cpu"), WIDE.stages("gpu")

# MACs in M of a candidate beyond those of the stage with depth 2, kernels and expansions 3
EXTRA = [
    [10.3, 22.0, 44.0, 76.2, 92.7],
    [28.2, 44.1, 53.4, 63.7, 101.0],
    [12.7, 22.4, 34.2, 51.0, 71.8],
    [30.1, 46.8, 75.8, 101.9, 143.0],
    [15.1, 23.9, 34.7, 50.5, 67.7],
]


@pytest.mark.parametrize(
    ("space", "code", "macs", "params"),
    [
        (CPU, (0, 0, 0, 0, 0), 289.56, None),
        (CPU, (4, 4, 4, 4, 4), 669.437, 9.9386),
        (CPU, (0, 0, 3, 2, 3), 408.84, None),
        (GPU, (0, 0, 0, 0, 0), 309.83, None),
        (GPU, (4, 4, 4, 4, 4), 744.02, 9.9579),
    ],
)
def test_published_networks(
    space: GroupedSpace, code: tuple[int, ...], macs: float, params: float | None
) -> None:
    assert space.macs([code])[0] / 1e6 == pytest.approx(macs, abs=0.006)
    assert space.macs([code])[0] == WIDE.macs([space.expand(code)])[0]
    if params is not None:
        assert space.block_params is not None
        assert space.fixed_params is not None
        total = space.fixed_params + space.block_params[space.offsets[:-1] + np.array(code)].sum()
        assert total / 1e6 == pytest.approx(params, abs=6e-5)


def test_extra_macs_of_the_published_candidates() -> None:
    smallest = WIDE.from_config([3] * 20, [3] * 20, [2] * 5)
    for stage, extras in enumerate(EXTRA):
        for place, extra in enumerate(extras):
            network = list(smallest)
            nodes = CPU.partition[stage]
            network[nodes[0] : nodes[-1] + 1] = CPU.candidates[stage][place].tolist()
            more = WIDE.macs([network])[0] - WIDE.macs([smallest])[0]
            assert more / 1e6 == pytest.approx(extra, abs=0.051)


@pytest.mark.parametrize("name", PUBLISHED_CANDIDATES)
def test_candidates_are_named_as_they_are_written(name: str) -> None:
    space = WIDE.stages(name)
    names = tuple(tuple(block.name for block in node.blocks) for node in space.nodes)
    assert names == PUBLISHED_CANDIDATES[name]
    config = WIDE.to_config(space.expand((1, 1, 1, 1, 1)))
    depths, kernels, expansions = zip(*(own[1].split() for own in names), strict=True)
    assert config["d"] == [int(text[1:]) for text in depths]
    for stage in range(5):
        layers = slice(4 * stage, 4 * stage + config["d"][stage])
        assert "k" + "".join(map(str, config["ks"][layers])) == kernels[stage]
        assert "e" + "".join(map(str, config["e"][layers])) == expansions[stage]
    assert restore(space.to_dict()) == space


def test_candidates_of_ones_own() -> None:
    own = [[(2, (3, 5), (6, 4)), (3, (3, 5, 7, 3), (3, 4, 6, 3))]] * 4 + [["d4 k3333 e3333"]]
    space = WIDE.stages(own, reference=[1, 1, 1, 1, 0])
    assert space.num_networks == 16
    assert space.block_names(space.reference) == ("d3 k357 e346",) * 4 + ("d4 k3333 e3333",)


def test_all_candidates() -> None:
    space = WIDE.stages()
    assert space.num_networks == WIDE.num_networks == 7371**5
    assert space.sizes == (7371,) * 5
    assert space.partition == tuple(tuple(own) for own in WIDE.partitions["stages"].values())
    assert space.fine.partitions["stages"].keys() == {node.name for node in space.nodes}
    (network,) = WIDE.sample(1, seed=3)
    assert space.expand(space.contract(network)) == network
    restored = restore(space.to_dict())
    assert isinstance(restored, GroupedSpace)
    assert isinstance(restored.fine, MobileNetV3)
    assert restored == space


def test_groups_that_are_no_stages_are_named_by_their_blocks() -> None:
    layers = {"first": range(2), "rest": range(2, 20)}
    some = {"rest": [[0] * 18]}
    space = GroupedSpace(WIDE, layers, some)
    assert space.nodes[0].blocks[1].name == "k3_e3+k3_e4"


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ("tpu", "published candidates are cpu, gpu, but got 'tpu'"),
        ([["d2 k33 e33"]] * 4, "each of 5 stages, but got 4"),
        ([["d2 k33 e33"]] * 4 + [["d2-k33-e33"]], "stage5 has 'd2-k33-e33'"),
        ([["d2 k33 e33"]] * 4 + [["d5 k33333 e33333"]], "depth in .* stage5 has"),
        ([["d2 k33 e33"]] * 4 + [[(3, (3, 3), (3, 3))]], "depth in .* stage5 has"),
        ([["d2 k33 e33"]] * 4 + [[(2, (3, 4), (3, 3))]], "kernel in .* stage5 has"),
        ([["d2 k33 e33"]] * 4 + [["d2 k33 e33"] * 2], "'d2 k33 e33' stands twice"),
    ],
)
def test_wrong_candidates(candidates: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        WIDE.stages(candidates)
