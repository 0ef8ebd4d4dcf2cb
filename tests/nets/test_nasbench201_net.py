"""NAS-Bench-201's networks: one cell alone as published, and all cells over shared weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from nets_cases import live_in
from torch import Tensor
from torch.nn import functional

from mathnas import InvalidInputError, Network
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.nasbench201 import CellNetwork, NASBench201Net
from mathnas.spaces import NASBench201
from mathnas.spaces.nasbench201 import DATASETS, EDGES, alive_edges
from mathnas.testing.supernets import counted_macs

SMALL = NASBench201("cifar10", channels=4, cells=2)
NONE_ONLY, SKIPS, CONV_1X1, CONV_3X3, POOLS = ((block,) * 6 for block in range(5))


def images(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def supernet(space: NASBench201 = SMALL) -> NASBench201Net:
    net = NASBench201Net(space)
    live_in(net)
    return net.eval()


# ---- the published facts -------------------------------------------------------------------------

# millions of MACs and of parameters: CIFAR-10, CIFAR-100, ImageNet16-120
PUBLISHED: dict[Network, list[tuple[float, float]]] = {
    NONE_ONLY: [(7.78305, 0.073306), (7.7889, 0.079156), (1.9534, 0.080456)],
    SKIPS: [(7.78305, 0.073306), (7.7889, 0.079156), (1.9534, 0.080456)],
    POOLS: [(7.78305, 0.073306), (7.7889, 0.079156), (1.9534, 0.080456)],
    CONV_1X1: [(31.37601, 0.241306), (31.38186, 0.247156), (7.85164, 0.248456)],
    CONV_3X3: [(220.11969, 1.531546), (220.12554, 1.537396), (55.03756, 1.538696)],
    (3, 3, 4, 1, 3, 1): [(113.95137, 0.802426), (113.95722, 0.808276), (28.49548, 0.809576)],
    (3, 3, 3, 1, 3, 3): [(184.73025, 1.288506), (184.7361, 1.294356), (46.1902, 1.295656)],
}
CASES = [
    (dataset, cell, *values[place])
    for cell, values in PUBLISHED.items()
    for place, dataset in enumerate(DATASETS)
]


@pytest.mark.parametrize(("dataset", "cell", "macs", "params"), CASES)
def test_macs_and_parameters_are_the_published_ones(
    dataset: str, cell: Network, macs: float, params: float
) -> None:
    space = NASBench201(dataset)
    network = CellNetwork(cell, space)
    counted = counted_macs(network, images(1, space.resolution), with_bias=True)
    assert counted == space.macs([cell])[0] == round(macs * 1e6)
    assert sum(parameter.numel() for parameter in network.parameters()) == round(params * 1e6)


def test_tensors_of_a_cell_are_named_as_published() -> None:
    cell = (3, 0, 2, 1, 4, 0)  # 3x3, none, 1x1, skip, pool, none
    state = CellNetwork(cell).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    conv = ("1.weight", *(f"2.{name}" for name in norm))
    expected = {"stem.0.weight", *(f"stem.1.{name}" for name in norm)}
    for place in range(17):
        if place in (5, 11):
            parts = [f"cells.{place}.{part}.op" for part in ("conv_a", "conv_b")]
            expected.add(f"cells.{place}.downsample.1.weight")
        else:
            parts = [f"cells.{place}.layers.{edge}.op" for edge in (0, 2)]
        expected |= {f"{part}.{name}" for part in parts for name in conv}
    expected |= {f"lastact.0.{name}" for name in norm} | {"classifier.weight", "classifier.bias"}
    assert set(state) == expected
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["stem.0.weight"] == (16, 3, 3, 3)
    assert shapes["cells.0.layers.0.op.1.weight"] == (16, 16, 3, 3)
    assert shapes["cells.16.layers.2.op.1.weight"] == (64, 64, 1, 1)
    assert shapes["cells.11.conv_a.op.1.weight"] == (64, 32, 3, 3)
    assert shapes["cells.5.downsample.1.weight"] == (32, 16, 1, 1)
    assert shapes["lastact.0.weight"] == (64,)
    assert shapes["classifier.weight"] == (100, 64)


def test_tensors_of_the_supernet_are_named_and_counted_as_published() -> None:
    net = NASBench201Net(NASBench201("cifar10"))
    state = net.state_dict()
    assert len(state) == 938
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_692_728
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["_stem.0.weight"] == (16, 3, 3, 3)
    assert shapes["_stem.1.weight"] == (16,)
    assert shapes["_cells.0.edges.1<-0.3.op.1.weight"] == (16, 16, 3, 3)
    assert shapes["_cells.16.edges.3<-2.2.op.1.bias"] == (64,)
    assert shapes["_cells.16.edges.3<-2.2.op.2.running_var"] == (64,)
    assert "_cells.0.edges.1<-0.3.op.2.weight" not in shapes
    assert shapes["_cells.5.conv_a.op.2.weight"] == (32,)
    assert shapes["_cells.11.downsample.1.weight"] == (64, 32, 1, 1)
    assert shapes["lastact.0.running_mean"] == (64,)
    assert "lastact.0.weight" not in shapes
    assert shapes["arch_parameters"] == (6, 5)
    owners = {int(name.split(".")[4]) for name in state if ".edges." in name}
    assert owners == {2, 3}, "only convolutions own tensors"


# ---- what a cell computes ------------------------------------------------------------------------


def by_definition(x: Tensor, operations: list[Any], cell: Network) -> Tensor:
    """The output of a cell, written out from the definition."""
    nodes: list[Tensor] = [x, *(torch.zeros_like(x) for _ in range(3))]
    for edge, (source, target) in enumerate(EDGES):
        value = nodes[source]
        if cell[edge] == 0:
            value = torch.zeros_like(value)
        elif cell[edge] == 4:
            window = torch.ones(value.shape[1], 1, 3, 3)
            total = functional.conv2d(value, window, padding=1, groups=value.shape[1])
            inside = functional.conv2d(
                torch.ones_like(value), window, padding=1, groups=value.shape[1]
            )
            value = total / inside  # the border counts only what is there
        elif cell[edge] in (2, 3):
            _, conv, norm = operations[edge].op
            value = functional.conv2d(
                value.clamp(min=0), conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2
            )
            mean, variance = (t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var))
            value = (value - mean) / (variance + 1e-5).sqrt()
            if norm.weight is not None:
                value = value * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        nodes[target] = nodes[target] + value
    return nodes[3]


@pytest.mark.parametrize("cell", [*SMALL.sample(6, seed=1), NONE_ONLY, (0, 0, 3, 0, 0, 2)], ids=str)
def test_a_cell_is_the_sum_over_its_edges(cell: Network) -> None:
    """Also where edges are dead: a convolution of zeros is not zero."""
    network = CellNetwork(cell, SMALL)
    live_in(network)
    x = images(2, 8)[:, :1].expand(-1, 4, -1, -1)
    part: Any = network.eval().cells[0]
    expected = by_definition(x, list(part.layers), cell)
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", [*SMALL.sample(6, seed=2), NONE_ONLY, (0, 0, 3, 0, 0, 2)], ids=str)
def test_the_supernet_runs_one_operation_an_edge(cell: Network) -> None:
    net = supernet()
    x = images(2)
    y = net._stem(x)
    parts: list[Any] = list(net._cells)
    for part in parts:
        if hasattr(part, "edges"):
            chosen = [ops[block] for ops, block in zip(part.edges.values(), cell, strict=True)]
            y = by_definition(y, chosen, cell)
        else:
            y = part(y)
    expected = net.classifier(net.lastact(y).mean((2, 3)))
    torch.testing.assert_close(net(x, cell), expected, rtol=1e-4, atol=1e-4)


def test_a_residual_block_halves_and_doubles() -> None:
    network = CellNetwork(SKIPS, SMALL)
    live_in(network)
    block: Any = network.eval().cells[2]
    x = images(2, 8)[:, :1].expand(-1, 4, -1, -1)
    shortcut = functional.conv2d(functional.avg_pool2d(x, 2), block.downsample[1].weight)
    first = block.conv_a.op[2](
        functional.conv2d(x.relu(), block.conv_a.op[1].weight, stride=2, padding=1)
    )
    second = block.conv_b.op[2](
        functional.conv2d(first.relu(), block.conv_b.op[1].weight, padding=1)
    )
    torch.testing.assert_close(block(x), second + shortcut)
    assert block(x).shape == (2, 8, 4, 4)


def test_infinite_inputs_do_not_pass_a_none() -> None:
    network = CellNetwork(NONE_ONLY, SMALL).eval()
    assert torch.isfinite(network.cells[0](torch.full((1, 4, 8, 8), torch.inf))).all()


@pytest.mark.parametrize("shape", [(1, 3, 10, 16), (1, 1, 16, 16), (3, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    refused = pytest.raises(InvalidInputError, match="multiples of 4, but got")
    with refused:
        CellNetwork(SKIPS, SMALL)(torch.zeros(shape))
    with refused:
        supernet()(torch.zeros(shape), SKIPS)


# ---- extraction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [*SMALL.sample(4, seed=3), NONE_ONLY, CONV_3X3], ids=str)
def test_an_extracted_cell_is_the_published_network(cell: Network) -> None:
    """No biases in front of normalisations, no missing scales, and the same outputs."""
    net, x = supernet(), images(4)
    static = net.extract(cell)
    assert set(static.state_dict()) == set(CellNetwork(cell, SMALL).state_dict())
    outputs = net(x, cell)
    assert (static(x) - outputs).abs().max() <= 1e-6 * outputs.abs().max()
    counted = counted_macs(static, images(1, SMALL.resolution), with_bias=True)
    assert counted == SMALL.macs([cell])[0]


def test_a_recalibrated_cell_runs_with_its_own_statistics() -> None:
    """After recalibration on a batch, the static network gives for this batch what the supernet
    gives in training mode: both normalise with the batch's statistics."""
    net, x = supernet(), images(32)
    cell = (3, 2, 4, 1, 3, 2)
    static = net.extract(cell)
    outputs = recalibrate(static, [x])[0]
    torch.testing.assert_close(static(x), outputs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs, net.train()(x, cell), rtol=1e-3, atol=1e-4)
    assert not torch.equal(
        static.state_dict()["lastact.0.running_mean"], net.state_dict()["lastact.0.running_mean"]
    )


