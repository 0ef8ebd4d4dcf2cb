"""The ONNX Runtime engine on graphs written by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnxruntime
from engine_graphs import graph
from onnx import TensorProto

from mathnas import InvalidInputError
from mathnas.devices.common import Engine
from mathnas.devices.onnxruntime import OnnxRuntimeEngine, session_options
from mathnas.testing import EngineContract


class TestOnnxRuntime(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine[bytes]:
        return OnnxRuntimeEngine(batch=2)

    @pytest.fixture
    def model(self) -> bytes:
        return graph(["batch", 20_000])

    @pytest.fixture
    def larger(self) -> bytes:
        return graph([2, 20_000], squares=20)

    @pytest.fixture
    def misfit(self) -> bytes:
        return graph([3, 20_000])


@pytest.mark.parametrize("shape", [[3, 4], ["batch", 4]], ids=str)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64])
def test_it_runs_graphs_with_its_batch(shape: list[int | str], kind: int) -> None:
    OnnxRuntimeEngine(batch=3).prepare(graph(shape, kind))()


def test_inputs_are_made_up_alike_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    original = onnxruntime.OrtValue.ortvalue_from_numpy

    def watching(values: np.ndarray) -> object:
        seen.append(values)
        return original(values)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", watching)
    for _ in range(2):
        OnnxRuntimeEngine(batch=2).prepare(graph(["batch", 4]))
    assert seen[0].shape == (2, 4)
    assert seen[0].dtype == np.float32
    assert np.array_equal(seen[0], seen[1])
    assert 0 <= seen[0].min() < seen[0].max() <= 1


def test_threads_do_not_spin_and_are_as_many_as_asked() -> None:
    options = session_options(2)
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_graph_for_another_batch_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"1 inputs at once.*fixed batch 3"):
        OnnxRuntimeEngine().prepare(graph([3, 4]))


def test_a_graph_with_other_open_sizes_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="only the batch of a graph may be open"):
        OnnxRuntimeEngine().prepare(graph([1, "width"]))


def test_an_input_that_cannot_be_made_up_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'x' is tensor\(double\)"):
        OnnxRuntimeEngine().prepare(graph([1, 4], TensorProto.DOUBLE))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1, but got 0 and 1"):
        OnnxRuntimeEngine(threads=0)


def test_it_tells_its_version() -> None:
    engine = OnnxRuntimeEngine()
    assert (engine.name, engine.precision) == ("onnxruntime", "fp32")
    assert engine.version == onnxruntime.__version__
