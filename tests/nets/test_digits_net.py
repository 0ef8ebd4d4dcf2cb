"""The digits supernet: its space counts exactly, and what is extracted computes the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import TINY, images, lived_in, memory
from torch import nn

from mathnas import InvalidInputError, Network
from mathnas.nets.digits import DigitsConfig, DigitsNet, DigitsNode
from mathnas.nets.supernet import StagedNetwork
from mathnas.training.networks import extreme_networks

DEFAULT = DigitsNet()
NETWORKS = [*extreme_networks(DEFAULT.space), DEFAULT.space.reference, *DEFAULT.space.sample(5)]


def counted_macs(module: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers, by watching one input pass."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        total += output[0].numel() * layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    module(x)
    return total


def test_the_space_has_ten_thousand_networks() -> None:
    assert DEFAULT.space.sizes == (5, 4, 5, 4, 5, 5)
    assert DEFAULT.space.num_networks == 10_000


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_macs_and_parameters_are_exact(network: Network) -> None:
    static = DEFAULT.extract(network)
    space = DEFAULT.space
    assert space.macs([network])[0] == counted_macs(static, images(1))
    blocks = [node.blocks[block] for node, block in zip(space.nodes, network, strict=True)]
    declared = (space.fixed_params or 0) + sum(block.params or 0 for block in blocks)
    assert declared == sum(parameter.numel() for parameter in static.parameters())


def test_costs_are_exact_for_odd_sides_too() -> None:
    net = DigitsNet(DigitsConfig(side=9, nodes=TINY.nodes, stem=4))
    for network in net.space.enumerate():
        static = net.extract(network)
        assert net.space.macs([network])[0] == counted_macs(static, images(1, side=9))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_an_extracted_network_computes_the_same(network: Network) -> None:
    net = lived_in(DEFAULT.config)
    x = images(5)
    with torch.no_grad():
        difference = (net.extract(network)(x) - net(x, network)).abs().max()
        assert float(difference) <= 1e-6 * float(net(x, network).abs().max())


def test_an_extracted_network_shares_no_memory() -> None:
    net = lived_in()
    network = (2, 1, 1)
    static = net.extract(network)
    assert not memory(static) & memory(net)
    x = images(3)
    before = static(x)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor += 1
    assert torch.equal(static(x), before)


def test_two_extractions_share_no_memory() -> None:
    net = lived_in()
    assert not memory(net.extract((2, 1, 1))) & memory(net.extract((2, 1, 1)))


def test_running_part_by_part_is_running_the_network() -> None:
    net = lived_in()
    x = images(3)
    for network in net.space.enumerate():
        y = net.run_stem(x)
        for node, block in enumerate(network):
            y = net.run_node(node, block, y)
        assert torch.equal(net.run_head(y), net(x, network))


def test_a_skipped_node_passes_its_input_on() -> None:
    net = lived_in()
    x = net.run_stem(images(2))
    assert net.run_node(0, 0, x) is x
    assert isinstance(net.extract_block(0, 0), nn.Identity)


def test_an_extracted_network_has_the_parts_of_the_space() -> None:
    static = lived_in().extract((0, 1, 1))
    assert isinstance(static, StagedNetwork)
    assert len(static.nodes) == 3
    assert not any(module.training for module in static.modules())


def test_a_foreign_network_is_not_extracted() -> None:
    with pytest.raises(InvalidInputError, match="blocks 0 to 1, but got 2"):
        lived_in().extract((0, 2, 0))


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = DigitsNet(TINY, seed=1), DigitsNet(TINY, seed=1), DigitsNet(TINY, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [net.state_dict() for net in (one, same, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["stem.conv.weight"], weights[2]["stem.conv.weight"])


def test_skipping_needs_equal_shapes() -> None:
    with pytest.raises(InvalidInputError, match="node 0 has stride 2 and goes from 12 to 12"):
        DigitsConfig(nodes=(DigitsNode(12, 2, (None,)),))
    with pytest.raises(InvalidInputError, match="node 0 has stride 1 and goes from 12 to 16"):
        DigitsConfig(nodes=(DigitsNode(16, 1, (None,)),))


def test_threads_run_different_networks_at_the_same_time() -> None:
    net = lived_in().train()
    x = images(8)
    networks = list(net.space.enumerate()) * 10

    def run(network: Network) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = net(x, network)
        return logits

    alone = {network: run(network) for network in net.space.enumerate()}
    with ThreadPoolExecutor(4) as pool:
        for network, logits in zip(networks, pool.map(run, networks), strict=True):
            torch.testing.assert_close(logits, alone[network])