def test_gradients_reach_only_what_is_read() -> None:
    net = supernet().train()
    cell = (3, 2, 0, 0, 3, 0)  # node 2 is not read: its 1x1 convolution is dead
    torch.autograd.backward(net(images(4), cell).square().sum())
    reached = {name for name, p in net.named_parameters() if p.grad is not None}
    assert {name.split(".edges.")[1][:6] for name in reached if ".edges." in name} == {
        *("1<-0.3", "3<-1.3"),
    }
    assert "arch_parameters" not in reached
    assert alive_edges(cell) == (3, 0, 0, 0, 3, 0)


# ---- drawing cells -------------------------------------------------------------------------------


def test_no_drawn_node_has_only_none() -> None:
    net, rng = NASBench201Net(SMALL), np.random.default_rng(0)
    cells = [net.draw(rng) for _ in range(4000)]
    assert all(SMALL.check(cell) == cell for cell in cells)
    assert all(cell[0] and any(cell[1:3]) and any(cell[3:]) for cell in cells)
    # uniform among those: 4 x 24 x 124 cells; every operation of the first edge a quarter
    first = Counter(cell[0] for cell in cells)
    assert all(abs(first[block] - 1000) < 5 * 28 for block in (1, 2, 3, 4))
    second = Counter(cell[1] for cell in cells)
    assert abs(second[0] - 4000 * 4 / 24) < 5 * 24
    assert net.draw(np.random.default_rng(3)) == net.draw(np.random.default_rng(3))


