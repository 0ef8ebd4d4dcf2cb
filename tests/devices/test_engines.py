"""Engines by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from mathnas import InvalidInputError
from mathnas.devices.engines import ENGINES, Form, engine_named, models_for
from mathnas.errors import MissingExtraError


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "torch-cuda"])
def test_each_engine_has_the_settings_that_are_asked_for(name: str) -> None:
    for package in ENGINES[name].needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    engine = engine_named(name, threads=2, batch=3)
    assert (engine.name, engine.threads, engine.batch) == (name, 2, 3)
    assert engine.precision == "fp32"


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_missing_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ENGINES[name].needs[-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{name} needs \S+: pip install 'mathnas\["):
        engine_named(name)


def test_names_and_precisions_are_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"engines are onnxruntime, torch, .*'tflite'"):
        engine_named("tflite")
    with pytest.raises(InvalidInputError, match="onnxruntime computes in fp32 here, but got 'int"):
        engine_named("onnxruntime", precision="int8")


def test_the_table_needs_no_engine() -> None:
    code = (
        "import sys, mathnas.devices.engines; "
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_supernet_gives_what_the_engine_reads(name: str) -> None:
    for package in ("torch", "onnxscript", *ENGINES[name].needs):
        pytest.importorskip(package)
    import torch
    from torch import nn

    from mathnas.nets.supernet import Supernet
    from mathnas.space import Block, BlockNode, Network, SearchSpace

    class Two(Supernet):
        """One node: a linear layer, or two."""

        space = SearchSpace([BlockNode("n", (Block("one", 16), Block("two", 32)))], name="two")

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x: torch.Tensor, network: Network) -> torch.Tensor:
            for layer in self.layers[: network[0] + 1]:
                x = layer(x)
            return x

        def extract(self, network: Network) -> nn.Module:
            (block,) = self.space.check(network)
            return nn.Sequential(*(nn.Linear(4, 4) for _ in range(block + 1))).eval()

    models = models_for(name, Two().eval(), torch.rand(1, 4))
    model = models((1,))
    assert isinstance(model, bytes) == (ENGINES[name].form is Form.ONNX)
    engine_named(name).prepare(model)()
    assert getattr(models, "space", None) == Two.space
    with pytest.raises(InvalidInputError):
        models((2,))
