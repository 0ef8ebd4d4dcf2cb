"""Compressed networks as ONNX graphs and programs: integers inside, the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import torch
from compression_cases import batches, chained, odd_batches, pictures
from export_cases import normed, normed_network, odd_network, plain_network, supernet_of
from torch import Tensor, nn

from mathnas import InvalidInputError
from mathnas.compression.alternative import Call, RecordedNode
from mathnas.compression.batches import (
    first_samples,
    first_tensor,
    run,
    sample_count,
    tensors_of,
)
from mathnas.compression.export import export_compressed
from mathnas.compression.flattened import Flattened, doubled
from mathnas.compression.levels import levels_of
from mathnas.compression.onnx_files import compressed_graph, run_graph
from mathnas.compression.programs import compressed_program, run_program, with_integers
from mathnas.compression.quantised import QuantisedAlternative, weight_bytes
from mathnas.nets.agreement import ExportError

# ---- weights as integers ------------------------------------------------------------------------


@torch.no_grad()
def test_steps_and_scales_are_the_weights_bit_for_bit() -> None:
    network = plain_network("int8", "int4", "skip")
    found = levels_of(network)
    assert {name: own.bits for name, own in found.items()} == {
        **dict.fromkeys(["blocks.0.expand.weight", "blocks.0.project.weight"], 8),
        **dict.fromkeys(["blocks.1.expand.weight", "blocks.1.project.weight"], 4),
    }
    for name, own in found.items():
        assert torch.equal(own.values, network.get_parameter(name))
        assert own.packed.numel() == (own.steps.numel() * own.bits + 7) // 8


def test_weights_that_were_changed_afterwards_are_refused() -> None:
    network = plain_network("int8", "skip", "skip")
    with torch.no_grad():
        network.get_parameter("blocks.0.expand.weight").mul_(1.01)
    with pytest.raises(ExportError, match=r"those of blocks\.0\.expand are not any more"):
        levels_of(network)


@torch.no_grad()
def test_an_odd_number_of_four_bits_is_packed() -> None:
    layer = nn.Sequential(nn.Linear(3, 3, bias=False)).eval()
    x = torch.randn(2, 3)
    made = QuantisedAlternative(4).build(RecordedNode("node", layer, [Call((x,), {}, layer(x))]))
    assert levels_of(made)["0.weight"].packed.shape == (5,)
    torch.testing.assert_close(with_integers(made)(x), made(x), rtol=0, atol=0)
    (found,) = run_graph(compressed_graph(made, x), x)
    torch.testing.assert_close(found, made(x))


# ---- networks of several signatures -------------------------------------------------------------


@torch.no_grad()
def test_inputs_and_outputs_are_called_as_in_the_code() -> None:
    flat = Flattened(odd_network("int8", "int4", "original"), odd_batches()[0])
    assert (flat.input_names, flat.output_names) == (["x", "mask"], ["logits", "pooled"])

    class Several(nn.Module):
        def forward(self, x: tuple[Tensor, Tensor], y: Tensor, factor: float) -> object:
            return [x[0] * factor, {"y": y}, (x[1], None)]

    batch = ((torch.ones(2, 3), torch.ones(2, 4)), torch.ones(2, 1), 3.0)
    flat = Flattened(Several(), batch)
    assert flat.input_names == ["x0", "x1", "y"]
    assert flat.output_names == ["output0", "output1_y", "output20"]
    found = flat(torch.ones(2, 3), torch.zeros(2, 4), torch.ones(2, 1))
    assert [float(own.sum()) for own in found] == [18.0, 2.0, 0.0]
    named = Flattened(nn.Identity(), torch.ones(2))
    assert (named.input_names, named.output_names) == (["input"], ["output"])


def test_samples_are_doubled_and_cut_where_they_are_samples() -> None:
    batch = {"x": torch.arange(3), "table": torch.zeros(5, 2), "flag": True}
    twice, first = doubled(batch), first_samples(batch, sample_count(batch), 1)
    assert isinstance(twice, dict)
    assert isinstance(first, dict)
    assert twice["x"].tolist() == [0, 1, 2, 0, 1, 2]
    assert first["x"].tolist() == [0]
    assert twice["table"].shape == first["table"].shape == (5, 2)
    assert twice["flag"] is first["flag"] is True


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@torch.no_grad()
def test_files_give_what_the_network_gives_for_any_number_of_samples(
    tmp_path: Path, suffix: str
) -> None:
    network = odd_network("int8", "width:0.5", "int4")
    written = export_compressed(network, tmp_path / f"net{suffix}", odd_batches()[0])
    assert dict(written.inputs) == {"x": (3, 5, 6), "mask": (3, 5)}
    assert written.outputs == ("logits", "pooled")
    assert written.difference < 1e-5
    assert written.tolerance == 1e-4
    assert written.any_batch
    content = written.path.read_bytes()
    assert odd_batches()[0]["x"].numpy().tobytes() not in content  # no samples
    assert b"export_cases.py" not in content  # no places on this machine
    assert len(content) == written.bytes
    five = {name: torch.cat([own, own])[:5] for name, own in odd_batches()[1].items()}
    found = (
        run_program(content, five)
        if suffix == ".pt2"
        else run_graph(onnx.load_from_string(content), five)
    )
    for one, other in zip(found, tensors_of(run(network, five)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert written.to_dict()["path"] == f"net{suffix}"


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@torch.no_grad()
def test_files_are_as_small_as_the_weights(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(2)))
    net = supernet_of(
        model, [torch.randn(8, 512)], [QuantisedAlternative(8), QuantisedAlternative(4)]
    )
    sizes = {}
    for name in ("original", "int8", "int4"):
        module = net.extract((name, name))
        path = tmp_path / f"{name}{suffix}"
        sizes[name] = export_compressed(module, path, torch.randn(2, 512)).bytes
        assert 0 < sizes[name] - weight_bytes(module) < 60_000
    assert sizes["int4"] < sizes["int8"] < 0.5 * sizes["original"]


@torch.no_grad()
def test_one_sample_is_enough_and_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    network = plain_network("int8", "width:0.5", "skip")
    one = pictures()[:1]
    opened = export_compressed(network, tmp_path / "any.onnx", one)
    assert opened.inputs["x"][0] == 2
    fixed = export_compressed(network, tmp_path / "one.onnx", one, any_batch=False)
    assert dict(fixed.inputs) == {"x": (1, 3, 8, 8)}
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        run_graph(onnx.load(tmp_path / "one.onnx"), pictures()[:2])


@torch.no_grad()
def test_graphs_compute_with_single_precision_whatever_the_bits_are() -> None:
    """With `DequantizeLinear`, onnxruntime takes 8 bits for the activations beside weights of 4."""
    network, batch = odd_network("int8", "int8", "int4"), odd_batches()[0]
    found = run_graph(compressed_graph(network, batch), batch)
    for one, other in zip(found, tensors_of(run(network, batch)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_normalisations_are_folded_into_rounded_convolutions() -> None:
    network = normed_network("int8", "int4", "width:0.5", "original")
    graph = compressed_graph(network, pictures())
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("BatchNormalization") == 0
    assert kinds.count("Cast") == 6
    steps = {own.name: own for own in graph.graph.initializer}["1.expand.weight.steps"]
    assert steps.data_type == onnx.TensorProto.INT8
    torch.testing.assert_close(
        run_graph(graph, pictures())[0], network(pictures()), atol=1e-4, rtol=1e-4
    )
    # the network is as it was
    assert isinstance(network.get_submodule("1.norm"), nn.BatchNorm2d)


@torch.no_grad()
def test_a_normalisation_stays_where_the_convolution_is_looked_at_besides() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            found: Tensor = self.norm(y) + y
            return found

    torch.manual_seed(0)
    network = Twice().eval()
    assert network.norm.running_mean is not None
    network.norm.running_mean += 1
    graph = compressed_graph(network, pictures())
    assert "BatchNormalization" in {node.op_type for node in graph.graph.node}
    torch.testing.assert_close(
        run_graph(graph, pictures())[0], network(pictures()), atol=1e-5, rtol=1e-4
    )


# ---- activations as integers --------------------------------------------------------------------


@torch.no_grad()
def test_layers_of_8_bits_compute_with_integers_and_others_do_not(tmp_path: Path) -> None:
    model = normed()
    network = supernet_of(model, batches()).extract(("int8", "int4", "int8", "original"))
    written = export_compressed(
        network,
        tmp_path / "net.onnx",
        batches()[0],
        activations=batches(),
        original=model,
    )
    assert written.tolerance is None
    assert written.rounded is not None
    assert written.original is not None
    assert written.rounded.samples == 12
    # not what the network computes, but near; further from what it was made of
    assert 1e-5 < written.rounded.mean_difference < 0.05
    assert written.rounded.mean_difference < written.original.mean_difference
    assert written.rounded.top1 >= 0.75
    graph = onnx.load(written.path)
    made_by = {name: node for node in graph.graph.node for name in node.output}
    quantised = []
    for node in graph.graph.node:
        if node.op_type == "Conv" and node.input[0] in made_by:
            source = made_by[node.input[0]]
            quantised.append(source.op_type == "DequantizeLinear")
    # 3 convolutions in each of four blocks
    assert quantised == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    # the outputs that are told are those of the file
    found = torch.cat([run_graph(graph, own)[0] for own in batches()])
    expected = torch.cat([first_tensor(network(own)) for own in batches()])
    off = float((found - expected).abs().mean() / expected.abs().mean())
    assert written.rounded.mean_difference == pytest.approx(off, rel=1e-3)


@torch.no_grad()
def test_integers_keep_the_scales_of_rounded_weights() -> None:
    """The quantiser finds them again: rounded weights are not rounded twice."""
    network = odd_network("int8", "original", "original")
    graph = compressed_graph(network, odd_batches()[0], activations=odd_batches())
    own = levels_of(network)["first.up.weight"]
    stored = [onnx.numpy_helper.to_array(one) for one in graph.graph.initializer]
    steps = own.steps.numpy()
    assert any(one.shape == steps.T.shape and (one == steps.T).all() for one in stored)


def test_activations_need_layers_of_8_bits(tmp_path: Path) -> None:
    network = plain_network("int4", "skip", "original")
    with pytest.raises(InvalidInputError, match="this network has none: choose int8"):
        export_compressed(network, tmp_path / "a.onnx", pictures(), activations=batches())


# ---- what cannot be -----------------------------------------------------------------------------


def test_what_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    network = chained().eval()
    cases: list[tuple[str, dict[str, object], str]] = [
        ("net.bin", {}, "written as .onnx, .pt2, .safetensors, but got 'net.bin'"),
        ("net.pt2", {"activations": batches()}, "integers in .onnx files, but got 'net.pt2'"),
        ("net.onnx", {"original": network}, "give activations, too"),
        ("net.onnx", {"make": "a:b"}, "and no other, needs to know what makes the original"),
        ("net.safetensors", {}, "needs to know what makes the original"),
    ]
    for name, options, why in cases:
        with pytest.raises(InvalidInputError, match=why):
            export_compressed(network, tmp_path / name, pictures(), **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="evaluation mode"):
        export_compressed(chained().train(), tmp_path / "net.onnx", pictures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_network_that_torch_cannot_export_is_an_error_of_one_line(
    tmp_path: Path, suffix: str
) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    path = tmp_path / f"net{suffix}"
    with pytest.raises(ExportError, match=r"torch cannot export this Branching .*another format"):
        export_compressed(Branching().eval(), path, pictures())
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_changes_is_found_out(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    with pytest.raises(ExportError, match="differ by"):
        export_compressed(Counting().eval(), tmp_path / "net.pt2", pictures())
    assert list(tmp_path.iterdir()) == []


def test_programs_are_called_as_the_network_is() -> None:
    network = odd_network("original", "int4", "width:0.5")
    content = compressed_program(network, odd_batches()[0])
    found = run_program(content, odd_batches()[2])
    with torch.no_grad():
        expected = list(tensors_of(run(network, odd_batches()[2])))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
