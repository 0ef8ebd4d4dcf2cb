"""ExecuTorch on the CPU, with XNNPACK's kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from mathnas.devices.common import check_threads_and_batch
from mathnas.devices.torch import ModuleModel
from mathnas.errors import InvalidInputError

BACKEND = "XnnpackBackend"


@dataclass(frozen=True, slots=True)
class ExecutorchEngine:
    """Runs modules with ExecuTorch; see `mathnas.devices.common.Engine`.

    Lowering a network takes some tens of seconds, so tables of many networks take long.

    Args:
        threads: of XNNPACK's pool. It is one pool for the whole process, and is set to this number
            when a model is prepared: do not mix engines of different numbers in one run.
        batch: inputs in one run.

    Raises:
        InvalidInputError: a setting is wrong.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    name = "executorch"

    def __post_init__(self) -> None:
        check_threads_and_batch(self.threads, self.batch)
        if self.precision != "fp32":
            raise InvalidInputError(f"executorch runs in fp32 here, but got {self.precision!r}.")

    @property
    def version(self) -> str:
        return metadata.version("executorch")

    @property
    def conditions(self) -> dict[str, str]:
        return {"backend": BACKEND}

    def prepare(self, model: ModuleModel) -> Callable[[], object]:
        """The module lowered to XNNPACK, loaded, with its inputs.

        Raises:
            InvalidInputError: the model does not fit; see `ModuleModel.check`.
        """
        model.check(self.batch)
        inputs = (model.example.contiguous(),)
        program = _lowered(model.module, inputs)
        portable_lib._unsafe_reset_threadpool(self.threads)
        method = Runtime.get().load_program(program).load_method("forward")
        assert method is not None

        def run() -> object:
            return method.execute(inputs)

        return run


def _lowered(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    """An ExecuTorch program's content."""
    with _quiet(), torch.no_grad():
        exported = torch.export.export(module, inputs)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from warning about their own insides."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
