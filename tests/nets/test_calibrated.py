"""Statistics of blocks that run in many networks."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from nets_cases import images, lived_in
from torch import nn

from mathnas import GroupedSpace, InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.calibrated import Sharing, calibrated_parts
from mathnas.nets.folding import folded
from mathnas.nets.grouped import GroupedSupernet

NET = lived_in()
BATCHES = [images(24, seed=1), images(24, seed=2)]
NETWORKS = [(1, 0, 1), (2, 1, 0), (0, 1, 1), (2, 0, 1)]


def statistics(module: nn.Module) -> list[torch.Tensor]:
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


def same(found: nn.Module, expected: nn.Module) -> bool:
    pairs = zip(statistics(found), statistics(expected), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def alone(network: tuple[int, ...]) -> nn.Module:
    """The network by itself."""
    module = NET.extract(network)
    recalibrate(module, BATCHES)
    return module


@pytest.mark.parametrize("network", NETWORKS)
def test_in_the_context_of_one_network_its_statistics_are_its_own(
    network: tuple[int, ...],
) -> None:
    parts = calibrated_parts(NET, BATCHES, context=network)
    expected = alone(network)
    assert same(parts.network(network), expected)
    with torch.no_grad():
        assert torch.equal(parts.network(network)(BATCHES[0]), expected(BATCHES[0]))


@pytest.mark.parametrize("network", NETWORKS)
def test_pairs_are_exact_where_nothing_else_comes_before(network: tuple[int, ...]) -> None:
    """Of the first two nodes a pair tells all; a block tells all of the first."""
    expected = alone(network)
    pairs = calibrated_parts(NET, BATCHES, sharing=Sharing.PAIR).network(network)
    assert same(pairs.stem, expected.get_submodule("stem"))
    for node in (0, 1):
        assert same(pairs.nodes[node], expected.get_submodule(f"nodes.{node}"))
    blocks = calibrated_parts(NET, BATCHES).network(network)
    assert same(blocks.nodes[0], expected.get_submodule("nodes.0"))


def test_entries_are_first_layers() -> None:
    """Of a group's candidate the first layer has statistics for the block before, others do not."""
    groups = GroupedSpace(NET.space, {"first": [0], "others": [1, 2]}, {"others": [(1, 1), (0, 0)]})
    view = GroupedSupernet(NET, groups)
    parts = calibrated_parts(view, BATCHES, sharing=Sharing.ENTRY)
    pairs = calibrated_parts(view, BATCHES, sharing=Sharing.PAIR)
    mixed = calibrated_parts(view, BATCHES)
    one, other = (parts.block(1, 0, before) for before in (1, 2))
    assert isinstance(one, nn.Sequential)
    assert isinstance(other, nn.Sequential)
    pair, block = pairs.block(1, 0, 1), mixed.block(1, 0, 1)
    assert isinstance(pair, nn.Sequential)
    assert isinstance(block, nn.Sequential)
    assert same(one[0], pair[0])
    assert not same(one[0], other[0])
    assert same(one[1], block[1])
    assert same(one[1], other[1])
    assert same(parts.block(1, 1, 2), pairs.block(1, 1, 2))  # a single layer


@pytest.mark.parametrize("sharing", Sharing)
def test_the_supernet_stays_as_it_is_and_parts_are_in_evaluation_mode(sharing: Sharing) -> None:
    before = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    parts = calibrated_parts(NET, BATCHES, sharing=sharing)
    assert all(torch.equal(before[name], t) for name, t in NET.state_dict().items())
    assert not any(module.training for module in parts.network((1, 1, 1)).modules())
    again = calibrated_parts(NET, BATCHES, sharing=sharing)
    assert same(parts.network((2, 1, 1)), again.network((2, 1, 1)))


def test_weights_are_those_of_the_supernet() -> None:
    expected = NET.extract((2, 1, 1)).state_dict()
    found = calibrated_parts(NET, BATCHES, sharing=Sharing.PAIR).network((2, 1, 1)).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert "running" in name or torch.equal(found[name], tensor)


def test_no_batch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one batch"):
        calibrated_parts(NET, [])


def test_folding_changes_operations_and_not_outputs() -> None:
    module = NET.extract((2, 1, 1))
    found = folded(module, images(2))
    assert not statistics(found)
    assert statistics(module)
    with torch.no_grad():
        assert torch.allclose(found(images(5)), module(images(5)), atol=1e-5)


def test_a_normalisation_that_follows_no_convolution_stays() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    found = folded(module.eval(), images(2))
    assert len(statistics(found)) == 4
    with torch.no_grad():
        assert torch.allclose(found(images(3)), module(images(3)))
