"""Engines by name, and what makes a supernet's networks into what they read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from mathnas.devices.common import Engine
from mathnas.errors import InvalidInputError, MissingExtraError
from mathnas.space import Network, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

    from mathnas.devices.torch import ModuleModel
    from mathnas.nets.supernet import Supernet


class Form(Enum):
    """What an engine reads."""

    ONNX = "the content of an ONNX file"
    MODULE = "a torch module with an example of its inputs"


@dataclass(frozen=True, slots=True)
class EngineFamily:
    """An engine that mathnas knows.

    Attributes:
        where: module in `mathnas.devices` and class.
        needs: packages, by what is imported.
        extra: of mathnas, which brings them.
        form: that it reads.
        precisions: of arithmetic that it can be asked for, the default first.
        fixed: further arguments of its class.
    """

    where: tuple[str, str]
    needs: Sequence[str]
    extra: str
    form: Form
    precisions: Sequence[str] = ("fp32",)
    fixed: Mapping[str, object] = field(default_factory=dict)


_TORCH = ("torch", "TorchEngine")
_FLOATS = ("fp32", "bf16", "fp16")
ENGINES: Mapping[str, EngineFamily] = {
    "onnxruntime": EngineFamily(
        ("onnxruntime", "OnnxRuntimeEngine"), ("onnx", "onnxruntime"), "onnx", Form.ONNX
    ),
    "torch": EngineFamily(_TORCH, ("torch",), "torch", Form.MODULE, _FLOATS),
    "torch-compile": EngineFamily(
        _TORCH, ("torch",), "torch", Form.MODULE, _FLOATS, {"compile": True}
    ),
    "torch-cuda": EngineFamily(
        _TORCH, ("torch",), "torch", Form.MODULE, _FLOATS, {"accelerator": "cuda"}
    ),
    "openvino": EngineFamily(
        ("openvino", "OpenVinoEngine"), ("onnx", "openvino"), "openvino", Form.ONNX, _FLOATS
    ),
    "executorch": EngineFamily(
        ("executorch", "ExecutorchEngine"), ("torch", "executorch"), "executorch", Form.MODULE
    ),
}


def engine_family(name: str) -> EngineFamily:
    """The known engine of a name.

    Raises:
        InvalidInputError: there is none.
    """
    if name not in ENGINES:
        raise InvalidInputError(f"engines are {', '.join(ENGINES)}, but got {name!r}.")
    return ENGINES[name]


def engine_named(
    name: str, *, threads: int = 1, batch: int = 1, precision: str = "fp32"
) -> Engine[Any]:
    """An engine, ready to prepare what `models_for` makes for it.

    Args:
        name: one of `ENGINES`.
        threads: that one run uses.
        batch: inputs in one run.
        precision: of the arithmetic.

    Raises:
        InvalidInputError: there is no such engine, or a setting does not suit it.
        MissingExtraError: it is not installed.
    """
    family = engine_family(name)
    if precision not in family.precisions:
        raise InvalidInputError(
            f"{name} computes in {', '.join(family.precisions)} here, but got {precision!r}."
        )
    module, engine = family.where
    try:
        for package in family.needs:
            importlib.import_module(package)
        found = getattr(importlib.import_module(f"mathnas.devices.{module}"), engine)
    except ImportError as error:
        raise MissingExtraError(
            f"the engine {name} needs {error.name or error}: pip install 'mathnas[{family.extra}]'."
        ) from error
    made: Engine[Any] = found(threads=threads, batch=batch, precision=precision, **family.fixed)
    return made


class NetworkModules:
    """The networks of a supernet as static modules: what engines of modules read.

    Args:
        supernet: batch-norm statistics are taken as they stand: times do not depend on them.
        example: an input; its batch size is the engine's.
    """

    def __init__(self, supernet: Supernet, example: Tensor) -> None:
        self.supernet = supernet
        self.example = example

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    def __call__(self, network: Network) -> ModuleModel:
        """One network with a new module.

        Raises:
            InvalidInputError: the network does not belong to the space.
        """
        from mathnas.devices.torch import ModuleModel

        return ModuleModel(self.supernet.extract(network).eval(), self.example)


def models_for(
    engine: str, supernet: Supernet, example: Tensor
) -> Callable[[Network], bytes] | Callable[[Network], ModuleModel]:
    """What gives a supernet's networks in the form that an engine reads.

    Args:
        engine: one of `ENGINES`.
        supernet: in evaluation mode.
        example: an input; its batch size is the engine's.

    Returns:
        `mathnas.nets.onnx_export.NetworkGraphs` or `NetworkModules`, which know their space.

    Raises:
        InvalidInputError: there is no such engine.
        MissingExtraError: what makes ONNX graphs is not installed.
    """
    if engine_family(engine).form is Form.MODULE:
        return NetworkModules(supernet, example)
    try:
        from mathnas.nets.onnx_export import NetworkGraphs
    except ImportError as error:
        raise MissingExtraError(
            f"graphs for {engine} need {error.name or error}: pip install 'mathnas[onnx]'."
        ) from error
    return NetworkGraphs(supernet, example)
