"""ExecuTorch on the CPU, with XNNPACK's kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from weakref import WeakSet

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Program, Runtime

from mathnas.devices.common import check_threads_and_batch
from mathnas.devices.torch import ModuleModel
from mathnas.errors import InvalidInputError

BACKEND = "XnnpackBackend"


@dataclass(frozen=True, slots=True)
class ExecutorchEngine:
    """Runs modules with ExecuTorch; see `mathnas.devices.common.Engine`.

    Lowering a network takes some tens of seconds, so tables of many networks take long.

    Args:
        threads: of XNNPACK's pool. It is one pool for the whole process, which can be replaced by
            another only while no prepared model uses it.
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
            InvalidInputError: the model does not fit (see `ModuleModel.check`), or prepared models
                with another number of threads are still there.
        """
        model.check(self.batch)
        inputs = (model.example.contiguous(),)
        program = _lowered(model.module, inputs)
        _set_pool(self.threads)
        run = _Run(Runtime.get().load_program(program), inputs)
        _PREPARED.add(run)
        return run


class _Run:
    """A loaded program with its inputs."""

    def __init__(self, program: Program, inputs: tuple[torch.Tensor, ...]) -> None:
        self.program = program  # its bytes must outlive the method
        self.method = program.load_method("forward")
        self.inputs = inputs

    def __call__(self) -> object:
        return self.method.execute(self.inputs)


# each points into the pool that was there when it was loaded, and crashes when that is gone
_PREPARED: WeakSet[_Run] = WeakSet()


def _set_pool(threads: int) -> None:
    count = portable_lib._threadpool_get_thread_count()
    if count == threads:
        return
    if _PREPARED:
        raise InvalidInputError(
            f"executorch has one pool of threads in a process, and {len(_PREPARED)} prepared "
            f"models use it with {count}, but got {threads}: let go of them first, or use another "
            "process."
        )
    portable_lib._unsafe_reset_threadpool(threads)


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
