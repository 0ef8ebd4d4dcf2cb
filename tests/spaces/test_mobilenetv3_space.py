"""Once-for-All MobileNetV3: numbers, costs against the reference's counter, configurations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathnas.errors import InvalidInputError
from mathnas.space import Network
from mathnas.spaces import MobileNetV3
from mathnas.spaces.mobilenetv3 import round_channels
from mobilenetv3_costs import COSTS

CASES = [(width, config) for width, table in COSTS.items() for config in table]


def uniform(space: MobileNetV3, kernel: int, expansion: int, depth: int) -> Network:
    return space.from_config([kernel] * 20, [expansion] * 20, [depth] * 5)


def params(space: MobileNetV3, network: Network) -> float:
    assert space.block_params is not None
    assert space.fixed_params is not None
    return float(space.fixed_params + space.block_params[space.offsets[:-1] + list(network)].sum())


@pytest.mark.parametrize(("width", "config"), CASES)
def test_costs(width: float, config: tuple[int, int, int]) -> None:
    *macs, parameters = COSTS[width][config]
    for resolution, expected in zip((224, 192, 160, 128), macs, strict=True):
        space = MobileNetV3(width, resolution)
        network = uniform(space, *config)
        # the reference counts in 32-bit floats: its last digits are multiples of up to 64
        assert space.macs([network])[0] == pytest.approx(expected * 1e6, abs=32)
        assert params(space, network) == round(parameters * 1e6)


def test_number_of_networks() -> None:
    space = MobileNetV3()
    assert space.num_networks == 7371**5
    assert space.num_nodes == 20
    assert [len(node.blocks) for node in space.nodes[:4]] == [9, 9, 10, 10]


def test_odd_sides_round_up() -> None:
    # 132 halves to 66, 33, 17, 9 and 5: more MACs than (132 / 128)^2 times those at 128
    small, large = (MobileNetV3(resolution=side) for side in (128, 132))
    network = uniform(small, 3, 3, 2)
    assert large.macs([network])[0] > small.macs([network])[0] * (132 / 128) ** 2


def test_classes_change_only_the_classifier() -> None:
    thousand, ten = MobileNetV3(), MobileNetV3(classes=10)
    network = uniform(ten, 3, 3, 2)
    assert thousand.macs([network])[0] - ten.macs([network])[0] == 990 * 1280
    assert params(thousand, network) - params(ten, network) == 990 * 1281


def test_average_network_is_valid_and_prediction_base() -> None:
    space = MobileNetV3(1.2)
    assert space.check(space.average_macs_network()) == space.reference


def test_both_spellings_of_configurations() -> None:
    space = MobileNetV3()
    masked = space.from_config([3, 5, 7, 0] * 5, [3, 4, 6, 0] * 5, [3] * 5)
    assert masked == space.from_config([3, 5, 7, 7] * 5, [3, 4, 6, 3] * 5, [3] * 5)
    assert space.block_names(masked)[:4] == ("k3_e3", "k5_e4", "k7_e6", "absent")
    assert space.to_config(masked) == {
        "ks": [3, 5, 7, 0] * 5,
        "e": [3, 4, 6, 0] * 5,
        "d": [3] * 5,
    }


@given(st.integers(0, 2**32 - 1))
def test_configurations_round_trip(seed: int) -> None:
    space = MobileNetV3(1.2, 192)
    (network,) = space.sample(1, seed=seed, distinct=False)
    assert space.from_config(**space.to_config(network)) == network


@pytest.mark.parametrize(
    ("ks", "e", "d", "message"),
    [
        ([3] * 19, [3] * 20, [2] * 5, "20 kernels .* but got 19, 20 and 5"),
        ([3] * 20, [3] * 20, [2] * 4 + [5], "stage 5 got 5"),
        ([3] * 20, [3] * 20, [1] + [2] * 4, "stage 1 got 1"),
        ([0] + [3] * 19, [3] * 20, [2] * 5, "layer 1 of stage 1 got 0 and 3"),
        ([3] * 20, [3] * 6 + [5] + [3] * 13, [3] * 5, "layer 3 of stage 2 got 3 and 5"),
    ],
)
def test_wrong_configurations(ks: list[int], e: list[int], d: list[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MobileNetV3().from_config(ks, e, d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.0}, "width multiplier"),
        ({"width": float("nan")}, "width multiplier"),
        ({"resolution": 16}, "32 to 4096 pixels"),
        ({"classes": 0}, "at least 1 class"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MobileNetV3(**arguments)  # type: ignore[arg-type]


def test_a_gap_in_a_stage_is_refused() -> None:
    space = MobileNetV3()
    network = [*space.block_names(uniform(space, 3, 3, 4))]
    network[2] = "absent"
    with pytest.raises(InvalidInputError, match=r"stage1\.layer3"):
        space.check(network)


@pytest.mark.parametrize(
    ("value", "expected"), [(19.2, 24), (96, 96), (28.8, 32), (48, 48), (134.4, 136), (3, 8)]
)
def test_round_channels(value: float, expected: int) -> None:
    assert round_channels(value) == expected
