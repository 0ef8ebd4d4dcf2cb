"""The once-for-all MobileNetV3 supernet: its tensors, its counts, and what its networks compute."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import memory

from mathnas import InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.mobilenetv3 import MobileNetV3Net
from mathnas.spaces import MobileNetV3
from mathnas.testing.supernets import counted_macs, unsettle
from mobilenetv3_costs import COSTS

SMALL = MobileNetV3(width=0.35, resolution=32, classes=10, stem_stride=1)


def lived_in(space: MobileNetV3 = SMALL, seed: int = 0) -> MobileNetV3Net:
    """A supernet whose statistics, biases and kernel matrices are no longer those of a new one."""
    net = MobileNetV3Net(space, seed=seed)
    unsettle(net, seed)
    return net.eval()


def images(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# ---- tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "params"), [(1.0, 7_678_880), (1.2, 10_715_752)])
def test_it_owns_the_tensors_of_the_public_checkpoints(width: float, params: int) -> None:
    net = MobileNetV3Net(MobileNetV3(width=width))
    assert len(net.state_dict()) == 475
    assert sum(parameter.numel() for parameter in net.parameters()) == params


def test_tensors_are_named_and_shaped_as_in_the_public_checkpoints() -> None:
    shapes = {name: tuple(value.shape) for name, value in MobileNetV3Net().state_dict().items()}
    layer = "blocks.{}.conv.{}".format
    expected = {
        "first_conv.conv.weight": (16, 3, 3, 3),
        "first_conv.bn.num_batches_tracked": (),
        layer(0, "depth_conv.conv.weight"): (16, 1, 3, 3),
        layer(0, "point_linear.bn.running_var"): (16,),
        layer(1, "inverted_bottleneck.conv.conv.weight"): (96, 16, 1, 1),
        layer(1, "inverted_bottleneck.bn.bn.weight"): (96,),
        layer(1, "depth_conv.conv.conv.weight"): (96, 1, 7, 7),
        layer(1, "depth_conv.conv.7to5_matrix"): (25, 25),
        layer(1, "depth_conv.conv.5to3_matrix"): (9, 9),
        layer(5, "depth_conv.se.fc.reduce.weight"): (40, 144, 1, 1),
        layer(5, "depth_conv.se.fc.expand.bias"): (144,),
        layer(6, "depth_conv.se.fc.reduce.bias"): (64,),
        layer(6, "inverted_bottleneck.conv.conv.weight"): (240, 40, 1, 1),
        layer(20, "point_linear.conv.conv.weight"): (160, 960, 1, 1),
        layer(20, "point_linear.bn.bn.running_mean"): (160,),
        "final_expand_layer.conv.weight": (960, 160, 1, 1),
        "feature_mix_layer.conv.weight": (1280, 960, 1, 1),
        "classifier.linear.weight": (1000, 1280),
        "classifier.linear.bias": (1000,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    squeezing = {int(name.split(".")[1]) for name in shapes if ".se." in name}
    assert squeezing == {*range(5, 9), *range(13, 21)}
    assert not any("inverted" in name for name in shapes if name.startswith("blocks.0."))
    assert not any(name.startswith("feature_mix_layer.bn") for name in shapes)


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (MobileNetV3Net(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["first_conv.conv.weight"], other["first_conv.conv.weight"])


def test_a_new_supernet_has_no_layer_of_zeros() -> None:
    for name, parameter in MobileNetV3Net(SMALL).named_parameters():
        assert name.endswith("bias") or parameter.abs().sum() > 0, name


def test_with_zero_residuals_a_deep_network_computes_what_a_shallow_one_does() -> None:
    net, x = MobileNetV3Net(SMALL).eval(), images(2)
    shallow = SMALL.from_config([3] * 20, [3] * 20, [2] * 5)
    deep = SMALL.from_config([3] * 20, [3] * 20, [4] * 5)
    assert not torch.allclose(net(x, deep), net(x, shallow), rtol=1e-2)
    net.zero_residuals()
    assert torch.equal(net(x, deep), net(x, shallow))
    net.train()(x, deep).square().sum().backward()
    scale = net.layer(3).point_linear.norm.weight
    assert scale.grad is not None
    assert scale.grad.abs().sum() > 0, "it is learned from the first step on"


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", COSTS)
def test_counts_equal_the_reference_by_formula_and_on_the_extracted_network(width: float) -> None:
    supernet = MobileNetV3Net(MobileNetV3(width=width))
    for (kernel, expansion, depth), values in COSTS[width].items():
        config = ([kernel] * 20, [expansion] * 20, [depth] * 5)
        static = supernet.extract(supernet.space.from_config(*config))
        params = sum(parameter.numel() for parameter in static.parameters())
        assert params == round(1e6 * values[-1])
        for side, value in zip((224, 192, 160, 128), values, strict=False):
            space = MobileNetV3(width=width, resolution=side)
            network = space.from_config(*config)
            formula = space.macs([network])[0]
            assert counted_macs(static, images(1, side)) == formula
            # the reference sums in single precision: some ulps of 32 to 64 MACs
            assert formula == pytest.approx(1e6 * value, rel=3e-7)


def test_counts_of_the_small_image_variant_hold_on_random_networks() -> None:
    supernet = MobileNetV3Net(SMALL)
    assert SMALL.block_params is not None
    for network in SMALL.sample(5, seed=3):
        static = supernet.extract(network)
        assert counted_macs(static, images(1)) == SMALL.macs([network])[0]
        params = SMALL.block_params[SMALL.check_many([network])[0] + SMALL.offsets[:-1]].sum()
        assert sum(p.numel() for p in static.parameters()) == params + (SMALL.fixed_params or 0)


# ---- what networks compute -----------------------------------------------------------------------


def test_an_extracted_network_gives_the_supernets_outputs_and_shares_no_memory() -> None:
    net, x = lived_in(), images(4)
    for network in SMALL.sample(8, seed=0):
        static = net.extract(network)
        assert not memory(static) & memory(net)
        with torch.no_grad():
            torch.testing.assert_close(static(x), net(x, network), atol=1e-6, rtol=0)


def test_nodes_run_one_by_one_are_the_network() -> None:
    net, x = lived_in(), images(2)
    network = SMALL.sample(1, seed=5)[0]
    with torch.no_grad():
        y = net.run_stem(x)
        for node, block in enumerate(network):
            y = net.run_node(node, block, y)
        assert torch.equal(net.run_head(y), net(x, network))


def test_hooks_of_layers_see_a_run() -> None:
    net, x, seen = lived_in(), images(2), list[torch.Tensor]()
    network = SMALL.from_config([5] * 20, [4] * 20, [2] * 5)
    net.layer(0).register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.no_grad():
        net(x, network)
        assert torch.equal(seen[0], net.run_node(0, network[0], net.run_stem(x)))


def test_the_resolution_is_free() -> None:
    net = lived_in()
    network = SMALL.sample(1, seed=1)[0]
    with torch.no_grad():
        assert net(images(2, 48), network).shape == (2, 10)


def test_two_threads_run_two_networks() -> None:
    net, x = lived_in(), images(4)
    networks = SMALL.sample(2, seed=2) * 8

    def run(network: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            y: torch.Tensor = net(x, network)
        return y

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, networks))
    for network, found in zip(networks, together, strict=True):
        torch.testing.assert_close(found, run(network), atol=1e-6, rtol=0)


def test_absent_layers_get_no_gradient() -> None:
    net = MobileNetV3Net(SMALL).train()
    shallow = SMALL.from_config([3] * 20, [3] * 20, [2] * 5)
    net(images(4), shallow).square().sum().backward()
    for node, block in enumerate(shallow):
        used = [parameter.grad is not None for parameter in net.layer(node).parameters()]
        absent = SMALL.nodes[node].blocks[block].name == "absent"
        assert not any(used) if absent else all(used)


def test_dropout_acts_only_while_training() -> None:
    net = MobileNetV3Net(SMALL, dropout=0.5)
    network, x = SMALL.sample(1)[0], images(4)
    with torch.no_grad():
        assert not torch.equal(net(x, network), net(x, network))
        net.eval()
        assert torch.equal(net(x, network), net(x, network))
    with pytest.raises(InvalidInputError, match=r"dropout is at least 0 and below 1, but got 1\.0"):
        MobileNetV3Net(SMALL, dropout=1.0)
    net.train().set_dropout(0.0)
    with torch.no_grad():
        assert torch.equal(net(x, network), net(x, network))
    with pytest.raises(InvalidInputError, match=r"below 1, but got 1\.5"):
        net.set_dropout(1.5)


def test_sorting_channels_leaves_the_largest_network_as_it_is() -> None:
    net, x = lived_in(), images(4)
    largest = SMALL.from_config([7] * 20, [6] * 20, [4] * 5)
    narrow = SMALL.from_config([7] * 20, [3] * 20, [4] * 5)
    with torch.no_grad():
        before, before_narrow = net(x, largest), net(x, narrow)
        net.sort_channels()
        torch.testing.assert_close(net(x, largest), before, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(net(x, narrow), before_narrow, atol=1e-3)


def test_recalibration_is_of_the_extracted_network_alone() -> None:
    net = lived_in()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    static = net.extract(SMALL.sample(1, seed=4)[0])
    recalibrate(static, [images(64), images(64, seed=1)])
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    stem = static.stem[0].bn  # type: ignore[index]
    with torch.no_grad():
        values = net.first_conv.conv(torch.cat([images(64), images(64, seed=1)]))
    torch.testing.assert_close(stem.running_mean, values.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