def test_the_extremes_are_the_smallest_cell_with_an_output_and_the_largest() -> None:
    net, x = supernet(), images(2)
    smallest, largest = net.extremes()
    macs = SMALL.macs(SMALL.all_networks())
    assert SMALL.macs([smallest, largest]).tolist() == [macs.min(), macs.max()]
    outputs = net(x, smallest)
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(*net(x, NONE_ONLY)), "the smallest by MACs alone is a constant"


# ---- smaller spaces ------------------------------------------------------------------------------


def test_a_small_space_counts_its_own_macs() -> None:
    assert SMALL.family == {"name": "nasbench201", "dataset": "cifar10", "channels": 4, "cells": 2}
    for cell in (*SMALL.sample(5), NONE_ONLY):
        network = CellNetwork(cell, SMALL)
        counted = counted_macs(network, images(1, 32), with_bias=True)
        assert SMALL.macs([cell])[0] == counted
        blocks = [node.blocks[block] for node, block in zip(SMALL.nodes, cell, strict=True)]
        params = (SMALL.fixed_params or 0) + sum(block.params or 0 for block in blocks)
        assert params == sum(parameter.numel() for parameter in network.parameters())


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (NASBench201Net(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["_stem.0.weight"], other["_stem.0.weight"])


def test_a_few_steps_of_training_lower_the_loss() -> None:
    """Eight images with random cells: the shared weights learn."""
    net, rng = NASBench201Net(SMALL).train(), np.random.default_rng(0)
    x, labels = images(8, 8), torch.arange(8)
    optimiser = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    losses = []
    for _ in range(60):
        loss = functional.cross_entropy(net(x, net.draw(rng)), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
