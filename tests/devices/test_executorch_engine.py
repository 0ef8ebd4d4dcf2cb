"""The ExecuTorch engine on small modules."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip(
    "executorch", reason="executorch is not installed: pip install mathnas[executorch]"
)

import torch
from executorch.extension.pybindings import portable_lib
from torch import nn

from mathnas import InvalidInputError
from mathnas.devices.common import Engine
from mathnas.devices.executorch import ExecutorchEngine
from mathnas.devices.torch import ModuleModel
from mathnas.testing import EngineContract


def linear(layers: int, batch: int = 1) -> ModuleModel:
    module = nn.Sequential(*(nn.Linear(256, 256) for _ in range(layers))).eval()
    return ModuleModel(module, torch.rand(batch, 256))


class TestExecutorch(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine[ModuleModel]:
        return ExecutorchEngine()

    @pytest.fixture
    def model(self) -> ModuleModel:
        return linear(1)

    @pytest.fixture
    def larger(self) -> ModuleModel:
        return linear(8)

    @pytest.fixture
    def misfit(self) -> ModuleModel:
        return linear(1, batch=2)


def test_it_computes_what_the_module_computes() -> None:
    model = linear(2)
    outputs = ExecutorchEngine().prepare(model)()
    assert isinstance(outputs, list)
    with torch.no_grad():
        assert torch.allclose(outputs[0], model.module(model.example), atol=1e-5)


def test_the_pool_has_the_threads_of_the_engine() -> None:
    for threads in (2, 1):
        ExecutorchEngine(threads=threads).prepare(linear(1))
        assert portable_lib._threadpool_get_thread_count() == threads


def test_the_pool_of_prepared_models_stays() -> None:
    run = ExecutorchEngine(threads=1).prepare(linear(1))
    with pytest.raises(InvalidInputError, match="1 prepared models use it with 1, but got 2"):
        ExecutorchEngine(threads=2).prepare(linear(1))
    run()


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="executorch runs in fp32 here, but got 'fp16'"):
        ExecutorchEngine(precision="fp16")
