"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from mathnas.devices.common import check_threads_and_batch, made_up_input

_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True, slots=True)
class OnnxRuntimeEngine:
    """Runs ONNX files on the CPU; see `mathnas.devices.common.Engine`.

    Threads do not spin while they wait: a spinning pool would take the processor from whatever is
    measured next.

    Args:
        threads: inside one operator; operators run one after another.
        batch: inputs in one run. A graph with a fixed batch must have this one.
        precision: of the graphs that will be given, which is noted in the conditions.
    """

    threads: int = 1
    batch: int = 1
    precision: str = "fp32"

    name = "onnxruntime"

    def __post_init__(self) -> None:
        check_threads_and_batch(self.threads, self.batch)

    @property
    def version(self) -> str:
        return str(onnxruntime.__version__)

    def prepare(self, model: bytes | Path) -> Callable[[], object]:
        """A session for an ONNX file or its content, with inputs and outputs bound.

        A graph whose weights are in files of their own is given by its path.

        Raises:
            InvalidInputError: the graph does not fit: see `mathnas.devices.common.made_up_input`.
        """
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            session_options(self.threads),
            providers=["CPUExecutionProvider"],
        )
        binding = session.io_binding()
        for declared in session.get_inputs():
            values = made_up_input(declared.name, declared.shape, declared.type, _TYPES, self.batch)
            binding.bind_ortvalue_input(
                declared.name, onnxruntime.OrtValue.ortvalue_from_numpy(values)
            )
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")

        def run() -> None:
            session.run_with_iobinding(binding)

        return run


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """For inference on the processor: operators one after another, threads that do not spin.

    Raises:
        InvalidInputError: `threads` is below 1.
    """
    check_threads_and_batch(threads, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options
