"""SuperViT's supernet: its tensors, its counts, and what its networks compute."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from nets_cases import images
from torch import Tensor, nn
from torch.nn import functional

from mathnas import InvalidInputError
from mathnas.nets.batchnorm import recalibrate
from mathnas.nets.counting import counted_macs, counted_params
from mathnas.nets.elastic import ElasticConv2d
from mathnas.nets.supervit import (
    ElasticLinear,
    ElasticMLP,
    ElasticResidual,
    ElasticTransformer,
    MapNorm,
    SuperViTNet,
    Transformer,
)
from mathnas.spaces import SuperViT
from mathnas.spaces.supervit import PUBLISHED, STAGES, StageChoice
from mathnas.testing.supernets import unsettle

SMALL = SuperViT(32, 10, (1, 1, 2, 2, 2, 1, 1, 2))
TRANSFORMERS = [*range(14, 19), *range(20, 28), *range(29, 36), *range(37, 42)]


@cache
def public() -> SuperViTNet:
    """A supernet of the public size; weights are those of no new one."""
    net = SuperViTNet(SuperViT(192))
    unsettle(net)
    return net.eval()


@cache
def small() -> SuperViTNet:
    net = SuperViTNet(SMALL)
    unsettle(net)
    return net.eval()


def pictures(count: int, side: int = 32) -> Tensor:
    return images(3 * count, side=side).view(count, 3, side, side)


# ---- tensors -------------------------------------------------------------------------------------


def test_it_owns_the_tensors_of_the_public_checkpoint() -> None:
    """1,460 tensors and 17,725,838 parameters there, of which some are never used: two more
    statistics beside every normalisation, a scale of every inverted residual, and an index of
    every attention, which follows from the window."""
    net = SuperViTNet()
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    residuals = [part for part in net.blocks if isinstance(part, ElasticResidual)]
    unused = 2 * 3 * norms + len(residuals) + len(TRANSFORMERS)
    assert len(net.state_dict()) + unused == 1460
    scales = sum(max(part.of_stage.widths) for part in residuals)
    assert counted_params(net) + scales == 17_725_838


def test_tensors_are_named_and_shaped_as_in_the_public_checkpoint() -> None:
    shapes = {name: tuple(value.shape) for name, value in public().state_dict().items()}
    block = "blocks.{}.{}".format
    expected = {
        "first_conv.conv.conv.weight": (24, 3, 3, 3),
        "first_conv.bn.bn.running_mean": (24,),
        block(0, "mobile_inverted_conv.depth_conv.conv.conv.weight"): (24, 1, 5, 5),
        block(0, "mobile_inverted_conv.point_linear.bn.bn.num_batches_tracked"): (),
        block(0, "shortcut.conv.conv.weight"): (24, 24, 1, 1),
        block(2, "mobile_inverted_conv.inverted_bottleneck.conv.conv.weight"): (144, 24, 1, 1),
        block(7, "mobile_inverted_conv.inverted_bottleneck.conv.conv.weight"): (192, 32, 1, 1),
        block(7, "mobile_inverted_conv.depth_conv.se.fc.reduce.weight"): (48, 192, 1, 1),
        block(7, "mobile_inverted_conv.depth_conv.se.fc.expand.bias"): (192,),
        block(13, "mobile_inverted_conv.inverted_bottleneck.conv.conv.weight"): (240, 40, 1, 1),
        block(13, "mobile_inverted_conv.point_linear.conv.conv.weight"): (72, 240, 1, 1),
        block(14, "rescale_attn"): (10, 8, 72),
        block(14, "rescale_mlp"): (10, 8, 72),
        block(14, "norm1.weight"): (72,),
        block(14, "norm3.bias"): (72,),
        block(14, "attn.relative_position_bias_table"): (1225, 9),
        block(14, "attn.q.linear.weight"): (72, 72),
        block(14, "attn.v.linear.weight"): (288, 72),
        block(14, "attn.vconv.weight"): (288, 1, 3, 3),
        block(14, "attn.proj.linear.weight"): (72, 288),
        block(14, "attn.proj_l.linear.weight"): (9, 9),
        block(14, "attn.proj_w.linear.bias"): (9,),
        block(14, "mlp1.linear1.linear.weight"): (72, 72),
        block(14, "mlp2.linear2.linear.bias"): (72,),
        block(41, "attn.k.linear.bias"): (224,),
        "last_conv.final_expand_layer.conv.conv.weight": (1344, 224, 1, 1),
        "last_conv.final_expand_layer.bn.bn.bias": (1344,),
        "last_conv.feature_mix_layer.conv.conv.weight": (1984, 1344, 1, 1),
        "classifier.linear.linear.weight": (1000, 1984),
        "classifier.linear.linear.bias": (1000,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert not any("_matrix" in name for name in shapes), "kernels are plain centres"
    assert "blocks.0.mobile_inverted_conv.inverted_bottleneck.conv.conv.weight" not in shapes


def test_transformer_blocks_stand_behind_the_first_of_the_last_stages() -> None:
    blocks = list(public().blocks)
    assert len(blocks) == 42
    found = [place for place, part in enumerate(blocks) if isinstance(part, ElasticTransformer)]
    assert found == TRANSFORMERS
    assert [public().stage(node, 1)[0] for node in range(1, 8)] == [
        blocks[place] for place in (0, 2, 7, 13, 19, 28, 36)
    ]


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_macs_that_torch_counts(name: str) -> None:
    """Sides are odd at some resolutions, where a shortcut pads."""
    config = PUBLISHED[name]
    space = SuperViT(config["resolution"])
    network = space.from_config(**config)
    net = public()
    sized = SuperViTNet(space).eval()
    sized.load_state_dict(net.state_dict(), assign=True)
    static = sized.extract(network)
    x = pictures(1, space.resolution)
    assert counted_macs(static, x) == space.costs(network).macs
    assert counted_params(static) == space.costs(network).params
    with torch.no_grad():
        expected = net(x, network)  # the supernet takes every resolution
        torch.testing.assert_close(
            static(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("resolution", [192, 224, 256, 288])
def test_the_smallest_and_the_largest_network_have_the_macs_that_torch_counts(
    resolution: int, place: int
) -> None:
    net, space = public(), SuperViT(resolution)
    network = net.extremes()[place]
    sized = SuperViTNet(space).eval()
    sized.load_state_dict(net.state_dict(), assign=True)
    static = sized.extract(network).to("meta")  # shapes are enough
    counted = counted_macs(static, torch.empty(1, 3, resolution, resolution, device="meta"))
    assert counted == space.costs(network).macs


# ---- what networks compute -----------------------------------------------------------------------


def test_nodes_one_by_one_are_the_whole() -> None:
    net, x = small(), pictures(2)
    for network in SMALL.sample(3, seed=4):
        static = net.extract(network)
        with torch.no_grad():
            y = z = x
            for node, block in enumerate(network):
                y = net.run_node(node, block, y)
                z = static.nodes[node](z)
                torch.testing.assert_close(z, y)
            assert torch.equal(net.run_head(y), net(x, network))
            torch.testing.assert_close(static.head(z), net(x, network))


def test_a_kernel_is_the_centre_of_a_larger_one() -> None:
    conv = ElasticConv2d(4, 4, (3, 5), depthwise=True, matrices=False)
    conv.reset(torch.Generator().manual_seed(0))
    assert list(conv.state_dict()) == ["conv.weight"]
    assert torch.equal(conv.weight_of(4, 4, 3), conv.weight[:, :, 1:4, 1:4])
    assert torch.equal(
        conv.extract(2, out_channels=2, kernel=3).weight, conv.weight[:2, :, 1:4, 1:4]
    )


@pytest.mark.parametrize(("width", "height", "across"), [(64, 3, 3), (72, 4, 3)])
def test_a_transformer_block_is_what_is_published(width: int, height: int, across: int) -> None:
    """Written out head by head and token by token."""
    block = ElasticTransformer(72, window=4, head_dim=8).double()
    unsettle(block)
    with torch.no_grad():
        for part in block.modules():  # new linear layers are zeros
            if isinstance(part, nn.Linear):
                torch.nn.init.normal_(
                    part.weight, std=0.3, generator=torch.Generator().manual_seed(1)
                )
        block.rescale_attn.normal_(generator=torch.Generator().manual_seed(2))
        block.rescale_mlp.normal_(generator=torch.Generator().manual_seed(3))
    choice = StageChoice(width, 5, 3, 6)
    x = torch.randn(2, width, height, across, generator=torch.Generator().manual_seed(4)).double()
    count, heads, attn = height * across, width // 8, block.attn

    def linear(part: ElasticLinear, own: Tensor, inputs: int, outputs: int) -> Tensor:
        layer = part.linear
        return own @ layer.weight[:outputs, :inputs].T + layer.bias[:outputs]

    def norm(part: MapNorm, own: Tensor) -> Tensor:
        mean, variance = own.mean(), own.var(correction=0)
        return (own - mean) / (variance + 1e-5).sqrt() * part.weight[:width] + part.bias[:width]

    def attended(own: Tensor) -> Tensor:
        q, k = (linear(part, own, width, width) for part in (attn.q, attn.k))
        v = linear(attn.v, own, width, 4 * width).T.reshape(1, 4 * width, height, across)
        kernel = attn.vconv.weight[: 4 * width]
        v = functional.conv2d(v, kernel, padding=1, groups=4 * width).reshape(4 * width, count).T
        scores = torch.zeros(heads, count, count, dtype=torch.double)
        for head, one, other in itertools.product(range(heads), range(count), range(count)):
            channels = slice(8 * head, 8 * head + 8)
            down = one // across - other // across
            right = one % across - other % across
            bias = attn.relative_position_bias_table[(down + 3) * 7 + right + 3, head]
            scores[head, one, other] = q[one, channels] @ k[other, channels] / math.sqrt(8) + bias
        before, after = (part.linear for part in (attn.proj_l, attn.proj_w))
        mixed = torch.einsum("gh,hij->gij", before.weight[:heads, :heads], scores)
        shares = (mixed + before.bias[:heads, None, None]).softmax(-1)
        shares = torch.einsum("gh,hij->gij", after.weight[:heads, :heads], shares)
        shares = shares + after.bias[:heads, None, None]
        parts = [shares[h] @ v[:, 32 * h : 32 * h + 32] for h in range(heads)]
        return linear(attn.proj, functional.silu(torch.cat(parts, 1)), 4 * width, width)

    def mlp(part: ElasticMLP, own: Tensor) -> Tensor:
        inner = functional.silu(linear(part.linear1, own, width, width))
        return linear(part.linear2, inner, width, width)

    scale_attn, scale_mlp = (
        table[5, count % 8, :width] * 8 / width for table in (block.rescale_attn, block.rescale_mlp)
    )
    with torch.no_grad():
        found = block(x, choice)
        for image, result in zip(x, found, strict=True):
            own = image.flatten(1).T
            own = own + scale_attn * attended(norm(block.norm1, own))
            own = own + scale_mlp * mlp(block.mlp2, norm(block.norm3, own))
            own = own + scale_mlp * mlp(block.mlp1, norm(block.norm2, own))
            torch.testing.assert_close(result, own.T.reshape(width, height, across))


@pytest.mark.parametrize(("channels", "width", "side"), [(24, 32, 8), (24, 24, 7), (16, 24, 7)])
def test_a_shortcut_averages_and_widens(channels: int, width: int, side: int) -> None:
    block = ElasticResidual(STAGES[1], 24, 2).eval()
    weight = block.get_parameter("shortcut.conv.conv.weight")
    with torch.no_grad():
        weight.normal_(generator=torch.Generator().manual_seed(0))
        for convolution in (block.project.conv.weight, block.project.norm.bias):
            convolution.zero_()  # nothing but the shortcut
        x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))
        found = block(x, StageChoice(width, 3, 3, 4))
        expected = functional.avg_pool2d(x, 2, 2, padding=side % 2)
        if channels != width:
            expected = functional.conv2d(expected, weight[:width, :channels])
    assert found.shape == (2, width, (side + 1) // 2, (side + 1) // 2)
    torch.testing.assert_close(found, expected)


def test_positions_depend_on_the_offset_of_two_tokens_alone() -> None:
    block = public().blocks[14]
    assert isinstance(block, ElasticTransformer)
    attn = block.attn
    with torch.no_grad():
        small_map, large_map = attn.positions(3, 4, 5), attn.positions(3, 12, 12)
        picked = [row * 12 + column for row in range(4) for column in range(5)]
        assert torch.equal(small_map, large_map[:, picked][:, :, picked])
    with pytest.raises(InvalidInputError, match="maps up to 18 x 18, but got 19 x 19"):
        attn.positions(3, 19, 19)


def test_an_extracted_network_is_of_one_resolution() -> None:
    static = small().extract(SMALL.reference)
    with pytest.raises(InvalidInputError, match="16 tokens here, but got 8 x 8"):
        static(pictures(1, 64))


def test_an_extracted_network_has_plain_layers() -> None:
    kinds = Counter(type(part) for part in small().extract(SMALL.reference).modules())
    assert {nn.Conv2d, nn.Linear, nn.BatchNorm2d} <= set(kinds)
    first, stages, _ = SMALL.choices(SMALL.reference)
    assert first in (16, 24)
    assert kinds[Transformer] == sum(own.depth - 1 for own in stages[3:])
    assert not {kind.__name__ for kind in kinds} & {"ElasticConv2d", "ElasticLinear"}


# ---- training ------------------------------------------------------------------------------------


def test_statistics_of_an_extracted_network_are_its_own() -> None:
    net, network = SuperViTNet(SMALL), SMALL.sample(1, seed=2)[0]
    static, x = net.extract(network), pictures(4)
    recalibrate(static, [x])
    with torch.no_grad():
        expected = net.train()(x, network)
    # of one batch: what the supernet normalises with in training
    for part in static.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_var is not None
            part.running_var.clamp_(min=0)
    torch.testing.assert_close(static(x), expected, rtol=1e-3, atol=1e-3)


def test_extremes_have_the_least_and_the_most_macs() -> None:
    net = small()
    smallest, largest = net.extremes()
    macs = SMALL.macs(SMALL.sample(2000, seed=0))
    assert SMALL.macs([smallest])[0] <= macs.min()
    assert SMALL.macs([largest])[0] >= macs.max()


def test_dropout_is_before_the_classifier_and_while_training() -> None:
    net, x = SuperViTNet(SMALL, dropout=0.5), pictures(2)
    network = SMALL.reference
    torch.manual_seed(0)
    with torch.no_grad():
        features = x
        for node, block in enumerate(network):
            features = net.eval().run_node(node, block, features)
        assert torch.equal(net.run_head(features), net.run_head(features))
        assert not torch.equal(net.train().run_head(features), net.run_head(features))
    net.set_dropout(0.0)
    assert torch.equal(net.run_head(features), net.run_head(features))
    for wrong in (-0.1, 1.0):
        with pytest.raises(InvalidInputError, match="dropout is at least 0"):
            net.set_dropout(wrong)


def test_residuals_of_zero_leave_the_shortcuts() -> None:
    net = SuperViTNet(SMALL).eval()
    net.zero_residuals()
    x = torch.rand(1, 24, 8, 8)
    with torch.no_grad():
        block = net.stage(2, 2)[1]
        assert torch.equal(block(x, StageChoice(24, 3, 3, 4)), x)


def test_a_seed_gives_the_weights() -> None:
    one, same, other = (SuperViTNet(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if name.endswith("conv.weight")]
    assert drawn
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_nodes_that_are_dimensions_have_no_supernet() -> None:
    with pytest.raises(InvalidInputError, match="partition='stages'"):
        SuperViTNet(SuperViT(partition="dimensions"))


# ---- export --------------------------------------------------------------------------------------


def test_a_graph_computes_what_the_network_does() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from mathnas.nets.onnx_export import export_onnx, run_onnx

    net = small()
    static = net.extract(net.extremes()[0])
    graph = export_onnx(static, pictures(2))
    x = pictures(2) / 2
    with torch.no_grad():
        expected = static(x)
    found = torch.from_numpy(run_onnx(graph, x.numpy()).copy())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_graphs_are_put_together_from_parts_that_are_exported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import onnx

    from mathnas.nets import onnx_export

    made: list[str] = []
    export = onnx_export.exported

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(args[3][0])
        return export(*args, **kwargs)

    monkeypatch.setattr(onnx_export, "exported", counted)
    net = SuperViTNet(SuperViT(32, 10, (2, 2, 2, 2, 2, 1, 1, 2), width=0.25))
    unsettle(net)
    net.eval()
    x = pictures(1)
    graphs = onnx_export.NetworkGraphs(net, x)
    smallest = net.extremes()[0]
    deeper = net.space.with_block(smallest, 3, 3)
    wider = net.space.with_block(smallest, 3, 12)
    # nine nodes and the classifier; another depth; another width, which the next node reads
    for network, parts in ((smallest, 10), (deeper, 11), (wider, 13), (smallest, 13)):
        with torch.no_grad():
            expected = net.extract(network)(x).numpy()
        found = onnx_export.run_onnx(onnx.load_from_string(graphs(network)), x.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert len(made) == parts
