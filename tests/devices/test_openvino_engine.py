"""The OpenVINO engine on graphs written by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")
pytest.importorskip("openvino", reason="openvino is not installed: pip install mathnas[openvino]")

import openvino
from engine_graphs import graph
from onnx import TensorProto

from mathnas import InvalidInputError
from mathnas.devices.common import Engine
from mathnas.devices.openvino import OpenVinoEngine
from mathnas.testing import EngineContract


class TestOpenVino(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine[bytes]:
        return OpenVinoEngine(batch=2)

    @pytest.fixture
    def model(self) -> bytes:
        return graph(["batch", 20_000])

    @pytest.fixture
    def larger(self) -> bytes:
        return graph([2, 20_000], squares=20)

    @pytest.fixture
    def misfit(self) -> bytes:
        return graph([3, 20_000])


def test_the_precision_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor could do, the compiled model computes in what was asked for."""
    asked: list[dict[str, object]] = []
    original = openvino.Core.compile_model

    def watching(core: object, model: object, device: str, config: dict[str, object]) -> object:
        asked.append(config)
        return original(core, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", watching)
    OpenVinoEngine(threads=2).prepare(graph([1, 4]))()
    assert asked[0]["INFERENCE_PRECISION_HINT"] == "f32"
    assert asked[0]["INFERENCE_NUM_THREADS"] == 2
    assert asked[0]["NUM_STREAMS"] == 1


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        openvino.CompiledModel, "get_property", lambda self, name: openvino.Type.f32
    )
    with pytest.raises(InvalidInputError, match=r"computes in f32.*where bf16 is asked for"):
        OpenVinoEngine(precision="bf16").prepare(graph([1, 4]))


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="fp32, bf16, fp16 here, but got 'int3'"):
        OpenVinoEngine(precision="int3")


def test_a_graph_with_other_open_sizes_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="only the batch of a graph may be open"):
        OpenVinoEngine().prepare(graph([1, "width"]))


def test_an_input_that_cannot_be_made_up_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'x' is f64"):
        OpenVinoEngine().prepare(graph([1, 4], TensorProto.DOUBLE))


def test_it_tells_its_version() -> None:
    assert OpenVinoEngine().version == openvino.__version__
