"""Exported graphs compute what the modules compute, whole or put together from parts."""

from __future__ import annotations

import logging
import pickle
import warnings

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import torch
from nets_cases import images, lived_in
from torch import Tensor, nn

import mathnas as mn
from mathnas import InvalidInputError
from mathnas.nets.agreement import ExportError
from mathnas.nets.fixed import FixedNetwork
from mathnas.nets.grouped import GroupedSupernet
from mathnas.nets.onnx_export import NetworkGraphs, OnnxParts, export_onnx, run_onnx


@pytest.fixture(scope="module")
def parts() -> OnnxParts:
    return OnnxParts.export(lived_in(), images(3))


def test_every_assembled_network_computes_what_the_extracted_one_does(parts: OnnxParts) -> None:
    net = lived_in()
    x = images(3, seed=8)
    for network in net.space.enumerate():
        graph = parts.assemble(network)
        onnx.checker.check_model(graph)
        with torch.no_grad():
            expected = net.extract(network)(x).numpy()
        np.testing.assert_allclose(run_onnx(graph, x.numpy()), expected, rtol=1e-4, atol=1e-4)


def test_an_assembled_graph_has_the_operators_of_an_exported_one(parts: OnnxParts) -> None:
    network = (2, 1, 1)
    whole = export_onnx(lived_in().extract(network), images(3))
    assembled = parts.assemble(network)
    kinds = [[node.op_type for node in graph.graph.node] for graph in (whole, assembled)]
    assert kinds[0] == kinds[1]


def test_skipped_nodes_add_no_operators(parts: OnnxParts) -> None:
    assert parts.blocks[0][0] is None
    assert "Identity" not in [node.op_type for node in parts.assemble((0, 0, 0)).graph.node]


def test_assembling_again_gives_the_same_bytes(parts: OnnxParts) -> None:
    assert parts.assemble_bytes((2, 1, 1)) == parts.assemble_bytes((2, 1, 1))
    assert parts.assemble_bytes((2, 1, 1)) != parts.assemble_bytes((1, 1, 1))
    received = pickle.loads(pickle.dumps(parts))
    assert received.assemble_bytes((2, 1, 1)) == parts.assemble_bytes((2, 1, 1))


def test_graphs_of_networks_one_by_one_in_parts_or_in_groups(parts: OnnxParts) -> None:
    net, x = lived_in(), images(3)
    graphs = NetworkGraphs(net, x)
    assert graphs((2, 1, 1)) == parts.assemble_bytes((2, 1, 1))
    # a supernet that is no chain is exported network by network
    alone = FixedNetwork(net.extract((2, 1, 1)), net.space, (2, 1, 1))
    whole = onnx.load_from_string(NetworkGraphs(alone, x)(alone.network))
    assembled = onnx.load_from_string(graphs((2, 1, 1)))
    np.testing.assert_allclose(run_onnx(whole, x.numpy()), run_onnx(assembled, x.numpy()), 1e-4)
    # nodes in groups are put together from the same parts
    space = mn.GroupedSpace(net.space, {"first": [0, 1], "last": [2]})
    grouped = NetworkGraphs(GroupedSupernet(net, space), x)
    assert grouped(space.contract((2, 1, 1))) == graphs((2, 1, 1))


def test_a_foreign_network_is_not_assembled(parts: OnnxParts) -> None:
    with pytest.raises(InvalidInputError, match="blocks 0 to 2, but got 3"):
        parts.assemble((3, 0, 0))


def test_the_batch_may_be_left_open() -> None:
    static = lived_in().extract((1, 0, 0))
    graph = export_onnx(static, images(3), any_batch=True)
    x = images(5, seed=4)
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(graph, x.numpy()), static(x).numpy(), rtol=1e-4)
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == [
        "images",
        "logits",
    ]


class TwoFaced(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_exporting() else x


def test_a_graph_that_differs_from_its_module_is_refused() -> None:
    with pytest.raises(ExportError, match="they differ by"):
        export_onnx(TwoFaced().eval(), images(1))


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="training mode: call eval"):
        export_onnx(lived_in().extract((0, 0, 0)).train(), images(1))


def test_exporting_says_nothing_and_leaves_logging_alone(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        export_onnx(nn.ReLU().eval(), images(1))
    assert logger.level == before
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr() == ("", "")
